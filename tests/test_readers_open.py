from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedstore.errors import InvalidArgument, SourceError
from embedstore.readers.arrays import ArrayReader
from embedstore.readers.folder import FolderReader
from embedstore.readers.idx import IdxReader
from embedstore.readers.iterables import ItemReader
from embedstore.readers.open import open_reader
from embedstore.readers.several import FileListReader, SeveralReader, distinct_names
from embedstore.readers.table import TableReader
from embedstore.types import Item, Reader

from .pictures import encoded, image_of, noise, read_all, reasons, write_idx, write_png


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One source of each kind, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(["cats/1.png", "cats/2.png", "dogs/1.png"]):
        write_png(tmp_path / name, i)
    (tmp_path / "plain").write_bytes(encoded(image_of(noise(seed=9))))
    (tmp_path / "idx").mkdir()
    write_idx(tmp_path / "idx" / "train-images-idx3-ubyte", noise(8, 4, 1).reshape(2, 4, 4))
    write_idx(tmp_path / "set.bin", noise(8, 4, 1).reshape(2, 4, 4))
    np.save(tmp_path / "a.npy", noise(8, 4, 1).reshape(2, 4, 4))
    np.savez(tmp_path / "a.npz", x=noise(8, 4, 1).reshape(2, 4, 4))
    (tmp_path / "t.csv").write_text("path\ncats/1.png\n")
    (tmp_path / "t.jsonl").write_text('{"vector": [1, 2]}\n')
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cats", FolderReader), ("idx", IdxReader), ("idx/train-images-idx3-ubyte", IdxReader), ("set.bin", IdxReader),
        ("a.npy", ArrayReader), ("a.npz", ArrayReader), ("t.csv", TableReader), ("t.jsonl", TableReader),
        ("cats/1.png", FileListReader), ("plain", FileListReader),
    ],
)  # fmt: skip
def test_a_path_is_read_as_what_lies_there(world: Path, name: str, kind: type) -> None:
    for source in (name, Path(name), [name]):
        reader: Any = open_reader(source)
        assert type(reader) is kind
        assert reader.scope == str(world / name)
        assert len(read_all(reader)[0]) == reader.count()
        assert reader.notes == []
        reader.close()


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (noise(8, 4, 1).reshape(2, 4, 4), ArrayReader), ([noise()], ItemReader), ((noise(), noise()), ItemReader),
        (Item("a", noise()), ItemReader), (image_of(noise()), ItemReader), (iter([Item("a", noise())]), ItemReader),
        ({"a": noise()}.values(), ItemReader),
    ],
)  # fmt: skip
def test_an_object_is_read_as_what_it_is(source: Any, kind: type) -> None:
    reader: Any = open_reader(source)
    assert type(reader) is kind
    assert isinstance(reader, Reader)
    assert open_reader(reader) is reader
    assert len(read_all(reader)[0]) in (1, 2)
    reader.close()


def test_a_tensor_is_an_array() -> None:
    torch = pytest.importorskip("torch")
    reader = open_reader(torch.from_numpy(noise(8, 4, 1).reshape(2, 1, 4, 4)))
    np.testing.assert_array_equal(np.stack(read_all(reader)[1]), noise(8, 4, 1).reshape(2, 4, 4, 1))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "there is no file or folder nowhere"),
        ("empty", "there are no pictures in empty"),
        ("notes.txt", "notes.txt is of no known kind: accepted are a folder"),
        ("pipe.png", "pipe.png is a FIFO, not a file or folder"),
        ("https://example.org/x.zip", "is an address: download it"),
        (5, "a int is no source: accepted are"),
        (None, "a NoneType is no source"),
        ([], "the list is empty"),
        (["cats", "t.jsonl"], "some of the sources hold vectors"),
        (["cats", "cats"], "the same source was named twice"),
        (["cats", "nowhere"], "there is no file or folder nowhere"),
    ],
)
def test_what_is_no_source_is_named_with_what_is_accepted(world: Path, source: Any, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        open_reader(source)


def test_options_go_to_the_reader_and_unknown_ones_are_named(world: Path) -> None:
    assert read_all(open_reader("cats", labels=False, workers=1))[2] == [{}, {}]
    with pytest.raises(InvalidArgument, match="kind 'folder' has no option 'label': it has labels"):
        open_reader("cats", label=False)
    assert open_reader("a.npy", max_side=100, workers=1).count() == 2
    with pytest.raises(InvalidArgument, match="kind 'idx' has no option 'key'"):
        open_reader("idx", key="x")
    with pytest.raises(InvalidArgument, match="unknown reader 'zip'"):
        open_reader("cats", kind="zip")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("workers", -1), ("workers", 0), ("workers", "2"), ("time_limit", -1), ("time_limit", float("nan")),
        ("time_limit", None), ("max_side", 0), ("max_side", -1), ("max_side", 1.5), ("memory_limit", 0),
        ("max_pixels", True),
    ],
)  # fmt: skip
def test_limits_out_of_bounds_are_refused(world: Path, option: str, value: Any) -> None:
    for source in ("cats", [noise()]):
        with pytest.raises(InvalidArgument, match=f"{option} is .*, but must be a"):
            open_reader(source, **{option: value})


@pytest.mark.parametrize(
    "source", ["cats", "idx", "a.npy", "a.npz", "t.csv", "t.jsonl", "cats/1.png", ["cats", "dogs"]]
)
def test_every_kind_of_source_takes_a_prefix(world: Path, source: Any) -> None:
    plain, prefixed = open_reader(source, workers=1), open_reader(source, workers=1, id_prefix="x/")
    ids = read_all(plain)[0]
    assert read_all(prefixed)[0] == [f"x/{name}" for name in ids]
    assert isinstance(prefixed, Reader)
    assert (prefixed.count(), prefixed.name) == (plain.count(), plain.name)
    assert prefixed.scope == f"{plain.scope} as x/"  # pruning one leaves the other's items alone
    for reader in (plain, prefixed):
        reader.close()


def test_arrays_and_items_take_a_prefix_too() -> None:
    for source in (np.stack([noise()]), [noise()]):
        assert read_all(open_reader(source, id_prefix="x/"))[0] == ["x/00000"]
    assert read_all(open_reader([Item("a", noise())], id_prefix="x/"))[0] == ["x/a"]
    with pytest.raises(InvalidArgument, match="id_prefix is 5, but must be text"):
        open_reader([noise()], id_prefix=5)


def test_a_kind_can_be_forced(world: Path) -> None:
    with pytest.raises(SourceError, match="there are no pictures in idx"):
        open_reader("idx", kind="folder")
    assert type(open_reader("set.bin", kind="idx")) is IdxReader


def test_a_list_of_files_keeps_their_names_as_given(world: Path) -> None:
    names = ["dogs/1.png", "cats/2.png", "gone.png", "cats/1.png"]
    reader = open_reader(names, workers=1)
    ids, payloads, metadata, failures = read_all(reader, size=3)
    assert ids == ["dogs/1.png", "cats/2.png", "cats/1.png"]
    np.testing.assert_array_equal(np.stack(payloads), [noise(seed=i) for i in (2, 1, 0)])
    assert metadata == [{}, {}, {}]
    assert reasons(failures) == {"gone.png": "can't be opened: No such file or directory"}
    assert reader.scope == open_reader(names[::-1]).scope != open_reader(names[:3]).scope
    reader.close()


def test_several_folders_keep_their_ids_apart(world: Path) -> None:
    (world / "dogs" / "bad.png").touch()
    reader = open_reader(["cats", "dogs"], workers=1)
    assert type(reader) is SeveralReader
    assert reader.count() == 4
    for _ in range(2):
        ids, payloads, _, failures = read_all(reader, size=2)
        assert ids == ["cats/1.png", "cats/2.png", "dogs/1.png"]
        np.testing.assert_array_equal(np.stack(payloads), [noise(seed=i) for i in range(3)])
        assert reasons(failures) == {"dogs/bad.png": "the file is empty"}
    reader.close()


def test_sources_are_told_apart_by_as_much_of_their_path_as_it_takes() -> None:
    assert distinct_names([Path("/a/x"), Path("/b/y")]) == ["x", "y"]
    assert distinct_names([Path("/a/x"), Path("/b/x")]) == ["a/x", "b/x"]


def test_a_single_picture_is_read_upright_and_whole(world: Path) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3
    image_of(noise()[::-1, ::-1].copy()).save(buffer, "PNG", exif=exif)
    (world / "x.png").write_bytes(buffer.getvalue())
    reader = open_reader("x.png", workers=1)
    ids, payloads, _, _ = read_all(reader)
    assert ids == ["x.png"]
    np.testing.assert_array_equal(payloads[0], noise())
    reader.close()
