"""Discovery beside other writers: what a filter means, and what a question answered late may delete."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.models import agreement, labelling

from .clustered import copy


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(tmp_path_factory, "races")


def test_a_delete_by_cluster_means_the_clusters_of_its_own_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it waits for the lock, another writer makes the clustering again: its numbers then mean other items."""
    monkeypatch.setattr(labelling, "FEWEST_STEPS", 60)  # it doesn't wait forever
    monkeypatch.setattr(agreement, "FEWEST_STEPS", 20)
    with embedstore.open(path) as first, embedstore.open(path) as second:
        lock = first._writer.locked("keeping another one waiting")
        failures: list[BaseException] = []
        deleted: list[int] = []

        def delete() -> None:
            try:
                deleted.append(second.delete(where="cluster = 0"))
            except BaseException as error:
                failures.append(error)

        with lock:
            thread = threading.Thread(target=delete)
            thread.start()
            thread.join(0.3)
            assert thread.is_alive(), "it waits"
            first.cluster(4, name="found", assign_noise=True, seed=3)
            meant = set(first.ids("cluster = 0"))
            before = set(first.ids())
        thread.join(60)
        assert failures == []
        assert deleted == [len(meant)]
        assert set(first.ids()) == before - meant


def test_a_run_made_again_has_an_id_that_none_had(path: Path) -> None:
    """Or a filter compiled for the old one would silently select by the new one's labels."""
    with embedstore.open(path) as store:
        seen = []
        for seed in range(3):
            store.cluster(name="found", seed=seed)
            with store._database.read() as connection:
                seen += [number for (number,) in connection.execute("SELECT id FROM clusterings")]
        assert len(set(seen)) == 3


def test_names_outlive_another_fit(path: Path) -> None:
    with embedstore.open(path) as store:
        levels = store.clustering().levels
        for level in range(len(levels)):
            store.name_cluster(0, f"first of {level}", level=level)
        own = {level: set() for level in range(len(levels))}
        for level in own:
            store.use_clustering("found", level=level)
            own[level] = set(store.ids("cluster = 0"))
        again = store.cluster(name="found", seed=0)
        kept = {name: (level, number) for level, one in enumerate(again.levels) for number, name in one.names.items()}
        assert len(kept) == len(levels), "the same seed finds the same"
        for name, (level, number) in kept.items():
            store.use_clustering("found", level=level)
            new = set(store.ids(f"cluster = {number}"))
            old = own[int(name.split()[-1])]
            assert len(new & old) > len(new | old) / 2
        assert all(one.names == {} for one in store.cluster(2, name="other").levels), "of its own name alone"


def test_duplicates_are_deleted_as_they_were_scanned(tmp_path: Path) -> None:
    """While somebody thinks about it, another process deletes one group's keeper, and changes another one's copy."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4, 6)).astype(np.float32)
    path = tmp_path / "d.store"
    with embedstore.create(path) as store:
        store.add_vectors([f"a{i}" for i in range(4)], vectors)
        store.add_vectors([f"b{i}" for i in range(4)], vectors)
        found = store.duplicates()
        assert sorted(group.ids for group in found.groups) == [(f"a{i}", f"b{i}") for i in range(4)]
        with embedstore.open(path) as other:
            other.delete(["a0"])
            other.update("b1", vector=-vectors[1])
        assert store.delete_duplicates(found) == 2
        assert store.ids() == ["a1", "a2", "a3", "b0", "b1"]
        assert store.delete_duplicates(found) == 0
