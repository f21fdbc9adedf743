"""Exact search: brute force over blocks of vectors that may lie in memory-mapped files.

The answer is exact in the strict sense: the k nearest by distances computed in float64 from the stored float32
numbers and then rounded to float32; where these are equal, the lower position comes first. (Rounding comes before
ordering so that the order doesn't depend on how the vectors are cut into blocks: whoever merges the answers of several
blocks sees only the rounded distances.) Speed comes from a first pass in float32 that keeps every vector which
*could* be among the nearest, given a bound on its rounding error (Higham, "Accuracy and Stability of Numerical
Algorithms", 2002, section 3.1: a sum of d products errs by at most about d units in the last place, relative to the
sum of their magnitudes); only the few that are kept are computed in float64.

* One query, or few: all distances of a block by true differences, at memory speed; the bound is relative.
* A batch: FAISS's blocked matrix products, k plus some padding. For l2 these use |q|² + |b|² - 2<q, b>, whose error is
  relative to the norms, not to the distance, so it can be large for data far from the origin. A query whose padding
  doesn't prove that nothing was missed is answered by the first way instead.

FAISS's ``knn_L2sqr`` alone was rejected because of that cancellation (vectors near 1e4 that differ in the third
decimal come back in random order as soon as there are 20 queries), and its selectors because they cost the batch path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from embedstore.errors import InvalidArgument
from embedstore.index.bindings import faiss
from embedstore.index.possible import PADDING, SAFE, TINY, UNIT, possible
from embedstore.types import Metric, Vectors

Positions: TypeAlias = npt.NDArray[np.int64]
Doubles: TypeAlias = npt.NDArray[np.float64]
Blocks: TypeAlias = Sequence[tuple[int, Vectors]]

_BATCH = 10  # from here on a matrix product is faster than one scan per query
#: Numbers of queries from which FAISS makes one; with fewer it takes 5 times as long for a query of 64 numbers, 9 times
#: for one of 784. (The bound is the process's: to lower it for a call would change what other threads are computing.)
_PRODUCT = int(faiss.cvar.distance_compute_blas_threshold)
_PADDED = 4  # copies of queries are added where at most so many times as many make a product
_QUERIES = 2048  # of a batch at a time
_SCAN_ROWS = 1 << 20
_DECODED_ROWS = 1 << 15  # of blocks that aren't float32 already, at a time
_COPY_BYTES = 32 << 20  # of vectors gathered, normalised or widened to float64 at a time
_PARALLEL = 1e-28  # squared distance of normalised vectors that rounding alone makes: the same direction
_KERNEL = 16  # dimensions from which FAISS's kernels for one and for many queries add in the same order

_ptr = faiss.swig_ptr


def norms(block: Vectors) -> npt.NDArray[np.float32]:
    """Euclidean norms (n,) of a block (n, d), each right to a few units in the last place at any magnitude."""
    block = np.asarray(block)
    out = np.empty(len(block), dtype=np.float32)
    if len(block):
        faiss.fvec_norms_L2(_ptr(out), _ptr(block), block.shape[1], len(block))
        odd = np.flatnonzero(~((out > SAFE[0]) & (out < SAFE[1])))  # squares that left the range of float32
        for part in _parts(odd, block.shape[1]):
            out[part] = np.linalg.norm(block[part].astype(np.float64), axis=1)
    return out


def distances(queries: Vectors, candidates: Vectors, metric: Metric) -> Doubles:
    """Exact distances (nq, m) of queries (nq, d) to candidates (nq, m, d) of their own, in float64.

    Cosine distance is computed as half the squared distance of the normalised vectors, which equals 1 - cos and keeps
    its digits where the angle is small. Zero vectors have no cosine distance: they are refused before they are stored.
    """
    return _between(candidates, queries[:, None, :], metric)


def _between(candidates: Vectors, query: Vectors, metric: Metric) -> Doubles:
    """Distances (..., m) of candidates (..., m, d) to the query (..., 1, d) that they share."""
    if metric is Metric.L2:
        difference = np.subtract(candidates, query, dtype=np.float64)
        squares: Doubles = np.vecdot(difference, difference)
        return np.sqrt(squares, out=squares)
    wide, query = candidates.astype(np.float64), query.astype(np.float64)
    if metric is Metric.IP:
        return np.asarray(-np.vecdot(wide, query))
    wide /= np.sqrt(np.vecdot(wide, wide))[..., None]
    wide -= query / np.sqrt(np.vecdot(query, query))[..., None]
    squared = np.asarray(np.vecdot(wide, wide))
    squared[squared < _PARALLEL] = 0.0
    return 0.5 * squared


def rerank(
    queries: Vectors,
    positions: Positions,
    k: int,
    metric: Metric,
    read: Callable[[Positions], Vectors],
    *,
    single_precision: bool = False,
) -> tuple[npt.NDArray[np.float32], Positions]:
    """Order candidates by their exact distances and keep the k nearest of each query.

    Args:
        queries: (nq, d).
        positions: candidates (nq, m), distinct within a row; -1 where there is none.
        k: number of neighbours.
        metric: of the distances.
        read: returns the vectors (n, d), C-contiguous float32, at n ascending positions.
        single_precision: compute in float32 (by true differences, never the expanded form), which saves a tenth of a
            search of 784 dimensions and changes the last digit or two. Cosine and short vectors are in float64 anyway.

    Returns:
        Distances float32 (nq, k) and positions int64 (nq, k), padded with inf and -1.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    # Ascending positions make ties fall to the lower one under a stable sort, and reads run forward through the file.
    if len(positions) == 1:  # the same arithmetic without the bookkeeping of a batch, which would cost more than it
        row = positions[0].copy()
        row.sort()
        if len(row) and row[0] < 0:
            row = row[row >= 0]
        vectors = read(row)
        if single_precision and metric is not Metric.COSINE and queries.shape[1] >= _KERNEL:
            distance = np.empty(len(row), dtype=np.float32)
            kernel = faiss.fvec_L2sqr_ny if metric is Metric.L2 else faiss.fvec_inner_products_ny
            kernel(_ptr(distance), _ptr(queries), _ptr(vectors), queries.shape[1], len(row))
            distance = np.sqrt(distance, out=distance) if metric is Metric.L2 else -distance
        else:
            distance = _between(vectors, queries, metric).astype(np.float32)
        order = distance.argsort(kind="stable")[:k]
        found, nearest = distance.take(order)[None], row.take(order)[None]
        return (found, nearest) if len(order) == k else _padded(found, nearest, k)
    positions = np.sort(positions, axis=1)
    found = np.full(positions.shape, np.inf, dtype=np.float32)
    step = max(1, _COPY_BYTES // (8 * queries.shape[1] * max(1, positions.shape[1])))
    for start in range(0, len(queries), step):
        rows = positions[start : start + step]
        unique, inverse = np.unique(rows, return_inverse=True)
        if unique[0] < 0:
            if len(unique) == 1:
                continue
            unique, inverse = unique[1:], inverse - 1  # -1 now stands for the last vector; it is masked below
        vectors = np.ascontiguousarray(read(unique), dtype=np.float32)
        which, some = inverse.reshape(rows.shape), queries[start : start + step]
        if single_precision and metric is not Metric.COSINE and queries.shape[1] >= _KERNEL:
            distance = np.empty(rows.shape, dtype=np.float32)
            kernel = faiss.fvec_L2sqr_by_idx if metric is Metric.L2 else faiss.fvec_inner_products_by_idx
            labels = np.maximum(which, 0)
            kernel(_ptr(distance), _ptr(some), _ptr(vectors), _ptr(labels), queries.shape[1], *rows.shape)
            distance = np.sqrt(distance, out=distance) if metric is Metric.L2 else -distance
        else:
            distance = distances(some, vectors[which], metric).astype(np.float32)
        found[start : start + step] = np.where(rows >= 0, distance, np.inf)
    return _nearest(found, positions, k)


def search(
    blocks: Blocks,
    queries: Vectors,
    k: int,
    metric: Metric,
    *,
    among: Positions | None = None,
    norms: Sequence[npt.NDArray[np.float32]] | None = None,
) -> tuple[npt.NDArray[np.float32], Positions]:
    """The k nearest vectors of each query, exactly.

    Args:
        blocks: (first position, C-contiguous float32 (n, d)) in ascending order of positions; memory maps are fine.
        queries: float32 (nq, d), finite, and not zero where the metric is cosine.
        k: number of neighbours, at least 1.
        metric: see `Metric` for what a distance is.
        among: the positions that may be answered, ascending; None allows all.
        norms: what `norms` returns for each block, to save its pass over the vectors (cosine and ip need it).

    Returns:
        Distances float32 (nq, k), ascending, and positions int64 (nq, k); where fewer than k vectors may be answered
        the rest is inf and -1.
    """
    if k < 1:
        raise InvalidArgument(f"k must be at least 1, not {k}")
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    blocks = [(first, block) for first, block in blocks if len(block)]
    known = [n for n in norms if len(n)] if norms is not None else [None] * len(blocks)
    if len(queries) < _BATCH:
        results = [_scan(query, blocks, k, metric, among, known) for query in queries]
    else:
        results = [
            result
            for start in range(0, len(queries), _QUERIES)
            for result in _batch(queries[start : start + _QUERIES], blocks, k, metric, among, known)
        ]
    if not results:
        return np.empty((0, k), dtype=np.float32), np.empty((0, k), dtype=np.int64)
    if len(results) == 1:
        return results[0]
    return np.concatenate([d for d, _ in results]), np.concatenate([p for _, p in results])


def _scan(
    query: npt.NDArray[np.float32],
    blocks: Blocks,
    k: int,
    metric: Metric,
    among: Positions | None,
    known: Sequence[npt.NDArray[np.float32] | None],
) -> tuple[npt.NDArray[np.float32], Positions]:
    """One query, (1, k) each: float32 distances of all rows, then float64 ones of those that could be nearest."""
    found: list[npt.NDArray[np.float32]] = [np.empty(0, dtype=np.float32)]
    positions: list[Positions] = [np.empty(0, dtype=np.int64)]
    for first, piece, piece_norms, rows in _pieces(blocks, among, known, _SCAN_ROWS):
        kept = possible(query, piece, partial(_lengths, piece, piece_norms), rows, k, metric)
        for part in _parts(kept, piece.shape[1]):
            found.append(distances(query[None], piece[part][None], metric)[0].astype(np.float32))
            positions.append(part + first)
    return _nearest(np.concatenate(found)[None], np.concatenate(positions)[None], k)


def _lengths(piece: Vectors, known: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    return norms(piece) if known is None else known


def _batch(
    queries: Vectors,
    blocks: Blocks,
    k: int,
    metric: Metric,
    among: Positions | None,
    known: Sequence[npt.NDArray[np.float32] | None],
) -> Iterator[tuple[npt.NDArray[np.float32], Positions]]:
    """Many queries by matrix products; those whose answer is not proven by the error bound are scanned."""
    dimension = queries.shape[1]
    lengths = norms(queries).astype(np.float64)
    longest = 0.0
    shortest = np.inf
    near: list[npt.NDArray[np.float32]] = []  # (nq, up to k + padding) per piece, smaller is nearer
    positions: list[Positions] = []
    last: list[npt.NDArray[np.float32]] = []  # the farthest computed value per piece that was not searched to its end
    probes = queries / lengths[:, None].astype(np.float32) if metric is Metric.COSINE else queries
    asked = max(len(queries), -(-_PRODUCT // dimension))
    asked = asked if asked <= _PADDED * len(queries) else len(queries)
    if asked > len(queries):
        probes = cast("Vectors", np.resize(probes, (asked, dimension)))
    copied = metric is Metric.COSINE or among is not None
    step = max(1024, _COPY_BYTES // (4 * dimension)) if copied else _SCAN_ROWS
    for first, piece, piece_norms, rows in _pieces(blocks, among, known, step):
        sizes = norms(piece) if piece_norms is None else piece_norms
        longest, shortest = max(longest, float(sizes.max())), min(shortest, float(sizes.min()))
        if rows is not None:
            piece, sizes = piece[rows], sizes[rows]
        if metric is Metric.COSINE:
            piece = np.divide(piece, np.maximum(sizes, TINY)[:, None], dtype=np.float32)
        width = min(k + PADDING, len(piece))
        values = np.empty((asked, width), dtype=np.float32)
        labels = np.empty((asked, width), dtype=np.int64)
        knn = faiss.knn_L2sqr if metric is Metric.L2 else faiss.knn_inner_product
        arguments = (dimension, asked, len(piece), width, _ptr(values), _ptr(labels))
        knn(_ptr(probes), _ptr(piece), *arguments)
        values, labels = values[: len(queries)], labels[: len(queries)]
        if metric is not Metric.L2:
            np.negative(values, out=values)
        near.append(values)
        positions.append((labels if rows is None else rows[labels]) + first)
        if width < len(piece):
            last.append(values[:, -1])
    if not near:
        yield _padded(np.empty((len(queries), 0), dtype=np.float32), np.empty((len(queries), 0), dtype=np.int64), k)
        return
    bound: Doubles
    if metric is Metric.COSINE:
        bound = np.full(len(queries), (dimension + 12) * UNIT)
    elif metric is Metric.IP:
        bound = (dimension + 8) * (UNIT * lengths * longest + TINY)
    else:
        bound = (dimension + 8) * (UNIT * (lengths + longest) ** 2 + TINY)
    computed, where = np.concatenate(near, axis=1), np.concatenate(positions, axis=1)
    rank = min(k, computed.shape[1]) - 1
    limit = np.partition(computed, rank, axis=1)[:, rank] + 2 * bound
    lowest = SAFE[0] if metric is Metric.COSINE else 0.0
    proven = np.isfinite(limit) & (lengths <= SAFE[1]) & (lengths >= lowest)
    proven &= longest <= SAFE[1] and shortest >= lowest
    for values in last:
        proven &= values > limit
    where[computed > limit[:, None]] = -1
    distance = np.empty((len(queries), k), dtype=np.float32)
    nearest = np.empty((len(queries), k), dtype=np.int64)
    sure = np.flatnonzero(proven)
    if len(sure):
        candidates = -np.sort(-where[sure], axis=1)  # real positions first, then -1
        candidates = candidates[:, : int((candidates >= 0).sum(axis=1).max())]
        distance[sure], nearest[sure] = rerank(queries[sure], candidates, k, metric, lambda at: take(blocks, at))
    for i in np.flatnonzero(~proven):
        distance[i : i + 1], nearest[i : i + 1] = _scan(queries[i], blocks, k, metric, among, known)
    yield distance, nearest


def take(blocks: Blocks, positions: Positions) -> Vectors:
    """The vectors (n, d) at ascending positions, each of which lies in one of the blocks."""
    starts = np.searchsorted(positions, [first for first, _ in blocks])
    ends = [*starts[1:], len(positions)]
    return np.concatenate(
        [block[positions[a:b] - first] for (first, block), a, b in zip(blocks, starts, ends, strict=True)]
    )


def _pieces(
    blocks: Blocks,
    among: Positions | None,
    known: Sequence[npt.NDArray[np.float32] | None],
    step: int,
) -> Iterator[tuple[int, Vectors, npt.NDArray[np.float32] | None, Positions | None]]:
    """Blocks cut to ``step`` rows: first position, rows, their norms if known, the selected ones (None: all)."""
    for (first, block), lengths in zip(blocks, known, strict=True):
        # What has to be decoded is, a part at a time.
        few = step if isinstance(block, np.ndarray) else min(step, _DECODED_ROWS)
        for start in range(0, len(block), few):
            stop, rows = min(start + few, len(block)), None
            if among is not None:
                low, high = among.searchsorted((first + start, first + stop))
                if low == high:
                    continue
                if high - low < stop - start:
                    rows = among[low:high] - (first + start)
            yield first + start, block[start:stop], None if lengths is None else lengths[start:stop], rows


def _parts(rows: Positions, dimension: int) -> Iterator[Positions]:
    """Rows in runs whose float64 copy stays small."""
    step = max(1, _COPY_BYTES // (8 * dimension))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _nearest(found: npt.NDArray[np.float32], positions: Positions, k: int) -> tuple[npt.NDArray[np.float32], Positions]:
    """The k smallest of each row; positions ascend within a row, so a stable sort breaks ties by the lower one."""
    if len(found) == 1 and found.shape[1] >= k:  # what along-axis indexing takes is most of a short tail's scan
        first = found[0].argsort(kind="stable")[:k]
        return found[:, first], positions[:, first]
    order = np.argsort(found, axis=1, kind="stable")[:, :k]
    return _padded(np.take_along_axis(found, order, axis=1), np.take_along_axis(positions, order, axis=1), k)


def _padded(found: npt.NDArray[np.float32], positions: Positions, k: int) -> tuple[npt.NDArray[np.float32], Positions]:
    """Rows of exactly k, filled with inf and -1."""
    distance = np.full((len(found), k), np.inf, dtype=np.float32)
    nearest = np.full((len(found), k), -1, dtype=np.int64)
    distance[:, : found.shape[1]], nearest[:, : found.shape[1]] = found, positions
    return distance, nearest
