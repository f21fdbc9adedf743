"""The values of a field of all items, as one array: read once, and afterwards only what was added."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from sqlite3 import Connection

import numpy as np
import numpy.typing as npt

from embedstore.filters import Field
from embedstore.filters.columns import Column, InexactError, column
from embedstore.metadata.fields import json_path

_AT_ONCE = 20_000  # rows
_SHORT = 512  # letters of an item's metadata: what is in it is parsed as it is
_LONGEST = 4_096  # letters of a value: longer ones are prose, and a few thousand of them no column
_MOST_BYTES = 64 * 2**20  # of a column's different texts
#: Different texts, beyond which a field is left to SQLite: asking each of them would take longer than asking the rows.
MOST_TEXTS = 200_000
_ARROW = sqlite3.sqlite_version_info >= (3, 38)  # an operator that gives a value as JSON, its type kept


@dataclass(frozen=True, slots=True)
class Read:
    """What was read of a field.

    Attributes:
        rows: int64 (n,), ascending: the items that were live when they were read, perhaps deleted since.
        values: of each; None where they can't be held as a column.
        seq: of the commit at which it was complete.
    """

    rows: npt.NDArray[np.int64]
    values: Column | None
    seq: int

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return self.rows.nbytes + (0 if self.values is None else self.values.size)


def can_be_read(field: Field) -> bool:
    """Whether a field's values can be a column: keys that a JSON path can name."""
    return _ARROW and not field.built_in and json_path(field) is not None


def read(connection: Connection, field: Field, seq: int, before: Read | None = None) -> Read:
    """A field's values of all live items at the commit of a transaction, or what came since ``before``.

    Args:
        connection: of a read transaction.
        field: of the metadata, for which `can_be_read` holds.
        seq: of the transaction's commit.
        before: what was read of it.
    """
    if before is not None and before.values is None:
        return Read(before.rows, None, seq)
    rows = [np.empty(0, np.int64)] if before is None else [before.rows]
    values = None if before is None else before.values
    last = int(rows[0][-1]) if len(rows[0]) else -1
    # SQLite extracts the next values while the last ones are parsed: it needs no lock of Python's.
    with ThreadPoolExecutor(1) as beside:
        coming = beside.submit(_part, connection, field, last)
        while True:
            fresh, texts, longest = coming.result()
            if longest > _LONGEST:
                return Read(rows[0][:0], None, seq)
            if more := len(fresh) == _AT_ONCE:
                coming = beside.submit(_part, connection, field, int(fresh[-1]))
            try:
                values = column(json.loads(f"[{texts}]"), values)
            except InexactError:
                values = None
            if values is None or len(values.texts) > MOST_TEXTS or values.text_size > _MOST_BYTES:
                return Read(rows[0][:0], None, seq)
            rows.append(fresh)
            if not more:
                return Read(np.concatenate(rows), values, seq)


def _part(connection: Connection, field: Field, after: int) -> tuple[npt.NDArray[np.int64], str, int]:
    """The next rows behind one, a field's values of them as JSON with commas between, and the length of the longest."""
    # One text for many rows: making it and parsing it takes half the time of a row for each. (json_group_array would
    # take the values for texts: they lose their JSON nature on the way out of the inner query.) What is in lists and
    # objects doesn't matter to any filter, and of what is too long only that it is: no row is longer than _LONGEST.
    # Looking at that costs as much as extracting the value: it isn't done where all of an item's metadata is short.
    query = (
        "SELECT count(*), min(row), max(row), coalesce(group_concat(value), ''), coalesce(max(length(value)), 0) "
        "FROM (SELECT row, CASE WHEN length(metadata) <= ?1 THEN coalesce(metadata -> ?2, 'null') ELSE "
        "CASE substr(coalesce(metadata -> ?2, 'null'), 1, 1) WHEN '[' THEN '[]' WHEN '{' THEN '[]' "
        "ELSE substr(coalesce(metadata -> ?2, 'null'), 1, ?3) END END AS value "
        "FROM items WHERE row > ?4 ORDER BY row LIMIT ?5)"
    )
    bound = (min(_SHORT, _LONGEST), json_path(field), _LONGEST + 1, after, _AT_ONCE)
    count, first, last, texts, longest = connection.execute(query, bound).fetchone()
    if not count:
        return np.empty(0, np.int64), texts, longest
    if last - first + 1 == count:
        return np.arange(first, last + 1), texts, longest
    found = connection.execute("SELECT row FROM items WHERE row > ? ORDER BY row LIMIT ?", (after, _AT_ONCE))
    return np.fromiter((row for (row,) in found), dtype=np.int64, count=count), texts, longest
