"""How many of the true nearest neighbours the index finds, on a sample of the store's own vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedstore.config import StoreConfig
from embedstore.errors import InvalidArgument, NothingMatches
from embedstore.progress import Progress
from embedstore.query.search import Searcher
from embedstore.truth.snapshot import SpaceView

_TOGETHER = 256  # queries of one scan: of fewer a matrix product takes longer for each


@dataclass(frozen=True, slots=True)
class RecallReport:
    """Measured recall@k.

    Attributes:
        recall: mean share of the k true nearest neighbours that were found, the query itself left out.
        low: lower end of its 95 % confidence interval.
        high: upper end.
        k: neighbours.
        queries: size of the sample.
        target: what the index was tuned to.
        where: the filter that was asked under.
        matches: items that it leaves.
    """

    recall: float
    low: float
    high: float
    k: int
    queries: int
    target: float
    where: str | None = None
    matches: int | None = None

    def __str__(self) -> str:
        under = "" if self.where is None else f" among the {self.matches:,} items where {self.where}"
        return (
            f"recall@{self.k} {self.recall:.4f} (95 % CI {self.low:.4f} to {self.high:.4f}, "
            f"{self.queries:,} queries{under}; tuned to {self.target:g})"
        )


def measure(
    searcher: Searcher,
    view: SpaceView,
    config: StoreConfig,
    k: int,
    sample: int,
    *,
    where: str | None = None,
    recall: float | None = None,
    progress: bool = False,
) -> RecallReport:
    """Search for a sample of stored vectors with the index and exactly, and compare.

    Under a filter, all items are asked with, not only those that match: what is looked for may lie far from the query.

    A true neighbour counts as found when the answer holds it, or holds in its place another one just as near: with
    duplicates, which of several equal ones is named is no matter of recall.
    """
    from embedstore.index.tune import recall_interval

    if isinstance(sample, bool) or not isinstance(sample, (int, np.integer)) or sample < 1:
        raise InvalidArgument(f"sample is {sample!r}, but must be a whole number of at least 1")
    engine, allowed, matches = searcher.engine, None, None
    if where is not None:
        match = searcher.matcher.match(where, view.space.name)
        view, allowed, matches = match.view, match.selection, match.selection.count
        if not matches:
            raise NothingMatches(f"no item matches {where}")
    alive = view.live_positions()
    if len(alive) < 2:
        raise InvalidArgument(f"recall needs at least 2 items, and the store has {len(alive)}")
    k = min(k, (len(alive) if allowed is None else max(allowed.count, 2)) - 1)
    engine.load(view)
    chosen = np.sort(np.random.default_rng(config.seed).choice(alive, min(sample, len(alive)), replace=False))
    queries = view.vectors.read(chosen)
    found = np.empty(len(chosen))
    with Progress("comparing with a scan", len(chosen), enabled=progress, unit="queries") as bar:
        for start in range(0, len(chosen), _TOGETHER):
            part, own = queries[start : start + _TOGETHER], chosen[start : start + _TOGETHER]
            true = engine.search(view, part, k + 1, allowed=allowed, only_exact=True)
            # One query at a time, as users ask: a batch may be answered by another plan.
            for i in range(len(part)):
                answer = engine.search(view, part[i : i + 1], k + 1, allowed=allowed, recall=recall)
                kept = answer.distances[0][answer.positions[0] != own[i]][:k]
                reach = true.distances[i][true.positions[i] != own[i]][:k][-1]
                # A tier's hits are ordered by float32 distances, whose last digits differ from the exact scan's.
                found[start + i] = np.count_nonzero(kept <= reach + 1e-5 * abs(reach)) / k
            bar.advance(len(part))
    mean, low, high = recall_interval(found)
    return RecallReport(mean, low, high, k, len(chosen), config.recall if recall is None else recall, where, matches)
