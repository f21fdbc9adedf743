"""Writing a space's vectors anew, without deleted rows, into segments that no row names until all is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from sqlite3 import Connection

import numpy as np
import numpy.typing as npt

from embedstore.errors import StoreDamaged
from embedstore.metadata import catalog
from embedstore.metadata.catalog import Batch, Segment, Space
from embedstore.progress import Progress
from embedstore.truth.layout import SEGMENTS, segment_name
from embedstore.truth.writer import Writer
from embedstore.vectors import segments as files
from embedstore.vectors.segments import SegmentVectors

PART_BYTES = 32 * 2**20  # rewritten at a time


@dataclass(slots=True)
class _File:
    """A new segment: its name, the rows of each batch in it, and their checksums."""

    name: str
    batches: list[tuple[npt.NDArray[np.int64], bytes]] = field(default_factory=list)
    length: int = 0


class Rewritten:
    """New segments of a space, written one part behind the other.

    Args:
        writer: of the store.
        space: whose vectors they are.

    Attributes:
        connection: of a transaction that is under way, which then gives the numbers of new files.
    """

    def __init__(self, writer: Writer, space: Space) -> None:
        self.space = space
        self.connection: Connection | None = None
        self._writer = writer
        self._files: list[_File] = []

    def append(self, rows: npt.NDArray[np.int64], vectors: npt.NDArray[np.uint8]) -> None:
        """Write some rows (n,) and the bytes (n, row bytes) of their vectors, durably."""
        size, folder = self.space.row_bytes, self._writer.directory / SEGMENTS
        if not self._files or self._files[-1].length * size >= self._writer.config.segment_bytes:
            name = segment_name(self._number(), "vec")
            files.create(folder / name, self.space.dimension, self.space.dtype)
            self._files.append(_File(name))
        last, part = self._files[-1], vectors.data.cast("B")
        files.append(folder / last.name, last.length * size, [part])
        last.batches.append((rows, files.checksum([part])))
        last.length += len(rows)

    def _number(self) -> int:
        if self.connection is not None:
            return catalog.take_file_number(self.connection)
        with self._writer.locked("compacting"), self._writer.database.write() as connection:
            return catalog.take_file_number(connection)

    def vectors(self) -> tuple[SegmentVectors, npt.NDArray[np.int64]]:
        """What was written, mapped, and the row of each vector."""
        named = [(file.name, file.length) for file in self._files]
        rows = [rows for file in self._files for rows, _ in file.batches]
        folder = self._writer.directory / SEGMENTS
        mapped = SegmentVectors(folder, self.space.dimension, named, self.space.dtype)
        return mapped, np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)

    def name(self, connection: Connection, seq: int) -> None:
        """Name what was written, in a commit of this number."""
        for file in self._files:
            number = catalog.add_segment(
                connection, kind="vec", space=self.space.id, name=file.name, length=file.length
            )
            start = 0
            for rows, checksum in file.batches:
                contiguous = int(rows[-1]) - int(rows[0]) + 1 == len(rows)
                catalog.add_batch(
                    connection,
                    segment=number,
                    start=start,
                    count=len(rows),
                    first_row=int(rows[0]),
                    rows=None if contiguous else rows,
                    checksum=checksum,
                    seq=seq,
                )
                start += len(rows)


def rewrite(
    new: Rewritten,
    writer: Writer,
    batches: list[Batch],
    segments: dict[int, Segment],
    stones: npt.NDArray[np.int64],
    bar: Progress | None = None,
) -> None:
    """Append what these batches hold, less the rows of ``stones``, ascending.

    Raises:
        StoreDamaged: a batch differs from what was committed.
    """
    for rows, vectors in _merged(writer, new.space.row_bytes, batches, segments, stones):
        new.append(rows, vectors)
        if bar is not None:
            bar.advance(len(rows))


def _merged(
    writer: Writer,
    row_bytes: int,
    batches: list[Batch],
    segments: dict[int, Segment],
    stones: npt.NDArray[np.int64],
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
    """Live (rows, bytes of their vectors) of all batches in order, gathered into parts of about 32 MiB."""
    held_rows: list[npt.NDArray[np.int64]] = []
    held: list[npt.NDArray[np.uint8]] = []
    size = 0
    for batch in batches:
        rows = batch.row_numbers()
        alive = ~np.isin(rows, stones, assume_unique=True)
        if not alive.any():
            continue  # whatever became of their bytes
        path = writer.directory / SEGMENTS / segments[batch.segment].name
        data = files.read_bytes(path, [(batch.start * row_bytes, batch.count * row_bytes)])[0]
        if files.checksum([data]) != batch.checksum:
            raise StoreDamaged(
                f"{path}: rows {batch.start} and after differ from what was committed: `embedstore verify "
                f"{writer.directory}` says which items are lost"
            )
        vectors = np.frombuffer(data, dtype=np.uint8).reshape(batch.count, row_bytes)
        held_rows.append(rows[alive])
        held.append(vectors[alive])
        size += int(alive.sum()) * row_bytes
        if size >= PART_BYTES:
            yield np.concatenate(held_rows), np.concatenate(held)
            held_rows, held, size = [], [], 0
    if size:
        yield np.concatenate(held_rows), np.concatenate(held)
