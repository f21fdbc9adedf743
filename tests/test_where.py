"""Filters as SQL: what SQLite selects is what the Python evaluator says is true."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import embedstore
from embedstore import filters
from embedstore.errors import FilterError
from embedstore.filters import And, Between, Comparison, Expression, Field, In, IsNull, Like, Not, Or
from embedstore.metadata.fields import check_fields
from embedstore.metadata.runs import Clusters, Runs
from embedstore.metadata.where import to_sql

items = sa.Table(
    "items",
    sa.MetaData(),
    sa.Column("row", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("source", sa.Text),
)


@pytest.fixture(scope="module")
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    items.metadata.create_all(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


Row = tuple[str, str | None, dict[str, Any]]


def _fill(connection: sa.Connection, rows: list[Row], ascii_only: bool = False) -> None:
    connection.execute(items.delete())
    values = [
        {"row": row, "id": id, "source": source, "metadata": json.dumps(metadata, ensure_ascii=ascii_only)}
        for row, (id, source, metadata) in enumerate(rows)
    ]
    if values:
        connection.execute(items.insert(), values)


def _selected(connection: sa.Connection, expression: Expression) -> list[int]:
    return list(connection.scalars(sa.select(items.c.row).where(to_sql(expression, items)).order_by(items.c.row)))


# Few different keys and values, so that filters find something; each of them is there because it is awkward.
ODD_KEYS = [
    "a",
    "b",
    "",
    "f number",
    "a.b",
    'a"b',
    "a\\b",
    "größe",
    "\n",
    "$",
    "a[0]",
    "'",
    "0",
    "😀",
    "\\u0061",
    "#-1",
]
keys = st.sampled_from(ODD_KEYS)
texts = st.sampled_from(
    ["", "a", "A", "ab", "a_b", "a%b", "5", "1", "true", "null", "[1]", '{"a": 1}', "ä", "Ä", "😀", "\n"]
)
texts |= st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufffe\uffff"), max_size=3)
numbers = st.sampled_from(
    [0, 1, -1, 5, 0.5, -0.0, 1.0, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, 2**63, -(2**63), -(2**63) - 1]
)
numbers |= st.sampled_from([10**30, 1e30, 0.1, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, 10**308, 10**400])
numbers |= st.integers() | st.floats(allow_nan=False, allow_infinity=False)
literals = numbers.filter(lambda number: abs(number) < 2**1023)
# Half of all values come from a handful, or equal values of different types would hardly ever meet.
common = st.sampled_from([0, 1, 1.0, 0.5, True, False, "1", "0", "true", "a", "A"])
values = common | common | texts | literals
data = st.recursive(
    common | common | common | texts | numbers | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=4,
)
rows = st.lists(st.tuples(texts, st.none() | texts, st.dictionaries(st.just("a") | keys, data, max_size=5)), max_size=6)
fields = st.builds(Field, st.lists(keys, min_size=1, max_size=2).map(tuple))
fields |= st.just(Field(("a",))) | st.sampled_from([Field(("id",), True), Field(("source",), True), Field(("b", "a"))])
patterns = st.lists(st.sampled_from(["%", "_", "a", "B", "5", "ä", "[", "\\", "!!", "!%", "!_"]), max_size=4).map(
    "".join
)
ordered = texts | literals
leaves = st.one_of(
    st.builds(Comparison, fields, st.sampled_from(["=", "!="]), values),
    st.builds(Comparison, fields, st.sampled_from(["<", "<=", ">", ">="]), ordered),
    st.builds(In, fields, st.lists(values, min_size=1, max_size=4).map(tuple), st.booleans()),
    st.builds(Like, fields, patterns, st.sampled_from([None, "!"]), st.booleans()),
    st.builds(Between, fields, ordered, ordered, st.booleans()),
    st.builds(IsNull, fields, st.booleans()),
)


def _nested(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    several = st.lists(inner, min_size=2, max_size=10).map(tuple)
    return st.builds(And, several) | st.builds(Or, several) | st.builds(Not, inner)


expressions = st.recursive(leaves, _nested, max_leaves=10)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows, st.lists(expressions, min_size=1, max_size=4), st.booleans())
@example([("a", None, {"a": [1]}), ("b", None, {"a": "[1]"})], [Comparison(Field(("a",)), "=", "[1]")], False)
@example([("a", None, {"a": True}), ("b", None, {"a": 1})], [Comparison(Field(("a",)), "=", 1)], False)
def test_sqlite_selects_what_the_evaluator_says_is_true(
    connection: sa.Connection, rows: list[Row], asked: list[Expression], ascii_only: bool
) -> None:
    _fill(connection, rows, ascii_only)
    for expression in asked:
        expected = [row for row, item in enumerate(rows) if filters.evaluate(expression, *item) is True]
        assert _selected(connection, expression) == expected, filters.format(expression)


AWKWARD: list[Any] = [0, 1, -1, 1.0, 0.5, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, 2**63, -(2**63) - 1, 1e30, 10**30]
AWKWARD += [True, False, "", "0", "1", "1.0", "true", "null", "a", "A", "b", "ä", "Ä", "[1]", '{"a": 1}']


@pytest.mark.parametrize("literal", AWKWARD, ids=repr)
@pytest.mark.parametrize("key", ["a", 'a"b'])
def test_every_operator_on_every_pair_of_awkward_values(connection: sa.Connection, literal: Any, key: str) -> None:
    rows: list[Row] = [("x", None, {key: value}) for value in [*AWKWARD, None, [1], {"a": 1}, 10**400]]
    rows += [(id, id, {}) for id in AWKWARD if isinstance(id, str)]
    _fill(connection, rows)
    for field in (Field((key,)), Field(("id",), True), Field(("source",), True)):
        asked: list[Expression] = [Comparison(field, "=", literal), Comparison(field, "!=", literal)]
        asked += [In(field, (literal, "b", 1), negated) for negated in (False, True)]
        if not isinstance(literal, bool):
            asked += [Comparison(field, operator, literal) for operator in ("<", "<=", ">", ">=")]
            asked += [Between(field, literal, literal, negated) for negated in (False, True)]
        if isinstance(literal, str):
            asked += [Like(field, pattern, None, False) for pattern in (literal, f"%{literal}", f"{literal}_")]
        for expression in [*asked, *(Not(one) for one in asked)]:
            expected = [row for row, item in enumerate(rows) if filters.evaluate(expression, *item) is True]
            assert _selected(connection, expression) == expected, filters.format(expression)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_every_float_equals_itself(connection: sa.Connection, floats: list[float]) -> None:
    _fill(connection, [("x", None, {"a": number}) for number in floats])
    for number in floats:
        expected = [row for row, other in enumerate(floats) if other == number]
        assert _selected(connection, filters.parse(f"a = {number!r}")) == expected


@pytest.mark.parametrize("key", [*ODD_KEYS, '"', "\\", "]", "\x7f", "\x01", "a\tb", "$.a", '"a"', "ẞ", "\u2028"])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_every_key_is_found_at_the_top_and_inside(connection: sa.Connection, key: str, ascii_only: bool) -> None:
    decoys = [{"x": 1}, {"a": {"b": 1}}, {}]
    metadata = [{key: 1}, {"in": {key: 1}}, {key: {key: 1}}, {key: None}, *decoys]
    _fill(connection, [("x", None, one) for one in metadata], ascii_only)
    for path in ((key,), ("in", key), (key, key)):
        for leaf in (Comparison(Field(path), "=", 1), IsNull(Field(path), True), IsNull(Field(path))):
            expected = [row for row, one in enumerate(metadata) if filters.evaluate(leaf, "x", None, one) is True]
            assert _selected(connection, leaf) == expected
            assert expected


@pytest.mark.parametrize(
    "text", ["a = 1", "größe = 1", "größe is null", "not größe.x = 1", "id != 5", "id = 'x' or id = 5"]
)
def test_a_condition_names_the_table_even_where_no_column_is_selected(connection: sa.Connection, text: str) -> None:
    _fill(connection, [("x", None, {"a": 1, "größe": 1}), ("y", None, {})])
    condition = to_sql(filters.parse(text), items)
    counted = connection.scalar(sa.select(sa.func.count()).where(condition))
    assert counted == len(connection.execute(sa.select(items.c.row).where(condition)).all())


def test_text_that_looks_like_sql_is_text(connection: sa.Connection) -> None:
    hostile = "x' OR 1=1; DROP TABLE items; --"
    _fill(connection, [("a", None, {"t": hostile}), ("b", None, {"t": "y", hostile: 1})])
    assert _selected(connection, Comparison(Field(("t",)), "=", hostile)) == [0]
    assert _selected(connection, Comparison(Field((hostile,)), "=", 1)) == [1]
    assert _selected(connection, Like(Field(("t",)), hostile, "'")) == []
    statement = str(to_sql(In(Field((hostile,)), (hostile, 1.5)), items))
    assert "DROP" not in statement
    assert "1.5" not in statement


def test_the_deepest_and_the_longest_filters_run_even_from_deep_inside_a_program(connection: sa.Connection) -> None:
    deep = "a = 1"
    for _ in range(filters.MAX_DEPTH):
        deep = f"(b = 1 or c = 1 and {deep})"
    wide = "a = 1"
    for level in range(filters.MAX_DEPTH):
        wide = "(" + (" or " if level % 2 else " and ").join(["a=1"] * 30 + [wide]) + ")"
    cases = [
        deep,
        wide,
        " or ".join(["a=1"] * 1400),
        " and ".join(["a=1"] * 1100),
        f"not ({' or '.join(['a!=1'] * 1100)})",
    ]
    cases.append("a in (" + ", ".join(f"{number}.5" for number in range(1000)) + ", 1)")
    _fill(connection, [("x", None, {"a": 1, "c": 1}), ("y", None, {"a": 2})])

    def after(frames: int, text: str) -> list[int]:
        return after(frames - 1, text) if frames else _selected(connection, filters.parse(text))

    frames = sys.getrecursionlimit() // 4
    for text in cases:
        assert after(frames, text) == [0], text[:80]


def test_an_index_on_ids_is_used(connection: sa.Connection) -> None:
    _fill(connection, [("a", None, {"n": 4}), ("b", None, {"n": 3})])
    connection.execute(sa.text("CREATE UNIQUE INDEX IF NOT EXISTS by_id ON items (id)"))
    try:
        condition = to_sql(filters.parse("id in ('a', 'b') and n > 3"), items)
        compiled = sa.select(items.c.row).where(condition).compile(connection, compile_kwargs={"literal_binds": True})
        plan = connection.execute(sa.text("EXPLAIN QUERY PLAN " + str(compiled).replace(":", "\\:"))).all()
        assert any("by_id" in row[3] for row in plan)
    finally:
        connection.execute(sa.text("DROP INDEX by_id"))


@pytest.mark.parametrize(
    ("text", "said", "position"),
    [
        ("lable = 'x'", "unknown field lable; did you mean label?", 0),
        ("label = 'x' or not yaer = 3", "unknown field yaer; did you mean year?", 19),
        ("ID = 'x'", "unknown field ID; did you mean id?", 0),
        ("sourc = 'x'", "did you mean source?", 0),
        ("\"source\" = 'x'", "did you mean source?", 0),
        ("camera.lens = 1", 'did you mean "camera.lens"?', 0),
        ("zzz = 1", 'known are "camera.lens", "f number", label, year', 0),
        ("f_number = 1", 'did you mean "f number"?', 0),
    ],
)
def test_an_unknown_field_is_pointed_at_with_the_nearest_names(text: str, said: str, position: int) -> None:
    known = {"label", "year", "f number", "camera.lens"}
    with pytest.raises(FilterError) as caught:
        check_fields(filters.parse(text), {(): known}.get, text)
    assert said in str(caught.value)
    assert caught.value.position == position


def test_known_fields_and_built_in_ones_pass() -> None:
    known = {(): {"a"}, ("a",): {"b"}, ("a", "b"): {"c"}}
    check_fields(filters.parse("id = 'x' and source is null and cluster = 1 and a.b.c = 3"), known.get)
    with pytest.raises(FilterError, match="the items have no metadata"):
        check_fields(filters.parse("a = 1"), {(): set[str]()}.get)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("camera.lense = 1", "unknown field camera.lense; did you mean camera.lens?"),
        ("camera.zzz = 1", "unknown field camera.zzz; known are camera.body, camera.lens, camera.none"),
        ("camera.body.mount = 1", "unknown field camera.body.mount; camera.body is no object in any item"),
        ("Camera.lens = 1", "unknown field Camera.lens; did you mean camera?"),
        ('"größe".y = 1', "known are größe.x"),
        ('"qu""ote".typo = 1', 'known are "qu""ote".f'),
        ("geo.plase = 1", "unknown field geo.plase; did you mean geo.place?"),
    ],
)
@pytest.mark.parametrize("ask", ["search", "count"])
def test_a_mistyped_key_within_an_object_is_pointed_at(tmp_path: Path, text: str, said: str, ask: str) -> None:
    odd = {"größe": {"x": 1}, 'qu"ote': {"f": 1}}
    metadata = [{"camera": {"lens": 5, "body": "x", "none": None}}, {"geo": {"place": 1}}, odd]
    with embedstore.create(tmp_path / "nested.store") as store:
        store.add_vectors(["a", "b", "c"], np.eye(3, dtype=np.float32), metadata)
        with pytest.raises(FilterError) as caught:
            store.search(np.ones(3, dtype=np.float32), where=text) if ask == "search" else store.count(where=text)
        assert said in str(caught.value)
        assert len(store.search(np.ones(3, dtype=np.float32), where="camera.none is null")) == 3
        assert len(store.search(np.ones(3, dtype=np.float32), where="camera.lens = 5 or geo.place = 1")) == 2


def test_clusters_are_said_to_be_missing() -> None:
    with pytest.raises(FilterError, match="no clustering yet") as caught:
        to_sql(filters.parse("id = 'x' and cluster = 3"), items, "id = 'x' and cluster = 3")
    assert caught.value.position == 13


def test_a_cluster_in_a_condition_is_bound_and_points_at_its_place() -> None:
    found = Clusters(7, [0, 1, 1], {1: "x' OR 1=1; --"})
    clusterings = {None: found, "a": found}
    text = "cluster = 'x'' OR 1=1; --' or cluster.a < 1"
    statement = str(to_sql(filters.parse(text), items, text, Runs(clusterings)))
    assert "OR 1=1" not in statement
    assert statement.count("labels.leaf IN") == 2
    for wrong, said, position in (
        ("id = 'x' and cluster = 2", "there is no cluster 2: they are numbered 0 to 1", 13),
        ("id = 'x' and cluster.b = 1", "no clustering is named 'b': there is 'a'", 13),
        ("id = 'x' and cluster = 'y'", "no cluster is named 'y': names are", 13),
    ):
        with pytest.raises(FilterError) as caught:
            to_sql(filters.parse(wrong), items, wrong, Runs(clusterings))
        assert said in str(caught.value)
        assert caught.value.position == position
    with pytest.raises(FilterError, match="`embedstore cluster name` names them"):
        to_sql(filters.parse("cluster = 'y'"), items, "", Runs({None: Clusters(7, [0, 1])}))


def test_places_are_said_to_be_missing_and_bound() -> None:
    with pytest.raises(FilterError, match="no map yet") as caught:
        to_sql(filters.parse("id = 'x' and map.y < 3"), items, "id = 'x' and map.y < 3")
    assert caught.value.position == 13
    text = "map.x between 1.25 and 3 or map.\"b\".y = 'x'' OR 1=1; --'"
    statement = str(to_sql(filters.parse(text), items, text, Runs({}, {None: 7, "b": 8})))
    assert "1.25" not in statement
    assert "OR 1=1" not in statement
    with pytest.raises(FilterError, match="no map is named 'c': there is 'b'"):
        to_sql(filters.parse("map.c.x = 1"), items, "", Runs({}, {None: 7, "b": 8}))
