"""A latent space at one commit, with everything about it that is computed once: means, neighbours, the usual distances.

An object is made anew for every commit, so nothing in it can be out of date.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from embedstore.encoders.loaded import Encoders
from embedstore.errors import EmbedstoreError, NoDecoder, NothingMatches, UnknownItem
from embedstore.index import exact
from embedstore.index.selection import Selection
from embedstore.latent import support
from embedstore.metadata import items
from embedstore.metadata.database import Database
from embedstore.progress import Progress
from embedstore.query.resolve import ItemRef, resolve
from embedstore.query.search import Searcher
from embedstore.truth.snapshot import SpaceView
from embedstore.types import Latent, Metric, Vectors
from embedstore.validate import as_vectors, check_queries

T = TypeVar("T")

_KEPT = 64  # results: means, filters' positions (8 bytes an item), ways of directions (1 MB)
_BLOCK = 65_536  # vectors read at a time
_QUERIES = 4_096  # searched at a time
GRAPH_NEIGHBOURS = 12
_MEDOID_CANDIDATES, _MEDOID_SAMPLE = 200, 2_000


class Spaces:
    """The latent spaces of one store, each as of the newest commit."""

    def __init__(self, database: Database, searcher: Searcher, encoders: Encoders) -> None:
        self._shared = database, searcher, encoders
        self._made: dict[str, LatentSpace] = {}

    def forget(self) -> None:
        """Let go of all spaces, and so of their files."""
        self._made.clear()

    def at(self, view: SpaceView, seed: int) -> LatentSpace:
        """What is known of a space at its newest commit."""
        kept = self._made.get(view.space.name)
        if kept is None or kept.view is not view:
            kept = self._made[view.space.name] = LatentSpace(view, *self._shared, seed)
        return kept


class LatentSpace:
    """One space at one commit. Threads may share it.

    Attributes:
        view: its vectors and rows.
        database: of the store.
        seed: of every random choice.
    """

    def __init__(self, view: SpaceView, database: Database, searcher: Searcher, encoders: Encoders, seed: int) -> None:
        self.view = view
        self.database = database
        self.searcher = searcher
        self.seed = seed
        self._encoders = encoders
        self._lock = threading.RLock()
        self._selection: tuple[npt.NDArray[np.int64], Selection] | None = None
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()  # what was asked for last comes last

    @property
    def dimension(self) -> int:
        """Length of its latents."""
        return self.view.space.dimension

    def latent(self, vector: npt.ArrayLike) -> Latent:
        """A vector (d,) as a latent of this space."""
        space = self.view.space
        return Latent(np.asarray(vector, dtype=np.float32), space.name, space.fingerprint)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, computed once for this commit (of much that is asked for, the last 64 are kept)."""
        with self._lock:  # whoever comes second waits for what the first one computes
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                self._kept[key] = make()
            found: T = self._kept[key]
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return found

    # What items there are

    def positions(self, where: str | None) -> npt.NDArray[np.int64]:
        """Positions of the live items that match, ascending.

        Raises:
            FilterError: it doesn't parse, or names a field that no item has.
            NothingMatches: no item does.
        """

        def find() -> npt.NDArray[np.int64]:
            if where is None:
                found = self.view.live_positions()
            else:
                with self.database.read() as connection:
                    condition = self.searcher.condition(where, connection)
                    found = self.view.positions(items.rows_where(connection, condition))
            if not len(found):
                raise NothingMatches("the store has no items" if where is None else f"no item matches {where}")
            return found

        return self.once(("positions", where), find)

    def sample(self, where: str | None, limit: int) -> npt.NDArray[np.int64]:
        """At most ``limit`` of the matching positions, ascending: the same ones every time."""
        found = self.positions(where)
        if len(found) <= limit:
            return found
        chosen = np.random.default_rng(self.seed).choice(len(found), limit, replace=False)
        return found[np.sort(chosen)]

    def vectors(self, positions: npt.NDArray[np.int64]) -> Vectors:
        """Latents (n, d) at positions."""
        return self.view.vectors.read(positions)

    def ids(self, positions: npt.NDArray[np.int64]) -> list[str]:
        """Ids of the items at positions.

        Raises:
            UnknownItem: one was deleted, and its id forgotten, since this commit.
        """
        try:
            return self.searcher.ids_of(self.view.rows[positions])
        except KeyError:
            raise UnknownItem("an item of the answer was deleted while it was computed: ask again") from None

    def resolved(self, values: Iterable[Any]) -> tuple[Vectors, npt.NDArray[np.int64]]:
        """Ids, latents, vectors, pictures, in any mixture, as vectors (n, d) and item rows (n,), -1 for what is none.

        Raises:
            UnknownItem, SpaceMismatch, InvalidVector, ...: what a search raises.
        """
        queries = [ItemRef(value) if isinstance(value, str) else value for value in values]
        found = resolve(queries, self.view, self.database, lambda pictures: self.encoder().encode(pictures))
        return found.vectors, np.full(len(queries), -1) if found.own is None else found.own

    def checked(self, latents: Any) -> Vectors:
        """Latents of this space (n, d): a Latent, an array, a list of Latents, an id or a list of them.

        Raises:
            InvalidVector, DimensionMismatch, SpaceMismatch, UnknownItem.
        """
        if isinstance(latents, str) or (isinstance(latents, (list, tuple)) and _all_texts(latents)):
            return self.resolved([latents] if isinstance(latents, str) else latents)[0]
        if isinstance(latents, Latent) or (isinstance(latents, (list, tuple)) and _some_latent(latents)):
            return self.resolved([latents] if isinstance(latents, Latent) else latents)[0]
        if not isinstance(latents, np.ndarray) and isinstance(latents, Sequence) and len(latents):
            self.resolved(latents[:1] if isinstance(latents[0], Latent) else [])  # a path's stops are of one space
        vectors = as_vectors(latents, "latents")
        if len(vectors):
            check_queries(vectors, self.dimension, self.view.space.metric)
        return vectors

    # Means

    def mean(self, where: str) -> Vectors:
        """Mean (d,) of the latents of the items that match."""

        def compute() -> Vectors:
            positions = self.positions(where)
            total = np.zeros(self.dimension)
            for start in range(0, len(positions), _BLOCK):
                total += self.vectors(positions[start : start + _BLOCK]).sum(axis=0, dtype=np.float64)
            return (total / len(positions)).astype(np.float32)

        return self.once(("mean", where), compute)

    def medoid(self, where: str) -> int:
        """Position of the matching item with the least sum of Euclidean distances to the matching items.

        Exact among up to 2,000 items; of more, the best of the 200 nearest to their mean, measured on 2,000 of them.
        """

        def compute() -> int:
            sample = self.sample(where, _MEDOID_SAMPLE)
            others = self.vectors(sample)
            candidates = sample
            if len(self.positions(where)) > len(sample):
                every = self.positions(where)
                far = np.concatenate(
                    [
                        np.linalg.norm(self.vectors(every[start : start + _BLOCK]) - self.mean(where), axis=1)
                        for start in range(0, len(every), _BLOCK)
                    ]
                )
                candidates = np.sort(every[np.argpartition(far, _MEDOID_CANDIDATES)[:_MEDOID_CANDIDATES]])
            sums = [np.linalg.norm(others - one, axis=1).sum(dtype=np.float64) for one in self.vectors(candidates)]
            return int(candidates[int(np.argmin(sums))])

        return self.once(("medoid", where), compute)

    # Neighbours

    def nearest(
        self, points: Vectors, k: int, among: npt.NDArray[np.int64] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Distances and positions (n, k) of the items nearest to points, k cut to the number of items.

        By the space's metric. An inner product is none (the nearest item may be the longest one), so that in such a
        space distances are Euclidean here. A point of length 0 has no cosine; its distances are 1, as to what is
        at a right angle to it.

        Args:
            points: float32 (n, d).
            k: number of neighbours.
            among: positions (m,) of the items that count; None: all.

        Raises:
            NothingMatches: the store is empty.
        """
        every = self.positions(None) if among is None else among
        k = min(k, len(every))
        distances = np.ones((len(points), k), dtype=np.float32)
        positions = np.repeat(every[None, :k], len(points), axis=0)
        selected = None if among is None else self._selected(among)
        cosine = self.view.space.metric is Metric.COSINE
        rows = np.flatnonzero(points.any(axis=1)) if cosine else np.arange(len(points))
        for start in range(0, len(rows), _QUERIES):
            part = rows[start : start + _QUERIES]
            queries = np.ascontiguousarray(points[part], dtype=np.float32)
            distances[part], positions[part] = self._search(queries, k, selected)
        return distances, positions

    def _search(
        self, queries: Vectors, k: int, selected: Selection | None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        if self.view.space.metric is not Metric.IP:
            answer = self.searcher.engine.search(self.view, queries, k, allowed=selected)
            return answer.distances, answer.positions
        among = self.positions(None) if selected is None else selected.positions
        return exact.search(list(self.view.vectors.blocks()), queries, k, Metric.L2, among=among)

    def _selected(self, among: npt.NDArray[np.int64]) -> Selection:
        """Positions, as searches take them; whoever asks in parts asks with the same array."""
        kept = self._selection
        if kept is None or kept[0] is not among:
            kept = self._selection = (among, Selection.of(among, len(self.view.rows)))
        return kept[1]

    def others(
        self,
        own: npt.NDArray[np.int64],
        k: int,
        among: npt.NDArray[np.int64] | None = None,
        *,
        progress: bool = False,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The same for items at positions (n,), themselves left out."""
        k = min(k, len(self.positions(None) if among is None else among) - 1)
        distances = np.empty((len(own), k), dtype=np.float32)
        positions = np.empty((len(own), k), dtype=np.int64)
        with Progress("looking for neighbours", len(own), progress) as bar:
            for start in range(0, len(own), _QUERIES):
                part = own[start : start + _QUERIES]
                far, found = self.nearest(self.vectors(part), k + 1, among)
                itself = found == part[:, None]
                # Where so many duplicates hide an item that it isn't among its own, the farthest goes instead.
                itself[~itself.any(axis=1), -1] = True
                distances[start : start + len(part)] = far[~itself].reshape(len(part), k)
                positions[start : start + len(part)] = found[~itself].reshape(len(part), k)
                bar.advance(len(part))
        return distances, positions

    def around(self, points: Vectors, k: int) -> Vectors:
        """Latents (n, k, d) of the items nearest to points."""
        _, positions = self.nearest(points, k)
        return self.vectors(positions.ravel()).reshape(*positions.shape, self.dimension)

    def graph(self, progress: bool = False) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The neighbour graph of all live items: neighbours and lengths (n, k), counting live positions from 0."""

        def build() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
            live = self.view.live_positions()
            lengths, found = self.others(live, GRAPH_NEIGHBOURS, progress=progress)
            return np.where(found < 0, -1, np.searchsorted(live, found)), lengths

        return self.once("graph", build)

    # In bounds or not

    def usual(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Of a sample of items, ascending: mean distance to the nearest five, and distance to the very nearest."""

        def measure() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
            distances, _ = self.others(self.sample(None, support.SAMPLE), support.NEIGHBOURS)
            first = distances[:, 0] if distances.shape[1] else np.zeros(len(distances))
            return np.sort(support.neighbour_distance(distances)), np.sort(first.astype(np.float64))

        return self.once("usual", measure)

    def support(self, latents: Vectors) -> npt.NDArray[np.float64]:
        """Of each latent (n,), in [0, 1]: the share of items that lie at least as far from their neighbours.

        An item's own latent is measured as the item is: by its distance to others.
        """
        distances, _ = self.nearest(latents, support.NEIGHBOURS + 1)
        same = distances[:, 0] <= 1e-6 * np.maximum(1.0, np.linalg.norm(latents, axis=1))
        if distances.shape[1] > 1:
            distances = np.where(same[:, None], distances[:, 1:], distances[:, :-1])
        return support.support(support.neighbour_distance(distances), self.usual()[0])

    # Pictures

    def encoder(self) -> Any:
        """The space's encoder.

        Raises:
            NoEncoder: it holds precomputed vectors.
        """
        return self._encoders.get(self.view.space.encoder, self.view.space.fingerprint)

    def decode(self, latents: Vectors) -> npt.NDArray[np.uint8]:
        """Pictures (n, h, w, c).

        Raises:
            NoDecoder: the space can't.
        """
        return self._encoders.decode(self.view.space.encoder, self.view.space.fingerprint, latents)

    @property
    def can_decode(self) -> bool:
        """Whether its latents can be shown as pictures."""
        try:
            self.decode(np.zeros((1, self.dimension), dtype=np.float32))
        except NoDecoder:
            return False
        return True

    def pull_back(self) -> Any:
        """The decoder's `pull_back`.

        Raises:
            NoDecoder: there is no decoder, or one without gradients.
        """
        self.decode(np.zeros((1, self.dimension), dtype=np.float32))  # says what is missing
        found = getattr(self.encoder(), "pull_back", None)
        if found is None:
            raise NoDecoder("this space's decoder gives no gradients, which a geodesic needs: use the method density")
        return found


def _all_texts(values: Sequence[Any]) -> bool:
    return len(values) > 0 and all(isinstance(value, str) for value in values)


def _some_latent(values: Any) -> bool:
    if any(isinstance(value, Latent) for value in values):
        if not all(isinstance(value, Latent) for value in values):
            raise EmbedstoreError("a list of latents holds latents alone")
        return True
    return False
