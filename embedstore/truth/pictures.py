"""Pictures that the store itself holds: thumbnails, lossless where the item has at most 64 px a side."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedstore.errors import StoreDamaged
from embedstore.metadata import catalog, items
from embedstore.metadata.database import Database
from embedstore.metadata.items import Thumb
from embedstore.truth.layout import SEGMENTS
from embedstore.truth.writer import Thumbs
from embedstore.types import Picture, Pictures
from embedstore.vectors.segments import read_bytes

if TYPE_CHECKING:
    from PIL import Image

#: Pictures with longer sides are kept reduced, as WebP of at most twice this many px.
LOSSLESS_SIDE = 64
_FORMATS = ("PNG", "WEBP")


def pack(pictures: Pictures) -> Thumbs:
    """Thumbnails of decoded pictures.

    Small pictures stay raw: one block for a whole array, no work for each; a PNG would be 0.6 of the size for fifty
    times the time.
    """
    if isinstance(pictures, np.ndarray) and max(pictures.shape[1:3], default=0) <= LOSSLESS_SIDE:
        block = np.ascontiguousarray(pictures)
        height, width, channels = block.shape[1:]
        lengths = np.full(len(block), height * width * channels, dtype=np.int64)
        return Thumbs([block.data.cast("B")], lengths, f"raw:{height}x{width}x{channels}")
    parts: list[bytes] = []
    formats: list[str] = []
    for picture in pictures:
        height, width, channels = picture.shape
        if max(height, width) <= LOSSLESS_SIDE:
            parts.append(picture.tobytes())
            formats.append(f"raw:{height}x{width}x{channels}")
        else:
            image = to_image(picture)
            image.thumbnail((2 * LOSSLESS_SIDE, 2 * LOSSLESS_SIDE))
            stream = io.BytesIO()
            image.save(stream, "WEBP", quality=80, method=2)
            parts.append(stream.getvalue())
            formats.append("webp")
    return Thumbs(parts, np.array([len(part) for part in parts], dtype=np.int64), formats)


def packed(thumbs: Sequence[bytes]) -> Thumbs:
    """Thumbnails that a reader has already encoded."""
    lengths = np.array([len(part) for part in thumbs], dtype=np.int64)
    return Thumbs(thumbs, lengths, ["png" if part[1:4] == b"PNG" else "webp" for part in thumbs])


def to_image(picture: Picture) -> Image.Image:
    """As a PIL image: mode L for one channel, RGB for three."""
    from PIL import Image

    return Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)


def to_picture(image: Image.Image | None) -> Picture | None:
    """A PIL image as a picture (h, w, c); None stays None."""
    if image is None:
        return None
    array = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"), dtype=np.uint8)
    return array[:, :, None] if array.ndim == 2 else array


def read(directory: Path, database: Database, rows: npt.NDArray[np.int64]) -> list[Image.Image | None]:
    """The stored pictures of these rows, in order; None for items without one, or deleted since."""
    try:
        return _read(directory, database, rows)
    except StoreDamaged:
        # A compact may have moved them between the look into the database and the look into the file.
        return _read(directory, database, rows)


def _read(directory: Path, database: Database, rows: npt.NDArray[np.int64]) -> list[Image.Image | None]:
    wanted = rows.tolist()
    with database.read() as connection:
        found = items.pictured(connection, wanted)
        names = {segment.id: segment.name for segment in catalog.read_segments(connection)}
    images: dict[int, Image.Image] = {}
    by_segment: dict[int, list[tuple[int, Thumb]]] = {}
    for row, entry in found.items():
        if entry.thumb is not None:
            by_segment.setdefault(entry.thumb.segment, []).append((row, entry.thumb))
    for segment, places in by_segment.items():
        path = directory / SEGMENTS / names[segment]
        blobs = read_bytes(path, [(thumb.start, thumb.length) for _, thumb in places])
        for (row, thumb), blob in zip(places, blobs, strict=True):
            images[row] = _decode(blob, thumb.format, path)
    return [images.get(row) for row in wanted]


def _decode(blob: bytes, form: str, path: Path) -> Image.Image:
    from PIL import Image

    try:
        if form.startswith("raw:"):
            height, width, channels = map(int, form[4:].split("x"))
            return to_image(np.frombuffer(blob, dtype=np.uint8).reshape(height, width, channels))
        image = Image.open(io.BytesIO(blob), formats=_FORMATS)
        image.load()
    except (ValueError, OSError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise StoreDamaged(f"{path}: a thumbnail can't be decoded ({error}): run embedstore verify") from None
    return image
