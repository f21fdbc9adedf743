"""Search parameters for a recall target, measured on queries that the index has not seen.

Recall@k is the mean share of a query's true k nearest that the index returns. Queries drawn from the indexed vectors
themselves flatter a graph, even with the item itself left out of the answer: the search lands on the item's own node,
whose links *are* its neighbours. On Fashion-MNIST, HNSW32 at efSearch 12 shows a recall of 0.991 for its own vectors
and 0.978 for test pictures. `probes` therefore makes queries beside the data: an item plus the difference of two of
its neighbours, which stays on the local manifold but on no node; these show 0.979. (Gaussian noise was rejected: it
leaves the manifold, and the true neighbour stays the item by far.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import InvalidArgument
from embedstore.index import knobs
from embedstore.index.bindings import faiss
from embedstore.index.exact import Blocks, Positions, norms, search
from embedstore.types import Metric, Vectors

_Z = 1.959964  # 97.5 % quantile of the normal distribution: two-sided 95 %
_DEPTHS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)
_WIDE = 256  # efSearch at which a graph misses little: to see what codes alone cost, and where the curve ends
#: Nanoseconds of a step of a graph's search and of a code in a list, more for each byte of a code (less for one of a
#: vector as it is, which needn't be decoded), and of a candidate whose vector is in memory.
STEP_NS, STEP_BYTE_NS = 1_000.0, 4.0
_CODE_NS, _CODE_BYTE_NS, _FLOAT_BYTE_NS = 6.0, 0.1, 0.03
ROW_NS = 500.0
_FEWEST = 100  # queries to tune with
_NEIGHBOURS = 10  # of an item, among which two are drawn to make a probe


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning found; as a dict (``dataclasses.asdict``) it is JSON, and `Tuned.load` takes it back.

    Attributes:
        parameters: {"efSearch": 40} or {"nprobe": 8}; empty where the index has nothing to turn.
        depth: candidates to fetch per neighbour asked for, so that re-ranking makes up for approximate codes.
        k: the k of the measurement.
        target: recall that was asked for.
        recall: mean recall@k at these parameters, over the sample.
        interval: its 95 % confidence interval, see `recall_interval`.
        target_met: whether the mean reaches the target.
        curve: (value of the parameter, mean recall there), both ascending.
    """

    parameters: dict[str, int]
    depth: float
    k: int
    target: float
    recall: float
    interval: tuple[float, float]
    target_met: bool
    curve: tuple[tuple[int, float], ...]

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> Tuned:
        """The inverse of ``dataclasses.asdict``, also after a trip through JSON."""
        low, high = fields["interval"]
        curve = tuple((int(value), float(recall)) for value, recall in fields["curve"])
        return cls(**{**fields, "interval": (low, high), "curve": curve})


def probes(index: Any, read: Callable[[Positions], Vectors], count: int, *, metric: Metric, seed: int = 0) -> Vectors:
    """Queries (up to ``count``, d) beside the indexed vectors: an item plus the difference of two of its neighbours.

    Args:
        index: a built FAISS index; its own, approximate answers are good enough to find neighbours.
        read: the vectors (n, d) at n positions of the index, counted from 0 and ascending.
        count: number of queries; fewer where the index holds fewer vectors.
        metric: of the space.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    total = int(index.ntotal)
    chosen = np.sort(rng.choice(total, min(count, total), replace=False)).astype(np.int64)
    items = read(chosen)
    width = min(_NEIGHBOURS + 1, total)
    labels = _labels(index, _prepared(items, metric), width, min(knobs.limit(index), 64))
    # Column 0 is, as a rule, the item itself; a label of -1 falls back to the item, which only weakens the probe.
    pair = 1 + rng.permuted(np.tile(np.arange(max(width - 1, 2)), (len(chosen), 1)), axis=1)[:, :2]
    picked = np.take_along_axis(labels, np.minimum(pair, width - 1), axis=1)
    picked = np.where(picked >= 0, picked, chosen[:, None])
    unique, inverse = np.unique(picked, return_inverse=True)
    ends = read(unique)[inverse.reshape(picked.shape)]
    # An item that is not its own nearest (most are not, under ip) sits on no node that its search ends at, and its
    # neighbours are not around it: it is an honest query as it is.
    own = labels[:, :1] == chosen[:, None]
    made = np.where(own, items + (ends[:, 0] - ends[:, 1]), items)
    if metric is Metric.COSINE:
        made = np.where(norms(made)[:, None] > 0, made, items)
    return np.ascontiguousarray(made, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Questions:
    """What indexes over the same vectors are measured with.

    Attributes:
        queries: float32 (nq, d): half of them beside the vectors (`probes`), half of the vectors themselves.
        truth: int64 (nq, k): their true nearest, themselves left out; -1 where there are none.
        own: int64 (nq,): the position of a query that is itself one of the vectors, -1 for others.
    """

    queries: Vectors
    truth: Positions
    own: Positions


def questions(
    index: Any,
    blocks: Blocks,
    read: Callable[[Positions], Vectors],
    count: int,
    k: int,
    metric: Metric,
    *,
    seed: int = 0,
) -> Questions:
    """Up to ``count`` queries, with the k true nearest of each by brute force.

    Args:
        index: over the vectors; see `probes`.
        blocks: the vectors as (first position, (n, d)), positions counted from 0.
        read: the vectors (n, d) at n ascending positions.
        count: number of queries.
        k: neighbours.
        metric: of the space.
        seed: of the draw.
    """
    half, total = count // 2, int(index.ntotal)
    beside = probes(index, read, half, metric=metric, seed=seed)
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(half, total - 1), replace=False))
    own = np.concatenate([np.full(len(beside), -1), chosen])
    queries = np.concatenate([beside, read(chosen)])
    far, near = search(blocks, queries, k + 2, metric)
    mine = (near == own[:, None]) & (own[:, None] >= 0)
    mine[~mine.any(axis=1), -1] = True
    far, near = far[~mine].reshape(len(near), k + 1), near[~mine].reshape(len(near), k + 1)
    # Of duplicates, which are named is no matter of recall: among more than k of them, a graph that brings others than
    # the truth has would be taken for a bad one, and tuned to be a hundred times slower.
    clear = (far[:, k] > far[:, k - 1]) | (near[:, k] < 0)
    if np.count_nonzero(clear) < min(_FEWEST, len(clear)):
        clear[:] = True
    return Questions(queries[clear], near[clear, :k], own[clear])


def tune_by(index: Any, asked: Questions, *, target: float, metric: Metric, row_ns: float) -> Tuned:
    """`tune` by these questions."""
    shared = {"k": asked.truth.shape[1], "target": target, "metric": metric}
    return tune(index, asked.queries, asked.truth, **shared, own=asked.own, row_ns=row_ns)


def tune(
    index: Any,
    sample_queries: Vectors,
    exact_positions: Positions,
    *,
    k: int,
    target: float,
    metric: Metric = Metric.L2,
    own: Positions | None = None,
    row_ns: float = ROW_NS,
) -> Tuned:
    """The cheapest efSearch or nprobe, with a re-ranking depth, that reaches a recall.

    A value reaches the target when the mean recall over the sample does. (The lower end of the 95 % interval as the
    criterion was tried: on Fashion-MNIST it costs a quarter of the speed, where `probes` are a little harder than real
    queries already.) Where no value does, the widest measured is taken and ``target_met`` is false.

    Args:
        index: a built FAISS index.
        sample_queries: (nq, d), see `probes`; a thousand narrow the interval to about ±0.002 at 0.99.
        exact_positions: (nq, at least k), their true nearest by `exact.search`, counted from 0; -1 for none.
        k: neighbours per query.
        target: recall to reach, in (0, 1].
        metric: of the space.
        own: int64 (nq,), the position of a query that is itself indexed, which is left out of its answer; -1 for
            others. Where both kinds are given, both have to reach the target, and the worse one is reported: on
            Fashion-MNIST's pixels the items' own recall flatters, in fitted latent spaces it is the lower one.
        row_ns: nanoseconds that reading a candidate's vector and computing its distance take.
    """
    if not 0 < target <= 1:
        raise InvalidArgument(f"recall must be above 0 and at most 1, not {target}")
    queries = _prepared(np.ascontiguousarray(sample_queries, dtype=np.float32), metric)
    truth = exact_positions[:, :k]
    own = np.full(len(queries), -1, dtype=np.int64) if own is None else own
    kinds = [kind for kind in (own < 0, own >= 0) if kind.any()]
    total, widest = int(index.ntotal), knobs.limit(index)
    name = knobs.knob(index)

    measured: dict[tuple[int, int], npt.NDArray[np.float64]] = {}

    def mean(value: int, width: int) -> float:
        if (value, width) not in measured:
            measured[value, width] = hits(_others(index, queries, own, width, value), truth)
        return min(float(measured[value, width][kind].mean()) for kind in kinds)

    def smallest(width: int) -> int | None:
        """The smallest value that reaches the target with so many candidates."""
        # FAISS widens efSearch to the number of results itself; smaller values would only repeat that measurement.
        value = widest if name is None else min(width, widest) if name == "efSearch" else 1
        below = value - 1
        while mean(value, width) < target:
            if value >= widest or (value >= _WIDE and mean(value, width) <= mean(value // 2, width)):
                return None  # what is missing, the codes have lost
            below, value = value, min(2 * value, widest)
        while value - below > max(1, below // 16):  # finer steps than 6 % are below the noise of the sample
            middle = (below + value) // 2
            below, value = (below, middle) if mean(middle, width) >= target else (middle, value)
        return value

    # The cheapest pair of both: more candidates make up for coarse codes, a wider search for a coarse graph.
    reach = _width(k, _DEPTHS[-1], total)
    farthest = min(widest, _WIDE if name == "efSearch" else 64)
    ceiling = _others(index, queries, own, reach, farthest)
    found: list[tuple[float, int, float]] = []  # cost, value, depth
    for depth in _DEPTHS:
        width = _width(k, depth, total)
        if found and width >= min(found)[0]:
            break
        if depth < _DEPTHS[-1] and min(hits(ceiling[kind, :width], truth[kind]).mean() for kind in kinds) < target:
            continue
        if (value := smallest(width)) is not None:
            found.append((cost(index, value) + width * row_ns, value, depth))
    width = _width(k, _DEPTHS[-1], total)
    if found:
        _, best, depth = min(found)
        width = _width(k, depth, total)
    else:
        best, depth = max(value for value, chosen in measured if chosen == width), _DEPTHS[-1]
    recall, lowest, highest = min(recall_interval(measured[best, width][kind]) for kind in kinds)

    # The curve goes beyond the target, for searches that ask for more; there candidates grow with the value.
    curve = {value: mean(value, width) for value, chosen in list(measured) if chosen == width and value <= best}
    value = best
    while name is not None and found and value < min(widest, _WIDE) and curve[value] < 1 - 0.1 * (1 - target):
        value = min(2 * value, widest)
        curve[value] = mean(value, _width(k, widened(depth, value, best), total))
    values = sorted(curve)
    means = np.maximum.accumulate([curve[value] for value in values])
    return Tuned(
        parameters={} if name is None else {name: best},
        depth=depth,
        k=k,
        target=target,
        recall=recall,
        interval=(lowest, highest),
        target_met=bool(found),
        curve=() if name is None else tuple(zip(values, means.tolist(), strict=True)),
    )


def widened(depth: float, value: int, tuned: int) -> float:
    """Candidates per neighbour for a value of the parameter above the tuned one: they grow with it."""
    return depth * max(1.0, value / tuned)


def search_ns(index: Any, tuned: Tuned, row_ns: float) -> float:
    """Nanoseconds that a search takes as it was tuned, about."""
    (value,) = tuned.parameters.values() or (1,)
    return cost(index, value) + tuned.k * tuned.depth * row_ns


def cost(index: Any, value: int) -> float:
    """Nanoseconds that a search takes at this value of the parameter, as measured on one core, without its overhead."""
    core = knobs.inner(index)
    if isinstance(core, faiss.IndexIVF):
        byte_ns = _FLOAT_BYTE_NS if isinstance(core, faiss.IndexIVFFlat) else _CODE_BYTE_NS
        lists = core.nlist * 4 * core.d * _FLOAT_BYTE_NS  # whose centres are looked at
        return float(lists + value * index.ntotal / core.nlist * (_CODE_NS + byte_ns * core.code_size))
    if isinstance(core, faiss.IndexHNSW):
        return float(value * (STEP_NS + STEP_BYTE_NS * faiss.downcast_index(core.storage).sa_code_size()))
    return float(value)


def parameter_for(curve: Sequence[tuple[int, float]], recall: float) -> int:
    """The smallest measured value that reaches ``recall``, or the largest of all where none does."""
    if not 0 < recall <= 1:
        raise InvalidArgument(f"recall must be above 0 and at most 1, not {recall}")
    return next((value for value, reached in curve if reached >= recall), curve[-1][0])


def hits(labels: Positions, truth: Positions) -> npt.NDArray[np.float64]:
    """Recall of each query (nq,): the share of its true neighbours (-1: none) that are among its labels."""
    there = (truth[:, :, None] == labels[:, None, :]).any(axis=2) & (truth >= 0)
    return np.asarray(there.sum(axis=1) / np.maximum(1, (truth >= 0).sum(axis=1)))


def recall_interval(hits: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of per-query recalls (nq,) and its 95 % interval: (mean, low, high).

    Wilson's score interval (1927), which stays inside [0, 1] and honest near 1, with the effective sample size of
    clustered data (Korn and Graubard 1998): k hits of one query are not k independent trials. Where every query has
    the same recall the variance says nothing, and the number of queries counts.
    """
    count = len(hits)
    if not count:
        return float("nan"), 0.0, 1.0
    mean = float(hits.mean())
    variance = float(hits.var(ddof=1)) / count if count > 1 else 0.0
    size = mean * (1 - mean) / variance if variance > 0 and 0 < mean < 1 else count
    centre = (mean + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = _Z / (1 + _Z**2 / size) * float(np.sqrt(max(0.0, mean * (1 - mean) / size + _Z**2 / (4 * size**2))))
    return mean, max(0.0, centre - half), min(1.0, centre + half)


def _width(k: int, depth: float, total: int) -> int:
    return min(total, int(np.ceil(k * depth)))


def _prepared(queries: Vectors, metric: Metric) -> Vectors:
    return queries / norms(queries)[:, None] if metric is Metric.COSINE else queries


def _others(index: Any, queries: Vectors, own: Positions, width: int, value: int) -> Positions:
    """The labels (nq, width) that a search finds beside the query's own."""
    if (own < 0).all():
        return _labels(index, queries, width, value)
    labels = _labels(index, queries, width + 1, value)
    mine = (labels == own[:, None]) & (own[:, None] >= 0)
    mine[~mine.any(axis=1), -1] = True  # where it isn't found, the farthest makes room
    others: Positions = labels[~mine].reshape(len(labels), width)
    return others


def _labels(index: Any, queries: Vectors, width: int, value: int) -> Positions:
    found: Positions = index.search(queries, width, params=knobs.search_parameters(index, value))[1]
    return found
