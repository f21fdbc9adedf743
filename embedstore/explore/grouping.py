"""From latents and their neighbours to groups at several granularities. Nothing here knows of a store.

The neighbour graph's eigenvectors say how many groups there are, and k-means in them says which (`latent.spectral`).
k-means finds the optimum next to its start. Where a number of groups is asked for, which the eigenvalues may not
suggest, it starts from what neighbours agree on (`models.agreement`), which draws sizes towards each other: on
Fashion-MNIST, the accuracy of ten groups is 0.74 instead of 0.65 from random starts, and 0.72 of the agreement alone.
Of eight such networks, two ended in another optimum, with 0.69 and hardly more loss; so three are fitted, and of those
that agree nearly as well as the best, the one counts that leaves k-means with the least sum of squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.latent import spectral
from embedstore.types import Vectors

MOST_GROUPS = 24  # that are looked for where none is asked for
STABLE = 0.9  # adjusted Rand index, against graphs that lack a third of the neighbours
LEVELS = 4
_STRICT = 12  # a stability of 0.94 counts half
_NEARLY = 0.75
_FEWEST = 5  # items of a group, on average, where no number of groups is asked for
_AGREEING = 20  # nearest neighbours that should agree
_FITS, _STARTS = 3, 8  # networks, and heads on each (fewer of many groups)
_MANY = 10_000  # items, below which one network is enough
_SLACK = 0.01  # of the loss, beyond that of the best network
_SHARE = 2 / 3
_SAMPLE = 20_000  # items that k-means is fitted to


@dataclass(frozen=True, slots=True)
class Level:
    """One granularity.

    Attributes:
        labels: group of each item (n,), by descending size from 0; -1 where it lies in a part of the graph by itself.
        stability: adjusted Rand index between these groups and those of graphs that lack a third of the neighbours:
            1 where nothing changes.
        gap: eigengap after this number of groups, relative to the largest one found.
    """

    labels: npt.NDArray[np.int64]
    stability: float
    gap: float

    @property
    def groups(self) -> int:
        """How many."""
        return int(self.labels.max()) + 1


def levels(
    latents: Vectors,
    neighbours: npt.NDArray[np.int64],
    k: int | None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> tuple[list[Level], int]:
    """Groups from coarse to fine, and which level is the main one.

    Args:
        latents: (n, d).
        neighbours: (n, 20 or as many as there are) rows of nearest neighbours, nearest first, none of them the item.
        k: groups of the main level; None takes a number with a large eigengap that is stable.
        seed: of everything random.
        progress: a bar on stderr.
    """
    near = neighbours[:, : spectral.NEIGHBOURS]
    graph = spectral.shared_neighbours(near)
    part = spectral.parts(graph)
    inside, apart = part >= 0, int(part.max()) + 1
    views = [_View(graph[inside][:, inside], seed, k)]
    thinned = [_thinned(neighbours, len(near[0]), seed + number) for number in (1, 2)]
    views += [_View(other[inside][:, inside], seed, k) for other in map(spectral.shared_neighbours, thinned)]
    values = views[0].values
    most = max(2, min(MOST_GROUPS, int(inside.sum()) // _FEWEST))
    found = {number: gap for number, gap in spectral.gaps(values[: most + 1]).items() if number >= apart}
    if 1 < apart < len(values):  # parts without an edge between them are groups, whatever goes on inside of them
        found[apart] = float(values[apart - 1] - values[apart])
    largest = max(found.values(), default=1.0)
    tried = {}
    for number in sorted(found, key=lambda one: -found[one])[: 2 * LEVELS]:
        level = _level(views, number, inside, found[number] / largest, seed)
        if level.groups == number:
            tried[number] = level
    made = {number: level for number, level in tried.items() if level.stability >= STABLE}
    if k is None and not made:  # few items: what is left is the least unsure
        tried = tried or {2: _level(views, 2, inside, 0.0, seed)}
        best = max(tried, key=lambda one: tried[one].stability)
        made = {best: tried[best]}
    main = k or _main(made)
    if k is None and apart in made and made[apart].gap > 0.5:
        main = apart
    if k is not None:
        gap = float(values[k - 1] - values[k]) / largest if k < len(values) else 0.0
        starts = [start[inside] for start in _agreed(latents, neighbours, k, seed, progress)]
        start = min(starts, key=lambda one: views[0].squares(views[0].groups(k, seed, one)))
        made[k] = _level(views, k, inside, gap, seed, start)
    others = sorted((one for one in made if one != main), key=lambda one: -made[one].gap)[: LEVELS - 1]
    chosen = sorted([main, *others])
    return [made[one] for one in chosen], chosen.index(main)


def _main(made: dict[int, Level]) -> int:
    """The finest number of those whose gap and stability are nearly the best.

    Where two numbers suggest themselves alike, which one leads differs from sample to sample; the finer one says more,
    and the coarser one is a level of its own.
    """
    worth = {number: level.gap * level.stability**_STRICT for number, level in made.items()}
    return max(number for number, value in worth.items() if value >= _NEARLY * max(worth.values()))


class _View:
    """The eigenvectors of one graph."""

    def __init__(self, graph: Any, seed: int, k: int | None) -> None:
        wanted = max(MOST_GROUPS, k or 0, int(spectral.parts(graph).max()) + 1) + 2
        self.values, self.vectors = spectral.eigenvectors(graph, wanted, seed)

    def groups(self, k: int, seed: int, start: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
        """k-means in the first k eigenvectors, from ``start`` or the best of several random starts."""
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        places = spectral.coordinates(self.vectors, min(k, self.vectors.shape[1]))
        centres: Any = "k-means++"
        if start is not None and len(np.unique(start)) == k:
            centres = np.stack([places[start == group].mean(axis=0) for group in range(k)])
        rows = np.arange(len(places))
        if len(rows) > _SAMPLE and isinstance(centres, str):
            rows = np.random.default_rng(seed).choice(len(rows), _SAMPLE, replace=False)
        starts = 10 if isinstance(centres, str) else 1
        with threadpool_limits(1):  # several threads would add in another order each time
            fitted = KMeans(k, init=centres, n_init=starts, random_state=seed).fit(places[rows])
            found: npt.NDArray[np.int64] = fitted.predict(places).astype(np.int64)
        return found

    def squares(self, groups: npt.NDArray[np.int64]) -> float:
        """What k-means makes small: the sum of squared distances to the groups' centres."""
        k = int(groups.max()) + 1
        places = spectral.coordinates(self.vectors, min(k, self.vectors.shape[1])).astype(np.float64)
        sums = np.zeros((k, places.shape[1]))
        np.add.at(sums, groups, places)
        counts = np.maximum(np.bincount(groups, minlength=k), 1)
        return float((places**2).sum() - ((sums**2).sum(axis=1) / counts).sum())


def _thinned(neighbours: npt.NDArray[np.int64], k: int, seed: int) -> npt.NDArray[np.int64]:
    """A random two thirds of each item's neighbours."""
    kept = max(1, round(_SHARE * min(k, neighbours.shape[1])))
    order = np.random.default_rng(seed).random((len(neighbours), k)).argsort(axis=1)[:, :kept]
    return np.take_along_axis(neighbours[:, :k], order, axis=1)


def _level(
    views: Sequence[_View],
    k: int,
    inside: npt.NDArray[np.bool_],
    gap: float,
    seed: int,
    start: npt.NDArray[np.int64] | None = None,
) -> Level:
    from sklearn.metrics import adjusted_rand_score

    parts = [view.groups(k, seed, start) for view in views]
    pairs = [(0, 1), (0, 2), (1, 2)]
    stability = float(np.mean([adjusted_rand_score(parts[a], parts[b]) for a, b in pairs]))
    labels = np.full(len(inside), -1, dtype=np.int64)
    labels[inside] = by_size(parts[0])
    return Level(labels, stability, gap)


def _agreed(
    latents: Vectors, neighbours: npt.NDArray[np.int64], k: int, seed: int, progress: bool
) -> list[npt.NDArray[np.int64]]:
    """Groups (n,) that neighbours agree on: the best head's of each network, of those that are nearly the best."""
    from embedstore.models import agreement

    near, networks = neighbours[:, :_AGREEING], _FITS if len(latents) >= _MANY else 1
    fits = [agreement.fit(latents, near, k, _STARTS, seed=seed + i, progress=progress) for i in range(networks)]
    enough = min(float(heads.losses.min()) for heads in fits) + _SLACK
    return [np.argmax(heads.best()(latents), axis=1) for heads in fits if heads.losses.min() <= enough]


def by_size(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same groups, numbered from 0 by descending size; those without members are left out."""
    sizes = np.bincount(labels)
    order = np.argsort(-sizes, kind="stable")
    number = np.empty(len(sizes), dtype=np.int64)
    number[order] = np.arange(len(sizes))
    return number[labels]
