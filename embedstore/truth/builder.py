"""When index tiers are built: at once, or on a thread behind the back of whoever goes on writing and reading."""

from __future__ import annotations

import atexit
import os
import threading
import time
import warnings
import weakref
from contextlib import suppress

from embedstore.errors import EmbedstoreError, InvalidArgument
from embedstore.metadata import catalog
from embedstore.truth.building import Watch, build_tier, is_due, plan
from embedstore.truth.layout import OURS, TIERS
from embedstore.truth.snapshot import Snapshots
from embedstore.truth.tiers import TierWarning, fault, say_unbuilt
from embedstore.truth.writer import Writer

#: Seconds without an add after which a build begins behind it, at least and at most; and between them, as many times
#: the pause before the last add. A build for every block of a bulk load would do the work several times, and slow the
#: load down; meanwhile what isn't covered is searched exactly.
_QUIET, _LONGEST, _PAUSES = 0.5, 10.0, 3.0
_FIRST = 1.0  # taken for the pause before the first add
#: Seconds after which it begins although adds go on.
_PATIENCE = 60.0
_AT_EXIT = 60.0  # seconds that a process waits in the end for a step of a build


class _BrokenOff(Exception):
    """A build was told to stop, or has become void."""


class Builder:
    """Builds the tiers of a store that are due: at once, or on a thread of its own while the caller goes on.

    Args:
        writer: of the store.
        snapshots: of the store.
    """

    def __init__(self, writer: Writer, snapshots: Snapshots) -> None:
        self._writer = writer
        self._snapshots = snapshots
        self._asked: float | None = None  # when somebody last appended
        self._quiet = _QUIET
        self.forget()
        _builders.add(self)

    def forget(self) -> None:
        """Have no thread: at first, and in a process that was forked, which has none of its parent's."""
        self._lock = threading.Lock()  # of the fields here
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()  # somebody waits for the build
        self._stop = threading.Event()

    def later(self) -> None:
        """Build what is due once no more is added for a moment. Returns at once."""
        now = time.monotonic()
        with self._lock:
            pause = _FIRST if self._asked is None else now - self._asked
            self._quiet, self._asked = min(max(_QUIET, _PAUSES * pause), _LONGEST), now
        if not _may_be_due(self._writer, self._snapshots):
            return
        with self._lock:
            self._stop.clear()
            if self._thread is not None:
                return
            self._hurry.clear()
            thread = threading.Thread(target=self._work, name="embedstore-build", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # no thread to be had: whoever closes the store, or writes next, builds
            self._thread = thread
            # A thread that is within FAISS while Python ends brings the process down.
            atexit.register(self.stop, _AT_EXIT)

    def now(
        self,
        *,
        check: bool = False,
        merge: bool = False,
        renew: bool = False,
        wait: bool = True,
        progress: bool = False,
    ) -> int:
        """Build what is due and wait for it; returns how many tiers were built here.

        Args:
            check: also hash the files of the tiers that are there, and make those anew that can't be trusted.
            merge: make one of several tiers.
            renew: make one of all vectors, whatever is there.
            wait: for another process that builds, as long as the store's patience lasts.
            progress: draw bars on stderr.

        Raises:
            StoreBusy: another process is building the index.
        """
        self.settle()
        if not (check or merge or renew) and not _may_be_due(self._writer, self._snapshots):
            return 0
        with self._writer.building(wait=wait):
            return self._build_due(check=check, merge=merge, renew=renew, progress=progress)

    def settle(self) -> None:
        """Wait until nothing is being built behind the caller's back, with all cores."""
        with self._lock:
            thread = self._thread
        self._hurry.set()
        try:
            if thread is not None:
                thread.join()
        except BaseException:
            self.stop()
            raise

    def stop(self, patience: float = 2.0) -> None:
        """Break off what is being built behind the caller's back: whoever writes next begins it again."""
        with self._lock:
            thread = self._thread
        self._stop.set()
        self._hurry.set()
        if thread is not None:
            thread.join(patience)  # a step takes about a second; a longer one, as training, ends by itself

    def _work(self) -> None:
        """The thread: wait for a quiet moment, build, and end when nothing is due."""
        from embedstore.index.bindings import faiss

        faiss.omp_set_num_threads(self._threads())
        while True:
            due_since = time.monotonic()
            while not self._hurry.is_set():
                now = time.monotonic()
                rest = min((self._asked or now) + self._quiet, due_since + _PATIENCE) - now
                if rest <= 0:
                    break
                self._hurry.wait(rest)
            begun, alone = time.monotonic(), True
            try:
                if not self._stop.is_set():
                    with self._writer.try_building() as alone:
                        if alone:
                            self._build_due(watch=self._watch)
                if not alone:
                    self._snapshots.current()
            except _BrokenOff:
                pass
            except EmbedstoreError as error:
                with self._lock:
                    self._end()
                warnings.warn(
                    f"{self._writer.directory}: no index was built ({error}); searching exactly until "
                    "`embedstore compact` builds it",
                    TierWarning,
                    stacklevel=2,
                )
                return
            except BaseException:
                with self._lock:
                    self._end()
                raise
            with self._lock:
                if not alone and not self._hurry.is_set():
                    # Another process is at it, and may have looked before the last rows came: look again.
                    self._asked = time.monotonic()
                more = (self._asked or 0.0) > begun and _may_be_due(self._writer, self._snapshots)
                if self._stop.is_set() or not more:
                    self._end()
                    return

    def _end(self) -> None:
        """What the thread does last."""
        self._thread = None
        atexit.unregister(self.stop)

    def _threads(self) -> int:
        """Half of the cores, so that whoever writes and reads meanwhile has the others; all where somebody waits."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cores if self._hurry.is_set() else max(1, cores // 2)

    def _watch(self) -> int:
        if self._stop.is_set():
            raise _BrokenOff
        return self._threads()

    def _build_due(
        self,
        *,
        check: bool = False,
        merge: bool = False,
        renew: bool = False,
        progress: bool = False,
        watch: Watch = None,
    ) -> int:
        writer, snapshots = self._writer, self._snapshots
        built, tried, done = 0, set(), set()
        writer.appended = 0
        lost = _drop_faulty(writer, snapshots) if check else set()
        if renew:  # as 'exact', which has none
            spaces = [view for view in snapshots.current().spaces.values() if not plan(view, writer.config, renew=True)]
            _drop(writer, [tier.id for view in spaces for tier in view.tiers])
        while True:
            snapshot = snapshots.current()
            due = [
                (view, stretch)
                for view in snapshot.spaces.values()
                # What is asked for beyond what is due is done once, however much is added meanwhile.
                for stretch in plan(
                    view,
                    writer.config,
                    merge=merge and view.space.id not in done,
                    renew=(renew or view.space.id in lost) and view.space.id not in done,
                )
                if (view.space.id, stretch) not in tried
            ]
            if not due:
                break
            view, stretch = due[0]
            tried.add((view.space.id, stretch))
            done.add(view.space.id)
            try:
                built += build_tier(writer, view, stretch, snapshot.layout, watch=watch, progress=progress)
            except InvalidArgument as error:
                say_unbuilt(writer.directory, error)  # a factory that needs more of them to be trained
        if built:
            _remove_unnamed(writer)
        return built


def _may_be_due(writer: Writer, snapshots: Snapshots) -> bool:
    """Whether it is worth reading the newest commit, which takes as long as adding a vector.

    What other writers appended meanwhile is for them to look at.
    """
    for view in snapshots.known().spaces.values():
        covered = sum(tier.count for tier in view.tiers)
        tail = len(view.rows) + writer.appended - covered
        if is_due(writer.config, view.space.dimension, covered, tail):
            return True
    return False


def _drop_faulty(writer: Writer, snapshots: Snapshots) -> set[int]:
    """Forget tiers whose files can't be trusted; returns the ids of their spaces."""
    records = [tier for view in snapshots.current().spaces.values() for tier in view.tiers]
    faulty = [record for record in records if fault(writer.directory, record) is not None]
    _drop(writer, [record.id for record in faulty])
    return {record.space for record in faulty}


def _drop(writer: Writer, tiers: list[int]) -> None:
    if tiers:
        with writer.locked("dropping tiers"), writer.database.write() as connection:
            catalog.advance(connection)
            catalog.drop_tiers(connection, tiers)


def _remove_unnamed(writer: Writer) -> None:
    with writer.database.read() as connection:
        named = {tier.name for tier in catalog.read_tiers(connection)}
    for path in (writer.directory / TIERS).iterdir():
        if path.name not in named and OURS.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


_builders: weakref.WeakSet[Builder] = weakref.WeakSet()


def _after_fork() -> None:
    for builder in list(_builders):
        builder.forget()


os.register_at_fork(after_in_child=_after_fork)
