"""Choosing, building and storing the FAISS index of a tier.

Sizes decide (measured on two cores; see `choose`). Lists of few dimensions hold the vectors themselves, so that what
FAISS computes is the answer. Graphs, and lists of more, hold 8-bit codes: a quarter of the memory, less memory traffic
while searching, a faster build; and since candidates are ordered by the stored float32 vectors, nothing of the answer
depends on the codes but which candidates are found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.errors import DiskFull, InvalidArgument, StoreDamaged
from embedstore.index import knobs, sizes
from embedstore.index.bindings import faiss
from embedstore.index.exact import norms
from embedstore.progress import Progress
from embedstore.types import EXACT, Metric, Vectors

_EXACT_BYTES = 8 << 20  # of vectors that one core scans in about a millisecond: no index is worth its upkeep below
#: Of vectors that inverted lists hold as they are, and of how many dimensions. Reading a candidate from a segment that
#: is too long to be mapped takes 3 microseconds, and a search of lists of a million vectors fetched 15 of them.
_LISTED_BYTES, _LISTED = 512 << 20, 256
_GRAPH_ROWS = 500_000  # above, an HNSW graph takes minutes to build where inverted lists take seconds
_STEP_NUMBERS = 1 << 22  # floats added at a time: about a second between two looks at Ctrl-C
_SAMPLE_ROWS = 65_536  # for training ranges and codebooks
#: Training rows per inverted list, and rounds of k-means. With FAISS's own (256, or what there is, and 10) training
#: takes ten times as long, and at 1M x 64 no search was faster for it.
_PER_LIST, _ROUNDS = 32, 5
_REDUCED = (256, 2048)  # dimensions: below, little is to be saved; above, the eigenvectors take too long
_VARIANCE = 0.95  # share that a projection has to keep
_SPECTRUM_ROWS = 8_192  # for seeing how many components that takes
_COMPONENT_ROWS = 32  # training rows per dimension that a PCA is computed from; FAISS would take a thousand
#: Lists from the ones that are fastest to search to the smallest.
_BY_SIZE = ("IVF*,SQ8", "IVF*,SQ4", "IVF*,RaBitQfs")
_LISTS, _GRAPH = "IVF*,Flat", "HNSW32,SQ8"
#: A factory is checked before there are vectors: for so many of so many numbers, or as many as it asks for.
_USUAL, _DIMENSION, _LONGEST = 100_000, 64, 4096
_EXAMPLES = "'HNSW32,SQ8', 'HNSW32,Flat', 'IVF1024,SQ8' or 'PCA64,IVF1024,Flat'"


def choose(n: int, d: int, metric: Metric, factory: str | None = None, memory: int | None = None) -> str | None:
    """The FAISS factory string for ``n`` vectors of ``d`` dimensions, or None to search them exactly.

    ``factory``, where given, is checked and wins; 'exact' is none, and ``IVF*`` in it stands for as many lists as suit
    n. The rest is by size:

    * up to 8 MB of vectors: exact, which takes about a millisecond;
    * up to 256 dimensions and 512 MB of vectors, for metrics that FAISS knows: inverted lists of the vectors as they
      are, about twice the square root of n. On 60,000 latents of 64 numbers they build in a third of the time of a
      graph and answer 1.3 times as fast at recall 0.99, at 1M x 64 in a tenth of the time and as fast; twice as many
      lists take four times as long to train for the same speed. Where tuning finds that they have to look at many
      rows, a graph is tried, too (`alternatives`);
    * up to 500,000 vectors: HNSW (Malkov and Yashunin, 2018) with 32 links over 8-bit codes. On Fashion-MNIST's pixels
      (60,000 x 784) it answers 1.3 times as fast as HNSW over float32, at the same recall after re-ranking, and builds
      in two thirds of the time;
    * above: inverted lists of 8-bit codes.

    Within ``memory``, bytes that a process which searches may take (`sizes.process`), graphs give way to lists and
    8-bit codes to 4-bit and 1-bit ones (RaBitQ, Gao and Long, 2024), whose candidates are more, and re-ranked.
    """
    if factory == EXACT:
        return None
    if factory is not None:
        factory = sized(factory, n)
        parse(factory, d, metric)
        return factory
    if n * d * 4 <= _EXACT_BYTES:
        return None
    if (
        d <= _LISTED
        and n * d * 4 <= _LISTED_BYTES
        and metric is not Metric.COSINE
        and _fits(_LISTS, n, d, metric, memory)
    ):
        return sized(_LISTS, n)
    if n <= _GRAPH_ROWS and _fits(_GRAPH, n, d, metric, memory):
        return _GRAPH
    return sized(next((one for one in _BY_SIZE if _fits(one, n, d, metric, memory)), _BY_SIZE[-1]), n)


def alternatives(factory: str, n: int, d: int, metric: Metric, memory: int | None = None) -> list[str]:
    """What to try where the index that `choose` chose turns out to be slow, or to miss what it was tuned to.

    Many duplicates trap a graph: their links go to each other, and a walk has to be very wide, or never arrives (0.967
    at efSearch 2048, with 5,000 copies of ten among 20,000 vectors). Lists don't mind; but of data that fill their
    dimensions they have to look at many rows.
    """
    if "IVF" in factory:
        return [_GRAPH] if n <= _GRAPH_ROWS and _fits(_GRAPH, n, d, metric, memory) else []
    return [sized("IVF*,SQ8", n)]


def _fits(factory: str, n: int, d: int, metric: Metric, memory: int | None) -> bool:
    return memory is None or sizes.process_with(factory, n, d, metric) <= memory


def sized(factory: str, n: int) -> str:
    """A factory string with as many inverted lists as suit n vectors, where it leaves that open as ``IVF*``."""
    return factory.replace("IVF*", f"IVF{lists(n)}")


def lists(n: int) -> int:
    """How many inverted lists n vectors are put into."""
    return 1 << int(np.round(np.log2(2 * np.sqrt(n))))


def reduced(factory: str, vectors: Sequence[Vectors], metric: Metric, *, seed: int = 0) -> str | None:
    """The factory with a projection to principal components in front, where few of them say nearly everything.

    The graph or the lists then lie in a space of a third of the dimensions or fewer, whose candidates are re-ranked as
    always. On Fashion-MNIST's pixels (784 dimensions, of which 192 hold 95 % of the variance) that halves the time of
    a search and of a build, at the same recall. Whether it does elsewhere is for tuning to say.

    Args:
        factory: as `choose` chose it.
        vectors: blocks (n, d).
        metric: of the space. Inner products are left alone: they change when the mean is taken out.
        seed: of the sample that is looked at.
    """
    blocks = [block for block in vectors if len(block)]
    dimension = blocks[0].shape[1]
    if metric is Metric.IP or not _REDUCED[0] <= dimension <= _REDUCED[1]:
        return None
    sample = _sample(blocks, sum(map(len, blocks)), _SPECTRUM_ROWS, metric, seed)
    variances = np.linalg.eigvalsh(np.cov(sample, rowvar=False, dtype=np.float32))[::-1]
    held = np.cumsum(variances)
    enough = -(-int(np.searchsorted(held, _VARIANCE * held[-1]) + 1) // 32) * 32
    return f"PCA{enough},{factory}" if held[-1] > 0 and 3 * enough <= dimension else None


def parse(factory: str, d: int, metric: Metric) -> Any:
    """An empty index as FAISS's ``index_factory`` makes it; cosine is l2 over normalised vectors."""
    kind = faiss.METRIC_INNER_PRODUCT if metric is Metric.IP else faiss.METRIC_L2
    try:
        return faiss.index_factory(d, factory, kind)
    except RuntimeError:
        raise InvalidArgument(
            f"FAISS makes no index from {factory!r} for {d} dimensions and metric {metric.value}: "
            f"name one such as {_EXAMPLES}"
        ) from None


def check(factory: str) -> None:
    """Raise InvalidArgument unless a factory string may make an index for vectors of some length.

    What a store is told before it has vectors; for those that come, `build` says it.
    """
    if factory == EXACT:
        return
    usable = sized(factory, _USUAL)
    numbers = [int(number) for number in re.findall(r"\d+", usable)]
    index = None
    lengths = [_DIMENSION, *(times * number for number in numbers for times in (1, 8, 12))]
    for d in (one for one in lengths if 0 < one <= _LONGEST):
        with suppress(RuntimeError):
            index = faiss.index_factory(d, usable, faiss.METRIC_L2)
            break
    if index is None:
        raise InvalidArgument(f"FAISS makes no index from {factory!r}: name one such as {_EXAMPLES}")
    core = knobs.inner(index)
    if isinstance(core, faiss.IndexHNSW) and any(int(links) < 2 for links in re.findall(r"HNSW(\d+)", usable)):
        raise InvalidArgument(f"a graph needs two links or more, unlike {factory!r}: name one such as {_EXAMPLES}")
    if isinstance(core, faiss.IndexIVF) and core.nlist < 1:
        raise InvalidArgument(f"{factory!r} has no lists: name one such as {_EXAMPLES}")
    if not isinstance(core, (faiss.IndexFlat, faiss.IndexScalarQuantizer, faiss.IndexHNSW, faiss.IndexIVF)):
        raise InvalidArgument(_unfit(factory))


def build(
    vectors: Sequence[Vectors],
    metric: Metric,
    factory: str,
    *,
    progress: bool = False,
    seed: int = 0,
    threads: int | None = None,
    watch: Callable[[], int] | None = None,
) -> Any:
    """Train and fill the index of a tier: position i of the index is the i-th row over all blocks.

    Vectors are read block by block, never all at once, so they may be memory maps larger than memory; between two
    steps of about a second, Ctrl-C is obeyed. With one thread the result depends on the vectors and ``seed`` alone;
    several threads link an HNSW graph in the order they happen to run, which changes it a little from build to build.

    Args:
        vectors: blocks (n, d), float32, C-contiguous; together at least one row.
        metric: of the space. Cosine indexes normalised copies under l2, whose order is the same.
        factory: FAISS factory string.
        progress: draw a progress bar.
        seed: of sampling, k-means and the graph's levels.
        threads: number of threads; None leaves OpenMP's setting.
        watch: called before each step: how many threads it may take. What it raises ends the build.

    Returns:
        The ``faiss.Index``.

    Raises:
        InvalidArgument: the factory string is not FAISS's, needs more vectors than there are, or makes an index that
            can't be restricted to the live rows of a store.
    """
    blocks = [block for block in vectors if len(block)]
    total, dimension = sum(map(len, blocks)), blocks[0].shape[1]
    index = parse(factory, dimension, metric)
    _prepare(index, seed)
    before = faiss.omp_get_max_threads()
    if threads is not None:
        faiss.omp_set_num_threads(threads)
    try:
        with Progress("building the index", total, enabled=progress, unit="vectors") as bar:
            if not index.is_trained:
                bar.advance(0, "training")
                if watch is not None:
                    faiss.omp_set_num_threads(watch())
                _train(index, _sample(blocks, total, _training_rows(index), metric, seed), factory)
            for rows in _steps(blocks, metric):
                if watch is not None:
                    faiss.omp_set_num_threads(watch())
                _add(index, rows, factory)
                bar.advance(len(rows))
        _require_selectors(index, factory)
    finally:
        faiss.omp_set_num_threads(before)
    return index


def write(index: Any, path: str | Path) -> None:
    """Write an index to a file; making it durable is the caller's part."""
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        if not Path(path).parent.is_dir():
            raise
        raise DiskFull(
            f"the index could not be written to {path}: free some space and build it again (no vector is lost)"
        ) from error


def read(path: str | Path) -> Any:
    """Load an index that `write` made, mapped into memory where FAISS can: pages are read when a search needs them.

    FAISS's file format is not safe against a hostile file: call this only after the file's hash was found to be the
    one recorded when it was written. The file must not be changed in place afterwards (deleting it is fine).
    """
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise StoreDamaged(f"{path} is not an index that this version of FAISS reads: it has to be rebuilt") from error


def parameters(index: Any) -> dict[str, Any]:
    """What an index is made of, for people: class, size, and the parameters that its build fixed."""
    core = knobs.inner(index)
    facts: dict[str, Any] = {"type": type(core).__name__, "count": int(index.ntotal), "dimension": int(index.d)}
    if isinstance(core, faiss.IndexHNSW):
        facts |= {"M": int(core.hnsw.nb_neighbors(1)), "efConstruction": int(core.hnsw.efConstruction)}
        storage = faiss.downcast_index(core.storage)
        facts |= {"storage": type(storage).__name__, "code_size": int(storage.sa_code_size())}
    elif isinstance(core, faiss.IndexIVF):
        facts |= {"nlist": int(core.nlist), "code_size": int(core.code_size)}
    return facts


def _prepare(index: Any, seed: int) -> None:
    core = knobs.inner(index)
    outer = faiss.downcast_index(index)
    if isinstance(outer, faiss.IndexPreTransform):
        for i in range(outer.chain.size()):
            transform = faiss.downcast_VectorTransform(outer.chain.at(i))
            if isinstance(transform, faiss.PCAMatrix):
                transform.max_points_per_d = _COMPONENT_ROWS
    if isinstance(core, faiss.IndexHNSW):
        core.hnsw.rng = faiss.RandomGenerator(seed + 12345)  # FAISS's own default is 12345
    elif isinstance(core, faiss.IndexIVF):
        core.cp.seed = seed + 1234
        core.cp.niter = _ROUNDS
        if hasattr(core, "pq"):
            core.pq.cp.min_points_per_centroid = 1
        core.cp.min_points_per_centroid = 1  # a user who names many lists for few vectors needs no warning from C++


def _training_rows(index: Any) -> int:
    core = knobs.inner(index)
    return max(_SAMPLE_ROWS, _PER_LIST * core.nlist if isinstance(core, faiss.IndexIVF) else 0)


def _sample(blocks: Sequence[Vectors], total: int, rows: int, metric: Metric, seed: int) -> Vectors:
    """A random sample of rows, its outliers pulled in.

    8-bit codes divide the range that they see in training into 255 steps, so that one broken vector with a coordinate
    of 1e6 would leave everybody else on one step. Coordinates are therefore clipped to four times the widest 98 %
    range of any dimension: wide enough never to touch a rare but real value (a pixel that is mostly black).
    """
    dimension = blocks[0].shape[1]
    if rows < total:
        chosen = np.sort(np.random.default_rng(seed).choice(total, rows, replace=False))
        starts = np.concatenate([[0], np.cumsum([len(block) for block in blocks])])
        cuts = np.searchsorted(chosen, starts)
        parts = [block[chosen[a:b] - s] for block, a, b, s in zip(blocks, cuts, cuts[1:], starts, strict=False)]
    else:
        parts = list(blocks)
    sample = _prepared(np.concatenate(parts).reshape(-1, dimension), metric)
    low, high = np.quantile(sample[:: max(1, len(sample) // 2048)], [0.01, 0.99], axis=0)
    reach = 4 * float((high - low).max())
    if reach > 0:
        np.clip(sample, low - reach, high + reach, out=sample)
    return sample


def _steps(blocks: Sequence[Vectors], metric: Metric) -> Iterator[Vectors]:
    for block in blocks:
        step = min(65_536, max(1024, _STEP_NUMBERS // block.shape[1]))
        for start in range(0, len(block), step):
            yield _prepared(np.ascontiguousarray(block[start : start + step], dtype=np.float32), metric)


def _prepared(rows: Vectors, metric: Metric) -> Vectors:
    return rows / norms(rows)[:, None] if metric is Metric.COSINE else rows


def _train(index: Any, sample: Vectors, factory: str) -> None:
    try:
        index.train(sample)
    except RuntimeError as error:
        if "interrupt" in str(error).lower():
            raise KeyboardInterrupt from error
        raise InvalidArgument(
            f"the FAISS index {factory!r} can't be trained on {len(sample):,} vectors of {sample.shape[1]:,} numbers: "
            f"name a smaller one, such as {_EXAMPLES}"
        ) from error


def _add(index: Any, rows: Vectors, factory: str) -> None:
    try:
        index.add(rows)
    except RuntimeError as error:
        if "interrupt" in str(error).lower():
            raise KeyboardInterrupt from error
        raise InvalidArgument(
            f"the FAISS index {factory!r} takes no vectors one after another: name one such as {_EXAMPLES}"
        ) from error


def _require_selectors(index: Any, factory: str) -> None:
    """Refuse an index that can't leave out deleted rows while searching (NSG, PQ, ... refuse selectors)."""
    bits = np.zeros(index.ntotal // 8 + 1, dtype=np.uint8)
    selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
    try:
        _, labels = index.search(
            np.zeros((1, index.d), dtype=np.float32), 1, params=knobs.search_parameters(index, 1, selector)
        )
    except RuntimeError:
        labels = np.zeros((1, 1))
    if (labels >= 0).any():
        raise InvalidArgument(_unfit(factory))


def _unfit(factory: str) -> str:
    return f"the FAISS index {factory!r} can't leave out deleted rows while searching: name one such as {_EXAMPLES}"
