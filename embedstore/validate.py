"""What may enter a store or a query: each check names the culprit and the way out."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from embedstore.errors import DimensionMismatch, InvalidArgument, InvalidVector
from embedstore.types import Metadata, Metric, Vectors

MAX_ID_BYTES = 1024
MAX_K = 100_000


def as_vectors(value: Any, what: str = "vectors") -> Vectors:
    """As a C-contiguous float32 array (n, d); a single vector (d,) becomes (1, d).

    Raises:
        InvalidVector: not numbers, or of another rank.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        raise InvalidVector(f"{what} must all have the same length: pass a float32 array of shape (n, d)") from None
    if array.dtype.kind not in "fiu":
        raise InvalidVector(f"{what} must be numbers, not {array.dtype}: pass a float32 array of shape (n, d)")
    if array.ndim not in (1, 2) or array.shape[-1] == 0:
        raise InvalidVector(f"{what} must have shape (d,) or (n, d), not {array.shape}")
    if array.dtype == np.float32:  # the hot path: to enter and leave errstate takes longer than the rest
        return np.ascontiguousarray(array.reshape(-1, array.shape[-1]))
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which the check for faults names
        return np.ascontiguousarray(array.reshape(-1, array.shape[-1]), dtype=np.float32)


def check_dimension(vectors: Vectors, dimension: int, what: str = "vectors") -> None:
    """Raise DimensionMismatch unless the vectors are of the space's dimension."""
    if vectors.shape[1] != dimension:
        raise DimensionMismatch(f"the space has {dimension} dimensions, but the {what} have {vectors.shape[1]}")


def vector_faults(vectors: Vectors, metric: Metric) -> dict[int, str]:
    """Which of the vectors (n, d) can't be stored or searched, and why."""
    # The sum of squares is one pass over the memory, and finite unless something is wrong (or beyond float32).
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
    suspect = ~np.isfinite(squares)
    if metric is Metric.COSINE:
        suspect |= squares == 0
    faults = {}
    for index in np.flatnonzero(suspect).tolist():
        if not np.isfinite(vectors[index]).all():
            faults[index] = "the vector has NaN or infinity (or a number beyond float32)"
        elif not np.isfinite(squares[index]):
            faults[index] = "the vector is too long for float32 distances (its squared length overflows): scale it down"
        else:
            faults[index] = "the vector is zero (or too short for float32), which has no direction under cosine"
    return faults


def check_queries(vectors: Vectors, dimension: int, metric: Metric) -> None:
    """Raise InvalidVector or DimensionMismatch for vectors that can't be searched for."""
    check_dimension(vectors, dimension, "query vectors")
    if len(vectors) == 1:
        # The hot path: one product tells of NaN, infinity and zero in a tenth of the time of the full check.
        with np.errstate(all="ignore"):
            square = float(vectors[0].dot(vectors[0]))
        if 0.0 < square < math.inf or (square == 0.0 and metric is not Metric.COSINE):
            return
    for index, reason in vector_faults(vectors, metric).items():
        which = "the query" if len(vectors) == 1 else f"query {index}"
        raise InvalidVector(f"{which} can't be searched for: {reason}")


def check_k(k: int) -> int:
    """Raise InvalidArgument unless k is a whole number from 1 to 100,000."""
    if type(k) is int and 1 <= k <= MAX_K:
        return k
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= MAX_K:
        raise InvalidArgument(f"k is {k!r}, but must be a whole number from 1 to {MAX_K:,}")
    return int(k)


def check_recall(recall: float | None) -> None:
    """Raise InvalidArgument unless recall is None or in (0, 1]."""
    if recall is None:
        return
    number = isinstance(recall, (int, float, np.number)) and not isinstance(recall, bool)
    if not (number and 0.0 < recall <= 1.0):
        raise InvalidArgument(f"recall is {recall!r}, but must be above 0 and at most 1")


def deletable(ids: object) -> list[str]:
    """One id or several as a list.

    Raises:
        InvalidArgument: one is what no item's id can be.
    """
    if not isinstance(ids, (str, Iterable)):
        raise InvalidArgument(f"an id must be text, not {type(ids).__name__}")
    names = [ids] if isinstance(ids, str) else list(ids)
    for name in names:
        if (fault := id_fault(name)) is not None:
            raise InvalidArgument(f"{name!r} can't be deleted: {fault}")
    return names


def id_fault(name: object) -> str | None:
    """Why this can't be an item's id, or None if it can."""
    if not isinstance(name, str):
        return f"an id must be text, not {type(name).__name__}"
    if not name:
        return "an id can't be empty"
    if "\0" in name:
        return "an id can't contain a NUL character"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "the id is not valid Unicode"
    return None if size <= MAX_ID_BYTES else f"an id can't be longer than {MAX_ID_BYTES} bytes"


def _plain(value: Any) -> Any:
    """What JSON lacks, as the nearest thing that it has."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, bytes):
        raise TypeError("bytes are no JSON value")
    raise TypeError(f"{type(value).__name__} is no JSON value")


#: Equal objects give equal text. One encoder for all: json.dumps with these settings makes a new one at each call.
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def dump_metadata(metadata: Metadata) -> str:
    """Metadata as the JSON text that is stored.

    Raises:
        InvalidArgument: not an object with text keys, NaN or infinity, NUL, or a value that JSON doesn't have.
    """
    if not isinstance(metadata, dict):
        raise InvalidArgument(f"metadata must be a dict, not {type(metadata).__name__}")
    for key in metadata:
        if not isinstance(key, str):
            raise InvalidArgument(f"metadata key {key!r} is not text")
    try:
        text = _ENCODER.encode(metadata)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"metadata can't be stored as JSON: {error}") from None
    if "\\u0000" in text and _has_nul(json.loads(text)):
        raise InvalidArgument("metadata can't hold the character NUL: SQLite would cut the text there")
    return text


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any("\0" in key or _has_nul(item) for key, item in value.items())
    if isinstance(value, list):
        return any(map(_has_nul, value))
    return isinstance(value, str) and "\0" in value


def last_of_each(ids: Sequence[str]) -> list[int]:
    """Positions of the last occurrence of each id, ascending: within one call, the later one wins."""
    last = {name: index for index, name in enumerate(ids)}
    return list(range(len(ids))) if len(last) == len(ids) else sorted(last.values())
