"""A filter's syntax tree -> a condition of SQLAlchemy Core over the table of items, with bound parameters only.

A WHERE clause asks one thing of a condition: is it true? So negations are first pushed down to the leaves (De
Morgan's laws hold in three-valued logic), and a leaf then only has to be true where the filter's leaf is true; that
spares a CASE that tells false from unknown around each. The JSON type stands beside each comparison, because SQLite
would order numbers before texts, take true for 1, and compare an array with a text that spells it.
"""

from __future__ import annotations

import difflib
import json
import string
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, and_, exists, false, func, or_, true
from sqlalchemy.dialects import sqlite

from embedstore.errors import FilterError
from embedstore.filters import (
    BUILT_IN,
    And,
    Between,
    Comparison,
    Expression,
    Field,
    In,
    IsNull,
    Like,
    Not,
    Or,
    Value,
    fields,
    kind,
)
from embedstore.metadata.items import Condition
from embedstore.metadata.schema import items

_OPPOSITE = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
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
        names = {key.lower(): str(Field((key,))) for key in known} | {name: name for name in BUILT_IN}
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


def to_condition(expression: Expression, text: str = "") -> Condition:
    """The filter as a query for the rows of the items for which it is true; arguments as for `to_sql`."""
    query = sa.select(items.c.row).where(to_sql(expression, items, text))
    # "Render postcompile": a list of values is as many parameters, not a mark that SQLAlchemy would expand later.
    compiled = query.compile(dialect=sqlite.dialect(paramstyle="named"), compile_kwargs={"render_postcompile": True})
    return Condition(str(compiled), compiled.params)


def to_sql(expression: Expression, items: sa.FromClause, text: str = "") -> ColumnElement[bool]:
    """The condition that selects the items for which the filter is true.

    Args:
        expression: the filter.
        items: the table, with columns ``id``, ``source`` (may be NULL) and ``metadata`` (JSON text).
        text: the filter as it was given, for the caret of an error.
    """
    return _condition(expression, _Items(items, text), negated=False)[1]


@dataclass(frozen=True, slots=True)
class _Items:
    table: sa.FromClause
    text: str


@dataclass(frozen=True, slots=True)
class _Operand:
    """A field as SQL: its value, whether it is there at all, and a test of its JSON type."""

    value: ColumnElement[Any]
    known: ColumnElement[bool]
    typed: Callable[[Sequence[str]], ColumnElement[bool]]


def _condition(expression: Expression, items: _Items, negated: bool) -> tuple[int, ColumnElement[bool]]:
    """The condition, and how deep its parentheses go."""
    match expression:
        case Not(operand):
            return _condition(operand, items, not negated)
        case And(operands) | Or(operands):
            parts = [_condition(operand, items, negated) for operand in operands]
            return _joined(and_ if isinstance(expression, And) is not negated else or_, parts)
        case Between(field, low, high, outside):
            ends = (Comparison(field, ">=", low), Comparison(field, "<=", high))
            return _condition(And(ends), items, outside is not negated)
        case Comparison(field, operator):
            leaf = replace(expression, operator=_OPPOSITE[operator]) if negated else expression
            return 0, _leaf(leaf, field, items)
        case In(field) | Like(field) | IsNull(field):
            return 0, _leaf(replace(expression, negated=expression.negated is not negated), field, items)


def _joined(join: Callable[..., Any], parts: list[tuple[int, ColumnElement[bool]]]) -> tuple[int, ColumnElement[bool]]:
    """Join conditions so that SQLite can read them.

    Its parser keeps a stack of 100 (before 3.46), of which a parenthesis takes one place when it comes first and three
    behind an operator: so the deepest operand goes first. It also reads ``a OR b OR c ...`` as a tree as deep as the
    row is long, and takes 1,000 levels at most: so long rows are paired up.
    """
    parts = sorted(parts, key=lambda part: -part[0])
    if len(parts) <= 8:
        return parts[0][0] + 1, join(*(part for _, part in parts))
    half = len(parts) // 2 if parts[0][0] == parts[-1][0] else 1
    halves = [_joined(join, parts[:half])] if half > 1 else parts[:1]
    halves.append(_joined(join, parts[half:]))
    # Without IS, SQLAlchemy would merge the halves into one row again: it leaves out what parentheses it can.
    return max(depth for depth, _ in halves) + 1, join(*(part.is_(true()) for _, part in halves))


def _leaf(leaf: Comparison | In | Like | IsNull, field: Field, items: _Items) -> ColumnElement[bool]:
    metadata = items.table.c.metadata
    if field.built_in:
        if field.path == ("cluster",):
            raise FilterError("no clustering yet", items.text, field.position if items.text else None)
        column = items.table.c[field.path[0]]
        return _holds(leaf, _Operand(column, column.is_not(None), lambda types: true() if "text" in types else false()))
    if all(key and _PLAIN.issuperset(key) for key in field.path):
        path = "$" + "".join(f'."{key}"' for key in field.path)
        kept = func.json_type(metadata, path)
        return _holds(leaf, _Operand(func.json_extract(metadata, path), kept != "null", _typed(kept)))
    # Walk down by json_each; what is no object has no keys.
    document: ColumnElement[Any] = metadata
    levels: list[Any] = []
    for depth, key in enumerate(field.path):
        each = func.json_each(document)
        level = each.table_valued("key", "value", "type", name=f"level{depth}", joins_implicitly=True)
        levels.append((level, level.c.key == key))
        document = sa.case((level.c.type == "object", level.c.value), else_="{}")
    last = levels[-1][0].c
    operand = _Operand(last.value, last.type != "null", _typed(last.type))
    absent = isinstance(leaf, IsNull) and not leaf.negated
    inner = operand.known if absent else _holds(leaf, operand)
    found = sa.select(sa.literal(1)).select_from(*(level for level, _ in levels))
    there = exists(found.where(*(named for _, named in levels), inner).correlate(items.table))
    # The column (never NULL) also names the table outside the subquery, or count(*) would have no FROM.
    return and_(metadata.is_not(None), ~there if absent else there)


def _typed(json_type: ColumnElement[Any]) -> Callable[[Sequence[str]], ColumnElement[bool]]:
    return lambda types: json_type.in_(types) if len(types) > 1 else json_type == types[0]


def _holds(leaf: Comparison | In | Like | IsNull, operand: _Operand) -> ColumnElement[bool]:
    match leaf:
        case IsNull(_, negated):
            return operand.known if negated else func.coalesce(operand.known, false()) == false()
        case Comparison(_, "=", value):
            return _equals(operand, [value])
        case Comparison(_, "!=", value):
            return and_(operand.known, ~_equals(operand, [value]))
        case In(_, values, negated):
            return and_(operand.known, ~_equals(operand, values)) if negated else _equals(operand, values)
        case Comparison(_, operator, value):
            compared = operand.value.op(operator, is_comparison=True)(_bound(value))
            return and_(operand.typed(_json_types(value)), compared)
        case Like(_, pattern, escape, negated):
            # The function rather than the operator: SQLAlchemy would render the escape character into the SQL.
            arguments = (pattern, operand.value) if escape is None else (pattern, operand.value, escape)
            matched = func.like(*arguments, type_=sa.Boolean)
            return and_(operand.typed(("text",)), ~matched if negated else matched)


def _equals(operand: _Operand, values: Sequence[Value]) -> ColumnElement[bool]:
    """Whether it equals one of the values: never NULL where the operand is known."""
    by_type: dict[tuple[str, ...], list[Value]] = {}
    for value in values:
        by_type.setdefault(_json_types(value), []).append(value)
    parts = []
    for types, group in by_type.items():
        if isinstance(group[0], bool):
            parts.append(operand.typed(types))
        elif len(group) == 1:
            parts.append(and_(operand.typed(types), operand.value == _bound(group[0])))
        else:
            parts.append(and_(operand.typed(types), operand.value.in_([_bound(value) for value in group])))
    return or_(false(), *parts)


def _json_types(value: Value) -> tuple[str, ...]:
    """The names that SQLite's json_type gives to values of the same type (of true and false: to the same value)."""
    if isinstance(value, bool):
        return ("true",) if value else ("false",)
    return ("text",) if kind(value) == "text" else ("integer", "real")


def _bound(value: Value) -> ColumnElement[Any]:
    if isinstance(value, str) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return sa.literal(value, sa.Text() if isinstance(value, str) else sa.Integer())
    # As JSON text, so that SQLite converts it as it converts the stored one: its conversion may be off by an ulp
    # (it is no correctly rounding strtod), and 0.1 must equal 0.1; and an integer beyond 64 bits can't be bound at all.
    return func.json_extract(json.dumps(value), "$")
