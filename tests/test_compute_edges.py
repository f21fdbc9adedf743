"""Computing where stores are empty, tiny, of inner products, or asked for nonsense."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import embedstore
from embedstore.errors import (
    EmbedstoreError,
    InvalidArgument,
    NothingMatches,
    SpaceMismatch,
    UnknownDirection,
    UnknownItem,
)
from embedstore.store import Store

from .computing import PICTURES, latents
from .stores import refused


def vectors(path: Path, z: np.ndarray, metric: str = "l2") -> Store:
    """A store of vectors 'v0', 'v1', ..., the first half of them far."""
    store = embedstore.create(path)
    said = [{"far": i < len(z) // 2} for i in range(len(z))]
    store.add_vectors([f"v{i}" for i in range(len(z))], z.astype(np.float32), said, metric=metric)
    return store


def test_in_a_store_whose_items_are_all_gone_there_is_nothing_to_lie_near_to(tmp_path: Path) -> None:
    with vectors(tmp_path / "s.store", np.random.default_rng(0).normal(size=(20, 3))) as store:
        kept = store.direction("d", "far = true", "far = false").latent
        store.delete(where="far = true or far = false")
        assert store.evaluate("direction('d')") == kept
        asked: list[Callable[[], Any]] = [
            lambda: store.support(kept),
            lambda: store.interpolate(kept, 2 * kept),
            lambda: store.interpolate(kept, 2 * kept, method="graph"),
            lambda: store.interpolate(kept, 2 * kept, method="linear").measures(),
            lambda: store.sample(3),
        ]
        for ask in asked:
            refused(NothingMatches, "no items", ask)
        np.testing.assert_allclose(store.edit(kept, {"d": 1.0}).vector, 2 * kept.vector, rtol=1)


def test_by_inner_products_lying_near_is_euclidean(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
    with vectors(tmp_path / "ip.store", z, "ip") as inner, vectors(tmp_path / "l2.store", z) as plain:
        points = np.concatenate([100 * z[:5], z[:5], -z[:5]])
        np.testing.assert_allclose(inner.support(points), plain.support(points))
        assert inner.support(100 * z[:5]).max() == 0
        ways = [store.interpolate("v0", "v50", steps=30, method="graph") for store in (inner, plain)]
        assert ways[0].ids == ways[1].ids
        assert ways[0].measures().worst_distance == pytest.approx(0, abs=1e-4)
        drawn = [store.sample(50, seed=1) for store in (inner, plain)]
        np.testing.assert_allclose(drawn[0].latents, drawn[1].latents, atol=1e-5)
        np.testing.assert_allclose(drawn[0].distances, drawn[1].distances, rtol=1e-4)
        some = [store.sample(20, "far = true").latents for store in (inner, plain)]
        np.testing.assert_allclose(some[0], some[1], atol=1e-5)


def test_a_cosine_path_may_pass_through_zero(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    with warnings.catch_warnings(), vectors(tmp_path / "s.store", z, "cosine") as store:
        warnings.simplefilter("error")
        path = store.interpolate(z[0], -z[0], steps=3, method="linear")
        assert not path.latents[1].any()
        assert path.measures().worst_distance > 1
        assert path.support[1] == 0


def test_two_items_of_one_dimension_have_no_density(tmp_path: Path) -> None:
    with vectors(tmp_path / "s.store", np.array([[1.0], [2.0]])) as store:
        refused(InvalidArgument, "at least 3", lambda: store.sample(4))
    with vectors(tmp_path / "t.store", np.array([[1.0], [2.0], [4.0]])) as store:
        assert np.isfinite(store.sample(40).latents).all()


def test_a_way_from_an_item_to_itself_has_one_stop(store: Store) -> None:
    found = store.interpolate("d001", "d001", method="graph")
    measures = found.measures()
    assert (found.ids, measures.largest_step, measures.unevenness) == (["d001"], 0.0, 0.0)
    assert set(store.compare_paths("d001", "d001")) == {"linear", "spherical", "density", "graph", "geodesic"}


@pytest.mark.parametrize("steps", range(2, 12))
def test_the_graph_has_at_most_the_stops_asked_for_and_all_corners(store: Store, steps: int) -> None:
    corners = ["d000", "d100", "d200", "d300"]
    if steps < len(corners):
        for method in ("linear", "density", "graph"):
            with pytest.raises(InvalidArgument, match="through 4 points"):
                store.interpolate(*corners, steps=steps, method=method)
        return
    ids = store.interpolate(*corners, steps=steps, method="graph").ids
    assert ids is not None
    assert len(ids) <= steps
    assert [name for name in ids if name in corners] == corners


def test_a_direction_keeps_what_its_kept_ones_were(store: Store) -> None:
    old = store.direction("other", "label = 1", "label = 2").latent
    made = store.direction("kept", "label = 5", "label = 6", keep=["other"])
    before = store.edit("d010", {"kept": 1.0})
    store.direction("other", "label = 7", "label = 9")
    assert store.edit("d010", {"kept": 1.0}) == before
    store.remove_direction("other")
    assert store.edit("d010", {"kept": 1.0}) == before
    assert abs((before - store.vector("d010")) @ old) < 1e-4 * old.norm() * made.latent.norm()
    own = store.direction("kept", "label = 3", "label = 4", keep=["kept"])  # its old self
    moved = store.edit("d010", {"kept": 1.0}) - store.vector("d010")
    assert moved.norm() > 0.1 * own.latent.norm()
    assert abs(moved @ made.latent) < 1e-4 * moved.norm() * made.latent.norm()
    store.remove_direction("kept")


def test_items_on_both_sides_are_on_neither(store: Store) -> None:
    both = store.direction("b", "label in (3, 8)", "label in (8, 1)")
    neat = store.direction("n", "label = 3", "label = 1")
    assert both.latent == neat.latent
    assert both.counts == neat.counts
    refused(
        InvalidArgument, "only 0 items match label = 3 and not", lambda: store.direction("x", "label = 3", "odd = true")
    )
    for name in ("b", "n"):
        store.remove_direction(name)


def test_four_items_a_side_give_no_auc(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=(18, 3))
    with vectors(tmp_path / "s.store", z) as store:
        assert store.direction("d", "far = true", "far = false").auc is None
        store.add_vectors([f"w{i}" for i in range(2)], z[:2], [{"far": True}, {"far": False}])
        assert store.direction("d", "far = true", "far = false").auc is not None


NONSENSE: list[tuple[type[EmbedstoreError], str, Callable[[Store], Any]]] = [
    (InvalidArgument, "seed is -1", lambda s: s.sample(5, seed=-1)),
    (InvalidArgument, "seed is 1.5", lambda s: s.sample(5, seed=1.5)),
    (InvalidArgument, "too large: at most 10,000 in all", lambda s: s.grid(["d000", "d001", "d002", "d003"], 101, 101)),
    (InvalidArgument, "pairs", lambda s: s.edit("d000", "to-three")),
    (InvalidArgument, "pairs", lambda s: s.edit("d000", [("to-three",)])),
    (UnknownDirection, "no direction is named 5", lambda s: s.edit("d000", {5: 1.0})),
    (UnknownDirection, "no direction is named", lambda s: s.direction("b\udcff")),
    (UnknownDirection, "did you mean 'to-three'", lambda s: s.remove_direction("to-thre")),
    (InvalidArgument, "weights must be finite", lambda s: s.most_similar([("d000", float("nan"))])),
    (InvalidArgument, "weights must be finite", lambda s: s.most_similar([("d000", float("inf"))], method="3cosmul")),
    (InvalidArgument, "weights must be finite", lambda s: s.most_similar([("d000", 0)])),
]


@pytest.mark.parametrize(("kind", "said", "ask"), NONSENSE)
def test_nonsense_gets_a_sentence(
    store: Store, kind: type[EmbedstoreError], said: str, ask: Callable[[Store], Any]
) -> None:
    refused(kind, said, lambda: ask(store))


@pytest.mark.parametrize("name", ["a\x7f", "a\u2028b", "a ", " a", "b\udcff", "x" * 101, 5])
def test_a_name_is_printable(store: Store, name: Any) -> None:
    refused(InvalidArgument, "can't name a direction", lambda: store.direction(name, "label = 3"))


def test_most_similar_takes_one_thing_of_any_kind(store: Store) -> None:
    by_id = store.most_similar("d000", k=3)
    for same in (store.item("d000"), [store.item("d000")], [("d000", np.float32(0.5))], iter(["d000"])):
        assert store.most_similar(same, k=3).ids == by_id.ids
    by_picture = store.most_similar(PICTURES[0], k=3)
    assert by_picture.ids[0] == "d000"  # a picture is no item, and leaves none out
    assert store.most_similar(Image.fromarray(PICTURES[0]), k=3).ids == by_picture.ids
    assert store.most_similar(store.vector("d000"), k=3).ids == by_picture.ids


def test_editing_nothing_gives_nothing(store: Store) -> None:
    assert store.edit([], {"to-three": 1.0}).shape == (0, 16)
    assert store.edit(np.empty((0, 16), np.float32), {"to-three": 1.0}).shape == (0, 16)


def test_paths_belong_to_their_space(store: Store, tmp_path: Path) -> None:
    path = store.interpolate("d000", "d001")
    assert len(store.decode(path)) == len(store.support(path)) == 8
    assert (path == path, path == store.interpolate("d000", "d001")) == (True, False)
    with vectors(tmp_path / "s.store", latents(store)) as other:
        for ask in (other.support, other.decode):
            refused(SpaceMismatch, "space", lambda ask=ask: ask(path))


def test_ids_are_as_good_as_latents(store: Store) -> None:
    for ids in ("d000", ["d000", "d001"]):
        z = np.atleast_2d([store.vector(name).vector for name in np.atleast_1d(ids)])
        np.testing.assert_array_equal(store.support(ids), store.support(z))
        assert [image.tobytes() for image in store.decode(ids)] == [image.tobytes() for image in store.decode(z)]
    refused(UnknownItem, "no item has the id", lambda: store.decode("nope"))


def test_reprs_are_short(store: Store) -> None:
    path, samples = store.interpolate("d000", "d001"), store.sample(3)
    for shown in (store.vector("d000"), store.direction("to-three"), path, samples, store.decode(path)[:0]):
        assert len(repr(shown)) < 400


def test_latents_are_equal_by_value(store: Store) -> None:
    assert store.vector("d000") == store.vector("d000") != store.vector("d001")
    assert len({store.vector("d000"), store.vector("d000"), store.vector("d001")}) == 2
    assert store.vector("d000") != "d000"


def test_closing_lets_go_of_the_files(path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    gc.collect()  # of other tests
    before = maps.read_text().count(str(path))
    store = embedstore.open(path)
    store.mean("label = 3"), store.most_similar("d000"), store.sample(5)
    assert maps.read_text().count(str(path)) > before
    store.close()
    assert maps.read_text().count(str(path)) == before
