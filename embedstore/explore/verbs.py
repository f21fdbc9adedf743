"""The store's verbs for looking at what is in it: the part of the facade that asks this room."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.errors import InvalidArgument

if TYPE_CHECKING:
    from embedstore.explore.clusterings import Clustering
    from embedstore.explore.duplicates import Duplicates
    from embedstore.explore.maps import Map
    from embedstore.explore.mislabels import Mislabels
    from embedstore.explore.outliers import Outliers
    from embedstore.explore.portraits import Portrait
    from embedstore.truth.writer import Writer


class DiscoveryVerbs(ABC):
    """What a store finds in unlabeled data; `embedstore.store.Store` is one. Each verb imports what it needs."""

    _writer: Writer

    @abstractmethod
    def _latents(self, space: str | None) -> LatentSpace:
        """The space of a name (None: the default one) at the newest commit."""

    def cluster(
        self,
        k: int | None = None,
        *,
        name: str = "default",
        assign_noise: bool = False,
        seed: int | None = None,
        space: str | None = None,
        progress: bool = False,
    ) -> Clustering:
        """Find clusters without labels, at several granularities, and store them under a name.

        Items that are added later are placed into them in the commit that adds them.

        Args:
            k: number of clusters; None finds it.
            name: to store them under; a clustering of the same name is replaced.
            assign_noise: put also those items into clusters that are as likely to be of others.
            seed: the same seed and items give the same clusters; None: the store's.
            space: its name.
            progress: bars on stderr.

        Raises:
            InvalidArgument: too few items, or all of them alike, among others.
        """
        from embedstore.explore import clusterings, stored

        found = self._latents(space)
        number = stored.seeded(found, seed)
        clusterings.make(found, self._writer, name, k, assign_noise=assign_noise, seed=number, progress=progress)
        stored.catch_up(self._latents(space), self._writer, "clusterings", name)
        return clusterings.get(self._latents(space), name)

    def clusterings(self, *, space: str | None = None) -> list[Clustering]:
        """All stored clusterings, by name."""
        from embedstore.explore import clusterings

        return clusterings.every(self._latents(space))

    def clustering(self, name: str | None = None, *, space: str | None = None) -> Clustering:
        """One stored clustering; without a name the default one.

        Raises:
            UnknownRun: there is none.
        """
        from embedstore.explore import clusterings

        return clusterings.get(self._latents(space), name)

    def clusters(
        self,
        name: str | None = None,
        *,
        level: int | None = None,
        exemplars: int = 6,
        rim: int = 3,
        space: str | None = None,
    ) -> list[Portrait]:
        """What is in each cluster: size, exemplars, compactness, nearest other clusters, and telling metadata.

        Args:
            name: of the clustering; None: the default one.
            level: from 0, coarse to fine; None: the chosen one.
            exemplars: ids of the most central items of each cluster's parts.
            rim: ids of the items that belong least.
            space: its name.
        """
        from embedstore.explore import portraits

        return portraits.portraits(self._latents(space), name, level, exemplars, rim)

    def use_clustering(self, name: str, *, level: int | None = None, space: str | None = None) -> Clustering:
        """Make a clustering, at a level, the one that ``cluster`` means in filters and expressions."""
        from embedstore.explore import clusterings

        clusterings.use(self._latents(space), self._writer, name, level)
        return clusterings.get(self._latents(space), name)

    def name_cluster(
        self,
        cluster: int | str,
        label: str,
        *,
        name: str | None = None,
        level: int | None = None,
        space: str | None = None,
    ) -> int:
        """Name a cluster, so that filters and pictures can (``cluster = 'ankle boots'``); "" takes its name away.

        Args:
            cluster: its number, or the name that it has.
            label: the new name.
            name: of the clustering; None: the default one.
            level: from 0, coarse to fine; None: the chosen one.
            space: its name.

        Returns:
            The cluster's number.
        """
        from embedstore.explore import clusterings

        return clusterings.name_cluster(self._latents(space), self._writer, cluster, label, name, level)

    def remove_clustering(self, name: str, *, space: str | None = None) -> None:
        """Forget a clustering.

        Raises:
            UnknownRun: there is none of this name.
        """
        from embedstore.explore import stored

        stored.remove(self._latents(space), self._writer, "clusterings", name)

    def map(
        self,
        name: str | None = None,
        *,
        refit: bool = False,
        seed: int | None = None,
        space: str | None = None,
        progress: bool = False,
    ) -> Map:
        """A map of all items in two dimensions: the stored one, or, where there is none of this name, a new one.

        Items that are added later are placed on it in the commit that adds them.

        Args:
            name: None takes the default map, which is first made as "default".
            refit: lay the items out again, also where there is a map of this name.
            seed: the same seed and items give the same map; None: the store's.
            space: its name.
            progress: bars on stderr.

        Raises:
            InvalidArgument: too few items, or all of them alike.
            MissingExtra: a layout needs the extra ``map``.
        """
        from embedstore.explore import maps, stored

        found = self._latents(space)
        if name is not None:
            stored.check_name(name, "map")
        there = stored.names(found, "maps")  # the default one first
        chosen = name if name is not None else next(iter(there), stored.DEFAULT)
        number = stored.seeded(found, seed)
        if chosen in there and not refit:
            if seed is not None:
                raise InvalidArgument(f"there is a map {chosen!r} already: refit makes it again with another seed")
            return maps.get(found, chosen)
        maps.make(found, self._writer, chosen, seed=number, progress=progress)
        stored.catch_up(self._latents(space), self._writer, "maps", chosen)
        return maps.get(self._latents(space), chosen)

    def maps(self, *, space: str | None = None) -> list[Map]:
        """All stored maps, by name."""
        from embedstore.explore import maps

        return maps.every(self._latents(space))

    def places(self, name: str | None = None, *, space: str | None = None) -> npt.NDArray[np.float32]:
        """Where a map has all items, (n, 2), in the order of ``ids()``; NaN where it doesn't have one.

        Raises:
            UnknownRun: there is no map of this name (None: none at all).
        """
        from embedstore.explore import maps

        return maps.places(self._latents(space), name)

    def unmap(self, xy: Any, *, name: str | None = None, space: str | None = None) -> Any:
        """Turn points of a map back into latents, which can be decoded and searched.

        Args:
            xy: a point (2,), or several (n, 2).
            name: of the map; None: the default one.
            space: its name.

        Returns:
            A Latent for one point, an array (n, d) for several.

        Raises:
            UnknownRun: there is no such map; InvalidArgument: what isn't a point.
        """
        from embedstore.explore import maps

        found = self._latents(space)
        single = np.ndim(xy) == 1 if not isinstance(xy, (list, tuple)) else all(np.ndim(one) == 0 for one in xy)
        latents = maps.unmap(found, [xy] if single else xy, name)
        return found.latent(latents[0]) if single else latents

    def remove_map(self, name: str, *, space: str | None = None) -> None:
        """Forget a map.

        Raises:
            UnknownRun: there is none of this name.
        """
        from embedstore.explore import stored

        stored.remove(self._latents(space), self._writer, "maps", name)

    def duplicates(
        self,
        *,
        distance: float | None = None,
        where: str | None = None,
        space: str | None = None,
        progress: bool = False,
    ) -> Duplicates:
        """Groups of items of which one is enough: of equal content, or the same but for a slight change.

        Args:
            distance: largest distance of latents of near duplicates; None learns from the data what a slight change is.
            where: only items that match, compared with each other.
            space: its name.
            progress: bars on stderr.
        """
        from embedstore.explore import duplicates

        return duplicates.find(self._latents(space), distance=distance, where=where, progress=progress)

    def delete_duplicates(self, found: Duplicates) -> int:
        """Keep the first item of each group that ``duplicates`` found, and delete the others; returns how many.

        Groups whose first item was deleted or changed since, and items that were changed, are left alone.
        """
        from embedstore.explore import duplicates

        return duplicates.delete(found, self._writer)

    def outliers(
        self, limit: int = 50, *, where: str | None = None, space: str | None = None, progress: bool = False
    ) -> Outliers:
        """The items that are least like the others, each with what is unusual about it.

        Args:
            limit: how many to name; all are scored.
            where: only items that match, compared with each other.
            space: its name.
            progress: bars on stderr.
        """
        from embedstore.explore import outliers

        return outliers.find(self._latents(space), limit=limit, where=where, progress=progress)

    def mislabeled(
        self,
        key: str,
        limit: int = 50,
        *,
        where: str | None = None,
        space: str | None = None,
        progress: bool = False,
    ) -> Mislabels:
        """The items whose value of a metadata key disagrees most with the items around them.

        Args:
            key: of the metadata, at its top level.
            limit: how many to name; all are scored.
            where: only items that match, compared with each other.
            space: its name.
            progress: bars on stderr.
        """
        from embedstore.explore import mislabels

        return mislabels.find(self._latents(space), key, limit=limit, where=where, progress=progress)
