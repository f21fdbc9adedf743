"""The default encoder: the convolutional autoencoder, fitted to the user's own pictures."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from embedstore.encoders import preprocess
from embedstore.errors import InvalidVector
from embedstore.models import checkpoint as files
from embedstore.models.autoencoder import Autoencoder, AutoencoderConfig, channels_last, fold_norms
from embedstore.models.training import FitReport
from embedstore.models.training import fit as fit_autoencoder
from embedstore.models.weights import fingerprint
from embedstore.progress import Progress
from embedstore.types import Metric, Pictures, Vectors

BLOCK = 256  # pictures per forward pass
#: A shorter block is filled up to a multiple of this: for a handful of pictures the matrix products sum in another
#: order, and a picture must have the same latent, bit for bit, whatever it is encoded with. CUDA chooses its kernels by
#: the exact shape, so that every block is whole there.
FEWEST = {"cpu": 64, "cuda": BLOCK}
_SWITCHES = threading.Lock()


class TrainedEncoder:
    """An `Autoencoder` in eval mode. Latents are compared by Euclidean distance.

    It works on a GPU where there is one, to which it moves when it is first used, and stays there: a call's pictures
    must not be encoded otherwise than another's.
    """

    kind = "autoencoder"
    metric = Metric.L2

    def __init__(self, model: Autoencoder, config: AutoencoderConfig) -> None:
        self.model = model.cpu().eval()
        self.config = config
        self.dimension = config.dimension
        self.image_size = config.image_size
        self.channels = config.channels
        self.fingerprint = fingerprint(files.to_arrays(self.model), files.canonical(config, preprocess.VERSION))
        # The saved model keeps its norms; the one that works has them folded into its convolutions.
        self._fast = channels_last(fold_norms(copy.deepcopy(self.model)))
        self._fast.requires_grad_(False)
        self._device: torch.device | None = None  # until first use: to look for CUDA takes longer than to load
        self._lock = threading.Lock()

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
    ) -> tuple[Self, FitReport]:
        """Fit to pictures (n, h, w, c), n at least 2; see `embedstore.models.training.fit`."""
        _, height, width, channels = pictures.shape
        config = AutoencoderConfig((height, width), channels, dimension)
        model, report = fit_autoencoder(
            pictures, config, seed=seed, minutes=minutes, progress=progress, checkpoint=checkpoint
        )
        return cls(model, config), report

    def encode(self, pictures: Pictures, progress: bool = False) -> Vectors:
        """Latents (n, d), float32, of pictures of any size; the same picture always has the same latent."""
        out = np.empty((len(pictures), self.dimension), dtype=np.float32)
        device = self._placed()
        with torch.inference_mode(), _exactly(device), Progress("encoding", len(out), progress, "pictures") as bar:
            for start, count, batch in self._blocks(pictures, device):
                out[start : start + count] = self._fast.encode(batch)[:count].cpu().numpy()
                bar.advance(count)
        return out

    def _placed(self) -> torch.device:
        """Where the model works; it is moved there by the first call."""
        with self._lock:
            if self._device is None:
                device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
                self._fast.to(device)
                self._device = device
            return self._device

    def _blocks(self, pictures: Pictures, device: torch.device) -> Iterator[tuple[int, int, Tensor]]:
        """(first row, number of rows, (b, c, h, w) in [0, 1], channels last), b filled up with black pictures."""
        for start in range(0, len(pictures), BLOCK):
            fitted = preprocess.fit_pictures(pictures[start : start + BLOCK], self.image_size, self.channels)
            count = len(fitted)
            if missing := -count % FEWEST[device.type]:
                fitted = np.concatenate([fitted, np.zeros((missing, *fitted.shape[1:]), dtype=np.uint8)])
            if not fitted.flags.writeable:  # torch would warn; nothing is written, but a copy of a batch is cheap
                fitted = fitted.copy()
            yield start, count, torch.from_numpy(fitted).to(device).permute(0, 3, 1, 2).float().div_(255)

    def decode(self, latents: Vectors) -> npt.NDArray[np.uint8]:
        """Pictures (n, h, w, c) of latents (n, d)."""
        vectors = np.array(latents, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise InvalidVector(f"latents of shape {vectors.shape} can't be decoded: (n, {self.dimension}) is meant")
        out = np.empty((len(vectors), *self.image_size, self.channels), dtype=np.uint8)
        device = self._placed()
        with torch.inference_mode(), _exactly(device):
            for start in range(0, len(vectors), BLOCK):
                pixels = self._fast.decode(torch.from_numpy(vectors[start : start + BLOCK]).to(device))
                pixels = pixels.nan_to_num_(0).clamp_(0, 1).mul_(255).round_().byte()
                out[start : start + BLOCK] = pixels.permute(0, 2, 3, 1).cpu().numpy()
        return out

    def pull_back(
        self, latents: Vectors
    ) -> tuple[npt.NDArray[np.float64], Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]]:
        """Pixels (n, p), about [0, 1], of latents (n, d), and the way back of a gradient (n, p) to the latents."""
        device = self._placed()
        with torch.enable_grad(), _exactly(device):
            z = torch.from_numpy(np.array(latents, dtype=np.float32)).to(device).requires_grad_()
            pixels = self._fast.decode(z).flatten(1)

        def back(gradient: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            with _exactly(device):
                [found] = torch.autograd.grad(pixels, z, torch.from_numpy(gradient.astype(np.float32)).to(device))
            return found.cpu().numpy().astype(np.float64)

        return pixels.detach().cpu().numpy().astype(np.float64), back

    def describe(self) -> dict[str, Any]:
        """What `info` prints."""
        height, width = self.image_size
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "image_size": f"{width} x {height}",
            "channels": self.channels,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "fingerprint": self.fingerprint,
        }

    def save(self, directory: Path) -> str:
        """Write `<fingerprint>.safetensors` and `.json` into ``directory`` and return the fingerprint."""
        return files.save(self.model, self.config, directory, preprocess.VERSION)

    @classmethod
    def load(cls, directory: Path, fingerprint: str) -> Self:
        """Read what `save` wrote; raises ModelInvalid for anything else."""
        return cls(*files.load(directory, fingerprint, preprocess.VERSION))


@contextmanager
def _exactly(device: torch.device) -> Iterator[None]:
    """On CUDA: no TF32, whose ten bits of mantissa would move latents away from those of a CPU, and no kernels that
    are chosen by the clock or sum in the order of arrival. These switches are the process's: one thread at a time.
    """
    if device.type == "cpu":
        yield
        return
    with _SWITCHES, torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
