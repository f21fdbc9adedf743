"""A copy of a whole commit, made while readers go on."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from embedstore.durable import sync_directory, sync_file, writing
from embedstore.errors import InvalidArgument, StoreDamaged, StoreExists
from embedstore.metadata import catalog, runs
from embedstore.metadata.database import Database
from embedstore.progress import Progress
from embedstore.truth import layout
from embedstore.truth.writer import Writer
from embedstore.vectors.segments import HEADER, checksum_of, fault

_PART = 2**20


def backup(writer: Writer, target: Path, *, progress: bool = False) -> int:
    """Copy the newest commit to a new directory; it appears there whole, or not at all. Returns its bytes.

    Args:
        writer: of the store; its lock is held, so that all files are of one commit.
        target: must not exist.
        progress: draw a bar on stderr.

    Raises:
        StoreExists: something is at the target already.
        StoreDamaged: something differs from what was committed; nothing is left at the target.
    """
    if target.absolute().is_relative_to(writer.directory.absolute()):
        raise InvalidArgument(f"{target} lies within the store itself: name a directory elsewhere for the backup")
    if target.exists():
        raise StoreExists(f"{target} exists already: name a new directory for the backup")
    draft = target.with_name(f".{target.name}.partial")
    with writer.frozen("making a backup"), _removed_on_failure(draft):
        with writing(target):
            shutil.rmtree(draft, ignore_errors=True)
            layout.make(draft)
            writer.database.copy_to(draft / layout.DATABASE, named=target)
            _sync(draft / layout.DATABASE)
        files = _named(writer.directory, draft / layout.DATABASE)
        with Progress("copying", len(files), progress, "files") as bar:
            for folder, name, length in files:
                _copy(writer.directory / folder / name, draft / folder / name, length, target)
                bar.advance()
        _compare(writer.directory, draft)
        with writing(target):
            for folder in (layout.SEGMENTS, layout.TIERS, layout.MODELS, "."):
                sync_directory(draft / folder)
            draft.rename(target)
            sync_directory(target.absolute().parent)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def _named(directory: Path, path: Path) -> list[tuple[str, str, int]]:
    """Folder, name and length (-1: all) of the files that the copied database names, not those of the original now."""
    database = Database(path, read_only=True)
    try:
        with database.read() as connection:
            spaces, _ = catalog.read_spaces(connection)
            segments = catalog.read_segments(connection)
            tiers = catalog.read_tiers(connection)
            placing = runs.models(connection)
    finally:
        database.close()
    files = []
    by_id = {space.id: space for space in spaces}
    for segment in segments:
        space = None if segment.space is None else by_id[segment.space]
        length = segment.length * (1 if space is None else space.row_bytes)
        source = directory / layout.SEGMENTS / segment.name
        kind = (0, length) if space is None else (space.dimension, length, space.dtype)
        if (reason := fault(source, *kind)) is not None:
            raise StoreDamaged(f"{source} {reason}: restore a backup")
        files.append((layout.SEGMENTS, segment.name, HEADER + length))
    # What may be missing: a tier is derived, and vectors without their encoder are better than no backup.
    names = [(layout.TIERS, tier.name) for tier in tiers]
    for fingerprint in sorted({*(space.fingerprint for space in spaces if space.encoder), *placing}):
        if not layout.FINGERPRINT.fullmatch(fingerprint):
            if fingerprint in placing:
                continue  # a clustering or a map that names no file is derived, too
            raise StoreDamaged(f"{directory}: {fingerprint[:80]!r} is no fingerprint of an encoder: restore a backup")
        names += [(layout.MODELS, f"{fingerprint}{suffix}") for suffix in (".json", ".safetensors")]
    return files + [(folder, name, -1) for folder, name in names if os.path.lexists(directory / folder / name)]


def _compare(directory: Path, copy: Path) -> None:
    """See that the copy is what was committed: a backup that has the damage would take the place of one that hasn't."""
    database = Database(copy / layout.DATABASE, read_only=True)
    try:
        with database.read() as connection:
            if (found := connection.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
                raise StoreDamaged(
                    f"{directory / layout.DATABASE} is damaged ({' '.join(found.split())}): restore an earlier backup"
                )
            units = {space.id: space.row_bytes for space in catalog.read_spaces(connection)[0]}
            segments = {segment.id: segment for segment in catalog.read_segments(connection)}
            batches = catalog.read_batches(connection)
    finally:
        database.close()
    for batch in batches:
        segment = segments[batch.segment]
        unit = 1 if segment.space is None else units[segment.space]
        if checksum_of(copy / layout.SEGMENTS / segment.name, batch.start * unit, batch.count * unit) != batch.checksum:
            what = "bytes" if segment.space is None else "vectors"
            raise StoreDamaged(
                f"{directory / layout.SEGMENTS / segment.name}: {batch.count:,} {what} at {batch.start:,} differ from "
                f"what was committed: `embedstore verify {directory}` says which items are lost"
            )


def _copy(source: Path, copy: Path, length: int, target: Path) -> None:
    """Copy a file, of a segment only what is committed; an error about writing names ``target``."""
    try:
        # Not through a link, and not waiting for a FIFO: what someone else put there is no part of the store.
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise StoreDamaged(f"{source} can't be read ({error.strerror}): check its permissions") from None
    with os.fdopen(descriptor, "rb", buffering=0) as old, _written(copy, target) as new:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StoreDamaged(f"{source} is no regular file: restore it, or remove it where it doesn't belong")
        while length:
            try:
                part = old.read(_PART if length < 0 else min(_PART, length))
            except OSError as error:
                raise StoreDamaged(f"{source} can't be read ({error.strerror}): check the disk") from None
            if not part:
                break
            with writing(target):
                rest = memoryview(part)
                while rest:  # a disk that is nearly full takes a part of it
                    rest = rest[new.write(rest) :]
            length -= len(part) if length > 0 else 0


@contextmanager
def _written(copy: Path, target: Path) -> Iterator[FileIO]:
    """A new file, synced at the end; without a buffer, whose rest would be written on closing, after an error too."""
    with writing(target):
        file = FileIO(copy, "wb")
    with file:
        yield file
        with writing(target):
            sync_file(file.fileno())


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        sync_file(file.fileno())


@contextmanager
def _removed_on_failure(draft: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
