"""A command with others inside of it: ``cluster STORE`` makes clusters, ``cluster show STORE`` shows them."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import click


class Group(click.Group):
    """A group whose first command is meant where none is named.

    A store in a folder called ``show`` is written ``./show``.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the first command's name where the store stands."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            near = get_close_matches(args[0], self.commands, n=1)
            if near and not Path(args[0]).exists() and not args[0].startswith("-"):
                ctx.fail(f"there is no store {args[0]}, and no command of that name: did you mean {near[0]!r}?")
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were written."""
        return list(self.commands)
