"""Several processes on one store: readers see whole commits at once, one writer writes, a crash locks nothing."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import embedstore
from embedstore.config import StoreConfig
from embedstore.durable import WriteLock
from embedstore.errors import StoreBusy, StoreReadOnly
from embedstore.metadata import watch
from embedstore.metadata.database import Clock, stamping_ns
from embedstore.store import Store
from embedstore.truth import opening

from .oracle import Oracle
from .stores import add, assert_answers, in_process, sentence, small_store, vectors

READER = """
    import sys, json, embedstore
    store = embedstore.open(sys.argv[1], read_only=sys.argv[2] == "ro")
    print("ready", flush=True)
    for line in sys.stdin:
        hits = store.search(json.loads(line), k=3)
        print(json.dumps([[hit.id, hit.distance, hit.metadata] for hit in hits]), flush=True)
"""
WRITER = """
    import sys, embedstore
    store = embedstore.open(sys.argv[1])
    with store._writer.locked("holding on"):
        print("locked", flush=True)
        sys.stdin.readline()
    print("let go", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shared.store"


def say(process: Any, line: str) -> str:
    process.stdin.write(line + "\n")
    process.stdin.flush()
    answer: str = process.stdout.readline().strip()
    return answer


def end(process: Any) -> None:
    process.stdin.close()
    process.stdout.close()
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_a_reader_in_another_process_sees_each_commit_at_its_next_query(path: Path, mode: str) -> None:
    import json

    oracle = Oracle()
    query = vectors(1, seed=7)[0]

    def expected() -> list[list[Any]]:
        return [[name, distance, oracle.items[name][2]] for name, distance in oracle.nearest(query, 3, "l2")]

    with small_store(path, tail=5) as store:
        add(store, oracle, ["a", "b", "c"], vectors(3))
        reader = in_process(READER, path, mode, wait=False)
        assert reader.stdout.readline() == "ready\n"
        for step in range(40):
            if step % 4 == 3:
                gone = next(iter(oracle.items))
                store.delete(gone)
                oracle.delete(gone)
            elif step % 10 == 6:
                store.compact()
            else:
                add(store, oracle, [f"{step}/{i}" for i in range(2)], vectors(2, seed=step))
            assert json.loads(say(reader, json.dumps(query.tolist()))) == expected(), step
        end(reader)


@pytest.mark.parametrize("mapped", [True, False])
def test_two_commits_within_one_tick_of_the_clock_are_both_seen(
    path: Path, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems stamp in ticks of milliseconds: a time that recent tells nothing."""
    if not mapped:
        monkeypatch.setattr(watch, "_mapped", lambda path: None)
    with small_store(path) as store, embedstore.open(path, read_only=True) as reader:
        for number in range(30):
            store.add_vectors([f"{number}"], vectors(1, seed=number))
            # As a commit of this very moment, however long the disk took: so late, and the next one can share its time.
            stamp = stamping_ns()
            os.utime(path / "store.db", ns=(stamp, stamp))
            assert reader.search(vectors(1, seed=number)[0], k=1).ids == [f"{number}"]
            assert len(reader) == number + 1
            # The coarsest clock: each commit leaves the very time that the last one left.
            store.delete(f"{number}")
            os.utime(path / "store.db", ns=(stamp, stamp))
            assert f"{number}" not in reader.search(vectors(1, seed=number)[0], k=50).ids
            store.add_vectors([f"{number}"], vectors(1, seed=number))


def test_the_clock_trusts_an_unchanged_time_only_when_it_is_old(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    clock = Clock(file)
    second = 1_000_000_000
    os.utime(file, ns=(100 * second, 100 * second))
    assert clock.changed(200 * second)  # never read
    clock.settle(clock.stamp(), 100 * second + second // 100)
    assert clock.changed(200 * second)  # a commit in the same tick may have come after that reading
    clock.settle(clock.stamp(), 101 * second)
    assert not clock.changed(200 * second)
    assert clock.changed(100 * second + second // 100)  # as recent as another commit's tick may be
    assert clock.changed(99 * second)  # set back
    os.utime(file, ns=(150 * second, 150 * second))
    assert clock.changed(200 * second)
    clock.settle(clock.stamp(), 160 * second)
    other = tmp_path / "other"
    other.touch()
    os.utime(other, ns=(150 * second, 150 * second))
    other.replace(file)
    assert clock.changed(200 * second)  # another file at the same time
    file.unlink()
    with pytest.raises(embedstore.EmbedstoreError, match="is gone"):
        clock.changed(200 * second)


def test_a_second_writer_waits_and_then_goes_on(path: Path) -> None:
    with small_store(path) as store:
        holder = in_process(WRITER, path, wait=False)
        assert holder.stdout.readline() == "locked\n"
        threading.Timer(0.3, lambda: (holder.stdin.write("\n"), holder.stdin.flush())).start()
        store.add_vectors(["a"], vectors(1))  # within the default patience
        assert holder.stdout.readline() == "let go\n"
        assert store.ids() == ["a"]
        end(holder)


def test_a_second_writer_that_waited_too_long_is_told_who_writes_and_why(path: Path) -> None:
    small_store(path, lock_seconds=0.05).close()
    holder = in_process(WRITER, path, wait=False)
    assert holder.stdout.readline() == "locked\n"
    with embedstore.open(path) as store:
        for write in (
            lambda: store.add_vectors(["a"], vectors(1)),
            lambda: store.delete("a"),
            lambda: store.index(vectors(5), progress=False),
            store.compact,
            lambda: store.backup(path.with_name("copy")),
        ):
            with pytest.raises(StoreBusy, match=rf"process {holder.pid} \(holding on, since [0-9:]{{8}}\)") as caught:
                write()
            assert "stop it" in sentence(caught.value)
        # Reading goes on meanwhile.
        assert store.ids() == []
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        store.add_vectors(["a"], vectors(1))
        assert store.ids() == ["a"]
    holder.stdin.close()
    holder.stdout.close()


def test_a_second_thread_waits_too(path: Path) -> None:
    with small_store(path, lock_seconds=0.05) as store, store._writer.locked("a test"):
        errors: list[BaseException] = []

        def write() -> None:
            try:
                store.add_vectors(["a"], vectors(1))
            except embedstore.EmbedstoreError as error:
                errors.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        assert [type(error) for error in errors] == [StoreBusy]
        store.add_vectors(["b"], vectors(1))  # the holder itself goes on
        assert store.ids() == ["b"]


def test_threads_of_one_process_add_and_search_at_once(path: Path) -> None:
    oracle = Oracle()
    with small_store(path, tail=5) as store:
        add(store, oracle, ["first"], vectors(1))
        failed: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for i in range(4):
                    row = vectors(1, seed=100 * number + i)
                    store.add_vectors([f"{number}/{i}"], row, [{"n": i}])
                    hits = store.search(row[0], k=1)
                    assert (hits[0].id, hits[0].metadata) == (f"{number}/{i}", {"n": i})
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 13)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert len(store) == 49
        assert store.verify().ok


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_holder_leaves_no_lock(path: Path, signal_number: int) -> None:
    small_store(path, lock_seconds=0.0).close()
    holder = in_process(WRITER, path, wait=False)
    assert holder.stdout.readline() == "locked\n"
    holder.send_signal(signal_number)
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    with embedstore.open(path) as store:
        store.add_vectors(["a"], vectors(1))
        assert store.ids() == ["a"]


def test_a_lock_is_free_again_after_an_error_and_counts_its_depth(tmp_path: Path) -> None:
    lock, other = WriteLock(tmp_path / "LOCK", 0.0), WriteLock(tmp_path / "LOCK", 0.0)
    with lock.held("one"), lock.held("two"), pytest.raises(StoreBusy, match=rf"process {os.getpid()} \(one"):
        other.held("three").__enter__()
    with pytest.raises(RuntimeError), lock.held("one"), lock.held("two"):
        raise RuntimeError
    with other.held("a much shorter name than"), pytest.raises(StoreBusy, match="shorter name"):
        lock.held("x").__enter__()
    with lock.held("x"), pytest.raises(StoreBusy, match=r"\(x, since [0-9:]*\): wait"):
        other.held("y").__enter__()


def test_a_lock_that_is_a_link_is_not_written_through(path: Path, tmp_path: Path) -> None:
    small_store(path).close()
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (path / "LOCK").unlink()
    (path / "LOCK").symlink_to(precious)
    with embedstore.open(path) as store, pytest.raises(embedstore.EmbedstoreError, match="LOCK can't be written"):
        store.add_vectors(["a"], vectors(1))
    assert precious.read_text() == "kept"


def test_an_answer_and_a_snapshot_held_across_a_compact_elsewhere_still_answer(path: Path) -> None:
    oracle = Oracle()
    with small_store(path, tail=5) as store:
        add(store, oracle, [str(i) for i in range(40)], vectors(40))
    with embedstore.open(path, read_only=True) as reader:
        held = reader._snapshots.current().spaces["default"]
        query = vectors(1, seed=3)
        hits = reader.search(query[0], k=5)
        compact = "import sys, embedstore; s = embedstore.open(sys.argv[1]); s.delete(sys.argv[2:]); s.compact()"
        gone = [*hits.ids[:1], "17", "23"]
        in_process(compact, path, *gone)
        # What was read before: the vectors of the old commit, all of them, though their file is gone.
        old = reader._searcher.engine.search(held, query, 5, only_exact=True)
        assert [(str(p), float(d)) for p, d in zip(old.positions[0], old.distances[0], strict=True)] == [
            (name, distance) for name, distance in oracle.nearest(query[0], 5, "l2")
        ]
        assert hits.ids == [name for name, _ in oracle.nearest(query[0], 5, "l2")]
        assert [hit.metadata for hit in hits] == [{} if n in gone else oracle.items[n][2] for n in hits.ids]
        for name in gone:
            oracle.delete(name)
        assert_answers(reader, oracle)
        assert reader.ids() == list(oracle.items)


def test_a_reader_that_opened_for_reading_can_not_write(path: Path) -> None:
    small_store(path).close()
    with embedstore.open(path, read_only=True) as reader:
        for write in (
            lambda: reader.add_vectors(["a"], vectors(1)),
            lambda: reader.delete("a"),
            lambda: reader.delete(where="id = 'a'"),
            lambda: reader.index(vectors(5), progress=False),
            reader.compact,
        ):
            with pytest.raises(StoreReadOnly, match="opened for reading") as caught:
                write()
            sentence(caught.value)
        assert "creating the store" in (path / "LOCK").read_text()


def test_a_crashed_writer_s_journal_is_rolled_back_by_the_next_reader(path: Path) -> None:
    with small_store(path) as store:
        store.add_vectors(["a"], vectors(1))
    # A process that dies with its pages written and its transaction open.
    in_process(
        """
        import os, sys, sqlite3
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("PRAGMA journal_mode=TRUNCATE")
        connection.execute("PRAGMA cache_size=1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM items")
        connection.executemany("INSERT INTO tombstones VALUES (?, 1)", [(n,) for n in range(1000, 9000)])
        print("dying", flush=True)
        os._exit(0)
        """,
        path / "store.db",
    )
    assert (path / "store.db-journal").stat().st_size > 0
    with embedstore.open(path, read_only=True) as reader:
        assert reader.ids() == ["a"]
        assert reader.verify().problems == []


def test_a_program_that_holds_the_database_makes_the_store_busy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedstore.metadata.database._BUSY_SECONDS", 0.05)
    small_store(path).close()
    other = sqlite3.connect(path / "store.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreBusy, match="another program") as caught, embedstore.open(path) as store:
            store.add_vectors(["a"], vectors(1))
        sentence(caught.value)
    finally:
        other.close()


def test_only_one_of_two_processes_creates_a_store(path: Path) -> None:
    code = """
        import sys, embedstore
        sys.stdin.readline()
        try:
            embedstore.create(sys.argv[1]).close()
            print("made")
        except embedstore.errors.StoreExists as error:
            print(error)
    """
    processes = [in_process(code, path, wait=False) for _ in range(3)]
    time.sleep(0.05)
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert [bool(re.search("made$", out)) for out in outputs].count(True) == 1
    with embedstore.open(path) as store:
        assert store.ids() == []


def test_a_store_made_with_settings_keeps_them(path: Path) -> None:
    config = StoreConfig(recall=0.9, factory="Flat", tail_floats=7, segment_bytes=70, lock_seconds=1.5, seed=3)
    opening.create(path, config)
    with Store(path) as store:
        assert store.config == config


def test_no_file_is_stamped_earlier_than_the_clock_says(tmp_path: Path) -> None:
    for number in range(3_000):
        before = stamping_ns()
        file = tmp_path / f"{number % 10}"
        file.write_bytes(b"x" * (number % 7))
        assert file.stat().st_mtime_ns >= before
