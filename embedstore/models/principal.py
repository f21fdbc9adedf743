"""Principal components of pictures in memory. NumPy only: the PCA encoder uses it without torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

EXACT_SIDE = 2048  # up to this many rows or columns the eigenvectors are computed exactly
OVERSAMPLING = 16
ITERATIONS = 4


def principal_components(
    centred: npt.NDArray[np.float32], dimension: int, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The first components of centred rows, by falling variance.

    Exact (eigenvectors of the smaller product matrix) where one side is at most 2048, else by randomised subspace
    iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4), whose cost grows with the dimension alone.

    Args:
        centred: (n, size), mean removed.
        dimension: at most min(n, size).
        seed: of the random start.

    Returns:
        Components (dimension, size) with orthonormal rows, each with its largest entry positive so that a fit is
        repeatable, and their variances (dimension,). Directions without variance complete the set.
    """
    count, size = centred.shape
    if count <= size and count <= EXACT_SIDE:
        _, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
        basis = _orthonormal(centred.T @ vectors[:, ::-1][:, :dimension])  # (size, d)
    elif size <= EXACT_SIDE:
        _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
        basis = vectors[:, ::-1][:, :dimension]
    else:
        width = min(dimension + OVERSAMPLING, count, size)
        start = np.random.default_rng(seed).standard_normal((size, width), dtype=np.float32)
        span = _orthonormal(start)
        for _ in range(ITERATIONS):
            span = _orthonormal(centred.T @ (centred @ span.astype(np.float32)))
        _, _, rotation = np.linalg.svd((centred @ span.astype(np.float32)).astype(np.float64), full_matrices=False)
        basis = span @ rotation.T[:, :dimension]
    components = basis.T.astype(np.float32)
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    components = np.ascontiguousarray(components * np.where(largest < 0, np.float32(-1), np.float32(1)))
    variances = np.square(centred @ components.T, dtype=np.float32).mean(axis=0)
    return components, variances


def _orthonormal(columns: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Orthonormal columns of the same span; columns without length become some of the missing directions."""
    basis: npt.NDArray[np.float64] = np.linalg.qr(columns.astype(np.float64))[0]
    return basis


def sample_rows(count: int, size: int, seed: int, limit: int = 20_000, numbers: int = 1 << 26) -> npt.NDArray[np.int64]:
    """Which of ``count`` rows of ``size`` numbers to take the components from: at most ``limit``, and 256 MiB."""
    limit = max(1, min(limit, numbers // size))
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))
