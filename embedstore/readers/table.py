"""CSV, JSONL and Parquet tables with a column of picture paths, or of vectors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import InvalidArgument, SourceError
from embedstore.readers.decode import MAX_PIXELS
from embedstore.readers.files import PictureFiles
from embedstore.readers.hashing import hash_rows
from embedstore.readers.pieces import ArrayChunk, check_text_path
from embedstore.readers.rows import read_rows, row_failure
from embedstore.readers.vectorcolumn import TextVectors, read_vectors
from embedstore.types import Chunk, Failure, Metadata

PATH_COLUMNS = ("file_name", "path", "image", "file", "filename", "image_path")
VECTOR_COLUMNS = ("vector", "embedding", "embeddings")
SOURCE_COLUMN = "source"  # of an export


class TableReader:
    """The rows of a table: their pictures, from a column of paths, or their vectors.

    Paths are relative to the table's folder, or absolute. Vectors are lists of numbers, in CSV as JSON text. The
    ``id`` column gives the ids; without it a picture's id is its path as written, a vector's the row's number
    (``00000``, ...). A vector's source is what a column ``source`` says. All other columns are metadata; but where
    there are pictures and ids, as in an export, ``source`` is left out: it says where they once lay. A table with both
    kinds of column is read as pictures unless ``vector_column`` is named, or ``vectors`` is True.

    Args:
        source: .csv, .tsv, .jsonl, .ndjson or .parquet.
        path_column: name of the column of paths; None looks for ``file_name``, ``path``, ``image`` or ``file``.
        vector_column: name of the column of vectors; None looks for ``vector``, ``embedding`` or ``embeddings``.
        vectors: True takes the vectors also where there are paths, False never does.
        id_column: name of the column of ids.
        max_side, workers, time_limit, memory_limit, max_pixels: as for a folder.

    Raises:
        SourceError: missing, empty, damaged, or without such a column.
        MissingExtra: Parquet without pyarrow.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        path_column: str | None = None,
        vector_column: str | None = None,
        vectors: bool | None = None,
        id_column: str = "id",
        max_side: int | None = None,
        workers: int | None = None,
        time_limit: float = 30.0,
        memory_limit: int = 1 << 30,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if path_column and (vectors or vector_column):
            other = "vector_column=" if vector_column else "vectors=True"
            raise InvalidArgument(f"path_column= and {other} contradict each other: choose pictures or vectors")
        if vector_column and vectors is False:
            raise InvalidArgument("vector_column= and vectors=False contradict each other: choose pictures or vectors")
        path = Path(source)
        if not path.is_file():
            raise SourceError(f"there is no file {path}")
        self.scope = check_text_path(path)
        self.notes: list[str] = []
        wanted = {vector_column} if vector_column else set(VECTOR_COLUMNS)
        parse = TextVectors(wanted)
        if path.suffix.lower() == ".parquet":
            found = read_vectors(path, wanted)
            skip = frozenset() if found.column is None else frozenset({found.column})
            self._rows = read_rows(path, skip=skip, id_column=id_column)
        else:
            self._rows = read_rows(path, parse, id_column=id_column)
            found = parse.finish(self._rows)
        if not len(self._rows) and not self._rows.failures:
            raise SourceError(f"{path} has no rows")
        columns = self._rows.columns
        paths = None if vector_column or vectors else self._path_column(path, path_column, found.column)
        if vector_column and found.column != vector_column:
            raise SourceError(f"{path} has no column of vectors {vector_column!r}: it has {', '.join(columns)}")
        if paths is None and (found.column is None or vectors is False):
            if not len(self._rows):
                first = self._rows.failures[0]
                raise SourceError(f"{path} has no readable row: {first.id} {first.reason}")
            if vectors:
                raise SourceError(
                    f"{path} has no column of vectors ({', '.join(VECTOR_COLUMNS)}): name one with vector_column=; "
                    f"it has {', '.join(columns)}"
                )
            raise SourceError(
                f"{path} has no column of picture paths ({', '.join(PATH_COLUMNS[:4])}) or of vectors "
                f"({', '.join(VECTOR_COLUMNS)}): name path_column= or vector_column=; it has {', '.join(columns)}"
            )
        self.brings_vectors = paths is None
        self._vectors = found.array
        self._failures = list(self._rows.failures)
        # An item says itself where it comes from: a vector by the column ``source``, a picture by its file.
        self._sources = columns.get(SOURCE_COLUMN) if paths is None else None
        exported = paths is None or id_column in columns
        left_out = (paths, found.column, id_column, SOURCE_COLUMN if exported else None)
        self._without = frozenset(name for name in left_out if name is not None)
        self._id_column = columns.get(id_column)
        #: ids of items that failed under the name of their line
        self.unread: set[str] = set()
        # A quote that isn't closed swallows lines of a CSV, so that a number says nothing there.
        numbered = self.brings_vectors and self._id_column is None and path.suffix.lower() not in (".csv", ".tsv")
        if numbered:
            self.unread.update(map(_number, self._rows.nameless))
        #: whether some rows failed that don't say which items they are
        self.unidentified = bool(self._rows.nameless) and not numbered
        self._keep = self._good_rows(path, None if paths is None else columns[paths], found.faults)
        if paths is not None and found.column is not None:
            self.notes.append(f"the vectors in column {found.column!r} were left out: vector_column= takes them")
        self._files = (
            None
            if paths is None
            else self._picture_files(
                path,
                columns[paths],
                {
                    "workers": workers,
                    "max_side": max_side,
                    "time_limit": time_limit,
                    "memory_limit": memory_limit,
                    "max_pixels": max_pixels,
                },
            )
        )
        noun = "vectors" if self.brings_vectors else "pictures"
        self.name = f"table {path} ({len(self._keep):,} {noun})"

    def count(self) -> int:
        """Number of rows, malformed ones included."""
        return len(self._keep) + len(self._failures)

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All rows in order."""
        if self._files is not None:
            yield from self._files.chunks(size)
            return
        for start in range(0, max(1, len(self._keep)), size):
            yield self._vector_chunk(self._keep[start : start + size], self._failures if start == 0 else [])

    def reduce_to(self, max_side: int) -> None:
        """Reduce pictures to this longer side on reading, unless one was chosen when the table was opened."""
        if self._files is not None:
            self._files.reduce_to(max_side)

    def close(self) -> None:
        """End the worker processes and free the rows."""
        if self._files is not None:
            self._files.close()

    def _vector_chunk(self, rows: list[int], failures: list[Failure]) -> ArrayChunk:
        vectors: npt.NDArray[np.float32] = self._vectors[rows]
        sources: list[str | None] = [self._source(row) for row in rows]
        ids = [self._id(row, _number(self._rows.numbers[row])) for row in rows]
        metadata = [self._rows.record(row, self._without) for row in rows]
        return ArrayChunk(ids, hash_rows(vectors), metadata, sources, vectors=vectors, failures=failures)

    def _source(self, row: int) -> str:
        value = None if self._sources is None else self._sources[row]
        return f"{self.scope}#{self._rows.lines[row]}" if value is None else str(value)

    def _picture_files(self, table: Path, paths: list[Any], pool_options: dict[str, Any]) -> PictureFiles:
        folder = os.path.dirname(self.scope)  # noqa: PTH120 - as text
        keep = self._keep
        return PictureFiles(
            ids=[self._id(row, str(paths[row])) for row in keep],
            path_of=lambda i: os.path.join(folder, paths[keep[i]]),  # noqa: PTH118
            metadata_of=lambda i: self._metadata(keep[i]),
            failures=self._failures,
            pool_options=pool_options,
        )

    def _metadata(self, row: int) -> Metadata:
        return self._rows.record(row, self._without)

    def _id(self, row: int, otherwise: str) -> str:
        value = None if self._id_column is None else self._id_column[row]
        return otherwise if value is None else str(value)

    def _path_column(self, path: Path, named: str | None, vector_column: str | None) -> str | None:
        columns = self._rows.columns
        if named is not None and named not in columns:
            raise SourceError(f"{path} has no column {named!r}: it has {', '.join(columns)}")
        if named is not None:
            return named
        # A table of vectors may well have an "image" or "file" column that is metadata: only file_name is sure there.
        candidates = PATH_COLUMNS if vector_column is None else PATH_COLUMNS[:1]
        return next((c for c in candidates if any(isinstance(v, str) for v in columns.get(c, ()))), None)

    def _good_rows(self, path: Path, paths: list[Any] | None, faults: dict[int, str]) -> list[int]:
        """Rows that have a path, or a vector; the others become failures."""
        keep = []
        for row, line in enumerate(self._rows.lines):
            reason = faults.get(row)
            if paths is not None:
                reason = None if isinstance(paths[row], str) else "has no path to a picture"
            if reason is None:
                keep.append(row)
                continue
            name = None if self._id_column is None else self._id_column[row]
            self._failures.append(row_failure(path, line, reason, name))
            if name is None and self.brings_vectors:
                self.unread.add(_number(self._rows.numbers[row]))
            elif name is None:
                self.unidentified = True
        return keep


def _number(number: int) -> str:
    """The id of a row without one."""
    return f"{number:05d}"
