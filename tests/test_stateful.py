"""Whatever is done to a store, in whatever order, it answers as a dict and brute force would."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import embedstore
from embedstore.config import StoreConfig
from embedstore.store import Store
from embedstore.truth import opening

from .oracle import Oracle

D = 3
MEMORY = "/dev/shm"  # noqa: S108 - thousands of commits: syncing them to a disk is for the kill test
names = st.sampled_from([f"item {i}" for i in range(12)])
# A coarse grid makes ties and duplicates common; 1e4 makes float32 cancellation visible.
numbers = st.sampled_from([-2.0, -1.0, 1.0, 2.0, 0.5, 1e4, 1e4 + 1.0])
vectors = st.lists(numbers, min_size=D, max_size=D).map(lambda v: np.array(v, dtype=np.float32))
metadata = st.fixed_dictionaries({"colour": st.sampled_from(["red", "green"])}, optional={"n": st.integers(0, 3)})


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if Path(MEMORY).is_dir() else None))
        self.path = self.folder / "test.store"
        self.oracle = Oracle()

    @initialize(metric=st.sampled_from(["l2", "cosine", "ip"]), factory=st.sampled_from([None, "Flat"]))
    def make(self, metric: str, factory: str | None) -> None:
        # Tiny segments and tails: every few adds roll a segment, build a tier, or merge some. "Flat" tiers are exact,
        # so that the way through tiers must give the very same answers.
        self.metric = metric
        opening.create(self.path, StoreConfig(factory=factory, tail_floats=5 * D, segment_bytes=7 * D * 4))
        self.store = Store(self.path)
        self.reader = embedstore.open(self.path, read_only=True)

    @rule(batch=st.lists(st.tuples(names, vectors, metadata), min_size=1, max_size=6))
    def add(self, batch: list[tuple[str, np.ndarray, dict]]) -> None:
        last = {name: (vector, data) for name, vector, data in batch}
        known = sum(name in self.oracle.items for name in last)
        ids, rows, data = zip(*batch, strict=True)
        report = self.store.add_vectors(list(ids), np.stack(rows), list(data), metric=self.metric)
        assert (report.added, report.updated, report.failures) == (len(last) - known, known, [])
        kept = [index for index, name in enumerate(ids) if index == len(ids) - 1 - ids[::-1].index(name)]
        for index in kept:
            self.oracle.put(ids[index], rows[index], data[index])

    @rule(batch=st.lists(names, min_size=1, max_size=4, unique=True))
    def delete(self, batch: list[str]) -> None:
        assert self.store.delete(batch) == sum(self.oracle.delete(name) for name in batch)

    @rule(colour=st.sampled_from(["red", "green"]), n=st.integers(0, 3))
    def delete_where(self, colour: str, n: int) -> None:
        if not self.oracle.items:
            return
        keys = set().union(*(data for _, _, data in self.oracle.items.values()))
        if "n" not in keys:
            with pytest.raises(embedstore.EmbedstoreError, match="n"):
                self.store.delete(where=f"colour = '{colour}' and n <= {n}")
            return
        gone = [
            name
            for name, (_, _, data) in self.oracle.items.items()
            if data["colour"] == colour and "n" in data and data["n"] <= n
        ]
        assert self.store.delete(where=f"colour = '{colour}' and n <= {n}") == len(gone)
        for name in gone:
            self.oracle.delete(name)

    @rule(name=names, data=metadata, vector=st.none() | vectors)
    def update(self, name: str, data: dict, vector: np.ndarray | None) -> None:
        if name not in self.oracle.items:
            with pytest.raises(embedstore.EmbedstoreError, match=r"no item has the id|is empty"):
                self.store.update(name, metadata=data, vector=vector)
            return
        self.store.update(name, metadata=data, vector=vector)
        _, old, before = self.oracle.items[name]
        self.oracle.put(name, old if vector is None else vector, {**before, **data})

    @rule()
    def build(self) -> None:
        self.store.build()

    @rule()
    def compact(self) -> None:
        self.store.compact()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self.path)

    @rule(query=vectors, k=st.integers(1, 15), exact=st.booleans(), other=st.booleans())
    def search(self, query: np.ndarray, k: int, exact: bool, other: bool) -> None:
        hits = (self.reader if other else self.store).search(query, k, exact=exact)
        self.same(hits, self.oracle.nearest(query, k, self.metric))

    @rule(queries=st.lists(vectors, min_size=2, max_size=4), k=st.integers(1, 5))
    def search_batch(self, queries: list[np.ndarray], k: int) -> None:
        for query, hits in zip(queries, self.store.search(np.stack(queries), k), strict=True):
            self.same(hits, self.oracle.nearest(query, k, self.metric))

    @rule(query=vectors, k=st.integers(1, 15), colour=st.sampled_from(["red", "green"]))
    def search_where(self, query: np.ndarray, k: int, colour: str) -> None:
        hits = self.store.search(query, k, where=f"colour = '{colour}'")
        self.same(hits, self.oracle.nearest(query, k, self.metric, lambda data: data["colour"] == colour))

    @rule(name=names, k=st.integers(1, 5))
    def search_item(self, name: str, k: int) -> None:
        if name in self.oracle.items:
            vector = self.oracle.items[name][1]
            expected = [hit for hit in self.oracle.nearest(vector, 99, self.metric) if hit[0] != name][:k]
            self.same(self.store.search(self.store.item(name), k), expected)

    @rule(name=names)
    def vector(self, name: str) -> None:
        if name in self.oracle.items:
            assert (self.reader.vector(name).vector == self.oracle.items[name][1]).all()

    def same(self, hits: object, expected: list[tuple[str, float]]) -> None:
        assert [(hit.id, hit.distance) for hit in hits] == expected
        assert [hit.metadata for hit in hits] == [self.oracle.items[name][2] for name, _ in expected]

    @invariant()
    def same_items(self) -> None:
        for store in (self.store, self.reader):
            assert store.ids() == [n for n, _ in sorted(self.oracle.items.items(), key=lambda item: item[1][0])]

    def teardown(self) -> None:
        if hasattr(self, "store"):
            report = self.store.verify()
            assert (report.problems, report.derived, report.items) == ([], [], len(self.oracle.items))
            self.store.close()
            self.reader.close()
        shutil.rmtree(self.folder)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
