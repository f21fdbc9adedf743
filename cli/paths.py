"""``embedstore edit`` and ``interpolate``: ways through the latent space."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from embedstore.cli import output, points
from embedstore.cli.options import (
    bars,
    example,
    json_option,
    k_option,
    output_option,
    progress_option,
    store_argument,
    where_option,
)
from embedstore.errors import InvalidArgument
from embedstore.latent.paths import METHODS
from embedstore.truth.pictures import to_picture

if TYPE_CHECKING:
    from embedstore.compute.interpolation import LatentPath
    from embedstore.store import Store

_FRAMES = 12  # of a film, for each part of the way


@click.command()
@store_argument
@click.argument("wanted", metavar="POINT...", nargs=-1, required=True)
@click.option(
    "--edit",
    "chain",
    multiple=True,
    required=True,
    metavar="NAME=STRENGTH",
    help="A direction and how far, 1 if not said, which reaches a typical member of its target. May be repeated.",
)
@k_option
@where_option
@output_option("A sheet (.png) with each step of the chain, a film (.gif) through it, or the latents (.npy).")
@json_option
@example(
    "embedstore edit fashion.store test/00008 --edit boot-ness=1 -o boot.png\n"
    "embedstore edit fashion.store test/00008 --edit boot-ness=1 --edit first=-0.5 -o boot.gif"
)
def edit(
    store: Path,
    wanted: tuple[str, ...],
    chain: tuple[str, ...],
    k: int,
    where: str | None,
    target: Path | None,
    as_json: bool,
) -> None:
    """Change items along directions, each by as much as it needs.

    A POINT is an id, or = and an expression. The nearest items to each result are listed.
    """
    import embedstore
    from embedstore.cli.search import print_hits

    if target is not None:
        from embedstore.cli import pictures

        pictures.check(target, ".gif", ".npy", count=len(wanted) * 4 * len(chain))
        if target.suffix.lower() == ".gif" and len(wanted) > 1:
            raise InvalidArgument("a film shows one point: name one, or write a sheet (.png)")
    edits = [_strength(text) for text in chain]
    with embedstore.open(store, read_only=True) as opened:
        latents = np.stack([points.point(opened, text).vector for text in wanted])
        edited = opened.edit(latents, edits)
        support = opened.support(edited)
        answers: Any = opened.search(list(edited), k, where)
        if target is not None:
            _draw_edits(opened, wanted, latents, edits, target)
        if as_json:
            output.emit(
                [
                    {"of": name, "support": value, "moved": moved, "vector": vector, "hits": points.hits_json(hits)}
                    for name, value, moved, vector, hits in zip(
                        wanted, support, np.linalg.norm(edited - latents, axis=1), edited, answers, strict=True
                    )
                ]
            )
        else:
            for index, (name, hits, value) in enumerate(zip(wanted, answers, support, strict=True)):
                if len(wanted) > 1:
                    click.echo(("\n" if index else "") + output.printable(name))
                print_hits(hits)
                click.echo(f"support {value:.3f}")
    points.warn(support, [f"the edited {name}" for name in wanted])
    if target is not None:
        output.say(f"wrote {target}")


def _strength(text: str) -> tuple[str, float]:
    name, equals, number = text.rpartition("=")
    try:
        return name if equals else text, float(number) if equals else 1.0
    except ValueError:
        raise click.BadParameter(f"{text!r} is not of the form NAME=STRENGTH", param_hint="--edit") from None


def _draw_edits(
    store: Store, names: tuple[str, ...], latents: np.ndarray[Any, Any], edits: list[tuple[str, float]], target: Path
) -> None:
    from embedstore.query import film, sheet

    kind = target.suffix.lower()
    if kind == ".npy":
        points.write_vectors(target, store.edit(latents, edits))
        return
    if kind == ".gif":
        film.save(store.film(latents[0], edits, _FRAMES).images(), target)
        return
    rows = []
    for name, latent in zip(names, latents, strict=True):
        path = store.film(latent, edits, 4 if len(edits) == 1 else 3)
        images = [to_picture(image) for image in path.images()]
        each = (len(path) - 1) // len(edits)
        captions = []
        for place, value in enumerate(path.support):
            label = "reconstructed"
            if place:
                at, part = divmod(place - 1, each)
                label = f"{edits[at][0]} {edits[at][1] * (part + 1) / each:+.3g}"
            captions.append(f"{label}\nsupport {value:.2f}")
        own = None if name.startswith("=") else store.images([name])[0]
        rows.append(sheet.Row(images, captions, to_picture(own), f"{name}\nthe item"))
    sheet.save(sheet.rows(rows), target)


@click.command()
@store_argument
@click.argument("wanted", metavar="POINT...", nargs=-1, required=True)
@click.option("--steps", type=int, default=8, show_default=True, metavar="N", help="Number of stops, both ends too.")
@click.option(
    "--method",
    metavar="NAME",
    help="linear, spherical, density (the default), graph or geodesic.",
)
@click.option("--compare", is_flag=True, help="Go by every method, and compare them.")
@click.option("--grid", is_flag=True, help="Fill the square between four POINTs: N by N stops.")
@output_option("A sheet (.png), a film (.gif), or the latents (.npy).")
@progress_option
@json_option
@example(
    "embedstore interpolate fashion.store test/00008 test/00000 -o way.png\n"
    "embedstore interpolate fashion.store test/00008 test/00000 --compare -o ways.png"
)
def interpolate(
    store: Path,
    wanted: tuple[str, ...],
    steps: int,
    method: str | None,
    compare: bool,
    grid: bool,
    target: Path | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Go from one point to another, by several methods.

    A POINT is an id, or = and an expression. Two or more are joined one after another.
    """
    import embedstore

    if compare and grid:
        raise click.UsageError("--compare and --grid don't go together")
    if method is not None and (compare or grid):
        raise click.UsageError("--compare goes by every method, and --grid between straight lines: leave --method out")
    if len(wanted) < 2:
        raise click.UsageError("a path leads between at least two POINTs")
    if target is not None:
        from embedstore.cli import pictures

        count = steps * len(METHODS) if compare else steps**2 if grid else steps
        pictures.check(target, *(() if compare else (".gif", ".npy")), count=count)
    with embedstore.open(store, read_only=True) as opened:
        corners = [points.corner(opened, text) for text in wanted]
        if compare:
            found = opened.compare_paths(*corners, steps=steps, progress=bars(progress))
            _compared(opened, found, target, as_json)
            return
        if grid:
            path = opened.grid(corners, steps, steps)
        else:
            path = opened.interpolate(*corners, steps=steps, method=method or "density", progress=bars(progress))
        if target is not None:
            _draw_path(opened, path, steps if grid else None, target)
        _report(path, opened, as_json)
    if target is not None:
        output.say(f"wrote {target}")


def _report(path: LatentPath, store: Any, as_json: bool) -> None:
    support = path.support
    near = [hits[0].id for hits in store.search(list(path.latents), 1)]
    numbers = range(1, len(path) + 1)  # as on the sheet
    if as_json:
        stops = [
            {"support": value, "nearest": name, "vector": vector}
            for value, name, vector in zip(support, near, path.latents, strict=True)
        ]
        measures = {} if path.method == "grid" else {"measures": asdict(path.measures())}
        output.emit({"method": path.method, "ids": path.ids, **measures, "stops": stops})
    else:
        output.table(["stop", "nearest item", "support"], zip(numbers, near, support.tolist(), strict=True))
    points.warn(support, [f"stop {number}" for number in numbers])


def _draw_path(store: Store, path: LatentPath, columns: int | None, target: Path) -> None:
    from embedstore.query import film, sheet

    if target.suffix.lower() == ".npy":
        points.write_vectors(target, path.latents)
        return
    if target.suffix.lower() == ".gif":
        film.save(path.images(), target)
        return
    # A stop that is an item is shown as itself, not as what the decoder makes of it.
    images = path.images() if path.ids is None else store.images(path.ids)
    pictures = [to_picture(image) for image in images]
    labels = path.ids or [""] * len(path)
    captions = [
        f"{name}\nsupport {value:.2f}" if name else f"support {value:.2f}"
        for name, value in zip(labels, path.support, strict=True)
    ]
    sheet.save(sheet.sheet(pictures, captions, columns=columns or min(len(path), 12)), target)


def _compared(store: Store, found: dict[str, LatentPath], target: Path | None, as_json: bool) -> None:
    measures = {method: path.measures() for method, path in found.items()}
    if target is not None:
        from embedstore.query import sheet

        rows = []
        for method, path in found.items():
            captions = [f"support {value:.2f}" for value in path.support]
            images = path.images() if path.ids is None else store.images(path.ids)
            pictures = [to_picture(image) for image in images]
            title = method if path.ids is None else f"{method}: the items' own pictures"
            rows.append(sheet.Row(pictures, captions, title=title))
        sheet.save(sheet.strips(rows), target)
    left_out = [method for method in METHODS if method not in found]
    if as_json:
        listed = {method: {**asdict(one), "good_for": METHODS[method]} for method, one in measures.items()}
        output.emit({"methods": listed, "left_out": left_out})
    else:
        heads = ["method", "latent length", "picture length", "largest step", "unevenness", "worst distance"]
        output.table(
            heads,
            [
                [method, one.latent_length, one.picture_length, one.largest_step, one.unevenness, one.worst_distance]
                for method, one in measures.items()
            ],
        )
        click.echo()
        for method in found:
            click.echo(f"{method}: {METHODS[method]}")
    if left_out:
        output.say(f"note: left out, for they can't join these points here: {', '.join(left_out)}")
    if target is not None:
        output.say(f"wrote {target}")
