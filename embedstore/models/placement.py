"""A latent's place on a map, by the networks that `mapping` fitted. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedstore.errors import ModelInvalid
from embedstore.models.network import Layer, Network
from embedstore.types import Vectors

_AROUND = 6  # cells next to the likeliest one, itself among them, that a place is the mean of
_PART = 2_048  # items at a time: their log-odds, 4,096 each, stay in the cache's reach


@dataclass(frozen=True, slots=True)
class Placement:
    """From latents to places.

    Attributes:
        network: to the log-odds of the cells.
        centres: of the cells, float32 (c, 2).
        around: of each cell, itself and those next to it (c, a).
    """

    network: Network
    centres: npt.NDArray[np.float32]
    around: npt.NDArray[np.int64]

    def __call__(self, latents: Vectors) -> npt.NDArray[np.float32]:
        """Places (n, 2) of latents (n, d)."""
        places = np.empty((len(latents), 2), dtype=np.float32)
        for start in range(0, len(latents), _PART):
            odds = self.network(latents[start : start + _PART])
            near = self.around[odds.argmax(axis=1)]
            share = np.take_along_axis(odds, near, axis=1)
            share = np.exp(share - share.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            places[start : start + _PART] = np.einsum("na,nac->nc", share, self.centres[near])
        return places


def placement(networks: Mapping[str, Network]) -> Placement:
    """The networks of a map's model file as what places items.

    Raises:
        ModelInvalid: they don't belong together.
    """
    try:
        network, [cells] = networks["place"], networks["cells"].layers
    except (KeyError, ValueError):
        raise ModelInvalid("the model is no map's: make it again") from None
    centres = cells.weight
    if centres.shape[1] != 2 or network.sizes[-1] != len(centres):
        raise ModelInvalid("the model's cells are not those that its network knows: make it again")
    from scipy.spatial import cKDTree

    count = min(_AROUND, len(centres))
    _, around = cKDTree(centres).query(centres, k=count)
    return Placement(network, centres, np.asarray(around, dtype=np.int64).reshape(len(centres), count))


def networks(network: Network, centres: npt.NDArray[np.float32], back: Network) -> dict[str, Network]:
    """The same as networks for a file, with the one that leads back."""
    return {"place": network, "cells": Network((Layer(centres, np.zeros(2, dtype=np.float32)),)), "back": back}
