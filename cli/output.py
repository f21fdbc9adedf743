"""What commands print: one JSON document, or aligned tables; and the exit codes.

Ids, paths and metadata are other people's text: a terminal gets them without control characters (an escape sequence
in an id would be obeyed) and without lone surrogates (the bytes of a file name that is no UTF-8), which no encoder
takes.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import click

#: Exit codes; 0 is done, 2 is click's for wrong usage.
FAILED = 1
SOME_FAILED = 3
INTERRUPTED = 130

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_SHOWN_FAILURES = 20
#: Texts that would pass for a number, a truth value, or none.
_OTHER = re.compile(r"[-+]?[0-9][0-9_.,]*(?:[eE][-+]?[0-9]+)?|true|false|null|\s*")
_ELLIPSIS = "…"


def printable(text: object) -> str:
    """Text on one line that is safe on a terminal: control characters escaped, undecodable bytes replaced."""
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", _SURROGATES.sub("\ufffd", str(text)))


def emit(value: Any) -> None:
    """Print one JSON document on stdout.

    A path that is no UTF-8 keeps its bytes as ``\\udcNN`` escapes, as Python's ``os.fsdecode`` writes them, so that a
    program can open it.
    """
    value = _plain(value)
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2, allow_nan=False)
    click.echo(text)


def _plain(value: Any) -> Any:
    """As JSON has it: paths as text, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):  # a NumPy scalar or array, which this module needn't import
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def say(message: str) -> None:
    """Print a line for people on stderr."""
    click.echo(printable(message), err=True)


def failures(found: Sequence[Any]) -> None:
    """List what failed on stderr: the first twenty, and how many more."""
    for failure in found[:_SHOWN_FAILURES]:
        say(f"failed: {failure.id}: {failure.reason}")
    if len(found) > _SHOWN_FAILURES:
        say(f"... and {len(found) - _SHOWN_FAILURES:,} more; --json lists all")


def number(value: float) -> str:
    """A whole number with all its digits, another with four behind the point (or, far from 1, four in all)."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.4g}"


def count(number: int, noun: str) -> str:
    """So many of them: '1 item', '2,000 items'."""
    ending = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}{ending}"


def size(count: int) -> str:
    """Bytes for people."""
    amount, unit = float(count), "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{count:,} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


def terminal_width() -> int | None:
    """Columns of the terminal; None on a pipe or in a file, where nothing is cut off (but COLUMNS is obeyed)."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        return None
    return shutil.get_terminal_size().columns


def width(text: str) -> int:
    """Columns that a text takes on a terminal: wide letters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def shorten(text: str, columns: int) -> str:
    """The text cut to a number of columns, with an ellipsis where something is missing."""
    if width(text) <= columns:
        return text
    kept, used = "", 0
    for letter in text:
        used += width(letter)
        if used > columns - 1:
            break
        kept += letter
    return kept + _ELLIPSIS


class _Plain(int):
    """A number that is printed as it is, such as a year."""


def shown(value: Any) -> Any:
    """A value of the metadata in a table: numbers, which may be years, without commas."""
    return _Plain(value) if isinstance(value, int) and not isinstance(value, bool) else value


def told(value: Any) -> Any:
    """The same as a filter would have it: a text like '5' in quotes, for it isn't the number."""
    if value is None:
        return "null"
    return f"'{value}'" if isinstance(value, str) and _OTHER.fullmatch(value) else shown(value)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case _Plain():
            return str(int(value))
        case bool():
            return "true" if value else "false"
        case float() | int():
            return number(value)
        case str():
            return printable(value)
        case _:
            return printable(json.dumps(_plain(value), ensure_ascii=False))


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], *, least: int = 1) -> None:
    """Print rows under their heads, aligned, numbers to the right.

    Args:
        heads: one a column.
        rows: of text, numbers, None, or JSON values.
        least: columns from the left that are always shown; those behind are left out where the terminal is too narrow.
    """
    rows = [list(row) for row in rows]
    right = [
        any(isinstance(row[i], (int, float)) for row in rows)
        and all(row[i] is None or (isinstance(row[i], (int, float)) and not isinstance(row[i], bool)) for row in rows)
        for i in range(len(heads))
    ]
    cells = [[printable(head) for head in heads], *([_cell(value) for value in row] for row in rows)]
    columns = terminal_width()
    widths = [max(width(row[i]) for row in cells) for i in range(len(heads))]
    shown = len(heads)
    if columns is not None:
        # No single column, a long caption say, takes the place of all others; what these leave, it gets.
        wanted, widths = widths, [min(wide, max(12, columns // 2)) for wide in widths]
        while shown > least and sum(widths[:shown]) + 2 * (shown - 1) > columns:
            shown -= 1
        room = columns - sum(widths[1:shown]) - 2 * (shown - 1)
        widths[0] = min(widths[0], max(8, room))
        for i in range(shown):
            left = columns - sum(widths[:shown]) - 2 * (shown - 1)
            widths[i] = min(wanted[i], widths[i] + max(0, left))
    for row in cells:
        parts = []
        for cell, wide, to_the_right in zip(row[:shown], widths, right, strict=False):
            cut = shorten(cell, wide)
            padding = " " * (wide - width(cut))
            parts.append(padding + cut if to_the_right else cut + padding)
        click.echo("  ".join(parts).rstrip())


def pairs(lines: Iterable[tuple[str, Any]]) -> None:
    """Print names and values, the values aligned."""
    lines = [(printable(name), _cell(value)) for name, value in lines]
    wide = max((width(name) for name, _ in lines), default=0)
    columns = terminal_width()
    for name, value in lines:
        text = f"{name}{' ' * (wide - width(name))}  {value}".rstrip()
        click.echo(text if columns is None else shorten(text, columns))
