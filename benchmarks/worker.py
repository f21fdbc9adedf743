"""One engine in a process of its own, which does what it is told through a pipe, one request at a time.

So no engine's threads, memory or garbage is in another one's way, and rounds can go from engine to engine.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from engines import ENGINES, Engine, K, number_of

#: Libraries read these when they are loaded; workers that search get one thread.
_ONE_THREAD = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "LANCE_CPU_THREADS", "TOKIO_WORKER_THREADS")


def recall(found: list[Sequence[Any]], truth: npt.NDArray[np.int64]) -> float:
    """Mean recall@10 of the ids found, against the numbers of the true ones (nq, 10)."""
    pairs = zip(found, truth.tolist(), strict=True)
    return float(np.mean([len({*map(number_of, ours)} & {*right}) / K for ours, right in pairs]))


def _tune(engine: Engine, queries: Any, truth: Any, target: float) -> tuple[int | None, float]:
    """The smallest value of the engine's parameter that reaches the target, and the recall there."""
    low, high = 0, len(engine.knobs()) - 1
    if high < 0:
        return None, recall([engine.search(query) for query in queries], truth)
    while low < high:
        middle = (low + high) // 2
        engine.turn(engine.knobs()[middle])
        reached = recall([engine.search(query) for query in queries], truth)
        low, high = (low, middle) if reached >= target else (middle + 1, high)
    engine.turn(engine.knobs()[low])
    return engine.knobs()[low], recall([engine.search(query) for query in queries], truth)


def _serve(name: str, pipe: Connection, threads: int | None) -> None:
    if threads is not None:
        os.environ.update(dict.fromkeys(_ONE_THREAD, str(threads)))
    try:
        engine: Engine = ENGINES[name]()
    except ImportError as error:
        pipe.send(error)
        return
    pipe.send(engine.name)
    while (request := pipe.recv()) is not None:
        verb, *arguments = request
        try:
            pipe.send(_answer(engine, verb, arguments))
        except Exception as error:
            pipe.send(RuntimeError(f"{engine.name}: {verb}: {type(error).__name__}: {error}"))


def _answer(engine: Engine, verb: str, arguments: list[Any]) -> Any:
    clock = time.perf_counter
    if verb == "build":
        wall, cpu = clock(), time.process_time()
        engine.build(*arguments)
        return clock() - wall, time.process_time() - cpu
    if verb == "open":
        return engine.open(*arguments)
    if verb == "tune":
        return _tune(engine, *arguments)
    seconds, found = [], []
    if verb == "search":
        for query in arguments[0]:
            start = clock()
            numbers = engine.search(query)
            seconds.append(clock() - start)
            found.append(numbers)
        return np.array(seconds), found
    if verb == "add":
        first, vectors, metadata = arguments
        for i, vector in enumerate(vectors):
            start = clock()
            engine.add_one(first + i, vector, metadata[i])
            seconds.append(clock() - start)
        return np.array(seconds), None
    raise ValueError(verb)


@dataclass
class Worker:
    """An engine's process. ``threads``: of its libraries; None leaves what they choose (for building)."""

    key: str
    threads: int | None = 1

    def __enter__(self) -> Worker:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.key, other, self.threads), daemon=True)
        self.process.start()
        other.close()
        self.name: str = self._receive()
        return self

    def ask(self, verb: str, *arguments: Any) -> Any:
        self.pipe.send((verb, *arguments))
        return self._receive()

    def _receive(self) -> Any:
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self.pipe.send(None)
        self.process.join(timeout=10)
        self.process.kill()


def build(key: str, directory: Path, base: Any, metadata: Any) -> tuple[float, float]:
    """Build an engine's store in a process of its own, with all cores: wall and CPU seconds."""
    with Worker(key, threads=None) as worker:
        wall, cpu = worker.ask("build", directory, base, metadata)
        return wall, cpu
