"""Small pictures of many items in few files: sprite sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedstore.compute.space import LatentSpace
from embedstore.explore import likeness
from embedstore.progress import Progress
from embedstore.show import markup
from embedstore.types import Picture

CELL = 32  # px: two blocks of the compression each way, so that no picture bleeds into the next
COLUMNS = 40
_EACH = COLUMNS * COLUMNS  # pictures of a sheet
_QUALITY = 72


@dataclass(frozen=True, slots=True)
class Sprites:
    """Thumbnails of some items.

    Attributes:
        rows: of the items with a picture, ascending, counted as the positions that were given.
        sizes: uint8 (m, 2): width and height of each.
        sheets: as sources of images: 40 by 40 cells of 32 px, in the order of the rows.
    """

    rows: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.uint8]
    sheets: tuple[str, ...]


def sprites(
    space: LatentSpace, positions: npt.NDArray[np.int64], limit: int, *, progress: bool = False
) -> Sprites | None:
    """Thumbnails of the items at positions, or of that many of them by chance; None where there is no picture."""
    chosen = np.arange(len(positions))
    if limit < len(chosen):
        chosen = np.sort(np.random.default_rng(space.seed).choice(len(chosen), limit, replace=False))
    rows, sizes, sheets = [], [], []
    waiting: list[Image.Image] = []
    with Progress("drawing thumbnails", len(chosen), progress) as bar:
        for start in range(0, len(chosen), _EACH):
            part = chosen[start : start + _EACH]
            for row, picture in zip(part, likeness.read(space, space.view.rows[positions[part]]), strict=True):
                if picture is None:
                    continue
                waiting.append(small(picture))
                rows.append(int(row))
                sizes.append(waiting[-1].size)
                if len(waiting) == _EACH:
                    sheets.append(_sheet(waiting))
                    waiting = []
            bar.advance(len(part))
    if waiting:
        sheets.append(_sheet(waiting))
    if not rows:
        return None
    return Sprites(np.array(rows), np.array(sizes, dtype=np.uint8), tuple(sheets))


def small(picture: Picture, most: int = CELL) -> Image.Image:
    """A picture, reduced where it is larger than so many px."""
    image = Image.fromarray(np.ascontiguousarray(picture[:, :, 0] if picture.shape[2] == 1 else picture))
    if max(image.size) > most:
        image.thumbnail((most, most), Image.Resampling.LANCZOS)
    return image


def _sheet(images: Sequence[Image.Image]) -> str:
    kind = "L" if all(image.mode == "L" for image in images) else "RGB"
    height = -(-len(images) // COLUMNS) * CELL
    canvas = Image.new(kind, (min(len(images), COLUMNS) * CELL, height))
    for place, image in enumerate(images):
        canvas.paste(image, (place % COLUMNS * CELL, place // COLUMNS * CELL))
    return markup.picture_source(canvas, "WEBP", quality=_QUALITY, method=3)
