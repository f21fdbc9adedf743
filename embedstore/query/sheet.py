"""Contact sheets: a query and what was found, as one picture."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from embedstore.durable import writing_output
from embedstore.errors import InvalidArgument
from embedstore.types import Picture

MOST = 5_000  # pictures on one sheet
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

#: Side of a picture's place, in pixels: 28-pixel pictures fit four times, 32-pixel ones too, 64-pixel ones twice.
TILE = 128

WIDEST = 1600  # px of a sheet that grows in both directions

_INK, _FAINT, _PAPER = (31, 35, 40), (110, 118, 129), (255, 255, 255)
_GROUND, _RULE, _ACCENT = (243, 244, 246), (222, 225, 230), (37, 99, 235)
_Colour = tuple[int, int, int]
_MARGIN, _GAP, _RADIUS = 24, 14, 6
TEXT = 13  # px of a caption's first line
_TITLE, _SMALL = 20, 12
_LINE = 17  # from one line of a caption to the next
_ASIDE = 22  # extra room that sets a query apart
_APART = 44  # from one query with its hits to the next one beside it

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

#: Pillow's own font knows little beyond ASCII. A text that it can't write is written in one of these, where installed.
_WIDER_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf", "NotoSansCJK-Regular.ttc")


@dataclass(frozen=True, slots=True)
class Row:
    """A query and its hits, best first.

    Attributes:
        pictures: of the hits; None where a hit has none.
        captions: of the hits; lines are separated by ``\\n``, and each is shortened to the width of a tile.
        query: picture of the query, or None where it has none.
        query_caption: of the query.
        title: above the row, in `strips`.
        first: number of the first picture, in `strips`.
    """

    pictures: Sequence[Picture | None]
    captions: Sequence[str]
    query: Picture | None = None
    query_caption: str | None = None
    title: str | None = None
    first: int = 1


def sheet(
    pictures: Sequence[Picture | None],
    captions: Sequence[str],
    *,
    query: Picture | None = None,
    query_caption: str | None = None,
    columns: int | None = None,
    title: str | None = None,
    tile: int = TILE,
) -> Image.Image:
    """One query and its hits in reading order, with rank and caption.

    Args:
        pictures: uint8 (h, w, 1) or (h, w, 3), or None where a hit has none.
        captions: one each, of one or more lines.
        query: picture of the query; it stands first, framed.
        query_caption: None (with ``query`` None) for a sheet without a query.
        columns: of hits; by default as many as make the sheet about 3:2.
        title: one line above.
        tile: side of a picture's place in pixels.
    """
    _check(pictures, captions, columns, tile)
    if columns is None:
        columns = next((width for width in (5, 6, 8, 10, 12) if width * width * 2 >= len(pictures) * 3), 14)
        columns = max(min(columns, len(pictures)), 1)
    has_query = query is not None or query_caption is not None
    starts = range(0, max(len(pictures), 1), columns)
    lines = _lines([*captions, query_caption or ""])
    offset = tile + _GAP + _ASIDE if has_query else 0
    canvas, draw, top = _canvas(columns, len(starts), offset, lines, title, tile)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(index, columns)
        at = (_MARGIN + offset + column * (tile + _GAP), top + row * _pitch(tile, lines))
        _place(canvas, draw, at, picture, caption, tile, str(index + 1))
    if has_query:
        _place(canvas, draw, (_MARGIN, top), query, query_caption or "", tile, None)
        x = _MARGIN + tile + (_GAP + _ASIDE) // 2
        draw.line([(x, top - 4), (x, canvas.height - _MARGIN)], fill=_RULE, width=1)
    return canvas


def rows(queries: Sequence[Row], *, title: str | None = None, tile: int = TILE) -> Image.Image:
    """Several queries, each in a row of its own, its hits to the right."""
    for row in queries:
        _check(row.pictures, row.captions, None, tile)
    columns = max((len(row.pictures) for row in queries), default=1)
    lines = _lines([text for row in queries for text in (*row.captions, row.query_caption or "")])
    offset = tile + _GAP + _ASIDE
    canvas, draw, top = _canvas(max(columns, 1), max(len(queries), 1), offset, lines, title, tile)
    x = _MARGIN + tile + (_GAP + _ASIDE) // 2
    draw.line([(x, top - 4), (x, canvas.height - _MARGIN)], fill=_RULE, width=1)
    for row in queries:
        _row(canvas, draw, (_MARGIN, top), row, tile)
        top += _pitch(tile, lines)
    return canvas


def blocks(queries: Sequence[Row], *, tile: int = TILE, widest: int = WIDEST) -> Image.Image:
    """Several queries, each with its hits to the right, and beside and below each other like words in a text.

    The sheet is about as wide as high, unless that were wider than ``widest`` or narrower than the longest of them.
    """
    for row in queries:
        _check(row.pictures, row.captions, None, tile)
    lines = _lines([text for row in queries for text in (*row.captions, row.query_caption or "")])
    pitch = _pitch(tile, lines) + _GAP
    places, (width, height) = _flowed([_row_width(row, tile) for row in queries], pitch, widest)
    canvas, draw = _paper(width, height - 2 * _GAP)
    for row, (x, y) in zip(queries, places, strict=True):
        _row(canvas, draw, (x, y), row, tile)
        if row.pictures:
            middle = x + tile + (_GAP + _ASIDE) // 2
            draw.line([(middle, y - 4), (middle, y + _pitch(tile, lines) - _GAP)], fill=_RULE, width=1)
    return canvas


def strips(queries: Sequence[Row], *, tile: int = TILE) -> Image.Image:
    """Several rows of pictures under titles of their own, without queries."""
    columns = max((len(row.pictures) for row in queries), default=1)
    lines = _lines([text for row in queries for text in row.captions])
    pitch = _pitch(tile, lines) + _TITLE + 8
    canvas, draw, top = _canvas(max(columns, 1), max(len(queries), 1), 0, lines, None, tile, pitch)
    for row in queries:
        write(draw, (_MARGIN, top), row.title or "", _TITLE - 4, _INK, canvas.width - 2 * _MARGIN)
        for place, (picture, caption) in enumerate(zip(row.pictures, row.captions, strict=True)):
            at = (_MARGIN + place * (tile + _GAP), top + _TITLE + 8)
            _place(canvas, draw, at, picture, caption, tile, str(row.first + place))
        top += pitch
    return canvas


def save(image: Image.Image, path: str | Path) -> None:
    """Write a picture as PNG, JPEG or WebP, as the suffix says.

    Raises:
        InvalidArgument: another suffix, or a path that can't be written.
        DiskFull: no room.
    """
    path = Path(path)
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InvalidArgument(f"{path} must end in one of {', '.join(SUFFIXES)}: no other kind of picture is written")
    options = {"optimize": True} if kind == "PNG" else {"quality": 92}
    try:
        with writing_output(path):
            image.save(path, kind, **options)
    except InvalidArgument:
        raise
    except ValueError as error:  # Pillow's word for a picture larger than WebP takes
        raise InvalidArgument(f"{path} can't hold {image.width:,} x {image.height:,} pixels: use .png") from error


def fit(picture: Picture, tile: int = TILE) -> Image.Image:
    """A picture as large as its place allows, its shape kept.

    Small pictures are enlarged by a whole number, each pixel a square, so that nothing is invented between them;
    larger ones are reduced with antialiasing.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3) or 0 in picture.shape:
        raise InvalidArgument(f"a picture is uint8 (h, w, 1) or (h, w, 3), not {picture.dtype} {picture.shape}")
    image = Image.fromarray(np.ascontiguousarray(picture[:, :, 0] if picture.shape[2] == 1 else picture))
    longest = max(image.size)
    if longest <= tile:
        factor = tile // longest
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = (max(1, round(image.width * tile / longest)), max(1, round(image.height * tile / longest)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _check(pictures: Sequence[Picture | None], captions: Sequence[str], columns: int | None, tile: int) -> None:
    if len(pictures) != len(captions):
        raise InvalidArgument(f"{len(pictures)} pictures have {len(captions)} captions: give one each")
    if columns is not None and columns < 1:
        raise InvalidArgument(f"a sheet has at least one column, not {columns}")
    if not 16 <= tile <= 2048:
        raise InvalidArgument(f"a tile has 16 to 2048 pixels, not {tile}")


@functools.cache
def _font(size: int, name: str | None = None) -> _Font | None:
    """The font built into Pillow, or one of the system, None if it isn't there."""
    if name is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@functools.lru_cache(maxsize=10_000)
def _has(name: str | None, character: str) -> bool:
    """Whether a font draws this character otherwise than one that exists nowhere (U+FFFF)."""
    font = _font(TEXT, name)
    return font is not None and bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


def _writable(text: str, size: int) -> tuple[str, _Font]:
    """A text and a font that can write it; the last resort is its nearest ASCII, with ? for the rest."""
    for name in (None, *_WIDER_FONTS):
        font = _font(size, name)
        if font is not None and all(character == " " or _has(name, character) for character in text):
            return text, font
    letters = (one for one in unicodedata.normalize("NFKD", text.replace("ß", "ss")) if not unicodedata.combining(one))
    return "".join(one if one.isascii() else "?" for one in letters), ImageFont.load_default(size)


def _lines(captions: Sequence[str]) -> int:
    return max((len(caption.split("\n")) if caption else 0 for caption in captions), default=0)


def _pitch(tile: int, lines: int) -> int:
    return tile + 6 + lines * _LINE + _GAP


def _row_width(row: Row, tile: int) -> int:
    return tile + (_ASIDE if row.pictures else 0) + len(row.pictures) * (tile + _GAP)


def _flowed(widths: Sequence[int], pitch: int, widest: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Where blocks of these widths stand, and the size of their sheet: the narrowest that isn't higher than wide."""
    least = 2 * _MARGIN + max(widths, default=0)
    for limit in (*range(least, widest, 16), max(least, widest)):
        places, right = [], least
        x, y = _MARGIN, _MARGIN
        for width in widths:
            if x + width + _MARGIN > limit:
                x, y = _MARGIN, y + pitch
            places.append((x, y))
            right = max(right, x + width + _MARGIN)
            x += width + _APART
        size = right, y + pitch + _MARGIN
        if size[1] <= size[0]:
            break
    return places, size


def _canvas(
    columns: int, count: int, offset: int, lines: int, title: str | None, tile: int, pitch: int | None = None
) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """White paper with the title on it, and where the first row begins."""
    top = _MARGIN + (_TITLE + 20 if title else 0)
    width = 2 * _MARGIN + offset + columns * (tile + _GAP) - _GAP
    height = top + count * (pitch or _pitch(tile, lines)) - _GAP + _MARGIN
    canvas, draw = _paper(width, height)
    if title:
        write(draw, (_MARGIN, _MARGIN - 4), title, _TITLE, _INK, width - 2 * _MARGIN)
    return canvas, draw, top


def _paper(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    if width * height > 200_000_000:
        raise InvalidArgument(
            f"a sheet of {width:,} x {height:,} pixels is too large: show fewer hits or smaller tiles"
        )
    canvas = Image.new("RGB", (width, height), _PAPER)
    return canvas, ImageDraw.Draw(canvas)


def _row(canvas: Image.Image, draw: ImageDraw.ImageDraw, at: tuple[int, int], row: Row, tile: int) -> None:
    """A query, and its hits to the right."""
    x, y = at
    _place(canvas, draw, at, row.query, row.query_caption or "", tile, None)
    x += tile + _GAP + _ASIDE
    for rank, (picture, caption) in enumerate(zip(row.pictures, row.captions, strict=True), start=1):
        _place(canvas, draw, (x, y), picture, caption, tile, str(rank))
        x += tile + _GAP


def _place(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    picture: Picture | None,
    caption: str,
    tile: int,
    rank: str | None,
) -> None:
    x, y = at
    if rank is None:  # the query; its frame goes first, so that its round corners cover nothing of the picture
        draw.rounded_rectangle([x - 5, y - 5, x + tile + 4, y + tile + 4], _RADIUS + 4, outline=_ACCENT, width=3)
    draw.rounded_rectangle([x, y, x + tile - 1, y + tile - 1], _RADIUS, fill=_GROUND)
    if picture is None:
        font = ImageFont.load_default(_SMALL if tile >= 80 else 9)
        draw.text((x + tile / 2, y + tile / 2), "no picture" if tile >= 64 else "–", _FAINT, font, anchor="mm")
    else:
        image = fit(picture, tile).convert("RGB")
        corner = (x + (tile - image.width) // 2, y + (tile - image.height) // 2)
        canvas.paste(image, corner)
    y += tile + 6
    for number, line in enumerate(caption.split("\n")):
        left, size = 0.0, TEXT if number == 0 else _SMALL
        if rank is not None and number == 0:
            write(draw, (x, y), rank, TEXT, _ACCENT, tile)
            left = ImageFont.load_default(TEXT).getlength(rank) + 6
        write(draw, (x + left, y), line, size, _INK if number == 0 else _FAINT, tile - left)
        y += _LINE


def write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, fill: _Colour, width: float
) -> None:
    """One line, shortened to what fits; every font stands on the same baseline."""
    text, font = _writable(" ".join(text.split())[:500], size)
    if font.getlength(text) > width:
        low, high = 0, len(text)
        while low < high:
            kept = (low + high + 1) // 2
            low, high = (kept, high) if font.getlength(_elided(text, kept)) <= width else (low, kept - 1)
        text = _elided(text, low)
    draw.text((at[0], at[1] + size), text, fill=fill, font=font, anchor="ls")


def width_of(text: str, size: int) -> float:
    """How wide a line is, in px."""
    text, font = _writable(text, size)
    return float(font.getlength(text))


def centred(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, fill: _Colour) -> None:
    """One line around a point."""
    text, font = _writable(text, size)
    draw.text(at, text, fill=fill, font=font, anchor="mm")


def _elided(text: str, kept: int) -> str:
    """Shortened in the middle: ids and paths differ at their ends."""
    tail = kept // 2
    return text[: kept - tail].rstrip() + "…" + text[len(text) - tail :].lstrip()
