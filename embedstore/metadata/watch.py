"""Whether ``store.db`` may have changed since it was last read, without asking SQLite: that is asked of every query."""

from __future__ import annotations

import ctypes
import os
import sys
import time
import weakref
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from embedstore.metadata.database import Clock, stamping_ns

_HEADER = 4096  # bytes that are mapped; SQLite's header has 100, and no page of a database is shorter than 512
_MAGIC = b"SQLite format 3\0"
_VERSION, _ROLLBACK = 18, 1  # where the header says how commits are written, and what it says of a rollback journal
_COUNTER = slice(24, 28)
#: Seconds after which the file's place and time are looked at as well. Whoever removes or replaces the file doesn't
#: count that, nor does a program that keeps an exclusive lock over several commits.
_LOOK = 0.05
_OPEN_FILES = Path("/proc/self/fd")


class Stamp(NamedTuple):
    """What was known of the file before it was read."""

    counter: int
    time: tuple[int, int]
    taken_ns: int


class Watch:
    """Watches the file by the count of changes in its header, which SQLite raises with each commit.

    The count is read through a mapping of the file, in a twentieth of a microsecond and without letting go of Python's
    lock; it moves before a commit becomes visible, as the file's modification time does. A system call in its place
    takes one microsecond by itself, and five of a search, whose caches it disturbs. Where there is no mapping (another
    system than Linux, or a write-ahead log, whose commits aren't counted), a `Clock` says it by that time.

    Whoever cuts the file short under an open store ends its process, as with segments, which are mapped as well. The
    mapping is made from the descriptor that SQLite has: to close another one of the same file would drop SQLite's
    own locks on it (POSIX advisory locks belong to a process).

    Args:
        path: of ``store.db``.
    """

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._clock = Clock(path)
        self._header: memoryview | None = None
        self._count: memoryview | None = None
        self._tried = False
        self._seen = -1
        self._stat: tuple[int, int] | None = None
        self._next_look = 0.0

    def changed(self) -> bool:
        """Whether the database has to be asked.

        Raises:
            StoreNotFound: the file is gone.
        """
        if (count := self._count) is None:
            return self._clock.changed(stamping_ns())
        if count[0] != self._seen:
            return True
        if (now := time.monotonic()) < self._next_look:
            return False
        if self._clock.stamp() == self._stat:
            self._next_look = now + _LOOK
            return False
        return True

    def stamp(self) -> Stamp:
        """Take it before reading, and hand it to `settle` afterwards."""
        taken, count = stamping_ns(), self._count
        return Stamp(-1 if count is None else count[0], self._clock.stamp(), taken)

    def settle(self, stamp: Stamp) -> None:
        """What was read is at least as new as this.

        A count that isn't the same any more may have been that of a commit that was rolled back: it isn't kept, for
        the next one will be called the same.
        """
        self._clock.settle(stamp.time, stamp.taken_ns)
        if self._stat is not None and stamp.time[0] != self._stat[0]:
            self._count = self._header = None  # another file
        count, header = self._count, self._header  # which `close` in another thread takes away
        if count is None or header is None:
            if not self._tried:
                self._tried = True
                self._map()
            return
        is_whole = count[0] == stamp.counter and header[_VERSION] == _ROLLBACK
        self._stat, self._next_look = stamp.time, time.monotonic() + _LOOK
        self._seen = stamp.counter if is_whole else -1

    def close(self) -> None:
        """Let go of the mapping."""
        self._count = self._header = None

    def _map(self) -> None:
        """Map the header, where that can be done; what was read before isn't known by its count."""
        if (address := _mapped(self._path)) is None:
            return
        mapped = (ctypes.c_ubyte * _HEADER).from_address(address)
        # Once nothing looks at it any more, in whatever thread; not at exit, where some still do.
        weakref.finalize(mapped, _unmap, address).atexit = False
        header = memoryview(mapped).cast("B")
        if bytes(header[: len(_MAGIC)]) == _MAGIC:
            self._header, self._count = header, header[_COUNTER].cast("I")


def _mapped(path: str) -> int | None:
    """The address of a shared mapping of a file's beginning, by a descriptor that this process has open; or None."""
    if sys.platform != "linux":
        return None
    try:
        wanted = _identity(os.stat(path))  # noqa: PTH116 - as below
        for number in map(int, os.listdir(_OPEN_FILES)):  # noqa: PTH208 - names alone
            try:
                if _identity(os.fstat(number)) != wanted:
                    continue
                address = _libc().mmap(None, _HEADER, 1, 1, number, 0)  # PROT_READ, MAP_SHARED
                if address in (None, _FAILED):
                    continue
                # Another thread may have closed it in between, and opened something else.
                if _identity(os.fstat(number)) == wanted:
                    return int(address)
                _unmap(address)
            except OSError:
                continue
    except (OSError, AttributeError):
        pass
    return None


def _identity(found: os.stat_result) -> tuple[int, int, bool]:
    return found.st_dev, found.st_ino, found.st_size >= _HEADER


_FAILED = ctypes.c_void_p(-1).value


@cache
def _libc() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library


def _unmap(address: int) -> None:
    _libc().munmap(address, _HEADER)
