"""Fitting: which pictures, at which size, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.encoders.trained import TrainedEncoder
from embedstore.errors import InvalidArgument
from embedstore.fit import fit_encoder, sample_positions

RNG = np.random.default_rng(0)


def some(count: int, *shape: int) -> Any:
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 5))
def test_a_sample_is_all_or_a_sorted_part_within_its_limits(count: int, size: int, seed: int) -> None:
    positions = sample_positions(count, picture_bytes=size, seed=seed, limit_bytes=10**7, limit=5000)
    bound = max(2, min(5000, 10**7 // size))
    assert len(positions) == min(count, bound)
    assert (np.diff(positions) > 0).all()
    assert len(positions) == 0 or 0 <= positions[0] <= positions[-1] < count
    again = sample_positions(count, picture_bytes=size, seed=seed, limit_bytes=10**7, limit=5000)
    np.testing.assert_array_equal(positions, again)


def test_samples_of_two_seeds_differ() -> None:
    a, b = (sample_positions(10**6, seed=seed) for seed in (0, 1))
    assert not np.array_equal(a, b)


def test_pictures_of_many_sizes_are_fitted_and_the_choice_is_said() -> None:
    pictures = [some(1, int(h), int(w), 3)[0] for h, w in RNG.integers(20, 100, (30, 2))]
    encoder, report, notes = fit_encoder(pictures, kind="pca", dimension=8, progress=False)
    assert encoder.dimension == 8
    assert encoder.channels == 3
    assert encoder.image_size[0] == encoder.image_size[1] <= 64
    assert any("many sizes" in note for note in notes)
    assert report.pictures == 30
    assert encoder.encode(pictures).shape == (30, 8)


def test_grey_pictures_stored_as_colour_are_fitted_as_grey() -> None:
    grey = np.repeat(some(20, 10, 10, 1), 3, axis=-1)
    encoder, _, notes = fit_encoder(grey, kind="pca", dimension=4, progress=False)
    assert encoder.channels == 1
    assert notes == []


def test_a_wish_for_a_size_is_followed() -> None:
    encoder, _, _ = fit_encoder(some(20, 90, 60, 3), kind="pca", dimension=4, image_size=30, progress=False)
    assert encoder.image_size == (30, 20)


def test_more_dimensions_than_pictures_is_said() -> None:
    encoder, _, notes = fit_encoder(some(5, 10, 10, 1), kind="pca", dimension=64, progress=False)
    assert encoder.dimension == 5
    assert any("5 dimensions" in note for note in notes)


def test_the_autoencoder_is_fitted_by_its_name_within_its_time(tmp_path: Path) -> None:
    pictures = some(30, 12, 12, 1)
    state = tmp_path / "fit.state"
    encoder, report, notes = fit_encoder(pictures, dimension=4, minutes=0.02, progress=False, checkpoint=state)
    assert "cut short at its limit of 0.02 minutes" in notes[-1]
    assert isinstance(encoder, TrainedEncoder)
    assert report.stopped == "time"
    assert encoder.encode(pictures).shape == (30, 4)


@pytest.mark.parametrize(
    ("pictures", "options", "says"),
    [
        ([], {}, "0 picture"),
        (some(1, 9, 9, 1), {}, "1 picture"),
        (np.repeat(some(1, 9, 9, 1), 7, axis=0), {}, "the same"),
        (some(9, 9, 9, 1), {"dimension": 0}, "0 dimensions"),
        (some(9, 9, 9, 1), {"dimension": 5000}, "5000 dimensions"),
        (some(9, 9, 9, 1), {"kind": "oracle"}, "unknown encoder"),
        (some(9, 9, 9, 1), {"image_size": 3}, "3 px"),
        (some(9, 9, 9, 1), {"minutes": -1}, "-1 minutes"),
        (some(9, 9, 9, 1).astype(float), {}, "uint8"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(pictures: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        fit_encoder(pictures, progress=False, **options)
