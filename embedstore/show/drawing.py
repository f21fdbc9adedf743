"""Maps as pictures: points, their density, thumbnails, names and a legend; and the inverse, decoded everywhere.

Drawn with NumPy and Pillow alone. Points are added up per pixel and colour, so that a hundred thousand of them mix as
light does instead of the last one covering the others, and are drawn at twice the size and reduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from embedstore.query import sheet
from embedstore.show.colours import Colouring, ramp
from embedstore.types import Picture

SIDE = 1_600  # px of the map's longer side
_MARGIN, _LEGEND, _TITLE = 56, 300, 64
_FIELD, _ENTRY = 34, 26  # px down a legend: its field, and each value
_SCALE = 120, 320  # px that a scale is long, at least and at most
_PAPER, _INK, _FAINT, _RULE = (255, 255, 255), (31, 35, 40), (110, 118, 129), (222, 225, 230)
_BETWEEN = 4  # px between the pictures of a grid: black ones would run into each other
_EMPTY = 0.2  # fullness of a place below which nothing is shown
_FONTS = (22, 17, 14)  # px: title, names and legend, ticks
_Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """Which part of the plane is drawn where.

    Attributes:
        low: least x and y.
        scale: px per unit.
        size: width and height of the plane in px.
        at: its corner on the picture.
    """

    low: tuple[float, float]
    scale: float
    size: tuple[int, int]
    at: tuple[int, int]

    def pixels(self, places: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Pixels (n, 2) of places (n, 2): y grows upwards on the map, and downwards on the picture."""
        x = (places[:, 0] - self.low[0]) * self.scale + self.at[0]
        y = self.size[1] - (places[:, 1] - self.low[1]) * self.scale + self.at[1]
        return np.stack([x, y], axis=1)


def frame(places: npt.NDArray[np.floating], side: int = SIDE, *, top: int = _TITLE) -> Frame:
    """The frame around all places, its longer side so many px."""
    low, high = places.min(axis=0), places.max(axis=0)
    middle, span = (low + high) / 2, np.maximum(high - low, 1e-6) * 1.04
    span = np.maximum(span, span.max() * 0.3)  # items on a line still get a picture
    scale = side / float(span.max())
    size = 2 * round(float(span[0]) * scale / 2), 2 * round(float(span[1]) * scale / 2)  # the ground is drawn coarser
    corner = middle - span / 2
    return Frame((float(corner[0]), float(corner[1])), scale, size, (_MARGIN, top))


def draw(
    places: npt.NDArray[np.floating],
    colouring: Colouring,
    *,
    title: str,
    names: Sequence[tuple[str, npt.NDArray[np.floating]]] = (),
    thumbnails: Sequence[tuple[npt.NDArray[np.floating], Picture]] = (),
    side: int = SIDE,
    tile: int = 56,
) -> Image.Image:
    """A map with its legend.

    Args:
        places: of the items (n, 2), finite.
        colouring: of the same items.
        title: above.
        names: texts and the places (2,) that they are written at, the most important first.
        thumbnails: places (2,) and pictures, the most important first; those that would overlap are left out.
        side: longer side of the plane in px.
        tile: largest side of a thumbnail in px.
    """
    shown = frame(places, side)
    height = max(shown.size[1], _legend_height(colouring))  # a wide map may be lower than its legend
    canvas = Image.new("RGB", (shown.size[0] + 2 * _MARGIN + _LEGEND, height + _TITLE + _MARGIN), _PAPER)
    canvas.paste(_points(places, colouring.rgb, shown), shown.at)
    draw = ImageDraw.Draw(canvas)
    _axes(draw, shown)
    written = _names(names, shown)
    _thumbnails(canvas, thumbnails, shown, [box for _, box in written], tile)
    for text, box in written:
        _halo(draw, box, text)
    sheet.write(draw, (_MARGIN, 16), title, _FONTS[0], _INK, canvas.width - 2 * _MARGIN)
    _legend(draw, colouring, (shown.at[0] + shown.size[0] + 32, shown.at[1]), shown.size[1])
    return canvas


def _points(places: npt.NDArray[np.floating], rgb: npt.NDArray[np.uint8], shown: Frame) -> Image.Image:
    """The items as dots, over a soft ground of the colour that is usual there: it shows the density between them."""
    width, height = (2 * length for length in shown.size)
    xy = (shown.pixels(places) - np.array(shown.at)) * 2
    column, row = (np.clip(xy[:, i].astype(np.int64), 0, limit - 1) for i, limit in enumerate((width, height)))
    layers = [np.ones(len(places)), *((rgb[:, i] / 255.0) ** 2.2 for i in range(3))]  # light adds up, numbers don't
    sums = [np.bincount(row * width + column, layer, minlength=width * height) for layer in layers]
    planes = np.stack([one.reshape(height, width) for one in sums]).astype(np.float32)
    # A dot is about as wide as leaves some paper between the points of a map that isn't crowded.
    dot = float(np.clip(0.2 * np.sqrt(width * height / len(places)), 1.5, 6.0))
    coarse = planes.reshape(4, height // 4, 4, width // 4, 4).sum(axis=(2, 4))
    paper = np.ones((height, width, 3), dtype=np.float32)
    for counted, spread, most, factor in ((coarse, 3 * dot / 4 + 2, 0.3, 4), (planes, dot, 1.0, 1)):
        light, cover = _blurred(counted, spread, most, sharp=factor == 1)
        if factor > 1:
            light, cover = (one.repeat(factor, axis=0).repeat(factor, axis=1) for one in (light, cover))
        paper = light * cover[:, :, None] + paper * (1 - cover[:, :, None])
    image = Image.fromarray((np.clip(paper, 0, 1) ** (1 / 2.2) * 255).round().astype(np.uint8))
    return image.resize(shown.size, Image.Resampling.LANCZOS)


def _blurred(
    planes: npt.NDArray[np.float32], spread: float, most: float, *, sharp: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean light (h, w, 3), and how much of the ground it covers (h, w), of counts and summed light (4, h, w)."""
    from scipy.ndimage import gaussian_filter

    weight, *light = (gaussian_filter(plane, spread, truncate=3) for plane in planes)
    colour = np.stack(light, axis=-1) / np.maximum(weight, 1e-12)[:, :, None]
    single = 1 / (2 * np.pi * spread**2)  # the height of one point alone
    crowd = np.log1p(weight / single)
    edge = (2 * weight / single) ** 3 if sharp else 1.5 * weight / single  # a dot ends, a ground fades
    alone = 0.85 if sharp else 0.65  # how much a single point covers; a crowd covers all
    cover = (1 - np.exp(-edge)) * (alone + (1 - alone) * crowd / max(float(crowd.max()), 1e-12))
    return colour, (most * cover).astype(np.float32)


def _axes(draw: ImageDraw.ImageDraw, shown: Frame) -> None:
    """A frame with ticks: a place that one sees can be given to unmap."""
    (x, y), (width, height) = shown.at, shown.size
    draw.rectangle([x - 1, y - 1, x + width, y + height], outline=_RULE)
    step = _step(max(shown.size) / shown.scale / 8)
    for axis in (0, 1):
        first, last = shown.low[axis], shown.low[axis] + shown.size[axis] / shown.scale
        for value in np.arange(np.ceil(first / step) * step, last, step):
            at = shown.pixels(np.array([[value, shown.low[1]] if axis == 0 else [shown.low[0], value]]))[0]
            text = f"{value:.6g}" if abs(value) > step / 2 else "0"
            if axis == 0:
                draw.line([at[0], y + height, at[0], y + height + 6], fill=_FAINT)
                sheet.centred(draw, (at[0], y + height + 18), text, _FONTS[2], _FAINT)
            else:
                draw.line([x - 7, at[1], x - 1, at[1]], fill=_FAINT)
                sheet.centred(draw, (x - 28, at[1]), text, _FONTS[2], _FAINT)


def _step(rough: float) -> float:
    """The nearest of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(max(rough, 1e-9)))
    return float(min((1, 2, 5, 10), key=lambda one: abs(one * power - rough)) * power)


def _names(names: Sequence[tuple[str, npt.NDArray[np.floating]]], shown: Frame) -> list[tuple[str, _Box]]:
    """Names and the room that each takes, at its place or, where another one is there, just above or below it.

    One that would still cover another is left out: the legend has it.
    """
    found: list[tuple[str, _Box]] = []
    for text, at in names:
        x, y = shown.pixels(np.asarray(at)[None])[0].tolist()
        half = sheet.width_of(text, _FONTS[1]) / 2 + 7
        for shift in (0, -32, 32, -64, 64):
            box = (x - half, y + shift - 14, x + half, y + shift + 14)
            if not any(_overlap(box, other) for _, other in found):
                found.append((text, box))
                break
    return found


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _halo(draw: ImageDraw.ImageDraw, box: _Box, text: str) -> None:
    draw.rounded_rectangle(box, 7, fill=_PAPER, outline=_RULE)
    sheet.centred(draw, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), text, _FONTS[1], _INK)


def _thumbnails(
    canvas: Image.Image,
    thumbnails: Sequence[tuple[npt.NDArray[np.floating], Picture]],
    shown: Frame,
    taken: list[_Box],
    tile: int,
) -> None:
    """Each picture at its place, if nothing is there yet."""
    (left, top), (width, height) = shown.at, shown.size
    filled = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in taken:
        filled[max(0, int(y0 - top)) : max(0, int(y1 - top)), max(0, int(x0 - left)) : max(0, int(x1 - left))] = True
    gap = tile // 3  # points are to be seen between them
    for at, picture in thumbnails:
        image = sheet.fit(picture, tile).convert("RGB")
        x, y = shown.pixels(np.asarray(at)[None])[0] - np.array(shown.at)
        x0, y0 = int(x - image.width / 2), int(y - image.height / 2)
        x1, y1 = x0 + image.width, y0 + image.height
        if x0 < gap or y0 < gap or x1 > width - gap or y1 > height - gap:
            continue
        room = filled[y0 - gap : y1 + gap, x0 - gap : x1 + gap]
        if room.any():
            continue
        room[:] = True
        canvas.paste(image, (left + x0, top + y0))


def _legend_height(colouring: Colouring) -> int:
    if colouring.field is None:
        return 0
    return _FIELD + (_SCALE[0] + _ENTRY if colouring.is_scale else _ENTRY * len(colouring.values))


def _legend(draw: ImageDraw.ImageDraw, colouring: Colouring, at: tuple[int, int], height: int) -> None:
    x, y = at
    if colouring.field is None:
        return
    sheet.write(draw, (x, y), colouring.field, _FONTS[1], _INK, _LEGEND - 40)
    y += _FIELD
    if colouring.low is not None and colouring.high is not None:
        steps, long = ramp(), max(_SCALE[0], min(_SCALE[1], height - _FIELD - _ENTRY))
        for row in range(long):
            red, green, blue = steps[round((1 - row / (long - 1)) * (len(steps) - 1))].tolist()
            draw.line([x, y + row, x + 22, y + row], fill=(red, green, blue))
        sheet.write(draw, (x + 32, y - 4), f"{colouring.high:.6g}", _FONTS[2], _INK, 160)
        sheet.write(draw, (x + 32, y + long - 16), f"{colouring.low:.6g}", _FONTS[2], _INK, 160)
        if colouring.missing:
            sheet.write(draw, (x, y + long + 12), f"{colouring.missing:,} without", _FONTS[2], _FAINT, _LEGEND - 40)
        return
    for value, count, colour in zip(colouring.values, colouring.counts, colouring.colours.tolist(), strict=True):
        number = f"{count:,}"
        wide = sheet.width_of(number, _FONTS[2])
        draw.ellipse([x, y + 3, x + 14, y + 17], fill=tuple(colour))
        sheet.write(draw, (x + 24, y), value, _FONTS[1], _INK, _LEGEND - 76 - wide)
        sheet.write(draw, (x + _LEGEND - 36 - wide, y + 2), number, _FONTS[2], _FAINT, wide + 4)
        y += _ENTRY


def grid(
    places: npt.NDArray[np.floating], count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], tuple[int, int]]:
    """The centres of squares that cover a map.

    Args:
        places: of the items (n, 2).
        count: of squares along the longer side.

    Returns:
        Centres (rows * columns, 2), row by row from the top left; how full each is, from 0 (no data near) to 1; and
        (rows, columns).
    """
    from scipy.ndimage import gaussian_filter

    low, high = places.min(axis=0), places.max(axis=0)
    span = np.maximum(high - low, 1e-6)
    edge = float(span.max()) / count
    columns, rows = (max(1, int(np.ceil(length / edge - 1e-6))) for length in span.tolist())
    middle = (low + high) / 2
    x = middle[0] + (np.arange(columns) - (columns - 1) / 2) * edge
    y = middle[1] - (np.arange(rows) - (rows - 1) / 2) * edge
    centres = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    # Density on squares a quarter as long: an island's edge within a square counts as such.
    fine = 4
    start = np.array([x[0] - edge / 2, y[0] + edge / 2])
    column = np.clip(((places[:, 0] - start[0]) / edge * fine).astype(int), 0, columns * fine - 1)
    row = np.clip(((start[1] - places[:, 1]) / edge * fine).astype(int), 0, rows * fine - 1)
    counted = np.zeros((rows * fine, columns * fine))
    np.add.at(counted, (row, column), 1.0)
    smooth = gaussian_filter(counted, 1.5)
    inside = smooth.reshape(rows, fine, columns, fine).mean(axis=(1, 3))
    usual = np.median(smooth[row, column])  # where items are, it is this full
    return centres.astype(np.float32), np.clip(inside / usual, 0, 1).ravel() ** 0.5, (rows, columns)


def draw_grid(
    pictures: Sequence[Picture],
    fullness: npt.NDArray[np.float64],
    shape: tuple[int, int],
    centres: npt.NDArray[np.float32],
    *,
    title: str,
    tile: int = 56,
) -> Image.Image:
    """Decoded pictures at the places of a map, faded where there is less data, and left out where there is none."""
    rows, columns = shape
    across, down = float(centres[-1, 0] - centres[0, 0]), float(centres[0, 1] - centres[-1, 1])
    edge = across / (columns - 1) if columns > 1 else down / (rows - 1) if rows > 1 else 1.0
    low = float(centres[0, 0] - edge / 2), float(centres[-1, 1] - edge / 2)
    shown = Frame(low, tile / edge, (columns * tile, rows * tile), (_MARGIN, _TITLE))
    canvas = Image.new("RGB", (shown.size[0] + 2 * _MARGIN, shown.size[1] + _TITLE + _MARGIN), _PAPER)
    for number, (picture, full) in enumerate(zip(pictures, fullness, strict=True)):
        row, column = divmod(number, columns)
        if full < _EMPTY:
            continue
        side = tile - _BETWEEN
        image = sheet.fit(picture, side).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        faded = Image.blend(Image.new("RGB", image.size, _PAPER), image, float(full))
        corner = shown.at[0] + column * tile + _BETWEEN // 2, shown.at[1] + row * tile + _BETWEEN // 2
        canvas.paste(faded, corner)
    draw = ImageDraw.Draw(canvas)
    _axes(draw, shown)
    sheet.write(draw, (_MARGIN, 16), title, _FONTS[0], _INK, canvas.width - 2 * _MARGIN)
    return canvas
