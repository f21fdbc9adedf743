"""The store's verbs for showing what is in it: the part of the facade that asks this room."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.explore.verbs import DiscoveryVerbs

if TYPE_CHECKING:
    from PIL import Image

    from embedstore.show.page import Written
    from embedstore.show.report import Report


class ShowVerbs(DiscoveryVerbs):
    """What was found, as pictures and pages: a report first finds what is missing. Each verb imports what it needs."""

    def draw_map(
        self,
        name: str | None = None,
        *,
        colour: str | None = None,
        thumbnails: bool = True,
        side: int = 1_600,
        space: str | None = None,
    ) -> Image.Image:
        """A stored map as a picture: points over their density, names at their centres, thumbnails, a legend.

        Args:
            name: of the map; None: the default one.
            colour: a metadata key, 'cluster', 'cluster.NAME', or '' for none; None chooses the clusters, or a key.
            thumbnails: whether to show items' pictures.
            side: longer side of the plane in px.
            space: its name.
        """
        from embedstore.show import colours, views

        found = self._latents(space)
        return views.map_picture(found, name, colours.chosen(found, colour), thumbnails=thumbnails, side=side)

    def draw_grid(self, count: int = 24, *, name: str | None = None, space: str | None = None) -> Image.Image:
        """What a map's places decode to, ``count`` along its longer side, faded where there are no items.

        Raises:
            NoDecoder: the space can't.
        """
        from embedstore.show import views

        return views.grid_picture(self._latents(space), name, count)

    def draw_clusters(
        self,
        name: str | None = None,
        *,
        level: int | None = None,
        exemplars: int = 10,
        rim: int = 4,
        space: str | None = None,
    ) -> Image.Image:
        """The clusters of a clustering as a picture, a row each; arguments as for ``clusters``."""
        from embedstore.show import views

        return views.clusters_picture(self._latents(space), name, level, exemplars, rim)

    def write_map(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        colour: str | None = None,
        space: str | None = None,
        progress: bool = False,
    ) -> Written:
        """A stored map as one HTML file to pan, zoom and hover; arguments as for ``draw_map``."""
        from embedstore.show import page

        return page.map_page(self._latents(space), Path(path), name=name, colour=colour, progress=progress)

    def write_clusters(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        level: int | None = None,
        space: str | None = None,
    ) -> Written:
        """The clusters of a clustering as one HTML file: what is in each, and what sets it apart."""
        from embedstore.show import clusterpage

        return clusterpage.clusters_page(self._latents(space), Path(path), name=name, level=level)

    def report(self, path: str | os.PathLike[str], *, key: str | None = None, progress: bool = False) -> Report:
        """What is in the store as one HTML file.

        Its map, clusters, duplicates, outliers and suspicious labels, and how good its encoder and index are. A
        clustering and a map are made where there are none and the store can be written.

        Args:
            path: of the file.
            key: metadata key whose values are compared with their neighbourhoods; None: those that look like labels.
            progress: bars on stderr.
        """
        from embedstore.show import report

        return report.report(self, Path(path), key=key, progress=progress)
