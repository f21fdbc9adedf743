from __future__ import annotations

import csv
import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import SourceError
from embedstore.readers.rows import read_rows, typed

from .pictures import reasons


def rows_of(path: Path, text: str | bytes) -> Any:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_rows(path)


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["1", "-20", None], [1, -20, None]),
        (["1", "2.5", "-3e2"], [1.0, 2.5, -300.0]),
        (["true", "False"], [True, False]),
        (["007", "8"], ["007", "8"]),
        (["1", "x"], ["1", "x"]),
        (["nan", "1.0"], ["nan", "1.0"]),
        (["1e999"], ["1e999"]),
        (["12345678901234567890"], ["12345678901234567890"]),
        (["+5", "1_000"], ["+5", "1_000"]),
        ([" 1"], [" 1"]),
        ([None, None], [None, None]),
    ],
)
def test_a_column_is_typed_only_if_all_of_it_is(texts: list[str | None], values: list[Any]) -> None:
    found = typed(list(texts))
    assert found == values
    assert [type(v) for v in found] == [type(v) for v in values]


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1), min_size=1))
def test_integers_survive_as_text(values: list[int]) -> None:
    assert typed([str(v) for v in values]) == values


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_floats_survive_as_text(values: list[float]) -> None:
    assert typed([repr(v) for v in values]) == values


def test_csv_rows_keep_their_lines_and_bad_ones_are_failures(tmp_path: Path) -> None:
    text = b'\xef\xbb\xbfname,n\r\na,1\r\n"two\nlines",2\r\nonly-one\r\n\r\ncaf\xe9,3\r\n"b, c",4\r\n'
    rows = rows_of(tmp_path / "t.csv", text)
    assert rows.columns == {"name": ["a", "two\nlines", "b, c"], "n": [1, 2, 4]}
    assert rows.lines == [2, 3, 8]
    assert reasons(rows.failures) == {"t.csv:5": "has 1 fields where the header has 2", "t.csv:7": "is not valid UTF-8"}


def test_tsv_is_split_at_tabs(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "t.tsv", "a\tb\n1\tx,y\n").columns == {"a": [1], "b": ["x,y"]}


def test_reading_csv_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    rows = rows_of(tmp_path / "t.csv", "a\n" + "x" * 300_000 + "\n")
    assert len(rows.columns["a"][0]) == 300_000
    assert csv.field_size_limit() == before


def test_jsonl_rows_keep_their_types_and_bad_ones_are_failures(tmp_path: Path) -> None:
    lines = [
        '{"a": 1, "b": [1, {"c": null}]}', "", "{broken", "[1]", '{"a": NaN}', '{"a": "\\ud800"}', "[" * 100_000,
        '{"b": true, "d": "é"}',
    ]  # fmt: skip
    rows = rows_of(tmp_path / "t.jsonl", "\n".join(lines))
    assert rows.columns == {"a": [1, None], "b": [[1, {"c": None}], True], "d": [None, "é"]}
    assert rows.lines == [1, 8]
    assert rows.record(1) == {"b": True, "d": "é"}
    assert set(reasons(rows.failures)) == {f"t.jsonl:{line}" for line in (3, 4, 5, 6, 7)}


@given(
    st.lists(st.dictionaries(st.text(min_size=1, max_size=5), st.integers() | st.text() | st.booleans(), max_size=4))
)
def test_any_json_objects_are_read_back(records: list[dict[str, Any]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.jsonl")
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        rows = read_rows(path)
    assert [rows.record(i) for i in range(len(rows))] == records


def test_parquet_rows_become_what_json_can_hold(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    records = [
        {"a": 1, "b": "x", "c": dt.date(2024, 5, 6), "d": {"e": [1, 2]}},
        {"a": None, "b": "y", "c": None, "d": None},
    ]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "t.parquet")
    rows = read_rows(tmp_path / "t.parquet")
    assert rows.record(0) == {"a": 1, "b": "x", "c": "2024-05-06", "d": {"e": [1, 2]}}
    assert rows.record(1) == {"b": "y"}
    assert rows.lines == [0, 1]
    assert list(read_rows(tmp_path / "t.parquet", skip=frozenset({"a", "d"})).columns) == ["b", "c"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"a,b,a\n1,2,3\n", "two columns called 'a'"),
        ("a.csv", b"PK\0\0\0", "not a text file"),
        ("a.parquet", b"PAR1 no", "can't be read as Parquet"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        rows_of(tmp_path / name, content)
    assert name in str(caught.value)
