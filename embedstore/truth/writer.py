"""The commit: vectors and thumbnails are appended and synced, then one transaction names them (DESIGN: truth on disk).

Every write happens under the one writer's lock, inside one ``BEGIN IMMEDIATE`` transaction. A crash before its commit
leaves bytes behind the committed ends, which the next append overwrites; a crash after it loses nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.config import StoreConfig
from embedstore.durable import WriteLock, only_one, writing
from embedstore.errors import EncoderMismatch, StoreBusy, StoreReadOnly
from embedstore.metadata import catalog, items, runs
from embedstore.metadata.catalog import Segment, Space, State
from embedstore.metadata.database import Database
from embedstore.truth.layout import LOCK, SEGMENTS, TIERS, segment_name
from embedstore.truth.placing import Placing
from embedstore.types import Dtype, Metric, Vectors
from embedstore.validate import check_dimension
from embedstore.vectors import coding
from embedstore.vectors import segments as files


@dataclass(frozen=True, slots=True)
class Thumbs:
    """Thumbnails of new items, as the bytes to append: one contiguous block or one piece an item.

    Attributes:
        parts: buffers whose concatenation is appended.
        lengths: bytes of each item's thumbnail, in order; 0 where it has none.
        formats: of each item, or one for all: 'raw:HxWxC', 'png', 'webp'.
    """

    parts: Sequence[bytes | memoryview]
    lengths: npt.NDArray[np.int64]
    formats: Sequence[str] | str


@dataclass(frozen=True, slots=True)
class NewItems:
    """Items to add or replace, as parallel columns, each id once.

    Attributes:
        ids: unique among themselves.
        vectors: float32 (n, d), finite.
        metadata: JSON texts (``validate.dump_metadata``).
        sources: paths or other names, or None for all.
        origin: the scope of the reader that they come from, or None.
        hashes: content hashes, or None for all.
        sizes: (width, height), or None for all.
        thumbs: or None.
        kept_thumbs: where an item's thumbnail already lies (metadata changed, picture not), by position.
        same_latents: all ids are known, and so are their latents: clusters and places on maps stay.
    """

    ids: Sequence[str]
    vectors: Vectors
    metadata: Sequence[str]
    sources: Sequence[str | None] | None = None
    origin: str | None = None
    hashes: Sequence[bytes | None] | None = None
    sizes: Sequence[tuple[int, int] | None] | None = None
    thumbs: Thumbs | None = None
    kept_thumbs: Sequence[items.Thumb | None] | None = None
    same_latents: bool = False


class Writer:
    """All that changes a store's truth, but for compacting it.

    Args:
        directory: of the store.
        database: its open database.
        config: for the lock's patience and the size of segments.
    """

    def __init__(self, directory: Path, database: Database, config: StoreConfig) -> None:
        self.directory = directory
        self.database = database
        self.config = config
        self._placing = Placing(directory)
        self.loss = coding.Loss()
        self.appended = 0  # vectors, since the tiers were looked at (see builder)
        self._lock = WriteLock(directory / LOCK, config.lock_seconds)

    def locked(self, purpose: str) -> AbstractContextManager[None]:
        """Hold the one writer's lock for a block: several commits without another writer in between."""
        self.check_writable()
        return self._lock.held(purpose)

    @contextmanager
    def locked_in_the_end(self, purpose: str, watch: Callable[[], object] | None = None) -> Iterator[None]:
        """The same, however long others hold it: for who has worked too long to give up.

        Args:
            purpose: for those who wait.
            watch: called now and then meanwhile; what it raises ends the waiting.
        """
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self.locked(purpose))
                    break
                except StoreBusy:
                    if watch is not None:
                        watch()
                    time.sleep(0.02)  # where the store's patience is none
            yield

    @contextmanager
    def building(self, *, wait: bool = True) -> Iterator[None]:
        """Be the only one who makes tiers for a block: other writers may go on.

        Raises:
            StoreBusy: another process is at it, and has been for longer than the store's patience if this is to wait.
        """
        with self._building(self.config.lock_seconds if wait else 0.0) as alone:
            if not alone:
                raise StoreBusy(
                    f"the index of {self.directory} is being built by another process or thread: wait for it to end"
                )
            yield

    def try_building(self) -> AbstractContextManager[bool]:
        """The same without waiting: whether nobody else is at it."""
        return self._building(0.0)

    @contextmanager
    def _building(self, seconds: float) -> Iterator[bool]:
        self.check_writable()
        folder = self.directory / TIERS
        with writing(folder):
            folder.mkdir(exist_ok=True)
        with only_one(folder, seconds) as alone:
            yield alone

    def check_writable(self) -> None:
        """Raise StoreReadOnly where the store was opened for reading, before long work is done for nothing."""
        if self.database.read_only:
            raise StoreReadOnly(f"{self.directory} was opened for reading: open it with read_only=False to write")
        if not os.access(self.directory, os.W_OK):
            raise StoreReadOnly(f"{self.directory} can't be written to: check its permissions, or where it is mounted")

    def frozen(self, purpose: str) -> AbstractContextManager[None]:
        """Keep all writers out for a block, also in a store that was opened for reading."""
        return self._lock.held(purpose, read_only=self.database.read_only)

    def configure(self, config: StoreConfig) -> StoreConfig:
        """Save the store's settings anew; processes that have it open keep the old ones."""
        with self.locked("changing the settings"), self.database.write() as connection:
            catalog.write_setting(connection, "config", config.to_json())
        self.config = config
        return config

    def add_space(self, *, name: str, encoder: str, fingerprint: str, dimension: int, metric: Metric) -> None:
        """Record a space; the first one becomes the default.

        Raises:
            EncoderMismatch: the name is taken by a space of another encoder, dimension or metric.
        """
        with self.locked("adding a space"), self.database.write() as connection:
            known, default = catalog.read_spaces(connection)
            for space in known:
                if space.name == name:
                    if (space.fingerprint, space.dimension, space.metric) == (fingerprint, dimension, metric):
                        return
                    raise EncoderMismatch(
                        f"space {name!r} belongs to encoder {space.fingerprint or 'none'} "
                        f"({space.dimension} dimensions, {space.metric}), not to {fingerprint or 'none'} "
                        f"({dimension} dimensions, {metric})"
                    )
            catalog.advance(connection)
            catalog.add_space(
                connection,
                name=name,
                encoder=encoder,
                fingerprint=fingerprint,
                dimension=dimension,
                metric=metric,
                dtype=Dtype.parse(self.config.dtype),
                default=default is None,
            )

    def append(self, space: Space, new: NewItems) -> tuple[int, int]:
        """Add items, replacing those whose ids are known: durable when this returns.

        Returns:
            (added, replaced).
        """
        check_dimension(new.vectors, space.dimension)
        count = len(new.ids)
        if not count:
            return 0, 0
        with self.locked("adding items"), self.database.write() as connection:
            known = items.find(connection, new.ids)
            before = catalog.advance(connection, rows=count)
            self._append_vectors(connection, space, new.vectors, before)
            places = self._append_thumbs(connection, new, before)
            rows = {name: before.next_row + i for i, name in enumerate(new.ids)}
            renewed = {entry.row: rows[name] for name, entry in known.items()} if new.same_latents else {}
            carried = self._placing.before(connection, list(renewed)) if renewed else []
            if known:
                old = np.sort(np.fromiter((entry.row for entry in known.values()), dtype=np.int64))
                items.remove(connection, old, before.seq + 1)
            origin = None if new.origin is None else catalog.origin_id(connection, new.origin)
            nothing = [None] * count
            items.add(
                connection,
                list(
                    zip(
                        range(before.next_row, before.next_row + count),
                        new.ids,
                        new.metadata,
                        new.sources or nothing,
                        [origin] * count,
                        new.hashes or nothing,
                        [size and size[0] for size in new.sizes] if new.sizes else nothing,
                        [size and size[1] for size in new.sizes] if new.sizes else nothing,
                        *places,
                        strict=True,
                    )
                ),
            )
            numbers = np.arange(before.next_row, before.next_row + count)
            self._placing.place(connection, space, numbers, new.vectors, carried, renewed)
        self.appended += count
        return count - len(known), len(known)

    def place(self, space: Space, rows: npt.NDArray[np.int64], vectors: Vectors, run: tuple[runs.Kind, int]) -> None:
        """Place items that a run doesn't know yet, ``run`` being its kind and id."""
        with self.locked("placing items"), self.database.write() as connection:
            there = np.isin(rows, items.rows_where(connection, None), assume_unique=True)
            catalog.advance(connection)
            self._placing.place(connection, space, rows[there], vectors[there], only=run)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete items by id; unknown ids don't count. Returns how many were deleted."""
        with self.locked("deleting items"), self.database.write() as connection:
            known = items.find(connection, ids)
            return self._delete_rows(connection, [entry.row for entry in known.values()])

    def delete_where(self, condition: Callable[[], items.Condition]) -> int:
        """Delete the items that match, as they are at the moment of the deletion: the filter is compiled then, too."""
        with self.locked("deleting items"):
            compiled = condition()
            with self.database.write() as connection:
                return self._delete_rows(connection, items.rows_where(connection, compiled).tolist())

    def delete_rows(self, rows: Sequence[int]) -> int:
        """Delete items by row."""
        with self.locked("deleting items"), self.database.write() as connection:
            return self._delete_rows(connection, rows)

    def delete_repeated(self, groups: Sequence[Sequence[int]]) -> int:
        """Of each group whose first row is live, delete the others."""
        with self.locked("deleting items"), self.database.write() as connection:
            live = set(items.rows_where(connection, None).tolist())
            chosen = {row for first, *others in groups if first in live for row in others if row in live}
            return self._delete_rows(connection, sorted(chosen))

    @staticmethod
    def _delete_rows(connection: Connection, rows: Sequence[int]) -> int:
        if not rows:
            return 0
        before = catalog.advance(connection)
        return items.remove(connection, np.sort(np.asarray(rows, dtype=np.int64)), before.seq + 1)

    def _append_vectors(self, connection: Connection, space: Space, vectors: Vectors, before: State) -> None:
        row_bytes = space.row_bytes
        rows = coding.encode(vectors, space.dtype)
        if space.dtype is not Dtype.FLOAT32:
            self.loss.add(vectors, rows, space.dtype)
        segment, length = self._segment(connection, "vec", space, row_bytes)
        part = rows.data.cast("B")
        files.append(self.directory / SEGMENTS / segment.name, length * row_bytes, [part])
        catalog.grow_segment(connection, segment.id, length + len(rows))
        catalog.add_batch(
            connection,
            segment=segment.id,
            start=length,
            count=len(rows),
            first_row=before.next_row,
            checksum=files.checksum([part]),
            seq=before.seq + 1,
        )

    def _append_thumbs(self, connection: Connection, new: NewItems, before: State) -> list[Sequence[Any]]:
        """Append thumbnails; returns the four columns that say where they lie."""
        count = len(new.ids)
        kept = new.kept_thumbs or [None] * count
        columns: list[list[Any]] = [
            [thumb and thumb.segment for thumb in kept],
            [thumb and thumb.start for thumb in kept],
            [thumb and thumb.length for thumb in kept],
            [thumb and thumb.format for thumb in kept],
        ]
        if new.thumbs is None or not new.thumbs.lengths.any():
            return list(columns)
        thumbs = new.thumbs
        segment, length = self._segment(connection, "thumb", None, 1)
        end = files.append(self.directory / SEGMENTS / segment.name, length, thumbs.parts)
        catalog.grow_segment(connection, segment.id, end)
        catalog.add_batch(
            connection,
            segment=segment.id,
            start=length,
            count=end - length,
            first_row=before.next_row,
            checksum=files.checksum(thumbs.parts),
            seq=before.seq + 1,
        )
        starts = (length + np.concatenate([[0], np.cumsum(thumbs.lengths)[:-1]])).tolist()
        formats = [thumbs.formats] * count if isinstance(thumbs.formats, str) else thumbs.formats
        for i, (start, size, form) in enumerate(zip(starts, thumbs.lengths.tolist(), formats, strict=True)):
            if size:
                columns[0][i], columns[1][i], columns[2][i], columns[3][i] = segment.id, start, size, form
        return list(columns)

    def _segment(self, connection: Connection, kind: str, space: Space | None, unit: int) -> tuple[Segment, int]:
        """The segment to append to and its committed length in units; a new one where the last is full."""
        owner = None if space is None else space.id
        found = [s for s in catalog.read_segments(connection) if s.kind == kind and s.space == owner]
        if found and found[-1].length * unit < self.config.segment_bytes:
            return found[-1], found[-1].length
        name = segment_name(catalog.take_file_number(connection), kind)
        files.create(self.directory / SEGMENTS / name, *((0,) if space is None else (space.dimension, space.dtype)))
        number = catalog.add_segment(connection, kind=kind, space=owner, name=name, length=0)
        return Segment(number, kind, owner, name, 0), 0
