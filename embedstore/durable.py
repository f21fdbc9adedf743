"""Bytes that stay: syncing files and directories, and the kernel's lock that a crash can't leave behind."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from embedstore.errors import DiskFull, EmbedstoreError, InvalidArgument, StoreBusy, StoreReadOnly

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NAME = 200  # bytes of the holder's name in a lock file


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says while writing to ``path`` into the sentence that a user can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                f"no room left for {path} ({error.strerror}): free some space and run the same command again; "
                "what was acknowledged before is kept"
            ) from error
        if error.errno in _DENIED:
            raise StoreReadOnly(f"{path} can't be written ({error.strerror}): check its permissions") from error
        raise EmbedstoreError(f"{path} can't be written: {error.strerror or error}") from error


@contextmanager
def writing_output(path: Path) -> Iterator[None]:
    """The same for a file that a user named: nothing of the store is at stake, and another name may do.

    Raises:
        DiskFull: no room; InvalidArgument: anything else.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"no room to write {path}: free some space or choose another disk") from error
        raise InvalidArgument(f"{path} can't be written: {error.strerror or error}") from error


def sync_file(descriptor: int) -> None:
    """Wait until a file's bytes and length are on the disk itself."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # fsync there only reaches the drive's cache
    else:
        os.fdatasync(descriptor)  # leaves out the times, which spares a journal write; the length is included


def sync_directory(path: Path) -> None:
    """Wait until a directory's entries (a file made, renamed or removed in it) are on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def only_one(directory: Path, seconds: float = 0.0) -> Iterator[bool]:
    """Whether no other thread or process is within such a block for this directory, after waiting so long for it.

    The lock is on the directory itself, so that it needs no file; the kernel drops it when its holder dies.
    """
    with writing(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    deadline = time.monotonic() + seconds
    _held.add(descriptor)
    try:
        while not (taken := _try_lock(descriptor)) and time.monotonic() < deadline:
            time.sleep(0.02)
        yield taken
    finally:
        _held.discard(descriptor)
        _unlock(descriptor)


#: What a child process that is forked meanwhile must let go of: it is not the one that holds the locks.
_held: set[int] = set()


def _unlock(descriptor: int) -> None:
    """Give a lock back, also where a forked process has the same file open still, and close the file."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _after_fork() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)  # the parent's lock stays: it belongs to the open file, which the parent has as well
    _held.clear()
    for lock in list(_locks):
        lock.forget()


os.register_at_fork(after_in_child=_after_fork)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class WriteLock:
    """The one writer's lock: ``flock`` on ``LOCK``, which the kernel drops when its holder dies.

    The file holds the holder's name for those who wait. Re-entrant within a thread. A lock file in the manner of
    "create exclusively, remove when done" was rejected: a killed writer would leave it behind.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self.forget()
        _locks.add(self)

    def forget(self) -> None:
        """Hold nothing: of a new lock, and in a process that was forked while another thread held it."""
        self._own = threading.RLock()
        self._depth = 0
        self._descriptor = -1

    @contextmanager
    def held(self, purpose: str, *, read_only: bool = False) -> Iterator[None]:
        """Hold the lock for the block.

        Args:
            purpose: for those who wait.
            read_only: keep writers out and write nothing, not even the holder's name.

        Raises:
            StoreBusy: another holder kept it longer than the timeout; the message names it.
        """
        if not self._own.acquire(timeout=self._timeout):
            raise StoreBusy(f"another thread of this process is writing to {self._path.parent}: try again later")
        try:
            if self._depth == 0:
                self._take(purpose, read_only)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    _held.discard(self._descriptor)
                    _unlock(self._descriptor)
                    self._descriptor = -1
        finally:
            self._own.release()

    def _take(self, purpose: str, read_only: bool) -> None:
        with writing(self._path):
            # Not through a link, by which a store that someone else made could have another file of ours written over,
            # nor waiting for the other end of a FIFO.
            mode = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
            descriptor = os.open(self._path, mode | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        deadline = time.monotonic() + self._timeout
        pause = 0.002
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(descriptor, _NAME, 0).split(b"\n")[0].decode("utf-8", "replace").strip()
                    os.close(descriptor)
                    raise StoreBusy(
                        f"{self._path.parent} is being written by {holder or 'another process'}: "
                        "wait for it to end, or stop it, and try again"
                    ) from None
                time.sleep(pause)
                pause = min(pause * 2, 0.1)
            except BaseException:
                os.close(descriptor)
                raise
        self._descriptor = descriptor
        _held.add(descriptor)
        if read_only:
            return
        # Only for people; the lock is the kernel's. Never synced: it means nothing after a crash.
        # Padded instead of truncated: ext4 writes a truncated file out when it is closed, milliseconds for each lock.
        name = f"process {os.getpid()} ({purpose}, since {time.strftime('%H:%M:%S')})".encode()[: _NAME - 1]
        with suppress(OSError):  # a full disk has no room for a name, and a deletion may be what makes room
            os.pwrite(descriptor, name.ljust(_NAME - 1) + b"\n", 0)


_locks: weakref.WeakSet[WriteLock] = weakref.WeakSet()
