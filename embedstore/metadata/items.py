"""Rows of items: inserting, finding, deleting, reading. Bulk rows travel as tuples and arrays, never as objects."""

from __future__ import annotations

import difflib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, func, insert, select
from sqlalchemy.dialects import sqlite

from embedstore.metadata.schema import batches, items, origins, segments, tombstones

_COLUMNS = [column.name for column in items.columns]
# Compiled once: executemany with tuples skips SQLAlchemy's per-row dictionaries, which cost more than SQLite's insert.
_INSERT = str(insert(items).compile(dialect=sqlite.dialect(paramstyle="qmark"), column_keys=_COLUMNS))

_LISTED = func.json_each(bindparam("listed")).table_valued("value")
_FIND = select(*(items.c[name] for name in ("id", "row", "hash", "metadata", "origin", "source"))).where(
    items.c.id.in_(select(_LISTED.c.value))
)


@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows of an id."""

    row: int
    hash: bytes | None
    metadata: str
    origin: int | None
    source: str | None


@dataclass(frozen=True, slots=True)
class Thumb:
    """Where an item's thumbnail lies."""

    segment: int
    start: int
    length: int
    format: str


@dataclass(frozen=True, slots=True)
class Pictured:
    """What a row says of its item's picture: thumbnail, (width, height) of the original, source."""

    thumb: Thumb | None
    size: tuple[int, int] | None
    source: str | None


def _listed(values: Iterable[Any]) -> Select[Any]:
    """``SELECT value FROM json_each(?)``: one bound parameter for any number of values."""
    listed = func.json_each(bindparam(None, json.dumps(list(values)))).table_valued("value")
    return select(listed.c.value)


def add(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert items: tuples in the order of the table's columns."""
    if rows:
        connection.exec_driver_sql(_INSERT, list(rows))


def find(connection: Connection, ids: Sequence[str]) -> dict[str, Known]:
    """What is known of these ids; unknown ones are absent."""
    found = connection.execute(_FIND, {"listed": json.dumps(list(ids))})
    return {row[0]: Known(*row[1:]) for row in found}


def remove(connection: Connection, rows: npt.NDArray[np.int64], seq: int) -> int:
    """Delete these rows and leave their tombstones; returns how many were there."""
    if not len(rows):
        return 0
    listed = rows.tolist()
    stones = [(row, seq) for row in listed]
    gone = connection.execute(delete(items).where(items.c.row.in_(_listed(listed)))).rowcount
    connection.exec_driver_sql(
        str(insert(tombstones).compile(dialect=sqlite.dialect(paramstyle="qmark"), column_keys=["row", "seq"])), stones
    )
    return int(gone)


def count(connection: Connection, where: ColumnElement[bool] | None = None) -> int:
    """Number of live items (that match)."""
    query = select(func.count()).select_from(items)
    return int(connection.execute(query if where is None else query.where(where)).scalar_one())


def rows_where(connection: Connection, where: ColumnElement[bool] | None) -> npt.NDArray[np.int64]:
    """Rows of live items that match, ascending."""
    query = select(items.c.row).order_by(items.c.row)
    if where is not None:
        query = query.where(where)
    return np.fromiter((row for (row,) in connection.execute(query)), dtype=np.int64)


def rows_of_origin(connection: Connection, origin: int) -> dict[str, int]:
    """Id -> row of the live items that came from one source."""
    return dict(connection.execute(select(items.c.id, items.c.row).where(items.c.origin == origin)).all())


def ids_of(connection: Connection, where: ColumnElement[bool] | None = None) -> list[str]:
    """Ids of live items (that match), in the order of their rows."""
    query = select(items.c.id).order_by(items.c.row)
    return list(connection.execute(query if where is None else query.where(where)).scalars())


def row_ids(connection: Connection, after: int = 0) -> Iterator[tuple[int, str]]:
    """(row, id) of live items with a row above ``after``, by row; read as they are asked for."""
    query = select(items.c.row, items.c.id).where(items.c.row > after).order_by(items.c.row)
    yield from connection.execute(query.execution_options(yield_per=4096))


def row_metadata(connection: Connection, after: int = 0, *, limit: int) -> list[tuple[int, str]] | None:
    """(row, metadata text) of live items above row ``after``, by row; None where that is over ``limit`` bytes."""
    query = select(items.c.row, items.c.metadata).where(items.c.row > after).order_by(items.c.row)
    found, size = [], 0
    for row, text in connection.execute(query):
        size += len(text)
        if size > limit:
            return None
        found.append((row, text))
    return found


def similar_ids(connection: Connection, name: str, limit: int = 3) -> list[str]:
    """Ids that a mistyped one may have meant: those that contain it, or that begin as it does."""
    near = list(
        connection.execute(
            select(items.c.id).where(items.c.id.contains(name, autoescape=True)).order_by(items.c.row).limit(limit)
        ).scalars()
    )
    if near or len(name) < 3:
        return near
    pool = connection.execute(
        select(items.c.id).where(items.c.id.startswith(name[: len(name) // 2], autoescape=True)).limit(2000)
    ).scalars()
    return difflib.get_close_matches(name, list(pool), n=limit, cutoff=0.6)


def describe(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Everything but the vector, by id."""
    scoped = select(items, origins.c.scope).select_from(items.outerjoin(origins, origins.c.id == items.c.origin))
    result = connection.execute(scoped.where(items.c.id.in_(_listed(ids))))
    return {row["id"]: {**row, "metadata": json.loads(row["metadata"])} for row in map(dict, result.mappings())}


def records(connection: Connection, rows: npt.NDArray[np.int64]) -> list[tuple[int, str, str, str | None]]:
    """(row, id, metadata text, source) of these rows, by row; rows deleted since are absent."""
    c = items.c
    query = select(c.row, c.id, c.metadata, c.source).where(c.row.in_(_listed(rows.tolist()))).order_by(c.row)
    return list(connection.execute(query))


def pictured(connection: Connection, rows: Iterable[int]) -> dict[int, Pictured]:
    """What these rows say of their pictures, by row."""
    c = items.c
    query = select(c.row, c.thumb_segment, c.thumb_start, c.thumb_length, c.thumb_format, c.width, c.height, c.source)
    return {
        row: Pictured(
            None if segment is None else Thumb(segment, start, length, form),
            None if width is None else (width, height),
            source,
        )
        for row, segment, start, length, form, width, height, source in connection.execute(
            query.where(c.row.in_(_listed(rows)))
        )
    }


def metadata_keys(connection: Connection, first: int | None = None) -> set[str]:
    """Every top-level key that some live item has; with ``first``, some of the first so many items."""
    some = select(items.c.metadata).order_by(items.c.row).limit(first).subquery()
    pairs = func.json_each(some.c.metadata).table_valued("key", joins_implicitly=True)
    return set(connection.execute(select(pairs.c.key).select_from(some, pairs).distinct()).scalars())


def summary(connection: Connection, key: str, limit: int) -> list[tuple[Any, int]]:
    """The commonest values of one top-level key, with counts."""
    pairs = func.json_each(items.c.metadata).table_valued("key", "value", joins_implicitly=True)
    counted = func.count()
    query = select(pairs.c.value, counted).select_from(items, pairs).where(pairs.c.key == key)
    query = query.group_by(pairs.c.value).order_by(counted.desc(), pairs.c.value).limit(limit)
    return list(connection.execute(query))


def origins_with_counts(connection: Connection) -> list[tuple[str, int]]:
    """Every source's scope, with the number of live items that came from it."""
    counted = func.count(items.c.row)
    query = select(origins.c.scope, counted).join(items, items.c.origin == origins.c.id).group_by(origins.c.id)
    return list(connection.execute(query.order_by(origins.c.id)))


def move_thumbs(connection: Connection, moved: Sequence[tuple[int, int, int]]) -> None:
    """Point items at new thumbnail places: (segment, start, row) each."""
    statement = (
        items.update()
        .where(items.c.row == bindparam("at"))
        .values(thumb_segment=bindparam("segment"), thumb_start=bindparam("start"))
    )
    connection.execute(statement, [{"segment": s, "start": b, "at": r} for s, b, r in moved])


def thumb_places(connection: Connection) -> list[tuple[int, int, int, int]]:
    """(row, segment, start, length) of every thumbnail of a live item, in the order of their places."""
    c = items.c
    query = select(c.row, c.thumb_segment, c.thumb_start, c.thumb_length).where(c.thumb_segment.is_not(None))
    return list(connection.execute(query.order_by(c.thumb_segment, c.thumb_start)))


def unreadable(connection: Connection) -> int:
    """Number of live items whose metadata is no JSON: must be 0."""
    query = select(func.count()).select_from(items).where(func.json_valid(items.c.metadata) == 0)
    return int(connection.execute(query).scalar_one())


def orphans(connection: Connection) -> tuple[int, int]:
    """(live items that also have a tombstone, batches that overrun their segment): both must be 0."""
    both = select(func.count()).select_from(items.join(tombstones, items.c.row == tombstones.c.row))
    over = (
        select(func.count())
        .select_from(batches.join(segments, segments.c.id == batches.c.segment))
        .where(batches.c.start + batches.c.count > segments.c.length)
    )
    return int(connection.execute(both).scalar_one()), int(connection.execute(over).scalar_one())


class HotReader:
    """The one read that queries do for each hit, on a connection of its own: ten rows in tens of microseconds.

    SQLAlchemy's pool and result objects would cost several times the search itself. Rows are immutable, so no
    transaction is needed to pair them with a snapshot: a row is there as it was, or it is gone.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._texts: dict[int, str] = {}

    def _text(self, length: int) -> str:
        text = self._texts.get(length)
        if text is None:
            marks = [bindparam(f"r{i}", type_=items.c.row.type) for i in range(length)]
            query = select(items.c.row, items.c.id, items.c.metadata).where(items.c.row.in_(marks))
            text = self._texts[length] = str(query.compile(dialect=sqlite.dialect(paramstyle="qmark")))
        return text

    def rows(self, rows: Sequence[int]) -> Iterator[tuple[int, str, str]]:
        """(row, id, metadata text) of the rows that are there, in any order."""
        for start in range(0, len(rows), 500):
            part = rows[start : start + 500]
            yield from self._connection.execute(self._text(len(part)), part)

    def seq(self) -> int:
        """The number of the last commit."""
        return int(self._connection.execute("SELECT seq FROM state").fetchone()[0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
