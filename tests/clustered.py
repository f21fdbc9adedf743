"""Blobs whose clusters are known, and a store of digits with a clustering of several levels, made once a process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedstore
from embedstore.store import Store
from embedstore.types import Item

from .computing import DIGITS

COUNT = 200
PICTURES = (DIGITS.images * 15.9).astype(np.uint8)
LABELS = DIGITS.target
NEW = 40  # digits that are kept for adding later


def blobs(sizes: list[int], seed: int = 0, dimension: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Latents (n, d) in blobs whose neighbour graphs have nothing in common, and the blob of each (n,)."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(sizes)), sizes)
    corners = 40.0 * np.eye(dimension)[np.arange(len(sizes)) % dimension]
    corners *= np.where(np.arange(len(sizes)) < dimension, 1, -1)[:, None]
    return (corners[label] + rng.normal(size=(len(label), dimension))).astype(np.float32), label


def nearest(latents: np.ndarray, k: int) -> np.ndarray:
    """Rows (n, k) of each latent's nearest others."""
    far = np.linalg.norm(latents[:, None] - latents[None], axis=2)
    np.fill_diagonal(far, np.inf)
    return np.argsort(far, axis=1)[:, :k].astype(np.int64)


def digits(start: int, stop: int) -> list[Item]:
    """Digits as items 'd000' and on."""
    return [
        Item(f"d{i:03d}", PICTURES[i][..., None], {"label": int(LABELS[i]), "odd": bool(LABELS[i] % 2), "n": i})
        for i in range(start, stop)
    ]


def copy(factory: pytest.TempPathFactory, name: str = "copy") -> Path:
    """A store of its own of 200 digits in an encoder's space, with the clustering 'found'.

    Making it takes seconds, so that all tests of a process share the first one, as copies: a store is a folder.
    """
    made = factory.getbasetemp() / "clustered.store"
    if not made.exists():
        with embedstore.create(made) as store:
            store.index(digits(0, COUNT), encoder="pca", dimension=8, progress=False)
            store.cluster(name="found")
    path = factory.mktemp(name) / "clustered.store"
    shutil.copytree(made, path)
    return path


def told(store: Store, name: str | None = None, level: int | None = None) -> dict[str, tuple[int, float]]:
    """Of each item by id: its cluster (-1: none) and its strength."""
    from embedstore.explore import clusterings

    labels, strengths = clusterings.labels(store._latents(None), name, level)
    return {name: (int(a), float(b)) for name, a, b in zip(store.ids(), labels, strengths, strict=True)}


def said(store: Store, name: str) -> dict[str, tuple[int, float]]:
    """What the table of labels holds: of each item by id, leaf and strength."""
    query = (
        "SELECT items.id, labels.leaf, labels.strength FROM labels JOIN items USING (row) "
        "JOIN clusterings ON clusterings.id = labels.clustering WHERE clusterings.name = ? ORDER BY items.row"
    )
    with store._database.read() as connection:
        return {id: (leaf, strength) for id, leaf, strength in connection.execute(query, (name,))}


def made(store: Store, name: str) -> Any:
    """The run as it is stored."""
    from embedstore.metadata import runs

    with store._database.read() as connection:
        [run] = [one for one in runs.read(connection, "clusterings") if one.name == name]
    return run


def placed(store: Store, name: str, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leaf and strength that the networks of a clustering give to latents, without the writer."""
    from embedstore.models import network
    from embedstore.truth.placing import LEAST_STRENGTH, assign

    run = made(store, name)
    networks = network.load(store.path / "models", "clustering", run.model)
    leaves, strengths = assign(run, networks["place"](latents))
    if not run.made["assign_noise"]:
        leaves = np.where(strengths < LEAST_STRENGTH, -1, leaves)
    return leaves, strengths


def between(store: Store, name: str, count: int) -> np.ndarray:
    """Latents (n, d) that belong to no cluster: mixtures of items of which the network is least sure."""
    latents = np.stack([store.vector(one).vector for one in store.ids()])
    rng = np.random.default_rng(5)
    mixed = np.stack([rng.dirichlet(np.ones(4)) @ latents[rng.choice(len(latents), 4)] for _ in range(2000)])
    _, strengths = placed(store, name, mixed.astype(np.float32))
    least = np.argsort(strengths, kind="stable")[:count]
    assert strengths[least].max() < 0.5
    return mixed[least].astype(np.float32)
