"""Outliers: items unlike the others, each with what is unusual about it.

Three things are measured of every item, and each is turned into the share of items for which it is as large or larger:

* far from all: the distance to its 20th neighbour (Ramaswamy, Rastogi and Shim 2000, "Efficient algorithms for mining
  outliers from large data sets"). Of fewer neighbours, ten alike outliers would hide each other; ratios of densities
  (LOF) missed outliers that lie far off together.
* between clusters: how little the stored default clustering is sure of it; without one, how much of the spread of its
  neighbours lies between two bunches of them.
* badly reconstructed: the error of its latent, decoded, where the space has a decoder and the store its picture.

They are combined by the truncated product of those shares (Zaykin et al. 2002, "Truncated product method for combining
P-values"): only what is unusual, among the topmost twentieth, counts. A plain product (Fisher's) let items that are
slightly above the middle in everything pass those that are extreme in one respect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.encoders.preprocess import fit_pictures
from embedstore.errors import InvalidArgument, NoEncoder, StoreDamaged, UnknownRun
from embedstore.explore import clusterings, likeness
from embedstore.progress import Progress
from embedstore.types import Decoder, Metric

NEIGHBOURS = 20
FEWEST = 5  # items
_TAIL = 0.05  # beyond is ordinary
_LEAST = 1e-12  # share: below, all are one
_BLOCK = 2048
_STEPS = 8  # of the power iteration
FAR, BETWEEN, REBUILT = "far from all", "between clusters", "badly reconstructed"
Values = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is unusual about an item.

    Attributes:
        kind: 'far from all', 'between clusters' or 'badly reconstructed'.
        value: the distance to its 20th neighbour (or its farthest, of fewer); 1 less its strength in its cluster, or
            without a clustering the share of its neighbours' spread that lies between two bunches of them; the root
            mean square error of its reconstruction in grey levels.
        usual: median of that value over all items.
        share: of items for which it would be at least as large: counted, and beyond the topmost twentieth estimated.
        items: that were compared.
    """

    kind: str
    value: float
    usual: float
    share: float
    items: int

    def __str__(self) -> str:
        return f"{self.kind} ({self.value:.3g}, usually {self.usual:.3g}; {self.rarity})"

    @property
    def rarity(self) -> str:
        """How many items are as unusual in this respect, in words: an estimate beyond the data is no count."""
        if self.share * self.items < 1:
            return f"rarer than one in {self.items:,}"
        return f"one in {1 / self.share:,.0f}"


@dataclass(frozen=True, slots=True)
class Outlier:
    """One item.

    Attributes:
        id: of the item.
        score: decimal logarithm of the inverse of the product of its unusual shares: 3 is one in a thousand in one
            respect. 0 where nothing is unusual.
        reasons: what is unusual, the strongest first; empty where nothing is.
    """

    id: str
    score: float
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Outliers:
    """What a scan found.

    Attributes:
        found: the most unusual items, in order.
        positions: of all items that were looked at (n,), ascending.
        scores: of all of them (n,); larger is more unusual. The fraction of a thousandth that orders the ordinary ones
            is in them.
        measured: which of the three things were.
    """

    found: tuple[Outlier, ...]
    positions: Positions
    scores: Values
    measured: tuple[str, ...]


def find(space: LatentSpace, *, limit: int = 50, where: str | None = None, progress: bool = False) -> Outliers:
    """Score every item that matches, compared with the others that do, and name the most unusual ones.

    Args:
        space: whose latents and items.
        limit: how many to name.
        where: a filter.
        progress: bars on stderr.

    Raises:
        InvalidArgument: a limit below 1, or fewer than five items.
        NothingMatches, FilterError: of the filter.
    """
    if isinstance(limit, bool) or not isinstance(limit, (int, np.integer)) or limit < 1:
        raise InvalidArgument(f"{limit!r} outliers can't be named: ask for 1 or more")
    positions = space.positions(where)
    if len(positions) < FEWEST:
        raise InvalidArgument(
            f"{len(positions):,} items are too few to say which are unusual: at least {FEWEST} are needed"
        )
    among = None if where is None else positions
    far, near = space.others(positions, min(NEIGHBOURS, len(positions) - 1), among, progress=progress)
    measured: dict[str, Values] = {FAR: far[:, -1].astype(np.float64)}
    measured[BETWEEN] = _unsure(space, positions, near, progress)
    error = _errors(space, positions, progress)
    if error is not None:
        measured[REBUILT] = error
    shares = {kind: _shares(values) for kind, values in measured.items()}
    every = np.stack(list(shares.values()), axis=1)  # (n, kinds)
    logs = -np.log10(every)
    # What is ordinary is ordered by it all, far below what counts.
    scores = np.where(every <= _TAIL, logs, 0.0).sum(axis=1) + 1e-4 * logs.sum(axis=1) / every.shape[1]
    usual = {kind: float(np.nanmedian(values)) for kind, values in measured.items()}
    chosen = np.lexsort((positions, -scores))[:limit]
    found = []
    for row, name in zip(chosen.tolist(), space.ids(positions[chosen]), strict=True):
        reasons = [
            Reason(kind, float(values[row]), usual[kind], float(shares[kind][row]), len(positions))
            for kind, values in measured.items()
            if shares[kind][row] <= _TAIL
        ]
        reasons.sort(key=lambda reason: reason.share)
        score = sum(-np.log10(reason.share) for reason in reasons)
        found.append(Outlier(name, float(score), tuple(reasons)))
    return Outliers(tuple(found), positions, scores, tuple(measured))


def _shares(values: Values) -> Values:
    """Of each value (n,), the share in (0, 1] of items that would be as large or larger; 1 for NaN (not measured).

    Within the data that is counted. Beyond the topmost twentieth (or five items, of few) it is the Pareto tail through
    the median of those above (after Hill 1975, whose mean would follow the outliers themselves): counted alone, an item
    a hundred times as far as the next would be no rarer than it. Of equal values the last one's rank counts: where all
    items are alike, none of them is unusual.
    """
    known = np.sort(values[~np.isnan(values)])
    count = len(known)
    if not count:
        return np.ones(len(values))
    filled = np.nan_to_num(values, nan=-np.inf)
    shares = (count - np.searchsorted(known, filled, side="left")) / count
    above = max(FEWEST, round(_TAIL * count))
    if above < count and (edge := known[-above - 1]) > 0:
        index = np.log(np.median(known[-above:]) / edge) / np.log(2)
        if index > 0:  # else the tail is all one value
            beyond = filled > edge
            tail = above / count * np.exp(-np.log(filled[beyond] / edge) / index)
            shares[beyond] = np.maximum(tail, _LEAST)
    return np.where(np.isnan(values), 1.0, shares)


def _unsure(space: LatentSpace, positions: Positions, near: Positions, progress: bool) -> Values:
    try:
        labels, strengths = clusterings.labels(space)
    except (UnknownRun, StoreDamaged):  # none, or an unreadable one: it is derived, and the items are all there
        return _bunched(space, positions, near, progress)
    rows = np.searchsorted(space.positions(None), positions)
    labels, strengths = labels[rows], strengths[rows]
    # An item that could not be placed is in no cluster with no strength at all: that says nothing of the item, and
    # must not count against it. Noise has the strength of the cluster that it was not let into.
    unplaced = (labels < 0) & (strengths == 0)
    if unplaced.all():
        return _bunched(space, positions, near, progress)
    return np.where(unplaced, np.nan, 1.0 - strengths)


def _bunched(space: LatentSpace, positions: Positions, near: Positions, progress: bool) -> Values:
    """Share (n,) in [0, 1] of the neighbours' spread that lies between the two halves of their principal axis.

    About 0.15 within a round cluster of many dimensions, 0.64 in one that is a line, towards 1 between two clusters.
    """
    found = np.zeros(len(positions))
    if near.shape[1] < 2:
        return found
    start = np.random.default_rng(space.seed).normal(size=space.dimension).astype(np.float32)
    with Progress("looking between clusters", len(positions), progress) as bar:
        for first in range(0, len(positions), _BLOCK):
            part = near[first : first + _BLOCK]
            points = space.vectors(part.ravel()).reshape(*part.shape, space.dimension)  # (b, k, d)
            if space.view.space.metric is Metric.COSINE:
                points = points / np.maximum(np.linalg.norm(points, axis=2, keepdims=True), 1e-12)
            points = points - points.mean(axis=1, keepdims=True)
            gram = points @ points.transpose(0, 2, 1)  # (b, k, k): smaller than the covariance
            total = np.trace(gram, axis1=1, axis2=2).astype(np.float64)
            along = points @ start  # (b, k): where the neighbours lie along their principal axis
            for _ in range(_STEPS):
                along = np.einsum("bij,bj->bi", gram, along)
                along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-30)
            side = along > 0
            sizes = side.sum(axis=1)
            mean = np.einsum("bk,bkd->bd", side.astype(np.float32), points) / np.maximum(sizes, 1)[:, None]
            k = part.shape[1]  # the points' mean is 0, so that the other half's mean follows from this one's
            between = (mean.astype(np.float64) ** 2).sum(axis=1) * sizes * k / np.maximum(k - sizes, 1)
            found[first : first + _BLOCK] = np.where((sizes > 0) & (total > 0), between / np.maximum(total, 1e-30), 0)
            bar.advance(len(part))
    return found


def _errors(space: LatentSpace, positions: Positions, progress: bool) -> Values | None:
    """Root mean square errors (n,) of reconstructions in grey levels, NaN for items without a picture.

    None where there is no decoder, or no picture.
    """
    decode = _decoder(space)
    if decode is None:
        return None
    rows = space.view.rows[positions]
    found = np.full(len(positions), np.nan)
    with Progress("comparing reconstructions", len(positions), progress) as bar:
        for start in range(0, len(positions), _BLOCK):
            pictures = likeness.read(space, rows[start : start + _BLOCK])
            there = np.array([i for i, picture in enumerate(pictures) if picture is not None], dtype=np.int64)
            bar.advance(len(pictures))
            if not len(there):
                continue
            rebuilt = decode(space.vectors(positions[start + there]))
            shown = [picture for picture in pictures if picture is not None]
            shape = rebuilt.shape[1:]
            alike = all(picture.shape == shape for picture in shown)
            fitted = np.stack(shown) if alike else fit_pictures(shown, (shape[0], shape[1]), shape[2])
            squares = (fitted.astype(np.float32) - rebuilt) ** 2
            found[start + there] = np.sqrt(squares.mean(axis=(1, 2, 3), dtype=np.float64))
    return None if np.isnan(found).all() else found


def _decoder(space: LatentSpace) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.uint8]] | None:
    """The decoder itself: `LatentSpace.decode` remembers what it decoded, a fifth of the time of a whole scan."""
    try:
        encoder: object = space.encoder()
    except NoEncoder:
        return None
    if not hasattr(encoder, "decode"):
        return None
    found: Decoder = encoder
    return found.decode
