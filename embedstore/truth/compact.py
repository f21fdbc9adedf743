"""Compacting: rewriting segments without deleted rows, and sweeping files that no row names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection

import numpy as np
import numpy.typing as npt

from embedstore.errors import EmbedstoreError, StoreDamaged
from embedstore.metadata import catalog, items, runs
from embedstore.metadata.catalog import Batch, Segment, Space
from embedstore.progress import Progress
from embedstore.truth.layout import MODELS, OURS, SEGMENTS, TIERS, disk_usage, segment_name
from embedstore.truth.writer import Writer
from embedstore.vectors import segments as files

_PART = 32 * 2**20  # bytes rewritten at a time


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


def compact(writer: Writer, *, progress: bool = False) -> CompactReport:
    """Rewrite all segments without deleted rows, in one commit; readers keep the old files until their next query.

    Every batch is checked against its checksum on the way: damage is reported, never copied into a fresh checksum.

    Raises:
        StoreDamaged: a batch differs from what was committed; nothing is changed.
        StoreBusy: another process is building the index.
    """
    writer.check_writable()
    with writer.building(), writer.locked("compacting"):
        before = _size(writer.directory)
        with writer.database.read() as connection:
            dropped = catalog.count_tombstones(connection)
            scattered = len(catalog.read_batches(connection)) > 4 * _fewest_batches(connection)
        if dropped:
            # First, while the tombstones say that there is something to do: what fails here is done by the next call.
            writer.database.vacuum()
        if dropped or scattered:
            try:
                with writer.database.write() as connection, Progress("compacting", None, progress, "rows") as bar:
                    _rewrite(writer, connection, bar)
            except BaseException:
                with suppress(EmbedstoreError, OSError):  # what was half written must not keep a full disk full
                    sweep(writer)
                raise
        swept = sweep(writer)
        return CompactReport(dropped, max(0, before - _size(writer.directory)), swept)


def _fewest_batches(connection: Connection) -> int:
    """How many batches a rewrite would leave."""
    spaces, _ = catalog.read_spaces(connection)
    row_bytes = {space.id: space.row_bytes for space in spaces}
    sizes = [s.length * (1 if s.space is None else row_bytes[s.space]) for s in catalog.read_segments(connection)]
    return sum(1 + size // _PART for size in sizes)


def _rewrite(writer: Writer, connection: Connection, bar: Progress) -> None:
    before = catalog.advance(connection, relayout=True)
    segments = catalog.read_segments(connection)
    batches = catalog.read_batches(connection)
    stones = catalog.read_tombstones(connection)
    spaces, _ = catalog.read_spaces(connection)
    by_id = {segment.id: segment for segment in segments}
    last_batch = max((batch.id for batch in batches), default=0)
    for space in spaces:
        own = [batch for batch in batches if by_id[batch.segment].space == space.id]
        _rewrite_vectors(writer, connection, space, own, by_id, stones, before.seq + 1, bar)
    _rewrite_thumbs(writer, connection, segments, batches, before.seq + 1)
    catalog.drop_batches(connection, last_batch)
    catalog.drop_segments(connection, [segment.id for segment in segments])
    catalog.drop_tombstones(connection)
    # Positions have moved: every tier is of the past.
    catalog.drop_tiers(connection)


def _rewrite_vectors(
    writer: Writer,
    connection: Connection,
    space: Space,
    batches: list[Batch],
    segments: dict[int, Segment],
    stones: npt.NDArray[np.int64],
    seq: int,
    bar: Progress,
) -> None:
    row_bytes = space.row_bytes
    target: Segment | None = None
    length = 0
    for rows, vectors in _merged(writer, space, batches, segments, stones):
        if target is None or length * row_bytes >= writer.config.segment_bytes:
            target, length = _new_segment(writer, connection, "vec", space), 0
        part = vectors.data.cast("B")
        files.append(writer.directory / SEGMENTS / target.name, length * row_bytes, [part])
        contiguous = int(rows[-1]) - int(rows[0]) + 1 == len(rows)
        catalog.add_batch(
            connection,
            segment=target.id,
            start=length,
            count=len(rows),
            first_row=int(rows[0]),
            rows=None if contiguous else rows,
            checksum=files.checksum([part]),
            seq=seq,
        )
        length += len(rows)
        catalog.grow_segment(connection, target.id, length)
        bar.advance(len(rows))


def _merged(
    writer: Writer,
    space: Space,
    batches: list[Batch],
    segments: dict[int, Segment],
    stones: npt.NDArray[np.int64],
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
    """Live (rows, bytes of their vectors) of all batches in order, gathered into parts of about 32 MiB."""
    row_bytes = space.row_bytes
    held_rows: list[npt.NDArray[np.int64]] = []
    held: list[npt.NDArray[np.uint8]] = []
    size = 0
    for batch in batches:
        path = writer.directory / SEGMENTS / segments[batch.segment].name
        data = files.read_bytes(path, [(batch.start * row_bytes, batch.count * row_bytes)])[0]
        if files.checksum([data]) != batch.checksum:
            raise StoreDamaged(f"{path}: rows {batch.start} and after differ from what was committed: restore a backup")
        rows = batch.row_numbers()
        alive = ~np.isin(rows, stones, assume_unique=True)
        vectors = np.frombuffer(data, dtype=np.uint8).reshape(batch.count, row_bytes)
        held_rows.append(rows[alive])
        held.append(vectors[alive])
        size += int(alive.sum()) * row_bytes
        if size >= _PART:
            yield np.concatenate(held_rows), np.concatenate(held)
            held_rows, held, size = [], [], 0
    if size:
        yield np.concatenate(held_rows), np.concatenate(held)


def _rewrite_thumbs(
    writer: Writer, connection: Connection, segments: list[Segment], batches: list[Batch], seq: int
) -> None:
    old = {segment.id: writer.directory / SEGMENTS / segment.name for segment in segments if segment.kind == "thumb"}
    for batch in batches:
        if batch.segment in old:
            data = files.read_bytes(old[batch.segment], [(batch.start, batch.count)])[0]
            if files.checksum([data]) != batch.checksum:
                raise StoreDamaged(
                    f"{old[batch.segment]}: bytes {batch.start} and after differ from what was committed: "
                    "restore a backup"
                )
    target: Segment | None = None
    length = 0
    for part in _parts(items.thumb_places(connection)):
        pieces: list[bytes] = []
        for number in dict.fromkeys(segment for _, segment, _, _ in part):
            places = [(start, size) for _, segment, start, size in part if segment == number]
            pieces += files.read_bytes(old[number], places)
        if target is None or length >= writer.config.segment_bytes:
            target, length = _new_segment(writer, connection, "thumb", None), 0
        block = b"".join(pieces)
        end = files.append(writer.directory / SEGMENTS / target.name, length, [block])
        starts = length + np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])[:-1]])
        items.move_thumbs(
            connection, [(target.id, int(start), row) for start, (row, _, _, _) in zip(starts, part, strict=True)]
        )
        catalog.add_batch(
            connection,
            segment=target.id,
            start=length,
            count=end - length,
            first_row=part[0][0],
            checksum=files.checksum([block]),
            seq=seq,
        )
        length = end
        catalog.grow_segment(connection, target.id, length)


def _parts(places: list[tuple[int, int, int, int]]) -> Iterator[list[tuple[int, int, int, int]]]:
    part: list[tuple[int, int, int, int]] = []
    size = 0
    for place in places:
        part.append(place)
        size += place[3]
        if size >= _PART:
            yield part
            part, size = [], 0
    if part:
        yield part


def _new_segment(writer: Writer, connection: Connection, kind: str, space: Space | None) -> Segment:
    name = segment_name(catalog.take_file_number(connection), kind)
    files.create(writer.directory / SEGMENTS / name, *((0,) if space is None else (space.dimension, space.dtype)))
    owner = None if space is None else space.id
    number = catalog.add_segment(connection, kind=kind, space=owner, name=name, length=0)
    return Segment(number, kind, owner, name, 0)


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
