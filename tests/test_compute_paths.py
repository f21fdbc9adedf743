"""Paths and samples of a store: where they lead, what they measure, and what they say when they can't."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.compute import interpolation, samples
from embedstore.errors import (
    Disconnected,
    InvalidArgument,
    NoDecoder,
    NothingMatches,
    UnknownItem,
)
from embedstore.store import Store
from embedstore.types import Latent

from .computing import latents
from .stores import refused

METHODS = ["linear", "spherical", "density", "graph", "geodesic"]


@pytest.mark.parametrize("method", METHODS)
def test_every_path_leads_from_end_to_end_through_what_is_named(store: Store, method: str) -> None:
    path = store.interpolate("d000", "d001", "d002", steps=9, method=method)
    assert 3 <= len(path) <= 9
    ends = np.stack([store.vector(name).vector for name in ("d000", "d001", "d002")])
    np.testing.assert_allclose(path.latents[[0, -1]], ends[[0, 2]], atol=1e-5)
    assert np.linalg.norm(path.latents - ends[1], axis=1).min() < 1e-5
    measures = path.measures()
    assert measures.latent_length == pytest.approx(
        np.linalg.norm(np.diff(path.latents, axis=0), axis=1).sum(), rel=1e-5
    )
    pictures = np.stack([np.asarray(image, dtype=np.float64) / 255 for image in path.images()])
    steps = np.sqrt(np.square(np.diff(pictures, axis=0)).mean(axis=(1, 2)))
    assert measures.picture_length == pytest.approx(steps.sum())
    assert measures.largest_step == pytest.approx(steps.max())
    assert measures.unevenness == pytest.approx(steps.std() / steps.mean())
    z = latents(store).astype(np.float64)
    far = np.linalg.norm(z[:, None] - z, axis=2)
    np.fill_diagonal(far, np.inf)
    nearest = [np.linalg.norm(z - stop, axis=1).min() for stop in path.latents]
    assert measures.worst_distance == pytest.approx(max(nearest) / np.median(far.min(axis=1)), rel=1e-3, abs=1e-5)
    if method == "graph":
        assert path.ids is not None
        np.testing.assert_allclose([store.vector(name).vector for name in path.ids], path.latents)
        assert measures.worst_distance < 1e-4
    assert isinstance(path[1], Latent)
    assert np.array_equal(path[1].vector, path.latents[1])
    assert np.asarray(path).shape == path.latents.shape


def test_the_graphs_stops_are_neighbours_and_latents_enter_it_by_the_item_nearest(store: Store) -> None:
    path = store.interpolate("d000", "d011", steps=500, method="graph")
    names, z = store.ids(), latents(store).astype(np.float64)
    far = np.linalg.norm(z[:, None] - z, axis=2)
    ranks = far.argsort(axis=1).argsort(axis=1)
    for a, b in itertools.pairwise(path.ids or []):
        i, j = names.index(a), names.index(b)
        assert min(ranks[i, j], ranks[j, i]) <= 12
    near = store.interpolate(store.vector("d000") + store.vector("d000") * 1e-3, "d011", steps=500, method="graph")
    assert near.ids == path.ids


def test_a_geodesic_is_no_longer_in_pictures_than_the_line(store: Store) -> None:
    for a, b in (("d000", "d001"), ("d002", "d013")):
        line, geodesic = (
            store.interpolate(a, b, steps=12, method=method).measures() for method in ("linear", "geodesic")
        )
        assert (geodesic.picture_length or 9) <= (line.picture_length or 0) * 1.02
        assert (geodesic.unevenness or 9) < 0.25


def test_comparing_leaves_out_what_cant_be_done(tmp_path: Path) -> None:
    two = np.random.default_rng(0).normal(size=(80, 5)).astype(np.float32)
    two[40:] += 1000
    with embedstore.create(tmp_path / "v.store") as store:
        store.add_vectors([f"v{i}" for i in range(80)], two)
        assert list(store.compare_paths("v0", "v1")) == ["linear", "spherical", "density", "graph"]
        assert list(store.compare_paths("v0", "v79")) == ["linear", "spherical", "density"]
        refused(
            Disconnected, "use the method linear or density", lambda: store.interpolate("v0", "v79", method="graph")
        )
        refused(NoDecoder, "no decoder", lambda: store.interpolate("v0", "v1", method="geodesic"))
        refused(NoDecoder, "no decoder", lambda: store.interpolate("v0", "v1").images())
        measures = store.interpolate("v0", "v1", method="linear").measures()
        assert (measures.picture_length, measures.unevenness) == (None, None)


@pytest.mark.parametrize("steps", [1, 0, -3, 2.5, True, 10_001])
def test_a_path_needs_steps_and_ends(store: Store, steps: object) -> None:
    refused(InvalidArgument, "steps is", lambda: store.interpolate("d000", "d001", steps=steps))  # type: ignore[arg-type]
    refused(InvalidArgument, "unknown method", lambda: store.interpolate("d000", "d001", method="bezier"))
    refused(InvalidArgument, "four corners", lambda: store.grid(["d000", "d001"]))
    refused(UnknownItem, "no item", lambda: store.interpolate("d000", "zzz"))


def test_a_grid_has_its_corners(store: Store) -> None:
    names = ["d000", "d001", "d002", "d003"]
    found = store.grid(names, 3, 4).latents.reshape(3, 4, 16)
    corners = np.stack([found[0, 0], found[0, -1], found[-1, 0], found[-1, -1]])
    np.testing.assert_allclose(corners, [store.vector(name).vector for name in names], atol=1e-5)


@pytest.mark.parametrize("block", [10_000, 64])
def test_samples_say_what_they_are_near_to(store: Store, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(samples, "_BLOCK", block)
    found = store.sample(200, seed=4)
    z, names = latents(store).astype(np.float64), store.ids()
    far = np.linalg.norm(found.latents[:, None] - z, axis=2)
    assert found.nearest == [names[i] for i in far.argmin(axis=1)]
    np.testing.assert_allclose(found.distances, far.min(axis=1), rtol=1e-3)
    own = np.linalg.norm(z[:, None] - z, axis=2)
    np.fill_diagonal(own, np.inf)
    assert found.usual == pytest.approx(np.median(own.min(axis=1)), rel=1e-4)
    assert found.closest == pytest.approx(np.quantile(own.min(axis=1), 0.01), rel=1e-3)
    assert np.array_equal(found.copies, found.distances < found.closest)
    assert 0.3 < np.median(found.distances) / found.usual < 3
    assert np.array_equal(store.sample(200, seed=4).latents, found.latents)
    assert not np.array_equal(store.sample(200, seed=5).latents, found.latents)
    assert np.linalg.norm(found.latents.mean(axis=0) - z.mean(axis=0)) < 0.3 * np.sqrt(np.trace(np.cov(z.T)))
    assert len(found.images()) == 200


def test_samples_of_a_filter_near_an_item_and_spread(store: Store) -> None:
    threes = store.sample(60, "label = 3")
    assert np.mean([store.get(name)["metadata"]["label"] == 3 for name in threes.nearest]) > 0.8
    at = store.vector("d003").vector
    near, far = (store.sample(60, near="d003", spread=s).latents for s in (0.2, 4.0))
    assert np.linalg.norm(near - at, axis=1).mean() < np.linalg.norm(store.sample(60).latents - at, axis=1).mean()
    assert np.linalg.norm(near - at, axis=1).mean() < np.linalg.norm(far - at, axis=1).mean()
    none = store.sample(20, spread=0.0)
    np.testing.assert_allclose(none.distances, 0, atol=1e-5)
    assert none.copies.all()


def test_a_saved_sample_is_a_dataset(store: Store, tmp_path: Path) -> None:
    found = store.sample(5, "label = 3", near="d003", seed=2)
    folder = found.save_as_dataset(tmp_path / "sampled")
    with embedstore.create(tmp_path / "again.store") as again:
        report = again.index(folder, encoder="pca", progress=False)
        assert (report.added, report.failures) == (5, [])
        said = again.get("sample-000002.png")["metadata"]
    assert said["nearest"] == found.nearest[1]
    assert (said["sampled"], said["seed"], said["where"], said["near"]) == (True, 2, "label = 3", "d003")
    assert said["support"] == pytest.approx(found.support[1], abs=1e-3)
    refused(InvalidArgument, "there already", lambda: found.save_as_dataset(folder))
    refused(InvalidArgument, "can't be written", lambda: found.save_as_dataset(tmp_path / "no" / "where"))


def test_a_density_needs_more_items_than_dimensions(store: Store) -> None:
    refused(InvalidArgument, "16 dimensions can't be fitted to 1 item", lambda: store.sample(3, "id = 'd003'"))
    refused(NothingMatches, "no item matches", lambda: store.sample(3, "label = 77"))
    for count in (0, -1, 1.5, True, 2_000_000):
        refused(InvalidArgument, "samples can't be drawn", lambda count=count: store.sample(count))
    for spread in (-1, float("nan"), 11, "1"):
        refused(InvalidArgument, "spread is", lambda spread=spread: store.sample(3, spread=spread))


def test_inner_corners_are_stops() -> None:
    points = np.linspace([0, 0], [10, 0], 6).astype(np.float32)
    corners = np.array([[0, 0], [2.3, 0], [9.9, 0], [10, 0]], dtype=np.float32)
    found = interpolation._through(points.copy(), corners)
    assert found.tolist() == [[0, 0], corners[1].tolist(), [4, 0], [6, 0], corners[2].tolist(), [10, 0]]
    few = interpolation._through(points[[0, 5]].copy(), corners)
    assert few.tolist() == [[0, 0], [10, 0]]
