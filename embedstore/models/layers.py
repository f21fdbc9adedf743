"""Fully connected networks: made, and folded into plain matrices once they are fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from embedstore.models.network import Layer
from embedstore.progress import Progress
from embedstore.types import Vectors

WIDTH = 256


class Trunk(nn.Module):
    """Two hidden layers with batch normalisation, on inputs that are brought to mean 0 and variance 1 as a whole.

    One scale for all dimensions: in a latent space their variances mean something.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dimension: int, width: int = WIDTH) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("scale", torch.ones(()))
        self.first, self.second = nn.Linear(dimension, width), nn.Linear(width, width)
        self.first_norm, self.second_norm = nn.BatchNorm1d(width), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Features (b, width) of latents (b, d)."""
        x = torch.relu(self.first_norm(self.first((x - self.mean) / self.scale)))
        return torch.relu(self.second_norm(self.second(x)))


def trunk(latents: Vectors) -> Trunk:
    """A new trunk for latents (n, d) like these; its weights come from torch's global random numbers."""
    made = Trunk(latents.shape[1])
    mean = latents.mean(axis=0, dtype=np.float64)
    made.mean.copy_(torch.from_numpy(mean.astype(np.float32)))
    made.scale.fill_(float(np.sqrt(np.mean((latents - mean.astype(np.float32)) ** 2, dtype=np.float64))) or 1.0)
    return made


def fold(module: nn.Module) -> tuple[Layer, ...]:
    """The layers of a trunk or of one linear map, normalisation and scale put into the weights."""
    if isinstance(module, nn.Linear):
        return (_layer(module.weight, module.bias),)
    if not isinstance(module, Trunk):
        raise TypeError(f"{type(module).__name__} isn't folded")
    layers: list[tuple[Tensor, Tensor]] = []
    for linear, norm in ((module.first, module.first_norm), (module.second, module.second_norm)):
        mean, variance = norm.running_mean, norm.running_var
        if mean is None or variance is None:
            raise TypeError("a normalisation without running statistics isn't folded")
        gain = norm.weight / (variance + norm.eps).sqrt()
        layers.append((linear.weight * gain[:, None], (linear.bias - mean) * gain + norm.bias))
    weight, bias = layers[0]
    weight = weight / module.scale
    return _layer(weight, bias - weight @ module.mean), _layer(*layers[1])


def _layer(weight: Tensor, bias: Tensor) -> Layer:
    return Layer(weight.detach().numpy().T.copy(), bias.detach().numpy().copy())


def descend(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[], Tensor],
    steps: int,
    rate: float,
    decay: float,
    title: str,
    progress: bool,
) -> None:
    """Minimise ``loss``, which draws its own batch: AdamW under one cycle of learning rates up to ``rate``.

    In one thread: steps are short, and two would wait for each other most of the time. On an idle machine they took
    0.85 of one's time, and twice to ten times as long as soon as another program wanted a core.

    Args:
        parameters: that it changes.
        loss: of a batch.
        steps: number of batches.
        rate: largest learning rate.
        decay: of weights.
        title: of the bar.
        progress: a bar on stderr.
    """
    optimizer = torch.optim.AdamW(parameters, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    with _one_thread(), Progress(title, steps, progress, "steps") as bar:
        for _ in range(steps):
            value = loss()
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            bar.advance()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
