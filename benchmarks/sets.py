"""What `search.py` and `scale.py` ask: vectors, metadata to filter by, queries, the truth, and tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import embedstore
from embedstore.index import exact
from embedstore.store import Store
from embedstore.types import Metric

K = 10
Vectors = npt.NDArray[np.float32]


@dataclass
class Data:
    """Vectors, queries, and what items are filtered by."""

    name: str
    base: Vectors
    queries: Vectors
    u: npt.NDArray[np.float64]  # uniform in [0, 1)
    metadata: list[dict[str, Any]]
    path: Path

    def truth(self, queries: Vectors, among: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
        return exact.search([(0, self.base)], queries, K, Metric.L2, among=among)[1]


def recall(found: Any, truth: npt.NDArray[np.int64]) -> float:
    """Mean share of the true neighbours found; where fewer than ten match, of those, and 1 where none does."""
    pairs = [({*ours}, {*right} - {-1}) for ours, right in zip(found, truth.tolist(), strict=True)]
    return float(np.mean([len(ours & right) / len(right) if right else 1.0 for ours, right in pairs]))


def row(*cells: Any) -> None:
    """A row of a table, printed as it comes."""
    print(f"| {' | '.join(map(_shown, cells))} |", flush=True)


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.4f}" if 0.9 < value < 1 else f"{value:.3g}"


def head(*cells: str) -> None:
    print()
    row(*cells)
    row(*("---" for _ in cells))


def made(name: str, base: Vectors, queries: Vectors, work: Path) -> Data:
    """A store of these vectors, whose items have a uniform number, a text of 20, and a whole number up to 1,000."""
    random = np.random.default_rng(0)
    u, n = random.random(len(base)), random.integers(0, 1_000, len(base))
    labels = random.integers(0, 20, len(base))
    metadata = [{"u": float(a), "n": int(b), "label": f"label {c}"} for a, b, c in zip(u, n, labels, strict=True)]
    data = Data(name, base, queries, u, metadata, work / f"{name}.store")
    if not data.path.exists():
        with embedstore.create(data.path) as store:
            store.add_vectors([str(i) for i in range(len(base))], base, metadata)
            store.build()
    return data


def ids_of(hits: Any) -> list[int]:
    return [int(one) for one in hits.ids]


def numbers(answers: Any) -> list[list[int]]:
    """Answers as ids or row numbers, as numbers: not while it is timed."""
    return [list(map(int, answer)) for answer in answers]


def timed(ask: Callable[[Any], Any], queries: Any, *, again: bool = True) -> tuple[float, list[Any]]:
    """Seconds a query, and the answers: of the second time that all are asked, unless they must be new.

    What a process hasn't touched for a second or two, while others were at it, a virtual machine may have taken away:
    here each page of it costs some 10 microseconds to get back, and a first query 60 ms.
    """
    for query in queries if again else ():
        ask(query)
    start = time.perf_counter()
    found = [ask(query) for query in queries]
    return (time.perf_counter() - start) / len(queries), found


def warm(store: Store, data: Data) -> None:
    """Past what a process does at its first queries."""
    store._searcher.engine.load(store._view(None))
    for query in data.queries[:50]:
        store.search(query, K)
