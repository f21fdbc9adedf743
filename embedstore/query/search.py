"""Vectors in, hits out: filters, the engine's plan, and rows turned into ids, metadata and pictures."""

from __future__ import annotations

import functools
import json
import math
import threading
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import FilterError
from embedstore.index import knobs
from embedstore.metadata import items
from embedstore.metadata.database import Database
from embedstore.query.engine import Answer, Engine
from embedstore.query.hits import Hits
from embedstore.query.texts import TextColumn, give_back
from embedstore.truth import pictures
from embedstore.truth.snapshot import Snapshots, SpaceView
from embedstore.types import Metadata, Metric, Vectors
from embedstore.validate import MAX_K

if TYPE_CHECKING:
    from sqlite3 import Connection

    from PIL import Image

    from embedstore.filters import Expression
    from embedstore.index.selection import Selection
    from embedstore.metadata.items import Condition
    from embedstore.query.matching import Match, Matcher

#: Answers whose ids are looked up in SQLite before the whole column is read: a process that asks once reads ten rows.
_COLD_ANSWERS, _COLD_ROWS = 3, 1_000
#: Metadata is kept in memory, as the ids are, while all of it is at most so long.
_METADATA_BYTES = 8 * 2**20
_MANY = 100_000  # ids whose reading leaves memory behind
_FLOAT32 = np.dtype(np.float32)


class Searcher:
    """Searches the newest commit of a store. Threads may share it."""

    def __init__(self, directory: Path, database: Database, snapshots: Snapshots) -> None:
        self.engine = Engine(directory)
        self.directory = directory
        self._database = database
        self._snapshots = snapshots
        self._lock = threading.Lock()
        self._ids: TextColumn | None = None
        self._metadata: TextColumn | None = None
        self._answers = 0
        self._reads: float = 0  # of metadata; infinite: there is too much to keep in memory

    def nearest(self, query: npt.NDArray[Any], k: int, recall: float | None, space: str | None) -> Hits | None:
        """The answer to one query vector without a filter, the short way; None where `search` has to be asked.

        Args:
            query: what was asked with, unchecked, as the rest.
            k: number of hits.
            recall: to aim at.
            space: its name.
        """
        plain = recall is None or (type(recall) is float and 0.0 < recall < 1.0)
        if not plain or type(k) is not int or not 1 <= k <= MAX_K:
            return None
        view = self._snapshots.current().view(space)
        direct = None if view is None else self.engine.direct(view, k, recall)
        if (
            direct is None
            or query.dtype is not _FLOAT32
            or query.shape != direct.shape
            or not query.flags.c_contiguous
            or (direct.minds_nan and not _can_be_asked(query, direct.metric))
        ):
            return None
        found = direct.ask(query)
        if found is None:
            return None
        distances, positions = found
        names = None if self._ids is None else self._ids.run(direct.shift, positions)
        if names is None:
            try:
                names = self.ids_of(direct.rows.take(positions))
            except KeyError:
                return None  # an item was deleted since the snapshot was taken
        read = self.read_metadata, self.read_images
        return Hits(names, distances, direct.metric, positions, *read, direct.stats(), direct.rows)

    def search(
        self,
        view: SpaceView,
        vectors: Vectors,
        k: int,
        *,
        matching: str | None = None,
        exact: bool = False,
        recall: float | None = None,
        without: npt.NDArray[np.int64] | None = None,
        explain: bool = False,
    ) -> list[Hits]:
        """Hits of each query vector, all of one commit.

        Args:
            view: of the space, from the newest commit.
            vectors: float32 (nq, d), checked.
            k: number of hits.
            matching: a filter.
            exact: scan everything.
            recall: to aim at.
            without: int64 (nq,): the row to leave out of each answer (the query's own).
            explain: add what the stages took to the answers' stats.
        """
        space = view.space.name
        match: Match | None = None
        allowed: Selection | None = None
        failed: SpaceView | None = None
        while True:
            clock = [time.perf_counter()] if explain else None
            computed = knobs.distances_computed() if explain else 0
            if matching is not None:
                match = self.matcher.match(matching, space)
                view, allowed = match.view, match.selection
                if clock:
                    clock.append(time.perf_counter())
            answer = self.engine.search(
                view, vectors, k + (without is not None), allowed=allowed, only_exact=exact, recall=recall
            )
            if clock:
                clock.append(time.perf_counter())
            try:
                hits = self._hits(view, answer, without, k)
            except KeyError:
                # An item of the answer was deleted, and its id forgotten, since the snapshot was taken.
                if view is failed:
                    raise
                failed, view = view, self._snapshots.current().spaces[space]
                continue
            if clock:
                _explain(answer.stats, [*clock, time.perf_counter()], match)
                computed = knobs.distances_computed() - computed
                answer.stats["distances"] = _scanned(answer.stats) * len(vectors) + computed
            return hits

    def _hits(self, view: SpaceView, answer: Answer, without: npt.NDArray[np.int64] | None, k: int) -> list[Hits]:
        """Each query's hits; ids are looked up for all of them together."""
        metric, stats = view.space.metric, answer.stats
        lists: list[npt.NDArray[np.int64]] = []
        far: list[npt.NDArray[np.float32]] = []
        for index, (positions, distances) in enumerate(zip(answer.positions, answer.distances, strict=True)):
            if len(positions) and positions[-1] < 0:
                real = positions >= 0
                positions, distances = positions[real], distances[real]
            rows = view.rows.take(positions)
            if without is not None:
                others = rows != without[index]
                rows, distances = rows[others][:k], distances[others][:k]
            lists.append(rows)
            far.append(distances)
        if not lists:
            return []
        names = self.ids_of(lists[0] if len(lists) == 1 else np.concatenate(lists))
        hits, end = [], 0
        for rows, distances in zip(lists, far, strict=True):
            start, end = end, end + len(rows)
            hits.append(Hits(names[start:end], distances, metric, rows, self.read_metadata, self.read_images, stats))
        return hits

    def hits_at(
        self, view: SpaceView, positions: npt.NDArray[np.int64], distances: npt.NDArray[np.float32], metric: Metric
    ) -> Hits:
        """Hits at positions, nearest first, whose distances are another metric's than the space's own."""
        rows = view.rows[positions]
        return Hits(self.ids_of(rows), distances, metric, rows, self.read_metadata, self.read_images, {"plan": "exact"})

    def nothing(self) -> Hits:
        """The answer of an empty store."""
        none = np.empty(0, dtype=np.int64)
        return Hits([], np.empty(0, np.float32), Metric.L2, none, self.read_metadata, self.read_images, {})

    @functools.cached_property
    def matcher(self) -> Matcher:
        """What answers filters."""
        from embedstore.query.matching import Matcher  # a process that asks without a filter doesn't wait for it

        return Matcher(self._database, self._snapshots, self._compiled)

    def condition(self, text: str, connection: Connection | None = None) -> Condition:
        """A filter as SQL, its fields checked against what the items have.

        Clusters are those of the moment: whoever has a transaction of its own compiles the filter in it.

        Raises:
            FilterError: it doesn't parse, or names a field that no item has.
        """
        from embedstore import filters  # a process that asks one question without a filter doesn't wait for them

        expression = filters.parse(text)
        with self._database.read() if connection is None else nullcontext(connection) as connection:
            return self._compiled(expression, text, connection)

    def _compiled(self, expression: Expression, text: str, connection: Connection) -> Condition:
        from embedstore import filters
        from embedstore.metadata import fields, runs, where

        try:  # the keys of the first items are nearly always all keys
            fields.check_fields(expression, fields.keys(connection, first=100), text)
        except FilterError:  # only a suspect field is worth a look at every row
            if items.count(connection):
                fields.check_fields(expression, fields.keys(connection), text)
        asked = runs.Runs()
        built_in = [field.path for field in filters.fields(expression) if field.built_in]
        if any(path[0] == "cluster" for path in built_in):
            meant = {path[1] if len(path) > 1 else None for path in built_in}
            clusterings: dict[str | None, runs.Clusters] = {}
            for run in runs.read(connection, "clusterings"):
                names = {run.name, None} if run.is_default else {run.name}
                found = runs.clusters(run) if names & meant else runs.Clusters(run.id, ())
                clusterings.update(dict.fromkeys(names, found))
            asked = replace(asked, clusterings=clusterings)
        if any(path[0] == "map" for path in built_in):
            maps: dict[str | None, int] = {}
            for run in runs.read(connection, "maps"):
                maps.update(dict.fromkeys({run.name, None} if run.is_default else {run.name}, run.id))
            asked = replace(asked, maps=maps)
        return where.to_condition(expression, text, asked)

    def ids_of(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Ids of rows, in order."""
        column = self._ids
        if column is None:
            self._answers += 1
            if self._answers <= _COLD_ANSWERS and len(rows) <= _COLD_ROWS:
                named = {row: name for row, name, _ in self._snapshots.hot().rows(rows.tolist())}
                return [named[row] for row in rows.tolist()]
            column = self._column()
        try:
            return column.lookup(rows)
        except KeyError:
            return self._column().lookup(rows)

    def _column(self) -> TextColumn:
        with self._lock:
            parts = list(items.texts(self._database.read, "id", _last(self._ids)))
            self._ids = column = _grown(self._ids, parts)
            if sum(len(rows) for rows, _ in parts) >= _MANY:
                del parts
                give_back()
            return column

    def read_metadata(self, rows: npt.NDArray[np.int64]) -> list[Metadata]:
        """Metadata of rows, in order; of rows deleted since it may be empty."""
        # One document for all: a call of the parser costs more than what is in a short text.
        parsed: list[Metadata] = json.loads(f"[{','.join(self._metadata_of(rows))}]")
        return parsed

    def _metadata_of(self, rows: npt.NDArray[np.int64]) -> list[str]:
        self._reads += 1
        if _COLD_ANSWERS < self._reads < math.inf:
            column = self._metadata or self._metadata_column()
            with suppress(KeyError):
                return column.lookup(rows)
            with suppress(KeyError):
                return self._metadata_column().lookup(rows)
        wanted = rows.tolist()
        found = {row: text for row, _, text in self._snapshots.hot().rows(wanted)}
        return [found.get(row, "{}") for row in wanted]

    def _metadata_column(self) -> TextColumn:
        with self._lock:
            after, room = _last(self._metadata), _METADATA_BYTES - (self._metadata.size if self._metadata else 0)
            with self._database.read() as connection:
                too_much = items.more_metadata_than(connection, room, after)
            if too_much:
                self._metadata, self._reads = None, math.inf
                return _grown(None, [])
            parts = list(items.texts(self._database.read, "metadata", after))
            self._metadata = column = _grown(self._metadata, parts)
            return column

    def read_images(self, rows: npt.NDArray[np.int64]) -> list[Image.Image | None]:
        """Stored pictures of rows, in order."""
        return pictures.read(self.directory, self._database, rows)


def _can_be_asked(query: Vectors, metric: Metric) -> bool:
    """Whether a vector is finite, and not so long that its distances are none; what else it is `search` says.

    Of l2 the distances tell that themselves. (A product would tell of both, and let go of Python's lock.)
    """
    if b"\0" in np.isfinite(query).tobytes():
        return False
    if metric is Metric.L2:
        return True
    with np.errstate(all="ignore"):
        return float(query.dot(query)) < math.inf


def _scanned(stats: dict[str, Any]) -> int:
    """Rows that a plan and its parts have scanned for each query."""
    parts = stats["plan"] if isinstance(stats.get("plan"), list) else []
    return int(stats.get("scanned", 0)) + sum(map(_scanned, parts))


def _explain(stats: dict[str, Any], clock: list[float], match: Match | None) -> None:
    if match is not None:
        stats |= {"filter": match.how, "matches": match.selection.count, "expected": match.expected}
    stages = (["filter"] if len(clock) == 4 else []) + ["search", "ids"]
    stats["seconds"] = {stage: end - start for stage, (start, end) in zip(stages, pairwise(clock), strict=True)}


def _last(column: TextColumn | None) -> int:
    return 0 if column is None else column.last


def _grown(column: TextColumn | None, parts: list[tuple[npt.NDArray[np.int64], bytes]]) -> TextColumn:
    """A column with parts as `items.texts` gives them behind."""
    if not parts:
        return column or TextColumn.of(np.empty(0, dtype=np.int64), b"")
    rows, joined = np.concatenate([rows for rows, _ in parts]), b"\0".join([text for _, text in parts])
    return TextColumn.of(rows, joined) if column is None else column.grown(rows, joined)
