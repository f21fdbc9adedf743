"""A loaded index tier: candidates for a query, restricted to live rows, with the parameters that tuning found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.index import knobs
from embedstore.index.bindings import faiss
from embedstore.index.exact import Positions, norms
from embedstore.index.tune import Tuned, parameter_for, widened
from embedstore.types import Metric, Vectors

_ptr = faiss.swig_ptr


@dataclass(frozen=True, eq=False, slots=True)
class _Restriction:
    """A mask, prepared for FAISS; holds everything its pointers refer to."""

    mask: npt.NDArray[Any]
    share: float  # of the tier's rows that are selected
    bits: npt.NDArray[np.uint8]
    selector: Any  # None where all rows are selected
    parameters: dict[int, Any]


@dataclass(frozen=True, eq=False, slots=True)
class Tier:
    """A FAISS index over the positions [first, first + count) of a space. Safe to search from several threads.

    Attributes:
        index: the FAISS index; its label i is the position first + i.
        first: position of its first row.
        metric: of the space.
        tuned: what `tune.tune` found for the index.
        count: number of its rows.
    """

    index: Any
    first: int
    metric: Metric
    tuned: Tuned
    count: int = field(init=False)
    _parameters: dict[int, Any] = field(default_factory=dict, repr=False)
    _settings: dict[tuple[int, float | None], tuple[int, int]] = field(default_factory=dict, repr=False)
    _restriction: list[_Restriction] = field(default_factory=list, repr=False)  # the last mask seen, or nothing

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", int(self.index.ntotal))  # asking FAISS costs a microsecond each time

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        recall: float | None = None,
        mask: npt.NDArray[np.uint8] | npt.NDArray[np.bool_] | None = None,
        depth_factor: float | None = None,
    ) -> tuple[npt.NDArray[np.float32], Positions, dict[str, Any]]:
        """Candidates for the k nearest, to be ordered by `exact.rerank`.

        One query runs on the calling thread (FAISS opens no parallel region for it), a batch on all of OpenMP's.

        Args:
            queries: float32 (nq, d), C-contiguous; not checked here, this is the hot path.
            k: neighbours that are wanted.
            recall: instead of the tier's target; the parameter is looked up in the tuned curve.
            mask: over all positions of the space; only where it is true is a row answered. It is prepared once per
                array object: pass the same object again while nothing changes, and never change it in place.
            depth_factor: candidates per neighbour, instead of what tuning found.

        Returns:
            FAISS's own distances (nq, m) (squared for l2 and cosine, inner products for ip, and approximate), absolute
            positions (nq, m) with -1 where the index found no more, and what was done. With a mask that selects few
            rows a graph may find fewer than there are: a caller that gets fewer than k has to search exactly.
        """
        if self.metric is Metric.COSINE:
            queries = queries / norms(queries)[:, None]
        setting = self._settings.get((k, recall))
        if setting is None:
            setting = self._settings[k, recall] = self._setting(k, recall)
        value, width = setting
        if depth_factor is not None:
            width = min(self.count, int(np.ceil(k * depth_factor)))
        restriction = None  # a local reference: another thread may replace the prepared mask during this search
        if mask is None:
            parameters = self._parameters.get(value)
            if parameters is None:
                parameters = self._parameters[value] = knobs.search_parameters(self.index, value)
        else:
            restriction = self._prepare(mask)
            value, parameters = self._restricted(value, restriction)
        count = len(queries)
        values = np.empty((count, width), dtype=np.float32)
        labels = np.empty((count, width), dtype=np.int64)
        # The C++ method itself: FAISS's Python wrapper checks what is known here, for some microseconds per query.
        self.index.search_c(count, _ptr(queries), width, _ptr(values), _ptr(labels), parameters)
        if self.first:
            np.add(labels, self.first, out=labels, where=labels >= 0)
        return values, labels, {"candidates": width, "parameter": value}

    def share(self, mask: npt.NDArray[np.uint8] | npt.NDArray[np.bool_]) -> float:
        """The share of this tier's rows that a mask selects: where it is small, an exact search is faster and surer."""
        return self._prepare(mask).share

    def _setting(self, k: int, recall: float | None) -> tuple[int, int]:
        """Value of the knob, and number of candidates."""
        depth = self.tuned.depth
        if not self.tuned.parameters:
            return 0, min(self.count, int(np.ceil(k * depth)))
        (value,) = self.tuned.parameters.values()
        if recall is not None and recall != self.tuned.target:
            tuned, value = value, parameter_for(self.tuned.curve, recall)
            depth = widened(depth, value, tuned)
        width = min(self.count, int(np.ceil(k * depth)))
        if k > self.tuned.k:  # the farther neighbours of a longer list are harder to find: keep the ratio
            value = -(-value * k // self.tuned.k)
        return min(value, knobs.limit(self.index)), width

    def _restricted(self, value: int, restriction: _Restriction) -> tuple[int, Any]:
        if restriction.share < 1:  # look at as many *selected* rows as the tuned value looks at rows
            value = min(int(value / max(restriction.share, 1e-3)), knobs.limit(self.index))
        parameters = restriction.parameters.get(value)
        if parameters is None:
            parameters = knobs.search_parameters(self.index, value, restriction.selector)
            restriction.parameters[value] = parameters
        return value, parameters

    def _prepare(self, mask: npt.NDArray[Any]) -> _Restriction:
        # One slot, replaced as a whole: a thread either sees a complete restriction of its own mask or makes one.
        for restriction in self._restriction[:1]:
            if restriction.mask is mask:
                return restriction
        selected = mask[self.first : self.first + self.count]
        share = float(np.count_nonzero(selected)) / max(1, self.count)
        bits = np.packbits(selected, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(bits), _ptr(bits)) if share < 1 else None
        restriction = _Restriction(mask, share, bits, selector, {})
        self._restriction[:] = [restriction]
        return restriction
