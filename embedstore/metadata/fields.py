"""The fields of filters as keys of the metadata: which there are, and where SQLite finds them."""

from __future__ import annotations

import difflib
import string
from collections.abc import Callable, Collection
from functools import cache
from sqlite3 import Connection
from typing import TypeAlias

from embedstore.errors import FilterError
from embedstore.filters import BUILT_IN, Expression, Field, fields
from embedstore.metadata import items

#: Characters that every version of SQLite finds in a quoted label of a JSON path. It compares labels with the JSON
#: text, escapes included (before 3.46), so whatever json.dumps may escape is found by json_each instead, which is
#: slower but compares the decoded key.
_PLAIN = frozenset(string.printable) - frozenset('"\\\t\n\r\x0b\x0c')


_DEEPEST = 30  # keys of a path that are looked up: SQLite joins 64 tables
#: Gives the keys that occur in the objects at a path of keys, the outermost ones at the empty path; None where nobody
#: knows.
Keys: TypeAlias = "Callable[[tuple[str, ...]], Collection[str] | None]"


def keys(connection: Connection, first: int | None = None) -> Keys:
    """The keys of all live items, or with ``first`` of the first so many, each asked for once."""

    @cache
    def known(path: tuple[str, ...]) -> Collection[str] | None:
        return None if len(path) > _DEEPEST else items.metadata_keys(connection, first, path)

    return known


def check_fields(expression: Expression, known_in: Keys, text: str = "") -> None:
    """Refuse fields that no item has: a mistyped key would silently select nothing.

    Args:
        expression: the filter.
        known_in: what is known.
        text: the filter as it was given, for the caret.

    Raises:
        FilterError: naming the unknown field and the known ones nearest to it.
    """
    for field in fields(expression):
        if field.built_in:
            continue
        for depth, key in enumerate(field.path):
            outer = field.path[:depth]
            known = known_in(outer)
            if known is not None and key not in known:
                hint = _hint(field, known, known_in(()) or (), depth)
                raise FilterError(f"unknown field {field}{hint}", text, field.position if text else None)


def _hint(field: Field, known: Collection[str], outermost: Collection[str], depth: int) -> str:
    """What may have been meant instead of a field whose key at a depth isn't known."""
    outer = field.path[:depth]
    names = {key.lower(): str(Field((*outer, key))) for key in known}
    # 'a.b' may be meant as one flat key (a column of a CSV file), and quotes around a built-in may be habit.
    flat, own = ".".join(field.path), {name: name for name in (*BUILT_IN, "map.x", "map.y")}
    if not depth:
        names |= own
    whole = {key.lower(): str(Field((key,))) for key in outermost} | own
    close = difflib.get_close_matches(field.path[depth].lower(), names, n=3, cutoff=0.6)
    near = [whole[flat.lower()]] if flat.lower() in whole else []
    near = list(dict.fromkeys([*near, *(names[name] for name in close)]))
    if near:
        return f"; did you mean {' or '.join(near[:3])}?"
    if known:
        some = ", ".join(str(Field((*outer, key))) for key in sorted(known)[:10])
        return f"; known are {some}{', ...' * (len(known) > 10)}"
    return f"; {Field(outer)} is no object in any item" if depth else "; the items have no metadata"


def json_path(field: Field) -> str | None:
    """Where a key of the metadata is, as SQLite's functions take it; None for keys that they might not find."""
    if not all(key and _PLAIN.issuperset(key) for key in field.path):
        return None
    return "$" + "".join(f'."{key}"' for key in field.path)
