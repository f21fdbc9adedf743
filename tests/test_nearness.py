"""Copies among latents show in how near the nearest other item is, and dense classes of different items don't."""

from __future__ import annotations

import numpy as np
import pytest

from embedstore.explore import nearness
from embedstore.explore.nearness import Nearness

COUNT = 600


def measured(z: np.ndarray) -> Nearness:
    z = np.unique(z.astype(np.float32), axis=0).astype(float)
    squares = (z**2).sum(axis=1)
    near = np.argpartition(squares[:, None] + squares - 2 * z @ z.T, nearness.NEIGHBOURS + 1, axis=1)
    far = np.linalg.norm(z[:, None] - z[near[:, : nearness.NEIGHBOURS + 1]], axis=2)
    order = far.argsort(axis=1)[:, 1:]
    return nearness.measure(np.take_along_axis(far, order, axis=1), np.take_along_axis(near, order, axis=1))


def drawn(kind: str, dimension: int, seed: int) -> np.ndarray:
    """Independent draws, no two of which are the same item."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(COUNT, dimension))
    if kind == "cloud":
        return z
    if kind == "every density":
        return z * np.exp(1.5 * random.normal(size=(COUNT, 1)))
    if kind == "classes":
        widths, which = 0.1 * np.exp(random.normal(size=20)), random.integers(0, 20, COUNT)
        return 3 * random.normal(size=(20, dimension))[which] + widths[which, None] * z
    if kind == "a line":  # among what has all dimensions
        t = random.random(60)
        z[:60] = np.stack([t, np.sin(4 * t)], axis=1) @ random.normal(size=(2, dimension))
        return z
    share, width = (float(one) for one in kind.split(" of "))
    dense = int(share * COUNT)
    z[:dense] = width * z[:dense] + 3
    return z


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 8, 16, 32, 64])
@pytest.mark.parametrize(
    "kind", ["cloud", "every density", "classes", "0.3 of 0.02", "0.1 of 0.2", "0.1 of 0.3", "a line"]
)
def test_different_items_leave_no_gap_however_dense_some_are(kind: str, dimension: int) -> None:
    assert [measured(drawn(kind, dimension, seed)).edge() for seed in range(5)] == [None] * 5


@pytest.mark.parametrize("bunch", [2, 3, 5, 8])
@pytest.mark.parametrize("kind", ["cloud", "0.2 of 0.2"])
@pytest.mark.parametrize("dimension", [4, 8, 32])
def test_copies_are_told_from_others_whatever_their_density(dimension: int, kind: str, bunch: int) -> None:
    z = drawn(kind, dimension, 7)
    usual = np.sort(np.linalg.norm(z[:, None] - z, axis=2), axis=1)[:, 1]
    random = np.random.default_rng(8)
    copied = random.choice(COUNT, 30, replace=False)
    for _ in range(bunch - 1):
        off = random.normal(size=(30, dimension))
        off *= 0.02 * usual[copied, None] / np.linalg.norm(off, axis=1, keepdims=True)
        z = np.concatenate([z, z[copied] + off])
    z = z.astype(np.float32)
    order = np.lexsort(z.T[::-1])  # that of np.unique
    copy = (np.isin(np.arange(len(z)), copied) | (np.arange(len(z)) >= COUNT))[order]
    found = measured(z)
    edge = found.edge()
    assert edge is not None
    named = found.shares <= np.minimum(edge, found.most)
    assert named[copy].mean() > 0.9
    assert named[~copy].sum() <= 3


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_the_dimension_of_what_lies_around_is_measured(dimension: int) -> None:
    cube = np.random.default_rng(0).random((2_000, dimension))
    assert np.median(measured(cube).dimensions) == pytest.approx(dimension, rel=0.2)  # less, at the sides


def test_a_film_has_no_copies_though_its_frames_are_near() -> None:
    random = np.random.default_rng(0)
    film = np.linspace(0, 1, 100)[:, None] * random.normal(size=16) + random.normal(size=16)
    assert measured(np.concatenate([film, random.normal(size=(500, 16))])).edge() is None


def test_equal_items_are_no_evidence_and_few_items_no_trouble() -> None:
    far = np.zeros((30, 20))
    found = nearness.measure(far, np.tile(np.arange(20), (30, 1)))
    assert (found.shares == 0).all()
    assert found.edge() is None
    assert measured(np.random.default_rng(0).normal(size=(22, 3))).edge() is None
