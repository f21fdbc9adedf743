"""Programs that `benchmarks/store.py` runs in processes of their own: the first answer of each, and its memory.

    python benchmarks/fresh.py first ENGINE DIRECTORY ID
    python benchmarks/fresh.py memory ENGINE DIRECTORY QUERIES COUNT

Each imports only what a user's program would, so nothing of the benchmark's is measured with it.
"""

from __future__ import annotations

import sys


def first_store(directory: str, name: str) -> list[str]:
    import embedstore

    with embedstore.open(directory) as store:
        return store.search(store.item(name)).ids  # type: ignore[union-attr]


def first_chroma(directory: str, name: str) -> list[str]:
    import chromadb

    settings = chromadb.Settings(anonymized_telemetry=False)
    collection = chromadb.PersistentClient(directory, settings=settings).get_collection("items")
    vector = collection.get(ids=[name], include=["embeddings"])["embeddings"][0]
    found = collection.query(query_embeddings=[vector], n_results=11, include=["distances"])["ids"][0]
    return [other for other in found if other != name]


def first_lancedb(directory: str, name: str) -> list[str]:
    import lancedb

    table = lancedb.connect(directory).open_table("items")
    vector = table.search().where(f"id = '{name}'").select(["vector"]).limit(1).to_list()[0]["vector"]
    found = table.search(vector).select(["id", "_distance"]).limit(11).refine_factor(2).to_list()
    return [row["id"] for row in found if row["id"] != name]


def resident() -> int:
    """VmRSS of this process in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


def memory(key: str, directory: str, queries: str, count: int) -> None:
    """Print VmRSS after ``count`` searches."""
    import numpy as np

    if key == "nothing":  # what Python, numpy and faiss take before anything is opened
        import faiss  # noqa: F401

        print(resident())
        return
    from pathlib import Path

    from engines import ENGINES

    engine = ENGINES[key]()
    engine.open(Path(directory))
    for number in range(count):
        engine.search(np.fromfile(queries, dtype=np.float32, count=784, offset=number * 784 * 4))
    print(resident())


if __name__ == "__main__":
    if sys.argv[1] == "memory":
        memory(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
    else:
        print(*{"store": first_store, "chroma": first_chroma, "lancedb": first_lancedb}[sys.argv[2]](*sys.argv[3:5]))
