"""The fields of filters as keys of the metadata: which there are, and where SQLite finds them."""

from __future__ import annotations

import difflib
import string
from collections.abc import Collection

from embedstore.errors import FilterError
from embedstore.filters import BUILT_IN, Expression, Field, fields

#: Characters that every version of SQLite finds in a quoted label of a JSON path. It compares labels with the JSON
#: text, escapes included (before 3.46), so whatever json.dumps may escape is found by json_each instead, which is
#: slower but compares the decoded key.
_PLAIN = frozenset(string.printable) - frozenset('"\\\t\n\r\x0b\x0c')


def check_fields(expression: Expression, known: Collection[str], text: str = "") -> None:
    """Refuse fields that no item has: a mistyped key would silently select nothing.

    Args:
        expression: the filter.
        known: the metadata keys that occur (the outermost ones, where objects are nested).
        text: the filter as it was given, for the caret.

    Raises:
        FilterError: naming the unknown field and the known ones nearest to it.
    """
    for field in fields(expression):
        if field.built_in or field.path[0] in known:
            continue
        # 'a.b' may be meant as one flat key (a column of a CSV file), and quotes around a built-in may be habit.
        flat = ".".join(field.path)
        own = {name: name for name in (*BUILT_IN, "map.x", "map.y")}
        names = {key.lower(): str(Field((key,))) for key in known} | own
        close = difflib.get_close_matches(field.path[0].lower(), names, n=3, cutoff=0.6)
        near = list(dict.fromkeys([names[name] for name in (flat.lower(), *close) if name in names]))
        if near:
            hint = f"; did you mean {' or '.join(near[:3])}?"
        elif known:
            some = sorted(known)[:10]
            hint = f"; known are {', '.join(str(Field((key,))) for key in some)}{', ...' * (len(known) > len(some))}"
        else:
            hint = "; the items have no metadata"
        raise FilterError(f"unknown field {field}{hint}", text, field.position if text else None)


def json_path(field: Field) -> str | None:
    """Where a key of the metadata is, as SQLite's functions take it; None for keys that they might not find."""
    if not all(key and _PLAIN.issuperset(key) for key in field.path):
        return None
    return "$" + "".join(f'."{key}"' for key in field.path)
