"""Text for terminals: whatever comes from a store is printed on one line, aligned, and never crashes the printing."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.cli import output
from embedstore.cli.search import columns

ANY_TEXT = st.text(st.characters(codec=None, categories=None), max_size=30)


@given(ANY_TEXT)
def test_printable_text_has_no_control_characters_and_can_be_encoded(text: str) -> None:
    shown = output.printable(text)
    shown.encode()
    assert not any(unicodedata.category(letter) == "Cc" for letter in shown)
    assert len(shown.splitlines()) <= 1


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_is_printed_as_it_is(text: str) -> None:
    assert output.printable(text) == text


@given(ANY_TEXT, st.integers(1, 40))
def test_shortened_text_fits_and_is_a_prefix_with_an_ellipsis(text: str, columns: int) -> None:
    short = output.shorten(text, columns)
    assert output.width(short) <= columns
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    )
)
def test_emitted_json_is_read_back_the_same(value: object) -> None:
    import contextlib
    import io

    for encoding in ("utf-8", "ascii"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        with contextlib.redirect_stdout(stream):
            output.emit(value)
        stream.flush()
        text = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert json.loads(text) == value


def test_what_json_lacks_becomes_what_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    output.emit({"nan": float("nan"), "array": np.arange(2), "scalar": np.float32(0.5), 3: (1, 2)})
    assert json.loads(capsys.readouterr().out) == {"nan": None, "array": [0, 1], "scalar": 0.5, "3": [1, 2]}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (0.0, "0.0000"),
        (-0.72699, "-0.7270"),
        (1e-5, "1e-05"),
        (123456789.0, "1.235e+08"),
    ],
)
def test_numbers(value: float, shown: str) -> None:
    assert output.number(value) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 bytes"), (1023, "1,023 bytes"), (1536, "1.5 KiB"), (5 * 2**40, "5.0 TiB")]
)
def test_sizes(count: int, shown: str) -> None:
    assert output.size(count) == shown


def test_a_table_aligns_wide_letters_and_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["id", "n", "label"], [["日本", 1, "a"], ["b", 1000, None], ["c", None, [1, "é"]]])
    assert capsys.readouterr().out.splitlines() == [
        "id        n  label",
        "日本      1  a",
        "b     1,000",
        'c            [1, "é"]',
    ]


@given(
    rows=st.lists(st.tuples(ANY_TEXT, st.floats(-10, 10), ANY_TEXT, ANY_TEXT), min_size=1, max_size=5),
    room=st.integers(40, 100),
)
def test_a_table_fits_the_terminal(rows: list[tuple[str, float, str, str]], room: int) -> None:
    import contextlib
    import io
    import os
    from unittest import mock

    with mock.patch.dict(os.environ, {"COLUMNS": str(room)}), contextlib.redirect_stdout(io.StringIO()) as stream:
        output.table(["id", "score", "label", "text"], rows, least=2)
    lines = stream.getvalue().splitlines()
    assert len(lines) == len(rows) + 1
    assert max(map(output.width, lines)) <= room


def test_metadata_columns_come_in_the_order_of_their_use() -> None:
    metadata = [{"a": 1, "box": [1], "label": "x", "b": 2}, {"b": 1, "box": [2], "c": 3}, {"b": 1}]
    assert columns(metadata) == ["label", "b", "a", "c", "box"]
