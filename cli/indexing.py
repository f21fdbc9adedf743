"""``embedstore index``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from embedstore.cli import output
from embedstore.cli.options import Bytes, bars, example, json_option, progress_option, store_argument
from embedstore.errors import InvalidArgument
from embedstore.types import AddReport, Dtype, Metric, Reader

if TYPE_CHECKING:
    from embedstore.store import Store

_REMOVED_SHOWN = 5


@click.command()
@store_argument
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--prune", is_flag=True, help="Delete items that this source had before and has no longer.")
@click.option(
    "--encoder", metavar="NAME", help="Encoder of a new store: autoencoder (the default), pca, or a plugin's."
)
@click.option("--dimension", type=int, metavar="N", help="Of a new encoder's latents (default 64).")
@click.option(
    "--image-size",
    type=int,
    metavar="PX",
    help="Side that a new encoder sees pictures at (default: 64 px, or less where the pictures are smaller).",
)
@click.option("--fit-minutes", type=float, metavar="M", help="Longest time for fitting a new encoder.")
@click.option("--seed", type=int, metavar="N", help="Of everything random in a new store (default 0).")
@click.option("--metric", metavar="NAME", help="Of a new store of vectors: l2 (the default), cosine or ip.")
@click.option(
    "--recall", type=float, metavar="R", help="Recall@10 that a new store's index is tuned to (default 0.99)."
)
@click.option(
    "--factory", metavar="TEXT", help="FAISS factory string for a new store's index, e.g. HNSW32; default: by size."
)
@click.option(
    "--memory",
    type=Bytes(),
    metavar="SIZE",
    help="What a process that searches a new store may take, e.g. 2G: indexes are chosen to keep to it.",
)
@click.option("--dtype", metavar="NAME", help="How a new store keeps vectors: float32 (the default), float16 or int8.")
@click.option("--vectors", is_flag=True, help="The source's arrays are vectors, not pictures.")
@click.option("--reader", "kind", metavar="NAME", help="Read SOURCE as folder, idx, arrays, table, or a plugin's kind.")
@click.option("--key", metavar="NAME", help="Array to read from an .npz.")
@click.option("--split", metavar="NAME", help="Only this split of a source that has several, e.g. train.")
@click.option("--id-prefix", metavar="TEXT", help="Before every id, so that two sources' ids don't meet.")
@click.option("--no-labels", is_flag=True, help="Don't take the names of a folder's subfolders as labels.")
@click.option("--id-column", metavar="NAME", help="Column with the ids, of a CSV, JSONL or Parquet file.")
@click.option("--path-column", metavar="NAME", help="Column with the paths of the pictures.")
@click.option("--vector-column", metavar="NAME", help="Column with the vectors.")
@click.option(
    "--max-side",
    type=click.IntRange(min=1),
    metavar="PX",
    help="Reduce larger pictures to this longer side while reading.",
)
@progress_option
@json_option
@example("embedstore index fashion.store pictures/\nembedstore index words.store words.npy --metric cosine")
def index(
    store: Path,
    sources: tuple[Path, ...],
    prune: bool,
    encoder: str | None,
    dimension: int | None,
    image_size: int | None,
    fit_minutes: float | None,
    seed: int | None,
    metric: str | None,
    recall: float | None,
    factory: str | None,
    memory: int | None,
    dtype: str | None,
    vectors: bool,
    no_labels: bool,
    progress: bool | None,
    as_json: bool,
    **columns: Any,
) -> int:
    """Add what is new or changed in SOURCE to STORE.

    STORE is made if there is none. A SOURCE is a folder of pictures, a picture, an IDX file or folder (the MNIST
    family), an .npy or .npz of pictures or vectors, or a CSV, JSONL or Parquet file with a column of paths or of
    vectors. The first one decides the encoder, which is fitted to it. Interrupted, the same command goes on from where
    it was.
    """
    reader_options = {name: value for name, value in columns.items() if value is not None}
    if vectors:
        reader_options["vectors"] = True
    if no_labels:
        reader_options["labels"] = False
    dtype = dtype and Dtype.parse(dtype).value
    settings = {"recall": recall, "factory": factory, "memory": memory, "dtype": dtype, "seed": seed}
    from embedstore.ingest.spaces import FitOptions

    FitOptions(encoder, dimension, image_size, fit_minutes, metric=metric).check()
    source = list(sources) if len(sources) > 1 else sources[0]
    opened, reader, made = _open(store, source, reader_options, settings, metric, encoder)
    with opened:
        report = opened.index(
            reader,
            prune=prune,
            encoder=encoder,
            dimension=dimension,
            image_size=image_size,
            fit_minutes=fit_minutes,
            metric=metric,
            progress=bars(progress),
        )
        total = len(opened)
        placed = _placed(opened, report.encoder) if report.added and not as_json else ""
    if as_json:
        output.emit({"store": store, "created": made, "items": total, **asdict(report)})
    else:
        _print(report, store, total)
        if placed:
            output.say(f"note: what was added was placed {placed}")
    return output.SOME_FAILED if report.failures else 0


def _open(
    store: Path,
    source: Path | list[Path],
    reader_options: dict[str, Any],
    settings: dict[str, Any],
    metric: str | None,
    encoder: str | None,
) -> tuple[Store, Reader, bool]:
    """The store, made where there is none, a reader of the source, and whether the store was made.

    A new store is made last: a source that isn't there, or holds nothing, leaves no empty store behind.
    """
    import embedstore
    from embedstore.ingest.spaces import check_no_encoder
    from embedstore.readers.open import open_reader
    from embedstore.truth import opening

    given = {name: value for name, value in settings.items() if value is not None}
    with ExitStack() as stack:
        opened = stack.enter_context(embedstore.open(store)) if opening.exists(store) else None
        differing = [] if opened is None else [name for name in given if getattr(opened.config, name) != given[name]]
        if opened is not None and differing:
            if not opening.settle(store, given):
                _refuse(opened, differing[0])
            opened.close()
            opened = stack.enter_context(embedstore.open(store))
        reader = open_reader(source, **reader_options)
        stack.callback(reader.close)
        if metric is not None:
            _check_metric(reader, metric)
        made = opened is None
        if opened is None:
            check_no_encoder(reader, encoder)
            opened = embedstore.create(store, **given)
        stack.pop_all()  # all went well: the caller closes the store, and the store the reader
    return opened, reader, made


def _check_metric(reader: Reader, metric: str) -> None:
    """Raise InvalidArgument for an unknown metric, and for one that is named for pictures and would be ignored."""
    Metric.parse(metric)
    if not reader.brings_vectors:
        raise InvalidArgument(
            "--metric is for vectors, and the source brings pictures: their encoder has a metric of its own"
        )


def _refuse(store: Store, name: str) -> NoReturn:
    """Raise InvalidArgument for what was settled when the store was made, and is given differently now."""
    kept = getattr(store.config, name)
    said = {None: "is not set", **({kept: f"is {output.size(kept)}"} if name == "memory" else {})}.get(
        kept, f"is {kept}"
    )
    way = "change it by `embedstore tune`" if name in ("memory", "recall", "factory") else "make another store"
    raise InvalidArgument(f"{store.path} has settings of its own, where {name} {said}: leave --{name} out, or {way}")


def _placed(store: Store, encoder: str) -> str:
    """Into which clusterings and on which maps items were placed when they were added; "" where there are none."""
    into: dict[str, list[str]] = {"clusterings": [], "maps": []}
    for space in store.info()["spaces"]:
        if (space["fingerprint"] or "") == encoder:
            for kind, names in into.items():
                names += space[kind]
    told = {"clusterings": "into the clustering", "maps": "on the map"}
    return " and ".join(
        f"{told[kind]}{'s' if len(names) > 1 else ''} {', '.join(map(output.printable, names))}"
        for kind, names in into.items()
        if names
    )


def _print(report: AddReport, store: Path, total: int) -> None:
    for note in report.notes:
        output.say(f"note: {note}")
    output.failures(report.failures)
    if report.removed and not report.pruned:
        shown = ", ".join(report.removed[:_REMOVED_SHOWN])
        more = ", ..." if len(report.removed) > _REMOVED_SHOWN else ""
        output.say(f"note: gone from the source, kept in the store (--prune deletes them): {shown}{more}")
    steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items() if seconds >= 0.05)
    click.echo(
        f"{report}; {output.printable(store)} holds {output.count(total, 'item')}" + (f" ({steps})" if steps else "")
    )
