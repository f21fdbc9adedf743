"""Building index tiers: which stretches deserve one, and making it aside, behind the back of whoever reads and writes.

A build holds no lock that a writer needs: what it reads never changes, and the commit that names the finished file
takes milliseconds. Only a second build waits, and a compact, which moves positions, makes it void.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from embedstore.durable import sync_directory, sync_file, writing
from embedstore.errors import EmbedstoreError, InvalidArgument, StoreBusy
from embedstore.metadata import catalog
from embedstore.progress import Progress
from embedstore.truth import trust
from embedstore.truth.layout import OURS, TIERS, tier_name
from embedstore.truth.snapshot import Snapshots, SpaceView
from embedstore.truth.tiers import TierWarning, fault
from embedstore.truth.writer import Writer

if TYPE_CHECKING:
    from embedstore.index.tune import Tuned

#: Says how many threads a step of a build may take, or raises to end it.
Watch: TypeAlias = "Callable[[], int] | None"
#: A tier is merged with the stretch behind it while it is at most this many times as long: so each vector is rebuilt
#: O(log n) times, and a store has O(log n) tiers (O'Neil et al., The log-structured merge-tree, 1996).
_MERGE_RATIO = 2
_TUNING_QUERIES = 1000
_TUNING_K = 10
#: Seconds without an add after which a build begins behind it, at least; and as many times the pause before the last
#: add. A build for every block of a bulk load would do the work several times, and slow the load down; meanwhile what
#: isn't covered is searched exactly.
_QUIET, _PAUSES = 0.5, 3.0
#: Seconds after which it begins although adds go on.
_PATIENCE = 60.0
_AT_EXIT = 60.0  # seconds that a process waits in the end for a step of a build


class _BrokenOff(Exception):
    """A build was told to stop, or has become void."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Positions [first, first + count) that deserve a tier, and the FAISS factory string to build it by."""

    first: int
    count: int
    factory: str


def plan(view: SpaceView, tail_floats: int, factory: str | None, *, merge: bool = False) -> list[Stretch]:
    """What to build.

    Args:
        view: of the space.
        tail_floats: numbers behind the last tier that are not worth one yet.
        factory: of the store, or None to choose by size.
        merge: make one of all tiers, whatever their lengths.
    """
    from embedstore.index.build import choose

    space, total = view.space, len(view.rows)
    stretches = []
    end = 0
    for tier in view.tiers:
        if tier.first > end:
            stretches.append((end, tier.first - end))
        end = tier.first + tier.count
    first = end
    if (total - end) * space.dimension > tail_floats:
        for tier in reversed(view.tiers):
            if tier.first + tier.count != first or tier.count > _MERGE_RATIO * (total - first):
                break
            first = tier.first
        stretches.append((first, total - first))
    if merge and len(view.tiers) + len(stretches) > 1:
        stretches = [(0, total)]
    chosen = ((start, count, choose(count, space.dimension, space.metric, factory)) for start, count in stretches)
    return [Stretch(start, count, name) for start, count, name in chosen if name is not None]


class Builder:
    """Builds the tiers of a store that are due: at once, or on a thread of its own while the caller goes on.

    Args:
        writer: of the store.
        snapshots: of the store.
    """

    def __init__(self, writer: Writer, snapshots: Snapshots) -> None:
        self._writer = writer
        self._snapshots = snapshots
        self._lock = threading.Lock()  # of the fields below
        self._thread: threading.Thread | None = None
        self._asked = 0.0  # when somebody last appended
        self._quiet = _QUIET
        self._hurry = threading.Event()  # somebody waits for the build
        self._stop = threading.Event()

    def later(self) -> None:
        """Build what is due once no more is added for a moment. Returns at once."""
        now = time.monotonic()
        with self._lock:
            self._quiet = max(_QUIET, _PAUSES * (now - self._asked))
            self._asked = now
        if not _may_be_due(self._writer, self._snapshots):
            return
        with self._lock:
            if self._thread is None:
                self._stop.clear()
                self._hurry.clear()
                self._thread = threading.Thread(target=self._work, name="embedstore-build", daemon=True)
                # A thread that is within FAISS while Python ends brings the process down.
                atexit.register(self.stop, _AT_EXIT)
                self._thread.start()

    def now(self, *, check: bool = False, merge: bool = False, progress: bool = False) -> int:
        """Build what is due and wait for it; returns how many tiers were built here.

        Args:
            check: also hash the files of the tiers that are there, and drop those that can't be trusted.
            merge: make one of several tiers.
            progress: draw bars on stderr.

        Raises:
            StoreBusy: another process is building the index.
        """
        self.settle()
        if not check and not merge and not _may_be_due(self._writer, self._snapshots):
            return 0
        with self._writer.building():
            return self._build_due(check=check, merge=merge, progress=progress)

    def settle(self) -> None:
        """Wait until nothing is being built behind the caller's back, with all cores."""
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
        self._stop.set()
        self._hurry.set()
        thread = self._thread
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
                rest = min(self._asked + self._quiet, due_since + _PATIENCE) - now
                if rest <= 0:
                    break
                self._hurry.wait(rest)
            begun = time.monotonic()
            try:
                if not self._stop.is_set():
                    with self._writer.try_building() as alone:
                        if alone:  # else another process is at it, and looks again before it ends
                            self._build_due(watch=self._watch)
            except _BrokenOff:
                pass
            except EmbedstoreError as error:
                self._end()
                warnings.warn(
                    f"{self._writer.directory}: no index was built ({error}); searching exactly until "
                    "`embedstore compact` builds it",
                    TierWarning,
                    stacklevel=2,
                )
                return
            except BaseException:
                self._end()
                raise
            with self._lock:
                more = self._asked > begun and _may_be_due(self._writer, self._snapshots)
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
        self, *, check: bool = False, merge: bool = False, progress: bool = False, watch: Watch = None
    ) -> int:
        writer, snapshots = self._writer, self._snapshots
        built, tried = 0, set()
        writer.appended = 0
        if check:
            _drop_faulty(writer, snapshots)
        while True:
            snapshot = snapshots.current()
            due = [
                (view, stretch)
                for view in snapshot.spaces.values()
                for stretch in plan(view, writer.config.tail_floats, writer.config.factory, merge=merge)
                if (view.space.id, stretch) not in tried
            ]
            if not due:
                break
            view, stretch = due[0]
            tried.add((view.space.id, stretch))
            try:
                built += _build(writer, view, stretch, snapshot.layout, watch=watch, progress=progress)
            except InvalidArgument as error:
                # The rows are committed: a factory that needs more of them to be trained must not fail their add.
                warnings.warn(f"{writer.directory}: searching exactly, for {error}", TierWarning, stacklevel=2)
        if built:
            _remove_unnamed(writer)
        return built


def _may_be_due(writer: Writer, snapshots: Snapshots) -> bool:
    """Whether it is worth reading the newest commit, which takes as long as adding a vector.

    What other writers appended meanwhile is for them to look at.
    """
    for view in snapshots.known().spaces.values():
        uncovered = len(view.rows) + writer.appended - sum(tier.count for tier in view.tiers)
        if uncovered * view.space.dimension > writer.config.tail_floats:
            return True
    return False


def _drop_faulty(writer: Writer, snapshots: Snapshots) -> None:
    records = [tier for view in snapshots.current().spaces.values() for tier in view.tiers]
    faulty = [record.id for record in records if fault(writer.directory, record) is not None]
    if faulty:
        with writer.locked("dropping damaged tiers"), writer.database.write() as connection:
            catalog.advance(connection)
            catalog.drop_tiers(connection, faulty)


def _build(
    writer: Writer, view: SpaceView, stretch: Stretch, layout: int, *, watch: Watch = None, progress: bool = False
) -> bool:
    """Build one tier and name it; False where a compact has moved its positions meanwhile."""
    from embedstore.index import build, bytewise

    space, vectors, config = view.space, view.vectors, writer.config
    blocks = [block for _, block in vectors.blocks(stretch.first, stretch.count)]
    factories = [stretch.factory]
    if config.factory is None:
        smaller = build.reduced(stretch.factory, blocks, space.metric, seed=config.seed)
        factories[:0] = [smaller] if smaller is not None else []
    for factory in factories:
        index = build.build(blocks, space.metric, factory, progress=progress, seed=config.seed, watch=watch)
        with Progress("tuning the index", None, enabled=progress, unit="queries"):
            tuned = tune_tier(writer, view, index, stretch.first, stretch.count)
        if tuned.target_met:
            break
    if watch is not None:
        watch()
    with _naming(writer, watch), writer.database.write() as connection:
        number = catalog.take_file_number(connection)
    path = writer.directory / TIERS / tier_name(number)
    sha256 = _write(index, path)
    with _naming(writer, watch), writer.database.write() as connection:
        if catalog.read_state(connection).layout != layout:
            path.unlink(missing_ok=True)
            return False
        catalog.advance(connection)
        catalog.add_tier(
            connection,
            space=space.id,
            name=path.name,
            first=stretch.first,
            count=stretch.count,
            factory=factory,
            sha256=sha256,
            signature=trust.sign(sha256),
            tuned={**asdict(tuned), "metric": space.metric.value, "bytes": bytewise.fits(blocks, space.metric)},
        )
    vectors.release()
    return True


@contextmanager
def _naming(writer: Writer, watch: Watch) -> Iterator[None]:
    """The writer's lock; behind the caller's back, who may hold it for long, however long that takes."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(writer.locked("naming a tier"))
                break
            except StoreBusy:
                if watch is None:
                    raise
                watch()
        yield


def _write(index: Any, path: Path) -> str:
    """Write an index durably; returns its hash."""
    from embedstore.index import build

    draft = path.with_suffix(".draft")
    with writing(path), _removed_on_failure(draft):
        draft.parent.mkdir(exist_ok=True)
        draft.unlink(missing_ok=True)  # never write through a link that lies there
        build.write(index, draft)
        descriptor = os.open(draft, os.O_RDWR)
        try:
            sync_file(descriptor)
            with open(descriptor, "rb", closefd=False) as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        finally:
            os.close(descriptor)
        draft.replace(path)
        sync_directory(path.parent)
    return sha256


@contextmanager
def _removed_on_failure(draft: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def tune_tier(writer: Writer, view: SpaceView, index: Any, first: int, count: int) -> Tuned:
    """Tune to the store's recall, both for queries beside the data and for the stored vectors themselves."""
    from embedstore.index import exact, tune

    config, vectors, metric = writer.config, view.vectors, view.space.metric
    half = _TUNING_QUERIES // 2
    probes = tune.probes(index, lambda at: vectors.read(at + first), half, metric=metric, seed=config.seed)
    chosen = np.sort(np.random.default_rng(config.seed).choice(count, min(half, count - 1), replace=False))
    own = np.concatenate([np.full(len(probes), -1), chosen])
    queries = np.concatenate([probes, vectors.read(chosen + first)])
    _, near = exact.search(_relative(vectors.blocks(first, count), first), queries, _TUNING_K + 1, metric)
    mine = (near == own[:, None]) & (own[:, None] >= 0)
    mine[~mine.any(axis=1), -1] = True
    truth = near[~mine].reshape(len(near), _TUNING_K)
    return tune.tune(index, queries, truth, k=_TUNING_K, target=config.recall, metric=metric, own=own)


def _relative(blocks: Iterator[tuple[int, np.ndarray]], first: int) -> list[tuple[int, np.ndarray]]:
    return [(start - first, block) for start, block in blocks]


def _remove_unnamed(writer: Writer) -> None:
    with writer.database.read() as connection:
        named = {tier.name for tier in catalog.read_tiers(connection)}
    for path in (writer.directory / TIERS).iterdir():
        if path.name not in named and OURS.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()
