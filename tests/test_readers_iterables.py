from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.errors import SourceError
from embedstore.readers.hashing import hash_rows
from embedstore.readers.iterables import ItemReader
from embedstore.types import Item, Reader

from .pictures import image_of, noise, read_all, reasons, write_png

PICTURES = [noise(seed=i) for i in range(7)]


class TorchLike:
    """As torch's map-style Datasets are: a length and pictures by number, nothing else."""

    classes = ("cat", "dog")

    def __len__(self) -> int:
        return 7

    def __getitem__(self, number: int) -> tuple[Any, int]:
        if number == 3:
            raise OSError("broken file")
        return image_of(PICTURES[number]), number % 2


class Image:
    """Named as Hugging Face's feature is."""


class ClassLabel:
    names = ("cat", "dog")


class Value:
    pass


class HuggingFaceLike:
    """The parts of datasets.Dataset that are used: features, column_names, length, and rows or columns by index."""

    features = {"photo": Image(), "kind": ClassLabel(), "year": Value()}  # noqa: RUF012
    column_names = ("photo", "kind", "year")

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 7

    def __getitem__(self, key: int | slice) -> dict[str, Any]:
        numbers = range(7)[key] if isinstance(key, slice) else [key]
        if self.broken in numbers:
            raise OSError("broken file")
        columns: dict[str, list[Any]] = {
            "photo": [image_of(PICTURES[i]) for i in numbers],
            "kind": [i % 2 for i in numbers],
            "year": [2000 + i for i in numbers],
        }
        return columns if isinstance(key, slice) else {name: values[0] for name, values in columns.items()}


def test_a_list_of_arrays_is_read_in_order_and_again() -> None:
    reader = ItemReader(PICTURES)
    assert isinstance(reader, Reader)
    for _ in range(2):
        ids, payloads, metadata, failures = read_all(reader, size=3)
        assert ids == [f"{i:05d}" for i in range(7)]
        np.testing.assert_array_equal(np.stack(payloads), PICTURES)
        assert (metadata, failures) == ([{}] * 7, [])
    assert (reader.count(), reader.brings_vectors) == (7, False)
    assert [h for chunk in reader.chunks(3) for h in chunk.hashes] == hash_rows(np.stack(PICTURES))


def test_a_generator_can_be_read_twice_and_is_run_once() -> None:
    runs = []

    def generate() -> Iterator[Item]:
        for i, picture in enumerate(PICTURES):
            runs.append(i)
            yield Item(f"n{i}", picture, {"i": i})

    reader = ItemReader(generate())
    assert reader.count() is None
    for _ in range(2):
        ids, payloads, metadata, _ = read_all(reader, size=2)
        assert ids == [f"n{i}" for i in range(7)]
        np.testing.assert_array_equal(np.stack(payloads), PICTURES)
        assert metadata == [{"i": i} for i in range(7)]
    assert runs == list(range(7))
    assert reader.count() == 7
    reader.close()


def test_a_dataset_by_number_gives_labels_and_one_bad_entry_fails_alone() -> None:
    reader = ItemReader(TorchLike())
    ids, payloads, metadata, failures = read_all(reader, size=4)
    keep = [0, 1, 2, 4, 5, 6]
    assert ids == [f"{i:05d}" for i in keep]
    np.testing.assert_array_equal(np.stack(payloads), [PICTURES[i] for i in keep])
    assert metadata[4] == {"label": "dog", "class": 1}
    assert reasons(failures) == {"00003": "the dataset raised OSError: broken file"}


def test_a_real_torch_dataset_is_read() -> None:
    data = pytest.importorskip("torch.utils.data")
    torch = pytest.importorskip("torch")
    tensors = torch.from_numpy(np.stack(PICTURES).transpose(0, 3, 1, 2).copy()).float() / 255
    dataset = data.Subset(data.TensorDataset(tensors, torch.arange(7)), [6, 0, 3])
    _, payloads, metadata, _ = read_all(ItemReader(dataset))
    np.testing.assert_array_equal(np.stack(payloads), [PICTURES[i] for i in (6, 0, 3)])
    assert metadata == [{"label": 6}, {"label": 0}, {"label": 3}]


@pytest.mark.parametrize("broken", [None, 2])
def test_a_hugging_face_dataset_gives_pictures_class_names_and_columns(broken: int | None) -> None:
    ids, payloads, metadata, failures = read_all(ItemReader(HuggingFaceLike(broken)), size=3)
    keep = [i for i in range(7) if i != broken]
    assert ids == [f"{i:05d}" for i in keep]
    np.testing.assert_array_equal(np.stack(payloads), [PICTURES[i] for i in keep])
    names = ("cat", "dog")
    assert metadata == [{"label": names[i % 2], "class": i % 2, "year": 2000 + i} for i in keep]
    assert reasons(failures) == ({} if broken is None else {"00002": "the dataset raised OSError: broken file"})


def test_paths_go_through_the_workers_and_may_be_mixed_with_arrays(tmp_path: Path) -> None:
    for i in (0, 2):
        write_png(tmp_path / f"{i}.png", i)
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "bad.png").write_text("no picture")
    source = [
        Item("a", tmp_path / "0.png"), Item("b", PICTURES[1]), Item("c", tmp_path / "fifo.png"),
        Item("d", tmp_path / "2.png"), Item("e", tmp_path / "bad.png"), Item("f", PICTURES[3], {"k": 1}),
    ]  # fmt: skip
    reader = ItemReader(source, workers=1)
    ids, payloads, metadata, failures = read_all(reader)
    assert ids == ["a", "b", "d", "f"]
    np.testing.assert_array_equal(np.stack(payloads), PICTURES[:4])
    assert metadata == [{}, {}, {}, {"k": 1}]
    said = reasons(failures)
    assert said["c"] == "is a FIFO, not a regular file"
    assert "is no picture" in said["e"]
    chunk: Any = next(reader.chunks(9))
    chunk.prefetch(range(5))
    loaded = chunk.load([1, 2])
    np.testing.assert_array_equal(np.stack(loaded.pictures), PICTURES[1:3])
    reader.close()


def test_a_list_of_files_only_brings_thumbnails(tmp_path: Path) -> None:
    write_png(tmp_path / "0.png")
    reader = ItemReader([(tmp_path / "0.png", "x")], workers=1)
    loaded = next(reader.chunks(1)).load([0])
    assert loaded.thumbs is not None  # type: ignore[union-attr]
    reader.close()


def test_vectors_are_recognised_by_the_first_entry_and_come_by_their_length() -> None:
    source = [
        Item("a", vector=np.array([1, 2.0])), Item("b", PICTURES[0]), Item("c", vector=np.array([1.0, 2, 3])),
        Item("d", vector=np.array([np.nan, 1])), Item("e", vector=np.array([3, 4])),
    ]  # fmt: skip
    reader = ItemReader(source)
    assert reader.brings_vectors
    ids, payloads, _, failures = read_all(reader)
    assert (ids, [payload.tolist() for payload in payloads]) == (["a", "e", "c"], [[1, 2], [3, 4], [1, 2, 3]])
    assert reasons(failures) == {"b": "is a picture among vectors", "d": "the vector holds NaN or infinity"}


def test_large_pictures_are_reduced_and_keep_their_size_on_record() -> None:
    loaded = next(ItemReader([noise(90, 60)], max_side=30).chunks(1)).load([0])
    assert loaded.pictures is not None  # type: ignore[union-attr]
    assert (loaded.pictures[0].shape, loaded.sizes) == ((30, 20, 3), [(60, 90)])  # type: ignore[union-attr]


def test_duplicate_ids_are_kept_in_order() -> None:
    assert read_all(ItemReader([Item("a", PICTURES[0]), Item("a", PICTURES[1])]))[0] == ["a", "a"]


def test_sources_without_entries_are_named() -> None:
    with pytest.raises(SourceError, match="the list is empty"):
        ItemReader([])
    with pytest.raises(SourceError, match="the generator is empty"):
        ItemReader(x for x in ())
    with pytest.raises(SourceError, match="a int can't be iterated"):
        ItemReader(5)
    with pytest.raises(SourceError, match="has no readable entry: has shape"):
        ItemReader([np.zeros((2, 2, 2, 2))])


def test_entries_that_fail_keep_their_ids_and_those_without_are_said_to_be_unknown() -> None:
    class Records(TorchLike):
        def __getitem__(self, number: int) -> Any:
            if number == 3:
                raise OSError("broken file")
            return {"id": f"r{number}", "image": "no" if number == 5 else PICTURES[number]}

    reader = ItemReader(Records(), workers=1)
    assert not reader.unidentified
    ids, _, _, failures = read_all(reader)
    assert ids == ["r0", "r1", "r2", "r4", "r6"]
    assert set(reasons(failures)) == {"00003", "r5"}
    assert reader.unidentified
    reader.close()
    numbered = ItemReader(TorchLike())
    assert set(reasons(read_all(numbered)[3])) == {"00003"}
    assert not numbered.unidentified


def test_a_mapping_of_splits_asks_for_one() -> None:
    with pytest.raises(SourceError, match="a dict of train, test is no source by itself: name one of its parts"):
        ItemReader({"train": PICTURES, "test": PICTURES})
