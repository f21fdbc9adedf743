"""``embedstore export``."""

from __future__ import annotations

from pathlib import Path

import click

from embedstore.cli import output
from embedstore.cli.options import bars, example, json_option, progress_option, store_argument, where_option


@click.command()
@store_argument
@click.argument("target", metavar="FILE|DIR", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    metavar="NAME",
    help="jsonl, csv, parquet, npz, or dataset (a folder of pictures with "
    "a Parquet table); by default what the name of FILE says.",
)
@where_option
@click.option("--no-vectors", is_flag=True, help="Leave the latents out.")
@progress_option
@json_option
@example(
    "embedstore export fashion.store bags.parquet --where \"label = 'Bag'\"\n"
    "embedstore export fashion.store fashion-pictures/ --format dataset"
)
def export(
    store: Path,
    target: Path,
    form: str | None,
    where: str | None,
    no_vectors: bool,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Write items of STORE to a file or folder.

    Others of the field open it: pandas, DuckDB, Hugging Face datasets, NumPy.
    """
    import embedstore

    with embedstore.open(store, read_only=True) as opened:
        done = opened.export(target, format=form, where=where, vectors=not no_vectors, progress=bars(progress))
    if as_json:
        output.emit({"path": target, "format": done.format, "items": done.count, "left_out": done.left_out})
        return
    if done.left_out:
        output.say(f"note: {len(done.left_out):,} items have no picture and are left out (--json lists them)")
    click.echo(f"{output.count(done.count, 'item')} written to {output.printable(target)}")
