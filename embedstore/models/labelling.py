"""A network that says to which cluster a latent belongs, learnt from items whose clusters are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from embedstore.models.layers import descend, fold, trunk
from embedstore.models.network import Network
from embedstore.types import Vectors

BATCH, EPOCHS, FEWEST_STEPS = 1024, 12, 500
LEARNING_RATE, WEIGHT_DECAY = 6e-3, 1e-3


def fit(latents: Vectors, labels: Sequence[npt.NDArray[np.int64]], *, seed: int = 0, progress: bool = False) -> Network:
    """A network from latents (n, d) to log-odds of the clusters of every level, side by side.

    Args:
        latents: to learn from.
        labels: of each level, the items' clusters (n,), from 0.
        seed: the same seed gives the same network.
        progress: a bar on stderr.
    """
    counts = [int(level.max()) + 1 for level in labels]
    count = len(latents)
    data, known = torch.from_numpy(latents), torch.from_numpy(np.stack(labels, axis=1))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = trunk(latents)
        last = nn.Linear(body.width, sum(counts))
    batch = min(BATCH, count)
    steps = max(FEWEST_STEPS, math.ceil(EPOCHS * count / batch))

    def loss() -> Tensor:
        rows = torch.randint(count, (batch,), generator=generator)
        parts = last(body(data[rows])).split(counts, dim=1)
        return torch.stack([F.cross_entropy(part, known[rows, i]) for i, part in enumerate(parts)]).sum()

    parameters = [*body.parameters(), *last.parameters()]
    descend(parameters, loss, steps, LEARNING_RATE, WEIGHT_DECAY, "learning to place", progress)
    return Network((*fold(body), *fold(last)))
