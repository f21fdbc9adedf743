"""The clusters as a page of HTML: what is in each, and what sets it apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from embedstore.compute.space import LatentSpace
from embedstore.explore import clusterings, portraits
from embedstore.explore.clusterings import Clustering
from embedstore.explore.portraits import Portrait, Trait
from embedstore.show import gallery, markup, since
from embedstore.show.page import Written
from embedstore.types import Picture

STYLES = ("style.css", "report.css")
_EXEMPLARS, _RIM = 8, 4
READING = (
    "The pictures are the most typical ones of each cluster's parts, then some at its rim that could as well lie in "
    "another. <b>Strength</b> is how surely its items belong to it, from 0 to 1. <b>Compactness</b> is their mean "
    "distance to its centre over that of all items to theirs: the less, the more compact. <b>Set apart by</b> lists "
    "the metadata it has more often than all other items: “3×, 60 of 80” is three times as often, and 60 of the 80 "
    "items with this value. The bar of the largest cluster is full, the others are measured by it."
)


def clusters_page(
    space: LatentSpace,
    path: str | Path,
    *,
    name: str | None = None,
    level: int | None = None,
    exemplars: int = _EXEMPLARS,
    rim: int = _RIM,
) -> Written:
    """Write one row of pictures for each cluster, with what is known of it, as one file that needs nothing else.

    Args:
        space: whose clustering.
        path: a file, .html.
        name: of the clustering; None: the default one.
        level: from 0, coarse to fine; None: the chosen one.
        exemplars: pictures of its most central items.
        rim: pictures of the items that belong least.

    Raises:
        UnknownRun: there is no such clustering. InvalidArgument: no such level, or a path that can't be written.
    """
    path = markup.check(Path(path))
    made = clusterings.get(space, name)
    found = portraits.portraits(space, made.name, level, exemplars, rim)
    title = space.searcher.directory.resolve().name
    cards, count = rows(space, found)
    body = (
        f"<header><h1><bdi>{markup.text(title)}</bdi></h1>\n<p>{summary(made, found)}</p></header>\n"
        f'<main><section><p class="soft">{READING}</p>\n{cards}</section></main>\n'
    )
    page = markup.document(f"{title}: clusters", body, styles=STYLES, kind="text")
    return Written(path, markup.write(path, page), sum(one.size for one in found), count)


def summary(made: Clustering, found: Sequence[Portrait]) -> str:
    """How many clusters there are of how many items, and what became of those that they were found in."""
    total = sum(one.size for one in found)
    clusters = sum(one.number >= 0 for one in found)
    outside = sum(one.size for one in found if one.number < 0)
    said = f"{clusters:,} clusters of {total:,} items in the clustering <bdi>{markup.text(made.name)}</bdi>"
    if outside:
        said += f"; {outside:,} items ({outside / total:.1%}) are in none"
    if not made.is_stable:
        said += (
            f"; they aren't stable (stability {made.levels[made.level].stability:.2f}): such are found in items "
            "without any groups too, and other items like these would form others"
        )
    return ". ".join([said, *(markup.text(note, 400) for note in since.notes(made, total))]) + "."


def rows(space: LatentSpace, found: Sequence[Portrait]) -> tuple[str, int]:
    """A part of a page for each cluster, and the number of pictures in them all."""
    pictures = gallery.stored(space, [name for one in found for name in (*one.exemplars, *one.rim)])
    largest = max((one.share for one in found), default=1.0)
    titles = {one.number: title(one) for one in found}
    made = [_row(one, pictures, largest, titles) for one in found]
    return "".join(made), len(pictures)


def title(one: Portrait) -> str:
    """A cluster's name, or its number; escaped."""
    if one.number < 0:
        return "In no cluster"
    if one.name is None:
        return f"Cluster {one.number}"
    return f'<bdi>{markup.text(one.name)}</bdi> <span class="soft">cluster {one.number}</span>'


def _row(one: Portrait, pictures: dict[str, Picture], largest: float, titles: dict[int, str]) -> str:
    shown = [gallery.Shown(name) for name in one.exemplars]
    rim = [gallery.Shown(name, badge="rim") for name in one.rim]
    facts = f"<dt>Strength</dt><dd>{one.strength:.2f}</dd>"
    if one.number >= 0:
        facts += f"<dt>Compactness</dt><dd>{one.compactness:.2f}</dd>"
    if one.nearest:
        near = ", ".join(
            f'<a href="#cluster-{other}">{titles[other]}</a>' for other, _ in one.nearest if other in titles
        )
        facts += f"<dt>Nearest</dt><dd>{near}</dd>"
    if one.parent is not None:
        facts += f"<dt>Part of</dt><dd>coarser cluster {one.parent[0]} ({one.parent[1]:.0%})</dd>"
    if one.traits:
        facts += f"<dt>Set apart by</dt><dd><ul>{''.join(map(_trait, portraits.telling(one, 4)))}</ul></dd>"
    return (
        f'<article class="cluster" id="cluster-{one.number}">\n<div class="about"><h3>{titles[one.number]}</h3>\n'
        f'<p class="share">{one.size:,} items, {one.share:.1%}{gallery.bar(one.share / (largest or 1.0))}</p>\n'
        f"<dl>{facts}</dl></div>\n{gallery.strip([*shown, *rim], pictures, 'plain')}</article>\n"
    )


def _trait(trait: Trait) -> str:
    often = "found nowhere else" if math.isinf(trait.lift) else f"{markup.number(trait.lift)}×"
    return (
        f'<li><bdi>{markup.text(trait.key, 40)} = {markup.text(trait.value, 60)}</bdi> <span class="soft">{often}, '
        f"{trait.inside:,} of {trait.inside + trait.outside:,}</span></li>"
    )
