"""Maps under odd conditions: what is no point and no name, damaged maps, keys called like a built-in field."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import embedstore
from embedstore import filters
from embedstore.errors import InvalidArgument
from embedstore.filters import Comparison, Field

from .charted import copy_of_blobs, hurry
from .clustered import blobs
from .commands import run
from .stores import refused


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    hurry(monkeypatch)
    return copy_of_blobs(tmp_path_factory)


@pytest.fixture
def store(path: Path) -> Any:
    with embedstore.open(path) as store:
        yield store


def test_a_map_in_one_colour_is_drawn(store: Any, tmp_path: Path) -> None:
    image = store.draw_map(colour="", side=200)
    assert image.width > 200


def test_a_map_of_items_without_metadata_and_clusters_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    vectors, _ = blobs([12, 12])
    with embedstore.create(tmp_path / "bare.store") as bare:
        bare.add_vectors([f"i{i}" for i in range(24)], vectors)
    run("map", tmp_path / "bare.store", "-o", tmp_path / "map.png", "--side", 200)


@pytest.mark.parametrize("point", ["a", [[1, 2], [3]], ["left", 0], {}, [1j, 2], 1e300, [1e300, 0], [-1e39, 0]])
def test_what_is_no_point_is_refused_in_a_sentence(store: Any, point: Any) -> None:
    refused(InvalidArgument, ".", lambda: store.unmap(point))


def test_a_huge_coordinate_is_one_line_on_the_command_line(path: Path) -> None:
    assert run("unmap", path, "1e300", 0, code=1).stderr.count("\n") == 1


@pytest.mark.parametrize("text", ['"map".x = 1', '"map".default.y < 2'])
def test_a_metadata_key_called_like_a_built_in_keeps_its_quotes(text: str) -> None:
    assert filters.parse(filters.format(filters.parse(text))) == filters.parse(text)
    field = Field(("map", "x"))
    assert filters.parse(filters.format(Comparison(field, "=", 1))) == Comparison(field, "=", 1)


@pytest.mark.parametrize("name", ["", [], ["a"], {}, 0, False])
def test_what_can_t_name_a_map_is_refused(store: Any, name: Any) -> None:
    refused(InvalidArgument, "can't name a map", lambda: store.map(name))


def test_a_damaged_map_keeps_no_other_from_being_found_and_is_replaced_by_a_refit(path: Path) -> None:
    with embedstore.open(path) as store:
        store.map("healthy")
    with closing(sqlite3.connect(path / "store.db")) as database, database:
        database.execute("UPDATE maps SET made = 'nonsense' WHERE name = 'default'")
    with embedstore.open(path) as store:
        assert store.map("healthy").name == "healthy"
        assert store.map().name == "healthy"
        assert store.map("new").name == "new"
        assert store.map("default", refit=True).name == "default"  # store.cluster(name=...) replaces a damaged one too


def test_a_box_has_the_corners_that_were_given(path: Path) -> None:
    with embedstore.open(path) as store:
        x, y = (float(one) for one in store.places()[0])
    found = run("direction", "make", path, "d", "--to-box", f"{x!r},{y!r},{x + 0.4!r},{y + 0.4!r}", "--json").stdout
    with embedstore.open(path) as store:
        assert store.ids()[0] in store.ids(store.directions()[0].positive), found


@pytest.mark.parametrize("box", ["nan,0,1,1", "0,0,1e400,1"])
def test_a_box_without_finite_corners_is_no_box(path: Path, box: str) -> None:
    assert "is no box" in run("direction", "make", path, "d", "--to-box", box, code=2).stderr


def test_new_metadata_place_nothing(store: Any) -> None:
    store.update("i3", metadata={"checked": True})
    assert store.map().placed == 0


@pytest.mark.parametrize("text", ["map.X > 1", "MAP.x > 1", "maps.x > 1", "map > 1", "map.z > 1"])
def test_a_mistyped_coordinate_is_told_of_map_x(store: Any, text: str) -> None:
    with pytest.raises(embedstore.errors.FilterError, match=r"map\.x"):
        store.ids(text)
