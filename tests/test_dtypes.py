"""Vectors kept as float16 and int8: what is lost is bounded and said, and all the rest is exact for what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import embedstore
from embedstore.config import StoreConfig
from embedstore.errors import InvalidArgument, StoreDamaged
from embedstore.index import exact
from embedstore.store import Store
from embedstore.truth import opening
from embedstore.types import Dtype, Metric
from embedstore.vectors import coding

from .stores import refused

D = 12
LOSSY = [Dtype.FLOAT16, Dtype.INT8]
numbers = st.floats(-1e4, 1e4, width=32)
matrices = arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 17)), elements=numbers)


def rows(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, D)) * rng.uniform(0.1, 30, size=(count, 1))).astype(np.float32)


@given(matrices)
def test_each_number_is_off_by_no_more_than_is_promised(vectors: np.ndarray) -> None:
    assert np.array_equal(coding.kept(vectors, Dtype.FLOAT32), vectors)
    half = coding.kept(vectors, Dtype.FLOAT16)
    assert (np.abs(half - vectors) <= np.maximum(np.abs(vectors) * 2.0**-11, 2.0**-25)).all()
    eighth = coding.kept(vectors, Dtype.INT8)
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    assert (np.abs(eighth - vectors) <= largest / 254 * (1 + 1e-3) + 1e-38).all()


@given(matrices, st.sampled_from(list(Dtype)))
def test_what_is_kept_stays_as_it_is(vectors: np.ndarray, dtype: Dtype) -> None:
    raw = coding.encode(vectors, dtype)
    assert raw.shape == (len(vectors), dtype.row_bytes(vectors.shape[1]))
    once = coding.decode(raw, dtype)
    assert np.allclose(coding.kept(once, dtype), once, rtol=1e-6, atol=1e-30)
    lazy = coding.CodedRows(raw, dtype, vectors.shape[1])
    assert (len(lazy), lazy.shape, lazy.size) == (len(vectors), vectors.shape, vectors.size)
    assert np.array_equal(lazy[1:3], once[1:3])
    assert np.array_equal(lazy[np.array([0, 0])], once[[0, 0]])
    assert np.array_equal(np.asarray(lazy), once)


@pytest.mark.parametrize("factory", [None, "HNSW16,SQ8", "IVF16,SQ8"])
@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("dtype", LOSSY)
def test_answers_are_exact_for_what_is_kept(tmp_path: Path, dtype: Dtype, metric: Metric, factory: str | None) -> None:
    given_, more, queries = rows(1500), rows(200, seed=1), rows(30, seed=2)
    path = tmp_path / "s.store"
    opening.create(path, StoreConfig(dtype=dtype.value, factory=factory, tail_floats=1000 * D, segment_bytes=9000))
    with Store(path) as store:
        report = store.add_vectors(
            [f"a{i}" for i in range(1500)], given_, [{"n": i} for i in range(1500)], metric=metric
        )
        [note] = report.notes
        assert note.startswith(f"kept as {dtype.value}, vectors moved by 0.")
        store.build()
        store.add_vectors([f"b{i}" for i in range(200)], more, [{"n": i} for i in range(200)])
        store.delete([f"a{i}" for i in range(0, 1500, 7)])
        live = [i for i in range(1700) if i >= 1500 or i % 7]
        for compacted in (False, True):
            if compacted:
                assert store.compact().dropped == 215
            whole = coding.kept(np.concatenate([given_, more]), dtype)
            assert np.array_equal(store.vector("a5").vector, whole[5])
            for where, kept in ((None, live), ("n < 40", [i for i in live if i < 40 or 1500 <= i < 1540])):
                among = np.array(kept)
                distances, found = exact.search([(0, whole)], queries, 8, metric, among=among)
                for few in (queries[:3], queries):
                    for i, hits in enumerate(store.search(few, 8, where, exact=True)):
                        assert hits.ids == [f"a{n}" if n < 1500 else f"b{n - 1500}" for n in found[i].tolist()]
                        assert hits.distances.tolist() == distances[i].tolist()
                for i, query in enumerate(queries):
                    hits = store.search(query, 8, where)
                    assert np.mean(hits.distances <= distances[i, -1] * (1 + 1e-5) + 1e-5) >= 0.7
            assert store.verify().ok
        if factory is not None:
            report = store.recall(sample=200)
            assert report.recall >= 0.97
    with embedstore.open(path, read_only=True) as store:
        assert store.info()["spaces"][0]["dtype"] == dtype.value
        store.backup(tmp_path / "copy")
    with embedstore.open(tmp_path / "copy") as copy:
        assert np.array_equal(copy.vector("b3").vector, whole[1503])
        assert copy.verify().ok


def test_a_store_of_half_the_numbers_takes_half_the_room(tmp_path: Path) -> None:
    sizes = {}
    for dtype in Dtype:
        with embedstore.create(tmp_path / dtype.value, dtype=dtype) as store:
            store.add_vectors([str(i) for i in range(1000)], rows(1000))
        sizes[dtype] = sum(file.stat().st_size for file in (tmp_path / dtype.value / "segments").iterdir()) - 64
    assert sizes == {Dtype.FLOAT32: 48_000, Dtype.FLOAT16: 24_000, Dtype.INT8: 16_000}


def test_what_a_dtype_cant_keep_is_listed_and_the_rest_is_kept(tmp_path: Path) -> None:
    vectors = rows(4)
    vectors[1] = 1e6  # beyond float16
    vectors[2] = 1e-9  # rounds to zero, which has no direction
    with embedstore.create(tmp_path / "h.store", dtype="float16") as store:
        report = store.add_vectors(list("abcd"), vectors, metric="cosine")
        assert report.added == 2
        assert sorted(failure.id for failure in report.failures) == ["b", "c"]
        assert all("float16: scale it" in failure.reason for failure in report.failures)
        assert store.ids() == ["a", "d"]


def test_an_unknown_dtype_is_refused_and_another_header_is_damage(tmp_path: Path) -> None:
    refused(InvalidArgument, "unknown dtype 'float8'", lambda: embedstore.create(tmp_path / "x", dtype="float8"))
    with embedstore.create(tmp_path / "h.store", dtype="float16") as store:
        store.add_vectors(["a"], rows(1))
    [segment] = (tmp_path / "h.store" / "segments").iterdir()
    content = bytearray(segment.read_bytes())
    content[16] = 2
    segment.write_bytes(content)
    with embedstore.open(tmp_path / "h.store") as store:
        assert "header differs" in store.verify().problems[0]
        refused(StoreDamaged, "header differs", lambda: store.search(rows(1)[0]))
