"""Pictures of a store's map, of its inverse and of its clusters: what is on them, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import embedstore
from embedstore.errors import EmbedstoreError, InvalidArgument, NoDecoder, UnknownRun
from embedstore.query import sheet
from embedstore.show import colours, drawing, page, views
from embedstore.store import Store
from embedstore.types import Item

from .charted import copy, copy_of_blobs, hurry
from .clustered import COUNT, blobs
from .stores import refused


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with embedstore.open(copy(tmp_path_factory), read_only=True) as store:
        yield store


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Vectors without pictures and without a decoder."""
    with embedstore.open(copy_of_blobs(tmp_path_factory), read_only=True) as store:
        yield store


def plane(image: Image.Image, places: np.ndarray, side: int) -> np.ndarray:
    """The part of a picture that the map is drawn on."""
    shown = drawing.frame(places, side)
    assert image.width == shown.size[0] + 2 * drawing._MARGIN + drawing._LEGEND
    (left, top), (width, height) = shown.at, shown.size
    return np.asarray(image).astype(int)[top : top + height, left : left + width]


def test_a_map_is_drawn_around_its_places_in_the_size_that_is_asked_for(store: Store) -> None:
    drawn = plane(store.draw_map(side=300, thumbnails=False), store.places(), 300)
    shown = drawing.frame(store.places(), 300)
    x, y = (shown.pixels(store.places()) - shown.at).astype(int).T
    inked = (255 - drawn).sum(axis=2)
    assert inked[y, x].mean() > 2 * inked.mean(), "ink is where items are"
    assert store.draw_map("default", side=300, thumbnails=False) == store.draw_map(side=300, thumbnails=False)


def test_thumbnails_are_the_items_pictures_at_their_places(store: Store) -> None:
    without, image = (store.draw_map(side=500, colour="odd", thumbnails=shown) for shown in (False, True))
    shown, places = drawing.frame(store.places(), 500), store.places()
    array = np.asarray(image)
    found = []
    for item, picture in enumerate(store.images(store.ids())):
        tile = np.asarray(sheet.fit(np.asarray(picture).reshape(8, 8, 1), 56).convert("RGB"))
        x, y = shown.pixels(places[item : item + 1])[0] - np.array(shown.at)
        left, top = int(x - 28) + shown.at[0], int(y - 28) + shown.at[1]
        found.append(np.array_equal(array[top : top + 56, left : left + 56], tile))
    assert 3 <= sum(found) < 60
    changed = (array != np.asarray(without)).any(axis=2)
    assert changed.sum() <= sum(found) * 56 * 56, "nothing else is different"


def test_colours_are_those_of_the_field_and_names_stand_upon_the_clusters(store: Store) -> None:
    space = store._latents(None)
    by_label = store.draw_map(side=300, colour="label", thumbnails=False)
    by_cluster = store.draw_map(side=300, thumbnails=False)
    assert by_cluster == store.draw_map(side=300, colour="cluster", thumbnails=False)
    assert by_cluster != by_label
    for field, image in (("label", by_label), ("cluster", by_cluster)):
        right = np.asarray(image)[:, image.width - drawing._LEGEND - drawing._MARGIN + 20 :]
        for colour in colours.colouring(space, field).colours:
            assert (right == colour).all(axis=2).any(), "in the legend"
    colouring = colours.colouring(space, "cluster")
    places = store.places()
    for name, at in views._names(places, colouring):
        own = places[colouring.codes == colouring.values.index(name)]
        near = np.linalg.norm(places - at, axis=1).argsort()[:3]
        assert (own.min(axis=0) <= at + 1e-6).all()
        assert (at <= own.max(axis=0) + 1e-6).all()
        assert (colouring.codes[near] == colouring.values.index(name)).any()


def test_a_value_called_as_what_stands_at_the_end_has_its_name_on_the_map(tmp_path: Path) -> None:
    names = ["none", "in no cluster", "other (3 values)"]
    islands, blob = blobs([30, 30, 30])
    places = np.vstack([islands[:, :2], [[0.0, 0.0]]]).astype(np.float32)
    with embedstore.create(tmp_path / "a.store") as store:
        said: list[dict[str, Any]] = [{"kind": names[one]} for one in blob]
        store.add_vectors([f"v{i}" for i in range(91)], np.vstack([islands, islands[:1]]), [*said, {}])
        colouring = colours.colouring(store._latents(None), "kind")
    assert (colouring.extra, colouring.values[3:]) == (1, ("none",))
    assert {name for name, _ in views._names(places, colouring)} == set(names)
    xy = page.quantised(places)[2]
    assert [name for name, *_ in page._names(colouring, colouring.codes, xy)] == list(colouring.values[:3])


def test_the_place_of_a_name_is_where_most_of_its_items_lie_not_between_two_islands() -> None:
    rng = np.random.default_rng(0)
    islands = [rng.normal(size=(size, 2), scale=0.1) + at for size, at in ((90, (0, 0)), (60, (10, 0)))]
    at = views._densest(np.concatenate(islands).astype(np.float32))
    np.testing.assert_allclose(at, [0, 0], atol=0.3)
    np.testing.assert_allclose(views._densest(np.full((4, 2), 3, np.float32)), [3, 3], atol=1e-5)


def test_the_inverse_of_a_map_is_what_its_places_decode_to(store: Store) -> None:
    image = np.asarray(store.draw_grid(6)).astype(float)
    centres, fullness, (rows, columns) = drawing.grid(store.places(), 6)
    decoded = store.decode(store.unmap(centres))
    tile = 56
    assert image.shape[:2] == (rows * tile + 64 + 56, columns * tile + 2 * 56)
    assert fullness.max() > 0.5
    for number, (picture, full) in enumerate(zip(decoded, fullness, strict=True)):
        row, column = divmod(number, columns)
        drawn = image[64 + row * tile : 64 + (row + 1) * tile, 56 + column * tile : 56 + (column + 1) * tile, 0]
        expected = np.full((tile, tile), 255.0)
        if full >= 0.2:  # elsewhere there is no data
            inside = Image.fromarray(np.asarray(sheet.fit(np.asarray(picture).reshape(8, 8, 1), tile - 4)))
            own = np.asarray(inside.resize((tile - 4, tile - 4), Image.Resampling.BICUBIC)).astype(float)
            expected[2:-2, 2:-2] = 255 + (own - 255) * full
        np.testing.assert_allclose(drawn, expected, atol=2)


def test_without_a_decoder_the_map_is_drawn_and_its_inverse_says_why_not(plain: Store) -> None:
    image = plain.draw_map(side=300)
    assert image == plain.draw_map(side=300, thumbnails=False), "there are no pictures to show"
    assert (255 - plane(image, plain.places(), 300)).sum() > 0
    refused(NoDecoder, "decode", plain.draw_grid)


@pytest.mark.parametrize("side", [199, 8001, 0, -400, 400.0, "400", True])
def test_a_side_out_of_bounds_is_refused(store: Store, side: Any) -> None:
    refused(
        InvalidArgument,
        "the map's side is .* must be a whole number from 200 to 8,000",
        lambda: store.draw_map(side=side),
    )


@pytest.mark.parametrize("count", [1, 61, 0, -3, 4.0, "4", True])
def test_a_number_of_squares_out_of_bounds_is_refused(store: Store, count: Any) -> None:
    refused(InvalidArgument, "squares along a side .* whole number from 2 to 60", lambda: store.draw_grid(count))


def test_what_isn_t_there_is_named(store: Store) -> None:
    for call in (store.draw_map, lambda name: store.draw_grid(name=name)):
        refused(UnknownRun, "no map is named 'defualt': did you mean 'default'", lambda call=call: call("defualt"))
    refused(UnknownRun, "no clustering is named 'fuond'", lambda: store.draw_clusters("fuond"))
    refused(UnknownRun, "no clustering is named 'fuond'", lambda: store.draw_map(colour="cluster.fuond"))
    refused(InvalidArgument, "did you mean 'label'", lambda: store.draw_map(colour="lable"))


def test_clusters_are_drawn_a_row_each_with_their_exemplars(store: Store) -> None:
    rows = []
    for one in store.clusters(exemplars=3, rim=1):
        pictures = [np.asarray(picture).reshape(8, 8, 1) for picture in store.images([*one.exemplars, *one.rim])]
        captions = [*one.exemplars, *(f"{id}\nat the rim" for id in one.rim)]
        rows.append(sheet.Row(pictures, captions, title=views.heading(one)))
    image = store.draw_clusters(exemplars=3, rim=1)
    assert image == sheet.strips(rows, tile=96)
    assert image.height >= len(rows) * 96
    coarse = store.draw_clusters(level=0, exemplars=3, rim=1)
    assert coarse.height < image.height
    refused(InvalidArgument, "level", lambda: store.draw_clusters(level=99))


def test_a_heading_says_how_many_and_what_sets_them_apart(store: Store) -> None:
    for one in store.clusters():
        words = views.heading(one)
        assert words.startswith(str(one.number) if one.number >= 0 else "in no cluster")
        assert f"{one.size:,} items ({one.size / COUNT:.1%})" in words
        told = words.split(" · ")[2:]
        shown = [f"{trait.key} {trait.value} ({trait.inside / trait.known:.0%})" for trait in one.traits]
        assert set(told) <= set(shown)
        assert bool(told) == bool(shown)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Pictures of one shape and vectors, of which some items have no picture, and few have much in common."""
    hurry(monkeypatch)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (30, 8, 8, 1), dtype=np.uint8)
    with embedstore.create(tmp_path / "own.store") as store:
        items = [Item(f"p{i}", picture, {"one": "same", "id": f"u{i}"}) for i, picture in enumerate(pictures)]
        store.index(items, encoder="pca", dimension=4, progress=False)
        fingerprint = store.info()["spaces"][0]["fingerprint"]
        store.add_vectors(
            [f"v{i}" for i in range(1200)],
            rng.normal(size=(1200, 4)).astype(np.float32),
            [{"one": "same", "id": f"w{i}"} for i in range(1200)],
            encoder=fingerprint,
        )
        store.map()
        yield store


def test_items_without_pictures_one_value_and_too_many_values(own: Store) -> None:
    assert len(set(own.ids())) == 1230
    image = own.draw_map(side=250, colour="one")
    assert (255 - plane(image, own.places(), 250)).sum() > 0
    assert image != own.draw_map(side=250, colour="one", thumbnails=False), "those that have a picture show it"
    said = refused(InvalidArgument, "'id' has 1,230 different values, too many", lambda: own.draw_map(colour="id"))
    assert "cluster" in said
    own.draw_grid(2)


def test_a_map_is_drawn_as_long_as_one_of_its_items_is_left(own: Store) -> None:
    own.delete(own.ids()[1:])
    image = own.draw_map(side=250, colour="one")
    assert (255 - plane(image, own.places(), 250)).sum() > 0
    assert own.draw_grid(4).height >= 4 * 56
    own.delete(own.ids())
    for call in (lambda: own.draw_map(colour="one"), own.draw_map, own.draw_grid):
        refused(EmbedstoreError, ".", call)
