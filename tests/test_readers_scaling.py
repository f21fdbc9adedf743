from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.readers.scaling import factor_for, scale, value_range


@given(st.integers(0, 65535))
def test_sixteen_bits_become_the_nearest_of_eight(value: int) -> None:
    values = np.array([value], dtype=np.uint16)
    assert scale(values, factor_for(values))[0] == round(value / 257)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_floats_in_the_unit_range_become_the_nearest_of_eight_bits(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    assert np.abs(scale(array, factor_for(array)) - array.astype(np.float64) * 255).max() <= 0.5 + 1e-4


@given(st.integers(0, 255))
def test_eight_bit_values_survive_as_floats_of_either_range(value: int) -> None:
    for array in (np.array([0, 255, value], dtype=np.float32), np.array([0, 255, value]) / 255):
        assert scale(array, factor_for(array))[2] == value


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 7, 255], dtype=np.uint8), [0, 7, 255]),
        (np.array([False, True]), [0, 255]),
        (np.array([0, 200], dtype=np.int64), [0, 200]),
        (np.array([0, 257, 65535], dtype=np.uint16), [0, 1, 255]),
        (np.array([0.0, 0.5, 254.6]), [0, 1, 255]),
    ],
)
def test_every_kind_of_number_has_one_meaning(values: np.ndarray, expected: list[int]) -> None:
    assert scale(values, factor_for(values)).tolist() == expected


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([-0.1, 1.0]), "floats from -0.1 to 1"),
        (np.array([0.0, 300.0]), "0..1 or in 0..255"),
        (np.array([0.0, np.inf]), "to inf"),
        (np.array([-1, 3]), "integers from -1 to 3"),
        (np.array(["a"]), "pictures are uint8"),
        (np.array([1j]), "pictures are uint8"),
    ],
)
def test_other_values_are_refused_with_what_is_expected(values: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        factor_for(values)


def test_a_range_leaves_nan_out_and_is_zero_without_values() -> None:
    assert value_range(np.array([np.nan, 3.0, -2.0])) == (-2.0, 3.0)
    assert value_range(np.array([np.nan])) == (0.0, 0.0)
