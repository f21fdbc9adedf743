"""How a point lies with regard to the data: the rank of its neighbour distance among the items' own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

NEIGHBOURS = 5
SAMPLE = 1_000  # items whose own distances are the measure
LOW = 0.05  # below, a point is off the data


def neighbour_distance(distances: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Mean (n,) of ascending distances (n, k) to the k nearest items, inf where there are fewer."""
    found = distances[:, :NEIGHBOURS].astype(np.float64)
    counts = np.isfinite(found).sum(axis=1)
    total = np.where(np.isfinite(found), found, 0.0).sum(axis=1)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.inf)


def support(distances: npt.NDArray[np.float64], own: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Share (n,) in [0, 1] of the items that are at least as far from their neighbours as the points are.

    1: as near to its neighbours as the most typical items; 0: farther off than any item.

    Args:
        distances: (n,) of the points to their neighbours.
        own: (m,) of items to theirs, ascending.
    """
    return 1.0 - np.searchsorted(own, distances, side="left") / max(1, len(own))
