"""The filter language: its grammar, its errors, its meaning."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore import filters
from embedstore.errors import FilterError, InvalidArgument
from embedstore.filters import And, Between, Comparison, Expression, Field, In, IsNull, Like, Not, Or

storable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = storable | numbers | st.booleans()
keys = storable | st.sampled_from(["label", "id", "null", "f number", 'a"b', "a.b", "größe", ""])
fields = st.builds(Field, st.lists(keys, min_size=1, max_size=3).map(tuple)) | st.sampled_from(
    [Field(("id",), True), Field(("source",), True), Field(("cluster",), True)]
)
fields |= st.builds(Field, keys.map(lambda name: ("cluster", name)), st.booleans())
orders = st.sampled_from(["<", "<=", ">", ">="])
leaves = st.one_of(
    st.builds(Comparison, fields, st.sampled_from(["=", "!="]), values),
    st.builds(Comparison, fields, orders, storable | numbers),
    st.builds(In, fields, st.lists(values, min_size=1, max_size=4).map(tuple), st.booleans()),
    st.builds(Like, fields, storable, st.none(), st.booleans()),
    st.builds(Like, fields, storable.map(lambda text: text.replace("!", "!!")), st.just("!"), st.booleans()),
    st.builds(Between, fields, numbers, numbers, st.booleans()),
    st.builds(Between, fields, storable, storable, st.booleans()),
    st.builds(IsNull, fields, st.booleans()),
)


def _nested(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.builds(And, several) | st.builds(Or, several) | st.builds(Not, inner)


expressions = st.recursive(leaves, _nested, max_leaves=8)


@given(expressions)
def test_formatted_text_parses_back_to_the_same_tree(expression: Expression) -> None:
    again = filters.parse(filters.format(expression))
    assert again == expression
    # == takes 1, 1.0 and True for the same value: the text tells them apart.
    assert filters.format(again) == filters.format(expression)


@given(st.text(st.sampled_from("ab ='\"`()<>!1.-eE,%\n") | st.characters(), max_size=40))
def test_any_text_parses_or_is_refused_with_a_place_inside_it(text: str) -> None:
    place: int | None = 0
    try:
        filters.parse(text)
    except FilterError as error:
        place = error.position
    assert place is not None
    assert 0 <= place <= len(text)


A, B, C = (Comparison(Field((key,)), "=", 1) for key in "abc")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1 or b = 1 and c = 1", Or((A, And((B, C))))),
        ("(a = 1 or b = 1) and c = 1", And((Or((A, B)), C))),
        ("not a = 1 and b = 1", And((Not(A), B))),
        ("not (a = 1 and b = 1)", Not(And((A, B)))),
        ("NOT NOT a = 1", Not(Not(A))),
        ("((a = 1))", A),
        ("a=1 AND b=1 And c=1", And((A, B, C))),
        ("a == 1", A),
        ("a <> 1", Comparison(Field(("a",)), "!=", 1)),
        ("a = 'it''s'", Comparison(Field(("a",)), "=", "it's")),
        ("a = ''", Comparison(Field(("a",)), "=", "")),
        ("a=-1.5e3", Comparison(Field(("a",)), "=", -1500.0)),
        ("a != False", Comparison(Field(("a",)), "!=", False)),
        ('"f number" >= .5', Comparison(Field(("f number",)), ">=", 0.5)),
        ('"say ""hi""" = 1', Comparison(Field(('say "hi"',)), "=", 1)),
        ("`a``b` = 1", Comparison(Field(("a`b",)), "=", 1)),
        ("a.b.\"c.d\" = 'x'", Comparison(Field(("a", "b", "c.d")), "=", "x")),
        ("id = '7'", Comparison(Field(("id",), True), "=", "7")),
        ("\"id\" = '7'", Comparison(Field(("id",), False), "=", "7")),
        ("id.x = 1", Comparison(Field(("id", "x")), "=", 1)),
        ("cluster.x = 1", Comparison(Field(("cluster", "x"), True), "=", 1)),
        ("cluster.\"b side\" in (1, 'a')", In(Field(("cluster", "b side"), True), (1, "a"))),
        ('"cluster".x = 1', Comparison(Field(("cluster", "x")), "=", 1)),
        ("cluster.x.y = 1", Comparison(Field(("cluster", "x", "y")), "=", 1)),
        ("map.x < 1", Comparison(Field(("map", "x"), True), "<", 1)),
        ('map."b side".y = 1', Comparison(Field(("map", "b side", "y"), True), "=", 1)),
        ("map.x.y = 1", Comparison(Field(("map", "x", "y"), True), "=", 1)),
        ("map.a.b.x = 1", Comparison(Field(("map", "a", "b", "x")), "=", 1)),
        ("map = 1", Comparison(Field(("map",)), "=", 1)),
        ('"map".x = 1', Comparison(Field(("map", "x")), "=", 1)),
        ("a NOT IN ('x', 2, true)", In(Field(("a",)), ("x", 2, True), True)),
        ("a not like '10!%' escape '!'", Like(Field(("a",)), "10!%", "!", True)),
        ("a between 1 and 2 and b = 1", And((Between(Field(("a",)), 1, 2), B))),
        ("a is NOT null", IsNull(Field(("a",)), True)),
        ("größe = 1", Comparison(Field(("größe",)), "=", 1)),
    ],
)
def test_grammar(text: str, expected: Expression) -> None:
    parsed = filters.parse(text)
    assert parsed == expected
    assert repr(getattr(parsed, "value", None)) == repr(getattr(expected, "value", None))


@pytest.mark.parametrize(
    ("text", "position", "said"),
    [
        ("", 0, "empty"),
        ("a", 1, "operator"),
        ("a =", 3, "expected a value, not the end"),
        ("a = Boot", 4, "single quotes, 'Boot'"),
        ('a = "Boot"', 4, "single quotes, 'Boot'"),
        ("a = null", 4, "'is null'"),
        ("a in (1, null)", 9, "'is null'"),
        ("a = 'x", 4, "never closed"),
        ('"a = 1', 0, "never closed"),
        ("a = 1 && b = 2", 6, "and, or, not"),
        ("(a = 1", 6, "expected ')'"),
        ("a = 1)", 5, "the end, not )"),
        ("a = 1 b = 2", 6, "'and', 'or'"),
        ("a in ()", 6, "expected a value"),
        ("a in 1", 5, "expected '('"),
        ("a between 1 and 'x'", 16, "one type"),
        ("a < true", 4, "no order"),
        ("a not 1", 6, "'like'"),
        ("'a' = 1", 0, "expected a field"),
        ("in = 1", 0, 'written "in"'),
        ("a. = 1", 3, "key after '.'"),
        ("a = 12abc", 4, "malformed number"),
        ("a = 1e999", 4, "too large"),
        ("a = " + "0" * 5000 + "1", 4, "too large"),
        ("a like 'x!' escape '!'", 7, "escapes nothing"),
        ("a like 'x' escape '%'", 18, "neither"),
        ("a = '\0'", 5, "U+0000"),
        ("a = '\ud800'", 5, "U+D800"),
        ("a = 1 and\nb ~ 2", 12, "unexpected"),
    ],
)
def test_an_error_points_at_the_culprit_and_says_what_to_do(text: str, position: int, said: str) -> None:
    with pytest.raises(FilterError) as caught:
        filters.parse(text)
    assert caught.value.position == position
    assert said in str(caught.value).split("\n")[0]


def test_the_caret_stands_under_the_right_line() -> None:
    with pytest.raises(FilterError) as caught:
        filters.parse("a = 1\nand b ~ 2\nand c = 3")
    assert str(caught.value).split("\n")[1:] == ["  and b ~ 2", "        ^"]


@pytest.mark.parametrize("text", ["(" * 5000 + "a = 1", "not " * 2000 + "a = 1", "(not " * 1500 + "a=1" + ")" * 1500])
def test_depth_is_bounded(text: str) -> None:
    with pytest.raises(FilterError, match="nested"):
        filters.parse(text)


def test_length_and_type_are_bounded() -> None:
    with pytest.raises(FilterError, match="10,000"):
        filters.parse("a = 1 or " * 2000 + "a = 1")
    with pytest.raises(InvalidArgument, match="int"):
        filters.parse(5)  # type: ignore[arg-type]


def test_the_deepest_and_the_longest_filters_are_worked_through() -> None:
    deep = "a = 1"
    for _ in range(filters.MAX_DEPTH):
        deep = f"(b = 1 or c = 1 and {deep})"
    long = " or ".join(["a=1"] * 1000)
    for text in (deep, long):
        parsed = filters.parse(text)
        assert filters.parse(filters.format(parsed)) == parsed
        assert filters.evaluate(parsed, "", None, {"a": 1, "c": 1}) is True


def test_fields_come_once_each_in_the_order_of_the_text_with_their_places() -> None:
    found = filters.fields(filters.parse("b = 1 and (a.x is null or not b in (2)) and id = 'b'"))
    assert [(str(field), field.position) for field in found] == [("b", 0), ("a.x", 11), ("id", 44)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n = 5", True),
        ("n = 5.0", True),
        ("n = '5'", False),
        ("n != '5'", True),
        ("n < '9'", None),
        ("not n < '9'", None),
        ("t > 1", None),
        ("flag = true", True),
        ("flag = 1", False),
        ("n = true", False),
        ("gone = 1", None),
        ("gone != 1", None),
        ("not gone = 1", None),
        ("gone is null", True),
        ("nil is null", True),
        ("nil = 1", None),
        ("list is not null", True),
        ("list = '[1]'", False),
        ("list != 1", True),
        ("gone = 1 or n = 5", True),
        ("gone = 1 and n = 6", False),
        ("gone = 1 and n = 5", None),
        ("t like 'BOOT%'", True),
        ("t like 'boo_'", False),
        ("t like 'Boots_100%'", True),
        ("t like 'boots 100!%' escape '!'", True),
        ("t not like '%shoe%'", True),
        ("n like '5'", None),
        ("umlaut like 'Ä'", False),
        ("deep.a.b = 1", True),
        ("deep.a.b.c is null", True),
        ("t.x is null", True),
        ("n between 5 and 6", True),
        ("n not between 5 and 6", False),
        ("n not in ('5', 6)", True),
        ("gone not in (1)", None),
        ("big = 9223372036854775808", True),
        ("big = 9223372036854775809", True),  # beyond 64 bits an integer counts as the nearest float
        ("edge = 9223372036854775806", False),
        ("id = 'it' and source is null", True),
        ('"id" is null', True),
    ],
)
def test_meaning(text: str, expected: bool | None) -> None:
    metadata = {"n": 5, "t": "Boots 100%", "flag": True, "nil": None, "list": [1], "umlaut": "ä"}
    metadata |= {"deep": {"a": {"b": 1}}, "big": 2**63, "edge": 2**63 - 1}
    assert filters.evaluate(filters.parse(text), "it", None, metadata) is expected


def test_clusters_are_said_to_be_missing() -> None:
    with pytest.raises(FilterError, match="no clustering yet"):
        filters.evaluate(filters.parse("cluster = 3"), "a", None, {})


@pytest.mark.parametrize(
    ("text", "boots", "nameless", "noise"),
    [
        ("cluster = 3", True, False, None),
        ("cluster = 4", False, True, None),
        ("cluster = 'boots'", True, False, None),
        ("cluster != 'boots'", False, True, None),
        ("not cluster = 3", False, True, None),
        ("cluster in (4, 'boots')", True, True, None),
        ("cluster not in (4, 'boots')", False, False, None),
        ("cluster not in ('boots')", False, True, None),
        ("cluster < 4", True, False, None),
        ("cluster between 4 and 9", False, True, None),
        ("cluster like 'boo%'", True, False, None),
        ("cluster not like 'boo%'", False, True, None),
        ("cluster is null", False, False, True),
        ("cluster is not null", True, True, False),
        ("cluster = 3 or id = 'it'", True, True, True),
        ("cluster = 3 and id = 'other'", False, False, False),
        ("cluster.second = 3", False, False, False),
        ("cluster.second is null", False, False, False),
        ("cluster = 3.0", True, False, None),
        ("cluster = '3'", False, False, None),  # a name, not the number
    ],
)
def test_meaning_of_clusters(text: str, boots: bool | None, nameless: bool | None, noise: bool | None) -> None:
    parsed = filters.parse(text)
    for cluster, expected in (((3, "boots"), boots), ((4, None), nameless), ((None, None), noise)):
        clusters = {None: cluster, "first": cluster, "second": (5, None)}
        assert filters.evaluate(parsed, "it", None, {"cluster": 3}, clusters) is expected


def test_a_clustering_that_isn_t_there_is_said_to_be_missing() -> None:
    with pytest.raises(FilterError, match="no clustering yet"):
        filters.evaluate(filters.parse("cluster.x is null"), "a", None, {}, {None: (1, None)})


@settings(max_examples=20)
@given(st.integers(20, 60))
def test_like_with_many_runs_does_not_blow_up(length: int) -> None:
    pattern = "%a" * length + "b"
    assert filters.evaluate(Like(Field(("t",)), pattern), "", None, {"t": "a" * 2000}) is False


@pytest.mark.parametrize(
    ("text", "here", "nowhere"),
    [
        ("map.x = 1.5", True, None),
        ("map.y < -2", True, None),
        ("map.y > -2", False, None),
        ("not map.x = 1.5", False, None),
        ("map.x between 1 and 2", True, None),
        ("map.x not between 1 and 2", False, None),
        ("map.first.y in (-3, 'a')", True, None),
        ("map.x is null", False, True),
        ("map.x is not null", True, False),
        ("map.x = '1.5'", False, None),
        ("map.x < 'a'", None, None),
        ("map.x like '1%'", None, None),
        ("map.second.x = 7", True, True),
        ('"map".x = 4', True, True),
    ],
)
def test_meaning_of_places(text: str, here: bool | None, nowhere: bool | None) -> None:
    for place, expected in (((1.5, -3.0), here), (None, nowhere)):
        places = {None: place, "first": place, "second": (7.0, 0.0)}
        assert filters.evaluate(filters.parse(text), "it", None, {"map": {"x": 4}}, places=places) is expected


@pytest.mark.parametrize("places", [None, {None: (0.0, 0.0)}])
def test_a_map_that_isn_t_there_is_said_to_be_missing(places: dict | None) -> None:
    with pytest.raises(FilterError, match="no map yet"):
        filters.evaluate(filters.parse("map.other.x is null"), "a", None, {}, places=places)
