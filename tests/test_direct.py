"""The short way of single queries: the same answers as brute force and as a batch, over tiers, tails and deletions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.config import StoreConfig
from embedstore.errors import DimensionMismatch, InvalidArgument, InvalidVector, StoreClosed, UnknownSpace
from embedstore.index import exact, inplace
from embedstore.index.tier import ordered
from embedstore.store import Store
from embedstore.truth import building, opening
from embedstore.types import Metric

FIRST, SECOND, TAIL, D = 3_000, 400, 50, 20
TOTAL = FIRST + SECOND + TAIL


def latents(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 3.0 * np.random.default_rng(99).normal(size=(12, D))
    return (centres[rng.integers(0, 12, count)] + rng.normal(size=(count, D))).astype(np.float32)


BASE = latents(TOTAL, 1)
BASE[100:120] = BASE[100]  # ties within a tier
BASE[[3_100, TOTAL - 1]] = BASE[100]  # and between tiers and the tail
QUERIES = np.concatenate([latents(60, 2), BASE[[100, 7, 3_050, TOTAL - 7]]])


def stored(path: Path, factory: str, metric: str = "l2") -> Store:
    """A store with two tiers and a tail, tiers loaded and ids known."""
    opening.create(path, StoreConfig(factory=factory, recall=0.97, tail_floats=(TAIL + 1) * D))
    store = Store(path)
    start = 0
    for count in (FIRST, SECOND, TAIL):
        stop = start + count
        store.add_vectors([f"i{i}" for i in range(start, stop)], BASE[start:stop], metric=metric)
        store.build()
        start = stop
    assert [tier.count for tier in store._view(None).tiers] == [FIRST, SECOND]
    store._searcher.engine.load(store._view(None))
    for query in QUERIES[:5]:
        store.search(query)
    return store


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 1e20])
@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("factory", ["IVF16,Flat", "HNSW16,Flat", "HNSW16,SQ8", "IVF16,SQ8", "Flat"])
def test_a_query_that_is_not_finite_is_refused_on_every_way(
    tmp_path: Path, factory: str, metric: str, value: float
) -> None:
    """In lists it isn't looked for: nothing is found, and then it is."""
    with stored(tmp_path / "n.store", factory, metric) as store:
        rng = np.random.default_rng(3)
        for number in range(20):
            query = QUERIES[number].copy()
            query[rng.choice(D, 1 + number % 3, replace=False)] = value
            with pytest.raises(InvalidVector, match=r"NaN or infinity|too long"):
                store.search(query)
            assert store.search(QUERIES[number]).ids == store.search(QUERIES[number : number + 1])[0].ids


def is_direct(store: Store, k: int = 10) -> bool:
    return store._searcher.engine.direct(store._view(None), k, None) is not None


def check(store: Store, gone: set[int], metric: str, least: float) -> None:
    live = np.array([i for i in range(TOTAL) if i not in gone])
    graph = "HNSW" in store._view(None).tiers[0].factory
    parsed = Metric.parse(metric)
    for k in (1, 10, 40):
        far, near = exact.search([(0, BASE)], QUERIES, k, parsed, among=live)
        batch = store.search(QUERIES, k)
        shares = []
        for index, query in enumerate(QUERIES):
            hits = store.search(query, k)
            numbers = np.array([int(name[1:]) for name in hits.ids])
            assert len({*numbers.tolist()}) == k
            assert np.isin(numbers, live).all()
            own = exact.distances(query[None], BASE[numbers][None], parsed)[0]
            np.testing.assert_allclose(hits.distances, own, rtol=1e-5, atol=1e-5)
            assert (np.lexsort((numbers, hits.distances)) == np.arange(k)).all(), "nearest first, ties by position"
            if not gone or not graph:  # a batch walks farther through a graph when some of its rows are gone
                np.testing.assert_allclose(hits.distances, batch[index].distances, rtol=1e-5, atol=1e-5)
            shares.append(np.mean(hits.distances <= far[index, -1] + 1e-4))
            assert [hit.id for hit in hits] == hits.ids  # metadata is that of the same rows
        assert np.mean(shares) >= least, k
        assert near.shape == (len(QUERIES), k)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(
    "factory", ["IVF16,Flat", "HNSW16,Flat", "HNSW16,SQ8", "PCA12,HNSW16,SQ8", "IVF16,SQ8", "Flat"]
)
def test_single_queries_find_what_brute_force_and_a_batch_find(tmp_path: Path, factory: str, metric: str) -> None:
    if factory.startswith("PCA") and metric == "ip":
        pytest.skip("inner products change when the mean is taken out")
    with stored(tmp_path / "d.store", factory, metric) as store:
        least = 1.0 if factory == "Flat" else 0.94
        tiers = [tier for tier in store._searcher.engine.loaded._tiers.values() if tier is not None]
        assert all((tier.beside is not None) is ("SQ8" in factory) for tier in tiers)
        assert is_direct(store)
        check(store, set(), metric, least)

        gone = {*range(0, FIRST, 9)}  # more than a few: lists are copied without them
        store.delete([f"i{i}" for i in gone])
        store.search(QUERIES[0])
        assert is_direct(store) is (factory == "IVF16,Flat")
        check(store, gone, metric, least)

        some = {5, 7, 100, 3_050, TOTAL - 3}  # few, and one of the tail
        store.delete([f"i{i}" for i in some])
        check(store, gone | some, metric, least)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("factory", ["IVF16,Flat", "HNSW16,SQ8", "Flat"])
def test_a_few_deleted_items_are_passed_over(tmp_path: Path, factory: str, metric: str) -> None:
    with stored(tmp_path / "d.store", factory, metric) as store:
        gone = {*range(100, 109), 7, 3_050, TOTAL - 7, TOTAL - 1}  # nine of them in one place
        store.delete([f"i{i}" for i in gone])
        store.search(QUERIES[0])
        assert is_direct(store)
        check(store, gone, metric, 1.0 if factory == "Flat" else 0.94)
        for query in QUERIES[:20]:  # of which the nearest are gone one by one
            nearest = store.search(query, 12).ids
            store.delete(nearest)
            gone |= {int(name[1:]) for name in nearest}
            assert not {*nearest} & {*store.search(query, 12).ids}
        check(store, gone, metric, 1.0 if factory == "Flat" else 0.94)


def test_lists_without_what_was_deleted_are_nothing_to_a_view_of_before(tmp_path: Path) -> None:
    with stored(tmp_path / "d.store", "IVF16,Flat") as store:
        engine, before = store._searcher.engine, store._view(None)
        store.delete([f"i{i}" for i in range(0, FIRST, 3)])
        store.search(QUERIES[0])
        assert min(tier.left / tier.count for tier in engine.loaded._tiers.values() if tier is not None) < 0.7
        assert engine.parts(before) is None
        answer = engine.search(before, QUERIES, 10)
        far, near = exact.search([(0, BASE)], QUERIES, 10, Metric.L2)
        assert (answer.positions == near).mean() > 0.95
        np.testing.assert_allclose(answer.distances, far, rtol=1e-4)
        assert engine.parts(store._view(None)) is not None


def test_more_deletions_are_left_out_as_they_come(tmp_path: Path) -> None:
    with stored(tmp_path / "d.store", "IVF16,Flat") as store:
        order, gone = np.random.default_rng(0).permutation(FIRST + SECOND), set()
        for start in range(0, 3_000, 600):
            fresh = set(order[start : start + 600].tolist())
            store.delete([f"i{i}" for i in fresh])
            gone |= fresh
            check(store, gone, "l2", 0.94)
            assert is_direct(store)


def test_a_tier_of_which_nothing_is_left_is_none(tmp_path: Path) -> None:
    with stored(tmp_path / "d.store", "IVF16,Flat") as store:
        gone = {*range(FIRST, FIRST + SECOND)}
        store.delete([f"i{i}" for i in gone])
        assert is_direct(store)
        check(store, gone, "l2", 0.94)
        store.delete([f"i{i}" for i in range(10, FIRST)])
        gone |= {*range(10, FIRST)}
        check_few = store.search(QUERIES[0], TOTAL)
        assert {*check_few.ids} == {f"i{i}" for i in range(TOTAL) if i not in gone}
        store.delete([f"i{i}" for i in range(FIRST)])
        assert len(store.search(QUERIES[0], TOTAL)) == TAIL


def test_what_an_older_commit_had_is_let_go(tmp_path: Path) -> None:
    with stored(tmp_path / "d.store", "HNSW16,SQ8") as store:
        store.search(QUERIES[0])
        store.search(QUERIES[0], 3)
        kept = store._searcher.engine._direct
        assert len(kept) == 2
        store.delete([f"i{i}" for i in range(0, FIRST, 2)])  # too many for the short way through a graph
        store.search(QUERIES[0])
        assert not store._searcher.engine._direct
        store.search(QUERIES[0]).stats["plan"]
    with stored(tmp_path / "e.store", "IVF16,Flat") as store:
        stats = store.search(QUERIES[0]).stats
        stats["plan"][0]["candidates"] = "mine"
        assert store.search(QUERIES[0]).stats["plan"][0]["candidates"] != "mine"


@pytest.mark.parametrize("dimension", [64, 40])
def test_a_query_that_is_no_bytes_gets_its_own_distances_from_vectors_that_are(tmp_path: Path, dimension: int) -> None:
    rng = np.random.default_rng(4)
    centres = rng.integers(60, 180, (12, dimension))
    bytes_ = np.clip(centres[rng.integers(0, 12, 2_000)] + rng.integers(-30, 30, (2_000, dimension)), 0, 255)
    bytes_ = bytes_.astype(np.float32)
    opening.create(tmp_path / "b.store", StoreConfig(factory="HNSW16,SQ8", recall=0.97, tail_floats=dimension))
    with Store(tmp_path / "b.store") as store:
        store.add_vectors([f"i{i}" for i in range(2_000)], bytes_)
        store.build()
        store._searcher.engine.load(store._view(None))
        [tier] = store._searcher.engine.loaded._tiers.values()
        assert tier is not None
        assert tier.held is not None
        for change in (0.0, 0.7, -0.25, 200.0, -70.0):
            queries = np.ascontiguousarray(bytes_[:20] + np.float32(change))
            batch = store.search(queries)
            for query, hits in zip(queries, batch, strict=True):
                for found in (hits, store.search(query)):
                    numbers = np.array([int(name[1:]) for name in found.ids])
                    own = exact.distances(query[None], bytes_[numbers][None], Metric.L2)[0]
                    np.testing.assert_allclose(found.distances, own, rtol=1e-5)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_a_flat_tier_answers_large_batches_without_cancellation(tmp_path: Path, metric: str) -> None:
    base = (100 + np.random.default_rng(5).normal(scale=0.01, size=(500, 64))).astype(np.float32)
    opening.create(tmp_path / "f.store", StoreConfig(factory="Flat", tail_floats=64))
    with Store(tmp_path / "f.store") as store:
        store.add_vectors([f"i{i}" for i in range(500)], base, metric=metric)
        store.build()
        store._searcher.engine.load(store._view(None))
        queries = np.tile(base[:50], (50, 1))
        hits = store.search(queries, 5)
        far, near = exact.search([(0, base)], queries, 5, Metric.parse(metric))
        np.testing.assert_array_equal([one.distances for one in hits], far)
        assert [one.ids for one in hits] == [[f"i{i}" for i in row] for row in near.tolist()]


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("value", [3e19, -3e19, 3e38, -3e38])
def test_a_query_too_long_for_float32_is_refused(tmp_path: Path, metric: str, value: float) -> None:
    with stored(tmp_path / "d.store", "IVF16,Flat", metric) as store:
        for query in (np.full(D, value, np.float32), [value] * D):
            with pytest.raises(InvalidVector, match="too long"):
                store.search(query)
        with pytest.raises(InvalidArgument):
            store.search(QUERIES[0], 100_001)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (np.full(D, np.nan, np.float32), InvalidVector),
        (np.array([np.inf] + [0] * (D - 1), np.float32), InvalidVector),
        (np.full(D, 3e19, np.float32), InvalidVector),
        (np.zeros(D + 1, np.float32), DimensionMismatch),
        (np.zeros(0, np.float32), Exception),
    ],
)
def test_what_can_t_be_searched_for_is_refused_as_always(tmp_path: Path, query: np.ndarray, error: type) -> None:
    with stored(tmp_path / "d.store", "HNSW16,SQ8") as store, pytest.raises(error) as caught:
        store.search(query)
    assert "Error" not in type(caught.value).__name__ or error is Exception


def test_other_kinds_of_arrays_and_arguments_mean_what_they_mean_elsewhere(tmp_path: Path) -> None:
    store = stored(tmp_path / "d.store", "IVF16,Flat")
    query = QUERIES[0]
    expected = store.search(query).ids
    wide = np.zeros(2 * D, np.float32)
    wide[::2] = query
    for same in (query.astype(np.float64), wide[::2], query[None][0], np.asfortranarray(query), query.tolist()):
        assert store.search(same).ids == expected
    assert store.search(query, np.int64(10)).ids == expected
    assert store.search(query, recall=0.97).ids == store.search(query, space="default").ids == expected
    assert store.search(query, recall=1.0).ids == store.search(query, exact=True).ids
    assert store.search(query[None])[0].ids == expected  # a batch of one is a batch
    assert len(store.search(query, TOTAL + 5)) == TOTAL
    bad: list[dict[str, Any]] = [{"k": True}, {"k": 0}, {"k": -1}, {"k": 2.0}, {"k": [3]}, {"recall": True}]
    for arguments in (*bad, {"recall": "1"}, {"recall": 0.0}, {"recall": float("nan")}):
        with pytest.raises(InvalidArgument):
            store.search(query, **arguments)
    with pytest.raises(UnknownSpace, match="no space is named 'other'"):
        store.search(query, space="other")
    store.close()
    with pytest.raises(StoreClosed):
        store.search(query)


def test_what_another_store_object_adds_and_deletes_is_seen_by_the_next_query(tmp_path: Path) -> None:
    with stored(tmp_path / "d.store", "IVF16,Flat") as reader, Store(tmp_path / "d.store") as writer:
        for number in range(4):
            writer.add_vectors([f"new{number}"], QUERIES[number : number + 1])
            assert reader.search(QUERIES[number]).ids[0] == f"new{number}"
            assert is_direct(reader)
            writer.delete(f"new{number}")
            assert f"new{number}" not in reader.search(QUERIES[number]).ids
            assert is_direct(reader)


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
def test_a_flat_index_sees_a_block_where_it_lies(metric: Metric) -> None:
    block = BASE.copy()
    index = inplace.flat(block, metric)
    block[17] = 100.0 * QUERIES[3]
    wanted = np.ascontiguousarray(block[17:18])
    values, labels = index.search(wanted, 5)
    assert labels[0, 0] == 17
    distances, positions = exact.search([(0, block)], wanted, 5, metric)
    found, order = ordered(values, labels, metric)
    np.testing.assert_array_equal(order, positions)
    np.testing.assert_allclose(found, distances, rtol=1e-5, atol=1e-3)
    block.flags.writeable = False
    held = inplace.flat(block[5:], metric)
    del block, index
    assert held.search(wanted, 1)[1].item() == 12  # the block lives as long as its index


@pytest.mark.parametrize("slow", [True, False])
def test_where_lists_are_slow_a_graph_is_tried(tmp_path: Path, slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedstore.index.build._EXACT_BYTES", 0)
    if slow:
        monkeypatch.setattr(building, "_SLOW_NS", 0.0)
        monkeypatch.setattr("embedstore.index.tune.cost", lambda index, value: 1.0 if hasattr(index, "hnsw") else 9e9)
    opening.create(tmp_path / "d.store", StoreConfig(tail_floats=D))
    with Store(tmp_path / "d.store") as store:
        store.add_vectors([str(i) for i in range(TOTAL)], BASE)
        store.build()
        [tier] = store._view(None).tiers
        assert tier.factory == ("HNSW32,SQ8" if slow else "IVF128,Flat")


def test_a_long_list_is_found_by_a_graph_or_a_scan_as_surely_as_a_short_one(tmp_path: Path) -> None:
    opening.create(tmp_path / "d.store", StoreConfig(factory="HNSW16,SQ8", recall=0.97, tail_floats=D))
    base = latents(9_000, 7)
    with Store(tmp_path / "d.store") as store:
        store.add_vectors([str(i) for i in range(len(base))], base)
        store.build()
        store._searcher.engine.load(store._view(None))
        for k in (100, 500, 1_500, 4_000):
            truth = exact.search([(0, base)], QUERIES[:10], k, Metric.L2)[1]
            for found in (store.search(QUERIES[:10], k), [store.search(query, k) for query in QUERIES[:10]]):
                shares = [
                    len({*map(int, hits.ids)} & {*near.tolist()}) / k for hits, near in zip(found, truth, strict=True)
                ]
                assert np.mean(shares) >= 0.95, k
        assert store.search(QUERIES[0], 4_000).stats["plan"] == "exact"
