"""``embedstore map`` and ``embedstore unmap``: items in two dimensions, and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from embedstore.cli import output, points
from embedstore.cli.clusters import existing, note_changes
from embedstore.cli.groups import Group
from embedstore.cli.options import (
    bars,
    example,
    file_type,
    json_option,
    k_option,
    output_option,
    progress_option,
    store_argument,
    where_option,
)
from embedstore.errors import InvalidArgument

if TYPE_CHECKING:
    from embedstore.explore.maps import Map

_AWAY = 0.04  # of the map's longer side: a point so far from any item is in the open


@click.group("map", cls=Group)
def map_() -> None:
    """Lay all items out in two dimensions, and draw them.

    Without another command behind it, STORE follows at once, and make is meant.
    """


@map_.command()
@store_argument
@click.option("--name", metavar="NAME", help="Of the map; default: the one that was made last, else 'default'.")
@click.option("--refit", is_flag=True, help="Lay the items out again, though there is a map.")
@click.option("--seed", type=int, metavar="N", help="Of everything random; default: the store's.")
@output_option("Draw the map (.png).")
@click.option(
    "--color",
    "--colour",
    "colour",
    metavar="FIELD",
    help="Metadata key that colours the points, cluster, cluster.NAME, or '' for none; default: clusters, else a key.",
)
@click.option("--thumbnails/--no-thumbnails", default=True, help="Show items' pictures where there is room.")
@click.option("--side", type=int, default=1600, show_default=True, metavar="PX", help="Longer side of the drawn map.")
@click.option("--grid", type=int, metavar="N", help="Draw what is decoded at N x N places instead of the items.")
@click.option("--html", type=file_type, metavar="FILE", help="Write a page to pan, zoom and hover.")
@progress_option
@json_option
@example(
    "embedstore map fashion.store -o map.png --color label\n"
    "embedstore map fashion.store -o grid.png --grid 24\n"
    "embedstore map fashion.store --html map.html"
)
def make(
    store: Path,
    name: str | None,
    refit: bool,
    seed: int | None,
    target: Path | None,
    colour: str | None,
    thumbnails: bool,
    side: int,
    grid: int | None,
    html: Path | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Make a map of all items, where there is none yet, and draw it.

    Items that are added later are placed on it.
    """
    import embedstore
    from embedstore.query import sheet

    if grid is not None and target is None:
        raise click.UsageError("say where to draw the grid: -o FILE")
    _check(target, html)
    written = [path for path in (target, html) if path is not None]
    with embedstore.open(store) as opened:
        found = opened.map(name, refit=refit, seed=seed, progress=bars(progress))
        if target is not None:
            if grid is not None:
                image = opened.draw_grid(grid, name=found.name)
            else:
                image = opened.draw_map(found.name, colour=colour, thumbnails=thumbnails, side=side)
            sheet.save(image, target)
        if html is not None:
            opened.write_map(html, found.name, colour=colour)
        live = len(opened)
    if as_json:
        output.emit(asdict(found))
    else:
        _print(found, live)
    for path in written:
        output.say(f"wrote {path}")


def _check(target: Path | None, html: Path | None) -> None:
    from embedstore.cli import pictures
    from embedstore.show import markup

    if target is not None and target.suffix.lower() in markup.SUFFIXES:
        raise InvalidArgument(f"-o draws a picture, and {target} is a page: give it to --html")
    if target is not None:
        pictures.check(target)
    if html is not None:
        markup.check(html)
        pictures.check_place(html)


def _print(found: Map, live: int) -> None:
    lines: list[tuple[str, Any]] = [("map", found.name), ("items", found.items)]
    if found.trustworthiness is not None and found.continuity is not None:
        lines += [("trustworthiness", found.trustworthiness), ("continuity", found.continuity)]
    lines.append(("made", f"{found.created}, at commit {found.commit}, in {found.seconds:.1f} s"))
    output.pairs(lines)
    note_changes(found, live)


@map_.command("list")
@store_argument
@json_option
@example("embedstore map list fashion.store")
def list_(store: Path, as_json: bool) -> None:
    """List the maps of STORE."""
    import embedstore

    with embedstore.open(store, read_only=True) as opened:
        found = existing(opened.maps)
    if as_json:
        output.emit([asdict(one) for one in found])
    elif found:
        rows = [
            [
                one.name + (" (default)" if one.is_default else ""),
                one.items,
                one.placed,
                one.trustworthiness,
                one.continuity,
                one.created,
            ]
            for one in found
        ]
        output.table(["name", "items", "placed since", "trustworthiness", "continuity", "made"], rows)
    else:
        output.say("there are no maps yet: `embedstore map STORE` makes one")


@map_.command()
@store_argument
@click.argument("name")
@json_option
@example("embedstore map remove fashion.store old")
def remove(store: Path, name: str, as_json: bool) -> None:
    """Forget a map."""
    import embedstore

    with embedstore.open(store) as opened:
        opened.remove_map(name)
    if as_json:
        output.emit({"removed": name})
    else:
        click.echo(f"removed {output.printable(name)}")


# A coordinate may be negative, which would else be read as an option.
@click.command(context_settings={"ignore_unknown_options": True})
@store_argument
@click.argument("x", type=float)
@click.argument("y", type=float)
@click.option("--map", "name", metavar="NAME", help="Which map; default: the one that was made last.")
@k_option
@where_option
@output_option("Write a contact sheet (.png), the decoded point first; or the latent (.npy).")
@json_option
@example("embedstore unmap fashion.store 0.5 -1.2 -k 5 -o there.png")
def unmap(
    store: Path,
    x: float,
    y: float,
    name: str | None,
    k: int,
    where: str | None,
    target: Path | None,
    as_json: bool,
) -> None:
    """Find what would be at a point of the map.

    The point is turned back into a latent, which is decoded and searched.
    """
    import embedstore
    from embedstore.cli import pictures as sheets
    from embedstore.cli.search import print_hits

    if target is not None:
        sheets.check(target, ".npy", count=k)
    with embedstore.open(store, read_only=True) as opened:
        latent = opened.unmap((x, y), name=name)
        hits = opened.search(latent, k, where)
        [support] = opened.support(latent)
        if target is not None:
            if target.suffix.lower() == ".npy":
                points.write_vectors(target, latent.vector[None])
            else:
                sheets.write(target, opened, [f"{x:g}, {y:g}"], [latent], [hits])  # type: ignore[list-item]
                points.note_without_decoder(opened, latent)
        if as_json:
            found = {"x": x, "y": y, "support": support, "vector": latent.vector}
            output.emit({**found, "hits": points.hits_json(hits)})  # type: ignore[arg-type]
        else:
            print_hits(hits)  # type: ignore[arg-type]
            click.echo(f"support {support:.3f}")
        away, nearest = _away(opened.places(name), x, y)
    if away > _AWAY:
        output.say(
            f"warning: no item lies near {x:g}, {y:g} on the map, the nearest at {nearest[0]:.3g}, {nearest[1]:.3g}: "
            "what is there was made up from what is nearest"
        )
    else:
        points.warn([support], [f"{x:g}, {y:g}"])
    if target is not None:
        output.say(f"wrote {target}")


def _away(places: np.ndarray[Any, Any], x: float, y: float) -> tuple[float, tuple[float, float]]:
    """How far the nearest item lies on the map, over the map's longer side, and where it does."""
    known = places[np.isfinite(places).all(axis=1)]
    if not len(known):
        return 0.0, (x, y)
    far = np.hypot(known[:, 0] - x, known[:, 1] - y)
    nearest = int(far.argmin())
    span = max(float(np.ptp(known, axis=0).max()), 1e-9)
    return float(far[nearest]) / span, (float(known[nearest, 0]), float(known[nearest, 1]))
