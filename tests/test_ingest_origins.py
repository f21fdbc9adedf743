"""Which source an item belongs to: what is gone from it, what merely can't be read, and what another one replaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.errors import InvalidArgument
from embedstore.store import Store
from embedstore.types import AddReport, Item

from .pictures import noise, write_idx, write_png
from .stores import refused, vectors
from .test_ingest import OPTIONS, contents, counts


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with embedstore.create(tmp_path / "pictures.store") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(6):
        write_png(tmp_path / "source" / ("cats" if i < 3 else "dogs") / f"{i}.png", seed=i)
    return tmp_path / "source"


def test_only_items_of_the_same_source_are_pruned(store: Store, folder: Path, tmp_path: Path) -> None:
    store.index(folder, **OPTIONS)
    store.add([Item("own", noise(seed=50))])
    write_png(tmp_path / "more" / "cats" / "0.png", seed=70)  # the same id as one of the folder's
    write_png(tmp_path / "more" / "x.png", seed=71)
    report = store.index(tmp_path / "more", prune=True, **OPTIONS)
    assert counts(report) == (1, 1, 0, [], 0, 0)  # a known id is replaced, and belongs to its new source
    assert store.get("cats/0.png")["origin"] == str(tmp_path / "more")
    (folder / "cats" / "0.png").unlink()
    (folder / "cats" / "1.png").unlink()
    assert counts(store.index(folder, prune=True, **OPTIONS)) == (0, 0, 4, ["cats/1.png"], 1, 0)
    assert set(store.ids()) == {"cats/0.png", "cats/2.png", "dogs/3.png", "dogs/4.png", "dogs/5.png", "own", "x.png"}


def test_what_can_not_be_read_now_is_not_gone(store: Store, folder: Path) -> None:
    store.index(folder, **OPTIONS)
    before = contents(store)
    (folder / "cats" / "0.png").write_bytes(b"\x89PNG torn")
    report = store.index(folder, prune=True, **OPTIONS)
    assert counts(report) == (0, 0, 5, [], 0, 1)
    assert report.failures[0].id == "cats/0.png"
    assert contents(store) == before  # the last version that could be read stays


@pytest.mark.parametrize("prefix", [False, True])
def test_what_lies_under_a_folder_that_can_not_be_read_now_is_not_gone(
    store: Store, folder: Path, prefix: bool
) -> None:
    away = folder.rename(folder.with_name("away"))
    folder.mkdir()
    for name in ("cats", "dogs"):
        (folder / name).symlink_to(away / name)
    other = folder.with_name("other")
    write_png(other / "z.png", seed=9)
    source = [folder, other] if prefix else folder
    store.index(source, **OPTIONS)
    before = contents(store)
    (away / "dogs").rename(away / "unmounted")
    (away / "cats" / "1.png").unlink()
    gone = "source/cats/1.png" if prefix else "cats/1.png"
    report = store.index(source, prune=True, **OPTIONS)
    assert (report.removed, report.pruned, len(report.failures)) == ([gone], 1, 1)
    assert contents(store).keys() == before.keys() - {gone}


@pytest.mark.parametrize("prefix", [False, True])
def test_nothing_is_gone_from_a_table_with_a_row_that_does_not_say_which_it_is(
    store: Store, tmp_path: Path, prefix: bool
) -> None:
    (tmp_path / "other.jsonl").write_text('{"vector": [1, 2]}\n')
    source = [tmp_path / "t.jsonl", tmp_path / "other.jsonl"] if prefix else tmp_path / "t.jsonl"

    def index(*lines: str) -> AddReport:
        (tmp_path / "t.jsonl").write_text("\n".join(lines))
        return store.index(source, prune=True, progress=False)

    rows = [f'{{"id": "r{i}", "vector": [{i}, 1]}}' for i in range(5)]
    index(*rows)
    before = contents(store)
    report = index(rows[0], rows[1], rows[2][:-3], rows[3])
    assert (report.removed, report.pruned, len(report.failures)) == ([], 0, 1)
    assert any("2 items of" in note and "nothing counts as gone" in note for note in report.notes)
    assert contents(store) == before
    # A row that says which it is costs no more than itself.
    report = index(rows[0], rows[1], rows[2].replace("[2, 1]", "[2]"), rows[3])
    gone = "t.jsonl/r4" if prefix else "r4"
    assert (report.removed, report.pruned, len(report.failures)) == ([gone], 1, 1)
    assert contents(store).keys() == before.keys() - {gone}


def test_rows_without_ids_are_told_apart_by_their_numbers(store: Store, tmp_path: Path) -> None:
    rows = [f'{{"vector": [{i}, 1]}}' for i in range(4)]
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    store.index(tmp_path / "t.jsonl", progress=False)
    before = contents(store)
    (tmp_path / "t.jsonl").write_text("\n".join([rows[0], "{", rows[2]]))
    report = store.index(tmp_path / "t.jsonl", prune=True, progress=False)
    assert counts(report) == (0, 0, 2, ["00003"], 1, 1)
    assert contents(store).keys() == before.keys() - {"00003"}


def test_pruning_one_split_leaves_the_other_alone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "idx").mkdir()
    for name, count in (("train", 5), ("t10k", 3)):
        write_idx(tmp_path / "idx" / f"{name}-images-idx3-ubyte", noise(count * 4, 4, 1).reshape(count, 4, 4))
    store.index(tmp_path / "idx", **OPTIONS)
    report = store.index(tmp_path / "idx", split="train", prune=True, **OPTIONS)
    assert counts(report) == (0, 0, 5, [], 0, 0)
    assert len(store) == 8
    write_idx(tmp_path / "idx" / "train-images-idx3-ubyte", noise(20, 4, 1).reshape(5, 4, 4)[:4])
    report = store.index(tmp_path / "idx", split="train", prune=True, **OPTIONS)
    assert counts(report) == (0, 0, 4, ["train/00004"], 1, 0)
    assert set(store.ids()) == {*(f"train/{i:05d}" for i in range(4)), *(f"test/{i:05d}" for i in range(3))}


def test_pruning_an_unnamed_iterable_or_array_is_refused(store: Store) -> None:
    first, second = [noise(seed=i) for i in range(4)], [Item(f"b{i}", noise(seed=i + 9)) for i in range(2)]
    store.index(first, **OPTIONS)
    assert counts(store.index(second, **OPTIONS)) == (2, 0, 0, [], 0, 0)
    for source in (second, np.stack(first[:2])):
        refused(InvalidArgument, "scope=", lambda source=source: store.index(source, prune=True, **OPTIONS))
    assert len(store) == 6
    named = {**OPTIONS, "scope": "mine"}
    assert counts(store.index(second, prune=True, **named)) == (0, 0, 2, [], 0, 0)
    assert counts(store.index(second[:1], prune=True, **named)) == (0, 0, 1, ["b1"], 1, 0)
    rows = np.stack(first)
    assert counts(store.index(rows, id_prefix="x/", scope="array of mine", prune=True, **OPTIONS))[0] == 4
    assert counts(store.index(rows[:3], id_prefix="x/", scope="array of mine", prune=True, **OPTIONS)) == (
        0, 0, 3, ["x/00003"], 1, 0
    )  # fmt: skip


def test_an_unchanged_item_belongs_to_the_source_that_brought_it_last(store: Store, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ABC"]
    for number, path in enumerate(folders):
        for i in range(3):
            write_png(path / f"{i}.png", seed=10 * number + i)
    store.index(folders[:2], **OPTIONS)
    assert counts(store.index(folders, **OPTIONS)) == (3, 0, 6, [], 0, 0)
    (folders[0] / "0.png").unlink()
    assert counts(store.index(folders, prune=True, **OPTIONS)) == (0, 0, 8, ["A/0.png"], 1, 0)
    assert counts(store.index(folders, prune=True, **OPTIONS)) == (0, 0, 8, [], 0, 0)
    assert store.verify().ok


def test_items_of_another_source_are_replaced_with_a_note(store: Store, folder: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "more" / "cats" / "0.png", seed=70)
    write_png(tmp_path / "more" / "cats" / "1.png", seed=1)  # the same picture
    store.index(folder, **OPTIONS)
    said = f"1 ids belonged to {folder} and were replaced: id_prefix= keeps both"
    assert said in store.index(tmp_path / "more", **OPTIONS).notes
    assert store.index(tmp_path / "more", **OPTIONS).notes == []
    assert counts(store.index(tmp_path / "more", id_prefix="more/", **OPTIONS)) == (2, 0, 0, [], 0, 0)
    assert store.get("more/cats/0.png")["source"] == str(tmp_path / "more" / "cats" / "0.png")
    first, second = (np.stack([noise(seed=i + part) for i in range(3)]) for part in (0, 10))
    assert store.index(first, **OPTIONS).notes == []
    assert store.index(list(first), **OPTIONS).notes == []
    (note,) = store.index(second, **OPTIONS).notes
    assert note.startswith("3 ids belonged to an earlier array or iterable and were replaced")
    assert counts(store.index(first, id_prefix="first/", **OPTIONS)) == (3, 0, 0, [], 0, 0)


def test_two_arrays_of_one_npz_are_two_sources(store: Store, tmp_path: Path) -> None:
    np.savez(tmp_path / "k.npz", one=vectors(5), two=vectors(5, seed=1))
    path = tmp_path / "k.npz"
    store.index(path, key="one", progress=False)
    (note,) = store.index(path, key="two", progress=False).notes
    assert note == f"5 ids belonged to {path}:one and were replaced: id_prefix= keeps both"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".npz"])
def test_an_export_indexed_again_is_what_was_exported(store: Store, tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "t.jsonl").write_text('{"id": "a", "vector": [1, 2], "n": 1}\n{"id": "b", "vector": [3, 4], "n": 2}\n')
    store.index(tmp_path / "t.jsonl", progress=False)
    store.export(tmp_path / f"out{suffix}", progress=False)
    with embedstore.create(tmp_path / "again.store") as again:
        assert counts(again.index(tmp_path / f"out{suffix}", progress=False)) == (2, 0, 0, [], 0, 0)
        assert contents(again) == contents(store)


def test_an_exported_dataset_indexed_again_has_the_metadata_and_no_more(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    store.index(folder, **OPTIONS)
    store.export(tmp_path / "out", format="dataset", progress=False)
    with embedstore.create(tmp_path / "again.store") as again:
        assert counts(again.index(tmp_path / "out", **OPTIONS)) == (6, 0, 0, [], 0, 0)
        found = {item["metadata"]["id"]: item for item in map(again.get, again.ids())}
        assert {name: item["metadata"] for name, item in found.items()} == {
            name: {**store.get(name)["metadata"], "id": name} for name in store.ids()
        }
        assert all(Path(item["source"]).parent == tmp_path / "out" / "images" for item in found.values())


def test_what_update_changed_is_undone_by_the_source_and_a_note_says_so(store: Store, folder: Path) -> None:
    store.index(folder, **OPTIONS)
    before = store.vector("cats/0.png").vector
    store.update("cats/0.png", vector=before + 1)
    store.update("dogs/3.png", metadata={"note": "mine", "label": "wolf"})
    store.add([Item("own", noise(seed=50))])
    store.update("own", metadata={"note": "kept"})
    report = store.index(folder, **OPTIONS)
    [note] = report.notes
    assert note.startswith("2 items took over what their source says now")
    assert (report.updated, report.unchanged) == (2, 4)
    assert store.vector("cats/0.png").vector.tolist() == before.tolist()
    assert store.get("dogs/3.png")["metadata"] == {"label": "dogs"}
    assert store.get("own")["metadata"] == {"note": "kept"}
    assert store.index(folder, **OPTIONS).notes == []
