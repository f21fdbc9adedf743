"""``embedstore sample``: new items."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from embedstore.cli import output, points
from embedstore.cli.options import (
    bars,
    example,
    file_type,
    json_option,
    output_option,
    progress_option,
    store_argument,
    where_option,
)
from embedstore.truth.pictures import to_picture

if TYPE_CHECKING:
    from embedstore.compute.samples import Samples
    from embedstore.store import Store

_SHOWN = 20  # in the table, on a terminal
_IN_A_ROW = 8  # on the sheet


@click.command()
@store_argument
@click.argument("count", metavar="N", type=int)
@where_option
@click.option("--near", metavar="POINT", help="Only about this: an id, or = and an expression.")
@click.option(
    "--spread", type=float, default=1.0, show_default=True, metavar="S", help="Factor of the distance to real items."
)
@click.option("--seed", type=int, metavar="N", help="Other samples for another number; default: the store's.")
@output_option("A sheet (.png): each sample beside the real item nearest to it; or the latents (.npy).")
@click.option(
    "--save-as-dataset", "dataset", type=file_type, metavar="DIR", help="Write a folder of pictures that index reads."
)
@progress_option
@json_option
@example(
    "embedstore sample fashion.store 12 --where \"label = 'Bag'\" -o bags.png\n"
    "embedstore sample fashion.store 1000 --save-as-dataset sampled/"
)
def sample(
    store: Path,
    count: int,
    where: str | None,
    near: str | None,
    spread: float,
    seed: int | None,
    target: Path | None,
    dataset: Path | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Make N new items like those of STORE.

    Each is listed with the real item nearest to it, and how far that is where 1 is usual between real items: a sample
    much nearer is a copy, one much farther a blend.
    """
    import embedstore
    from embedstore.cli import pictures
    from embedstore.compute import samples

    if target is not None:
        pictures.check(target, ".npy", count=2 * count)
    if dataset is not None:
        samples.check_folder(dataset)
    with embedstore.open(store, read_only=True) as opened:
        place = None if near is None else points.corner(opened, near)
        found = opened.sample(count, where, near=place, spread=spread, seed=seed, progress=bars(progress))
        support = found.support
        relative = found.distances / (found.usual or 1.0)
        if dataset is not None:
            found.save_as_dataset(dataset, progress=bars(progress))
        if target is not None and target.suffix.lower() == ".npy":
            points.write_vectors(target, found.latents)
        elif target is not None:
            _draw(opened, found, support, target)
    rows = list(zip(found.nearest, relative.tolist(), found.copies.tolist(), support.tolist(), strict=True))
    if as_json:
        output.emit(
            {
                "usual_distance": found.usual,
                "copy_below": found.closest,
                "copies": int(found.copies.sum()),
                "samples": [
                    {"nearest": name, "distance": distance, "copy": copied, "support": value, "vector": vector}
                    for (name, _, copied, value), distance, vector in zip(
                        rows, found.distances, found.latents, strict=True
                    )
                ],
            }
        )
    else:
        most = len(rows) if output.terminal_width() is None else _SHOWN
        shown = [
            [number, name, distance, "a copy" if copied else "", value]
            for number, (name, distance, copied, value) in enumerate(rows[:most], start=1)
        ]
        output.table(["sample", "nearest item", "distance, 1 is usual", "", "support"], shown)
        if len(rows) > most:
            click.echo(f"... and {len(rows) - most:,} more")
        click.echo(
            f"{len(rows):,} samples, {int(found.copies.sum()):,} of them copies; "
            f"median distance {np.median(relative):.2f} of the usual"
        )
    points.warn(support, [f"sample {number}" for number in range(1, len(support) + 1)])
    for written in (target, dataset):
        if written is not None:
            output.say(f"wrote {written}")


def _draw(store: Store, found: Samples, support: np.ndarray[Any, Any], target: Path) -> None:
    """Samples in rows, and below each row the real items nearest to them."""
    from embedstore.query import sheet

    relative = found.distances / (found.usual or 1.0)
    new = [to_picture(image) for image in found.images()]
    real = [to_picture(image) for image in store.images(found.nearest)]
    rows = []
    for start in range(0, len(found), _IN_A_ROW):
        part = range(start, min(start + _IN_A_ROW, len(found)))
        said = [f"support {support[i]:.2f}" for i in part]
        near = [f"distance {relative[i]:.2f}{', a copy' if found.copies[i] else ''}\n{found.nearest[i]}" for i in part]
        rows.append(sheet.Row([new[i] for i in part], said, title="sampled", first=start + 1))
        title = "the real item nearest to each (1 is usual)"
        rows.append(sheet.Row([real[i] for i in part], near, title=title, first=start + 1))
    sheet.save(sheet.strips(rows), target)
