"""Turning numbers of other kinds into the uint8 pictures that everything behind the readers works on.

One rule for a whole array, never one per picture: a dark picture of a 0..255 set must not be taken for one in 0..1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 24  # elements looked at in one go, so that a memory-mapped array isn't read into memory whole


def value_range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest finite-or-infinite value of an array, NaN left out; (0, 0) where there is none."""
    low, high = np.inf, -np.inf
    step = max(1, _BLOCK * len(values) // max(1, values.size))
    for start in range(0, len(values), step):
        block = values[start : start + step]
        if block.dtype.kind == "f":
            block = block[~np.isnan(block)]
        if block.size:
            low, high = min(low, float(block.min())), max(high, float(block.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def factor_for(values: npt.NDArray[Any]) -> float:
    """What to multiply by so that white becomes 255.

    ==================  ==========================================
    kind                factor
    ==================  ==========================================
    uint8               1
    bool                255
    integers            1 where all lie in 0..255, else 1/257 (16 bit)
    floats              255 where all lie in 0..1, 1 where in 0..255
    ==================  ==========================================

    Raises:
        ValueError: any other kind or range; the message says what is expected.
    """
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return 1.0
    if kind == "b":
        return 255.0
    if values.dtype == np.uint16:
        return 1.0 / 257.0
    if kind not in "iuf":
        raise ValueError(f"holds {values.dtype} values; pictures are uint8, uint16, bool, or floats in 0..1 or 0..255")
    low, high = value_range(values)
    if kind in "iu":
        if low >= 0 and high <= 255:
            return 1.0
        raise ValueError(
            f"holds integers from {low:.0f} to {high:.0f}; pictures are 0..255, or uint16 with white at 65535"
        )
    if low >= 0 and high <= 1:
        return 255.0
    if low >= 0 and high <= 255:
        return 1.0
    raise ValueError(f"holds floats from {low:.6g} to {high:.6g}; pictures lie in 0..1 or in 0..255")


def scale(values: npt.NDArray[Any], factor: float) -> npt.NDArray[np.uint8]:
    """``values * factor`` rounded to uint8; exact for 16-bit integers (65535 → 255, 257 → 1)."""
    if values.dtype == np.uint8:
        return values.view(np.uint8)
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind in "iu":
        if factor == 1.0:
            return values.astype(np.uint8)
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    # Rounding half up: np.rint would round 0.5 to the even neighbour, and two equal steps would differ.
    rounded: npt.NDArray[np.uint8] = np.floor(values * np.float32(factor) + np.float32(0.5)).astype(np.uint8)
    return rounded
