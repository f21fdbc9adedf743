"""Tiers renewed under searches, builds under forks, and settings that a failed build leaves alone."""

from __future__ import annotations

import dataclasses
import multiprocessing
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.errors import StoreBusy
from embedstore.index import exact
from embedstore.metadata import items
from embedstore.query import tuning
from embedstore.store import Store
from embedstore.truth import builder
from embedstore.types import Metric

from .stores import in_process

D, COUNT = 16, 12_000


def latents(count: int, seed: int = 0) -> np.ndarray:
    centres = np.random.default_rng(1).normal(0, 3, (30, D))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(0, 30, count)] + rng.normal(size=(count, D))).astype(np.float32)


def renew(store: Store, factory: str) -> None:
    store._writer.config = store.config = store._writer.configure(dataclasses.replace(store.config, factory=factory))
    store._builder.now(renew=True)


KINDS = ["IVF64,SQ8", "PCA8,IVF32,SQ8", "HNSW16,SQ8", "IVF32,Flat", "exact", "IVF16,SQ8"]


@pytest.mark.parametrize("where", [None, "u < 0.5"])
def test_what_was_packed_for_a_tier_is_nothing_to_the_next(tmp_path: Path, where: str | None) -> None:
    """Deletions and a filter leave few rows, whose codes are kept packed: over another index they'd be garbage."""
    rows, queries = latents(COUNT), latents(25, seed=3)
    u = np.random.default_rng(2).random(COUNT)
    with embedstore.create(tmp_path / "r.store", factory=KINDS[-1], recall=0.9) as writer:
        writer.add_vectors([str(i) for i in range(COUNT)], rows, [{"u": float(value)} for value in u])
        writer.build()
        writer.delete([str(i) for i in range(COUNT) if i % 5])
        live = np.array([i for i in range(0, COUNT, 5) if where is None or u[i] < 0.5])
        truth = exact.search([(0, rows)], queries, 10, Metric.L2, among=live)[0]
        with embedstore.open(tmp_path / "r.store", read_only=True) as reader, pytest.MonkeyPatch.context() as patch:
            patch.setattr("embedstore.query.engine._SCAN_NUMBERS", 0)
            for factory in KINDS:
                for store in (reader, writer):
                    store._searcher.engine.load(store._view(None))
                    for _ in range(2):
                        found = [store.search(query, 10, where).distances for query in queries]
                        last = truth[:, -1] * (1 + 1e-5)
                        close = [np.mean(one <= most) for one, most in zip(found, last, strict=True)]
                        assert np.mean(close) >= 0.85, factory
                renew(writer, factory)


def test_a_chosen_exact_search_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_kinds", lambda *_: iter(["IVF*,RaBitQfs"]))
    monkeypatch.setattr(tuning, "_speed", lambda ask, queries: 1.0 + (len(queries) == tuning._SCANS))
    with embedstore.create(tmp_path / "e.store", factory="IVF16,SQ8") as store:
        store.add_vectors([str(i) for i in range(COUNT)], latents(COUNT))
        store.build()
        report = store.tune()
        assert report.chosen is not None
        assert report.chosen.factory == "exact"
        assert store.info()["spaces"][0]["tiers"] == []
        store.add_vectors([str(i) for i in range(COUNT, 400_000, 30)], latents(12_934, seed=4))
    with embedstore.open(tmp_path / "e.store") as store:
        assert store.info()["spaces"][0]["tiers"] == []
        assert store.search(latents(1)[0]).stats["plan"] == "exact"
    with embedstore.create(tmp_path / "x.store", factory="exact") as store:
        assert store.config.factory == "exact"


def test_a_tune_that_breaks_off_leaves_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    with embedstore.create(tmp_path / "t.store") as store:
        store.add_vectors([str(i) for i in range(COUNT)], latents(COUNT))
        before = store.config
        monkeypatch.setattr(tuning, "_kinds", lambda *_: iter(["IVF*,SQ8", "IVF*,SQ4"]))
        with monkeypatch.context() as patch:
            patch.setattr(builder, "build_tier", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.tune(recall=0.8)
        assert store.config == store._writer.config == before
        assert store.info()["recall_target"] == 0.99
        store.tune(recall=0.8)
        assert store.info()["recall_target"] == 0.8
    with embedstore.open(tmp_path / "t.store") as store:
        assert store.config.recall == 0.8


def test_an_index_run_beside_anothers_build_keeps_its_report(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from embedstore.durable import only_one
        with only_one(Path(sys.argv[1])):
            print("held", flush=True)
            sys.stdin.readline()
    """
    with embedstore.create(tmp_path / "i.store") as store:
        other = in_process(code, tmp_path / "i.store" / "tiers", wait=False)
        assert other.stdout.readline() == "held\n"
        store._writer.config = dataclasses.replace(store.config, lock_seconds=0.2, tail_floats=1)
        report = store.index([embedstore.Item(str(i), vector=row) for i, row in enumerate(latents(50))], progress=False)
        assert report.added == 50
        assert any("being built by another process" in note for note in report.notes)
        other.communicate("\n")


def _sleeping(ready: object) -> None:
    ready.set()  # type: ignore[attr-defined]
    time.sleep(30)


def test_a_process_forked_during_a_build_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = threading.Event(), threading.Event()
    original = builder.build_tier

    def slow(*arguments: object, **named: object) -> bool:
        entered.set()
        assert leave.wait(20)
        return original(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builder, "build_tier", slow)
    with embedstore.create(tmp_path / "f.store", factory="Flat") as store:
        store._writer.config = dataclasses.replace(store.config, lock_seconds=0.5, tail_floats=1)
        store.add_vectors([str(i) for i in range(50)], latents(50))
        assert entered.wait(20)
        context = multiprocessing.get_context("fork")
        ready = context.Event()
        child = context.Process(target=_sleeping, args=(ready,))
        child.start()
        try:
            assert ready.wait(20)
            leave.set()
            store._builder.settle()
            store.add_vectors(["more"], latents(1))
            store.build()  # and not: is being built by another process
            assert store.info()["spaces"][0]["searched_exactly"] == 0
            store.compact()
        except StoreBusy:
            pytest.fail("the forked process holds a lock")
        finally:
            child.kill()
            child.join()


def test_a_thread_that_cant_start_leaves_the_store_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with embedstore.create(tmp_path / "n.store", factory="Flat") as store:
        store._writer.config = dataclasses.replace(store.config, tail_floats=1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            store.add_vectors([str(i) for i in range(50)], latents(50))
        assert store.build() == 1


def test_metadata_of_many_and_long_texts_is_never_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "_SOME", 7)
    with embedstore.create(tmp_path / "m.store") as store:
        store.add_vectors([str(i) for i in range(100)], latents(100), [{"text": "ä" * 100}] * 100)
        size = len('{"text":""}') + 200
        with store._database.read() as connection:
            for after in (0, 13):
                total = size * (100 - after)
                assert items.more_metadata_than(connection, total - 1, after)
                assert not items.more_metadata_than(connection, total, after)
        monkeypatch.setattr("embedstore.query.search._METADATA_BYTES", 1000)
        monkeypatch.setattr(items, "texts", None)
        assert [store._searcher.read_metadata(np.array([5]))[0]["text"] for _ in range(9)] == ["ä" * 100] * 9
