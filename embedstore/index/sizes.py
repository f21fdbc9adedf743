"""What an index and the process that searches it take in memory, estimated before anything is built."""

from __future__ import annotations

import re

from embedstore.types import PROCESS_BYTES, Metric

_MAPPED = 128 * 2**20  # of vectors, which a store keeps mapped (`vectors.segments`)
_ROW = 33  # bytes of each vector's row number and id
_ID = 8  # bytes of a vector's label in an inverted list
_LINK = 4


def process(count: int, dimension: int, per_vector: float, *, reads: bool = True) -> int:
    """Bytes that a process takes which searches so many vectors through an index of so many bytes a vector.

    ``reads`` says whether it reads candidates' vectors from the segments, to order them by their true distances.
    """
    mapped = min(_MAPPED, 4 * count * dimension) if reads else 0
    return int(PROCESS_BYTES + mapped + count * (_ROW + per_vector))


def process_with(factory: str, count: int, dimension: int, metric: Metric) -> int:
    """The same by the index's factory string; FAISS's own distances are no cosine distances."""
    reads = metric is Metric.COSINE or not holds_vectors(factory)
    return process(count, dimension, per_vector(factory, dimension), reads=reads)


def holds_vectors(factory: str) -> bool:
    """Whether an index of this factory string holds the vectors as they are."""
    parts = factory.split(",")
    flat = "Flat" in parts or re.fullmatch(r"HNSW\d*", parts[-1]) is not None
    return flat and not re.match("PCA|OPQ|RR|L2norm", factory)


def fewest(factory: str | None) -> int:
    """Vectors that an index of this factory string needs at least: one for each list."""
    found = re.search(r"IVF(\d+)", factory or "")
    return int(found[1]) if found else 1


def per_vector(factory: str, dimension: int) -> float:
    """Bytes a vector of an index by its factory string; what isn't known counts as float32."""
    parts = factory.split(",")
    for part in parts:
        if found := re.fullmatch(r"(?:PCA|OPQ\d+_|RR)(\d+)", part):
            dimension = int(found[1])
    size = 4.0 * dimension
    for part in parts:
        if found := re.fullmatch(r"SQ(\d)", part):
            size = dimension * int(found[1]) / 8
        elif part == "SQfp16":
            size = 2.0 * dimension
        elif found := re.fullmatch(r"PQ(\d+)(?:x(\d+))?(?:fs)?", part):
            size = int(found[1]) * int(found[2] or 8) / 8
        elif found := re.fullmatch(r"RaBitQ(\d?)(?:fs)?", part):
            size = dimension * int(found[1] or 1) / 8 + 8
    for part in parts:
        if found := re.match(r"HNSW(\d*)", part):
            size += _LINK * (2 * int(found[1] or 32) + 3)
        elif part.startswith("IVF"):
            size += _ID
    return size
