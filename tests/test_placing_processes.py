"""Labels and several processes: each sees items and their clusters together, and a kill parts them never."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.store import Store

from .clustered import COUNT, copy, digits, placed, said
from .stores import in_process

READER = """
    import sys, embedstore
    with embedstore.open(sys.argv[1], read_only=True) as store:
        print("ready", flush=True)
        for line in sys.stdin:
            print(len(store), store.count("cluster is not null"), store.ids(line.strip()), flush=True)
        print("torch" in sys.modules, "sklearn" in sys.modules, flush=True)
"""
ADDER = """
    import sys
    import numpy as np
    import embedstore
    start = int(sys.argv[2])
    with embedstore.open(sys.argv[1]) as store:
        fingerprint = store.info()["spaces"][0]["fingerprint"]
        for step in range(start, start + 10**6):
            latents = np.random.default_rng(step).normal(size=(30, 8)).astype(np.float32) * 200
            store.add_vectors([f"{step}/{i}" for i in range(30)], latents, encoder=fingerprint)
            if step % 3 == 2:
                store.update(f"{step}/0", metadata={"step": step})
                store.delete([f"{step}/1", f"{step - 1}/2"])
            print(step, flush=True)
"""


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(tmp_path_factory)


def test_another_process_sees_new_items_with_their_clusters_at_its_next_question(path: Path) -> None:
    reader = in_process(READER, path, wait=False)
    assert reader.stdout.readline() == "ready\n"

    def ask(where: str) -> str:
        reader.stdin.write(where + "\n")
        reader.stdin.flush()
        return str(reader.stdout.readline().strip())

    with embedstore.open(path) as store:
        assert ask("cluster = 2") == f"{COUNT} {COUNT} {store.ids('cluster = 2')}"
        for step in range(4):
            store.add(digits(COUNT + step * 5, COUNT + step * 5 + 5))
            known = store.count("cluster is not null")
            assert ask("cluster = 2") == f"{COUNT + step * 5 + 5} {known} {store.ids('cluster = 2')}"
        store.name_cluster(2, "twos")
        assert ask("cluster = 'twos'").endswith(str(store.ids("cluster = 2")))
        coarse = store.use_clustering("found", level=0)
        assert coarse.clusters < store.clustering("found").levels[-1].clusters
        assert ask("cluster = 2").endswith(str(store.ids("cluster = 2")))
    out, _ = reader.communicate(timeout=60)
    assert out == "False False\n"  # a question by cluster waits for neither
    assert reader.returncode == 0


def assert_labels_fit(store: Store) -> None:
    """Each item has its label of its latent, and nothing else has one."""
    labels = said(store, "found")
    ids = store.ids()
    assert list(labels) == ids
    with store._database.read() as connection:
        assert connection.execute("SELECT count(*) FROM labels").fetchone() == (len(ids),)
    new = ids[COUNT:]
    leaves, strengths = placed(store, "found", np.stack([store.vector(id).vector for id in new]))
    assert [labels[id][0] for id in new] == leaves.tolist()
    assert [labels[id][1] for id in new] == pytest.approx(
        strengths.tolist(), abs=1e-4
    )  # float32, in batches of other sizes


def test_a_writer_killed_in_the_middle_leaves_each_item_with_its_label(path: Path) -> None:
    chance = random.Random(3)
    start = 0
    for _ in range(4):
        adder = in_process(ADDER, path, start, wait=False)
        done = -1
        for _ in range(chance.randrange(1, 5)):
            done = int(adder.stdout.readline())
        time.sleep(chance.uniform(0, 0.02))  # so that the kill comes anywhere in the next steps, acknowledged or not
        os.kill(adder.pid, signal.SIGKILL)
        rest = adder.communicate()[0].split()
        done = int(rest[-1]) if rest else done
        with embedstore.open(path) as store:
            steps = {int(id.split("/")[0]) for id in store.ids()[COUNT:]}
            assert set(range(start, done + 1)) <= steps
            assert_labels_fit(store)
            assert store.verify().ok
            start = max(steps) + 1
    with embedstore.open(path) as store:
        store.add(digits(COUNT, COUNT + 2))
        assert_labels_fit(store)


def test_labels_go_with_their_items_and_runs_by_the_database_s_own_rule(path: Path) -> None:
    with embedstore.open(path) as store, store._database.read() as connection:
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
    with closing(sqlite3.connect(path / "store.db")) as database, database:
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("DELETE FROM items WHERE id = 'd003'")
        assert database.execute("SELECT count(*) FROM labels").fetchone() == (COUNT - 1,)
        with pytest.raises(sqlite3.IntegrityError):
            database.execute("INSERT INTO labels (row, clustering, leaf, strength) VALUES (999999, 1, 0, 1)")
        database.execute("DELETE FROM clusterings")
        assert database.execute("SELECT count(*) FROM labels").fetchone() == (0,)
