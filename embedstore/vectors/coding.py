"""How the numbers of a vector are kept: as float32, or with a loss in a half or a quarter of the room.

float16 rounds each number to 11 bits: by at most 0.05 % of itself, or by 3e-8. int8 keeps each vector as 8-bit steps of
its own largest number, with a float32 that says how long a step is: each number is off by at most 0.4 % of the largest.
(One scale for all vectors, which saves those four bytes, was rejected: it has to be known before the first vector, and
what comes later may lie outside of it.)

Whatever is asked of a store, it computes with the numbers that it keeps: distances are exact for those.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.types import Dtype, Metric, Vectors
from embedstore.validate import vector_faults

Raw = npt.NDArray[np.uint8]
_STEPS = 127
_SCALE = np.dtype("<f4")
_TINY = 1e-300
_LOOKED_AT = 4096  # of each append
_PART = 1 << 16  # rows encoded or decoded at a time


def encode(vectors: Vectors, dtype: Dtype) -> Raw:
    """Vectors (n, d) as their bytes (n, row bytes); numbers beyond float16 become infinite."""
    if dtype is Dtype.FLOAT32:
        rows: npt.NDArray[Any] = np.ascontiguousarray(vectors, dtype="<f4")
        return rows.view(np.uint8).reshape(len(rows), -1)
    if dtype is Dtype.FLOAT16:
        with np.errstate(over="ignore"):
            halves = np.ascontiguousarray(vectors.astype("<f2"))
        return halves.view(np.uint8).reshape(len(halves), -1)
    raw = np.empty((len(vectors), dtype.row_bytes(vectors.shape[1])), dtype=np.uint8)
    for start in range(0, len(vectors), _PART):
        part = vectors[start : start + _PART]
        steps = (np.abs(part).max(axis=1) / _STEPS).astype(_SCALE)
        codes = np.rint(part / np.where(steps > 0, steps, 1)[:, None])
        raw[start : start + _PART, : _SCALE.itemsize] = steps.view(np.uint8).reshape(-1, _SCALE.itemsize)
        raw[start : start + _PART, _SCALE.itemsize :] = np.clip(codes, -_STEPS, _STEPS).astype(np.int8).view(np.uint8)
    return raw


def decode(raw: Raw, dtype: Dtype) -> Vectors:
    """The vectors float32 (n, d) that these bytes (n, row bytes) stand for."""
    raw = np.ascontiguousarray(raw)
    if dtype is Dtype.FLOAT32:
        return raw.view("<f4").astype(np.float32, copy=False)
    if dtype is Dtype.FLOAT16:
        return raw.view("<f2").astype(np.float32)
    steps = np.ascontiguousarray(raw[:, : _SCALE.itemsize]).view(_SCALE)
    return np.multiply(raw[:, _SCALE.itemsize :].view(np.int8), steps, dtype=np.float32)


def kept(vectors: Vectors, dtype: Dtype) -> Vectors:
    """What a store of this dtype makes of vectors (n, d)."""
    return vectors if dtype is Dtype.FLOAT32 else decode(encode(vectors, dtype), dtype)


def faults(vectors: Vectors, metric: Metric, dtype: Dtype) -> dict[int, str]:
    """Which of the vectors (n, d) can't be kept, and why."""
    found = vector_faults(vectors, metric)
    if dtype is not Dtype.FLOAT32:
        with np.errstate(over="ignore", invalid="ignore"):
            coded = kept(vectors, dtype)
        for index in vector_faults(coded, metric).keys() - found.keys():
            found[index] = f"the vector has numbers too large, or all of them too small, for {dtype}: scale it"
    return found


class Loss:
    """How far vectors are moved by being kept: of each, the distance over its length."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._count, self._sum, self._largest = 0, 0.0, 0.0

    def add(self, vectors: Vectors, raw: Raw, dtype: Dtype) -> None:
        """Look at the first of these vectors (n, d) and the bytes that they are kept as."""
        few = vectors[:_LOOKED_AT].astype(np.float64)
        lengths = np.linalg.norm(few, axis=1)
        moved = np.linalg.norm(few - decode(raw[:_LOOKED_AT], dtype), axis=1) / np.maximum(lengths, _TINY)
        self._count += len(moved)
        self._sum += float(moved.sum())
        self._largest = max(self._largest, float(moved.max(initial=0.0)))

    def notes(self, dtype: Dtype) -> list[str]:
        """What there is to say of it, once: nothing where there is none."""
        if not self._count:
            return []
        said = f"kept as {dtype}, vectors moved by {self._sum / self._count:.2%} of their length on average"
        said += f", {self._largest:.2%} at most"
        self._forget()
        return [said]


class CodedRows:
    """Rows (n, d) in bytes that are decoded when they are asked for, by a slice or an array of row numbers."""

    __slots__ = ("_coding", "_raw", "dtype", "ndim", "shape")

    def __init__(self, raw: Raw, coding: Dtype, dimension: int) -> None:
        self._raw = raw
        self._coding = coding
        self.shape = (len(raw), dimension)
        self.ndim = 2
        self.dtype = np.dtype(np.float32)

    @property
    def size(self) -> int:
        """How many numbers."""
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | npt.NDArray[np.integer[Any]]) -> Vectors:
        return decode(self._raw[rows], self._coding)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return decode(self._raw, self._coding).astype(dtype or np.float32, copy=False)
