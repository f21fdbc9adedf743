"""Vectors that are bytes: held without loss, and answers as near as those of the stored vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedstore.config import StoreConfig
from embedstore.index import bytewise, exact
from embedstore.store import Store
from embedstore.truth import opening
from embedstore.types import Metric

D = 24
RNG = np.random.default_rng(0)
LEVELS = np.sin(np.arange(D) * RNG.uniform(0.1, 2, (4000, 1)) + RNG.uniform(0, 6, (4000, 1)))
BYTES = np.clip(128 + 90 * LEVELS + RNG.normal(scale=12, size=LEVELS.shape), 0, 255).round().astype(np.float32)
BYTES[100:110] = BYTES[100]  # ties


@pytest.mark.parametrize(
    ("change", "expected"), [(None, True), (0.5, False), (-1, False), (256, False), (np.nan, False), (np.inf, False)]
)
def test_only_whole_numbers_that_a_byte_holds_are_bytes(change: float | None, expected: bool) -> None:
    last = BYTES[2000:].copy()
    if change is not None:
        last[-1, -1] = change
    blocks = [BYTES[:2000], last]
    assert bytewise.fits(blocks, Metric.L2) is expected
    assert not bytewise.fits(blocks, Metric.COSINE)


def test_few_enough_are_held_and_read_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    held = bytewise.hold([BYTES[:1500], BYTES[1500:]])
    rows = np.array([0, 7, 1499, 1500, 3999])
    assert np.array_equal(bytewise.read(held, rows), BYTES[rows])
    monkeypatch.setattr(bytewise, "_MOST_BYTES", BYTES.size - 1)
    assert not bytewise.fits([BYTES], Metric.L2)


@pytest.mark.parametrize("factory", ["HNSW16,SQ8", "PCA12,HNSW16,SQ8", "IVF16,SQ8"])
@pytest.mark.parametrize("one", [True, False])
def test_a_store_of_bytes_answers_as_brute_force_does(tmp_path: Path, factory: str, one: bool) -> None:
    opening.create(tmp_path / "bytes.store", StoreConfig(factory=factory, recall=0.97, tail_floats=60 * D))
    with Store(tmp_path / "bytes.store") as store:
        ids = [str(i) for i in range(4000)]
        store.add_vectors(ids[:3950], BYTES[:3950], [{"even": i % 2 == 0} for i in range(3950)])
        store.build()
        store.add_vectors(ids[3950:], BYTES[3950:] + np.float32(0.25))  # the tail is none
        store.delete(ids[5:3950:400])
    with Store(tmp_path / "bytes.store") as store:
        view = store._view(None)
        store._searcher.engine.load(view)
        [tier] = store._searcher.engine.loaded._tiers.values()
        assert tier is not None
        assert tier.held is not None
        whole = np.concatenate([BYTES[:3950], BYTES[3950:] + np.float32(0.25)])
        queries = (BYTES[:200:2] + RNG.normal(size=(100, D))).astype(np.float32)
        for where, live in ((None, view.live_positions()), ("even = true", view.live_positions()[::1])):
            among = live if where is None else live[(live % 2 == 0) & (live < 3950)]
            truth, _ = exact.search([(0, whole)], queries, 10, Metric.L2, among=among)
            found = [store.search(query, 10, where) for query in queries] if one else store.search(queries, 10, where)
            recalls = []
            for i, hits in enumerate(found):
                numbers = np.array([int(name) for name in hits.ids])
                assert np.isin(numbers, among).all()
                own = exact.distances(queries[i : i + 1], whole[numbers][None], Metric.L2)[0]
                np.testing.assert_allclose(hits.distances, own, rtol=1e-5)
                order = np.lexsort((numbers, hits.distances))
                assert (order == np.arange(10)).all(), "nearest first, ties by position"
                recalls.append(np.mean(hits.distances <= truth[i, 9] * (1 + 1e-5)))
            assert np.mean(recalls) >= 0.95


def test_more_neighbours_than_there_are_leave_the_rest_out(tmp_path: Path) -> None:
    opening.create(tmp_path / "bytes.store", StoreConfig(factory="HNSW16,SQ8", tail_floats=10 * D))
    with Store(tmp_path / "bytes.store") as store:
        store.add_vectors([str(i) for i in range(30)], BYTES[:30])
        store.build()
        store._searcher.engine.load(store._view(None))
        assert len(store.search(BYTES[0], 50).ids) == 30
        assert [len(hits.ids) for hits in store.search(BYTES[:3], 50)] == [30] * 3
