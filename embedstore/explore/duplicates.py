"""Duplicates: items that are the same, and items that are the same but for a slight change.

What a slight change is, is learnt from the data: a sample of the stored pictures is slightly changed (a shift by up to
a pixel, a little brighter or darker, saved as JPEG again), and two items are near duplicates where they differ no more
than 99 of 100 of those copies do from their originals (`likeness` says how that is measured). Where there are no
pictures, distances between latents must do: the threshold is a gap in the distances to the nearest other item, and
there is none where distances thin out as those of different items do.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from embedstore.compute.space import LatentSpace
from embedstore.errors import InvalidArgument
from embedstore.explore import likeness, stars
from embedstore.metadata import items
from embedstore.truth.writer import Writer
from embedstore.types import Metric

NEIGHBOURS = 3  # candidates of each item, by latents and by spectra; the original is among them or nearer to the copy
_CLOSE = 5  # the same by distance alone
_GAP_NEIGHBOURS, _FEWEST = 10, 20
_SAMPLE = 1_000  # copies that are learnt from
_KEPT = 0.99  # of them are within the threshold
_LEAKS, _CHANCE = 0.1, 1e-4  # share of pairs that may lie in a gap; probability that it is none
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Group:
    """Items of which one is enough.

    Attributes:
        kind: 'exact' (equal content) or 'near'.
        ids: the one to keep first: of the largest original, then with the most metadata, then the oldest.
        distances: of their latents to the first one's, by the space's metric (Euclidean for inner products).
        differences: of their pictures to the first one's, as multiples of what JPEG of quality 75 does to them; None
            where pictures were not compared.
        rows: of the items as they were scanned: one that is changed gets another.
    """

    kind: str
    ids: tuple[str, ...]
    distances: tuple[float, ...]
    differences: tuple[float, ...] | None = None
    rows: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why the threshold is where it is.

    Attributes:
        method: 'pictures', 'latents' (a gap in their distances), 'given' (by the user), or 'none': no threshold found.
        threshold: largest difference of near duplicates: of pictures, as a multiple of what JPEG of quality 75 does to
            them; else of latents. None where none was found, and only exact duplicates are.
        said: in one sentence.
        numbers: what was measured, by name.
    """

    method: str
    threshold: float | None
    said: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What a scan found.

    Attributes:
        groups: the largest first. An item that is left out of an exact group is in no other one.
        evidence: for the threshold.
        items: that were looked at.
    """

    groups: tuple[Group, ...]
    evidence: Evidence
    items: int

    @property
    def threshold(self) -> float | None:
        """Largest difference of near duplicates; see `Evidence.threshold`."""
        return self.evidence.threshold

    @property
    def surplus(self) -> list[str]:
        """Ids of all items but those to keep."""
        return list(dict.fromkeys(name for group in self.groups for name in group.ids[1:]))


def find(
    space: LatentSpace, *, where: str | None = None, distance: float | None = None, progress: bool = False
) -> Duplicates:
    """Groups of duplicates among the items that match.

    Every item of a near group is within the threshold of the group's centre, and so of any other within about twice
    of it: a film's frames, each like the next, are not one group.

    Args:
        space: whose latents and items.
        where: a filter.
        distance: of latents, up to which items are near duplicates; None learns what they are.
        progress: bars on stderr.

    Raises:
        InvalidArgument: a distance that is none.
        NothingMatches, FilterError: of the filter.
    """
    if distance is not None and not (
        isinstance(distance, (int, float)) and not isinstance(distance, bool) and 0 <= distance < np.inf
    ):
        raise InvalidArgument(f"{distance!r} is no distance of duplicates: give a number of 0 or more")
    positions = space.positions(where)
    exact = _exact(space, positions)
    kept = _keepers_first(space, exact)
    single = np.setdiff1d(positions, np.concatenate([group[1:] for group in kept] or [positions[:0]]))
    groups = [_group(space, "exact", group, None) for group in kept]
    measure: _Pictures | None = None
    if distance is not None:
        numbers = {"distance": float(distance)}
        evidence = Evidence("given", float(distance), f"latents at most {distance:g} apart, as asked for", numbers)
    else:
        pictures = likeness.Pictures(space, single, progress)
        if 2 * np.count_nonzero(pictures.there) > len(single) > 1:
            measure = _Pictures(space, single, pictures, progress)
            evidence = measure.evidence
        else:
            evidence = _gap(space, single, progress)
    same: stars.Same = _never
    links = np.empty((0, 2), dtype=np.int64)
    if measure is not None:
        single, same = measure.positions, measure.same
        links = stars.links(len(single), measure.near, same, NEIGHBOURS)
    elif evidence.threshold is not None and len(single) > 1:
        links, same = _close(space, single, evidence.threshold, progress)
    for star in _keepers_first(space, [single[star] for star in stars.groups(links, same)]):
        groups.append(_group(space, "near", star, measure))
    groups.sort(key=lambda group: -len(group.ids))
    return Duplicates(tuple(groups), evidence, len(positions))


def _exact(space: LatentSpace, positions: Positions) -> list[Positions]:
    """Groups of equal content: by hash; items without one (added as vectors) by their latents' bytes."""
    rows = space.view.rows[positions]
    with space.database.read() as connection:
        known = items.hashes(connection)
    hashed = np.array([row for row, found in known if found is not None], dtype=np.int64)
    texts = b"".join(found[:16].ljust(16, b"\0") for _, found in known if found is not None)
    there = np.isin(rows, hashed, assume_unique=True)
    keys = np.frombuffer(texts, dtype="V16")[np.searchsorted(hashed, rows[there])]
    found = _equal(positions[there], keys)
    rest = positions[~there]
    if len(rest):
        latents = np.ascontiguousarray(space.vectors(rest) + np.float32(0))  # -0 becomes 0
        found += _equal(rest, latents.view(np.dtype((np.void, latents.itemsize * latents.shape[1]))).ravel())
    return found


def _equal(positions: Positions, keys: npt.NDArray[np.void]) -> list[Positions]:
    if len(positions) < 2:
        return []
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts[which] > 1)
    order = several[np.argsort(which[several], kind="stable")]
    return np.split(positions[order], np.flatnonzero(np.diff(which[order])) + 1) if len(order) else []


def _keepers_first(space: LatentSpace, groups: list[Positions]) -> list[Positions]:
    if not groups:
        return []
    every = np.concatenate(groups)
    rows = space.view.rows[every]
    with space.database.read() as connection:
        worth = items.worth(connection, rows)
    said = np.array([worth.get(row, (-1, -1)) for row in rows.tolist()], dtype=np.int64)
    number = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    order = np.lexsort((rows, -said[:, 1], -said[:, 0], number))
    return np.split(every[order], np.cumsum([len(group) for group in groups])[:-1])


def _group(space: LatentSpace, kind: str, group: Positions, measure: _Pictures | None) -> Group:
    first = np.full(len(group), group[0])
    far = likeness.distances(space, first, group)
    differences = None
    if measure is not None:
        rows = np.searchsorted(measure.positions, group)
        differences = tuple(measure.difference(np.full(len(rows), rows[0]), rows).tolist())
    scanned = tuple(space.view.rows[group].tolist())
    return Group(kind, tuple(space.ids(group)), tuple(far.tolist()), differences, scanned)


def delete(found: Duplicates, writer: Writer) -> int:
    """Delete all but the first item of each group; returns how many.

    What was scanned counts: while somebody thinks about it, another process may delete the item to keep, or change one
    of the others. Such groups, and items, stay.
    """
    return writer.delete_repeated([group.rows for group in found.groups])


class _Pictures:
    """Which of the items with pictures are the same one, slightly changed; items count from 0 among them."""

    def __init__(self, space: LatentSpace, positions: Positions, pictures: likeness.Pictures, progress: bool) -> None:
        self.space = space
        self.positions = positions[pictures.there]
        self._pixels = pictures.pixels
        self._losses = np.full(len(self._pixels), np.nan)
        self._progress = progress
        self._spectra = likeness.Spectra(self._pixels, space.seed, progress)
        self.evidence = self._learn(pictures)

    def _learn(self, pictures: likeness.Pictures) -> Evidence:
        """Change some pictures slightly, and see how far from their originals they come to lie."""
        random = np.random.default_rng(self.space.seed)
        count = len(self.positions)
        chosen = np.sort(random.choice(count, min(count, _SAMPLE), replace=False))
        chosen = np.repeat(chosen, -(-_SAMPLE // (5 * len(chosen))))  # of few pictures, several copies
        stored = likeness.read(self.space, self.space.view.rows[self.positions[chosen]])
        there = [i for i, picture in enumerate(stored) if picture is not None]  # one may have been deleted meanwhile
        chosen = chosen[there]
        shown = [picture for picture in stored if picture is not None]
        made = likeness.changed(shown, self.space.seed, shifted=pictures.shifted)
        copies = pictures.fitted(made)
        spectra = self._spectra.of(copies)
        rest, share = likeness.differences(self._pixels[chosen], copies)
        unit = np.maximum(self._loss(chosen), likeness.losses(copies))
        found = rest / unit
        # The first two only spare work, and so are wider. Copies' latents would say nothing more, at the price of
        # loading torch: the share found is a lower bound, for what spectra miss the latents may find.
        apart = np.linalg.norm(spectra - self._spectra.values[chosen], axis=1)
        self._reach, self._share = float(np.quantile(apart, 0.998)) * 1.1, float(share.max()) * 1.1
        self._threshold = float(np.quantile(found, _KEPT))
        _, near = self._spectra.nearest(spectra, NEIGHBOURS)
        among = (near == chosen[:, None]).any(axis=1)
        numbers = {"copies": float(len(chosen)), "median": float(np.median(found)), "threshold": self._threshold}
        numbers["found"] = float((among & (found <= self._threshold)).mean())
        shift = "shifted by a pixel, " if pictures.shifted else ""
        said = (
            f"{_KEPT:.0%} of {len(chosen):,} slightly changed copies ({shift}{likeness.CHANGE:.0%} brighter or darker, "
            f"saved as JPEG) differ from their originals by at most {self._threshold:.2f} times what JPEG of quality "
            f"{likeness.REFERENCE} does; at least {numbers['found']:.0%} of them would be found"
        )
        if without := int(np.count_nonzero(~pictures.there)):
            numbers["without a picture"] = float(without)
            said += f"; {without:,} items without a picture were compared by their content alone"
        return Evidence("pictures", self._threshold, said, numbers)

    def _loss(self, rows: Positions) -> npt.NDArray[np.float64]:
        missing = np.unique(rows[np.isnan(self._losses[rows])])
        self._losses[missing] = likeness.losses(self._pixels[missing])
        return self._losses[rows]

    def difference(self, one: Positions, other: Positions) -> npt.NDArray[np.float64]:
        """Of pictures, pair by pair, as multiples of what JPEG does to the one that loses more."""
        rest, _ = likeness.differences(self._pixels[one], self._pixels[other])
        return np.where(one == other, 0.0, rest / np.maximum(self._loss(one), self._loss(other)))

    def same(self, one: Positions, other: Positions) -> npt.NDArray[np.bool_]:
        """Whether pairs are near duplicates."""
        found = np.zeros(len(one), dtype=bool)
        values = self._spectra.values
        for start in range(0, len(one), 65_536):
            a, b = one[start : start + 65_536], other[start : start + 65_536]
            rows = np.flatnonzero(np.linalg.norm(values[a] - values[b], axis=1) <= self._reach)
            rest, share = likeness.differences(self._pixels[a[rows]], self._pixels[b[rows]])
            close = share <= self._share
            rows, rest = rows[close], rest[close]
            unit = np.maximum(self._loss(a[rows]), self._loss(b[rows]))
            found[start + rows[rest <= self._threshold * unit]] = True
        return found

    def near(self, rows: Positions, k: int) -> Positions:
        """Neighbours (n, 2k + 1) of rows (n,): by latents and by spectra."""
        _, near = self.space.others(
            self.positions[rows], k, _among(self.space, self.positions), progress=self._progress
        )
        _, alike = self._spectra.nearest(self._spectra.values[rows], k + 1, self._progress)
        return np.concatenate([np.searchsorted(self.positions, near), alike], axis=1)


def _close(space: LatentSpace, positions: Positions, distance: float, progress: bool) -> tuple[Positions, stars.Same]:
    """All pairs of items within a distance, and the test of one."""

    def same(one: Positions, other: Positions) -> npt.NDArray[np.bool_]:
        # A search adds in another order: a copy at distance 0 must not be lost to the last bit.
        return likeness.distances(space, positions[one], positions[other]) <= distance * (1 + 1e-6) + 1e-9

    among = _among(space, positions)

    def near(rows: Positions, k: int) -> Positions:
        return np.searchsorted(positions, space.others(positions[rows], k, among, progress=progress)[1])

    return stars.links(len(positions), near, same, _CLOSE), same


def _among(space: LatentSpace, positions: Positions) -> Positions | None:
    return None if len(positions) == len(space.positions(None)) else positions


def _gap(space: LatentSpace, positions: Positions, progress: bool) -> Evidence:
    """A threshold in latent distances, where those to the nearest other item leave a gap.

    Near items of a smooth distribution in m dimensions thin out as the m-th power of their distance: of those within
    2t, a share of 2^-m lies within t. Where nearly all do, they were not drawn like the others. m is measured between
    the fifth and the tenth neighbour (Levina and Bickel 2005), where copies don't reach; the tenth of items with the
    lowest one counts, for that is where near items come from.
    """
    if len(positions) < _FEWEST:
        return Evidence("none", None, f"{len(positions):,} items are too few to tell near duplicates from other items")
    distances, _ = space.others(positions, _GAP_NEIGHBOURS, _among(space, positions), progress=progress)
    cosine = space.view.space.metric is Metric.COSINE
    far = np.sqrt(2 * np.maximum(distances, 0)) if cosine else distances.astype(np.float64)
    first = np.sort(far[:, 0])
    typical = float(np.median(first))
    with np.errstate(divide="ignore", invalid="ignore"):
        dimension = 1 / np.log(far[:, -1:] / far[:, 4:-1]).mean(axis=1)
    dimension = dimension[np.isfinite(dimension)]
    m = float(np.clip(np.quantile(dimension, 0.1), 1, 30)) if len(dimension) else 1.0
    within = np.unique(first[(first > 0) & (first <= typical / 2)])
    inside = np.searchsorted(first, within, side="right") / 2  # pairs
    beyond = np.searchsorted(first, 2 * within, side="right") / 2 - inside
    chance = binom.sf(np.ceil(inside) - 1, np.ceil(inside) + np.floor(beyond), 2.0**-m)
    clear = within[(beyond <= _LEAKS * inside) & (chance <= _CHANCE)]
    half = typical**2 / 2 if cosine else typical
    numbers = {"median distance to the nearest": half, "dimension": m}
    if not len(clear):
        same = int(np.count_nonzero(first == 0))
        said = "the distances to the nearest other item leave no gap that would tell near duplicates from other items"
        if same:
            return Evidence("latents", 0.0, f"{said}, so that only equal latents count", numbers)
        return Evidence("none", None, f"{said}: give a distance to set it yourself", numbers)
    edge = float(clear[-1])
    count = int(np.searchsorted(first, edge, side="right"))
    over = int(np.searchsorted(first, 2 * edge, side="right")) - count
    shown = (edge**2 / 2, 2 * edge**2) if cosine else (edge, 2 * edge)
    threshold = edge**2 if cosine else edge * 2**0.5  # the middle of the gap
    numbers |= {"within": float(count), "in the gap": float(over)}
    said = (
        f"{count:,} of {len(positions):,} items have another one within {shown[0]:.3g}, and {over:,} have their "
        f"nearest one from there to {shown[1]:.3g}; half of all have none within {half:.3g}"
    )
    return Evidence("latents", threshold, said, numbers)


def _never(one: Positions, other: Positions) -> npt.NDArray[np.bool_]:
    return np.zeros(len(one), dtype=bool)
