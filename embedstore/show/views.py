"""Pictures of what was found: the map, its inverse, and the clusters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedstore.compute.space import LatentSpace
from embedstore.errors import InvalidArgument
from embedstore.explore import maps, portraits, stored
from embedstore.explore.portraits import Portrait
from embedstore.metadata import runs
from embedstore.query import sheet
from embedstore.show import colours, drawing
from embedstore.truth.pictures import to_picture
from embedstore.types import Picture

_CANDIDATES = 3_000  # items that may be shown as thumbnails
MOST_SQUARES = 60  # along a side of a grid
_REACH = 0.03  # of the map's longer side: so near to a name's place, what it names must stand out
_OWN = 0.35  # share there, of what the others have everywhere, that a name's own items must take


def map_picture(
    space: LatentSpace, name: str | None, colour: str | None, *, thumbnails: bool, side: int
) -> Image.Image:
    """A map: points by colour over their density, names at their centres, thumbnails where there is room.

    Raises:
        UnknownRun: there is no such map, or clustering; InvalidArgument: what can't be coloured by.
    """
    side = stored.whole_number(side, "the map's side", 200, 8_000)
    made = maps.get(space, name)
    places = maps.places(space, made.name)
    colouring = colours.colouring(space, colour)
    there = np.flatnonzero(np.isfinite(places).all(axis=1))
    if not len(there):
        raise InvalidArgument(f"map {made.name!r} has none of the items: make it again with refit")
    names = _names(places, colouring)
    shown = _thumbnails(space, there, places) if thumbnails else []
    return drawing.draw(
        places[there],
        replace(colouring, codes=colouring.codes[there]),
        title=f"{len(there):,} items, map {made.name!r}",
        names=names,
        thumbnails=shown,
        side=side,
    )


def _names(places: npt.NDArray[np.float32], colouring: colours.Colouring) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """Each value at the densest of its items' places: the middle of two islands would be in the water.

    A value that has no place of its own, whose items lie among the others everywhere, gets no name.
    """
    there = np.isfinite(places).all(axis=1)
    places, codes = places[there], colouring.codes[there]
    reach = _REACH * float(np.ptp(places, axis=0).max()) if len(places) else 0.0
    found = []
    named = len(colouring.values) - colouring.extra
    for number, (value, count) in enumerate(zip(colouring.values[:named], colouring.counts, strict=False)):
        own = places[codes == number]
        if not len(own):
            continue
        at = _densest(own)
        around = ((places - at) ** 2).sum(axis=1) <= reach**2
        share = len(own) / len(places)
        if (codes[around] == number).mean() > share + _OWN * (1 - share) or share == 1:
            found.append((count, value, at))
    return [(value, at) for _, value, at in sorted(found, key=lambda one: -one[0])]


def _densest(places: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The place (2,) around which most of the others lie, among places (n, 2)."""
    from scipy.ndimage import gaussian_filter

    cells = 48
    low, span = places.min(axis=0), max(float(np.ptp(places, axis=0).max()), 1e-6)
    at = np.minimum(((places - low) / span * cells).astype(int), cells - 1)
    counted = np.zeros((cells, cells))
    np.add.at(counted, (at[:, 0], at[:, 1]), 1.0)
    smooth = gaussian_filter(counted, cells / 8, mode="constant")
    smooth[counted == 0] = 0  # not between islands
    x, y = np.unravel_index(smooth.argmax(), counted.shape)
    middle: npt.NDArray[np.float32] = (low + (np.array([x, y]) + 0.5) * span / cells).astype(np.float32)
    return middle


def _thumbnails(
    space: LatentSpace, there: npt.NDArray[np.int64], places: npt.NDArray[np.float32]
) -> list[tuple[npt.NDArray[np.float32], Picture]]:
    some = np.random.default_rng(space.seed).permutation(there)[:_CANDIDATES]
    rows = space.view.rows[space.positions(None)[some]]
    images = space.searcher.read_images(rows)
    pictures = [to_picture(image) for image in images]
    return [(places[item], picture) for item, picture in zip(some, pictures, strict=True) if picture is not None]


def grid_picture(space: LatentSpace, name: str | None, count: int) -> Image.Image:
    """The inverse of a map: what is decoded at every place of it, faded where there are no items.

    Raises:
        NoDecoder: the space can't.
    """
    count = stored.whole_number(count, "the number of squares along a side", 2, MOST_SQUARES)
    made = maps.get(space, name)
    places = maps.places(space, made.name)
    centres, fullness, shape = drawing.grid(places[np.isfinite(places).all(axis=1)], count)
    pictures = space.decode(maps.unmap(space, centres, made.name))
    title = f"map {made.name!r}, decoded at {shape[1]} x {shape[0]} places"
    return drawing.draw_grid(list(pictures), fullness, shape, centres, title=title)


def clusters_picture(space: LatentSpace, name: str | None, level: int | None, exemplars: int, rim: int) -> Image.Image:
    """The clusters, a row each: its exemplars, then items at its rim."""
    run = stored.find(space, "clusterings", name)
    rows = []
    for one in portraits.portraits(space, run.name, level, exemplars, rim):
        ids = [*one.exemplars, *one.rim]
        captions = [*one.exemplars, *(f"{id}\nat the rim" for id in one.rim)]
        rows.append(sheet.Row(images_of(space, ids), captions, title=heading(one)))
    if not any(picture is not None for row in rows for picture in row.pictures):
        raise InvalidArgument("the items have no pictures: there is nothing to draw")
    return sheet.strips(rows, tile=96)


def heading(portrait: Portrait) -> str:
    """A cluster in one line: its number or name, its size, and what sets it apart."""
    if portrait.number == runs.NOISE:
        title = "in no cluster"
    else:
        title = str(portrait.number) if portrait.name is None else f"{portrait.number} {portrait.name}"
    told = [f"{trait.key} {trait.value} ({trait.share:.0%})" for trait in portraits.telling(portrait, 2)]
    return " · ".join([title, f"{portrait.size:,} items ({portrait.share:.1%})", *told])


def images_of(space: LatentSpace, ids: list[str]) -> list[Picture | None]:
    """Stored pictures of items; None where there is none."""
    _, rows = space.resolved(ids)
    return [to_picture(image) for image in space.searcher.read_images(rows)]
