"""A store of real digits in a PCA space, in which the tests of computing calculate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import embedstore
from embedstore.store import Store
from embedstore.types import Item

COUNT = 600
DIGITS = load_digits()
PICTURES = (DIGITS.images[:COUNT] * 15.9).astype(np.uint8)
LABELS = DIGITS.target[:COUNT]


def make(path: Path) -> Path:
    """A store of 600 digits, 'd000' and on, with the direction 'to-three' from the eights to the threes."""
    said = [{"label": int(label), "odd": bool(label % 2), "half": i % 2} for i, label in enumerate(LABELS)]
    items = [Item(f"d{i:03d}", PICTURES[i][..., None], said[i]) for i in range(COUNT)]
    with embedstore.create(path) as store:
        store.index(items, encoder="pca", dimension=16, progress=False)
        store.direction("to-three", "label = 3", "label = 8")
    return path


def latents(store: Store, where: str | None = None) -> np.ndarray:
    """Latents (n, d) of the items that match."""
    return np.stack([store.vector(name).vector for name in store.ids(where)])
