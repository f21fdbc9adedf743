"""The store's verbs for keeping it well and knowing what it is: the part of the facade that asks truth and measures."""

from __future__ import annotations

import os
from abc import abstractmethod
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore import describe
from embedstore.config import as_bytes
from embedstore.errors import InvalidArgument, StoreBusy
from embedstore.query import recall as recall_measure
from embedstore.truth import backup, compact
from embedstore.validate import check_k, check_recall

if TYPE_CHECKING:
    from embedstore.check import VerifyReport
    from embedstore.config import StoreConfig
    from embedstore.export import Exported
    from embedstore.metadata.database import Database
    from embedstore.query.recall import RecallReport
    from embedstore.query.search import Searcher
    from embedstore.query.tuning import TuneReport
    from embedstore.truth.builder import Builder
    from embedstore.truth.compact import CompactReport
    from embedstore.truth.snapshot import Snapshots, SpaceView
    from embedstore.truth.writer import Writer


class UpkeepVerbs:
    """Measuring, checking, compacting, copying. `Store` has what they need."""

    path: Path
    config: StoreConfig
    _settings: dict[str, Any]
    _database: Database
    _snapshots: Snapshots
    _writer: Writer
    _builder: Builder
    _searcher: Searcher

    @abstractmethod
    def _open(self) -> None:
        """Raise StoreClosed where the store was closed."""

    @abstractmethod
    def _view(self, space: str | None = None) -> SpaceView:
        """The space of a name (None: the default one) at the newest commit."""

    def recall(
        self,
        k: int = 10,
        *,
        sample: int = 500,
        where: str | None = None,
        recall: float | None = None,
        space: str | None = None,
        progress: bool = False,
    ) -> RecallReport:
        """Measure recall@k of searches (under a filter) against exact ones, on a sample of the store's own vectors."""
        check_recall(recall)
        view, k = self._view(space), check_k(k)
        asked = self._searcher, view, self.config, k, sample
        return recall_measure.measure(*asked, where=where, recall=recall, progress=progress)

    def info(self) -> dict[str, Any]:
        """What is in the store: items, spaces, index, metadata keys, sizes on disk."""
        self._open()
        return describe.store(self.path, self._database, self._snapshots.current(), self._settings)

    def verify(self, *, progress: bool = False) -> VerifyReport:
        """Check every byte and row against what was committed; changes nothing."""
        self._open()
        from embedstore import check  # here and below: a process that asks one question shouldn't wait for this

        return check.verify(self.path, self._database, progress=progress)

    def tune(
        self,
        *,
        memory: int | str | None = None,
        recall: float | None = None,
        rows: int = 1_000_000,
        space: str | None = None,
        apply: bool = True,
        progress: bool = False,
    ) -> TuneReport:
        """Build several kinds of index over the store's own vectors, measure them, and take the best.

        The best is the fastest that reaches the recall within the memory; of those that are as fast, the one of the
        fewest bytes a vector. It is built, and stays the kind for what is added later.

        Args:
            memory: bytes that a process which searches may take, or '2G' (default: as the store was told, or no bound).
            recall: recall@10 to reach (default: the store's).
            rows: at most so many vectors, 1,000 or more, are measured with.
            space: to measure in.
            apply: False only measures.
            progress: bars on stderr.

        Raises:
            InvalidArgument: there is next to nothing in the store, or an argument makes no sense.
        """
        check_recall(recall)
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1000:
            raise InvalidArgument(f"rows is {rows!r}, but must be a whole number of at least 1,000")
        view = self._view(space)
        config = self.config
        if recall is not None:
            config = replace(config, recall=recall)
        if memory is not None:
            config = replace(config, memory=as_bytes(memory))
        if apply:
            self._writer.check_writable()
        from embedstore.query import tuning

        report = tuning.measure(view, config, rows, progress=progress)
        return self._build_best(report, config, progress) if apply else report

    def _build_best(self, report: TuneReport, config: StoreConfig, progress: bool) -> TuneReport:
        """Build the first of a report's kinds that reaches the recall over all vectors, and settle on it."""
        before = self._writer.config
        try:
            for one in report.preferred:
                self._writer.config = replace(config, factory=one.factory)
                self._builder.now(renew=True, progress=progress)
                # What a sample is enough for may miss among more vectors.
                if all(tier.tuned.get("target_met", True) for tier in self._view(report.space).tiers):
                    self.config = self._writer.configure(self._writer.config)
                    self._settings["config"] = self.config.to_json()
                    return report.choosing(one)
        except BaseException:
            self._writer.config = before
            raise
        self._writer.config = before
        if report.preferred:
            self._builder.now(renew=True, progress=progress)
        return report.choosing(None)

    def compact(self, *, progress: bool = False) -> CompactReport:
        """Rewrite segments and index without deleted rows, merge the index's tiers, sweep files that no row names.

        Searches keep their index meanwhile, and whoever breaks it off finds the store as it was.
        """
        self._open()
        self._builder.stop(60.0)  # what it builds would be void
        report = compact.compact(self._writer, progress=progress)
        with suppress(StoreBusy):  # another process builds, after what was freed
            built = self._builder.now(check=True, merge=True, progress=progress)
            report = replace(report, built=report.built + built)
        return report

    def build(self, *, progress: bool = False) -> int:
        """Build the index over what was added, now, instead of behind the caller's back. Returns how many tiers."""
        self._open()
        self._writer.check_writable()
        return self._builder.now(progress=progress)

    def backup(self, path: str | os.PathLike[str], *, progress: bool = False) -> int:
        """Copy the newest commit to a new directory, itself a store. Returns its bytes."""
        self._open()
        self._builder.settle()
        return backup.backup(self._writer, Path(path), progress=progress)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        where: str | None = None,
        vectors: bool = True,
        space: str | None = None,
        progress: bool = False,
    ) -> Exported:
        """Write items of one commit to .jsonl, .csv, .parquet, .npz, or a folder of pictures (see docs/export.md)."""
        self._open()
        from embedstore import export
        from embedstore.query import records

        shared = self._searcher, self._database, self._snapshots
        found = records.stream(*shared, matching=where, space=space, vectors=vectors, progress=progress)
        return export.export(found.records, Path(path), format, keys=found.keys, dimension=found.dimension)
