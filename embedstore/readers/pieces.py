"""Chunks of sources that are in memory (or mapped into it) already, and what all readers have in common."""

from __future__ import annotations

import numbers
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import SourceError
from embedstore.types import Failure, Loaded, Metadata, Picture, Pictures, Reader, Vectors

#: Bytes of pictures in one chunk; another chunk is on its way meanwhile.
CHUNK_BYTES = 512 << 20
_EXPANDED = 256 << 20  # bytes that anything may unpack to
_RATIO = 200


@dataclass(slots=True)
class ArrayChunk:
    """Entries whose pictures, or vectors, are at hand as an array (n, ...) or a sequence of (h, w, c)."""

    ids: Sequence[str]
    hashes: Sequence[bytes]
    metadata: Sequence[Metadata]
    sources: Sequence[str | None]
    pictures: Pictures | None = None
    vectors: Vectors | None = None
    failures: Sequence[Failure] = field(default_factory=list)
    sizes: Sequence[tuple[int, int]] | None = None  # (width, height) of the originals, where pictures were reduced

    def load(self, which: Sequence[int]) -> Loaded:
        """The entries at these positions; vectors with NaN or infinity are failures."""
        which = list(which)
        if self.vectors is not None:
            vectors = np.ascontiguousarray(take(self.vectors, which), dtype=np.float32)
            finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
            bad = [which[i] for i in np.flatnonzero(~finite)]
            failures = [Failure(self.ids[i], "the vector holds NaN or infinity") for i in bad]
            if failures:
                which, vectors = [i for i, good in zip(which, finite, strict=True) if good], vectors[finite]
            return Loaded(which, None, vectors, [(0, 0)] * len(which), failures)
        if isinstance(self.pictures, np.ndarray):
            pictures = take(self.pictures, which)
            return Loaded(which, pictures, None, self._sizes(which, [pictures[0]] * len(which) if which else []), [])
        chosen = [(self.pictures or [])[i] for i in which]
        return Loaded(which, one_array(chosen), None, self._sizes(which, chosen), [])

    def _sizes(self, which: Sequence[int], pictures: Sequence[Picture]) -> list[tuple[int, int]]:
        if self.sizes is not None:
            return [self.sizes[i] for i in which]
        return [(picture.shape[1], picture.shape[0]) for picture in pictures]


def chunk_size(wanted: int, picture_bytes: int) -> int:
    """How many entries a chunk may have: as many as wanted, unless their pictures would fill the memory."""
    return max(1, min(wanted, CHUNK_BYTES // max(1, picture_bytes)))


def reduce_to(reader: Reader, max_side: int) -> None:
    """Have a reader that decodes files reduce them to this longer side, unless it was opened with a choice."""
    method = getattr(reader, "reduce_to", None)
    if method is not None:
        method(max_side)


def take(rows: npt.NDArray[Any], which: Sequence[int]) -> npt.NDArray[Any]:
    """Rows at ascending positions, as a slice (no copy) where they are consecutive."""
    if len(which) and which[-1] - which[0] + 1 == len(which):
        return rows[which[0] : which[-1] + 1]
    return rows[np.asarray(which, dtype=np.int64)]


def one_array(pictures: Sequence[Picture]) -> Pictures:
    """Pictures of one size as one array (n, h, w, c), others as they are."""
    if pictures and all(picture.shape == pictures[0].shape for picture in pictures):
        return np.stack(pictures)
    return pictures


def check_text_path(path: Path) -> str:
    """A source's absolute path as text that a database can hold.

    Raises:
        SourceError: the path isn't valid UTF-8.
    """
    # The user's own name is kept, links and all, unless it climbs: "link/.." is not where its text says it is.
    text = str(path.resolve() if ".." in path.parts else path.absolute())
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SourceError(
            f"the path {printable(text)} is not valid UTF-8: rename it, or link to it by another name"
        ) from None
    return text


def check_expansion(name: str, packed: int, unpacked: int) -> None:
    """Raise SourceError where so much would come of so little that it was made to fill the memory.

    Deflate packs at most 1,032 to 1, and only what is the same throughout; pictures of blank paper reach some 100 to 1.
    """
    if unpacked > _EXPANDED and unpacked > _RATIO * packed:
        raise SourceError(
            f"{name} grows from {packed:,} to {unpacked:,} bytes and more, which looks like an attack on the memory: "
            "unpack it yourself if it is what you want"
        )


def printable(name: str) -> str:
    """A file name with its undecodable bytes as ``\\xNN``, fit for a terminal and a database."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def label_metadata(label: Any, names: Sequence[str] | None) -> Metadata:
    """A label's metadata: the number alone, or the class's name as ``label`` and its number as ``class``."""
    if names is None or not isinstance(label, numbers.Integral):
        return {"label": label}
    number = int(label)
    return {"label": names[number] if 0 <= number < len(names) else str(number), "class": number}
