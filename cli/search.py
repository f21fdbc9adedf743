"""``embedstore search`` and ``embedstore get``: what the store answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedstore.cli import output
from embedstore.cli.options import (
    example,
    file_type,
    item_id,
    json_option,
    k_option,
    output_option,
    store_argument,
    where_option,
)

if TYPE_CHECKING:
    from embedstore.query.hits import Hits
    from embedstore.store import Store


@click.command()
@store_argument
@click.argument("item", metavar="[ID]", required=False, type=item_id)
@click.option("--id", "ids", multiple=True, metavar="ID", type=item_id, help="An item to search with; may be repeated.")
@click.option(
    "--picture",
    "pictures",
    multiple=True,
    type=file_type,
    metavar="FILE",
    help="A picture to search with; may be repeated.",
)
@click.option(
    "--vector",
    "vectors",
    multiple=True,
    type=file_type,
    metavar="FILE",
    help="An .npy file with one vector, shape (d,), or several, (n, d); may be repeated.",
)
@k_option
@where_option
@click.option("--exact", is_flag=True, help="Compare with every item instead of using the index.")
@click.option("--recall", type=float, metavar="R", help="Aim at this recall@10 instead of the store's.")
@click.option("--explain", is_flag=True, help="Say how the answer was found, and what it cost.")
@output_option("Write a contact sheet (.png, .jpg or .webp): the query first, each query in a row of its own.")
@json_option
@example(
    "embedstore search fashion.store test/00017 -k 5 --where \"label != 'Bag'\"\n"
    "embedstore search fashion.store --picture query.png -o sheet.png"
)
def search(
    store: Path,
    item: str | None,
    ids: tuple[str, ...],
    pictures: tuple[Path, ...],
    vectors: tuple[Path, ...],
    k: int,
    where: str | None,
    exact: bool,
    recall: float | None,
    explain: bool,
    target: Path | None,
    as_json: bool,
) -> None:
    """Find the items of STORE nearest to a query.

    The query is an item, a picture, or a vector. An item is left out of its own answer. The score is larger-is-better,
    the distance smaller-is-better, for every metric.
    """
    if item is None and not ids and not pictures and not vectors:
        raise click.UsageError("name what to search for: an ID, --id, --picture or --vector")
    import embedstore

    if target is not None:
        from embedstore.cli import pictures as sheets

        sheets.check(target)
    with embedstore.open(store, read_only=True) as opened:
        names, queries, several = _queries(opened, item, ids, pictures, vectors)
        start = time.perf_counter()
        answers: list[Hits] = opened.search(  # type: ignore[assignment]
            queries, k, where, exact=exact, recall=recall, explain=explain
        )
        seconds = time.perf_counter() - start
        if target is not None:
            sheets.write(target, opened, names, queries, answers)
        if as_json:
            found = [_as_json(name, hits, explain) for name, hits in zip(names, answers, strict=True)]
            output.emit(found if several else found[0])
        else:
            _print(names, answers, explain, seconds)
    if target is not None:
        output.say(f"wrote {target}")


def _queries(
    store: Store, item: str | None, ids: Sequence[str], pictures: Sequence[Path], vectors: Sequence[Path]
) -> tuple[list[str], list[Any], bool]:
    """Names of the queries, the queries, and whether several were asked for."""
    for path in pictures:
        _check_file(path)
    chosen = ([] if item is None else [item]) + list(ids)
    names = [*chosen, *map(str, pictures)]
    queries: list[Any] = [*map(store.item, chosen), *pictures]
    several = len(queries) > 1 or len(vectors) > 1 or bool(queries and vectors)
    for path in vectors:
        array = load_vectors(path)
        if array.ndim == 2:
            several = True
            names += [f"{path}[{index}]" for index in range(len(array))]
            queries += list(array)
        else:
            names.append(str(path))
            queries.append(array)
    return names, queries, several


def _check_file(path: Path) -> None:
    """Raise SourceError where there is no file; one that is no regular file (a FIFO) could be read for ever."""
    from embedstore.errors import SourceError

    if not path.is_file():
        raise SourceError(f"{path} is no file that can be read" if path.exists() else f"there is no file {path}")


def load_vectors(path: Path) -> Any:
    """The array in an .npy file: (d,) or (n, d), of numbers."""
    _check_file(path)
    from tokenize import TokenError

    import numpy as np

    from embedstore.errors import InvalidVector, SourceError

    try:
        with path.open("rb") as file:
            archive = file.read(2) == b"PK"
        # Mapped: a header that promises more numbers than there are can't make us allocate them.
        array = None if archive else np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror or error}") from None
    except (ValueError, TypeError, EOFError, OverflowError, MemoryError, RecursionError, SyntaxError, TokenError):
        raise SourceError(f"{path} is no .npy file of numbers: numpy.save writes one") from None
    if array is None:
        raise SourceError(f"{path} is an .npz: save the one array that you want to search with as .npy")
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or not array.size:
        raise InvalidVector(f"{path} holds {array.dtype} {array.shape}: a query is numbers of shape (d,) or (n, d)")
    return array.astype(np.float32)


def _as_json(name: str, hits: Hits, explain: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "query": name,
        "hits": [
            {"id": hit.id, "score": hit.score, "distance": hit.distance, "metadata": hit.metadata} for hit in hits
        ],
    }
    return found | {"explain": hits.stats} if explain else found


def _print(names: list[str], answers: list[Hits], explain: bool, seconds: float) -> None:
    for index, (name, hits) in enumerate(zip(names, answers, strict=True)):
        if len(answers) > 1:
            click.echo(("\n" if index else "") + output.printable(name))
        print_hits(hits)
        if explain:
            click.echo(_explanation(hits.stats))
    if explain:
        each = f" for {len(answers)} queries" if len(answers) > 1 else ""
        click.echo(f"searched in {1000 * seconds:.1f} ms{each}")


def print_hits(hits: Hits) -> None:
    """A table of hits, best first."""
    if not len(hits):
        output.say("nothing found")
        return
    keys = columns([hit.metadata for hit in hits])
    rows = [[hit.id, hit.score, hit.distance, *(output.shown(hit.metadata.get(key)) for key in keys)] for hit in hits]
    output.table(["id", "score", "distance", *keys], rows, least=3)


def columns(metadata: Sequence[dict[str, Any]]) -> list[str]:
    """Metadata keys in the order of their use to a reader: label, then what most hits have, then the rest.

    Objects and lists go last: they are long, and say little in a table.
    """
    counts: dict[str, int] = {}
    nested = set()
    for one in metadata:
        for key, value in one.items():
            counts[key] = counts.get(key, 0) + 1
            if isinstance(value, (dict, list)):
                nested.add(key)
    # sorted is stable: keys that are equally frequent stay in the order in which they were written
    return sorted(counts, key=lambda key: (key != "label", key in nested, -counts[key]))


def _explanation(stats: dict[str, Any]) -> str:
    """The plan, and what it cost, on one line; its time has a line of its own."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {text(part)}" for name, part in value.items())
        if isinstance(value, list):
            return "; ".join(f"({text(part)})" for part in value)
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    return output.printable(", ".join(f"{name}: {text(value)}" for name, value in stats.items() if name != "seconds"))


@click.command()
@store_argument
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=item_id)
@click.option("--vector", "with_vector", is_flag=True, help="Give the latents too.")
@output_option("Write the stored picture to FILE; of several items, into a folder; as .npy, their latents.")
@json_option
@example("embedstore get fashion.store test/00017 -o shoe.png\nembedstore get fashion.store test/00017 -o shoe.npy")
def get(store: Path, ids: tuple[str, ...], with_vector: bool, target: Path | None, as_json: bool) -> None:
    """Show what STORE knows of items.

    That is metadata, source and size, and on demand their latents and stored pictures. A stored picture is exact up to
    64 px a side, and a thumbnail of a larger one.
    """
    import embedstore

    with embedstore.open(store, read_only=True) as opened:
        found = [opened.get(name) for name in ids]
        if with_vector:
            for one in found:
                one["vector"] = opened.vector(one["id"]).vector.tolist()
        if target is not None:
            from embedstore.cli import pictures

            written = pictures.write_items(target, opened, ids)
        if as_json:
            output.emit(found if len(found) > 1 else found[0])
        else:
            for index, one in enumerate(found):
                if index:
                    click.echo()
                _print_item(one)
    if target is not None:
        output.say(f"wrote {', '.join(map(str, written[:5]))}{', ...' if len(written) > 5 else ''}")


def _print_item(item: dict[str, Any]) -> None:
    lines: list[tuple[str, Any]] = [("id", item["id"])]
    lines += [(key, output.told(value)) for key, value in item["metadata"].items()]
    if item["source"] is not None:
        lines.append(("(source)", item["source"]))
    if item["size"] is not None:
        lines.append(("(size)", "{} × {} px".format(*item["size"])))
    for clustering, one in item["clusters"].items():
        number = "none" if one["number"] is None else one["number"] if one["name"] is None else one["name"]
        lines.append((f"(cluster, {clustering})", f"{number}, strength {one['strength']:.2f}"))
    for map_, (x, y) in item["places"].items():
        lines.append((f"(place, {map_})", f"{x:.3f}, {y:.3f}"))
    if "vector" in item:
        lines.append(("(vector)", "[" + ", ".join(f"{value:.6g}" for value in item["vector"]) + "]"))
    output.pairs(lines)
