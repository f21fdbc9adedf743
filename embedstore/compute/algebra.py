"""Expressions over the store's items, and what is most similar to some and not to others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.compute import directions
from embedstore.compute.space import LatentSpace
from embedstore.errors import InvalidArgument
from embedstore.index import exact
from embedstore.latent import expression
from embedstore.query.hits import Hits
from embedstore.query.resolve import is_single
from embedstore.types import Latent, Metric, Vectors

_SHIFT = 0.001  # of 3CosMul's divisor, against division by zero (Levy and Goldberg 2014)
_BLOCK = 65_536

Weighted = tuple[Any, float]


def evaluate(space: LatentSpace, text: str) -> Latent:
    """The latent that an expression stands for.

    Raises:
        ExpressionError: it doesn't parse, or names an unknown item, direction or field, or a filter
            that matches nothing.
    """

    def lookup(source: expression.Source) -> Vectors:
        name = source.argument
        match source.name:
            case "item":
                return _row(space.resolved([str(name)])[0])
            case "image":
                return _row(space.resolved([Path(str(name))])[0])
            case "mean":
                return space.mean(str(name))
            case "medoid":
                return _row(space.vectors(np.array([space.medoid(str(name))])))
            case "direction":
                return directions.get(space, str(name)).vector
        quoted = str(name) if isinstance(name, int) else "'" + name.replace("'", "''") + "'"
        return space.mean(f"cluster = {quoted}")

    return space.latent(expression.evaluate(expression.parse(text), lookup))


def _row(vectors: Vectors) -> Vectors:
    found: Vectors = vectors[0]
    return found


def most_similar(
    space: LatentSpace,
    positive: Iterable[Any],
    negative: Iterable[Any],
    k: int,
    where: str | None,
    method: str,
) -> Hits:
    """The k items most similar to the positive and least to the negative ones, by cosine (gensim's rules).

    Every input is brought to length 1 and none of them is among the answers.

    Args:
        space: to look in.
        positive: ids, latents, vectors, pictures, or (one of these, weight).
        negative: the same; weights count negatively.
        k: number of hits.
        where: only items that match.
        method: '3cosadd': nearest to the mean of the inputs (Mikolov et al. 2013); '3cosmul': product of the
            similarities to the positive over that to the negative ones, each shifted to [0, 1], which lets no single
            large similarity dominate (Levy and Goldberg 2014).
    """
    if method not in ("3cosadd", "3cosmul"):
        raise InvalidArgument(f"unknown method {method!r}: use '3cosadd' or '3cosmul'")
    pairs = [*_weighted(positive, 1.0), *_weighted(negative, -1.0)]
    if not pairs:
        raise InvalidArgument("name at least one positive or negative item to compare with")
    vectors, rows = space.resolved([value for value, _ in pairs])
    lengths = np.linalg.norm(vectors, axis=1)
    if not lengths.all():
        raise InvalidArgument("a latent of length 0 has no direction to compare with")
    weights = np.array([weight for _, weight in pairs], dtype=np.float64)
    if not np.isfinite(weights).all() or not weights.any():
        raise InvalidArgument("weights must be finite numbers, and not all of them 0")
    units = vectors / lengths[:, None]
    view = space.view
    mask = np.zeros(len(view.rows), dtype=np.uint8)
    mask[space.positions(where)] = 1
    mask[view.positions(np.unique(rows[rows >= 0]))] = 0
    blocks = list(view.vectors.blocks())
    norms = space.once("norms", lambda: [exact.norms(block) for _, block in blocks])
    if method == "3cosadd":
        query = (weights / np.abs(weights).sum()) @ units
        if not np.linalg.norm(query) > 1e-12:
            raise InvalidArgument("the positive and negative items cancel out: nothing is left to look for")
        distances, positions = exact.search(
            blocks, query[None].astype(np.float32), k, Metric.COSINE, among=np.flatnonzero(mask), norms=norms
        )
        found = positions[0] >= 0
        return space.searcher.hits_at(view, positions[0][found], distances[0][found], Metric.COSINE)
    scores = np.concatenate(
        [_product(block, norm, units, weights) for (_, block), norm in zip(blocks, norms, strict=True)]
    )
    scores[mask == 0] = -np.inf
    best = np.argsort(-scores, kind="stable")[:k]
    best = best[np.isfinite(scores[best])]
    # As with inner products, the distance is the score's negative.
    return space.searcher.hits_at(view, best, -scores[best].astype(np.float32), Metric.IP)


def _product(
    block: Vectors, norms: npt.NDArray[np.float32], units: Vectors, weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    out = np.empty(len(block))
    for start in range(0, len(block), _BLOCK):
        part = slice(start, start + _BLOCK)
        cosines = block[part] @ units.T.astype(np.float32) / np.maximum(norms[part], 1e-30)[:, None]
        similar = np.clip((1.0 + cosines.astype(np.float64)) / 2.0, 0.0, 1.0)
        above = (similar ** np.maximum(weights, 0.0)).prod(axis=1)
        below = (similar ** np.maximum(-weights, 0.0)).prod(axis=1)
        out[part] = above / (below + _SHIFT)
    return out


def _weighted(values: Iterable[Any], sign: float) -> list[Weighted]:
    if isinstance(values, Iterable) and not isinstance(values, (str, np.ndarray)):
        values = list(values)
    listed: Sequence[Any] = [values] if is_single(values) else values  # type: ignore[assignment]
    found = []
    for value in listed:
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], (int, float, np.number)):
            found.append((value[0], sign * float(value[1])))
        else:
            found.append((value, sign))
    return found
