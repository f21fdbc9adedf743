"""Maps as the store keeps them: a layout of the items in two dimensions, and networks that lead there and back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.errors import InvalidArgument, StoreDamaged
from embedstore.explore import layout, sampled, stored
from embedstore.metadata import runs
from embedstore.metadata.runs import Run
from embedstore.models import network
from embedstore.truth.layout import MODELS
from embedstore.truth.placing import prepared
from embedstore.truth.writer import Writer
from embedstore.types import Metric, Vectors

_PLACED = 65_536  # items at a time
_JUDGED, _NEIGHBOURS = 2_000, 15  # items and neighbours that a map's quality is measured with
_FARTHEST = 1e4  # a coordinate in units of the map's spread, beyond which a point is a mistake


@dataclass(frozen=True, slots=True)
class Map:
    """A stored map.

    Attributes:
        name: unique in the store.
        space: its space's name.
        items: that it was made from.
        placed: items that were added since, and placed without refitting.
        commit: of the store that it was made at.
        created: when, ISO 8601.
        is_default: whether it is meant where none is named.
        seconds: that making it took.
        trustworthiness: in [0, 1]: how few of the neighbours on the map are none in the space (Venna and Kaski 2001),
            of 2,000 items among themselves, 15 neighbours; None of fewer than 40 items.
        continuity: in [0, 1]: how few of the neighbours in the space are none on the map.
    """

    name: str
    space: str
    items: int
    placed: int
    commit: int
    created: str
    is_default: bool
    seconds: float
    trustworthiness: float | None
    continuity: float | None


def make(space: LatentSpace, writer: Writer, name: str, *, seed: int, progress: bool) -> Map:
    """Lay the items out and store the map in place of one of the same name; it becomes the default one.

    Raises:
        InvalidArgument: a name that can't be, or too few items, or all of them alike.
        MissingExtra: the layout's library isn't installed.
    """
    layout.check_installed()
    stored.check_name(name, "map")
    if (count := len(space.positions(None))) < layout.FEWEST:
        raise InvalidArgument(f"{count:,} items are too few for a map: at least {layout.FEWEST} are needed")
    from embedstore.models import mapping, placement  # and with it torch, which too few items needn't wait for

    start = time.perf_counter()
    before = stored.state(writer)
    sample = sampled.take(space, neighbours=layout.NEIGHBOURS, least=layout.FEWEST, progress=progress)
    distances = sample.distances
    if space.view.space.metric is Metric.COSINE:  # of unit vectors, half the square of their Euclidean distance
        distances = np.sqrt(2 * np.maximum(distances, 0))
    places = layout.layout(sample.latents, sample.neighbours, distances, progress=progress)
    back = mapping.fit_back(places, sampled.pulled(space.vectors(sample.positions)), seed=seed, progress=progress)
    networks = {"place": placement.learn(sample.latents, places), "back": back}
    trust, continuity = _quality(sample.latents, places, seed)
    positions = space.positions(None)
    xy = sample.spread(places, len(space.view.rows), np.nan)
    missing = positions[np.isnan(xy[positions, 0])]
    placed = placement.placement(networks)
    for first in range(0, len(missing), _PLACED):
        part = missing[first : first + _PLACED]
        xy[part] = placed(prepared(space.vectors(part), space.view.space.metric))
    made: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "items": len(positions),
        "fitted": len(sample.positions),
        "trustworthiness": trust,
        "continuity": continuity,
        "seconds": time.perf_counter() - start,
    }
    run = Run(0, space.view.space.id, name, before.seq, before.next_row, "", True, made)
    stored.store(space, writer, "maps", run, networks, positions, (xy[positions, 0], xy[positions, 1]))
    return get(space, name)


def _quality(latents: Vectors, places: npt.NDArray[np.float32], seed: int) -> tuple[float | None, float | None]:
    from sklearn.manifold import trustworthiness

    rows = np.arange(len(places))
    if len(rows) < 40:
        return None, None
    if len(rows) > _JUDGED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _JUDGED, replace=False))
    k = min(_NEIGHBOURS, len(rows) // 2 - 1)
    forth = trustworthiness(latents[rows], places[rows], n_neighbors=k)
    return float(forth), float(trustworthiness(places[rows], latents[rows], n_neighbors=k))


def every(space: LatentSpace) -> list[Map]:
    """All maps of a space, by name."""
    with space.database.read() as connection:
        return [_described(connection, space, run) for run in runs.read(connection, "maps", space.view.space)]


def get(space: LatentSpace, name: str | None = None) -> Map:
    """One map.

    Raises:
        UnknownRun: there is none of this name (None: none at all).
    """
    run = stored.find(space, "maps", name)
    with space.database.read() as connection:
        return _described(connection, space, run)


def _described(connection: Any, space: LatentSpace, run: Run) -> Map:
    made = runs.check("maps", run).made
    return Map(
        run.name,
        space.view.space.name,
        made["items"],
        runs.placed_since(run),
        run.seq,
        made["created"],
        run.is_default,
        made["seconds"],
        made["trustworthiness"],
        made["continuity"],
    )


def places(space: LatentSpace, name: str | None = None) -> npt.NDArray[np.float32]:
    """Places (n, 2) of all live items in the order of their positions; NaN where the map doesn't have an item."""
    run = stored.find(space, "maps", name)

    def read() -> npt.NDArray[np.float32]:
        with space.database.read() as connection:
            rows, values = runs.said(connection, "maps", run.id)
        return stored.aligned(space, rows, values.astype(np.float32), np.nan)

    return space.once(("places", run.model, run.seq), read)


def unmap(space: LatentSpace, xy: Any, name: str | None = None) -> Vectors:
    """Latents (n, d) of points (n, 2) of a map.

    Raises:
        InvalidArgument: not two finite numbers each, or far beyond any item.
        ModelInvalid: the network that leads back is missing or damaged.
    """
    run = stored.find(space, "maps", name)
    try:
        points = np.asarray(xy, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise InvalidArgument("a point of a map is two finite numbers")
    if (np.abs(points) > _FARTHEST).any():
        raise InvalidArgument(
            f"there is nothing at {points[np.abs(points).max(axis=1).argmax()].tolist()}: items lie near 0, 0"
        )

    def read() -> network.Network:
        found = network.load(space.searcher.directory / MODELS, "map", run.model)
        if "back" not in found or (found["back"].sizes[0], found["back"].sizes[-1]) != (2, space.dimension):
            raise StoreDamaged(f"map {run.name!r} has no way back to this space: make it again")
        return found["back"]

    back: network.Network = space.once(("back", run.model), read)
    return back(points.astype(np.float32))
