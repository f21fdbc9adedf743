"""Which positions a filter matches: asked once for each commit, of columns in memory where they say it, else of SQLite.

The column of a metadata key is read when a filter first asks for it, and later only what was added. So a filter that
was never asked before takes a few array operations for each of its conditions; one that was asked at this commit, none.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from sqlite3 import Connection
from typing import TypeAlias

import numpy as np

from embedstore import filters
from embedstore.filters import And, Expression, Field, Not, Or
from embedstore.filters.columns import InexactError, Truth, asks_every_text, holding, select
from embedstore.filters.syntax import Leaf
from embedstore.index.selection import Selection
from embedstore.metadata import catalog, columns, fields, items
from embedstore.metadata.columns import Read
from embedstore.metadata.database import Database
from embedstore.metadata.items import Condition
from embedstore.truth.snapshot import Snapshots, SpaceView

_KEPT_BYTES = 64 * 2**20  # of selections
_LOOKED_AFTER = 16  # filters, after which what is kept is measured
_COLUMN_BYTES = 256 * 2**20
#: Different texts, beyond which SQLite asks them sooner: a million comparisons in Python take a second.
_ASKED_TEXTS = 5_000

Compile: TypeAlias = Callable[[Expression, str, Connection], Condition]
_parse = functools.lru_cache(1024)(filters.parse)


@dataclass(frozen=True, slots=True)
class Match:
    """What a filter matches.

    Attributes:
        view: of the space, at the commit that was asked.
        selection: live positions.
        how: 'kept', 'columns', 'SQL', or 'columns and SQL'.
        expected: how many items would match if the conditions had nothing to do with each other.
    """

    view: SpaceView
    selection: Selection
    how: str
    expected: int


class _OvertakenError(Exception):
    """Another commit was made between two readings."""


class Matcher:
    """Answers filters, and keeps the answers of the newest commit. Threads may share it.

    Args:
        database: of the store.
        snapshots: of the store.
        compiled: compiles a filter to SQL in a read transaction, checking its fields.
    """

    def __init__(self, database: Database, snapshots: Snapshots, compiled: Compile) -> None:
        self._database = database
        self._snapshots = snapshots
        self._compiled = compiled
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Match] = OrderedDict()
        self._seq = -1
        self._asked = 0
        self._columns: OrderedDict[tuple[str, ...], Read] = OrderedDict()

    def match(self, text: str, space: str) -> Match:
        """The live positions of a space whose items match, at the newest commit.

        Raises:
            FilterError: it doesn't parse, or names a field that no item has.
        """
        filters.check_text(text)
        while True:
            snapshot = self._snapshots.current()
            with self._lock:
                found = self._kept.get((text, space)) if self._seq == snapshot.seq else None
                if found is not None:
                    self._kept.move_to_end((text, space))
                    return replace(found, how="kept")
            try:
                match = self._ask(text, snapshot.spaces[space], snapshot.seq)
            except _OvertakenError:
                continue
            with self._lock:
                if self._seq != snapshot.seq:
                    self._kept.clear()
                    self._seq = snapshot.seq
                self._kept[text, space] = match
                self._asked += 1
                if self._asked % _LOOKED_AFTER == 0:
                    self._make_room()
            return match

    def _make_room(self) -> None:
        """Forget what was asked for least recently. Looking costs as much as a filter, and isn't done at each."""
        sizes = [one.selection.size for one in self._kept.values()]
        total = sum(sizes)
        for size in sizes[:-1]:
            if total <= _KEPT_BYTES:
                break
            self._kept.popitem(last=False)
            total -= size

    def _ask(self, text: str, view: SpaceView, seq: int) -> Match:
        expression = _parse(text)
        with ExitStack() as stack:
            asking = _Asking(self, stack, text, view, seq)
            found = select(expression, asking.leaf) if asking.read(expression) else asking.in_sql(expression)
            asking.check(expression)
        selection = Selection(found if view.live is None else found & view.live.view(np.bool_))
        how = " and ".join(sorted(asking.how, key=str.lower))
        return Match(view, selection, how, round(view.alive * asking.share(expression, False)))

    def column(self, field: Field, seq: int) -> Read:
        """The column of a field as of a commit, read or brought up to date."""
        read = self._columns.get(field.path)
        if read is None or read.seq < seq:
            read = columns.read(self._database.read, field, read)
        with self._lock:
            self._columns[field.path] = read
            self._columns.move_to_end(field.path)
            while len(self._columns) > 1 and sum(one.size for one in self._columns.values()) > _COLUMN_BYTES:
                self._columns.popitem(last=False)
        if read.seq > seq:  # and may lack items that were deleted in between
            raise _OvertakenError
        return read

    def begin(self, stack: ExitStack, seq: int) -> Connection:
        """A transaction at a commit, open as long as the stack."""
        connection = stack.enter_context(self._database.read())
        if catalog.read_state(connection).seq != seq:
            raise _OvertakenError
        return connection


class _Asking:
    """One filter, asked of one space at one commit."""

    def __init__(self, matcher: Matcher, stack: ExitStack, text: str, view: SpaceView, seq: int) -> None:
        self._matcher, self._stack, self._text, self._view, self._seq = matcher, stack, text, view, seq
        self._connection: Connection | None = None
        self._read: dict[tuple[str, ...], Read] = {}
        self._empty: set[tuple[str, ...]] = set()
        self._shares: dict[tuple[Expression, bool], float] = {}
        self.how: set[str] = set()

    def connection(self) -> Connection:
        """The transaction, begun when something first has to be read."""
        if self._connection is None:
            self._connection = self._matcher.begin(self._stack, self._seq)
        return self._connection

    def read(self, expression: Expression) -> bool:
        """Bring the columns of all fields up to date; whether there is one."""
        for field in filters.fields(expression):
            if columns.can_be_read(field):
                self._read[field.path] = self._matcher.column(field, self._seq)
        return any(read.values is not None for read in self._read.values())

    def leaf(self, leaf: Leaf, negated: bool) -> Truth:
        """The positions for which a condition is true, or, negated, false."""
        read = self._read.get(leaf.field.path) if not leaf.field.built_in else None
        if read is None or read.values is None:
            return self.in_sql(Not(leaf) if negated else leaf)
        if len(read.values.texts) > _ASKED_TEXTS and asks_every_text(leaf):
            return self.in_sql(Not(leaf) if negated else leaf)
        try:
            found = holding(leaf, read.values, negated)
        except InexactError:
            return self.in_sql(Not(leaf) if negated else leaf)
        if not _any_there(read, self._view):
            self._empty.add(leaf.field.path)
        self.how.add("columns")
        self._shares[leaf, negated] = float(np.count_nonzero(found)) / max(1, len(found))
        return _at(found, read, self._view)

    def in_sql(self, expression: Expression) -> Truth:
        """The same of a whole filter, asked of the database."""
        self.how.add("SQL")
        connection = self.connection()
        rows = items.rows_where(connection, self._matcher._compiled(expression, self._text, connection))
        found = np.zeros(len(self._view.rows), dtype=np.bool_)
        found[self._view.positions(rows)] = True
        self._shares[expression, False] = len(rows) / max(1, self._view.alive)
        return found

    def share(self, expression: Expression, negated: bool) -> float:
        """The share of items that match if what the conditions select is independent of each other."""
        known = self._shares.get((expression, negated))
        if known is not None:
            return known
        match expression:
            case Not(operand):
                return self.share(operand, not negated)
            case And(operands) | Or(operands):
                parts = np.array([self.share(operand, negated) for operand in operands])
                return float(parts.prod() if isinstance(expression, And) is not negated else 1 - (1 - parts).prod())
        return self._shares.get((Not(expression), False), 1.0)

    def check(self, expression: Expression) -> None:
        """Refuse fields that no item has."""
        if self._empty and self._view.alive:
            fields.check_fields(expression, fields.keys(self.connection()), self._text)


def _at(found: Truth, read: Read, view: SpaceView) -> Truth:
    """What is said of a column's rows, at a space's positions; no item that lives is without a row."""
    if len(read.rows) == len(view.rows) and (read.rows is view.rows or np.array_equal(read.rows, view.rows)):
        return found
    if not len(found):
        return np.zeros(len(view.rows), dtype=np.bool_)
    place = np.minimum(np.searchsorted(read.rows, view.rows), len(read.rows) - 1)
    return np.asarray(found[place] & (read.rows[place] == view.rows))


def _any_there(read: Read, view: SpaceView) -> bool:
    """Whether an item that lives has a value: nearly always one of the first rows says so."""
    if read.values is None:
        return False
    there = read.values.there
    for part in (slice(1_000), slice(1_000, None)):
        rows = read.rows[part][there[part]]
        place = view.positions(rows)
        if len(place) and (view.live is None or view.live[place].any()):
            return True
    return False
