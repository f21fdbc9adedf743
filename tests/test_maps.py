"""Maps of a store: made, found again, made anew, forgotten; what they say, the way back, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedstore
from embedstore.errors import InvalidArgument, MissingExtra, StoreReadOnly, UnknownRun, UnknownSpace
from embedstore.explore import maps, sampled, stored
from embedstore.models import mapping, network, placement
from embedstore.store import Store
from embedstore.types import Latent

from .charted import copy, copy_of_blobs, hurry, latents, made, nearest_share, placed, said, seq, through
from .clustered import COUNT, LABELS, blobs, digits
from .stores import refused


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(tmp_path_factory)


@pytest.fixture(scope="module")
def store(path: Path) -> Iterator[Store]:
    """Of these two, nothing is changed."""
    with embedstore.open(path) as store:
        yield store


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with embedstore.open(copy_of_blobs(tmp_path_factory)) as store:
        yield store


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store to change, whose next maps are made in a moment."""
    hurry(monkeypatch)
    with embedstore.open(copy_of_blobs(tmp_path_factory)) as store:
        yield store


def test_a_map_says_how_it_was_made_and_holds_every_item(store: Store) -> None:
    found = store.map()
    assert store.maps() == [found] == [store.map("default")]
    assert (found.name, found.space, found.items, found.placed, found.is_default) == (
        "default",
        "default",
        COUNT,
        0,
        True,
    )
    assert found.commit == seq(store) - 1
    assert found.seconds > 0
    assert list(said(store)) == store.ids()
    np.testing.assert_allclose(store.places(), list(said(store).values()), rtol=1e-6)
    assert np.isfinite(store.places()).all()
    np.testing.assert_array_equal(store.places("default"), store.places())
    # The map means something: a digit's neighbours on it are mostly of its own class.
    assert nearest_share(store.places(), LABELS[:COUNT]) > 0.8


def test_how_true_a_map_is_is_what_scikit_learn_says(store: Store, plain: Store) -> None:
    from sklearn.manifold import trustworthiness

    for one in (store, plain):
        vectors, places = latents(one), one.places()
        assert one.map().trustworthiness == pytest.approx(trustworthiness(vectors, places, n_neighbors=15), abs=1e-4)
        assert one.map().continuity == pytest.approx(trustworthiness(places, vectors, n_neighbors=15), abs=1e-4)
        assert min(one.map().trustworthiness, one.map().continuity) > 0.95


def test_a_map_that_is_there_is_not_made_again(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, found = seq(store), store.map()
    monkeypatch.setitem(sys.modules, "openTSNE", None)  # nor is anything needed for one
    assert store.map() == found == store.map("default")
    assert seq(store) == before
    with embedstore.open(path, read_only=True) as reader:
        assert reader.map() == found
        np.testing.assert_array_equal(reader.places(), store.places())
    said_of_it = refused(MissingExtra, "openTSNE", lambda: store.map("new"))
    assert "embedstore[map]" in said_of_it
    refused(MissingExtra, "openTSNE", lambda: store.map(refit=True))
    assert store.maps() == [found]
    assert (seq(store), len(list((path / "models").glob("*.json")))) == (before, 3)  # encoder, clustering, map


def test_blobs_are_apart_on_the_map_in_every_metric(
    plain: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, label = blobs([25, 25, 25])
    assert nearest_share(plain.places(), label) == 1
    monkeypatch.setattr(maps, "_JUDGED", 50)
    monkeypatch.setattr(mapping, "FEWEST_STEPS", 80)
    for metric in ("cosine", "ip"):
        with embedstore.create(tmp_path / f"{metric}.store") as store:
            vectors, _ = blobs([25, 25, 25])
            if metric == "cosine":
                vectors *= np.linspace(0.01, 90, 75, dtype=np.float32)[:, None]  # a length means nothing
            store.add_vectors([f"i{i}" for i in range(75)], vectors, metric=metric)
            found = store.map()
            places = store.places()
            assert nearest_share(places, label) == 1
            assert 0 < found.trustworthiness <= 1
            fresh, expected = blobs([6, 6, 6], seed=1)
            store.add_vectors([f"new {i}" for i in range(18)], fresh)
            far = np.linalg.norm(store.places()[75:, None] - places[None], axis=2)
            assert (label[far.argmin(axis=1)] == expected).all()


def test_a_place_turns_back_into_a_latent_of_the_blob_that_lies_there(plain: Store) -> None:
    _, label = blobs([25, 25, 25])
    means = np.stack([plain.mean(f"blob = {one}").vector for one in range(3)])
    back = plain.unmap(plain.places())
    assert back.shape == (75, 4)
    assert (np.linalg.norm(back[:, None] - means[None], axis=2).argmin(axis=1) == label).all()
    networks = network.load(plain.path / "models", "map", made(plain).model)
    np.testing.assert_allclose(back, through(networks["back"], plain.places()), rtol=1e-3, atol=1e-3)
    # And the items found there are of the blob.
    for item in (3, 40, 74):
        hits = plain.search(plain.unmap(plain.places()[item]), k=5)
        assert {hit.metadata["blob"] for hit in hits} == {label[item]}


def test_of_one_point_a_latent_comes_back_and_of_several_an_array(store: Store) -> None:
    places = store.places()
    one = store.unmap(places[7])
    assert isinstance(one, Latent)
    assert (one.space, len(one.vector)) == ("default", 8)
    for point in (places[7].tolist(), tuple(places[7].tolist()), places[7].astype(np.float64)):
        np.testing.assert_array_equal(store.unmap(point).vector, one.vector)
    several = store.unmap(places[5:9])
    assert several.shape == (4, 8)
    assert several.dtype == np.float32
    np.testing.assert_allclose(several[2], one.vector, rtol=1e-4, atol=1e-4)
    assert store.unmap(places[7:8]).shape == (1, 8)
    assert store.unmap(np.zeros((0, 2))).shape == (0, 8)
    np.testing.assert_array_equal(store.unmap([0, 0], name="default", space="default").vector, store.unmap([0, 0]))
    [picture] = store.decode(one)
    original = np.asarray(store.images(["d007"])[0], dtype=float)
    assert np.corrcoef(np.asarray(picture).ravel(), original.ravel())[0, 1] > 0.7


@pytest.mark.parametrize(
    ("point", "match"),
    [
        ([0, np.nan], "two finite numbers"),
        ([[0, 0], [np.inf, 0]], "two finite numbers"),
        ([1, 2, 3], "two finite numbers"),
        (7, "two finite numbers"),
        ([], "two finite numbers"),
        (None, "two finite numbers"),
        (np.zeros((2, 2, 2)), "two finite numbers"),
        ([0, 10_001], "nothing at .*10001"),
        ([[0, 0], [-2e5, 4]], "nothing at .*-200000"),
    ],
)
def test_what_is_no_point_of_a_map_is_refused(store: Store, point: Any, match: str) -> None:
    refused(InvalidArgument, match, lambda: store.unmap(point))


def test_maps_and_spaces_that_aren_t_there_are_named(store: Store, tmp_path: Path) -> None:
    refused(UnknownRun, "no map is named 'defualt': did you mean 'default'", lambda: store.places("defualt"))
    refused(UnknownRun, "no map is named 'zzz': there is 'default'", lambda: store.unmap([0, 0], name="zzz"))
    refused(UnknownRun, "no map is named 'zzz'", lambda: store.remove_map("zzz"))
    for call in (store.maps, store.map, store.places, lambda space: store.unmap([0, 0], space=space)):
        refused(UnknownSpace, "nope", lambda call=call: call(space="nope"))  # type: ignore[misc]
    with embedstore.create(tmp_path / "new.store") as new:
        new.add_vectors(["a"], np.ones((1, 3), np.float32))
        assert new.maps() == []
        for call in (new.places, lambda: new.unmap([0, 0]), new.draw_map):
            refused(UnknownRun, "no map yet: `embedstore map STORE` makes one", call)


@pytest.mark.parametrize("name", [3, b"x", " a", "a'b", "a=b", "a,b", "a(b", "a\nb", "x" * 101])
def test_names_that_a_command_line_or_a_filter_could_not_say_are_refused(own: Store, name: Any) -> None:
    refused(InvalidArgument, "can't name a map", lambda: own.map(name))
    assert [one.name for one in own.maps()] == ["default"]


def test_a_refit_replaces_the_map_and_takes_in_what_was_added(own: Store) -> None:
    before, old = own.map(), made(own)
    fresh, _ = blobs([4, 4, 4], seed=1)
    own.add_vectors([f"new {i}" for i in range(12)], fresh)
    assert (own.map().items, own.map().placed) == (75, 12)
    start = own.places()
    after = own.map(refit=True, seed=8)
    assert own.maps() == [after]
    assert (after.items, after.placed, after.name, after.is_default) == (87, 0, "default", True)
    assert after.commit > before.commit
    assert (made(own).made["seed"], made(own).made["fitted"]) == (8, 87)
    assert made(own).model != old.model
    assert not np.array_equal(own.places(), start)
    assert list(said(own)) == own.ids()
    assert own.verify().ok
    own.compact()
    assert not list((own.path / "models").glob(f"{old.model}*"))


def test_there_may_be_several_maps_and_the_one_made_last_is_meant_where_none_is_named(own: Store) -> None:
    first = own.places()
    own.map("b side")
    own.map("third")
    assert [(one.name, one.is_default) for one in own.maps()] == [
        ("b side", False),
        ("default", False),
        ("third", True),
    ]
    np.testing.assert_array_equal(own.places("default"), first)
    np.testing.assert_array_equal(own.places(), own.places("third"))
    np.testing.assert_array_equal(own.unmap([0.5, 0]).vector, own.unmap([0.5, 0], name="third").vector)
    assert own.map().name == "third"
    assert own.map("default").name == "default"  # to look at one is not to choose it
    assert own.map().name == "third"
    own.remove_map("b side")
    assert [(one.name, one.is_default) for one in own.maps()] == [("default", False), ("third", True)]
    own.remove_map("third")
    assert own.map().name == "default"
    assert own.map().is_default
    own.remove_map("default")
    assert own.maps() == []
    assert said(own) == {}
    with own._database.read() as connection:
        assert connection.execute("SELECT count(*) FROM places").fetchone() == (0,)
    again = own.map()
    assert (again.name, again.is_default, again.items) == ("default", True, 75)


def test_the_same_items_and_seed_give_the_same_map(own: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    own.map("a", seed=4)
    own.map("b", seed=4)
    with embedstore.open(copy_of_blobs(tmp_path_factory)) as other:
        other.map("a", seed=4)
        np.testing.assert_array_equal(other.places("a"), own.places("a"))
        assert made(other, "a").model == made(own, "a").model == made(own, "b").model
        np.testing.assert_array_equal(other.unmap([1, -1], name="a").vector, own.unmap([1, -1], name="b").vector)
    for seed in (-1, "4", 2.5, 2**63, True):
        refused(InvalidArgument, "seed", lambda seed=seed: own.map("c", seed=seed))  # type: ignore[misc]


def test_a_store_that_is_read_refuses_to_make_a_map_at_once_and_writes_no_file(path: Path) -> None:
    before = sorted(path.rglob("*"))
    with embedstore.open(path, read_only=True) as reader:
        space = reader._latents(None)
        refused(StoreReadOnly, "opened for reading", lambda: reader.map("new"))
        refused(StoreReadOnly, "opened for reading", lambda: reader.map(refit=True))
        refused(StoreReadOnly, "opened for reading", lambda: reader.remove_map("default"))
        assert not any("neighbour" in str(key) for key in space._kept), "looked for neighbours first"
    assert sorted(path.rglob("*")) == before


def test_too_few_items_and_items_that_are_all_alike_have_no_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    with embedstore.create(tmp_path / "few.store") as few:
        refused(embedstore.errors.EmbedstoreError, "no space|no items|empty", few.map)
        few.add_vectors([f"i{i}" for i in range(9)], np.eye(9, dtype=np.float32))
        refused(InvalidArgument, "9 items are too few for a map: at least 10 are needed", few.map)
        few.add_vectors([f"c{i}" for i in range(30)], np.tile(np.eye(9, dtype=np.float32)[:1], (30, 1)))
        refused(InvalidArgument, "39 items have only 9 different latents", few.map)
        assert few.maps() == []
        few.add_vectors(["j"], -np.ones((1, 9), np.float32))
        assert few.map().items == 40
        assert (few.map().trustworthiness, few.map().continuity) == (None, None)
        few.delete(few.ids()[:35])
        refused(InvalidArgument, "5 items are too few", lambda: few.map(refit=True))
        assert few.map().items == 40, "the one that there was is kept"
        assert few.places().shape == (5, 2)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_copies_share_their_place(tmp_path: Path, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    vectors, _ = blobs([12, 12])
    repeated = vectors[[0, 0, 0, 5, 20]]
    if metric == "cosine":
        repeated = repeated * np.array([[2], [4], [8], [16], [0.5]], np.float32)  # powers of two: the same direction
    with embedstore.create(tmp_path / "copies.store") as store:
        store.add_vectors(
            [f"i{i}" for i in range(29)], np.concatenate([repeated[:2], vectors, repeated[2:]]), metric=metric
        )
        found = store.map()
        assert (found.items, made(store).made["fitted"]) == (29, 24)
        places = store.places()
        for item, original in ((0, 2), (1, 2), (26, 2), (27, 7), (28, 22)):
            assert np.array_equal(places[item], places[original])
        assert len(np.unique(places, axis=0)) == 24


def test_of_many_items_a_sample_is_laid_out_and_the_others_are_placed(
    own: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sampled.take.__kwdefaults__, "limit", 40)
    monkeypatch.setattr(maps, "_PLACED", 8)
    found = own.map("sampled")
    assert (found.items, found.placed, made(own, "sampled").made["fitted"]) == (75, 0, 40)
    places, expected = own.places("sampled"), placed(own, latents(own), "sampled")
    assert np.isfinite(places).all()
    same = np.isclose(places, expected, atol=1e-4).all(axis=1)
    assert 35 <= same.sum() < 75, "those that were laid out are where the layout has them"
    assert list(said(own, "sampled")) == own.ids()


def test_of_more_items_than_prototypes_each_stands_for_several(own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "PROTOTYPES", 20)
    own.map("coarse")
    networks = network.load(own.path / "models", "map", made(own, "coarse").model)
    where = networks["place"].layers[1].weight
    assert networks["place"].sizes == [own.vector(own.ids()[0]).vector.shape[0], 16, 2], "a power of two"
    far = np.linalg.norm(own.places("coarse")[:, None] - where[None], axis=2).min(axis=1)
    assert far.mean() < 0.5, "prototypes are where the items are"
    fresh, _ = blobs([2, 2, 2], seed=1)
    own.add_vectors([f"new {i}" for i in range(6)], fresh)
    np.testing.assert_allclose(own.places("coarse")[75:], placed(own, fresh, "coarse"), atol=1e-4)


def test_what_changes_while_a_map_is_made_is_caught_up_with(own: Store, path: Path) -> None:
    space = own._latents(None)  # as it is when making begins
    with embedstore.open(own.path) as other:
        fresh, _ = blobs([2, 2, 2], seed=1)
        other.add_vectors([f"new {i}" for i in range(6)], fresh)
        other.delete(["i0", "i1"])
        other.update("i2", metadata={"x": 1})
    maps.make(space, own._writer, "new", seed=0, progress=False)
    missing = [id for id in own.ids() if id not in said(own, "new")]
    assert missing == [f"new {i}" for i in range(6)] + ["i2"]
    assert np.isnan(own.places("new")).all(axis=1).sum() == 7
    stored.catch_up(own._latents(None), own._writer, "maps", "new")
    assert list(said(own, "new")) == own.ids()
    np.testing.assert_allclose(own.places("new")[-7:], placed(own, latents(own, missing), "new"), atol=1e-4)
    assert own.verify().ok


def test_pictures_and_vectors_lie_where_their_latents_do(store: Store) -> None:
    """The bars are seen by those who ask for them only; and a digit lies near another of its kind."""
    picture = digits(COUNT, COUNT + 1)[0].picture
    where = placed(store, store.encode([picture]))[0]
    near = np.linalg.norm(store.places() - where, axis=1).argsort()[:5]
    assert (LABELS[near] == LABELS[COUNT]).mean() >= 0.6
