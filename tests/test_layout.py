"""Layouts in two dimensions, and the networks that lead from latents to places and back."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import MissingExtra, ModelInvalid
from embedstore.explore import layout
from embedstore.models import mapping, network, placement
from embedstore.models.network import Layer, Network

from .charted import by_loop, nearest_share, through
from .clustered import blobs, nearest
from .stores import refused


def laid(latents: np.ndarray, k: int = 15) -> np.ndarray:
    near = nearest(latents, min(k, len(latents) - 1))
    far = np.linalg.norm(latents[:, None] - latents[near], axis=2).astype(np.float32)
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


def test_the_layout_shows_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    latents, _ = blobs([15])
    near = nearest(latents, 5)
    layout.layout(latents, near, np.ones(near.shape, np.float32), progress=True)
    assert "laying out" in capsys.readouterr().err


def test_a_layout_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    said = refused(MissingExtra, r"openTSNE", layout.check_installed)
    assert "embedstore[map]" in said


def test_an_item_is_placed_among_its_neighbours_by_a_network_that_chance_does_not_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mapping, "FEWEST_STEPS", 80)
    latents, label = blobs([40, 40, 40])
    places = np.random.default_rng(1).normal(size=(120, 2)).astype(np.float32) + 9 * np.eye(3, 2, dtype="f4")[label]
    before = torch.random.get_rng_state()
    near, cell = nearest(latents, 10), np.arange(120)
    found = mapping.fit_cells(latents, near, cell, seed=3)
    monkeypatch.setattr(mapping, "FEWEST_STEPS", 5)
    one, again, other = (mapping.fit_cells(latents, near, cell, seed=seed).layers for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before), "somebody else's random numbers"
    assert (found.sizes[0], found.sizes[-1]) == (4, 120)
    fresh, expected = blobs([10, 10, 10], seed=5)
    where = by_loop(found, places, fresh)
    nearby = np.linalg.norm(where[:, None] - places[None], axis=2).argmin(axis=1)
    assert (label[nearby] == expected).all()
    assert all(np.array_equal(a.weight, b.weight) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a.weight, b.weight) for a, b in zip(one, other, strict=True))


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
    cells=st.integers(1, 12),
    count=st.integers(1, 9),
    hidden=st.integers(1, 6),
    part=st.sampled_from([1, 3, 2048]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_place_is_the_mean_of_the_cells_around_the_likeliest_one(
    cells: int, count: int, hidden: int, part: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shapes = [(3, hidden), (hidden, cells)]
    layers = [Layer(rng.normal(size=one).astype("f4"), rng.normal(size=one[1]).astype("f4")) for one in shapes]
    net, centres = Network(tuple(layers)), rng.normal(size=(cells, 2)).astype(np.float32)
    points = rng.normal(size=(count, 3), scale=3).astype(np.float32)
    back = Network((Layer(np.zeros((2, 3), np.float32), np.zeros(3, np.float32)),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "_PART", part)
        places = placement.placement(placement.networks(net, centres, back))(points)
    assert places.dtype == np.float32
    np.testing.assert_allclose(places, by_loop(net, centres, points), rtol=1e-4, atol=1e-4)


def test_a_map_s_networks_place_and_lead_back_as_before_once_they_are_read_from_their_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def net(*sizes: int, waves: bool = False) -> Network:
        pairs = list(pairwise(sizes))
        made = [Layer(rng.normal(size=pair).astype("f4"), rng.normal(size=pair[1]).astype("f4")) for pair in pairs]
        return Network(tuple(made), waves)

    written = placement.networks(net(4, 8, 20), rng.normal(size=(20, 2)).astype("f4"), net(2, 16, 4, waves=True))
    read = network.load(tmp_path, "map", network.save(tmp_path, "map", written))
    points = rng.normal(size=(50, 4)).astype(np.float32)
    places = placement.placement(written)(points)
    assert np.array_equal(placement.placement(read)(points), places)
    assert np.array_equal(read["back"](places), written["back"](places))
    np.testing.assert_allclose(read["back"](places), through(written["back"], places), rtol=1e-3, atol=1e-3)
    assert placement.placement(read)(points[:0]).shape == (0, 2)


@pytest.mark.parametrize("wrong", ["no cells", "no way there", "two layers", "another number", "three dimensions"])
def test_networks_that_don_t_belong_together_are_refused(wrong: str) -> None:
    def layer(taken: int, given: int) -> Layer:
        return Layer(np.ones((taken, given), np.float32), np.ones(given, np.float32))

    networks = placement.networks(Network((layer(3, 7),)), np.ones((7, 2), np.float32), Network((layer(2, 3),)))
    match wrong:
        case "no cells":
            del networks["cells"]
        case "no way there":
            del networks["place"]
        case "two layers":
            networks["cells"] = Network((layer(7, 2), layer(2, 2)))
        case "another number":
            networks["cells"] = Network((layer(8, 2),))
        case _:
            networks["cells"] = Network((layer(7, 3),))
    refused(ModelInvalid, "make it again", lambda: placement.placement(networks))
