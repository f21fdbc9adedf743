"""Export: what the reference tool of each format reads back is what was given."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from embedstore.errors import InvalidArgument
from embedstore.export import Exported, Records, columns, export

METADATA: list[dict[str, Any]] = [
    {
        "label": "Boot",
        "n": 1,
        "x": 0.5,
        "flag": True,
        "mixed": 1,
        "tags": ["a", {"b": None}],
        "big": 2**60,
        "id": "own",
    },
    {"label": 'comma, "quote"\r\nline', "n": -(2**63), "x": 2, "flag": False, "mixed": "1", "big": 0.5, "nil": None},
    {"label": "größe 😀", "mixed": None, "tags": {}},
    {"label": "lone \r return", "x": -1e300, "mixed": True, "id": ""},
    {},
]
KEYS = ["label", "n", "x", "flag", "mixed", "tags", "big", "id", "nil"]
IDS = ["a", "b/ä.png", "c,\n", "d", "e"]
SOURCES = ["p/a.png", None, "x\r", "d", None]
VECTORS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def _picture(index: int) -> Image.Image:
    return Image.fromarray(np.full((4, 5), 40 * index, dtype=np.uint8))


def batches(size: int = 2, vectors: bool = True, pictures: Any = _picture) -> Iterator[Records]:
    for first in range(0, len(IDS), size):
        part = slice(first, first + size)
        yield Records(
            IDS[part],
            METADATA[part],
            SOURCES[part],
            VECTORS[part] if vectors else None,
            (lambda index, first=first: pictures(first + index)) if pictures else None,
        )


def test_json_lines_hold_every_value(tmp_path: Path) -> None:
    done = export(batches(), tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert done == Exported(tmp_path / "out.jsonl", "jsonl", 5)
    for row, id, source, metadata, vector in zip(rows, IDS, SOURCES, METADATA, VECTORS, strict=True):
        assert (row.pop("id"), row.pop("source")) == (id, source)
        assert np.array_equal(np.array(row.pop("vector"), dtype=np.float32), vector)
        assert row == {"metadata.id" if key == "id" else key: value for key, value in metadata.items()}


def test_csv_holds_every_value(tmp_path: Path) -> None:
    export(batches(), tmp_path / "out.csv", keys=KEYS)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["metadata.id" if key == "id" else key for key in KEYS]
    assert list(rows[0]) == ["id", "source", *names, "vector"]
    for row, id, source, metadata, vector in zip(rows, IDS, SOURCES, METADATA, VECTORS, strict=True):
        assert (row["id"], row["source"]) == (id, source or "")
        assert np.array_equal(np.array(json.loads(row["vector"]), dtype=np.float32), vector)
        for key, name in zip(KEYS, names, strict=True):
            value = metadata.get(key)
            if value is None or isinstance(value, str):
                assert row[name] == (value or "")
            else:
                assert json.loads(row[name]) == value
                assert type(json.loads(row[name])) is type(value)


def test_parquet_has_typed_columns_where_they_are_uniform_and_json_text_elsewhere(tmp_path: Path) -> None:
    export(batches(), tmp_path / "out.parquet", keys=KEYS)
    table = pq.read_table(tmp_path / "out.parquet")
    types = {one.name: one.type for one in table.schema}
    assert types["vector"] == pa.list_(pa.float32(), 3)
    expected = {"id": pa.string(), "source": pa.string(), "label": pa.string(), "n": pa.int64(), "x": pa.float64()}
    expected |= {"flag": pa.bool_(), "mixed": pa.string(), "tags": pa.string(), "big": pa.string(), "nil": pa.string()}
    assert {name: types[name] for name in expected} == expected
    assert table["id"].to_pylist() == IDS
    assert table["source"].to_pylist() == SOURCES
    assert np.array_equal(np.array(table["vector"].to_pylist(), dtype=np.float32), VECTORS)
    for key in ("label", "n", "x", "flag", "nil"):
        assert table[key].to_pylist() == [metadata.get(key) for metadata in METADATA]
    assert table["metadata.id"].to_pylist() == [metadata.get("id") for metadata in METADATA]
    for key in ("mixed", "tags", "big"):
        assert table.schema.field(key).metadata == {b"encoding": b"json"}
        read = [None if text is None else json.loads(text) for text in table[key].to_pylist()]
        assert read == [metadata.get(key) for metadata in METADATA]


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.sampled_from([None, 0, 1, 2**53 + 1, 0.5, True, "x", [1]]) | scalars), min_size=1), st.data()
)
def test_a_parquet_column_reads_back_as_what_it_was(
    tmp_path: Path, parts: list[list[Any]], data: st.DataObject
) -> None:
    values = [value for part in parts for value in part]
    stream = (Records(["i"] * len(part), [{"k": value} for value in part], [None] * len(part)) for part in parts)
    export(stream, tmp_path / "out.parquet", keys=["k"])
    table = pq.read_table(tmp_path / "out.parquet")
    read = table["k"].to_pylist()
    if (table.schema.field("k").metadata or {}).get(b"encoding") == b"json":
        read = [None if text is None else json.loads(text) for text in read]
    assert len(read) == len(values)
    for one, other in zip(read, values, strict=True):
        assert one == other
        assert isinstance(one, bool) == isinstance(other, bool)


def test_npz_holds_every_value_and_loads_without_pickle(tmp_path: Path) -> None:
    export(batches(), tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["ids", "metadata", "sources", "vectors"]
        assert arrays["ids"].tolist() == IDS
        assert arrays["sources"].tolist() == [source or "" for source in SOURCES]
        assert [json.loads(text) for text in arrays["metadata"]] == METADATA
        assert arrays["vectors"].dtype == np.float32
        assert np.array_equal(arrays["vectors"], VECTORS)


def test_a_dataset_is_an_image_folder_with_its_table(tmp_path: Path) -> None:
    done = export(batches(pictures=lambda index: None if index == 1 else _picture(index)), tmp_path / "set", keys=KEYS)
    assert (done.format, done.count, done.left_out) == ("dataset", 4, [IDS[1]])
    table = pq.read_table(tmp_path / "set" / "metadata.parquet")
    kept = [0, 2, 3, 4]
    assert table["id"].to_pylist() == [IDS[index] for index in kept]
    assert table["label"].to_pylist() == [METADATA[index].get("label") for index in kept]
    assert np.array_equal(np.array(table["vector"].to_pylist(), dtype=np.float32), VECTORS[kept])
    for name, index in zip(table["file_name"].to_pylist(), kept, strict=True):
        with Image.open(tmp_path / "set" / name) as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(_picture(index)))
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == [*(f"set/images/000000{number}.png" for number in range(4)), "set/metadata.parquet"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".npz", ""])
def test_vectors_are_left_out_on_request_and_where_there_are_none(tmp_path: Path, suffix: str) -> None:
    def names(path: Path) -> list[str]:
        match suffix:
            case ".jsonl":
                return list(json.loads(path.read_text().split("\n")[0]))
            case ".csv":
                return path.read_text().split("\n")[0].strip().split(",")
            case ".npz":
                return list(np.load(path))
            case _:
                return list(pq.read_schema(path / "metadata.parquet" if path.is_dir() else path).names)

    export(batches(vectors=True), tmp_path / f"a{suffix}", keys=KEYS, vectors=False)
    export(batches(vectors=False), tmp_path / f"b{suffix}", keys=KEYS)
    export(batches(vectors=True), tmp_path / f"c{suffix}", keys=KEYS)
    assert "vector" not in "".join(names(tmp_path / f"a{suffix}"))
    assert "vector" not in "".join(names(tmp_path / f"b{suffix}"))
    assert "vector" in "".join(names(tmp_path / f"c{suffix}"))
    with pytest.raises(InvalidArgument, match="no vectors"):
        export(batches(vectors=False), tmp_path / f"d{suffix}", keys=KEYS, vectors=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}", f"c{suffix}"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".npz", ""])
def test_nothing_exports_to_an_empty_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    assert export(iter([]), path, keys=["label"], dimension=3).count == 0
    match suffix:
        case ".jsonl":
            assert path.read_bytes() == b""
        case ".csv":
            assert path.read_text() == "id,source,label\n"
        case ".npz":
            assert np.load(path)["ids"].tolist() == []
        case _:
            table = pq.read_table(path / "metadata.parquet" if path.is_dir() else path)
            assert table.num_rows == 0
            assert table.schema.field("vector").type == pa.list_(pa.float32(), 3)


def test_a_key_never_takes_the_name_of_another_column() -> None:
    assert columns(["a", "id", "metadata.id", "vector"]) == {
        "a": "a",
        "id": "metadata.metadata.id",
        "metadata.id": "metadata.id",
        "vector": "metadata.vector",
    }


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ""])
def test_a_key_without_a_column_is_refused_not_dropped(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InvalidArgument, match="'big' has no column"):
        export(batches(), tmp_path / f"out{suffix}", keys=[key for key in KEYS if key != "big"])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def failing() -> Iterator[Records]:
        yield from batches()
        raise RuntimeError

    for suffix in (".jsonl", ".csv", ".parquet", ".npz"):
        (tmp_path / f"out{suffix}").write_text("old")
        with pytest.raises(RuntimeError):
            export(failing(), tmp_path / f"out{suffix}", keys=KEYS)
        assert (tmp_path / f"out{suffix}").read_text() == "old"
    with pytest.raises(RuntimeError):
        export(failing(), tmp_path / "set", keys=KEYS)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"no export format .*'out\.txt'.*\.parquet"):
        export(batches(), tmp_path / "out.txt")
    with pytest.raises(InvalidArgument, match="unknown export format 'xml'"):
        export(batches(), tmp_path / "out", "xml")
    with pytest.raises(InvalidArgument, match=r"nowhere.*No such file"):
        export(batches(), tmp_path / "nowhere" / "out.jsonl")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InvalidArgument, match="new or an empty folder"):
        export(batches(), tmp_path / "full", keys=KEYS)
    with pytest.raises(InvalidArgument, match="Is a directory"):
        export(batches(), tmp_path / "full", "jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


FULL_DISK = """
import resource, sys
import numpy as np
from embedstore.errors import DiskFull
from embedstore.export import Records, export

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
vectors = np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)
for suffix in (".jsonl", ".csv", ".parquet", ".npz", ""):
    batches = (Records([str(n)] * 1000, [{}] * 1000, [None] * 1000, vectors) for n in range(3))
    if suffix == "":
        from PIL import Image
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8))
        batches = iter([Records(["a"], [{}], [None], vectors[:1], lambda index: noise)])
    try:
        export(batches, sys.argv[1] + "/out" + suffix)
    except DiskFull as error:
        print(error)
"""


def test_a_full_disk_is_said_to_be_full_and_nothing_is_left(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"no room to write {tmp_path / 'out'}{suffix}" for suffix in (".jsonl", ".csv", ".parquet", ".npz", "")
    ]
    assert list(tmp_path.iterdir()) == []


def test_texts_of_very_uneven_length_are_refused_by_npz(tmp_path: Path) -> None:
    records = Records(["a"] * 1000, [{"k": "x" * 200_000}] + [{}] * 999, [None] * 1000)
    with pytest.raises(InvalidArgument, match=r"use \.parquet"):
        export(iter([records]), tmp_path / "out.npz")
