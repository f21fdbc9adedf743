"""Kills a writer at random moments, again and again: ``python -m tests.killing DIRECTORY ROUNDS``.

A process of its own, for its children are forked from it: so a round takes milliseconds and not the second that
importing takes. A fork is safe only before OpenMP has started its threads, which other tests do.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss  # noqa: F401 - before the forks
import numpy as np

import embedstore
import embedstore.index.tune
from embedstore.config import StoreConfig
from embedstore.store import Store
from embedstore.truth import opening

D = 8

Items = dict[str, int]  # id -> the number that its vector and its metadata are made of


def vector(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=D).astype(np.float32)


def apply(items: Items, operation: dict[str, Any]) -> Items:
    """What the items are after an operation."""
    if operation["do"] == "add":
        return {**items, **operation["items"]}
    if operation["do"] == "delete":
        return {name: number for name, number in items.items() if name not in operation["ids"]}
    return items


def work(path: Path, log: Path, items: Items, seed: int) -> None:
    """Add, delete, build and compact until killed; each operation is written down before, and acknowledged after."""
    chance = random.Random(seed)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with embedstore.open(path) as store:
        while True:
            kind = chance.choices(["add", "delete", "build", "compact"], [6, 3, 3, 1])[0]
            if kind == "add":
                new = {f"item {chance.randrange(60)}": chance.randrange(10**6) for _ in range(chance.randrange(1, 9))}
                operation: dict[str, Any] = {"do": "add", "items": new}
            elif kind == "delete":
                operation = {"do": "delete", "ids": chance.sample(sorted(items), min(len(items), 4))}
            else:
                operation = {"do": kind}
            os.write(descriptor, json.dumps(operation).encode() + b"\n")
            if kind == "add":
                store.add_vectors(
                    list(new), np.stack([vector(n) for n in new.values()]), [{"n": n} for n in new.values()]
                )
            elif kind == "delete":
                store.delete(operation["ids"])
            elif kind == "build":
                store.build()
            else:
                store.compact()
            items = apply(items, operation)
            os.write(descriptor, b"acknowledged\n")


def check(path: Path, possible: list[Items], found: Path) -> None:
    """The store holds one of the possible states, whole, and answers for it."""
    with embedstore.open(path) as store:
        held = {name: store.get(name)["metadata"]["n"] for name in store.ids()}
        assert held in possible
        report = store.verify()
        assert (report.problems, report.derived) == ([], [])
        for name, number in held.items():
            assert (store.vector(name).vector == vector(number)).all()
        if held:
            query = vector(0)
            names = list(held)
            distances = np.linalg.norm(np.stack([vector(held[name]) for name in names]) - query, axis=1)
            expected = sorted(distances.tolist())[:5]
            assert np.allclose(store.search(query, k=5).distances, expected, rtol=1e-5)
        found.write_text(json.dumps(held))


def in_child(task: Callable[[], None]) -> int:
    """Run in a forked process."""
    child = os.fork()
    if child:
        return child
    try:
        task()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main(folder: Path, rounds: int) -> int:
    """Returns the number of acknowledged operations; raises where one was lost."""
    path, log, found = folder / "killed.store", folder / "log", folder / "found"
    # Small segments and tails, so that kills also hit the making of segments, the building and merging of tiers.
    opening.create(path, StoreConfig(factory="Flat", tail_floats=20 * D, segment_bytes=40 * D * 4))
    with Store(path) as store:
        store.add_vectors(["first"], vector(1)[None], [{"n": 1}])
    items: Items = {"first": 1}
    chance = random.Random(7)
    acknowledged = 0
    for round_number in range(rounds):
        child = in_child(lambda seed=round_number, known=items: work(path, log, known, seed))
        # A random moment of a random operation: by count, so that a slow machine is killed as deep into its work.
        wait_for = chance.randrange(5)
        while not log.exists() or log.read_bytes().count(b"acknowledged") < wait_for:
            time.sleep(0.0005)
        time.sleep(chance.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        lines = log.read_text().splitlines()
        log.unlink()
        pending = None
        for line in lines:
            if line == "acknowledged":
                items = apply(items, pending)
                acknowledged += 1
                pending = None
            else:
                pending = json.loads(line)
        # The operation under way may have been committed or not, but never in part.
        possible = [items] if pending is None else [items, apply(items, pending)]
        status = os.waitpid(in_child(lambda states=possible: check(path, states, found)), 0)[1]
        assert status == 0, f"round {round_number}"
        items = json.loads(found.read_text())
    return acknowledged


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2])))  # noqa: T201 - its answer
