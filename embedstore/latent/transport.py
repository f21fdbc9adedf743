"""Where an edit leads: from one side of a direction to a typical member of the other, item by item.

One fixed vector for all items (Larsen et al. 2016) overshoots for some and falls short for others, and lands between
the data. Here each item gets a displacement of its own, in two steps:

1. *Transport.* Between two Gaussians, the map that changes items least on the average while their distribution becomes
   the target's is linear, in closed form (Dowson and Landau 1982; Peyré and Cuturi 2019, remark 2.31). Its mean is the
   difference of means. It is taken by half: all of it would bring the target's spread too, of which an
   item has as much as it needs.
2. *Settling.* The point then moves part of the way to the nearest of the target's typical members: Gaussians have no
   holes, and data do.

An item that is on the target's side already moves by the share by which it isn't.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedstore.latent.directions import Floats, Sides, difference, weights
from embedstore.types import Vectors

#: Share of the target's items that count as typical: those with the most neighbours of their own kind. Measured on
#: Fashion-MNIST, all 90 pairs of classes: with all items as targets, 8 % fewer edits are seen as their target.
TYPICAL = 0.35
FEWEST_TYPICAL = 20
TRANSPORTED = 0.5  # of the transport's difference to a mere shift
SETTLED = 0.6  # of the way to the mean of the nearest typical members
SETTLED_TO = 3  # members
_FLOOR = 1e-3  # of the mean variance, added in every direction
_LEAST = 1e-6  # of the squared unit, added as well: sides of identical items have no variance at all


@dataclass(frozen=True, slots=True)
class Transport:
    """The way from a source side to a target side.

    It is computed in coordinates of its own, about the data and of their size, so that neither data far from the origin
    nor very small or large ones lose their digits: a latent z is there (z - centre) / unit.

    Attributes:
        centre: float64 (d,), half-way between the sides.
        unit: size of the sides and of the distance between them.
        source: float64 (d,), mean of the source side, in those coordinates as all that follows.
        target: float64 (d,), mean of the target's typical members.
        matrix: float64 (d, d), symmetric: differences to the source's mean become differences to the target's.
        typical: float32 (m, d), the target's typical members.
        axis: float64 (d,), along which the two sides are told apart.
        middle: place on the axis at which they are equally likely.
    """

    centre: Floats
    unit: float
    source: Floats
    target: Floats
    matrix: Floats
    typical: Vectors
    axis: Floats
    middle: float

    def displacements(self, latents: npt.NDArray[np.floating]) -> Floats:
        """Of latents (n, d), float64 (n, d): added in full they lead to typical members of the target."""
        z = (latents.astype(np.float64) - self.centre) / self.unit
        moved = self.target + (z - self.source) @ self.matrix
        moved += SETTLED * (_near(moved, self.typical) - moved)
        # How much of the way is still to go: all of it on the source's side of the boundary, none far behind it.
        odds = np.clip(z @ self.axis - self.middle, 0.0, 50.0)
        return self.unit * (moved - z) * (2.0 / (1.0 + np.exp(odds)))[:, None]


def transport(sides: Sides, typical: npt.NDArray[np.bool_]) -> Transport:
    """The way from the negative to the positive side, whose ``typical`` (n,) members are the aim."""
    chosen = np.flatnonzero(typical)
    positive, negative = weights(sides)
    aim = positive[chosen] / positive[chosen].sum() if positive[chosen].any() else np.full(len(chosen), 1 / len(chosen))
    centre, unit = _frame(sides, positive, negative)
    sides = Sides(_within(sides.positive, centre, unit), _within(sides.negative, centre, unit), sides.strata)
    members = sides.positive[chosen]
    (target, after), (source, before) = moments(members, aim), moments(sides.negative, negative)
    floor = (_FLOOR * np.trace(before + after) / 2 / len(target) + _LEAST) * np.eye(len(target))
    before, after = _shrunk(before, len(sides.negative)) + floor, _shrunk(after, len(members)) + floor
    root, inverse = _roots(before)
    whole = inverse @ _roots(root @ after @ root)[0] @ inverse
    matrix = np.eye(len(target)) + TRANSPORTED * (whole - np.eye(len(target)))
    # The log odds of two Gaussians of one covariance are linear (Fisher 1936).
    spread = (before + _shrunk(moments(sides.positive, positive)[1], len(sides.positive)) + floor) / 2
    axis = np.linalg.solve(spread, difference(sides))
    middle = axis @ (positive @ sides.positive + negative @ sides.negative) / 2
    return Transport(centre, unit, source, target, matrix, members, axis, float(middle))


def _frame(sides: Sides, positive: Floats, negative: Floats) -> tuple[Floats, float]:
    """Where the sides lie (d,), and how large they and the way between them are."""
    (target, after), (source, before) = moments(sides.positive, positive), moments(sides.negative, negative)
    variance = np.trace(before + after) / 2 + np.square(target - source).sum()
    return (source + target) / 2, float(np.sqrt(variance / len(source))) or 1.0


def _within(latents: Vectors, centre: Floats, unit: float) -> Vectors:
    found: Vectors = ((latents.astype(np.float64) - centre) / unit).astype(np.float32)
    return found


def typical_members(purity: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """The typical ones among members, by the share (n,) of their neighbours that are members too: the purest third."""
    wanted = max(min(FEWEST_TYPICAL, len(purity)), round(TYPICAL * len(purity)))
    typical: npt.NDArray[np.bool_] = purity >= np.sort(purity)[len(purity) - wanted]
    return typical


def moments(latents: Vectors, weight: Floats) -> tuple[Floats, Floats]:
    """Weighted mean (d,) and covariance (d, d)."""
    mean = weight @ latents.astype(np.float64)
    centred = latents - mean
    return mean, (centred * weight[:, None]).T @ centred


def _near(points: Floats, members: Vectors, block: int = 1024) -> Floats:
    """The mean of each point's nearest members (n, d)."""
    count = min(SETTLED_TO, len(members))
    squares = np.square(members).sum(axis=1)
    out = np.empty_like(points)
    for start in range(0, len(points), block):
        part = points[start : start + block].astype(np.float32)
        distances = squares - 2 * part @ members.T  # (b, m), less a constant per row
        nearest = np.argpartition(distances, count - 1, axis=1)[:, :count]
        out[start : start + block] = members[nearest].mean(axis=1)
    return out


def _shrunk(covariance: Floats, count: int) -> Floats:
    """A covariance drawn towards a sphere, the more, the fewer items it is of: d of them leave half of it."""
    dimension = len(covariance)
    share = dimension / (dimension + count)
    shrunk: Floats = (1 - share) * covariance + share * np.trace(covariance) / dimension * np.eye(dimension)
    return shrunk


def _roots(matrix: Floats) -> tuple[Floats, Floats]:
    """Square root and inverse square root of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    roots = np.sqrt(np.maximum(values, 1e-12 * values[-1]))  # ascending: the last is the largest
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
