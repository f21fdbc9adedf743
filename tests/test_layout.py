"""Layouts in two dimensions, and the networks that lead from latents to places and back."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import InvalidArgument, MissingExtra, ModelInvalid
from embedstore.explore import layout
from embedstore.models import mapping, network, placement
from embedstore.models.network import Layer, Network

from .charted import by_loop, nearest_share, through
from .clustered import blobs, nearest
from .stores import refused


def laid(latents: np.ndarray, k: int = 15) -> np.ndarray:
    exact = latents.astype(np.float64)  # squares of float32 have bounds
    near = nearest(exact, min(k, len(latents) - 1))
    far = np.linalg.norm(exact[:, None] - exact[near], axis=2).astype(np.float32)
    return layout.layout(latents, near, far)


@pytest.mark.parametrize("sizes", [[40, 40, 40], [70, 20, 12]])
def test_what_is_apart_stays_apart_and_the_same_again_gives_the_same_places(sizes: list[int]) -> None:
    latents, label = blobs(sizes)
    places = laid(latents)
    assert places.dtype == np.float32
    assert nearest_share(places, label) == 1
    np.testing.assert_allclose(places.mean(axis=0), 0, atol=1e-4)
    assert places.std(axis=0).max() == pytest.approx(1, rel=1e-4)
    assert np.array_equal(laid(latents), places)


@pytest.mark.parametrize(("count", "dimension"), [(10, 1), (10, 5), (40, 1), (25, 2)])
def test_few_items_and_few_dimensions_have_a_layout_too(count: int, dimension: int) -> None:
    latents = np.random.default_rng(count).normal(size=(count, dimension)).astype(np.float32)
    places = laid(latents, 30)
    assert np.isfinite(places).all()
    assert len(np.unique(places, axis=0)) == count
    assert places.std(axis=0).max() == pytest.approx(1, rel=1e-4)


def test_groups_on_a_line_stay_apart() -> None:
    label = np.repeat(np.arange(3), 20)
    latents = (30 * label + np.random.default_rng(0).normal(size=60)).astype(np.float32)[:, None]
    assert nearest_share(laid(latents), label) > 0.95


def test_items_at_no_distance_from_each_other_are_no_division_by_zero() -> None:
    latents, _ = blobs([20, 20])
    near = nearest(latents, 10)
    far = np.linalg.norm(latents[:, None] - latents[near], axis=2).astype(np.float32)
    far[:7] = 0
    assert np.isfinite(layout.layout(latents, near, far)).all()
    assert np.isfinite(layout.layout(latents, near, np.zeros_like(far))).all()


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-40, 1.0, 2.0**40, 2.0**60])
def test_latents_of_any_size_are_laid_out(scale: float) -> None:
    latents, label = blobs([30, 30, 30])
    places = laid(latents * np.float32(scale))
    assert np.isfinite(places).all()
    assert nearest_share(places, label) == 1


@pytest.mark.parametrize("far_off", [1e8, 1e18])
def test_an_item_far_off_leaves_the_others_their_places(far_off: float) -> None:
    latents, label = blobs([30, 30, 30, 1])
    latents[-1] *= np.float32(far_off)
    places = laid(latents)
    assert np.isfinite(places).all()
    assert nearest_share(places[:-1], label[:-1]) == 1


def test_ordinary_distances_stay_as_they_are() -> None:
    far = np.random.default_rng(0).exponential(size=(50, 30)).astype(np.float32) + np.float32(0.01)
    for scale in (1e-8, 1, 1e8):
        scaled = far * np.float32(scale)
        assert np.array_equal(layout._calm(scaled), scaled.astype(np.float64))


def test_places_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    latents, _ = blobs([20, 20])
    monkeypatch.setattr(layout, "_start", lambda latents: np.full((len(latents), 2), np.nan))
    refused(InvalidArgument, "can't be laid out", lambda: laid(latents))


def test_the_layout_shows_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    latents, _ = blobs([15])
    near = nearest(latents, 5)
    layout.layout(latents, near, np.ones(near.shape, np.float32), progress=True)
    assert "laying out" in capsys.readouterr().err


def test_a_layout_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    said = refused(MissingExtra, r"openTSNE", layout.check_installed)
    assert "embedstore[map]" in said


def test_an_item_is_placed_among_its_neighbours_and_by_chance_nowhere() -> None:
    latents, label = blobs([40, 40, 40])
    places = np.random.default_rng(1).normal(size=(120, 2)).astype(np.float32) + 9 * np.eye(3, 2, dtype="f4")[label]
    network = placement.learn(latents, places)
    assert network.sizes == [4, 64, 2]
    fresh, expected = blobs([10, 10, 10], seed=5)
    where = placement.placement({"place": network})(fresh)
    nearby = np.linalg.norm(where[:, None] - places[None], axis=2).argmin(axis=1)
    assert (label[nearby] == expected).all()
    again = placement.learn(latents, places)
    assert all(np.array_equal(a.weight, b.weight) for a, b in zip(network.layers, again.layers, strict=True))


@pytest.mark.parametrize(("count", "most"), [(1, 9), (2, 9), (3, 9), (50, 8), (1000, 64), (1000, 10_000)])
def test_prototypes_are_the_means_of_as_many_items_each_that_lie_together(
    count: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "PROTOTYPES", most)
    rng = np.random.default_rng(count)
    latents, places = (rng.random((count, size)).astype(np.float32) for size in (3, 2))
    first, second = placement.learn(np.concatenate([latents, places], axis=1), places).layers
    found, where = first.weight.T, second.weight
    assert len(found) == 2 ** int(np.log2(min(most, count)))
    np.testing.assert_allclose(found[:, 3:], where, atol=1e-5, err_msg="both are of the same items")
    # Each is the mean of count / c items or one more, and all items are in it.
    sizes = np.diff(np.arange(len(found) + 1) * count // len(found))
    np.testing.assert_allclose((found * sizes[:, None]).sum(axis=0)[:3], latents.sum(axis=0), rtol=1e-3, atol=1e-3)
    inside = np.linalg.norm(places[:, None] - where[None], axis=2).min(axis=1).mean()
    assert inside < 0.7 / np.sqrt(len(found)), "cells are small"
    assert not first.bias.any()


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_the_nearest_prototype_is_found_though_few_regions_are_looked_at(offset: float) -> None:
    rng = np.random.default_rng(0)
    t = rng.random((20_000, 2)).astype(np.float32)
    latents = np.stack([t[:, 0], t[:, 1], np.sin(5 * t[:, 0]), np.cos(5 * t[:, 1])], axis=1) + np.float32(offset)
    placed = placement.placement({"place": placement.learn(latents, t)})
    assert placed.prototypes.shape[:2] == (128, 64)
    fresh = rng.random((3_000, 2)).astype(np.float32)
    given = np.stack([fresh[:, 0], fresh[:, 1], np.sin(5 * fresh[:, 0]), np.cos(5 * fresh[:, 1])], axis=1)
    found = placed(given + np.float32(offset))
    assert np.median(np.linalg.norm(found - fresh, axis=1)) < 0.01
    np.testing.assert_array_equal(found[:7], placed((given + np.float32(offset))[:7]), "alone or among many")


def test_a_place_leads_back_to_the_latents_that_lie_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "FEWEST_STEPS", 200)
    latents, label = blobs([40, 40, 40])
    places = laid(latents)
    back = mapping.fit_back(places, latents, seed=2)
    assert back.waves
    assert (back.sizes[0], back.sizes[-1]) == (2, 4)
    means = np.stack([latents[label == blob].mean(axis=0) for blob in range(3)])
    made = through(back, places)
    assert (np.linalg.norm(made[:, None] - means[None], axis=2).argmin(axis=1) == label).all()
    left = np.square(made - latents).mean() / np.square(latents - latents.mean(axis=0)).mean()
    assert left < 0.05
    again = mapping.fit_back(places, latents, seed=2)
    assert all(np.array_equal(a.weight, b.weight) for a, b in zip(back.layers, again.layers, strict=True))


def test_latents_that_are_all_the_same_lead_back_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "FEWEST_STEPS", 100)
    places = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    back = mapping.fit_back(places, np.full((20, 3), 2.5, np.float32))
    np.testing.assert_allclose(back(places), 2.5, atol=0.2)


@settings(max_examples=60, deadline=None)
@given(
    prototypes=st.integers(1, 12),
    count=st.integers(1, 9),
    part=st.sampled_from([1, 3, 2048]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_place_is_the_mean_of_those_around_the_nearest_prototype(
    prototypes: int, count: int, part: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    known, where = (rng.normal(size=(prototypes, size)).astype(np.float32) for size in (3, 2))
    points = rng.normal(size=(count, 3), scale=3).astype(np.float32)
    points[0] = known[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "_PART", part)
        places = placement.placement({"place": net(known, where)})(points)
    assert places.dtype == np.float32
    np.testing.assert_allclose(places, by_loop(known, where, points), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(places[0], where[0], atol=1e-4)


def net(known: np.ndarray, where: np.ndarray) -> Network:
    return Network((Layer(known.T.copy(), np.zeros(len(known), "f4")), Layer(where, np.zeros(where.shape[1], "f4"))))


def test_a_map_s_networks_place_and_lead_back_as_before_once_they_are_read_from_their_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = pairwise([2, 16, 4])
    layers = [Layer(rng.normal(size=pair).astype("f4"), rng.normal(size=pair[1]).astype("f4")) for pair in pairs]
    known, where = (rng.normal(size=(20, size)).astype(np.float32) for size in (4, 2))
    written = {"place": net(known, where), "back": Network(tuple(layers), waves=True)}
    read = network.load(tmp_path, "map", network.save(tmp_path, "map", written))
    points = rng.normal(size=(50, 4)).astype(np.float32)
    places = placement.placement(written)(points)
    assert np.array_equal(placement.placement(read)(points), places)
    assert np.array_equal(read["back"](places), written["back"](places))
    np.testing.assert_allclose(read["back"](places), through(written["back"], places), rtol=1e-3, atol=1e-3)
    assert placement.placement(read)(points[:0]).shape == (0, 2)


@pytest.mark.parametrize("wrong", ["no way there", "one layer", "three layers", "three dimensions"])
def test_networks_that_are_no_map_s_are_refused(wrong: str) -> None:
    def layer(taken: int, given: int) -> Layer:
        return Layer(np.ones((taken, given), np.float32), np.ones(given, np.float32))

    made = {
        "no way there": {"back": Network((layer(2, 3),))},
        "one layer": {"place": Network((layer(3, 2),))},
        "three layers": {"place": Network((layer(3, 7), layer(7, 2), layer(2, 2)))},
        "three dimensions": {"place": Network((layer(3, 7), layer(7, 3)))},
    }
    refused(ModelInvalid, "make it again", lambda: placement.placement(made[wrong]))
