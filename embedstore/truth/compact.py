"""Compacting: segments and index tiers without deleted rows, in one commit, and no file that no row names.

The new vectors and tiers are written beside the old ones, holding no lock that a writer or a reader needs; then one
transaction names them, moves what was added meanwhile behind them, and forgets the old ones. So searches keep their
index, and whoever breaks a compact off finds the store as it was.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection

import numpy as np
import numpy.typing as npt

from embedstore.errors import EmbedstoreError, InvalidArgument
from embedstore.metadata import catalog, items, runs
from embedstore.progress import Progress
from embedstore.truth import building, rewriting
from embedstore.truth.layout import MODELS, OURS, SEGMENTS, TIERS, disk_usage
from embedstore.truth.rewriting import Rewritten, RewrittenThumbs, rewrite
from embedstore.truth.snapshot import SpaceView
from embedstore.truth.tiers import say_unbuilt
from embedstore.truth.writer import Writer


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compact freed.

    Attributes:
        dropped: deleted rows whose vectors are gone from the segments.
        freed: bytes.
        swept: files that no row named.
        built: index tiers made anew.
    """

    dropped: int
    freed: int
    swept: int
    built: int = 0


@dataclass(frozen=True, slots=True)
class _Before:
    """The commit that a compact began at."""

    seq: int
    last_batch: int
    stones: npt.NDArray[np.int64]


def compact(writer: Writer, *, progress: bool = False) -> CompactReport:
    """Rewrite all segments and index tiers without deleted rows, in one commit.

    Readers keep the old files until their next query. Every batch is checked against its checksum on the way: damage
    is reported, never copied into a fresh checksum. What is deleted meanwhile is left to the next compact.

    Raises:
        StoreDamaged: a batch differs from what was committed; nothing is changed.
        StoreBusy: another process is building the index.
    """
    writer.check_writable()
    with writer.building():
        size = _size(writer.directory)
        with writer.locked("compacting"):
            with writer.database.read() as connection:
                before = _state(connection)
                scattered = len(catalog.read_batches(connection)) > 4 * _fewest_batches(connection)
            if len(before.stones):
                # First, while the tombstones say that there is something to do: what fails here is done by the next
                # call.
                writer.database.vacuum()
        built = 0
        if len(before.stones) or scattered:
            try:
                built = _renew(writer, before, progress)
            except BaseException:
                with suppress(EmbedstoreError, OSError):  # what was half written must not keep a full disk full
                    sweep(writer)
                raise
        swept = sweep(writer)
        return CompactReport(len(before.stones), max(0, size - _size(writer.directory)), swept, built)


def _state(connection: Connection) -> _Before:
    last = max((batch.id for batch in catalog.read_batches(connection)), default=0)
    return _Before(catalog.read_state(connection).seq, last, catalog.read_tombstones(connection))


def _fewest_batches(connection: Connection) -> int:
    """How many batches a rewrite would leave."""
    spaces, _ = catalog.read_spaces(connection)
    row_bytes = {space.id: space.row_bytes for space in spaces}
    sizes = [s.length * (1 if s.space is None else row_bytes[s.space]) for s in catalog.read_segments(connection)]
    return sum(1 + size // rewriting.PART_BYTES for size in sizes)


def _renew(writer: Writer, before: _Before, progress: bool) -> int:
    """Write everything anew, and name it in one commit; returns how many tiers there are then."""
    with writer.database.read() as connection:
        spaces, _ = catalog.read_spaces(connection)
        indexed = {tier.space for tier in catalog.read_tiers(connection)}
        segments = {segment.id: segment for segment in catalog.read_segments(connection)}
        batches = catalog.read_batches(connection)
        places = np.array(items.thumb_places(connection), dtype=np.int64).reshape(-1, 4)
    renewed: dict[int, Rewritten] = {}
    made: dict[int, list[building.Made]] = {}
    with Progress("compacting", None, progress, "rows") as bar:
        for space in spaces:
            own = [
                batch
                for batch in batches
                if segments[batch.segment].space == space.id and batch.id <= before.last_batch
            ]
            new = renewed[space.id] = Rewritten(writer, space)
            rewrite(new, writer, own, segments, before.stones, bar)
        thumbs = RewrittenThumbs(writer)
        thumbs.copy(places, batches, segments)
    for space in spaces:
        made[space.id] = _tiers(writer, renewed[space.id], progress, renew=space.id in indexed)
    with writer.locked_in_the_end("compacting"), writer.database.write() as connection:
        state = catalog.advance(connection, relayout=True)
        segments = {segment.id: segment for segment in catalog.read_segments(connection)}
        batches = catalog.read_batches(connection)
        for space in catalog.read_spaces(connection)[0]:
            later = [
                batch
                for batch in batches
                if segments[batch.segment].space == space.id
                and (space.id not in renewed or batch.id > before.last_batch)
            ]
            new = renewed.setdefault(space.id, Rewritten(writer, space))
            new.connection = connection
            rewrite(new, writer, later, segments, np.empty(0, dtype=np.int64))
            new.name(connection, state.seq + 1)
        thumbs.connection = connection
        thumbs.name(connection, batches, segments, state.seq + 1)
        catalog.drop_batches(connection, max((batch.id for batch in batches), default=0))
        catalog.drop_segments(connection, list(segments))
        catalog.drop_tombstones(connection, before.seq)
        # Positions have moved: every other tier is of the past.
        catalog.drop_tiers(connection)
        for space in spaces:
            for tier in made[space.id]:
                tier.name(connection, space)
    return sum(map(len, made.values()))


def _tiers(writer: Writer, new: Rewritten, progress: bool, *, renew: bool) -> list[building.Made]:
    """The tiers of a space whose vectors were written anew; ``renew`` where it had some."""
    vectors, rows = new.vectors()
    view = SpaceView(new.space, vectors, rows, None, len(rows), ())
    made = []
    for stretch in building.plan(view, writer.config, renew=renew):
        try:
            made.append(building.make(writer, view, stretch, progress=progress))
        except InvalidArgument as error:
            say_unbuilt(writer.directory, error)
    return made


def sweep(writer: Writer) -> int:
    """Remove files that no row names: the remains of writes that were never committed. Returns how many.

    A reader that has such a file mapped keeps its bytes until it lets go.
    """
    with writer.locked("sweeping"):
        with writer.database.read() as connection:
            spaces, _ = catalog.read_spaces(connection)
            models = {*(space.fingerprint for space in spaces), *runs.models(connection)}
            named = {
                SEGMENTS: {segment.name for segment in catalog.read_segments(connection)},
                TIERS: {tier.name for tier in catalog.read_tiers(connection)},
                MODELS: {f"{name}{suffix}" for name in models for suffix in (".safetensors", ".json")},
            }
        swept = 0
        for folder, names in named.items():
            if not (writer.directory / folder).is_dir():
                continue
            for path in (writer.directory / folder).iterdir():
                # Only what we could have written: an interrupted fit leaves its state for the next run on purpose, and
                # what a person put there, or what a link leads to, is not ours.
                if path.name not in names and OURS.fullmatch(path.name) and (path.is_symlink() or path.is_file()):
                    path.unlink()
                    swept += 1
        return swept


def _size(directory: Path) -> int:
    return sum(disk_usage(directory).values())
