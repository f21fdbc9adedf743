"""The words of embedstore as types: items and their batches, metrics, latents, hits, reports, and the four protocols.

Only NumPy is needed here: everything may import this module, and it imports nothing of embedstore but the errors.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from embedstore.errors import InvalidArgument, SpaceMismatch

Vectors: TypeAlias = npt.NDArray[np.float32]  # (n, d)
Picture: TypeAlias = npt.NDArray[np.uint8]  # (h, w, c): RGB where c is 3, grey where c is 1
#: Pictures of one size as one array (n, h, w, c), or of several sizes as a sequence of (h, w, c).
Pictures: TypeAlias = "npt.NDArray[np.uint8] | Sequence[Picture]"
Metadata: TypeAlias = dict[str, Any]
_NUMBERS = (int, float, np.integer, np.floating)

EXACT = "exact"  # the kind of index that is none: every search looks at every vector
#: Bytes that a process takes which searches, before it holds a vector: Python with FAISS and an open store.
PROCESS_BYTES = 130 * 2**20


class Metric(enum.StrEnum):
    """How two latents are compared. Parsed here and nowhere else.

    ======  ==========================  ======================
    metric  distance                    score
    ======  ==========================  ======================
    l2      Euclidean, not squared      -distance
    cosine  1 - cosine similarity       cosine similarity
    ip      -inner product              inner product
    ======  ==========================  ======================
    """

    L2 = "l2"
    COSINE = "cosine"
    IP = "ip"

    @classmethod
    def parse(cls, value: str | Metric) -> Metric:
        """Return the metric named by ``value``, or raise InvalidArgument."""
        try:
            return cls(value.lower() if isinstance(value, str) else value)
        except ValueError:
            raise InvalidArgument(f"unknown metric {value!r}: use one of {', '.join(m.value for m in cls)}") from None

    def score(self, distance: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Turn distances into scores (larger is better), element by element."""
        if self is Metric.COSINE:
            return np.float32(1.0) - distance
        return np.float32(0.0) - distance  # never -0.0


class Dtype(enum.StrEnum):
    """How vectors are kept on disk; computed with are always float32. Parsed here and nowhere else.

    =======  ===================  =====================================================
    dtype    bytes of a vector    loss
    =======  ===================  =====================================================
    float32  4 d                  none
    float16  2 d                  each number by at most 0.05 % of itself, or 3e-8
    int8     d + 4                each number by at most 0.4 % of its vector's largest
    =======  ===================  =====================================================
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"

    @classmethod
    def parse(cls, value: npt.DTypeLike | Dtype) -> Dtype:
        """Return the dtype named by ``value``, or raise InvalidArgument."""
        try:
            return cls(value.lower() if isinstance(value, str) else np.dtype(value).name)
        except (ValueError, TypeError):
            raise InvalidArgument(f"unknown dtype {value!r}: use one of {', '.join(d.value for d in cls)}") from None

    def row_bytes(self, dimension: int) -> int:
        """Bytes of one vector."""
        return {Dtype.FLOAT32: 4 * dimension, Dtype.FLOAT16: 2 * dimension, Dtype.INT8: dimension + 4}[self]


@dataclass(frozen=True, slots=True)
class Item:
    """One datum.

    Attributes:
        id: unique in the store.
        picture: uint8 array (h, w, c), or a file's path, or None for an item without payload.
        metadata: a JSON object.
        source: where it came from (a path, ``file.npz#17``), or None.
        vector: float32 (d,) where the source brings vectors instead of pictures.
    """

    id: str
    picture: Picture | Path | None = None
    metadata: Metadata = field(default_factory=dict)
    source: str | None = None
    vector: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that could not be read or stored, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Latent:
    """A vector of a space that remembers its space, so that latents of two spaces can't be mixed.

    Attributes:
        vector: float32, shape (d,).
        space: name of the space it belongs to.
        fingerprint: of the space's encoder, or "" where the space has none.
    """

    vector: npt.NDArray[np.float32]
    space: str = "default"
    fingerprint: str = ""

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False and dtype is not None and np.dtype(dtype) != self.vector.dtype:
            raise ValueError("a latent can't be converted to another dtype without a copy")
        return np.array(self.vector, dtype=dtype) if copy or dtype is not None else self.vector

    def __len__(self) -> int:
        return len(self.vector)

    def __repr__(self) -> str:
        return f"<Latent of {len(self.vector)} dimensions in space {self.space!r}, length {self.norm():.4g}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Latent):
            return NotImplemented
        same = (self.space, self.fingerprint) == (other.space, other.fingerprint)
        return same and np.array_equal(self.vector, other.vector)

    def __hash__(self) -> int:
        return hash((self.space, self.fingerprint, self.vector.tobytes()))

    def _other(self, other: Latent) -> npt.NDArray[np.float32]:
        if (other.space, other.fingerprint) != (self.space, self.fingerprint):
            raise SpaceMismatch(
                f"latents of two spaces can't be mixed: {self.space!r} ({self.fingerprint[:12] or 'no encoder'}) and "
                f"{other.space!r} ({other.fingerprint[:12] or 'no encoder'}); encode both in the same space"
            )
        return other.vector

    def _with(self, vector: npt.NDArray[np.float32]) -> Latent:
        return Latent(np.asarray(vector, dtype=np.float32), self.space, self.fingerprint)

    def __add__(self, other: Latent) -> Latent:
        return self._with(self.vector + self._other(other)) if isinstance(other, Latent) else NotImplemented

    def __sub__(self, other: Latent) -> Latent:
        return self._with(self.vector - self._other(other)) if isinstance(other, Latent) else NotImplemented

    def __mul__(self, factor: float) -> Latent:
        return self._with(self.vector * np.float32(factor)) if isinstance(factor, _NUMBERS) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Latent:
        return self._with(self.vector / np.float32(divisor)) if isinstance(divisor, _NUMBERS) else NotImplemented

    def __neg__(self) -> Latent:
        return self._with(-self.vector)

    def __matmul__(self, other: Latent) -> float:
        """Inner product."""
        return float(self.vector @ self._other(other)) if isinstance(other, Latent) else NotImplemented

    def norm(self) -> float:
        """Euclidean length."""
        return float(np.linalg.norm(self.vector))


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of a search: ``score`` is larger-is-better, ``distance`` smaller-is-better, for every metric."""

    id: str
    score: float
    distance: float
    metadata: Metadata


class Chunk(Protocol):
    """A piece of a source: what is cheap to know of each entry, and a way to load the dear part of some of them.

    ``ids``, ``hashes``, ``metadata`` and ``sources`` are parallel. ``failures`` are entries of this piece that could
    not even be identified or hashed; they are not in ``ids``.
    """

    ids: Sequence[str]
    hashes: Sequence[bytes]  # 16 bytes each: of everything that determines the latent (picture bytes, or the vector)
    metadata: Sequence[Metadata]
    sources: Sequence[str | None]
    failures: Sequence[Failure]

    def load(self, which: Sequence[int]) -> Loaded:
        """Read and decode the entries at these positions (ascending)."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Entries of a chunk, read.

    Attributes:
        which: the positions in the chunk that could be read, ascending.
        pictures: of these positions; None where the source brings vectors.
        vectors: float32 (n, d) of these positions; None where the source brings pictures.
        sizes: (width, height) of each original, before any reduction on reading.
        failures: the positions that could not be read, with reasons.
        thumbs: encoded thumbnails (PNG or WebP) of these positions, where reading made them on the way; else None.
    """

    which: Sequence[int]
    pictures: Pictures | None
    vectors: Vectors | None
    sizes: Sequence[tuple[int, int]]
    failures: Sequence[Failure]
    thumbs: Sequence[bytes] | None = None


@runtime_checkable
class Reader(Protocol):
    """A source of items, readable more than once (fitting reads a sample first, indexing reads all)."""

    name: str  # one line for messages: 'folder pictures/ (5,012 files)'
    scope: str  # names the source for pruning: an item is removed from it when its ``origin`` equals this
    brings_vectors: bool

    def count(self) -> int | None:
        """Number of entries, or None where only reading to the end tells."""

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All entries in a stable order, ``size`` at a time (the last chunk may be shorter)."""

    def close(self) -> None:
        """Free worker processes and open files."""


@runtime_checkable
class Encoder(Protocol):
    """Turns pictures into latents, deterministically."""

    kind: str  # registry name: 'autoencoder', 'pca', ...
    fingerprint: str  # hex SHA-256 over weights, config and preprocessing
    dimension: int
    metric: Metric  # the metric that its latents are meant for

    def encode(self, pictures: Pictures, progress: bool = False) -> Vectors:
        """Latents (n, d) of pictures."""


@runtime_checkable
class Decoder(Protocol):
    """Turns latents into pictures."""

    def decode(self, latents: Vectors) -> npt.NDArray[np.uint8]:
        """Pictures (n, h, w, c) of latents (n, d)."""


@runtime_checkable
class VectorBackend(Protocol):
    """Where the vectors of one space live: four verbs. Positions count from 0 over all committed rows, in order."""

    def append(self, vectors: Vectors) -> None:
        """Write rows behind the committed end and make them durable; a commit of the caller names them."""

    def read(self, positions: npt.NDArray[np.int64]) -> Vectors:
        """The vectors at these positions."""

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """All committed rows as (first position, (n, d) array), without copying where possible."""

    def close(self) -> None:
        """Free memory maps and file handles."""


@dataclass(slots=True)
class AddReport:
    """What a call that adds did.

    Attributes:
        added: new items.
        updated: items whose content or metadata changed.
        unchanged: items that were already there, the same.
        removed: ids that this source had at an earlier time and no longer has (deleted only with ``prune``).
        pruned: number of ``removed`` that were deleted.
        failures: what could not be read or stored, with reasons.
        seconds: wall time by step: 'fit', 'read and encode', 'build'.
        encoder: fingerprint of the encoder used, "" for none.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: list[str] = field(default_factory=list)
    pruned: int = 0
    failures: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    encoder: str = ""
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{self.added:,} added"]
        if self.updated:
            parts.append(f"{self.updated:,} updated")
        parts += [f"{self.unchanged:,} unchanged", f"{len(self.failures):,} failed"]
        if self.pruned:
            parts.append(f"{self.pruned:,} pruned")
        elif self.removed:
            parts.append(f"{len(self.removed):,} gone from the source")
        return ", ".join(parts)
