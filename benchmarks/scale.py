"""The store at a million vectors and more: import, search, memory, deletions, readers beside a writer, opening.

    python benchmarks/scale.py --latents FILE.npy [--rows 1000000] [--keep DIR] [--only import,search,...]

The vectors are made by resampling real latents: one of a real item, moved a part of the way to a neighbour of it, and
a little noise; made in blocks, so that the maker needs no memory. Beside each figure stands raw FAISS with the same
type of index over the same vectors, in the same run, and bare SQLite for rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from sets import K, Vectors, head, recall, row, timed

import embedstore
from embedstore.index import exact
from embedstore.types import Metric

SECTIONS = ("import", "search", "filters", "readers", "opening", "deletes")
BLOCK = 100_000
QUERIES = 2_000
TARGET = 0.99


class Maker:
    """Vectors like some real ones, as many as are wanted, the same each time."""

    def __init__(self, latents: Vectors) -> None:
        self.latents = latents
        _, self.near = exact.search([(0, latents)], latents, 6, Metric.L2)

    def block(self, number: int, count: int) -> Vectors:
        random = np.random.default_rng(number)
        rows = random.integers(0, len(self.latents), count)
        other = self.latents[self.near[rows, random.integers(1, 6, count)]]
        made = self.latents[rows] + random.random((count, 1), np.float32) * (other - self.latents[rows])
        made += random.normal(scale=0.02, size=made.shape).astype(np.float32)
        return np.ascontiguousarray(made, dtype=np.float32)

    def blocks(self, rows: int) -> Iterator[tuple[int, Vectors, list[dict[str, Any]]]]:
        """(first, vectors, metadata with two keys) of so many rows, in blocks."""
        for first in range(0, rows, BLOCK):
            vectors = self.block(first, min(BLOCK, rows - first))
            random = np.random.default_rng((1, first))
            u, label = random.random(len(vectors)).tolist(), random.integers(0, 20, len(vectors)).tolist()
            yield first, vectors, [{"u": a, "label": f"label {b}"} for a, b in zip(u, label, strict=True)]

    def queries(self) -> Vectors:
        return self.block(10**9, QUERIES)


def import_(maker: Maker, path: Path, rows: int, **settings: Any) -> None:
    """From vectors in memory to a store that can be searched; raw FAISS's build and bare SQLite's inserts beside it."""
    seconds = 0.0
    with embedstore.create(path, **settings) as store:
        for first, vectors, metadata in maker.blocks(rows):
            start = time.perf_counter()
            store.add_vectors([f"i{first + i}" for i in range(len(vectors))], vectors, metadata)
            seconds += time.perf_counter() - start
        start = time.perf_counter()
        store.build()
        sealed = time.perf_counter() - start
        factory = [tier.factory for tier in store._view(None).tiers]
    raw, rows_only = _raw(maker, path, rows, factory[0] if factory else "Flat"), _sqlite(maker, path.parent, rows)
    title = f"{rows:,} x {maker.latents.shape[1]} imported, with two metadata keys"
    head(title, "seconds", "over FAISS + SQLite", "to reach")
    row(f"store, searchable ({', '.join(factory)})", seconds + sealed, (seconds + sealed) / (raw + rows_only), "≤ 1.5")
    row("raw FAISS, the same type", raw, "", "")
    row("bare SQLite inserts", rows_only, "", "")
    took = {"store": seconds + sealed, "FAISS": raw, "SQLite": rows_only}
    path.with_suffix(".json").write_text(json.dumps(took))


def _raw(maker: Maker, path: Path, rows: int, factory: str) -> float:
    index = faiss.index_factory(maker.latents.shape[1], factory)
    seconds = 0.0
    for first, vectors, _ in maker.blocks(rows):
        start = time.perf_counter()
        if not first:
            whole = np.concatenate([maker.block(at, BLOCK) for at in range(0, min(rows, 4 * BLOCK), BLOCK)])
            start = time.perf_counter()
            index.train(whole)
        index.add(vectors)
        seconds += time.perf_counter() - start
    faiss.write_index(index, str(path.with_suffix(".faiss")))
    return seconds


def _sqlite(maker: Maker, folder: Path, rows: int) -> float:
    (folder / "rows.db").unlink(missing_ok=True)
    connection = sqlite3.connect(folder / "rows.db")
    connection.execute("CREATE TABLE items (row INTEGER PRIMARY KEY, id TEXT UNIQUE, metadata TEXT)")
    seconds = 0.0
    for first, _, metadata in maker.blocks(rows):
        start = time.perf_counter()
        with connection:
            told = ((first + i, f"i{first + i}", json.dumps(one)) for i, one in enumerate(metadata))
            connection.executemany("INSERT INTO items VALUES (?, ?, ?)", told)
        seconds += time.perf_counter() - start
    connection.close()
    return seconds


def search(maker: Maker, path: Path, rows: int) -> dict[str, float]:
    """One query at a time, one thread; raw FAISS at the same recall; memory of a process that only searches."""
    faiss.omp_set_num_threads(1)
    queries = maker.queries()
    with embedstore.open(path, read_only=True) as store:
        view = store._view(None)
        truth = exact.search(list(view.vectors.blocks()), queries[:500], K, Metric.L2)[1]
        store._searcher.engine.load(view)
        target = store.config.recall
        for aim in (target, *(target + (1 - target) * share for share in (0.2, 0.4, 0.6))):  # queries differ from items
            own = recall([ids_of_row(store.search(query, K, recall=aim)) for query in queries[:500]], truth)
            if own >= target:
                break
        index = faiss.read_index(str(path.with_suffix(".faiss")))
        knob = "nprobe" if "IVF" in (view.tiers[0].factory if view.tiers else "") else "efSearch"
        space, low, high = faiss.ParameterSpace(), 1, 512 if view.tiers else 1
        flat = _reranked(index, view.vectors.read)
        while low < high:
            middle = (low + high) // 2
            space.set_index_parameter(index, knob, middle)
            reached = recall([flat(query) for query in queries[:500]], truth) >= min(own, target + 0.003)
            low, high = (low, middle) if reached else (middle + 1, high)
        if view.tiers:
            space.set_index_parameter(index, knob, low)
        times: dict[str, list[float]] = {"store": [], "FAISS": []}
        for part in range(6):
            some = queries[500 + part * 250 : 750 + part * 250]
            times["store"].append(timed(lambda query: store.search(query, K, recall=aim).ids, some)[0])
            times["FAISS"].append(timed(lambda query: index.search(query[None], K), some)[0])
        raw = recall([flat(query) for query in queries[:500]], truth)
    head(
        f"{rows:,} x {queries.shape[1]}, one query at a time",
        "parameter",
        "recall@10",
        "queries/s",
        "store's over it",
        "to reach",
    )
    row(f"store, asked for a recall of {aim:g}", "tuned", own, 1 / float(np.median(times["store"])), "", "≥ 0.9")
    ratio = float(np.median(np.divide(times["FAISS"], times["store"])))
    row(
        "raw FAISS, the same type, its candidates re-ranked for the recall alone",
        low,
        raw,
        1 / float(np.median(times["FAISS"])),
        ratio,
        "",
    )
    size = rows * queries.shape[1] * 4
    memory = {name: _in_a_process(f"resident{part}", path) for name, part in (("store", ""), ("FAISS", "_raw"))}
    head("a process that only searches", "MB", "over the vectors' size", "to reach")
    row("store, resident after 500 queries", memory["store"] / 1e6, memory["store"] / size, "≤ 1.4")
    row("raw FAISS, without the vectors", memory["FAISS"] / 1e6, memory["FAISS"] / size, "")
    return {
        "queries/s": 1 / float(np.median(times["store"])),
        "raw queries/s": 1 / float(np.median(times["FAISS"])),
        "recall": own,
        "memory": memory["store"],
        "raw memory": memory["FAISS"],
    }


def _in_a_process(function: str, path: Path) -> float:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport scale\nscale.{function}({str(path)!r})"
    )
    return float(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout)


def ids_of_row(hits: Any) -> list[int]:
    """Numbers of ids such as i17."""
    return [int(one[1:]) for one in hits.ids]


def _reranked(index: Any, read: Any) -> Any:
    """What codes lose isn't FAISS's to find: its candidates, ordered by true distances; not timed."""

    def ask(query: Vectors) -> list[int]:
        labels = index.search(query[None], 3 * K)[1]
        _, found = exact.rerank(query[None], labels, K, Metric.L2, read)
        nearest: list[int] = found[0].tolist()
        return nearest

    return ask


def resident(path: str) -> None:
    """VmRSS after opening and 500 queries, in this process; prints bytes."""
    faiss.omp_set_num_threads(1)
    with embedstore.open(path, read_only=True) as store:
        vectors = store._view(None).vectors
        some = vectors.read(np.arange(500) * (min(len(vectors), 50_000) // 500))
        store._searcher.engine.load(store._view(None))
        for vector in some:
            store.search(vector, K)
        print(_resident())


def resident_raw(path: str) -> None:
    """The same of raw FAISS's index."""
    faiss.omp_set_num_threads(1)
    index = faiss.read_index(str(Path(path).with_suffix(".faiss")))
    some = np.random.default_rng(0).normal(size=(500, index.d)).astype(np.float32)
    for vector in some:
        index.search(vector[None], K)
    print(_resident())


def _resident() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def filters(maker: Maker, path: Path, rows: int) -> None:
    """By what they match, the first time and then."""
    faiss.omp_set_num_threads(1)
    queries = maker.queries()[:200]
    head(f"{rows:,}, filter", "matches", "plan", "recall@10", "queries/s", "first use, ms", "to reach")
    with embedstore.open(path, read_only=True) as store:
        store._searcher.engine.load(store._view(None))
        timed(lambda query: store.search(query, K).ids, queries)
        start = time.perf_counter()
        store.search(queries[0], K, where="u < 0.77")
        took = 1e3 * (time.perf_counter() - start)
        row("u < 0.77, the first of a process: the column is read", "", "", "", "", took, "")
        for share in (0.5, 0.1, 0.01, 0.001, 0.00001):
            text = f"u < {share:g}"
            start = time.perf_counter()
            store.search(queries[0], K, where=text)
            first = 1e3 * (time.perf_counter() - start)
            store.search(queries[0], K, where=text)  # what is packed once it is asked for again
            seconds, found = timed(lambda query, text=text: store.search(query, K, where=text).ids, queries)
            right = [store.search(query, K, where=text, exact=True).ids for query in queries[:50]]
            same = np.mean([len({*a} & {*b}) / max(1, len(b)) for a, b in zip(found, right, strict=False)])
            hits = store.search(queries[0], K, where=text, explain=True)
            row(
                text,
                f"{hits.stats['matches']:,}",
                hits.stats["plan"],
                float(same),
                1 / seconds,
                first,
                "≥ 0.99, ≥ 1,500; ≤ 300 ms",
            )


def _read(path: str, end: float, pipe: Any) -> None:
    faiss.omp_set_num_threads(1)
    with embedstore.open(path, read_only=True) as store:
        store._searcher.engine.load(store._view(None))
        some = store._view(None).vectors.read(np.arange(0, 20_000, 20))
        store.search(some[0], K)
        pipe.send(True)
        end += pipe.recv()
        done = 0
        while time.time() < end:
            store.search(some[done % len(some)], K)
            done += 1
        pipe.send(done)


def readers(maker: Maker, path: Path, rows: int, seconds: float = 10.0) -> None:
    """Four processes that search, alone and while a fifth adds 100 rows again and again."""
    copy = path.with_name("added.store")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    os.sync()  # the copy's own bytes are no part of what an add has to wait for
    rates, adds = {}, []
    for adding in (False, True):
        context = multiprocessing.get_context("spawn")
        pipes, callers = [], []
        for _ in range(4):
            ours, theirs = context.Pipe()
            callers.append(context.Process(target=_read, args=(str(copy), seconds, theirs)))
            callers[-1].start()
            pipes.append(ours)
        for pipe in pipes:
            pipe.recv()
        start = time.time()
        for pipe in pipes:
            pipe.send(start)
        if adding:
            with embedstore.open(copy) as store:
                number = 0
                while time.time() < start + seconds:
                    vectors = maker.block(2 * 10**9 + number, 100)
                    begun = time.perf_counter()
                    store.add_vectors([f"n{number}/{i}" for i in range(100)], vectors, [{"u": 0.5}] * 100)
                    adds.append(time.perf_counter() - begun)
                    number += 1
                    time.sleep(0.1)
        rates[adding] = sum(pipe.recv() for pipe in pipes) / seconds
        for caller in callers:
            caller.join()
    head(f"{rows:,}: four reading processes", "queries/s", "adds of 100 rows", "p50, p99 ms", "to reach")
    row("alone", rates[False], "", "", "")
    p50, p99 = np.quantile(adds, [0.5, 0.99]) * 1e3
    row(
        f"beside a writer: {rates[True] / rates[False]:.2f} of that",
        rates[True],
        len(adds),
        f"{p50:.1f}, {p99:.1f}",
        "≥ 0.8; p99 ≤ 50 ms",
    )


def opening(maker: Maker, path: Path, rows: int) -> None:
    """A new process: import, open, first answer by an item."""
    code = (
        f"import embedstore\nwith embedstore.open({str(path)!r}, read_only=True) as s: s.search(s.item('i5'), 10).ids"
    )
    took = []
    for _ in range(6):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        took.append(time.perf_counter() - start)
    head(f"{rows:,}: a new process", "seconds", "best", "to reach")
    row("import, open, first answer", float(np.median(took[1:])), min(took), "≤ 0.5")


def deletes(maker: Maker, path: Path, rows: int) -> None:
    """30 % deleted: speed before `compact`, and what it gives back."""
    faiss.omp_set_num_threads(1)
    copy = path.with_name("deleted.store")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    queries = maker.queries()[:500]
    with embedstore.open(copy) as store:
        store._searcher.engine.load(store._view(None))
        before, _ = timed(lambda query: store.search(query, K).ids, queries)
        start = time.perf_counter()
        gone = store.delete(where="u < 0.3")
        deleting = time.perf_counter() - start
        store.search(queries[0], K)
        after, found = timed(lambda query: store.search(query, K).ids, queries)
        right = [store.search(query, K, exact=True).ids for query in queries[:50]]
        same = np.mean([len({*a} & {*b}) / K for a, b in zip(found, right, strict=False)])
        size = store.info()["bytes"]["total"]
        start = time.perf_counter()
        store.compact()
        compacting = time.perf_counter() - start
        given = 1 - store.info()["bytes"]["total"] / size
    head(f"{rows:,}, {gone:,} deleted", "value", "to reach")
    row("seconds to delete, to compact", f"{deleting:.1f}, {compacting:.1f}", "")
    row("queries/s over before", before / after, "≥ 0.8")
    row("recall@10", float(same), "≥ 0.99")
    row("disk given back", f"{given:.1%}", "≥ 28 %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=Path, required=True, help=".npy (n, d) float32")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--memory", type=float, help="GiB that a process that searches may take")
    parser.add_argument("--recall", type=float, default=TARGET, help="to tune to: %(default)s")
    parser.add_argument("--keep", type=Path, help="folder for the stores, used again if they are there")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas: %(default)s")
    args = parser.parse_args()
    maker = Maker(np.load(args.latents).astype(np.float32))
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        path = (args.keep or Path(folder)) / f"{args.rows}.store"
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = args.only.split(",")
        if "import" in chosen or not path.exists():
            shutil.rmtree(path, ignore_errors=True)
            import_(maker, path, args.rows, memory=args.memory and int(args.memory * 2**30), recall=args.recall)
        sections = {"search": search, "filters": filters, "readers": readers, "opening": opening, "deletes": deletes}
        for name, section in sections.items():
            if name in chosen:
                section(maker, path, args.rows)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"\ncores {os.cpu_count()}, most memory of this process {most:.1f} GB, load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
