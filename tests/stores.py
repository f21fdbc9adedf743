"""Small stores for tests, whose tails and segments are so short that a few rows make several of each."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.config import StoreConfig
from embedstore.errors import EmbedstoreError
from embedstore.store import Store
from embedstore.truth import opening

from .oracle import Oracle

D = 4


def vectors(count: int, seed: int = 0, dimension: int = D) -> np.ndarray:
    """Vectors (n, d) of whole numbers, all different: float32 distances are exact enough to compare with ==."""
    rng = np.random.default_rng(seed)
    return (rng.permutation(count * dimension).reshape(count, dimension) + seed).astype(np.float32)


def small_store(path: Path, *, tail: int = 10, segment: int = 10**6, **config: Any) -> Store:
    """A store whose tail is searched exactly up to ``tail`` rows; "Flat" tiers must answer as exact search does."""
    settings = {"factory": "Flat", "tail_floats": tail * D, "segment_bytes": segment * D * 4, **config}
    opening.create(path, StoreConfig(**settings))
    return Store(path)


def filled(path: Path, batches: int = 3, rows: int = 30, **config: Any) -> Oracle:
    """A closed store of several batches with a tier each (30 rows, then 15, then 7, ...), and its oracle."""
    oracle = Oracle()
    with small_store(path, **{"tail": 3, **config}) as store:
        for batch in range(batches):
            count = max(4, rows >> batch + (batch > 0))
            add(store, oracle, [f"b{batch}/{i}" for i in range(count)], vectors(count, seed=batch + 1))
    return oracle


def add(store: Store, oracle: Oracle, ids: list[str], rows: np.ndarray) -> None:
    """Add to both, and build the tiers that are due."""
    store.add_vectors(ids, rows, [{"n": i} for i in range(len(ids))])
    store.build()
    for i, (name, row) in enumerate(zip(ids, rows, strict=True)):
        oracle.put(name, row, {"n": i})


def assert_answers(store: Store, oracle: Oracle, rounds: int = 30, k: int = 7) -> list[Any]:
    """So many searches that tiers are loaded, each compared with the oracle; returns the plans taken."""
    plans = []
    for query in vectors(rounds, seed=99):
        hits = store.search(query, k)
        assert [(hit.id, hit.distance) for hit in hits] == oracle.nearest(query, k, "l2")
        plans.append(hits.stats.get("plan", "tier"))
    return plans


def tier_files(path: Path) -> list[Path]:
    """The tier files, by name."""
    return sorted((path / "tiers").glob("*.faiss"))


def sentence(error: EmbedstoreError) -> str:
    """An error's text, checked to be one sentence on one line."""
    text = str(error)
    assert text, "an empty message"
    assert "\n" not in text
    # A full stop that ends a sentence stands before a blank and a capital; file names and abbreviations don't.
    assert not re.search(r"[a-z)]\. [A-Z]", text), text
    return text


def refused(kind: type[EmbedstoreError], match: str | None, call: Callable[[], Any]) -> str:
    with pytest.raises(kind, match=match or None) as caught:
        call()
    return sentence(caught.value)


def in_process(code: str, *arguments: object, wait: bool = True, **environment: str) -> Any:
    """Run a script in a fresh interpreter: its output's lines, or the running process with ``wait=False``."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    if not wait:
        return process
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out.splitlines()


def in_child(task: Callable[[], None]) -> int:
    """Run a task in a forked process and return its exit status: 0, or 1 after an exception (printed)."""
    child = os.fork()
    if child:
        deadline = time.monotonic() + 120
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                pytest.fail("the child hangs")
            time.sleep(0.01)
    try:
        task()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
