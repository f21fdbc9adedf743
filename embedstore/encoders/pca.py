"""Principal components: the encoder that is fitted in a second, and the baseline of every other. NumPy only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from embedstore.encoders import preprocess
from embedstore.errors import InvalidArgument, InvalidVector, ModelInvalid
from embedstore.models import weights as files
from embedstore.models.principal import principal_components, sample_rows
from embedstore.progress import Progress
from embedstore.types import Metric, Pictures, Vectors

FORMAT = 1
BLOCK = 1024  # pictures per matrix product


@dataclass(frozen=True, slots=True)
class PcaReport:
    """What a fit did.

    Attributes:
        pictures: number of pictures that the components were taken from.
        seconds: wall time.
        explained: share of the variance that the components carry, 0 to 1.
    """

    pictures: int
    seconds: float
    explained: float

    def __str__(self) -> str:
        return f"{self.explained:.1%} of the variance kept, {self.seconds:.1f} s"


class PcaEncoder:
    """Latents are the coordinates of a picture, pixels in [0, 1], along the first principal components.

    Their Euclidean distances are those of the pictures projected on the components. Decoding is the transposed product.
    """

    kind = "pca"
    metric = Metric.L2

    def __init__(
        self,
        components: npt.NDArray[np.float32],
        mean: npt.NDArray[np.float32],
        image_size: tuple[int, int],
        channels: int,
    ) -> None:
        self.components = components  # (d, h * w * c), orthonormal rows
        self.mean = mean  # (h * w * c,)
        self.image_size = image_size
        self.channels = channels
        self.dimension = len(components)
        # (x / 255 - mean) C^T = x (C^T / 255) - mean C^T: one product, no pass over the pictures before it
        self._matrix = components.T.astype(np.float64) / 255
        self._offset = mean.astype(np.float64) @ components.T
        self.fingerprint = files.fingerprint(self._weights(), self._config())

    @classmethod
    def fit(
        cls,
        pictures: npt.NDArray[np.uint8],
        *,
        dimension: int = 64,
        seed: int = 0,
        minutes: float | None = None,
        progress: bool = True,
        checkpoint: Path | None = None,
    ) -> tuple[Self, PcaReport]:
        """Fit to pictures (n, h, w, c); ``dimension`` is capped at n and h * w * c.

        ``minutes`` and ``checkpoint`` are there for the shape of the call: a fit takes seconds.
        """
        started = time.perf_counter()
        count, height, width, channels = pictures.shape
        if count < 1:
            raise InvalidArgument("an encoder can't be fitted to no pictures: the source gave none")
        size = height * width * channels
        dimension = min(dimension, count, size)
        rows = sample_rows(count, size, seed)
        with Progress("fitting PCA", len(rows), progress, "pictures") as bar:
            centred = pictures[rows].reshape(len(rows), size).astype(np.float32)
            centred /= 255
            mean = centred.mean(axis=0, dtype=np.float64).astype(np.float32)
            centred -= mean
            components, variances = principal_components(centred, min(dimension, len(rows)), seed)
            bar.advance(len(rows))
        total = float(np.square(centred, out=centred).sum(dtype=np.float64)) / len(rows)
        encoder = cls(components, mean, (height, width), channels)
        explained = min(1.0, float(variances.sum()) / total) if total > 0 else 1.0
        return encoder, PcaReport(len(rows), time.perf_counter() - started, explained)

    def encode(self, pictures: Pictures, progress: bool = False) -> Vectors:
        """Latents (n, d), float32, of pictures of any size."""
        out = np.empty((len(pictures), self.dimension), dtype=np.float32)
        with Progress("encoding", len(out), progress, "pictures") as bar:
            for start in range(0, len(out), BLOCK):
                fitted = preprocess.fit_pictures(pictures[start : start + BLOCK], self.image_size, self.channels)
                # BLAS sums in another order for another number of rows. In float64 that is far below float32's last
                # bit, so that a picture's latent doesn't depend on what it is encoded with.
                flat = fitted.reshape(len(fitted), -1).astype(np.float64)
                out[start : start + len(fitted)] = flat @ self._matrix - self._offset
                bar.advance(len(fitted))
        return out

    def decode(self, latents: Vectors) -> npt.NDArray[np.uint8]:
        """Pictures (n, h, w, c) of latents (n, d)."""
        latents = np.asarray(latents, dtype=np.float32)
        if latents.ndim != 2 or latents.shape[1] != self.dimension:
            raise InvalidVector(f"latents of shape {latents.shape} can't be decoded: (n, {self.dimension}) is meant")
        pixels = latents @ self.components + self.mean
        levels: npt.NDArray[np.uint8] = np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
        return levels.reshape(-1, *self.image_size, self.channels)

    def pull_back(
        self, latents: Vectors
    ) -> tuple[npt.NDArray[np.float64], Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]]:
        """Pixels (n, p) of latents (n, d), and the way of a gradient (n, p) back to the latents (n, d)."""
        components = self.components.astype(np.float64)
        return latents @ components + self.mean, lambda gradient: gradient @ components.T

    def describe(self) -> dict[str, Any]:
        """What `info` prints."""
        height, width = self.image_size
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "image_size": f"{width} x {height}",
            "channels": self.channels,
            "fingerprint": self.fingerprint,
        }

    def save(self, directory: Path) -> str:
        """Write `<fingerprint>.safetensors` and `.json` into ``directory`` and return the fingerprint."""
        return files.write(directory, self._weights(), self._config())

    @classmethod
    def load(cls, directory: Path, fingerprint: str) -> Self:
        """Read what `save` wrote; raises ModelInvalid for anything else."""
        weights, config = files.read(directory, fingerprint, _layout)
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise ModelInvalid(f"the model {fingerprint[:12]} holds NaN or infinity: fit it again")
        return cls(weights["components"], weights["mean"], (config["height"], config["width"]), config["channels"])

    def _weights(self) -> files.Weights:
        return {"components": self.components, "mean": self.mean}

    def _config(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "format": FORMAT,
            "preprocessing": preprocess.VERSION,
            "height": self.image_size[0],
            "width": self.image_size[1],
            "channels": self.channels,
            "dimension": self.dimension,
        }


def _layout(config: Mapping[str, Any]) -> files.Layout:
    if config.get("kind") != PcaEncoder.kind or config.get("format") != FORMAT:
        raise ModelInvalid(f"a model of kind {str(config.get('kind'))[:40]!r} can't be read as 'pca', format {FORMAT}")
    if config.get("preprocessing") != preprocess.VERSION:
        raise ModelInvalid("the model was fitted with another preprocessing than this version's: fit it again")
    channels = files.bounded(config, "channels", 1, 3)
    height, width = files.bounded(config, "height", 1, 1024), files.bounded(config, "width", 1, 1024)
    size = height * width * channels
    dimension = files.bounded(config, "dimension", 1, min(size, 4096))
    return {"components": ("F32", (dimension, size)), "mean": ("F32", (size,))}
