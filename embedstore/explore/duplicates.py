"""Duplicates: items that are the same, and items that are the same but for a slight change.

What a slight change is, is learnt from the data: a sample of the stored pictures is slightly changed (a shift by up to
a pixel, a little brighter or darker, saved as JPEG again), and two items are near duplicates where they differ no more
than 99 of 100 of those copies do from their originals (`likeness` says how that is measured). Where there are no
pictures, distances between latents must do, each compared with its own surroundings (`nearness`): the threshold is a
gap, and there is none where near items thin out as different ones do.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.errors import InvalidArgument
from embedstore.explore import likeness, nearness, stars
from embedstore.metadata import items
from embedstore.truth.writer import Writer
from embedstore.types import Metric

NEIGHBOURS = 3  # candidates of each item, by latents and by spectra; the original is among them or nearer to the copy
_CLOSE = 5  # the same by distance alone
_SAMPLE = 1_000  # copies that are learnt from
_KEPT = 0.99  # of them are within the threshold
_PARALLEL = 1e-14  # cosine distance that rounding alone makes
Positions = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


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
            them; else of latents (the largest one: of how near an item's copies are, its surroundings decide). None
            where none was found, and only exact duplicates are.
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
    of it (four times, by cosine): a film's frames, each like the next, are not one group.

    Args:
        space: whose latents and items.
        where: a filter.
        distance: of latents, up to which items are near duplicates; None learns what they are.
        progress: bars on stderr.

    Raises:
        InvalidArgument: a distance that is none.
        NothingMatches, FilterError: of the filter.
    """
    given = None if distance is None else _checked(distance)
    positions = space.positions(where)
    exact = _exact(space, positions)
    kept = _keepers_first(space, exact)
    single = np.setdiff1d(positions, np.concatenate([group[1:] for group in kept] or [positions[:0]]))
    groups = [_group(space, "exact", group, None) for group in kept]
    measure: _Pictures | None = None
    reach = np.full(len(single), min(given or 0.0, 1e100))  # more than any latents are apart
    if given is not None:
        evidence = _as_asked(given, space.view.space.metric)
    else:
        pictures = likeness.Pictures(space, single, progress)
        if 2 * np.count_nonzero(pictures.there) > len(single) > 1:
            measure = _Pictures(space, single, pictures, progress)
            evidence = measure.evidence
        else:
            evidence, reach = _gap(space, single, progress)
    same: stars.Same = _never
    links = np.empty((0, 2), dtype=np.int64)
    if measure is not None:
        single, same = measure.positions, measure.same
        links = stars.links(len(single), measure.near, same, NEIGHBOURS)
    elif evidence.threshold is not None and len(single) > 1:
        links, same = _close(space, single, reach, progress)
    for star in _keepers_first(space, [single[star] for star in stars.groups(links, same)]):
        groups.append(_group(space, "near", star, measure))
    groups.sort(key=lambda group: -len(group.ids))
    return Duplicates(tuple(groups), evidence, len(positions))


def _checked(distance: object) -> float:
    value = -1.0
    if isinstance(distance, (int, float, np.integer, np.floating)) and not isinstance(distance, bool):
        with suppress(OverflowError):  # an integer beyond all floats
            value = float(distance)
    if not 0 <= value < np.inf:
        raise InvalidArgument(f"{distance!r} is no distance of duplicates: give a number of 0 or more")
    return value


def _as_asked(distance: float, metric: Metric) -> Evidence:
    # By cosine, what adds up is the root of a distance; and none is above 2.
    other = min(4 * distance, 2.0) if metric is Metric.COSINE else 2 * distance
    said = (
        f"the latents of a group are at most {distance:g} from that of its centre, as asked for, and so up to "
        f"{other:g} from each other"
    )
    return Evidence("given", distance, said, {"distance": distance})


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


def _close(space: LatentSpace, positions: Positions, reach: Floats, progress: bool) -> tuple[Positions, stars.Same]:
    """All pairs of items that are each within the other's reach (n,), and the test of one."""
    equal = _PARALLEL if space.view.space.metric is Metric.COSINE else 0.0

    def same(one: Positions, other: Positions) -> npt.NDArray[np.bool_]:
        # A search adds in another order: a distance that it found must not be lost to the last bit.
        most = np.minimum(reach[one], reach[other]) * (1 + 1e-6) + equal
        return likeness.distances(space, positions[one], positions[other]) <= most

    among = _among(space, positions)

    def near(rows: Positions, k: int) -> Positions:
        return np.searchsorted(positions, space.others(positions[rows], k, among, progress=progress)[1])

    return stars.links(len(positions), near, same, _CLOSE), same


def _among(space: LatentSpace, positions: Positions) -> Positions | None:
    return None if len(positions) == len(space.positions(None)) else positions


def _gap(space: LatentSpace, positions: Positions, progress: bool) -> tuple[Evidence, Floats]:
    """A threshold in latent distances, where how near the nearest other item is leaves a gap; and each one's reach."""
    none = np.zeros(len(positions))
    if len(positions) < nearness.FEWEST:
        said = f"{len(positions):,} items are too few to tell near duplicates from other items"
        return Evidence("none", None, said), none
    distances, near = space.others(positions, nearness.NEIGHBOURS, _among(space, positions), progress=progress)
    cosine = space.view.space.metric is Metric.COSINE
    far = np.sqrt(2 * np.maximum(distances, 0)) if cosine else distances.astype(np.float64)
    found = nearness.measure(far, np.searchsorted(positions, near))
    half = float(np.median(far[:, 0]))
    numbers = {"median distance to the nearest": half**2 / 2 if cosine else half}
    numbers["dimension"] = float(np.median(found.dimensions))
    edge = found.edge()
    if edge is None:
        said = "the distances to the nearest other item leave no gap that would tell near duplicates from other items"
        if (found.shares == 0).any():
            return Evidence("latents", 0.0, f"{said}, so that only equal latents count", numbers), none
        return Evidence("none", None, f"{said}: give a distance to set it yourself", numbers), none
    reach = found.widths * np.minimum(edge * 2**0.5, found.most)  # to the middle of the gap
    reach = reach**2 / 2 if cosine else reach
    within = found.shares <= np.minimum(edge, found.most)
    count, over = np.count_nonzero(within), np.count_nonzero((found.shares > edge) & (found.shares <= 2 * edge))
    inner, middle, outer = (share ** (1 + cosine) for share in (edge, edge * 2**0.5, 2 * edge))
    numbers |= {"within": float(count), "in the gap": float(over), "share": middle}
    said = (
        f"{count:,} of {len(positions):,} items have another one within {inner:.2g} times the distance to their tenth "
        f"neighbour, and {over:,} have their nearest one from there to {outer:.2g} times; the items of a group are "
        f"within {middle:.2g} times of its centre, and so up to {'four times' if cosine else 'twice'} as far from each "
        "other"
    )
    return Evidence("latents", float(reach[within].max()), said, numbers), reach


def _never(one: Positions, other: Positions) -> npt.NDArray[np.bool_]:
    return np.zeros(len(one), dtype=bool)
