"""Paths between latents, as polylines (n, d).

Which is best depends on what a picture on the way is for: see `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import Disconnected, InvalidArgument
from embedstore.latent.directions import Floats
from embedstore.types import Vectors

#: Method -> what it is good for.
METHODS = {
    "linear": "even and quick; half-way it may show a blend of both ends that no item looks like",
    "spherical": "keeps the latents' length on the way, for spaces whose items lie in a shell",
    "density": "every stop is drawn to where items are: shapes that real items have, a little softer",
    "graph": "every stop is a real item; the steps are as large as the data leave them",
    "geodesic": "the smoothest film: least change in the pictures from step to step",
}
FINE = 4  # points computed for each step asked for, before stops are set at even distances
_PULLED = 0.8  # of the way to the mean of a point's nearest items
_POWER = 2.0  # of edges' lengths in the graph: many short steps are shorter than one long one
_BENDS = 6  # of a geodesic between two points, in each dimension
_ITERATIONS = 60

Decode = Callable[[Vectors], npt.NDArray[Any]]  # (n, d) -> pictures, (n, ...)
Graph = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]  # neighbours (n, k), lengths (n, k)
Neighbours = Callable[[Vectors], Vectors]  # (n, d) -> (n, k, d)
#: Latents (n, d) and a function of the pictures' gradient: pixels (n, p) and a way back to latents.
PullBack = Callable[[Vectors], tuple[Floats, Callable[[Floats], Floats]]]


def linear(corners: Vectors, count: int) -> Floats:
    """``count`` points at even distances along the straight lines between corners (m, d)."""
    return resample(corners.astype(np.float64), count)


def spherical(corners: Vectors, count: int) -> Floats:
    """Along great circles, the length changing evenly (White 2016, after Shoemake 1985).

    Where two corners have no direction in common that leads from one to the other (opposite or zero), a line.
    """
    fine = max(64, 8 * count)
    parts = [_arc(a.astype(np.float64), b.astype(np.float64), fine) for a, b in pairwise(corners)]
    return resample(_joined(parts), count)


def _arc(a: Floats, b: Floats, count: int) -> Floats:
    t = np.linspace(0.0, 1.0, count)[:, None]
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    if min(lengths) == 0:
        return a + t * (b - a)
    u, v = a / lengths[0], b / lengths[1]
    angle = np.arccos(np.clip(u @ v, -1.0, 1.0))
    if angle < 1e-6 or angle > np.pi - 1e-6:
        return a + t * (b - a)
    turned = (np.sin((1 - t) * angle) * u + np.sin(t * angle) * v) / np.sin(angle)
    found: Floats = turned * (lengths[0] + t * (lengths[1] - lengths[0]))
    return found


def density(corners: Vectors, count: int, neighbours: Neighbours, decode: Decode | None) -> Floats:
    """Bent towards where the data lies: points of a line move towards the items nearest to them (mean shift,
    Fukunaga and Hostetler 1975, one step), and stops are set at even distances along what results.

    Args:
        corners: float32 (m, d); they stay where they are.
        count: number of stops.
        neighbours: gives the items nearest to points.
        decode: measures the distances in pictures; None: in latents.
    """
    # The ends are what they are: the pull sets in within the first step, and ends within the last.
    step = max(float(np.linalg.norm(np.diff(corners, axis=0), axis=1).sum()) / max(1, count - 1), 1e-12)
    parts = []
    for a, b in pairwise(corners.astype(np.float64)):
        length = float(np.linalg.norm(b - a))
        t = np.linspace(0.0, 1.0, max(2, round(FINE * length / step) + 1))
        part = a + t[:, None] * (b - a)
        near = neighbours(part.astype(np.float32))
        # A way shorter than that to the neighbours would become a detour to them and back.
        far = float(np.linalg.norm(near - part[:, None], axis=2).mean()) or 1.0
        pull = _PULLED * min(1.0, length / far) * np.minimum(1.0, np.minimum(t, 1.0 - t) * length / step)[:, None]
        parts.append(part + pull * (near.mean(axis=1) - part))
    return evened(_joined(parts), count, decode)


def shortest(
    graph: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]], start: int, end: int
) -> npt.NDArray[np.int64]:
    """The nodes of the shortest way through a neighbour graph, both ends included (Dijkstra 1959).

    An edge counts by a power of its length, so that the way goes where items are dense (Fermat distances, Groisman et
    al. 2022; the idea of geodesics on a neighbour graph is Isomap's, Tenenbaum et al. 2000).

    Args:
        graph: (neighbours (n, k) int, lengths (n, k)) of n nodes; an edge may be walked both ways.
        start: a node.
        end: a node.

    Raises:
        Disconnected: no way leads from one to the other.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import dijkstra

    neighbours, lengths = graph
    count, k = neighbours.shape
    known = neighbours.ravel() >= 0
    # Zero would be no edge at all: duplicates lie at a tiny distance.
    weights = np.maximum(lengths.astype(np.float64), 1e-6) ** _POWER
    tails, heads = np.repeat(np.arange(count), k)[known], neighbours.ravel()[known]
    matrix = csr_matrix((weights.ravel()[known], (tails, heads)), shape=(count, count))
    _, before = dijkstra(matrix, directed=False, indices=start, return_predecessors=True)
    if start != end and before[end] < 0:
        raise Disconnected("no chain of neighbours leads from one end to the other: use the method linear or density")
    way = [end]
    while way[-1] != start:
        way.append(int(before[way[-1]]))
    return np.array(way[::-1], dtype=np.int64)


def geodesic(corners: Vectors, count: int, pull_back: PullBack, decode: Decode) -> Floats:
    """Shortest in the decoder's pull-back metric: least change in the pictures (Arvanitidis et al. 2018).

    Between two corners the curve is the line plus a few sine waves, whose heights minimise the energy: the sum of the
    squared distances of successive pictures, which is least for the shortest curve at even speed. (A few waves
    instead of free points: the curve is smooth, and a minimum is found in tens of steps.)

    Args:
        corners: float32 (m, d).
        count: number of stops.
        pull_back: pixels of latents, and the way of their gradients back.
        decode: pictures of latents, by which the stops are set at even distances.
    """
    fine = FINE * max(4, -(-(count - 1) // (len(corners) - 1)))
    parts = [_bent(a.astype(np.float64), b.astype(np.float64), fine, pull_back) for a, b in pairwise(corners)]
    return evened(_joined(parts), count, decode)


def _bent(a: Floats, b: Floats, count: int, pull_back: PullBack) -> Floats:
    from scipy.optimize import minimize

    coarse = np.linspace(0.0, 1.0, 2 * _BENDS + 1)[:, None]  # enough to see every wave
    scale = max(float(np.linalg.norm(b - a)) / np.sqrt(len(a)), 1e-12)

    def curve(heights: Floats, t: Floats) -> Floats:
        waves = np.sin(np.pi * t * np.arange(1, _BENDS + 1)) / np.arange(1, _BENDS + 1)  # (n, bends)
        found: Floats = a + t * (b - a) + scale * waves @ heights
        return found

    waves = np.sin(np.pi * coarse * np.arange(1, _BENDS + 1)) / np.arange(1, _BENDS + 1)

    def energy(flat: Floats) -> tuple[float, Floats]:
        pixels, back = pull_back(curve(flat.reshape(_BENDS, -1), coarse).astype(np.float32))
        steps = np.diff(pixels, axis=0)
        gradient = np.zeros_like(pixels)
        gradient[1:] += 2 * steps
        gradient[:-1] -= 2 * steps
        return float(np.square(steps).sum()), (scale * waves.T @ back(gradient)).ravel()

    if np.allclose(a, b):
        return a + np.linspace(0.0, 1.0, count)[:, None] * (b - a)
    found = minimize(
        energy, np.zeros(_BENDS * len(a)), jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS, "ftol": 1e-4}
    )
    return curve(found.x.reshape(_BENDS, -1), np.linspace(0.0, 1.0, count)[:, None])


def evened(points: Floats, count: int, decode: Decode | None) -> Floats:
    """``count`` stops on a polyline (n, d) at even distances, measured in pictures where there is a decoder.

    A picture's distance isn't the same all along an edge, so the stops are measured and set once more.
    """
    if decode is None:
        return resample(points, count)
    fine = resample(points, FINE * (count - 1) + 1, steps(decode(points.astype(np.float32))))
    return resample(fine, count, steps(decode(fine.astype(np.float32))))


def resample(points: Floats, count: int, lengths: npt.NDArray[np.floating] | None = None) -> Floats:
    """``count`` points at even distances on a polyline (n, d), its ends among them.

    Args:
        points: the polyline's.
        count: at least 2.
        lengths: of its edges (n - 1,); None: Euclidean.
    """
    if count < 2:
        raise InvalidArgument(f"a path of {count} steps is none: at least 2")
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1) if lengths is None else lengths.astype(np.float64)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    if not along[-1] > 0:
        return np.repeat(points[:1], count, axis=0)
    wanted = np.linspace(0.0, along[-1], count)
    edge = np.clip(np.searchsorted(along, wanted, side="right") - 1, 0, len(points) - 2)
    share = np.clip((wanted - along[edge]) / np.maximum(lengths[edge], 1e-30), 0.0, 1.0)[:, None]
    found: Floats = points[edge] + share * (points[edge + 1] - points[edge])
    found[0], found[-1] = points[0], points[-1]
    return found


def grid(corners: Vectors, rows: int, columns: int) -> Floats:
    """Points (rows * columns, d) between four corners: top left, top right, bottom left, bottom right (bilinear)."""
    s, t = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    weights = np.stack([(1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t], axis=-1).reshape(-1, 4)
    found: Floats = weights @ corners.astype(np.float64)
    return found


def steps(pictures: npt.NDArray[np.generic]) -> Floats:
    """Root mean squared pixel differences (n - 1,) between successive pictures (n, ...), in the pictures' unit."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float64)
    found: Floats = np.sqrt(np.square(np.diff(flat, axis=0)).mean(axis=1))
    return found


def _joined(parts: Sequence[Floats]) -> Floats:
    return np.concatenate([parts[0], *(part[1:] for part in parts[1:])])
