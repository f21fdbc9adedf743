"""``embedstore report``: one page on a data set."""

from __future__ import annotations

import os
from pathlib import Path

import click

from embedstore.cli import output
from embedstore.cli.options import bars, example, json_option, output_option, progress_option, store_argument


@click.command()
@store_argument
@output_option("Write the page to this file (.html).", required=True)
@click.option("--key", metavar="KEY", help="Metadata key with the class labels (default: each with 2 to 100 values).")
@progress_option
@json_option
@example("embedstore report fashion.store -o fashion.html\nembedstore report fashion.store -o fashion.html --key label")
def report(store: Path, target: Path, key: str | None, progress: bool | None, as_json: bool) -> None:
    """Write one self-contained page on STORE.

    What is in it, the map, the clusters, duplicates, outliers, suspicious labels, and how good the encoder is. A
    clustering and a map are made where there is none yet.
    """
    import embedstore
    from embedstore.show import report as reports

    with embedstore.open(store, read_only=not os.access(store, os.W_OK)) as opened:
        made = reports.report(opened, target, key=key, progress=bars(progress))
    if as_json:
        output.emit({"path": made.path, "bytes": made.bytes, "sections": made.made, "left_out": made.left_out})
        return
    for title, reason in made.left_out.items():
        output.say(f"note: no section {title!r}: {reason}")
    click.echo(f"{output.printable(made.path)} written: {output.size(made.bytes)}, {len(made.made)} sections")
