"""What `benchmarks/store.py` compares: one class an engine, each by its own idiomatic calls, all of one shape.

Numbers name items everywhere: item i has the id ``train/0000i``. An engine whose library is not installed raises
ImportError when it is made.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Metadata = list[dict[str, Any]]
K = 10


class Engine(Protocol):
    """``build`` makes a store in a directory that isn't there; ``open`` comes before everything below it."""

    name: str

    def build(self, directory: Path, base: Vectors, metadata: Metadata) -> None: ...
    def open(self, directory: Path) -> None: ...
    def knobs(self) -> Sequence[int]:
        """Values of the search parameter, ascending; empty where the engine is to be used as it comes."""

    def turn(self, value: int) -> None: ...
    def search(self, query: npt.NDArray[np.float32]) -> Sequence[Any]:
        """The ids of the ten nearest, or their numbers where the engine has no ids."""

    def add_one(self, number: int, vector: npt.NDArray[np.float32], metadata: dict[str, Any]) -> None: ...


def id_of(number: int) -> str:
    return f"train/{number:05d}"


def number_of(name: str | int) -> int:
    return int(name[6:]) if isinstance(name, str) else name


def batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


class Faiss:
    """Raw FAISS: an HNSW index over float32 in memory and a file; no ids, no metadata, no deletions."""

    name = "FAISS HNSW32"

    def __init__(self) -> None:
        import faiss

        self.faiss: Any = faiss

    def build(self, directory: Path, base: Vectors, metadata: Metadata) -> None:
        index = self.faiss.IndexHNSWFlat(base.shape[1], 32)
        index.add(base)
        directory.mkdir()
        self.faiss.write_index(index, str(directory / "index.faiss"))

    def open(self, directory: Path) -> None:
        self.faiss.omp_set_num_threads(1)
        self.index = self.faiss.read_index(str(directory / "index.faiss"))

    def knobs(self) -> Sequence[int]:
        return range(K, 200)

    def turn(self, value: int) -> None:
        self.index.hnsw.efSearch = value

    def search(self, query: npt.NDArray[np.float32]) -> Sequence[Any]:
        found: list[int] = self.index.search(query[None], K)[1][0].tolist()
        return found


class Hnswlib:
    """hnswlib with FAISS's parameters (32 links, 64 on the ground level, efConstruction 40)."""

    name = "hnswlib"

    def __init__(self) -> None:
        import hnswlib

        self.hnswlib: Any = hnswlib

    def build(self, directory: Path, base: Vectors, metadata: Metadata) -> None:
        index = self.hnswlib.Index("l2", base.shape[1])
        index.init_index(len(base), M=32, ef_construction=40)
        index.add_items(base)
        directory.mkdir()
        index.save_index(str(directory / "index.bin"))

    def open(self, directory: Path) -> None:
        self.index = self.hnswlib.Index("l2", 784)
        self.index.load_index(str(directory / "index.bin"))
        self.index.set_num_threads(1)

    def knobs(self) -> Sequence[int]:
        return range(K, 400, 2)

    def turn(self, value: int) -> None:
        self.index.set_ef(value)

    def search(self, query: npt.NDArray[np.float32]) -> Sequence[Any]:
        found: list[int] = self.index.knn_query(query, K)[0][0].tolist()
        return found


class Chroma:
    name = "Chroma"

    def __init__(self) -> None:
        import chromadb

        self.chromadb: Any = chromadb

    def _client(self, directory: Path) -> Any:
        settings = self.chromadb.Settings(anonymized_telemetry=False)
        return self.chromadb.PersistentClient(str(directory), settings=settings)

    def build(self, directory: Path, base: Vectors, metadata: Metadata) -> None:
        client = self._client(directory)
        collection = client.create_collection("items", configuration={"hnsw": {"space": "l2"}})
        for part in batches(len(base), client.get_max_batch_size()):
            ids = [id_of(i) for i in range(part.start, part.stop)]
            collection.add(ids=ids, embeddings=base[part], metadatas=metadata[part])  # type: ignore[index]

    def open(self, directory: Path) -> None:
        self.collection = self._client(directory).get_collection("items")

    def knobs(self) -> Sequence[int]:
        return ()  # its default, efSearch 100, is above the target

    def turn(self, value: int) -> None: ...

    def search(self, query: npt.NDArray[np.float32]) -> Sequence[Any]:
        found = self.collection.query(query_embeddings=[query], n_results=K, include=["distances"])
        ids: list[str] = found["ids"][0]
        return ids

    def add_one(self, number: int, vector: npt.NDArray[np.float32], metadata: dict[str, Any]) -> None:
        self.collection.add(ids=[id_of(number)], embeddings=[vector], metadatas=[metadata])


class Lance:
    name = "LanceDB IVF_HNSW_SQ"

    def __init__(self) -> None:
        import lancedb
        import pyarrow

        self.lancedb: Any = lancedb
        self.arrow: Any = pyarrow

    def build(self, directory: Path, base: Vectors, metadata: Metadata) -> None:
        arrow = self.arrow
        columns = {
            "id": [id_of(i) for i in range(len(base))],
            "label": [entry["label"] for entry in metadata],
            "split": [entry["split"] for entry in metadata],
            "vector": arrow.FixedSizeListArray.from_arrays(arrow.array(base.ravel()), base.shape[1]),
        }
        table = self.lancedb.connect(str(directory)).create_table("items", arrow.table(columns))
        table.create_index(metric="l2", vector_column_name="vector", index_type="IVF_HNSW_SQ", num_partitions=1)

    def open(self, directory: Path) -> None:
        self.table = self.lancedb.connect(str(directory)).open_table("items")
        self.ef = 20

    def knobs(self) -> Sequence[int]:
        return (20, 24, 32, 48, 64, 96, 128)  # at least as many as are re-ranked

    def turn(self, value: int) -> None:
        self.ef = value

    def search(self, query: npt.NDArray[np.float32]) -> Sequence[Any]:
        # Re-ranked by the true vectors, as the store's hits are; without it SQ's codes decide.
        asked = self.table.search(query).select(["id", "_distance"]).limit(K).ef(self.ef).refine_factor(2)
        return [row["id"] for row in asked.to_list()]

    def add_one(self, number: int, vector: npt.NDArray[np.float32], metadata: dict[str, Any]) -> None:
        self.table.add([{"id": id_of(number), "vector": vector, **metadata}])


class Store:
    """embedstore: ids and scores."""

    name = "store.search, ids and scores"

    def __init__(self) -> None:
        import embedstore

        self.embedstore = embedstore

    def build(self, directory: Path, base: Vectors, metadata: Metadata) -> None:
        with self.embedstore.create(directory) as store:
            store.add_vectors([id_of(i) for i in range(len(base))], base, metadata)
            store.build()

    def open(self, directory: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self.store = self.embedstore.open(directory)

    def knobs(self) -> Sequence[int]:
        return ()  # tuned to 0.99 when it was built, without these queries

    def turn(self, value: int) -> None: ...

    def search(self, query: npt.NDArray[np.float32]) -> Sequence[Any]:
        hits: Any = self.store.search(query)
        hits.scores  # noqa: B018 - the table says that scores are there
        ids: list[str] = hits.ids
        return ids

    def add_one(self, number: int, vector: npt.NDArray[np.float32], metadata: dict[str, Any]) -> None:
        if self.store.add_vectors([id_of(number)], vector[None], [metadata]).added != 1:
            raise RuntimeError(f"{id_of(number)} was not added")


class StoreMetadata(Store):
    """embedstore: ids, scores, and all ten rows' metadata."""

    name = "store.search, with metadata"

    def search(self, query: npt.NDArray[np.float32]) -> Sequence[Any]:
        hits: Any = self.store.search(query)
        hits.scores, hits.metadata  # noqa: B018
        ids: list[str] = hits.ids
        return ids


class Sqlite:
    """Bare SQLite: the rows without any index of vectors, under the pragmas that the store commits under."""

    name = "bare SQLite"

    def build(self, directory: Path, base: Vectors, metadata: Metadata) -> None:
        directory.mkdir()
        self._connect(directory)
        columns = "row INTEGER PRIMARY KEY, id TEXT UNIQUE, metadata TEXT, vector BLOB"
        self.connection.execute(f"CREATE TABLE items ({columns})")
        rows = [(i, id_of(i), json.dumps(entry), None) for i, entry in enumerate(metadata)]
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", rows)
        self.connection.execute("COMMIT")

    def _connect(self, directory: Path) -> None:
        self.connection = sqlite3.connect(directory / "rows.db", isolation_level=None)
        for pragma in ("synchronous=EXTRA", "journal_mode=TRUNCATE", "foreign_keys=ON"):
            self.connection.execute(f"PRAGMA {pragma}").close()

    def open(self, directory: Path) -> None:
        self._connect(directory)

    def knobs(self) -> Sequence[int]:
        return ()

    def turn(self, value: int) -> None: ...

    def search(self, query: npt.NDArray[np.float32]) -> Sequence[Any]:
        raise RuntimeError("SQLite has no vector index")

    def add_one(self, number: int, vector: npt.NDArray[np.float32], metadata: dict[str, Any]) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        row = (number, id_of(number), json.dumps(metadata), vector.tobytes())
        self.connection.execute("INSERT INTO items VALUES (?, ?, ?, ?)", row)
        self.connection.execute("COMMIT")


ENGINES: dict[str, Any] = {
    "faiss": Faiss,
    "hnswlib": Hnswlib,
    "chroma": Chroma,
    "lancedb": Lance,
    "store": Store,
    "store+metadata": StoreMetadata,
    "sqlite": Sqlite,
}
