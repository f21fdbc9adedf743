"""The facade: one object for a store, every method of which delegates to the room that does the work."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore import describe
from embedstore.compute.space import LatentSpace, Spaces
from embedstore.compute.verbs import LatentVerbs
from embedstore.config import StoreConfig, as_bytes
from embedstore.encoders.loaded import Encoders
from embedstore.errors import InvalidArgument, StoreBusy, StoreClosed, UnknownSpace
from embedstore.ingest import spaces
from embedstore.ingest import vectors as vector_ingest
from embedstore.ingest.pipeline import Target
from embedstore.ingest.spaces import FitOptions
from embedstore.metadata import items
from embedstore.metadata.catalog import Space
from embedstore.query.resolve import ItemRef, as_pictures, is_single, one_picture, resolve, row_of, vectors_of_rows
from embedstore.query.search import Searcher
from embedstore.show.verbs import ShowVerbs
from embedstore.truth import building, layout, opening, pictures
from embedstore.truth.builder import Builder
from embedstore.truth.snapshot import Snapshots, SpaceView
from embedstore.truth.writer import Writer
from embedstore.types import AddReport, Dtype, Encoder, Item, Latent, Metadata, Metric, Vectors
from embedstore.upkeep import UpkeepVerbs
from embedstore.validate import as_vectors, check_k, check_recall, deletable

if TYPE_CHECKING:
    from types import TracebackType

    from PIL import Image

    from embedstore.query.hits import Hits


def create(
    path: str | os.PathLike[str],
    *,
    recall: float = 0.99,
    factory: str | None = None,
    memory: int | str | None = None,
    dtype: str | Dtype = Dtype.FLOAT32,
    seed: int = 0,
) -> Store:
    """Make an empty store and open it for writing.

    Args:
        path: of the new directory.
        recall: recall@10 that index tiers are tuned to.
        factory: FAISS factory string for all tiers ('HNSW32', 'IVF*,SQ8', ...); None chooses by size.
        memory: bytes that a process which searches may take, or '2G': indexes are chosen to keep to it. None: no bound.
        dtype: how vectors are kept on disk: 'float32', or with a loss (`types.Dtype`) 'float16' or 'int8'.
        seed: of everything random in the store.

    Raises:
        StoreExists: something is there already.
    """
    bound = None if memory is None else as_bytes(memory)
    config = StoreConfig(recall=recall, factory=factory, memory=bound, dtype=Dtype.parse(dtype).value, seed=seed)
    opening.create(Path(path), config)
    return Store(Path(path))


def open(path: str | os.PathLike[str], *, read_only: bool = False) -> Store:
    """Open a store. An older one is upgraded after a backup of its database.

    Raises:
        StoreNotFound, NotAStore, StoreTooNew, StoreReadOnly.
    """
    return Store(Path(path), read_only=read_only)


class Store(LatentVerbs, ShowVerbs, UpkeepVerbs):
    """An open store. Searches may come from several threads; close it, or use it as a context manager."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._database, settings, made = opening.open_database(path, read_only=read_only)
        if made is not None:
            warnings.warn(f"{path} was upgraded; its old database is kept as {made}", stacklevel=3)
        self.config = StoreConfig.from_json(settings.get("config", {}))
        self._settings = settings
        self._snapshots = Snapshots(path, self._database)
        self._writer = Writer(path, self._database, self.config)
        self._builder = Builder(self._writer, self._snapshots)
        self._searcher = Searcher(path, self._database, self._snapshots)
        self._encoders = Encoders(path / layout.MODELS)
        self._spaces = Spaces(self._database, self._searcher, self._encoders)
        self._closed = False

    def index(
        self,
        source: Any,
        *,
        prune: bool = False,
        encoder: str | None = None,
        dimension: int | None = None,
        image_size: int | None = None,
        fit_minutes: float | None = None,
        metric: str | Metric | None = None,
        progress: bool = True,
        **reader_options: Any,
    ) -> AddReport:
        """Index a source: fit the encoder on first use, encode and add what is new or changed, build the index.

        Safe to interrupt at any moment; the same call goes on from there.

        Args:
            source: a path (folder, picture, IDX, NPZ, NPY, CSV, JSONL, Parquet), several of them, an array
                (n, h, w[, c]), a data set, or any iterable of items, pictures or paths.
            prune: delete items that this source had before and has no longer; otherwise they are only reported.
            encoder: 'autoencoder' (the default of a new store), 'pca', or a plugin's name.
            dimension: of a new encoder's latents (default 64).
            image_size: side in px that a new encoder is fitted at.
            fit_minutes: bound on fitting.
            metric: of a new space of precomputed vectors.
            progress: bars with an ETA on stderr.
            **reader_options: see ``docs/sources.md``.

        Raises:
            SourceError, EncoderMismatch, StoreBusy, DiskFull, ...; what was committed before stays.
        """
        options = FitOptions(encoder, dimension, image_size, fit_minutes, self.config.seed, metric)
        return self._ingest(source, options, reader_options, prune=prune, progress=progress)

    def add(self, source: Any, *, progress: bool = False, **reader_options: Any) -> AddReport:
        """Add items (or anything that ``index`` takes) without looking for removed ones."""
        options = FitOptions(seed=self.config.seed)
        source = [source] if isinstance(source, Item) else source
        return self._ingest(source, options, reader_options, prune=None, progress=progress)

    def _ingest(
        self, source: Any, options: FitOptions, reader_options: dict[str, Any], *, prune: bool | None, progress: bool
    ) -> AddReport:
        from embedstore.ingest.source import ingest_source

        self._open()
        shared = self._writer, self._snapshots, self._encoder
        report = ingest_source(*shared, source, options, reader_options, prune=prune, progress=progress)
        if prune is None:
            self._builder.later()
        else:
            start = time.perf_counter()
            try:
                if self._builder.now(check=True, wait=False, progress=progress):
                    report.seconds["build"] = time.perf_counter() - start
                    report.notes += building.misses(self._view(), self.config)
            except StoreBusy:  # what was indexed is committed
                self._builder.later()
                report.notes.append(
                    "the index is being built by another process or thread: what it doesn't cover is searched exactly "
                    "until whoever writes next builds the rest"
                )
        return report

    def add_vectors(
        self,
        ids: Sequence[str],
        vectors: Any,
        metadata: Sequence[Metadata] | None = None,
        *,
        sources: Sequence[str | None] | None = None,
        metric: str | Metric | None = None,
        encoder: str = "",
    ) -> AddReport:
        """Add precomputed vectors, durable when this returns; known ids are replaced.

        The index over them is built behind the caller's back (see ``build``); until then they are searched exactly.

        Args:
            ids: one a vector; of an id that comes twice, the later vector is kept.
            vectors: (n, d), turned to float32.
            metadata: one object a vector.
            sources: one a vector: where it came from.
            metric: 'l2', 'cosine' or 'ip', on first use (default l2).
            encoder: fingerprint of the space's encoder, where it has one: latents of another don't belong here.

        Returns:
            What was added. What can't be stored (NaN or infinity, zero under cosine, an id that is no text, metadata
            that is no JSON) is left out and listed in ``failures``, so look there; the rest of the batch is added.
        """
        self._open()
        array = as_vectors(vectors)
        vector_ingest.check_columns(ids, array, metadata, sources)  # before a first call fixes the dimension
        space = spaces.for_vectors(self._writer, self._snapshots, array.shape[1], metric, encoder, array)
        report = vector_ingest.add_vectors(self._target(space), ids, array, metadata, sources)
        self._builder.later()
        return report

    def update(self, id: str, *, metadata: Metadata | None = None, picture: Any = None, vector: Any = None) -> None:
        """Replace parts of one item, in one commit: metadata keys are merged, and None removes one.

        An item that came from a source takes over what the source says when that is indexed again.

        Raises:
            UnknownItem: no item has this id.
        """
        shown = None if picture is None else one_picture(picture)
        array = None if vector is None else as_vectors(vector)
        vector_ingest.update(self._target(self._view().space), id, metadata=metadata, picture=shown, vector=array)

    def delete(self, ids: Sequence[str] | str | None = None, *, where: str | None = None) -> int:
        """Delete items by id or by filter, durable when this returns. Returns how many there were.

        An id that no item has is passed over.
        """
        self._open()
        if (ids is None) == (where is None):
            raise InvalidArgument("delete takes either ids or where")
        if where is not None:
            return self._writer.delete_where(lambda: self._searcher.condition(where))
        return self._writer.delete(deletable(ids))

    def get(self, id: str) -> dict[str, Any]:
        """Everything known of an item but its vector: id, metadata, source, size of the original, clusters, places.

        Raises:
            UnknownItem: no item has this id.
        """
        self._row(id)  # says what is near, where there is none
        return describe.item(self._database, id)

    def count(self, where: str | None = None) -> int:
        """Number of items (that match a filter)."""
        self._open()
        with self._database.read() as connection:
            condition = None if where is None else self._searcher.condition(where, connection)
            return items.count(connection, condition)

    def __len__(self) -> int:
        return self.count()

    def ids(self, where: str | None = None) -> list[str]:
        """Ids of all items (that match a filter), in the order they were added."""
        self._open()
        with self._database.read() as connection:
            condition = None if where is None else self._searcher.condition(where, connection)
            return items.ids_of(connection, condition)

    def item(self, id: str) -> ItemRef:
        """An item as a query: ``store.search(store.item("a"))``; it is left out of its own answer."""
        return ItemRef(id)

    def vector(self, id: str, *, space: str | None = None) -> Latent:
        """The latent of an item."""
        view = self._view(space)
        row = np.array([self._row(id)], dtype=np.int64)
        return Latent(vectors_of_rows(view, row)[0], view.space.name, view.space.fingerprint)

    def images(self, ids: Sequence[str]) -> list[Image.Image | None]:
        """Stored pictures of items: exact up to 64 px a side, else thumbnails."""
        rows = np.array([self._row(name) for name in ids], dtype=np.int64)
        return pictures.read(self.path, self._database, rows)

    def encode(self, images: Any, *, space: str | None = None) -> Vectors:
        """Latents (n, d) of pictures: an array (n, h, w[, c]) of uint8, or a list of arrays or PIL images.

        Raises:
            NoEncoder: the space holds precomputed vectors.
        """
        return self._encoder(self._view(space).space).encode(as_pictures(images))

    def decode(self, latents: Any, *, space: str | None = None) -> list[Image.Image]:
        """Pictures of latents (Latents, an array (d,) or (n, d)) or items' (ids). The last ones are kept in memory.

        Raises:
            NoDecoder: the space has no decoder; InvalidVector: NaN, infinity, or another length.
        """
        found = self._latents(space)
        return [pictures.to_image(picture) for picture in found.decode(found.checked(latents))]

    def reconstruct(self, id: str, *, space: str | None = None) -> Image.Image:
        """An item's latent, decoded: what the encoder keeps of it."""
        return self.decode(self.vector(id, space=space), space=space)[0]

    def search(
        self,
        query: Any,
        k: int = 10,
        where: str | None = None,
        *,
        exact: bool = False,
        recall: float | None = None,
        space: str | None = None,
        explain: bool = False,
    ) -> Hits | list[Hits]:
        """The k nearest items to a query, or to each of several.

        Args:
            query: a latent, an array (d,), a PIL image, a uint8 picture, a picture's path, or ``store.item(id)``;
                an array (n, d) or a list of those asks several queries.
            k: number of hits; fewer come back only where fewer items match.
            where: a filter, see ``docs/filters.md``; exact whatever the plan.
            exact: compare with every item.
            recall: aim at this recall@10 instead of the store's.
            space: its name; default the default space.
            explain: add to ``Hits.stats`` what the stages took, in seconds of all queries together.

        Returns:
            Hits, or a list of them for several queries. ``Hits.stats`` says how they were found.
        """
        if where is None and not exact and not explain and not self._closed and isinstance(query, np.ndarray):
            nearest = self._searcher.nearest(query, k, recall, space)
            if nearest is not None:
                return nearest
        k = check_k(k)
        check_recall(recall)
        self._open()
        view = self._snapshots.current().view(space)
        if view is None:
            if where is not None:
                self._searcher.condition(where)  # says what is wrong with it
            return self._searcher.nothing() if is_single(query) else [self._searcher.nothing() for _ in query]
        asked = resolve(query, view, self._database, lambda p: self._encoder(view.space).encode(p))
        hits = self._searcher.search(
            view, asked.vectors, k, matching=where, exact=exact, recall=recall, without=asked.own, explain=explain
        )
        return hits[0] if asked.single else hits

    def close(self) -> None:
        """Close the store, when the index over what was added has been built, unless that was broken off.

        Snapshots' memory maps live on while an answer still holds one.
        """
        self._builder.settle()
        self._closed = True
        self._snapshots.close()
        self._database.close()
        self._searcher.engine.forget()
        self._spaces.forget()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._builder.stop()
        self.close()

    def __repr__(self) -> str:
        return f"<Store {self.path}{' (closed)' if self._closed else ''}>"

    def _open(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self.path} was closed: open it again")

    def _view(self, space: str | None = None) -> SpaceView:
        self._open()
        view = self._snapshots.current().view(space)
        if view is None:
            raise UnknownSpace(f"{self.path} is empty: index something first")
        return view

    def _latents(self, space: str | None) -> LatentSpace:
        return self._spaces.at(self._view(space), self.config.seed)

    def _row(self, name: str) -> int:
        self._open()
        return row_of(self._database, name)

    def _target(self, space: Space) -> Target:
        return Target(self._writer, self._snapshots, space, lambda: self._encoder(space))

    def _encoder(self, space: Space) -> Encoder:
        return self._encoders.get(space.encoder, space.fingerprint)
