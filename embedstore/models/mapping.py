"""The way back from a map, learnt: from places to latents.

It is smooth, but has islands: waves of random frequencies as the first layer let a network follow them (Tancik et al.
2020). The way there is `placement`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from embedstore.models.layers import descend, fold
from embedstore.models.network import Layer, Network
from embedstore.types import Vectors

BATCH, EPOCHS, FEWEST_STEPS, MOST_STEPS = 1024, 25, 600, 2500
LEARNING_RATE, WEIGHT_DECAY = 6e-3, 1e-4
WAVES, FREQUENCY = 256, 8.0  # number, and standard deviation in radians per standard deviation of the map
WIDTH = 256


def fit_back(places: npt.NDArray[np.float32], latents: Vectors, *, seed: int = 0, progress: bool = False) -> Network:
    """A network from places (n, 2), whose standard deviation is about 1, to latents (n, d)."""
    mean = latents.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = float(np.sqrt(np.mean((latents - mean) ** 2, dtype=np.float64))) or 1.0
    generator = torch.Generator().manual_seed(seed)
    frequencies = torch.randn(2, WAVES, generator=generator) * FREQUENCY
    phases = torch.rand(WAVES, generator=generator) * 2 * math.pi
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(WAVES, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, latents.shape[1])]
    data = torch.from_numpy(np.ascontiguousarray(places, dtype=np.float32))
    wanted = torch.from_numpy((latents - mean) / np.float32(scale))
    count = len(data)
    batch, steps = _schedule(count)

    def loss() -> Tensor:
        rows = torch.randint(count, (batch,), generator=generator)
        values = torch.sin(torch.addmm(phases, data[rows], frequencies))
        for layer in layers[:-1]:
            values = torch.relu(layer(values))
        return F.mse_loss(layers[-1](values), wanted[rows])

    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    descend(parameters, loss, steps, LEARNING_RATE, WEIGHT_DECAY, "learning the way back", progress)
    [final] = fold(layers[-1])
    final = Layer(final.weight * np.float32(scale), final.bias * np.float32(scale) + mean)
    first = Layer(frequencies.numpy().copy(), phases.numpy().copy())
    return Network((first, *fold(layers[0]), *fold(layers[1]), final), waves=True)


def _schedule(count: int) -> tuple[int, int]:
    """Items of a batch, and number of steps."""
    batch = min(BATCH, count)
    return batch, min(MOST_STEPS, max(FEWEST_STEPS, math.ceil(EPOCHS * count / batch)))
