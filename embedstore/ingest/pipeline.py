"""From a source to committed rows: read, compare with what is known, encode what changed, commit chunk by chunk.

Each chunk is one commit, acknowledged before the next is read to its end: an interruption at any moment loses only
what was not acknowledged, and the same call goes on from there because what is stored already compares as unchanged.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from embedstore.errors import InvalidArgument, SourceError
from embedstore.metadata import catalog, items
from embedstore.metadata.catalog import Space
from embedstore.metadata.items import Known, Thumb
from embedstore.progress import Progress
from embedstore.truth import pictures as store_pictures
from embedstore.truth.snapshot import Snapshots
from embedstore.truth.writer import NewItems, Thumbs, Writer
from embedstore.types import AddReport, Chunk, Encoder, Failure, Loaded, Reader, Vectors
from embedstore.validate import (
    as_vectors,
    check_dimension,
    dump_metadata,
    id_fault,
    last_of_each,
)
from embedstore.vectors import coding

#: Entries a chunk: large enough that the commit's few milliseconds vanish, small enough that little is done twice
#: after an interruption.
CHUNK = 2048
#: Scopes of arrays and of iterables that the user gave no name.
ANONYMOUS = ("array", "items")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a source goes: the writer, what is stored, and how pictures become latents of ``space``."""

    writer: Writer
    snapshots: Snapshots
    space: Space
    encoder: Callable[[], Encoder]


@dataclass(slots=True)
class _Run:
    """What a run over a source has met so far.

    Attributes:
        origin: the number of the source's scope, or None where nothing came from it yet.
        owners: name of the source -> how many of its items were replaced by others of the same id.
        again: how many ids came more than once.
        restored: how many of its items were changed since, here or there, but for their content in the source.
        misfits, misfit: how many vectors are not of the space's dimension, and one of them.
    """

    reader: Reader
    origin: int | None = None
    seen: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    owners: Counter[str] = field(default_factory=Counter)
    again: int = 0
    restored: int = 0
    misfits: int = 0
    misfit: Vectors | None = None

    def fail(self, failures: Iterable[Failure]) -> None:
        """Remember what can't be read now: it is not gone from the source."""
        self.failed.update(str(failure.id).rstrip("/") for failure in failures)

    def accounts_for(self, name: str) -> bool:
        """Whether an item was met, or it, or a folder that it lies in, is what can't be read."""
        if name in self.seen or name in self.failed:
            return True
        end = name.find("/")
        while end > 0:
            if name[:end] in self.failed:
                return True
            end = name.find("/", end + 1)
        return False

    def takes_over(self, known: Known) -> bool:
        """Whether a known item, about to be replaced, was another source's."""
        if known.origin == self.origin:
            # All sources without a name share one: there, a position as id says nothing about what is meant.
            anonymous = getattr(self.reader, "anonymous", False)
            return known.origin is not None and anonymous and getattr(self.reader, "numbered", False)
        return known.origin is not None

    def restores(self, known: Known, content: bytes, text: str) -> bool:
        """Whether an item of this source was, or may have been, changed by ``update``, which its source now undoes."""
        edited = known.hash is None or (known.hash == content and known.metadata != text)
        return edited and self.origin is not None and known.origin == self.origin

    def notes(self) -> list[str]:
        """What the user should know of the run as a whole."""
        notes = []
        if self.again:
            plural = "s" * (self.again > 1)
            notes.append(f"{self.again:,} id{plural} came more than once: the last of each is kept")
        if self.restored:
            notes.append(
                f"{self.restored:,} items took over what their source says now: it is the authority for them, so that "
                "what update changes lasts only until the next run"
            )
        if self.owners:
            owners = ", ".join(f"{count:,} ids belonged to {name}" for name, count in self.owners.most_common())
            notes.append(f"{owners} and were replaced: id_prefix= keeps both")
        return notes


@dataclass(slots=True)
class _Todo:
    """The entries of one chunk that need work, as positions in it; ``moved``: those of ``relabel`` that are unchanged
    but for the source that they belong to.
    """

    encode: list[int]
    relabel: list[int]
    known: dict[str, Known]
    texts: list[str]
    moved: int = 0


def check_prune(reader: Reader, prune: bool | None) -> None:
    """Raise InvalidArgument for pruning a source that has no name: what it had before isn't known."""
    if prune and getattr(reader, "anonymous", False):
        raise InvalidArgument(
            f"{reader.name} has no name, so that what it had before isn't known: name it with scope= to prune it"
        )


def ingest(
    target: Target, reader: Reader, report: AddReport, *, prune: bool | None = None, progress: bool = False
) -> AddReport:
    """Read everything from ``reader``, and commit what is new or changed.

    Args:
        target: where to.
        reader: the source.
        report: is added to and returned.
        prune: delete items that this source had before and has no longer; False only reports them; None doesn't look.
        progress: draw a bar on stderr.
    """
    start = time.perf_counter()
    check_prune(reader, prune)
    run = _Run(reader)
    count = reader.count()
    with Progress("encoding" if not reader.brings_vectors else "reading", count, progress) as bar:
        for chunk, following in _with_next(reader.chunks(CHUNK)):
            todo = _compare(target, chunk, report, run)
            if following is not None and hasattr(following, "prefetch"):
                following.prefetch(range(len(following.ids)) if todo.encode else ())
            _relabel(target, chunk, todo, reader.scope, report)
            _encode(target, chunk, todo, run, report)
            bar.advance(len(chunk.ids) + len(chunk.failures))
    if run.misfit is not None and not report.added + report.updated + report.unchanged:
        check_dimension(run.misfit, target.space.dimension)
    report.notes += [*run.notes(), *target.writer.loss.notes(target.space.dtype)]
    if prune is not None and not getattr(reader, "anonymous", False):
        _find_removed(target, run, report, delete=prune)
    report.seconds["read and encode"] = time.perf_counter() - start
    return report


def _with_next(chunks: Iterator[_T]) -> Iterator[tuple[_T, _T | None]]:
    """Each chunk with the one behind it, so that reading can run ahead."""
    current = next(chunks, None)
    while current is not None:
        following = next(chunks, None)
        yield current, following
        current = following


def _compare(target: Target, chunk: Chunk, report: AddReport, run: _Run) -> _Todo:
    """Sort the entries of a chunk into unchanged ones, relabelled ones, and ones to encode."""
    report.failures.extend(chunk.failures)
    todo = _Todo([], [], {}, [""] * len(chunk.ids))
    with target.writer.database.read() as connection:
        todo.known = items.find(connection, [name for name in chunk.ids if id_fault(name) is None])
        run.origin = catalog.find_origin(connection, run.reader.scope)
    last = last_of_each(chunk.ids)
    run.again += len(chunk.ids) - len(last)
    run.fail(chunk.failures)
    replaced = []
    for index in last:
        name = chunk.ids[index]
        met = name in run.seen
        run.again += met
        run.seen.add(name)
        fault = id_fault(name)
        try:
            todo.texts[index] = text = dump_metadata(chunk.metadata[index]) if fault is None else ""
        except InvalidArgument as error:
            fault = str(error)
        if fault is not None:
            report.failures.append(Failure(str(name), fault))
            continue
        known = todo.known.get(name)
        run.restored += known is not None and not met and run.restores(known, chunk.hashes[index], todo.texts[index])
        if known is None or known.hash != chunk.hashes[index]:
            todo.encode.append(index)
            if known is not None and not met and run.takes_over(known):
                replaced.append(name)
        elif known.metadata != text or known.source != chunk.sources[index]:
            todo.relabel.append(index)
        elif known.origin != run.origin:
            todo.relabel.append(index)
            todo.moved += 1
        else:
            report.unchanged += 1
    if replaced:
        with target.writer.database.read() as connection:
            run.owners.update(_owner(row["scope"]) for row in items.describe(connection, replaced).values())
    return todo


def _owner(scope: str) -> str:
    return "an earlier array or iterable" if scope in ANONYMOUS else scope


def _encode(target: Target, chunk: Chunk, todo: _Todo, run: _Run, report: AddReport) -> None:
    scope = run.reader.scope
    if not todo.encode:
        return
    loaded = chunk.load(todo.encode)
    report.failures.extend(loaded.failures)
    if not len(loaded.which):
        return
    thumbs = None
    if loaded.vectors is not None:
        vectors = as_vectors(loaded.vectors)
        if vectors.shape[1] != target.space.dimension:
            _refuse(target.space, chunk, loaded, vectors, run, report)
            return
    elif loaded.pictures is not None:
        vectors = target.encoder().encode(loaded.pictures)
        thumbs = _thumbs(loaded)
    else:
        raise SourceError(f"{scope} brings neither pictures nor vectors")
    keep = np.ones(len(loaded.which), dtype=bool)
    for position, reason in coding.faults(vectors, target.space.metric, target.space.dtype).items():
        report.failures.append(Failure(chunk.ids[loaded.which[position]], reason))
        keep[position] = False
    if not keep.all():
        thumbs = None if thumbs is None else _chosen_thumbs(thumbs, keep)
    _commit(
        target,
        chunk,
        todo,
        list(np.asarray(loaded.which)[keep]),
        vectors[keep] if not keep.all() else vectors,
        scope,
        report,
        thumbs=thumbs,
        sizes=[size for size, kept in zip(loaded.sizes, keep, strict=True) if kept],
    )


def _refuse(space: Space, chunk: Chunk, loaded: Loaded, vectors: Vectors, run: _Run, report: AddReport) -> None:
    """Vectors of another dimension fail alone; where nothing else comes, it is the source as a whole that is wrong.

    Raises:
        DimensionMismatch: the source has brought nothing else.
    """
    run.misfits += len(vectors)
    run.misfit = vectors[:1]
    reason = f"has a vector of {vectors.shape[1]} values where the space has {space.dimension} dimensions"
    report.failures += [Failure(chunk.ids[index], reason) for index in loaded.which]
    if run.misfits >= CHUNK and not report.added + report.updated + report.unchanged:
        check_dimension(vectors, space.dimension)


def _thumbs(loaded: Loaded) -> Thumbs:
    encoded = getattr(loaded, "thumbs", None)
    if encoded is not None:
        return store_pictures.packed(encoded)
    return store_pictures.pack(loaded.pictures if loaded.pictures is not None else [])


def _chosen_thumbs(thumbs: Thumbs, keep: npt.NDArray[np.bool_]) -> Thumbs:
    block = b"".join(bytes(part) for part in thumbs.parts)
    ends = np.cumsum(thumbs.lengths)
    chosen = np.flatnonzero(keep).tolist()
    parts = [block[ends[i] - thumbs.lengths[i] : ends[i]] for i in chosen]
    formats = thumbs.formats if isinstance(thumbs.formats, str) else [thumbs.formats[i] for i in chosen]
    return Thumbs(parts, thumbs.lengths[keep], formats)


def _relabel(target: Target, chunk: Chunk, todo: _Todo, scope: str, report: AddReport) -> None:
    """Entries whose content is the same and whose metadata or place is not: latents are copied, not made again."""
    if not todo.relabel:
        return
    rows = np.array([todo.known[chunk.ids[index]].row for index in todo.relabel], dtype=np.int64)
    vectors, thumbs, sizes = carry_over(target, rows)
    _commit(
        target, chunk, todo, todo.relabel, vectors, scope, report, kept_thumbs=thumbs, sizes=sizes, same_latents=True
    )
    report.updated -= todo.moved
    report.unchanged += todo.moved


def carry_over(
    target: Target, rows: npt.NDArray[np.int64]
) -> tuple[Vectors, list[Thumb | None], list[tuple[int, int] | None]]:
    """What a new version of items takes over from these rows: latents, thumbnails, sizes of the originals."""
    view = target.snapshots.current().view(target.space.name)
    if view is None:
        raise InvalidArgument(f"space {target.space.name!r} is empty")
    order = np.argsort(rows)
    vectors = np.empty((len(rows), target.space.dimension), dtype=np.float32)
    vectors[order] = view.vectors.read(view.positions(rows[order]))
    with target.writer.database.read() as connection:
        found = items.pictured(connection, rows.tolist())
    return vectors, [found[row].thumb for row in rows.tolist()], [found[row].size for row in rows.tolist()]


def _commit(
    target: Target,
    chunk: Chunk,
    todo: _Todo,
    which: Sequence[int],
    vectors: Vectors,
    scope: str,
    report: AddReport,
    **pictures: Any,
) -> None:
    added, replaced = target.writer.append(
        target.space,
        NewItems(
            ids=[chunk.ids[index] for index in which],
            vectors=vectors,
            metadata=[todo.texts[index] for index in which],
            sources=[chunk.sources[index] for index in which],
            origin=scope,
            hashes=[chunk.hashes[index] for index in which],
            **pictures,
        ),
    )
    report.added += added
    report.updated += replaced


def _find_removed(target: Target, run: _Run, report: AddReport, *, delete: bool) -> None:
    reader = run.reader
    run.failed.update(getattr(reader, "unread", ()))
    with target.writer.database.read() as connection:
        origin = catalog.find_origin(connection, reader.scope)
        held = {} if origin is None else items.rows_of_origin(connection, origin)
    removed = sorted(name for name in held if not run.accounts_for(name))
    if removed and getattr(reader, "unidentified", False):
        report.notes.append(
            f"{len(removed):,} items of {reader.name} were not met, but some of its entries can't be read and "
            "don't say which items they are, so that nothing counts as gone: mend those entries and index again"
        )
        return
    report.removed = removed
    if delete and removed:
        report.pruned = target.writer.delete_rows([held[name] for name in removed])
