"""Queries a second: the store beside raw FAISS and other embedded stores, filtered and not, at a stated recall.

    python3 -m venv .peers && .peers/bin/pip install -r benchmarks/requirements.txt
    python benchmarks/search.py [--data DIR] [--latents FILE.npy] [--peers .peers/bin/python] [--quick] [--only ...]

On Fashion-MNIST's pixels (60,000 x 784, test pictures as queries) and on latents of its 70,000 pictures (64 numbers;
``embedstore export STORE latents.npz`` makes them; 8,200 are taken out as queries). k = 10, one query at a time, one
thread, unless a row says otherwise. In each round everything answers the same queries in turn, so that what else the
machine does falls on all; ratios are medians of rounds' ratios. FAISS's parameter is the smallest that reaches the
recall that the store has (or 0.99) on queries of its own.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from beside import peers
from encoder import read_idx
from sets import Data, K, Vectors, head, ids_of, made, numbers, recall, row, timed, warm

import embedstore
from embedstore.store import Store

TARGET = 0.99
SECTIONS = ("pixels", "latents", "batch", "filters", "threads", "peers")
SHARES = (0.5, 0.1, 0.01, 0.001, 0.00005)


# -- one query at a time ----------------------------------------------------------------------------------------------


def raw(index: Any) -> Callable[[Any], list[int]]:
    def ask(query: Vectors) -> list[int]:
        found: list[int] = index.search(query[None], K)[1][0].tolist()
        return found

    return ask


def tuned(index: Any, data: Data, target: float, some: int = 1_000) -> int:
    """The smallest efSearch or nprobe that reaches a recall on queries of its own."""
    queries, truth = data.queries[-some:], data.truth(data.queries[-some:])
    name = "efSearch" if isinstance(faiss.downcast_index(index), faiss.IndexHNSW) else "nprobe"
    space = faiss.ParameterSpace()
    low, high = 1, 512
    while low < high:
        middle = (low + high) // 2
        space.set_index_parameter(index, name, middle)
        reached = recall(index.search(queries, K)[1].tolist(), truth) >= target
        low, high = (low, middle) if reached else (middle + 1, high)
    space.set_index_parameter(index, name, low)
    return low


def single(data: Data, factories: list[str], rounds: int, size: int, target: str) -> None:
    """The store beside raw FAISS's index types, at the store's recall."""
    head(
        f"{data.name}, one query at a time", "parameter", "recall@10", "queries/s", "store's speed over it", "to reach"
    )
    with embedstore.open(data.path, read_only=True) as store:
        asks: dict[str, Callable[[Any], Any]] = {"store": lambda query: store.search(query, K).ids}
        warm(store, data)
        own = recall(
            numbers([asks["store"](query) for query in data.queries[-1_000:]]), data.truth(data.queries[-1_000:])
        )
        parameters: dict[str, Any] = {"store": "tuned"}
        for factory in factories:
            index = faiss.index_factory(data.base.shape[1], factory)
            faiss.omp_set_num_threads(os.cpu_count() or 1)
            index.train(data.base)
            index.add(data.base)
            faiss.omp_set_num_threads(1)
            parameters[factory] = tuned(index, data, min(own, TARGET + 0.005))
            asks[factory] = raw(index)
        compare(asks, parameters, data, rounds, size, target)


def compare(
    asks: dict[str, Callable[[Any], Any]], parameters: dict[str, Any], data: Data, rounds: int, size: int, target: str
) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in asks}
    found: dict[str, list[Any]] = {name: [] for name in asks}
    for number in range(rounds):
        part = data.queries[number * size : (number + 1) * size]
        for name, ask in asks.items():
            took, answers = timed(ask, part)
            seconds[name].append(took)
            found[name] += numbers(answers)
    truth = data.truth(data.queries[: rounds * size])
    for name in asks:
        ratio = np.median(np.divide(seconds[name], seconds["store"]))
        row(name, parameters[name], recall(found[name], truth), 1 / float(np.median(seconds[name])),
            "" if name == "store" else float(ratio), target if name == "store" else "")  # fmt: skip


# -- batches, threads -------------------------------------------------------------------------------------------------


def batch(data: Data, factory: str, rounds: int) -> None:
    """10,000 queries in one call, all cores."""
    head(
        f"{data.name}, batches of {len(data.queries):,}, all cores",
        "recall@10",
        "queries/s",
        "store's speed over it",
        "to reach",
    )
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    index = faiss.index_factory(data.base.shape[1], factory)
    index.train(data.base)
    index.add(data.base)
    with embedstore.open(data.path, read_only=True) as store:
        warm(store, data)
        truth = data.truth(data.queries)
        hits = store.search(data.queries, K)
        tuned(index, data, min(recall(map(ids_of, hits), truth), TARGET + 0.005))
        times: dict[str, list[float]] = {"store": [], factory: []}
        for _ in range(rounds):
            start = time.perf_counter()
            hits = store.search(data.queries, K)
            middle = time.perf_counter()
            _, labels = index.search(data.queries, K)
            times["store"].append(middle - start)
            times[factory].append(time.perf_counter() - middle)
        for name, found in (("store", map(ids_of, hits)), (factory, labels.tolist())):
            ratio = "" if name == "store" else float(np.median(np.divide(times[name], times["store"])))
            row(
                name,
                recall(found, truth),
                len(data.queries) / float(np.median(times[name])),
                ratio,
                "≥ 0.9" if name == "store" else "",
            )
    faiss.omp_set_num_threads(1)


def threads(data: Data) -> None:
    """The same queries from one thread and from eight."""
    head(f"{data.name}, threads", "queries/s", "over one thread's", "to reach")
    with embedstore.open(data.path, read_only=True) as store:
        warm(store, data)
        rates: dict[int, list[float]] = {1: [], 2: [], 8: []}
        for _ in range(5):
            for count in rates:
                rates[count].append(parallel(store, data, count))
        for count, found in rates.items():
            ratio = float(np.median(np.divide(found, rates[1])))
            row(f"{count} threads", float(np.median(found)), ratio, "≥ 1.7" if count == 8 else "")


def parallel(store: Store, data: Data, count: int, seconds: float = 1.5) -> float:
    done = [0] * count
    end = time.perf_counter() + seconds

    def ask(number: int) -> None:
        at = number * 97
        while time.perf_counter() < end:
            store.search(data.queries[at % len(data.queries)], K)
            at, done[number] = at + 1, done[number] + 1

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return sum(done) / seconds


# -- filters ----------------------------------------------------------------------------------------------------------


def filters(data: Data, count: int) -> None:
    """A filter by what it matches; new filters; three conditions, other ones at each query."""
    head(f"{data.name}, filter", "matches", "plan", "recall@10", "queries/s", "first use, ms", "to reach")
    with embedstore.open(data.path, read_only=True) as store:
        warm(store, data)
        queries = data.queries[:count]
        store.search(queries[0], K, where="u > 2")  # the column is read once
        for share in SHARES:
            text = f"u < {share:g}"
            start = time.perf_counter()
            store.search(queries[0], K, where=text)
            first = 1e3 * (time.perf_counter() - start)
            seconds, found = timed(lambda query, text=text: ids_of(store.search(query, K, where=text)), queries)
            among = np.flatnonzero(data.u < share)
            plan = store.search(queries[0], K, where=text).stats["plan"]
            row(
                text,
                f"{len(among):,}",
                plan,
                recall(found, data.truth(queries, among)),
                1 / seconds,
                first,
                "≥ 0.99, ≥ 1,500; ≤ 30 ms",
            )
    with embedstore.open(data.path, read_only=True) as store:
        warm(store, data)
        start = time.perf_counter()
        store.search(queries[0], K, where="u < 0.3")
        row("u < 0.3, the first filter of a process", "", "", "", "", 1e3 * (time.perf_counter() - start), "≤ 30 ms")
        texts, sets = three(data, count)
        seconds, found = timed(
            lambda pair: ids_of(store.search(pair[0], K, where=pair[1])),
            list(zip(queries, texts, strict=True)),
            again=False,
        )  # type: ignore[arg-type]
        right = [
            recall([ours], data.truth(query[None], among))
            for ours, query, among in zip(found, queries, sets, strict=True)
        ]
        matches = f"{np.mean([len(one) for one in sets]):,.0f} on average"
        row(
            "three conditions, others at each query",
            matches,
            "",
            float(np.mean(right)),
            1 / seconds,
            "",
            "≥ 0.99, ≥ 200",
        )


def three(data: Data, count: int) -> tuple[list[str], list[npt.NDArray[np.int64]]]:
    random = np.random.default_rng(1)
    label = np.array([one["label"] for one in data.metadata])
    n = np.array([one["n"] for one in data.metadata])
    texts, sets = [], []
    for _ in range(count):
        low, width = random.random(), 0.1 + 0.4 * random.random()
        wanted, chosen = sorted(random.choice(1_000, 50, replace=False).tolist()), f"label {random.integers(20)}"
        texts.append(
            f"label = '{chosen}' and u between {low:.6f} and {low + width:.6f} and n in ({', '.join(map(str, wanted))})"
        )
        there = (label == chosen) & (data.u >= round(low, 6)) & (data.u <= round(low + width, 6)) & np.isin(n, wanted)
        sets.append(np.flatnonzero(there))
    return texts, sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--latents", type=Path, help=".npy (n, d) float32, or .npz with 'vectors'")
    parser.add_argument("--peers", help="Python with benchmarks/requirements.txt installed")
    parser.add_argument("--keep", type=Path, help="folder for the stores, used again if they are there")
    parser.add_argument("--quick", action="store_true", help="fewer queries")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas: %(default)s")
    args = parser.parse_args()
    chosen = args.only.split(",")
    rounds, size = (5, 1_000) if args.quick else (7, 1_000)
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="search-") as folder:
        work = args.keep or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        base = read_idx(args.data, "train-images-idx3-ubyte").reshape(-1, 784).astype(np.float32)
        queries = read_idx(args.data, "t10k-images-idx3-ubyte").reshape(-1, 784).astype(np.float32)
        sets = [made("pixels", base, queries, work)]
        if args.latents is not None:
            found = np.load(args.latents)
            latents = np.ascontiguousarray(
                found if isinstance(found, np.ndarray) else found["vectors"], dtype=np.float32
            )
            out = np.zeros(len(latents), dtype=bool)
            out[np.random.default_rng(0).choice(len(latents), 8_200, replace=False)] = True
            sets.append(made("latents", latents[~out], latents[out], work))
        for data in sets:
            pixels = data.name == "pixels"
            if data.name in chosen:
                factories = (
                    ["HNSW32,Flat"]
                    if pixels
                    else ["HNSW32,Flat", "HNSW32,SQ8", "HNSW16,Flat", "IVF512,Flat", "IVF1024,Flat"]
                )
                single(data, factories, rounds, size, "≥ 1.5" if pixels else "≥ 0.9 of the best")
            if "batch" in chosen:
                batch(data, "HNSW32,Flat", 3 if args.quick else 7)
            if "threads" in chosen:
                threads(data)
            if "filters" in chosen:
                filters(data, 300 if args.quick else 1_000)
            if "peers" in chosen and args.peers and pixels:
                peers(data, args.peers, 3 if args.quick else 10, work)
    print(f"\ncores {os.cpu_count()}, faiss {faiss.__version__}, load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
