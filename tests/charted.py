"""The store of digits with a clustering and a map, made once a process; and what its map says, read without the store.

Also the way from a latent to a place, and back, written down once more as a plain loop.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedstore
from embedstore.explore import layout
from embedstore.metadata import runs
from embedstore.models import agreement, labelling, mapping, network
from embedstore.store import Store

from . import clustered

BLOBS = [25, 25, 25]
STEPS = 150  # of the networks: enough for so few items


def copy(factory: pytest.TempPathFactory) -> Path:
    """A store of its own of 200 digits, with the clustering 'found' and the map 'default'."""
    made = factory.getbasetemp() / "charted.store"
    if not made.exists():
        shutil.copytree(clustered.copy(factory), made)
        with embedstore.open(made) as store, pytest.MonkeyPatch.context() as patch:
            patch.setattr(mapping, "FEWEST_STEPS", STEPS)
            store.map()
    path = factory.mktemp("charted") / "charted.store"
    shutil.copytree(made, path)
    return path


def copy_of_blobs(factory: pytest.TempPathFactory) -> Path:
    """A store of its own of three blobs of vectors, without pictures, with the map 'default'."""
    made = factory.getbasetemp() / "blobs.store"
    if not made.exists():
        latents, label = clustered.blobs(BLOBS)
        with embedstore.create(made) as store, pytest.MonkeyPatch.context() as patch:
            patch.setattr(mapping, "FEWEST_STEPS", STEPS)
            store.add_vectors([f"i{i}" for i in range(len(label))], latents, [{"blob": int(one)} for one in label])
            store.map()
    path = factory.mktemp("blobs") / "blobs.store"
    shutil.copytree(made, path)
    return path


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts and networks that are made in a moment, where it isn't them that is tested."""
    monkeypatch.setattr(layout, "_EARLY", 10)
    monkeypatch.setattr(layout, "_LATE", 10)
    for module, steps in ((mapping, 10), (labelling, 60), (agreement, 20)):
        monkeypatch.setattr(module, "FEWEST_STEPS", steps)


def seq(store: Store) -> int:
    """Number of commits."""
    with store._database.read() as connection:
        return int(connection.execute("SELECT seq FROM state").fetchone()[0])


def made(store: Store, name: str = "default") -> Any:
    """The map's run as it is stored."""
    with store._database.read() as connection:
        [run] = [one for one in runs.read(connection, "maps") if one.name == name]
    return run


def said(store: Store, name: str = "default") -> dict[str, tuple[float, float]]:
    """What the table of places holds: of each item by id, x and y."""
    query = (
        "SELECT items.id, places.x, places.y FROM places JOIN items USING (row) "
        "JOIN maps ON maps.id = places.map WHERE maps.name = ? ORDER BY items.row"
    )
    with store._database.read() as connection:
        return {id: (x, y) for id, x, y in connection.execute(query, (name,))}


def latents(store: Store, ids: list[str] | None = None) -> np.ndarray:
    """Latents (n, d) of items, of all where none are named."""
    return np.stack([store.vector(one).vector for one in (store.ids() if ids is None else ids)])


def through(net: network.Network, points: np.ndarray) -> np.ndarray:
    """What a network gives, in float64, layer by layer."""
    values = np.asarray(points, dtype=np.float64)
    for number, layer in enumerate(net.layers):
        values = values @ layer.weight.astype(np.float64) + layer.bias
        if number == 0 and net.waves:
            values = np.sin(values)
        elif number < len(net.layers) - 1:
            values = np.maximum(values, 0)
    return values


def by_loop(prototypes: np.ndarray, where: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Places (n, 2): of the nearest prototype and the five next to it on the map, the mean place by their distances."""
    found = []
    for point in points.astype(np.float64):
        square = np.square(prototypes - point).sum(axis=1)
        best = int(np.argmin(square))
        near = np.argsort(np.linalg.norm(where - where[best], axis=1), kind="stable")[:6]
        least = square[near].min()
        share = np.exp(-8 * (square[near] - least) / max(least, 1e-9 * square[near].max() + 1e-37))
        found.append((share[:, None] / share.sum() * where[near]).sum(axis=0))
    return np.array(found)


def placed(store: Store, points: np.ndarray, name: str = "default") -> np.ndarray:
    """Where a map's networks put latents, without the writer."""
    networks = network.load(store.path / "models", "map", made(store, name).model)
    prototypes, where = networks["place"].layers
    return by_loop(prototypes.weight.T, where.weight, points)


def nearest_share(places: np.ndarray, label: np.ndarray, k: int = 5) -> float:
    """How many of the k nearest on a map are of an item's own kind."""
    return float((label[clustered.nearest(places, k)] == label[:, None]).mean())
