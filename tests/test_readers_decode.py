"""The table of docs/sources.md, row by row, on values."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from embedstore.errors import UnreadableItem
from embedstore.readers.decode import decode, reduce_picture, to_picture

from .pictures import encoded, image_of, noise

RGB = noise(6, 5, 3, seed=1)
GREY = noise(6, 5, 1, seed=2)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "QOI", "SGI", "PCX", "TGA", "WEBP", "JPEG2000"])
def test_lossless_formats_give_back_their_pixels(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(image_of(RGB), format, **options), f".{format.lower()}").pixels, RGB)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "BMP"])
def test_grey_stays_one_channel(format: str) -> None:
    np.testing.assert_array_equal(decode(encoded(image_of(GREY), format)).pixels, GREY)


def test_lossy_formats_come_near() -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 32, dtype=np.uint8)[:, None, None], (32, 32, 3))
    for format in ("JPEG", "WEBP", "AVIF"):
        pixels = decode(encoded(Image.fromarray(smooth), format, quality=90)).pixels
        assert np.abs(pixels.astype(int) - smooth).mean() < 4, format


def test_one_bit_becomes_black_and_white() -> None:
    bits = GREY[..., 0] > 128
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(bits))).pixels[..., 0], bits * 255)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 255, 257, 32768, 65535]], dtype=np.uint16)
    for format in ("PNG", "TIFF", "PPM"):
        assert decode(encoded(Image.fromarray(values), format)).pixels[0, :, 0].tolist() == [0, 1, 1, 128, 255], format


def test_floats_are_scaled_by_their_range() -> None:
    unit = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert decode(encoded(Image.fromarray(unit), "TIFF")).pixels.ravel().tolist() == [0, 128, 255]
    assert decode(encoded(Image.fromarray(unit * 255), "TIFF")).pixels.ravel().tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[-1.0, 2.0]], dtype=np.float32), "floats from -1 to 2"),
        (np.array([[0.0, np.nan]], dtype=np.float32), "holds NaN"),
        (np.array([[0, 70000]], dtype=np.int32), "integers from 0 to 70000"),
    ],
)
def test_numbers_without_an_agreed_white_are_refused(values: np.ndarray, said: str) -> None:
    with pytest.raises(UnreadableItem, match=said):
        decode(encoded(Image.fromarray(values), "TIFF"))


def test_a_palette_becomes_rgb() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    for format in ("PNG", "GIF"):
        assert decode(encoded(image, format)).pixels.tolist() == [[[10, 20, 30], [200, 100, 50]]], format


def test_transparency_is_laid_over_white() -> None:
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    pixels = decode(encoded(Image.fromarray(rgba))).pixels
    assert pixels.tolist() == [[[255, 0, 0], [255, 255, 255], [127, 127, 127]]]


def test_grey_transparency_is_laid_over_white_and_stays_grey() -> None:
    la = np.array([[[0, 255], [0, 0], [100, 128]]], dtype=np.uint8)
    bands = [Image.fromarray(np.ascontiguousarray(la[..., band])) for band in (0, 1)]
    pixels = decode(encoded(Image.merge("LA", bands))).pixels
    assert pixels[0, :, 0].tolist() == [0, 255, 177]
    assert pixels.shape == (1, 3, 1)


def test_a_transparent_colour_is_laid_over_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert decode(encoded(palette, transparency=0)).pixels.tolist() == [[[255, 255, 255], [200, 100, 50]]]
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    assert decode(encoded(rgb, transparency=(1, 2, 3))).pixels.tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_cmyk_becomes_rgb() -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for format in ("TIFF", "JPEG"):
        pixels = decode(encoded(cmyk, format)).pixels
        assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 3, format


def test_ycbcr_becomes_rgb() -> None:
    image = Image.new("RGB", (8, 8), (200, 30, 90)).convert("YCbCr")
    assert np.abs(to_picture(image).astype(int) - [200, 30, 90]).max() <= 2


def test_lab_becomes_rgb() -> None:
    rgb = Image.new("RGB", (4, 4), (200, 30, 90))
    lab = ImageCms.profileToProfile(
        rgb, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    assert np.abs(decode(encoded(lab, "TIFF")).pixels.astype(int) - [200, 30, 90]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    # What the camera stored, so that turning it upright gives RGB: the inverse of each of EXIF's eight.
    stored = {
        1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB), 7: RGB[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(RGB, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif))
    np.testing.assert_array_equal(decoded.pixels, RGB)
    assert decoded.size == (5, 6)


def test_a_damaged_exif_block_does_not_cost_the_picture() -> None:
    damaged = encoded(image_of(RGB), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(damaged).pixels, RGB)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert decode(data).pixels[0, 0].tolist() == [255, 0, 0]


def test_the_name_does_not_matter() -> None:
    np.testing.assert_array_equal(decode(encoded(image_of(RGB)), ".jpg").pixels, RGB)


def test_tga_is_only_believed_by_name() -> None:
    with pytest.raises(UnreadableItem, match="no picture"):
        decode(encoded(image_of(RGB), "TGA"), ".png")


def test_formats_off_the_list_are_refused() -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    for data in (eps, encoded(image_of(RGB), "PDF"), encoded(image_of(RGB), "DDS"), b"hello world, no picture"):
        with pytest.raises(UnreadableItem, match="is no picture in a format read here"):
            decode(data, ".png")


def test_empty_and_truncated_files_are_refused() -> None:
    with pytest.raises(UnreadableItem, match="the file is empty"):
        decode(b"")
    for format in ("PNG", "JPEG", "TIFF", "BMP"):
        data = encoded(image_of(noise(64, 64)), format)
        with pytest.raises(UnreadableItem):
            decode(data[: len(data) // 2])


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    def piece(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = piece(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    with pytest.raises(UnreadableItem, match="more than 178,956,970 pixels"):
        decode(b"\x89PNG\r\n\x1a\n" + header + piece(b"IDAT", b"") + piece(b"IEND", b""))


def test_the_limit_on_pixels_is_exact() -> None:
    np.testing.assert_array_equal(decode(encoded(image_of(RGB)), max_pixels=30).pixels, RGB)
    for limit in (29, 16, 10):  # below and above the mark at half the limit, where Pillow itself only warns
        with pytest.raises(UnreadableItem, match=f"more than {limit} pixels"):
            decode(encoded(image_of(RGB)), max_pixels=limit)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_large_originals_are_reduced_by_averaging_and_report_their_size(format: str) -> None:
    stripes = np.zeros((400, 200, 3), dtype=np.uint8)
    stripes[::2] = 255  # a reduction that skips rows would give black or white
    decoded = decode(encoded(Image.fromarray(stripes), format), max_side=50)
    assert decoded.pixels.shape == (50, 25, 3)
    assert decoded.size == (200, 400)
    assert np.abs(decoded.pixels.astype(int) - 127.5).max() < 25


def test_small_originals_are_not_enlarged() -> None:
    np.testing.assert_array_equal(decode(encoded(image_of(RGB)), max_side=50).pixels, RGB)
    assert reduce_picture(RGB, 50) is RGB
    assert reduce_picture(noise(80, 40, 1), 20).shape == (20, 10, 1)


def test_thumbnails_of_small_pictures_are_lossless_and_of_large_ones_small() -> None:
    small = decode(encoded(image_of(noise(64, 20)))).thumb
    with Image.open(io.BytesIO(small)) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), noise(64, 20))
    for side in (None, 32):
        with Image.open(io.BytesIO(decode(encoded(image_of(noise(300, 150))), max_side=side).thumb)) as image:
            assert (image.format, image.size) == ("WEBP", (64, 128))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_raises_anything_but_the_one_error(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "QOI"]))
    content = bytearray(encoded(image_of(noise(24, 24)), format))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnreadableItem):
        pixels = decode(bytes(content), max_pixels=1 << 16).pixels
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] in (1, 3)
