from __future__ import annotations

import pytest
from PIL import Image

from embedstore.readers import formats

from .pictures import encoded, image_of, noise


def test_every_picture_suffix_belongs_to_a_format_that_is_read() -> None:
    Image.init()
    extensions = Image.registered_extensions()
    known = {suffix: extensions.get(suffix) for suffix in formats.PICTURE_SUFFIXES}
    read = {*formats.FORMATS, *formats.BY_NAME_ONLY.values(), "MPO"}
    assert {suffix for suffix, name in known.items() if name not in read} == set()


def test_every_format_that_is_read_is_one_of_pillows() -> None:
    Image.init()
    assert set(formats.FORMATS) | set(formats.BY_NAME_ONLY.values()) <= set(Image.OPEN)


def test_formats_that_run_other_programs_are_not_read() -> None:
    assert {"EPS", "WMF", "FITS", "HDF5", "PDF", "PS", "PSD", "SPIDER"}.isdisjoint(formats.FORMATS)


def test_no_suffix_is_of_two_minds() -> None:
    groups = [formats.PICTURE_SUFFIXES, formats.OTHER_PICTURE_SUFFIXES, formats.OTHER_SUFFIXES]
    assert sum(map(len, groups)) == len(frozenset().union(*groups))


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "QOI"])
def test_a_format_with_a_signature_is_known_by_it(name: str) -> None:
    assert formats.looks_like_picture(encoded(image_of(noise(16, 16)), name)[: formats.MAGIC_LENGTH])


@pytest.mark.parametrize(
    "head", [b"", b"RIFF\0\0\0\0WAVEfmt ", b"\0\0\0\x18ftypmp42\0\0\0\0", b"hello world, hello", b"II"]
)
def test_other_files_are_not(head: bytes) -> None:
    assert not formats.looks_like_picture(head)


def test_tga_is_tried_only_where_the_name_claims_it() -> None:
    assert "TGA" in formats.formats_for(".tga")
    assert "TGA" not in formats.formats_for(".png")
