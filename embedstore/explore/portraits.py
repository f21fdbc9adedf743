"""What is in each cluster, so that a person can name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.explore import clusterings, stored
from embedstore.metadata import items, runs
from embedstore.truth.placing import prepared
from embedstore.types import Vectors

_MEASURED = 2_000  # items of a cluster that its parts and distances are measured on
_NEAREST = 3
_TRAITS = 4
_VALUES = 100  # different values up to which a metadata key can tell clusters apart


@dataclass(frozen=True, slots=True)
class Trait:
    """A value of the metadata that is more frequent in a cluster than outside of it.

    Attributes:
        key: of the metadata.
        value: as filters spell it.
        inside: items of the cluster that have it.
        outside: other items that have it.
        known: items of the cluster that have the key.
        lift: its share inside over its share outside, among items that have the key; infinite where no other item has
            it.
    """

    key: str
    value: Any
    inside: int
    outside: int
    known: int
    lift: float

    @property
    def share(self) -> float:
        """Of the cluster's items that have the key, the share with this value."""
        return self.inside / self.known


@dataclass(frozen=True, slots=True)
class Portrait:
    """One cluster.

    Attributes:
        number: from 0, by descending size when it was made; -1 for the items in no cluster.
        name: that it was given.
        size: number of items.
        share: of all items.
        strength: mean strength of its items.
        compactness: mean distance to its centre, over that of all items to theirs: small is compact.
        exemplars: ids: its medoid first, then those of its other parts.
        rim: ids of items that belong least.
        nearest: (number, distance between the centres over the mean distance to this one's centre), nearest first.
        traits: what its metadata have more often than others, by how telling that is.
        parent: cluster of the next coarser level that most of it lies in, with the share that does.
    """

    number: int
    name: str | None
    size: int
    share: float
    strength: float
    compactness: float
    exemplars: tuple[str, ...]
    rim: tuple[str, ...]
    nearest: tuple[tuple[int, float], ...]
    traits: tuple[Trait, ...]
    parent: tuple[int, float] | None = None


def telling(portrait: Portrait, most: int) -> list[Trait]:
    """What sets a cluster apart, in few words: of traits of the same items (a class's name and number) one, as text."""
    found: dict[tuple[int, int], Trait] = {}
    for trait in portrait.traits:
        same = trait.inside, trait.outside
        if same not in found or (isinstance(trait.value, str) and not isinstance(found[same].value, str)):
            found[same] = trait
    return list(found.values())[:most]


def portraits(space: LatentSpace, name: str | None, level: int | None, exemplars: int, rim: int) -> list[Portrait]:
    """A portrait of each cluster at a level, the items in none last.

    Raises:
        UnknownRun, InvalidArgument: no such clustering, or level.
    """
    run = stored.find(space, "clusterings", name)
    level = clusterings.level_of(run, level)
    exemplars, rim = (stored.whole_number(one, "number of items shown", 0, 1_000) for one in (exemplars, rim))
    labels, strengths = clusterings.labels(space, run.name, level)
    coarser = clusterings.labels(space, run.name, level - 1)[0] if level > 0 else None
    positions = space.positions(None)
    found = runs.clusters(run, level)
    numbers = [number for number in range(max(found.numbers) + 1) if (labels == number).any()]
    members = {number: np.flatnonzero(labels == number) for number in numbers}
    measured = {number: _some(rows, space.seed) for number, rows in members.items()}
    metric = space.view.space.metric  # under cosine only directions count
    latents = {number: prepared(space.vectors(positions[rows]), metric) for number, rows in measured.items()}
    centres = {number: part.mean(axis=0, dtype=np.float64).astype(np.float32) for number, part in latents.items()}
    spreads = {number: _spread(part, centres[number]) for number, part in latents.items()}
    overall = prepared(space.vectors(space.sample(None, _MEASURED)), metric)
    whole = _spread(overall, overall.mean(axis=0)) or 1.0
    told = _traits(space, run, level, {number: len(rows) for number, rows in members.items()})
    made = []
    for number in numbers:
        rows = members[number]
        chosen = measured[number][_parts(latents[number], centres[number], exemplars, space.seed)]
        rest = np.setdiff1d(rows, chosen)
        least = rest[np.lexsort((rest, strengths[rest]))][:rim]
        others = sorted(
            (float(np.linalg.norm(centres[number] - centre)) / (spreads[number] or 1.0), other)
            for other, centre in centres.items()
            if other != number
        )
        made.append(
            Portrait(
                number,
                found.names.get(number),
                len(rows),
                len(rows) / len(labels),
                float(strengths[rows].mean()),
                spreads[number] / whole,
                tuple(space.ids(positions[chosen])),
                tuple(space.ids(positions[least])),
                tuple((other, distance) for distance, other in others[:_NEAREST]),
                told.get(number, ()),
                None if coarser is None else _parent(coarser[rows]),
            )
        )
    noise = np.flatnonzero(labels < 0)
    if len(noise):
        some = noise[np.argsort(strengths[noise], kind="stable")[:exemplars]]
        share, strength = len(noise) / len(labels), float(strengths[noise].mean())
        ids = tuple(space.ids(positions[some]))
        made.append(Portrait(-1, None, len(noise), share, strength, 1.0, ids, (), (), (), None))
    return made


def _some(rows: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    if len(rows) <= _MEASURED:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), _MEASURED, replace=False))]


def _spread(latents: Vectors, centre: Vectors) -> float:
    return float(np.linalg.norm(latents - centre, axis=1).mean())


def _parts(latents: Vectors, centre: Vectors, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Rows of the item nearest to the centre, and of those nearest to the centres of a cluster's parts.

    The ones nearest to the one centre alone look all the same, and say nothing of what else is in there.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    count = min(count, len(latents))
    if count < 1:
        return np.empty(0, dtype=np.int64)
    first = int(np.linalg.norm(latents - centre, axis=1).argmin())
    chosen = [first]
    different = len(np.unique(latents, axis=0)) if count > 1 else 1
    if min(count, different) > 1:
        with threadpool_limits(1):
            parts = KMeans(min(count, different), n_init=2, random_state=seed).fit(latents)
        for group in np.argsort(-np.bincount(parts.labels_), kind="stable"):
            rows = np.flatnonzero(parts.labels_ == group)
            far = np.linalg.norm(latents[rows] - parts.cluster_centers_[group], axis=1)
            chosen += [int(rows[far.argmin()])]
    return np.array(list(dict.fromkeys(chosen))[:count], dtype=np.int64)


def _parent(coarser: npt.NDArray[np.int64]) -> tuple[int, float] | None:
    inside = coarser[coarser >= 0]
    if not len(inside):
        return None
    counts = np.bincount(inside)
    return int(counts.argmax()), float(counts.max() / len(coarser))


def _traits(space: LatentSpace, run: runs.Run, level: int, sizes: dict[int, int]) -> dict[int, tuple[Trait, ...]]:
    """Each cluster's most telling values: those with the largest excess, by how many standard errors it is.

    Of each key, items without it count for nothing: where half of the items have a label, a cluster of sixes is one.
    But where no other items have the key, that says enough.
    """
    numbers = runs.clusters(run, level).numbers
    with space.database.read() as connection:
        counted = items.values_by_leaf(connection, run.id, _VALUES)
    inside: dict[tuple[str, Any], dict[int, int]] = {}
    totals: dict[tuple[str, Any], int] = {}
    known: dict[tuple[str, int], int] = {}  # items of a cluster (-1: none) that have a key
    for leaf, key, value, count in counted:
        totals[key, value] = totals.get((key, value), 0) + count
        number = numbers[leaf] if leaf >= 0 else runs.NOISE
        known[key, number] = known.get((key, number), 0) + count
        if leaf >= 0:
            by_cluster = inside.setdefault((key, value), {})
            by_cluster[number] = by_cluster.get(number, 0) + count
    everything: dict[str, int] = {}
    for (key, _), count in known.items():
        everything[key] = everything.get(key, 0) + count
    found: dict[int, list[tuple[float, Trait]]] = {}
    for (key, value), by_cluster in inside.items():
        for number, count in by_cluster.items():
            size, every, total = known[key, number], everything[key], totals[key, value]
            if every == size:
                size, every = sizes.get(number, 0), len(space.positions(None))
            rest = every - size
            if not size or not rest:
                continue
            within, without, pooled = count / size, (total - count) / rest, total / every
            error = np.sqrt(max(pooled * (1 - pooled), 1e-12) * (1 / size + 1 / rest))
            if within > without and (within - without) / error > 3:
                lift = within / without if without else float("inf")
                trait = Trait(key, value, count, total - count, known[key, number], lift)
                found.setdefault(number, []).append((float((within - without) / error), trait))
    return {
        number: tuple(trait for _, trait in sorted(some, key=lambda one: -one[0])[:_TRAITS])
        for number, some in found.items()
    }
