"""Exact search against brute force in extended precision."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedstore.errors import InvalidArgument
from embedstore.index import exact
from embedstore.index.bindings import faiss
from embedstore.types import Metric

Array = Any


def brute_force(base: Array, query: Array, metric: Metric) -> Array:
    """Distances of one query to all rows, in extended precision."""
    wide, q = base.astype(np.longdouble), query.astype(np.longdouble)
    if metric is Metric.IP:
        return -(wide @ q)
    if metric is Metric.COSINE:
        wide = wide / np.sqrt((wide * wide).sum(axis=1))[:, None]
        q = q / np.sqrt((q * q).sum())
        return ((wide - q) ** 2).sum(axis=1) / 2
    return np.sqrt(((wide - q) ** 2).sum(axis=1))


def cut(base: Array, sizes: list[int]) -> list[tuple[int, Array]]:
    """Blocks of the given sizes, the last one taking what is left."""
    ends = [min(end, len(base)) for end in np.cumsum(sizes)] + [len(base)]
    return [(start, np.ascontiguousarray(base[start:end])) for start, end in zip([0, *ends], ends, strict=False)]


def require_exact(found: tuple[Array, Array], base: Array, queries: Array, k: int, metric: Metric, mask: Array) -> None:
    """Each answer is the true top k: rounded distances ascend, ties by position, and nothing nearer was left out."""
    allowed = np.flatnonzero(np.ones(len(base)) if mask is None else mask)
    assert found[0].shape == found[1].shape == (len(queries), k)
    assert found[0].dtype == np.float32
    assert found[1].dtype == np.int64
    for query, distance, position in zip(queries, *found, strict=True):
        true = brute_force(base, query, metric)
        count = min(k, len(allowed))
        assert (position[count:] == -1).all()
        assert np.isposinf(distance[count:]).all()
        distance, position = distance[:count], position[:count]
        assert set(position) <= set(allowed)
        assert len(set(position)) == count
        scale = 1e-6 * float(np.abs(true[allowed]).max(initial=0)) if metric is Metric.IP else 0.0
        np.testing.assert_allclose(distance, true[position].astype(np.float64), rtol=3e-7, atol=scale + 1e-30)
        assert list(zip(distance, position, strict=True)) == sorted(zip(distance, position, strict=True))
        expected = np.sort(true[allowed])[:count].astype(np.float64)
        np.testing.assert_allclose(distance, expected, rtol=3e-7, atol=scale + 1e-30)
        for row in set(allowed) - set(position):  # an identical vector at a lower position would have come first
            twins = position[(base[position] == base[row]).all(axis=1)]
            assert (twins < row).all()


@settings(deadline=None, max_examples=100)
@given(
    base=hnp.arrays(np.float32, st.tuples(st.integers(1, 60), st.just(3)), elements=st.integers(-3, 3)),
    queries=hnp.arrays(np.float32, st.tuples(st.sampled_from([1, 3, 21, 24]), st.just(3)), elements=st.integers(-3, 3)),
    sizes=st.lists(st.integers(0, 30), max_size=3),
    k=st.integers(1, 70),
    metric=st.sampled_from(Metric),
    seed=st.integers(0, 9),
    share=st.sampled_from([None, 0.0, 0.1, 0.5, 1.0]),
    with_norms=st.booleans(),
)
def test_search_equals_brute_force_with_ties_blocks_and_masks(
    base: Array,
    queries: Array,
    sizes: list[int],
    k: int,
    metric: Metric,
    seed: int,
    share: float | None,
    with_norms: bool,
) -> None:
    if metric is Metric.COSINE:  # zero vectors are refused before they are stored
        base[~base.any(axis=1)] = 1
        queries[~queries.any(axis=1)] = 1
    mask = None if share is None else (np.random.default_rng(seed).random(len(base)) < share).astype(np.uint8)
    blocks = cut(base, sizes)
    norms = [exact.norms(block) for _, block in blocks] if with_norms else None
    found = exact.search(blocks, queries, k, metric, among=None if mask is None else np.flatnonzero(mask), norms=norms)
    require_exact(found, base, queries, k, metric, mask)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("share", [None, 0.05, 0.9])
def test_search_is_exact_far_from_the_origin_where_matrix_products_cancel(
    metric: Metric, count: int, share: float | None
) -> None:
    rng = np.random.default_rng(1)
    base = (1e4 + 1e-2 * rng.standard_normal((3000, 48))).astype(np.float32)
    queries = (1e4 + 1e-2 * rng.standard_normal((count, 48))).astype(np.float32)
    mask = None if share is None else rng.random(3000) < share
    found = exact.search(
        cut(base, [1000, 700]), queries, 10, metric, among=None if mask is None else np.flatnonzero(mask)
    )
    require_exact(found, base, queries, 10, metric, mask)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-18, 1e18, 1e30])
@pytest.mark.parametrize("metric", [Metric.L2, Metric.COSINE])
@pytest.mark.parametrize("count", [2, 30])
def test_search_is_exact_where_squares_leave_the_range_of_float32(scale: float, metric: Metric, count: int) -> None:
    rng = np.random.default_rng(2)
    base = (scale * rng.standard_normal((400, 9))).astype(np.float32)
    queries = (scale * rng.standard_normal((count, 9))).astype(np.float32)
    found = exact.search([(0, base)], queries, 5, metric)
    for query, position in zip(queries, found[1], strict=True):
        assert position.tolist() == np.argsort(brute_force(base, query, metric))[:5].tolist()


def test_search_with_more_duplicates_than_the_padding_returns_the_lowest_positions() -> None:
    rng = np.random.default_rng(3)
    base = rng.standard_normal((2000, 32)).astype(np.float32)
    base[rng.permutation(2000)[:500]] = base[7]
    twins = np.flatnonzero((base == base[7]).all(axis=1))
    for queries in (base[7:8], np.repeat(base[7:8], 25, axis=0)):
        distance, position = exact.search(cut(base, [900]), queries, 20, Metric.L2)
        assert (distance == 0).all()
        assert (position == twins[:20]).all()


@pytest.mark.parametrize("metric", Metric)
def test_a_batch_answers_what_its_queries_answer_alone(metric: Metric) -> None:
    rng = np.random.default_rng(4)
    base = rng.standard_normal((5000, 40)).astype(np.float32) * rng.uniform(0.5, 2, (5000, 1)).astype(np.float32)
    queries = rng.standard_normal((64, 40)).astype(np.float32)
    blocks = cut(base, [1024, 3000])
    together = exact.search(blocks, queries, 15, metric)
    alone = [exact.search(blocks, query[None], 15, metric) for query in queries]
    np.testing.assert_array_equal(together[1], np.concatenate([position for _, position in alone]))
    np.testing.assert_array_equal(together[0], np.concatenate([distance for distance, _ in alone]))


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("count", [1, 7])
def test_rerank_orders_candidates_by_exact_distance_and_drops_missing_ones(metric: Metric, count: int) -> None:
    rng = np.random.default_rng(5)
    base = rng.standard_normal((100, 12)).astype(np.float32)
    queries = rng.standard_normal((count, 12)).astype(np.float32)
    candidates = np.stack([rng.permutation(100)[:8] for _ in range(count)])
    candidates[:, 5] = -1
    distance, position = exact.rerank(queries, candidates, 10, metric, lambda at: base[at])
    assert position.shape == (count, 10)
    for i, query in enumerate(queries):
        rows = candidates[i][candidates[i] >= 0]
        true = brute_force(base, query, metric)
        assert position[i].tolist() == [*rows[np.argsort(true[rows])].tolist(), -1, -1, -1]
        np.testing.assert_allclose(distance[i, :7], true[position[i, :7]].astype(np.float64), rtol=1e-6)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("dimension", [12, 16, 33, 128])
def test_rerank_in_single_precision_is_near_the_truth_and_the_same_alone_and_in_a_batch(
    metric: Metric, dimension: int
) -> None:
    rng = np.random.default_rng(7)
    base = (100 + rng.standard_normal((300, dimension))).astype(np.float32)
    queries = (100 + rng.standard_normal((9, dimension))).astype(np.float32)
    candidates = np.stack([rng.permutation(300)[:13] for _ in queries])
    candidates[2, 3] = -1
    distance, position = exact.rerank(queries, candidates, 12, metric, lambda at: base[at], single_precision=True)
    for i, query in enumerate(queries):
        true = brute_force(base, query, metric)[position[i]].astype(np.float64)
        np.testing.assert_allclose(distance[i], true, rtol=2e-6)
        row = candidates[i : i + 1]
        alone = exact.rerank(query[None], row, 12, metric, lambda at: base[at], single_precision=True)
        np.testing.assert_array_equal(distance[i : i + 1], alone[0])
        np.testing.assert_array_equal(position[i : i + 1], alone[1])


def test_rerank_without_any_candidate_answers_nothing() -> None:
    for count in (1, 3):
        queries, none = np.ones((count, 2), dtype=np.float32), np.full((count, 4), -1)
        distance, position = exact.rerank(queries, none, 2, Metric.L2, lambda at: np.ones((len(at), 2), np.float32))
        assert np.isposinf(distance).all()
        assert (position == -1).all()


def test_vectors_in_the_same_direction_are_at_cosine_distance_zero() -> None:
    base = np.array([[3, 1, 2], [6, 2, 4], [0.3, 0.1, 0.2], [1, 1, 1]], dtype=np.float32)
    distance, position = exact.search([(0, base[:2]), (2, base[2:])], 7 * base[:1], 3, Metric.COSINE)
    assert position.tolist()[0][:2] == [0, 1]
    assert distance[0, :2].tolist() == [0.0, 0.0]
    assert distance[0, 2] < 1e-12  # 0.3 and 0.1 are not exactly three to one in float32


def test_norms_are_right_at_any_magnitude() -> None:
    base = np.array([[3, 4], [3e-30, 4e-30], [3e30, 4e30], [0, 0]], dtype=np.float32)
    np.testing.assert_allclose(exact.norms(base), [5, 5e-30, 5e30, 0], rtol=1e-6)


def test_search_reads_a_memory_mapped_file(tmp_path: Any) -> None:
    base = np.random.default_rng(6).standard_normal((500, 8)).astype(np.float32)
    base.tofile(tmp_path / "vectors")
    mapped = np.memmap(tmp_path / "vectors", np.float32, "r", shape=base.shape)
    for queries in (base[:2], base[:30]):
        assert exact.search([(0, mapped)], queries, 1, Metric.L2)[1][:, 0].tolist() == list(range(len(queries)))


def test_search_of_nothing_is_padding() -> None:
    for blocks in ([], [(0, np.empty((0, 4), dtype=np.float32))]):
        for count in (0, 2, 25):
            distance, position = exact.search(blocks, np.ones((count, 4), dtype=np.float32), 3, Metric.IP)
            assert distance.shape == (count, 3)
            assert np.isposinf(distance).all()
            assert (position == -1).all()


def test_k_below_one_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="k must be at least 1, not 0"):
        exact.search([], np.ones((1, 4), dtype=np.float32), 0, Metric.L2)


def test_an_exact_batch_changes_nothing_for_others() -> None:
    """FAISS's bound for products is the process's: a search beside it would take values that have lost digits."""
    seen, stop = [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.append(int(faiss.cvar.distance_compute_blas_threshold))

    before = int(faiss.cvar.distance_compute_blas_threshold)
    base = np.random.default_rng(0).normal(size=(5_000, 64)).astype(np.float32)
    thread = threading.Thread(target=look)
    thread.start()
    for count in (10, 100, 600, 2_500):
        exact.search([(0, base)], base[:count], 10, Metric.L2)
    stop.set()
    thread.join()
    assert set(seen) == {before}


@pytest.mark.parametrize("count", [9, 10, 499, 500, 501, 1_999, 2_000, 2_001])
@pytest.mark.parametrize("metric", list(Metric))
def test_batches_that_are_padded_to_make_products_answer_as_single_queries_do(count: int, metric: Metric) -> None:
    rng = np.random.default_rng(count)
    base = rng.normal(size=(300, 64)).astype(np.float32)
    base[50] = base[10]
    queries = np.concatenate([base, rng.normal(size=(max(0, count - 300), 64)).astype(np.float32)])[:count]
    far, near = exact.search([(0, base)], queries, 7, metric)
    assert far.shape == near.shape == (count, 7)
    for index in rng.choice(count, 9, replace=False):
        one = exact.search([(0, base)], queries[index : index + 1], 7, metric)
        np.testing.assert_array_equal(near[index], one[1][0])
        np.testing.assert_array_equal(far[index], one[0][0])
