"""What is in a store, and what is known of one item, as plain objects for printing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.config import StoreConfig
from embedstore.errors import UnknownItem
from embedstore.index import sizes
from embedstore.metadata import catalog, directions, items, runs
from embedstore.metadata.database import Database
from embedstore.truth import tiers
from embedstore.truth.building import is_due
from embedstore.truth.layout import disk_usage
from embedstore.truth.snapshot import Snapshot, SpaceView

_VALUES_SHOWN = 8


def item(database: Database, name: str) -> dict[str, Any]:
    """Everything known of an item but its vector.

    Raises:
        UnknownItem: it was deleted meanwhile.
    """
    with database.read() as connection:
        found = items.describe(connection, [name]).get(name)
        if found is None:
            raise UnknownItem(f"no item has the id {name!r}")
        clusters, places = runs.of_row(connection, found["row"])
    size = [found["width"], found["height"]] if found["width"] else None  # of what has no picture, 0
    return {
        "id": name,
        "metadata": found["metadata"],
        "source": found["source"],
        "origin": found["scope"],
        "size": size,
        "content_hash": None if found["hash"] is None else found["hash"].hex(),
        "clusters": clusters,
        "places": places,
    }


def store(directory: Path, database: Database, snapshot: Snapshot, settings: dict[str, Any]) -> dict[str, Any]:
    """Items, spaces, index, metadata keys and bytes on disk of one commit."""
    with database.read() as connection:
        count = items.count(connection)
        keys = sorted(items.metadata_keys(connection))
        fields = {key: _field(connection, key) for key in keys}
        origins = [{"scope": scope, "items": number} for scope, number in items.origins_with_counts(connection)]
        waiting = catalog.count_tombstones(connection)
        named = {view.space.name: directions.names(connection, view.space) for view in snapshot.spaces.values()}
        made: dict[str, dict[str, list[str]]] = {
            view.space.name: {
                kind: [run.name for run in runs.read(connection, kind, view.space)] for kind in runs.KINDS
            }
            for view in snapshot.spaces.values()
        }
    used, config = disk_usage(directory), StoreConfig.from_json(settings.get("config", {}))
    spaces = []
    for view in snapshot.spaces.values():
        end = max((tier.first + tier.count for tier in view.tiers), default=0)
        covered = sum(_alive(view, tier.first, tier.count) for tier in view.tiers)
        spaces.append(
            {
                "name": view.space.name,
                "default": view.space.name == snapshot.default,
                "encoder": view.space.encoder or None,
                "fingerprint": view.space.fingerprint or None,
                "dimension": view.space.dimension,
                "metric": view.space.metric.value,
                "dtype": view.space.dtype.value,
                "vectors": view.alive,
                "directions": named[view.space.name],
                **made[view.space.name],
                "searched_exactly": view.alive - covered,
                "index_due": len(view.rows) >= sizes.fewest(config.factory)
                and is_due(config, view.space.dimension, end, len(view.rows) - end),
                "tiers": [
                    {
                        "name": tier.name,
                        "factory": tier.factory,
                        "vectors": _alive(view, tier.first, tier.count),
                        "bytes": tiers.size(directory, tier),
                        "parameters": tier.tuned.get("parameters"),
                        "recall": tier.tuned.get("recall"),
                        "recall_interval": tier.tuned.get("interval"),
                    }
                    for tier in view.tiers
                ],
            }
        )
    return {
        "path": str(directory),
        "items": count,
        "commits": snapshot.seq,
        "created": settings.get("created"),
        **{name: settings.get("config", {}).get(name) for name in ("factory", "memory")},
        "recall_target": settings.get("config", {}).get("recall"),
        "spaces": spaces,
        "fields": fields,
        "origins": origins,
        "deleted_not_compacted": waiting,
        "bytes": dict(sorted(used.items())) | {"total": sum(used.values())},
    }


def _alive(view: SpaceView, first: int, count: int) -> int:
    """Vectors of a stretch that aren't deleted."""
    return count if view.live is None else int(np.count_nonzero(view.live[first : first + count]))


def _field(connection: Any, key: str) -> dict[str, Any]:
    values = items.summary(connection, key, _VALUES_SHOWN + 1)
    counted: Counter[Any] = Counter()
    for value, number in values[:_VALUES_SHOWN]:
        counted[value] += number  # 1 and 1.0 are one key
    return {"values": dict(counted), "more": len(values) > _VALUES_SHOWN}
