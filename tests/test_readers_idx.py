from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from embedstore.errors import SourceError
from embedstore.readers import pieces
from embedstore.readers.idx import FASHION, IdxReader, is_idx, read_idx
from embedstore.types import Reader

from .pictures import noise, read_all, write_idx


def family(folder: Path, suffix: str = ".gz", prefix: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Write a small MNIST-like set and return its pictures (12, 6, 5, 1) and labels (12,), training first."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = noise(12 * 6, 5, 1).reshape(12, 6, 5, 1)
    labels = np.arange(12, dtype=np.uint8) % 10
    for name, part in (("train", slice(0, 8)), ("t10k" if not prefix else "test", slice(8, 12))):
        write_idx(folder / f"{prefix}{name}-images-idx3-ubyte{suffix}", pictures[part, ..., 0])
        write_idx(folder / f"{prefix}{name}-labels-idx1-ubyte{suffix}", labels[part])
    return pictures, labels


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_the_family_is_read_with_splits_and_labels(tmp_path: Path, suffix: str) -> None:
    pictures, labels = family(tmp_path, suffix)
    reader = IdxReader(tmp_path)
    assert isinstance(reader, Reader)
    assert reader.count() == 12
    ids, payloads, metadata, failures = read_all(reader, size=5)
    assert ids == [f"train/{i:05d}" for i in range(8)] + [f"test/{i:05d}" for i in range(4)]
    np.testing.assert_array_equal(np.stack(payloads), pictures)
    assert [m["label"] for m in metadata] == labels.tolist()
    assert [m["split"] for m in metadata] == ["train"] * 8 + ["test"] * 4
    assert failures == []
    reader.close()


def test_some_of_a_chunk_are_loaded_at_their_places(tmp_path: Path) -> None:
    pictures, _ = family(tmp_path)
    loaded = next(IdxReader(tmp_path).chunks(8)).load([1, 2, 6])
    np.testing.assert_array_equal(loaded.pictures, pictures[[1, 2, 6]])
    assert (list(loaded.which), loaded.sizes, loaded.thumbs) == ([1, 2, 6], [(5, 6)] * 3, None)


def test_fashion_mnist_gets_its_class_names(tmp_path: Path) -> None:
    _, labels = family(tmp_path / "Fashion-MNIST")
    metadata = read_all(IdxReader(tmp_path / "Fashion-MNIST"))[2]
    assert metadata[9] == {"split": "test", "label": "Ankle boot", "class": 9}
    assert [m["label"] for m in metadata] == [FASHION[i] for i in labels]


def test_class_names_come_from_a_file_beside_or_from_the_caller(tmp_path: Path) -> None:
    family(tmp_path)
    (tmp_path / "classes.txt").write_text("zero\none\ntwo\n")
    metadata = read_all(IdxReader(tmp_path))[2]
    assert [m["label"] for m in metadata[:4]] == ["zero", "one", "two", "3"]
    metadata = read_all(IdxReader(tmp_path, classes=["null", "eins"]))[2]
    assert (metadata[1]["label"], metadata[1]["class"]) == ("eins", 1)


def test_emnist_names_and_mapping_are_understood(tmp_path: Path) -> None:
    family(tmp_path, prefix="emnist-letters-")
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n")
    reader = IdxReader(tmp_path)
    ids, _, metadata, _ = read_all(reader)
    assert (ids[0], ids[8]) == ("train/00000", "test/00000")
    assert [m["label"] for m in metadata[:4]] == ["0", "A/a", "B/b", "3"]
    family(tmp_path, prefix="emnist-digits-")
    assert "emnist-digits-train/00000" in read_all(IdxReader(tmp_path))[0]


def test_one_split_can_be_asked_for(tmp_path: Path) -> None:
    pictures, _ = family(tmp_path)
    ids, payloads, _, _ = read_all(IdxReader(tmp_path, split="test"))
    assert ids == [f"test/{i:05d}" for i in range(4)]
    np.testing.assert_array_equal(np.stack(payloads), pictures[8:])
    with pytest.raises(SourceError, match="no split 'dev': it has test, train"):
        IdxReader(tmp_path, split="dev")


def test_a_single_file_finds_its_labels_by_name_or_goes_without(tmp_path: Path) -> None:
    pictures, labels = family(tmp_path)
    metadata = read_all(IdxReader(tmp_path / "t10k-images-idx3-ubyte.gz"))[2]
    assert [m["label"] for m in metadata] == labels[8:].tolist()
    write_idx(tmp_path / "own.idx", pictures[:2, ..., 0])
    ids, payloads, metadata, _ = read_all(IdxReader(tmp_path / "own.idx"))
    assert (ids, metadata) == (["own/00000", "own/00001"], [{"split": "own"}] * 2)
    np.testing.assert_array_equal(np.stack(payloads), pictures[:2])


def test_a_plain_file_is_preferred_to_its_gzipped_twin_and_is_mapped(tmp_path: Path) -> None:
    family(tmp_path, "")
    family(tmp_path, ".gz")
    assert IdxReader(tmp_path).count() == 12
    assert isinstance(read_idx(tmp_path / "train-images-idx3-ubyte"), np.memmap)


def test_equal_pictures_hash_alike_in_every_split(tmp_path: Path) -> None:
    same = np.zeros((3, 4, 4), dtype=np.uint8)
    for name in ("train", "t10k"):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte", same)
    assert len({h for chunk in IdxReader(tmp_path).chunks(2) for h in chunk.hashes}) == 1


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: b"PK" + data[2:], "is no IDX file"),
        (lambda data: data[:9], "its header ends early"),
        (lambda data: data[:-1], "holds 79 bytes of values where its header promises 80"),
        (lambda data: data + b"x", "promises 80"),
        (lambda data: b"", "its first bytes are missing"),
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "where its header promises"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str, damage: object, said: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    write_idx(path, noise(4 * 5, 4, 1).reshape(4, 5, 4))
    data = damage(path.read_bytes())  # type: ignore[operator]
    path.unlink()
    path = path.with_name(path.name + suffix)
    path.write_bytes(gzip.compress(data) if suffix else data)
    with pytest.raises(SourceError, match=said) as caught:
        IdxReader(tmp_path)
    assert str(path) in str(caught.value)


def test_a_torn_gzip_stream_is_named(tmp_path: Path) -> None:
    family(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(SourceError, match=r"train-images-idx3-ubyte.gz is damaged or truncated"):
        IdxReader(tmp_path)


def test_labels_that_do_not_match_are_named(tmp_path: Path) -> None:
    family(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(7, dtype=np.uint8))
    with pytest.raises(SourceError, match=r"has 7 labels, but train-images-idx3-ubyte.gz has 8 pictures"):
        IdxReader(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(8, dtype=np.float32))
    with pytest.raises(SourceError, match="labels are one integer each"):
        IdxReader(tmp_path)


def test_what_is_no_picture_set_is_refused(tmp_path: Path) -> None:
    family(tmp_path)
    with pytest.raises(SourceError, match="name the images file"):
        IdxReader(tmp_path / "train-labels-idx1-ubyte.gz")
    with pytest.raises(SourceError, match="there is no file or folder"):
        IdxReader(tmp_path / "gone")
    write_idx(tmp_path / "x.idx", np.zeros((2, 3, 3), dtype=np.float32))
    with pytest.raises(SourceError, match="pictures are uint8"):
        IdxReader(tmp_path / "x.idx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no IDX files"):
        IdxReader(tmp_path / "empty")


def test_only_idx_names_count_as_idx(tmp_path: Path) -> None:
    assert not is_idx(tmp_path)
    family(tmp_path)
    assert is_idx(tmp_path)
    names = {
        "train-images.idx3-ubyte": True,
        "t10k-labels-idx1-ubyte.gz": True,
        "images.png": False,
        "train.idx": False,
    }
    assert {name: is_idx(tmp_path / name) for name in names} == names


def test_a_gz_made_to_fill_the_memory_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_EXPANDED", 1 << 20)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    write_idx(path, np.zeros((5000, 30, 30), dtype=np.uint8))
    with pytest.raises(SourceError, match="looks like an attack on the memory"):
        IdxReader(path)
    write_idx(path, noise(5000 * 30, 30, 1).reshape(5000, 30, 30))
    assert IdxReader(path).count() == 5000
