"""How near to each item the nearest other one is, and whether copies show in that. Nothing here knows of a store.

A copy is far nearer than the tenth neighbour, wherever that is. Distances as they are can't be compared: in a dense
class they are all short, and a gap between them and those of the other items made copies of the whole class. What is
compared is the share of its surroundings that lies between an item and its nearest other one.

More than ten copies of one item are surroundings themselves, which nothing tells from a dense class: they aren't found.
And fewer than ten different items that lie far off, within an eighth of the usual distance, can't be told from copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

NEIGHBOURS = 20  # to measure with
FEWEST = 20  # items
_AROUND = 10  # of the neighbours are the surroundings
_WIDEST = 0.9  # of all surroundings, as a quantile: wider ones, of a few items far from all, count as these
_NEAR = 1 / 8  # share of the surroundings, beyond which no other item is a copy
_ORDINARY = 0.1  # probability of another item as near among different ones, above which it is no copy
_LEAKS, _CHANCE = 0.1, 1e-4  # share of pairs that may lie in a gap; probability that it is none
_MOST_DIMENSIONS = 30.0
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Nearness:
    """Of items (n,), how near the nearest other one is.

    Attributes:
        shares: of the surroundings' width: 0 where the other one is equal.
        widths: distance to the tenth neighbour.
        dimensions: that the items around lie in.
    """

    shares: Floats
    widths: Floats
    dimensions: Floats

    @property
    def most(self) -> Floats:
        """The largest share (n,) at which another item can be a copy.

        Of nine different items inside of m-dimensional surroundings, each is within a share t with a probability of
        t^m. That tells little where items lie on a line, such as a film's frames: there, few can be copies.
        """
        return np.minimum(_NEAR, (_ORDINARY / (_AROUND - 1)) ** (1 / self.dimensions))

    def edge(self) -> float | None:
        """The largest share below a gap, within which items are copies; None where there is no gap.

        Among different items, of those within 2t a share of 2^-m lies within t. Where nearly all do, they are copies.
        """
        rows = np.flatnonzero(self.shares > 0)  # equal ones say nothing of others
        rows = rows[np.argsort(self.shares[rows], kind="stable")]
        shares, able = self.shares[rows], self.shares[rows] <= self.most[rows]
        within = np.unique(shares[able])
        last, twice = (np.searchsorted(shares, end, side="right") for end in (within, 2 * within))
        inside, beyond = np.cumsum(able)[last - 1] / 2, (twice - last) / 2  # pairs
        half = np.cumsum(0.5 ** self.dimensions[rows]) / np.arange(1, len(rows) + 1)
        chance = binom.sf(np.ceil(inside) - 1, np.ceil(inside) + np.floor(beyond), half[twice - 1])
        clear = within[(beyond <= _LEAKS * inside) & (chance <= _CHANCE)]
        return float(clear[-1]) if len(clear) else None


def measure(far: Floats, near: npt.NDArray[np.int64]) -> Nearness:
    """Distances (n, k) of items to their neighbours, the nearest first, and the rows (n, k) of those.

    Near items of a smooth distribution in m dimensions grow in number as the m-th power of their distance. m is
    measured from the tenth neighbour on (Levina and Bickel 2005), where copies don't reach; those nearer aren't
    counted. Of one item alone it errs by a third, so that it is the mean of an item and those around it. Items far from
    all see many dimensions; as few dimensions are the safe side, none has more than half of the items have.
    """
    around = min(_AROUND, far.shape[1] // 2)
    widths = far[:, around - 1]
    steps = np.arange(around, far.shape[1])
    counted = steps - np.count_nonzero(far[:, :around] <= _NEAR * widths[:, None], axis=1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = (counted * np.log(far[:, around:] / far[:, around - 1 : -1])).sum(axis=1) / (len(steps) - 1)
    growth = np.where(np.isfinite(growth), growth, 0.0)  # 1 / m; 0 among equal items
    growth = (growth + growth[near[:, :around]].sum(axis=1)) / (around + 1)
    dimensions = 1 / np.clip(np.maximum(growth, np.median(growth)), 1 / _MOST_DIMENSIONS, 10)
    widths = np.minimum(widths, np.quantile(widths, _WIDEST))
    return Nearness(far[:, 0] / np.maximum(widths, 1e-300), widths, dimensions)
