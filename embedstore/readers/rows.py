"""Reading the rows of CSV, JSONL and Parquet tables into columns; malformed rows are failures, never a crash."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedstore.errors import MissingExtra, SourceError
from embedstore.types import Failure

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})\Z")  # at most 18 digits: it fits SQLite's 64 bits
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?\Z")
_FIELD_LIMIT = 1 << 24  # characters of one CSV field: a vector as text can be long


@dataclass(slots=True)
class Rows:
    """A table in memory.

    Attributes:
        columns: name -> values, all of the same length; None where a row has no value.
        lines: of each row, its line in the file (1-based), or its row number (0-based) for Parquet.
        numbers: of each row, its number (0-based) among all rows, those that could not be parsed included.
        failures: rows that could not be parsed, by their id where that could be, else by file and line.
        nameless: the numbers of those without an id.
    """

    columns: dict[str, list[Any]]
    lines: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    nameless: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.lines)

    def record(self, row: int, without: frozenset[str] = frozenset()) -> dict[str, Any]:
        """One row as an object, its missing values left out."""
        return {
            name: values[row]
            for name, values in self.columns.items()
            if name not in without and values[row] is not None
        }


@dataclass(frozen=True, slots=True)
class _How:
    """How values are taken in: ``convert`` and ``id_column`` of ``read_rows``."""

    path: Path
    convert: Callable[[str, Any], Any] | None
    id_column: str | None


def read_rows(
    path: Path,
    convert: Callable[[str, Any], Any] | None = None,
    skip: frozenset[str] = frozenset(),
    id_column: str | None = None,
) -> Rows:
    """Read a whole table.

    Args:
        path: .csv, .tsv, .jsonl, .ndjson or .parquet.
        convert: called with (column, value) on every value that is read, before it is kept; what it raises as
            ValueError makes the row a failure. It lets a caller take vectors out of the rows as they pass.
        skip: columns of a Parquet file that are not read.
        id_column: names the rows that fail; its values stay the text that they are.

    Raises:
        SourceError: the file as a whole can't be read.
    """
    suffix = path.suffix.lower()
    how = _How(path, convert, id_column)
    try:
        if suffix == ".parquet":
            return _read_parquet(how, skip)
        with path.open("rb") as file:
            if b"\0" in file.read(1024):
                raise SourceError(f"{path} is not a text file, though its name ends in {suffix}")
        return _read_jsonl(how) if suffix in (".jsonl", ".ndjson") else _read_csv(how)
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror or error}") from None


def _fail(rows: Rows, how: _How, line: int, reason: str, name: Any = None) -> None:
    if name is None:
        rows.nameless.append(len(rows.lines) + len(rows.failures))
    rows.failures.append(row_failure(how.path, line, reason, name))


def row_failure(path: Path, line: int, reason: str, name: Any = None) -> Failure:
    """A row's failure under its id: what failed is then known not to be gone. Without one, under file and line."""
    if name is None:
        return Failure(f"{path.name}:{line}", reason)
    return Failure(str(name), f"{reason} ({path.name}:{line})")


def _read_csv(how: _How) -> Rows:
    path = how.path
    # Bytes that are no UTF-8 come through as surrogates, so that they cost one row and not the table.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file, _long_fields():
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        try:
            header = next(reader, None)
        except csv.Error as error:
            raise SourceError(f"{path} has no readable header line: {error}") from None
        if not header:
            raise SourceError(f"{path} is empty: a header line with column names is expected")
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise SourceError(f"{path} has two columns called {twice[0]!r}: rename one")
        rows = Rows({name: [] for name in header})
        for line, fields in _csv_lines(reader, rows, how):
            if len(fields) != len(header):
                _fail(rows, how, line, f"has {len(fields)} fields where the header has {len(header)}")
                continue
            record = {name: (text if text != "" else None) for name, text in zip(header, fields, strict=True)}
            _keep(rows, how, line, record)
    for name, values in rows.columns.items():
        rows.columns[name] = values if name == how.id_column else typed(values)
    return rows


def _csv_lines(reader: Any, rows: Rows, how: _How) -> Iterator[tuple[int, list[str]]]:
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            _fail(rows, how, line, f"can't be parsed: {error}")
            continue
        if fields:
            yield line, fields


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_jsonl(how: _How) -> Rows:
    rows = Rows({})
    with how.path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                record = json.loads(text, parse_constant=_no_constant)
            except (ValueError, RecursionError) as error:
                _fail(rows, how, line, f"is no JSON: {getattr(error, 'msg', None) or error}")
                continue
            if not isinstance(record, dict):
                _fail(rows, how, line, "is no JSON object")
                continue
            _keep(rows, how, line, record)
    return rows


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _read_parquet(how: _How, skip: frozenset[str]) -> Rows:
    path = how.path
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("pyarrow", "parquet", f"reading {path.name}") from None
    rows = Rows({})
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name not in skip]
            rows.columns = {name: [] for name in names}
            for batch in file.iter_batches(batch_size=4096, columns=names):
                for record in batch.to_pylist():
                    _keep(rows, how, len(rows) + len(rows.failures), _plain(record))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(f"{path} can't be read as Parquet: {str(error).splitlines()[0]}") from None
    return rows


def _plain(value: Any) -> Any:
    """What JSON can hold: dates as ISO text, NaN as None, bytes left out."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return value if value and isinstance(value[0], float) else [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, bytes):
        return None
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _keep(rows: Rows, how: _How, line: int, record: dict[str, Any]) -> None:
    name, convert = record.get(how.id_column) if how.id_column else None, how.convert
    try:
        for part in (*record, *record.values()):
            if isinstance(part, str):
                part.encode()
        if convert is not None:
            record = {name: convert(name, value) for name, value in record.items()}
    except UnicodeEncodeError:
        _fail(rows, how, line, "is not valid UTF-8")
        return
    except ValueError as error:
        _fail(rows, how, line, str(error), name)
        return
    count = len(rows.lines)
    for column in record:
        if column not in rows.columns:
            rows.columns[column] = [None] * count
    for column, values in rows.columns.items():
        values.append(record.get(column))
    rows.numbers.append(count + len(rows.failures))
    rows.lines.append(line)


def typed(values: list[Any]) -> list[Any]:
    """A CSV column's texts as int, float or bool, if every one of them that isn't empty is; else as they are.

    ``007`` stays text (it is a number to nobody), and so do ``nan``, ``inf`` and integers beyond 64 bits.
    """
    texts = [value for value in values if isinstance(value, str)]
    if not texts or len(texts) < sum(value is not None for value in values):
        return values
    if all(_INTEGER.match(text) for text in texts):
        return [None if value is None else int(value) for value in values]
    if all(_FLOAT.match(text) for text in texts) and all(math.isfinite(float(text)) for text in texts):
        # Long digit strings are ids, not measurements: a float would change them.
        if all("." in text or "e" in text.lower() or len(text) <= 16 for text in texts):
            return [None if value is None else float(value) for value in values]
        return values
    if all(text.lower() in ("true", "false") for text in texts):
        return [None if value is None else value.lower() == "true" for value in values]
    return values
