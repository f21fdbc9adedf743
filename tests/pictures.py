"""Picture files and arrays for tests, made from seeds so that every value is known."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedstore.types import Chunk, Failure, Loaded, Reader


def noise(height: int = 8, width: int = 8, channels: int = 3, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A picture (h, w, c) of random values."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def image_of(picture: npt.NDArray[Any]) -> Image.Image:
    """A picture array as a Pillow image."""
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """An image's file bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def write_png(path: Path, seed: int = 0, **shape: int) -> npt.NDArray[np.uint8]:
    """Write a PNG of ``noise`` and return its pixels."""
    picture = noise(seed=seed, **shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image_of(picture)))
    return picture


def write_idx(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an IDX file, gzipped where the name ends in .gz."""
    code = {"u1": 0x08, "i4": 0x0C, "f4": 0x0D}[array.dtype.str[1:]]
    big = array.astype(array.dtype.newbyteorder(">"))
    data = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + big.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def read_all(reader: Reader, size: int = 64) -> tuple[list[str], list[Any], list[dict[str, Any]], list[Failure]]:
    """Ids, pictures or vectors, metadata and failures of everything a reader has, in order."""
    ids: list[str] = []
    payloads: list[Any] = []
    metadata: list[dict[str, Any]] = []
    failures: list[Failure] = []
    for chunk in reader.chunks(size):
        assert len(chunk.ids) == len(chunk.hashes) == len(chunk.metadata) == len(chunk.sources) <= size
        assert all(len(digest) == 16 for digest in chunk.hashes)
        loaded = load_all(chunk)
        payload = loaded.vectors if loaded.vectors is not None else loaded.pictures
        payloads += list(payload if payload is not None else [])
        ids += [chunk.ids[i] for i in loaded.which]
        metadata += [chunk.metadata[i] for i in loaded.which]
        failures += [*chunk.failures, *loaded.failures]
    assert len(ids) == len(payloads)
    return ids, payloads, metadata, failures


def load_all(chunk: Chunk) -> Loaded:
    """Every entry of a chunk, its lists checked for being parallel."""
    loaded = chunk.load(range(len(chunk.ids)))
    assert len(loaded.which) == len(loaded.sizes)
    assert loaded.thumbs is None or len(loaded.thumbs) == len(loaded.which)
    return loaded


def reasons(failures: list[Failure]) -> dict[str, str]:
    """Failures by id."""
    return {failure.id: failure.reason for failure in failures}
