from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedstore.readers.entries import Rules, to_item, to_uint8
from embedstore.types import Failure, Item

from .pictures import image_of, noise

PICTURE = noise(5, 6)


def item(entry: Any, **rules: Any) -> Item:
    found = to_item(entry, 7, Rules(**rules))
    assert isinstance(found, Item), found
    return found


def reason(entry: Any) -> str:
    found = to_item(entry, 7, Rules())
    assert isinstance(found, Failure), found
    return found.reason


@pytest.mark.parametrize(
    "entry",
    [PICTURE, PICTURE / 255, PICTURE.transpose(2, 0, 1), image_of(PICTURE), Item("00007", PICTURE), {"image": PICTURE}],
)
def test_every_form_of_a_picture_becomes_the_same_item(entry: Any) -> None:
    found = item(entry)
    assert (found.id, found.metadata, found.vector) == ("00007", {}, None)
    np.testing.assert_array_equal(found.picture, PICTURE)


def test_tensors_have_their_channels_in_front() -> None:
    torch = pytest.importorskip("torch")
    narrow = noise(3, 8)  # (3, 8, 3): an array of this shape reads both ways
    np.testing.assert_array_equal(item(torch.from_numpy(narrow.transpose(2, 0, 1).copy())).picture, narrow)
    np.testing.assert_array_equal(item(narrow).picture, narrow)
    unit = torch.from_numpy(PICTURE.transpose(2, 0, 1).copy()).float() / 255
    np.testing.assert_array_equal(item((unit.requires_grad_(), torch.tensor(3))).picture, PICTURE)


def test_labels_become_metadata_and_names_where_classes_are_known() -> None:
    assert item((PICTURE, 1)).metadata == {"label": 1}
    assert item((PICTURE, np.int64(1)), classes=["cat", "dog"]).metadata == {"label": "dog", "class": 1}
    assert item((PICTURE, "dog")).metadata == {"label": "dog"}
    assert item((PICTURE, {"a": 1, "b": "x"})).metadata == {"a": 1, "b": "x"}


def test_an_item_of_the_users_keeps_what_it_says() -> None:
    given = Item("mine", PICTURE[..., 0], {"when": dt.date(2024, 1, 2), "n": np.float32(0.5)}, "there#1")
    found = item(given)
    assert (found.id, found.metadata, found.source) == ("mine", {"when": "2024-01-02", "n": 0.5}, "there#1")
    np.testing.assert_array_equal(found.picture, PICTURE[..., :1])


def test_paths_name_themselves_and_point_to_their_source() -> None:
    found = item("some/where.png")
    assert (found.id, found.picture) == ("some/where.png", Path("some/where.png"))
    assert found.source == str(Path.cwd() / "some/where.png")
    assert item((Path("x.png"), "label")).id == "00007"


def test_rows_of_numbers_are_vectors() -> None:
    for entry in (np.arange(3), Item("00007", vector=np.arange(3)), {"embedding": [0, 1, 2]}):
        found = item(entry)
        assert found.vector is not None
        assert (found.vector.tolist(), found.vector.dtype) == ([0, 1, 2], np.float32)


def test_records_bring_ids_labels_and_metadata() -> None:
    record = {"id": 12, "pic": PICTURE, "label": 1, "tags": np.array([1, 2])}
    found = item(record, picture_column="pic", classes=["cat", "dog"])
    assert (found.id, found.metadata) == ("12", {"label": "dog", "class": 1, "tags": [1, 2]})


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (PICTURE - 300.0, "holds floats from -"),
        (np.full((3, 3), np.nan), "holds NaN"),
        (np.zeros((2, 3, 4, 5)), "has shape"),
        (np.zeros((4, 0)), "has shape"),
        (np.zeros((5, 6, 7)), "has shape"),
        (object(), "has shape"),
        ({"caption": "x"}, "has no column 'image'"),
        (Item("x"), "neither a picture nor a vector"),
        (Item("x", vector=np.zeros((2, 2))), "has a vector of shape"),
        (Item("x", PICTURE, {"o": object()}), "JSON can't hold"),
        (Item("x", PICTURE, {"o": float("nan")}), "JSON can't hold"),
        (Item("x", PICTURE, {"o": "\ud800"}), "JSON can't hold"),
        (Image.fromarray(np.array([[-5.0]], dtype=np.float32)), "floats from -5"),
    ],
)
def test_what_is_no_item_is_a_failure_with_a_reason(entry: Any, said: str) -> None:
    assert said in reason(entry)


def test_layouts_are_told_apart_by_their_channels() -> None:
    grey = noise(6, 7, 1)
    for values in (grey, grey[..., 0], grey.transpose(2, 0, 1)):
        np.testing.assert_array_equal(to_uint8(values), grey)


class Tensor:
    """The parts of a torch tensor that are used."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape = values, values.shape

    def detach(self) -> Tensor:
        return self

    cpu = detach

    def numpy(self) -> np.ndarray:
        return self.values


@pytest.mark.parametrize("form", [tuple, list])
def test_entries_in_parts_may_have_one_two_or_three(form: Any) -> None:
    for payload in (noise(), Tensor(noise().transpose(2, 0, 1)), image_of(noise())):
        for rest, metadata in (
            ([], {}), ([5], {"label": 5}), (["x"], {"label": "x"}), ([{"a": 1}], {"a": 1}),
            ([5, {"a": 1}], {"label": 5, "a": 1}),
        ):  # fmt: skip
            item: Any = to_item(form([payload, *rest]), 3, Rules())
            assert (item.id, item.metadata, item.picture.tolist()) == ("00003", metadata, noise().tolist())
    failure: Any = to_item(form([noise(), 1, 2]), 3, Rules())
    assert failure.reason.startswith("has 3 parts, and only (picture,)")
    item = to_item(form([noise(), 5]), 0, Rules(classes=["a"] * 6))
    assert item.metadata == {"label": "a", "class": 5}
    assert to_item((noise(), "text"), 0, Rules(classes=["a"])).metadata == {"label": "text"}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [5, None, ["a"]])
def test_an_id_that_is_no_text_is_a_failure(name: Any) -> None:
    said = f"an id must be text, not {type(name).__name__}"
    assert to_item(Item(name, noise()), 0, Rules()) == Failure(str(name), said)


def test_lists_of_numbers_and_of_rows_are_vectors_and_pictures() -> None:
    assert to_item([0.5, 1.5, 2.5], 0, Rules()).vector.tolist() == [0.5, 1.5, 2.5]  # type: ignore[union-attr]
    rows = [np.arange(3, dtype=np.uint8) + i for i in range(2)]
    item: Any = to_item(rows, 0, Rules())
    assert item.picture[..., 0].tolist() == [[0, 1, 2], [1, 2, 3]]
