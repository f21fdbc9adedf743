"""Latents that no data set should have, and runs that somebody else has written: neither ruins what is around it."""

from __future__ import annotations

import sqlite3
import tracemalloc
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import embedstore
from embedstore.errors import StoreDamaged
from embedstore.explore import clusterings, sampled
from embedstore.latent import spectral
from embedstore.models import labelling, network
from embedstore.models.network import Layer, Network
from embedstore.store import Store
from embedstore.truth.placing import PlacingWarning

from .charted import copy
from .clustered import COUNT, blobs, digits, nearest
from .stores import refused


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of digits with a clustering and a map."""
    return copy(tmp_path_factory)


def write(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path / "store.db")) as database, database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute(statement, values)


# -- latents -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("long", [1e4, 1e9])
def test_one_broken_latent_spoils_no_clustering(tmp_path: Path, long: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "FEWEST_STEPS", 150)
    latents, label = blobs([60, 60, 60])
    latents[0] = long
    fresh, expected = blobs([20, 20, 20], seed=1)
    with embedstore.create(tmp_path / "vectors.store") as store:
        store.add_vectors([f"i{i}" for i in range(180)], latents)
        assert store.cluster().clusters == 3
        store.add_vectors([f"new {i}" for i in range(60)], fresh)
        found, _ = clusterings.labels(store._latents(None))
    assert adjusted_rand_score(label[1:], found[1:180]) > 0.95
    assert adjusted_rand_score(expected, found[180:]) > 0.95


def test_only_what_lies_far_out_is_pulled_in() -> None:
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(500, 6)).astype(np.float32) + 100
    assert sampled.pulled(latents) is latents
    odd = latents.copy()
    odd[[3, 50]] = [[1e6] * 6, [100, -9e3, 100, 100, 100, 100]]
    found = sampled.pulled(odd)
    assert np.array_equal(np.delete(found, [3, 50], axis=0), np.delete(odd, [3, 50], axis=0))
    middle = np.median(odd, axis=0)
    away = np.linalg.norm(odd - middle, axis=1)
    np.testing.assert_allclose(np.linalg.norm(found[[3, 50]] - middle, axis=1), 10 * np.median(away), rtol=1e-3)
    direction = (found[50] - middle) @ (odd[50] - middle)
    assert direction == pytest.approx(np.linalg.norm(found[50] - middle) * away[50], rel=1e-3)
    same = np.ones((5, 2), np.float32)
    assert sampled.pulled(same) is same


def test_a_few_items_by_themselves_are_in_no_cluster_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "FEWEST_STEPS", 100)
    rng = np.random.default_rng(0)
    crowd, _ = blobs([900, 900], dimension=4)
    few = (400 * np.eye(4)[0] + 0.05 * rng.normal(size=(16, 4))).astype(np.float32)
    with embedstore.create(tmp_path / "vectors.store") as store:
        store.add_vectors([f"i{i}" for i in range(1816)], np.concatenate([crowd, few]))
        store.add_vectors(["copy"], few[:1])
        made = store.cluster()
        found, strength = clusterings.labels(store._latents(None))
        assert (made.clusters, set(found[1800:].tolist()), strength[1800:].max()) == (2, {-1}, 0)
        assert set(found[:1800].tolist()) == {0, 1}
        store.cluster(name="all", assign_noise=True)
        assert store.count("cluster.all is null") == 0


def test_many_parts_of_a_graph_take_no_more_room_than_their_vectors() -> None:
    rng = np.random.default_rng(0)
    latents = np.repeat(100 * rng.normal(size=(120, 4)), 20, axis=0) + rng.normal(size=(2400, 4))
    graph = spectral.shared_neighbours(nearest(latents, 15))
    tracemalloc.start()
    values, vectors = spectral.eigenvectors(graph, 122, 0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert vectors.shape == (2400, 122)
    assert most < 3 * vectors.nbytes
    np.testing.assert_allclose(values[:120], 1, atol=1e-6)
    part = spectral.parts(graph)
    assert (np.count_nonzero(vectors[:, :120], axis=1) == 1).all(), "each item is in the vector of its part alone"
    assert len(np.unique(part)) == 120


def test_beyond_the_largest_parts_items_are_in_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "MOST_PARTS", 2)
    latents, label = blobs([20, 40, 30])
    part = spectral.parts(spectral.shared_neighbours(nearest(latents, 8)))
    assert [set(part[label == blob].tolist()) for blob in range(3)] == [{-1}, {0}, {1}]


# -- runs of somebody else ---------------------------------------------------------------------------------------------


def huge(kind: str) -> dict[str, Network]:
    sizes = [(8, 7), (7, 2)] if kind == "map" else [(8, 7)]
    return {"place": Network(tuple(Layer(np.full(size, 3e38, "f4"), np.zeros(size[1], "f4")) for size in sizes))}


@pytest.mark.parametrize("kind", ["map", "clustering"])
@pytest.mark.parametrize("fault", ["the other's model", "huge weights", "deep"])
def test_a_run_that_can_t_place_keeps_no_item_out(path: Path, kind: str, fault: str) -> None:
    change = "UPDATE maps SET " if kind == "map" else "UPDATE clusterings SET "
    match fault:
        case "the other's model":
            other = "(SELECT model FROM clusterings)" if kind == "map" else "(SELECT model FROM maps)"
            write(path, change + "model = " + other)
        case "huge weights":
            write(path, change + "model = ?", network.save(path / "models", kind, huge(kind)))
        case _:
            write(path, change + "made = ?", "[" * 100_000)
    with Store(path) as store:
        with pytest.warns(PlacingWarning, match=rf"^{kind} '\w+' takes no new items"):
            store.add(digits(COUNT, COUNT + 2))
        assert len(store) == COUNT + 2
        if fault != "huge weights":  # which show when they are used
            assert any(kind in one for one in store.verify().derived)


@pytest.mark.parametrize(
    ("statement", "ask"),
    [
        ("UPDATE places SET x = 'abc' WHERE row = 5", lambda store: store.places()),
        ("UPDATE places SET y = 9e999 WHERE row = 5", lambda store: store.places()),
        ("UPDATE labels SET strength = 'abc' WHERE row = 5", lambda store: store.clusters()),
        ("UPDATE labels SET leaf = 'abc' WHERE row = 5", lambda store: store.clusters()),
        ("UPDATE labels SET leaf = -7 WHERE row = 5", lambda store: store.clusters()),
        ("UPDATE labels SET leaf = 7000 WHERE row = 5", lambda store: store.clusters()),
        ("UPDATE labels SET leaf = 0.5 WHERE row = 5", lambda store: store.clusters()),
    ],
)
def test_odd_values_are_told_by_verify_and_refused_in_a_sentence(
    path: Path, statement: str, ask: Callable[[Store], Any]
) -> None:
    write(path, statement)
    with Store(path) as store:
        refused(StoreDamaged, "make it again", lambda: ask(store))
        assert any("make it again" in one for one in store.verify().derived)


def test_a_backup_is_made_though_a_map_names_no_file(path: Path, tmp_path: Path) -> None:
    write(path, "UPDATE maps SET model = 'xx'")
    with Store(path) as store, warnings.catch_warnings():
        warnings.simplefilter("error")
        store.backup(tmp_path / "backup.store")
    with embedstore.open(tmp_path / "backup.store") as backup:
        assert len(backup) == COUNT
        assert backup.verify().ok
