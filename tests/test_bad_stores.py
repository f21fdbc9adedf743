"""Stores that are missing, damaged, hostile, too new or sealed get one clear sentence, and lose nothing."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedstore
from embedstore.errors import (
    EmbedstoreError,
    ModelInvalid,
    NotAStore,
    StoreClosed,
    StoreDamaged,
    StoreExists,
    StoreNotFound,
    StoreReadOnly,
    StoreTooNew,
)
from embedstore.store import Store

from .pictures import noise
from .stores import in_child, refused, small_store, vectors

NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with small_store(tmp_path / "vectors.store") as opened:
        opened.add_vectors(["a", "b", "c"], vectors(3), [{"label": "Boot", "n": i} for i in range(3)])
        yield opened


def test_a_path_without_a_store_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "other.txt").touch()
    (tmp_path / "file").write_text("text")
    for read_only in (False, True):
        refused(StoreNotFound, "no store at", lambda ro=read_only: embedstore.open(tmp_path / "missing", read_only=ro))
        refused(NotAStore, "no store.db", lambda ro=read_only: embedstore.open(tmp_path / "folder", read_only=ro))
        refused(NotAStore, "is a file", lambda ro=read_only: embedstore.open(tmp_path / "file", read_only=ro))
        refused(EmbedstoreError, ".", lambda ro=read_only: embedstore.open(tmp_path / "file" / "x", read_only=ro))
        refused(EmbedstoreError, ".", lambda ro=read_only: embedstore.open("a\0b", read_only=ro))
    refused(StoreExists, "other things", lambda: embedstore.create(tmp_path / "folder"))
    refused(StoreExists, "is a file", lambda: embedstore.create(tmp_path / "file"))
    refused(EmbedstoreError, "can't be written", lambda: embedstore.create(tmp_path / "file" / "x"))
    refused(EmbedstoreError, ".", lambda: embedstore.create("a\0b"))
    refused(EmbedstoreError, ".", lambda: embedstore.create(tmp_path / ("x" * 300)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_store_is_not_made_over_another(store: Store) -> None:
    refused(StoreExists, "is a store already", lambda: embedstore.create(store.path))
    assert len(store) == 3


@pytest.mark.parametrize("content", [b"", b"text" * 100, b"SQLite format 3\0" + b"\0" * 84])
def test_a_database_that_is_none_is_no_store(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store.db").write_bytes(content)
    for read_only in (False, True):
        refused(EmbedstoreError, "no embedstore|damaged", lambda ro=read_only: embedstore.open(tmp_path, read_only=ro))
    assert (tmp_path / "store.db").read_bytes() == content


def test_a_database_of_another_program_is_no_store(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "store.db")
    connection.execute("CREATE TABLE state (a)")
    connection.close()
    refused(NotAStore, "other tables than ours", lambda: embedstore.open(tmp_path))
    connection = sqlite3.connect(tmp_path / "store.db")
    connection.execute("CREATE TABLE alembic_version (version_num)")
    connection.close()
    refused(NotAStore, "names no schema revision", lambda: embedstore.open(tmp_path))


def test_a_newer_store_is_refused(store: Store) -> None:
    store.close()
    connection = sqlite3.connect(store.path / "store.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    for read_only in (False, True):
        message = refused(StoreTooNew, "'9999'", lambda ro=read_only: embedstore.open(store.path, read_only=ro))
        assert "upgrade embedstore" in message


@pytest.mark.parametrize(
    "config", ['{"recall": "high"}', '{"tail_floats": "x"}', "[1]", "7", "no json", '{"recall": 7}']
)
def test_settings_that_make_no_sense_are_damage(store: Store, config: str) -> None:
    store.close()
    connection = sqlite3.connect(store.path / "store.db")
    connection.execute("UPDATE settings SET value = ? WHERE key = 'config'", (config,))
    connection.commit()
    connection.close()
    refused(StoreDamaged, "settings", lambda: embedstore.open(store.path))


@pytest.mark.parametrize(
    "name", ["../../secret", "/etc/passwd", "000001.vec/../../x", "000001.txt", "a\n000001.vec", ""]
)
def test_a_store_s_rows_name_no_file_outside_of_it(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path.parent / "secret").write_text("kept")
    store.close()
    connection = sqlite3.connect(store.path / "store.db")
    connection.execute("UPDATE segments SET name = ?", (name,))
    connection.commit()
    connection.close()
    with embedstore.open(store.path) as opened:
        for call in (
            lambda: opened.search(vectors(1)[0]),
            lambda: opened.add_vectors(["x"], vectors(1)),
            opened.compact,
            lambda: opened.backup(tmp_path / "copy"),
        ):
            refused(StoreDamaged, "no file of a store", call)
    assert (tmp_path.parent / "secret").read_text() == "kept"


def test_a_segment_that_is_a_link_is_not_written_or_read_through(store: Store, tmp_path: Path) -> None:
    store.close()
    (segment,) = (store.path / "segments").glob("*.vec")
    segment.rename(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    segment.symlink_to(tmp_path / "elsewhere")
    with embedstore.open(store.path) as opened:
        for call in (
            lambda: opened.search(vectors(1)[0]),
            lambda: opened.add_vectors(["x"], vectors(1)),
            opened.compact,
        ):
            refused(EmbedstoreError, segment.name, call)
    assert (tmp_path / "elsewhere").read_bytes() == before


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    for call in (
        lambda: store.search(vectors(1)[0]),
        lambda: store.add_vectors(["x"], vectors(1)),
        lambda: store.index(vectors(3), progress=False),
        lambda: store.delete("a"),
        lambda: store.get("a"),
        lambda: store.update("a"),
        lambda: store.images(["a"]),
        lambda: store.vector("a"),
        lambda: len(store),
        store.ids,
        store.info,
        store.verify,
        store.compact,
        store.recall,
        lambda: store.backup("x"),
    ):
        refused(StoreClosed, "was closed", call)


def test_a_store_that_vanishes_while_it_is_open_is_named(store: Store) -> None:
    store.search(vectors(1)[0])
    (store.path / "store.db").unlink()
    time.sleep(0.1)  # its place isn't looked at in every search
    refused(StoreNotFound, "is gone", lambda: store.search(vectors(1)[0]))


def test_a_read_only_directory_can_be_read_and_says_that_it_can_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "sealed.store"
    with small_store(path) as store:
        store.add_vectors(["a", "b"], vectors(2))
    # What is imported when it is needed: the user whom root becomes may not be allowed to read this checkout.
    with small_store(tmp_path / "imports.store") as store:
        store.index(vectors(3), progress=False)
        store.update(store.ids()[0], metadata={"n": 1})
        assert store.verify().ok
        store.compact()
    (tmp_path / "bare").mkdir()
    for folder, _, files in os.walk(tmp_path):
        os.chmod(folder, 0o555)  # noqa: S103
        for file in files:
            os.chmod(Path(folder, file), 0o444)

    def task() -> None:
        if os.geteuid() == 0:  # permissions don't bind root
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        for read_only in (True, False):
            with embedstore.open(path, read_only=read_only) as store:
                assert store.search(vectors(2)[1], k=1).ids == ["b"]
                assert store.verify().ok
                for call in (
                    lambda opened=store: opened.add_vectors(["x"], vectors(1)),
                    lambda opened=store: opened.delete("a"),
                    lambda opened=store: opened.index(vectors(3), progress=False),
                    lambda opened=store: opened.update("a", metadata={"n": 1}),
                    lambda opened=store: opened.compact(),
                ):
                    refused(StoreReadOnly, "can't be written|opened for reading", call)
        refused(StoreReadOnly, "can't be written", lambda: embedstore.create(tmp_path / "new.store"))
        refused(StoreReadOnly, "can't be written", lambda: embedstore.create(tmp_path / "bare"))

    for parent in (tmp_path, *tmp_path.parents):  # pytest makes its folders for the user alone
        if parent.owner() == tmp_path.owner() and parent != Path("/") and parent.name != "tmp":
            os.chmod(parent, parent.stat().st_mode | 0o055)  # noqa: S103
    try:
        assert in_child(task) == 0
    finally:
        for folder, _, _ in os.walk(tmp_path):
            os.chmod(folder, 0o755)  # noqa: S103


def test_a_directory_that_may_not_be_entered_is_named(tmp_path: Path) -> None:
    small_store(tmp_path / "hidden" / "x.store").close()
    os.chmod(tmp_path / "hidden", 0o000)

    def task() -> None:
        if os.geteuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        refused(StoreReadOnly, "can't be (read|written)", lambda: embedstore.open(tmp_path / "hidden" / "x.store"))
        refused(StoreReadOnly, "can't be (read|written)", lambda: embedstore.create(tmp_path / "hidden" / "y.store"))

    try:
        assert in_child(task) == 0
    finally:
        os.chmod(tmp_path / "hidden", 0o755)  # noqa: S103


@pytest.mark.parametrize("how", ["fifo", "link"])
def test_a_model_s_file_is_read_and_copied_only_where_it_is_a_regular_file(tmp_path: Path, how: str) -> None:
    pictures = np.stack([noise(8, 8, 1, seed) for seed in range(12)])
    with embedstore.create(tmp_path / "s") as made:
        made.index(pictures, encoder="pca", dimension=4, progress=False)
    (config,) = (tmp_path / "s" / "models").glob("*.json")
    (tmp_path / "secret").write_text("{}")
    config.unlink()
    if how == "fifo":
        os.mkfifo(config)
    else:
        config.symlink_to(tmp_path / "secret")
    (tmp_path / "s" / "models" / "other.json").symlink_to(tmp_path / "secret")
    with embedstore.open(tmp_path / "s") as opened:
        refused(ModelInvalid, "can't be read", lambda: opened.search(pictures[0]))
        assert not opened.verify().ok
        refused(StoreDamaged, config.name, lambda: opened.backup(tmp_path / "copy"))
    config.unlink()
    with embedstore.open(tmp_path / "s") as opened:
        opened.backup(tmp_path / "copy")
    assert not (tmp_path / "copy" / "models" / "other.json").exists()


def test_a_backup_takes_the_files_of_the_encoders_that_spaces_name_and_no_others(tmp_path: Path) -> None:
    pictures = np.stack([noise(8, 8, 1, seed) for seed in range(12)])
    with embedstore.create(tmp_path / "s") as made:
        made.index(pictures, encoder="pca", dimension=4, progress=False)
    models = tmp_path / "s" / "models"
    own = {path.name for path in models.iterdir()}
    (tmp_path / "secret").write_text("{}")
    (models / f"{'a' * 64}.json").symlink_to(tmp_path / "secret")
    (models / f"{'b' * 64}.safetensors").write_bytes(b"another's")
    with embedstore.open(tmp_path / "s") as opened:
        opened.backup(tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy" / "models").iterdir()} == own
    with closing(sqlite3.connect(tmp_path / "s" / "store.db")) as connection, connection:
        connection.execute("UPDATE spaces SET fingerprint = '../../secret'")
    with embedstore.open(tmp_path / "s") as opened:
        refused(StoreDamaged, "'../../secret' is no fingerprint", lambda: opened.backup(tmp_path / "other"))
        refused(ModelInvalid, "'../../secret' is no fingerprint", lambda: opened.search(pictures[0]))
        assert not opened.verify().ok
    assert not (tmp_path / "other").exists()


def test_no_fifo_is_waited_for(tmp_path: Path) -> None:
    pictures = np.stack([noise(8, 8, 1, seed) for seed in range(12)])
    with embedstore.create(tmp_path / "s") as made:
        os.mkfifo(tmp_path / "s" / "models" / "fit.state")
        assert made.index(pictures, dimension=2, fit_minutes=0.005, progress=False).added == 12
    (tmp_path / "s" / "LOCK").unlink()
    os.mkfifo(tmp_path / "s" / "LOCK")
    with embedstore.open(tmp_path / "s", read_only=True) as opened:
        opened.backup(tmp_path / "copy")
    with embedstore.open(tmp_path / "copy") as copied:
        assert len(copied) == 12


@pytest.mark.parametrize("folder", ["segments", "tiers", "models"])
def test_a_store_whose_folder_is_a_link_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "home").mkdir()
    with small_store(tmp_path / "s") as made:
        made.add_vectors(["a"], vectors(1))
    (tmp_path / "s" / folder).rename(tmp_path / "s" / "old")
    (tmp_path / "s" / folder).symlink_to(tmp_path / "home")
    refused(StoreDamaged, f"{folder} is a link", lambda: embedstore.open(tmp_path / "s"))
    refused(StoreDamaged, f"{folder} is a link", lambda: embedstore.open(tmp_path / "s", read_only=True))
