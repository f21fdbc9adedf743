"""Rows of items: inserting, finding, deleting, reading. Bulk rows travel as tuples and arrays, never as objects."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

#: In the order of the tuples that `add` takes.
COLUMNS = (
    "row",
    "id",
    "metadata",
    "source",
    "origin",
    "hash",
    "width",
    "height",
    "thumb_segment",
    "thumb_start",
    "thumb_length",
    "thumb_format",
)
_INSERT = f"INSERT INTO items ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
#: One bound parameter for any number of values, given as a JSON array (see `_listed`).
_TOGETHER, _SOME = 25_000, 10_000  # rows whose texts are read as one; whose sizes are added up
_AMONG = "IN (SELECT value FROM json_each(?))"


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter in SQL (`where.to_condition` makes it).

    Attributes:
        rows: a query for the rows of the items that match.
        parameters: its bound values, by name.
    """

    rows: str
    parameters: Mapping[str, Any]


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


def _listed(values: Iterable[Any]) -> tuple[str]:
    return (json.dumps(list(values)),)


def add(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert items: tuples in the order of ``COLUMNS``."""
    connection.executemany(_INSERT, rows)


def find(connection: Connection, ids: Sequence[str]) -> dict[str, Known]:
    """What is known of these ids; unknown ones are absent."""
    query = f"SELECT id, row, hash, metadata, origin, source FROM items WHERE id {_AMONG}"
    return {row[0]: Known(*row[1:]) for row in connection.execute(query, _listed(ids))}


def remove(connection: Connection, rows: npt.NDArray[np.int64], seq: int) -> int:
    """Delete these rows and leave their tombstones; returns how many were there."""
    listed = rows.tolist()
    gone = connection.execute(f"DELETE FROM items WHERE row {_AMONG}", _listed(listed)).rowcount
    connection.executemany("INSERT INTO tombstones (row, seq) VALUES (?, ?)", [(row, seq) for row in listed])
    return int(gone)


def count(connection: Connection, where: Condition | None = None) -> int:
    """Number of live items (that match)."""
    if where is None:
        return int(connection.execute("SELECT count(*) FROM items").fetchone()[0])
    return int(connection.execute(f"SELECT count(*) FROM ({where.rows})", where.parameters).fetchone()[0])


def last_row(connection: Connection) -> int:
    """The highest row of a live item; 0 where there is none."""
    return int(connection.execute("SELECT coalesce(max(row), 0) FROM items").fetchone()[0])


def rows_where(connection: Connection, where: Condition | None) -> npt.NDArray[np.int64]:
    """Rows of live items that match, ascending."""
    query, parameters = ("SELECT row FROM items", {}) if where is None else (where.rows, where.parameters)
    found = connection.execute(f"{query} ORDER BY row", parameters)
    return np.fromiter((row for (row,) in found), dtype=np.int64)


def rows_of_origin(connection: Connection, origin: int) -> dict[str, int]:
    """Id -> row of the live items that came from one source."""
    return dict(connection.execute("SELECT id, row FROM items WHERE origin = ?", (origin,)))


def ids_of(connection: Connection, where: Condition | None = None) -> list[str]:
    """Ids of live items (that match), in the order of their rows."""
    if where is None:
        found = connection.execute("SELECT id FROM items ORDER BY row")
    else:
        query = f"SELECT id FROM items WHERE row IN ({where.rows}) ORDER BY row"
        found = connection.execute(query, where.parameters)
    return [name for (name,) in found]


def more_metadata_than(connection: Connection, limit: int, after: int = 0) -> bool:
    """Whether the metadata of live items with a row above ``after`` take more than so many bytes."""
    query = (
        "SELECT count(*), max(row), sum(size) FROM "
        "(SELECT row, length(CAST(metadata AS BLOB)) AS size FROM items WHERE row > ? ORDER BY row LIMIT ?)"
    )
    total, count = 0, _SOME
    while count == _SOME:
        count, last, size = connection.execute(query, (after, _SOME)).fetchone()
        total, after = total + (size or 0), last
        if total > limit:
            return True
    return False


def texts(
    transaction: Callable[[], AbstractContextManager[Connection]], column: Literal["id", "metadata"], after: int = 0
) -> Iterator[tuple[npt.NDArray[np.int64], bytes]]:
    """A text of each live item with a row above ``after``, by row, many at a time: rows (n,), and the texts in UTF-8.

    Between each two of them is a NUL, which neither has. One value for many rows: a row for each takes five times as
    long. Each part is read in a transaction of its own, so that no commit waits for all of them: rows never change, and
    what is added meanwhile comes at the end. What is deleted meanwhile may be there or not.
    """
    numbers = "SELECT row FROM items WHERE row > ? ORDER BY row LIMIT ?"
    together = (
        "SELECT count(*), min(row), max(row), CAST(group_concat(text, char(0)) AS BLOB) FROM "
        f"(SELECT row, {column} AS text FROM items WHERE row > ? ORDER BY row LIMIT ?)"
    )
    count, many = _TOGETHER, False
    while count == _TOGETHER:
        with transaction() as connection:
            count, first, last, joined = connection.execute(together, (after, _TOGETHER)).fetchone()
            if not count:
                rows = np.empty(0, dtype=np.int64)
            elif last - first + 1 == count:
                rows = np.arange(first, last + 1, dtype=np.int64)
            else:
                found = connection.execute(numbers, (after, _TOGETHER))
                rows = np.fromiter((row for (row,) in found), dtype=np.int64, count=count)
            if many and count < _TOGETHER:  # SQLite's pages of a long read are of no use to the next one
                connection.execute("PRAGMA shrink_memory").close()
        if count:
            yield rows, joined
            after, many = last, True


def row_metadata(connection: Connection, after: int = 0) -> Iterator[tuple[int, str]]:
    """(row, metadata text) of live items above row ``after``, by row; read as they are asked for."""
    return connection.execute("SELECT row, metadata FROM items WHERE row > ? ORDER BY row", (after,))


def similar_ids(connection: Connection, name: str, limit: int = 3) -> list[str]:
    """Ids that a mistyped one may have meant: those that contain it, or that begin as it does."""
    query = "SELECT id FROM items WHERE instr(id, ?) ORDER BY row LIMIT ?"
    near = [found for (found,) in connection.execute(query, (name, limit))]
    if near or len(name) < 3:
        return near
    start = name[: len(name) // 2]
    query = "SELECT id FROM items WHERE substr(id, 1, ?) = ? LIMIT 2000"
    pool = [found for (found,) in connection.execute(query, (len(start), start))]
    return difflib.get_close_matches(name, pool, n=limit, cutoff=0.6)


def describe(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Everything but the vector, by id."""
    query = (
        f"SELECT {', '.join('items.' + name for name in COLUMNS)}, origins.scope FROM items "
        f"LEFT JOIN origins ON origins.id = items.origin WHERE items.id {_AMONG}"
    )
    found = [dict(zip((*COLUMNS, "scope"), row, strict=True)) for row in connection.execute(query, _listed(ids))]
    return {row["id"]: {**row, "metadata": json.loads(row["metadata"])} for row in found}


def records(connection: Connection, rows: npt.NDArray[np.int64]) -> list[tuple[int, str, str, str | None]]:
    """(row, id, metadata text, source) of these rows, by row; rows deleted since are absent."""
    query = f"SELECT row, id, metadata, source FROM items WHERE row {_AMONG} ORDER BY row"
    return connection.execute(query, _listed(rows.tolist())).fetchall()


def pictured(connection: Connection, rows: Iterable[int]) -> dict[int, Pictured]:
    """What these rows say of their pictures, by row."""
    query = (
        "SELECT row, thumb_segment, thumb_start, thumb_length, thumb_format, width, height, source "
        f"FROM items WHERE row {_AMONG}"
    )
    return {
        row: Pictured(
            None if segment is None else Thumb(segment, start, length, form),
            None if width is None else (width, height),
            source,
        )
        for row, segment, start, length, form, width, height, source in connection.execute(query, _listed(rows))
    }


def raw_thumbs(connection: Connection, rows: npt.NDArray[np.int64]) -> list[tuple[int, int, int, int, str]]:
    """(row, segment, start, length, format) of those of these rows whose pictures are stored as bare pixels."""
    query = (
        "SELECT row, thumb_segment, thumb_start, thumb_length, thumb_format FROM items "
        f"WHERE row {_AMONG} AND thumb_format LIKE 'raw:%'"
    )
    return connection.execute(query, _listed(rows.tolist())).fetchall()


def metadata_keys(connection: Connection, first: int | None = None, inside: Sequence[str] = ()) -> set[str]:
    """Every top-level key that some live item has; with ``first``, some of the first so many items.

    Those in the objects at a path of keys instead, where one is given: of a few, for each takes a place in a join.
    """
    document, levels = "some.metadata", ""
    for depth in range(len(inside)):
        levels += f", json_each({document}) AS level{depth}"
        document = f"CASE level{depth}.type WHEN 'object' THEN level{depth}.value ELSE '{{}}' END"
    named = "".join(f" AND level{depth}.key = ?" for depth in range(len(inside)))
    query = (
        f"SELECT DISTINCT pairs.key FROM (SELECT metadata FROM items ORDER BY row LIMIT ?) AS some{levels}, "
        f"json_each({document}) AS pairs WHERE true{named}"
    )
    return {key for (key,) in connection.execute(query, (-1 if first is None else first, *inside))}


def summary(connection: Connection, key: str, limit: int) -> list[tuple[Any, int]]:
    """The commonest values of one top-level key, with counts; true and false as they are spelled in filters."""
    query = (
        "SELECT pairs.value, pairs.type, count(*) AS counted FROM items, json_each(items.metadata) AS pairs "
        "WHERE pairs.key = ? GROUP BY pairs.value, pairs.type ORDER BY counted DESC, pairs.value LIMIT ?"
    )
    found = connection.execute(query, (key, limit))
    return [(kind if kind in ("true", "false") else value, counted) for value, kind, counted in found]


def hashes(connection: Connection) -> list[tuple[int, bytes | None]]:
    """(row, content hash or None) of all live items, by row."""
    return connection.execute("SELECT row, hash FROM items ORDER BY row").fetchall()


def worth(connection: Connection, rows: npt.NDArray[np.int64]) -> dict[int, tuple[int, int]]:
    """(px of the original, or 0; number of metadata keys) of these rows, by row: which of several copies says most."""
    query = (
        "SELECT row, coalesce(width * height, 0), (SELECT count(*) FROM json_each(items.metadata)) "
        f"FROM items WHERE row {_AMONG}"
    )
    return {row: (size, keys) for row, size, keys in connection.execute(query, _listed(rows.tolist()))}


def values(connection: Connection, key: str) -> list[tuple[int, str | int | float]]:
    """(row, value) of the live items with a text, number, true or false under a top-level key, by row.

    True and false come as they are spelled in filters.
    """
    query = (
        "SELECT items.row, CASE WHEN pairs.type IN ('true', 'false') THEN pairs.type ELSE pairs.value END "
        "FROM items, json_each(items.metadata) AS pairs WHERE pairs.key = ? "
        "AND pairs.type IN ('text', 'integer', 'real', 'true', 'false') ORDER BY items.row"
    )
    return connection.execute(query, (key,)).fetchall()


def values_by_leaf(connection: Connection, clustering: int, most: int) -> list[tuple[int, str, Any, int]]:
    """How often each value of the metadata occurs in each leaf of a clustering: (leaf, key, value, count).

    Of top-level keys with at most ``most`` different values: what is nearly an id tells no groups apart. True and false
    come as they are spelled in filters.
    """
    query = (
        "SELECT coalesce(labels.leaf, -1) AS own, pairs.key, "
        "CASE WHEN pairs.type IN ('true', 'false') THEN pairs.type ELSE pairs.value END AS shown, count(*) "
        "FROM items LEFT JOIN labels ON labels.row = items.row AND labels.clustering = ?, "
        "json_each(items.metadata) AS pairs WHERE pairs.type IN ('text', 'integer', 'real', 'true', 'false') "
        "AND pairs.key IN (SELECT value FROM json_each(?)) GROUP BY own, pairs.key, shown"
    )
    varied = (
        "SELECT pairs.key FROM (SELECT metadata FROM items ORDER BY row LIMIT 10000) AS some, "
        "json_each(some.metadata) AS pairs GROUP BY pairs.key HAVING count(DISTINCT pairs.value) <= ?"
    )
    keys = [key for (key,) in connection.execute(varied, (most,))]
    return connection.execute(query, (clustering, *_listed(keys))).fetchall()


def origins_with_counts(connection: Connection) -> list[tuple[str, int]]:
    """Every source's scope, with the number of live items that came from it."""
    query = (
        "SELECT origins.scope, count(items.row) FROM origins JOIN items ON items.origin = origins.id "
        "GROUP BY origins.id ORDER BY origins.id"
    )
    return connection.execute(query).fetchall()


def move_thumbs(connection: Connection, moved: Sequence[tuple[int, int, int]]) -> None:
    """Point items at new thumbnail places: (segment, start, row) each."""
    connection.executemany("UPDATE items SET thumb_segment = ?, thumb_start = ? WHERE row = ?", moved)


def thumb_places(connection: Connection) -> list[tuple[int, int, int, int]]:
    """(row, segment, start, length) of every thumbnail of a live item, in the order of their places."""
    query = (
        "SELECT row, thumb_segment, thumb_start, thumb_length FROM items WHERE thumb_segment IS NOT NULL "
        "ORDER BY thumb_segment, thumb_start"
    )
    return connection.execute(query).fetchall()


def unreadable(connection: Connection) -> int:
    """Number of live items whose metadata is no JSON: must be 0."""
    return int(connection.execute("SELECT count(*) FROM items WHERE NOT json_valid(metadata)").fetchone()[0])


def orphans(connection: Connection) -> tuple[int, int]:
    """(live items that also have a tombstone, batches that overrun their segment): both must be 0."""
    both = "SELECT count(*) FROM items JOIN tombstones ON tombstones.row = items.row"
    over = (
        "SELECT count(*) FROM batches JOIN segments ON segments.id = batches.segment "
        "WHERE batches.start + batches.count > segments.length"
    )
    return int(connection.execute(both).fetchone()[0]), int(connection.execute(over).fetchone()[0])


class HotReader:
    """The one read that queries do for each hit, on a connection of its own: ten rows in tens of microseconds.

    Rows are immutable, so no transaction is needed to pair them with a snapshot: a row is there as it was, or it is
    gone.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, rows: Sequence[int]) -> Iterator[tuple[int, str, str]]:
        """(row, id, metadata text) of the rows that are there, in any order."""
        for start in range(0, len(rows), 500):
            part = rows[start : start + 500]
            marks = ", ".join("?" * len(part))
            yield from self._connection.execute(f"SELECT row, id, metadata FROM items WHERE row IN ({marks})", part)

    def seq(self) -> int:
        """The number of the last commit."""
        return int(self._connection.execute("SELECT seq FROM state").fetchone()[0])

    def __del__(self) -> None:
        # And not before: to close a connection that another thread is asking brings the process down.
        self._connection.close()
