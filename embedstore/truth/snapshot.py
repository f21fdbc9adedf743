"""What a reader sees: one whole commit, immutable, shared by all threads that search it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedstore.errors import StoreDamaged, UnknownSpace
from embedstore.metadata import catalog
from embedstore.metadata.catalog import Segment, Space, TierRecord
from embedstore.metadata.database import Database
from embedstore.metadata.items import HotReader
from embedstore.metadata.watch import Watch
from embedstore.truth.layout import SEGMENTS
from embedstore.vectors.segments import SegmentVectors

_SLACK = 8  # room for one in so many rows more is kept behind row numbers


@dataclass(frozen=True, slots=True)
class SpaceView:
    """One space at one commit. Positions count its vectors, deleted ones included, from 0.

    Attributes:
        space: its row.
        vectors: its segments, memory-mapped.
        rows: int64 (n,), ascending: the item row of each position.
        live: uint8 (n,), 1 where the position is not deleted; None where none is.
        alive: number of live positions.
        tiers: by first position; they don't overlap.
    """

    space: Space
    vectors: SegmentVectors
    rows: npt.NDArray[np.int64]
    live: npt.NDArray[np.uint8] | None
    alive: int
    tiers: tuple[TierRecord, ...]

    def positions(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions of these rows; rows without a vector in this space are left out."""
        return positions_of(self.rows, rows)

    def live_positions(self) -> npt.NDArray[np.int64]:
        """All live positions, ascending."""
        return np.arange(len(self.rows)) if self.live is None else np.flatnonzero(self.live)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All spaces at one commit."""

    seq: int
    layout: int
    last_batch: int
    default: str | None
    spaces: dict[str, SpaceView]
    segments: tuple[Segment, ...]

    def view(self, name: str | None = None) -> SpaceView | None:
        """The space of this name (default: the default one); None where the store has no space yet.

        Raises:
            UnknownSpace: a name was given, and no space has it.
        """
        if name is None:
            return None if self.default is None else self.spaces[self.default]
        if name not in self.spaces:
            known = ", ".join(sorted(self.spaces)) or "none yet"
            raise UnknownSpace(f"no space is named {name!r}: the store has {known}")
        return self.spaces[name]


class Snapshots:
    """The current snapshot of a store, renewed when another commit has been made, by whatever process."""

    def __init__(self, directory: Path, database: Database) -> None:
        self._directory = directory
        self._database = database
        self._watch = Watch(database.path)
        self._lock = threading.Lock()
        self._local = threading.local()
        self._current: Snapshot | None = None

    def current(self) -> Snapshot:
        """The newest commit."""
        # In this order: what another thread renews in between is set before the watch has settled on it.
        if not self._watch.changed() and (snapshot := self._current) is not None:
            return snapshot
        with self._lock:
            stamp = self._watch.stamp()
            snapshot = self._current
            if snapshot is None or self.hot().seq() != snapshot.seq:
                snapshot = self._current = self._read(snapshot)
            self._watch.settle(stamp)
            return snapshot

    def known(self) -> Snapshot:
        """The last snapshot taken, perhaps not of the newest commit; spaces in it never change."""
        return self._current or self.current()

    def hot(self) -> HotReader:
        """This thread's reader of single rows."""
        reader: HotReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = HotReader(self._database.raw())
        return reader

    def close(self) -> None:
        """Let go of connections and memory maps; each ends when no thread is about to use it any more."""
        self._local = threading.local()
        self._watch.close()
        self._current = None

    def _read(self, previous: Snapshot | None) -> Snapshot:
        # Between reading the rows and opening the files that they name, a compact may have replaced both.
        for attempt in range(5):
            try:
                return self._read_once(previous)
            except StoreDamaged:
                if attempt == 4:
                    raise
                previous = None
                time.sleep(0.01 * (attempt + 1))
        raise AssertionError("unreachable")

    def _read_once(self, previous: Snapshot | None) -> Snapshot:
        with self._database.read() as connection:
            state = catalog.read_state(connection)
            if previous is not None and previous.layout != state.layout:
                previous = None
            spaces, default = catalog.read_spaces(connection)
            segments = catalog.read_segments(connection)
            batches = catalog.read_batches(connection, after=previous.last_batch if previous else 0)
            stones = catalog.read_tombstones(connection, after_seq=previous.seq if previous else -1)
            tiers = catalog.read_tiers(connection)
        views = {}
        for space in spaces:
            own = {segment.id: segment for segment in segments if segment.space == space.id}
            fresh = [batch.row_numbers() for batch in batches if batch.segment in own]
            before = previous.spaces.get(space.name) if previous else None
            if before is None or fresh:
                files = [(segment.name, segment.length) for segment in own.values()]
                vectors = SegmentVectors(self._directory / SEGMENTS, space.dimension, files, space.dtype)
                rows = _extended(before.rows if before else np.empty(0, dtype=np.int64), fresh)
            else:
                vectors, rows = before.vectors, before.rows
            if len(vectors) != len(rows):
                raise StoreDamaged(
                    f"{self._directory}: space {space.name!r} has {len(vectors)} vectors, but its batches name "
                    f"{len(rows)}: restore a backup"
                )
            live = _renew(before.live if before else None, len(rows), positions_of(rows, stones))
            alive = len(rows) if live is None else int(np.count_nonzero(live))
            own_tiers = tuple(tier for tier in tiers if tier.space == space.id)
            views[space.name] = SpaceView(space, vectors, rows, live, alive, own_tiers)
        last = max((batch.id for batch in batches), default=previous.last_batch if previous else 0)
        return Snapshot(state.seq, state.layout, last, default, views, tuple(segments))


def _extended(rows: npt.NDArray[np.int64], fresh: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """``rows`` with fresh ones behind, in the room behind them where there is enough: a commit copies only its own."""
    total = len(rows) + sum(map(len, fresh))
    room = rows.base
    if not isinstance(room, np.ndarray) or len(room) < total:
        room = np.empty(total + total // _SLACK, dtype=np.int64)
        room[: len(rows)] = rows
    start = len(rows)
    for part in fresh:
        room[start : start + len(part)] = part  # which no snapshot has seen
        start += len(part)
    extended = room[:total]
    extended.flags.writeable = False
    return extended


def positions_of(rows: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where ``wanted`` rows are in the ascending ``rows``; those that aren't are left out."""
    found: npt.NDArray[np.int64] = np.searchsorted(rows, wanted)
    inside = found < len(rows)
    found, wanted = found[inside], wanted[inside]
    there: npt.NDArray[np.int64] = found[rows[found] == wanted]
    return there


def _renew(live: npt.NDArray[np.uint8] | None, count: int, dead: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8] | None:
    """The mask of live positions, grown to ``count`` and less ``dead``; an older snapshot's mask is never changed."""
    if not len(dead) and (live is None or len(live) == count):
        return live
    renewed = np.ones(count, dtype=np.uint8)
    if live is not None:
        renewed[: len(live)] = live
    renewed[dead] = 0
    return renewed
