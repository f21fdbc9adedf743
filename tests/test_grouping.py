"""Clusters of latents whose groups are known: found, as many as asked for, the same each time; which items count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import adjusted_rand_score

import embedstore
from embedstore.errors import InvalidArgument, NothingMatches
from embedstore.explore import grouping, sampled
from embedstore.models import agreement, labelling
from embedstore.store import Store
from embedstore.types import Metric

from .clustered import blobs, nearest
from .stores import refused

SIZES = [30, 30, 30, 30, 30]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with embedstore.create(tmp_path / "few.store") as store:
        yield store


def fill(store: Store, latents: np.ndarray, metric: str = "l2") -> None:
    store.add_vectors([f"i{i:03d}" for i in range(len(latents))], latents, metric=metric)


# -- networks ---------------------------------------------------------------------------------------------------------


def test_neighbours_that_agree_are_the_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "FEWEST_STEPS", 200)  # blobs are easy
    latents, label = blobs(SIZES)
    near = nearest(latents, 10)
    heads = agreement.fit(latents, near, 5, 3, seed=1)
    best = heads.best()
    odds = best(latents)
    assert odds.shape == (150, 5)
    assert adjusted_rand_score(label, odds.argmax(axis=1)) == pytest.approx(1)
    assert heads.losses.shape == (3,)
    chosen = int(np.argmin(heads.losses))
    assert np.array_equal(best.layers[-1].weight, heads.heads[chosen].weight)
    # A perfect head's loss is known: no disagreement, and the entropy of five equal shares, twice.
    assert heads.losses[chosen] == pytest.approx(-agreement.BALANCE * np.log(5), abs=0.05)


def test_the_same_seed_learns_the_same_network_and_leaves_other_random_numbers_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(agreement, "FEWEST_STEPS", 20)
    monkeypatch.setattr(labelling, "FEWEST_STEPS", 20)
    latents, label = blobs([20, 20, 20])
    near = nearest(latents, 5)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = [agreement.fit(latents, near, 3, 1, seed=seed).best() for seed in (4, 4, 5)]
    second = [labelling.fit(latents, [label], seed=seed) for seed in (4, 4, 5)]
    assert torch.equal(torch.get_rng_state(), state)
    for one, same, other in (first, second):
        for a, b in zip(one.layers, same.layers, strict=True):
            assert np.array_equal(a.weight, b.weight)
            assert np.array_equal(a.bias, b.bias)
        assert not np.array_equal(one.layers[0].weight, other.layers[0].weight)


def test_a_network_learns_the_clusters_of_every_level_and_tells_new_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "FEWEST_STEPS", 150)
    latents, label = blobs([40, 40, 40, 40], seed=1)
    coarse = label // 2
    made = labelling.fit(latents, [coarse, label])
    assert made.sizes == [4, 256, 256, 2 + 4]
    fresh, expected = blobs([25, 25, 25, 25], seed=2)  # from the same corners
    odds = made(fresh)
    assert np.array_equal(odds[:, :2].argmax(axis=1), expected // 2)
    assert np.array_equal(odds[:, 2:].argmax(axis=1), expected)


@pytest.mark.parametrize("size", [1, 7, 64, 8192])
def test_losses_of_all_items_are_added_up_some_at_a_time(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(agreement, "_CELLS", size * 15)
    generator = torch.Generator().manual_seed(0)
    odds = 5 * torch.randn(100, 3, 5, generator=generator)
    partners = torch.randint(100, (100,), generator=generator)
    taken = []

    def some(rows: torch.Tensor) -> torch.Tensor:
        taken.append(len(rows))
        return odds[rows]

    expected = agreement._losses(odds, odds[partners])
    np.testing.assert_allclose(agreement._over_all(some, partners, 15), expected, rtol=1e-6, atol=1e-6)
    assert max(taken) == min(size, 100)


def test_of_many_clusters_fewer_heads_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "FEWEST_STEPS", 2)
    latents, _ = blobs([100, 100])
    near = nearest(latents, 5)
    for clusters, heads, fitted in ((10, 8, 8), (20, 8, 8), (21, 8, 7), (40, 8, 4), (100, 8, 2), (100, 1, 1)):
        made = agreement.fit(latents, near, clusters, heads, epochs=0)
        assert made.losses.shape == (fitted,)
        assert [layer.weight.shape for layer in made.heads] == [(256, clusters)] * fitted


# -- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5, 8])
def test_without_a_number_the_blobs_are_found(count: int) -> None:
    latents, label = blobs([30] * count, seed=count)
    found, main = grouping.levels(latents, nearest(latents, 20), None)
    assert found[main].groups == count
    assert adjusted_rand_score(label, found[main].labels) == pytest.approx(1)
    assert found[main].stability == pytest.approx(1)
    assert found[main].gap == 1  # the largest one there is
    assert [one.groups for one in found] == sorted({one.groups for one in found})
    assert len(found) <= grouping.LEVELS


def test_as_many_groups_are_made_as_are_asked_for_beside_those_that_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "FEWEST_STEPS", 100)
    monkeypatch.setattr(grouping, "_STARTS", 2)
    latents, label = blobs(SIZES)
    near = nearest(latents, 20)
    for k in (3, 5, 7):
        found, main = grouping.levels(latents, near, k)
        assert found[main].groups == k
        assert np.array_equal(np.unique(found[main].labels), np.arange(k))
        shown = {one.groups: one for one in found}
        assert adjusted_rand_score(label, shown[5].labels) == pytest.approx(1)
        if k == 5:
            assert found[main].stability == pytest.approx(1)


def test_the_same_seed_finds_the_same_groups() -> None:
    rng = np.random.default_rng(3)
    latents = rng.normal(size=(150, 3)).astype(np.float32)  # one cloud: what is found hangs on chance
    near = nearest(latents, 20)
    first, main = grouping.levels(latents, near, None, seed=9)
    again, main_again = grouping.levels(latents, near, None, seed=9)
    assert main == main_again
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.labels, other.labels)
        assert (one.stability, one.gap) == (other.stability, other.gap)
    assert first[main].groups >= 2
    assert first[main].stability < 0.99  # and is not said to be sure


def test_a_part_by_itself_that_is_small_is_in_no_group() -> None:
    latents, label = blobs([1060, 21, 60])  # a fiftieth of the largest one is 21.2
    found, main = grouping.levels(latents, nearest(latents, 20), None)
    for level in found:
        assert np.array_equal(level.labels == -1, label == 1)
    assert len(np.unique(found[main].labels[label == 2])) == 1


@given(arrays.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 9)))
def test_groups_are_numbered_by_descending_size_without_gaps(labels: np.ndarray) -> None:
    found = grouping.by_size(labels)
    sizes = np.bincount(found)
    assert sizes.min() > 0
    assert (np.diff(sizes) <= 0).all()
    pairs = {(int(a), int(b)) for a, b in zip(labels, found, strict=True)}
    assert len(pairs) == len(np.unique(labels)) == len(sizes)  # the same groups


# -- which items ------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(metric=st.sampled_from(["l2", "cosine", "ip"]), seed=st.integers(0, 50))
def test_neighbours_are_the_nearest_others_by_brute_force(
    tmp_path_factory: pytest.TempPathFactory, metric: str, seed: int
) -> None:
    latents = np.random.default_rng(seed).normal(size=(40, 5)).astype(np.float32)
    with embedstore.create(tmp_path_factory.mktemp("sampled") / "few.store") as store:
        fill(store, latents, metric)
        for limit in (10**6, 25):
            taken = sampled.take(store._latents(None), neighbours=6, limit=limit)
            assert len(taken.positions) == min(40, limit)
            assert (np.diff(taken.positions) > 0).all()
            expected = latents[taken.positions]
            if metric == "cosine":  # only directions count
                expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
            np.testing.assert_allclose(taken.latents, expected, rtol=1e-6)
            assert np.array_equal(taken.neighbours, nearest(expected, 6))
            far = np.linalg.norm(expected[:, None] - expected[taken.neighbours], axis=2)
            wanted = far**2 / 2 if metric == "cosine" else far
            np.testing.assert_allclose(taken.distances, wanted, rtol=1e-3, atol=1e-5)
            again = sampled.take(store._latents(None), neighbours=6, limit=limit)
            assert np.array_equal(again.positions, taken.positions)


@pytest.mark.parametrize("metric", [Metric.L2, Metric.COSINE])
def test_copies_count_once_and_are_nobodys_neighbours(store: Store, metric: Metric) -> None:
    latents = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    latents[3, 1] = 0.0
    zero = latents[3] * np.array([1, -1, 1], np.float32)  # -0 is 0
    longer = [2 * latents[7]] if metric is Metric.COSINE else []  # the same direction
    fill(store, np.concatenate([latents, latents[:5], [zero], *[[one] for one in longer]]), str(metric))
    taken = sampled.take(store._latents(None), neighbours=4)
    assert taken.positions.tolist() == list(range(20))  # the first of each
    assert taken.copies.tolist() == list(range(20, 26 + len(longer)))
    assert taken.originals.tolist() == [0, 1, 2, 3, 4, 3, *([7] if longer else [])]
    known = taken.spread(np.arange(20), 30, -1)
    assert known.tolist() == [*range(20), *taken.originals.tolist(), *[-1] * (30 - 26 - len(longer))]
    assert len(np.unique(taken.latents, axis=0)) == 20
    assert np.array_equal(taken.neighbours, nearest(taken.latents, 4))


def test_fewer_items_have_fewer_neighbours(store: Store) -> None:
    fill(store, np.eye(5, dtype=np.float32))
    taken = sampled.take(store._latents(None))
    assert [sorted(row) for row in taken.neighbours.tolist()] == [[i for i in range(5) if i != row] for row in range(5)]


def test_few_items_without_groups_aren_t_taken_apart(store: Store) -> None:
    """Of eleven random ones, the eigenvalues suggest ten groups."""
    latents = np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32)
    found, main = grouping.levels(latents, nearest(latents, 10), None)
    assert found[main].groups == 2


def test_too_few_items_and_copies_alone_cant_be_grouped(store: Store) -> None:
    fill(store, np.eye(9, dtype=np.float32))
    refused(InvalidArgument, "9 items are too few for clusters: at least 10 are needed", store.cluster)
    refused(InvalidArgument, "9 items are too few for clusters", lambda: store.cluster(4))
    store.add_vectors([f"same {i}" for i in range(50)], np.repeat(np.eye(9, dtype=np.float32)[:1], 50, axis=0))
    refused(InvalidArgument, "the 59 items have only 9 different latents", store.cluster)
    store.add_vectors(["tenth"], -np.eye(9, dtype=np.float32)[:1])
    # Enough for some clusters, and too few for as many as are asked for.
    refused(InvalidArgument, "the 60 items have only 10 different latents", lambda: store.cluster(6))
    refused(InvalidArgument, "60 items can't be put into 31 clusters: ask for at most 30", lambda: store.cluster(31))
    for k in (1, 0, -3, 501):
        refused(
            InvalidArgument,
            f"the number of clusters is {k}, but must be a whole number from 2 to 500",
            lambda wanted=k: store.cluster(wanted),
        )
    assert store.clusterings() == []
    assert not list(store.path.glob("models/*"))
    store.delete(store.ids())
    refused(NothingMatches, "no items", store.cluster)
