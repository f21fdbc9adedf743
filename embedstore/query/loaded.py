"""The index tiers that a process has loaded, each less what was deleted from it, as far as that pays."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedstore.metadata.catalog import TierRecord
from embedstore.truth import tiers
from embedstore.truth.layout import TIERS
from embedstore.truth.snapshot import SpaceView

if TYPE_CHECKING:
    from embedstore.index.tier import Tier

#: Numbers scanned exactly in the time that it takes to hash and parse one byte of a tier (measured: 6 GB/s of scan
#: against 0.6 GB/s of loading).
_LOAD_FACTOR = 2.5
#: Rows of a tier are left out of the copy in memory once this share of them was deleted; that takes as long as some
#: thousand queries, and until then deleted ones are met and passed over.
_PRUNED = 0.05


@dataclass(frozen=True, slots=True)
class _Pruned:
    """What deletions have done to a loaded tier.

    Attributes:
        live: the mask of live positions that was looked at.
        deleted: positions of the space that were deleted by then.
        passed: deleted rows that the tier still has.
    """

    live: npt.NDArray[np.uint8]
    deleted: int
    passed: int


class LoadedTiers:
    """Loads a tier once scanning has cost as much as loading would, and keeps it. Safe to use from several threads.

    (The ski-rental rule: never more than twice the cost of having known the future. So a process that asks one question
    neither hashes nor parses an index.)
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._tiers: dict[str, Tier | None] = {}
        self._scanned: dict[str, float] = {}
        self._pruned: dict[str, _Pruned] = {}

    def all_of(self, view: SpaceView) -> list[Tier] | None:
        """All tiers of a view, where they are loaded and have few deleted rows; else None."""
        found = []
        for record in view.tiers:
            tier = self._tiers.get(record.name)
            if tier is not None:
                tier = self._without_deleted(record.name, tier, view)
            if tier is None or self._passed(record.name) > _PRUNED * tier.left:
                return None
            found.append(tier)
        return found

    def usable(self, view: SpaceView, nq: int) -> list[Tier]:
        """The tiers to use now: loaded ones, and those whose loading has become cheaper than scanning on."""
        usable = []
        for record in view.tiers:
            tier = self._tiers.get(record.name, ...)
            if tier is ...:
                tier = self._consider(record, view, nq)
            if tier is not None and (tier := self._without_deleted(record.name, tier, view)) is not None:
                usable.append(tier)
        return usable

    def _without_deleted(self, name: str, tier: Tier, view: SpaceView) -> Tier | None:
        """A loaded tier without most of the rows that were deleted, where that is worth a copy of the others.

        None for a view of before the last deletions that it is without: what it lacks has to be scanned.
        """
        live, deleted = view.live, len(view.rows) - view.alive
        known, found = self._known(name, tier, live, deleted)
        if known or live is None:
            return found
        with self._lock:
            tier = self._tiers.get(name) or tier
            known, found = self._known(name, tier, live, deleted)
            if known:
                return found  # another thread was here
            mask = live[tier.first : tier.first + tier.count]
            alive = int(np.count_nonzero(mask))
            smaller = tier.pruned(mask) if alive < (1 - _PRUNED) * tier.left else None
            tier = smaller or tier
            # In this order: whoever finds the smaller tier has to find what it is without, too.
            self._pruned[name] = _Pruned(live, deleted, tier.left - alive)
            self._tiers[name] = tier
        return tier

    def _known(
        self, name: str, tier: Tier, live: npt.NDArray[np.uint8] | None, deleted: int
    ) -> tuple[bool, Tier | None]:
        """Whether these deletions, or later ones, have been looked at, and what is to be used then."""
        seen = self._pruned.get(name)
        if seen is None or seen.live is live:
            return seen is not None or live is None, tier
        if live is None or seen.deleted > deleted:
            return True, None if tier.left < tier.count else tier
        return False, None

    def _passed(self, name: str) -> int:
        """How many deleted rows a tier still has, by the view that was last looked at."""
        seen = self._pruned.get(name)
        return 0 if seen is None else seen.passed

    def _consider(self, record: TierRecord, view: SpaceView, nq: int) -> Tier | None:
        with self._lock:
            known = self._tiers.get(record.name, ...)
            if known is not ...:
                return known
            size = tiers.size(self._directory, record)
            scanned = self._scanned.get(record.name, 0.0)
            self._scanned[record.name] = scanned + nq * record.count * view.space.dimension
            if size is not None and scanned + (nq - 1) * record.count * view.space.dimension < _LOAD_FACTOR * size:
                return None
            # Those of other spaces stay; a file that is gone, and no tier of this view, was merged or compacted away.
            own, folder = {tier.name for tier in view.tiers}, self._directory / TIERS
            gone = [name for name in self._tiers if name not in own and not (folder / name).exists()]
            self._tiers = {name: tier for name, tier in self._tiers.items() if name not in gone}
            self._pruned = {name: seen for name, seen in self._pruned.items() if name not in gone}
            tier = self._tiers[record.name] = tiers.load(self._directory, record, view)
            view.vectors.release()
            return tier

    def load(self, view: SpaceView) -> None:
        """Load all tiers now, whatever was scanned before."""
        for record in view.tiers:
            self._scanned[record.name] = float("inf")
            self._consider(record, view, 1)

    def forget(self) -> None:
        """Drop loaded tiers."""
        self._tiers, self._pruned = {}, {}
