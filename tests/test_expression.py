"""Expressions: what they compute is what NumPy computes, and nothing but the grammar gets through."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import ExpressionError, FilterError, UnknownItem
from embedstore.latent import expression
from embedstore.latent.expression import Source, evaluate, parse

KNOWN = {name: np.random.default_rng(seed).normal(size=5).astype(np.float32) for seed, name in enumerate("abcd")}


def lookup(source: Source) -> np.ndarray:
    if source.argument not in KNOWN:
        raise UnknownItem(f"no item has the id {source.argument!r}")
    return KNOWN[source.argument]


# Pairs of a text and what it must be worth.
numbers = st.floats(-4, 4).map(lambda x: round(x, 3)).map(lambda x: (f"{x!r}", x))
leaves = st.sampled_from(sorted(KNOWN)).map(lambda name: (f"item('{name}')", KNOWN[name].astype(np.float64)))


def larger(latents: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.tuples(latents, latents).map(lambda ab: (f"({ab[0][0]} + {ab[1][0]})", ab[0][1] + ab[1][1])),
        st.tuples(latents, latents).map(lambda ab: (f"({ab[0][0]}-{ab[1][0]})", ab[0][1] - ab[1][1])),
        st.tuples(latents, numbers).map(lambda ab: (f"{ab[1][0]} * ({ab[0][0]})", ab[0][1] * ab[1][1])),
        st.tuples(latents, numbers).map(lambda ab: (f"({ab[0][0]})\n * {ab[1][0]}", ab[0][1] * ab[1][1])),
        latents.map(lambda a: (f"-({a[0]})", -a[1])),
        latents.map(lambda a: (f"({a[0]}) / 2.5", a[1] / 2.5)),
        st.tuples(latents, latents, numbers).map(
            lambda abt: (f"mix({abt[0][0]}, {abt[1][0]}, {abt[2][0]})", abt[0][1] + abt[2][1] * (abt[1][1] - abt[0][1]))
        ),
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(leaves, larger, max_leaves=12))
def test_an_expression_is_worth_what_numpy_says(pair: tuple[str, np.ndarray]) -> None:
    text, expected = pair
    np.testing.assert_allclose(evaluate(parse(text), lookup), expected, rtol=1e-5, atol=1e-5)


def test_a_unit_has_length_one_and_the_sources_are_listed() -> None:
    found = evaluate(parse("unit(item('a') + 2*item('b'))"), lookup)
    expected = KNOWN["a"] + 2 * KNOWN["b"]
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=1e-6)
    sources = parse("item('a') - mean(\"label = 'x'\") * 2 + mix(cluster(3), direction('d'), 0.5)").sources()
    assert [(one.name, one.argument) for one in sources] == [
        ("item", "a"), ("mean", "label = 'x'"), ("cluster", 3), ("direction", "d"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said", "pointed"),
    [
        ("item('a') + 1", "can't be added", "item"),
        ("item('a') * item('b')", "can't be multiplied", "item"),
        ("1 / item('a')", "divided by a latent", "1"),
        ("item('a') / 0", "divides by zero", "item"),
        ("item('a') / (1 - 1)", "divides by zero", "item"),
        ("2 * 3", "a number, not a latent", "2"),
        ("item('a') ** 2", "only + - * /", "item"),
        ("item(a)", "in quotes: item('a')", "a)"),
        ("item()", "takes one argument", "item"),
        ("item('a', 'b')", "takes one argument", "item"),
        ("item(id='a')", "by place", "item"),
        ("item(*'a')", "by place", "item"),
        ("item('a') + itm('b')", "did you mean item?", "itm"),
        ("item('a') + 'b'", "did you mean item('b')?", "'b'"),
        ("a + item('b')", "did you mean item('a')?", "a"),
        ("item", "alone is nothing", "item"),
        ("mix(item('a'), item('b'))", "mix(a, b, t)", "mix"),
        ("mix(item('a'), item('b'), item('c'))", "is a number", "item('c')"),
        ("mix(1, item('b'), 0.5)", "takes latents", "1"),
        ("unit(3)", "takes latents", "3"),
        ("item('a').__class__", "only numbers", "item"),
        ("(lambda: item('a'))()", "only the named functions", "lambda"),
        ("[item('a')]", "only numbers", "["),
        ("item('a') if 1 else item('b')", "only numbers", "item"),
        ("__import__('os')", "unknown function", "__import__"),
        ("item(f'a')", "takes an id", "f'a'"),
        ("item(b'a')", "takes an id", "b'a'"),
        ("item(True)", "takes an id", "True"),
        ("item('a') * True", "no number", "True"),
        ("item('a') * 1j", "no number", "1j"),
        ("item('a') * 1e999", "too large", "1e999"),
        ("item('a') * (1e308 * 10)", "too large", "1e308"),
        ("größe('ä') + item('a')", "unknown function größe", "größe"),
        ("item('ä') + b", "did you mean item('b')?", "b"),
        ("item('a') +\n  itm('b')", "did you mean item?", "itm"),
        ("item('zz') * 2", "no item has the id 'zz'", "item"),
        ("item('a') + 2 * item('zz')", "no item has the id 'zz'", "item('zz')"),
        ("unit(item('a') - item('a'))", "has no unit", "unit"),
        ("item('a') * 1e300", "not finite", "item"),
    ],
)
def test_what_is_wrong_is_said_with_a_caret_under_it(text: str, said: str, pointed: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(parse(text), lookup)
    assert said in str(caught.value)
    assert caught.value.position is not None
    assert text[caught.value.position :].lstrip("(").startswith(pointed)
    *_, shown, caret = str(caught.value).split("\n")
    line = text[: caught.value.position].rsplit("\n", 1)[-1]
    assert caret == " " * (2 + len(line)) + "^"
    assert shown.strip() in text


@pytest.mark.parametrize(
    "text",
    ["", "  ", "item('a'", "item('a'))", "item('a') item('b')", "item('a') +", "'", "item('\0')", "item('\ud800')",
     "(" * 500 + "item('a')" + ")" * 500, "-" * 5000 + "item('a')", "item('a')" + "+item('a')" * 2000, "x" * 20_000,
     "item('a') # and more", "9" * 6000 + "*item('a')", "a := item('a')", "yield item('a')", "item('a'); item('b')"],
)  # fmt: skip
def test_nothing_but_the_grammar_gets_through(text: str) -> None:
    if text == "item('a') # and more":  # a comment is none of Python's business here, and does no harm
        assert np.array_equal(evaluate(parse(text), lookup), KNOWN["a"])
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ExpressionError):
            evaluate(parse(text), lookup)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("abcite m()'\"+-*/.,0123456789[]{}:=\\\n#λ"), max_size=40))
def test_any_text_either_parses_or_is_refused(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        assert np.isfinite(evaluate(parse(text), lookup)).all()


def test_limits_leave_room_for_long_sums() -> None:
    count = 400
    found = evaluate(parse(" + ".join(["item('a')"] * count)), lookup)
    np.testing.assert_allclose(found, count * KNOWN["a"], rtol=1e-5)
    assert len(parse(" + ".join(["item('a')"] * count)).sources()) == count
    with pytest.raises(ExpressionError, match=f"{expression.MAX_NODES:,}") as refused:
        parse("+".join(["item('a')"] * 900))
    assert len(str(refused.value)) < 400  # the place, not all of the text
    with pytest.raises(ExpressionError, match=str(expression.MAX_DEPTH)):
        parse("unit(" * 150 + "item('a')" + ")" * 150)
    with pytest.raises(ExpressionError, match=str(expression.MAX_DEPTH)):
        parse("item('a')+(" * 150 + "item('a')" + ")" * 150)


@pytest.mark.parametrize("text", ["item('a')) + (item('b')", "unit(item('a')))(", " item('a')) - 2 * (item('b')"])
def test_parentheses_must_match(text: str) -> None:
    with pytest.raises(ExpressionError, match="unmatched") as refused:
        parse(text)
    if "+" in text:
        assert refused.value.position == text.index("))") + 1


@pytest.mark.parametrize(
    ("text", "said", "position"),
    [
        ("item('a') +", "this is no expression", 10),
        ("test/00017", r"did you mean item\('test/00017'\)", 5),
        ("test/17", r"did you mean item\('test/17'\)", 0),
        ("item('a') + b", r"did you mean item\('b'\)", 12),
    ],
)
def test_a_mistake_is_pointed_at(text: str, said: str, position: int) -> None:
    with pytest.raises(ExpressionError, match=said) as refused:
        parse(text)
    assert refused.value.position == position


def test_a_cluster_is_a_number_or_a_name() -> None:
    for text, meant in (("3", 3), ("-1", -1), ("'boots'", "boots")):
        assert parse(f"cluster({text})").sources()[0].argument == meant
    for text in ("0x" + "f" * 5000, str(2**63), "-" + str(2**70), "1.5", "True", "-True", "item('a')"):
        with pytest.raises(ExpressionError):
            parse(f"cluster({text})")


def test_a_filters_own_caret_is_kept() -> None:
    def fails(source: Source) -> np.ndarray:
        raise FilterError("unknown field lable", str(source.argument), 0)

    with pytest.raises(ExpressionError, match=r"in mean\(...\): unknown field lable\n  lable = 1\n  \^"):
        evaluate(parse("mean('lable = 1')"), fails)
