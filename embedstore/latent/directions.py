"""Directions ("attribute vectors") from latents: ways to make them, and how well they separate.

Every way gives a vector of the length at which strength 1 leads from a typical member of the negative side to a typical
member of the positive one, measured along it; a principal direction's strength 1 is one standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedstore.errors import InvalidArgument
from embedstore.types import Vectors

Floats = npt.NDArray[np.float64]

METHODS = ("difference", "balanced", "classifier", "principal")
FEWEST = 2  # items on a side
HELD_OUT = 0.2  # share of each side that the separation is measured on
_FEWEST_HELD = 5  # items of a side: of fewer, a single one decides
_DEPENDENT = 1e-5  # of the largest singular value: what rounding leaves of a direction that others span already
_PENALTY = 1.0  # of the classifier, on standardised latents


@dataclass(frozen=True, slots=True)
class Sides:
    """The items that a direction is made of.

    Attributes:
        positive: float32 (n, d).
        negative: float32 (m, d).
        strata: of the positive and the negative items, any hashable values as int codes; both None unless balanced.
    """

    positive: Vectors
    negative: Vectors
    strata: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None

    def part(self, positive: npt.NDArray[np.int64], negative: npt.NDArray[np.int64]) -> Sides:
        """The items at these places."""
        strata = None if self.strata is None else (self.strata[0][positive], self.strata[1][negative])
        return Sides(self.positive[positive], self.negative[negative], strata)


def weights(sides: Sides) -> tuple[Floats, Floats]:
    """Weights (n,), (m,), each of sum 1, under which every stratum counts the same on both sides (White 2016).

    A stratum that one side lacks can't be balanced, and counts nothing.

    Raises:
        InvalidArgument: no stratum has items on both sides.
    """
    if sides.strata is None:
        return tuple(np.full(len(side), 1 / len(side)) for side in (sides.positive, sides.negative))  # type: ignore
    size = 1 + max(int(codes.max()) for codes in sides.strata)
    positive, negative = (np.bincount(codes, minlength=size) for codes in sides.strata)
    # As many as the rarer side has: a stratum known from one item on a side shouldn't decide the direction.
    common = np.minimum(positive, negative).astype(np.float64)
    if not common.any():
        raise InvalidArgument("what is to be balanced has no value in common on both sides: balance something else")
    found = []
    for codes, counts in zip(sides.strata, (positive, negative), strict=True):
        weight = (common / np.maximum(counts, 1))[codes]
        found.append(weight / weight.sum())
    return found[0], found[1]


def difference(sides: Sides) -> Floats:
    """Mean of the positive less mean of the negative items (Larsen et al. 2016), balanced where there are strata."""
    positive, negative = weights(sides)
    vector: Floats = positive @ sides.positive.astype(np.float64) - negative @ sides.negative.astype(np.float64)
    return vector


def classifier(sides: Sides) -> Floats:
    """The normal of a linear classifier's boundary (InterFaceGAN, Shen et al. 2020).

    A logistic regression rather than their support vector machine: it uses all items instead of the few on the
    boundary, and is as quick for thousands of them. Its length is the distance between the sides' means along it.
    """
    from sklearn.linear_model import LogisticRegression

    both = np.concatenate([sides.positive, sides.negative]).astype(np.float64)
    centre, spread = both.mean(axis=0), both.std(axis=0)
    spread[spread == 0] = 1.0
    labels = np.repeat([1, 0], [len(sides.positive), len(sides.negative)])
    model = LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=500, tol=1e-3)
    normal: Floats = model.fit((both - centre) / spread, labels).coef_[0] / spread
    length = np.linalg.norm(normal)
    if not length > 0:
        return np.zeros(both.shape[1])
    normal /= length
    vector: Floats = normal * (normal @ difference(Sides(sides.positive, sides.negative)))
    return vector


def principal(latents: Vectors, count: int = 1) -> tuple[Floats, Floats]:
    """The ``count`` directions of greatest variance (GANSpace, Härkönen et al. 2020), each one standard deviation long.

    The sign of each is chosen so that its largest component is positive.

    Returns:
        float64 (count, d), and the share of the variance that each explains (count,).
    """
    centred = latents.astype(np.float64) - latents.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / max(1, len(latents) - 1))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1].T  # largest first, (d,), (d, d)
    signs = np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)])
    total = values.sum() or 1.0
    return (vectors * (signs * np.sqrt(values))[:, None])[:count], (values / total)[:count]


def without(vector: Floats, kept: Sequence[npt.NDArray[np.floating]]) -> Floats:
    """A vector less its part in the span of others: moving along it leaves the others alone (Shen et al. 2020).

    Raises:
        InvalidArgument: nothing is left.
    """
    if not len(kept):
        return vector
    left = apart(vector, span(kept))
    if np.linalg.norm(left) <= 1e-6 * np.linalg.norm(vector):
        raise InvalidArgument("nothing of the direction is left when those to keep are taken out of it: keep fewer")
    return left


def span(vectors: Sequence[npt.NDArray[np.floating]]) -> Floats:
    """An orthonormal basis (k, d) of what vectors span; one that the others span adds nothing to it."""
    wide = np.stack([np.asarray(vector, dtype=np.float64) for vector in vectors])
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    _, values, basis = np.linalg.svd(wide / np.where(lengths > 0, lengths, 1.0), full_matrices=False)
    found: Floats = basis[values > _DEPENDENT * values[0]]
    return found


def apart(vectors: Floats, basis: npt.NDArray[np.floating]) -> Floats:
    """Vectors (..., d) less their part in the span of an orthonormal basis (k, d)."""
    left: Floats = vectors - (vectors @ basis.T) @ basis
    return left


def make(sides: Sides, method: str, kept: Sequence[npt.NDArray[np.floating]] = ()) -> Floats:
    """A direction (d,) between two sides by the method named, less what is to be kept."""
    return without(classifier(sides) if method == "classifier" else difference(sides), kept)


def separation(sides: Sides, method: str, kept: Sequence[npt.NDArray[np.floating]], seed: int) -> float | None:
    """Area under the ROC curve of held-out items by their place along a direction made without them.

    None where a side has too few items to hold out five and keep as many.
    """
    generator = np.random.default_rng(seed)
    parts = []
    for side in (sides.positive, sides.negative):
        order = generator.permutation(len(side))
        held = max(_FEWEST_HELD, round(HELD_OUT * len(side)))
        if len(side) - held < held:
            return None
        parts.append((np.sort(order[held:]), np.sort(order[:held])))
    try:
        vector = make(sides.part(parts[0][0], parts[1][0]), method, kept)
    except InvalidArgument:
        return None  # a rare stratum was held out as a whole
    held_out = sides.part(parts[0][1], parts[1][1])
    return auc(held_out.positive @ vector, held_out.negative @ vector)


def auc(positive: npt.NDArray[np.floating], negative: npt.NDArray[np.floating]) -> float:
    """Chance that a positive item's score is above a negative one's, ties counting half (Mann and Whitney 1947)."""
    scores = np.sort(negative)
    below = np.searchsorted(scores, positive, side="left")
    ties = np.searchsorted(scores, positive, side="right") - below
    return float((below + 0.5 * ties).mean() / len(negative))
