"""The way of nearly all queries: one vector, no filter, and indexes whose own distances are exact.

What a plan decides is decided once for a commit, and what is left for each query is FAISS and a dozen steps of Python:
at 64 dimensions FAISS takes 30 microseconds, and everything around it took as many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.index import inplace
from embedstore.index.bindings import faiss
from embedstore.index.exact import Positions
from embedstore.index.tier import Tier, alone
from embedstore.truth.snapshot import SpaceView
from embedstore.types import Metric, Vectors

_ptr = faiss.swig_ptr
_SPARE = 8  # rows more than are wanted, where a few of all were deleted
Values = npt.NDArray[np.float32]


class Direct:
    """Searches one view for k rows at one recall. Safe to use from several threads.

    Args:
        view: of the space.
        tiers: all `finished`, the first one of at least k rows.
        blocks: what no tier covers, as (first position, (n, d)); scanned.
        k: rows to find.
        recall: to aim at; None for the tiers' own.

    Attributes:
        view: of the space.
        metric: of the space.
        rows: of its positions.
        shape: of a query.
        shift: what turns a position into its row; None where rows are missing in between.
    """

    __slots__ = (
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
        "metric",
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
    ) -> None:
        self.view, self.metric, self.rows = view, view.space.metric, view.rows
        self.shape, self._k, self._is_l2 = (view.space.dimension,), k, view.space.metric is Metric.L2
        self._live = view.live
        self._wide = k if view.live is None else k + _SPARE
        self._others: list[tuple[Callable[..., None], Any, int, int]] = []
        self._tiers = [tier for tier in tiers if tier.held is not None]  # whose distances not every query can be told
        self._plans: list[dict[str, Any]] = []
        for tier in tiers:
            parameters, candidates, value = tier.finishing(k, recall)
            self._plans.append({"plan": "index", "candidates": candidates, "parameter": value})
            # Without a matrix product FAISS opens no parallel region for one query.
            search = partial(_in_one_thread, tier.finished.search_c) if tier.projects else tier.finished.search_c
            self._others.append((search, parameters, min(self._wide, tier.left), tier.first))
        for first, block in blocks:
            flat = inplace.flat(block, self.metric)
            self._others.append((flat.search_c, None, min(self._wide, len(block)), first))
        self._search, self._parameters, _, self._first = self._others.pop(0)
        self._scanned = sum(len(block) for _, block in blocks)
        whole = int(self.rows[-1] - self.rows[0]) == len(self.rows) - 1
        self.shift = int(self.rows[0]) if whole else None

    def ask(self, query: Vectors) -> tuple[Values, Positions] | None:
        """Distances and positions (k,) of the nearest; None where the whole engine is needed.

        Args:
            query: float32 (d,), C-contiguous and finite. (FAISS's walk through a graph isn't safe with NaN.)
        """
        if self._tiers and not all(tier.finishes(query) for tier in self._tiers):
            return None
        distances = np.empty((1, self._wide), dtype=np.float32)
        labels = np.empty((1, self._wide), dtype=np.int64)
        self._search(1, _ptr(query), self._wide, _ptr(distances), _ptr(labels), self._parameters)
        near, positions = distances[0], labels[0]
        if self._first:
            np.add(positions, self._first, out=positions, where=positions >= 0)
        if self._others:
            near, positions = self._nearer(query, near, positions)
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
        if not self._others:
            return self._plans[0].copy()
        return {"plan": [plan.copy() for plan in self._plans], "scanned": self._scanned}

    def _nearer(self, query: Vectors, near: Values, positions: Positions) -> tuple[Values, Positions]:
        """FAISS's values and positions (k,) of the nearest of all parts, those of the largest being given."""
        for search, parameters, k, first in self._others:
            values, labels = np.empty((1, k), dtype=np.float32), np.empty((1, k), dtype=np.int64)
            search(1, _ptr(query), k, _ptr(values), _ptr(labels), parameters)
            if values.item(0) > near.item(-1) if self._is_l2 else values.item(0) < near.item(-1):
                continue  # which is nearly always so: other parts are small
            both, where = np.append(near, values[0]), np.append(positions, labels[0] + first)
            where[len(near) :][labels[0] < 0] = -1
            order = np.lexsort((where, both if self._is_l2 else -both))[: len(near)]
            near, positions = both[order], where[order]
        return near, positions


def _in_one_thread(search: Callable[..., None], *arguments: Any) -> None:
    alone(1, lambda: search(*arguments))
