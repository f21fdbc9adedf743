"""Named runs, clusterings and maps, as the store keeps them: found, stored, brought up to date and forgotten."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from sqlite3 import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.errors import InvalidArgument, UnknownRun
from embedstore.metadata import catalog, items, runs
from embedstore.metadata.runs import Run
from embedstore.models import network
from embedstore.models.network import Network
from embedstore.truth.layout import MODELS
from embedstore.truth.writer import Writer

DEFAULT = "default"
_LONGEST = 100  # letters of a name


def find(space: LatentSpace, kind: runs.Kind, name: str | None) -> Run:
    """The run of a name, or the default one.

    Raises:
        UnknownRun: there is none; StoreDamaged: it doesn't say what a run has to.
    """
    with space.database.read() as connection:
        return runs.check(kind, _named(connection, space, kind, name))


def _named(connection: Connection, space: LatentSpace, kind: runs.Kind, name: str | None) -> Run:
    found = {run.name: run for run in runs.read(connection, kind, space.view.space)}
    word = kind[:-1]
    if name is None:
        chosen = [run for run in found.values() if run.is_default] or list(found.values())[-1:]
        if not chosen:
            verb = "cluster" if word == "clustering" else "map"
            raise UnknownRun(f"there is no {word} yet: `embedstore {verb} STORE` makes one")
        return chosen[0]
    check_name(name, word)
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(map(repr, found)) or 'none yet'}"
        raise UnknownRun(f"no {word} is named {name!r}: {hint}")
    return found[name]


def names(space: LatentSpace, kind: runs.Kind) -> list[str]:
    """Names of all runs, also of unreadable ones, the default one first."""
    with space.database.read() as connection:
        found = runs.read(connection, kind, space.view.space)
    return [run.name for run in sorted(found, key=lambda run: not run.is_default)]


@contextmanager
def changing(
    space: LatentSpace, writer: Writer, kind: runs.Kind, name: str | None, purpose: str
) -> Iterator[tuple[Connection, Run]]:
    """A transaction with the run as it is in it: whoever changes it at the same time comes before or after."""
    with writer.locked(purpose), writer.database.write() as connection:
        run = runs.check(kind, _named(connection, space, kind, name))
        catalog.advance(connection)
        yield connection, run


def state(writer: Writer) -> catalog.State:
    """The store as it is before a run is made.

    Raises:
        StoreReadOnly: none can be stored.
    """
    writer.check_writable()
    with writer.database.read() as connection:
        return catalog.read_state(connection)


def store(
    space: LatentSpace,
    writer: Writer,
    kind: runs.Kind,
    run: Run,
    networks: Mapping[str, Network],
    positions: npt.NDArray[np.int64],
    values: Any,
) -> None:
    """Commit a run, its networks, and what it says of the items at positions; those deleted meanwhile are left out.

    Those that were added meanwhile are for `catch_up`. The file is written under the lock: a compaction would sweep one
    that no row names yet.
    """
    first, second = values
    rows = space.view.rows[positions]
    with writer.locked(f"storing a {kind[:-1]}"), writer.database.write() as connection:
        model = network.save(writer.directory / MODELS, kind[:-1], networks)
        catalog.advance(connection)
        number = runs.add(connection, kind, replace(run, model=model))
        kept = np.isin(rows, items.rows_where(connection, None), assume_unique=True)
        runs.say(connection, kind, number, rows[kept], (first[kept], second[kept]))


def catch_up(space: LatentSpace, writer: Writer, kind: runs.Kind, name: str) -> None:
    """Place the items that a run doesn't know: those that were added while it was made. Later ones, adding places."""
    run = find(space, kind, name)
    with space.database.read() as connection:
        known, _ = runs.said(connection, kind, run.id)
    live = space.view.rows[space.positions(None)]
    missed = np.setdiff1d(live, known, assume_unique=True)
    if len(missed):
        writer.place(space.view.space, missed, space.vectors(space.view.positions(missed)), (kind, run.id))


def remove(space: LatentSpace, writer: Writer, kind: runs.Kind, name: str) -> None:
    """Forget a clustering or a map, also one that is unreadable."""
    with writer.locked(f"removing a {kind[:-1]}"), writer.database.write() as connection:
        run = _named(connection, space, kind, name)
        catalog.advance(connection)
        runs.remove(connection, kind, run)


def check_name(name: object, what: str) -> None:
    """Raise InvalidArgument for what can't name a clustering or a map, on a command line and in a filter."""
    whole = isinstance(name, str) and 0 < len(name) <= _LONGEST and name.isprintable() and name == name.strip()
    if not whole or set("=,'\"()`") & set(str(name)):
        raise InvalidArgument(
            f"{name!r} can't name a {what}: use up to {_LONGEST} printable characters without = , ( ) and quotes"
        )


def whole_number(value: object, what: str, least: int, most: int) -> int:
    """The value, where it is a whole number in these bounds; InvalidArgument where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= most:
        raise InvalidArgument(f"{what} is {value!r}, but must be a whole number from {least:,} to {most:,}")
    return int(value)


def seeded(space: LatentSpace, seed: int | None) -> int:
    """A seed that all libraries take: the one given, or the store's."""
    return (space.seed if seed is None else whole_number(seed, "seed", 0, 2**63 - 1)) % 2**31


def aligned(
    space: LatentSpace, rows: npt.NDArray[np.int64], values: npt.NDArray[Any], nothing: Any
) -> npt.NDArray[Any]:
    """What is said of item rows (m,), ascending, for all live items (n, ...) in the order of their positions."""
    live = space.view.rows[space.positions(None)]
    found = np.full((len(live), *values.shape[1:]), nothing, dtype=values.dtype)
    place = np.searchsorted(live, rows)
    place[place == len(live)] = 0
    there = live[place] == rows
    found[place[there]] = values[there]
    return found
