"""A map as one page of HTML: to pan, zoom, colour and search, with a picture and the metadata of each item."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.errors import InvalidArgument
from embedstore.explore import maps, stored
from embedstore.metadata import items
from embedstore.show import colours, markup, since, sprites
from embedstore.show.colours import Colouring

THUMBNAILS = 20_000
STYLES, SCRIPTS = ("style.css",), ("points.js", "map.js")
_POINTS = 300_000  # more would make a page that no browser opens at once
_MOST_THUMBNAILS = 200_000
_COLOURINGS = 8
_FIELDS = 24
_FIELD_BYTES = 4_000_000  # of one key's different values
_SHOWN = 120  # letters of a value
_STEPS = 65_535
_HISTOGRAM = 48  # cells each way, among which the densest place of a value is found
_NAMED = 60  # values of a colouring whose names are written on the map


@dataclass(frozen=True, slots=True)
class Written:
    """A page that was written.

    Attributes:
        path: where.
        bytes: its size.
        items: points on it.
        pictures: thumbnails in it.
    """

    path: Path
    bytes: int
    items: int
    pictures: int


@dataclass(frozen=True, slots=True)
class Component:
    """A map as part of a page.

    Attributes:
        html: the elements, and their data; the page needs STYLES and SCRIPTS.
        items: points on it.
        pictures: thumbnails in it.
    """

    html: str
    items: int
    pictures: int


def map_page(
    space: LatentSpace,
    path: str | Path,
    *,
    name: str | None = None,
    colour: str | None = None,
    limit: int = THUMBNAILS,
    progress: bool = False,
) -> Written:
    """Write a map as one file that needs nothing else, with all items as points and some of their pictures.

    Args:
        space: whose items.
        path: a file, .html.
        name: of the map; None: the default one.
        colour: a metadata key, 'cluster', 'cluster.NAME', or '' for none; None: the clusters, or the first key with few
            values. The page can change to the others.
        limit: number of thumbnails, of items by chance where there are more.
        progress: bars on stderr.

    Raises:
        UnknownRun: there is no such map. InvalidArgument: a field that can't be coloured by, a limit that is none, or a
            path that can't be written.
    """
    path = markup.check(Path(path))
    run = maps.get(space, name)
    made = component(space, name=run.name, colour=colour, limit=limit, whole=True, progress=progress)
    title = space.searcher.directory.resolve().name
    count = len(space.positions(None))
    changed = "".join(f" {markup.text(note, 400)}." for note in since.notes(run, count))
    header = (
        f"<header><h1><bdi>{markup.text(title)}</bdi></h1><p>Map <bdi>{markup.text(run.name)}</bdi> of "
        f"{count:,} items. Items that are alike lie close together.{changed}</p></header>\n"
    )
    page = markup.document(f"{title}: map", header + made.html, styles=STYLES, scripts=SCRIPTS, kind="alone")
    return Written(path, markup.write(path, page), made.items, made.pictures)


def component(
    space: LatentSpace,
    *,
    name: str | None = None,
    colour: str | None = None,
    limit: int = THUMBNAILS,
    whole: bool = False,
    progress: bool = False,
) -> Component:
    """The same map as part of a page: ``whole`` where it is all of it."""
    limit = stored.whole_number(limit, "the number of thumbnails", 0, _MOST_THUMBNAILS)
    places = maps.places(space, name)
    first = colours.colouring(space, colours.chosen(space, colour))
    every = [first, *_others(space, first.field)]
    positions = space.positions(None)
    rows = np.flatnonzero(np.isfinite(places).all(axis=1))
    on_map = len(rows)
    if on_map > _POINTS:
        rows = rows[np.sort(np.random.default_rng(space.seed).choice(on_map, _POINTS, replace=False))]
    if not on_map:
        raise InvalidArgument("the map has none of the items: make it again with `embedstore map STORE --refit`")
    origin, step, xy = quantised(places[rows])
    fields, left_out = _fields(space, rows)
    drawn = sprites.sprites(space, positions[rows], limit, progress=progress)
    content: dict[str, Any] = {
        "xy": _packed(xy),
        "origin": origin,
        "step": step,
        "extent": xy.max(axis=0).tolist(),
        "ids": [markup.plain(one) for one in space.ids(positions[rows])],
        "fields": fields,
        "colourings": [_coloured(one, rows, xy) for one in every],
        "thumbs": None,
    }
    if drawn is not None:
        content["thumbs"] = {
            "cell": sprites.CELL,
            "columns": sprites.COLUMNS,
            "each": sprites.COLUMNS**2,
            "rows": _packed(drawn.rows),
            "sizes": _packed(drawn.sizes),
            "sheets": drawn.sheets,
        }
    notes = _notes(len(positions), on_map, len(rows), drawn, left_out)
    count = 0 if drawn is None else len(drawn.rows)
    return Component(_elements(content, notes, whole, count > 0), len(rows), count)


def quantised(places: npt.NDArray[np.float32]) -> tuple[list[float], float, npt.NDArray[np.uint16]]:
    """Origin, step, and whole numbers (n, 2) in one scale for both axes: place = origin + step * number."""
    low = places.min(axis=0).astype(np.float64)
    step = float((places.max(axis=0) - low).max()) / _STEPS or 1.0
    return low.tolist(), step, ((places - low) / step).round().clip(0, _STEPS).astype(np.uint16)


def _packed(numbers: npt.NDArray[Any]) -> dict[str, Any]:
    """Numbers from 0 as the smallest unsigned integers that hold them, little-endian."""
    most = int(numbers.max(initial=0))
    width = 1 if most < 2**8 else 2 if most < 2**16 else 4
    return {"bytes": width, "data": base64.b64encode(numbers.astype(f"<u{width}").tobytes()).decode()}


def _others(space: LatentSpace, field: str | None) -> list[Colouring]:
    """What else can be coloured by."""
    with space.database.read() as connection:
        keys = sorted(items.metadata_keys(connection))
    clusters = [colours.CLUSTER] if colours.usual(space) == colours.CLUSTER else []
    found: list[Colouring] = []
    for other in [*clusters, *map(colours.quoted, keys)]:
        if len(found) == _COLOURINGS - 1:
            break
        if other != field:
            try:
                found.append(colours.colouring(space, other))
            except InvalidArgument:  # too many values, or only lists and objects
                continue
    return found


def _coloured(colouring: Colouring, rows: npt.NDArray[np.int64], xy: npt.NDArray[np.uint16]) -> dict[str, Any]:
    codes = colouring.codes[rows]
    scale = None if colouring.low is None else [colouring.low, colouring.high]
    return {
        "title": "none" if colouring.field is None else markup.plain(colouring.field, 60),
        "codes": _packed(codes),
        "colours": [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colouring.colours.tolist()],
        "values": [markup.plain(value) for value in colouring.values],
        "counts": colouring.counts,
        "scale": scale,
        "missing": colouring.missing,
        "labels": [] if colouring.is_scale else _names(colouring, codes, xy),
    }


def _names(
    colouring: Colouring, codes: npt.NDArray[np.int32], xy: npt.NDArray[np.uint16]
) -> list[tuple[str, int, int, int]]:
    """(name, x, y, code) at the densest place of each value: the middle of a bent one would be in another."""
    found = []
    named = min(len(colouring.values) - colouring.extra, _NAMED)
    for code, value in enumerate(colouring.values[:named]):
        own = xy[codes == code].astype(np.int64)
        if not len(own):
            continue
        cells = own * _HISTOGRAM // (_STEPS + 1)
        counts = np.zeros((_HISTOGRAM + 2, _HISTOGRAM + 2))
        np.add.at(counts, (cells[:, 0] + 1, cells[:, 1] + 1), 1)
        around = sum(counts[i : i + _HISTOGRAM, j : j + _HISTOGRAM] for i in range(3) for j in range(3))
        densest = np.unravel_index(int(np.argmax(around)), (_HISTOGRAM, _HISTOGRAM))
        near = own[(np.abs(cells - densest) <= 1).all(axis=1)]
        middle = near.mean(axis=0) if len(near) else own.mean(axis=0)
        x, y = own[np.square(own - middle).sum(axis=1).argmin()].tolist()  # upon an item, also where they lie in a ring
        found.append((markup.plain(value, 40), x, y, code))
    return found


def _fields(space: LatentSpace, rows: npt.NDArray[np.int64]) -> tuple[list[dict[str, Any]], list[str]]:
    """Each metadata key's different values, and for each item the number of its own, 0 for none; keys left out."""
    wanted = space.view.rows[space.positions(None)][rows]
    place = {row: number for number, row in enumerate(wanted.tolist())}
    codes: dict[str, npt.NDArray[np.uint32]] = {}
    values: dict[str, dict[str, int]] = {}
    size: dict[str, int] = {}
    left_out: dict[str, None] = {}
    with space.database.read() as connection:
        for row, said in items.row_metadata(connection):
            number = place.get(row)
            if number is None:
                continue
            for key, value in json.loads(said).items():
                if key in left_out or value is None:
                    continue
                if key not in codes:
                    if len(codes) == _FIELDS:
                        left_out[key] = None
                        continue
                    codes[key], values[key], size[key] = np.zeros(len(rows), dtype=np.uint32), {}, 0
                shown = _shown(value)
                known = values[key].get(shown)
                if known is None:
                    known = values[key][shown] = len(values[key]) + 1
                    size[key] += len(shown) + 4
                codes[key][number] = known
                if size[key] > _FIELD_BYTES:
                    left_out[key] = None
                    del codes[key], values[key]
    found = [
        {"key": markup.plain(key, 60), "values": list(values[key]), "codes": _packed(codes[key])}
        for key in sorted(codes)
    ]
    return found, list(left_out)


def _shown(value: Any) -> str:
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return sys.intern(markup.plain(written, _SHOWN))


def _notes(items: int, on_map: int, points: int, drawn: sprites.Sprites | None, left_out: list[str]) -> list[str]:
    notes = []
    if on_map < items:
        notes.append(f"{items - on_map:,} items are not on this map.")
    if points < on_map:
        notes.append(f"{points:,} of {on_map:,} items, chosen by chance, are drawn.")
    if drawn is None:
        notes.append("Without pictures: the items have none, or none were asked for.")
    elif len(drawn.rows) < points:
        notes.append(f"All {points:,} items are drawn; {len(drawn.rows):,} of them, chosen by chance, show a picture.")
    if left_out:
        names = ", ".join(markup.plain(key, 40) for key in left_out[:5])
        notes.append(f"Left out to keep the page small: {names}{', …' if len(left_out) > 5 else ''}.")
    notes.append(
        "Drag to move, wheel or two fingers to zoom, click to keep a card. Keys: arrows, + and −, 0 for all, Enter for "
        "the middle. The numbers under the pointer are those of: embedstore unmap STORE X Y"
    )
    return notes


def _elements(content: dict[str, Any], notes: list[str], whole: bool, pictures: bool) -> str:
    mode = (
        '<label>Pictures <select class="mode"><option value="zoomed">when zoomed in</option>'
        '<option value="always">always</option><option value="never">never</option></select></label>\n'
        if pictures
        else ""
    )
    said = "".join(f'<p class="note"><bdi>{markup.text(note, 600)}</bdi></p>' for note in notes)
    return (
        markup.data("map-data", content) + f'<main class="map{" whole" if whole else ""}" data-source="map-data">\n'
        '<div class="stage">\n<canvas class="plot" tabindex="0" role="application" '
        'aria-label="Map of the items: arrow keys move, plus and minus zoom, Enter shows the item in the middle">'
        "</canvas>\n"
        '<div class="zoom"><button type="button" class="in" aria-label="Zoom in">+</button>'
        '<button type="button" class="out" aria-label="Zoom out">−</button>'
        '<button type="button" class="home" aria-label="Show all">⤢</button></div>\n'
        '<div class="tip" hidden></div>\n<div class="pin" role="status" hidden></div>\n'
        '<output class="where"></output>\n</div>\n'
        '<div class="side">\n'
        '<div><label>Search ids and metadata <input type="search" class="search" autocomplete="off"></label>'
        '<p class="matches" role="status"></p><ul class="results"></ul></div>\n'
        '<label>Colour <select class="colour"></select></label>\n<ul class="legend"></ul>\n'
        f"{mode}<div>{said}</div>\n</div>\n</main>\n"
    )
