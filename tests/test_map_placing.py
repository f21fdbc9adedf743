"""New items on the maps that are there: placed by their networks in the commit that adds them, kept and lost."""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedstore
from embedstore.errors import ModelInvalid, StoreDamaged
from embedstore.metadata import runs
from embedstore.models import network
from embedstore.models.network import Layer, Network
from embedstore.store import Store
from embedstore.truth.placing import PlacingWarning
from embedstore.types import Item

from .charted import copy, hurry, latents, made, placed, said, seq
from .clustered import COUNT, NEW, PICTURES, digits
from .stores import refused


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(tmp_path_factory)


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with embedstore.open(path) as store:
        yield store


def write(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path / "store.db")) as database, database:
        database.execute(statement, values)


def put(store: Store, id: str, x: float, y: float) -> None:
    """A place that no network would give, so that one that is kept is told from one that is given again."""
    write(store.path, "UPDATE places SET x = ?, y = ? WHERE row = (SELECT row FROM items WHERE id = ?)", x, y, id)


def assert_placed(store: Store, ids: list[str], name: str = "default") -> None:
    """The places of these items are where the map's networks have their latents."""
    places = said(store, name)
    found = np.array([places[id] for id in ids])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, placed(store, latents(store, ids), name), atol=2e-4)


def test_items_that_are_added_are_placed_by_the_networks_in_the_same_commit(store: Store, path: Path) -> None:
    before, start = said(store), seq(store)
    batches = [digits(COUNT, COUNT + NEW), digits(COUNT + NEW, COUNT + NEW + 1)]
    with embedstore.open(path, read_only=True) as other:
        for number, items in enumerate(batches, 1):
            store.add(items)
            assert other.count("map.x is null or map.y is null") == 0
            assert len(other.places()) == len(other)
            assert seq(other) == start + number
        assert (other.map().placed, other.map().items) == (NEW + 1, COUNT)
        np.testing.assert_allclose(other.places(), list(said(store).values()), rtol=1e-6)
    new = [item.id for items in batches for item in items]
    assert_placed(store, new)
    assert {id: one for id, one in said(store).items() if id in before} == before
    # They lie among their own kind as those do that were laid out.
    labels = np.array([store.get(id)["metadata"]["label"] for id in store.ids()])
    places = store.places()
    near = np.linalg.norm(places[COUNT:, None] - places[None, :COUNT], axis=2).argsort(axis=1)[:, :5]
    assert (labels[near] == labels[COUNT:, None]).mean() > 0.6


def test_new_metadata_keep_the_place(store: Store) -> None:
    put(store, "d007", 91.5, -17.25)
    start = seq(store)
    store.update("d007", metadata={"checked": True})
    assert said(store)["d007"] == (91.5, -17.25)
    assert store.ids("map.x > 90") == ["d007"]
    assert seq(store) == start + 1
    # Also where a source says something new of pictures that are as they were.
    before = said(store)
    again = [Item(item.id, item.picture, {**item.metadata, "turn": 2}) for item in digits(0, COUNT)]
    again[9] = Item("d009", PICTURES[1000][..., None], {"turn": 2})
    assert store.index(again, progress=False).updated == COUNT
    after = said(store)
    assert_placed(store, ["d009"])
    assert after.pop("d009") != before.pop("d009")
    assert after == before


def test_a_new_latent_is_placed_anew(store: Store) -> None:
    target = store.vector("d001").vector
    for id in ("d002", "d003", "d004"):
        put(store, id, 91.5, -17.25)
    store.update("d002", vector=target, metadata={"moved": True})
    store.update("d003", picture=PICTURES[1])
    fingerprint = store.info()["spaces"][0]["fingerprint"]
    store.add_vectors(["d004"], target[None], encoder=fingerprint)
    assert_placed(store, ["d002", "d003", "d004"])
    found = said(store)
    np.testing.assert_allclose([found["d002"], found["d004"]], [found["d003"]] * 2, atol=1e-3)
    assert len(found) == len(store) == COUNT
    assert np.isfinite(store.places()).all()


def test_a_deleted_item_s_place_is_forgotten_and_made_anew_if_it_comes_back(store: Store) -> None:
    put(store, "d005", 91.5, -17.25)
    store.delete(["d005", "d006"])
    assert len(said(store)) == len(store.places()) == COUNT - 2
    with store._database.read() as connection:
        assert connection.execute("SELECT count(*) FROM places").fetchone() == (COUNT - 2,)
    store.add(digits(5, 6))
    assert_placed(store, ["d005"])
    left = store.delete(where="map.x < 0")
    assert left > 0
    assert (store.places()[:, 0] >= 0).all()
    assert store.verify().ok


def test_compacting_keeps_places_and_the_networks_of_the_maps_that_are_left(store: Store, path: Path) -> None:
    network.save(path / "models", "map", {"place": Network((Layer(np.eye(2, dtype="f4"), np.zeros(2, "f4")),))})
    store.delete([f"d{i:03d}" for i in range(0, COUNT, 2)])
    before, model = said(store), made(store).model
    store.compact()
    assert said(store) == before
    assert len(list((path / "models").glob("*.safetensors"))) == 3, "an orphan went: encoder, clustering, map are left"
    store.add(digits(COUNT, COUNT + 3))
    assert_placed(store, [f"d{i}" for i in range(COUNT, COUNT + 3)])
    store.unmap([0, 0])
    store.remove_map("default")
    store.compact()
    assert not list((path / "models").glob(f"{model}*"))
    assert store.verify().ok
    assert store.verify().derived == []


def test_a_backup_places_items_and_turns_points_back_as_its_original_does(store: Store, tmp_path: Path) -> None:
    store.backup(tmp_path / "backup.store")
    with embedstore.open(tmp_path / "backup.store") as backup:
        assert backup.maps() == store.maps()
        np.testing.assert_array_equal(backup.unmap([0.3, -0.2]).vector, store.unmap([0.3, -0.2]).vector)
        for one in (store, backup):
            one.add(digits(COUNT, COUNT + 8))
        assert said(backup) == said(store)
        assert backup.verify().derived == []


def damage(store: Store, how: str) -> None:
    file = store.path / "models" / f"{made(store).model}.safetensors"
    if how == "missing":
        file.unlink()
    elif how == "torn":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        content = bytearray(file.read_bytes())
        content[-5] ^= 0xFF
        file.write_bytes(bytes(content))


def add_copy(store: Store, name: str) -> None:
    """Another map that says what 'default' says, by networks of its own that are a little different."""
    run = made(store)
    networks = network.load(store.path / "models", "map", run.model)
    *first, last = networks["place"].layers
    networks["place"] = Network((*first, Layer(last.weight, last.bias + np.float32(0.001))))
    model = network.save(store.path / "models", "map", networks)
    with store._writer.locked("testing"), store._database.write() as connection:
        number = runs.add(connection, "maps", replace(run, name=name, model=model, is_default=False))
        rows, values = runs.said(connection, "maps", run.id)
        runs.say(connection, "maps", number, rows, (values[:, 0], values[:, 1]))


@pytest.mark.parametrize("how", ["missing", "torn", "altered"])
def test_networks_that_can_t_be_read_never_keep_an_item_out(
    path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    with embedstore.open(path) as store:
        add_copy(store, "healthy")
        damage(store, how)
    with embedstore.open(path) as store:
        report = store.verify()
        assert report.problems == []
        assert len([text for text in report.derived if text.startswith("map 'default': ")]) == len(report.derived) == 1
        with pytest.warns(PlacingWarning, match="map 'default' takes no new items: ") as caught:
            store.add(digits(COUNT, COUNT + 3))
        assert len(caught) == 1
        assert "\n" not in str(caught[0].message)
        new = [f"d{i}" for i in range(COUNT, COUNT + 3)]
        assert store.ids()[-3:] == new
        assert_placed(store, new, "healthy")
        assert np.isfinite(store.places("healthy")).all()
        assert store.ids("map.x is null") == store.ids("map.default.y is null") == new
        assert np.isnan(store.places()).all(axis=1).tolist() == [False] * COUNT + [True] * 3
        assert np.isfinite(store.places()[:COUNT]).all()
        refused(ModelInvalid, ".", lambda: store.unmap([0, 0]))
        store.unmap([0, 0], name="healthy")
        # The picture shows those that have a place; what needs no network goes on without a warning.
        put(store, "d001", 1.5, 0.25)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            store.draw_map("default", side=200, thumbnails=False)
            store.update("d001", metadata={"x": 1})
            store.delete("d002")
        assert said(store)["d001"] == (1.5, 0.25)
        store.map("default", refit=True, seed=2)
        assert np.isfinite(store.places()).all()
        assert store.verify().derived == []


@pytest.mark.parametrize(
    ("networks", "match"),
    [
        ({"place": [(5, 7), (7, 2)], "back": [(2, 8)]}, "aren't for latents of 8 dimensions"),
        ({"back": [(2, 8)]}, "no map's: make it again"),
        ({"place": [(8, 2)], "back": [(2, 8)]}, "no map's: make it again"),
        ({"place": [(8, 7), (7, 3)], "back": [(2, 8)]}, "no map's: make it again"),
    ],
)
def test_networks_of_another_map_are_refused_with_a_warning(
    store: Store, networks: dict[str, list[tuple[int, int]]], match: str
) -> None:
    def layer(size: tuple[int, int]) -> Layer:
        return Layer(np.zeros(size, np.float32), np.zeros(size[1], np.float32))

    made = {name: Network(tuple(map(layer, sizes))) for name, sizes in networks.items()}
    model = network.save(store.path / "models", "map", made)
    write(store.path, "UPDATE maps SET model = ?", model)
    with pytest.warns(PlacingWarning, match=f"map 'default' takes no new items: .*{match}"):
        store.add(digits(COUNT, COUNT + 1))
    assert len(store) == COUNT + 1
    assert store.ids("map.x is null") == [f"d{COUNT}"]


@pytest.mark.parametrize("networks", [{"place": (8, 7)}, {"back": (3, 8)}, {"back": (2, 9)}])
def test_a_way_back_that_leads_elsewhere_is_damage(store: Store, networks: dict[str, tuple[int, int]]) -> None:
    layers = {name: Layer(np.zeros(size, np.float32), np.zeros(size[1], np.float32)) for name, size in networks.items()}
    model = network.save(store.path / "models", "map", {name: Network((one,)) for name, one in layers.items()})
    write(store.path, "UPDATE maps SET model = ?", model)
    refused(StoreDamaged, "'default' has no way back to this space: make it again", lambda: store.unmap([0, 0]))


@pytest.mark.parametrize(
    "change",
    [
        "nonsense",
        "[]",
        {"items": None},
        {"items": -3},
        {"items": True},
        {"seconds": "x"},
        {"created": 3},
        {"continuity": "1"},
        {"trustworthiness": False},
    ],
)
def test_a_map_that_doesn_t_say_what_it_should_is_damage_and_never_keeps_an_item_out(
    path: Path, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    with embedstore.open(path) as store:
        told = (
            {k: v for k, v in {**made(store).made, **dict(change)}.items() if v is not None}
            if isinstance(change, dict)
            else change
        )
    write(path, "UPDATE maps SET made = ?", told if isinstance(told, str) else json.dumps(told))
    with embedstore.open(path) as store:
        for call in (store.maps, store.map, store.places, lambda: store.unmap([0, 0]), store.draw_map):
            refused(StoreDamaged, "map 'default' is unreadable: remove it and make it again", call)
        report = store.verify()
        assert report.problems == []
        [said_of_it] = report.derived
        assert "map 'default' is unreadable" in said_of_it
        with pytest.warns(PlacingWarning, match="map 'default' takes no new items"):
            store.add(digits(COUNT, COUNT + 2))
        assert len(store) == COUNT + 2
        store.remove_map("default")
        assert store.map().items == COUNT + 2
        assert store.verify().derived == []
