"""Vectors in a table's column, as one float32 array: four bytes a number instead of the forty of Python's lists."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import MissingExtra, SourceError
from embedstore.readers.rows import Rows
from embedstore.types import Vectors


@dataclass(frozen=True, slots=True)
class VectorColumn:
    """The vectors of a table.

    Attributes:
        column: the column's name, or None where the table has none.
        array: (rows, d); rows without a vector are zero.
        faults: row -> why it has no vector.
    """

    column: str | None
    array: Vectors
    faults: dict[int, str]


class _Place(int):
    """Where a row's vector is kept; a type of its own, so that a stray number in the column isn't taken for one."""


class TextVectors:
    """Takes the vectors out of a text table's rows as they are read.

    Args:
        columns: names that a column of vectors may have; the first that holds a list is it.
    """

    def __init__(self, columns: Collection[str]) -> None:
        self._columns = columns
        self._kept: list[npt.NDArray[np.float32]] = []
        self._column: str | None = None

    def __call__(self, name: str, value: Any) -> Any:
        """Called for every value; a vector is replaced by its place.

        Raises:
            ValueError: a value of the vector column that is none, with the reason.
        """
        if name not in self._columns or self._column not in (None, name):
            return value
        if self._column is None and not _is_list(value):
            return value
        self._column = name
        try:
            vector = np.asarray(json.loads(value) if isinstance(value, str) else value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"has no vector in column {name!r}: {error}") from None
        if vector.ndim != 1 or not vector.size or vector.dtype.kind not in "fiu":
            raise ValueError(f"has no list of numbers in column {name!r}")
        if self._kept and len(vector) != len(self._kept[0]):
            raise ValueError(f"has a vector of {len(vector)} values where the first has {len(self._kept[0])}")
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and fails alone for that
            self._kept.append(vector.astype(np.float32))
        return _Place(len(self._kept) - 1)

    def finish(self, rows: Rows) -> VectorColumn:
        """The vectors of the rows that were kept, in their order."""
        if self._column is None or not self._kept:
            return VectorColumn(None, np.zeros((len(rows), 0), dtype=np.float32), {})
        places = rows.columns.get(self._column, [])
        array = np.zeros((len(rows), len(self._kept[0])), dtype=np.float32)
        faults = {}
        for row, place in enumerate(places):
            if isinstance(place, _Place):
                array[row] = self._kept[place]
            else:
                faults[row] = f"has no vector in column {self._column!r}"
        self._kept.clear()
        return VectorColumn(self._column, array, faults)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


def read_vectors(path: Path, columns: Collection[str]) -> VectorColumn:
    """The first of ``columns`` that a Parquet file has as lists of numbers.

    Raises:
        SourceError: the file can't be read.
        MissingExtra: pyarrow isn't installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("pyarrow", "parquet", f"reading {path.name}") from None
    try:
        with pq.ParquetFile(path) as file:
            name = next((f.name for f in file.schema_arrow if f.name in columns and _holds_numbers(pa, f.type)), None)
            count = file.metadata.num_rows
            if name is None:
                return VectorColumn(None, np.zeros((count, 0), dtype=np.float32), {})
            return _collect(name, count, file.iter_batches(batch_size=8192, columns=[name]))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} can't be read as Parquet: {str(error).splitlines()[0]}") from None


def _holds_numbers(pa: Any, kind: Any) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def _collect(name: str, count: int, batches: Any) -> VectorColumn:
    array: npt.NDArray[np.float32] | None = None
    faults: dict[int, str] = {}
    row = 0
    for batch in batches:
        column = batch.column(0)
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        # flatten() leaves the values of null rows out, and nulls inside a vector become NaN, refused on loading.
        with np.errstate(over="ignore"):
            values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        if array is None and lengths.any():
            array = np.zeros((count, int(lengths[lengths > 0][0])), dtype=np.float32)
        dimension = 0 if array is None else array.shape[1]
        fits = lengths == dimension if dimension else np.zeros(len(lengths), dtype=bool)
        if array is not None and fits.any():
            array[row : row + len(lengths)][fits] = values[np.repeat(fits, lengths)].reshape(-1, dimension)
        for place in np.flatnonzero(~fits):
            length = int(lengths[place])
            faults[row + int(place)] = (
                f"has a vector of {length} values where the first has {dimension}"
                if length
                else f"has no vector in column {name!r}"
            )
        row += len(lengths)
    return VectorColumn(name, np.zeros((count, 0), dtype=np.float32) if array is None else array, faults)
