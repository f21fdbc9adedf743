"""What the store is made of: its state, settings, spaces, segments, batches and tiers, as rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, CursorResult, bindparam, delete, func, insert, select, update

from embedstore.errors import StoreDamaged
from embedstore.metadata.schema import batches, origins, segments, settings, spaces, state, tiers, tombstones
from embedstore.types import Metric

_FILE_NAME = re.compile(r"[0-9]{1,18}\.(vec|thumb|faiss)")


# The statements of every commit and every snapshot, made once: to build one takes longer than to run it.
_STATE = select(state.c.seq, state.c.layout, state.c.next_row)
_ADVANCE = update(state).values(seq=bindparam("seq"), layout=bindparam("layout"), next_row=bindparam("next_row"))
_SPACES = select(spaces).order_by(spaces.c.id)
_SEGMENTS = select(segments.c.id, segments.c.kind, segments.c.space, segments.c.name, segments.c.length).order_by(
    segments.c.id
)
_GROW = update(segments).where(segments.c.id == bindparam("segment")).values(length=bindparam("grown"))
_ADD_BATCH = insert(batches)
_BATCHES = (
    select(*(batches.c[name] for name in ("id", "segment", "start", "count", "first_row", "rows", "checksum")))
    .where(batches.c.id > bindparam("after"))
    .order_by(batches.c.id)
)
_TOMBSTONES = select(tombstones.c.row).where(tombstones.c.seq > bindparam("after")).order_by(tombstones.c.row)
_TIERS = select(
    tiers.c.id,
    tiers.c.space,
    tiers.c.name,
    tiers.c.first,
    tiers.c.count,
    tiers.c.factory,
    tiers.c.sha256,
    tiers.c.signature,
    tiers.c.tuned,
).order_by(tiers.c.space, tiers.c.first)


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


def _key(result: CursorResult[Any]) -> int:
    return int(result.lastrowid)


def create_state(connection: Connection) -> None:
    """The first state of a new store."""
    connection.execute(insert(state).values(one=1, seq=0, layout=0, next_row=1, next_file=1))


def read_state(connection: Connection) -> State:
    """Where the store stands in this transaction."""
    return State(*connection.execute(_STATE).one())


def advance(connection: Connection, *, rows: int = 0, relayout: bool = False) -> State:
    """Count one commit, take ``rows`` row numbers, and return the state before it."""
    before = read_state(connection)
    after = {"seq": before.seq + 1, "layout": before.layout + int(relayout), "next_row": before.next_row + rows}
    connection.execute(_ADVANCE, after)
    return before


def read_settings(connection: Connection) -> dict[str, Any]:
    """All settings."""
    return {key: json.loads(value) for key, value in connection.execute(select(settings.c.key, settings.c.value))}


def write_setting(connection: Connection, key: str, value: Any) -> None:
    """Set one setting."""
    connection.execute(delete(settings).where(settings.c.key == key))
    connection.execute(insert(settings).values(key=key, value=json.dumps(value)))


def read_spaces(connection: Connection) -> tuple[list[Space], str | None]:
    """All spaces, and the default one's name (None in a store without spaces)."""
    found, default = [], None
    for row in connection.execute(_SPACES):
        found.append(Space(row.id, row.name, row.encoder, row.fingerprint, row.dimension, Metric.parse(row.metric)))
        if row.is_default:
            default = row.name
    return found, default


def add_space(
    connection: Connection, *, name: str, encoder: str, fingerprint: str, dimension: int, metric: Metric, default: bool
) -> int:
    """Insert a space and return its id."""
    if default:
        connection.execute(update(spaces).values(is_default=0))
    result = connection.execute(
        insert(spaces).values(
            name=name,
            encoder=encoder,
            fingerprint=fingerprint,
            dimension=dimension,
            metric=metric.value,
            is_default=int(default),
        )
    )
    return _key(result)


def read_segments(connection: Connection) -> list[Segment]:
    """All segments, oldest first."""
    found = [Segment(*row) for row in connection.execute(_SEGMENTS)]
    for segment in found:
        _check_name(segment.name)
    return found


def take_file_number(connection: Connection) -> int:
    """A number for a new file. None is given twice, so that a name never means other bytes to a reader behind."""
    number = int(connection.execute(select(state.c.next_file)).scalar_one())
    connection.execute(update(state).values(next_file=number + 1))
    return number


def add_segment(connection: Connection, *, kind: str, space: int | None, name: str, length: int) -> int:
    """Insert a segment and return its id."""
    result = connection.execute(insert(segments).values(kind=kind, space=space, name=name, length=length))
    return _key(result)


def grow_segment(connection: Connection, segment: int, length: int) -> None:
    """Record a segment's new committed length."""
    connection.execute(_GROW, {"segment": segment, "grown": length})


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
    connection.execute(
        _ADD_BATCH,
        {
            "segment": segment,
            "start": start,
            "count": count,
            "first_row": first_row,
            "rows": None if rows is None else rows.astype("<i8").tobytes(),
            "checksum": checksum,
            "seq": seq,
        },
    )


def read_batches(connection: Connection, after: int = 0) -> list[Batch]:
    """Batches with an id above ``after``, in the order of their positions."""
    return [Batch(*row) for row in connection.execute(_BATCHES, {"after": after})]


def read_tombstones(connection: Connection, after_seq: int = -1) -> npt.NDArray[np.int64]:
    """Rows deleted by commits after ``after_seq``, ascending."""
    return np.fromiter((row for (row,) in connection.execute(_TOMBSTONES, {"after": after_seq})), dtype=np.int64)


def count_tombstones(connection: Connection) -> int:
    """Number of deleted rows whose vectors still lie in segments."""
    return int(connection.execute(select(func.count()).select_from(tombstones)).scalar_one())


def read_tiers(connection: Connection) -> list[TierRecord]:
    """All tiers, by position."""
    rows = connection.execute(_TIERS).all()
    for row in rows:
        _check_name(row.name)
    return [TierRecord(*row[:-1], tuned=json.loads(row[-1])) for row in rows]


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
    overlapped = (tiers.c.space == space) & (tiers.c.first < first + count) & (tiers.c.first + tiers.c.count > first)
    connection.execute(delete(tiers).where(overlapped))
    connection.execute(
        insert(tiers).values(
            space=space,
            name=name,
            first=first,
            count=count,
            factory=factory,
            sha256=sha256,
            signature=signature,
            tuned=json.dumps(tuned),
        )
    )


def drop_tiers(connection: Connection, ids: Sequence[int] | None = None) -> None:
    """Forget tiers: those named, or all."""
    connection.execute(delete(tiers) if ids is None else delete(tiers).where(tiers.c.id.in_(ids)))


def drop_batches(connection: Connection, last: int) -> None:
    """Forget batches up to this id."""
    connection.execute(delete(batches).where(batches.c.id <= last))


def drop_segments(connection: Connection, ids: Sequence[int]) -> None:
    """Forget segments; no batch and no item may name them any more."""
    connection.execute(delete(segments).where(segments.c.id.in_(ids)))


def drop_tombstones(connection: Connection) -> None:
    """Forget all deletions: no segment holds a deleted row any more."""
    connection.execute(delete(tombstones))


def find_origin(connection: Connection, scope: str) -> int | None:
    """The id of a source's scope, or None if nothing came from it yet."""
    found = connection.execute(select(origins.c.id).where(origins.c.scope == scope)).scalar_one_or_none()
    return None if found is None else int(found)


def origin_id(connection: Connection, scope: str) -> int:
    """The id of a source's scope, made if new."""
    found = find_origin(connection, scope)
    if found is not None:
        return found
    return _key(connection.execute(insert(origins).values(scope=scope)))
