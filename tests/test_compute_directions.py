"""Directions of a store and edits along them: what they reach, what they leave alone, what they refuse."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.errors import (
    EmbedstoreError,
    FilterError,
    InvalidArgument,
    NothingMatches,
    StoreDamaged,
    StoreReadOnly,
    UnknownDirection,
    UnknownItem,
)
from embedstore.store import Store
from embedstore.types import Latent

from .computing import COUNT, LABELS, latents
from .stores import refused


def test_a_direction_is_stored_with_how_it_was_made(store: Store) -> None:
    made = store.direction("odd-ness", "odd = true", "odd = false")
    positive, negative = latents(store, "odd = true"), latents(store, "odd = false")
    np.testing.assert_allclose(made.vector, positive.mean(axis=0) - negative.mean(axis=0), atol=1e-5)
    assert (made.counts, made.method) == ((len(positive), len(negative)), "difference")
    assert made.auc is not None
    assert 0.6 < made.auc < 1
    got = store.direction("odd-ness")
    assert np.array_equal(got.vector, made.vector)
    assert (got.positive, got.negative, got.auc, got.created) == ("odd = true", "odd = false", made.auc, made.created)
    assert [one.name for one in store.directions()] == ["odd-ness", "to-three"]
    again = store.direction("odd-ness", "odd = true", method="classifier", keep=["to-three"])
    assert again.keep == ("to-three",)
    assert abs(again.vector @ store.direction("to-three").vector) < 1e-4 * again.latent.norm()
    store.remove_direction("odd-ness")
    refused(UnknownDirection, "there are to-three", lambda: store.direction("odd-ness"))


def test_every_way_to_make_a_direction(store: Store) -> None:
    balanced = store.direction("b", "label = 3", "label = 8", balance=["half"])
    assert (balanced.method, balanced.balance) == ("balanced", ("half",))
    parts = [
        latents(store, f"label = 3 and half = {half}").mean(axis=0)
        - latents(store, f"label = 8 and half = {half}").mean(axis=0)
        for half in (0, 1)
    ]
    weights = [min(store.count(f"label = 3 and half = {h}"), store.count(f"label = 8 and half = {h}")) for h in (0, 1)]
    np.testing.assert_allclose(balanced.vector, np.average(parts, axis=0, weights=weights), atol=1e-4)
    z = latents(store).astype(np.float64)
    values = np.linalg.eigvalsh(np.cov(z.T))[::-1]
    second = store.direction("p", method="principal", component=2)
    assert second.latent.norm() == pytest.approx(np.sqrt(values[1]), rel=1e-4)
    assert second.explained == pytest.approx(values[1] / values.sum(), rel=1e-3)
    assert (second.counts, second.auc) == ((COUNT, 0), None)
    for name in ("b", "p"):
        store.remove_direction(name)


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"positive": "label = 77"}, NothingMatches, "no item matches label = 77"),
        ({"positive": "label = 3", "negative": "label = 77"}, NothingMatches, "no item matches label = 77"),
        ({"positive": "label >= 0"}, NothingMatches, "every item matches"),
        ({"positive": "label = 3", "negative": "label = 3"}, InvalidArgument, "both sides are the same"),
        ({"positive": "id = 'd003'"}, InvalidArgument, "only 1 item matches"),
        ({"negative": "label = 3"}, InvalidArgument, "positive is missing"),
        ({"positive": "label = 3", "method": "magic"}, InvalidArgument, "unknown method 'magic'"),
        ({"positive": "label = 3", "method": "balanced"}, InvalidArgument, "needs balance"),
        ({"positive": "label = 3", "balance": ["nope"]}, InvalidArgument, "metadata key 'nope'"),
        ({"positive": "label = 3", "negative": "label = 8", "balance": ["label"]}, InvalidArgument, "both sides"),
        ({"positive": "label = 3", "keep": ["nope"]}, UnknownDirection, "no direction is named 'nope'"),
        ({"positive": "label = 3", "negative": "label = 8", "keep": ["to-three"]}, InvalidArgument, "nothing of the"),
        ({"method": "principal", "component": 17}, InvalidArgument, "from 1 to 16"),
        ({"method": "principal", "negative": "label = 3"}, InvalidArgument, "no negative side"),
        ({"method": "principal", "positive": "id = 'd003'"}, InvalidArgument, "take more items"),
    ],
)
def test_a_direction_that_cant_be_made_says_why(
    store: Store, settings: dict, kind: type[EmbedstoreError], said: str
) -> None:
    assert said in refused(kind, None, lambda: store.direction("x", **settings))
    with pytest.raises(FilterError):
        store.direction("x", "lable = 3")
    assert [one.name for one in store.directions()] == ["to-three"]


@pytest.mark.parametrize("name", ["", " a", "a=b", "a,b", "x" * 101, "a'b", "a\nb", 3])
def test_a_directions_name_can_be_written_on_a_command_line(store: Store, name: object) -> None:
    refused(InvalidArgument, "can't name a direction", lambda: store.direction(name, "label = 3"))  # type: ignore[arg-type]


def test_directions_survive_and_need_a_store_that_can_be_written(path: Path) -> None:
    with embedstore.open(path, read_only=True) as store:
        assert store.direction("to-three").counts == (int((LABELS == 3).sum()), int((LABELS == 8).sum()))
        refused(StoreReadOnly, "opened for reading", lambda: store.direction("x", "label = 3"))
        refused(StoreReadOnly, "opened for reading", lambda: store.remove_direction("to-three"))


def test_an_edit_reaches_its_target_and_stays_where_it_is_already(store: Store) -> None:
    eights, threes = store.ids("label = 8"), store.ids("label = 3")
    edited = store.edit(eights, {"to-three": 1.0})
    share = np.mean([hit.metadata["label"] == 3 for hits in store.search(list(edited), 5) for hit in hits])
    plain = np.stack([(store.vector(name) + store.direction("to-three").latent).vector for name in eights])
    plain_share = np.mean([hit.metadata["label"] == 3 for hits in store.search(list(plain), 5) for hit in hits])
    assert share > 0.97
    assert share >= plain_share
    moved = np.linalg.norm(store.edit(threes, {"to-three": 1.0}) - latents(store, "label = 3"), axis=1)
    assert np.median(moved) < 0.1 * store.direction("to-three").latent.norm()
    back = store.edit(threes, {"to-three": -1.0})
    assert np.mean([h.metadata["label"] == 8 for hits in store.search(list(back), 5) for h in hits]) > 0.97
    half = store.edit(eights, {"to-three": 0.5})
    np.testing.assert_allclose(half, (latents(store, "label = 8") + edited) / 2, atol=1e-4)


def test_one_item_is_edited_as_many_are_and_a_chain_is_edit_after_edit(store: Store) -> None:
    store.direction("first", method="principal")
    names = store.ids("label = 8")[:4]
    many = store.edit(names, {"to-three": 0.7, "first": -0.5})
    for name, row in zip(names, many, strict=True):
        one = store.edit(name, {"to-three": 0.7, "first": -0.5})
        assert isinstance(one, Latent)
        np.testing.assert_allclose(one.vector, row, atol=1e-5)
        apart = store.edit(store.edit(name, {"to-three": 0.7}), [("first", -0.5)])
        np.testing.assert_allclose(apart.vector, row, atol=1e-5)
    z = latents(store)[:4]
    twice = np.repeat(2 * store.direction("first").vector[None], 4, axis=0)
    np.testing.assert_allclose(store.edit(z, {"first": 2.0}) - z, twice, atol=1e-5)
    film = store.film(names[0], {"to-three": 0.7, "first": -0.5}, steps=5)
    assert film.latents.shape == (9, 16)
    np.testing.assert_allclose(film.latents[[0, 8]], [store.vector(names[0]).vector, many[0]], atol=1e-5)
    store.remove_direction("first")


def test_an_edit_leaves_alone_what_its_direction_keeps_and_a_classifier_goes_along_its_normal(store: Store) -> None:
    store.direction("odd-ness", "odd = true", "odd = false")
    kept = store.direction("k", "label = 3", "label = 8", keep=["odd-ness"])
    along = store.direction("c", "label = 3", "label = 8", method="classifier")
    z = latents(store, "label = 8")
    moved = store.edit(z, {"k": 1.0}) - z
    assert kept.keep == ("odd-ness",)
    axis = store.direction("odd-ness").vector / store.direction("odd-ness").latent.norm()
    np.testing.assert_allclose(moved @ axis, 0, atol=1e-4)
    unit = along.vector / along.latent.norm()
    moved = store.edit(z, {"c": 1.0}) - z
    np.testing.assert_allclose(moved - np.outer(moved @ unit, unit), 0, atol=1e-4)
    aim = np.median(latents(store, "label = 3") @ unit)
    np.testing.assert_allclose((z + moved) @ unit, np.maximum(aim, z @ unit), rtol=1e-3, atol=1e-3)
    for name in ("k", "c", "odd-ness"):
        store.remove_direction(name)


def test_a_direction_outlives_the_items_that_it_was_made_of(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "s.store") as store:
        z = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        z[:30, 0] += 9
        store.add_vectors([f"v{i}" for i in range(60)], z, [{"far": i < 30} for i in range(60)])
        made = store.direction("far", "far = true", "far = false")
        store.delete(where="far = true")
        assert np.array_equal(store.direction("far").vector, made.vector)
        moved = store.edit("v40", {"far": 1.0}).vector - z[40]
        assert abs(moved @ made.vector) == pytest.approx(np.linalg.norm(moved) * made.latent.norm(), rel=1e-4)
        assert z[40] @ made.vector < (z[40] + moved) @ made.vector
        for name in store.ids():  # and now nothing has the field that its sides are told by
            store.update(name, metadata={"far": None})
        with pytest.raises(FilterError):
            store.ids("far = false")
        assert np.array_equal(store.edit("v40", {"far": 1.0}).vector - z[40], moved)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 11, -10.5, "1", None, True])
def test_a_strength_out_of_range_is_refused(store: Store, strength: object) -> None:
    refused(InvalidArgument, "out of range", lambda: store.edit("d001", {"to-three": strength}))  # type: ignore[dict-item]
    refused(InvalidArgument, "at least one direction", lambda: store.edit("d001", {}))
    refused(UnknownDirection, "did you mean", lambda: store.edit("d001", {"to-thre": 1.0}))
    refused(UnknownItem, "no item", lambda: store.edit("nope", {"to-three": 1.0}))


@pytest.mark.parametrize(
    ("column", "value"),
    [("vector", b"123"), ("vector", np.full(16, np.nan, "<f4").tobytes()), ("made", "{"), ("made", "[]"),
     ("made", "{}"), ("made", '{"method": "magic", "counts": [1, 2]}'),
     ("made", '{"method": "difference", "counts": 3}')],
)  # fmt: skip
def test_a_strangers_direction_is_data(path: Path, tmp_path: Path, column: str, value: object) -> None:
    with embedstore.open(path, read_only=True) as store:
        store.backup(tmp_path / "theirs.store")
    connection = sqlite3.connect(tmp_path / "theirs.store" / "store.db")
    sets = {"vector": "UPDATE directions SET vector = ?", "made": "UPDATE directions SET made = ?"}
    connection.execute(sets[column], (value,))
    connection.commit()
    connection.close()
    with embedstore.open(tmp_path / "theirs.store") as store:
        refused(StoreDamaged, "remove it and make it again", lambda: store.edit("d001", {"to-three": 1.0}))
        refused(StoreDamaged, "remove it and make it again", store.directions)
        if column == "vector":
            assert [problem for problem in store.verify().problems if "to-three" in problem]
        store.remove_direction("to-three")
        assert store.directions() == []
        assert store.verify().ok


def test_info_names_the_directions(store: Store) -> None:
    assert store.info()["spaces"][0]["directions"] == ["to-three"]
