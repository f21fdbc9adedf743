"""Choosing an index: by size and memory before anything is built, and by measurement on the store's own vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
from click.testing import CliRunner

import embedstore
from embedstore.cli.main import main
from embedstore.errors import InvalidArgument, StoreReadOnly
from embedstore.index import build, sizes
from embedstore.query import tuning
from embedstore.store import Store
from embedstore.truth.tiers import TierWarning
from embedstore.types import Metric

from .stores import refused

D = 16
COUNT = 6000
MB = 2**20


def clouds(count: int, seed: int = 0, dimension: int = D) -> np.ndarray:
    centres = np.random.default_rng(1).normal(0, 4, (20, dimension))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(0, 20, count)] + rng.normal(size=(count, dimension))).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(tuning, "_TIMED", 20)
    with embedstore.create(tmp_path / "t.store", recall=0.9) as made:
        made.add_vectors([f"i{i}" for i in range(COUNT)], clouds(COUNT))
        yield made


KINDS = ["HNSW32,SQ8", "HNSW16,Flat", "IVF64,SQ8", "IVF64,SQfp16", "IVF64,SQ4", "IVF64,Flat", "IVF64,RaBitQfs"]


@pytest.mark.parametrize("factory", [*KINDS, "IVF64,PQ32x4fs", "PCA32,IVF64,SQ8", "PCA32,HNSW16,SQ8"])
def test_the_size_of_an_index_is_known_before_it_is_built(factory: str) -> None:
    vectors = clouds(20_000, dimension=64)
    index = build.build([vectors], Metric.L2, factory)
    measured = len(faiss.serialize_index(index)) / len(vectors)
    assert sizes.per_vector(factory, 64) == pytest.approx(measured, rel=0.15)


def test_less_memory_takes_smaller_codes_and_never_a_larger_index() -> None:
    for count in (100_000, 1_000_000, 10_000_000):
        before = float("inf")
        for memory in (None, *(2.0**power * 100 * MB for power in range(8, -3, -1))):
            chosen = build.choose(count, 64, Metric.L2, memory=None if memory is None else int(memory))
            assert chosen is not None
            size = sizes.per_vector(chosen, 64)
            assert size <= before
            before = size
            if memory is not None and "RaBitQ" not in chosen:
                assert sizes.process(count, 64, size) <= memory
        assert "RaBitQ" in chosen
    assert build.choose(10_000_000, 64, Metric.L2, memory=2 * 2**30) == "IVF8192,SQ8"


def test_lists_are_left_open_in_a_factory_and_suit_the_number_of_vectors(tmp_path: Path) -> None:
    assert build.choose(1_000_000, 64, Metric.L2, "IVF*,SQ4") == "IVF2048,SQ4"
    assert build.choose(10_000, 64, Metric.L2, "PCA8,IVF*,Flat") == "PCA8,IVF256,Flat"
    with embedstore.create(tmp_path / "f.store", factory="IVF*,SQ8") as store:
        store.add_vectors([str(i) for i in range(140_000)], clouds(140_000, dimension=16))
        store.build()
        assert store.info()["spaces"][0]["tiers"][0]["factory"] == "IVF1024,SQ8"


def test_tuning_measures_and_builds_what_is_best_and_keeps_to_it(store: Store) -> None:
    report = store.tune()
    assert (report.vectors, report.measured, report.target, report.memory) == (COUNT, COUNT, 0.9, None)
    found = {one.factory: one for one in report.candidates}
    assert {"HNSW32,SQ8", "IVF*,SQ8", "IVF*,SQ4", "IVF*,RaBitQfs", "IVF*,PQ8x4fs", "exact"} <= found.keys()
    assert found["exact"].recall == 1
    for one in report.candidates:
        assert one.reached == (one.recall >= 0.9)
        assert one.queries_per_second > 0
        assert one.fits
        if one.factory != "exact":
            known = sizes.per_vector(one.factory, D)
            assert one.bytes_per_vector == pytest.approx(known, rel=0.6, abs=12)  # small lists leave room unused
    speeds = [one.queries_per_second for one in report.candidates]
    assert speeds == sorted(speeds, reverse=True)
    best = report.chosen
    assert best is not None
    good = [one for one in report.candidates if one.reached]
    assert best.queries_per_second >= 0.9 * max(one.queries_per_second for one in good)
    [tier] = store.info()["spaces"][0]["tiers"]
    assert tier["factory"] == build.sized(best.factory, COUNT)
    assert tier["vectors"] == COUNT
    path = store.path
    store.close()
    with embedstore.open(path) as again:
        assert again.config.factory == best.factory
        assert again.recall(sample=200).recall >= 0.88
        assert again.verify().derived == []


def test_a_dry_run_changes_nothing(store: Store) -> None:
    store.build()
    before = store.info()
    report = store.tune(memory=10**9, recall=0.8, apply=False)
    assert (report.target, report.memory) == (0.8, 10**9)
    assert store.info()["spaces"] == before["spaces"]
    assert store.config.recall == 0.9
    with embedstore.open(store.path, read_only=True) as reader:
        reader.tune(apply=False, rows=2000)
        refused(StoreReadOnly, "opened for reading", reader.tune)


def test_memory_bounds_what_is_chosen_and_holds_for_what_comes_later(store: Store) -> None:
    assert store.tune(memory=int(130.2 * MB)).chosen is None
    refused(InvalidArgument, "before it holds a single vector", lambda: store.tune(memory=10 * MB))
    assert store.config.memory is None
    report = store.tune(memory=400 * MB)
    assert report.chosen is not None
    assert report.chosen.memory <= 400 * MB
    assert store.config.memory == 400 * MB


def test_a_sample_is_measured_where_all_would_take_too_long(store: Store) -> None:
    report = store.tune(rows=2000, apply=False)
    assert (report.vectors, report.measured) == (COUNT, 2000)
    refused(InvalidArgument, "rows is 10", lambda: store.tune(rows=10))


def test_next_to_nothing_is_not_tuned(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "n.store") as store:
        store.add_vectors(list("abc"), clouds(3))
        refused(InvalidArgument, "20 vectors and more, and the space has 3", store.tune)


def test_the_command_prints_a_table_and_json(store: Store) -> None:
    path = str(store.path)
    store.close()
    done = CliRunner().invoke(main, ["tune", path, "--dry-run", "--memory", "1.5G", "--no-progress"])
    assert done.exit_code == 0, done.output
    assert "HNSW32,SQ8" in done.stdout
    assert done.stdout.count("chosen") == 1
    assert "measured with all 6,000 vectors" in done.stderr
    done = CliRunner().invoke(main, ["tune", path, "--dry-run", "--memory", "130.2M", "--json", "--no-progress"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["memory"] == int(130.2 * MB)
    assert "within that memory: at least 130." in done.stderr
    done = CliRunner().invoke(main, ["tune", path, "--memory", "much"])
    assert done.exit_code == 2
    assert "write 500M or 2G" in done.stderr


def test_what_a_sample_took_for_good_is_checked_over_all_vectors(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = tuning.Candidate("IVF*,PQ2x4fs", 0.95, True, 9e4, 9.0, 0.1, 10**8, True, True)
    fine = tuning.Candidate("IVF*,SQ8", 0.95, True, 8e4, 24.0, 0.1, 10**8, True)
    report = tuning.TuneReport("default", COUNT, 1000, 0.9, None, (coarse, fine))
    monkeypatch.setattr(tuning, "measure", lambda *_, **__: report)
    found = store.tune(rows=1000)
    assert [one.chosen for one in found.candidates] == [False, True]
    assert store.config.factory == "IVF*,SQ8"
    assert store.recall(sample=200).recall >= 0.88
    report = tuning.TuneReport("default", COUNT, 1000, 0.9, None, (coarse,))
    assert store.tune(rows=1000).chosen is None
    assert store.config.factory == "IVF*,SQ8"
    assert store.info()["spaces"][0]["tiers"][0]["factory"] == build.sized("IVF*,SQ8", COUNT)


def test_a_bound_that_cant_be_kept_is_said(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "b.store", memory=int(131 * MB)) as store:
        store.add_vectors([str(i) for i in range(140_000)], clouds(140_000))
        with pytest.warns(TierWarning, match=r"within 131 MiB no index is to be had: a search takes about 1\d\d MiB"):
            store.build()
        assert store.info()["memory"] == int(131 * MB)
