"""What a store is told when it is made: kinds of index, and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedstore
from embedstore.errors import InvalidArgument

from .stores import refused


@pytest.mark.parametrize("factory", ["", "nonsense", "HNSW32,,", "IVF", 3, "HNSW32,Nonsense"])
def test_a_factory_must_be_one_of_faiss(tmp_path: Path, factory: Any) -> None:
    refused(InvalidArgument, "FAISS", lambda: embedstore.create(tmp_path / "new.store", factory=factory))
    assert not (tmp_path / "new.store").exists()


@pytest.mark.parametrize(
    ("said", "meant"),
    [("2G", 2**31), ("1.5GiB", 3 * 2**29), ("500m", 500 * 2**20), (2**30, 2**30), ("200000000", 200_000_000)],
)
def test_an_amount_of_memory_is_a_number_or_a_text(tmp_path: Path, said: Any, meant: int) -> None:
    with embedstore.create(tmp_path / "m.store", memory=said) as store:
        assert store.info()["memory"] == meant


@pytest.mark.parametrize("said", ["", "2X", "-1", "much", True, 0, 1.5, "1e9"])
def test_what_is_no_amount_of_memory_is_refused(tmp_path: Path, said: Any) -> None:
    refused(
        InvalidArgument, "no amount of memory: write 500M or 2G", lambda: embedstore.create(tmp_path / "m", memory=said)
    )


@pytest.mark.parametrize(
    "factory",
    ["LSH", "NSG32", "IDMap,Flat", "IVF16,Flat,RFlat", "IVF0,Flat", "HNSW0,Flat", "HNSW1,SQ8", "PQ8", "nonsense"],
)
def test_a_kind_of_index_that_can_never_do_is_refused_before_there_are_vectors(tmp_path: Path, factory: str) -> None:
    said = refused(
        InvalidArgument, "name one such as", lambda: embedstore.create(tmp_path / "f.store", factory=factory)
    )
    assert "dimensions" not in said
    assert not (tmp_path / "f.store").exists()


@pytest.mark.parametrize(
    ("factory", "dimension"),
    [
        ("IVF8,PQ24", 96),
        ("IVF8,PQ48x4fs", 96),
        ("IVF8,PQ10x4", 20),
        ("OPQ8_32,IVF8,PQ8x4", 40),
        ("PCA30,HNSW16,SQ8", 40),
    ],
)
def test_a_kind_of_index_for_another_length_than_the_usual_is_built(
    tmp_path: Path, factory: str, dimension: int
) -> None:
    rows = np.random.default_rng(0).normal(size=(3_000, dimension)).astype(np.float32)
    with embedstore.create(tmp_path / "f.store", factory=factory, recall=0.1) as store:
        store.add_vectors([str(i) for i in range(len(rows))], rows)
        store.build()
        assert [tier["factory"] for tier in store.info()["spaces"][0]["tiers"]] == [factory]
        store._searcher.engine.load(store._view(None))
        for query in rows[:20] + np.float32(0.01):
            hits = store.search(query)
            own = np.sqrt(((rows[[int(name) for name in hits.ids]].astype(np.float64) - query) ** 2).sum(axis=1))
            np.testing.assert_allclose(hits.distances, own, rtol=1e-4)
