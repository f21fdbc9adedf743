"""Groups in a neighbour graph, as its slowest vibrations: spectral clustering.

Ng, Jordan and Weiss 2001, "On spectral clustering: analysis and an algorithm", with edges weighted by the neighbours
that two items share (Jarvis and Patrick 1973): in a latent space many an edge leads into another class, but few
neighbours are shared across. Squaring the share told Fashion-MNIST's classes apart better than either the share or
distances as weights. The number of groups shows in the eigenvalues, as a gap (von Luxburg 2007, "A tutorial on spectral
clustering", section 8.3).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

NEIGHBOURS = 15
MOST_PARTS = 500  # the largest ones: each has a vector for itself
_TOLERANCE = 1e-4


def shared_neighbours(neighbours: npt.NDArray[np.int64]) -> Any:
    """The graph of nearest neighbours (n, k), as a symmetric sparse matrix (n, n) of float32.

    An edge's weight is the share of neighbours that both ends have (each counts itself), squared.
    """
    from scipy import sparse

    count, k = neighbours.shape
    ends = np.arange(0, count * k + 1, k)
    near = sparse.csr_matrix((np.ones(count * k, np.float32), neighbours.ravel(), ends), (count, count))
    near.data[:] = 1.0
    own = near + sparse.identity(count, dtype=np.float32, format="csr")
    shared = (own @ own.T).multiply((near + near.T) > 0).tocsr()
    shared.setdiag(0)
    shared.eliminate_zeros()
    shared.data = (shared.data / (2 * (k + 1) - shared.data)) ** 2  # of the union
    return shared


def parts(graph: Any) -> npt.NDArray[np.int64]:
    """Which connected part of the graph each node (n,) lies in, from 0; -1 in one of less than 1/50 of the largest.

    A small part that hangs by no edge is a group by itself to the eigenvectors, and would take the place of a
    real one: twenty copies of a picture, say. Beyond the 500 largest parts, nodes are in none either.
    """
    from scipy.sparse.csgraph import connected_components

    _, part = connected_components(graph, directed=False)
    sizes = np.bincount(part)
    large = sizes >= sizes.max() / 50
    large[np.argsort(-sizes, kind="stable")[MOST_PARTS:]] = False
    number = np.where(large, np.cumsum(large) - 1, -1)
    found: npt.NDArray[np.int64] = number[part].astype(np.int64)
    return found


def eigenvectors(graph: Any, count: int, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The largest eigenvalues (m,), descending, and eigenvectors (n, m), of the normalised graph D^-1/2 A D^-1/2.

    Of each connected part by itself: one for each has the eigenvalue 1, and an iteration over all of them would miss
    some. In small parts (see `parts`) all vectors are 0.

    Args:
        graph: symmetric (n, n).
        count: how many; fewer where the parts have fewer nodes.
        seed: of the iteration's start: the same one gives the same vectors.
    """
    part = parts(graph)
    # Each part's vectors are kept as long as the part is, and only those that are among the largest get all nodes: of
    # many parts, all would take the square of the number of nodes.
    by_part = np.argsort(part, kind="stable")
    starts = np.searchsorted(part[by_part], np.arange(int(part.max()) + 2))
    every = [by_part[a:b] for a, b in pairwise(starts.tolist())]
    solved = [_eigenvectors(graph[rows][:, rows] if len(rows) < len(part) else graph, count, seed) for rows in every]
    found = np.concatenate([values for values, _ in solved])
    place = [(number, column) for number, (values, _) in enumerate(solved) for column in range(len(values))]
    order = np.argsort(-found, kind="stable")[:count]
    vectors = np.zeros((len(part), len(order)))
    for target, (number, column) in enumerate(place[i] for i in order.tolist()):
        vectors[every[number], target] = solved[number][1][:, column]
    return found[order], vectors


def _eigenvectors(graph: Any, count: int, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    from scipy import sparse
    from scipy.sparse.linalg import eigsh

    size = graph.shape[0]
    if size == 1:
        return np.ones(1), np.ones((1, 1))
    scale = sparse.diags(1 / np.sqrt(np.asarray(graph.sum(axis=1), dtype=np.float64).ravel())).astype(np.float32)
    normalised = scale @ graph @ scale
    start = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    if size <= 400:  # the iteration needs some room, and this is as fast
        values, vectors = np.linalg.eigh(normalised.toarray().astype(np.float64))
    else:
        values, vectors = eigsh(normalised, k=min(count, size - 1), which="LA", tol=_TOLERANCE, v0=start)
    order = np.argsort(-values)[:count]
    return values[order].astype(np.float64), vectors[:, order].astype(np.float64)


def coordinates(vectors: npt.NDArray[np.float64], groups: int) -> npt.NDArray[np.float32]:
    """Where each node (n, k) lies for k groups: its row of the first k eigenvectors, of length 1."""
    rows = vectors[:, :groups]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit


def gaps(values: npt.NDArray[np.float64]) -> dict[int, float]:
    """Numbers of groups that the eigenvalues (m,) suggest, ascending, each with its gap.

    The gap after the k-th value says how much slower the k-th vibration dies away than the next. Numbers whose gap is
    larger than both neighbouring ones are suggested.
    """
    gap = values[:-1] - values[1:]  # gap[k - 1] is that of k groups
    inner = [
        k
        for k in range(2, len(gap) + 1)
        if gap[k - 1] > 0 and gap[k - 1] >= gap[k - 2] and (k == len(gap) or gap[k - 1] > gap[k])
    ]
    return {k: float(gap[k - 1]) for k in inner}
