"""Paths: ends, evenness, and shortest ways against brute force and against a surface whose geodesics are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import Disconnected, InvalidArgument
from embedstore.latent import paths

rng = np.random.default_rng(0)
CORNERS = rng.normal(size=(3, 6)).astype(np.float32)


def lengths(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.diff(points, axis=0), axis=1)


def test_a_line_is_even_and_straight() -> None:
    found = paths.linear(CORNERS[:2], 5)
    expected = [CORNERS[0] + t * (CORNERS[1] - CORNERS[0]) for t in (0, 0.25, 0.5, 0.75, 1)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    through = paths.linear(CORNERS, 101)
    assert np.abs(through - CORNERS[1]).max(axis=1).min() < lengths(CORNERS).sum() / 100
    assert lengths(through).std() / lengths(through).mean() < 0.05  # the one step that cuts the corner is shorter


def test_a_spherical_path_keeps_the_length_and_halves_the_angle() -> None:
    a, b = (5 * one / np.linalg.norm(one) for one in CORNERS[:2])
    found = paths.spherical(np.stack([a, b]), 9)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 5, rtol=1e-3)
    middle = (a + b) / np.linalg.norm(a + b) * 5
    np.testing.assert_allclose(found[4], middle, atol=2e-2)
    np.testing.assert_allclose(found[[0, -1]], [a, b], atol=1e-6)
    assert lengths(found).std() / lengths(found).mean() < 1e-3


@pytest.mark.parametrize("ends", [[[0, 0], [1, 2]], [[1, 2], [-1, -2]], [[1, 2], [2, 4]], [[1, 1], [1, 1]]])
def test_a_spherical_path_where_there_is_no_angle_is_a_line(ends: list[list[float]]) -> None:
    corners = np.array(ends, dtype=np.float32)
    np.testing.assert_allclose(paths.spherical(corners, 4), paths.linear(corners, 4), atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 12), st.integers(2, 30), st.integers(0, 1000))
def test_resampling_keeps_the_ends_and_evens_the_distances_along_the_line(n: int, count: int, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(n, 3))
    found = paths.resample(points, count)
    np.testing.assert_array_equal(found[[0, -1]], points[[0, -1]])
    fine = paths.resample(points, 20 * (count - 1) + 1)
    np.testing.assert_allclose(fine[::20], found, atol=1e-9)
    assert lengths(found).max() <= lengths(points).sum() / (count - 1) * (1 + 1e-9)


def test_a_density_path_is_drawn_to_the_data_and_keeps_its_corners() -> None:
    angles = np.linspace(0, np.pi, 400)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def nearest(z: np.ndarray) -> np.ndarray:
        return ring[np.argsort(np.linalg.norm(z[:, None] - ring, axis=2), axis=1)[:, :5]]

    ends = ring[[50, 200, 350]]
    found = paths.density(ends, 13, nearest, None)
    assert np.linalg.norm(found, axis=1).min() > np.linalg.norm(paths.linear(ends, 13), axis=1).min() + 0.05
    np.testing.assert_allclose(found[[0, -1]], ends[[0, -1]], atol=1e-6)
    assert np.linalg.norm(found - ends[1], axis=1).min() < 0.02
    assert lengths(found).std() / lengths(found).mean() < 0.1


def test_stops_are_even_in_pictures_where_there_is_a_decoder() -> None:
    def decode(z: np.ndarray) -> np.ndarray:  # pictures change fast at the beginning of the way
        return np.sqrt(np.abs(z[:, :1])) * np.ones(4)

    line = np.stack([np.linspace(0, 1, 50), np.zeros(50)], axis=1)
    found = paths.evened(line, 8, decode)
    changes = paths.steps(decode(found))
    assert changes.std() / changes.mean() < 0.1
    assert lengths(found).std() / lengths(found).mean() > 0.4


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 8), st.integers(0, 10_000))
def test_the_shortest_way_is_brute_force_s(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(count, 2))
    far = np.linalg.norm(points[:, None] - points, axis=2)
    order = np.argsort(far, axis=1)[:, 1:3]  # two neighbours each: the graph may fall apart
    graph = order.astype(np.int64), np.take_along_axis(far, order, 1).astype(np.float32)
    edges = {frozenset((i, int(j))) for i in range(count) for j in order[i]}
    best = None
    for size in range(count - 1):
        for inner in itertools.permutations(range(1, count - 1), size):
            way = [0, *inner, count - 1]
            if all(frozenset(pair) in edges for pair in itertools.pairwise(way)):
                cost = sum(far[pair] ** 2 for pair in itertools.pairwise(way))
                best = cost if best is None else min(best, cost)
    if best is None:
        with pytest.raises(Disconnected, match="linear or density"):
            paths.shortest(graph, 0, count - 1)
        return
    found = paths.shortest(graph, 0, count - 1)
    assert found[0] == 0
    assert found[-1] == count - 1
    assert all(frozenset(map(int, pair)) in edges for pair in itertools.pairwise(found))
    assert sum(far[i, j] ** 2 for i, j in itertools.pairwise(found)) == pytest.approx(best, rel=1e-4)
    assert paths.shortest(graph, 2, 2).tolist() == [2]


def test_a_geodesic_goes_round_the_hill() -> None:
    """Pictures are points of a landscape over the plane, with a steep hill between the ends."""

    def height(z: np.ndarray) -> np.ndarray:
        return 3 * np.exp(-4 * (z**2).sum(axis=1, keepdims=True))

    def pull_back(z: np.ndarray) -> tuple[np.ndarray, object]:
        z = z.astype(np.float64)
        slope = -8 * z * height(z)
        return np.concatenate([z, height(z)], axis=1), lambda g: g[:, :2] + g[:, 2:] * slope

    def decode(z: np.ndarray) -> np.ndarray:
        return pull_back(z)[0]

    ends = np.array([[-1, 0.05], [1, 0.05]], dtype=np.float32)
    found, line = paths.geodesic(ends, 21, pull_back, decode), paths.linear(ends, 21)
    over, around = (lengths(decode(points)).sum() for points in (line, found))
    assert around < 0.65 * over
    assert np.abs(found[10, 1]) > 0.5  # it leaves the hill to one side
    np.testing.assert_allclose(found[[0, -1]], ends, atol=1e-6)
    changes = paths.steps(decode(found))
    assert changes.std() / changes.mean() < 0.05


def test_a_geodesic_over_flat_land_is_a_line() -> None:
    matrix = rng.normal(size=(6, 30))
    found = paths.geodesic(CORNERS[:2], 7, lambda z: (z @ matrix, lambda g: g @ matrix.T), lambda z: z @ matrix)
    np.testing.assert_allclose(found, paths.linear(CORNERS[:2], 7), atol=1e-4)
    same = np.stack([CORNERS[0], CORNERS[0]])
    np.testing.assert_allclose(paths.geodesic(same, 4, lambda z: (z, lambda g: g), lambda z: z), same[[0, 0, 0, 0]])


def test_a_grid_has_its_corners_and_their_mean_in_the_middle() -> None:
    corners = rng.normal(size=(4, 3)).astype(np.float32)
    found = paths.grid(corners, 3, 5).reshape(3, 5, 3)
    np.testing.assert_allclose([found[0, 0], found[0, 4], found[2, 0], found[2, 4]], corners, atol=1e-6)
    np.testing.assert_allclose(found[1, 2], corners.mean(axis=0), atol=1e-6)


def test_a_path_has_at_least_two_stops() -> None:
    with pytest.raises(InvalidArgument, match="at least 2"):
        paths.linear(CORNERS, 1)


def test_a_density_path_between_nearly_equal_points_stays_there() -> None:
    items = rng.normal(size=(50, 6)).astype(np.float32)
    for gap in (0.0, 1e-5, 1e-3):
        ends = np.stack([items[0], items[0] + np.float32(gap)])
        found = paths.density(ends, 7, lambda z: np.repeat(items[None, 1:6], len(z), axis=0), None)
        far = np.linalg.norm(found - ends[0], axis=1).max()
        assert far <= 3 * np.linalg.norm(ends[1] - ends[0])
        np.testing.assert_allclose(found[[0, -1]], ends, atol=1e-7)
