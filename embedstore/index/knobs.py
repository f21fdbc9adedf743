"""What can be turned on a FAISS index at search time: which parameter, and how to pass it with a selector.

FAISS gives every family its own SearchParameters class, and wraps some families in others ("PCA64,HNSW32,SQ8"). All
of that is known here only; the rest of the room speaks of *the knob* (efSearch or nprobe) and its value.
"""

from __future__ import annotations

from typing import Any

from embedstore.index.bindings import faiss
from embedstore.types import Metric


def inner(index: Any) -> Any:
    """The index that does the searching: inside pre-transforms, of its real class."""
    index = faiss.downcast_index(index)
    while isinstance(index, faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    return index


def knob(index: Any) -> str | None:
    """Name of the parameter that trades speed for recall: 'efSearch', 'nprobe', or None where there is none."""
    core = inner(index)
    if isinstance(core, faiss.IndexHNSW):
        return "efSearch"
    if isinstance(core, faiss.IndexIVF):
        return "nprobe"
    return None


def holds_vectors(index: Any) -> bool:
    """Whether the index computes with the vectors as they are, not with codes of them: its distances are exact."""
    core = inner(index)
    if isinstance(core, faiss.IndexHNSW):
        core = faiss.downcast_index(core.storage)
    flat = isinstance(core, (faiss.IndexFlat, faiss.IndexIVFFlat))
    return flat and not isinstance(faiss.downcast_index(index), faiss.IndexPreTransform)


def is_exact(index: Any, metric: Metric) -> bool:
    """Whether the index's distances are those of the metric: cosine has others than the unit vectors that it holds."""
    return metric is not Metric.COSINE and holds_vectors(index)


def limit(index: Any) -> int:
    """Largest sensible value of the knob: all lists, or a graph search as wide as is still cheaper than a scan."""
    core = inner(index)
    if isinstance(core, faiss.IndexIVF):
        return int(core.nlist)
    return int(max(1, min(index.ntotal, 2048)))


def distances_computed() -> int:
    """Distances that graphs and lists have computed in this process so far, by FAISS's own count of all threads."""
    return int(faiss.cvar.hnsw_stats.ndis + faiss.cvar.indexIVF_stats.ndis)


def refined_parameters(index: Any, value: int, factor: float) -> Any:
    """The same for this index with `faiss.IndexRefine` around it, which takes ``factor`` candidates for each result."""
    parameters = faiss.IndexRefineSearchParameters()
    parameters.k_factor = factor
    parameters.base_index_params = parameters.inner = search_parameters(index, value)  # a bare pointer keeps nothing
    return parameters


def search_parameters(index: Any, value: int, selector: Any = None) -> Any:
    """A FAISS SearchParameters object for this index with the knob at ``value``, answering what ``selector`` allows.

    The object may be shared by threads: a search only reads it. It keeps ``selector`` alive.
    """
    parameters = inner_parameters(inner(index), value, selector)
    index = faiss.downcast_index(index)
    depth = 0
    while isinstance(index, faiss.IndexPreTransform):
        index, depth = faiss.downcast_index(index.index), depth + 1
    for _ in range(depth):
        outer = faiss.SearchParametersPreTransform()
        outer.index_params = parameters
        outer.inner = parameters  # again a bare pointer
        parameters = outer
    return parameters


def inner_parameters(core: Any, value: int, selector: Any = None) -> Any:
    """The same for what `inner` returns, without what is around it."""
    if isinstance(core, faiss.IndexHNSW):
        parameters = faiss.SearchParametersHNSW()
        parameters.efSearch = value
    elif isinstance(core, faiss.IndexIVF):
        parameters = faiss.SearchParametersIVF()  # of IVFPQ, too, whose own ones only say how
        parameters.nprobe = value
    else:
        parameters = faiss.SearchParameters()
    if selector is not None:
        parameters.sel = selector
        parameters.selector = selector  # SWIG holds a bare pointer: this reference keeps the object alive
    return parameters


def minds_nan(index: Any) -> bool:
    """Whether a query that isn't finite may lead astray, as on a walk through a graph; in lists it finds nothing."""
    found = faiss.downcast_index(index)
    if isinstance(found, faiss.IndexFlat):
        return False
    return not (
        isinstance(found, faiss.IndexIVFFlat) and isinstance(faiss.downcast_index(found.quantizer), faiss.IndexFlat)
    )
