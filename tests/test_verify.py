"""Checking a store names each kind of damage, and finds none where there is none."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.errors import InvalidArgument, StoreDamaged
from embedstore.store import Store

from .pictures import noise
from .stores import D, refused, small_store, vectors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed store of vectors in two segments, three batches, with a tier and a deletion."""
    with small_store(tmp_path / "checked.store", tail=3, segment=15) as store:
        for batch in range(3):
            store.add_vectors([f"{batch}/{i}" for i in range(10)], vectors(10, seed=batch))
        store.delete("1/3")
    return tmp_path / "checked.store"


@pytest.fixture
def pictured(tmp_path: Path) -> Path:
    with embedstore.create(tmp_path / "pictures.store") as store:
        store.index(np.stack([noise(seed=i) for i in range(9)]), encoder="pca", dimension=2, progress=False)
    return tmp_path / "pictures.store"


def check(path: Path) -> embedstore.check.VerifyReport:
    with Store(path, read_only=True) as store:
        return store.verify()


def sql(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path / "store.db")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def segment(path: Path, kind: str = "vec", number: int = 0) -> Path:
    return sorted((path / "segments").glob(f"*.{kind}"))[number]


def test_a_whole_store_has_no_problems(path: Path, pictured: Path) -> None:
    report = check(path)
    assert (report.ok, report.problems, report.derived, report.leftovers) == (True, [], [], [])
    assert (report.items, report.batches, report.bytes) == (29, 3, 30 * 4 * D)
    report = check(pictured)
    assert (report.ok, report.items, report.batches) == (True, 9, 2)
    assert report.bytes == 9 * (2 * 4 + 8 * 8 * 3)


@pytest.mark.parametrize("place", [64, 64 + 10 * 4 * D, -1])
def test_a_flipped_bit_in_a_segment_is_named_with_its_batch(path: Path, place: int) -> None:
    file = segment(path)
    flip(file, place)
    batch = 0 if place == 64 else 10
    assert check(path).problems == [f"segments/{file.name}: 10 vectors at {batch} differ from what was committed"]


def test_damage_is_never_copied_into_a_fresh_checksum(path: Path) -> None:
    flip(segment(path), 64)
    before = {file: file.read_bytes() for file in path.glob("*/*")}
    with embedstore.open(path) as store:
        refused(StoreDamaged, "differ from what was committed", store.compact)
    assert {file: file.read_bytes() for file in path.glob("*/*")} == before
    assert len(check(path).problems) == 1


def test_every_bit_of_a_thumbnail_counts(pictured: Path) -> None:
    file = segment(pictured, "thumb")
    flip(file, 64 + 500)
    assert check(pictured).problems == [f"segments/{file.name}: {9 * 192:,} bytes at 0 differ from what was committed"]
    with embedstore.open(pictured) as store:
        store.delete("00001")
        refused(StoreDamaged, file.name, store.compact)
        assert len(store) == 8


def a_flipped_header(file: Path) -> None:
    flip(file, 3)


def a_cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def a_loss(file: Path) -> None:
    file.unlink()


def another_file(file: Path) -> None:
    other = sorted(file.parent.glob(f"*{file.suffix}"))[1]
    parked = file.with_name("parked")
    file.rename(parked)
    other.rename(file)
    parked.rename(other)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (a_flipped_header, "is not the segment that was committed (its header differs)"),
        (a_cut, "is shorter than what was committed to it"),
        (a_loss, "is missing"),
    ],
)
def test_a_segment_of_another_shape_is_named_and_reading_says_so(
    path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    file = segment(path)
    damage(file)
    assert check(path).problems == [f"segments/{file.name} {reason}"]
    with embedstore.open(path) as store:
        message = refused(StoreDamaged, file.name, lambda: store.search(vectors(1)[0]))
        assert "restore a backup" in message
        refused(StoreDamaged, file.name, lambda: store.backup(path.with_name("copy")))
    assert not path.with_name("copy").exists()


def test_swapped_segments_are_found(path: Path) -> None:
    another_file(segment(path))
    problems = check(path).problems
    assert any("shorter than what was committed" in problem for problem in problems)
    assert len(problems) >= 2


def test_a_lost_thumbnail_file_is_named(pictured: Path) -> None:
    file = segment(pictured, "thumb")
    file.unlink()
    assert check(pictured).problems == [f"segments/{file.name} is missing"]
    with embedstore.open(pictured) as store:
        refused(StoreDamaged, "is missing", lambda: store.images(["00000"]))
        assert len(store.search(store.item("00000"), k=3)) == 3


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("INSERT INTO items (row, id, metadata) VALUES (9999, 'foreign', '{}')", "1 items have no vector"),
        ("DELETE FROM items WHERE id = '2/5'", "1 vectors belong to no item"),
        ("INSERT INTO tombstones SELECT row, 1 FROM items WHERE id = '2/5'", "1 rows are live and deleted at once"),
        ("DELETE FROM tombstones", "1 vectors belong to no item"),
        ("UPDATE segments SET length = length + 1", "is shorter than what was committed"),
        ("UPDATE segments SET length = length - 1", "overrun the committed length"),
        ("UPDATE batches SET count = count + 1 WHERE id = 1", "leave a gap"),
        ("UPDATE batches SET checksum = x'00'", "differ from what was committed"),
        ("UPDATE batches SET first_row = 1", "not in ascending order"),
        ("UPDATE batches SET rows = x'0102'", "has not the row numbers"),
        ("DELETE FROM batches WHERE id = 2", "no vector"),
        ("UPDATE batches SET segment = 77 WHERE id = 3", "refers to a missing row of segments"),
        ("UPDATE segments SET space = 77", "refers to a missing row of spaces"),
        ("UPDATE items SET origin = 77 WHERE id = '2/5'", "refers to a missing row of origins"),
        ("UPDATE items SET metadata = '{broken' WHERE id = '2/5'", "metadata"),
    ],
)
def test_accounts_that_do_not_add_up_are_named(path: Path, statement: str, problem: str) -> None:
    sql(path, statement)
    problems = check(path).problems
    assert any(problem in found for found in problems), problems


def test_a_thumbnail_outside_of_what_is_committed_is_named(pictured: Path) -> None:
    sql(pictured, "UPDATE items SET thumb_start = 100000 WHERE id = '00004'")
    assert any("row 5: its thumbnail lies outside" in problem for problem in check(pictured).problems)


def test_a_damaged_database_is_named(path: Path) -> None:
    file = path / "store.db"
    data = bytearray(file.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    with sqlite3.connect(file) as connection:
        ((root,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_items_origin'")
    connection.close()
    data[(root - 1) * page : (root - 1) * page + 8] = b"\xff" * 8
    file.write_bytes(data)
    try:
        problems = check(path).problems
    except StoreDamaged as error:
        problems = [str(error)]
    assert any("store.db" in problem for problem in problems)


def test_leftovers_are_named_and_swept_but_never_what_a_person_put_there(path: Path) -> None:
    names = ["segments/000077.vec", "segments/000078.thumb", "tiers/000079.draft", "tiers/000080.faiss"]
    for name in [*names, "segments/notes.txt", f"models/{'ab' * 32}.json", "models/fit.state"]:
        (path / name).write_text("left")
    assert check(path).leftovers == sorted([*names, "segments/notes.txt"])
    with embedstore.open(path) as store:
        report = store.compact()
    assert report.swept >= 5
    assert not [name for name in names if (path / name).exists()]
    assert (path / "segments" / "notes.txt").read_text() == "left"
    assert (path / "models" / "fit.state").read_text() == "left"
    assert check(path).ok


def test_a_folder_that_is_a_link_is_refused_and_nothing_in_it_is_swept(path: Path, tmp_path: Path) -> None:
    shutil.move(path / "models", tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "thesis.txt").write_text("kept")
    (path / "models").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreDamaged, match="is a link"):
        embedstore.open(path)
    assert (tmp_path / "elsewhere" / "thesis.txt").read_text() == "kept"


def test_bytes_of_a_write_that_was_never_acknowledged_are_nothing(path: Path) -> None:
    file = segment(path, number=1)
    with file.open("ab") as out:
        out.write(b"torn write")
    assert check(path).ok
    with embedstore.open(path) as store:
        store.add_vectors(["new"], vectors(1, seed=7))
        assert store.vector("new").vector.tolist() == vectors(1, seed=7)[0].tolist()
    assert check(path).ok


def test_a_check_changes_nothing(path: Path) -> None:
    flip(segment(path), 70)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with embedstore.open(path) as store:
        store.verify()
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("kind", ["vec", "thumb"])
def test_damage_is_mended_by_deleting_the_items_that_it_hit(path: Path, pictured: Path, kind: str) -> None:
    path = path if kind == "vec" else pictured
    flip(segment(path, kind), 64 + 10 * 4 * D if kind == "vec" else 64 + 500)
    report = check(path)
    assert len(report.problems) == 1
    assert report.mendable
    with embedstore.open(path) as store:
        kept = sorted(set(store.ids()) - set(report.damaged))
        # Of the second batch of vectors; of all thumbnails, which are one batch.
        assert (len(kept), len(report.damaged)) == ((20, 9) if kind == "vec" else (0, 9))
        before = [np.asarray(store.vector(name)) for name in kept]
        store.delete(report.damaged)
        assert (check(path).damaged, check(path).mendable, check(path).ok) == ([], True, False)
        store.compact()
        assert check(path).ok
        assert sorted(store.ids()) == kept
        np.testing.assert_array_equal([np.asarray(store.vector(name)) for name in kept], before)


def test_a_segment_that_is_gone_is_not_mended_by_deleting(path: Path) -> None:
    os.truncate(segment(path), 100)
    assert not check(path).mendable


@pytest.mark.parametrize("kind", ["vec", "thumb"])
def test_a_backup_never_has_damage(pictured: Path, tmp_path: Path, kind: str) -> None:
    file = segment(pictured, kind)
    flip(file, -1)
    with embedstore.open(pictured) as store:
        refused(
            StoreDamaged, f"{file.name}: .* differ from what was committed", lambda: store.backup(tmp_path / "copy")
        )
    assert list(tmp_path.glob("*copy*")) == []


def test_an_encoder_that_is_damaged_is_not_mended_by_a_compact(tmp_path: Path) -> None:
    path = tmp_path / "e.store"
    with embedstore.create(path) as store:
        store.index(np.stack([noise(seed=i) for i in range(30)]), encoder="pca", dimension=4, progress=False)
    flip(next(path.glob("models/*.safetensors")), -1)
    assert not check(path).mendable


def test_a_backup_of_a_damaged_database_is_refused(path: Path, tmp_path: Path) -> None:
    database = path / "store.db"
    data = bytearray(database.read_bytes())
    data[-9_000:-1_000] = bytes(range(250)) * 32
    database.write_bytes(data)
    with embedstore.open(path, read_only=True) as store:
        refused(StoreDamaged, "damaged|malformed", lambda: store.backup(tmp_path / "copy"))
    assert list(tmp_path.glob("*copy*")) == []


def test_a_backup_within_the_store_is_refused(path: Path) -> None:
    with embedstore.open(path) as store:
        refused(InvalidArgument, "lies within the store itself", lambda: store.backup(path / "segments" / "copy"))
