"""A density of latents to sample from, fitted after the encoder (ex-post density estimation, Ghosh et al. 2020).

Manifold Parzen windows (Vincent and Bengio 2002): a Gaussian at every item, flat along the way to its neighbours and
narrow across. Here nothing is fitted but the windows' width, chosen by the likelihood of items that the density hasn't
seen, and an item's neighbours are looked up when a sample is drawn near it. A sample is then settled: it moves part of
the way to the items about it, since in many dimensions nearly every step leads off the data.

Mixtures were tried instead (Fashion-MNIST, Fréchet distance of 10,000 decoded samples in a classifier's features, over
that of the reconstructions; training items themselves have 0.91 to 1.05): 100 Gaussians 1.71, 1,000 of them 1.30, these
windows 1.16, settled 1.01 to 1.07. Settling less left it higher, widening less left more copies. The noise isn't chosen
by likelihood, which asks for so much that pictures blur (1.24).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedstore.latent.directions import Floats
from embedstore.types import Vectors

NEIGHBOURS = 12  # of an item that span its window
NOISE = 0.05  # in every direction
WIDTHS = (0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0)
HELD_OUT, WINDOWS = 150, 12  # items whose likelihood decides, and windows near each that count
SETTLED, SETTLED_TO = 0.6, 3  # of the way to the mean of the nearest items
WIDENED = 1.4  # factor of the deviations before: what settling takes back


@dataclass(frozen=True, slots=True)
class Windows:
    """The shape of every window.

    Attributes:
        neighbours: of an item that span its window.
        width: of the window along the differences to them, as a share of their covariance's root.
        noise: standard deviation in every direction, as a share of the neighbours' root mean squared difference a
            dimension.
        likelihood: mean log likelihood of held-out items, nats.
    """

    neighbours: int
    width: float
    noise: float
    likelihood: float


def choose(points: Vectors, centres: Vectors, around: Vectors, total: int) -> Windows:
    """The windows under which held-out items are likeliest.

    Args:
        points: float32 (m, d), the held-out items.
        centres: float32 (m, w, d), the items nearest to each, itself left out: other windows add nothing.
        around: float32 (m, w, n, d), the neighbours of each of those, nearest first, the held-out item left out.
        total: number of items.
    """
    around = around[:, :, :NEIGHBOURS]
    tried = (
        Windows(around.shape[2], width, NOISE, _likelihood(points, centres, around, width, NOISE, total))
        for width in WIDTHS
    )
    return max(tried, key=lambda windows: windows.likelihood)


def settled(samples: Vectors, near: Vectors, spread: float = 1.0) -> Vectors:
    """Samples (n, d), part of the way to the mean of the items nearest to them (n, k, d)."""
    moved: Vectors = samples + np.float32(SETTLED * min(1.0, spread)) * (near.mean(axis=1) - samples)
    return moved


def draw(
    windows: Windows, centres: Vectors, around: Vectors, generator: np.random.Generator, spread: float = 1.0
) -> Vectors:
    """One latent of each window (n, d).

    Args:
        windows: their shape.
        centres: float32 (n, d).
        around: float32 (n, k, d), neighbours of each centre, nearest first.
        generator: of the random numbers.
        spread: factor of every deviation from the centre; 0 gives the centres themselves.
    """
    differences = around[:, : windows.neighbours].astype(np.float64) - centres[:, None]
    count, dimension = differences.shape[1:]
    along = generator.normal(size=(len(centres), count)) * (windows.width / np.sqrt(count))
    noise = _noise(differences, windows.noise)[:, None] * generator.normal(size=(len(centres), dimension))
    moved = centres + spread * (np.einsum("nk,nkd->nd", along, differences) + noise)
    drawn: Vectors = moved.astype(np.float32)
    return drawn


def _noise(differences: Floats, share: float) -> Floats:
    """Standard deviation of the isotropic part of each window (...)."""
    scale: Floats = np.sqrt(np.square(differences).mean(axis=(-2, -1)))
    return share * np.maximum(scale, 1e-6)


def _likelihood(points: Vectors, centres: Vectors, around: Vectors, width: float, noise: float, total: int) -> float:
    """Mean log density of points under the windows near them.

    Each covariance is a multiple of the unit matrix and k outer products, so that its inverse and determinant come
    from a matrix of (k, k) (Woodbury's identity) instead of (d, d).
    """
    differences = around.astype(np.float64) - centres[:, :, None]  # (m, w, k, d)
    count, dimension = differences.shape[2:]
    variance = _noise(differences, noise) ** 2  # (m, w)
    factor = differences * (width / np.sqrt(count))
    inner = factor @ factor.swapaxes(-1, -2) / variance[..., None, None] + np.eye(count)  # (m, w, k, k)
    offset = points[:, None].astype(np.float64) - centres  # (m, w, d)
    projected = np.einsum("mwkd,mwd->mwk", factor, offset)
    solved = np.linalg.solve(inner, projected[..., None])[..., 0]
    squares = (np.square(offset).sum(axis=-1) - (projected * solved).sum(axis=-1) / variance) / variance
    logs = -0.5 * (squares + np.linalg.slogdet(inner)[1] + dimension * np.log(2 * np.pi * variance))  # (m, w)
    highest = logs.max(axis=1)
    found: npt.NDArray[np.float64] = highest + np.log(np.exp(logs - highest[:, None]).sum(axis=1)) - np.log(total)
    return float(found.mean())
