from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.errors import InvalidArgument, SourceError
from embedstore.readers.table import TableReader
from embedstore.types import Reader

from .pictures import read_all, reasons, write_png

VECTORS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@contextmanager
def table(path: Path, **options: Any) -> Iterator[TableReader]:
    reader = TableReader(path, workers=1, **options)
    try:
        yield reader
    finally:
        reader.close()


def write_table(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write records as the kind of table the name says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            for record in records:
                writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in record.items()})
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_pictures_are_found_from_the_tables_folder(tmp_path: Path, suffix: str) -> None:
    pictures = [write_png(tmp_path / "images" / f"{i}.png", i) for i in range(3)]
    outside = write_png(tmp_path.parent / f"{tmp_path.name}-x.png", 9)
    files = [*(f"images/{i}.png" for i in range(3)), f"../{tmp_path.name}-x.png"]
    records = [{"file_name": name, "label": "ab"[i % 2], "n": i} for i, name in enumerate(files)]
    with table(write_table(tmp_path / f"metadata{suffix}", records)) as reader:
        assert isinstance(reader, Reader)
        assert not reader.brings_vectors
        ids, payloads, metadata, failures = read_all(reader, size=3)
    assert ids == files
    np.testing.assert_array_equal(np.stack(payloads), [*pictures, outside])
    assert metadata == [{"label": "ab"[i % 2], "n": i} for i in range(4)]
    assert failures == []


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_vectors_are_read_with_ids_and_typed_metadata(tmp_path: Path, suffix: str) -> None:
    records = [{"id": f"v{i}", "embedding": v.tolist(), "year": 1990 + i} for i, v in enumerate(VECTORS)]
    with table(write_table(tmp_path / f"t{suffix}", records)) as reader:
        assert reader.brings_vectors
        ids, payloads, metadata, failures = read_all(reader, size=2)
    assert ids == [f"v{i}" for i in range(5)]
    np.testing.assert_array_equal(np.stack(payloads), VECTORS)
    assert metadata == [{"year": 1990 + i} for i in range(5)]
    assert failures == []


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed_size_list", "doubles", "integers"])
def test_every_kind_of_parquet_list_is_a_vector(tmp_path: Path, kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    types = {
        "list": pa.list_(pa.float32()), "large_list": pa.large_list(pa.float32()),
        "fixed_size_list": pa.list_(pa.float32(), 3),
        "doubles": pa.list_(pa.float64()), "integers": pa.list_(pa.int16()),
    }  # fmt: skip
    values = [[1, 2, 3], None, [4, 5, 6]]
    pq.write_table(pa.table({"vector": pa.array(values, types[kind]), "k": ["a", "b", "c"]}), tmp_path / "t.parquet")
    with table(tmp_path / "t.parquet") as reader:
        ids, payloads, metadata, failures = read_all(reader)
    assert (ids, metadata) == (["00000", "00002"], [{"k": "a"}, {"k": "c"}])
    assert np.stack(payloads).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert reasons(failures) == {"t.parquet:1": "has no vector in column 'vector'"}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_rows_whose_vector_does_not_fit_fail_alone(tmp_path: Path, suffix: str) -> None:
    lists = [[1.0, 2.0], [1.0, 2.0, 3.0], [], [3.0, 4.0]]
    with table(write_table(tmp_path / f"t{suffix}", [{"vector": v, "x": 1} for v in lists])) as reader:
        ids, payloads, _, failures = read_all(reader)
    assert np.stack(payloads).tolist() == [lists[0], lists[3]]
    assert len(ids) == 2
    first = 2 if suffix == ".jsonl" else 1
    said = reasons(failures)
    assert said[f"t{suffix}:{first}"] == "has a vector of 3 values where the first has 2"
    assert f"t{suffix}:{first + 1}" in said


def test_malformed_rows_fail_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('id,vector\na,"[1, 2]"\nb\nc,"[1, x]"\nd,\ne,"[3, 4]"\n')
    with table(tmp_path / "t.csv") as reader:
        assert reader.count() == 5
        ids, payloads, _, failures = read_all(reader)
    assert ids == ["a", "e"]
    assert np.stack(payloads).tolist() == [[1, 2], [3, 4]]
    assert (reader.unidentified, reader.unread) == (True, set())
    assert set(reasons(failures)) == {"t.csv:3", "c", "d"}
    assert reasons(failures)["d"] == "has no list of numbers in column 'vector' (t.csv:5)"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_malformed_row_does_not_change_the_numbers_of_the_rows_behind_it(tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path / f"t{suffix}", [{"vector": [i, i + 1]} for i in range(4)])
    lines = path.read_text().splitlines()
    lines[-3] = "[1"
    path.write_text("\n".join(lines))
    with table(path) as reader:
        ids, payloads, _, failures = read_all(reader)
        # Lines of a CSV aren't rows for sure: a quote that isn't closed swallows all lines up to the next.
        assert (reader.unidentified, reader.unread) == ((True, set()) if suffix == ".csv" else (False, {"00001"}))
    assert (ids, np.stack(payloads)[:, 0].tolist()) == (["00000", "00002", "00003"], [0, 2, 3])
    assert len(failures) == 1


def test_numbers_in_the_vector_column_are_not_taken_for_vectors(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"vector": 0}\n{"vector": [1, 2]}\n{"other": 1}\n')
    with table(tmp_path / "t.jsonl") as reader:
        ids, payloads, _, failures = read_all(reader)
    assert (ids, np.stack(payloads).tolist()) == (["00001"], [[1, 2]])
    assert set(reasons(failures)) == {"t.jsonl:1", "t.jsonl:3"}


def test_rows_without_a_path_and_missing_files_fail_alone(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    records = [{"path": "a.png"}, {"path": None}, {"path": "gone.png"}]
    with table(write_table(tmp_path / "t.jsonl", records)) as reader:
        ids, _, _, failures = read_all(reader)
    assert ids == ["a.png"]
    said = {"t.jsonl:2": "has no path to a picture", "gone.png": "can't be opened: No such file or directory"}
    assert reasons(failures) == said


def test_columns_can_be_named(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    records = [{"where": "a.png", "feat": [1.0, 2.0], "key": "k"}]
    path = write_table(tmp_path / "t.jsonl", records)
    with table(path, path_column="where", id_column="key") as reader:
        assert (reader.brings_vectors, read_all(reader)[0]) == (False, ["k"])
    with table(path, vector_column="feat") as reader:
        ids, payloads, metadata, _ = read_all(reader)
        assert (ids, payloads[0].tolist(), metadata) == (["00000"], [1.0, 2.0], [{"where": "a.png", "key": "k"}])
    for option in ({"path_column": "no"}, {"vector_column": "no"}):
        with pytest.raises(SourceError, match=r"no column .*'no'"):
            TableReader(path, **option)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_with_both_is_read_as_pictures_and_says_so(tmp_path: Path, suffix: str) -> None:
    write_png(tmp_path / "a.png")
    path = write_table(tmp_path / f"t{suffix}", [{"id": "x", "file_name": "a.png", "vector": [1.0, 2.0], "n": 1}])
    with table(path) as reader:
        ids, _, metadata, _ = read_all(reader)
        assert (ids, metadata, len(reader.notes)) == (["x"], [{"n": 1}], 1)


def test_tables_without_anything_to_read_say_what_they_have(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="it has a, b"):
        TableReader(write_table(tmp_path / "t.csv", [{"a": 1, "b": 2}]))
    (tmp_path / "empty.csv").write_text("file_name\n")
    with pytest.raises(SourceError, match="has no rows"):
        TableReader(tmp_path / "empty.csv")
    (tmp_path / "bad.jsonl").write_text("{\n{\n")
    with pytest.raises(SourceError, match=r"has no readable row: bad.jsonl:1"):
        TableReader(tmp_path / "bad.jsonl")
    with pytest.raises(SourceError, match="there is no file"):
        TableReader(tmp_path / "gone.csv")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_whatever_is_damaged_is_read_or_refused(tmp_path: Path, suffix: str) -> None:
    records = [{"id": f"v{i}", "vector": v.tolist(), "näme": "é", "n": i} for i, v in enumerate(VECTORS)]
    path = write_table(tmp_path / f"t{suffix}", records)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    refusals = []
    for _ in range(250):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 5)):
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        try:
            read_all(TableReader(path))
        except SourceError as error:
            refusals.append(str(error))
    assert all(path.name in said for said in refusals)
    assert len(refusals) > 10 * (suffix == ".parquet")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_vectors_can_be_asked_for_whatever_else_a_table_has(tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path / f"t{suffix}", [{"id": "x", "file_name": "a.png", "vector": [1.0, 2.0]}])
    with table(path, vectors=True) as reader:
        ids, payloads, metadata, _ = read_all(reader)
        assert (ids, payloads[0].tolist(), metadata, reader.notes) == (["x"], [1, 2], [{"file_name": "a.png"}], [])
    with pytest.raises(SourceError, match=r"t2.* has no column of vectors \(vector, embedding, embeddings\)"):
        TableReader(write_table(tmp_path / f"t2{suffix}", [{"file_name": "a.png"}]), vectors=True)
    with pytest.raises(InvalidArgument, match="path_column= and vectors=True"):
        TableReader(path, vectors=True, path_column="file_name")
