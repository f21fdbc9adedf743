"""Checking every byte and row of a store against what was committed. Changes nothing."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedstore.errors import EmbedstoreError, StoreDamaged
from embedstore.metadata import catalog, directions, items, runs
from embedstore.metadata.database import Database
from embedstore.models import network
from embedstore.progress import Progress
from embedstore.truth import tiers
from embedstore.truth.layout import MODELS, SEGMENTS, TIERS
from embedstore.vectors.segments import checksum_of, fault


@dataclass(slots=True)
class VerifyReport:
    """What a check found.

    Attributes:
        problems: damage to the truth: sentences. Empty where all is well.
        derived: what is wrong with files that can be made again (tiers); search is right without them.
        damaged: ids of the live items whose vectors or thumbnails lie in a batch that differs.
        mendable: whether that is all that is wrong: without those items, the store is whole.
        leftovers: files that no row names; compact sweeps them.
        items: live items.
        batches: batches whose checksums were compared.
        bytes: read and compared.
    """

    problems: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    mendable: bool = True
    leftovers: list[str] = field(default_factory=list)
    items: int = 0
    batches: int = 0
    bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether the truth is whole."""
        return not self.problems


def verify(directory: Path, database: Database, *, progress: bool = False) -> VerifyReport:
    """Check the database, every batch's checksum, the accounts between rows and vectors, models and tiers.

    Writers may go on meanwhile: what they append lies behind what is checked. Only a compact takes files away; after
    one, the check begins anew.
    """
    for _ in range(3):
        before = _layout(database)
        report = _verify(directory, database, progress=progress)
        if report.ok or _layout(database) == before:
            break
    return report


def _layout(database: Database) -> int:
    with database.read() as connection:
        return catalog.read_state(connection).layout


def _verify(directory: Path, database: Database, *, progress: bool) -> VerifyReport:
    report = VerifyReport()
    with database.read() as connection:
        for (line,) in connection.execute("PRAGMA integrity_check(20)"):
            if line != "ok":
                report.problems.append(f"store.db: {line}")
        for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check"):
            report.problems.append(f"store.db: a row of {table} refers to a missing row of {parent}")
        segments = {segment.id: segment for segment in catalog.read_segments(connection)}
        # What refers to nothing was named above; the rest is checked without it.
        spaces, _ = catalog.read_spaces(connection)
        by_id = {space.id: space for space in spaces}
        segments = {n: found for n, found in segments.items() if found.space is None or found.space in by_id}
        batches = [batch for batch in catalog.read_batches(connection) if batch.segment in segments]
        stones = catalog.read_tombstones(connection)
        live = items.rows_where(connection, None)
        thumbs = items.thumb_places(connection)
        both, over = items.orphans(connection)
        unreadable = items.unreadable(connection)
        records = catalog.read_tiers(connection)
        for space in spaces:
            try:
                directions.read(connection, space)
            except StoreDamaged as error:
                report.problems.append(str(error))
        placed: list[tuple[runs.Kind, runs.Run]] = []
        for kind in runs.KINDS:
            for run in runs.read(connection, kind):
                placed.append((kind, run))
                try:
                    runs.check_said(connection, kind, runs.check(kind, run))
                except StoreDamaged as error:
                    report.derived.append(str(error))
                    continue
    report.items = len(live)
    if both:
        report.problems.append(f"{both} rows are live and deleted at once")
    if unreadable:
        report.problems.append(f"the metadata of {unreadable} items is no JSON")
    if over:
        report.problems.append(f"{over} batches overrun the committed length of their segment")
    damaged = _batches(directory, report, segments, batches, by_id, progress=progress)
    if damaged:
        report.damaged = _items_of(database, damaged, segments, thumbs, live)
    for space in spaces:
        own = []
        for batch in batches:
            if segments[batch.segment].space == space.id:
                try:
                    own.append(batch.row_numbers())
                except StoreDamaged as error:
                    report.problems.append(str(error))
        rows = np.concatenate(own) if own else np.empty(0, np.int64)
        if len(rows) > 1 and not (np.diff(rows) > 0).all():
            report.problems.append(f"space {space.name!r}: rows are not in ascending order")
        held = np.setdiff1d(rows, stones, assume_unique=True)
        if missing := len(np.setdiff1d(live, held, assume_unique=True)):
            report.problems.append(f"space {space.name!r}: {missing} items have no vector")
        if extra := len(np.setdiff1d(held, live, assume_unique=True)):
            report.problems.append(f"space {space.name!r}: {extra} vectors belong to no item")
    for row, segment, start, length in thumbs:
        if segment not in segments or start + length > segments[segment].length:
            report.problems.append(f"row {row}: its thumbnail lies outside of what is committed")
    _models(directory, report, [(space.encoder, space.fingerprint) for space in spaces if space.encoder])
    for kind, run in placed:
        try:
            network.load(directory / MODELS, kind[:-1], run.model)
        except EmbedstoreError as error:
            report.derived.append(f"{kind[:-1]} {run.name!r}: {error}")
    for record in records:
        if (reason := tiers.fault(directory, record)) is not None:
            said = "searches are exact until it is rebuilt (embedstore compact)"
            report.derived.append(f"index tier {record.name} {reason}; {said}")
    report.mendable = len(report.problems) == len(damaged)
    named = {segment.name for segment in segments.values()} | {record.name for record in records}
    for folder in (SEGMENTS, TIERS):
        report.leftovers += [
            f"{folder}/{path.name}" for path in sorted((directory / folder).glob("*")) if path.name not in named
        ]
    return report


def _batches(
    directory: Path,
    report: VerifyReport,
    segments: dict[int, catalog.Segment],
    batches: list[catalog.Batch],
    spaces: dict[int, catalog.Space],
    *,
    progress: bool,
) -> list[catalog.Batch]:
    """Compare every batch with its checksum, and see that batches cover their segments without a gap.

    Returns:
        Those that differ.
    """
    damaged: list[catalog.Batch] = []
    ends = dict.fromkeys(segments, 0)
    unreadable = set()
    for segment in segments.values():
        path = directory / SEGMENTS / segment.name
        if segment.space is None:
            reason = fault(path, 0, segment.length)
        else:
            space = spaces[segment.space]
            reason = fault(path, space.dimension, segment.length * space.row_bytes, space.dtype)
        if reason is not None:
            unreadable.add(segment.id)
            report.problems.append(f"{SEGMENTS}/{segment.name} {reason}")
    with Progress("verifying", len(batches), progress, "batches") as bar:
        for batch in batches:
            segment = segments[batch.segment]
            if batch.start != ends[segment.id]:
                report.problems.append(f"{SEGMENTS}/{segment.name}: batches leave a gap at {ends[segment.id]}")
            ends[segment.id] = batch.start + batch.count
            if segment.id not in unreadable:
                unit = 1 if segment.space is None else spaces[segment.space].row_bytes
                path = directory / SEGMENTS / segment.name
                if checksum_of(path, batch.start * unit, batch.count * unit) != batch.checksum:
                    damaged.append(batch)
                    what = "bytes" if segment.space is None else "vectors"
                    said = f"{batch.count:,} {what} at {batch.start:,} differ from what was committed"
                    report.problems.append(f"{SEGMENTS}/{segment.name}: {said}")
                report.bytes += batch.count * unit
            report.batches += 1
            bar.advance()
    for number, end in ends.items():
        if end != segments[number].length:
            report.problems.append(f"{SEGMENTS}/{segments[number].name}: batches end before its committed length")
    return damaged


def _items_of(
    database: Database,
    damaged: list[catalog.Batch],
    segments: dict[int, catalog.Segment],
    thumbs: list[tuple[int, int, int, int]],
    live: npt.NDArray[np.int64],
) -> list[str]:
    """Ids of the live items whose vectors or thumbnails lie in these batches."""
    places = np.array(thumbs, dtype=np.int64).reshape(-1, 4)
    hit = [np.empty(0, dtype=np.int64)]
    for batch in damaged:
        if segments[batch.segment].kind == "vec":
            with suppress(StoreDamaged):  # which is a problem by itself
                hit.append(batch.row_numbers())
        else:
            row, segment, start, length = places.T
            inside = (start < batch.start + batch.count) & (batch.start < start + length)
            hit.append(row[(segment == batch.segment) & inside])
    with database.read() as connection:
        return [name for _, name, _, _ in items.records(connection, np.intersect1d(np.concatenate(hit), live))]


def _models(directory: Path, report: VerifyReport, encoders: list[tuple[str, str]]) -> None:
    from embedstore.registry import resolve

    for kind, fingerprint in encoders:
        try:
            resolve("encoders", kind).load(directory / MODELS, fingerprint)
        except EmbedstoreError as error:
            report.problems.append(f"{MODELS}/{fingerprint[:12]}: {error}")
