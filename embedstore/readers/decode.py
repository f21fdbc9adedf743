"""One picture file's bytes -> uint8 (h, w, c) and a thumbnail. Runs in the worker processes; the table of what becomes
of each kind of picture is in docs/sources.md.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from embedstore.errors import UnreadableItem
from embedstore.readers import formats
from embedstore.readers.scaling import factor_for, scale

#: Pictures of more pixels are refused: where Pillow itself raises instead of warning (twice its MAX_IMAGE_PIXELS).
MAX_PIXELS = 178_956_970
THUMB_SIDE = 128
LOSSLESS_SIDE = 64
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as read: ``pixels`` uint8 (h, w, c), the original's (width, height) upright, an encoded thumbnail."""

    pixels: npt.NDArray[np.uint8]
    size: tuple[int, int]
    thumb: bytes


def decode(data: bytes, suffix: str = "", max_side: int | None = None, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode the first frame of a picture file.

    Args:
        data: the whole file.
        suffix: of its name, lower case with the dot; only formats without a signature need it.
        max_side: pictures whose longer side is above this are reduced to it (antialiased).
        max_pixels: pictures of more pixels are refused before any of them is decoded.

    Raises:
        UnreadableItem: empty, truncated, too large, or no picture of an accepted format.
        MemoryError: the process's limit was reached.
    """
    if not data:
        raise UnreadableItem("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is not worth a word as long as the pixels can be read
            before = Image.MAX_IMAGE_PIXELS
            try:
                return _decode(data, suffix, max_side, max_pixels)
            finally:  # a process that decodes for itself may have other pictures to open
                Image.MAX_IMAGE_PIXELS = before
    except (UnreadableItem, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UnreadableItem(f"is no picture in a format read here ({formats.accepted()})") from None
    except Image.DecompressionBombError:
        raise UnreadableItem(f"has more than {max_pixels:,} pixels") from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything from struct.error to SyntaxError
        if "out of memory" in str(error):
            raise MemoryError from None
        raise UnreadableItem(f"can't be decoded: {str(error) or type(error).__name__}") from None


def pixels_of(data: bytes, suffix: str = "") -> int:
    """Pixels that a picture's header promises, without decoding any; 0 where it isn't understood."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats.formats_for(suffix)) as image:
                return image.width * image.height
    except Exception:  # noqa: BLE001 - whoever decodes it says what is wrong
        return 0


def _decode(data: bytes, suffix: str, max_side: int | None, max_pixels: int) -> Decoded:
    # Pillow raises at twice this number and warns at once it; the latter is ours to ignore.
    Image.MAX_IMAGE_PIXELS = max(1, max_pixels // 2)
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with Image.open(io.BytesIO(data), formats=formats.formats_for(suffix)) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise UnreadableItem(f"has more than {max_pixels:,} pixels ({width} × {height})")
        orientation = _orientation(image)
        size = (height, width) if orientation >= 5 else (width, height)
        # What is decoded must serve the thumbnail too, hence at least its side.
        side = None if max_side is None else max(max_side, THUMB_SIDE)
        if side is not None:
            # JPEG only: decode at 1/2, 1/4 or 1/8 scale straight from the DCT, at least twice what is kept.
            image.draft(None, _fit(image.size, 2 * side))
        upright = to_grey_or_rgb(image)
        if side is not None:
            upright = _reduce(upright, side)
    if orientation in _TRANSPOSE:
        upright = upright.transpose(_TRANSPOSE[orientation])
    thumb = thumbnail(upright, lossless=max(size) <= LOSSLESS_SIDE)
    if max_side is not None:
        upright = _reduce(upright, max_side)
    return Decoded(to_pixels(upright), size, thumb)


def _orientation(image: Image.Image) -> int:
    # Not ImageOps.exif_transpose: it rewrites the EXIF block, and a damaged one must not cost the picture.
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - as above: any damage means upright
        return 1
    return value if isinstance(value, int) and value in _TRANSPOSE else 1


def _fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    factor = min(1.0, side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _reduce(image: Image.Image, side: int) -> Image.Image:
    if max(image.size) <= side:
        return image
    return image.resize(_fit(image.size, side), Image.Resampling.BICUBIC, reducing_gap=2.0)


def to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as mode L or RGB, transparency laid over white.

    Raises:
        UnreadableItem: 32-bit integer or float samples outside the ranges of ``scaling.factor_for``.
    """
    mode = image.mode
    if mode in ("L", "RGB") and not image.has_transparency_data:
        image.load()
        return image
    if mode.startswith(("I", "F")):
        return _from_numbers(image)
    if image.has_transparency_data:
        grey = mode in ("1", "L", "LA", "La")
        layered = image.convert("LA" if grey and mode != "La" else "RGBA")
        white = Image.new(layered.mode, layered.size, (255,) * len(layered.getbands()))
        if layered.mode == "RGBA":
            return Image.alpha_composite(white, layered).convert("RGB")
        return Image.composite(layered.getchannel("L"), white.getchannel("L"), layered.getchannel("A"))
    if mode == "1":
        return image.convert("L")
    if mode == "LAB":
        # convert() has no way from LAB; the colour management does, with its own white point.
        from PIL import ImageCms

        converted = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        if converted is None:
            raise UnreadableItem("can't be converted from LAB")
        return converted
    return image.convert("RGB")  # P, CMYK, YCbCr, HSV, RGBX


def _from_numbers(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "I" and values.size and values.min() >= 0 and values.max() <= 65535:
        values = values.astype(np.uint16)  # Pillow's name for 16-bit grey in PPM and older TIFF
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UnreadableItem("holds NaN")
    try:
        return Image.fromarray(scale(values, factor_for(values)))
    except ValueError as error:
        raise UnreadableItem(str(error)) from None


def to_pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """An image of mode L or RGB as a writable uint8 array (h, w, 1) or (h, w, 3)."""
    pixels = np.array(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def to_picture(image: Image.Image) -> npt.NDArray[np.uint8]:
    """A Pillow image, upright after its EXIF orientation, as uint8 (h, w, c)."""
    orientation = _orientation(image)
    upright = to_grey_or_rgb(image)
    return to_pixels(upright.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else upright)


def reduce_picture(picture: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """A picture (h, w, c) whose longer side is at most ``side``, antialiased; itself where it is already."""
    if max(picture.shape[:2]) <= side:
        return picture
    return to_pixels(_reduce(Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture), side))


def thumbnail(image: Image.Image, lossless: bool) -> bytes:
    """The store's thumbnail of a picture: PNG where ``lossless``, else WebP of at most 128 px a side."""
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG", compress_level=4)
    else:
        # method 2 of 0..6: a third of the default's time for 3 % more bytes
        _reduce(image, THUMB_SIDE).convert("RGB").save(buffer, "WEBP", quality=80, method=2)
    return buffer.getvalue()
