"""Tiers: what is built is found again under masks, reaches its recall, and survives a round trip through a file."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from embedstore.errors import InvalidArgument, StoreDamaged
from embedstore.index import build, exact, tier, tune
from embedstore.index.bindings import faiss
from embedstore.index.selection import Selection
from embedstore.index.tier import Tier
from embedstore.types import Metric

Array = Any
FACTORIES = ["HNSW16,SQ8", "HNSW16,Flat", "IVF32,Flat", "IVF32,SQ8", "PCA16,IVF16,Flat", "SQ8", "PCA16,HNSW16"]


def clusters(n: int, d: int, seed: int) -> Array:
    """Vectors on a curved sheet of six dimensions with uneven density, as latents of pictures are."""
    rng = np.random.default_rng(seed)
    weights = np.random.default_rng(0).standard_normal((12, d))
    low = rng.standard_normal((n, 6)) * rng.choice([0.3, 1, 2], (n, 1))
    return (np.concatenate([low, np.sin(2 * low)], axis=1) @ weights).astype(np.float32)


def made(factory: str, metric: Metric, base: Array, first: int = 0, target: float = 0.97) -> Tier:
    """A built and tuned tier."""
    index = build.build([base[:1000], base[1000:]], metric, factory, threads=1)
    queries = tune.probes(index, lambda at: base[at], 200, metric=metric)
    truth = exact.search([(0, base)], queries, 10, metric)[1]
    return Tier(index, first, metric, tune.tune(index, queries, truth, k=10, target=target, metric=metric))


def answer(tier: Tier, base: Array, queries: Array, k: int, **options: Any) -> tuple[Array, Array]:
    """What a store does: candidates of the tier, ordered by exact distances."""
    positions, _ = tier.search(queries, k, **options)
    return exact.rerank(queries, positions, k, tier.metric, lambda at: base[at - tier.first])


@pytest.fixture(scope="module")
def base() -> Array:
    return clusters(4000, 32, 1)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("factory", FACTORIES)
def test_a_tier_reaches_its_recall_with_exact_distances_and_only_selected_rows(
    factory: str, metric: Metric, base: Array
) -> None:
    tier = made(factory, metric, base, first=100)
    queries = clusters(100, 32, 2)
    truth = exact.search([(100, base)], queries, 10, metric)
    distance, position = answer(tier, base, queries, 10)
    assert tier.tuned.target_met
    assert tune.hits(position, truth[1]).mean() >= 0.93
    true = exact.distances(queries, base[position - 100], metric)
    np.testing.assert_allclose(distance, true, rtol=1e-6, atol=1e-6)

    mask = np.zeros(100 + len(base), dtype=np.uint8)
    mask[100:][np.random.default_rng(3).random(len(base)) < 0.5] = 1
    selected = Selection(mask)
    truth = exact.search([(100, base)], queries, 10, metric, among=selected.positions)
    for _ in range(2):  # the second time with all prepared
        _, position = answer(tier, base, queries, 10, part=selected.part(100, len(base)))
        assert mask[position[position >= 0]].all()
        assert tune.hits(position, truth[1]).mean() >= 0.93


@pytest.mark.parametrize("factory", ["HNSW16,SQ8", "IVF32,SQ8"])
def test_one_query_is_answered_as_in_a_batch(factory: str, base: Array) -> None:
    tier = made(factory, Metric.COSINE, base)
    queries = clusters(30, 32, 4)
    together = answer(tier, base, queries, 10)
    alone = [answer(tier, base, query[None], 10) for query in queries]
    np.testing.assert_array_equal(together[1], np.concatenate([position for _, position in alone]))
    np.testing.assert_array_equal(together[0], np.concatenate([distance for distance, _ in alone]))


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_tier_read_from_its_file_answers_the_same(factory: str, base: Array, tmp_path: Any) -> None:
    tier = made(factory, Metric.L2, base)
    build.write(tier.index, tmp_path / "tier")
    tuned = tune.Tuned.load(json.loads(json.dumps(dataclasses.asdict(tier.tuned))))
    assert tuned == tier.tuned
    again = Tier(build.read(tmp_path / "tier"), 0, Metric.L2, tuned)
    queries = clusters(40, 32, 5)
    np.testing.assert_array_equal(tier.search(queries, 10)[0], again.search(queries, 10)[0])
    assert build.parameters(again.index) == build.parameters(tier.index)


def test_a_mask_of_few_rows_is_never_answered_with_others(base: Array) -> None:
    tier = made("HNSW16,SQ8", Metric.L2, base)
    queries = clusters(20, 32, 6)
    for count in (0, 1, 3):
        mask = np.zeros(len(base), dtype=bool)
        mask[np.arange(count) * 997] = True
        part = Selection(mask).part(0, len(base))
        _, position = answer(tier, base, queries, 10, part=part)
        assert set(position.ravel()) <= {-1, *np.flatnonzero(mask)}
        assert part.share == count / len(base)


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("factory", FACTORIES)
def test_packed_codes_miss_nothing_that_is_selected(factory: str, metric: Metric, base: Array) -> None:
    """Also where the selected rows lie elsewhere than the query, which a graph's walk doesn't reach."""
    tier = made(factory, metric, base, first=7)
    queries = clusters(30, 32, 6)
    far = np.argsort(exact.distances(queries[:1], base[None], metric)[0])[-900:]
    part = Selection.of(np.sort(far) + 7, len(base) + 7).part(7, len(base))
    found = tier.packed(queries, 10, part)
    if "HNSW" not in factory:
        assert found is None
        return
    near, _ = exact.rerank(queries, found[0], 10, metric, lambda at: base[at - 7])
    truth, _ = exact.search([(0, base[np.sort(far)])], queries, 10, metric)
    assert set(found[0].ravel()) <= set(far + 7)
    # By value: of equal ones any will do. What is missing, the codes have lost.
    last = truth[:, -1:]
    assert np.mean(near <= last + 1e-5 * np.abs(last)) >= 0.93
    one = tier.packed(queries[:1], 10, part)
    assert one is not None
    np.testing.assert_array_equal(one[0], found[0][:1])


def test_a_higher_recall_looks_at_more_and_a_lower_one_at_less(base: Array) -> None:
    tier = made("HNSW16,SQ8", Metric.L2, base)
    values = [tier.search(base[:1], 10, recall=recall)[1]["parameter"] for recall in (0.5, None, 0.999)]
    assert values == sorted(values)
    assert values[0] < values[2]
    assert tier.search(base[:1], 10, recall=0.97)[1]["parameter"] == tier.tuned.parameters["efSearch"]


def test_tuning_takes_the_smallest_value_that_reaches_the_target(base: Array) -> None:
    index = build.build([base], Metric.L2, "IVF64,Flat", threads=1)
    queries = clusters(300, 32, 7)
    truth = exact.search([(0, base)], queries, 10, Metric.L2)[1]
    tuned = tune.tune(index, queries, truth, k=10, target=0.9)
    index.nprobe = tuned.parameters["nprobe"]
    assert tune.hits(index.search(queries, 10)[1], truth).mean() >= 0.9
    index.nprobe -= 1
    assert tune.hits(index.search(queries, 10)[1], truth).mean() < 0.9
    assert tuned.depth == 1.0  # nothing to make up for: these lists hold the vectors themselves


def test_a_recall_out_of_reach_is_said_so(base: Array) -> None:
    index = build.build([base], Metric.L2, "PCA2,SQ8", threads=1)
    queries = clusters(50, 32, 8)
    truth = exact.search([(0, base)], queries, 10, Metric.L2)[1]
    tuned = tune.tune(index, queries, truth, k=10, target=0.99)
    assert not tuned.target_met
    assert tuned.recall < 0.99
    assert tuned.depth == 8.0
    assert tuned.parameters == {}


def test_probes_are_no_indexed_vectors_and_as_hard_as_unseen_queries(base: Array) -> None:
    index = build.build([base], Metric.L2, "HNSW8,Flat", threads=1)
    index.hnsw.efSearch = 10
    probes = tune.probes(index, lambda at: base[at], 400, metric=Metric.L2)
    assert not (probes[:, None] == base[None, ::40]).all(axis=2).any()
    recalls = []
    for queries in (probes, clusters(400, 32, 9), base[::10]):
        truth = exact.search([(0, base)], queries, 11, Metric.L2)[1]
        recalls.append(tune.hits(index.search(queries, 11)[1], truth).mean())
    probe, unseen, own = recalls
    assert abs(probe - unseen) < own - unseen


def test_the_curve_gives_the_smallest_value_that_reaches_a_recall() -> None:
    curve = [(10, 0.9), (20, 0.95), (40, 0.99)]
    assert [tune.parameter_for(curve, recall) for recall in (0.5, 0.9, 0.91, 0.99, 1.0)] == [10, 10, 20, 40, 40]
    with pytest.raises(InvalidArgument, match=r"recall must be above 0 and at most 1, not 1\.5"):
        tune.parameter_for(curve, 1.5)


def test_the_recall_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(10)
    covered = []
    for _ in range(500):  # misses come in clusters: most queries are perfect, some lose half
        recalls = np.where(rng.random(400) < 0.04, rng.binomial(10, 0.5, 400) / 10, 1.0)
        _, low, high = tune.recall_interval(recalls)
        covered.append(low <= 0.98 <= high)
    assert 0.92 <= np.mean(covered) <= 0.985
    mean, low, high = tune.recall_interval(np.ones(100))
    assert (mean, high) == (1.0, 1.0)
    assert 0.96 < low < 0.97


def test_the_same_seed_and_one_thread_build_the_same_file(base: Array, tmp_path: Any) -> None:
    for factory in ("HNSW16,SQ8", "IVF32,SQ8"):
        for name, seed in (("a", 3), ("b", 3), ("c", 4)):
            build.write(build.build([base], Metric.L2, factory, seed=seed, threads=1), tmp_path / name)
        files = [(tmp_path / name).read_bytes() for name in "abc"]
        assert files[0] == files[1]
        assert files[0] != files[2]


def test_one_broken_vector_does_not_blur_the_codes_of_the_others(base: Array) -> None:
    broken = base.copy()
    broken[17] = 1e6
    tier = made("HNSW16,SQ8", Metric.L2, broken)
    assert tier.tuned.depth <= 2
    assert tier.tuned.target_met


@pytest.mark.parametrize(
    ("n", "d", "metric", "expected"),
    [
        (2000, 784, Metric.L2, None),
        (60_000, 784, Metric.L2, "HNSW32,SQ8"),
        (60_000, 64, Metric.IP, "IVF512,Flat"),
        (60_000, 64, Metric.COSINE, "HNSW32,SQ8"),  # whose distances FAISS doesn't compute
        (1_000_000, 64, Metric.L2, "IVF2048,Flat"),
        (1_000_000, 64, Metric.COSINE, "IVF2048,SQ8"),
        (10_000_000, 64, Metric.L2, "IVF8192,SQ8"),
    ],
)
def test_the_type_follows_the_size(n: int, d: int, metric: Metric, expected: str | None) -> None:
    assert build.choose(n, d, metric) == expected
    assert build.choose(n, d, Metric.L2, "IVF16,Flat") == "IVF16,Flat"


def low_rank(n: int, d: int, rank: int, seed: int) -> Array:
    """Vectors of ``rank`` directions and a little noise, away from the origin."""
    rng = np.random.default_rng(seed)
    weights = np.random.default_rng(0).standard_normal((rank, d))
    return (rng.standard_normal((n, rank)) @ weights + 0.3 * rng.standard_normal((n, d)) + 5).astype(np.float32)


@pytest.mark.parametrize(
    ("base", "metric", "expected"),
    [
        (low_rank(3000, 300, 20, 1), Metric.L2, "PCA32,HNSW16,SQ8"),
        (low_rank(3000, 300, 60, 1), Metric.COSINE, "PCA64,HNSW16,SQ8"),
        (low_rank(3000, 300, 20, 1), Metric.IP, None),  # taking out the mean would change the products
        (low_rank(3000, 300, 250, 1), Metric.L2, None),  # too little is left out
        (low_rank(3000, 128, 8, 1), Metric.L2, None),
        (np.ones((3000, 300), dtype=np.float32), Metric.L2, None),
    ],
)
def test_vectors_of_few_directions_are_projected_to_them(base: Array, metric: Metric, expected: str | None) -> None:
    assert build.reduced("HNSW16,SQ8", [base[:1000], base[1000:]], metric) == expected


@pytest.mark.parametrize("metric", [Metric.L2, Metric.COSINE])
def test_a_projected_tier_reaches_its_recall_by_more_candidates(metric: Metric) -> None:
    base, queries = low_rank(4000, 300, 20, 1), low_rank(100, 300, 20, 2)
    tier = made("PCA16,HNSW16,SQ8", metric, base, target=0.95)  # four of the twenty directions are lost
    assert tier.tuned.target_met
    assert tier.tuned.depth > 1
    truth = exact.search([(0, base)], queries, 10, metric)[1]
    assert tune.hits(answer(tier, base, queries, 10)[1], truth).mean() >= 0.9
    more = tune.hits(answer(tier, base, queries, 10, recall=0.999)[1], truth).mean()
    assert more >= tune.hits(answer(tier, base, queries, 10)[1], truth).mean()
    assert tier.search(queries, 10, recall=0.999)[0].shape[1] > tier.search(queries, 10)[0].shape[1]


def test_a_factory_string_that_faiss_does_not_know_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"'HNWS32'.*'HNSW32,Flat'"):
        build.choose(1000, 8, Metric.L2, "HNWS32")


@pytest.mark.parametrize("factory", ["NSG16", "IDMap,Flat", "PQ4x4", "IVF4096,Flat"])
def test_an_index_that_can_not_serve_is_refused_by_name(factory: str, base: Array) -> None:
    with pytest.raises(InvalidArgument, match=factory):
        build.build([base[:600]], Metric.L2, factory)


def test_a_file_that_is_no_index_is_damage(tmp_path: Any) -> None:
    (tmp_path / "tier").write_bytes(b"not an index")
    with pytest.raises(StoreDamaged, match="has to be rebuilt"):
        build.read(tmp_path / "tier")


def test_threads_with_masks_of_their_own_get_only_their_own_rows(base: Array) -> None:
    tier = made("HNSW16,SQ8", Metric.L2, base)
    queries = [base[i : i + 1] for i in range(200)]

    def right(part: int) -> bool:
        mask = np.arange(len(base)) % 4 == part
        selected = Selection(mask).part(0, len(base))
        found = [tier.search(query, 10, part=selected)[0] for query in queries]
        return all(mask[position[position >= 0]].all() for position in found)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, [0, 1, 2, 3] * 4))


@pytest.mark.parametrize(("queries", "expected"), [(1, 1), (3, 2)])
def test_one_query_gets_one_thread_and_leaves_the_caller_s_setting(queries: int, expected: int) -> None:
    seen = []

    class Index:
        def search_c(self, *_: object) -> None:
            seen.append(faiss.omp_get_max_threads())
            if queries == 1:
                raise RuntimeError("also where it fails")

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        with pytest.raises(RuntimeError) if queries == 1 else nullcontext():
            tier._searched(Index(), np.zeros((queries, 4), np.float32), 3, None)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)
    assert seen == [expected]
