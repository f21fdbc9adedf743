"""Pictures of any size, grey or RGB, brought to the one (h, w, c) of an encoder. NumPy and Pillow only.

The rule of the aspect ratio: a picture is *fitted inside* the target and centred, and the rest is filled with the
mean colour of the picture's own edge. Squashing was rejected because a circle would become an ellipse and
the same object in two framings would get two shapes; cropping because it loses what the user may search for.
The filling follows the edge since icons and product photographs have plain backgrounds, which then simply go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedstore.errors import InvalidArgument
from embedstore.types import Picture, Pictures

SIZE_LIMIT = 64  # px: the longest side that is fitted as it is unless the user asks for more
MIN_SIZE, MAX_SIZE = 8, 1024  # px: sides that an encoder can be fitted for
#: Changes whenever the same picture would come out differently: part of every fingerprint.
VERSION = 1


def choose_image_size(
    sizes: Sequence[tuple[int, int]], requested: int | tuple[int, int] | None = None
) -> tuple[tuple[int, int], str]:
    """The (h, w) to fit at, and a sentence for the user where that isn't simply the pictures' own size ("" otherwise).

    The most common size is taken as it is when it is at most 64 px on both sides; where it is larger, it is reduced
    so that its longer side is 64 px. Where fewer than half of the pictures share a size and their shapes differ,
    the size is a square: as large as the median longer side, at most 64 px.

    Args:
        sizes: (h, w) of some pictures of the source.
        requested: the user's wish: an int is the longer side (the shape is kept), a tuple is (h, w) exactly.

    Raises:
        InvalidArgument: without sizes, or for a wish outside 8 to 1024 px.
    """
    if not len(sizes):
        raise InvalidArgument("there is no picture to choose an image size from: the source gave none")
    if isinstance(requested, tuple):
        for side in requested:
            _check_side(side)
        return (int(requested[0]), int(requested[1])), ""
    if requested is not None:
        _check_side(requested)
    (height, width), votes = Counter((int(h), int(w)) for h, w in sizes).most_common(1)[0]
    mixed = votes * 2 < len(sizes)
    if mixed:
        height = width = int(np.median([max(size) for size in sizes]))
    limit = SIZE_LIMIT if requested is None else int(requested)
    longest = max(height, width)
    # A wish is also a wish for more than the pictures have; without one nothing is enlarged (but to the minimum).
    ratio = limit / longest if requested is not None or longest > limit else 1.0
    target = tuple(min(MAX_SIZE, max(MIN_SIZE, round(side * ratio))) for side in (height, width))
    if requested is not None or (target == (height, width) and not mixed):
        return (target[0], target[1]), ""
    what = "pictures of many sizes" if mixed else f"pictures of {width} x {height} px"
    note = f"{what} are fitted at {target[1]} x {target[0]} px"
    if ratio < 1.0:
        note += f"; --image-size {longest} keeps their detail" if longest <= MAX_SIZE else "; --image-size changes it"
    return (target[0], target[1]), note


def _check_side(side: int) -> None:
    if not MIN_SIZE <= side <= MAX_SIZE:
        raise InvalidArgument(f"an image size of {side} px can't be fitted: use {MIN_SIZE} to {MAX_SIZE}")


def choose_channels(pictures: Pictures, sample: int = 256) -> int:
    """3 where any of (a sample of) the pictures has colour, 1 where all are grey, also grey ones stored as RGB."""
    if isinstance(pictures, np.ndarray) and pictures.ndim == 3:
        return 1
    for position in np.linspace(0, len(pictures) - 1, min(sample, len(pictures))).astype(int):
        picture = pictures[position]
        if picture.ndim == 3 and picture.shape[-1] == 3 and (picture != picture[..., :1]).any():
            return 3
    return 1


def fit_pictures(pictures: Pictures, size: tuple[int, int], channels: int) -> npt.NDArray[np.uint8]:
    """Pictures as one uint8 array (n, h, w, c) of the given size and number of channels.

    An array that already has that shape is returned as it is, not copied. (n, h, w) and (h, w) count as grey.

    Raises:
        InvalidArgument: for a dtype other than uint8, or a picture that has neither 1 nor 3 channels.
    """
    height, width = size
    if isinstance(pictures, np.ndarray):
        if pictures.dtype != np.uint8:
            raise InvalidArgument(f"pictures must be uint8 (0 to 255), not {pictures.dtype}")
        if pictures.ndim == 3:  # grey pictures without their channel axis
            pictures = pictures[..., None]
        if pictures.ndim != 4 or pictures.shape[-1] not in (1, 3):
            raise InvalidArgument(f"pictures of shape {pictures.shape} are none: use (n, h, w), (n, h, w, 1 or 3)")
        if pictures.shape[1:3] == (height, width):
            return _recolour(pictures, channels)
    out = np.empty((len(pictures), height, width, channels), dtype=np.uint8)
    for row, picture in enumerate(pictures):
        out[row] = _fit_one(picture, size, channels)
    return out


def _fit_one(picture: Picture, size: tuple[int, int], channels: int) -> Picture:
    """One picture (h, w), (h, w, 1) or (h, w, 3) fitted inside (height, width) and centred."""
    if picture.dtype != np.uint8:
        raise InvalidArgument(f"pictures must be uint8 (0 to 255), not {picture.dtype}")
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.ndim != 3 or picture.shape[-1] not in (1, 3) or 0 in picture.shape:
        raise InvalidArgument(f"a picture of shape {picture.shape} is none: use (h, w), (h, w, 1) or (h, w, 3)")
    picture = _recolour(picture, channels)
    if picture.shape[:2] == size:
        return picture
    ratio = min(size[0] / picture.shape[0], size[1] / picture.shape[1])
    height, width = (max(1, min(limit, round(side * ratio))) for side, limit in zip(picture.shape, size, strict=False))
    image = Image.fromarray(picture[..., 0] if channels == 1 else np.ascontiguousarray(picture))
    # Lanczos reduces with antialiasing; its slight overshoot when enlarging is clipped by Pillow.
    resized = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)).reshape(height, width, channels)
    if (height, width) == size:
        return resized
    edge = np.concatenate([resized[0], resized[-1], resized[:, 0], resized[:, -1]])  # (2h + 2w, c)
    out = np.empty((*size, channels), dtype=np.uint8)
    out[:] = np.rint(edge.mean(axis=0)).astype(np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    out[top : top + height, left : left + width] = resized
    return out


def _recolour(pictures: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    """Grey to RGB by repeating, RGB to grey by luma (ITU-R BT.601, as Pillow's mode L), on the last axis."""
    if pictures.shape[-1] == channels:
        return pictures
    if channels == 3:
        return np.repeat(pictures, 3, axis=-1)
    # Pillow's integer weights: the same grey as Image.convert("L") gives, in one pass over the whole array.
    weights = np.array([19595, 38470, 7471], dtype=np.uint32)
    return ((pictures @ weights + 0x8000) >> 16).astype(np.uint8)[..., None]
