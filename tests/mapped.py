"""A store with pictures, a clustering, a map, and the worst ids and metadata, made once a process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import embedstore
from embedstore.types import Item

from .clustered import LABELS, PICTURES

COUNT = 90
HOSTILE = "<img src=x onerror=alert(1)>\"'&</script><!--<script>"
KEY = "</script><script>alert(1)</script>"


def items() -> list[Item]:
    """Digits 'd000' and on; the first five have what a page must not obey in their ids and metadata."""
    made = []
    for i in range(COUNT):
        said = {"label": f"digit {LABELS[i]}", "number": float(i) / 7, "half": i % 2, "unique": f"u{i}", "list": [i, 1]}
        if i < 5:
            said |= {KEY: HOSTILE, "text": "\u202e\x1b<b>\u2028</b>"}
        made.append(Item(f"{HOSTILE}{i}" if i < 5 else f"d{i:03d}", PICTURES[i][..., None], said))
    return made


def copy(factory: pytest.TempPathFactory) -> Path:
    """A store of its own: a copy of the one that is made first, which takes seconds."""
    made = factory.getbasetemp() / "mapped.store"
    if not made.exists():
        with embedstore.create(made) as store:
            store.index(items(), encoder="pca", dimension=8, progress=False)
            store.cluster(4)
            store.name_cluster(0, "<b>noughts</b>")
            store.map()
    path = factory.mktemp("mapped") / "mapped.store"
    shutil.copytree(made, path)
    return path
