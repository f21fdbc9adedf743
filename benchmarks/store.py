"""The store beside what a user would take instead: raw FAISS, hnswlib, Chroma, LanceDB, bare SQLite.

    python benchmarks/store.py [--data DIR] [--quick] [--only search,add,durable,cold,memory] [--json FILE] [--keep DIR]

On Fashion-MNIST's raw pixels: 60,000 vectors of 784 dimensions, test pictures as queries, k = 10, one query at a time,
one thread. All numbers of a table are of one run on one machine, and every ratio is the median of ratios within a
round, in which each engine (each in a process of its own) answers the same queries in turn: what else the machine does
meanwhile falls on all of them. What is not installed (``pip install embedstore[bench]``) is left out with a note.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from engines import ENGINES, K
from worker import Worker, build, recall

SECTIONS = ("search", "add", "durable", "cold", "memory")
TARGET = 0.99
HERE = Path(__file__).parent


@dataclass
class Setting:
    """What all sections share: the data, how long to measure, the stores built so far, and the results."""

    base: npt.NDArray[np.float32]
    queries: npt.NDArray[np.float32]
    truth: npt.NDArray[np.int64]
    metadata: list[dict[str, Any]]
    work: Path
    quick: bool
    built: dict[str, tuple[float, float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def store(self, key: str) -> Path | None:
        """The directory of an engine's store, built at the first call; None where it is not installed."""
        key = "store" if key == "store+metadata" else key
        directory = self.work / key
        if key in self.missing:
            return None
        if not directory.exists():
            say(f"building {ENGINES[key].name if key != 'store' else 'embedstore'} ...")
            try:
                self.built[key] = build(key, directory, self.base, self.metadata)
            except ImportError as error:
                self.missing[key] = str(error)
                say(f"left out: {error} (pip install embedstore[bench])")
                return None
        return directory


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def read_idx(directory: Path, name: str) -> npt.NDArray[np.uint8]:
    path = next((p for p in (directory / f"{name}.gz", directory / name) if p.exists()), None)
    if path is None:
        sys.exit(f"{directory} has no {name}[.gz]: name the folder of Fashion-MNIST's IDX files with --data")
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def prepare(data: Path, work: Path, quick: bool) -> Setting:
    base = read_idx(data, "train-images-idx3-ubyte").reshape(60_000, 784).astype(np.float32)
    queries = read_idx(data, "t10k-images-idx3-ubyte").reshape(10_000, 784).astype(np.float32)
    labels = read_idx(data, "train-labels-idx1-ubyte").tolist()
    say("exact truth ...")
    squares = np.einsum("ij,ij->i", base, base)
    truth = np.empty((len(queries), K), dtype=np.int64)
    for start in range(0, len(queries), 1000):  # whole numbers below 2**24 x 784: float64 products are exact
        block = queries[start : start + 1000]
        distances = squares - 2.0 * (block @ base.T)
        near = np.argpartition(distances, 4 * K, axis=1)[:, : 4 * K]
        difference = base[near].astype(np.float64) - block[:, None].astype(np.float64)
        exact = np.einsum("qnd,qnd->qn", difference, difference)
        truth[start : start + 1000] = np.take_along_axis(near, np.argsort(exact, axis=1)[:, :K], axis=1)
    metadata = [{"label": label, "split": "train"} for label in labels]
    return Setting(base, queries, truth, metadata, work, quick)


def search(setting: Setting) -> None:
    """Queries a second and recall, of blocks of queries that the engines answer in turn.

    FAISS takes part twice: at the smallest efSearch that reaches the target on the tuning queries, and at the smallest
    that reaches there what the store does, since a store that finds more must not look slower for it, nor the reverse.
    """
    rounds, size = (5, 200) if setting.quick else (12, 500)
    tuning = slice(9000, 9500 if setting.quick else 10_000)
    keys = ["faiss", "hnswlib", "chroma", "lancedb", "store", "store+metadata"]
    keys = [key for key in keys if setting.store(key) is not None]
    with ExitStack() as stack:
        workers = {key: stack.enter_context(Worker(key)) for key in keys}
        workers["equal"] = stack.enter_context(Worker("faiss"))
        keys.append("equal")
        knobs, tuned, times, found = {}, {}, {key: [] for key in keys}, {key: [] for key in keys}
        for key, worker in workers.items():
            worker.ask("open", setting.store("faiss" if key == "equal" else key))
            target = tuned["store"] if key == "equal" else TARGET
            knobs[key], tuned[key] = worker.ask("tune", setting.queries[tuning], setting.truth[tuning], target)
            say(f"{worker.name}: parameter {knobs[key]}, recall {tuned[key]:.4f} on tuning queries")
        for number in range(rounds):
            block = setting.queries[number * size : (number + 1) * size]
            slow = block[: max(50, size // 5)]  # of engines that take tens of times as long
            for key, worker in workers.items():
                seconds, numbers = worker.ask("search", slow if key in ("chroma", "lancedb") else block)
                times[key].append((np.mean(seconds), np.median(seconds), np.quantile(seconds, 0.1)))
                found[key].append((number * size, numbers))
        rows = []
        for key, worker in workers.items():
            recalls = [recall(numbers, setting.truth[at : at + len(numbers)]) for at, numbers in found[key]]
            mean, middle, low = np.median(times[key], axis=0).tolist()
            raw, equal = (np.median(np.divide(times[yard], times[key]), axis=0) for yard in ("faiss", "equal"))
            rows.append(
                {
                    "engine": f"{worker.name}, recall as the store's" if key == "equal" else worker.name,
                    "parameter": knobs[key],
                    "recall@10": statistics.mean(recalls),
                    "queries/s": 1 / mean,
                    "p50 µs": 1e6 * middle,
                    "p10 µs": 1e6 * low,
                    "x FAISS, mean": float(raw[0]),
                    "p50": float(raw[1]),
                    "x equal FAISS, mean": float(equal[0]),
                    "p50 ": float(equal[1]),
                    "target": {"store": "≥ 0.85", "store+metadata": "≥ 0.5"}.get(key),
                }
            )
    setting.results["one query at a time, k = 10 (times FAISS's speed: by mean and by median time of a query)"] = rows


def add(setting: Setting) -> None:
    """Building everything from nothing, with all cores."""
    rounds: dict[str, list[tuple[float, float]]] = {"faiss": [], "sqlite": [], "store": []}
    for number in range(1 if setting.quick else 3):
        for key, times in rounds.items():
            directory = setting.work / key
            if number or key not in setting.built:
                shutil.rmtree(directory, ignore_errors=True)
                setting.store(key)
            times.append(setting.built[key])
    yardstick = [(f[0] + s[0], f[1] + s[1]) for f, s in zip(rounds["faiss"], rounds["sqlite"], strict=True)]
    named = {"FAISS HNSW32 + sqlite3.executemany": yardstick, "store.add_vectors, searchable": rounds["store"]}
    for key in ("hnswlib", "chroma", "lancedb"):
        if setting.store(key) is not None and key in setting.built:
            named[ENGINES[key].name] = [setting.built[key]]
    rows = []
    for name, times in named.items():
        own = name.startswith("store")
        ratios = [(a[0] / b[0], a[1] / b[1]) for a, b in zip(times, yardstick, strict=False)]
        rows.append(
            {
                "what": name,
                "seconds": statistics.median(wall for wall, _ in times),
                "CPU seconds": statistics.median(cpu for _, cpu in times),
                "ratio": statistics.median(wall for wall, _ in ratios),
                "CPU ratio": statistics.median(cpu for _, cpu in ratios),
                "target": "≤ 1.5" if own else None,
            }
        )
    setting.results["60,000 x 784 with metadata added, searchable"] = rows


def durable(setting: Setting) -> None:
    """One row added and durable, in rounds."""
    rounds, size = (5, 20) if setting.quick else (15, 20)
    keys = [key for key in ("store", "chroma", "lancedb", "sqlite") if setting.store(key) is not None]
    times: dict[str, list[Any]] = {key: [] for key in keys}
    with ExitStack() as stack:
        workers = {}
        for key in keys:
            copy = setting.work / f"{key}.added"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(setting.store(key) or copy, copy)
            workers[key] = stack.enter_context(Worker(key))
            workers[key].ask("open", copy)
        for number in range(rounds + 1):
            block = slice(number * size, (number + 1) * size)
            for key, worker in workers.items():
                seconds, _ = worker.ask("add", 60_000 + block.start, setting.queries[block], setting.metadata[block])
                if number:
                    times[key].append(seconds)
        names = {key: "embedstore" if key == "store" else worker.name for key, worker in workers.items()}
    sqlite = [float(np.median(seconds)) for seconds in times["sqlite"]]
    rows = []
    for key in keys:
        every = 1e3 * np.concatenate(times[key])
        rows.append(
            {
                "engine": names[key],
                "p10 ms": float(np.quantile(every, 0.1)),
                "p50 ms": float(np.quantile(every, 0.5)),
                "p95 ms": float(np.quantile(every, 0.95)),
                "x SQLite": statistics.median(
                    float(np.median(own)) / raw for own, raw in zip(times[key], sqlite, strict=True)
                ),
                "synced": "no" if key == "lancedb" else "yes",  # by counting calls of fsync and fdatasync
                "target": "≤ 4 ms" if key == "store" else None,
            }
        )
    setting.results["one row added, durable"] = rows


def cold(setting: Setting) -> None:
    """A new process: import, open, answer the first query by id."""
    name = "train/00017"
    commands: dict[str, list[str]] = {
        "python, numpy, faiss and sqlite3 imported": ["-c", "import numpy, faiss, sqlite3"]
    }
    for key, title in (("store", "embedstore, library"), ("chroma", "Chroma"), ("lancedb", "LanceDB")):
        if (directory := setting.store(key)) is not None:
            commands[title] = [str(HERE / "fresh.py"), "first", key, str(directory), name]
    script = Path(sys.executable).with_name("embedstore")
    if script.exists():
        commands["embedstore search STORE ID --json"] = [
            str(script),
            "search",
            str(setting.store("store")),
            name,
            "--json",
        ]
    else:
        say(f"left out: there is no {script}")
    times: dict[str, list[float]] = {title: [] for title in commands}
    for number in range(6):
        for title, command in commands.items():
            start = time.perf_counter()
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
            seconds = time.perf_counter() - start
            if done.returncode:
                sys.exit(f"{title}: {done.stderr}")
            if number:  # the first fills caches
                times[title].append(seconds)
    rows = []
    for title, seconds_of in times.items():
        target = {"embedstore, library": "≤ 0.5 s", "embedstore search STORE ID --json": "≤ 0.7 s"}.get(title)
        rows.append(
            {"process": title, "seconds": statistics.median(seconds_of), "best": min(seconds_of), "target": target}
        )
    setting.results["a fresh process: open the store and answer the first query by id"] = rows


def memory(setting: Setting) -> None:
    """VmRSS after opening and 2,000 queries."""
    queries = setting.work / "queries.f32"
    setting.queries[:2000].tofile(queries)
    size = setting.base.nbytes

    def resident(key: str) -> int:
        arguments = ["memory", key, str(setting.store(key) if key != "nothing" else "-"), str(queries), "2000"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / "fresh.py"), *arguments]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)

    nothing = resident("nothing")
    rows = []
    for key in ("store", "store+metadata", "faiss", "hnswlib", "chroma", "lancedb"):
        if setting.store(key) is not None:
            found = resident(key)
            rows.append(
                {
                    "engine": ENGINES[key].name,
                    "MB": found / 1e6,
                    "over the vectors": found / size,
                    "less Python, numpy, faiss": (found - nothing) / size,
                    "target": "≤ 1.3" if key.startswith("store") else None,
                }
            )
    setting.results["resident memory after opening and 2,000 queries, over the vectors' 188 MB"] = rows


def table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a Markdown table."""

    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:,.0f}" if value >= 1000 else f"{value:.4f}" if 0.9 < value < 1 else f"{value:.3g}"
        return "" if value is None else str(value)

    heads = list(rows[0])
    cells = [heads, *([text(row[head]) for head in heads] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    print(f"\n{title}\n", lines[0], rule, *lines[1:], sep="\n", flush=True)


def machine() -> dict[str, Any]:
    """Cores and versions, for the foot of the tables."""
    found: dict[str, Any] = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    for package in ("embedstore", "faiss-cpu", "numpy", "SQLAlchemy", "hnswlib", "chromadb", "lancedb"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--quick", action="store_true", help="fewer queries and rounds")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE too")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="build the stores in DIR, and use those that are there"
    )
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}: there are {', '.join(SECTIONS)}")
    sections: dict[str, Callable[[Setting], None]] = {
        "add": add, "search": search, "cold": cold, "memory": memory, "durable": durable
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="embedstore-bench-") as temporary:
        work = options.keep or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        setting = prepare(options.data, work, options.quick)
        for name, section in sections.items():
            if name in chosen:
                shown = len(setting.results)
                section(setting)
                for title in list(setting.results)[shown:]:
                    table(title, setting.results[title])
    found = machine()
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    print("\n" + ", ".join(f"{key} {value}" for key, value in found.items()) + f"; load average at the end {load}")
    for reason in setting.missing.values():
        print(f"left out: {reason}")
    if options.json:
        options.json.write_text(json.dumps({"machine": found, "results": setting.results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
