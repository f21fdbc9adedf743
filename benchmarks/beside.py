"""Other embedded stores, each in turn with ours on the same queries: `search.py` asks them through `peers.py`."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from sets import Data, K, head, ids_of, recall, row, timed, warm

import embedstore

PEERS = ("Chroma", "LanceDB", "Milvus Lite", "sqlite-vec")


class Peer:
    """Another store's process."""

    def __init__(self, python: str, name: str) -> None:
        command = [python, str(Path(__file__).with_name("peers.py")), name, "1"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, verb: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        pickle.dump((verb, arguments), self.process.stdin)
        self.process.stdin.flush()
        found = pickle.load(self.process.stdout)
        if isinstance(found, str) and verb != "version":
            raise RuntimeError(found)
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def peers(data: Data, python: str, seconds: float, work: Path) -> None:
    """Each of them in turn with the store, on the same queries."""
    head(
        f"{data.name}, other stores",
        "version",
        "recall@10",
        "queries/s",
        "store's speed over it",
        "at 10 %: recall",
        "queries/s",
        "store's",
        "batch of 1,000, queries/s",
        "store's",
    )
    with embedstore.open(data.path, read_only=True) as store:
        warm(store, data)
        store.search(data.queries[0], K, where="u < 0.1")
        among = np.flatnonzero(data.u < 0.1)
        for name in PEERS:
            peer = Peer(python, name)
            try:
                cells = [name, peer.ask("version")]
                took = peer.ask("build", work / f"{data.name}.{name.replace(' ', '-')}", data.base, data.u)
                print(f"{name}: built in {took:.0f} s", file=sys.stderr)
                for below, part in ((None, None), (0.1, among)):
                    text = None if below is None else f"u < {below}"
                    peer.ask("search", data.queries[:20], below, False, seconds)
                    spent, found = peer.ask("search", data.queries[:1_000], below, False, seconds)
                    own, _ = timed(
                        lambda query, text=text: ids_of(store.search(query, K, where=text)), data.queries[: len(found)]
                    )
                    truth = data.truth(data.queries[: len(found)], part)
                    cells += [recall(found, truth), len(found) / spent, spent / len(found) / own]
                spent, found = peer.ask("search", data.queries[:1_000], None, True, seconds)
                store.search(data.queries[:1_000], K)  # see `timed`
                start = time.perf_counter()
                store.search(data.queries[:1_000], K)
                cells += [len(found) / spent, spent / (time.perf_counter() - start)]
                row(*cells)
            except (RuntimeError, EOFError) as error:
                print(f"left out: {name}: {error}", file=sys.stderr)
            finally:
                peer.close()
