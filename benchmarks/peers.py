"""Embedded vector stores, each by its own calls, in a process and an environment of their own.

`search.py` starts ``PYTHON peers.py NAME`` and talks to it through pipes, in pickles: ``(verb, arguments)`` there, the
answer or an error as text back. ``PYTHON`` has benchmarks/requirements.txt installed. Each is set up as its own
documentation recommends for filtered search: with an index of vectors, and one of the filtered column where there is
such a thing; one thread is set before anything is imported.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

if __name__ == "__main__" and sys.argv[2:] == ["1"]:
    for name in (
        "OMP_NUM_THREADS",
        "RAYON_NUM_THREADS",
        "LANCE_CPU_THREADS",
        "TOKIO_WORKER_THREADS",
        "MKL_NUM_THREADS",
    ):
        os.environ[name] = "1"

import numpy as np

K = 10


class Chroma:
    """A persistent collection; HNSW as it comes (efSearch 100)."""

    package = "chromadb"

    def build(self, directory: Path, base: Any, u: Any) -> None:
        import chromadb

        settings = chromadb.Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(str(directory), settings=settings)
        self.items = client.create_collection("items", configuration={"hnsw": {"space": "l2"}})
        size = min(5_000, client.get_max_batch_size())
        for start in range(0, len(base), size):
            part = slice(start, start + size)
            ids = [str(i) for i in range(start, start + len(base[part]))]
            self.items.add(ids=ids, embeddings=base[part], metadatas=[{"u": float(one)} for one in u[part]])

    def search(self, queries: Any, below: float | None) -> list[list[int]]:
        where = None if below is None else {"u": {"$lt": below}}
        found = self.items.query(query_embeddings=list(queries), n_results=K, where=where, include=["distances"])
        return [[int(one) for one in ids] for ids in found["ids"]]


class Lance:
    """A table with IVF_HNSW_SQ, re-ranked, and a B-tree on the filtered column, which is asked first."""

    package = "lancedb"

    def build(self, directory: Path, base: Any, u: Any) -> None:
        import lancedb
        import pyarrow as pa

        vectors = pa.FixedSizeListArray.from_arrays(pa.array(base.ravel()), base.shape[1])
        columns = pa.table({"number": np.arange(len(base)), "u": u, "vector": vectors})
        self.table = lancedb.connect(str(directory)).create_table("items", columns)
        self.table.create_index(metric="l2", vector_column_name="vector", index_type="IVF_HNSW_SQ", num_partitions=1)
        self.table.create_scalar_index("u")

    def search(self, queries: Any, below: float | None) -> list[list[int]]:
        found = []
        for query in queries:
            asked = self.table.search(query).select(["number", "_distance"]).limit(K).ef(40).refine_factor(2)
            if below is not None:
                asked = asked.where(f"u < {below}", prefilter=True)
            found.append(asked.to_arrow()["number"].to_pylist())
        return found


class Milvus:
    """A collection of Milvus Lite, with HNSW where it has that, else what AUTOINDEX chooses."""

    package = "milvus-lite"

    def build(self, directory: Path, base: Any, u: Any) -> None:
        from pymilvus import DataType, MilvusClient

        directory.mkdir()
        self.client = MilvusClient(str(directory / "items.db"))
        schema = self.client.create_schema(auto_id=False)
        schema.add_field("number", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=base.shape[1])
        schema.add_field("u", DataType.DOUBLE)
        self.client.create_collection("items", schema=schema)
        for start in range(0, len(base), 2_000):
            rows = [
                {"number": start + i, "vector": vector, "u": float(one)}
                for i, (vector, one) in enumerate(
                    zip(base[start : start + 2_000], u[start : start + 2_000], strict=True)
                )
            ]
            self.client.insert("items", rows)
        for kind in ("HNSW", "AUTOINDEX"):
            index = self.client.prepare_index_params()
            more = {"params": {"M": 32, "efConstruction": 100}} if kind == "HNSW" else {}
            index.add_index("vector", index_type=kind, metric_type="L2", **more)
            try:
                self.client.create_index("items", index)
                break
            except Exception as error:
                print(f"Milvus Lite: no {kind}: {error}", file=sys.stderr)
        self.client.load_collection("items")

    def search(self, queries: Any, below: float | None) -> list[list[int]]:
        text = "" if below is None else f"u < {below}"
        found = self.client.search(
            "items", data=list(queries), limit=K, filter=text, search_params={"params": {"ef": 100}}
        )
        return [[hit["number"] if "number" in hit else hit["id"] for hit in hits] for hits in found]


class SqliteVec:
    """A vec0 table with the filtered column as metadata; it scans."""

    package = "sqlite-vec"

    def build(self, directory: Path, base: Any, u: Any) -> None:
        import apsw  # many a Python's own sqlite3 loads no extensions
        import sqlite_vec

        directory.mkdir()
        self.connection = apsw.Connection(str(directory / "items.db"))
        self.connection.enable_load_extension(True)
        self.connection.load_extension(sqlite_vec.loadable_path())
        self.connection.execute(f"CREATE VIRTUAL TABLE items USING vec0(vector float[{base.shape[1]}], u float)")
        rows = ((i, vector.tobytes(), float(one)) for i, (vector, one) in enumerate(zip(base, u, strict=True)))
        with self.connection:
            self.connection.executemany("INSERT INTO items (rowid, vector, u) VALUES (?, ?, ?)", rows)

    def search(self, queries: Any, below: float | None) -> list[list[int]]:
        text = "SELECT rowid FROM items WHERE vector MATCH ? AND k = ?"
        text += "" if below is None else " AND u < ?"
        more = () if below is None else (below,)
        return [
            [row for (row,) in self.connection.execute(text, (query.tobytes(), K, *more))]
            for query in np.ascontiguousarray(queries, dtype=np.float32)
        ]


PEERS: dict[str, Any] = {"Chroma": Chroma, "LanceDB": Lance, "Milvus Lite": Milvus, "sqlite-vec": SqliteVec}


def answer(peer: Any, verb: str, arguments: Sequence[Any]) -> Any:
    clock = time.perf_counter
    if verb == "version":
        return version(peer.package)
    start = clock()
    if verb == "build":
        peer.build(*arguments)
        return clock() - start
    queries, below, together, seconds = arguments
    if together:
        found = peer.search(queries, below)
        return clock() - start, found
    found = []
    for query in queries:  # one at a time, as many as there is time for
        found += peer.search(query[None], below)
        if clock() - start > seconds:
            break
    return clock() - start, found


def main() -> None:
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to the standard error stream
    peer = PEERS[sys.argv[1]]()
    while True:
        try:
            verb, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            told: Any = answer(peer, verb, arguments)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
        pickle.dump(told, output)
        output.flush()


if __name__ == "__main__":
    main()
