"""The values of a field of all items, as one array: read once, and afterwards only what was added."""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from sqlite3 import Connection
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from embedstore.filters import Field
from embedstore.filters.columns import Column, InexactError, column
from embedstore.metadata import catalog, items
from embedstore.metadata.fields import json_path

_AT_ONCE = 20_000  # rows
_BESIDE = 2  # threads that read many of them
_BEYOND = 2**63 - 1  # all rows
_SHORT = 512  # letters of an item's metadata: what is in it is parsed as it is
_LONGEST = 4_096  # letters of a value: longer ones are prose, and a few thousand of them no column
_MOST_BYTES = 64 * 2**20  # of a column's different texts
#: Different texts, beyond which a field is left to SQLite: asking each of them would take longer than asking the rows.
MOST_TEXTS = 200_000
_ARROW = sqlite3.sqlite_version_info >= (3, 38)  # an operator that gives a value as JSON, its type kept


Transaction: TypeAlias = "Callable[[], AbstractContextManager[Connection]]"


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


def read(transaction: Transaction, field: Field, before: Read | None = None) -> Read:
    """A field's values of all live items, or what came since ``before``.

    Many rows are read in several transactions, so that no commit waits for all of them: rows never change, and what is
    added meanwhile comes at the end.

    Args:
        transaction: begins a read transaction; from another thread, too.
        field: of the metadata, for which `can_be_read` holds.
        before: what was read of it.
    """
    if before is not None and before.values is None:
        with transaction() as connection:
            return Read(before.rows, None, catalog.read_state(connection).seq)
    rows = [np.empty(0, np.int64)] if before is None else [before.rows]
    values = None if before is None else before.values
    with closing(_parts(transaction, field, int(rows[0][-1]) if len(rows[0]) else -1)) as parts:
        for part in parts:
            seq = part.seq
            try:
                values = column(json.loads(f"[{part.texts}]"), values) if part.longest <= _LONGEST else None
            except InexactError:
                values = None
            if values is None or len(values.texts) > MOST_TEXTS or values.text_size > _MOST_BYTES:
                return Read(rows[0][:0], None, seq)
            rows.append(part.rows)
    return Read(np.concatenate(rows), values, seq)


class _Part(NamedTuple):
    """Rows (n,), a field's values of them as JSON with commas between, the longest one's length, and the commit."""

    rows: npt.NDArray[np.int64]
    texts: str
    longest: int
    seq: int


def _parts(transaction: Transaction, field: Field, after: int) -> Generator[_Part, None, None]:
    """All rows behind one, in their order; the last part is of the commit at which there was no further one.

    SQLite extracts values without Python's lock: of many rows it does on threads beside the one that parses them. Two
    take three quarters of the time of one, which begins with the next part only when the parser lets go of that lock;
    more wait for a lock of SQLite's.
    """
    while len((part := _part(transaction, field, after, _BEYOND)).rows) == _AT_ONCE:
        yield part
        after = int(part.rows[-1])
        with transaction() as connection:
            last = max(after, items.last_row(connection))
        coming: deque[Future[_Part]] = deque()
        with ThreadPoolExecutor(_BESIDE) as beside:
            for start in range(after, last, _AT_ONCE):
                coming.append(beside.submit(_part, transaction, field, start, min(start + _AT_ONCE, last)))
                if len(coming) > _BESIDE:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        after = last
    yield part


def _part(transaction: Transaction, field: Field, after: int, stop: int) -> _Part:
    """The next rows behind one, up to another one."""
    # One text for many rows: making it and parsing it takes half the time of a row for each. (json_group_array would
    # take the values for texts: they lose their JSON nature on the way out of the inner query.) What is in lists and
    # objects doesn't matter to any filter, and of what is too long only that it is: no row is longer than _LONGEST.
    # Looking at that costs as much as extracting the value: it isn't done where all of an item's metadata is short.
    query = (
        "SELECT count(*), min(row), max(row), coalesce(group_concat(value), ''), coalesce(max(length(value)), 0) "
        "FROM (SELECT row, CASE WHEN length(metadata) <= ?1 THEN coalesce(metadata -> ?2, 'null') ELSE "
        "CASE substr(coalesce(metadata -> ?2, 'null'), 1, 1) WHEN '[' THEN '[]' WHEN '{' THEN '[]' "
        "ELSE substr(coalesce(metadata -> ?2, 'null'), 1, ?3) END END AS value "
        "FROM items WHERE row > ?4 AND row <= ?5 ORDER BY row LIMIT ?6)"
    )
    bound = (min(_SHORT, _LONGEST), json_path(field), _LONGEST + 1, after, stop, _AT_ONCE)
    numbers = "SELECT row FROM items WHERE row > ? AND row <= ? ORDER BY row LIMIT ?"
    with transaction() as connection:
        seq = catalog.read_state(connection).seq
        count, first, last, texts, longest = connection.execute(query, bound).fetchone()
        if not count:
            rows = np.empty(0, np.int64)
        elif last - first + 1 == count:
            rows = np.arange(first, last + 1)
        else:
            found = connection.execute(numbers, (after, stop, _AT_ONCE))
            rows = np.fromiter((row for (row,) in found), dtype=np.int64, count=count)
    return _Part(rows, texts, longest, seq)
