"""``embedstore cluster``: groups found without labels."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from embedstore.cli import output
from embedstore.cli.groups import Group
from embedstore.cli.options import bars, example, json_option, output_option, progress_option, store_argument
from embedstore.errors import InvalidArgument, UnknownSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedstore.explore.clusterings import Clustering
    from embedstore.explore.maps import Map
    from embedstore.explore.portraits import Portrait
    from embedstore.store import Store

_LOOKED_AT = 1_000  # items, of which one should have a picture where pictures are to be drawn
Made = TypeVar("Made")

clustering_option = click.option(
    "--clustering", "name", metavar="NAME", help="Which clustering; default: the one that was made or chosen last."
)
level_option = click.option("--level", type=int, metavar="N", help="Granularity, from 0, coarse to fine.")


@click.group(cls=Group)
def cluster() -> None:
    """Find groups without labels.

    Without another command behind it, STORE follows at once, and make is meant.
    """


@cluster.command()
@store_argument
@click.option("--k", "k", type=int, metavar="N", help="Number of clusters; without it, it is found.")
@click.option("--name", default="default", show_default=True, metavar="NAME", help="To store the clustering under.")
@click.option("--assign-noise", is_flag=True, help="Leave no item without a cluster.")
@click.option("--seed", type=int, metavar="N", help="Of everything random; default: the store's.")
@output_option("Draw the clusters, a row each (.png), or write a page (.html).")
@progress_option
@json_option
@example("embedstore cluster fashion.store -o clusters.png\nembedstore cluster fashion.store --k 10 --name ten")
def make(
    store: Path,
    k: int | None,
    name: str,
    assign_noise: bool,
    seed: int | None,
    target: Path | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Find clusters, and store them under a name.

    At several granularities. Items that are added later are placed into them.
    """
    import embedstore

    _check(target)
    with embedstore.open(store) as opened:
        _check_pictures(opened, target)
        made = opened.cluster(k, name=name, assign_noise=assign_noise, seed=seed, progress=bars(progress))
        portraits = opened.clusters(name)
        if as_json:
            output.emit({**_as_json(made), "found": [asdict(one) for one in portraits]})
        else:
            _table(portraits)
            click.echo()
            _print(made, len(opened))
            if len(opened.clusterings()) > 1:
                output.say(
                    f"note: cluster means {output.printable(name)} now; `embedstore cluster use` chooses another"
                )
        _write(opened, target, name, None)  # last: what was found is there, though it may have no pictures


@cluster.command()
@store_argument
@clustering_option
@level_option
@click.option("--exemplars", type=int, default=6, show_default=True, metavar="N", help="Items shown of each cluster.")
@click.option("--rim", type=int, default=3, show_default=True, metavar="N", help="Items shown that belong least.")
@output_option("Draw the clusters, a row each (.png), or write a page (.html).")
@json_option
@example("embedstore cluster show fashion.store --level 0 -o coarse.png")
def show(
    store: Path,
    name: str | None,
    level: int | None,
    exemplars: int,
    rim: int,
    target: Path | None,
    as_json: bool,
) -> None:
    """Show what is in each cluster.

    Size, compactness, the nearest other clusters, and which metadata sets it apart; its most central items, and those
    that belong least.
    """
    import embedstore

    _check(target)
    with embedstore.open(store, read_only=True) as opened:
        found = opened.clustering(name)
        portraits = opened.clusters(name, level=level, exemplars=exemplars, rim=rim)
        live = len(opened)
        _write(opened, target, name, level)
    if as_json:
        output.emit({**_as_json(found), "found": [asdict(one) for one in portraits]})
        return
    for one in portraits:
        _portrait(one)
        click.echo()
    _print(found, live)


@cluster.command("name")
@store_argument
@click.argument("which", metavar="N")
@click.argument("label", metavar="TEXT")
@clustering_option
@level_option
@json_option
@example('embedstore cluster name fashion.store 3 "ankle boots"')
def name_(store: Path, which: str, label: str, name: str | None, level: int | None, as_json: bool) -> None:
    """Name cluster N, so that filters can: cluster = 'ankle boots'.

    N is its number, or the name that it has. An empty TEXT takes the name away.
    """
    import embedstore

    with embedstore.open(store) as opened:
        number = opened.name_cluster(int(which) if _is_number(which) else which, label, name=name, level=level)
        found = opened.clustering(name)
    if as_json:
        output.emit(_as_json(found))
    elif label := label.strip():  # as the store keeps it
        click.echo(f"cluster {number} is named {output.printable(label)}")
    else:
        click.echo(f"cluster {number} has no name")


@cluster.command("list")
@store_argument
@json_option
@example("embedstore cluster list fashion.store")
def list_(store: Path, as_json: bool) -> None:
    """List the clusterings of STORE."""
    import embedstore

    with embedstore.open(store, read_only=True) as opened:
        found = existing(opened.clusterings)
    if as_json:
        output.emit([_as_json(one) for one in found])
    elif found:
        rows = [
            [
                one.name + (" (default)" if one.is_default else ""),
                one.clusters,
                ", ".join(str(level.clusters) for level in one.levels),
                one.level,
                one.items,
                one.noise,
                one.placed,
                one.created,
            ]
            for one in found
        ]
        output.table(["name", "clusters", "levels", "level used", "items", "in none", "placed since", "made"], rows)
    else:
        output.say("there are no clusterings yet: `embedstore cluster STORE` makes one")


@cluster.command()
@store_argument
@click.argument("name")
@level_option
@json_option
@example("embedstore cluster use fashion.store default --level 0")
def use(store: Path, name: str, level: int | None, as_json: bool) -> None:
    """Choose the clustering, and its level, that cluster means in filters."""
    import embedstore

    with embedstore.open(store) as opened:
        found = opened.use_clustering(name, level=level)
    if as_json:
        output.emit(_as_json(found))
    else:
        click.echo(f"cluster now means the {found.clusters} clusters of {output.printable(name)}")


@cluster.command()
@store_argument
@click.argument("name")
@json_option
@example("embedstore cluster remove fashion.store ten")
def remove(store: Path, name: str, as_json: bool) -> None:
    """Forget a clustering."""
    import embedstore

    with embedstore.open(store) as opened:
        opened.remove_clustering(name)
    if as_json:
        output.emit({"removed": name})
    else:
        click.echo(f"removed {output.printable(name)}")


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _check(target: Path | None) -> None:
    if target is not None:
        from embedstore.cli import pictures

        pictures.check(target, ".html")


def _check_pictures(store: Store, target: Path | None) -> None:
    """Refuse to draw items without pictures before minutes are spent on finding clusters of them."""
    if target is None or target.suffix.lower() == ".html" or not len(store):
        return
    if not any(image is not None for image in store.images(store.ids()[:_LOOKED_AT])):
        raise InvalidArgument("the items have no pictures: leave -o out, or name a page (.html)")


def _write(store: Store, target: Path | None, name: str | None, level: int | None) -> None:
    if target is None:
        return
    if target.suffix.lower() == ".html":
        store.write_clusters(target, name, level=level)
    else:
        from embedstore.query import sheet

        sheet.save(store.draw_clusters(name, level=level), target)
    output.say(f"wrote {target}")


def _table(portraits: Sequence[Portrait]) -> None:
    rows = [
        [_title(one), one.size, f"{one.share:.1%}", one.strength, one.compactness, _told(one, 2)] for one in portraits
    ]
    output.table(["cluster", "items", "share", "strength", "compactness", "set apart by"], rows, least=4)


def _title(one: Portrait) -> str:
    if one.number < 0:
        return "in none"
    return str(one.number) if one.name is None else f"{one.number} {one.name}"


def _told(one: Portrait, most: int) -> str:
    from embedstore.explore.portraits import telling

    return ", ".join(f"{trait.key} {trait.value} ({trait.share:.0%})" for trait in telling(one, most))


def _portrait(one: Portrait) -> None:
    lines: list[tuple[str, Any]] = [
        ("cluster", _title(one)),
        ("items", f"{one.size:,} ({one.share:.1%})"),
        ("strength", one.strength),
    ]
    if one.number >= 0:
        lines.append(("compactness", one.compactness))
        near = ", ".join(f"{number} at {distance:.2f}" for number, distance in one.nearest)
        lines.append(("nearest clusters", near or "none"))
        if one.parent is not None:
            lines.append(("part of", f"{one.parent[0]} of the coarser level ({one.parent[1]:.0%})"))
    for trait in one.traits:
        lift = f"{trait.lift:.1f} times as often as elsewhere" if trait.outside else "nowhere else"
        lines.append((f"{trait.key} {trait.value}", f"{trait.inside:,} here, {trait.outside:,} elsewhere: {lift}"))
    lines.append(("exemplars", ", ".join(one.exemplars)))
    if one.rim:
        lines.append(("at the rim", ", ".join(one.rim)))
    output.pairs(lines)


def _print(found: Clustering, live: int) -> None:
    chosen = found.levels[found.level]
    lines: list[tuple[str, Any]] = [
        ("clustering", found.name),
        ("clusters", f"{found.clusters}, of {output.count(found.items, 'item')}, {found.noise:,} in none"),
        ("stability", chosen.stability),
    ]
    for number, level in enumerate(found.levels):
        used = ", used" if number == found.level else ""
        named = f"; named: {', '.join(level.names.values())}" if level.names and number != found.level else ""
        told = f"{level.clusters} clusters, stability {level.stability:.2f}, gap {level.gap:.2f}{used}{named}"
        lines.append((f"level {number}", told))
    lines.append(("made", f"{found.created}, at commit {found.commit}, in {found.seconds:.1f} s"))
    output.pairs(lines)
    if not found.is_stable:
        output.say(
            f"note: these groups aren't stable (stability {chosen.stability:.2f}): such are found in items without any "
            "groups too, and other items like these would form others"
        )
    note_changes(found, live)


def note_changes(made: Clustering | Map, live: int) -> None:
    """Say how many items were placed and deleted since a run was made, and suggest another one where they are many."""
    from embedstore.show import since

    for note in since.notes(made, live):
        output.say(f"note: {note}")


def existing(found: Callable[[], list[Made]]) -> list[Made]:
    """The runs of a store, also where its items are gone; none where it never had any."""
    try:
        return found()
    except UnknownSpace:
        return []


def _as_json(found: Clustering) -> dict[str, Any]:
    return {**asdict(found), "clusters": found.clusters}
