"""Directions: each way finds what was planted, and the measure of separation is the textbook's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from embedstore.errors import InvalidArgument
from embedstore.latent import directions
from embedstore.latent.directions import Sides

rng = np.random.default_rng(0)


def planted(count: int = 2000, d: int = 8, seed: int = 0) -> Sides:
    """Two clouds that differ by 3 along the first axis, with most of the variance along the second."""
    generator = np.random.default_rng(seed)
    scales = np.array([1.0, 6.0, *[1.0] * (d - 2)])
    clouds = generator.normal(size=(2, count, d)) * scales
    clouds[0, :, 0] += 3
    return Sides(*clouds.astype(np.float32))


def test_the_difference_of_means_is_numpy_s() -> None:
    sides = planted()
    expected = sides.positive.astype(np.float64).mean(axis=0) - sides.negative.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(directions.difference(sides), expected, atol=1e-9)


def test_balancing_takes_out_what_is_confounded() -> None:
    """Smiling (axis 0), in a set where most who smile are women (axis 1): White's own example."""
    smiles = np.repeat([1, 1, 0, 0], [900, 100, 100, 900])
    women = np.repeat([1, 0, 1, 0], [900, 100, 100, 900])
    latents = rng.normal(size=(2000, 4)) * 0.1
    latents[:, 0] += 2 * smiles
    latents[:, 1] += 3 * women
    latents = latents.astype(np.float32)
    strata = women[smiles == 1], women[smiles == 0]
    plain = directions.difference(Sides(latents[smiles == 1], latents[smiles == 0]))
    balanced = directions.difference(Sides(latents[smiles == 1], latents[smiles == 0], strata))
    assert plain[1] > 2
    np.testing.assert_allclose(balanced, [2, 0, 0, 0], atol=0.05)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=4, max_size=60))
def test_every_stratum_weighs_the_same_on_both_sides(labels: list[tuple[int, int]]) -> None:
    codes = [np.array([code for side, code in labels if side == which], dtype=np.int64) for which in (1, 0)]
    if not all(len(side) for side in codes):
        return
    sides = Sides(*(np.zeros((len(side), 2), np.float32) for side in codes), (codes[0], codes[1]))
    if not set(codes[0]) & set(codes[1]):
        with pytest.raises(InvalidArgument, match="no value"):
            directions.weights(sides)
        return
    positive, negative = directions.weights(sides)
    assert positive.sum() == pytest.approx(1) == negative.sum()
    for code in range(4):
        assert positive[codes[0] == code].sum() == pytest.approx(negative[codes[1] == code].sum())


def test_a_classifiers_normal_ignores_variance_that_tells_nothing() -> None:
    sides = planted(300)
    normal, difference = directions.classifier(sides), directions.difference(sides)
    axis = np.eye(8)[0]
    cosines = [abs(vector @ axis) / np.linalg.norm(vector) for vector in (normal, difference)]
    assert cosines[0] > 0.95
    assert cosines[0] >= cosines[1]
    # Strength 1 leads from the middle of one side to that of the other.
    unit = normal / np.linalg.norm(normal)
    assert np.linalg.norm(normal) == pytest.approx(unit @ difference)


def test_principal_directions_are_those_of_the_singular_value_decomposition() -> None:
    latents = (rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))).astype(np.float32)
    centred = latents.astype(np.float64) - latents.astype(np.float64).mean(axis=0)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    found, shares = directions.principal(latents, 3)
    for mine, value, vector in zip(found, values, vectors, strict=False):
        assert np.linalg.norm(mine) == pytest.approx(value / np.sqrt(499), rel=1e-5)
        assert abs(mine @ vector) == pytest.approx(np.linalg.norm(mine), rel=1e-5)
        assert mine[np.abs(mine).argmax()] > 0
    np.testing.assert_allclose(shares, (values**2 / (values**2).sum())[:3], rtol=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_what_is_kept_is_left_alone(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    vector, kept = generator.normal(size=7), list(generator.normal(size=(count, 7)))
    found = directions.without(vector, [*kept, 2 * kept[0]])
    np.testing.assert_allclose([found @ one for one in kept], 0, atol=1e-9)
    # What is left is the nearest such vector: the rest lies in the span.
    rest = np.linalg.lstsq(np.stack(kept, axis=1), vector - found, rcond=None)[1]
    assert not len(rest) or rest[0] < 1e-16
    with pytest.raises(InvalidArgument, match="nothing of the direction is left"):
        directions.without(kept[0] * 3, kept)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.lists(st.integers(-5, 5), min_size=1, max_size=30))
def test_the_auc_is_scikit_learn_s(positive: list[int], negative: list[int]) -> None:
    expected = roc_auc_score([1] * len(positive) + [0] * len(negative), positive + negative)
    assert directions.auc(np.array(positive, float), np.array(negative, float)) == pytest.approx(expected)


def test_separation_is_measured_on_items_that_were_held_out() -> None:
    assert directions.separation(planted(), "classifier", [], 0) == pytest.approx(0.983, abs=0.012)  # Phi(3 / sqrt 2)
    noise = Sides(*rng.normal(size=(2, 60, 50)).astype(np.float32))
    # On the items that it was made of, it would be nearly 1.
    assert directions.separation(noise, "difference", [], 0) == pytest.approx(0.5, abs=0.25)
    assert directions.separation(Sides(*np.zeros((2, 2, 3), np.float32)), "difference", [], 0) is None


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e9])
def test_what_is_kept_may_be_named_twice_and_depend_on_the_rest(scale: float) -> None:
    generator = np.random.default_rng(3)
    vector, a, b, c = generator.normal(size=(4, 9)).astype(np.float32)
    expected = directions.without(vector.astype(np.float64), [a, b, c])
    kept = [scale * a, scale * b, scale * (a - b), scale * a, scale * c]  # rounded to float32: not quite dependent
    found = directions.without(scale * vector.astype(np.float64), [one.astype(np.float32) for one in kept])
    np.testing.assert_allclose(found / scale, expected, atol=1e-5)
    many = generator.normal(size=(6, 9))
    for one, left in zip(many, directions.apart(many, directions.span([a, b, c])), strict=True):
        np.testing.assert_allclose(left, directions.without(one, [a, b, c]), atol=1e-9)
