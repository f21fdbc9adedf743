"""Outliers: what was planted comes first, with the reason that it was planted for."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import embedstore
from embedstore.errors import FilterError, InvalidArgument, NothingMatches
from embedstore.explore import clusterings, outliers, stored
from embedstore.explore.outliers import BETWEEN, FAR, REBUILT, Outliers
from embedstore.store import Store
from embedstore.types import Item

from . import clustered
from .computing import COUNT, PICTURES
from .stores import refused


def found(store: Store, **settings: object) -> Outliers:
    return outliers.find(store._latents(None), **settings)  # type: ignore[arg-type]


def clusters(random: np.random.Generator, count: int = 300, dimension: int = 10) -> np.ndarray:
    """Two round clusters, 20 apart."""
    z = random.normal(size=(2 * count, dimension)).astype(np.float32)
    z[count:, 0] += 20
    return z


def test_far_and_between_are_told_apart(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    z = clusters(random)
    odd = random.normal(size=(6, 10)).astype(np.float32)
    odd[:3, 0] += 10  # between the two
    odd[3:] *= 0.1
    odd[3:, 1] += 30  # far from both, together
    with embedstore.create(tmp_path / "v.store") as store:
        store.add_vectors([f"v{i}" for i in range(600)], z)
        store.add_vectors(["b0", "b1", "b2", "f0", "f1", "f2"], odd)
        got = found(store, limit=6)
        assert found(store, limit=6).found == got.found
    assert {one.id for one in got.found} == {"b0", "b1", "b2", "f0", "f1", "f2"}
    assert got.measured == (FAR, BETWEEN)
    assert len(got.scores) == len(got.positions) == 606
    kinds = {one.id: {reason.kind for reason in one.reasons} for one in got.found}
    assert all(FAR in kinds[f"f{i}"] for i in range(3))
    assert all(BETWEEN in kinds[f"b{i}"] for i in range(3))
    for one in got.found:
        assert one.score == pytest.approx(-sum(np.log10(reason.share) for reason in one.reasons))
        assert all(reason.value > reason.usual for reason in one.reasons)
    every = np.concatenate([z, odd]).astype(float)
    name, reason = next((one.id, r) for one in got.found for r in one.reasons if r.kind == FAR)
    row = 600 + ["b0", "b1", "b2", "f0", "f1", "f2"].index(name)
    assert reason.value == pytest.approx(np.sort(np.linalg.norm(every - every[row], axis=1))[20], rel=1e-4)


def test_pictures_of_another_kind_come_first(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 240, (12, 8, 8, 1), dtype=np.uint8)
    items = [Item(f"d{i:03d}", PICTURES[i][..., None]) for i in range(COUNT)]
    with embedstore.create(tmp_path / "p.store") as store:
        store.index(items, encoder="pca", dimension=16, progress=False)
        store.add([Item(f"odd{i}", one) for i, one in enumerate(noise)])
        got = found(store, limit=20)
        rebuilt = [np.asarray(store.reconstruct(f"odd{i}"), dtype=float) for i in range(12)]
    truth = np.r_[np.zeros(COUNT), np.ones(12)]
    assert roc_auc_score(truth, got.scores) > 0.99
    assert got.measured == (FAR, BETWEEN, REBUILT)
    assert got.found[0].id.startswith("odd")
    reason = next(reason for reason in got.found[0].reasons if reason.kind == REBUILT)
    which = int(got.found[0].id[3:])
    assert reason.value == pytest.approx(np.sqrt(np.mean((rebuilt[which] - noise[which, ..., 0]) ** 2)), rel=1e-5)
    assert "badly reconstructed" in str(reason)


def test_a_stored_clustering_says_what_lies_between(tmp_path_factory: pytest.TempPathFactory) -> None:
    with embedstore.open(clustered.copy(tmp_path_factory)) as store:
        space = store._latents(None)
        _, strengths = clusterings.labels(space)
        sure = dict(zip(store.ids(), strengths, strict=True))
        got = found(store, limit=clustered.COUNT)
        named = {one.id: reason for one in got.found for reason in one.reasons if reason.kind == BETWEEN}
        assert len(named) >= 5
        for name, reason in named.items():
            assert reason.value == pytest.approx(1 - sure[name], abs=1e-6)
            assert reason.usual == pytest.approx(np.median(1 - strengths), abs=1e-6)
        assert min(sure, key=lambda name: sure[name]) in named


def test_an_unreadable_clustering_is_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    """It can be made again, and says nothing that the items don't."""
    got = []
    with embedstore.open(clustered.copy(tmp_path_factory)) as store:
        usual = found(store).found
        for made in ("{}", "[]", "no JSON", '{"level": 7}'):
            connection = sqlite3.connect(store.path / "store.db")
            with connection:
                connection.execute("UPDATE clusterings SET made = ?", (made,))
            connection.close()
            got.append(found(store).found)
        for clustering in stored.names(store._latents(None), "clusterings"):
            store.remove_clustering(clustering)
        assert got == [found(store).found] * 4
    assert got[0] != usual


def test_a_filter_compares_what_matches_alone(store: Store) -> None:
    got = found(store, where="label = 3", limit=5)
    own = set(store.ids("label = 3"))
    assert {one.id for one in got.found} <= own
    assert len(got.scores) == len(own)
    refused(NothingMatches, "no item matches", lambda: found(store, where="label = 77"))
    with pytest.raises(FilterError):
        found(store, where="lable = 3")


@pytest.mark.parametrize("limit", [0, -1, 2.5, "3", True])
def test_a_limit_that_is_none_is_refused(store: Store, limit: object) -> None:
    refused(InvalidArgument, "ask for 1 or more", lambda: found(store, limit=limit))


def test_a_limit_above_the_items_names_all(store: Store) -> None:
    got = found(store, limit=10_000)
    assert sorted(one.id for one in got.found) == store.ids()
    assert got.found[-1].reasons == ()
    assert got.found[-1].score == 0


def test_small_and_dull_stores(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "s.store") as store:
        store.add_vectors([f"v{i}" for i in range(4)], np.eye(4))
        refused(InvalidArgument, "too few", lambda: found(store))
        store.add_vectors(["v4"], np.ones((1, 4)))
        assert len(found(store).found) == 5
        store.delete(store.ids())
        refused(NothingMatches, "no items", lambda: found(store))
    with embedstore.create(tmp_path / "same.store") as store:
        store.add_vectors([f"v{i}" for i in range(40)], np.ones((40, 4)))
        got = found(store)
        assert {one.score for one in got.found} == {0.0}
        assert {one.reasons for one in got.found} == {()}
    with embedstore.create(tmp_path / "cos.store") as store:
        z = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32) * 0.1
        z[:, 0] += 1
        z[7, 0] = -1
        store.add_vectors([f"v{i}" for i in range(200)], z, metric="cosine")
        assert found(store).found[0].id == "v7"
        store.delete("v7")
        assert found(store).found[0].score < 5


def test_an_item_without_a_picture_is_judged_by_its_latent(tmp_path: Path) -> None:
    items = [Item(f"d{i:03d}", PICTURES[i][..., None]) for i in range(100)]
    with embedstore.create(tmp_path / "m.store") as store:
        store.index(items, encoder="pca", dimension=8, progress=False)
        encoder = store._view().space.fingerprint
        store.add_vectors(["bare"], store.vector("d003").vector[None] + 500, encoder=encoder)
        got = found(store, limit=1)
    assert got.found[0].id == "bare"
    assert got.found[0].reasons[0].kind == FAR
    assert REBUILT in got.measured
    assert REBUILT not in {reason.kind for reason in got.found[0].reasons}


def test_shares_are_counted_and_the_far_tail_is_estimated() -> None:
    values = np.random.default_rng(0).pareto(3, 20_000) + 1  # a share of x ** -3 lies above x
    shares = outliers._shares(values)
    order = np.argsort(values)
    assert (np.diff(shares[order]) <= 0).all()
    below = shares > 0.05
    np.testing.assert_allclose(shares[below], values[below] ** -3.0, rtol=0.1)
    top = order[-200:]
    np.testing.assert_allclose(np.log(shares[top]), -3 * np.log(values[top]), rtol=0.15)
    gross = outliers._shares(np.append(values, [1e5, np.nan]))
    assert gross[-2] < 1e-9
    assert gross[-1] == 1.0
    assert outliers._shares(np.full(50, 3.0)).tolist() == [1.0] * 50
    assert outliers._shares(np.full(3, np.nan)).tolist() == [1.0] * 3
