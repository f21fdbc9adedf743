"""A loaded index tier: candidates for a query, restricted to live rows, with the parameters that tuning found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from embedstore.index import bytewise, inverted, knobs
from embedstore.index.bindings import faiss
from embedstore.index.exact import Positions, norms
from embedstore.index.packed import pack, pack_lists
from embedstore.index.selection import Part
from embedstore.index.tune import STEP_BYTE_NS, STEP_NS, Tuned, parameter_for, widened
from embedstore.types import Metric, Vectors

T = TypeVar("T")
_ptr = faiss.swig_ptr
#: What a row of packed codes takes, in nanoseconds, and more for each byte of a code.
_ROW_NS, _ROW_BYTE_NS = 5.0, 0.15
_FEW = 0.25  # of the rows of inverted lists are selected: they are packed
_MOST = 0.5  # of the rows of inverted lists are selected: all are searched for
#: Codes of less than 8 bits a dimension err by a share of the distance: among rows that a filter leaves far from the
#: query they tell less than they were tuned to, and more of them are looked at (0.79 instead of 0.95 was measured).
_LISTS, _CANDIDATES = 2, 4
_NEARLY_ALL = 0.9  # of the rows are left, as where some were deleted
_KEPT = 100  # settings
_MARGIN = 1.4  # times as many selected rows as are wanted are expected on a walk


@dataclass(frozen=True, eq=False, slots=True)
class Tier:
    """A FAISS index over the positions [first, first + count) of a space. Safe to search from several threads.

    Attributes:
        index: the FAISS index; its label i is the position first + i.
        first: position of its first row.
        metric: of the space.
        tuned: what `tune.tune` found for the index.
        held: the vectors themselves, where they are bytes: see `bytewise`.
        beside: the vectors themselves, as FAISS sees them where they are mapped: see `inplace.flat`.
        count: number of its rows.
        left: how many of them the index still has: see `pruned`.
        is_flat: whether the index looks at every row.
        projects: whether the index brings a query into another space first, by a matrix product.
        minds_nan: whether FAISS may go astray with a query that isn't finite.
        finished: the FAISS index whose own distances are exact, so that nothing has to be re-ranked; or None.
    """

    index: Any
    first: int
    metric: Metric
    tuned: Tuned
    held: Any = None
    beside: Any = None
    count: int = 0
    left: int = field(init=False)
    is_flat: bool = field(init=False)
    projects: bool = field(init=False)
    minds_nan: bool = field(init=False)
    finished: Any = field(init=False)
    _limit: int = field(init=False, repr=False)
    _is_graph: bool = field(init=False, repr=False)
    _is_inverted: bool = field(init=False, repr=False)
    _is_coarse: bool = field(init=False, repr=False)
    _parameters: dict[int, Any] = field(default_factory=dict, repr=False)
    _settings: dict[tuple[int, float | None], tuple[int, int]] = field(default_factory=dict, repr=False)
    _lists: list[Any] = field(default_factory=list, repr=False)
    _finishing: dict[tuple[int, float | None], Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "left", int(self.index.ntotal))  # asking FAISS costs a microsecond each time
        object.__setattr__(self, "count", self.count or self.left)
        object.__setattr__(self, "projects", isinstance(faiss.downcast_index(self.index), faiss.IndexPreTransform))
        object.__setattr__(self, "_limit", knobs.limit(self.index))
        finished = self.index if knobs.is_exact(self.index, self.metric) else None
        if (vectors := self.held or self.beside) is not None:
            finished = faiss.IndexRefine(self.index, vectors)
        object.__setattr__(self, "finished", finished)
        object.__setattr__(self, "is_flat", isinstance(faiss.downcast_index(self.index), faiss.IndexFlat))
        object.__setattr__(self, "_is_inverted", isinstance(knobs.inner(self.index), faiss.IndexIVF))
        object.__setattr__(self, "minds_nan", knobs.minds_nan(self.index))
        bits = 8 * core.code_size / core.d if isinstance(core := knobs.inner(self.index), faiss.IndexIVF) else 8
        object.__setattr__(self, "_is_coarse", bits < 8)
        object.__setattr__(self, "_is_graph", isinstance(knobs.inner(self.index), faiss.IndexHNSW))

    def share(self, part: Part) -> float:
        """How much of what the index has is selected."""
        return part.count / self.left

    def pruned(self, mask: npt.NDArray[np.uint8]) -> Tier | None:
        """The same tier of the rows that a mask (count,) selects, without the others; None for kinds that can't.

        FAISS's own ``remove_ids`` changes lists that others are searching.
        """
        if self.projects or (self.held or self.beside) is not None:
            return None
        packed = pack_lists(self.index, mask, own=True)
        return Tier(packed, self.first, self.metric, self.tuned, count=self.count) if packed else None

    def finishes(self, queries: Vectors) -> bool:
        """Whether `finished` has exact distances for these queries (nq, d) or (d,)."""
        return self.finished is not None and (self.held is None or bytewise.takes(queries))

    def finishing(self, k: int, recall: float | None = None) -> tuple[Any, int, int]:
        """What to search `finished` with for k rows: FAISS's parameters, candidates and the value of the knob in them.

        They are kept: threads and queries share them.
        """
        found = self._finishing.get((k, recall))
        if found is None:
            value, width = self._setting(k, recall)
            if self.finished is self.index:
                found = knobs.search_parameters(self.index, value), k, value
            else:
                factor = (width + 0.5) / min(k, self.left)  # FAISS rounds the product down
                found = knobs.refined_parameters(self.index, value, factor), width, value
            if len(self._finishing) >= _KEPT:
                self._finishing.clear()
            self._finishing[k, recall] = found
        parameters, width, value = found
        return parameters, width, value

    def nearest(
        self, queries: Vectors, k: int, *, recall: float | None = None
    ) -> tuple[npt.NDArray[np.float32], Positions, dict[str, Any]]:
        """The k nearest by an index whose distances are exact (see `finished`).

        Returns:
            Distances (nq, k), ascending, absolute positions (nq, k), padded with inf and -1, and what was done.
        """
        parameters, width, value = self.finishing(k, recall)
        distances, labels = _searched(self.finished, queries, min(k, self.left), parameters)
        if k > self.left:
            padding = ((0, 0), (0, k - self.left))
            distances, labels = np.pad(distances, padding), np.pad(labels, padding, constant_values=-1)
        distances, labels = ordered(distances, labels, self.metric)
        if self.first:
            np.add(labels, self.first, out=labels, where=labels >= 0)
        return distances, labels, {"plan": "index", "candidates": width, "parameter": value}

    def nearest_of_most(
        self, queries: Vectors, k: int, part: Part, *, recall: float | None = None
    ) -> tuple[npt.NDArray[np.float32], Positions, dict[str, Any]] | None:
        """The same of a part that is most of the rows of inverted lists; None where it is not, or too few are found."""
        if self.finished is not self.index or not self._is_inverted or self.share(part) < _MOST:
            return None
        value = self._setting(k, recall)[0]
        values, labels = self._of_most(queries, k, value, part)
        found, nearest = part.first_of(labels, k, values)
        if nearest is None or found[:, -1].min() < 0:
            return None
        distances, found = ordered(nearest, found, self.metric)
        if self.first:
            found += self.first
        return distances, found, {"plan": "index, filtered", "candidates": labels.shape[1], "parameter": value}

    def read(self, positions: Positions) -> Vectors:
        """The vectors (n, d) at absolute positions, of a tier that holds them."""
        return bytewise.read(self.held, positions - self.first)

    def search(
        self, queries: Vectors, k: int, *, recall: float | None = None, part: Part | None = None
    ) -> tuple[Positions, dict[str, Any]]:
        """Candidates for the k nearest, to be ordered by `exact.rerank`.

        One query runs on the calling thread, a batch on all of OpenMP's.

        Args:
            queries: float32 (nq, d), C-contiguous; not checked here, this is the hot path.
            k: neighbours that are wanted.
            recall: instead of the tier's target; the parameter is looked up in the tuned curve.
            part: the rows that may be answered, of a selection; None allows all.

        Returns:
            Absolute positions (nq, m) with -1 where the index found no more, and what was done. Of a part, fewer than m
            may be found though there are more: then what was found need not be the nearest, and a caller asks
            otherwise (`packed`, or exactly).
        """
        if self.metric is Metric.COSINE:
            queries = queries / norms(queries)[:, None]
        setting = self._settings.get((k, recall))
        if setting is None:
            if len(self._settings) >= _KEPT:
                self._settings.clear()
            setting = self._settings[k, recall] = self._setting(k, recall)
        value, width = setting
        if part is not None and self._is_coarse and self.share(part) < _NEARLY_ALL:
            value, width = min(_LISTS * value, self._limit), min(_CANDIDATES * width, part.count)
        most = part is not None and self._is_inverted and self.share(part) >= _MOST
        if part is None:
            labels = self._labels(queries, width, value, self._parameters, None)
        elif self._is_graph:
            labels, value = self._of_graph(queries, width, value, part)
        elif not self._is_inverted:
            labels = self._labels(queries, width, value, part.parameters, part.selector)
        elif most and (found := part.first_of(self._of_most(queries, width, value, part)[1], width)[0]).min() >= 0:
            labels = found
        else:
            # As many *selected* rows as the tuned value looks at rows.
            if part.lists is None:
                part.lists = inverted.counts(self.index, self._list_numbers(), part)
            if part.packed is None and self.share(part) <= _FEW:
                part.packed = pack_lists(self.index, part.mask)
            wanted = value * self.left / self._limit
            asked = self.index, queries, width, part, part.lists, wanted, part.packed
            labels, value = alone(len(queries), lambda: inverted.search(*asked))
        if self.first:
            np.add(labels, self.first, out=labels, where=labels >= 0)
        return labels, {"plan": "index", "candidates": width, "parameter": value}

    def _list_numbers(self) -> npt.NDArray[np.int32]:
        if not self._lists:
            self._lists.append(inverted.numbers(self.index, self.count))
        found: npt.NDArray[np.int32] = self._lists[0]
        return found

    def _labels(self, queries: Vectors, width: int, value: int, known: dict[int, Any], selector: Any) -> Positions:
        parameters = known.get(value)
        if parameters is None:
            parameters = known[value] = knobs.search_parameters(self.index, value, selector)
        return _searched(self.index, queries, width, parameters)[1]

    def _of_most(
        self, queries: Vectors, width: int, value: int, part: Part
    ) -> tuple[npt.NDArray[np.float32], Positions]:
        """FAISS's values and labels of a search for more of all rows than are wanted of a part that is most of them.

        FAISS looks each row up in a selector, which takes longer than computing its distance.
        """
        share = self.share(part)
        probed, wide = int(np.ceil(value / share)), int(_MARGIN * width / share) + 1
        probed = min(probed, self._limit)
        parameters = self._parameters.get(probed)
        if parameters is None:
            parameters = self._parameters[probed] = knobs.search_parameters(self.index, probed)
        return _searched(self.index, queries, min(wide, self.left), parameters)

    def _of_graph(self, queries: Vectors, width: int, value: int, part: Part) -> tuple[Positions, int]:
        """The nearest of a part by a walk among all rows, widened by its share; -1 where it met too few of them.

        A selector would do that inside FAISS, and bring as many selected rows as are asked for, whether they are the
        nearest or were only passed on the way: with half of all rows selected, all far from the query, a recall of
        0.94 was measured instead of 0.99. What is near is sure only as far as the walk has seen everything.
        """
        wide = min(int(max(value, _MARGIN * width) / max(part.share, 1e-3)), self._limit)
        labels = self._labels(queries, wide, wide, self._parameters, None)
        return part.first_of(labels, width)[0], wide

    def packed(
        self, queries: Vectors, k: int, part: Part, *, recall: float | None = None
    ) -> tuple[Positions, dict[str, Any]] | None:
        """The same from the codes of a part's rows alone, put behind one another; None where the index has none.

        That scans no row that isn't selected, and misses none that is, whether the selected ones are near the query or
        far from it. The codes are kept with the part.
        """
        if self._is_inverted:
            return None
        if part.packed is None:
            part.packed = pack(self.index, part.rows)
        if part.packed is False:
            return None
        if self.metric is Metric.COSINE:
            queries = queries / norms(queries)[:, None]
        width = min(self._setting(k, recall)[1], part.count)
        labels = _searched(part.packed, queries, width, None)[1]
        return part.rows[labels] + self.first, {"candidates": width}

    def prefers_packed(self, part: Part, k: int, recall: float | None = None) -> bool:
        """Whether scanning a part's codes takes less time than searching the index for it, or is surer.

        Time is what was measured on one core, of codes of 64 and of 192 bytes.
        """
        if not self._is_graph:
            return False
        if self.metric is Metric.IP and part.share < _NEARLY_ALL:
            # A graph of inner products leads to long vectors. Where a filter leaves short ones, hardly a link does: a
            # recall of 0.90 was measured where 0.95 had been tuned.
            return True
        code = faiss.downcast_index(knobs.inner(self.index).storage).sa_code_size()
        value, width = self._setting(k, recall)
        steps = min(max(value, _MARGIN * width) / max(part.share, 1e-3), self._limit)
        return bool(part.count * (_ROW_NS + _ROW_BYTE_NS * code) < steps * (STEP_NS + STEP_BYTE_NS * code))

    def _setting(self, k: int, recall: float | None) -> tuple[int, int]:
        """Value of the knob, and number of candidates."""
        depth = self.tuned.depth
        if not self.tuned.parameters:
            return 0, self._width(k, depth)
        value = self._value(recall)
        if recall is not None:
            depth = widened(depth, value, *self.tuned.parameters.values())
        return min(self._for(value, k), self._limit), self._width(k, depth)

    def _value(self, recall: float | None) -> int:
        """Value of the knob for a recall at the k that was tuned for; the widest where none that was measured does."""
        (value,) = self.tuned.parameters.values()
        if recall is None or recall == self.tuned.target:
            return int(value)
        return parameter_for(self.tuned.curve, recall) if recall <= self.tuned.curve[-1][1] else self._limit

    def _for(self, value: int, k: int) -> int:
        """The same for k: the farther neighbours of a longer list are harder to find, and the ratio is kept."""
        return -(-value * k // self.tuned.k) if k > self.tuned.k else value

    def reaches(self, k: int, recall: float | None = None) -> bool:
        """Whether a walk through a graph can be as wide as so many neighbours need: else a scan finds them."""
        return not self._is_graph or k <= self.tuned.k or self._for(self._value(recall), k) <= self._limit

    def _width(self, k: int, depth: float) -> int:
        """Candidates for k neighbours: of few as many *more* as of those that were tuned for.

        The nearest of all isn't found more surely than the tenth by codes that lose what is between them: of PCA12 over
        20 dimensions, a recall@1 of 0.75 was measured where 0.97 had been tuned for ten.
        """
        more = k + (depth - 1) * self.tuned.k if k < self.tuned.k else k * depth
        return min(self.left, int(np.ceil(more)))


def ordered(
    values: npt.NDArray[np.float32], labels: Positions, metric: Metric
) -> tuple[npt.NDArray[np.float32], Positions]:
    """FAISS's values (nq, k) as distances, nearest first, ties by label, inf where the label is -1; in place."""
    distances = np.sqrt(values, out=values) if metric is Metric.L2 else np.negative(values, out=values)
    if len(labels) == 0:
        return distances, labels
    if labels[:, -1].min() < 0:
        distances[labels < 0] = np.inf
    if len(labels) > 1 or not (distances[0, 1:] > distances[0, :-1]).all():
        tied = np.flatnonzero(~(distances[:, 1:] > distances[:, :-1]).all(axis=1))
        # Padding is -1, and goes last all the same: its distance does.
        order = np.lexsort((labels[tied], distances[tied]), axis=1)
        distances[tied] = np.take_along_axis(distances[tied], order, 1)
        labels[tied] = np.take_along_axis(labels[tied], order, 1)
    return distances, labels


def _searched(index: Any, queries: Vectors, width: int, parameters: Any) -> tuple[npt.NDArray[np.float32], Positions]:
    """FAISS's values and labels (nq, width) by the C++ method itself: its wrapper in Python checks what is known here.

    One query gets one thread: the product that brings it into the space of the principal components would take all of
    them, each of which then waits for the others. Of eight callers on two cores, all together had 270 answers a second
    that way, and 5,200 like this.
    """
    values = np.empty((len(queries), width), dtype=np.float32)
    labels = np.empty((len(queries), width), dtype=np.int64)
    arguments = len(queries), _ptr(queries), width, _ptr(values), _ptr(labels), parameters
    alone(len(queries), lambda: index.search_c(*arguments))
    return values, labels


def alone(count: int, task: Callable[[], T]) -> T:
    """Do a task for so many queries: for one, in one thread."""
    threads = faiss.omp_get_max_threads() if count == 1 else 1
    if threads == 1:
        return task()
    faiss.omp_set_num_threads(1)  # of the calling thread alone
    try:
        return task()
    finally:
        faiss.omp_set_num_threads(threads)
