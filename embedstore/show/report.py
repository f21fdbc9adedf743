"""One page on a data set: what is in it, how it hangs together, what looks wrong, and how good the encoder is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedstore.compute.space import LatentSpace
from embedstore.errors import EmbedstoreError, InvalidArgument, StoreReadOnly
from embedstore.explore import clusterings, maps, portraits
from embedstore.metadata import items
from embedstore.progress import Progress
from embedstore.show import clusterpage, findings, gallery, markup, page, quality, since
from embedstore.show.findings import Part

THUMBNAILS = 5_000
_FIELDS = 12  # metadata keys shown


@dataclass(frozen=True, slots=True)
class Report:
    """A report that was written.

    Attributes:
        path: where.
        bytes: its size.
        made: titles of its sections.
        left_out: titles of those that could not be made, with why.
    """

    path: Path
    bytes: int
    made: tuple[str, ...]
    left_out: dict[str, str]


def report(store: Any, path: str | Path, *, key: str | None = None, progress: bool = False) -> Report:
    """Write a report on a store's default space as one file that needs nothing else.

    Where there is no clustering or map yet, they are made and stored, if the store can be written. A section that can't
    be made says why.

    Args:
        store: an open `embedstore.store.Store` (which lies above this room, so that its type isn't named).
        path: a file, .html.
        key: metadata key with the class labels; None: each key with 2 to 100 values.
        progress: bars on stderr.

    Raises:
        InvalidArgument: a key that no item has, or a path that can't be written.
        UnknownSpace, NothingMatches: the store is empty.
    """
    path = markup.check(Path(path))
    space: LatentSpace = store._latents(None)
    count = len(space.positions(None))
    if key is not None:
        _check_key(space, key)
    missing = _prepare(store, progress)
    space = store._latents(None)
    sections: list[tuple[str, str, Callable[[], Part]]] = [
        ("map", "Map", lambda: _map(space, missing)),
        ("clusters", "Clusters", lambda: _clusters(space, missing)),
        ("duplicates", "Duplicates", lambda: findings.duplicates_part(space, progress)),
        ("outliers", "Outliers", lambda: findings.outliers_part(space, progress)),
        ("labels", "Suspicious labels", lambda: findings.labels_part(space, key, progress)),
        ("encoder", "The encoder and the index", lambda: quality.quality_part(store, space, key)),
    ]
    made: list[str] = []
    left_out: dict[str, str] = {}
    parts: list[str] = []
    headlines: list[str] = []
    with Progress("writing the report", len(sections), progress, unit="sections") as bar:
        for identifier, title, make in sections:
            try:
                part = make()
                inside = part.html
                made.append(title)
                if part.headline:
                    headlines.append(f'<li><a href="#{identifier}">{title}</a>: {part.headline}.</li>')
            except (EmbedstoreError, ImportError) as error:
                reason = str(error).splitlines()[0]
                left_out[title] = reason
                inside = f'<p class="missing">This section could not be made: {markup.text(reason, 600)}.</p>\n'
            parts.append(f'<section id="{identifier}">\n<h2>{title}</h2>\n{inside}</section>\n')
            bar.advance(note=title.lower())
    name = space.searcher.directory.resolve().name
    links = "".join(f'<a href="#{identifier}">{title}</a>' for identifier, title, _ in sections)
    body = (
        f"<header><h1><bdi>{markup.text(name)}</bdi></h1>\n"
        f'<ul class="headlines">{"".join(headlines)}</ul>\n{_overview(store.info(), count)}</header>\n'
        f"<nav>{links}</nav>\n<main>\n{''.join(parts)}</main>\n"
    )
    styles = (*page.STYLES, "report.css")
    scripts = page.SCRIPTS if "Map" in made else ()
    written = markup.document(f"{name}: report", body, styles=styles, scripts=scripts, kind="text")
    return Report(path, markup.write(path, written), tuple(made), left_out)


def _check_key(space: LatentSpace, key: str) -> None:
    with space.database.read() as connection:
        keys = sorted(items.metadata_keys(connection))
    if key not in keys:
        raise InvalidArgument(f"no item has the metadata key {key!r}: there is {', '.join(keys) or 'no metadata'}")


def _prepare(store: Any, progress: bool) -> dict[str, str]:
    """Make the clustering and the map that aren't there; of what can't be made, why."""
    missing: dict[str, str] = {}
    for verb, there, make in (("cluster", store.clusterings, store.cluster), ("map", store.maps, store.map)):
        with _noting(missing, verb):
            if not there():
                make(progress=progress)
    return missing


@contextmanager
def _noting(missing: dict[str, str], verb: str) -> Iterator[None]:
    try:
        yield
    except StoreReadOnly:
        word = "clustering" if verb == "cluster" else "map"
        missing[verb] = f"there is no {word} yet, and the store can't be written: `embedstore {verb} STORE` makes one"
    except EmbedstoreError as error:
        missing[verb] = str(error)


def _map(space: LatentSpace, missing: dict[str, str]) -> Part:
    if "map" in missing:
        raise InvalidArgument(missing["map"])
    run = maps.get(space)
    made = page.component(space, limit=THUMBNAILS)
    said = (
        "Each point is an item, and items that are alike lie close together; distances between far groups mean little. "
        "The layout was made from each item's nearest neighbours in the latent space, without any label."
    )
    if run.trustworthiness is not None and run.continuity is not None:
        said += (
            f" {run.trustworthiness:.1%} trustworthy: that much of what is near here is near in the latent space; "
            f"{run.continuity:.1%} continuous: that much the other way round."
        )
    said += "".join(f" {markup.text(note, 400)}." for note in since.notes(run, len(space.positions(None))))
    return Part(f"<p>{said}</p>\n{made.html}", "")


def _clusters(space: LatentSpace, missing: dict[str, str]) -> Part:
    if "cluster" in missing:
        raise InvalidArgument(missing["cluster"])
    made = clusterings.get(space)
    found = portraits.portraits(space, None, None, 7, 3)
    cards, _ = clusterpage.rows(space, found)
    asked = "" if made.asked is None else f" ({made.asked:,} were asked for)"
    said = (
        f"{clusterpage.summary(made, found)} Clusters are found from the latents alone{asked}, and nobody said what is "
        "in them."
    )
    html = f'<p>{said}</p>\n<p class="soft">{clusterpage.READING}</p>\n{cards}'
    groups, noise = sum(one.number >= 0 for one in found), sum(one.size for one in found if one.number < 0)
    outside = f", {noise:,} are in none" if noise else ""
    return Part(html, f"{len(space.positions(None)):,} items form {groups:,} groups{outside}")


def _overview(info: dict[str, Any], count: int) -> str:
    """The numbers, and the metadata's values as bars."""
    space = next(one for one in info["spaces"] if one["default"])
    facts = [
        (_named(count, "item"), f"{count:,}"),
        ("on disk", _size(info["bytes"]["total"])),
        (_named(len(info["origins"]), "source"), f"{len(info['origins']):,}"),
        (_named(len(info["fields"]), "metadata key"), f"{len(info['fields']):,}"),
        ("encoder", markup.text(space["encoder"] or "none: vectors given")),
        ("numbers an item", f"{space['dimension']:,} ({markup.text(space['metric'])})"),
        (_named(len(info["spaces"]), "space"), f"{len(info['spaces']):,}"),
        ("made", markup.text(str(info["created"])[:10])),
    ]
    tiles = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    origins = "".join(
        f'<li><bdi class="id">{markup.text(one["scope"])}</bdi> '
        f'<span class="soft">{one["items"]:,} {_named(one["items"], "item")}</span></li>'
        for one in info["origins"][:8]
    )
    more = len(info["origins"]) - 8
    sources = (
        f"<h3>Sources</h3><ul>{origins}{f'<li>and {more:,} more</li>' if more > 0 else ''}</ul>" if origins else ""
    )
    fields = "".join(_field(key, field, count) for key, field in list(info["fields"].items())[:_FIELDS])
    left = len(info["fields"]) - _FIELDS
    metadata = f'<h3>Metadata</h3><div class="fields">{fields}</div>' if fields else "<h3>Metadata</h3><p>None.</p>"
    if left > 0:
        metadata += f'<p class="soft">and {left:,} more keys</p>'
    return f'<dl class="tiles">{tiles}</dl>\n{sources}\n{metadata}\n'


def _named(count: int, one: str) -> str:
    """What so many are called."""
    return one if count == 1 else f"{one}s"


def _field(key: str, field: dict[str, Any], count: int) -> str:
    values = field["values"]
    most = max(values.values(), default=1)
    rows = "".join(
        f"<li><bdi>{markup.text('none' if value is None else value, 40)}</bdi>{gallery.bar(number / most)}"
        f'<span class="soft">{number:,}</span></li>'
        for value, number in values.items()
        if not (field["more"] and (most == 1 or isinstance(value, float)))  # nearly an id, or a quantity
    )
    rest = f'<li class="soft">{"and more values" if rows else "different values, each on few items"}</li>'
    return f"<div><h4><bdi>{markup.text(key, 60)}</bdi></h4><ul>{rows}{rest if field['more'] else ''}</ul></div>"


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
