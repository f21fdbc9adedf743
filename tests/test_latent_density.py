"""Densities and transports against what SciPy and the closed forms say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from embedstore.latent import density, support, transport
from embedstore.latent.density import Windows
from embedstore.latent.directions import Sides

rng = np.random.default_rng(0)


def windows_of(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The other points nearest to each, (n, k), and their vectors."""
    far = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(far, np.inf)
    order = np.argsort(far, axis=1)[:, :k]
    return order, points[order]


def test_the_likelihood_is_that_of_the_mixture_written_out() -> None:
    points = rng.normal(size=(40, 5)).astype(np.float32)
    held, rest = points[:6], points[6:]
    _, around = windows_of(rest, 8)
    centres, windows = np.repeat(rest[None], 6, axis=0), np.repeat(around[None], 6, axis=0)  # every window counts
    width, noise = 0.5, 0.1
    logs = []
    for centre, near in zip(rest, around, strict=True):
        differences = near.astype(np.float64) - centre
        scale = np.sqrt(np.square(differences).mean())
        covariance = width**2 * differences.T @ differences / 8 + (noise * scale) ** 2 * np.eye(5)
        logs.append(multivariate_normal(centre, covariance).logpdf(held))
    expected = (logsumexp(logs, axis=0) - np.log(len(rest))).mean()
    found = density._likelihood(held, centres, windows, width, noise, len(rest))
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_windows_chosen_are_the_likeliest_of_those_tried() -> None:
    points = rng.normal(size=(300, 4)).astype(np.float32)
    order, near = windows_of(points, 12)
    _, around = windows_of(points, 20)
    chosen = density.choose(points[:50], near[:50], around[order[:50]], 300)
    around = around[order[:50]][:, :, : density.NEIGHBOURS]
    tried = [density._likelihood(points[:50], near[:50], around, width, density.NOISE, 300) for width in density.WIDTHS]
    assert chosen.likelihood == pytest.approx(max(tried))
    assert chosen.width == density.WIDTHS[int(np.argmax(tried))]


def test_a_settled_sample_is_part_of_the_way_at_its_neighbours() -> None:
    samples, near = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(6, 5, 3)).astype(np.float32)
    expected = samples + density.SETTLED * (near.mean(axis=1) - samples)
    np.testing.assert_allclose(density.settled(samples, near), expected, atol=1e-6)
    np.testing.assert_array_equal(density.settled(samples, near, 0.0), samples)


def test_samples_have_the_covariance_of_their_window() -> None:
    centre, near = rng.normal(size=3).astype(np.float32), rng.normal(size=(10, 3)).astype(np.float32)
    windows = Windows(10, 0.7, 0.2, 0.0)
    count = 60_000
    drawn = density.draw(
        windows, np.repeat(centre[None], count, 0), np.repeat(near[None], count, 0), np.random.default_rng(1)
    )
    differences = near.astype(np.float64) - centre
    scale = np.square(differences).mean()
    expected = 0.49 * differences.T @ differences / 10 + 0.04 * scale * np.eye(3)
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=0.03)
    np.testing.assert_allclose(drawn.mean(axis=0), centre, atol=0.02)
    same = density.draw(windows, centre[None], near[None], np.random.default_rng(1), spread=0.0)
    np.testing.assert_allclose(same, centre[None], atol=1e-6)


def test_support_is_the_share_of_items_at_least_as_far_off() -> None:
    own = np.array([1.0, 2.0, 3.0, 4.0])
    assert support.support(np.array([0.5, 1.0, 2.5, 4.0, 9.0, np.inf]), own).tolist() == [1, 1, 0.5, 0.25, 0, 0]
    distances = np.array([[1, 2, 3, 4, 5], [2, np.inf, np.inf, np.inf, np.inf]])
    assert support.neighbour_distance(distances).tolist() == [3, 2]


def clouds(count: int = 4000) -> Sides:
    """A round source, and a long thin target far from it."""
    negative = rng.normal(size=(count, 3))
    positive = rng.normal(size=(count, 3)) * [4.0, 1.0, 0.5] + [20, 0, 0]
    return Sides(positive.astype(np.float32), negative.astype(np.float32))


def test_the_whole_transport_makes_the_sources_moments_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "TRANSPORTED", 1.0)
    monkeypatch.setattr(transport, "SETTLED", 0.0)
    sides = clouds()
    way = transport.transport(sides, np.ones(len(sides.positive), dtype=bool))
    moved = sides.negative + way.displacements(sides.negative)
    np.testing.assert_allclose(moved.mean(axis=0), sides.positive.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(np.cov(moved.T), np.cov(sides.positive.T), atol=0.15)


def test_an_edit_reaches_the_target_and_moves_what_is_there_no_further() -> None:
    sides = clouds()
    way = transport.transport(sides, np.ones(len(sides.positive), dtype=bool))
    moved = sides.negative + way.displacements(sides.negative)
    nearest = [np.linalg.norm(sides.positive - one, axis=1).min() for one in moved[:200]]
    own = [np.sort(np.linalg.norm(sides.positive - one, axis=1))[1] for one in sides.positive[:200]]
    assert np.median(nearest) < np.median(own)  # nearer to the target's members than these to one another
    inside = np.linalg.norm(way.displacements(sides.positive), axis=1)
    assert np.median(inside) < 0.01 * np.linalg.norm(way.target - way.source)


def test_the_typical_members_are_the_purest() -> None:
    purity = rng.permutation(np.linspace(0, 1, 101))
    chosen = transport.typical_members(purity)
    assert chosen.sum() == round(transport.TYPICAL * 101)
    assert purity[chosen].min() > purity[~chosen].max()
    assert transport.typical_members(np.array([0.2, 0.2, 0.2])).all()
    assert transport.typical_members(np.ones(500)).all()  # no reason to leave any out


@pytest.mark.parametrize(("scale", "offset"), [(1e-12, 0), (1e-4, 0), (1e12, 0), (1, 3_000), (1e-3, 5)])
def test_an_edit_is_the_same_at_any_scale_and_place(scale: float, offset: float) -> None:
    generator = np.random.default_rng(2)
    negative = generator.normal(size=(200, 8))
    positive = 0.5 * generator.normal(size=(200, 8)) + [5, *[0] * 7]
    points = negative[:50]
    typical = np.ones(200, dtype=bool)
    expected = transport.transport(Sides(positive.astype("f4"), negative.astype("f4")), typical).displacements(points)

    def there(latents: np.ndarray) -> np.ndarray:
        return (scale * latents + offset).astype(np.float32)

    found = transport.transport(Sides(there(positive), there(negative)), typical).displacements(there(points))
    tolerance = 1e-3 + 10 * abs(offset) * 2.0**-23 / scale  # what float32 keeps of the data there
    same = np.isclose(found / scale, expected, atol=tolerance).all(axis=1)
    assert same.mean() >= 0.95  # rounding may make another member the third nearest


def test_sides_of_identical_items_lead_from_one_to_the_other() -> None:
    for a, b in (([1, 2], [5, 7]), ([0, 0], [1, 2]), ([1e-9, 0], [0, 1e-9])):
        sides = Sides(np.tile(np.float32(b), (4, 1)), np.tile(np.float32(a), (4, 1)))
        way = transport.transport(sides, np.ones(4, dtype=bool))
        np.testing.assert_allclose(a + way.displacements(np.float32([a]))[0], b, rtol=1e-5, atol=1e-14)
        np.testing.assert_allclose(way.displacements(np.float32([b])), 0, atol=1e-6 * np.abs(b).max())
