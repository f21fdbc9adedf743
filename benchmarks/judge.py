"""A judge of pictures: a small convolutional classifier of the real ones, which takes no part in fitting any store."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.linalg import sqrtm
from torch import Tensor, nn

EPOCHS, BATCH, RATE = 6, 128, 3e-3


class Judge(nn.Module):
    """Two convolutions and a hidden layer of 128, whose activations are the features of the Fréchet distance."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.hidden, self.last = nn.Linear(64 * 7 * 7, 128), nn.Linear(128, 10)

    def features(self, x: Tensor) -> Tensor:  # (b, 1, 28, 28)
        for layer in (self.first, self.second):
            x = F.max_pool2d(F.relu(layer(x)), 2)
        return F.relu(self.hidden(x.flatten(1)))  # (b, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.dropout(self.features(x), 0.3, self.training))

    @torch.inference_mode()
    def look(self, pictures: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Probabilities (n, 10) and features (n, 128) of pictures (n, 28, 28[, 1])."""
        parts = [self.features(_floats(part)) for part in np.array_split(pictures, -(-len(pictures) // 1000))]
        features = torch.cat(parts)
        return F.softmax(self.last(features), dim=1).numpy(), features.numpy()


def _floats(pictures: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pictures.reshape(-1, 1, 28, 28).astype(np.float32) / 255)


def train(pictures: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], seed: int = 0) -> Judge:
    """A judge of these pictures (n, 28, 28), some two minutes on two cores."""
    torch.manual_seed(seed)
    judge = Judge()
    optimizer = torch.optim.Adam(judge.parameters(), RATE)
    steps = EPOCHS * (len(pictures) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    truth = torch.from_numpy(labels.astype(np.int64))
    for _ in range(EPOCHS):
        order = torch.randperm(len(pictures))
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(judge(_floats(pictures[rows.numpy()])), truth[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


def frechet(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Fréchet distance of two sets of features (n, f), as if both were Gaussian (Heusel et al. 2017)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    first, second = np.cov(a.T), np.cov(b.T)
    tiny = 1e-8 * np.eye(len(first))  # a feature that is never active has no variance
    root = sqrtm((first + tiny) @ (second + tiny)).real
    return float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum() + np.trace(first + second - 2 * root))
