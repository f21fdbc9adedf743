"""Means, expressions, similarity, support and decoding against NumPy on the same vectors."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.errors import (
    ExpressionError,
    InvalidArgument,
    InvalidVector,
    NothingMatches,
    SpaceMismatch,
    UnknownSpace,
)
from embedstore.store import Store
from embedstore.types import Latent

from .computing import PICTURES, latents
from .stores import refused, vectors


def test_a_mean_is_numpy_s_and_follows_the_commits(store: Store, tmp_path: Path) -> None:
    found = store.mean("label = 3")
    np.testing.assert_allclose(found.vector, latents(store, "label = 3").mean(axis=0), rtol=1e-5, atol=1e-6)
    assert (found.space, len(found)) == ("default", 16)
    refused(NothingMatches, "no item matches label = 77", lambda: store.mean("label = 77"))
    with embedstore.create(tmp_path / "v.store") as other:
        other.add_vectors(["a", "b"], vectors(2), [{"n": 1}, {"n": 1}])
        assert np.array_equal(other.mean("n = 1").vector, vectors(2).mean(axis=0))
        other.add_vectors(["c"], np.full((1, 4), 90.0), [{"n": 1}])
        np.testing.assert_allclose(
            other.mean("n = 1").vector, np.vstack([vectors(2), np.full((1, 4), 90)]).mean(axis=0)
        )
        other.delete(["c"])
        assert np.array_equal(other.mean("n = 1").vector, vectors(2).mean(axis=0))


def test_a_medoid_has_the_least_sum_of_distances(store: Store) -> None:
    z, names = latents(store, "label = 3").astype(np.float64), store.ids("label = 3")
    sums = np.linalg.norm(z[:, None] - z, axis=2).sum(axis=1)
    assert store.medoid("label = 3") == names[int(sums.argmin())]


def test_a_large_sets_medoid_is_nearly_the_best(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedstore.compute import space

    monkeypatch.setattr(space, "_MEDOID_SAMPLE", 100)
    monkeypatch.setattr(space, "_MEDOID_CANDIDATES", 20)
    z, names = latents(store).astype(np.float64), store.ids()
    sums = np.linalg.norm(z[:, None] - z, axis=2).sum(axis=1)
    assert sums[names.index(store.medoid("label >= 0"))] < np.quantile(sums, 0.02)


def test_an_expression_is_the_arithmetic_of_its_parts(store: Store, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(PICTURES[5]).save(tmp_path / "five.png")
    text = (
        "item('d001') - mean(\"label = 8\") + 1.5 * direction('to-three') / 2 + mix(item('d002'), medoid('odd'), 0.25) "
        f"- unit(image('{tmp_path / 'five.png'}'))"
    ).replace("medoid('odd')", "medoid('odd = true')")
    five = store.encode(PICTURES[5])[0]
    medoid = store.vector(store.medoid("odd = true")).vector
    expected = (
        store.vector("d001").vector - store.mean("label = 8").vector + 0.75 * store.direction("to-three").vector
        + 0.75 * store.vector("d002").vector + 0.25 * medoid - five / np.linalg.norm(five)
    )  # fmt: skip
    np.testing.assert_allclose(store.evaluate(text).vector, expected, rtol=1e-4, atol=1e-5)
    same = store.vector("d001") + store.direction("to-three").latent * 2
    np.testing.assert_allclose(store.evaluate("item('d001') + 2*direction('to-three')").vector, same.vector, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("item('d01')", "no item has the id 'd01'; did you mean 'd010'"),
        ("direction('to-thre')", "did you mean 'to-three'?"),
        ("mean('lable = 3')", "did you mean label?"),
        ("mean('label = 77')", "no item matches label = 77"),
        ("mean('label =')", "in mean"),
        ("cluster(3)", "no clustering yet"),
        ("cluster('it''s')", "no clustering yet"),
        ("image('nowhere.png')", "nowhere.png"),
    ],
)
def test_what_an_expression_names_must_be_there(store: Store, text: str, said: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        store.evaluate(text)
    assert said in str(caught.value)
    assert str(caught.value).endswith("^")


def cosine_ranking(store: Store, weights: dict[str, float]) -> list[str]:
    """gensim's: the weighted mean of the unit vectors, the inputs left out."""
    names, z = store.ids(), latents(store).astype(np.float64)
    units = z / np.linalg.norm(z, axis=1, keepdims=True)
    query = sum(weight * units[names.index(name)] for name, weight in weights.items())
    order = np.argsort(-(units @ query / np.linalg.norm(query)), kind="stable")
    return [names[i] for i in order if names[i] not in weights]


def test_most_similar_follows_gensims_rules(store: Store) -> None:
    found = store.most_similar(["d001", ("d002", 0.5)], ["d003"], k=12)
    assert found.ids == cosine_ranking(store, {"d001": 1.0, "d002": 0.5, "d003": -1.0})[:12]
    assert found.scores[0] == pytest.approx(1 - found.distances[0])
    assert store.most_similar("d001", k=3).ids == cosine_ranking(store, {"d001": 1.0})[:3]
    only = store.most_similar("d001", k=500, where="label = 3")
    assert set(only.ids) == set(store.ids("label = 3")) - {"d001"}
    by_latent = store.most_similar(store.vector("d001"), k=3)
    assert by_latent.ids[0] == "d001"  # a latent is no item, so nothing is left out


def test_3cosmul_is_levy_and_goldbergs(store: Store) -> None:
    names, z = store.ids(), latents(store).astype(np.float64)
    units = z / np.linalg.norm(z, axis=1, keepdims=True)
    similar = {name: (1 + units @ units[names.index(name)]) / 2 for name in ("d001", "d002", "d003")}
    scores = similar["d001"] * similar["d002"] / (similar["d003"] + 0.001)
    order = [i for i in np.argsort(-scores) if names[i] not in similar]
    found = store.most_similar(["d001", "d002"], ["d003"], k=10, method="3cosmul")
    assert found.ids == [names[i] for i in order[:10]]
    np.testing.assert_allclose(found.scores, scores[order[:10]], rtol=1e-4)
    refused(InvalidArgument, "unknown method", lambda: store.most_similar("d001", method="cos"))
    refused(InvalidArgument, "at least one", lambda: store.most_similar())
    refused(InvalidArgument, "cancel out", lambda: store.most_similar(["d001"], ["d001"]))


def test_support_is_high_among_the_data_and_none_far_off(store: Store) -> None:
    z = latents(store)
    found = store.support(z)
    assert 0.4 < np.median(found) < 0.6
    assert found.min() >= 0
    assert found.max() <= 1
    assert store.support(z[0] * 100).tolist() == [0.0]
    assert store.support(store.vector("d000")).shape == (1,)
    assert store.support([store.vector("d000"), store.vector("d001")]).tolist() == pytest.approx(found[:2].tolist())
    # By the definition, for points that are no items.
    far = np.linalg.norm(z.astype(np.float64)[:, None] - z, axis=2)
    own = np.sort(far, axis=1)[:, 1:6].mean(axis=1)
    points = (z[:20] + z[20:40]) / 2
    mine = np.sort(np.linalg.norm(points.astype(np.float64)[:, None] - z, axis=2), axis=1)[:, :5].mean(axis=1)
    np.testing.assert_allclose(store.support(points), [(own >= one).mean() for one in mine], atol=2e-3)


def test_latents_of_another_space_numbers_that_arent_and_other_lengths_are_refused(store: Store) -> None:
    stranger = Latent(np.zeros(16, np.float32), "default", "f" * 64)
    calls = [
        store.decode, store.support, lambda z: store.edit(z, {"to-three": 1.0}), lambda z: store.interpolate(z, "d000"),
        lambda z: store.most_similar(z), lambda z: store.sample(3, near=z),
    ]  # fmt: skip
    for call in calls:
        refused(SpaceMismatch, "space", lambda call=call: call(stranger))
        refused(InvalidVector, "NaN", lambda call=call: call(np.full(16, np.nan, np.float32)))
        refused(InvalidVector, "16", lambda call=call: call(np.zeros(7, np.float32)))
    with pytest.raises(SpaceMismatch):
        store.vector("d000") + stranger


def test_decoding_is_on_demand_and_the_last_pictures_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = store._encoder(store._view().space)
    calls: list[int] = []
    plain = type(encoder).decode
    monkeypatch.setattr(type(encoder), "decode", lambda self, z: calls.append(len(z)) or plain(self, z))
    z = latents(store)[:5]
    path, samples = store.interpolate("d000", "d001", method="linear"), store.sample(4)
    store.edit("d000", {"to-three": 1.0})
    store.evaluate("item('d000') * 2")
    assert calls == []
    first = [np.asarray(image) for image in store.decode(z)]
    assert calls == [5]
    for image, row in zip(first, z, strict=True):
        assert np.array_equal(np.asarray(store.decode(row)[0]), image)
        assert np.array_equal(image, plain(encoder, row[None])[0, :, :, 0])
    assert calls == [5]
    mixed = store.decode(latents(store)[3:8])
    assert calls == [5, 3]
    assert np.array_equal(np.asarray(mixed[0]), first[3])
    path.images(), samples.images()
    assert calls[2:] == [6, 4] or calls[2:] == [8, 4]  # the path's ends are decoded already, or aren't


def test_the_cache_of_pictures_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedstore.encoders import loaded

    monkeypatch.setattr(loaded, "_CACHE_BYTES", 10 * 64)
    for row in latents(store)[:50]:
        store.decode(row)
    assert store._encoders._decoded_bytes <= 10 * 64
    assert len(store._encoders._decoded) <= 10
    store.decode(latents(store))  # more than is ever kept
    assert store._encoders._decoded_bytes <= 10 * 64


def test_an_empty_store_has_nothing_to_compute_with(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "e.store") as store:
        for call in (
            lambda: store.mean("a = 1"), lambda: store.evaluate("item('a')"), lambda: store.sample(3),
            lambda: store.directions(), lambda: store.support(np.zeros(3)), lambda: store.interpolate("a", "b"),
        ):  # fmt: skip
            refused(UnknownSpace, "empty", call)


def test_one_item_and_duplicates_are_no_trouble(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "d.store") as store, warnings.catch_warnings():
        warnings.simplefilter("error")
        store.add_vectors(["a"], np.ones((1, 3)))
        assert store.support(np.ones(3)).tolist() == [1.0]
        assert store.medoid("id = 'a'") == "a"
        store.add_vectors([f"s{i}" for i in range(40)], np.ones((40, 3)))
        assert store.support(np.ones(3)).tolist() == [1.0]
        assert store.support(np.zeros(3)).tolist() == [0.0]
        assert len(store.sample(5).latents) == 5
        path = store.interpolate("a", "s3", steps=4, method="density")
        np.testing.assert_allclose(path.latents, 1)
        refused(InvalidArgument, "length 0", lambda: store.direction("x", "id = 'a' or id = 's1'"))
