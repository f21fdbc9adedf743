"""Making an index tier: which stretches deserve one, building it aside, and naming it.

A build holds no lock that a writer needs: what it reads never changes, and the commit that names the finished file
takes milliseconds. Only a second build waits; a compact, which moves positions, makes tiers for where they will be, and
names them in the commit that moves them.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import TYPE_CHECKING, Any, TypeAlias

from embedstore.durable import sync_directory, sync_file, writing
from embedstore.metadata import catalog
from embedstore.progress import Progress
from embedstore.truth import trust
from embedstore.truth.layout import TIERS, tier_name
from embedstore.truth.snapshot import SpaceView
from embedstore.truth.tiers import TierWarning
from embedstore.truth.writer import Writer
from embedstore.types import EXACT

if TYPE_CHECKING:
    from embedstore.config import StoreConfig
    from embedstore.index.tune import Tuned
    from embedstore.metadata.catalog import Space
    from embedstore.types import Metric
    from embedstore.vectors.segments import SegmentVectors

#: Says how many threads a step of a build may take, or raises to end it.
Watch: TypeAlias = "Callable[[], int] | None"
#: A tier is merged with the stretch behind it while it is at most this many times as long: so each vector is rebuilt
#: O(log n) times, and a store has O(log n) tiers (O'Neil et al., The log-structured merge-tree, 1996).
_MERGE_RATIO = 2
#: Vectors above which a kind that somebody named, or `tune` chose, is built although a scan would do. From then on, it
#: is made anew for twice as many, up to where it is due anyway.
NAMED = 1000
_TUNING_QUERIES, _FEWER = 1000, 400  # above so many vectors, whose truth takes longer than the rest of a tuning
_MANY = 500_000
_WIDE_WALK = 64  # efSearch, above which lists are tried, too
_SLOW_NS = 100_000.0  # of a search of lists, above which a graph is tried, too
_TUNING_K = 10


@dataclass(frozen=True, slots=True)
class Stretch:
    """Positions [first, first + count) that deserve a tier, and the FAISS factory string to build it by."""

    first: int
    count: int
    factory: str


@dataclass(frozen=True, slots=True)
class Made:
    """The file of a tier that no row names yet."""

    path: Path
    stretch: Stretch
    factory: str
    sha256: str
    tuned: dict[str, Any]

    def name(self, connection: Connection, space: Space) -> None:
        """Name it; tiers that it covers go."""
        catalog.add_tier(
            connection,
            space=space.id,
            name=self.path.name,
            first=self.stretch.first,
            count=self.stretch.count,
            factory=self.factory,
            sha256=self.sha256,
            signature=trust.sign(self.sha256),
            tuned=self.tuned,
        )


def is_due(config: StoreConfig, dimension: int, covered: int, tail: int) -> bool:
    """Whether so many vectors behind those that tiers cover are worth one."""
    if config.factory == EXACT:
        return False
    return tail * dimension > config.tail_floats or (config.factory is not None and tail > max(NAMED, covered))


def plan(view: SpaceView, config: StoreConfig, *, merge: bool = False, renew: bool = False) -> list[Stretch]:
    """What to build.

    Args:
        view: of the space.
        config: of the store: the shortest tail that is worth a tier, the factory, the memory.
        merge: make one of all tiers, whatever their lengths.
        renew: make them anew, too.
    """
    from embedstore.index.build import choose

    space, total = view.space, len(view.rows)
    stretches = []
    end = 0
    for tier in view.tiers:
        if tier.first > end:
            stretches.append((end, tier.first - end))
        end = tier.first + tier.count
    first = end
    if is_due(config, space.dimension, end, total - end):
        for tier in reversed(view.tiers):
            if tier.first + tier.count != first or tier.count > _MERGE_RATIO * (total - first):
                break
            first = tier.first
        stretches.append((first, total - first))
    if renew or (merge and len(view.tiers) + len(stretches) > 1):
        stretches = [(0, total)]
    shared = space.dimension, space.metric, config.factory, config.memory
    chosen = ((start, count, choose(count, *shared)) for start, count in stretches if count)
    return [Stretch(start, count, name) for start, count, name in chosen if name is not None]


def build_tier(
    writer: Writer, view: SpaceView, stretch: Stretch, layout: int, *, watch: Watch = None, progress: bool = False
) -> bool:
    """Build one tier and name it; False where a compact has moved its positions meanwhile."""
    made = make(writer, view, stretch, watch=watch, progress=progress)
    with writer.locked_in_the_end("naming a tier", watch), writer.database.write() as connection:
        if catalog.read_state(connection).layout != layout:
            made.path.unlink(missing_ok=True)
            return False
        catalog.advance(connection)
        made.name(connection, view.space)
    return True


def make(writer: Writer, view: SpaceView, stretch: Stretch, *, watch: Watch = None, progress: bool = False) -> Made:
    """Build and tune one tier, and write its file, which nothing names yet.

    Raises:
        InvalidArgument: the kind needs more vectors to be trained.
    """
    from embedstore.index import build, bytewise, knobs, tune

    space, vectors, config = view.space, view.vectors, writer.config
    blocks = [block for _, block in vectors.blocks(stretch.first, stretch.count)]
    factories = [stretch.factory]
    if config.factory is None:
        factories += build.alternatives(stretch.factory, stretch.count, space.dimension, space.metric, config.memory)
        graphs = [one for one in factories if "HNSW" in one]
        smaller = build.reduced(graphs[0], blocks, space.metric, seed=config.seed) if graphs else None
        if smaller is not None:
            factories.insert(factories.index(graphs[0]), smaller)
    found: list[tuple[bool, float, str, Any, Tuned]] = []
    for factory in factories:
        if "HNSW" in factory and any("HNSW" in name and not missed for missed, _, name, *_ in found):
            continue  # a walk in fewer dimensions does, if a wide one: what may be better are lists
        index = build.build(blocks, space.metric, factory, progress=progress, seed=config.seed, watch=watch)
        with Progress("tuning the index", None, enabled=progress, unit="queries"):
            tuned = tune_tier(config, vectors, index, stretch.first, stretch.count, space.metric)
        took = tune.search_ns(index, tuned, _row_ns(vectors, index, space.metric))
        found.append((not tuned.target_met, took if tuned.target_met else -tuned.recall, factory, index, tuned))
        walk = tuned.parameters.get("efSearch")
        if tuned.target_met and (took <= _SLOW_NS if walk is None else walk <= _WIDE_WALK):
            break
    _, _, factory, index, tuned = min(found, key=lambda one: one[:2])
    _say_what_is_missed(writer, view, factory, tuned)
    are_bytes = not knobs.is_exact(index, space.metric) and bytewise.fits(blocks, space.metric, config.memory)
    said = {"metric": space.metric.value, "bytes": are_bytes}
    if watch is not None:
        watch()
    with writer.locked_in_the_end("naming a tier", watch), writer.database.write() as connection:
        number = catalog.take_file_number(connection)
    path = writer.directory / TIERS / tier_name(number)
    sha256 = _write(index, path)
    vectors.release()
    return Made(path, stretch, factory, sha256, {**asdict(tuned), **said})


def _write(index: Any, path: Path) -> str:
    """Write an index durably; returns its hash."""
    from embedstore.index import build

    draft = path.with_suffix(".draft")
    with writing(path), _removed_on_failure(draft):
        draft.parent.mkdir(exist_ok=True)
        draft.unlink(missing_ok=True)  # never write through a link that lies there
        build.write(index, draft)
        descriptor = os.open(draft, os.O_RDWR)
        try:
            sync_file(descriptor)
            with open(descriptor, "rb", closefd=False) as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        finally:
            os.close(descriptor)
        draft.replace(path)
        sync_directory(path.parent)
    return sha256


@contextmanager
def _removed_on_failure(draft: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def _say_what_is_missed(writer: Writer, view: SpaceView, factory: str, tuned: Tuned) -> None:
    """Warn where a bound on memory costs recall, or can't be kept."""
    from embedstore.index import sizes

    config, dimension = writer.config, view.space.dimension
    if config.memory is None:
        return
    needed = sizes.process_with(factory, len(view.rows), dimension, view.space.metric)
    told = f"{writer.directory}: within {config.memory / 2**20:,.0f} MiB"
    way = "`embedstore tune` measures other kinds, and changes the bound"
    if needed > config.memory:
        said = f"no index is to be had: a search takes about {needed / 2**20:,.0f} MiB with {factory}; {way}"
        warnings.warn(f"{told} {said}", TierWarning, stacklevel=2)
    elif not tuned.target_met:
        said = f"{factory} finds {tuned.recall:.1%} of the nearest, not {config.recall:.1%}; {way}"
        warnings.warn(f"{told} {said}", TierWarning, stacklevel=2)


def misses(view: SpaceView, config: StoreConfig) -> list[str]:
    """What to say of tiers of a named kind that don't find as much as they were to."""
    if config.factory is None:
        return []
    return [
        f"{tier.factory} finds {tier.tuned['recall']:.1%} of the nearest, not {config.recall:.1%}: `embedstore tune` "
        "measures other kinds"
        for tier in view.tiers
        if not tier.tuned.get("target_met", True)
    ]


def tune_tier(
    config: StoreConfig, vectors: SegmentVectors, index: Any, first: int, count: int, metric: Metric
) -> Tuned:
    """Tune to the store's recall, both for queries beside the data and for the stored vectors themselves."""
    from embedstore.index import tune

    blocks = [(start - first, block) for start, block in vectors.blocks(first, count)]
    shared = _TUNING_QUERIES if count <= _MANY else _FEWER, _TUNING_K, metric
    asked = tune.questions(index, blocks, lambda at: vectors.read(at + first), *shared, seed=config.seed)
    return tune.tune_by(index, asked, target=config.recall, metric=metric, row_ns=_row_ns(vectors, index, metric))


def _row_ns(vectors: SegmentVectors, index: Any, metric: Metric) -> float:
    """Nanoseconds that a candidate of a search takes to be ordered by its true distance."""
    from embedstore.index import knobs

    return 0.0 if knobs.is_exact(index, metric) else vectors.row_ns
