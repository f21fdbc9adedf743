"""A latent's place on a map: where the prototypes nearest to it lie. No torch here.

A counterpropagation network (Hecht-Nielsen 1987): a layer of prototypes of which the nearest wins, and a layer that
knows each one's place. The prototypes are the mean latents of a few items that lie next to each other *on the map*, so
that each has one place whatever the layout tore apart. On Fashion-MNIST, the 10-NN accuracy of new items on the map is
0.869 that way, beside 0.883 of the items that were laid out. A network that was taught cells of the map as classes had
0.854, and took a minute to fit; the mean place of the ten nearest items lies between islands too often (0.815).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedstore.errors import ModelInvalid
from embedstore.models.network import Layer, Network
from embedstore.types import Vectors

PROTOTYPES = 8_192  # of 70,000 items, some nine each; 16,384 placed no better, 4,096 worse by 0.006
_NUMBERS = 2**22  # of all prototypes: 16 MB in the file
_REGION = 64  # prototypes that are looked at together, next to each other on the map
_LOOKED_AT = 8  # regions whose means are nearest: in 98 of 100 cases the nearest prototype is there
_AROUND = 6  # prototypes next to the nearest one on the map, itself among them, that a place is the mean of
_SHARPNESS = 8.0  # how fast their weights fall with the distance
_PART = 8_192  # items at a time
_FEW = 512


@dataclass(frozen=True, slots=True)
class Placement:
    """From latents to places.

    Attributes:
        prototypes: less their mean, by region, float32 (r, c, d).
        halves: half of their squared lengths (r, c).
        mean: of the prototypes (d,).
        regions: mean of each region's prototypes (r, d), and half of their squared lengths (r,).
        places: of the prototypes (r * c, 2).
        around: of each prototype, itself and those next to it on the map (r * c, a).
    """

    prototypes: npt.NDArray[np.float32]
    halves: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float32]
    regions: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
    places: npt.NDArray[np.float32]
    around: npt.NDArray[np.int64]

    def __call__(self, latents: Vectors) -> npt.NDArray[np.float32]:
        """Places (n, 2) of latents (n, d)."""
        found = np.empty((len(latents), 2), dtype=np.float32)
        from threadpoolctl import threadpool_limits

        # Many small products: with two threads to each, 7,000 items a second were placed beside a busy program, and
        # 285,000 with one. For a few items, looking for the libraries takes longer than placing them.
        with threadpool_limits(1, user_api="blas") if len(latents) > _FEW else nullcontext():
            for start in range(0, len(latents), _PART):
                found[start : start + _PART] = self._place(latents[start : start + _PART] - self.mean)
        return found

    def _place(self, latents: Vectors) -> npt.NDArray[np.float32]:
        near = self.around[self._nearest(latents)]  # (n, a)
        flat = self.prototypes.reshape(-1, self.prototypes.shape[2])
        square = np.empty(near.shape, dtype=np.float32)
        for column in range(near.shape[1]):  # one after another: all at once would be a copy of a times the latents
            difference = flat[near[:, column]]
            difference -= latents
            square[:, column] = np.einsum("nd,nd->n", difference, difference)
        least = square.min(axis=1, keepdims=True)
        unit = np.maximum(least, 1e-9 * square.max(axis=1, keepdims=True) + np.finfo(np.float32).tiny)
        share = np.exp(-_SHARPNESS * (square - least) / unit)
        share /= share.sum(axis=1, keepdims=True)
        placed: npt.NDArray[np.float32] = np.einsum("na,nac->nc", share, self.places[near])
        return placed

    def _nearest(self, latents: Vectors) -> npt.NDArray[np.int64]:
        """The number of the nearest prototype among those of the nearest regions (n,)."""
        regions, count, _ = self.prototypes.shape
        means, halves = self.regions
        looked = min(_LOOKED_AT, regions)
        score = latents @ means.T
        score -= halves
        if looked < regions:
            chosen = np.argpartition(score, -looked, axis=1)[:, -looked:].ravel()
        else:
            chosen = np.tile(np.arange(regions), len(latents))
        order = np.argsort(chosen, kind="stable")
        ends = np.searchsorted(chosen[order], np.arange(regions + 1))
        best = np.empty(len(chosen), dtype=np.float32)
        which = np.empty(len(chosen), dtype=np.int64)
        for region in np.flatnonzero(np.diff(ends)):  # all items that look at a region in one product
            asked = order[ends[region] : ends[region + 1]]
            score = latents[asked // looked] @ self.prototypes[region].T
            score -= self.halves[region]
            won = score.argmax(axis=1)
            which[asked] = region * count + won
            best[asked] = score[np.arange(len(won)), won]
        winner = best.reshape(-1, looked).argmax(axis=1)
        nearest: npt.NDArray[np.int64] = which.reshape(-1, looked)[np.arange(len(latents)), winner]
        return nearest


def learn(latents: Vectors, places: npt.NDArray[np.float32]) -> Network:
    """Prototypes (c, d) and their places (c, 2) as two layers, from latents (n, d) that lie at places (n, 2).

    The plane is halved across its longer side again and again, into as many cells of about as many items each; nothing
    is left to chance. Cells that are next to each other in this order lie next to each other on the map.
    """
    count, dimension = latents.shape
    most = max(1, min(PROTOTYPES, _NUMBERS // dimension, count))
    halvings = most.bit_length() - 1
    order = np.arange(count)
    for number in range(halvings):
        starts = _bounds(count, number)
        there = places[order]
        longer = (np.maximum.reduceat(there, starts) - np.minimum.reduceat(there, starts)).argmax(axis=1)
        cell = np.repeat(np.arange(2**number), np.diff([*starts, count]))
        order = order[np.lexsort((there[np.arange(count), longer[cell]], cell))]
    starts = _bounds(count, halvings)
    sizes = np.diff([*starts, count])[:, None]
    means = [np.add.reduceat(values[order], starts, dtype=np.float64) / sizes for values in (latents, places)]
    prototypes, middle = (mean.astype(np.float32) for mean in means)
    return Network(
        (
            Layer(np.ascontiguousarray(prototypes.T), np.zeros(len(prototypes), dtype=np.float32)),
            Layer(middle, np.zeros(2, dtype=np.float32)),
        )
    )


def _bounds(count: int, halvings: int) -> npt.NDArray[np.int64]:
    """The first of the items of each cell, of so many items."""
    bounds: npt.NDArray[np.int64] = np.arange(2**halvings) * count // 2**halvings
    return bounds


def placement(networks: Mapping[str, Network]) -> Placement:
    """The networks of a map's model file as what places items.

    Raises:
        ModelInvalid: they are no map's.
    """
    layers = networks["place"].layers if "place" in networks else ()
    if len(layers) != 2 or layers[1].weight.shape[1] != 2:
        raise ModelInvalid("the model is no map's: make it again")
    from scipy.spatial import cKDTree

    prototypes, places = layers[0].weight.T, layers[1].weight
    total, dimension = prototypes.shape
    regions = total // _REGION if total % _REGION == 0 else 1
    mean = prototypes.mean(axis=0, dtype=np.float64).astype(np.float32)  # far from the origin, products are coarse
    grouped = np.ascontiguousarray(prototypes - mean).reshape(regions, -1, dimension)
    centres = grouped.mean(axis=1)
    count = min(_AROUND, total)
    _, around = cKDTree(places).query(places, k=count)
    return Placement(
        grouped,
        np.einsum("rcd,rcd->rc", grouped, grouped) / 2,
        mean,
        (centres, np.einsum("rd,rd->r", centres, centres) / 2),
        places,
        np.asarray(around, dtype=np.int64).reshape(total, count),
    )
