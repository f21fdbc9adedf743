"""Fitting an encoder to the user's pictures: which of them, at which size, and what the user should know of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore import registry
from embedstore.encoders import preprocess
from embedstore.errors import InvalidArgument
from embedstore.types import Pictures

SAMPLE_BYTES = 1 << 30  # of picture data that a fit holds in memory at most
SAMPLE_PICTURES = 200_000
MAX_DIMENSION = 4096


def sample_positions(
    count: int,
    *,
    picture_bytes: int = 64 * 64 * 3,
    seed: int = 0,
    limit_bytes: int = SAMPLE_BYTES,
    limit: int = SAMPLE_PICTURES,
) -> npt.NDArray[np.int64]:
    """Which entries of a source to read for fitting: all, or a random sample in ascending order.

    Args:
        count: number of entries of the source.
        picture_bytes: of one picture at the size that is fitted (h * w * c); the largest usual one by default.
        seed: of the sample.
        limit_bytes: of picture data in memory.
        limit: number of pictures.
    """
    limit = max(2, min(limit, limit_bytes // max(1, picture_bytes)))
    if count <= limit:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False)).astype(np.int64)


def fit_encoder(
    pictures: Pictures,
    *,
    kind: str = "autoencoder",
    dimension: int = 64,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    minutes: float | None = None,
    progress: bool = True,
    checkpoint: Path | None = None,
) -> tuple[Any, Any, list[str]]:
    """Fit the encoder registered as ``kind`` to pictures.

    Args:
        pictures: of one size as an array, or of several as a sequence; grey ones stored as RGB are fitted as grey.
        kind: name in the registry's group "encoders"; its class has ``fit``.
        dimension: length of the latents.
        image_size: longer side in px, or (h, w); None keeps up to 64 px and reduces what is larger.
        seed: the same seed gives the same encoder.
        minutes: upper bound of the wall time.
        progress: whether to draw a bar on stderr.
        checkpoint: file for the state of an interrupted fit.

    Returns:
        The encoder, its report, and notes for the user, each a sentence.

    Raises:
        InvalidArgument: for no pictures, pictures that are all the same, or parameters out of bounds.
    """
    if not 1 <= dimension <= MAX_DIMENSION:
        raise InvalidArgument(f"latents of {dimension} dimensions can't be fitted: use 1 to {MAX_DIMENSION}")
    if minutes is not None and not minutes > 0:
        raise InvalidArgument(f"a fit can't be done in {minutes} minutes: give a positive number")
    if len(pictures) < 2:
        raise InvalidArgument(f"an encoder can't be fitted to {len(pictures)} picture(s): give at least 2")
    encoder_class = registry.resolve("encoders", kind)
    if not hasattr(encoder_class, "fit"):
        raise InvalidArgument(
            f"the encoder {kind!r} can't be fitted: use one of {', '.join(registry.names('encoders'))}"
        )
    same_size = isinstance(pictures, np.ndarray) and pictures.ndim > 2
    sizes = [picture.shape[:2] for picture in (pictures[:1] if same_size else pictures)]
    size, note = preprocess.choose_image_size(sizes, image_size)
    notes = [note] if note else []
    fitted = preprocess.fit_pictures(pictures, size, preprocess.choose_channels(pictures))
    if all((fitted[start : start + 1024] == fitted[0]).all() for start in range(0, len(fitted), 1024)):
        raise InvalidArgument(f"all {len(fitted):,} pictures are the same: an encoder needs pictures that differ")
    capacity = min(len(fitted), fitted[0].size)
    if dimension > capacity:
        notes.append(
            f"{len(fitted):,} pictures of {fitted[0].size:,} numbers can fill {capacity} dimensions, not {dimension}"
        )
    encoder, report = encoder_class.fit(
        fitted, dimension=dimension, seed=seed, minutes=minutes, progress=progress, checkpoint=checkpoint
    )
    if getattr(report, "stopped", None) == "time":
        notes.append(
            f"the fit was cut short at its limit of {minutes:g} minutes: a longer one would give better latents"
        )
    return encoder, report, notes
