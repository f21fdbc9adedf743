"""The way of nearly all queries: one vector, no filter, and indexes whose own distances are exact.

What a plan decides is decided once for a commit, and what is left for each query is FAISS and a dozen steps of Python:
at 64 dimensions FAISS takes 30 microseconds, and everything around it took as many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedstore.index import inplace
from embedstore.index.bindings import faiss
from embedstore.index.bounds import Bounds
from embedstore.index.exact import Positions
from embedstore.index.tier import Tier, alone
from embedstore.truth.snapshot import SpaceView
from embedstore.types import Metric, Vectors

_ptr = faiss.swig_ptr
_SPARE = 8  # rows more than are wanted, where a few of all were deleted
_FEW = 8  # one row in so many of a block is looked at alone; of more, all are
_PATIENCE = 16  # times more often that bounds were of no use than that they were
Values = npt.NDArray[np.float32]
_Search: TypeAlias = tuple[
    Callable[..., None], Any, int, int
]  # FAISS's method, parameters, rows to find, first position


class Direct:
    """Searches one view for k rows at one recall. Safe to use from several threads.

    Args:
        view: of the space.
        tiers: all `finished`, the first one of at least k rows.
        blocks: what no tier covers, as (first position, (n, d)); scanned.
        k: rows to find.
        recall: to aim at; None for the tiers' own.
        known: bounds of blocks of an earlier view of the same space, as in ``bounds``.

    Attributes:
        bounds: of blocks that have some, by the row of their first position.
        minds_nan: whether a query has to be known to be finite.
        view: of the space.
        metric: of the space.
        rows: of its positions.
        shape: of a query.
        shift: what turns a position into its row; None where rows are missing in between.
    """

    __slots__ = (
        "_blocks",
        "_compute",
        "_first",
        "_is_l2",
        "_k",
        "_live",
        "_others",
        "_parameters",
        "_plans",
        "_scanned",
        "_search",
        "_tiers",
        "_wide",
        "bounds",
        "metric",
        "minds_nan",
        "rows",
        "shape",
        "shift",
        "view",
    )

    def __init__(
        self,
        view: SpaceView,
        tiers: Sequence[Tier],
        blocks: Sequence[tuple[int, Vectors]],
        k: int,
        recall: float | None,
        known: Mapping[int, Bounds],
    ) -> None:
        self.view, self.metric, self.rows = view, view.space.metric, view.rows
        self.shape, self._k, self._is_l2 = (view.space.dimension,), k, view.space.metric is Metric.L2
        self._live = view.live
        self._compute = faiss.fvec_L2sqr_by_idx if self._is_l2 else faiss.fvec_inner_products_by_idx
        self._wide = k if view.live is None else k + _SPARE
        self._others: list[_Search] = []
        self._tiers = [tier for tier in tiers if tier.held is not None]  # whose distances not every query can be told
        # Bytes are looked at anyway, and all of them are finite.
        self.minds_nan = not self._is_l2 or (not self._tiers and any(tier.minds_nan for tier in tiers))
        self._plans: list[dict[str, Any]] = []
        for tier in tiers:
            parameters, candidates, value = tier.finishing(k, recall)
            self._plans.append({"plan": "index", "candidates": candidates, "parameter": value})
            # Without a matrix product FAISS opens no parallel region for one query.
            search = _in_one_thread(tier.finished.search_c) if tier.projects else tier.finished.search_c
            self._others.append((search, parameters, min(self._wide, tier.left), tier.first))
        self.bounds: dict[int, Bounds] = {}
        self._blocks = [self._block(first, block, known) for first, block in blocks]
        self._search, self._parameters, _, self._first = self._others.pop(0)
        self._scanned = sum(len(block) for _, block in blocks)
        whole = int(self.rows[-1] - self.rows[0]) == len(self.rows) - 1
        self.shift = int(self.rows[0]) if whole else None

    def ask(self, query: Vectors) -> tuple[Values, Positions] | None:
        """Distances and positions (k,) of the nearest; None where the whole engine is needed.

        Args:
            query: float32 (d,), C-contiguous, and finite where `minds_nan`.
        """
        if self._tiers and not all(tier.finishes(query) for tier in self._tiers):
            return None
        distances = np.empty((1, self._wide), dtype=np.float32)
        labels = np.empty((1, self._wide), dtype=np.int64)
        self._search(1, _ptr(query), self._wide, _ptr(distances), _ptr(labels), self._parameters)
        near, positions = distances[0], labels[0]
        if self._first:
            np.add(positions, self._first, out=positions, where=positions >= 0)
        for other in self._others:
            near, positions = self._nearer(query, near, positions, *other)
        for bounds, block, other in self._blocks:
            few = None if bounds is None else _few(bounds, query, near.item(-1))
            if few is None:
                near, positions = self._nearer(query, near, positions, *other)
            elif len(few):
                near, positions = self._among(query, near, positions, block, few, other[-1])
        if self._live is not None:
            there = self._live.take(positions).view(np.bool_) & (positions >= 0)
            near, positions = near[there][: self._k], positions[there][: self._k]
            if len(positions) < self._k:
                return None  # many of the nearest were deleted
        if self._is_l2:
            np.sqrt(near, out=near)
        else:
            np.negative(near, out=near)
        far = near.tolist()
        if positions.item(-1) < 0 or not -np.inf < far[0] <= far[-1] < np.inf:
            return None  # too few were found, or distances have left float32
        if len(set(far)) < len(far):  # ties go by position, and FAISS's values are ascending
            order = np.lexsort((positions, near))
            return near[order], positions[order]
        return near, positions

    def stats(self) -> dict[str, Any]:
        """What an answer cost; the caller's own."""
        if not self._others and not self._blocks:
            return self._plans[0].copy()
        return {"plan": [plan.copy() for plan in self._plans], "scanned": self._scanned}

    def _block(self, first: int, block: Vectors, known: Mapping[int, Bounds]) -> tuple[Bounds | None, Vectors, _Search]:
        """A block, how near its rows can be, and how to search it; what was known of its first rows is used again."""
        numbers = self.rows[first : first + len(block)]
        number = int(numbers[0])
        bounds = known[number].grown(block, numbers) if number in known else None
        bounds = bounds or Bounds.of(block, numbers, self.metric)
        if bounds is not None:
            self.bounds[number] = bounds
        return bounds, block, (inplace.flat(block, self.metric).search_c, None, min(self._wide, len(block)), first)

    def _nearer(
        self,
        query: Vectors,
        near: Values,
        positions: Positions,
        search: Callable[..., None],
        parameters: Any,
        k: int,
        first: int,
    ) -> tuple[Values, Positions]:
        """FAISS's values and positions of the nearest (k,) of those given and of another part."""
        values, labels = np.empty((1, k), dtype=np.float32), np.empty((1, k), dtype=np.int64)
        search(1, _ptr(query), k, _ptr(values), _ptr(labels), parameters)
        where = labels[0] + first
        where[labels[0] < 0] = -1
        return self._nearest(near, positions, values[0], where)

    def _among(
        self, query: Vectors, near: Values, positions: Positions, block: Vectors, some: Positions, first: int
    ) -> tuple[Values, Positions]:
        """The same of some rows (m,) of a block."""
        values = np.empty(len(some), dtype=np.float32)
        alone(1, lambda: self._compute(_ptr(values), _ptr(query), _ptr(block), _ptr(some), len(query), 1, len(some)))
        return self._nearest(near, positions, values, some + first)

    def _nearest(
        self, near: Values, positions: Positions, values: Values, where: Positions
    ) -> tuple[Values, Positions]:
        """As many as are near (k,) of these and of others, nearest first, ties by position."""
        best = values.min() if self._is_l2 else values.max()
        if best > near.item(-1) if self._is_l2 else best < near.item(-1):
            return near, positions  # which is nearly always so: other parts are small
        both, where = np.append(near, values), np.append(positions, where)
        order = np.lexsort((where, both if self._is_l2 else -both))[: len(near)]
        return both[order], where[order]


def _few(bounds: Bounds, query: Vectors, value: float) -> Positions | None:
    """The few rows of a block that may be as near as a value of FAISS; None where all have to be looked at."""
    if bounds.in_vain >= _PATIENCE:
        return None
    found = bounds.nearer(query, value)
    if found is None or len(found) * _FEW > len(bounds.numbers):
        bounds.in_vain += 1
        return None
    if bounds.in_vain:
        bounds.in_vain -= 1
    return found


def _in_one_thread(search: Callable[..., None]) -> Callable[..., None]:
    """As `alone`, with fewer steps where there is but one thread."""
    threads = faiss.omp_get_max_threads

    def searched(*arguments: Any) -> None:
        if threads() == 1:
            search(*arguments)
        else:
            alone(1, lambda: search(*arguments))

    return searched
