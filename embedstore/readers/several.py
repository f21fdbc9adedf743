"""Readers over a list of paths: picture files as one list, or several sources behind one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from embedstore.errors import SourceError
from embedstore.readers.files import FileChunk, PictureFiles
from embedstore.readers.pieces import check_text_path, reduce_to
from embedstore.types import Chunk, Failure, Reader


class FileListReader:
    """Picture files named one by one. An entry's id is its path as given, with forward slashes; no label is made up.

    Args:
        sources: the files; one that is missing is a failure of its own.
        pool_options: ``max_side``, ``workers``, ``time_limit``, ``memory_limit``, ``max_pixels``.
    """

    brings_vectors = False

    def __init__(self, sources: Sequence[str | Path], **pool_options: Any) -> None:
        if not sources:
            raise SourceError("the list of files is empty: name at least one")
        paths = [check_text_path(Path(source)) for source in sources]
        # The list itself is the source: another list is another one, so pruning never takes the first's items.
        digest = blake2b("\n".join(sorted(paths)).encode(), digest_size=8).hexdigest()
        self.scope = paths[0] if len(paths) == 1 else f"files:{digest}"
        self.notes: list[str] = []
        self.name = f"file {sources[0]}" if len(paths) == 1 else f"{len(paths):,} files"
        ids = [Path(source).as_posix() for source in sources]
        self._files = PictureFiles(ids, lambda i: paths[i], lambda _: {}, [], pool_options)

    def count(self) -> int:
        """Number of files."""
        return self._files.count()

    def chunks(self, size: int) -> Iterator[FileChunk]:
        """All files in the order given."""
        return self._files.chunks(size)

    def reduce_to(self, max_side: int) -> None:
        """Reduce pictures to this longer side on reading, unless one was chosen when the source was opened."""
        self._files.reduce_to(max_side)

    def close(self) -> None:
        """End the worker processes."""
        self._files.close()


class PrefixedReader:
    """A source whose ids have something put before them.

    Args:
        reader: of the source.
        prefix: what to put before every id.
    """

    def __init__(self, reader: Reader, prefix: str) -> None:
        self._reader = reader
        self._prefix = prefix
        self.name = reader.name
        self.anonymous: bool = getattr(reader, "anonymous", False)
        # Under another prefix it is another source: pruning one must not take the other's items for gone.
        self.scope = reader.scope if self.anonymous else f"{reader.scope} as {prefix}"
        self.brings_vectors = reader.brings_vectors
        self.numbered: bool = getattr(reader, "numbered", False)
        self.notes: list[str] = getattr(reader, "notes", [])

    @property
    def unidentified(self) -> bool:
        """Whether some entries failed that don't say which items they are."""
        return bool(getattr(self._reader, "unidentified", False))

    @property
    def unread(self) -> set[str]:
        """Ids of items that failed under another name."""
        return {self._prefix + name for name in getattr(self._reader, "unread", ())}

    def count(self) -> int | None:
        """Number of entries."""
        return self._reader.count()

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All entries."""
        for chunk in self._reader.chunks(size):
            chunk.ids = [self._prefix + name for name in chunk.ids]
            chunk.failures = [Failure(self._prefix + failure.id, failure.reason) for failure in chunk.failures]
            yield chunk

    def reduce_to(self, max_side: int) -> None:
        """Reduce pictures to this longer side on reading, unless one was chosen when the source was opened."""
        reduce_to(self._reader, max_side)

    def close(self) -> None:
        """Close the source."""
        self._reader.close()


class SeveralReader:
    """Several sources, one behind the other.

    Ids are kept apart by the source's name before them (``cats/1.png``, ``dogs/1.png``), with as much of the path as it
    takes to tell the sources apart. An id so depends on which sources are given together: index folders that stand
    alone by calls of their own.

    Args:
        readers: the sources' readers.
        paths: where each lies.

    Raises:
        SourceError: some bring vectors and others pictures.
    """

    def __init__(self, readers: Sequence[Reader], paths: Sequence[Path]) -> None:
        if len({reader.brings_vectors for reader in readers}) > 1:
            raise SourceError("some of the sources hold vectors and others pictures: index them one by one")
        names = distinct_names(paths)
        self._readers = [PrefixedReader(reader, f"{name}/") for reader, name in zip(readers, names, strict=True)]
        self.brings_vectors = readers[0].brings_vectors
        self.scope = "\n".join(reader.scope for reader in readers)
        self.name = f"{len(readers)} sources ({', '.join(reader.name for reader in readers)})"
        self.notes = [note for reader in self._readers for note in reader.notes]

    @property
    def unidentified(self) -> bool:
        """Whether some entries failed that don't say which items they are."""
        return any(reader.unidentified for reader in self._readers)

    @property
    def unread(self) -> set[str]:
        """Ids of items that failed under another name."""
        return {name for reader in self._readers for name in reader.unread}

    def count(self) -> int | None:
        """Number of entries of all, or None where one doesn't know."""
        counts = [reader.count() for reader in self._readers]
        return None if None in counts else sum(count for count in counts if count is not None)

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All entries of the first source, then of the next; no chunk crosses from one into the other."""
        for reader in self._readers:
            yield from reader.chunks(size)

    def reduce_to(self, max_side: int) -> None:
        """Reduce pictures to this longer side on reading, unless one was chosen when the source was opened."""
        for reader in self._readers:
            reader.reduce_to(max_side)

    def close(self) -> None:
        """Close all."""
        for reader in self._readers:
            reader.close()


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The shortest path endings, all of the same number of parts, that differ; full paths where none do."""
    parts = [path.absolute().parts[1:] for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise SourceError("the same source was named twice")
