"""A filter's syntax tree -> a condition of SQLAlchemy Core over the table of items, with bound parameters only.

A WHERE clause asks one thing of a condition: is it true? So negations are first pushed down to the leaves (De
Morgan's laws hold in three-valued logic), and a leaf then only has to be true where the filter's leaf is true; that
spares a CASE that tells false from unknown around each. The JSON type stands beside each comparison, because SQLite
would order numbers before texts, take true for 1, and compare an array with a text that spells it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, and_, exists, false, func, or_, true
from sqlalchemy.dialects import sqlite

from embedstore.errors import FilterError
from embedstore.filters import (
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
    holds_of_cluster,
    kind,
)
from embedstore.metadata.fields import json_path
from embedstore.metadata.items import Condition
from embedstore.metadata.runs import Clusters, Runs
from embedstore.metadata.schema import items, labels, places

_OPPOSITE = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


def to_condition(expression: Expression, text: str = "", runs: Runs | None = None) -> Condition:
    """The filter as a query for the rows of the items for which it is true; arguments as for `to_sql`."""
    query = sa.select(items.c.row).where(to_sql(expression, items, text, runs))
    # "Render postcompile": a list of values is as many parameters, not a mark that SQLAlchemy would expand later.
    compiled = query.compile(dialect=sqlite.dialect(paramstyle="named"), compile_kwargs={"render_postcompile": True})
    return Condition(str(compiled), compiled.params)


def to_sql(
    expression: Expression,
    items: sa.FromClause,
    text: str = "",
    runs: Runs | None = None,
) -> ColumnElement[bool]:
    """The condition that selects the items for which the filter is true.

    Args:
        expression: the filter.
        items: the table, with columns ``id``, ``source`` (may be NULL) and ``metadata`` (JSON text).
        text: the filter as it was given, for the caret of an error.
        runs: the store's clusterings and maps.
    """
    return _condition(expression, _Items(items, text, runs or Runs()), negated=False)[1]


@dataclass(frozen=True, slots=True)
class _Items:
    table: sa.FromClause
    text: str
    runs: Runs


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
        if field.path[0] == "cluster":
            return _in_clusters(leaf, field, items)
        if field.path[0] == "map":
            return _on_map(leaf, field, items)
        column = items.table.c[field.path[0]]
        return _holds(leaf, _Operand(column, column.is_not(None), lambda types: true() if "text" in types else false()))
    if (path := json_path(field)) is not None:
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


def _in_clusters(leaf: Comparison | In | Like | IsNull, field: Field, items: _Items) -> ColumnElement[bool]:
    """The condition on the clusters' numbers and names, answered for each of them here, as one on items' leaves."""
    place = field.position if items.text else None
    name = field.path[1] if len(field.path) > 1 else None
    found = items.runs.clusterings.get(name)
    if found is None:
        known = ", ".join(repr(one) for one in items.runs.clusterings if one is not None)
        hint = f"no clustering is named {name!r}: there is {known}" if known else "no clustering yet"
        raise FilterError(f"{hint}; `embedstore cluster STORE` makes one{_quoted(field)}", items.text, place)
    _check_clusters(leaf, found, items.text, place)
    said = labels.c.clustering == found.clustering
    if isinstance(leaf, IsNull):
        inside = exists().where(said, labels.c.leaf >= 0, labels.c.row == items.table.c.row).correlate(items.table)
        return inside if leaf.negated else ~inside
    leaves = [
        one for one, number in enumerate(found.numbers) if holds_of_cluster(leaf, number, found.names.get(number))
    ]
    return items.table.c.row.in_(sa.select(labels.c.row).where(said, labels.c.leaf.in_(leaves)))


def _on_map(leaf: Comparison | In | Like | IsNull, field: Field, items: _Items) -> ColumnElement[bool]:
    """The condition on a coordinate of the items' places."""
    name = field.path[1] if len(field.path) > 2 else None
    found = items.runs.maps.get(name)
    if found is None:
        known = ", ".join(repr(one) for one in items.runs.maps if one is not None)
        hint = f"no map is named {name!r}: there is {known}" if known else "no map yet"
        place = field.position if items.text else None
        raise FilterError(f"{hint}; `embedstore map STORE` makes one{_quoted(field)}", items.text, place)
    column = places.c[field.path[-1]]
    numbers = _Operand(column, true(), lambda types: true() if "real" in types else false())
    absent = isinstance(leaf, IsNull) and not leaf.negated
    inner = true() if isinstance(leaf, IsNull) else _holds(leaf, numbers)
    there = items.table.c.row.in_(sa.select(places.c.row).where(places.c.map == found, inner))
    return ~there if absent else there


def _quoted(field: Field) -> str:
    """How to ask for metadata of a name that means something else."""
    written = ".".join([f'"{field.path[0]}"', *field.path[1:]])
    return f" (a key of the metadata is written {written})"


def _check_clusters(leaf: Comparison | In | Like | IsNull, found: Clusters, text: str, place: int | None) -> None:
    """Refuse numbers and names that no cluster has: a mistyped one would silently select nothing."""
    match leaf:
        case Comparison(_, "=" | "!=", value):
            wanted: Sequence[Value] = [value]
        case In(_, values):
            wanted = values
        case _:
            return
    numbers, names = set(found.numbers), sorted(set(found.names.values()))
    for value in wanted:
        if isinstance(value, bool):
            raise FilterError("a cluster has a number or a name, and is neither true nor false", text, place)
        if isinstance(value, str) and value not in names:
            near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
            listed = f"names are {', '.join(map(repr, names))}" if names else "`embedstore cluster name` names them"
            hint = f"did you mean {near[0]!r}?" if near else listed
            if value in found.elsewhere:
                level = f"level {found.elsewhere[value]}, which isn't used"
                raise FilterError(f"{value!r} is at {level}: `embedstore cluster use` chooses it", text, place)
            raise FilterError(f"no cluster is named {value!r}: {hint}", text, place)
        if not isinstance(value, str) and value not in numbers:
            raise FilterError(f"there is no cluster {value}: they are numbered 0 to {max(numbers)}", text, place)


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
