"""Clusterings as the store keeps them: made, named, listed, chosen and forgotten."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.errors import EmbedstoreError, InvalidArgument
from embedstore.explore import grouping, sampled, stored
from embedstore.metadata import runs
from embedstore.metadata.runs import Run
from embedstore.truth.placing import LEAST_STRENGTH, assign, prepared
from embedstore.truth.writer import Writer

FEWEST = 10  # items
MOST = 500  # clusters that can be asked for
_LONGEST = 100  # letters of a name
_PLACED = 65_536  # items at a time
_APART = -2  # in the place of a leaf: of an item that was looked at, and lies with too few others


@dataclass(frozen=True, slots=True)
class Level:
    """One granularity of a clustering.

    Attributes:
        clusters: how many.
        stability: mean adjusted Rand index between the groups found with all neighbours and with two thirds of them.
        gap: eigengap after this number of groups, relative to the largest one: how much the graph suggests it.
        names: of the clusters that were given one, by number.
    """

    clusters: int
    stability: float
    gap: float
    names: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Clustering:
    """A stored clustering.

    Attributes:
        name: unique in the store.
        space: its space's name.
        levels: from coarse to fine.
        level: which one ``cluster`` means in filters, from 0.
        items: that it was made from.
        noise: items that are in no cluster now.
        placed: items that were added since, and placed without refitting.
        commit: of the store that it was made at.
        created: when, ISO 8601.
        is_default: whether it is meant where none is named.
        seconds: that making it took.
        asked: number of clusters that was asked for.
    """

    name: str
    space: str
    levels: tuple[Level, ...]
    level: int
    items: int
    noise: int
    placed: int
    commit: int
    created: str
    is_default: bool
    seconds: float
    asked: int | None

    @property
    def clusters(self) -> int:
        """How many there are at the chosen level."""
        return self.levels[self.level].clusters

    @property
    def is_stable(self) -> bool:
        """Whether the groups hold when neighbours are left out; those that are found in mere noise don't.

        A number of groups that was asked for is another question, and counts as stable.
        """
        return self.asked is not None or self.levels[self.level].stability >= grouping.STABLE


def make(
    space: LatentSpace,
    writer: Writer,
    name: str,
    k: int | None,
    *,
    assign_noise: bool,
    seed: int,
    progress: bool,
) -> Clustering:
    """Find clusters and store them in place of a clustering of the same name; it becomes the default one.

    Raises:
        InvalidArgument: a name or number that can't be, or too few items, or all of them alike.
    """
    stored.check_name(name, "clustering")
    count = len(space.positions(None))
    if count < FEWEST:
        raise InvalidArgument(f"{count:,} items are too few for clusters: at least {FEWEST} are needed")
    if k is not None:
        k = stored.whole_number(k, "the number of clusters", 2, MOST)
    if k is not None and k > count // 2:
        raise InvalidArgument(f"{count:,} items can't be put into {k:,} clusters: ask for at most {count // 2:,}")
    start = time.perf_counter()
    before = stored.state(writer)
    sample = sampled.take(space, least=max(FEWEST, 2 * (k or 0)), progress=progress)
    from embedstore.models import labelling  # and with it torch, which too few items needn't wait for

    levels, main = grouping.levels(sample.latents, sample.neighbours, k, seed=seed, progress=progress)
    labels = np.stack([level.labels for level in levels], axis=1)  # (n, levels)
    inside: npt.NDArray[np.bool_] = np.all(labels >= 0, axis=1)
    place = labelling.fit(sample.latents[inside], list(labels[inside].T), seed=seed, progress=progress)
    leaves, leaf = np.unique(labels[inside], axis=0, return_inverse=True)
    made: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "asked": k,
        "seed": seed,
        "items": count,
        "fitted": len(sample.positions),
        "assign_noise": assign_noise,
        "seconds": 0.0,  # until all is done
        "level": main,
        "main": main,
        "levels": [
            {"stability": level.stability, "gap": level.gap, "of_leaf": leaves[:, i].tolist(), "names": {}}
            for i, level in enumerate(levels)
        ],
    }
    run = Run(0, space.view.space.id, name, before.seq, before.next_row, "", True, made)
    # Of the items that it was fitted to, the groups are known; the network says how sure they are, and places the rest.
    own = np.full(len(inside), _APART, dtype=np.int64)
    own[inside] = leaf.ravel()
    known = sample.spread(own, len(space.view.rows), -1)
    positions = space.positions(None)
    found, strengths = _placed(space, run, place, positions, known[positions])
    if not assign_noise:
        # A few items by themselves are nowhere near what the network has seen, whatever it says of them.
        strengths[known[positions] == _APART] = 0
        found[strengths < LEAST_STRENGTH] = runs.NOISE
    for level, names in zip(made["levels"], _carried_names(space, run, positions, found), strict=True):
        level["names"] = names
    made["seconds"] = time.perf_counter() - start
    stored.store(space, writer, "clusterings", run, {"place": place}, positions, (found, strengths))
    return get(space, name)


def _placed(
    space: LatentSpace, run: Run, place: Any, positions: npt.NDArray[np.int64], known: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    found, strengths = np.empty(len(positions), np.int64), np.empty(len(positions), np.float32)
    main = int(run.made["main"])
    numbers = np.array(run.made["levels"][main]["of_leaf"])
    sizes = [max(level["of_leaf"]) + 1 for level in run.made["levels"]]
    for start in range(0, len(positions), _PLACED):
        part = slice(start, start + _PLACED)
        odds = place(prepared(space.vectors(positions[part]), space.view.space.metric))
        leaves, sure = assign(run, odds)
        given = known[part] >= 0
        leaves[given] = known[part][given]
        own = np.split(odds, np.cumsum(sizes)[:-1], axis=1)[main]
        own = np.exp(own - own.max(axis=1, keepdims=True))
        share = own[np.arange(len(own)), numbers[leaves]] / own.sum(axis=1)
        found[part], strengths[part] = leaves, np.where(given, share, sure)
    return found, strengths


def _carried_names(
    space: LatentSpace, run: Run, positions: npt.NDArray[np.int64], leaves: npt.NDArray[np.int64]
) -> list[dict[str, str]]:
    """Of each level, the names by number that clusters take over from the clustering that this one replaces.

    A name goes to the new cluster that shares most items with the old one: more than half of those in either.
    """
    found: list[dict[str, str]] = [{} for _ in run.made["levels"]]
    if run.name not in stored.names(space, "clusterings"):
        return found
    try:
        old = get(space, run.name)
        before = [(labels(space, run.name, at)[0], one.names) for at, one in enumerate(old.levels) if one.names]
    except EmbedstoreError:  # unreadable, which is one reason to make it again
        return found
    new = [np.array([*level["of_leaf"], runs.NOISE])[leaves] for level in run.made["levels"]]
    for numbers, names in before:
        for number, name in names.items():
            own = numbers == number
            best = (0.5, 0, 0)
            for at, level in enumerate(new):
                inside = np.bincount(level[own & (level >= 0)], minlength=1)
                every = np.bincount(level[level >= 0], minlength=len(inside))[: len(inside)] + own.sum() - inside
                share = inside / np.maximum(every, 1)
                best = max(best, (float(share.max()), -at, int(share.argmax())))
            share, at, cluster = best[0], -best[1], str(best[2])
            if share > 0.5 and cluster not in found[at] and name not in found[at].values():
                found[at][cluster] = name
    return found


def every(space: LatentSpace) -> list[Clustering]:
    """All clusterings of a space, by name."""
    with space.database.read() as connection:
        return [_described(connection, space, run) for run in runs.read(connection, "clusterings", space.view.space)]


def get(space: LatentSpace, name: str | None = None) -> Clustering:
    """One clustering.

    Raises:
        UnknownRun: there is none of this name (None: none at all).
    """
    run = stored.find(space, "clusterings", name)
    with space.database.read() as connection:
        return _described(connection, space, run)


def _described(connection: Any, space: LatentSpace, run: Run) -> Clustering:
    levels = []
    for number, level in enumerate(runs.check("clusterings", run).made["levels"]):
        found = runs.clusters(run, number)
        levels.append(Level(max(found.numbers) + 1, level["stability"], level["gap"], dict(found.names)))
    return Clustering(
        run.name,
        space.view.space.name,
        tuple(levels),
        int(run.made["level"]),
        int(run.made["items"]),
        runs.noise(connection, run),
        runs.placed_since(run),
        run.seq,
        str(run.made["created"]),
        run.is_default,
        float(run.made["seconds"]),
        run.made["asked"],
    )


def use(space: LatentSpace, writer: Writer, name: str, level: int | None) -> None:
    """Make a clustering the default one, at a level (from 0)."""
    with stored.changing(space, writer, "clusterings", name, "choosing a clustering") as (connection, run):
        runs.choose(connection, "clusterings", run.id)
        runs.change(connection, "clusterings", run, {**run.made, "level": level_of(run, level)})


def name_cluster(
    space: LatentSpace, writer: Writer, cluster: int | str, label: str, name: str | None, level: int | None
) -> int:
    """Give a cluster, known by its number or name, a name, or take it away with an empty one; returns its number."""
    if not isinstance(label, str) or len(label) > _LONGEST or not label.isprintable():
        raise InvalidArgument(f"{str(label)[:40]!r} can't name a cluster: use up to {_LONGEST} printable characters")
    label = label.strip()
    if label.removeprefix("-").isdecimal():
        raise InvalidArgument(f"{label!r} would be taken for a cluster's number: name it with a word")
    with stored.changing(space, writer, "clusterings", name, "naming a cluster") as (connection, run):
        chosen = level_of(run, level)
        found = runs.clusters(run, chosen)
        number = _number(found, cluster)
        taken = {text: owner for owner, text in found.names.items() if owner != number}
        if label in taken:
            raise InvalidArgument(f"cluster {taken[label]} is named {label!r} already: choose another name")
        names = {str(key): text for key, text in {**found.names, number: label}.items() if text}
        levels = [dict(one) for one in run.made["levels"]]
        levels[chosen]["names"] = names
        runs.change(connection, "clusterings", run, {**run.made, "levels": levels})
    return number


def _number(found: runs.Clusters, cluster: int | str) -> int:
    if not isinstance(cluster, str):
        return stored.whole_number(cluster, "a cluster's number", 0, max(found.numbers))
    for number, label in found.names.items():
        if label == cluster:
            return number
    known = f" or one of the names {', '.join(map(repr, found.names.values()))}" if found.names else ""
    raise InvalidArgument(f"no cluster is named {cluster!r}: give its number{known}")


def level_of(run: Run, level: int | None) -> int:
    """A level of a clustering; without one the chosen one."""
    if level is None:
        return int(run.made["level"])
    return stored.whole_number(level, f"a level of clustering {run.name!r}", 0, len(run.made["levels"]) - 1)


def labels(
    space: LatentSpace, name: str | None = None, level: int | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Cluster (n,) and strength (n,) of all live items in the order of their positions; -1 where an item is in none."""
    run = stored.find(space, "clusterings", name)

    def read() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        with space.database.read() as connection:
            said = runs.check_said(connection, "clusterings", run)
        found = stored.aligned(space, said[:, 0].astype(np.int64), said[:, 1:], -1.0)
        numbers = np.array([*runs.clusters(run, level_of(run, level)).numbers, runs.NOISE])
        return numbers[found[:, 0].astype(np.int64)], np.maximum(found[:, 1], 0.0)

    return space.once(("labels", run.id, run.model, run.seq, level, run.made["level"]), read)
