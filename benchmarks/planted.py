"""What the scans find of what was planted into Fashion-MNIST: outliers, near-duplicates, wrong labels.

Each takes the path of a store of all 70,000 pictures, with their labels as ``class`` and the parts as ``split``, and
works on a copy of it. Seconds are of the scan alone, latents being stored. `discovery_quality.py` prints them.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, roc_auc_score

import embedstore
from embedstore.store import Store
from embedstore.types import Item

Picture = npt.NDArray[np.uint8]
#: What a planted near-duplicate has gone through.
CHANGES = ("shift", "bright", "jpeg", "shift bright", "shift jpeg", "bright jpeg", "shift bright jpeg")
SAME = 0.99  # correlation of two pictures that are the same but for such changes, to the independent test


@contextmanager
def copied(base: Path) -> Iterator[Store]:
    """A copy of a store, to plant things in."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        path = Path(folder) / "copy.store"
        shutil.copytree(base, path)
        with embedstore.open(path) as store:
            yield store


def outliers(base: Path, *, whole: bool = False, clustered: bool = False, seed: int = 0) -> dict[str, Any]:
    """100 digits of scikit-learn, 8 x 8 px scaled to 28 (bicubic), among the 10,000 test pictures, or among all.

    Clusterings are removed first; with ``clustered``, one is made before the digits are added.
    """
    random = np.random.default_rng(seed)
    digits = load_digits().images
    chosen = digits[random.choice(len(digits), 100, replace=False)]
    scaled = [Image.fromarray((one * 255 / 16).astype(np.uint8)).resize((28, 28), Image.BICUBIC) for one in chosen]
    with copied(base) as store:
        if not whole:
            store.delete(where="split = 'train'")
        for one in store.clusterings():
            store.remove_clustering(one.name)
        if clustered:
            store.cluster()
        store.add([Item(f"digit/{i}", np.asarray(one)[..., None]) for i, one in enumerate(scaled)])
        start = time.perf_counter()
        found = store.outliers()
        seconds = time.perf_counter() - start
        planted = np.array([name.startswith("digit/") for name in store.ids()])
        return {
            "items": len(found.scores),
            "auroc": float(roc_auc_score(planted, found.scores)),
            "average precision": float(average_precision_score(planted, found.scores)),
            "in the first 50": float(np.mean([one.id.startswith("digit/") for one in found.found])),
            "measured": found.measured,
            "seconds": seconds,
        }


def near_duplicates(base: Path, *, count: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Random items, slightly changed, beside their originals.

    A pair that a group puts together is right where it was planted, or, counted apart, where an independent test of the
    pixels says that they are one picture: Fashion-MNIST has near-duplicates of its own. (The test: a correlation of
    at least 0.99 after the best shift by up to a pixel.)
    """
    random = np.random.default_rng(seed)
    with copied(base) as store:
        names = np.array(store.ids())
        chosen = names[np.sort(random.choice(len(names), count, replace=False))].tolist()
        kinds = [CHANGES[i % len(CHANGES)] for i in range(count)]
        shown = [np.asarray(image) for image in store.images(chosen)]
        made = [_changed(one, kind, random) for one, kind in zip(shown, kinds, strict=True)]
        store.add([Item(f"copy/{name}", one[..., None]) for name, one in zip(chosen, made, strict=True)])
        start = time.perf_counter()
        found = store.duplicates()
        seconds = time.perf_counter() - start
        pairs = {pair for group in found.groups for pair in combinations(sorted(group.ids), 2)}
        truth = {tuple(sorted((name, f"copy/{name}"))) for name in chosen}
        others = sorted(pairs - truth)
        images = {name: np.asarray(store.images([name])[0]) for name in {name for pair in others for name in pair}}
        same = sum(_correlation(images[a], images[b]) >= SAME for a, b in others)
        recalls = {
            kind: float(np.mean([tuple(sorted((name, f"copy/{name}"))) in pairs for name in _of(chosen, kinds, kind)]))
            for kind in CHANGES
        }
        return {
            "items": found.items,
            "recall": len(pairs & truth) / count,
            "recalls": recalls,
            "pairs": len(pairs),
            "precision, planted alone": len(pairs & truth) / max(1, len(pairs)),
            "precision": (len(pairs & truth) + same) / max(1, len(pairs)),
            "of its own": same,
            "neither": len(others) - same,
            "evidence": found.evidence.said,
            "seconds": seconds,
        }


def _of(names: list[str], kinds: list[str], kind: str) -> list[str]:
    return [name for name, one in zip(names, kinds, strict=True) if one == kind]


def _changed(picture: Picture, kind: str, random: np.random.Generator) -> Picture:
    """Shifted by 1 px (black enters), 5 % brighter or darker, saved as JPEG of quality 85: as ``kind`` says."""
    if "shift" in kind:
        down, right = ((0, 1), (0, -1), (1, 0), (-1, 0))[random.integers(4)]
        padded = np.pad(picture, 1)
        height, width = picture.shape
        picture = padded[1 - down : 1 - down + height, 1 - right : 1 - right + width]
    if "bright" in kind:
        factor = (0.95, 1.05)[random.integers(2)]
        picture = np.clip(np.rint(picture * factor), 0, 255).astype(np.uint8)
    if "jpeg" in kind:
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(stream, "JPEG", quality=85)
        picture = np.asarray(Image.open(stream))
    return np.ascontiguousarray(picture)


def _correlation(one: Picture, other: Picture) -> float:
    """Of the inner parts, at the best shift by up to a pixel."""
    inner = one[1:-1, 1:-1].ravel().astype(float)
    height, width = one.shape
    views = [other[y : y + height - 2, x : x + width - 2].ravel() for y in range(3) for x in range(3)]
    return max(float(np.corrcoef(inner, view)[0, 1]) for view in views)


def wrong_labels(base: Path, *, share: float = 0.03, seed: int = 0) -> dict[str, Any]:
    """A share of the labels changed to a random other class."""
    random = np.random.default_rng(seed)
    with embedstore.open(base, read_only=True) as store, tempfile.TemporaryDirectory(prefix="planted-") as folder:
        space = store._latents(None)
        names, latents = store.ids(), space.vectors(space.positions(None))
        truth = np.array([one["class"] for one in space.searcher.read_metadata(space.view.rows[space.positions(None)])])
        planted = np.zeros(len(truth), dtype=bool)
        planted[random.choice(len(truth), round(share * len(truth)), replace=False)] = True
        given = np.where(planted, (truth + random.integers(1, 10, len(truth))) % 10, truth)
        with embedstore.create(Path(folder) / "labels.store") as wrong:
            wrong.add_vectors(names, latents, [{"class": int(value)} for value in given])
            start = time.perf_counter()
            found = wrong.mislabeled("class", int(planted.sum()))
            seconds = time.perf_counter() - start
    right = dict(zip(names, truth.tolist(), strict=True))
    hit = dict(zip(names, planted.tolist(), strict=True))
    return {
        "items": found.items,
        "planted": int(planted.sum()),
        "average precision": float(average_precision_score(planted, found.scores)),
        "precision of as many as planted": float(np.mean([hit[one.id] for one in found.found])),
        "their right label suggested": float(np.mean([one.suggested == right[one.id] for one in found.found])),
        "estimated wrong": found.wrong,
        "seconds": seconds,
    }
