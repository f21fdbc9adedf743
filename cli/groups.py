"""A command with others inside of it: ``cluster STORE`` makes clusters, ``cluster show STORE`` shows them."""

from __future__ import annotations

import click


class Group(click.Group):
    """A group whose first command is meant where none is named.

    A store in a folder called ``show`` is written ``./show``.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the first command's name where the store stands."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were written."""
        return list(self.commands)
