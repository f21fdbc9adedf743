"""Random views of a batch of pictures, as a few tensor operations on the whole batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

CROP_AREA = (0.7, 1.0)  # of the picture; smaller crops confuse small objects
LOG_ASPECT = 0.25  # the crop's sides are stretched by at most e to this
CONTRAST = (0.6, 1.4)
LOG_GAMMA = 0.6  # brightness is bent by a power of e to at most this, either way
TINT = 0.15  # colour pictures only: each channel's own factor is within 1 +- this
ERASED_SIDE = 0.35  # of the picture's side, at most


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """One random view of each picture: crop and resize, mirror, contrast, gamma, tint, one erased rectangle.

    Args:
        pictures: (b, c, h, w) in [0, 1].
        generator: of the random numbers, on the CPU (so that a seed means the same on every device).

    Returns:
        (b, c, h, w) in [0, 1].
    """
    count, channels, height, width = pictures.shape
    device = pictures.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=generator) * (high - low) + low).to(device)

    area, aspect = uniform(*CROP_AREA), torch.exp(uniform(-LOG_ASPECT, LOG_ASPECT))
    scale_x, scale_y = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3, device=device)  # output to input coordinates, both in [-1, 1]
    theta[:, 0, 0], theta[:, 1, 1] = scale_x * mirror, scale_y
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-1, 1) * (1 - scale_x), uniform(-1, 1) * (1 - scale_y)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    views = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)

    factor = uniform(*CONTRAST, 1, 1, 1)
    if channels == 3:
        factor = factor * uniform(1 - TINT, 1 + TINT, 3, 1, 1)
    views = (views * factor).clamp_(1e-3, 1).pow_(torch.exp(uniform(-LOG_GAMMA, LOG_GAMMA, 1, 1, 1)))

    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    top, left = uniform(0, height, 1), uniform(0, width, 1)
    tall, wide = uniform(0, ERASED_SIDE * height, 1), uniform(0, ERASED_SIDE * width, 1)
    erased_rows = (rows >= top) & (rows < top + tall)  # (b, h)
    erased_columns = (columns >= left) & (columns < left + wide)  # (b, w)
    return views.masked_fill_(erased_rows[:, None, :, None] & erased_columns[:, None, None, :], 0.0)
