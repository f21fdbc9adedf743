"""Items as a stream of columns, batch by batch, for export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedstore.export import Records
from embedstore.metadata import catalog, items
from embedstore.metadata.database import Database
from embedstore.progress import Progress
from embedstore.query.resolve import vectors_of_rows
from embedstore.query.search import Searcher
from embedstore.truth.snapshot import Snapshots, SpaceView

if TYPE_CHECKING:
    from PIL import Image

_BATCH = 2048


@dataclass(frozen=True, slots=True)
class Stream:
    """Items of one commit.

    Attributes:
        records: batch by batch.
        keys: every metadata key that occurs, sorted.
        count: number of items.
        dimension: of their vectors; None without any.
    """

    records: Iterator[Records]
    keys: list[str]
    count: int
    dimension: int | None


def stream(
    searcher: Searcher,
    database: Database,
    snapshots: Snapshots,
    *,
    matching: str | None = None,
    space: str | None = None,
    vectors: bool = True,
    progress: bool = False,
) -> Stream:
    """The items (that match a filter) of the newest commit, in the order they were added.

    The rows are read at once, vectors and pictures as they are asked for: a transaction held open for as long as an
    export takes would keep every writer waiting.
    """
    while True:
        with database.read() as connection:
            condition = None if matching is None else searcher.condition(matching, connection)
            seq = catalog.read_state(connection).seq
            rows = items.rows_where(connection, condition)
            found = items.records(connection, rows)
            keys = sorted(items.metadata_keys(connection))
        snapshot = snapshots.current()
        if snapshot.seq == seq:
            break
    view = snapshot.view(space)
    view = view if vectors else None
    dimension = None if view is None else view.space.dimension
    return Stream(_batches(searcher, view, found, progress), keys, len(found), dimension)


def _batches(
    searcher: Searcher, view: SpaceView | None, found: list[tuple[int, str, str, str | None]], progress: bool
) -> Iterator[Records]:
    with Progress("exporting", len(found), progress) as bar:
        for start in range(0, len(found), _BATCH):
            part = found[start : start + _BATCH]
            rows = np.fromiter((row for row, _, _, _ in part), dtype=np.int64, count=len(part))
            yield Records(
                ids=[name for _, name, _, _ in part],
                metadata=[json.loads(text) for _, _, text, _ in part],
                sources=[source for _, _, _, source in part],
                vectors=None if view is None else vectors_of_rows(view, rows),
                pictures=partial(_picture, searcher, rows, {}),
            )
            bar.advance(len(part))


def _picture(
    searcher: Searcher, rows: npt.NDArray[np.int64], read: dict[int, Image.Image | None], index: int
) -> Image.Image | None:
    if not read:  # all of the batch with the first one asked for
        read.update(enumerate(searcher.read_images(rows)))
    return read[index]
