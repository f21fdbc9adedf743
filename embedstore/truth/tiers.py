"""Index tiers as files: loading only what can be trusted. (`building` makes them, when `builder` says so.)"""

from __future__ import annotations

import hashlib
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.errors import EmbedstoreError
from embedstore.metadata import catalog
from embedstore.metadata.catalog import TierRecord
from embedstore.metadata.database import Database
from embedstore.truth import trust
from embedstore.truth.layout import DATABASE, TIERS
from embedstore.truth.snapshot import SpaceView

if TYPE_CHECKING:
    from embedstore.index.tier import Tier


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
    from embedstore.index import build, bytewise, inplace, knobs
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
                beside = None
                if held is None and len(blocks) == 1 and view.vectors.resident and metric is not Metric.COSINE:
                    beside = None if knobs.holds_vectors(index) else inplace.flat(blocks[0], metric)
                return Tier(index, record.first, metric, Tuned.load(tuned), held, beside)
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


def say_unbuilt(directory: Path, error: EmbedstoreError) -> None:
    """Warn that a kind of index can't be built: the rows are committed, and that mustn't fail."""
    warnings.warn(f"{directory}: searching exactly, for {error}", TierWarning, stacklevel=3)


def _named(directory: Path, record: TierRecord) -> bool:
    database = Database(directory / DATABASE, read_only=True)
    try:
        with database.read() as connection:
            return any(tier.name == record.name for tier in catalog.read_tiers(connection))
    finally:
        database.close()
