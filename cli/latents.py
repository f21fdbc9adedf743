"""``embedstore eval``, ``similar`` and ``decode``: latents computed, searched and shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from embedstore.cli import output, points
from embedstore.cli.options import (
    example,
    file_type,
    json_option,
    k_option,
    output_option,
    store_argument,
    where_option,
)
from embedstore.truth.pictures import to_picture

if TYPE_CHECKING:
    pass


@click.command("eval")
@store_argument
@click.argument("expression")
@k_option
@where_option
@output_option("Write a contact sheet (.png), the decoded point first; or the latent (.npy).")
@json_option
@example(
    "embedstore eval fashion.store \"item('test/00008') - mean(\\\"label = 'Sandal'\\\") "
    '+ mean(\\"label = \'Ankle boot\'\\")" -k 5 -o boot.png'
)
def evaluate(store: Path, expression: str, k: int, where: str | None, target: Path | None, as_json: bool) -> None:
    """Compute a latent, and find the items nearest to it.

    EXPRESSION has item('id'), image('path'), mean("filter"), medoid("filter"), direction('name'), cluster(n), numbers,
    + - * / ( ), unit(x) and mix(a, b, t).
    """
    import embedstore
    from embedstore.cli import pictures as sheets
    from embedstore.cli.search import print_hits

    if target is not None:
        sheets.check(target, ".npy")
    with embedstore.open(store, read_only=True) as opened:
        latent = opened.evaluate(expression.strip().removeprefix("="))  # as a POINT of other commands has it
        hits = opened.search(latent, k, where)
        [support] = opened.support(latent)
        if target is not None:
            if target.suffix.lower() == ".npy":
                points.write_vectors(target, latent.vector[None])
            else:
                sheets.write(target, opened, ["the result"], [latent], [hits])  # type: ignore[list-item]
                points.note_without_decoder(opened, latent)
        if as_json:
            found = {"expression": expression, "support": support, "length": latent.norm()}
            output.emit({**found, "vector": latent.vector, "hits": points.hits_json(hits)})  # type: ignore[arg-type]
        else:
            print_hits(hits)  # type: ignore[arg-type]
            click.echo(f"support {support:.3f}")
    points.warn([support], ["the result"])
    if target is not None:
        output.say(f"wrote {target}")


@click.command()
@store_argument
@click.option("--positive", "-p", multiple=True, metavar="POINT", help="Alike to this; may be repeated.")
@click.option("--negative", "-n", multiple=True, metavar="POINT", help="Unlike this; may be repeated.")
@click.option("--method", metavar="NAME", default="3cosadd", show_default=True, help="3cosadd (gensim's), or 3cosmul.")
@k_option
@where_option
@output_option("Write a contact sheet (.png).")
@json_option
@example("embedstore similar fashion.store --positive test/00000 --positive test/00023 --negative test/00008 -k 5")
def similar(
    store: Path,
    positive: tuple[str, ...],
    negative: tuple[str, ...],
    method: str,
    k: int,
    where: str | None,
    target: Path | None,
    as_json: bool,
) -> None:
    """Find what is like some items and unlike others.

    By cosine, as gensim does it; no input is among the answers. A POINT is an id, or = and an expression.
    """
    if not positive and not negative:
        raise click.UsageError("name what to compare with: --positive or --negative")
    import embedstore
    from embedstore.cli.search import print_hits

    if target is not None:
        from embedstore.cli import pictures

        pictures.check(target, count=k)
    with embedstore.open(store, read_only=True) as opened:
        alike, unlike = ([points.corner(opened, text) for text in side] for side in (positive, negative))
        hits = opened.most_similar(alike, unlike, k, where=where, method=method)
        if target is not None:
            pictures.write_hits(target, hits)
        if as_json:
            output.emit({"positive": positive, "negative": negative, "method": method, "hits": points.hits_json(hits)})
        else:
            print_hits(hits)
    if target is not None:
        output.say(f"wrote {target}")


@click.command()
@store_argument
@click.argument("wanted", metavar="[POINT]...", nargs=-1)
@click.option(
    "--vector",
    "vectors",
    multiple=True,
    type=file_type,
    metavar="FILE",
    help="An .npy file with one latent, shape (d,), or several, (n, d); may be repeated.",
)
@output_option("Where to: of one latent the picture as the decoder gives it, of several a sheet.", required=True)
@json_option
@example(
    'embedstore decode fashion.store test/00008 "=mean(\\"label = \'Bag\'\\")" -o decoded.png\n'
    "embedstore decode fashion.store --vector points.npy -o decoded.png"
)
def decode(store: Path, wanted: tuple[str, ...], vectors: tuple[Path, ...], target: Path, as_json: bool) -> None:
    """Turn latents into pictures.

    A POINT is an id, or = and an expression.
    """
    if not wanted and not vectors:
        raise click.UsageError("name what to decode: a POINT or --vector FILE")
    import embedstore
    from embedstore.cli import pictures as sheets
    from embedstore.cli.search import load_vectors
    from embedstore.query import sheet

    sheets.check(target)
    with embedstore.open(store, read_only=True) as opened:
        names, found = list(wanted), [points.point(opened, text).vector for text in wanted]
        for path in vectors:
            array = np.atleast_2d(load_vectors(path))
            names += [f"{path}[{index}]" for index in range(len(array))] if len(array) > 1 else [str(path)]
            opened.support(array[:1])  # says what is wrong with its length
            found += list(array)
        latents = np.stack(found)
        images = opened.decode(latents)
        support = opened.support(latents)
    if len(images) == 1:
        sheet.save(images[0], target)
    else:
        captions = [f"{name}\nsupport {value:.2f}" for name, value in zip(names, support, strict=True)]
        sheet.save(sheet.sheet([to_picture(image) for image in images], captions), target)
    if as_json:
        output.emit([{"name": name, "support": value} for name, value in zip(names, support, strict=True)])
    else:
        output.table(["decoded", "support"], zip(names, support.tolist(), strict=True))
    points.warn(support, names)
    output.say(f"wrote {target}")
