"""A folder tree of pictures, with the parent folder's name as label and optional metadata files."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from embedstore.errors import SourceError
from embedstore.readers import formats
from embedstore.readers.decode import MAX_PIXELS
from embedstore.readers.files import FileChunk, PictureFiles
from embedstore.readers.pieces import check_text_path
from embedstore.readers.rows import Rows, read_rows
from embedstore.readers.scan import Scan, scan
from embedstore.readers.table import SOURCE_COLUMN, VECTOR_COLUMNS
from embedstore.types import Failure, Metadata

_FILE_NAME = "file_name"


class FolderReader:
    """All pictures under a folder, in the code-point order of their paths.

    An entry's id is its path relative to the folder, with forward slashes; its ``label`` the name of the folder it
    lies in, unless that is the root. Columns of ``metadata.csv``, ``metadata.jsonl`` or ``metadata.parquet`` (as
    Hugging Face's imagefolder has them: ``file_name`` relative to the metadata file) are added and win over it.

    Args:
        source: the folder.
        max_side: reduce pictures to this longer side on reading; None keeps them.
        labels: False leaves the folder's name out.
        workers, time_limit, memory_limit, max_pixels: see ``workers.DecodePool``.

    Raises:
        SourceError: no such folder, or nothing in it that could be a picture.
    """

    brings_vectors = False

    def __init__(
        self,
        source: str | Path,
        *,
        max_side: int | None = None,
        labels: bool = True,
        workers: int | None = None,
        time_limit: float = 30.0,
        memory_limit: int = 1 << 30,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        root = Path(source)
        if not root.is_dir():
            raise SourceError(f"{root} is not a folder" if root.exists() else f"there is no folder {root}")
        self.scope = check_text_path(root)
        found = scan(self.scope)
        if not found.pictures and not found.failures:
            raise SourceError(f"there are no pictures in {root}{_leftovers(found)}: {formats.accepted()} are read")
        self._labels = labels
        self._extra: dict[str, Metadata] = {}
        self.notes = [*_notes(found), *self._read_tables(found)]
        self._files = PictureFiles(
            ids=found.pictures,
            path_of=lambda i: f"{self.scope}/{found.pictures[i]}",
            metadata_of=lambda i: self._metadata(found.pictures[i]),
            failures=found.failures,
            pool_options={
                "workers": workers,
                "max_side": max_side,
                "time_limit": time_limit,
                "memory_limit": memory_limit,
                "max_pixels": max_pixels,
            },
        )
        self.name = f"folder {root} ({len(found.pictures):,} files)"

    def count(self) -> int:
        """Number of pictures, those that are known to be unreadable included."""
        return self._files.count()

    def chunks(self, size: int) -> Iterator[FileChunk]:
        """All pictures, ``size`` at a time."""
        return self._files.chunks(size)

    def reduce_to(self, max_side: int) -> None:
        """Reduce pictures to this longer side on reading, unless one was chosen when the source was opened."""
        self._files.reduce_to(max_side)

    def close(self) -> None:
        """End the worker processes."""
        self._files.close()

    def _metadata(self, relative: str) -> Metadata:
        parent = posixpath.dirname(relative)
        metadata: Metadata = {"label": posixpath.basename(parent)} if parent and self._labels else {}
        metadata.update(self._extra.get(relative, {}))
        return metadata

    def _read_tables(self, found: Scan) -> list[str]:
        """Take in the metadata files; what is wrong with one of their rows is a failure, with one table a note."""
        notes: list[str] = []
        known = set(found.pictures)
        for table in found.tables:
            try:
                rows = read_rows(Path(self.scope, table))
            except SourceError as error:
                notes.append(f"metadata left out: {error}")
                continue
            if _FILE_NAME not in rows.columns:
                notes.append(f"{table} left out: it has no column {_FILE_NAME!r}")
                continue
            self._take_rows(table, rows, known, found.failures)
        return notes

    def _take_rows(self, table: str, rows: Rows, known: set[str], failures: list[Failure]) -> None:
        folder = posixpath.dirname(table)
        without = {_FILE_NAME, *(name for name, values in rows.columns.items() if _is_vectors(name, values))}
        if "id" in rows.columns:  # an export of ours, and its sources are where the pictures once lay
            without.add(SOURCE_COLUMN)
        failures.extend(Failure(posixpath.join(folder, failure.id), failure.reason) for failure in rows.failures)
        for row, (value, line) in enumerate(zip(rows.columns[_FILE_NAME], rows.lines, strict=True)):
            relative = posixpath.normpath(posixpath.join(folder, str(value).replace(os.sep, "/")))
            if value is None or relative not in known:
                what = "no file_name" if value is None else f"file_name {value!r}, which is no picture in this folder"
                failures.append(Failure(f"{table}:{line}", f"has {what}"))
                continue
            self._extra.setdefault(relative, {}).update(rows.record(row, frozenset(without)))


def _is_vectors(name: str, values: Sequence[Any]) -> bool:
    """Whether a column holds vectors, which are no metadata."""
    first = next((value for value in values if value is not None), None)
    if name not in VECTOR_COLUMNS:
        return False
    return isinstance(first, list) or (isinstance(first, str) and first.startswith("["))


def _leftovers(found: Scan) -> str:
    """What else was there, for the message about a folder without pictures."""
    other: list[Any] = [f"{count:,} {suffix}" for suffix, count in found.unsupported.most_common(3)]
    if found.ignored:
        other.append(f"{found.ignored:,} other files")
    return f" (but {', '.join(other)})" if other else ""


def _notes(found: Scan) -> list[str]:
    notes = []
    if found.unsupported:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in found.unsupported.most_common())
        notes.append(f"left out, for their formats are not read: {kinds}")
    if found.ignored:
        notes.append(f"{found.ignored:,} files that are no pictures were left out")
    return notes
