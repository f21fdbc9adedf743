"""The default model: a small convolutional autoencoder that starts as PCA and learns what PCA can't do.

Both halves are a sum of two paths. The *linear path* is a PCA of the (at most 32 px) picture, set in closed form before
the first step, so that fitting starts at PCA's reconstruction error instead of at noise; the *convolutional path*
starts at zero and learns the rest. In a fit of a few epochs that is worth more than any deeper network would be.

The body works on one grid of at most 8 x 8 positions: there the activations stay in a CPU's cache and convolutions
run at the speed of matrix products. Pixels enter as 2 x 2 patches and leave as 4 x 4 patches, because a convolution
with one input or output channel is several times slower than its arithmetic says. (Measured and rejected: 4 x 4
patches at the entrance, whose error stays higher; a stage at 14 x 14 in the decoder, which takes more time for no
lower error.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from embedstore.models.weights import bounded

PATCH_IN, PATCH_OUT = 2, 4  # px: side of the patches by which pictures enter and leave
GRID = 8  # the body's grid has at most this many positions on a side
LINEAR_SIDE = 32  # px: the linear path sees the picture reduced to at most this


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """Everything that determines the shape of an `Autoencoder`.

    Attributes:
        image_size: (h, w) in px, 8 to 1024 on each side.
        channels: 1 or 3.
        dimension: length of a latent.
        stem: channels behind the first convolution, at half the picture's size.
        width: channels of the body, on its grid.
        encoder_blocks: residual blocks of the encoder.
        decoder_blocks: residual blocks of the decoder.
    """

    image_size: tuple[int, int]
    channels: int
    dimension: int = 64
    stem: int = 32
    width: int = 64
    encoder_blocks: int = 1
    decoder_blocks: int = 3

    @property
    def halvings(self) -> int:
        """How often the picture is halved until it fits the grid; at least twice."""
        count = 2
        while max(self.image_size) > GRID << count:
            count += 1
        return count

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the body: the picture is padded to this times 2 ** halvings."""
        height, width = (-(-side // (1 << self.halvings)) for side in self.image_size)
        return height, width

    @property
    def linear_size(self) -> tuple[int, int]:
        """(h, w) of the picture as the linear path sees it: as it is up to 32 px, reduced in shape above."""
        ratio = min(1.0, LINEAR_SIDE / max(self.image_size))
        height, width = (max(1, round(side * ratio)) for side in self.image_size)
        return height, width

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "image_size": list(self.image_size)}

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> AutoencoderConfig:
        """Check and take over a config that may come from a stranger.

        Raises:
            ModelInvalid: for a number that is missing, no integer or out of bounds.
        """
        size = config.get("image_size")
        sides = dict(enumerate(size)) if isinstance(size, list) and len(size) == 2 else {}
        named = {"height": sides.get(0), "width": sides.get(1)}
        return cls(
            image_size=(bounded(named, "height", 8, 1024), bounded(named, "width", 8, 1024)),
            channels=3 if bounded(config, "channels", 1, 3) == 3 else bounded(config, "channels", 1, 1),
            dimension=bounded(config, "dimension", 1, 4096),
            stem=bounded(config, "stem", 1, 512),
            width=bounded(config, "width", 1, 1024),
            encoder_blocks=bounded(config, "encoder_blocks", 0, 32),
            decoder_blocks=bounded(config, "decoder_blocks", 0, 32),
        )


class ConvNorm(nn.Module):
    """Convolution, batch normalisation, ReLU; the normalisation is folded into the convolution for encoding."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, padding, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Residual(nn.Module):
    """x + a ConvNorm of x (``norm=True``: encoder) or x + ReLU(conv(x)) (decoder, which needs no normalisation)."""

    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.branch = ConvNorm(width, width, 3, 1, 1) if norm else nn.Conv2d(width, width, 3, 1, 1)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.branch(x)
        return x + (branch if self.norm else F.relu(branch))


class Encoder(nn.Module):
    """Picture (b, c, h, w) in [0, 1] to latent (b, d)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        halvings, (gh, gw) = config.halvings, config.grid
        widths = [min(config.width, config.stem << step) for step in range(halvings - 1)] + [config.width]
        self.stem = ConvNorm(config.channels * PATCH_IN**2, widths[0], 3, 1, 1)
        self.down = nn.Sequential(*(ConvNorm(a, b, 3, 2, 1) for a, b in pairwise(widths)))
        self.body = nn.Sequential(*(Residual(config.width, norm=True) for _ in range(config.encoder_blocks)))
        self.head = nn.Linear(config.width * gh * gw, config.dimension)
        lh, lw = config.linear_size
        self.linear = nn.Linear(config.channels * lh * lw, config.dimension, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (b, c, h, w)
        config = self.config
        z: Tensor = self.linear(reduce(x, config).flatten(1))  # (b, d)
        (gh, gw), (h, w) = config.grid, config.image_size
        bottom, right = (gh << config.halvings) - h, (gw << config.halvings) - w
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        x = self.stem(to_patches(x, PATCH_IN))  # (b, stem, h/2, w/2)
        x = self.body(self.down(x))  # (b, width, gh, gw)
        latents: Tensor = z + self.head(x.flatten(1))
        return latents  # (b, d)


class Decoder(nn.Module):
    """Latent (b, d) to picture (b, c, h, w), about [0, 1] but not clipped."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        gh, gw = config.grid
        self.head = nn.Linear(config.dimension, config.width * gh * gw)
        self.body = nn.Sequential(*(Residual(config.width, norm=False) for _ in range(config.decoder_blocks)))
        widths = [config.width] + [max(config.stem, config.width >> step) for step in range(1, config.halvings - 1)]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], config.channels * PATCH_OUT**2, 3, 1, 1)
        lh, lw = config.linear_size
        self.linear = nn.Linear(config.dimension, config.channels * lh * lw)

    def forward(self, z: Tensor) -> Tensor:  # (b, d)
        config = self.config
        (gh, gw), (h, w), (lh, lw) = config.grid, config.image_size, config.linear_size
        x = F.relu(self.head(z)).view(-1, gh, gw, config.width).permute(0, 3, 1, 2)  # (b, width, gh, gw), channels last
        x = self.body(x)
        for up in self.up:
            x = F.relu(up(x))  # twice the height and width
        x = from_patches(self.last(x), PATCH_OUT)[..., :h, :w]  # (b, c, h, w)
        smooth = self.linear(z).view(-1, config.channels, lh, lw)
        if (lh, lw) != (h, w):
            smooth = F.interpolate(smooth, (h, w), mode="bilinear", align_corners=False)
        pictures: Tensor = x + smooth
        return pictures


class Autoencoder(nn.Module):
    """An `Encoder` and a `Decoder` of one latent space."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (b, d) of pictures (b, c, h, w) in [0, 1]."""
        latents: Tensor = self.encoder(pictures)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (b, c, h, w), about [0, 1], of latents (b, d)."""
        pictures: Tensor = self.decoder(latents)
        return pictures

    def forward(self, pictures: Tensor) -> Tensor:
        return self.decode(self.encode(pictures))


def to_patches(x: Tensor, side: int) -> Tensor:
    """(b, c, side h, side w) to (b, side² c, h, w), channels last: pixel_unshuffle, but in one copy instead of two."""
    b, c, h, w = x.shape[0], x.shape[1], x.shape[2] // side, x.shape[3] // side
    x = x.permute(0, 2, 3, 1).reshape(b, h, side, w, side, c).transpose(2, 3)
    return x.reshape(b, h, w, side * side * c).permute(0, 3, 1, 2)


def from_patches(x: Tensor, side: int) -> Tensor:
    """(b, side² c, h, w) to (b, c, side h, side w): the inverse of `to_patches`."""
    b, c, h, w = x.shape[0], x.shape[1] // side**2, x.shape[2], x.shape[3]
    x = x.permute(0, 2, 3, 1).reshape(b, h, w, side, side, c).transpose(2, 3)
    return x.reshape(b, h * side, w * side, c).permute(0, 3, 1, 2)


def reduce(x: Tensor, config: AutoencoderConfig) -> Tensor:
    """A picture as the linear path sees it."""
    if config.linear_size == config.image_size:
        return x
    return F.interpolate(x, config.linear_size, mode="area")


def fold_norms(model: Autoencoder) -> Autoencoder:
    """Fold each batch normalisation into its convolution, in place: the same function in eval mode, fewer passes."""
    for module in model.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv.eval(), module.norm.eval())
            module.norm = nn.Identity()
    return model


def channels_last(model: Autoencoder) -> Autoencoder:
    """Lay the convolutions' kernels out for channels-last pictures, in place: what oneDNN is fastest with."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model
