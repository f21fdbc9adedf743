"""``embedstore direction``: named differences of latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from embedstore.cli import output
from embedstore.cli.options import example, json_option, output_option, store_argument
from embedstore.truth.pictures import to_picture

if TYPE_CHECKING:
    from embedstore.compute.directions import Direction
    from embedstore.store import Store

_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)  # backwards, an item of the side that it leads from has nowhere to go
_DEVIATIONS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # of a principal direction
_SHOWN = 3  # items that a direction's effect is drawn on


@click.group()
def direction() -> None:
    """Make, list, show and remove directions ("attribute vectors")."""


@direction.command()
@store_argument
@click.argument("name")
@click.option("--positive", metavar="FILTER", help="The items that it leads to (of principal: the items taken).")
@click.option("--negative", metavar="FILTER", help="The items that it leads from; default: all others.")
@click.option("--to-cluster", metavar="CLUSTER", help="In place of --positive: a cluster's number or name.")
@click.option("--from-cluster", metavar="CLUSTER", help="In place of --negative: a cluster's number or name.")
@click.option("--to-box", metavar="X,Y,X,Y", help="In place of --positive: two opposite corners on the map.")
@click.option("--from-box", metavar="X,Y,X,Y", help="In place of --negative: two opposite corners on the map.")
@click.option(
    "--method",
    default="difference",
    show_default=True,
    metavar="NAME",
    help="difference of means, balanced over metadata, a classifier's normal, or principal.",
)
@click.option("--balance", multiple=True, metavar="KEY", help="Metadata that counts the same on both sides.")
@click.option("--keep", multiple=True, metavar="NAME", help="A direction that this one leaves alone.")
@click.option("--component", type=int, default=1, show_default=True, metavar="N", help="Which principal direction.")
@json_option
@example(
    "embedstore direction make fashion.store boot-ness --positive \"label = 'Ankle boot'\" "
    "--negative \"label = 'Sandal'\"\n"
    "embedstore direction make fashion.store 3-to-8 --from-cluster 3 --to-cluster 8\n"
    "embedstore direction make fashion.store first --method principal --component 1"
)
def make(
    store: Path,
    name: str,
    to_cluster: str | None,
    from_cluster: str | None,
    to_box: str | None,
    from_box: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Make a direction and store it under NAME.

    One of the same name is replaced.
    """
    from embedstore.errors import InvalidArgument

    _only_one("--positive", settings["positive"], "--to-cluster", to_cluster, "--to-box", to_box)
    _only_one("--negative", settings["negative"], "--from-cluster", from_cluster, "--from-box", from_box)
    if settings["method"] != "principal" and (settings["positive"], to_cluster, to_box) == (None, None, None):
        raise InvalidArgument(
            "name the items that the direction leads to: --positive FILTER, --to-cluster or --to-box is missing"
        )
    import embedstore

    with embedstore.open(store) as opened:
        for side, cluster, box in (("positive", to_cluster, to_box), ("negative", from_cluster, from_box)):
            if cluster is not None:
                settings[side] = _of_cluster(opened, cluster)
            elif box is not None:
                settings[side] = _of_box(opened, box)
        replaced = name in [one.name for one in opened.directions()] if len(opened) else False
        made = opened.direction(name, **settings)
    if as_json:
        output.emit(_as_json(made))
    else:
        _print(made)
    if replaced:
        output.say(f"note: this replaces the direction {name!r} that there was")


def _only_one(*given: str | None) -> None:
    """Refuse two ways to name one side."""
    options = [str(option) for option, value in zip(given[::2], given[1::2], strict=True) if value is not None]
    if len(options) > 1:
        raise click.UsageError(f"{' and '.join(options)} name the same side: give one of them")


def _of_cluster(store: Store, cluster: str) -> str:
    """The filter for a cluster; it names the clustering, so that it means the same when another is chosen."""
    from embedstore.filters import Field, literal

    field = Field(("cluster", store.clustering().name), built_in=True)
    return f"{field} = {literal(int(cluster) if cluster.isdecimal() else cluster)}"


def _of_box(store: Store, text: str) -> str:
    """The filter for a rectangle of the map."""
    from embedstore.errors import UnknownRun
    from embedstore.filters import Field

    try:
        corners = [float(part) for part in text.split(",")]
    except ValueError:
        corners = []
    if len(corners) != 4 or not np.isfinite(corners).all():
        raise click.BadParameter(f"{text!r} is no box such as -1,0.5,0.25,2", param_hint="box")
    x0, y0, x1, y1 = corners
    found = [one.name for one in store.maps() if one.is_default]
    if not found:
        raise UnknownRun("there is no map yet to draw a box on: `embedstore map STORE` makes one")
    x, y = (str(Field(("map", found[0], axis), built_in=True)) for axis in "xy")
    return f"{x} between {min(x0, x1)!r} and {max(x0, x1)!r} and {y} between {min(y0, y1)!r} and {max(y0, y1)!r}"


@direction.command("list")
@store_argument
@json_option
@example("embedstore direction list fashion.store")
def list_(store: Path, as_json: bool) -> None:
    """List the directions of STORE."""
    import embedstore

    with embedstore.open(store, read_only=True) as opened:
        found = opened.directions()
    if as_json:
        output.emit([_as_json(one) for one in found])
    elif found:
        rows = [
            [one.name, one.method, one.positive, one.negative, *one.counts, one.auc, one.latent.norm()] for one in found
        ]
        output.table(["name", "method", "to", "from", "to, items", "from, items", "AUC", "length"], rows)
    else:
        output.say("there are no directions yet: `embedstore direction make` makes one")


@direction.command()
@store_argument
@click.argument("name")
@click.option("--id", "ids", multiple=True, metavar="ID", help="Draw the effect on this item; may be repeated.")
@click.option(
    "--strengths",
    metavar="LIST",
    help="Strengths to draw, with commas; default: 0 to 1, of a principal direction -2 to 2.",
)
@output_option("Draw its effect, a row an item.")
@json_option
@example("embedstore direction show fashion.store boot-ness -o boot-ness.png")
def show(
    store: Path, name: str, ids: tuple[str, ...], strengths: str | None, target: Path | None, as_json: bool
) -> None:
    """Show how a direction was made, and draw what it does."""
    import embedstore

    chosen = None if strengths is None else _numbers(strengths)
    if target is not None:
        from embedstore.cli import pictures

        pictures.check(target)
    with embedstore.open(store, read_only=True) as opened:
        found = opened.direction(name)
        if target is not None:
            usual = _DEVIATIONS if found.method == "principal" else _STRENGTHS
            _draw(opened, found, list(ids) or _examples(opened, found), chosen or usual, target)
    if as_json:
        output.emit(_as_json(found))
    else:
        _print(found)
    if target is not None:
        output.say(f"wrote {target}")


@direction.command()
@store_argument
@click.argument("name")
@json_option
@example("embedstore direction remove fashion.store boot-ness")
def remove(store: Path, name: str, as_json: bool) -> None:
    """Forget a direction."""
    import embedstore

    with embedstore.open(store) as opened:
        opened.remove_direction(name)
    if as_json:
        output.emit({"removed": name})
    else:
        click.echo(f"removed {output.printable(name)}")


def _numbers(text: str) -> list[float]:
    from embedstore.compute import edits

    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers such as -1,0,1", param_hint="--strengths") from None
    return [strength for _, strength in edits.checked([("--strengths", one) for one in found])]


def _examples(store: Store, found: Direction) -> list[str]:
    """Items to draw on: the most central one of the side that it leads from, and some others."""
    where = found.negative or (f"not ({found.positive})" if found.positive and found.method != "principal" else None)
    every = store.ids(where)
    if not every:
        every = store.ids()
    picks = np.random.default_rng(0).choice(len(every), min(_SHOWN, len(every)), replace=False)
    return [every[pick] for pick in np.sort(picks)]


def _draw(store: Store, found: Direction, ids: list[str], strengths: Sequence[float], target: Path) -> None:
    from embedstore.query import sheet

    rows = []
    for name in ids:
        latents = np.stack([store.edit(name, {found.name: strength}).vector for strength in strengths])
        images = [to_picture(image) for image in store.decode(latents)]
        captions = [
            f"{strength:+g}\nsupport {value:.2f}"
            for strength, value in zip(strengths, store.support(latents), strict=True)
        ]
        [own] = store.images([name])
        rows.append(sheet.Row(images, captions, to_picture(own), f"{name}\nthe item"))
    sheet.save(sheet.rows(rows, title=found.name), target)


def _as_json(found: Direction) -> dict[str, Any]:
    made = {key: value for key, value in asdict(found).items() if key not in ("latent", "reach", "kept")}
    return {**made, "length": found.latent.norm(), "vector": found.vector}


def _print(found: Direction) -> None:
    positive, negative = found.counts
    lines: list[tuple[str, Any]] = [("name", found.name), ("method", found.method)]
    if found.method == "principal":
        lines.append(("of", f"{found.positive or 'all items'} ({output.count(positive, 'item')})"))
        lines.append(("variance explained", f"{100 * (found.explained or 0):.1f} %"))
    else:
        lines.append(("to", f"{found.positive} ({output.count(positive, 'item')})"))
        lines.append(("from", f"{found.negative or 'all others'} ({output.count(negative, 'item')})"))
        lines.append(("AUC on held-out items", "too few items" if found.auc is None else f"{found.auc:.4f}"))
    listed = (("balanced over", found.balance), ("keeps", found.keep))
    lines += [(key, ", ".join(value)) for key, value in listed if value]
    lines += [("length", found.latent.norm()), ("made", f"{found.created}, at commit {found.commit}")]
    output.pairs(lines)
