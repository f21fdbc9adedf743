"""Stored runs, clusterings and maps, and what they say of each item, as rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from embedstore.errors import StoreDamaged
from embedstore.metadata.catalog import Space

Kind: TypeAlias = Literal["clusterings", "maps"]
#: Of each kind: the table of what it says of items, the column that names the run, and the columns of what it says.
_SAID = {"clusterings": ("labels", "clustering", ("leaf", "strength")), "maps": ("places", "map", ("x", "y"))}
_AMONG = "IN (SELECT value FROM json_each(?))"
NOISE = -1
KINDS: tuple[Kind, ...] = ("clusterings", "maps")


@dataclass(frozen=True, slots=True)
class Run:
    """One clustering or map.

    Attributes:
        id: its row.
        space: id of its space.
        name: unique among its kind.
        seq: the commit that it was made from.
        next_row: items of this row and after were placed into it later.
        model: fingerprint of the networks that place new items; "" where there is none.
        is_default: whether it is meant where none is named.
        made: a JSON object: how, of how many items, and what it found. `check` says whether it is whole.
    """

    id: int
    space: int
    name: str
    seq: int
    next_row: int
    model: str
    is_default: bool
    made: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Clusters:
    """A clustering at its chosen level, for filters.

    Attributes:
        clustering: id of the run.
        numbers: number of the cluster that each leaf belongs to.
        names: of the clusters that have one, by number.
        elsewhere: level (from 0) of each name that only clusters of another level have.
    """

    clustering: int
    numbers: Sequence[int]
    names: Mapping[int, str] = field(default_factory=dict)
    elsewhere: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Runs:
    """What a filter may ask about, each by its name, the default one by None.

    Attributes:
        clusterings: at their chosen levels.
        maps: their ids.
    """

    clusterings: Mapping[str | None, Clusters] = field(default_factory=dict)
    maps: Mapping[str | None, int] = field(default_factory=dict)


def read(connection: Connection, kind: Kind, space: Space | None = None) -> list[Run]:
    """All runs of a kind (over one space), by name, also those that `check` finds unreadable: they can be removed."""
    query = f"SELECT id, space, name, seq, next_row, model, is_default, made FROM {kind} ORDER BY name"
    found = []
    for number, owner, name, seq, next_row, model, is_default, made in connection.execute(query):
        if space is not None and owner != space.id:
            continue
        try:
            told = json.loads(made)
        except (ValueError, RecursionError):
            told = None
        told = told if isinstance(told, dict) else {}
        found.append(Run(number, owner, name, seq, next_row, model, bool(is_default), told))
    return found


def check(kind: Kind, run: Run) -> Run:
    """The run, if it says all that a run of its kind has to: a store may be somebody else's.

    Raises:
        StoreDamaged: it doesn't.
    """
    made = run.made
    try:
        whole = (
            _counts(made["items"])
            and _counts(made.get("placed", 0))
            and isinstance(made["created"], str)
            and _is_number(made["seconds"])
        )
        if kind == "maps":
            whole = whole and all(
                made[key] is None or _is_number(made[key]) for key in ("trustworthiness", "continuity")
            )
        else:
            levels = made["levels"]
            leaves = {len(level["of_leaf"]) for level in levels}
            whole = (
                whole
                and isinstance(levels, list)
                and len(leaves) == 1
                and leaves != {0}
                and all(_counts(made[key]) and made[key] < len(levels) for key in ("level", "main"))
                and (made["asked"] is None or _counts(made["asked"]))
                and all(_is_level(level) for level in levels)
            )
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise StoreDamaged(f"store.db: {kind[:-1]} {run.name!r} is unreadable: remove it and make it again")
    return run


def _is_level(level: Mapping[str, Any]) -> bool:
    return (
        all(_counts(number) for number in level["of_leaf"])
        and len(set(level["of_leaf"])) == max(level["of_leaf"]) + 1
        and all(_is_number(level[key]) for key in ("stability", "gap"))
        and all(number.isdecimal() and isinstance(name, str) for number, name in level["names"].items())
    )


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def models(connection: Connection) -> list[str]:
    """Fingerprints of all runs' networks."""
    query = "SELECT model FROM clusterings UNION SELECT model FROM maps"
    return sorted(model for (model,) in connection.execute(query) if model)


def add(connection: Connection, kind: Kind, run: Run) -> int:
    """Store a run in place of one of the same name, as the default where it says so or is the first; returns its id."""
    connection.execute(f"DELETE FROM {kind} WHERE name = ?", (run.name,))
    # Named by its commit: an id that was used before would give what another process is just asking of the run that
    # this one replaces another meaning.
    unused = f"SELECT max((SELECT seq FROM state), coalesce((SELECT max(id) + 1 FROM {kind}), 1))"
    query = (
        f"INSERT INTO {kind} (id, space, name, seq, next_row, model, is_default, made) "
        f"VALUES (({unused}), ?, ?, ?, ?, ?, 0, ?) RETURNING id"
    )
    values = (run.space, run.name, run.seq, run.next_row, run.model, json.dumps(run.made))
    (number,) = connection.execute(query, values).fetchone()
    if run.is_default or not connection.execute(f"SELECT 1 FROM {kind} WHERE is_default").fetchone():
        choose(connection, kind, number)
    return int(number)


def choose(connection: Connection, kind: Kind, number: int) -> None:
    """Make a run the one that is meant where none is named."""
    connection.execute(f"UPDATE {kind} SET is_default = (id = ?)", (number,))


def change(connection: Connection, kind: Kind, run: Run, made: Mapping[str, Any]) -> None:
    """Replace what a run, read in the same transaction, says of itself."""
    connection.execute(f"UPDATE {kind} SET made = ? WHERE id = ?", (json.dumps(made), run.id))


def remove(connection: Connection, kind: Kind, run: Run) -> None:
    """Forget a run and what it says; another one of its kind becomes the default."""
    connection.execute(f"DELETE FROM {kind} WHERE id = ?", (run.id,))
    if run.is_default:
        connection.execute(f"UPDATE {kind} SET is_default = 1 WHERE id = (SELECT max(id) FROM {kind})")


def say(connection: Connection, kind: Kind, run: int, rows: npt.NDArray[np.int64], values: Any) -> None:
    """Record what a run says of these rows.

    Args:
        connection: of a write transaction.
        kind: of the run.
        run: its id.
        rows: of items (n,).
        values: (leaves, strengths) or (x, y), each (n,).
    """
    table, column, names = _SAID[kind]
    first, second = (np.asarray(part).tolist() for part in values)
    query = f"INSERT OR REPLACE INTO {table} (row, {column}, {', '.join(names)}) VALUES (?, ?, ?, ?)"
    connection.executemany(query, ((row, run, a, b) for row, a, b in zip(rows.tolist(), first, second, strict=True)))


def said(
    connection: Connection, kind: Kind, run: int, rows: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """What a run says: item rows (n,), ascending, and the two values of each (n, 2); only of some rows where given.

    Raises:
        StoreDamaged: a value is no number.
    """
    table, column, names = _SAID[kind]
    query, bound = f"SELECT row, {', '.join(names)} FROM {table} WHERE {column} = ?", [run]
    if rows is not None:
        query, bound = f"{query} AND row {_AMONG}", [run, json.dumps(rows.tolist())]  # type: ignore[list-item]
    try:
        found = np.array(connection.execute(f"{query} ORDER BY row", bound).fetchall(), dtype=np.float64).reshape(-1, 3)
    except ValueError:  # a store may be somebody else's
        found = np.full((1, 3), np.nan)
    if not np.isfinite(found).all() or (kind == "clusterings" and (found[:, 1] != np.trunc(found[:, 1])).any()):
        raise StoreDamaged(f"store.db: what a {kind[:-1]} says of an item is no number: remove it and make it again")
    return found[:, 0].astype(np.int64), found[:, 1:]


def carried(connection: Connection, rows: Sequence[int]) -> list[tuple[Kind, int, int, float, float]]:
    """What all runs say of these rows: (kind, row, run, first value, second value)."""
    found: list[tuple[Kind, int, int, float, float]] = []
    listed = (json.dumps(list(rows)),)
    for kind in KINDS:
        table, column, names = _SAID[kind]
        query = f"SELECT row, {column}, {', '.join(names)} FROM {table} WHERE row {_AMONG}"
        found += [(kind, *row) for row in connection.execute(query, listed)]
    return found


def of_row(connection: Connection, row: int) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """What all runs say of one item: its clusters at the chosen levels, and its places, each by the run's name."""
    clustered, placed = {}, {}
    for run in read(connection, "clusterings"):
        for leaf, strength in connection.execute(
            "SELECT leaf, strength FROM labels WHERE clustering = ? AND row = ?", (run.id, row)
        ):
            try:
                found = clusters(run)
                number = None if leaf < 0 else found.numbers[leaf]
            except (StoreDamaged, IndexError):  # of the item all else is known
                continue
            name = None if number is None else found.names.get(number)
            clustered[run.name] = {"number": number, "name": name, "strength": strength}
    for run in read(connection, "maps"):
        for place in connection.execute("SELECT x, y FROM places WHERE map = ? AND row = ?", (run.id, row)):
            placed[run.name] = list(place)
    return clustered, placed


def count_placed(connection: Connection, kind: Kind, run: Run, count: int) -> None:
    """Note that so many items were placed into a run, read in the same transaction, after it was made."""
    change(connection, kind, run, {**run.made, "placed": placed_since(run) + count})


def placed_since(run: Run) -> int:
    """How many items were placed into a run after it was made."""
    return int(run.made.get("placed", 0))


def check_said(connection: Connection, kind: Kind, run: Run) -> npt.NDArray[np.float64]:
    """What a run, which `check` has found whole, says of all items (n, 3): row and the two values.

    Raises:
        StoreDamaged: a value is no number, or names a cluster that there isn't.
    """
    rows, values = said(connection, kind, run.id)
    if kind == "clusterings" and len(values):
        leaves = values[:, 0]
        if leaves.max() >= len(clusters(run).numbers) or leaves.min() < NOISE:
            raise StoreDamaged(f"clustering {run.name!r} has labels of no cluster: make it again")
    return np.column_stack([rows, values])


def noise(connection: Connection, run: Run) -> int:
    """How many items are in no cluster of a clustering."""
    query = "SELECT count(*) FROM labels WHERE clustering = ? AND leaf < 0"
    return int(connection.execute(query, (run.id,)).fetchone()[0])


def clusters(run: Run, level: int | None = None) -> Clusters:
    """A clustering at a level (default: the chosen one).

    Raises:
        StoreDamaged: the row doesn't describe its levels.
    """
    made = check("clusterings", run).made
    chosen = made["levels"][made["level"] if level is None else level]
    names = {int(number): name for number, name in chosen["names"].items()}
    others = {name: at for at, one in enumerate(made["levels"]) for name in one["names"].values()}
    return Clusters(run.id, chosen["of_leaf"], names, {n: at for n, at in others.items() if n not in names.values()})
