"""Filters over columns: they select what the evaluator says of each item, whatever the values and the filter."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore import filters
from embedstore.filters import Expression, Field
from embedstore.filters.columns import Column, InexactError, column, holding, select
from embedstore.filters.syntax import Leaf

from .test_where import data, expressions, rows


def looked_up(field: Field, item: tuple[str, str | None, dict[str, Any]]) -> Any:
    if field.built_in:
        return item[0] if field.path == ("id",) else item[1]
    value: Any = item[2]
    for key in field.path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


@settings(max_examples=300, deadline=None)
@given(rows, st.lists(expressions, min_size=1, max_size=4), st.integers(0, 6))
def test_columns_select_what_the_evaluator_says_is_true(rows: Any, asked: list[Expression], cut: int) -> None:
    known: dict[Field, Column] = {}

    def ask(leaf: Leaf, negated: bool) -> np.ndarray:
        if leaf.field not in known:
            values = [looked_up(leaf.field, item) for item in rows]
            known[leaf.field] = column(values[cut:], column(values[:cut]))  # as one that has grown
        return holding(leaf, known[leaf.field], negated)

    for expression in asked:
        expected = [filters.evaluate(expression, *item) is True for item in rows]
        try:
            found = select(expression, ask)
        except InexactError:  # SQLite answers instead
            continue
        assert found.tolist() == expected, filters.format(expression)


@settings(max_examples=200, deadline=None)
@given(st.lists(data, max_size=30), st.integers(0, 30))
def test_a_column_grows_as_if_it_had_been_made_at_once(values: list[Any], cut: int) -> None:
    try:
        whole = column(values)
    except InexactError:
        with pytest.raises(InexactError):
            column(values[cut:], column(values[:cut]))
        return
    first = column(values[:cut])
    before = dict(first.texts)
    grown = column(values[cut:], first)
    assert first.texts == before  # somebody may be reading it
    assert np.array_equal(grown.codes, whole.codes)
    assert grown.texts == whole.texts
    assert (grown.numbers is None) == (whole.numbers is None)
    assert whole.numbers is None or np.array_equal(grown.numbers, whole.numbers)
    assert np.array_equal(grown.there, [value is not None for value in values])
    assert (grown.size, grown.text_size) == (whole.size, whole.text_size)


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**63, 10**400])
def test_an_integer_that_a_float_doesn_t_hold_is_refused(value: int) -> None:
    for values in ([value], [1.5, value, "a"]):
        with pytest.raises(InexactError):
            column(values)
    for text in ("a = {}", "a in (1, {})", "a between 0 and {}", "a > {}"):
        expression: Any = filters.parse(text.format(value if value < 10**300 else 2**60 + 1))
        with pytest.raises(InexactError):
            holding(expression, column([1, 2.5, None, "x"]))


def test_every_float_equals_itself_after_a_trip_through_json() -> None:
    floats = (np.random.default_rng(0).normal(size=2000) * 10.0 ** np.arange(-100, 100, 0.1)).tolist()
    values = column(json.loads(json.dumps(floats)))
    for i in range(0, 2000, 7):
        expression: Any = filters.parse(f"a = {floats[i]!r}")
        assert np.flatnonzero(holding(expression, values)).tolist() == [i]
