from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

from embedstore.errors import InvalidArgument, SourceError
from embedstore.readers import pieces
from embedstore.readers.arrays import ArrayReader
from embedstore.types import Reader

from .pictures import noise, read_all, reasons

PICTURES = noise(7 * 6, 5, 3).reshape(7, 6, 5, 3)


def test_uint8_pictures_are_taken_as_they_are() -> None:
    reader = ArrayReader(PICTURES)
    assert isinstance(reader, Reader)
    ids, payloads, metadata, failures = read_all(reader, size=3)
    assert ids == [f"{i:05d}" for i in range(7)]
    np.testing.assert_array_equal(np.stack(payloads), PICTURES)
    assert (metadata, failures, reader.brings_vectors, reader.scope) == ([{}] * 7, [], False, "array")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (PICTURES[..., 0], PICTURES[..., :1]),
        (PICTURES.transpose(0, 3, 1, 2), PICTURES),
        (PICTURES.astype(np.float32) / 255, PICTURES),
        (PICTURES.astype(np.float64), PICTURES),
        (PICTURES.astype(np.uint16) * 257, PICTURES),
        (PICTURES.astype(np.int64), PICTURES),
        (PICTURES > 100, (PICTURES > 100) * np.uint8(255)),
    ],
)
def test_other_layouts_and_types_become_the_same_pictures(array: np.ndarray, expected: np.ndarray) -> None:
    reader = ArrayReader(array)
    np.testing.assert_array_equal(np.stack(read_all(reader, size=4)[1]), expected)
    hashes = [h for chunk in reader.chunks(4) for h in chunk.hashes]
    assert hashes == [h for chunk in ArrayReader(expected).chunks(9) for h in chunk.hashes]


def test_a_dark_picture_of_a_bright_set_stays_dark() -> None:
    floats = np.stack([np.full((4, 4), 1.0), np.full((4, 4), 200.0)])
    payloads = read_all(ArrayReader(floats), size=1)[1]
    assert [picture.max() for picture in payloads] == [1, 200]


def test_a_fourth_channel_is_laid_over_white() -> None:
    rgba = np.array([255, 0, 0, 255, 0, 0, 0, 0, 0, 100, 200, 128], dtype=np.uint8).reshape(1, 1, 3, 4)
    assert read_all(ArrayReader(rgba))[1][0].tolist() == [[[255, 0, 0], [255, 255, 255], [127, 177, 227]]]


def test_pictures_with_nan_fail_alone() -> None:
    floats = PICTURES.astype(np.float32) / 255
    floats[2, 0, 0, 0] = np.nan
    ids, payloads, metadata, failures = read_all(ArrayReader(floats, labels=np.arange(7)), size=4)
    keep = [0, 1, 3, 4, 5, 6]
    assert ids == [f"{i:05d}" for i in keep]
    np.testing.assert_array_equal(np.stack(payloads), PICTURES[keep])
    assert [m["label"] for m in metadata] == keep
    assert reasons(failures) == {"00002": "the picture holds NaN"}


def test_rows_of_numbers_are_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 4))
    reader = ArrayReader(vectors)
    assert reader.brings_vectors
    np.testing.assert_array_equal(np.stack(read_all(reader, size=4)[1]), vectors.astype(np.float32))


def test_vectors_with_nan_or_infinity_fail_alone() -> None:
    vectors = np.ones((5, 3), dtype=np.float32)
    vectors[1, 1], vectors[3, 0] = np.nan, np.inf
    ids, payloads, _, failures = read_all(ArrayReader(vectors))
    assert ids == ["00000", "00002", "00004"]
    assert np.stack(payloads).tolist() == [[1.0] * 3] * 3
    assert reasons(failures) == dict.fromkeys(["00001", "00003"], "the vector holds NaN or infinity")


def test_vectors_can_be_asked_for_whatever_the_shape() -> None:
    cube = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(np.stack(read_all(ArrayReader(cube, vectors=True))[1]), cube.reshape(2, 12))


def test_labels_ids_classes_and_metadata_go_with_their_rows() -> None:
    reader = ArrayReader(
        PICTURES[:3],
        labels=[0, 2, 1],
        classes=["cat", "dog", "fox"],
        ids=["a", "b", "c"],
        metadata=[{"n": i} for i in "xyz"],
    )
    ids, _, metadata, _ = read_all(reader, size=2)
    assert ids == ["a", "b", "c"]
    assert metadata[1] == {"label": "fox", "class": 2, "n": "y"}
    with pytest.raises(SourceError, match="has 7 rows, but 2 labels were given"):
        ArrayReader(PICTURES, labels=[0, 1])


def test_npy_files_are_mapped_and_named_by_their_stem(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", PICTURES)
    reader = ArrayReader(tmp_path / "set.npy")
    ids, payloads, _, _ = read_all(reader)
    assert ids[6] == "set/00006"
    np.testing.assert_array_equal(np.stack(payloads), PICTURES)
    assert next(reader.chunks(9)).sources[6] == f"{tmp_path}/set.npy#6"
    assert reader.scope == str(tmp_path / "set.npy")


def test_npz_files_bring_splits_labels_and_columns(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "keras.npz",
        x_test=PICTURES[4:], x_train=PICTURES[:4], y_train=np.array([[0], [1], [0], [1]]), y_test=np.array([5, 6, 7]),
        weight_test=np.array([0.5, np.nan, 1.5]), other=np.zeros(99),
    )  # fmt: skip
    reader = ArrayReader(tmp_path / "keras.npz")
    ids, payloads, metadata, _ = read_all(reader, size=3)
    assert ids == [f"train/{i:05d}" for i in range(4)] + [f"test/{i:05d}" for i in range(3)]
    np.testing.assert_array_equal(np.stack(payloads), PICTURES)
    assert metadata[1] == {"split": "train", "label": 1}
    assert metadata[4:] == [
        {"split": "test", "label": 5, "weight": 0.5},
        {"split": "test", "label": 6},
        {"split": "test", "label": 7, "weight": 1.5},
    ]
    reader.close()


def test_npz_vectors_with_ids_are_found_and_any_key_can_be_named(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    np.savez(tmp_path / "v.npz", vectors=vectors, ids=np.array(["a", "b", "c"]), more=PICTURES)
    reader = ArrayReader(tmp_path / "v.npz")
    assert reader.brings_vectors
    assert read_all(reader)[0] == ["a", "b", "c"]
    named = ArrayReader(tmp_path / "v.npz", key="more")
    assert (named.brings_vectors, named.count()) == (False, 7)
    with pytest.raises(SourceError, match="no array 'less': it has vectors, ids, more"):
        ArrayReader(tmp_path / "v.npz", key="less")


def test_an_npz_that_leaves_it_open_asks(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", first=PICTURES, second=PICTURES)
    with pytest.raises(SourceError, match="name one with key=: first, second"):
        ArrayReader(tmp_path / "v.npz")


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(5), "has shape"),
        (np.zeros((0, 3, 3)), "has shape"),
        (np.zeros((2, 5, 4, 6)), r"has shape \(2, 5, 4, 6\)"),
        (np.full((2, 3, 3), -1.0), "holds floats from -1 to -1"),
        (np.array([["a", "b"]]), "vectors are floats"),
    ],
)
def test_arrays_of_neither_kind_are_refused(array: np.ndarray, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        ArrayReader(array)


def test_damaged_files_and_pickles_are_refused(tmp_path: Path) -> None:
    for name, content in (
        ("a.npy", b"\x93NUMPY\x01\x00"),
        ("b.npz", b"PK\x03\x04nothing"),
        ("c.npy", b""),
        ("d.npy", b"hi"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=name):
            ArrayReader(tmp_path / name)
    with pytest.raises(SourceError, match=r"d\.npy is no file of NumPy's"):
        ArrayReader(tmp_path / "d.npy")
    (tmp_path / "g.npy").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(SourceError, match="holds Python objects, which are not read"):
        ArrayReader(tmp_path / "g.npy")
    np.save(tmp_path / "e.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SourceError, match="holds Python objects, which are not read"):
        ArrayReader(tmp_path / "e.npy")
    np.savez(tmp_path / "f.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(SourceError, match=r"f.npz holds Python objects"):
        ArrayReader(tmp_path / "f.npz")
    with pytest.raises(SourceError, match="there is no file"):
        ArrayReader(tmp_path / "gone.npy")


def test_an_exported_npz_is_read_as_it_was_written(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "r.npz",
        ids=np.array(["a", "b", "c", "d"]), sources=np.array(["/x/a.png", "", "/x/c.png", "/x/d.png"]),
        metadata=np.array(['{"label": "cat", "n": [1]}', "{}", "[1]", "{broken"]),
        vectors=np.arange(8, dtype=np.float32).reshape(4, 2),
    )  # fmt: skip
    reader = ArrayReader(tmp_path / "r.npz")
    ids, payloads, metadata, failures = read_all(reader, size=3)
    assert (ids, metadata) == (["a", "b"], [{"label": "cat", "n": [1]}, {}])
    assert np.stack(payloads).tolist() == [[0, 1], [2, 3]]
    assert next(reader.chunks(4)).sources == ["/x/a.png", None]
    said = reasons(failures)
    assert said.pop("c") == "has metadata that is no object"
    assert said.pop("d").startswith("has metadata that is no JSON: ")
    assert not said


def test_metadata_that_is_no_object_fails_alone() -> None:
    ids, _, metadata, failures = read_all(ArrayReader(PICTURES[:3], metadata=[{"a": 1}, "x", None]))
    assert (ids, metadata) == (["00000", "00002"], [{"a": 1}, {}])
    assert reasons(failures).keys() == {"00001"}


def test_labels_are_left_out_on_demand_and_must_be_numbers_of_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=PICTURES, y=np.arange(7))
    np.save(tmp_path / "a.npy", PICTURES)
    for name in ("a.npz", "a.npy"):
        assert read_all(ArrayReader(tmp_path / name, labels=False))[2] == [{}] * 7
    assert read_all(ArrayReader(tmp_path / "a.npz", labels=True))[2][6] == {"label": 6}
    with pytest.raises(InvalidArgument, match="labels that are no integers"):
        ArrayReader(PICTURES[:1], labels=["x"], classes=["c"])


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    kind = rng.random()
    if kind < 0.2:
        return data[: rng.integers(len(data))]
    changed = bytearray(data)
    for place in rng.integers(0, min(len(data), 300) if kind < 0.6 else len(data), rng.integers(1, 9)):
        changed[place] = rng.integers(256)
    return bytes(changed)


@pytest.mark.parametrize("name", ["a.npz", "b.npz", "c.npy"])
def test_whatever_is_damaged_is_read_or_refused(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "a.npz", images=PICTURES, labels=np.arange(7))
    np.savez_compressed(tmp_path / "b.npz", images=PICTURES, labels=np.arange(7))
    np.save(tmp_path / "c.npy", PICTURES.reshape(7, -1).astype(np.float32))
    data, rng = (tmp_path / name).read_bytes(), np.random.default_rng(0)
    refusals = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(300):
            (tmp_path / name).write_bytes(damaged(data, rng))
            try:
                read_all(ArrayReader(tmp_path / name))
            except SourceError as error:
                refusals.append(str(error))
    assert len(refusals) > 30
    assert all(name in said for said in refusals)


def test_an_archive_made_to_fill_the_memory_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_EXPANDED", 1 << 20)
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((2000, 30, 30), dtype=np.uint8))
    with pytest.raises(SourceError, match=r"bomb.npz \(x.npy\) grows from .* to 1,800,128 bytes"):
        ArrayReader(tmp_path / "bomb.npz")
    np.savez_compressed(tmp_path / "dense.npz", x=noise(2000 * 30, 30, 1).reshape(2000, 30, 30))
    assert ArrayReader(tmp_path / "dense.npz").count() == 2000
