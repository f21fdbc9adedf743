"""An index of some rows of another one, without encoding them again: the codes are copied as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from embedstore.index import knobs
from embedstore.index.bindings import faiss
from embedstore.index.exact import Positions


def pack(index: Any, rows: Positions) -> Any:
    """A flat index of rows (n,) of a graph, with the same transforms in front; False where it holds no codes by row."""
    core = knobs.inner(index)
    if not isinstance(core, faiss.IndexHNSW):
        return False
    storage = faiss.downcast_index(core.storage)
    if isinstance(storage, faiss.IndexScalarQuantizer):
        packed = faiss.IndexScalarQuantizer(storage.d, storage.sq.qtype, storage.metric_type)
        packed.sq, packed.is_trained = storage.sq, True
    elif isinstance(storage, faiss.IndexFlat):
        packed = faiss.IndexFlat(storage.d, storage.metric_type)
    else:
        return False
    size = storage.sa_code_size()
    codes = faiss.rev_swig_ptr(storage.codes.data(), storage.ntotal * size).reshape(-1, size)
    chosen = np.ascontiguousarray(codes[rows])
    packed.add_sa_codes(chosen)
    index = faiss.downcast_index(index)
    transforms = []
    while isinstance(index, faiss.IndexPreTransform):
        transforms += [index.chain.at(i) for i in range(index.chain.size())]
        index = faiss.downcast_index(index.index)
    if not transforms:
        return packed
    made = faiss.IndexPreTransform(packed)
    for transform in reversed(transforms):
        made.prepend_transform(transform)
    return made
