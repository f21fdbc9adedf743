"""From a test of pairs to groups. Rows count items from 0; nothing here knows what makes two of them the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_MORE = 8  # times as many neighbours, where all were the same
_MOST = 1_000
_ROUNDS = 20  # with one centre to a component; what is left then is a chain
Rows = npt.NDArray[np.int64]
Same = Callable[[Rows, Rows], npt.NDArray[np.bool_]]  # pairs, row by row


def links(count: int, near: Callable[[Rows, int], Rows], same: Same, k: int) -> Rows:
    """Pairs (m, 2) of rows that are the same, the lower one first, among neighbours.

    Where all of an item's neighbours are the same as it, there may be more: of each component, the row with the most
    links is asked for more of them, so that a hundred copies come out as one group and not as twenty. (When all rows
    were asked, thousands of copies took minutes, and gigabytes.)

    Args:
        count: number of rows.
        near: candidates (n, at least k) of rows (n,), with -1 for none; the row itself may be among them.
        same: the test.
        k: neighbours to begin with.
    """
    rows, codes = np.arange(count), np.empty(0, dtype=np.int64)
    while len(rows) and count > 1:
        found = near(rows, min(k, count - 1))
        one = np.repeat(rows, found.shape[1])
        other = found.ravel()
        pair = np.where((other >= 0) & (other != one), np.minimum(one, other) * count + np.maximum(one, other), -1)
        fresh = np.setdiff1d(pair[pair >= 0], codes)
        codes = np.union1d(codes, fresh[same(fresh // count, fresh % count)])
        full = np.isin(pair, codes).reshape(found.shape).sum(axis=1) >= min(k, count - 1)
        if k >= min(count - 1, _MOST):
            break
        rows, k = _most_linked(rows[full], _pairs(codes, count), count), k * _MORE
    return _pairs(codes, count)


def _pairs(codes: Rows, count: int) -> Rows:
    return np.stack([codes // count, codes % count], axis=1)


def _most_linked(rows: Rows, pairs: Rows, count: int) -> Rows:
    """Of rows, one of each component that they lie in."""
    from scipy.sparse.csgraph import connected_components

    _, part = connected_components(_graph(pairs, count), directed=False)
    order = rows[np.lexsort((rows, -np.bincount(pairs.ravel(), minlength=count)[rows], part[rows]))]
    return np.sort(order[np.unique(part[order], return_index=True)[1]])


def groups(pairs: Rows, same: Same) -> list[Rows]:
    """Disjoint groups of rows, each of at least two, whose members are all the same as one of them, its centre.

    Connected components would chain: of a film, each frame is the same as the next, and the first is not the last.
    So a component's row with the most links takes those that are the same as it, and what is left goes on. That takes
    as many rounds as a chain has groups, so after some of them, a component has as many centres as fit.
    """
    from scipy.sparse.csgraph import connected_components

    made: list[Rows] = []
    turn = 0
    while len(pairs):
        rows, ends = np.unique(pairs, return_inverse=True)
        ends = ends.reshape(pairs.shape)
        number = np.arange(len(rows))
        graph = _graph(ends, len(rows))
        order = np.lexsort((rows, -np.bincount(ends.ravel(), minlength=len(rows))))  # a centre comes first
        if turn < _ROUNDS:
            _, part = connected_components(graph, directed=False)
            _, first = np.unique(part[order], return_index=True)
            centre = order[first][part]
        else:
            centre = _apart(graph, turn)
        linked = (centre >= 0) & np.isin(number * len(rows) + centre, _both(ends, len(rows)))
        inside = linked | (centre == number)
        unsure = np.flatnonzero(~inside & (centre >= 0))  # never compared: they were not each other's neighbours
        inside[unsure] = same(rows[np.minimum(unsure, centre[unsure])], rows[np.maximum(unsure, centre[unsure])])
        members = np.flatnonzero(inside)
        members = members[np.argsort(centre[members], kind="stable")]
        made += [rows[one] for one in np.split(members, np.flatnonzero(np.diff(centre[members])) + 1)]
        pairs = pairs[~inside[ends].any(axis=1)]
        turn += 1
    return made


def _apart(graph: Any, turn: int) -> Rows:
    """A centre of each row (n,), -1 of those that have none nearby: centres are more than two links apart.

    Those that have more links than all within two of theirs; among equals chance decides, for by number the rows of a
    chain would each wait for the one before (Luby 1986).
    """
    count = graph.shape[0]
    rank = np.empty(count, dtype=np.int64)
    rank[np.lexsort((np.random.default_rng(turn).permutation(count), np.diff(graph.indptr)))] = np.arange(count)

    def spread(values: Rows) -> Rows:
        """The largest value of each row and those linked to it; each row has a link."""
        return np.maximum(values, np.maximum.reduceat(values[graph.indices], graph.indptr[:-1]))

    chosen = np.flatnonzero(spread(spread(rank)) == rank)
    taken = np.full(count, -1, dtype=np.int64)
    taken[chosen] = rank[chosen]
    taken = spread(taken)  # by one at most
    taken = np.where(taken >= 0, taken, spread(taken))
    return np.where(taken >= 0, np.argsort(rank)[taken], -1)


def _graph(pairs: Rows, count: int) -> Any:
    """Links of rows (count, count), in both directions; each pair is there once."""
    from scipy import sparse

    both = np.concatenate([pairs, pairs[:, ::-1]])
    return sparse.csr_matrix((np.ones(len(both), np.int8), (both[:, 0], both[:, 1])), (count, count))


def _both(ends: Rows, count: int) -> Rows:
    """Codes of pairs, each in both directions."""
    return np.concatenate([ends[:, 0] * count + ends[:, 1], ends[:, 1] * count + ends[:, 0]])
