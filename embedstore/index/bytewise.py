"""Vectors that are bytes: whole numbers from 0 to 255, such as pixels and many descriptors, held as what they are.

A quarter of the memory of float32, and nothing is lost: candidates are ordered by exact distances from memory, inside
FAISS, where reading the stored vectors took a third of a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedstore.index.bindings import faiss
from embedstore.index.exact import Positions
from embedstore.types import Metric, Vectors

_MOST_BYTES = 2**28  # kept in memory for one tier
_SHARE = 0.125  # of a budget
_MOST = np.float32(255.0).view(np.uint32)
_STEP = 2**22  # numbers looked at, or encoded, at a time


def fits(blocks: Sequence[Vectors], metric: Metric, memory: int | None = None) -> bool:
    """Whether vectors (blocks of (n, d)) are bytes, and few enough to be held where so much memory may be taken."""
    most = _MOST_BYTES if memory is None else min(_MOST_BYTES, int(_SHARE * memory))
    if metric is not Metric.L2 or sum(block.size for block in blocks) > most:
        return False
    return all(_are_bytes(part) for block in blocks for part in _parts(block))


def _are_bytes(vectors: Vectors) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(np.array_equal(vectors.astype(np.uint8), vectors))


def hold(blocks: Sequence[Vectors]) -> Any:
    """An index of vectors that `fits` says yes to, which computes exact distances."""
    held = faiss.IndexScalarQuantizer(blocks[0].shape[1], faiss.ScalarQuantizer.QT_8bit_direct, faiss.METRIC_L2)
    for block in blocks:
        for part in _parts(block):
            held.add(part)
    return held


def takes(queries: Vectors) -> bool:
    """Whether an index that `hold` made has exact distances for queries (nq, d) or (d,): those that are bytes, too.

    Where d is a multiple of 16 FAISS turns the query into bytes as well, and drops what is behind the point. (Bits of
    floats are in the order of the floats, negative ones and NaN behind the others: a conversion to bytes would warn of
    those, and silencing that takes longer than all else here.)
    """
    if b"\0" in (queries.view(np.uint32) <= _MOST).tobytes():
        return False
    return b"\0" not in (np.rint(queries) == queries).tobytes()


def read(held: Any, rows: Positions) -> Vectors:
    """The vectors (n, d) at rows (n,)."""
    codes = faiss.rev_swig_ptr(held.codes.data(), held.ntotal * held.d).reshape(-1, held.d)
    found: Vectors = codes[rows].astype(np.float32)
    return found


def _parts(block: Vectors) -> list[Vectors]:
    step = max(1, _STEP // block.shape[1])
    return [block[start : start + step] for start in range(0, len(block), step)]
