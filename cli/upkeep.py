"""``embedstore info``, ``recall``, ``tune``, ``verify``, ``compact``, ``backup``: a store known and kept well."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedstore.cli import output
from embedstore.cli.options import Bytes, bars, example, json_option, k_option, progress_option, store_argument

if TYPE_CHECKING:
    from embedstore.check import VerifyReport

_VALUES_WIDTH = 60


@click.command()
@store_argument
@json_option
@example("embedstore info fashion.store")
def info(store: Path, as_json: bool) -> None:
    """Show what is in STORE.

    Items, encoder, index with its measured recall, metadata keys, sizes on disk.
    """
    import embedstore

    with embedstore.open(store, read_only=True) as opened:
        found = opened.info()
    if as_json:
        output.emit(found)
        return
    output.pairs(
        [
            ("store", found["path"]),
            ("items", found["items"]),
            ("created", str(found["created"])[:19].replace("T", " ")),
            ("size", _sizes(found["bytes"])),
            *(
                [("deleted", f"{found['deleted_not_compacted']:,} not compacted yet")]
                if found["deleted_not_compacted"]
                else []
            ),
            *(
                ("source", f"{origin['scope']} ({output.count(origin['items'], 'item')})")
                for origin in found["origins"]
            ),
        ]
    )
    for space in found["spaces"]:
        click.echo()
        output.pairs(_space(space, found["recall_target"], found["factory"], found["memory"]))
    if found["fields"]:
        click.echo()
        output.table(["metadata", "values"], [[key, _values(field)] for key, field in found["fields"].items()])


def _sizes(sizes: dict[str, int]) -> str:
    parts = ", ".join(f"{name} {output.size(count)}" for name, count in sizes.items() if name != "total" and count)
    return f"{output.size(sizes['total'])} ({parts})"


def _space(space: dict[str, Any], target: float | None, kind: str | None, memory: int | None) -> list[tuple[str, Any]]:
    encoder = f"{space['encoder']} {space['fingerprint'][:12]}" if space["encoder"] else "none: precomputed vectors"
    lines = [
        (
            "space",
            space["name"] + (" (searched by default)" if space["default"] and space["name"] != "default" else ""),
        ),
        ("encoder", encoder),
        (
            "vectors",
            f"{space['vectors']:,} × {space['dimension']}, {space['metric']}"
            + (f", kept as {space['dtype']}" if space["dtype"] != "float32" else ""),
        ),
    ]
    for tier in space["tiers"]:
        text = f"{tier['factory']} over {output.count(tier['vectors'], 'vector')}"
        if tier["recall"] is not None:
            low, high = tier["recall_interval"] or (None, None)
            text += f", recall@10 {tier['recall']:.4f}" + (f" ({low:.4f} to {high:.4f})" if low is not None else "")
        lines.append(("index", text + (", whose file is missing" if tier["bytes"] is None else "")))
    if kind:
        lines.append(("kind of index", kind))
    if memory:
        lines.append(("memory", f"at most {output.size(memory)} for a process that searches"))
    if space["tiers"] and target is not None:
        lines.append(("recall target", f"{target:g}"))
    if space["directions"]:
        lines.append(("directions", ", ".join(space["directions"])))
    for kind in ("clusterings", "maps"):
        if space[kind]:
            lines.append((kind, ", ".join(space[kind])))
    if space["searched_exactly"]:
        hint = ": `embedstore compact` makes an index of them" if space["index_due"] else ""
        lines.append(("searched exactly", output.count(space["searched_exactly"], "vector") + hint))
    return lines


def _values(field: dict[str, Any]) -> str:
    # Of what is counted, true and false come as a filter has them, together with texts that spell them.
    truths = ("true", "false")
    told = ((value if value in truths else output.told(value), count) for value, count in field["values"].items())
    counted = ", ".join(f"{value} ({count:,})" for value, count in told)
    return output.shorten(output.printable(counted), _VALUES_WIDTH) + (", ..." if field["more"] else "")


@click.command()
@store_argument
@k_option
@click.option(
    "--sample",
    type=int,
    default=500,
    show_default=True,
    metavar="N",
    help="Number of items to ask with.",
)
@click.option("--where", metavar="FILTER", help="Search among the items that match.")
@click.option("--recall", "aim", type=float, metavar="R", help="Search as if this were the store's target.")
@progress_option
@json_option
@example("embedstore recall fashion.store -k 10 --sample 1000")
def recall(
    store: Path, k: int, sample: int, where: str | None, aim: float | None, progress: bool | None, as_json: bool
) -> None:
    """Measure recall of STORE's searches.

    How many of the true nearest neighbours they find, with a 95 % confidence interval; with --where, under a filter.
    """
    import embedstore

    with embedstore.open(store, read_only=True) as opened:
        report = opened.recall(k, sample=sample, where=where, recall=aim, progress=bars(progress))
    if as_json:
        output.emit(asdict(report))
    else:
        click.echo(output.printable(str(report)))


@click.command()
@store_argument
@progress_option
@json_option
@example("embedstore verify fashion.store")
def verify(store: Path, progress: bool | None, as_json: bool) -> int:
    """Check STORE against what was committed.

    Every byte and row is compared, nothing is changed. Exits with 1 on damage.
    """
    import embedstore

    with embedstore.open(store, read_only=True) as opened:
        report = opened.verify(progress=bars(progress))
    if as_json:
        output.emit({"ok": report.ok, **asdict(report)})
    else:
        for problem in report.problems:
            click.echo(f"damaged: {output.printable(problem)}")
        for problem in report.derived:
            output.say(f"note: {problem}")
        if report.leftovers:
            output.say(
                f"note: {output.count(len(report.leftovers), 'file')} that no row names (`embedstore compact` sweeps)"
            )
        found = "whole" if report.ok else output.count(len(report.problems), "problem")
        compared = f"{output.count(report.batches, 'batch')}, {output.size(report.bytes)} compared"
        click.echo(f"{found}: {output.count(report.items, 'item')}, {compared}")
    if not report.ok:
        output.say(f"error: {store} is damaged: {_way_out(report, store)}")
    return 0 if report.ok else output.FAILED


def _way_out(report: VerifyReport, store: Path) -> str:
    if not report.mendable:
        return "restore a backup"
    again = f"run `embedstore compact {store}`"
    if not report.damaged:
        return f"{again}, which drops what differs: no item needs it"
    counted = output.count(len(report.damaged), "item")
    return f"restore a backup, or delete {counted} in what differs (--json lists them), {again}, and index them again"


@click.command()
@store_argument
@progress_option
@json_option
@example("embedstore compact fashion.store")
def compact(store: Path, progress: bool | None, as_json: bool) -> None:
    """Free the room of deleted items in STORE.

    Leftover files are removed too, and the index is rebuilt where that is due.
    """
    import embedstore

    with embedstore.open(store) as opened:
        report = opened.compact(progress=bars(progress))
    if as_json:
        output.emit(asdict(report))
    else:
        click.echo(
            f"{output.count(report.dropped, 'deleted row')} dropped, "
            f"{output.count(report.swept, 'leftover file')} swept, "
            f"{output.size(report.freed)} freed"
            + (f", {output.count(report.built, 'index tier')} built" if report.built else "")
        )


@click.command()
@store_argument
@click.option("--memory", type=Bytes(), metavar="SIZE", help="What a process that searches may take, e.g. 500M or 2G.")
@click.option("--recall", "aim", type=float, metavar="R", help="Recall@10 to reach (default: the store's).")
@click.option(
    "--rows", type=int, default=1_000_000, show_default=True, metavar="N", help="Vectors to measure with, at most."
)
@click.option("--dry-run", is_flag=True, help="Only measure: leave the store as it is.")
@progress_option
@json_option
@example("embedstore tune fashion.store\nembedstore tune fashion.store --memory 500M --recall 0.95")
def tune(
    store: Path,
    memory: int | None,
    aim: float | None,
    rows: int,
    dry_run: bool,
    progress: bool | None,
    as_json: bool,
) -> int:
    """Find the index that suits STORE best, and build it.

    Several kinds are built over the store's own vectors and measured: the fastest that reaches the recall within the
    memory is taken, and stays the kind for what is added later.
    """
    import embedstore

    with embedstore.open(store, read_only=dry_run) as opened:
        report = opened.tune(memory=memory, recall=aim, rows=rows, apply=not dry_run, progress=bars(progress))
    if as_json:
        output.emit(asdict(report))
    else:
        output.table(
            ["index", "recall@10", "queries/s", "bytes/vector", "build", "memory", ""],
            [
                [
                    one.factory,
                    f"{one.recall:.4f}" + ("" if one.reached else " (missed)"),
                    round(one.queries_per_second),
                    round(one.bytes_per_vector),
                    f"{one.build_seconds:.1f} s",
                    output.size(one.memory) + ("" if one.fits else " (too much)"),
                    "chosen" if one.chosen else "",
                ]
                for one in report.candidates
            ],
        )
        part = "all" if report.measured == report.vectors else f"{report.measured:,} of"
        output.say(
            f"note: measured with {part} {output.count(report.vectors, 'vector')}, one query at a time, one thread"
        )
    if report.chosen is None:
        least = min((one.memory for one in report.candidates if one.reached), default=0)
        way = "ask for less recall, or measure with more --rows"
        if report.memory is not None and least > report.memory:
            way = f"at least {output.size(least)} are needed"
        output.say(f"error: no index reaches recall {report.target:g} within that memory: {way}")
        return output.FAILED
    return 0


@click.command()
@store_argument
@click.argument("target", type=click.Path(path_type=Path))
@progress_option
@json_option
@example("embedstore backup fashion.store /mnt/safe/fashion-2025-06-01.store")
def backup(store: Path, target: Path, progress: bool | None, as_json: bool) -> None:
    """Copy STORE to the new directory TARGET.

    The copy is itself a store, of one commit. Searches go on meanwhile; a writer waits.
    """
    import embedstore

    with embedstore.open(store, read_only=not os.access(store, os.W_OK)) as opened:
        count = opened.backup(target, progress=bars(progress))
    if as_json:
        output.emit({"path": target, "bytes": count})
    else:
        click.echo(f"{output.size(count)} copied to {output.printable(target)}")
