"""Writing vectors and thumbnails anew, without deleted ones, into segments that no row names until all is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import Connection

import numpy as np
import numpy.typing as npt

from embedstore.errors import StoreDamaged
from embedstore.metadata import catalog, items
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
            name = segment_name(_number(self._writer, self.connection), "vec")
            files.create(folder / name, self.space.dimension, self.space.dtype)
            self._files.append(_File(name))
        last, part = self._files[-1], vectors.data.cast("B")
        files.append(folder / last.name, last.length * size, [part])
        last.batches.append((rows, files.checksum([part])))
        last.length += len(rows)

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


class RewrittenThumbs:
    """New segments of thumbnails, as `Rewritten` ones of vectors; items are pointed at them in the end.

    Args:
        writer: of the store.

    Attributes:
        connection: of a transaction that is under way, which then gives the numbers of new files.
    """

    def __init__(self, writer: Writer) -> None:
        self.connection: Connection | None = None
        self._writer = writer
        self._files: list[_Thumbs] = []
        # Of each thumbnail, in any order: where it was (see `_keys`), which file it is in now, and where there.
        self._moved: list[npt.NDArray[np.int64]] = [np.empty((0, 3), dtype=np.int64)]

    def copy(self, places: npt.NDArray[np.int64], batches: list[Batch], segments: dict[int, Segment]) -> None:
        """Copy thumbnails that lie at these places, as `items.thumb_places` has them, behind those that were copied.

        Raises:
            StoreDamaged: a batch that one of them lies in differs from what was committed.
        """
        folder = self._writer.directory / SEGMENTS
        paths = {segment.id: folder / segment.name for segment in segments.values() if segment.kind == "thumb"}
        starts = {number: places[places[:, 1] == number, 2] for number in paths}  # ascending
        for batch in batches:
            if (path := paths.get(batch.segment)) is None:
                continue
            low, high = starts[batch.segment].searchsorted((batch.start, batch.start + batch.count))
            # What none of them needs is left behind, whatever became of its bytes.
            if low < high and files.checksum_of(path, batch.start, batch.count) != batch.checksum:
                raise StoreDamaged(
                    f"{path}: bytes {batch.start} and after differ from what was committed: `embedstore verify "
                    f"{self._writer.directory}` says which items are lost"
                )
        ends = np.cumsum(places[:, 3])
        for part in np.split(places, np.flatnonzero(np.diff(ends // PART_BYTES)) + 1):
            if len(part):
                self._append(part, paths)

    def _append(self, part: npt.NDArray[np.int64], paths: dict[int, Path]) -> None:
        pieces: list[bytes] = []
        for number in dict.fromkeys(part[:, 1].tolist()):
            own = part[part[:, 1] == number, 2:].tolist()
            pieces += files.read_bytes(paths[number], [(start, length) for start, length in own])
        if not self._files or self._files[-1].length >= self._writer.config.segment_bytes:
            name = segment_name(_number(self._writer, self.connection), "thumb")
            files.create(self._writer.directory / SEGMENTS / name, 0)
            self._files.append(_Thumbs(name))
        last, block = self._files[-1], b"".join(pieces)
        starts = last.length + np.cumsum([0, *map(len, pieces[:-1])])
        self._moved.append(np.column_stack([_keys(part), np.full(len(part), len(self._files) - 1), starts]))
        last.batches.append((int(part[0, 0]), last.length, len(block), files.checksum([block])))
        last.length = files.append(self._writer.directory / SEGMENTS / last.name, last.length, [block])

    def name(self, connection: Connection, batches: list[Batch], segments: dict[int, Segment], seq: int) -> None:
        """Copy what came meanwhile, name what was written in a commit of this number, and point all items at it."""
        places = np.array(items.thumb_places(connection), dtype=np.int64).reshape(-1, 4)
        known = np.isin(_keys(places), np.concatenate(self._moved)[:, 0])
        self.copy(places[~known], batches, segments)
        numbers = []
        for file in self._files:
            number = catalog.add_segment(connection, kind="thumb", space=None, name=file.name, length=file.length)
            for row, start, count, checksum in file.batches:
                catalog.add_batch(
                    connection, segment=number, start=start, count=count, first_row=row, checksum=checksum, seq=seq
                )
            numbers.append(number)
        moved = np.concatenate(self._moved)
        moved = moved[np.argsort(moved[:, 0])]
        found = moved[np.searchsorted(moved[:, 0], _keys(places))] if len(places) else moved[:0]
        rows, starts = places[:, 0].tolist(), found[:, 2].tolist()
        owners = [numbers[file] for file in found[:, 1].tolist()]
        items.move_thumbs(connection, list(zip(owners, starts, rows, strict=True)))


@dataclass(slots=True)
class _Thumbs:
    """A new segment of thumbnails: its name, and (row of the first, start, bytes, checksum) of each batch in it."""

    name: str
    batches: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    length: int = 0


def _keys(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """One number for each place: its segment and its start there."""
    return (places[:, 1] << 40) + places[:, 2]


def _number(writer: Writer, connection: Connection | None) -> int:
    """A number for a new file: of a transaction that is under way, or of one of its own."""
    if connection is not None:
        return catalog.take_file_number(connection)
    with writer.locked_in_the_end("compacting"), writer.database.write() as own:
        return catalog.take_file_number(own)
