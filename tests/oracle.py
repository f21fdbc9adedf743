"""The store as it should be: a dict, and brute force in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Oracle:
    """Ids to (row order, vector, metadata); a replaced or changed item takes a new place in the order."""

    items: dict[str, tuple[int, np.ndarray, dict[str, Any]]] = field(default_factory=dict)
    clock: int = 0

    def put(self, name: str, vector: np.ndarray, metadata: dict[str, Any]) -> None:
        self.clock += 1
        self.items[name] = (self.clock, np.asarray(vector, dtype=np.float32), metadata)

    def delete(self, name: str) -> bool:
        return self.items.pop(name, None) is not None

    def nearest(self, query: np.ndarray, k: int, metric: str, keep: Any = None) -> list[tuple[str, float]]:
        """(id, distance) of the k nearest, ties by age."""
        query = np.asarray(query, dtype=np.float64)
        found = []
        for name, (order, vector, metadata) in self.items.items():
            if keep is not None and not keep(metadata):
                continue
            wide = vector.astype(np.float64)
            if metric == "l2":
                distance = float(np.sqrt(((wide - query) ** 2).sum()))
            elif metric == "ip":
                distance = -float(wide @ query)
            else:
                unit, asked = wide / np.sqrt(wide @ wide), query / np.sqrt(query @ query)
                distance = float(((unit - asked) ** 2).sum() / 2)
            found.append((np.float32(distance), order, name))
        return [(name, float(distance)) for distance, _, name in sorted(found)[:k]]
