"""Options that several commands share."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def item_id(value: str) -> str:
    """An item's id, as click's type. Bytes that are no UTF-8 come as lone surrogates, which no stored id has."""
    try:
        value.encode()
    except UnicodeEncodeError:
        from embedstore.errors import UnknownItem

        raise UnknownItem(f"no item has the id {value!r}: it is not valid UTF-8") from None
    return value


#: Whether there is a store is for the library to say: its sentence names the way out, click's doesn't.
store_argument = click.argument("store", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
where_option = click.option("--where", metavar="FILTER", help="Only items that match, e.g. \"label = 'Bag'\".")
k_option = click.option("-k", "k", type=int, default=10, show_default=True, metavar="N", help="Number of neighbours.")
file_type = click.Path(path_type=Path)
progress_option = click.option(
    "--progress/--no-progress", default=None, help="Bars on stderr (default: where stderr is a terminal)."
)


class Bytes(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in newer versions only
    """An amount of memory: 500M, 2G, 1.5GB, or bytes."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from embedstore.config import as_bytes
        from embedstore.errors import InvalidArgument

        try:
            return as_bytes(value)
        except InvalidArgument as error:
            self.fail(str(error), param, ctx)


def output_option(help: str, *, required: bool = False) -> Callable[[F], F]:
    """``-o FILE``, which the command gets as ``target``."""
    return click.option("-o", "--output", "target", type=file_type, metavar="FILE", required=required, help=help)


def example(text: str) -> Callable[[F], F]:
    """Put examples under a command's help; goes below ``@click.command``."""

    def decorate(function: F) -> F:
        lines = "\n".join(f"  {line}" for line in text.splitlines())
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n\b\nExample:\n{lines}"
        return function

    return decorate


def bars(chosen: bool | None) -> bool:
    """Whether to draw progress bars."""
    return sys.stderr.isatty() if chosen is None else chosen
