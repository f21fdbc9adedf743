"""How many of the true nearest neighbours the index finds, on a sample of the store's own vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedstore.errors import InvalidArgument
from embedstore.query.engine import Engine
from embedstore.truth.snapshot import SpaceView


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
    """

    recall: float
    low: float
    high: float
    k: int
    queries: int
    target: float

    def __str__(self) -> str:
        return (
            f"recall@{self.k} {self.recall:.4f} (95 % CI {self.low:.4f} to {self.high:.4f}, "
            f"{self.queries:,} queries; tuned to {self.target:g})"
        )


def measure(
    engine: Engine,
    view: SpaceView,
    *,
    k: int,
    sample: int,
    seed: int,
    target: float,
    recall: float | None = None,
) -> RecallReport:
    """Search for a sample of stored vectors with the index and exactly, and compare.

    A true neighbour counts as found when the answer holds it, or holds in its place another one just as near: with
    duplicates, which of several equal ones is named is no matter of recall.
    """
    from embedstore.index.tune import recall_interval

    if isinstance(sample, bool) or not isinstance(sample, (int, np.integer)) or sample < 1:
        raise InvalidArgument(f"sample is {sample!r}, but must be a whole number of at least 1")
    alive = view.live_positions()
    if len(alive) < 2:
        raise InvalidArgument(f"recall needs at least 2 items, and the store has {len(alive)}")
    k = min(k, len(alive) - 1)
    engine.load(view)
    chosen = np.sort(np.random.default_rng(seed).choice(alive, min(sample, len(alive)), replace=False))
    queries = view.vectors.read(chosen)
    found = np.empty(len(chosen))
    for start in range(0, len(chosen), 256):
        part, own = queries[start : start + 256], chosen[start : start + 256]
        true = engine.search(view, part, k + 1, only_exact=True)
        # One query at a time, as users ask: a batch may be answered by another plan.
        for i in range(len(part)):
            answer = engine.search(view, part[i : i + 1], k + 1, recall=recall)
            kept = answer.distances[0][answer.positions[0] != own[i]][:k]
            reach = true.distances[i][true.positions[i] != own[i]][:k][-1]
            # A tier's hits are ordered by float32 distances, whose last digits differ from the exact scan's.
            found[start + i] = np.count_nonzero(kept <= reach + 1e-5 * abs(reach)) / k
    mean, low, high = recall_interval(found)
    return RecallReport(mean, low, high, k, len(chosen), target if recall is None else recall)
