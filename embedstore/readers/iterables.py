"""Python objects as sources: iterables of items, pictures, paths or records; torch and Hugging Face datasets."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.errors import SourceError
from embedstore.readers import entries, pieces
from embedstore.readers.decode import reduce_picture
from embedstore.readers.files import MEMORY_LIMIT, FileChunk, decoded_bytes
from embedstore.readers.hashing import hash_file, hash_rows
from embedstore.readers.pieces import ArrayChunk
from embedstore.readers.spool import Spool
from embedstore.readers.workers import DecodePool
from embedstore.types import Chunk, Failure, Item, Loaded, Metadata, Picture, Pictures


class ItemReader:
    """Anything that can be iterated, or read by number.

    Entries may be Items, uint8/float arrays and tensors, PIL images, paths, (picture, label) tuples, records
    (mappings with a picture or vector column) or vectors (d,). What is iterated twice (fitting reads a sample first)
    must yield the same both times; a one-shot iterator is spooled, see ``spool``.

    Args:
        source: the iterable or dataset.
        scope: names the source for pruning; without one it can't be pruned.
        classes: names of the classes by number; None asks the dataset.
        picture_column, label_column: for records; None looks for the usual names.
        max_side: reduce pictures to this longer side.
        workers, time_limit, memory_limit, max_pixels: for entries that are paths; see ``workers.DecodePool``.

    Raises:
        SourceError: nothing that can be iterated, empty, or pictures and vectors mixed.
    """

    def __init__(
        self,
        source: Any,
        *,
        scope: str | None = None,
        classes: Sequence[str] | None = None,
        picture_column: str | None = None,
        label_column: str | None = None,
        max_side: int | None = None,
        **pool_options: Any,
    ) -> None:
        if isinstance(source, Mapping):
            names = ", ".join(map(str, itertools.islice(source, 5))) or "nothing"
            raise SourceError(f"a {type(source).__name__} of {names} is no source by itself: name one of its parts")
        self.scope = scope or "items"
        #: whether nothing tells this iterable from another one
        self.anonymous = scope is None
        self.notes: list[str] = []
        self._source = source
        self._max_side = max_side
        self._pool_options = {"max_side": max_side, **pool_options}
        self._pool: DecodePool | None = None
        self._spool: Spool | None = None
        #: whether ids are the entries' positions
        self.numbered = True
        #: whether some entries failed that don't say which items they are
        self.unidentified = False
        rules = entries.Rules(classes or getattr(source, "classes", None), picture_column, label_column)
        self._hugging_face = entries.is_hugging_face(source)
        self._rules = entries.hugging_face_rules(source, rules)
        try:
            if not entries.is_map_style(source) and iter(source) is source:
                self._spool = Spool(self._read())
        except TypeError:
            raise SourceError(f"a {type(source).__name__} can't be iterated: pass a path, an array, or items") from None
        self._count = len(source) if hasattr(source, "__len__") else None
        first = next((item for item in self._items() if isinstance(item, Item)), None)
        if first is None:
            failure = next(iter(self._items()), None)
            reason = f"has no readable entry: {failure.reason}" if isinstance(failure, Failure) else "is empty"
            self.close()
            raise SourceError(f"the {type(source).__name__} {reason}")
        self.brings_vectors = first.vector is not None
        self.numbered = first.id.isdigit()
        what = "dataset" if self._hugging_face else type(source).__name__
        self.name = f"{what} ({'?' if self._count is None else f'{self._count:,}'} items)"

    def count(self) -> int | None:
        """Number of entries, where the source tells or was read to its end."""
        if self._spool is not None and self._spool.finished:
            return self._spool.length
        return self._count

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All entries, ``size`` at a time."""
        batch: list[Item | Failure] = []
        held = 0
        for item in self._items():
            batch.append(item)
            held += self._bytes(item)
            if len(batch) == size or held >= pieces.CHUNK_BYTES:
                yield from self._chunks(batch)
                batch, held = [], 0
        if batch:
            yield from self._chunks(batch)

    def reduce_to(self, max_side: int) -> None:
        """Reduce pictures to this longer side on reading, unless one was chosen when the source was opened."""
        if self._max_side is None and self._pool is None:
            self._max_side = self._pool_options["max_side"] = max_side

    def close(self) -> None:
        """End the worker processes and free what was spooled."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._spool is not None:
            self._spool.close()

    def _items(self) -> Iterator[Item | Failure]:
        return iter(self._spool) if self._spool is not None else self._read()

    def _bytes(self, item: Item | Failure) -> int:
        """What an entry's picture takes in memory."""
        if isinstance(item, Failure) or item.picture is None:
            return 0
        return decoded_bytes(self._max_side) if isinstance(item.picture, Path) else item.picture.nbytes

    def _read(self) -> Iterator[Item | Failure]:
        if self._hugging_face:
            raw = entries.by_slice(self._source)
        elif entries.is_map_style(self._source) and not isinstance(self._source, list | tuple):
            raw = entries.by_number(self._source)
        else:
            raw = iter(self._source)
        for number, entry in enumerate(raw):
            if isinstance(entry, Failure) and not self.numbered:
                self.unidentified = True
            yield entries.to_item(entry, number, self._rules)

    def _chunks(self, batch: Sequence[Item | Failure]) -> Iterator[Chunk]:
        failures = [item for item in batch if isinstance(item, Failure)]
        items = [item for item in batch if isinstance(item, Item)]
        wrong = "is a picture among vectors" if self.brings_vectors else "is a vector among pictures"
        failures += [Failure(item.id, wrong) for item in items if (item.vector is not None) != self.brings_vectors]
        items = [item for item in items if (item.vector is not None) == self.brings_vectors]
        if self.brings_vectors:
            yield from self._vector_chunks(items, failures)
            return
        limit = self._pool_options.get("memory_limit", MEMORY_LIMIT)
        hashes: list[bytes | str] = [
            hash_file(os.fspath(item.picture), limit) if isinstance(item.picture, Path) else b"" for item in items
        ]
        failures += [Failure(item.id, h) for item, h in zip(items, hashes, strict=True) if isinstance(h, str)]
        kept = [(item, h) for item, h in zip(items, hashes, strict=True) if isinstance(h, bytes)]
        files = [(item, h) for item, h in kept if isinstance(item.picture, Path)]
        arrays = [item for item, _ in kept if isinstance(item.picture, np.ndarray)]
        if not files:
            yield self._array_chunk(arrays, failures)
        elif not arrays:
            yield self._file_chunk(files, failures)
        else:
            places = [isinstance(item.picture, Path) for item, _ in kept]
            yield _mixed(places, self._file_chunk(files, []), self._array_chunk(arrays, []), failures)

    def _vector_chunks(self, items: list[Item], failures: list[Failure]) -> Iterator[ArrayChunk]:
        """One chunk for each length, the commonest first: which one fits is the store's to say."""
        by_length: dict[int, list[Item]] = {}
        for item in items:
            if item.vector is not None:
                by_length.setdefault(len(item.vector), []).append(item)
        for length, some in sorted(by_length.items(), key=lambda pair: -len(pair[1])) or [(0, [])]:
            vectors = np.array([item.vector for item in some], dtype=np.float32).reshape(len(some), length)
            yield ArrayChunk(*_heads(some, hash_rows(vectors)), vectors=vectors, failures=failures)
            failures = []

    def _array_chunk(self, items: list[Item], failures: list[Failure]) -> ArrayChunk:
        originals: list[Picture] = [item.picture for item in items if isinstance(item.picture, np.ndarray)]
        hashes = hash_rows(originals)
        sizes = [(picture.shape[1], picture.shape[0]) for picture in originals]
        side = self._max_side
        pictures = originals if side is None else [reduce_picture(picture, side) for picture in originals]
        return ArrayChunk(*_heads(items, hashes), pictures, failures=failures, sizes=sizes)

    def _file_chunk(self, files: list[tuple[Item, bytes]], failures: list[Failure]) -> FileChunk:
        if self._pool is None:
            self._pool = DecodePool(**self._pool_options)
        heads = _heads([item for item, _ in files], [h for _, h in files])
        return FileChunk(*heads, failures, [str(item.picture) for item, _ in files], self._pool)


def _heads(
    items: Sequence[Item], hashes: Sequence[bytes]
) -> tuple[list[str], Sequence[bytes], list[Metadata], list[str | None]]:
    return [i.id for i in items], hashes, [i.metadata for i in items], [i.source for i in items]


@dataclass(slots=True)
class MixedChunk:
    """Entries some of which are files and some arrays, in one order; ``place``: each one's part and position in it."""

    ids: Sequence[str]
    hashes: Sequence[bytes]
    metadata: Sequence[Metadata]
    sources: Sequence[str | None]
    failures: Sequence[Failure]
    parts: tuple[FileChunk, ArrayChunk]
    place: Sequence[tuple[int, int]]

    def prefetch(self, which: Sequence[int]) -> None:
        """Start decoding the files among these positions."""
        self.parts[0].prefetch([self.place[i][1] for i in which if self.place[i][0] == 0])

    def load(self, which: Sequence[int]) -> Loaded:
        """Both kinds, in the order of ``which``; thumbnails are left to the store."""
        back = {self.place[i]: i for i in which}
        found: dict[int, tuple[Picture, tuple[int, int]]] = {}
        failures: list[Failure] = []
        parts: list[Chunk] = list(self.parts)
        for number, part in enumerate(parts):
            loaded = part.load([self.place[i][1] for i in which if self.place[i][0] == number])
            failures += loaded.failures
            for row, position in enumerate(loaded.which):
                picture = (loaded.pictures if loaded.pictures is not None else [])[row]
                found[back[number, position]] = picture, loaded.sizes[row]
        order = sorted(found)
        pictures: Pictures = [found[i][0] for i in order]
        return Loaded(order, pictures, None, [found[i][1] for i in order], failures)


def _mixed(is_file: Sequence[bool], files: FileChunk, arrays: ArrayChunk, failures: list[Failure]) -> MixedChunk:
    counters = (itertools.count(), itertools.count())
    parts: tuple[FileChunk, ArrayChunk] = (files, arrays)
    place = [(0, next(counters[0])) if file else (1, next(counters[1])) for file in is_file]
    return MixedChunk(
        [parts[p].ids[i] for p, i in place],
        [parts[p].hashes[i] for p, i in place],
        [parts[p].metadata[i] for p, i in place],
        [parts[p].sources[i] for p, i in place],
        failures,
        parts,
        place,
    )
