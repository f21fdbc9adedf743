"""``embedstore duplicates``, ``outliers`` and ``mislabeled``: items that deserve a second look."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedstore.cli import output
from embedstore.cli.options import (
    bars,
    example,
    json_option,
    output_option,
    progress_option,
    store_argument,
    where_option,
)

if TYPE_CHECKING:
    from embedstore.explore.duplicates import Duplicates, Group
    from embedstore.explore.mislabels import Mislabels
    from embedstore.store import Store

_DRAWN = 40  # groups on the sheet, where the table has no more
_IN_A_ROW = 8  # items of a group, on the sheet
_TILES = (96, 144)  # px, on that sheet: as the ids need it

limit_option = click.option(
    "--limit", type=int, default=20, show_default=True, metavar="N", help="Number of items to name."
)


@click.command()
@store_argument
@where_option
@click.option(
    "--distance",
    type=float,
    metavar="D",
    help="Largest distance of near duplicates to their group's centre; without it, it is learnt.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help=f"Number of groups to list, and to draw where it is above {_DRAWN}.",
)
@click.option(
    "--delete", "delete_", is_flag=True, help="Keep one item of each group and delete the others, once asked."
)
@click.option("--yes", is_flag=True, help="Don't ask. Needed with --delete where there is no terminal to ask on.")
@output_option(f"Draw the first {_DRAWN} groups, or N, the item to keep first in each (.png).")
@progress_option
@json_option
@example("embedstore duplicates fashion.store -o duplicates.png\nembedstore duplicates fashion.store --delete --yes")
def duplicates(
    store: Path,
    where: str | None,
    distance: float | None,
    limit: int,
    delete_: bool,
    yes: bool,
    target: Path | None,
    progress: bool | None,
    as_json: bool,
) -> int:
    """Find items of which one is enough.

    Those of equal content, and those that are the same but for a slight change. Of each group the item to keep comes
    first: of the largest original, then with the most metadata, then the oldest.
    """
    import embedstore

    if target is not None:
        from embedstore.cli import pictures

        pictures.check(target, count=limit)
    if delete_ and not yes and not sys.stdin.isatty():
        raise click.UsageError("items would be deleted, and there is no terminal to ask on: give --yes")
    with embedstore.open(store, read_only=not delete_) as opened:
        found = opened.duplicates(distance=distance, where=where, progress=bars(progress))
        if target is not None and found.groups:
            _draw(opened, found.groups[: max(limit, _DRAWN)], target)
        if target is not None:
            _say_written(target, len(found.groups), "groups")
        if not as_json:
            _print(found, limit)
        deleted = 0
        wanted = delete_ and bool(found.surplus)
        agreed = wanted and (yes or _agreed(opened, found))
        if agreed:
            deleted = opened.delete_duplicates(found)
            if deleted < len(found.surplus):
                output.say(
                    f"note: {len(found.surplus) - deleted:,} were left alone: they, or what was to be kept instead, "
                    "were changed meanwhile"
                )
            if not as_json:
                click.echo(f"{deleted:,} deleted; {output.printable(store)} holds {output.count(len(opened), 'item')}")
    if as_json:
        told = asdict(found)
        for group in told["groups"]:
            del group["rows"]
        output.emit({**told, "surplus": found.surplus, "deleted": deleted})
    return output.FAILED if wanted and not agreed else 0


def _agreed(store: Store, found: Duplicates) -> bool:
    count = len(found.surplus)
    if click.confirm(f"delete {count:,} of {output.count(len(store), 'item')}, and keep one of each group?", err=True):
        return True
    output.say("nothing was deleted")
    return False


def _print(found: Duplicates, limit: int) -> None:
    if found.groups:
        _list(found.groups[:limit])
        if len(found.groups) > limit:
            output.say(f"... and {len(found.groups) - limit:,} more groups: --limit shows more, --json lists all")
        click.echo()
    exact = sum(group.kind == "exact" for group in found.groups)
    click.echo(
        f"{output.count(len(found.groups), 'group')} among {output.count(found.items, 'item')} "
        f"({exact:,} of equal content); "
        f"{output.count(len(found.surplus), 'item')} could go"
    )
    click.echo(output.printable(found.evidence.said))


def _list(groups: Sequence[Group]) -> None:
    heads = ["kind", "items", "keep", "others", "largest difference", "largest distance"]
    rows: list[list[Any]] = [
        [
            group.kind,
            len(group.ids),
            group.ids[0],
            ", ".join(group.ids[1:]),
            None if group.differences is None else max(group.differences, default=0.0),
            max(group.distances, default=0.0),
        ]
        for group in groups
    ]
    if all(group.differences is None for group in groups):  # no pictures were compared
        del heads[4]
        for row in rows:
            del row[4]
    output.table(heads, rows, least=3)


def _draw(store: Store, groups: Sequence[Group], target: Path) -> None:
    from embedstore.query import sheet
    from embedstore.truth.pictures import to_picture

    rows = []
    for group in groups:
        shown = group.ids[: _IN_A_ROW + 1]
        first, *others = (to_picture(image) for image in store.images(shown))
        captions = [f"{name}\n{_how(group, far)}" for name, far in zip(shown[1:], group.distances[1:], strict=False)]
        rows.append(sheet.Row(others, captions, first, f"{shown[0]}\nkeep"))
    names = [name for group in groups for name in group.ids[: _IN_A_ROW + 1]]
    sheet.save(sheet.blocks(rows, tile=_tile(names)), target)


def _tile(names: Sequence[str]) -> int:
    """A side that has room for every id and its number, unless one is too long."""
    from embedstore.query import sheet

    wanted = max(sheet.width_of(f"8  {name}", sheet.TEXT) for name in names)
    return min(max(math.ceil(wanted), _TILES[0]), _TILES[1])


def _how(group: Group, far: float) -> str:
    return "equal" if group.kind == "exact" else f"distance {far:.3g}"


@click.command()
@store_argument
@limit_option
@where_option
@output_option("Draw them (.png).")
@progress_option
@json_option
@example("embedstore outliers fashion.store --limit 40 -o outliers.png")
def outliers(
    store: Path, limit: int, where: str | None, target: Path | None, progress: bool | None, as_json: bool
) -> None:
    """Find the items least like the others, and say why.

    Far from all, between clusters, or badly reconstructed by the encoder.
    """
    import embedstore

    if target is not None:
        from embedstore.cli import pictures

        pictures.check(target, count=limit)
    with embedstore.open(store, read_only=True) as opened:
        found = opened.outliers(limit, where=where, progress=bars(progress))
        if target is not None and found.found:
            captions = [
                f"{one.id}\n" + "\n".join(reason.kind for reason in one.reasons) if one.reasons else one.id
                for one in found.found
            ]
            _sheet(opened, [one.id for one in found.found], captions, target)
    if as_json:
        output.emit({"measured": found.measured, "items": len(found.scores), "found": [asdict(o) for o in found.found]})
    else:
        rows = [[one.id, one.score, "; ".join(map(str, one.reasons)) or "nothing unusual"] for one in found.found]
        output.table(["id", "score", "unusual"], rows, least=3)
        click.echo(f"{output.count(len(found.scores), 'item')} scored by: {', '.join(found.measured)}")
    if target is not None:
        _say_written(target, len(found.found), "items")


@click.command()
@store_argument
@click.argument("key")
@limit_option
@where_option
@output_option("Draw them (.png).")
@progress_option
@json_option
@example("embedstore mislabeled fashion.store label --limit 40 -o suspicious.png")
def mislabeled(
    store: Path,
    key: str,
    limit: int,
    where: str | None,
    target: Path | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Find items whose metadata KEY is probably wrong.

    Those that disagree with the items around them, by confident learning: the most suspicious first, each with the
    value that it should probably have.
    """
    import embedstore

    if target is not None:
        from embedstore.cli import pictures

        pictures.check(target, count=limit)
    with embedstore.open(store, read_only=True) as opened:
        found = opened.mislabeled(key, limit, where=where, progress=bars(progress))
        if target is not None and found.found:
            captions = [f"{one.given}\nor {one.suggested}?\n{one.id}" for one in found.found]
            _sheet(opened, [one.id for one in found.found], captions, target)
    if as_json:
        told: dict[str, Any] = asdict(found)
        told = {name: value for name, value in told.items() if name not in ("positions", "scores")}
        output.emit({**told, "is_known": found.is_known})
    else:
        rows = [[one.id, one.given, one.suggested, one.probability, one.confidence] for one in found.found]
        output.table(["id", key, "suggested", "probability", "of its own"], rows, least=3)
        click.echo(
            f"{output.count(found.items, 'item')} compared, {found.accuracy:.1%} of them as "
            "their neighbourhood has it; " + _told(found)
        )
        if found.unlabelled:
            output.say(f"note: {output.count(found.unlabelled, 'item')} without {key} not compared")
        if found.left_out:
            left = ", ".join(f"{value} ({count:,})" for value, count in list(found.left_out.items())[:10])
            output.say(f"note: too few items to compare have {left}")
    if target is not None:
        _say_written(target, len(found.found), "items")


def _told(found: Mislabels) -> str:
    if found.is_known:
        return f"about {found.wrong:,} may be wrong, or fewer where values overlap"
    return (
        f"always saying the most frequent value would be right for {found.guessed:.1%}, so that the items around one "
        "know too little of it for anything to be said of single items"
    )


def _sheet(store: Store, ids: Sequence[str], captions: Sequence[str], target: Path) -> None:
    from embedstore.query import sheet
    from embedstore.truth.pictures import to_picture

    images = [to_picture(image) for image in store.images(ids)]
    sheet.save(sheet.sheet(images, captions), target)


def _say_written(target: Path, count: int, what: str) -> None:
    output.say(f"wrote {target}" if count else f"there are no {what} to draw: {target} was not written")
