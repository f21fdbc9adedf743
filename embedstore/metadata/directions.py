"""Directions as rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import StoreDamaged
from embedstore.metadata.catalog import Space


@dataclass(frozen=True, slots=True)
class DirectionRow:
    """A direction as it is stored.

    Attributes:
        name: unique in its space.
        vector: float32 (d,).
        made: a JSON object: how, of how many items, how well it separates.
    """

    name: str
    vector: npt.NDArray[np.float32]
    made: dict[str, Any]


def read(connection: Connection, space: Space, name: str | None = None) -> list[DirectionRow]:
    """All directions of a space, by name, or the one of a name (none or one)."""
    query, values = "SELECT name, vector, made FROM directions WHERE space = ?", [space.id]
    if name is not None:
        query, values = query + " AND name = ?", [space.id, name]  # type: ignore[list-item]
    found = []
    for label, blob, made in connection.execute(query + " ORDER BY name", values):
        fits = isinstance(blob, bytes) and len(blob) == 4 * space.dimension
        vector = np.frombuffer(blob, dtype="<f4").astype(np.float32) if fits else None
        try:
            told = json.loads(made)
        except ValueError:
            told = None
        if vector is None or not np.isfinite(vector).all() or not isinstance(told, dict):
            raise StoreDamaged(f"store.db: direction {label!r} is no vector of its space: remove it and make it again")
        found.append(DirectionRow(label, vector, told))
    return found


def names(connection: Connection, space: Space) -> list[str]:
    """Names of all directions of a space."""
    query = "SELECT name FROM directions WHERE space = ? ORDER BY name"
    return [name for (name,) in connection.execute(query, (space.id,))]


def write(connection: Connection, space: Space, row: DirectionRow) -> None:
    """Store a direction in place of one of the same name."""
    connection.execute(
        "INSERT INTO directions (space, name, vector, made) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (space, name) DO UPDATE SET vector = excluded.vector, made = excluded.made",
        (space.id, row.name, row.vector.astype("<f4").tobytes(), json.dumps(row.made)),
    )


def remove(connection: Connection, space: Space, name: str) -> bool:
    """Forget a direction; whether there was one."""
    return connection.execute("DELETE FROM directions WHERE space = ? AND name = ?", (space.id, name)).rowcount > 0
