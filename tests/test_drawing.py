"""Maps as pictures: where points, thumbnails and names stand, and how the inverse picture fades."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from embedstore.query import sheet
from embedstore.show import drawing
from embedstore.show.colours import Colouring, ramp

from .test_sheet import boxes

RED, BLUE, GREY = (220, 20, 30), (20, 40, 230), (120, 120, 120)
# Of different colours, so that each is told from the others and from all that is drawn.
SOLID = [(255, 0, 255), (0, 255, 255), (255, 255, 0), (0, 255, 0), (255, 128, 0), (128, 0, 255), (0, 128, 128)]


def coloured(*colours: tuple[int, int, int]) -> Colouring:
    """One colour an item, without a legend to speak of."""
    table, codes = np.unique(np.array(colours, dtype=np.uint8), axis=0, return_inverse=True)
    counts = tuple(np.bincount(codes.ravel()).tolist())
    values = tuple(str(number) for number in range(len(table)))
    return Colouring("kind", codes.ravel().astype(np.int32), table, values, counts)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def strength(pixel: np.ndarray, colour: tuple[int, int, int]) -> float:
    """How much of the light that is missing from white paper is missing as it is from this colour: 0 none, 1 all."""
    missing, wanted = (1 - (np.asarray(one) / 255) ** 2.2 for one in (pixel, colour))
    share = float(missing @ wanted / (wanted @ wanted))
    assert np.linalg.norm(missing - share * wanted) < 0.05, "another colour"
    return share


def shares(image: Image.Image) -> np.ndarray:
    """How red each pixel is, beyond how blue it is (h, w)."""
    found = pixels(image)
    return found[:, :, 0] - found[:, :, 2]


places = st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(-1e3, 1e3, width=32)), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(places, st.integers(200, 3000))
def test_every_place_is_within_the_frame_and_found_again_from_its_pixel(found: list, side: int) -> None:
    xy = np.array(found)
    shown = drawing.frame(xy, side)
    at = shown.pixels(xy) - np.array(shown.at)
    assert max(shown.size) == pytest.approx(side, abs=1)
    assert min(shown.size) >= 0.29 * side
    assert all(length % 2 == 0 for length in shown.size)
    assert (at >= -1).all()
    assert (at <= np.array(shown.size) + 1).all()
    back = np.stack([at[:, 0], shown.size[1] - at[:, 1]], axis=1) / shown.scale + shown.low
    np.testing.assert_allclose(back, xy, atol=1e-6 + 1e-9 * np.abs(xy).max())


def test_up_on_the_map_is_up_on_the_picture() -> None:
    shown = drawing.frame(np.array([[0.0, 0.0], [2.0, 1.0]]), 400)
    (x0, y0), (x1, y1) = shown.pixels(np.array([[0.0, 0.0], [2.0, 1.0]]))
    assert x0 < x1
    assert y0 > y1
    assert (x1 - x0) / (y0 - y1) == pytest.approx(2)
    low, scale = np.array(shown.low), shown.scale
    np.testing.assert_allclose(shown.pixels(low[None]), [[shown.at[0], shown.at[1] + shown.size[1]]])
    assert scale * 2 < 400 < scale * 2 * 1.1


def test_a_lone_point_s_colour_is_where_its_place_is() -> None:
    rng = np.random.default_rng(0)
    xy = np.concatenate([rng.normal(size=(60, 2), scale=0.1), [[2.0, 1.0]], [[2.0, -1.0]]])
    image = drawing.draw(xy, coloured(*[GREY] * 60, RED, BLUE), title="a map", side=400)
    shown = drawing.frame(xy, 400)
    for place, colour in ((60, RED), (61, BLUE)):
        x, y = shown.pixels(xy[place][None])[0].round().astype(int)
        assert 0.3 < strength(pixels(image)[y, x], colour) <= 1
    # And nowhere else within the frame.
    (left, top), (width, height) = shown.at, shown.size
    plane = shares(image)[top : top + height, left : left + width]
    reddest = np.argwhere(plane > 0.8 * plane.max()).mean(axis=0)[::-1] + shown.at
    np.testing.assert_allclose(reddest, shown.pixels(xy[60:61])[0], atol=2)
    assert (np.abs(np.argwhere(plane > 60)[:, ::-1] + shown.at - shown.pixels(xy[60:61])[0]) < 40).all()
    corner = pixels(image)[top + 5 : top + 25, left + 5 : left + 25]
    assert (corner > 250).all(), "where no item is, the paper is white"


def test_points_on_top_of_each_other_mix_whichever_comes_last() -> None:
    xy = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 2.0]])
    images = [drawing.draw(xy, coloured(*order, GREY), title="", side=300) for order in ((RED, BLUE), (BLUE, RED))]
    shown = drawing.frame(xy, 300)
    x, y = shown.pixels(xy[:1])[0].round().astype(int)
    (left, top), (width, height) = shown.at, shown.size
    box = (left, top, left + width, top + height)
    assert images[0].crop(box).tobytes() == images[1].crop(box).tobytes()
    middle = pixels(images[0])[y, x]
    assert middle[0] > 120
    assert middle[2] > 120


def test_one_item_and_items_on_one_spot_have_a_picture() -> None:
    for count in (1, 5):
        image = drawing.draw(np.full((count, 2), 4.0), coloured(*[RED] * count), title="one", side=200)
        shown = drawing.frame(np.full((count, 2), 4.0), 200)
        x, y = shown.pixels(np.array([[4.0, 4.0]]))[0].astype(int)
        assert 0.5 < strength(pixels(image)[y, x], RED) <= 1


spots = st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=len(SOLID))


@settings(max_examples=15, deadline=None)
@given(spots, st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), max_size=3), st.integers(16, 60), st.data())
def test_thumbnails_cover_neither_each_other_nor_names(at: list, named: list, tile: int, data: st.DataObject) -> None:
    xy = np.array([[-1.2, -1.2], [1.2, 1.2]])
    shapes = [data.draw(st.tuples(st.integers(4, 70), st.integers(4, 70))) for _ in at]
    thumbnails = [
        (np.array(place), np.full((*shape, 3), colour, dtype=np.uint8))
        for place, shape, colour in zip(at, shapes, SOLID, strict=False)
    ]
    names = [(f"name {number}", np.array(place)) for number, place in enumerate(named)]
    image = drawing.draw(xy, coloured(GREY, GREY), title="", names=names, thumbnails=thumbnails, side=300, tile=tile)
    shown = drawing.frame(xy, 300)
    taken = []
    for number, (place, picture) in enumerate(thumbnails):
        size = sheet.fit(picture, tile).size
        found = boxes(image, SOLID[number])
        assert len(found) <= 1, "whole, or not at all"
        for left, top, right, bottom in found:
            assert (right - left, bottom - top) == size
            middle = ((left + right) / 2, (top + bottom) / 2)
            np.testing.assert_allclose(middle, shown.pixels(place[None])[0], atol=1.5)
            assert shown.at[0] <= left < right <= shown.at[0] + shown.size[0]
            assert shown.at[1] <= top < bottom <= shown.at[1] + shown.size[1]
            taken.append((left, top, right, bottom))
    for one, (left, top, right, bottom) in enumerate(taken):
        for l2, t2, r2, b2 in taken[one + 1 :]:
            assert right <= l2 or r2 <= left or bottom <= t2 or b2 <= top
        for _, (l2, t2, r2, b2) in drawing._names(names, shown):
            assert right <= l2 + 1 or r2 - 1 <= left or bottom <= t2 + 1 or b2 - 1 <= top


@given(named=st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=12))
def test_names_stand_at_their_places_and_cover_no_other(named: list) -> None:
    shown = drawing.frame(np.array([[-1.2, -1.2], [1.2, 1.2]]), 300)
    names = [(f"name {number}", np.array(place)) for number, place in enumerate(named)]
    written = dict(drawing._names(names, shown))
    assert next(iter(written)) == "name 0"
    for number, (text, place) in enumerate(names):
        x, y = shown.pixels(place[None])[0]
        others = [box for other, box in written.items() if int(other.split()[1]) < number]
        if text not in written:
            assert others
            continue
        left, top, right, bottom = written[text]
        assert (left + right) / 2 == pytest.approx(x)
        assert abs((top + bottom) / 2 - y) <= 64.5
        for l2, t2, r2, b2 in others:
            assert right <= l2 or r2 <= left or bottom <= t2 or b2 <= top


def test_the_most_important_thumbnail_is_shown_where_two_would_overlap() -> None:
    xy = np.array([[-1.0, -1.0], [1.0, 1.0]])
    first, second, third = (np.full((30, 30, 3), colour, dtype=np.uint8) for colour in SOLID[:3])
    at = np.zeros(2)
    shown = [(at, first), (at + 0.02, second), (np.array([0.6, 0.0]), third)]
    image = drawing.draw(xy, coloured(GREY, GREY), title="", thumbnails=shown, side=400, tile=40)
    assert [len(boxes(image, colour)) for colour in SOLID[:3]] == [1, 0, 1]
    image = drawing.draw(xy, coloured(GREY, GREY), title="", thumbnails=shown[::-1], side=400, tile=40)
    assert [len(boxes(image, colour)) for colour in SOLID[:3]] == [0, 1, 1]


def test_a_name_is_written_at_its_place_and_the_legend_lists_the_values() -> None:
    xy = np.array([[-1.0, -1.0], [1.0, 1.0]])
    plain = drawing.draw(xy, coloured(RED, BLUE), title="", side=400)
    named = drawing.draw(xy, coloured(RED, BLUE), title="", names=[("boots", np.array([0.5, -0.5]))], side=400)
    changed = np.argwhere((pixels(plain) != pixels(named)).any(axis=2))[:, ::-1]
    middle = (changed.min(axis=0) + changed.max(axis=0)) / 2
    np.testing.assert_allclose(middle, drawing.frame(xy, 400).pixels(np.array([[0.5, -0.5]]))[0], atol=3)
    shown = drawing.frame(xy, 400)
    legend = pixels(plain)[:, shown.at[0] + shown.size[0] + 20 :]
    rows = [np.argwhere((legend == colour).all(axis=2))[:, 0].mean() for colour in (BLUE, RED)]
    assert rows[0] < rows[1], "in the order of the values"
    shuffled = drawing.draw(xy, coloured(BLUE, RED), title="", side=400)
    assert np.array_equal(pixels(shuffled)[:, shown.at[0] + shown.size[0] + 20 :], legend)


def test_the_legend_of_a_scale_runs_from_its_largest_number_down_to_its_least() -> None:
    xy = np.array([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    steps = ramp()
    colouring = Colouring(
        "size",
        np.array([0, 255, 256], np.int32),
        np.vstack([steps, [[9, 9, 9]]]).astype("u1"),
        low=-2.5,
        high=7,
        missing=1,
    )
    image = pixels(drawing.draw(xy, colouring, title="", side=500))
    shown = drawing.frame(xy, 500)
    legend = image[:, shown.at[0] + shown.size[0] + 20 :]
    top, bottom = (np.argwhere((legend == steps[step]).all(axis=2))[:, 0].mean() for step in (255, 0))
    assert bottom - top == pytest.approx(319, abs=2)


@pytest.mark.parametrize("side", [200, 600, 1600])
def test_a_legend_is_whole_also_beside_a_flat_map(side: int) -> None:
    xy = np.array([[-1.0, 0.0], [1.0, 0.0]])
    table = np.array([[200, number, 255 - number] for number in range(22)], dtype=np.uint8)
    codes = np.array([0, 21], np.int32)
    values = Colouring("kind", codes, table, tuple(f"value {i}" for i in range(22)), (1,) * 22)
    image = drawing.draw(xy, values, title="", side=side)
    legend = pixels(image)[:, image.width - drawing._LEGEND - drawing._MARGIN + 20 :]
    for colour in table.astype(int):
        rows = np.argwhere((legend == colour).all(axis=2))[:, 0]
        assert np.ptp(rows) == 14, "a whole dot"
    assert drawing.frame(xy, side).size == (side, drawing.frame(xy, side).size[1])
    steps = ramp()
    scale = Colouring("n", codes, np.vstack([steps, [[9, 9, 9]]]).astype("u1"), low=0, high=1, missing=1)
    image = drawing.draw(xy, scale, title="", side=side)
    legend = pixels(image)[:, image.width - drawing._LEGEND - drawing._MARGIN + 20 :]
    top, bottom = (np.argwhere((legend == steps[step]).all(axis=2))[:, 0].mean() for step in (255, 0))
    assert bottom - top >= 115
    assert image.height - bottom > 26, "and room below for how many have no number"


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 60), st.integers(2, 30), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_squares_cover_all_places_and_only_those_near_items_are_filled(
    count: int, squares: int, flat: float, seed: int
) -> None:
    xy = np.random.default_rng(seed).normal(size=(count, 2)) * [1, flat]
    centres, fullness, (rows, columns) = drawing.grid(xy, squares)
    assert centres.shape == (rows * columns, 2)
    assert len(fullness) == rows * columns
    assert max(rows, columns) == squares
    assert fullness.min() >= 0
    assert fullness.max() <= 1
    x, y = centres[:, 0].reshape(rows, columns), centres[:, 1].reshape(rows, columns)
    assert (np.diff(x, axis=1) > 0).all()
    assert (np.diff(y, axis=0) < 0).all()
    edge = max(float(np.ptp(xy, axis=0).max()), 1e-6) / squares
    gap = np.abs(xy[:, None] - centres[None]).max(axis=2).min(axis=1)
    assert (gap <= edge / 2 * 1.01 + 1e-6).all(), "each place is in a square"
    own = np.abs(xy[:, None] - centres[None]).max(axis=2).argmin(axis=1)
    assert fullness[own].min() > 0
    assert np.median(fullness[own]) > 0.2
    # What an item lends to the squares around it ends after two of them.
    far = np.abs(xy[:, None] - centres[None]).max(axis=2).min(axis=0) > 2.6 * edge
    assert not fullness[far].any()


def test_squares_far_from_any_item_are_empty() -> None:
    rng = np.random.default_rng(0)
    xy = np.concatenate([rng.normal(size=(300, 2), scale=0.1) + at for at in ([-3, -3], [3, 3])])
    centres, fullness, shape = drawing.grid(xy, 24)
    far = np.linalg.norm(centres[:, None] - np.array([[-3, -3], [3, 3]])[None], axis=2).min(axis=1)
    assert shape == (24, 24)
    assert fullness[far > 1.5].max() < 0.01
    assert fullness[far < 0.15].min() > 0.5


def test_the_inverse_picture_fades_to_paper_where_there_are_no_items() -> None:
    xy = np.array([[0.0, 0.0], [3.0, 2.0]])
    centres, _, shape = drawing.grid(xy, 3)
    assert shape == (2, 3)
    fullness = np.array([1.0, 0.0, 0.5, 0.25, 1.0, 0.0])
    pictures = [np.full((8, 8, 3), colour, dtype=np.uint8) for colour in SOLID[:6]]
    pictures[4] = np.full((8, 8, 1), 90, dtype=np.uint8)  # grey ones too, in whatever shape
    pictures[0] = np.full((4, 8, 3), SOLID[0], dtype=np.uint8)
    image = pixels(drawing.draw_grid(pictures, fullness, shape, centres, title="inverse", tile=40))
    for number, full in enumerate(fullness):
        row, column = divmod(number, 3)
        colour = np.array((90, 90, 90) if number == 4 else SOLID[number])
        middle = image[64 + row * 40 + 20, 56 + column * 40 + 20]
        np.testing.assert_allclose(middle, 255 + (colour - 255) * full, atol=2)
    assert (image[64 + 4 : 64 + 36, 56 + 44 : 56 + 76] == 255).all()
