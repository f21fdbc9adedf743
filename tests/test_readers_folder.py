from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.errors import SourceError
from embedstore.readers.folder import FolderReader
from embedstore.types import Reader

from .pictures import encoded, image_of, noise, read_all, reasons, write_png


@contextmanager
def folder(path: Path, **options: Any) -> Iterator[FolderReader]:
    reader = FolderReader(path, workers=1, **options)
    try:
        yield reader
    finally:
        reader.close()


def test_ids_are_relative_paths_in_order_and_labels_parent_folders(tmp_path: Path) -> None:
    pictures = {name: write_png(tmp_path / name, i) for i, name in enumerate(["b/2.png", "a/deep/1.png", "0.png"])}
    with folder(tmp_path) as reader:
        assert isinstance(reader, Reader)
        ids, payloads, metadata, failures = read_all(reader, size=2)
        chunk = next(iter(reader.chunks(10)))
        assert chunk.sources == [f"{tmp_path}/{name}" for name in ids]
    assert ids == ["0.png", "a/deep/1.png", "b/2.png"]
    assert metadata == [{}, {"label": "deep"}, {"label": "b"}]
    assert failures == []
    for name, payload in zip(ids, payloads, strict=True):
        np.testing.assert_array_equal(payload, pictures[name])
    assert (reader.scope, reader.count()) == (str(tmp_path), 3)


def test_labels_can_be_left_out(tmp_path: Path) -> None:
    write_png(tmp_path / "a" / "1.png")
    with folder(tmp_path, labels=False) as reader:
        assert read_all(reader)[2] == [{}]


def test_reading_twice_gives_the_same_and_prefetching_changes_nothing(tmp_path: Path) -> None:
    for i in range(10):
        write_png(tmp_path / f"{i}.png", i, height=5 + i % 2)
    with folder(tmp_path) as reader:
        first = read_all(reader, size=4)
        for start, chunk in zip((0, 4, 8), reader.chunks(4), strict=True):
            chunk.prefetch(range(len(chunk.ids)))
            some = chunk.load([1])
            both = chunk.load([0, 1])  # after a load everything can be asked for again
            np.testing.assert_array_equal(some.pictures[0], first[1][start + 1])
            np.testing.assert_array_equal(both.pictures[0], first[1][start])
            assert [chunk.ids[i] for i in both.which] == first[0][start : start + 2]


def test_pictures_of_one_size_come_as_one_array(tmp_path: Path) -> None:
    for i in range(3):
        write_png(tmp_path / f"{i}.png", i)
    with folder(tmp_path) as reader:
        loaded = next(reader.chunks(9)).load([0, 2])
    assert isinstance(loaded.pictures, np.ndarray)
    np.testing.assert_array_equal(loaded.pictures, np.stack([noise(seed=0), noise(seed=2)]))
    assert loaded.thumbs is not None
    assert loaded.thumbs[1] == encoded(image_of(noise(seed=2)), compress_level=4)


def test_large_pictures_are_reduced_and_keep_their_size_on_record(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", height=300, width=200)
    with folder(tmp_path, max_side=60) as reader:
        loaded = next(reader.chunks(9)).load([0])
    assert loaded.pictures[0].shape == (60, 40, 3)
    assert loaded.sizes == [(200, 300)]


def test_every_unreadable_entry_is_a_failure_and_costs_no_other(tmp_path: Path) -> None:
    write_png(tmp_path / "good.png")
    (tmp_path / "renamed.jpg").write_bytes(encoded(image_of(noise(seed=3))))
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("this is no picture")
    os.mkfifo(tmp_path / "fifo.png")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
    (tmp_path / "nowhere.png").symlink_to("gone.png")
    (tmp_path / "self.png").symlink_to("self.png")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
        file.write(encoded(image_of(noise())))
    with folder(tmp_path) as reader:
        assert reader.count() == 10
        ids, payloads, _, failures = read_all(reader)
    assert ids == ["good.png", "renamed.jpg"]
    np.testing.assert_array_equal(payloads[1], noise(seed=3))
    said = reasons(failures)
    assert said.pop("empty.png") == "the file is empty"
    assert "is no picture in a format read here" in said.pop("text.png")
    assert said.pop("fifo.png") == said.pop("pipe") == "is a FIFO, not a regular file"
    assert said.pop("s.png") == "is a socket, not a regular file"
    assert said.pop("nowhere.png") == "is a link that leads nowhere (No such file or directory)"
    assert said.pop("caf\\xe9.png").startswith("the name is not valid UTF-8")
    assert "self.png" in said
    assert len(said) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_failure(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    write_png(tmp_path / "b.png")
    (tmp_path / "a.png").chmod(0)
    with folder(tmp_path) as reader:
        ids, _, _, failures = read_all(reader)
    assert ids == ["b.png"]
    assert reasons(failures) == {"a.png": "can't be opened: Permission denied"}


def test_a_folder_that_can_not_be_read_is_a_failure_and_the_root_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_png(tmp_path / "x" / "1.png")
    write_png(tmp_path / "y" / "1.png")
    closed = [f"{tmp_path}/y/"]

    def scandir(path: str) -> Any:
        if path in closed:
            raise PermissionError(13, "Permission denied")
        return os_scandir(path)

    os_scandir = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    with folder(tmp_path) as reader:
        ids, _, _, failures = read_all(reader)
    assert (ids, reasons(failures)) == (["x/1.png"], {"y/": "the folder can't be read: Permission denied"})
    closed.append(f"{tmp_path}/")
    with pytest.raises(SourceError, match="can't be read: Permission denied"):
        FolderReader(tmp_path)


def test_a_link_that_leads_nowhere_is_a_failure_unless_it_is_named_as_something_else(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    for name in ("album", "b.png", "notes.txt"):
        (tmp_path / name).symlink_to(tmp_path / "gone" / name)
    with folder(tmp_path) as reader:
        said = reasons(read_all(reader)[3])
    assert said == dict.fromkeys(["album", "b.png"], "is a link that leads nowhere (No such file or directory)")


def test_a_file_beyond_the_memory_limit_fails_unread(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    with (tmp_path / "b.png").open("wb") as file:
        file.truncate(12 << 30)
    with folder(tmp_path, memory_limit=1 << 28) as reader:
        said = reasons(read_all(reader)[3])
    assert said == {"b.png": "has 12 GiB, more than may be read of one file (256 MiB)"}


def test_a_file_that_vanishes_after_the_scan_is_a_failure(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    write_png(tmp_path / "b.png")
    with folder(tmp_path) as reader:
        (tmp_path / "a.png").unlink()
        assert reasons(read_all(reader)[3]) == {"a.png": "can't be opened: No such file or directory"}


def test_loops_of_links_end_and_every_folder_is_read_once(tmp_path: Path) -> None:
    write_png(tmp_path / "real" / "1.png")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "real" / "self").symlink_to(".")
    (tmp_path / "a-link").symlink_to("real")  # sorts before the real folder, which must win all the same
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    write_png(outside / "2.png", 2)
    (outside / "back").symlink_to(tmp_path)
    (tmp_path / "out").symlink_to(outside)
    (tmp_path / "out-again").symlink_to(outside)
    (tmp_path / "also.png").symlink_to("real/1.png")
    with folder(tmp_path) as reader:
        ids, payloads, metadata, failures = read_all(reader)
    assert ids == ["also.png", "out/2.png", "real/1.png"]
    np.testing.assert_array_equal(payloads[0], payloads[2])
    assert metadata[1] == {"label": "out"}
    assert failures == []


def test_other_files_are_left_out_quietly_but_counted(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    (tmp_path / "no-suffix").write_bytes(encoded(image_of(noise(seed=5))))
    for name in ("notes.txt", "Thumbs.db", ".hidden.png", "data.bin", "README", "short"):
        (tmp_path / name).write_text("x")
    for name in ("a.svg", "b.svg", "c.heic"):
        (tmp_path / name).write_text("x")
    write_png(tmp_path / ".git" / "x.png")
    with folder(tmp_path) as reader:
        ids, payloads, _, failures = read_all(reader)
        notes = " | ".join(reader.notes)
    assert ids == ["a.png", "no-suffix"]
    np.testing.assert_array_equal(payloads[1], noise(seed=5))
    assert failures == []
    assert "2 .svg, 1 .heic" in notes
    assert "7 files that are no pictures" in notes


def write_metadata(path: Path, records: list[dict[str, Any]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(record) for record in records))
    elif path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        lines = [",".join(records[0])] + [",".join(map(str, record.values())) for record in records]
        path.write_text("\n".join(lines))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_metadata_files_add_to_their_own_folder_and_win_over_its_name(tmp_path: Path, suffix: str) -> None:
    for name in ("1.png", "cats/1.png", "cats/2.png", "cats/sub/3.png"):
        write_png(tmp_path / name)
    write_metadata(
        tmp_path / "cats" / f"metadata{suffix}",
        [
            {"file_name": "1.png", "age": 3, "label": "tabby"},
            {"file_name": "sub/3.png", "age": 5, "label": "manx"},
            {"file_name": "gone.png", "age": 7, "label": "x"},
        ],
    )
    with folder(tmp_path) as reader:
        ids, _, metadata, failures = read_all(reader)
    assert dict(zip(ids, metadata, strict=True)) == {
        "1.png": {},
        "cats/1.png": {"label": "tabby", "age": 3},
        "cats/2.png": {"label": "cats"},
        "cats/sub/3.png": {"label": "manx", "age": 5},
    }
    line = 2 if suffix == ".parquet" else 4 if suffix == ".csv" else 3
    missing = f"cats/metadata{suffix}:{line}"
    assert reasons(failures) == {missing: "has file_name 'gone.png', which is no picture in this folder"}


def test_a_metadata_line_that_does_not_parse_is_a_failure_and_a_table_that_is_none_a_note(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "x": 1}\n{broken\n')
    (tmp_path / "metadata.csv").write_text("name,x\na.png,2\n")
    with folder(tmp_path) as reader:
        _, _, metadata, failures = read_all(reader)
        notes = reader.notes
    assert metadata == [{"x": 1}]
    assert list(reasons(failures)) == ["metadata.jsonl:2"]
    assert notes == ["metadata.csv left out: it has no column 'file_name'"]


def test_a_folder_of_nothing_but_failures_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with folder(tmp_path) as reader:
        assert reasons(read_all(reader)[3]) == {"a.png": "is a FIFO, not a regular file"}


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no folder .*nowhere"):
        FolderReader(tmp_path / "nowhere")
    (tmp_path / "a.svg").touch()
    (tmp_path / "b.txt").touch()
    with pytest.raises(SourceError, match=r"no pictures in .* \(but 1 .svg, 1 other files\): PNG, JPEG"):
        FolderReader(tmp_path)
    with pytest.raises(SourceError, match="is not a folder"):
        FolderReader(tmp_path / "b.txt")
