"""Bounds from a few numbers of each row: nothing near is ever overlooked, and little else is looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.config import StoreConfig
from embedstore.index import bounds, exact, inplace
from embedstore.index.bounds import Bounds
from embedstore.store import Store
from embedstore.truth import opening
from embedstore.truth.building import Stretch, build_tier
from embedstore.types import Metric

METRICS = st.sampled_from([Metric.L2, Metric.IP])


def rows(count: int, dimension: int, seed: int) -> np.ndarray:
    """Around some centres, and longer along some directions than along others."""
    rng = np.random.default_rng(seed)
    stretch = 0.9 ** np.arange(dimension)
    centres = 3.0 * np.random.default_rng(99).normal(size=(12, dimension))
    made = (centres[rng.integers(0, 12, count)] + rng.normal(size=(count, dimension))) * stretch
    turned = made @ np.linalg.qr(np.random.default_rng(98).normal(size=(dimension, dimension)))[0]
    return np.ascontiguousarray(turned, dtype=np.float32)


def values_of(block: np.ndarray, query: np.ndarray, metric: Metric) -> np.ndarray:
    """What FAISS gives each row."""
    values, labels = inplace.flat(block, metric).search(query[None], len(block))
    found = np.empty(len(block), dtype=np.float32)
    found[labels[0]] = values[0]
    return found


@given(
    dimension=st.sampled_from([24, 31, 64, 150]),
    seed=st.integers(0, 10**6),
    power=st.integers(-12, 7),
    shift=st.sampled_from([0.0, 1.0, 1e3, 1e6]),
    metric=METRICS,
    rank=st.integers(0, 1_200),
    near=st.booleans(),
    apart=st.sampled_from([0, 0, -4, -2, 2, 4]),
)
@settings(deadline=None, max_examples=150)
def test_nothing_as_near_as_a_value_of_faiss_is_overlooked(
    dimension: int, seed: int, power: int, shift: float, metric: Metric, rank: int, near: bool, apart: int
) -> None:
    scale = np.float32(10.0**power)
    block = (rows(1_201, dimension, seed) + np.float32(shift)) * scale
    block[700:720] = block[5]  # ties
    query = block[5] if near else (rows(1, dimension, seed + 1)[0] + np.float32(shift)) * scale
    query = query * np.float32(10.0**apart)  # what rounding adds hangs on the longer of both
    known = Bounds.of(block, np.arange(len(block)), metric)
    assert known is not None
    values = values_of(block, query, metric)
    value = np.sort(values if metric is Metric.L2 else -values)[rank] * (1 if metric is Metric.L2 else -1)
    found = known.nearer(query, float(value))
    if found is None:
        assert abs(power + apart) > 8  # or the shift: beyond what float32 can tell
        return
    assert (np.diff(found) > 0).all()
    wanted = np.flatnonzero(values <= value if metric is Metric.L2 else values >= value)
    assert set(wanted) <= set(found)


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
def test_little_else_is_looked_at(metric: Metric) -> None:
    block, queries = rows(3_000, 64, 1), rows(50, 64, 2)
    known = Bounds.of(block, np.arange(len(block)), metric)
    assert known is not None
    more = 0
    for query in queries:
        value = np.sort(values_of(block, query, metric))[9 if metric is Metric.L2 else -10]
        found = known.nearer(query, float(value))
        assert found is not None
        more += len(found) - 10
    assert 0 <= more / len(queries) < 30


@given(cuts=st.lists(st.integers(1_100, 2_999), max_size=4), metric=METRICS, small=st.booleans())
@settings(deadline=None, max_examples=30)
def test_bounds_that_grew_are_those_of_the_whole(cuts: list[int], metric: Metric, small: bool) -> None:
    block, numbers = rows(3_000, 30, 3), 7 + np.arange(3_000)
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(bounds, "_PIECE", 3_000)  # numbers: pieces of some 250 rows
        first = Bounds.of(block[:1_050], numbers[:1_050], metric)
        assert first is not None
        whole = grown = first.grown(block, numbers)
        assert whole is not None
        before, grown = first, first
        for cut in [*sorted(cuts), 3_000]:
            assert grown is not None
            before, grown = grown, grown.grown(block[:cut], numbers[:cut])
        assert grown is not None
        for query in rows(5, 30, 4):
            values = values_of(block, query, metric)
            value = float(np.median(values))
            found, expected = grown.nearer(query, value), whole.nearer(query, value)
            assert found is not None
            assert expected is not None
            assert 1_000 < len(found) < 3_000
            wanted = np.flatnonzero(values <= value if metric is Metric.L2 else values >= value)
            assert set(wanted.tolist()) <= set(found.tolist()), "in whatever piece"
            # The last digit of a sum hangs on where a piece begins.
            assert len(set(found.tolist()) ^ set(expected.tolist())) <= 2
            part = before.nearer(query, value)  # what there was is as it was
            assert part is not None
            assert set(part.tolist()) >= {at for at in found.tolist() if at < len(before.numbers) - 2} - {*expected}


def test_other_rows_are_no_continuation() -> None:
    block, numbers = rows(2_000, 30, 5), np.arange(2_000)
    known = Bounds.of(block[:1_500], numbers[:1_500], Metric.L2)
    assert known is not None
    assert known.grown(block[100:], numbers[100:]) is None
    assert known.grown(block[:1_400], numbers[:1_400]) is None
    assert known.grown(block[:1_500], numbers[:1_500]) is not None


def test_what_float32_can_t_tell_is_left_to_a_scan() -> None:
    block, numbers = rows(2_000, 30, 6), np.arange(2_000)
    assert Bounds.of(block[:1_000], numbers[:1_000], Metric.L2) is None  # too few
    assert Bounds.of(np.ascontiguousarray(block[:, :20]), numbers, Metric.L2) is None  # as short as their bounds
    for scale in (0.0, 1e-30, 1e30):
        assert Bounds.of(block * np.float32(scale), numbers, Metric.L2) is None
    for metric in (Metric.L2, Metric.IP):
        known = Bounds.of(block, numbers, metric)
        assert known is not None
        assert known.nearer(np.zeros(30, np.float32), 1.0) is None
        assert known.nearer(np.full(30, 1e18, np.float32), 1.0) is None
        assert known.nearer(block[0], float("inf")) is None
        longer = known.grown(np.concatenate([block, block[:1] * np.float32(1e18)]), np.arange(2_001))
        assert longer is not None
        assert longer.nearer(block[0], 1.0) is None


D, FIRST, SECOND = 48, 3_000, 1_300


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("factory", ["IVF16,Flat", "HNSW16,SQ8"])
def test_queries_beside_a_long_tail_find_what_brute_force_finds(
    tmp_path: Path, factory: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    original = Bounds.nearer

    def nearer(self: Bounds, query: np.ndarray, value: float) -> np.ndarray | None:
        found = original(self, query, value)
        asked.append(len(self.numbers) if found is None else len(found))
        return found

    monkeypatch.setattr(Bounds, "nearer", nearer)
    parsed = Metric.parse(metric)
    base, queries = rows(FIRST + SECOND + 400, D, 1), rows(60, D, 2)
    base[100:110] = base[100]
    base[[FIRST + 50, FIRST + 900]] = base[100]  # ties between a tier and the tail, and in the tail
    queries[0], queries[1] = base[100], base[FIRST + 20]
    opening.create(tmp_path / "b.store", StoreConfig(factory=factory, recall=0.97, tail_floats=2 * SECOND * D))
    with Store(tmp_path / "b.store") as store, Store(tmp_path / "b.store", read_only=True) as reader:
        store.add_vectors([f"i{i}" for i in range(FIRST)], base[:FIRST], metric=metric)
        view, layout = store._view(None), store._snapshots.current().layout
        build_tier(store._writer, view, Stretch(0, FIRST, factory), layout)
        end, gone = FIRST, set()
        for count in (SECOND, 100, 300):
            store.add_vectors([f"i{i}" for i in range(end, end + count)], base[end : end + count])
            end += count
            reader._searcher.engine.load(reader._view(None))
            for step in range(2):
                live = np.array([i for i in range(end) if i not in gone])
                asked.clear()
                far, near = exact.search([(0, base[:end])], queries, 10, parsed, among=live)
                shares, tails = [], 0
                for index, query in enumerate(queries):
                    hits = reader.search(query)
                    numbers = np.array([int(name[1:]) for name in hits.ids])
                    own = exact.distances(query[None], base[numbers][None], parsed)[0]
                    np.testing.assert_allclose(hits.distances, own, rtol=1e-5, atol=1e-5)
                    assert (np.lexsort((numbers, hits.distances)) == np.arange(10)).all()
                    there = near[index][near[index] >= FIRST]
                    ties = far[index][near[index] >= FIRST] >= far[index, -1] - 1e-4
                    assert set(there[~ties].tolist()) <= set(numbers.tolist()), "the tail is searched exactly"
                    tails += len(there)
                    shares.append(np.mean(hits.distances <= far[index, -1] + 1e-4))
                assert np.mean(shares) >= 0.94
                assert tails > len(queries)  # so that something was there to be overlooked
                assert len(asked) >= len(queries)
                assert np.mean(asked) < (0.2 if metric == "l2" else 0.5) * (end - FIRST)
                if step == 0:
                    fresh = {FIRST + 20, FIRST + 900, 7, end - 1} - gone
                    store.delete([f"i{i}" for i in fresh])
                    gone |= fresh
        store.compact()
        assert reader.search(queries[0]).ids == reader.search(queries[0], exact=True).ids
        assert len(reader._searcher.engine._bounds.get(1, {})) <= 1


def test_bounds_that_tell_nothing_are_given_up_and_tried_again_after_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, original = [], Bounds.nearer

    def nearer(self: Bounds, query: np.ndarray, value: float) -> np.ndarray | None:
        asked.append(value)
        return original(self, query, value)

    monkeypatch.setattr(Bounds, "nearer", nearer)
    noise = np.random.default_rng(0).normal(size=(5_000, D)).astype(np.float32)  # as long in every direction
    opening.create(tmp_path / "n.store", StoreConfig(factory="IVF16,Flat", recall=0.97, tail_floats=3_000 * D))
    with Store(tmp_path / "n.store") as store:
        store.add_vectors([f"i{i}" for i in range(3_500)], noise[:3_500])
        store.build()
        store.add_vectors([f"i{i}" for i in range(3_500, 5_000)], noise[3_500:])
        store._searcher.engine.load(store._view(None))
        far, _ = exact.search([(0, noise)], noise[:100], 10, Metric.L2)
        for query, right in zip(noise[:100], far, strict=True):
            found = store.search(query).distances
            assert found[0] == right[0] == 0
            assert (found >= right - 1e-5).all()
        assert 16 <= len(asked) < 60
        asked.clear()
        store.add_vectors(["late"], noise[:1])
        for query in noise[:50]:
            store.search(query)
        assert 8 <= len(asked) < 30


def test_a_small_commit_makes_no_bounds_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, original = [], bounds._directions

    def directions(block: np.ndarray) -> np.ndarray | None:
        made.append(len(block))
        return original(block)

    monkeypatch.setattr(bounds, "_directions", directions)
    base = rows(6_000, D, 11)
    opening.create(tmp_path / "g.store", StoreConfig(factory="IVF16,Flat", recall=0.97, tail_floats=3_000 * D))
    with Store(tmp_path / "g.store") as store:
        store.add_vectors([f"i{i}" for i in range(3_500)], base[:3_500])
        store.build()
        store.add_vectors([f"i{i}" for i in range(3_500, 5_000)], base[3_500:5_000])
        store._searcher.engine.load(store._view(None))
        for end in range(5_000, 5_500, 100):
            store.search(base[end])
            assert made == [1_500]
            store.add_vectors([f"i{i}" for i in range(end, end + 100)], base[end : end + 100])
            assert store.search(base[end + 50]).ids[0] == f"i{end + 50}"
        assert made == [1_500]


def test_what_few_lists_bring_together_is_padded_nowhere(tmp_path: Path) -> None:
    """Two tiers whose nearest list has fewer rows than are wanted: what is no row is never taken for one."""
    base, queries = rows(1_200, 24, 12), rows(100, 24, 13)
    opening.create(tmp_path / "p.store", StoreConfig(factory="IVF128,Flat", recall=0.05, tail_floats=2**30))
    with Store(tmp_path / "p.store") as store:
        store.add_vectors([f"i{i}" for i in range(1_200)], base)
        for first in (0, 600):
            view, layout = store._view(None), store._snapshots.current().layout
            build_tier(store._writer, view, Stretch(first, 600, "IVF128,Flat"), layout)
        engine = store._searcher.engine
        engine.load(store._view(None))
        direct, short = engine.direct(store._view(None), 10, None), 0
        assert direct is not None
        for query in queries:
            short += direct.ask(query) is None
            hits = store.search(query)
            assert len(set(hits.ids)) == 10
            numbers = [int(name[1:]) for name in hits.ids]
            own = np.sqrt(((base[numbers].astype(np.float64) - query) ** 2).sum(axis=1))
            np.testing.assert_allclose(hits.distances, own, rtol=1e-5)
        assert 10 < short < 100
