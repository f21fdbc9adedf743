"""A copy of a whole commit, made while readers go on."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedstore.durable import sync_directory, sync_file, writing
from embedstore.errors import StoreDamaged, StoreExists
from embedstore.metadata import catalog
from embedstore.metadata.database import Database
from embedstore.progress import Progress
from embedstore.truth import layout
from embedstore.truth.writer import Writer
from embedstore.vectors.segments import HEADER, fault

_MODEL = re.compile(r"[0-9a-f]{64}\.(json|safetensors)")


def backup(writer: Writer, target: Path, *, progress: bool = False) -> int:
    """Copy the newest commit to a new directory; it appears there whole, or not at all. Returns its bytes.

    Args:
        writer: of the store; its lock is held, so that all files are of one commit.
        target: must not exist.
        progress: draw a bar on stderr.

    Raises:
        StoreExists: something is at the target already.
    """
    if target.exists():
        raise StoreExists(f"{target} exists already: name a new directory for the backup")
    draft = target.with_name(f".{target.name}.partial")
    with writer.frozen("making a backup"), writing(target), _removed_on_failure(draft):
        shutil.rmtree(draft, ignore_errors=True)
        layout.make(draft)
        writer.database.copy_to(draft / layout.DATABASE, named=target)
        _sync(draft / layout.DATABASE)
        # What the copy names, not what the original names by now.
        database = Database(draft / layout.DATABASE, read_only=True)
        try:
            with database.read() as connection:
                spaces, _ = catalog.read_spaces(connection)
                dimensions = {space.id: space.dimension for space in spaces}
                files = []
                for segment in catalog.read_segments(connection):
                    width = 0 if segment.space is None else dimensions[segment.space]
                    length = segment.length * (4 * width or 1)
                    path = writer.directory / layout.SEGMENTS / segment.name
                    if (reason := fault(path, width, length)) is not None:
                        raise StoreDamaged(f"{path} {reason}: restore a backup")
                    files.append((layout.SEGMENTS, segment.name, HEADER + length))
                files += [(layout.TIERS, tier.name, -1) for tier in catalog.read_tiers(connection)]
        finally:
            database.close()
        models = (writer.directory / layout.MODELS).glob("*.*")
        files += [(layout.MODELS, path.name, -1) for path in models if _MODEL.fullmatch(path.name)]
        with Progress("copying", len(files), progress, "files") as bar:
            for folder, name, length in files:
                source = writer.directory / folder / name
                if source.exists() or folder != layout.TIERS:  # a tier is derived: its loss costs no data
                    _copy(source, draft / folder / name, length)
                bar.advance()
        for folder in (layout.SEGMENTS, layout.TIERS, layout.MODELS, "."):
            sync_directory(draft / folder)
        draft.rename(target)
        sync_directory(target.absolute().parent)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def _copy(source: Path, target: Path, length: int) -> None:
    """Copy a file; of a segment only what is committed."""
    # Not through a link, and not waiting for a FIFO: what someone else put there is no part of the store.
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise StoreDamaged(f"{source} can't be read ({error.strerror}): check its permissions") from None
    with os.fdopen(descriptor, "rb") as old, target.open("wb") as new:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StoreDamaged(f"{source} is no regular file: restore it, or remove it where it doesn't belong")
        shutil.copyfileobj(old, new, 2**20)
        if length >= 0:
            new.truncate(length)
        new.flush()
        sync_file(new.fileno())


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
