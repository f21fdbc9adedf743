"""Picture files as entries: hashing them a chunk ahead, decoding them in the pool. Folders, tables and lists of files
differ only in where their names and metadata come from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedstore.errors import UnreadableItem
from embedstore.readers.decode import MAX_PIXELS, Decoded, decode, pixels_of
from embedstore.readers.hashing import hash_file
from embedstore.readers.pieces import chunk_size, one_array
from embedstore.readers.worker import read_file
from embedstore.readers.workers import DecodePool, Job
from embedstore.types import Failure, Loaded, Metadata, Picture

_HASH_THREADS = 4  # waiting for a disk or a network share is what they overlap; hashing itself is no bottleneck
_HASH_TASK = 64
_SIDE = 1024  # px a side that files whose pictures aren't reduced on reading are taken to have
MEMORY_LIMIT = 1 << 30
_OWN_BYTES, _OWN_PIXELS = 64 << 20, 25_000_000  # of one picture at most that is decoded in this process


def decoded_bytes(max_side: int | None) -> int:
    """What a decoded file may take in memory."""
    return 3 * (max_side or _SIDE) ** 2


@dataclass(slots=True)
class FileChunk:
    """Entries whose pictures lie in files. ``prefetch`` starts decoding and returns at once; ``load`` collects."""

    ids: Sequence[str]
    hashes: Sequence[bytes]
    metadata: Sequence[Metadata]
    sources: Sequence[str | None]
    failures: Sequence[Failure]
    paths: Sequence[str]
    pool: DecodePool
    _started: dict[int, int] = field(default_factory=dict)  # position in the chunk -> position in the job
    _job: Job | None = None

    def prefetch(self, which: Sequence[int]) -> None:
        """Start reading and decoding these positions in the worker processes."""
        if len(which):
            self._started = {position: i for i, position in enumerate(which)}
            self._job = self._submit(which)

    def load(self, which: Sequence[int]) -> Loaded:
        """Wait for these positions; those that were not prefetched are read now."""
        results: dict[int, Decoded | str] = {}
        late = [position for position in which if position not in self._started]
        late_job = self._submit(late) if late else None
        if self._job is not None:
            done = self._job.result()
            results = {position: done[self._started[position]] for position in which if position in self._started}
        if late_job is not None:
            results.update(zip(late, late_job.result(), strict=True))
        self._job, self._started = None, {}  # a chunk that was loaded holds no pictures
        good: list[int] = []
        decoded: list[Decoded] = []
        failures: list[Failure] = []
        for position in which:
            result = results[position]
            if isinstance(result, str):
                failures.append(Failure(self.ids[position], result))
            else:
                good.append(position)
                decoded.append(result)
        return Loaded(
            good,
            one_array([d.pixels for d in decoded]),
            None,
            [d.size for d in decoded],
            failures,
            [d.thumb for d in decoded],
        )

    def _submit(self, which: Sequence[int]) -> Job:
        return self.pool.submit([self.paths[i] for i in which], [self.hashes[i] for i in which])


@dataclass(slots=True)
class PictureFiles:
    """A list of picture files in a stable order.

    Attributes:
        ids: one per file.
        path_of: position -> the file's path, absolute.
        metadata_of: position -> its metadata, a new dict.
        failures: entries that are known to be unreadable; reported with the first chunk.
        pool_options: arguments of DecodePool.
    """

    ids: Sequence[str]
    path_of: Callable[[int], str]
    metadata_of: Callable[[int], Metadata]
    failures: Sequence[Failure]
    pool_options: dict[str, Any]
    _pool: DecodePool | None = None
    _threads: ThreadPoolExecutor | None = None

    def count(self) -> int:
        """Files, the unreadable ones included."""
        return len(self.ids) + len(self.failures)

    def chunks(self, size: int) -> Iterator[FileChunk]:
        """All files, ``size`` at a time; the next chunk is hashed while the caller works on this one."""
        size = chunk_size(size, decoded_bytes(self.pool_options.get("max_side")))
        starts = range(0, max(1, len(self.ids)), size)
        pending = self._hash(0, size)
        for start in starts:
            current, pending = pending, self._hash(start + size, size)
            yield self._chunk(start, current, self.failures if start == 0 else ())

    def reduce_to(self, max_side: int) -> None:
        """Reduce pictures to this longer side on reading, unless one was chosen when the source was opened."""
        if self.pool_options.get("max_side") is None and self._pool is None:
            self.pool_options["max_side"] = max_side

    def close(self) -> None:
        """End the worker processes and threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None

    def _hash(self, start: int, size: int) -> list[Future[list[bytes | str]]]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_HASH_THREADS, "embedstore-hash")
        end = min(start + size, len(self.ids))
        limit = self.pool_options.get("memory_limit", MEMORY_LIMIT)
        return [
            self._threads.submit(
                _hash_files, [self.path_of(i) for i in range(first, min(first + _HASH_TASK, end))], limit
            )
            for first in range(start, end, _HASH_TASK)
        ]

    def _chunk(self, start: int, pending: list[Future[list[bytes | str]]], known: Sequence[Failure]) -> FileChunk:
        if self._pool is None:
            self._pool = DecodePool(**self.pool_options)
        ids: list[str] = []
        hashes: list[bytes] = []
        metadata: list[Metadata] = []
        paths: list[str] = []
        failures = list(known)
        results = [result for future in pending for result in future.result()]
        for position, result in enumerate(results, start):
            if isinstance(result, str):
                failures.append(Failure(self.ids[position], result))
                continue
            path = self.path_of(position)
            ids.append(self.ids[position])
            hashes.append(result)
            metadata.append(self.metadata_of(position))
            paths.append(path)
        return FileChunk(ids, hashes, metadata, paths, failures, paths, self._pool)


def _hash_files(paths: Sequence[str], limit: int) -> list[bytes | str]:
    return [hash_file(path, limit) for path in paths]


def read_picture(path: str | Path, max_side: int | None = None) -> Picture:
    """Decode one file that the user named: a usual one in this process, for which starting a worker would cost more
    than it protects; a huge one in a worker, under the limits that it would be indexed under.

    Raises:
        UnreadableItem: it is no readable picture; the message names the file.
    """
    try:
        data = read_file(os.fspath(path), limit=_OWN_BYTES)
        suffix = Path(path).suffix.lower()
        if pixels_of(data, suffix) <= _OWN_PIXELS:
            return decode(data, suffix, max_side, MAX_PIXELS).pixels
    except MemoryError:
        pass
    except UnreadableItem as error:
        raise UnreadableItem(f"{path}: {error}") from None
    pool = DecodePool(1, max_side)
    try:
        (result,) = pool.submit([os.fspath(path)]).result()
    finally:
        pool.close()
    if isinstance(result, str):
        raise UnreadableItem(f"{path}: {result}")
    return result.pixels
