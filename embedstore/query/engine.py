"""Which plan answers a query, and the answer as positions and exact distances.

A space's positions are covered by index tiers and, behind and between them, by stretches that no tier covers; the
answer is the best of the tiers' candidates (re-ranked by their exact distances) and of an exact scan of the rest.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedstore.index import exact
from embedstore.index.selection import Part, Selection
from embedstore.query.loaded import LoadedTiers
from embedstore.truth.snapshot import SpaceView
from embedstore.types import Metric, Vectors
from embedstore.vectors.segments import SegmentVectors

if TYPE_CHECKING:
    from embedstore.index.bounds import Bounds
    from embedstore.index.tier import Tier
    from embedstore.query.direct import Direct

#: Selected numbers, up to which reading them all takes less time than any index: 600 rows of 784, 8,000 of 64.
_SCAN_NUMBERS = 2**19
_DIRECT = 8  # short ways that are kept
#: Scanned beside tiers on the short way: more would have to be given back (`SegmentVectors.release`).
_TAIL_NUMBERS = 2**23


@dataclass(slots=True)  # not frozen: each field would be set by a call of its own, in every search
class Answer:
    """Positions and distances of the nearest, padded with -1 and inf where there are fewer than k.

    Attributes:
        distances: float32 (nq, k), ascending.
        positions: int64 (nq, k).
        stats: the plan taken and what it cost.
    """

    distances: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int64]
    stats: dict[str, Any] = field(default_factory=dict)


class Engine:
    """Searches snapshots, keeping the tiers that it has loaded.

    Attributes:
        loaded: those tiers.
    """

    def __init__(self, directory: Path) -> None:
        self.loaded = LoadedTiers(directory)
        self._lock = threading.Lock()
        self._alive: tuple[npt.NDArray[np.uint8], Selection] | None = None
        self._norms: tuple[SegmentVectors, list[npt.NDArray[np.float32]]] | None = None
        self._direct: dict[tuple[int, int, float | None], Direct] = {}
        self._bounds: dict[int, dict[int, Bounds]] = {}  # of the blocks of each space that no tier covers

    def direct(self, view: SpaceView, k: int, recall: float | None) -> Direct | None:
        """The short way to the k nearest of all live vectors, kept; None where the answer needs another plan.

        Args:
            view: of the space.
            k: checked.
            recall: to aim at; checked.
        """
        key = view.space.id, k, recall
        kept = self._direct.get(key)
        if kept is not None and kept.view is view:
            return kept
        parts = None if recall is not None and recall >= 1.0 else self.parts(view)
        made = None
        if parts is not None and k <= parts[0][0].left and all(tier.reaches(k, recall) for tier in parts[0]):
            from embedstore.query.direct import Direct  # which needs FAISS; a process that asks once may do without

            made = Direct(view, *parts, k, recall, self._bounds.get(view.space.id, {}))
        if made is not None or kept is not None:
            with self._lock:  # what is kept of an older view would keep its files, too
                others = [one for one in self._direct.items() if one[1].view is view or one[0][0] != view.space.id]
                self._direct = dict(others[-_DIRECT:]) | ({} if made is None else {key: made})
                self._bounds[view.space.id] = {} if made is None else made.bounds
        return made

    def parts(self, view: SpaceView) -> tuple[list[Tier], list[tuple[int, Vectors]]] | None:
        """Loaded tiers and blocks (first position, (n, d)) that together have all live rows of a view, and few others.

        The largest tier is the first. None where there are no such ones, or where a tier's distances aren't exact.
        """
        found = self.loaded.all_of(view)
        if found is None or any(tier.finished is None for tier in found):
            return None
        rest = _uncovered(found, len(view.rows))
        some = sorted((tier for tier in found if tier.left), key=lambda tier: -tier.left)
        if not some or (rest and not view.vectors.mapped):
            return None
        if sum(count for _, count in rest) * view.space.dimension > _TAIL_NUMBERS:
            return None
        return some, [block for first, count in rest for block in view.vectors.blocks(first, count)]

    def search(
        self,
        view: SpaceView,
        queries: Vectors,
        k: int,
        *,
        allowed: Selection | None = None,
        only_exact: bool = False,
        recall: float | None = None,
    ) -> Answer:
        """The k nearest live vectors of each query.

        Args:
            view: of the space.
            queries: float32 (nq, d), checked.
            k: at least 1.
            allowed: the positions that a filter matches; None allows all. Deleted ones may be among them.
            only_exact: scan everything.
            recall: to aim at, where another than the tiers were tuned to.
        """
        if allowed is None and len(queries) == 1 and not only_exact:
            direct = self.direct(view, k, recall)
            found = None if direct is None else direct.ask(queries[0])
            if direct is not None and found is not None:
                return Answer(found[0][None], found[1][None], direct.stats())
        selection = self._live(view, allowed)
        candidates = len(view.rows) if selection is None else selection.count
        wanted = min(k, candidates)
        if not wanted:
            shape = (len(queries), k)
            return Answer(
                np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int64), {"plan": "nothing to search"}
            )
        scan = only_exact or (recall is not None and recall >= 1.0) or not view.tiers
        if selection is not None and (candidates * view.space.dimension <= _SCAN_NUMBERS or candidates <= 4 * k):
            scan = True
        used = [] if scan else self.loaded.usable(view, len(queries))
        if not used:
            distances, positions = self._scan(view, queries, k, selection)
            return Answer(distances, positions, {"plan": "exact", "scanned": candidates})
        if len(used) == 1 and used[0].count == len(view.rows):
            answer = self._tier(view, used[0], queries, k, selection, recall)
        else:
            answer = self._merged(view, used, queries, k, selection, recall)
        if len(queries) > 1 or answer.positions[0, wanted - 1] < 0:
            short = np.flatnonzero(answer.positions[:, wanted - 1] < 0)
            if len(short):
                # A graph can't always reach k allowed nodes; fewer hits than there are matches is never an answer.
                distances, positions = self._scan(view, queries[short], k, selection)
                answer.distances[short], answer.positions[short] = distances, positions
                answer.stats["fell back to exact"] = len(short)
        return answer

    def _live(self, view: SpaceView, allowed: Selection | None) -> Selection | None:
        """The live positions among those allowed; of the last view that was asked, what isn't deleted is kept."""
        if view.live is None:
            return allowed
        kept = self._alive
        if kept is None or kept[0] is not view.live:
            kept = self._alive = (view.live, Selection(view.live))
        return kept[1] if allowed is None else allowed.among(kept[1])

    def _tier(
        self,
        view: SpaceView,
        tier: Tier,
        queries: Vectors,
        k: int,
        selection: Selection | None,
        recall: float | None,
    ) -> Answer:
        # FAISS's matrix products lose digits by cancellation; and no graph is walked as far as a long list needs.
        if (tier.is_flat and len(queries) > 1) or not tier.reaches(k, recall):
            distances, positions = self._scan(view, queries, k, selection, tier.first, tier.count)
            return Answer(distances, positions, {"plan": "exact", "scanned": tier.left})
        part = None if selection is None else selection.part(tier.first, tier.count, tier.index)
        if part is None or part.count == tier.left:
            if tier.finishes(queries):
                return Answer(*tier.nearest(queries, k, recall=recall))
            candidates, stats = tier.search(queries, k, recall=recall)
        elif part.count * view.space.dimension <= _SCAN_NUMBERS:
            distances, positions = self._scan(view, queries, k, selection, tier.first, tier.count)
            return Answer(distances, positions, {"plan": "exact", "scanned": part.count})
        elif (found := tier.nearest_of_most(queries, k, part, recall=recall)) is not None:
            return Answer(*found)
        else:
            candidates, stats = self._of_part(tier, part, queries, k, recall)
            if (missed := np.flatnonzero(candidates[:, -1] < 0)).size and part.count >= candidates.shape[1]:
                # No index finds them, and there are as many: what was found need not be the nearest.
                wide = candidates.shape[1]
                _, candidates[missed] = self._scan(view, queries[missed], wide, selection, tier.first, tier.count)
                stats["fell back to exact"] = len(missed)
        read = view.vectors.read if tier.held is None else tier.read
        distances, positions = exact.rerank(queries, candidates, k, view.space.metric, read, single_precision=True)
        return Answer(distances, positions, stats)

    def _of_part(
        self, tier: Tier, part: Part, queries: Vectors, k: int, recall: float | None
    ) -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
        """Candidates (nq, m) among a part of a tier's rows, with -1 where too few were found."""
        if tier.prefers_packed(part, k, recall):
            found = tier.packed(queries, k, part, recall=recall)
            if found is not None:
                return found[0], {"plan": "packed codes", "scanned": part.count, **found[1]}
        candidates, stats = tier.search(queries, k, recall=recall, part=part)
        stats["plan"] = "index, filtered"
        # A walk that ends before it has met as many selected rows as it was to bring was among others: what is selected
        # lies elsewhere than the query.
        short = np.flatnonzero(candidates[:, -1] < 0)
        if len(short):
            again = tier.packed(queries[short], k, part, recall=recall)
            if again is not None:
                stats["packed codes instead"] = len(short)
                candidates[short] = -1
                candidates[short, : again[0].shape[1]] = again[0]
        return candidates, stats

    def _merged(
        self,
        view: SpaceView,
        used: list[Tier],
        queries: Vectors,
        k: int,
        selection: Selection | None,
        recall: float | None,
    ) -> Answer:
        parts = [
            self._tier(view, tier, queries, k, selection, recall)
            for tier in used
            if selection is None or selection.part(tier.first, tier.count, tier.index).count
        ]
        stats: dict[str, Any] = {"plan": [part.stats for part in parts]}
        uncovered = _uncovered(used, len(view.rows))
        for first, count in uncovered:
            distances, positions = self._scan(view, queries, k, selection, first, count)
            parts.append(Answer(distances, positions))
        stats["scanned"] = sum(count for _, count in uncovered)
        distances = np.concatenate([part.distances for part in parts], axis=1)
        positions = np.concatenate([part.positions for part in parts], axis=1)
        # Nearest first, ties by position; the padding (inf, -1) goes last.
        if len(queries) == 1:
            nearest = np.lexsort((positions[0], distances[0]))[:k]
            return Answer(distances[:, nearest], positions[:, nearest], stats)
        order = np.lexsort((positions, distances), axis=1)[:, :k]
        return Answer(np.take_along_axis(distances, order, 1), np.take_along_axis(positions, order, 1), stats)

    def _scan(
        self,
        view: SpaceView,
        queries: Vectors,
        k: int,
        selection: Selection | None,
        first: int = 0,
        count: int | None = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        among = None if selection is None else selection.positions
        if among is not None and not view.vectors.mapped and len(among) * view.space.dimension <= _SCAN_NUMBERS:
            stop = len(view.rows) if count is None else first + count
            few = among[slice(*among.searchsorted((first, stop)))]
            distances, found = exact.search([(0, view.vectors.read(few))], queries, k, view.space.metric)
            return distances, np.where(found >= 0, few[found], -1)
        blocks = list(view.vectors.blocks(first, count))
        return exact.search(blocks, queries, k, view.space.metric, among=among, norms=self._norms_of(view, blocks))

    def _norms_of(self, view: SpaceView, blocks: list[tuple[int, Vectors]]) -> list[npt.NDArray[np.float32]] | None:
        """Norms of all blocks, kept while the vectors are the same: a full scan saves a pass over the memory."""
        if (
            not view.vectors.mapped
            or view.space.metric is Metric.L2
            or sum(len(block) for _, block in blocks) < len(view.rows)
        ):
            return None
        kept = self._norms
        if kept is None or kept[0] is not view.vectors:
            kept = self._norms = (view.vectors, [exact.norms(block) for _, block in blocks])
        return kept[1]

    def load(self, view: SpaceView) -> None:
        """Load all tiers now, whatever was scanned before."""
        self.loaded.load(view)

    def forget(self) -> None:
        """Drop loaded tiers."""
        self.loaded.forget()
        self._direct, self._bounds = {}, {}


def _uncovered(used: list[Tier], total: int) -> list[tuple[int, int]]:
    """(first, count) of the stretches of so many positions that no tier covers, the tiers being in their order."""
    end, found = 0, []
    for first, count in [*((tier.first, tier.count) for tier in used), (total, 0)]:
        if first > end:
            found.append((end, first - end))
        end = first + count
    return found
