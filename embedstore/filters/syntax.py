"""The syntax tree of a filter, and its text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

BUILT_IN = ("id", "source", "cluster")
KEYWORDS = frozenset({"and", "or", "not", "in", "like", "escape", "between", "is", "null", "true", "false"})

Value: TypeAlias = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Field:
    """A metadata key (a path of keys where it is nested), or a built-in field.

    Attributes:
        path: the keys, outermost first; of a cluster, 'cluster' and the name of the clustering, if one is named; of a
            place, 'map', the name of the map, if one is named, and 'x' or 'y'.
        built_in: True for ``id``, ``source``, ``cluster`` and ``map.x`` written without quotes.
        position: 0-based offset in the text it was parsed from; not part of equality.
    """

    path: tuple[str, ...]
    built_in: bool = False
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        own = 1 if self.built_in else 0  # a built-in name is written without quotes
        return ".".join((*self.path[:own], *(_quote(key, i + own == 0) for i, key in enumerate(self.path[own:]))))


@dataclass(frozen=True, slots=True)
class Comparison:
    """``field operator value``; the operator is one of ``= != < <= > >=``."""

    field: Field
    operator: str
    value: Value


@dataclass(frozen=True, slots=True)
class In:
    """``field [not] in (values)``."""

    field: Field
    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Like:
    """``field [not] like pattern [escape character]``."""

    field: Field
    pattern: str
    escape: str | None = None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Between:
    """``field [not] between low and high``, both ends included."""

    field: Field
    low: Value
    high: Value
    negated: bool = False


@dataclass(frozen=True, slots=True)
class IsNull:
    """``field is [not] null``: missing, or JSON null."""

    field: Field
    negated: bool = False


@dataclass(frozen=True, slots=True)
class And:
    """All of two or more."""

    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of two or more."""

    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite; of unknown, unknown."""

    operand: Expression


Leaf: TypeAlias = Comparison | In | Like | Between | IsNull
Expression: TypeAlias = Comparison | In | Like | Between | IsNull | And | Or | Not


def fields(expression: Expression) -> tuple[Field, ...]:
    """The fields that occur, each once, in the order of the text."""
    return tuple(sorted(dict.fromkeys(_fields(expression)), key=lambda one: one.position))


def _fields(expression: Expression) -> Iterator[Field]:
    match expression:
        case And(operands) | Or(operands):
            for operand in operands:
                yield from _fields(operand)
        case Not(operand):
            yield from _fields(operand)
        case _:
            yield expression.field


def format(expression: Expression) -> str:
    """Text that parses back to the same expression."""
    match expression:
        case Comparison(name, operator, value):
            return f"{name} {operator} {literal(value)}"
        case In(name, values, negated):
            return f"{name} {'not ' * negated}in ({', '.join(map(literal, values))})"
        case Like(name, pattern, escape, negated):
            tail = f" escape {literal(escape)}" if escape is not None else ""
            return f"{name} {'not ' * negated}like {literal(pattern)}{tail}"
        case Between(name, low, high, negated):
            return f"{name} {'not ' * negated}between {literal(low)} and {literal(high)}"
        case IsNull(name, negated):
            return f"{name} is {'not ' * negated}null"
        case Not(operand):
            return f"not {_bracketed(operand, And | Or)}"
        case And(operands):
            return " and ".join([_bracketed(operand, And | Or) for operand in operands])
        case Or(operands):
            # An And inside needs no brackets: it binds tighter. An Or inside keeps them, or it would be merged.
            return " or ".join([_bracketed(operand, Or) for operand in operands])


def kind(value: object) -> str:
    """The type of a value as the language sees it: 'null', 'boolean', 'number', 'text', or 'json' (array, object)."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "json"


_WORD = re.compile(r"[^\W\d]\w*")


def _quote(key: str, first: bool) -> str:
    plain = _WORD.fullmatch(key) and key.lower() not in KEYWORDS and not (first and key in (*BUILT_IN, "map"))
    return key if plain else '"' + key.replace('"', '""') + '"'


def literal(value: Value) -> str:
    """A value as the language writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def _bracketed(operand: Expression, kinds: Any) -> str:
    return f"({format(operand)})" if isinstance(operand, kinds) else format(operand)
