"""Tiers are built behind the caller's back: nothing waits for them, nothing is lost with them, answers stay exact."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.errors import StoreBusy
from embedstore.index import build
from embedstore.store import Store
from embedstore.truth import builder
from embedstore.truth.tiers import TierWarning

from .oracle import Oracle
from .stores import D, assert_answers, in_process, refused, small_store, tier_files, vectors


def put(store: Store, oracle: Oracle, count: int, seed: int = 0) -> None:
    """Add so many, and leave the rest to the store."""
    ids, rows = [f"{seed}/{i}" for i in range(count)], vectors(count, seed=seed)
    store.add_vectors(ids, rows)
    for name, row in zip(ids, rows, strict=True):
        oracle.put(name, row, {})


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "b.store"


def test_a_tier_comes_by_itself_once_nothing_is_added(path: Path) -> None:
    oracle = Oracle()
    with small_store(path, tail=10) as store:
        put(store, oracle, 30)
        assert tier_files(path) == []
        assert_answers(store, oracle)
        wait_for(lambda: len(tier_files(path)) == 1)
        wait_for(lambda: store.info()["spaces"][0]["searched_exactly"] == 0)
        assert assert_answers(store, oracle)[-1] != "exact"


def test_a_load_of_many_blocks_is_built_once(path: Path) -> None:
    oracle = Oracle()
    with small_store(path, tail=10) as store:
        for seed in range(12):
            put(store, oracle, 20, seed)
            time.sleep(0.05)
        assert tier_files(path) == []
    assert [file.name for file in tier_files(path)] == ["000002.faiss"]
    with embedstore.open(path) as store:
        assert store.info()["spaces"][0]["tiers"][0]["vectors"] == 240
        assert_answers(store, oracle)


def test_a_long_pause_between_blocks_makes_it_wait_longer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_QUIET", 0.05)
    with small_store(path, tail=1000) as store:
        for seed in range(4):
            put(store, Oracle(), 300, seed)
            time.sleep(0.3)  # three pauses are longer than this
        assert tier_files(path) == []
        wait_for(lambda: len(tier_files(path)) == 1)


def test_it_begins_at_last_though_adds_go_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_PATIENCE", 0.3)
    oracle = Oracle()
    with small_store(path, tail=10) as store:
        for seed in range(200):
            put(store, oracle, 20, seed)
            if tier_files(path):
                break
            time.sleep(0.02)
        assert tier_files(path)
        assert_answers(store, oracle)


def test_adds_and_deletes_go_on_while_it_builds_and_a_compact_makes_it_void(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    original = build.write

    def write(*arguments: object) -> None:
        entered.set()
        assert leave.wait(20)
        original(*arguments)

    oracle = Oracle()
    with small_store(path, tail=10) as store:
        monkeypatch.setattr(build, "write", write)
        put(store, oracle, 30)
        assert entered.wait(20)
        put(store, oracle, 5, seed=1)
        assert store.delete(["0/3"]) == oracle.delete("0/3") == 1
        assert_answers(store, oracle)
        threading.Timer(0.3, leave.set).start()
        assert store.compact().dropped == 1
        monkeypatch.undo()
        assert_answers(store, oracle)
        assert store.verify().derived == []
        [tier] = store.info()["spaces"][0]["tiers"]
        assert tier["vectors"] == 34
        assert len(tier_files(path)) == 1


def test_two_processes_never_build_at_once(path: Path) -> None:
    oracle = Oracle()
    code = """
        import sys
        from pathlib import Path
        from embedstore.durable import only_one
        with only_one(Path(sys.argv[1])) as alone:
            print(alone, flush=True)
            sys.stdin.readline()
    """
    with small_store(path, tail=10, lock_seconds=0.2) as store:
        other = in_process(code, path / "tiers", wait=False)
        assert other.stdout.readline() == "True\n"
        put(store, oracle, 30)
        time.sleep(1.0)
        assert tier_files(path) == []
        refused(StoreBusy, "index of .* is being built by another process or thread", store.build)
        refused(StoreBusy, "index of .* is being built by another process or thread", store.compact)
        begun = time.monotonic()
        report = store.index(np.full((2, D), 0.5, dtype=np.float32), vectors=True, progress=False)
        assert time.monotonic() - begun < 5.0  # its patience is longer: whoever only adds doesn't wait
        assert report.added == 2
        assert "the index is being built by another process or thread" in report.notes[-1]
        store.delete([name for name in store.ids() if "/" not in name])
        other.communicate("\n")
        store.build()  # or the thread, which has been waiting for it
        assert len(tier_files(path)) == 1
        assert_answers(store, oracle)


def test_what_breaks_off_leaves_nothing_and_the_next_writer_builds_it(path: Path) -> None:
    oracle = Oracle()
    with pytest.raises(KeyboardInterrupt), small_store(path, tail=10) as store:  # noqa: PT012 - in the midst of it
        put(store, oracle, 30)
        raise KeyboardInterrupt
    assert list((path / "tiers").iterdir()) == []
    with embedstore.open(path) as store:
        assert_answers(store, oracle)
        put(store, oracle, 1, seed=2)
    assert len(tier_files(path)) == 1
    with embedstore.open(path) as store:
        assert_answers(store, oracle)


def test_a_process_that_never_closes_ends_whole(path: Path) -> None:
    code = """
        import sys, numpy as np, embedstore
        store = embedstore.create(sys.argv[1])
        store.add_vectors([str(i) for i in range(40000)], np.random.default_rng(0).normal(size=(40000, 64)))
        import time; time.sleep({})
    """
    for number, pause in enumerate((0.0, 0.6)):
        script = "\n".join(line[8:] for line in code.format(pause).splitlines())
        done = subprocess.run(
            [sys.executable, "-c", script, str(path.with_name(f"{number}.store"))], capture_output=True, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, b"")
        with embedstore.open(path.with_name(f"{number}.store")) as store:
            assert len(store) == 40_000
            assert store.verify().ok


def test_a_build_that_fails_is_said_and_answers_stay_exact(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = Oracle()
    with small_store(path, tail=30, factory="IVF64,Flat") as store:
        put(store, oracle, 40)
        with pytest.warns(TierWarning, match="can't be trained"):
            store._builder.settle()
        assert_answers(store, oracle)
    with embedstore.open(path) as store:
        assert_answers(store, oracle)


def test_a_watch_ends_a_build_between_two_steps() -> None:
    steps = []

    def watch() -> int:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return 1

    with pytest.raises(KeyboardInterrupt):
        build.build([np.ones((1 << 21, 8), np.float32)], embedstore.types.Metric.L2, "SQ8", watch=watch)
    assert len(steps) == 3


def test_duplicates_that_trap_a_graph_are_put_into_lists(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(9000, 24)).astype(np.float32)
    rows = rng.permutation(np.concatenate([base, np.repeat(base[:12], 1500, axis=0)]))
    ids = [str(i) for i in range(len(rows))]
    with embedstore.create(tmp_path / "d.store", recall=0.9) as store:
        store.config = store._writer.configure(dataclasses.replace(store.config, tail_floats=1))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build, "_EXACT_BYTES", 0)
            store.add_vectors(ids, rows)
            store.build()
        [tier] = store.info()["spaces"][0]["tiers"]
        assert tier["factory"].startswith("IVF")
        assert tier["recall"] >= 0.9
        assert store.recall(sample=300).recall >= 0.88
        hits = store.search(base[3] + np.float32(1e-3), 10)
        assert (rows[[int(name) for name in hits.ids]] == base[3]).all()
