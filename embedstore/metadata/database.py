"""Connections to ``store.db``: pragmas, ``BEGIN IMMEDIATE`` for every write, and whole-commit reads.

Everything that a search or an append asks of the database is fixed text for ``sqlite3`` itself. SQLAlchemy, which
builds the conditions of filters and runs the migrations, takes as long to import as the rest of the package together,
and 20 MB: a process that asks one question doesn't wait for it.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from embedstore.errors import (
    DiskFull,
    EmbedstoreError,
    NotAStore,
    StoreBusy,
    StoreDamaged,
    StoreNotFound,
    StoreReadOnly,
)

#: Seconds that a connection waits for another one's commit to end; commits take milliseconds.
_BUSY_SECONDS = 30.0
_IS_LINUX = sys.platform == "linux"
_REALTIME_COARSE = 5  # CLOCK_REALTIME_COARSE, which Python has no name for
_IDLE = 8  # connections kept for the next query: as many as threads ask at once would be kept for ever


class Database:
    """``store.db`` of one store. Thread-safe: each ``read``/``write`` has a connection of its own while it lasts.

    The journal is SQLite's rollback journal: before SQLite 3.51.3 a WAL database under several connections can be
    corrupted, and readers of a rollback-journal database notice a commit by a number in the file's header, for next to
    nothing (see `watch`). It is emptied rather than removed, which spares two syncs of the directory a
    commit; ``synchronous=EXTRA`` makes either way durable.

    Args:
        path: of ``store.db``.
        read_only: refuse to write. Where the directory is writable a crashed writer's journal is still rolled back.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        # mode=ro can't roll back a crashed writer's journal, so it is used only where nothing can be written anyway.
        sealed = read_only and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
        self._uri = f"{path.absolute().as_uri()}?mode={'ro' if sealed else 'rw'}"
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        for pragma in (
            "foreign_keys=ON",
            "trusted_schema=OFF",
            "synchronous=EXTRA",
            "journal_mode=TRUNCATE" if not self.read_only else "query_only=ON",
            "cache_size=-16384",
        ):
            connection.execute(f"PRAGMA {pragma}").close()
        return connection

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection in one read transaction: everything it reads is of one commit."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A connection in one write transaction, committed at the end of the block, rolled back on any exception."""
        if self.read_only:
            raise StoreReadOnly(f"{self.path.parent} was opened for reading: open it with read_only=False to write")
        # A deferred transaction that turns to writing can fail half-way.
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._translated():
            with self._lock:
                # The last one used is the next, for its page cache is warm.
                connection = self._idle.pop() if self._idle else None
            connection = connection or self._connect()
            try:
                connection.execute(begin)
                yield connection
                connection.commit()
            except BaseException:
                connection.close()  # which rolls back, whatever state it is in
                raise
            with self._lock:
                if kept := len(self._idle) < _IDLE:
                    self._idle.append(connection)
            if not kept:
                connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what SQLite says into the sentence that a user can act on."""
        try:
            yield
        except sqlite3.Error as error:
            raise self.sentence(error) from error

    def sentence(self, error: BaseException | None, written: Path | None = None) -> EmbedstoreError:
        """The error of ours that says what a SQLite error means for the user.

        Args:
            error: SQLite's.
            written: the directory that was written to, where it isn't the store's.
        """
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        place = self.path.parent
        if code == sqlite3.SQLITE_FULL:
            return DiskFull(f"no room left for {written or place}: free some space and run the same command again")
        if code == sqlite3.SQLITE_IOERR:
            if getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ):
                return StoreDamaged(f"{place}/store.db can't be read ({error}): check the disk, or restore a backup")
            return DiskFull(
                f"can't write to {written or place} ({error}): check free space, quota and file-size limits"
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreBusy(f"{place} is locked by another program that reads or writes store.db: try again later")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            return StoreReadOnly(f"{place} can't be written: check the permissions of the directory and of store.db")
        if code == sqlite3.SQLITE_CANTOPEN:
            return StoreReadOnly(f"{place}/store.db can't be opened: check that it is there and its permissions")
        if code == sqlite3.SQLITE_NOTADB:
            return NotAStore(f"{place} is no embedstore: its store.db is not a SQLite database")
        if code == sqlite3.SQLITE_CORRUPT:
            return StoreDamaged(f"{place}/store.db is damaged: restore a backup (embedstore backup makes them)")
        return StoreDamaged(f"{place}/store.db can't be used: {error}")

    def raw(self) -> Any:
        """A DBAPI connection of the caller's own (one a thread), for the few reads that must take microseconds."""
        return self._connect()

    def vacuum(self) -> None:
        """Write the file anew without what was deleted: until then SQLite keeps its bytes in free room."""
        with self._translated(), closing(self._connect()) as connection:
            connection.execute("VACUUM")

    def copy_to(self, target: Path, named: Path | None = None) -> None:
        """SQLite's online backup, synced: whole even while another process commits; what was at ``target`` goes.

        Args:
            target: the file.
            named: what an error about writing names instead of its directory.
        """
        target.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(target)) as new, closing(self._connect()) as old:
                old.backup(new)
        except sqlite3.Error as error:
            raise self.sentence(error, named or target.parent) from error

    def close(self) -> None:
        """Close all connections that are not in use."""
        with self._lock:
            for connection in self._idle:
                connection.close()
            self._idle.clear()


def stamping_ns() -> int:
    """Now, by the clock that files are stamped by, where there is such a clock.

    Linux stamps by one that stands still between ticks, and for longer where a virtual machine is not run: by another
    clock, a file's time would seem older than the next stamp may be.
    """
    return time.clock_gettime_ns(_REALTIME_COARSE) if _IS_LINUX else time.time_ns()


class Clock:
    """Says whether ``store.db`` may have changed since it was last read, by its time: where `watch` can't do better.

    A commit writes the file's pages before it becomes visible, so its modification time moves first: an unchanged,
    settled time means that there is no newer commit. A time so recent that two commits could share it (file systems
    stamp in ticks of up to ten milliseconds; git calls such entries racy) is never trusted.
    """

    _TICK_NS = 10_000_000 if _IS_LINUX else 25_000_000

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._seen: tuple[int, int] | None = None

    def stamp(self) -> tuple[int, int]:
        """The file's identity and time; take it before reading, and hand it to ``settle`` afterwards."""
        try:
            stat = os.stat(self._path)  # noqa: PTH116 - a Path costs as much again as the call
        except OSError as error:
            raise StoreNotFound(f"{self._path} is gone ({error.strerror}) while the store was open") from None
        return stat.st_ino, stat.st_mtime_ns

    def changed(self, now_ns: int) -> bool:
        """Whether the database must be asked, at this time (`stamping_ns`)."""
        seen = self._seen
        return seen is None or now_ns - seen[1] <= self._TICK_NS or self.stamp() != seen

    def settle(self, stamp: tuple[int, int], taken_ns: int) -> None:
        """What was read is at least as new as ``stamp``, which was taken at this time.

        One that was as recent as a tick then may be shared by a commit that came after the reading: it isn't kept.
        """
        self._seen = stamp if taken_ns - stamp[1] > self._TICK_NS else None
