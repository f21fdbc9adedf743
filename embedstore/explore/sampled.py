"""The items that a run is fitted to: all, or a random sample of many, with their neighbours among themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.errors import InvalidArgument
from embedstore.progress import Progress
from embedstore.truth.placing import prepared
from embedstore.types import Metric, Vectors

LIMIT = 100_000  # items
NEIGHBOURS = 20
_BLOCK = 4096  # queries at a time
_MIDDLE, _FARTHEST = 10_000, 10.0  # items whose median is the middle; a distance from it, over the usual one


@dataclass(frozen=True, slots=True)
class Sample:
    """Items, each latent once: copies of an item say nothing that it doesn't, and would be nobody else's neighbours.

    Attributes:
        positions: of the items (n,), ascending.
        copies: positions (m,) of the items that were taken, but whose latents are among those.
        originals: row (m,) of each copy's latent.
        latents: float32 (n, d), of length 1 under cosine; those far from all others nearer, see `pulled`.
        neighbours: (n, k) rows in this sample of each item's nearest neighbours, nearest first.
        distances: to them (n, k), by the space's metric.
    """

    positions: npt.NDArray[np.int64]
    copies: npt.NDArray[np.int64]
    originals: npt.NDArray[np.int64]
    latents: Vectors
    neighbours: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float32]

    def spread(self, values: npt.NDArray[Any], every: int, nothing: Any) -> npt.NDArray[Any]:
        """What is known of these items (n, ...), for all positions (every, ...): copies' too, else ``nothing``."""
        known = np.full((every, *values.shape[1:]), nothing, dtype=values.dtype)
        known[self.positions] = values
        known[self.copies] = values[self.originals]
        return known


def take(
    space: LatentSpace, *, neighbours: int = NEIGHBOURS, least: int = 4, limit: int = LIMIT, progress: bool = False
) -> Sample:
    """At most ``limit`` items of a space, with their neighbours.

    Raises:
        NothingMatches: the store is empty.
        InvalidArgument: fewer than ``least`` items, or too few different ones.
    """
    every = space.positions(None)
    if len(every) < least:
        raise InvalidArgument(f"{len(every):,} items are too few: at least {least} are needed")
    chosen = space.sample(None, limit)
    latents = prepared(space.vectors(chosen), space.view.space.metric)
    _, first, group = np.unique(_keys(latents), return_index=True, return_inverse=True)
    owner = first[group]  # of each item taken, the first one with its latent
    copied = np.flatnonzero(owner != np.arange(len(chosen)))
    first = np.sort(first)
    if len(first) < least:
        raise InvalidArgument(
            f"the {len(every):,} items have only {len(first)} different latents: there is nothing to tell apart"
        )
    positions, latents = chosen[first], latents[first]
    k = min(neighbours, len(first) - 1)
    if len(positions) == len(every):
        far, found = space.others(positions, k, progress=progress)
        near = np.searchsorted(positions, found)
    else:
        far, near = _among(latents, k, space.view.space.metric, progress)
    return Sample(positions, chosen[copied], np.searchsorted(first, owner[copied]), pulled(latents), near, far)


def pulled(latents: Vectors) -> Vectors:
    """The same latents (n, d), but those that lie ten times as far out as half of them brought as near as that.

    One latent of a broken file, a thousand times as long as the others, would else set the scale of all that is fitted
    to them: of 1,000 items in five clear groups, 999 were in no cluster. Other latents stay as they are.
    """
    middle = np.median(latents[:: max(1, len(latents) // _MIDDLE)], axis=0)
    away = np.linalg.norm((latents - middle).astype(np.float64), axis=1)
    most = _FARTHEST * np.median(away)
    far = np.flatnonzero(away > most)
    if not len(far) or most == 0:
        return latents
    nearer = latents.copy()
    nearer[far] = middle + (latents[far] - middle) * (most / away[far])[:, None]
    return nearer


def _keys(latents: Vectors) -> npt.NDArray[np.void]:
    """Each latent as one opaque value, equal where all its bytes are; -0 counts as 0."""
    plain = np.ascontiguousarray(latents + np.float32(0))
    return plain.view(np.dtype((np.void, plain.itemsize * plain.shape[1]))).ravel()


def _among(
    latents: Vectors, k: int, metric: Metric, progress: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Each latent's nearest others among these alone, exactly (an inner product is no distance: Euclidean then)."""
    from embedstore.index import exact

    metric = Metric.L2 if metric is Metric.IP else metric
    far = np.empty((len(latents), k), dtype=np.float32)
    near = np.empty((len(latents), k), dtype=np.int64)
    with Progress("looking for neighbours", len(latents), progress) as bar:
        for start in range(0, len(latents), _BLOCK):
            part = latents[start : start + _BLOCK]
            distances, found = exact.search([(0, latents)], part, k + 1, metric)
            itself = found == np.arange(start, start + len(part))[:, None]
            itself[~itself.any(axis=1), -1] = True
            far[start : start + len(part)] = distances[~itself].reshape(len(part), k)
            near[start : start + len(part)] = found[~itself].reshape(len(part), k)
            bar.advance(len(part))
    return far, near
