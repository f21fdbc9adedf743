"""Segment files: append-only bytes whose committed length is a row of the database.

A vector segment is a header of 64 bytes (magic, version, dimension, dtype) and rows, little-endian, one behind the
other (see `coding`); a thumbnail segment has the same header with dimension 0, and bytes. What lies behind the
committed length is the rest of a write that was never acknowledged: the next append overwrites it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from embedstore.durable import sync_directory, sync_file, writing
from embedstore.errors import StoreDamaged
from embedstore.types import Dtype, Vectors
from embedstore.vectors import coding

HEADER = 64
_MAGIC = b"embstore"
_VERSION = 1
_DTYPES = {Dtype.FLOAT32: 0, Dtype.FLOAT16: 1, Dtype.INT8: 2}
#: Mapped pages count as this process's memory once touched, and Linux maps 64 KiB around each touch. So single rows
#: are read through the map only where they lie within the first so many bytes of a space, and with ``pread`` beyond:
#: two microseconds more for a row, and memory that is bounded. (Mapping all and handing pages back now and then was
#: rejected: a fault costs more than a ``pread``.)
_RESIDENT_BYTES = 128 * 2**20
_PIECE = 64 * 2**20  # bytes compared at a time
_MAPPED_NS, _READ_NS = 500.0, 3_000.0
#: Rows asked for at once from which on the map is faster than one ``pread`` each.
_MANY = 256
#: Never through a link, and never waiting for a FIFO: a store that someone else made is data, and stays in its folder.
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def checksum(parts: Iterable[bytes | memoryview]) -> bytes:
    """BLAKE2b of the parts, one behind the other, 16 bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


def checksum_of(path: Path, start: int, length: int) -> bytes:
    """The same of committed bytes of a segment file, read in pieces."""
    ends = range(start, start + length, _PIECE)
    return checksum(read_bytes(path, [(at, min(_PIECE, start + length - at))])[0] for at in ends)


def _header(dimension: int, dtype: Dtype) -> bytes:
    return struct.pack("<8sIII", _MAGIC, _VERSION, dimension, _DTYPES[dtype]).ljust(HEADER, b"\0")


def fault(path: Path, dimension: int, committed: int, dtype: Dtype = Dtype.FLOAT32) -> str | None:
    """What is wrong with a segment file's header and length ('is missing', ...), or None.

    Args:
        path: of the file.
        dimension: of its vectors; 0 for thumbnails.
        committed: bytes, header not counted.
        dtype: of its vectors.
    """
    try:
        descriptor = _open(path)
    except StoreDamaged:
        return "can't be read" if path.exists() else "is missing"
    try:
        return _fault(descriptor, dimension, committed, dtype)
    finally:
        os.close(descriptor)


def _fault(descriptor: int, dimension: int, committed: int, dtype: Dtype) -> str | None:
    if os.fstat(descriptor).st_size < HEADER + committed:
        return "is shorter than what was committed to it"
    if os.pread(descriptor, HEADER, 0) != _header(dimension, dtype):
        return "is not the segment that was committed (its header differs)"
    return None


def create(path: Path, dimension: int, dtype: Dtype = Dtype.FLOAT32) -> None:
    """Make an empty segment file and sync it with its directory; an unnamed file of that name is overwritten."""
    with writing(path):
        path.parent.mkdir(exist_ok=True)  # version control and some archives keep no empty folder
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o644)
        try:
            os.write(descriptor, _header(dimension, dtype))
            sync_file(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(path.parent)


def append(path: Path, committed: int, parts: Sequence[bytes | memoryview]) -> int:
    """Write ``parts`` behind the committed bytes, durably, and return the new length in bytes (header not counted).

    Raises:
        DiskFull: no room; the file is cut back to the committed end.
        StoreDamaged: the file is shorter than what was committed.
    """
    end = HEADER + committed
    with writing(path):
        descriptor = os.open(path, os.O_WRONLY | _FLAGS)
        try:
            if os.fstat(descriptor).st_size < end:
                raise StoreDamaged(f"{path} is shorter than what was committed to it: restore a backup")
            try:
                for part in parts:
                    view = memoryview(part).cast("B")
                    while view:
                        written = os.pwrite(descriptor, view, end)
                        view, end = view[written:], end + written
                sync_file(descriptor)
            except OSError:
                os.ftruncate(descriptor, HEADER + committed)
                raise
        finally:
            os.close(descriptor)
    return end - HEADER


class _Descriptor:
    """An open file that closes itself: a snapshot ends when the last search that uses it does."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


@dataclass(frozen=True, slots=True)
class _Mapped:
    first: int
    rows: Any  # float32 (n, d), or uint8 (n, row bytes) of what has to be decoded
    map: mmap.mmap
    file: _Descriptor


class SegmentVectors:
    """The committed vectors of one space, memory-mapped: reads of any process see the same pages.

    Args:
        directory: of the segment files.
        dimension: d.
        segments: (file name, committed rows) in the order of positions.
        dtype: how they are kept.

    Attributes:
        mapped: whether blocks are the mapped bytes themselves, which cost nothing to take.
    """

    def __init__(
        self,
        directory: Path,
        dimension: int,
        segments: Sequence[tuple[str, int]],
        dtype: Dtype = Dtype.FLOAT32,
    ) -> None:
        self.dimension = dimension
        self._dtype = dtype
        self.mapped = dtype is Dtype.FLOAT32
        self._row_bytes = dtype.row_bytes(dimension)
        self._resident = _RESIDENT_BYTES // self._row_bytes
        self._spilled = False  # whether more than that may be mapped, by a scan or a large read
        self._mapped: list[_Mapped] = []
        first = 0
        for name, rows in segments:
            if rows:
                self._mapped.append(_map(directory / name, dimension, rows, first, dtype))
                first += rows
        self.count = first
        self._starts = [part.first for part in self._mapped]

    def __len__(self) -> int:
        return self.count

    @property
    def resident(self) -> bool:
        """Whether all rows are mapped as they are, and may stay in memory."""
        return self.mapped and self.count <= self._resident

    @property
    def row_ns(self) -> float:
        """Nanoseconds that reading a single row takes, about, as measured: through the map, or from the file."""
        mapped = min(1.0, self._resident / max(1, self.count))
        return _MAPPED_NS * mapped + _READ_NS * (1 - mapped)

    def blocks(self, first: int = 0, count: int | None = None) -> Iterator[tuple[int, Vectors]]:
        """The rows [first, first + count) as (first position, (n, d) view), one block a segment, without copying.

        A block of another dtype than float32 is decoded part by part, as it is sliced or indexed (`coding.CodedRows`).
        """
        stop = self.count if count is None else min(self.count, first + count)
        if stop - first > self._resident:
            self._spilled = True
        for part in self._mapped:
            low, high = max(first, part.first), min(stop, part.first + len(part.rows))
            if low < high:
                rows = part.rows[low - part.first : high - part.first]
                yield low, rows if self.mapped else cast("Vectors", coding.CodedRows(rows, self._dtype, self.dimension))

    def read(self, positions: npt.NDArray[np.int64]) -> Vectors:
        """Copies of the vectors at these positions, float32 (n, d)."""
        raw = self._read(positions)
        return raw if self.mapped else coding.decode(raw, self._dtype)

    def _read(self, positions: npt.NDArray[np.int64]) -> Any:
        if self.count > self._resident:
            if len(positions) <= _MANY:
                return self._read_few(positions)
            self._spilled = True
        if len(self._mapped) == 1:
            return self._mapped[0].rows.take(positions, axis=0)
        return self._gathered(positions, lambda part, rows: part.rows[rows])

    def _read_few(self, positions: npt.NDArray[np.int64]) -> Any:
        if self._spilled:
            self.release()
        if len(self._mapped) == 1:
            return self._read_part(self._mapped[0], positions)
        return self._gathered(positions, self._read_part)

    def _read_part(self, part: _Mapped, rows: npt.NDArray[np.int64]) -> Any:
        """Rows of one segment: through the map where they may stay in memory, else from the file."""
        resident = min(max(self._resident - part.first, 0), len(part.rows))
        numbers, size, file = rows.tolist(), self._row_bytes, part.file.number
        found = part.rows.take(np.minimum(rows, resident - 1), axis=0) if resident else self._room(len(rows))
        for i, number in enumerate(numbers):
            if number >= resident and os.preadv(file, (found[i],), HEADER + number * size) != size:
                raise StoreDamaged("a segment was cut short while it was open: restore a backup")
        return found

    def _room(self, count: int) -> Any:
        if self.mapped:
            return np.empty((count, self.dimension), dtype=np.float32)
        return np.empty((count, self._row_bytes), dtype=np.uint8)

    def _gathered(self, positions: npt.NDArray[np.int64], read: Callable[[_Mapped, npt.NDArray[np.int64]], Any]) -> Any:
        found = self._room(len(positions))
        if len(positions) <= _MANY and (rows := positions.tolist()) == sorted(rows):  # as candidates come
            cuts = [*positions.searchsorted(self._starts).tolist(), len(rows)]
            for part, start, stop in zip(self._mapped, cuts, cuts[1:], strict=False):
                if start < stop:
                    found[start:stop] = read(part, positions[start:stop] - part.first)
            return found
        which = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(which):
            chosen, part = which == number, self._mapped[number]
            found[chosen] = read(part, positions[chosen] - part.first)
        return found

    def release(self) -> None:
        """Hand mapped pages back; they stay in the page cache, so that the next touch costs a minor fault."""
        self._spilled = False
        for part in self._mapped:
            part.map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Drop the maps (a map lives on while an array of it does)."""
        self._mapped = []


def _map(path: Path, dimension: int, rows: int, first: int, dtype: Dtype) -> _Mapped:
    size = rows * dtype.row_bytes(dimension)
    file = _Descriptor(_open(path))
    if (reason := _fault(file.number, dimension, size, dtype)) is not None:
        raise StoreDamaged(f"{path} {reason}: restore a backup")
    mapped = mmap.mmap(file.number, HEADER + size, access=mmap.ACCESS_READ)
    array: Any = np.frombuffer(mapped, dtype=np.uint8, count=size, offset=HEADER).reshape(rows, -1)
    if dtype is Dtype.FLOAT32:
        array = array.view("<f4")
    return _Mapped(first, array, mapped, file)


def read_bytes(path: Path, places: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes at (start, length) each of a thumbnail segment."""
    descriptor = _open(path)
    try:
        return [os.pread(descriptor, length, HEADER + start) for start, length in places]
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | _FLAGS)
    except FileNotFoundError:
        raise StoreDamaged(f"{path} is missing: restore a backup") from None
    except OSError as error:
        raise StoreDamaged(f"{path} can't be read ({error.strerror}): check its permissions") from None
