"""Which index suits a store: several kinds, built over its own vectors and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedstore.config import StoreConfig
from embedstore.errors import InvalidArgument
from embedstore.progress import Progress
from embedstore.truth.snapshot import SpaceView
from embedstore.types import Metric, Vectors

if TYPE_CHECKING:
    from embedstore.index.tier import Tier

_QUERIES, _K = 1000, 10
_TIMED = 300  # queries, asked one at a time
_ROUNDS = 5  # of them, of which the best counts: what else the machine does only makes them slower
_NOISE = 0.9  # of the fastest: what is within it, and smaller, is taken
_GRAPH_ROWS = 2_000_000  # above, a graph takes many minutes to build
_SCANS = 20  # exact searches that are timed


@dataclass(frozen=True, slots=True)
class Candidate:
    """One kind of index, as measured.

    Attributes:
        factory: FAISS factory string, with ``IVF*`` for as many lists as suit the number of vectors; 'exact' for none.
        recall: mean recall@10 at the parameters that tuning found.
        reached: whether that is the recall that was asked for.
        queries_per_second: of one thread that asks one query at a time, with exact distances.
        bytes_per_vector: of the index, and of vectors that are kept as bytes; the segments stay where they are.
        build_seconds: with all cores.
        memory: bytes, estimated, of a process that searches all vectors of the space with it.
        fits: whether that is within the budget.
        chosen: whether it is the one to take.
    """

    factory: str
    recall: float
    reached: bool
    queries_per_second: float
    bytes_per_vector: float
    build_seconds: float
    memory: int
    fits: bool
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class TuneReport:
    """What was measured.

    Attributes:
        space: name of the space.
        vectors: of the space.
        measured: how many of them the indexes were built over.
        target: recall@10.
        memory: budget in bytes, or None.
        candidates: in the order of their speed.
    """

    space: str
    vectors: int
    measured: int
    target: float
    memory: int | None
    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate | None:
        """The one to take; None where none reaches the recall within the budget."""
        return next((one for one in self.candidates if one.chosen), None)

    @property
    def preferred(self) -> list[Candidate]:
        """Those that will do: the chosen one, then the others by their speed."""
        good = [one for one in self.candidates if one.reached and one.fits]
        return sorted(good, key=lambda one: not one.chosen)

    def choosing(self, chosen: Candidate | None) -> TuneReport:
        """The same with another choice, or none."""
        return replace(self, candidates=tuple(replace(one, chosen=one is chosen) for one in self.candidates))


def measure(view: SpaceView, config: StoreConfig, rows: int, *, progress: bool = False) -> TuneReport:
    """Build and measure every kind of index that may suit.

    Args:
        view: of the space.
        config: recall to reach, memory to keep to, seed.
        rows: at most so many vectors, drawn at random, are built over.
        progress: a bar on stderr.

    Raises:
        InvalidArgument: there is next to nothing to measure.
    """
    from embedstore.index import build, bytewise, exact, inplace, knobs, sizes, tune
    from embedstore.index.bindings import faiss
    from embedstore.index.tier import Tier

    alive, metric, dimension = view.live_positions(), view.space.metric, view.space.dimension
    if len(alive) < 2 * _K:
        raise InvalidArgument(f"an index is chosen for {2 * _K} vectors and more, and the space has {len(alive)}")
    sample = alive
    if len(alive) > rows:
        sample = np.sort(np.random.default_rng(config.seed).choice(alive, rows, replace=False))
    blocks = _blocks(view, sample)
    starts = np.concatenate([[0], np.cumsum([len(block) for block in blocks])[:-1]])
    numbered = list(zip(starts.tolist(), blocks, strict=True))
    kinds = list(_kinds(blocks, len(sample), len(alive), dimension, metric, config.seed))
    asked: tune.Questions | None = None
    found = []
    with Progress("measuring indexes", len(kinds) + 1, enabled=progress, unit="kinds") as bar:
        for factory in kinds:
            bar.advance(0, factory)
            start = time.perf_counter()
            try:
                index = build.build(blocks, metric, build.sized(factory, len(sample)), seed=config.seed)
            except InvalidArgument:  # needs more vectors, or takes no such dimension
                bar.advance()
                continue
            took = time.perf_counter() - start
            if asked is None:
                asked = tune.questions(
                    index, numbered, lambda at: view.vectors.read(sample[at]), _QUERIES, _K, metric, seed=config.seed
                )
            exact_ones = knobs.is_exact(index, metric)
            row_ns = 0.0 if exact_ones else view.vectors.row_ns
            tuned = tune.tune_by(index, asked, target=config.recall, metric=metric, row_ns=row_ns)
            held = beside = None
            if not exact_ones and bytewise.fits(blocks, metric, config.memory):
                held = bytewise.hold(blocks)
            elif not exact_ones and view.vectors.resident and len(blocks) == 1 and metric is not Metric.COSINE:
                beside = inplace.flat(blocks[0], metric)
            tier = Tier(index, 0, metric, tuned, held, beside)
            size = len(faiss.serialize_index(index)) / len(sample) + (dimension if held is not None else 0)
            memory = sizes.process(len(alive), dimension, size, reads=not exact_ones)
            speed = _speed(partial(_ask, tier, view, sample), asked.queries[:_TIMED])
            fits = config.memory is None or memory <= config.memory
            found.append(Candidate(factory, tuned.recall, tuned.target_met, speed, size, took, memory, fits))
            bar.advance()
        bar.advance(0, "exact")
        queries = view.vectors.read(sample[:_SCANS]) if asked is None else asked.queries[:_SCANS]
        speed = _speed(lambda query: exact.search(numbered, query, _K, metric), queries)
        memory = sizes.process(len(alive), dimension, 0.0)
        found.append(
            Candidate("exact", 1.0, True, speed, 0.0, 0.0, memory, config.memory is None or memory <= config.memory)
        )
        bar.advance()
    return TuneReport(view.space.name, len(alive), len(sample), config.recall, config.memory, _chosen(found))


def _chosen(found: list[Candidate]) -> tuple[Candidate, ...]:
    """By speed, the one to take marked: the smallest of those that are as fast as the fastest that will do."""
    good = [one for one in found if one.reached and one.fits]
    if good:
        fastest = max(one.queries_per_second for one in good)
        near = [one for one in good if one.queries_per_second >= _NOISE * fastest]
        best = min(near, key=lambda one: one.bytes_per_vector)
        found = [replace(one, chosen=one is best) for one in found]
    return tuple(sorted(found, key=lambda one: -one.queries_per_second))


def _kinds(blocks: list[Vectors], count: int, total: int, dimension: int, metric: Metric, seed: int) -> Iterator[str]:
    """Factories to try: graphs and inverted lists over codes from float32 to one bit a dimension."""
    from embedstore.index import build

    graphs = ["HNSW32,SQ8", "HNSW16,SQ8", "HNSW32,SQfp16", "HNSW32,Flat"] if total <= _GRAPH_ROWS else []
    lists = ["IVF*,SQ8", "IVF*,SQfp16", "IVF*,Flat", "IVF*,SQ4", "IVF*,RaBitQfs"]
    if dimension % 2 == 0:
        lists.append(f"IVF*,PQ{dimension // 2}x4fs")
    for factory in (*graphs, *lists):
        yield factory
        if factory in ("HNSW32,SQ8", "IVF*,SQ8"):
            smaller = build.reduced(factory, blocks, metric, seed=seed)
            if smaller is not None:
                yield smaller


def _blocks(view: SpaceView, sample: npt.NDArray[np.int64]) -> list[Vectors]:
    """The vectors at these positions: the segments as they are, where it is all of them."""
    if len(sample) == len(view.rows):
        return [block for _, block in view.vectors.blocks()]
    return [view.vectors.read(sample)]


def _ask(tier: Tier, view: SpaceView, sample: npt.NDArray[np.int64], query: Vectors) -> None:
    """What a search does, whose tier covers the sample alone."""
    from embedstore.index import exact

    if tier.finishes(query):
        tier.nearest(query, _K)
        return
    labels, _ = tier.search(query, _K)
    positions = np.where(labels >= 0, sample[labels], -1)
    exact.rerank(query, positions, _K, view.space.metric, view.vectors.read, single_precision=True)


def _speed(ask: Callable[[Vectors], object], queries: Vectors) -> float:
    """Queries a second, of one thread."""
    from embedstore.index.bindings import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        times = []
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            for i in range(len(queries)):
                ask(queries[i : i + 1])
            times.append(time.perf_counter() - start)
    finally:
        faiss.omp_set_num_threads(threads)
    return len(queries) / min(times)
