"""The way of nearly all queries: one vector, no filter, one tier over everything whose own distances are exact.

What a plan decides is decided once for a view, and what is left for each query is FAISS and a dozen steps of Python:
at 64 dimensions FAISS takes 30 microseconds, and everything around it took as many.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from embedstore.index.bindings import faiss
from embedstore.index.tier import Tier, alone
from embedstore.truth.snapshot import Snapshot, SpaceView
from embedstore.types import Metric, Vectors

_ptr = faiss.swig_ptr


class Direct:
    """Searches one snapshot of a space for k rows at one recall. Safe to use from several threads.

    Args:
        snapshot: whose.
        view: of the space.
        tier: over all of its live rows, and `finished`.
        k: rows to find, at most as many as there are.
        recall: to aim at; None for the tier's own.

    Attributes:
        snapshot: whose.
        metric: of the space.
        rows: of its positions.
        shape: of a query.
        stats: what an answer costs.
        shift: what turns a position into its row; None where rows are missing in between.
    """

    __slots__ = (
        "_is_l2",
        "_k",
        "_parameters",
        "_projects",
        "_search",
        "metric",
        "rows",
        "shape",
        "shift",
        "snapshot",
        "stats",
    )

    def __init__(self, snapshot: Snapshot, view: SpaceView, tier: Tier, k: int, recall: float | None) -> None:
        self.snapshot, self.metric, self.rows = snapshot, view.space.metric, view.rows
        parameters, candidates, value = tier.finishing(k, recall)
        self.stats = {"plan": "index", "candidates": candidates, "parameter": value}
        self._search: Callable[..., None] = tier.finished.search_c
        self._parameters = parameters
        self._projects = tier.projects
        self._k, self._is_l2 = k, view.space.metric is Metric.L2
        self.shape = (view.space.dimension,)
        rows = self.rows
        self.shift = int(rows[0]) if int(rows[-1] - rows[0]) == len(rows) - 1 else None

    def ask(self, query: Vectors) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | None:
        """Distances and positions (k,) of the nearest; None where the whole engine is needed.

        Args:
            query: float32 (d,), C-contiguous and finite. (FAISS's walk through a graph isn't safe with NaN.)
        """
        distances = np.empty((1, self._k), dtype=np.float32)
        labels = np.empty((1, self._k), dtype=np.int64)
        arguments = 1, _ptr(query), self._k, _ptr(distances), _ptr(labels), self._parameters
        if self._projects:
            alone(1, lambda: self._search(*arguments))
        else:  # without a matrix product FAISS opens no parallel region for one query
            self._search(*arguments)
        if self._is_l2:
            np.sqrt(distances, out=distances)
        else:
            np.negative(distances, out=distances)
        near, positions = distances[0], labels[0]
        far = near.tolist()
        if positions.item(-1) < 0 or not far[-1] < np.inf:
            return None  # too few were found, or the query is so long that its distances left float32
        if len(set(far)) < len(far):  # ties go by position, and FAISS's values are ascending
            order = np.lexsort((positions, near))
            return near[order], positions[order]
        return near, positions
