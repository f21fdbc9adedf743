"""Runs under odd conditions: others who write at the same time, rows that are damaged, arguments of the wrong type."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedstore
from embedstore.errors import FilterError, InvalidArgument, StoreReadOnly
from embedstore.explore import clusterings, grouping, stored
from embedstore.models import labelling, network
from embedstore.truth.placing import PlacingWarning

from .clustered import COUNT, blobs, copy, digits, made, nearest, told
from .stores import refused


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(tmp_path_factory)


@pytest.fixture
def store(path: Path) -> Any:
    with embedstore.open(path) as store:
        yield store


def write(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path / "store.db")) as database, database:
        database.execute(statement, values)


@pytest.mark.parametrize("number", [0.0, True])
def test_naming_by_a_number_that_is_no_int_never_makes_the_clustering_unreadable(store: Any, number: Any) -> None:
    refused(InvalidArgument, "whole number", lambda: store.name_cluster(number, "a"))
    assert store.clustering().name == "found"
    store.count("cluster = 0")


@pytest.mark.parametrize(
    "change",
    [
        "nonsense",
        {"levels": None},
        {"main": None},
        {"main": 99},
        {"levels": 7},
        {"levels": [{"of_leaf": [], "stability": 1, "gap": 1}]},
    ],
)
def test_a_damaged_run_never_keeps_an_item_out(path: Path, change: Any) -> None:
    with embedstore.open(path) as store:
        good = made(store, "found").made
    text = (
        change
        if isinstance(change, str)
        else json.dumps({k: v for k, v in {**good, **change}.items() if change.get(k, 0) is not None})
    )
    write(path, "UPDATE clusterings SET made = ?", text)
    with embedstore.open(path) as store:
        with pytest.warns(PlacingWarning, match="found"):
            store.add(digits(COUNT, COUNT + 2))
        assert len(store) == COUNT + 2


def test_networks_without_the_one_that_places_never_keep_an_item_out(store: Any) -> None:
    layer = network.Layer(np.zeros((8, 5), np.float32), np.zeros(5, np.float32))
    model = network.save(store.path / "models", "clustering", {"other": network.Network((layer,))})
    write(store.path, "UPDATE clusterings SET model = ?", model)
    with pytest.warns(PlacingWarning, match="found"):
        store.add(digits(COUNT, COUNT + 1))
    assert len(store) == COUNT + 1


def test_an_unreadable_clustering_can_be_removed_and_made_again_as_its_message_says(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "FEWEST_STEPS", 20)
    write(path, "UPDATE clusterings SET made = 'nonsense'")
    with embedstore.open(path) as store:
        store.remove_clustering("found")
        store.cluster(name="found")


def test_two_who_name_at_once_both_get_their_names(path: Path) -> None:
    with embedstore.open(path) as one, embedstore.open(path) as other:
        with one._writer.locked("testing"):
            thread = threading.Thread(target=lambda: other.name_cluster(1, "b"))
            thread.start()
            time.sleep(0.5)  # it has read by now, and waits for the lock
            one.name_cluster(0, "a")
        thread.join()
        assert one.clustering().levels[one.clustering().level].names == {0: "a", 1: "b"}


def test_a_compaction_while_clusters_are_made_keeps_their_networks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "FEWEST_STEPS", 20)
    with embedstore.open(path) as store, embedstore.open(path) as other:
        place = clusterings._placed

        def meanwhile(*given: Any) -> Any:
            other.compact()
            return place(*given)

        monkeypatch.setattr(clusterings, "_placed", meanwhile)
        store.cluster(name="new")
        assert store.verify().derived == []


def test_a_store_that_is_read_refuses_to_cluster_at_once_and_writes_no_file(path: Path) -> None:
    before = sorted(path.rglob("*"))
    with embedstore.open(path, read_only=True) as store:
        refused(StoreReadOnly, "opened for reading", lambda: store.cluster(seed=5))
    assert sorted(path.rglob("*")) == before


def test_a_store_that_can_t_be_written_refuses_to_cluster_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one on a mount that is read only, which no permission of a file tells, and nobody but root can make."""
    monkeypatch.setattr(os, "access", lambda place, mode: place != path)
    monkeypatch.setattr(grouping, "levels", None)  # what would take minutes
    with embedstore.open(path) as store:
        refused(StoreReadOnly, "can't be written to", lambda: store.cluster(seed=5))


def test_who_looked_while_clusters_were_made_sees_what_was_caught_up_with(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "FEWEST_STEPS", 60)
    with embedstore.open(path) as store, embedstore.open(path, read_only=True) as other:
        space = store._latents(None)
        store.add(digits(COUNT, COUNT + 20))
        clusterings.make(space, store._writer, "new", None, assign_noise=True, seed=0, progress=False)
        other.clusters("new")  # looks between the two commits
        stored.catch_up(store._latents(None), store._writer, "clusterings", "new")
        assert told(other, "new") == told(store, "new")
        assert sum(one.size for one in other.clusters("new") if one.number >= 0) == COUNT + 20


@pytest.mark.parametrize("sizes", [[30, 30, 30], [60, 60, 60]])
def test_blobs_without_an_edge_between_them_are_told_apart_and_not_further(sizes: list[int]) -> None:
    latents, _ = blobs(sizes, seed=3)
    found, main = grouping.levels(latents, nearest(latents, 20), None)
    assert found[main].groups == len(sizes)


@pytest.mark.parametrize("text", ["cluster = true", "cluster != false", "cluster in (true)"])
def test_true_and_false_are_no_clusters(store: Any, text: str) -> None:
    with pytest.raises(FilterError):
        store.count(text)


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.cluster("3"),
        lambda store: store.cluster(2.5),
        lambda store: store.cluster(name=3),
        lambda store: store.cluster(seed=-1),
        lambda store: store.cluster(seed=2**63),
        lambda store: store.clustering(3),
        lambda store: store.clusters(level="0"),
        lambda store: store.use_clustering("found", level=0.5),
        lambda store: store.name_cluster(0, 5),
        lambda store: store.name_cluster([0], "x"),
        lambda store: store.clusters(exemplars="3"),
    ],
)
def test_what_is_of_the_wrong_type_is_refused_in_a_sentence(store: Any, call: Any) -> None:
    refused(InvalidArgument, ".", lambda: call(store))


@pytest.mark.parametrize(
    "change",
    [
        {"items": None},
        {"level": "x"},
        {"level": 99},
        {"level": -1},
        {"levels": 7},
        {"levels": [{"of_leaf": [0, 1]}]},
        {"seconds": [1]},
        {"levels": [{"of_leaf": [0, 1], "stability": None, "gap": 1, "names": {}}], "level": 0, "main": 0},
        {"levels": [{"of_leaf": [0, 2], "stability": 1, "gap": 1, "names": {}}], "level": 0, "main": 0},
    ],
)
def test_a_run_without_what_it_should_say_is_damage_and_verify_says_so(path: Path, change: Any) -> None:
    with embedstore.open(path) as store:
        good = made(store, "found").made
        text = json.dumps({k: v for k, v in {**good, **change}.items() if change.get(k, 0) is not None})
    write(path, "UPDATE clusterings SET made = ?", text)
    with embedstore.open(path) as store:
        refused(embedstore.errors.StoreDamaged, "found", store.clustering)
        refused(embedstore.errors.StoreDamaged, "found", store.clusters)
        assert any("found" in text for text in store.verify().derived)


def test_a_leaf_that_the_clustering_has_not_is_damage(path: Path) -> None:
    write(path, "UPDATE labels SET leaf = 500")
    with embedstore.open(path) as store:
        refused(embedstore.errors.StoreDamaged, "found", store.clusters)
        assert any("found" in text for text in store.verify().derived)


def test_the_rim_is_none_of_the_exemplars(store: Any) -> None:
    for level in range(len(store.clustering().levels)):
        for exemplars in (1, 6, 14):
            for one in store.clusters(level=level, exemplars=exemplars, rim=3):
                assert not set(one.rim) & set(one.exemplars)


def test_traits_count_items_that_the_clustering_doesn_t_know(store: Any, path: Path) -> None:
    (path / "models" / f"{made(store, 'found').model}.safetensors").unlink()
    with embedstore.open(path) as fresh:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fresh.add(digits(COUNT, COUNT + 60))
        for one in fresh.clusters():
            for trait in one.traits:
                if trait.key == "label":
                    assert trait.inside + trait.outside == fresh.count(f"label = {trait.value}")
