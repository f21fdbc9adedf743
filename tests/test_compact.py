"""Compact works beside readers and writers: the old index answers until the new one is named, and nothing is lost."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedstore
from embedstore.config import StoreConfig
from embedstore.errors import StoreDamaged
from embedstore.query import engine
from embedstore.store import Store
from embedstore.truth import building, opening

from .oracle import Oracle
from .pictures import noise
from .stores import D, add, assert_answers, filled, small_store, tier_files, vectors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "compact.store"


def delete(store: Store, oracle: Oracle, ids: list[str]) -> None:
    store.delete(ids)
    for name in ids:
        oracle.delete(name)


def while_it_builds(monkeypatch: pytest.MonkeyPatch, task: Callable[[], None]) -> None:
    """Do something once, after the new segments were written, and before their tier is."""
    make, done = building.make, []

    def after(*arguments: Any, **named: Any) -> building.Made:
        if not done:
            done.append(True)
            task()
        return make(*arguments, **named)

    monkeypatch.setattr(building, "make", after)


def plans_of(store: Store) -> list[Any]:
    return [store.search(query, 3).stats["plan"] for query in vectors(30, seed=5)]


def test_searches_keep_the_index_while_another_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_SCAN_NUMBERS", 0)  # an index is worth its while
    oracle, seen = filled(path, batches=1, rows=400), []
    with embedstore.open(path) as store, embedstore.open(path, read_only=True) as reader:
        delete(store, oracle, ["b0/1", "b0/2"])

        def ask() -> None:
            assert_answers(reader, oracle)
            seen.extend(plans_of(reader)[-1:])

        while_it_builds(monkeypatch, ask)
        report = store.compact()
        assert (report.dropped, report.built) == (2, 1)
        assert seen == ["index"]
        assert plans_of(reader)[-1] == "index"
        assert_answers(reader, oracle)
        assert store.info()["spaces"][0]["searched_exactly"] == 0
        assert store.verify().ok


def test_what_is_broken_off_leaves_the_store_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = filled(path)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with embedstore.open(path) as store:
        delete(store, oracle, ["b0/1", "b1/2"])
        files = {file.relative_to(path): file.read_bytes() for file in path.glob("*/*")}
        while_it_builds(monkeypatch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.compact()
        assert {file.relative_to(path): file.read_bytes() for file in path.glob("*/*")} == files
        assert store.info()["deleted_not_compacted"] == 2
        assert_answers(store, oracle)
        assert store.compact().dropped == 2
        assert_answers(store, oracle)
        assert store.verify().ok


@pytest.mark.parametrize("segment", [10**6, 20])
def test_what_is_written_meanwhile_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch, segment: int) -> None:
    """By another process: adds, updates of old items and new ones, deletions of all of them."""
    oracle = filled(path, rows=60, segment=segment)
    new = vectors(50, seed=77) + np.float32(0.5)
    with embedstore.open(path) as store, embedstore.open(path) as other:
        delete(store, oracle, [f"b0/{i}" for i in range(0, 60, 7)])

        def write() -> None:
            for names, rows in (
                ([f"new/{i}" for i in range(30)], new[:30]),
                (["b0/1", "b1/1", "new/3"], new[30:33]),
            ):
                other.add_vectors(names, rows, [{"n": i} for i in range(len(names))])
                for i, (name, row) in enumerate(zip(names, rows, strict=True)):
                    oracle.put(name, row, {"n": i})
            delete(other, oracle, ["b0/2", "b1/3", "new/4", "b1/1"])

        while_it_builds(monkeypatch, write)
        assert store.compact().dropped == 9
        assert store.verify().problems == []
        # What was deleted meanwhile is for the next one: four, and the three that were replaced.
        assert store.info()["deleted_not_compacted"] == 7
        assert_answers(store, oracle)
        assert_answers(other, oracle)
        assert store.count() == len(oracle.items) == len(set(store.ids()))
        assert store.compact().dropped == 7
        assert store.verify().problems == []
        assert_answers(store, oracle)
        for name in ("new/29", "b0/1", "b0/59"):
            np.testing.assert_array_equal(np.asarray(store.vector(name)), oracle.items[name][1])


def test_a_space_that_came_meanwhile_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = filled(path)
    with embedstore.open(path) as store:
        delete(store, oracle, ["b0/1"])
        while_it_builds(
            monkeypatch,
            lambda: store._writer.add_space(
                name="second", encoder="", fingerprint="", dimension=2, metric=embedstore.Metric.L2
            ),
        )
        store.compact()
        assert [space["name"] for space in store.info()["spaces"]] == ["default", "second"]
        assert_answers(store, oracle)


def test_a_named_kind_is_built_over_few_vectors_and_kept(path: Path) -> None:
    """Where a scan would do, too: whoever names a kind of index wants it."""
    oracle = Oracle()
    with small_store(path, tail=10**6, factory="Flat") as store:
        add(store, oracle, [f"a{i}" for i in range(900)], vectors(900, seed=1))
        assert tier_files(path) == []
        add(store, oracle, [f"b{i}" for i in range(200)], vectors(200, seed=2))
        assert covered(path) == [(0, 1100)]
        add(store, oracle, [f"c{i}" for i in range(1000)], vectors(1000, seed=3))
        assert covered(path) == [(0, 1100)]  # not for each block
        add(store, oracle, [f"d{i}" for i in range(200)], vectors(200, seed=4))
        assert covered(path) == [(0, 2300)]
        delete(store, oracle, [f"a{i}" for i in range(0, 900, 2)])
        store.compact()
        assert covered(path) == [(0, 1850)]
        assert assert_answers(store, oracle)[-1] != "exact"


def test_a_damaged_index_over_few_vectors_is_made_anew(path: Path) -> None:
    oracle = filled(path, tail=3)
    with embedstore.open(path) as store:
        store.config = store._writer.configure(embedstore.config.StoreConfig(factory="Flat"))  # due above 2 M numbers
        (file,) = tier_files(path)[:1]
        file.write_bytes(b"junk")
        assert "rebuilt (embedstore compact)" in store.verify().derived[0]
        assert store.compact().built == 1
        assert store.verify().derived == []
        assert assert_answers(store, oracle)[-1] != "exact"


def test_no_index_is_made_where_none_was_due(path: Path) -> None:
    with small_store(path, tail=10**6, factory=None) as store:
        store.add_vectors([str(i) for i in range(3000)], vectors(3000))
        store.delete(["7"])
        assert store.compact().built == 0
        assert tier_files(path) == []


def covered(path: Path) -> list[tuple[int, int]]:
    with sqlite3.connect(path / "store.db") as connection:
        return connection.execute("SELECT first, count FROM tiers ORDER BY first").fetchall()


def test_compact_of_a_damaged_segment_changes_nothing(path: Path) -> None:
    oracle = filled(path)
    with embedstore.open(path) as store:
        delete(store, oracle, ["b0/1"])
        (segment,) = path.glob("segments/*.vec")
        data = bytearray(segment.read_bytes())
        data[64 + D * 4 * 20] ^= 1
        segment.write_bytes(data)
        named = sorted(path.glob("*/*"))
        with pytest.raises(StoreDamaged, match="differ from what was committed"):
            store.compact()
        assert sorted(path.glob("*/*")) == named


def test_pictures_that_come_and_go_meanwhile_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New thumbnails, in a new segment, too; of items whose metadata changed, which keep theirs; and deleted ones."""
    shown = {f"{i:05d}": noise(seed=i) for i in range(40)}
    path = tmp_path / "p.store"
    opening.create(path, StoreConfig(segment_bytes=900, factory="Flat", tail_floats=10))
    with Store(path) as store, Store(path) as other:
        store.index(np.stack([shown[f"{i:05d}"] for i in range(30)]), encoder="pca", dimension=4, progress=False)
        store.delete(["00003", "00029"])

        def write() -> None:
            other.add([embedstore.Item(f"{i:05d}", picture=shown[f"{i:05d}"]) for i in range(30, 40)])
            other.update("00005", metadata={"x": 1})
            other.update("00031", metadata={"x": 2})
            other.update("00007", picture=shown["00008"])
            other.delete(["00009", "00033"])

        while_it_builds(monkeypatch, write)
        assert store.compact().dropped == 2
        for gone in ("00003", "00009", "00029", "00033"):
            shown.pop(gone)
        shown["00007"] = shown["00008"]
        for _ in range(2):
            assert store.verify().problems == []
            assert sorted(store.ids()) == sorted(shown)
            for name, image in zip(shown, store.images(list(shown)), strict=True):
                np.testing.assert_array_equal(np.asarray(image), shown[name])
            store.compact()
        assert sum(file.stat().st_size - 64 for file in path.glob("segments/*.thumb")) == len(shown) * 8 * 8 * 3


def test_what_was_written_is_not_given_up_for_a_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may hold it for longer than anybody's patience: a backup does."""
    oracle = filled(path, lock_seconds=0.05)
    with embedstore.open(path) as store, embedstore.open(path) as other:
        delete(store, oracle, ["b0/1"])
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with other._writer.frozen("making a backup"):
                held.set()
                done.wait(0.5)

        thread = threading.Thread(target=hold)

        def begin() -> None:
            thread.start()
            assert held.wait(10)

        while_it_builds(monkeypatch, begin)
        assert store.compact().dropped == 1
        thread.join()
        assert_answers(store, oracle)
        assert store.verify().ok
