"""What a filter says of one item, in Python: the reference for the translation to SQL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from embedstore.errors import FilterError
from embedstore.filters.syntax import (
    And,
    Between,
    Comparison,
    Expression,
    Field,
    In,
    IsNull,
    Leaf,
    Like,
    Not,
    Or,
    Value,
    kind,
)
from embedstore.types import Metadata

Clusters: TypeAlias = Mapping[str | None, tuple[int | None, str | None]]
Places: TypeAlias = Mapping[str | None, tuple[float, float] | None]


def evaluate(
    expression: Expression,
    id: str,
    source: str | None,
    metadata: Metadata,
    clusters: Clusters | None = None,
    places: Places | None = None,
) -> bool | None:
    """What the filter says of one item: True, False, or None for unknown. Only True selects it.

    This is the reference that the translation to SQL is tested against, and serves items that no database holds.

    Args:
        expression: the filter.
        id: of the item.
        source: of the item.
        metadata: of the item.
        clusters: number and name of the item's cluster by the clustering's name, None for the default clustering.
        places: x and y of the item by the map's name, None for the default map.
    """
    match expression:
        case And(operands):
            parts = [evaluate(operand, id, source, metadata, clusters, places) for operand in operands]
            return False if False in parts else None if None in parts else True
        case Or(operands):
            parts = [evaluate(operand, id, source, metadata, clusters, places) for operand in operands]
            return True if True in parts else None if None in parts else False
        case Not(operand):
            return _negate(evaluate(operand, id, source, metadata, clusters, places))
    if expression.field.built_in and expression.field.path[0] == "cluster":
        name = expression.field.path[1] if len(expression.field.path) > 1 else None
        if clusters is None or name not in clusters:
            raise FilterError("no clustering yet: the field 'cluster' has no values")
        return holds_of_cluster(expression, *clusters[name])
    if expression.field.built_in and expression.field.path[0] == "map":
        name = expression.field.path[1] if len(expression.field.path) > 2 else None
        if places is None or name not in places:
            raise FilterError("no map yet: the field 'map' has no values")
        place = places[name]
        return holds(expression, None if place is None else place["xy".index(expression.field.path[-1])])
    return holds(expression, _look_up(expression.field, id, source, metadata))


def holds_of_cluster(leaf: Leaf, number: int | None, name: str | None) -> bool | None:
    """The same for a condition on an item's cluster, which has a number and may have a name: texts mean the name.

    Args:
        leaf: the condition.
        number: of the cluster; None where the item is in none, so that nothing is known of it.
        name: of the cluster.
    """
    known = name or ""  # a cluster without a name has another one than any that is asked for
    if number is None or isinstance(leaf, IsNull):
        return holds(leaf, number)
    match leaf:
        case In(field, values, negated):
            numbers = tuple(value for value in values if not isinstance(value, str))
            names = tuple(value for value in values if isinstance(value, str))
            found = bool(holds(In(field, numbers), number)) or bool(holds(In(field, names), known))
            return found is not negated
        case Comparison(_, _, value) | Between(_, value, _):
            return holds(leaf, known if isinstance(value, str) else number)
    return holds(leaf, known)


def holds(expression: Leaf, value: Any) -> bool | None:
    """What a single condition says of its field's value."""
    match expression:
        case IsNull(_, negated):
            return (value is None) is not negated
        case Comparison(_, operator, wanted):
            return _compare(value, operator, wanted)
        case Between(_, low, high, negated):
            both = [_compare(value, ">=", low), _compare(value, "<=", high)]
            inside = False if False in both else None if None in both else True
            return _negate(inside) if negated else inside
        case In(_, values, negated):
            return None if value is None else any(_compare(value, "=", one) for one in values) is not negated
        case Like(_, pattern, escape, negated):
            return _like(value, pattern, escape) is not negated if isinstance(value, str) else None
    raise AssertionError(expression)


def _negate(truth: bool | None) -> bool | None:
    return None if truth is None else not truth


def _look_up(name: Field, id: str, source: str | None, metadata: Metadata) -> Any:
    if name.built_in:
        return id if name.path == ("id",) else source
    value: Any = metadata
    for key in name.path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _compare(value: Any, operator: str, operand: Value) -> bool | None:
    if value is None:
        return None
    if kind(value) != kind(operand):
        return {"=": False, "!=": True}.get(operator)
    if kind(value) == "number":
        value, operand = _number(value), _number(operand)
    match operator:
        case "=":
            return bool(value == operand)
        case "!=":
            return bool(value != operand)
        case "<":
            return bool(value < operand)
        case "<=":
            return bool(value <= operand)
        case ">":
            return bool(value > operand)
        case _:
            return bool(value >= operand)


def _number(value: Any) -> int | float:
    """Integers of more than 64 bits as SQLite has them."""
    if isinstance(value, float) or -(2**63) <= value < 2**63:
        return value  # type: ignore[no-any-return]
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


_ANY_RUN, _ANY_ONE = object(), object()
_FOLD = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def _like(value: str, pattern: str, escape: str | None) -> bool:
    """Match from left to right, each run at its first place: linear in both for practical patterns, unlike a regex."""
    tokens: list[object] = []
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            tokens.append(next(characters, "").translate(_FOLD))
        else:
            tokens.append({"%": _ANY_RUN, "_": _ANY_ONE}.get(character, character.translate(_FOLD)))
    text = value.translate(_FOLD)
    at = token = 0
    retry: tuple[int, int] | None = None  # the last run: (token behind it, how far it has reached)
    while at < len(text) or token < len(tokens):
        if token < len(tokens) and tokens[token] is _ANY_RUN:
            token += 1
            retry = (token, at)
        elif token < len(tokens) and at < len(text) and tokens[token] in (_ANY_ONE, text[at]):
            at, token = at + 1, token + 1
        elif retry is None or retry[1] >= len(text):
            return False
        else:
            retry = (retry[0], retry[1] + 1)
            token, at = retry
    return True
