"""A commit of any process is noticed without asking SQLite, and its locks are left alone."""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
import time
from pathlib import Path

import pytest

import embedstore
from embedstore.metadata import watch
from embedstore.metadata.database import Database
from embedstore.metadata.watch import Watch
from embedstore.store import Store

from .oracle import Oracle
from .stores import add, in_process, small_store, vectors

ELSEWHERE = """
    import sys, embedstore
    with embedstore.open(sys.argv[1]) as store:
        store.update("a", metadata={"y": 2})
"""
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the file's time says it")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with small_store(tmp_path / "w.store") as store:
        add(store, Oracle(), ["a", "b"], vectors(2))
    return tmp_path / "w.store"


def settled(path: Path, database: Database) -> Watch:
    """A watch that has read the file's header."""
    found = Watch(path / "store.db")
    for _ in range(2):
        with database.read():
            found.settle(found.stamp())
    return found


@pytest.fixture
def database(path: Path) -> Database:
    found = Database(path / "store.db")
    with found.read():
        pass
    return found


def is_mapped(found: Watch) -> bool:
    return found._count is not None


@on_linux
def test_every_commit_is_noticed_and_nothing_else(path: Path, database: Database) -> None:
    found = settled(path, database)
    assert is_mapped(found)
    with embedstore.open(path) as store:
        for change in (
            lambda: store.add_vectors(["c"], vectors(1, seed=3)),
            lambda: store.update("a", metadata={"x": 1}),
            lambda: store.delete("b"),
            lambda: in_process(
                "import sys, embedstore\nembedstore.open(sys.argv[1]).update('a', metadata={'y': 2})", path
            ),
            store._database.vacuum,
            store.compact,
        ):
            assert not any(found.changed() for _ in range(100))
            change()
            assert found.changed()
            assert found.changed()  # until it was read
            found = settled(path, database)
        before = path.joinpath("store.db").read_bytes()
        store.search(vectors(1)[0])
        store.verify()
        assert path.joinpath("store.db").read_bytes() == before
        assert not found.changed()


@on_linux
def test_a_commit_between_the_stamp_and_the_reading_is_read_again(path: Path, database: Database) -> None:
    found = settled(path, database)
    stamp = found.stamp()
    with database.write() as connection:
        connection.execute("UPDATE state SET next_row = next_row + 1")
    found.settle(stamp)
    assert found.changed()


@on_linux
def test_a_count_that_was_rolled_back_is_not_kept(path: Path, database: Database) -> None:
    """A writer is killed while it writes its pages; who reads next undoes that; the next commit has the same count."""
    found = settled(path, database)
    count = found.stamp().counter
    held = in_process(
        """
        import sqlite3, sys
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("PRAGMA cache_size=2")
        connection.execute("PRAGMA cache_spill=1")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("UPDATE state SET next_row = next_row + 1")
        connection.execute("CREATE TABLE much (text)")
        connection.executemany("INSERT INTO much VALUES (?)", [("x" * 5000,)] * 500)
        print("dirty", flush=True)
        sys.stdin.readline()
        """,
        path / "store.db",
        wait=False,
    )
    assert held.stdout.readline() == "dirty\n"
    stamp = found.stamp()
    held.kill()
    held.communicate()
    with database.read() as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'much'").fetchone() == (0,)
    found.settle(stamp)
    with database.write() as connection:
        connection.execute("UPDATE state SET next_row = next_row + 1")
    assert found.stamp().counter != count
    assert found.changed()


@on_linux
def test_locks_of_sqlite_are_left_alone(path: Path, tmp_path: Path) -> None:
    """To close any descriptor of the file would drop them all, in the middle of a transaction."""
    database = Database(path / "store.db")

    def others_may_write() -> bool:
        code = """
            import sqlite3, sys
            connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
            try:
                connection.execute("BEGIN IMMEDIATE")
                print("yes")
            except sqlite3.OperationalError:
                print("no")
        """
        return in_process(code, path / "store.db") == ["yes"]

    with database.write() as connection:
        connection.execute("UPDATE state SET next_row = next_row + 1")
        assert not others_may_write()
        found = settled(path, Database(path / "store.db"))
        assert is_mapped(found)
        del found
        gc.collect()
        watch._mapped(os.fspath(path / "store.db"))
        assert not others_may_write()
    assert others_may_write()


@on_linux
def test_what_is_mapped_is_given_back(path: Path, database: Database) -> None:
    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(str(path / "store.db"))

    found = settled(path, database)
    assert maps() == 1
    del found
    gc.collect()
    assert maps() == 0
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with embedstore.open(path, read_only=True) as store:
            store.search(vectors(1)[0])
            store.search(vectors(1)[0])
        del store
    gc.collect()
    assert maps() == 0
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors


@on_linux
def test_a_search_at_exit_finds_the_header_still_mapped(path: Path) -> None:
    code = """
        import atexit, sys, time
        atexit.register(lambda: print(len(store.search(query, k=1))))
        import numpy as np
        import embedstore
        store, query = embedstore.open(sys.argv[1], read_only=True), np.zeros(4, np.float32)
        for _ in range(5):
            store.search(query, k=1)
        time.sleep(0.1)
        store.search(query, k=1)
    """
    assert in_process(code, path) == ["1"]


def test_closing_beside_searches_never_brings_the_process_down(path: Path) -> None:
    code = """
        import sys, threading
        import numpy as np
        import embedstore
        from embedstore.errors import EmbedstoreError
        for _ in range(40):
            store = embedstore.open(sys.argv[1])
            def ask(number):
                try:
                    while True:
                        store.search(np.full(4, number, np.float32), k=1).ids
                        if number == 0:
                            store.update("a", metadata={"x": 1})
                except (EmbedstoreError, KeyError, AttributeError, TypeError, ValueError):
                    pass
            threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
            for thread in threads:
                thread.start()
            store.close()
            for thread in threads:
                thread.join()
        print("done")
    """
    assert in_process(code, path)[-1:] == ["done"]


def sees_each_commit(store: Store, reader: Store) -> None:
    for number in range(10):
        store.add_vectors([f"n{number}"], vectors(1, seed=50 + number))
        assert reader.search(vectors(1, seed=50 + number)[0], k=1).ids == [f"n{number}"]
        store.delete(f"n{number}")
        assert f"n{number}" not in reader.search(vectors(1, seed=50 + number)[0], k=5).ids


@pytest.mark.parametrize("why", ["no /proc", "no mapping", "no database"])
def test_without_a_mapping_the_clock_says_it(path: Path, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "no /proc":
        monkeypatch.setattr(watch, "_OPEN_FILES", path / "nothing")
    elif why == "no mapping":
        monkeypatch.setattr(watch, "_libc", lambda: None)
    else:
        monkeypatch.setattr(watch, "_MAGIC", b"something else!!")
    with embedstore.open(path) as store, embedstore.open(path, read_only=True) as reader:
        sees_each_commit(store, reader)
        assert not is_mapped(reader._snapshots._watch)


def test_commits_to_a_write_ahead_log_are_seen(path: Path) -> None:
    """Which isn't counted: somebody else's program may have changed the journal."""
    with embedstore.open(path, read_only=True) as reader:
        for _ in range(3):
            reader.search(vectors(1)[0])
        other = sqlite3.connect(path / "store.db", isolation_level=None)
        assert other.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        reader.search(vectors(1)[0])
        seq = reader.info()["commits"]
        for number in range(1, 4):
            other.execute("UPDATE state SET seq = seq + 1")
            assert reader.info()["commits"] == seq + number
    assert other.execute("PRAGMA journal_mode=TRUNCATE").fetchone() == ("truncate",)
    other.close()
    with embedstore.open(path) as store, embedstore.open(path, read_only=True) as reader:
        sees_each_commit(store, reader)


def test_a_file_in_its_place_is_noticed(path: Path, tmp_path: Path) -> None:
    with embedstore.open(path, read_only=True) as reader:
        for _ in range(3):
            reader.search(vectors(1)[0])
        with embedstore.open(path) as store:
            store.backup(tmp_path / "copy.store")
        os.replace(tmp_path / "copy.store" / "store.db", path / "store.db")
        time.sleep(0.1)
        assert reader._snapshots._watch.changed()
        assert reader.search(vectors(1)[0]).ids
