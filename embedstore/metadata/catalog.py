"""What the store is made of: its state, settings, spaces, segments, batches and tiers, as rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import StoreDamaged
from embedstore.types import Dtype, Metric

_FILE_NAME = re.compile(r"[0-9]{1,18}\.(vec|thumb|faiss)")


@dataclass(frozen=True, slots=True)
class State:
    """Where the store stands: commits so far, and the layout that positions refer to."""

    seq: int
    layout: int
    next_row: int


@dataclass(frozen=True, slots=True)
class Space:
    """One named vector space."""

    id: int
    name: str
    encoder: str
    fingerprint: str
    dimension: int
    metric: Metric
    dtype: Dtype = Dtype.FLOAT32

    @property
    def row_bytes(self) -> int:
        """Bytes of one of its vectors in a segment."""
        return self.dtype.row_bytes(self.dimension)


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of vectors (length in rows) or thumbnails (length in bytes)."""

    id: int
    kind: str
    space: int | None
    name: str
    length: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One append to a segment."""

    id: int
    segment: int
    start: int
    count: int
    first_row: int
    rows: bytes | None
    checksum: bytes

    def row_numbers(self) -> npt.NDArray[np.int64]:
        """The item rows of its vectors, in order."""
        if self.rows is None:
            return np.arange(self.first_row, self.first_row + self.count, dtype=np.int64)
        if len(self.rows) != 8 * self.count:
            raise StoreDamaged(f"store.db: batch {self.id} has not the row numbers of its {self.count} vectors")
        return np.frombuffer(self.rows, dtype="<i8").astype(np.int64)


@dataclass(frozen=True, slots=True)
class TierRecord:
    """An index tier as the database names it."""

    id: int
    space: int
    name: str
    first: int
    count: int
    factory: str
    sha256: str
    signature: str
    tuned: dict[str, Any]


def _check_name(name: str) -> None:
    # A store that someone else made is data: its rows can't point at files outside of it, to be read or written.
    if not _FILE_NAME.fullmatch(name):
        raise StoreDamaged(f"store.db names {name[:80]!r}, which is no file of a store: don't trust this store")


def create_state(connection: Connection) -> None:
    """The first state of a new store."""
    connection.execute("INSERT INTO state (one, seq, layout, next_row, next_file) VALUES (1, 0, 0, 1, 1)")


def read_state(connection: Connection) -> State:
    """Where the store stands in this transaction."""
    return State(*connection.execute("SELECT seq, layout, next_row FROM state").fetchone())


def advance(connection: Connection, *, rows: int = 0, relayout: bool = False) -> State:
    """Count one commit, take ``rows`` row numbers, and return the state before it."""
    before = read_state(connection)
    after = (before.seq + 1, before.layout + int(relayout), before.next_row + rows)
    connection.execute("UPDATE state SET seq = ?, layout = ?, next_row = ?", after)
    return before


def read_settings(connection: Connection) -> dict[str, Any]:
    """All settings."""
    return {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM settings")}


def write_setting(connection: Connection, key: str, value: Any) -> None:
    """Set one setting."""
    connection.execute("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", (key, json.dumps(value)))


def read_spaces(connection: Connection) -> tuple[list[Space], str | None]:
    """All spaces, and the default one's name (None in a store without spaces)."""
    found, default = [], None
    query = "SELECT id, name, encoder, fingerprint, dimension, metric, dtype, is_default FROM spaces ORDER BY id"
    for number, name, encoder, fingerprint, dimension, metric, dtype, is_default in connection.execute(query):
        kinds = Metric.parse(metric), Dtype.parse(dtype)
        found.append(Space(number, name, encoder, fingerprint, dimension, *kinds))
        if is_default:
            default = name
    return found, default


def add_space(
    connection: Connection,
    *,
    name: str,
    encoder: str,
    fingerprint: str,
    dimension: int,
    metric: Metric,
    dtype: Dtype,
    default: bool,
) -> int:
    """Insert a space and return its id."""
    if default:
        connection.execute("UPDATE spaces SET is_default = 0")
    return _inserted(
        connection,
        "INSERT INTO spaces (name, encoder, fingerprint, dimension, metric, dtype, is_default) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (name, encoder, fingerprint, dimension, metric.value, dtype.value, int(default)),
    )


def read_segments(connection: Connection) -> list[Segment]:
    """All segments, oldest first."""
    query = "SELECT id, kind, space, name, length FROM segments ORDER BY id"
    found = [Segment(*row) for row in connection.execute(query)]
    for segment in found:
        _check_name(segment.name)
    return found


def take_file_number(connection: Connection) -> int:
    """A number for a new file. None is given twice, so that a name never means other bytes to a reader behind."""
    (number,) = connection.execute("SELECT next_file FROM state").fetchone()
    connection.execute("UPDATE state SET next_file = ?", (number + 1,))
    return int(number)


def add_segment(connection: Connection, *, kind: str, space: int | None, name: str, length: int) -> int:
    """Insert a segment and return its id."""
    query = "INSERT INTO segments (kind, space, name, length) VALUES (?, ?, ?, ?)"
    return _inserted(connection, query, (kind, space, name, length))


def grow_segment(connection: Connection, segment: int, length: int) -> None:
    """Record a segment's new committed length."""
    connection.execute("UPDATE segments SET length = ? WHERE id = ?", (length, segment))


def add_batch(
    connection: Connection,
    *,
    segment: int,
    start: int,
    count: int,
    first_row: int,
    checksum: bytes,
    seq: int,
    rows: npt.NDArray[np.int64] | None = None,
) -> None:
    """Record one append; ``rows`` only where row numbers have holes."""
    listed = None if rows is None else rows.astype("<i8").tobytes()
    connection.execute(
        "INSERT INTO batches (segment, start, count, first_row, rows, checksum, seq) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (segment, start, count, first_row, listed, checksum, seq),
    )


def read_batches(connection: Connection, after: int = 0) -> list[Batch]:
    """Batches with an id above ``after``, in the order of their positions."""
    query = "SELECT id, segment, start, count, first_row, rows, checksum FROM batches WHERE id > ? ORDER BY id"
    return [Batch(*row) for row in connection.execute(query, (after,))]


def read_tombstones(connection: Connection, after_seq: int = -1) -> npt.NDArray[np.int64]:
    """Rows deleted by commits after ``after_seq``, ascending."""
    query = "SELECT row FROM tombstones WHERE seq > ? ORDER BY row"
    return np.fromiter((row for (row,) in connection.execute(query, (after_seq,))), dtype=np.int64)


def count_tombstones(connection: Connection) -> int:
    """Number of deleted rows whose vectors still lie in segments."""
    return int(connection.execute("SELECT count(*) FROM tombstones").fetchone()[0])


def read_tiers(connection: Connection) -> list[TierRecord]:
    """All tiers, by position."""
    query = "SELECT id, space, name, first, count, factory, sha256, signature, tuned FROM tiers ORDER BY space, first"
    found = [TierRecord(*(*row[:-1], json.loads(row[-1]))) for row in connection.execute(query)]
    for tier in found:
        _check_name(tier.name)
    return found


def add_tier(
    connection: Connection,
    *,
    space: int,
    name: str,
    first: int,
    count: int,
    factory: str,
    sha256: str,
    signature: str,
    tuned: dict[str, Any],
) -> None:
    """Name a finished tier file; tiers that it covers go."""
    overlapped = "DELETE FROM tiers WHERE space = ? AND first < ? AND first + count > ?"
    connection.execute(overlapped, (space, first + count, first))
    connection.execute(
        "INSERT INTO tiers (space, name, first, count, factory, sha256, signature, tuned) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (space, name, first, count, factory, sha256, signature, json.dumps(tuned)),
    )


def drop_tiers(connection: Connection, ids: Sequence[int] | None = None) -> None:
    """Forget tiers: those named, or all."""
    if ids is None:
        connection.execute("DELETE FROM tiers")
    else:
        connection.executemany("DELETE FROM tiers WHERE id = ?", [(number,) for number in ids])


def drop_batches(connection: Connection, last: int) -> None:
    """Forget batches up to this id."""
    connection.execute("DELETE FROM batches WHERE id <= ?", (last,))


def drop_segments(connection: Connection, ids: Sequence[int]) -> None:
    """Forget segments; no batch and no item may name them any more."""
    connection.executemany("DELETE FROM segments WHERE id = ?", [(number,) for number in ids])


def drop_tombstones(connection: Connection, last_seq: int) -> None:
    """Forget the deletions of commits up to this one: no segment holds their rows any more."""
    connection.execute("DELETE FROM tombstones WHERE seq <= ?", (last_seq,))


def find_origin(connection: Connection, scope: str) -> int | None:
    """The id of a source's scope, or None if nothing came from it yet."""
    found = connection.execute("SELECT id FROM origins WHERE scope = ?", (scope,)).fetchone()
    return None if found is None else int(found[0])


def origin_id(connection: Connection, scope: str) -> int:
    """The id of a source's scope, made if new."""
    found = find_origin(connection, scope)
    return _inserted(connection, "INSERT INTO origins (scope) VALUES (?)", (scope,)) if found is None else found


def _inserted(connection: Connection, query: str, values: tuple[Any, ...]) -> int:
    """Insert one row; returns its id."""
    number = connection.execute(query, values).lastrowid
    if number is None:
        raise AssertionError("SQLite names the row of every insert")
    return number
