"""``embedstore update`` and ``embedstore delete``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from embedstore.cli import output
from embedstore.cli.options import example, item_id, json_option, store_argument, where_option


@click.command()
@store_argument
@click.argument("item", metavar="ID", type=item_id)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a metadata key; VALUE is taken as JSON where it is JSON, else as text; may be repeated.",
)
@click.option("--unset", multiple=True, metavar="KEY", help="Remove a metadata key; may be repeated.")
@json_option
@example("embedstore update fashion.store test/00017 --set label=Boot --set checked=true --unset draft")
def update(store: Path, item: str, settings: tuple[str, ...], unset: tuple[str, ...], as_json: bool) -> None:
    """Change metadata of an item of STORE.

    Its other keys stay as they are.
    """
    import embedstore

    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{setting!r} is not of the form KEY=VALUE", param_hint="--set")
        changes[key] = _value(text)
    changes.update(dict.fromkeys(unset))
    if not changes:
        raise click.UsageError("say what to change: --set KEY=VALUE or --unset KEY")
    with embedstore.open(store) as opened:
        opened.update(item, metadata=changes)
        found = opened.get(item)
    if as_json:
        output.emit(found)
    else:
        click.echo(f"updated {output.printable(item)}")


def _value(text: str) -> Any:
    """JSON where it is JSON, else text: ``7`` is a number, ``"7"`` and ``7 up`` are text."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON value")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return text


@click.command()
@store_argument
@click.argument("ids", metavar="[ID]...", nargs=-1, type=item_id)
@where_option
@click.option("--yes", is_flag=True, help="Don't ask. Needed with --where where there is no terminal to ask on.")
@json_option
@example(
    "embedstore delete fashion.store test/00017 test/00018\n"
    "embedstore delete fashion.store --where \"label = 'Bag'\" --yes"
)
def delete(store: Path, ids: tuple[str, ...], where: str | None, yes: bool, as_json: bool) -> int:
    """Delete items of STORE by id or by filter.

    Their bytes leave the disk with the next compact. An unknown id is an error, and then nothing is deleted.
    """
    if bool(ids) == (where is not None):
        raise click.UsageError("name what to delete: either IDs or --where FILTER")
    import embedstore

    with embedstore.open(store) as opened:
        if where is not None:
            count = opened.count(where)
            if count and not yes:
                if not _on_terminal():
                    raise click.UsageError(f"{count:,} items match, and there is no terminal to ask on: give --yes")
                question = f"delete {count:,} of {output.count(len(opened), 'item')} from {output.printable(store)}?"
                if not click.confirm(question, err=True):
                    output.say("nothing was deleted")
                    return output.FAILED
            deleted = opened.delete(where=where) if count else 0
        else:
            for name in ids:
                opened.get(name)
            deleted = opened.delete(list(ids))
        left = len(opened)
    if as_json:
        output.emit({"deleted": deleted, "items": left})
    else:
        click.echo(f"{deleted:,} deleted; {output.printable(store)} holds {output.count(left, 'item')}")
    return 0


def _on_terminal() -> bool:
    """Whether somebody is there to answer a question."""
    return sys.stdin.isatty()
