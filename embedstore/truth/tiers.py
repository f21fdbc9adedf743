"""Index tiers as files: which to build, building them aside and naming them, and loading only what can be trusted."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.durable import sync_directory, sync_file, writing
from embedstore.errors import EmbedstoreError, InvalidArgument
from embedstore.metadata import catalog
from embedstore.metadata.catalog import TierRecord
from embedstore.metadata.database import Database
from embedstore.truth import trust
from embedstore.truth.layout import DATABASE, OURS, TIERS, tier_name
from embedstore.truth.snapshot import Snapshots, SpaceView
from embedstore.truth.writer import Writer

if TYPE_CHECKING:
    from embedstore.index.tier import Tier
    from embedstore.index.tune import Tuned

#: A tier is merged with the stretch behind it while it is at most this many times as long: so each vector is rebuilt
#: O(log n) times, and a store has O(log n) tiers (O'Neil et al., The log-structured merge-tree, 1996).
_MERGE_RATIO = 2
_TUNING_QUERIES = 1000
_TUNING_K = 10


class TierWarning(UserWarning):
    """An index tier can't be used; answers stay exact, and are slower until it is rebuilt."""


def size(directory: Path, record: TierRecord) -> int | None:
    """Bytes of a tier's file, or None where there is none."""
    try:
        found = (directory / TIERS / record.name).stat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def fault(directory: Path, record: TierRecord) -> str | None:
    """Why a tier's file can't be trusted, or None if it can: it is the very file that this machine's user built."""
    path = directory / TIERS / record.name
    try:
        if not path.is_file():  # nor is a FIFO waited for
            return "is missing"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"can't be read ({error.strerror})"
    if found != record.sha256:
        return "is not the file that was recorded"
    if not trust.trusted(record.sha256, record.signature):
        return "was built by another user or on another machine"
    return None


def load(directory: Path, record: TierRecord, view: SpaceView) -> Tier | None:
    """Load a tier, or warn and return None where it can't be trusted or read."""
    from embedstore.index import build, bytewise
    from embedstore.index.tier import Tier
    from embedstore.index.tune import Tuned
    from embedstore.types import Metric

    reason = fault(directory, record)
    if reason is None:
        try:
            index = build.read(directory / TIERS / record.name)
            if index.d != view.space.dimension or record.first + record.count > len(view.rows):
                # FAISS would read behind the query's end; a signature says who built the file, not for which space.
                reason = "belongs to another space"
            elif index.ntotal == record.count:
                tuned = dict(record.tuned)
                metric, held = Metric.parse(tuned.pop("metric")), None
                blocks = [block for _, block in view.vectors.blocks(record.first, record.count)]
                if tuned.pop("bytes", False) and bytewise.fits(blocks, metric):
                    held = bytewise.hold(blocks)
                return Tier(index, record.first, metric, Tuned.load(tuned), held)
            else:
                reason = f"holds {index.ntotal} vectors, not {record.count}"
        except (EmbedstoreError, KeyError, TypeError, ValueError) as error:
            reason = f"can't be loaded ({error})"
    if not _named(directory, record):
        return None  # merged or compacted away since the snapshot was taken: nothing is wrong
    warnings.warn(
        f"{directory}: index tier {record.name} {reason}; searching exactly until `embedstore compact` rebuilds it",
        TierWarning,
        stacklevel=2,
    )
    return None


def _named(directory: Path, record: TierRecord) -> bool:
    database = Database(directory / DATABASE, read_only=True)
    try:
        with database.read() as connection:
            return any(tier.name == record.name for tier in catalog.read_tiers(connection))
    finally:
        database.close()


def plan(view: SpaceView, tail_floats: int, factory: str | None) -> list[tuple[int, int, str]]:
    """What to build: (first position, count, factory string) of each stretch that deserves a tier."""
    from embedstore.index.build import choose

    space = view.space
    stretches = []
    end = 0
    for tier in view.tiers:
        if tier.first > end:
            stretches.append((end, tier.first - end))
        end = tier.first + tier.count
    first, total = end, len(view.rows)
    if (total - end) * space.dimension > tail_floats:
        for tier in reversed(view.tiers):
            if tier.first + tier.count != first or tier.count > _MERGE_RATIO * (total - first):
                break
            first = tier.first
        stretches.append((first, total - first))
    chosen = ((start, count, choose(count, space.dimension, space.metric, factory)) for start, count in stretches)
    return [(start, count, name) for start, count, name in chosen if name is not None]


def ensure(writer: Writer, snapshots: Snapshots, *, check: bool = False, progress: bool = False) -> int:
    """Build the tiers that are due in every space; returns how many were built.

    Args:
        writer: of the store.
        snapshots: of the store.
        check: also hash the files of the tiers that are there, and drop those that can't be trusted.
        progress: draw bars on stderr.
    """
    built = 0
    if not check and not _may_be_due(writer, snapshots):
        return 0
    with writer.locked("building the index"):
        writer.appended = 0
        if check:
            _drop_faulty(writer, snapshots)
        for name in list(snapshots.current().spaces):
            view = snapshots.current().spaces[name]
            for first, count, factory in plan(view, writer.config.tail_floats, writer.config.factory):
                try:
                    _build(writer, view, first, count, factory, progress=progress)
                    built += 1
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
        with writer.database.write() as connection:
            catalog.advance(connection)
            catalog.drop_tiers(connection, faulty)


def _build(writer: Writer, view: SpaceView, first: int, count: int, factory: str, *, progress: bool) -> None:
    from embedstore.index import build, bytewise

    space, vectors = view.space, view.vectors
    blocks = [block for _, block in vectors.blocks(first, count)]
    factories = [factory]
    if writer.config.factory is None:
        smaller = build.reduced(factory, blocks, space.metric, seed=writer.config.seed)
        factories[:0] = [smaller] if smaller is not None else []
    for factory in factories:
        index = build.build(blocks, space.metric, factory, progress=progress, seed=writer.config.seed)
        tuned = _tune(writer, view, index, first, count)
        if tuned.target_met:
            break
    with writer.database.write() as connection:
        number = catalog.take_file_number(connection)
    path = writer.directory / TIERS / tier_name(number)
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
    with writer.database.write() as connection:
        catalog.advance(connection)
        catalog.add_tier(
            connection,
            space=space.id,
            name=path.name,
            first=first,
            count=count,
            factory=factory,
            sha256=sha256,
            signature=trust.sign(sha256),
            tuned={**asdict(tuned), "metric": space.metric.value, "bytes": bytewise.fits(blocks, space.metric)},
        )
    vectors.release()


@contextmanager
def _removed_on_failure(draft: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def _tune(writer: Writer, view: SpaceView, index: Any, first: int, count: int) -> Tuned:
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
