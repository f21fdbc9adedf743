"""New items in the runs that are there: their cluster and their place on the map, in the commit that adds them.

By the small networks that each run has learnt: nothing is refitted, and nothing but NumPy is imported. A run whose
networks can't be read is skipped with a warning, for it can be made again: it must never keep an item from being added.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from sqlite3 import Connection

import numpy as np
import numpy.typing as npt

from embedstore.errors import EmbedstoreError
from embedstore.metadata import runs
from embedstore.metadata.catalog import Space
from embedstore.metadata.runs import Run
from embedstore.models import network
from embedstore.models.network import Network
from embedstore.models.placement import Placement, placement
from embedstore.truth.layout import MODELS
from embedstore.types import Metric, Vectors

#: Below this probability an item belongs to no cluster: it is as likely to be of all the others together.
LEAST_STRENGTH = 0.5
_PART = 8192
_KEPT = 8  # runs whose networks stay in memory


class PlacingWarning(UserWarning):
    """A clustering or map can't take new items: they have no cluster, or no place, until it is made again."""


class Placing:
    """Places new items; keeps the networks of the runs that it has met."""

    def __init__(self, directory: Path) -> None:
        self._models = directory / MODELS
        self._kept: dict[tuple[str, str], tuple[dict[str, Network], Placement | None]] = {}

    def before(self, connection: Connection, rows: Sequence[int]) -> list[tuple[runs.Kind, int, int, float, float]]:
        """What all runs say of rows that are about to be replaced by new versions with the same latents."""
        return runs.carried(connection, rows)

    def place(
        self,
        connection: Connection,
        space: Space,
        rows: npt.NDArray[np.int64],
        vectors: Vectors,
        carried: Sequence[tuple[runs.Kind, int, int, float, float]] = (),
        renewed: dict[int, int] | None = None,
        only: tuple[runs.Kind, int] | None = None,
    ) -> None:
        """Place new rows (n,) with latents (n, d) into all runs of a space.

        Args:
            connection: of the transaction that adds them.
            space: theirs.
            rows: of the items.
            vectors: their latents.
            carried: what `before` has found.
            renewed: old row -> new row, for those whose latents are the same.
            only: the kind and id of the one run that they are placed into.
        """
        for kind in runs.KINDS:
            for run in runs.read(connection, kind, space):
                if only not in (None, (kind, run.id)):
                    continue
                again = {} if renewed is None else renewed
                known = [(again[row], a, b) for k, row, number, a, b in carried if (k, number) == (kind, run.id)]
                fresh = np.isin(rows, [row for row, _, _ in known], invert=True)
                if known:
                    old, first, second = (np.array(column) for column in zip(*known, strict=True))
                    runs.say(connection, kind, run.id, old, (_whole(kind, first), second))
                if not fresh.any():
                    continue
                try:
                    values = self._values(runs.check(kind, run), kind, space, vectors[fresh])
                except EmbedstoreError as error:
                    warnings.warn(f"{kind[:-1]} {run.name!r} takes no new items: {error}", PlacingWarning, stacklevel=4)
                    continue
                runs.say(connection, kind, run.id, rows[fresh], values)
                runs.count_placed(connection, kind, run, int(np.count_nonzero(fresh)))

    def _values(
        self, run: Run, kind: str, space: Space, vectors: Vectors
    ) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
        key = kind, run.model
        if key not in self._kept:
            newest = list(self._kept.items())[: _KEPT - 1]
            loaded = network.load(self._models, kind[:-1], run.model)
            self._kept = {key: (loaded, placement(loaded) if kind == "maps" else None), **dict(newest)}
        networks, on_map = self._kept[key]
        given = prepared(vectors, space.metric)
        if "place" not in networks or networks["place"].sizes[0] != space.dimension:
            raise EmbedstoreError(f"its networks aren't for latents of {space.dimension} dimensions: make it again")
        with np.errstate(all="ignore"):  # numbers that are none are seen below
            found: npt.NDArray[np.generic]
            if on_map is not None:
                found, sure = on_map(given).T
            else:
                found, sure = assign(run, networks["place"](given))
        if not (np.isfinite(found).all() and np.isfinite(sure).all()):
            raise EmbedstoreError("its networks give what are no numbers: make it again")
        if on_map is None and not run.made.get("assign_noise"):
            found = np.where(sure < LEAST_STRENGTH, runs.NOISE, found)
        return found, sure


def _whole(kind: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.generic]:
    return values.astype(np.int64) if kind == "clusterings" else values


def prepared(vectors: Vectors, metric: Metric) -> Vectors:
    """Latents as runs take them: under cosine only their direction counts."""
    if metric is not Metric.COSINE:
        return np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(lengths, 1e-30)).astype(np.float32)
    return unit


def assign(run: Run, odds: Vectors) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Leaves (n,) and strengths (n,) by the log-odds (n, all levels' clusters) of a clustering's network.

    A leaf is the clusters that an item is in at all levels; of those that there are, the likeliest is taken. The
    strength is the probability of its cluster at the level that was the main one when the run was made.
    """
    levels = [runs.clusters(run, number).numbers for number in range(len(run.made["levels"]))]
    main = int(run.made["main"])
    sizes = [max(numbers) + 1 for numbers in levels]
    if sum(sizes) != odds.shape[1]:
        raise EmbedstoreError(f"clustering {run.name!r} has other clusters than its network: make it again")
    ends = np.cumsum(sizes)[:-1]
    leaves = np.empty(len(odds), dtype=np.int64)
    strengths = np.empty(len(odds), dtype=np.float32)
    for start in range(0, len(odds), _PART):
        logs = [_log_softmax(part) for part in np.split(odds[start : start + _PART], ends, axis=1)]
        score = sum(part[:, list(numbers)] for part, numbers in zip(logs, levels, strict=True))
        best = np.argmax(score, axis=1)
        leaves[start : start + _PART] = best
        chosen = np.asarray(levels[main])[best]
        strengths[start : start + _PART] = np.exp(logs[main][np.arange(len(best)), chosen])
    return leaves, strengths


def _log_softmax(odds: Vectors) -> Vectors:
    odds = odds - odds.max(axis=1, keepdims=True)
    given: Vectors = odds - np.log(np.exp(odds).sum(axis=1, keepdims=True))
    return given
