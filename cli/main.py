"""The entry point: every command, and what happens when one ends otherwise than it should."""

from __future__ import annotations

import errno
import warnings
from importlib import import_module
from typing import Any

import click

from embedstore.cli import output
from embedstore.errors import EmbedstoreError

#: In the order in which the help lists them. A command's module is imported when the command is asked for.
COMMANDS = {
    "index": "embedstore.cli.indexing:index",
    "search": "embedstore.cli.search:search",
    "get": "embedstore.cli.search:get",
    "eval": "embedstore.cli.latents:evaluate",
    "similar": "embedstore.cli.latents:similar",
    "direction": "embedstore.cli.directions:direction",
    "edit": "embedstore.cli.paths:edit",
    "interpolate": "embedstore.cli.paths:interpolate",
    "sample": "embedstore.cli.sampling:sample",
    "decode": "embedstore.cli.latents:decode",
    "cluster": "embedstore.cli.clusters:cluster",
    "map": "embedstore.cli.maps:map_",
    "unmap": "embedstore.cli.maps:unmap",
    "duplicates": "embedstore.cli.finding:duplicates",
    "outliers": "embedstore.cli.finding:outliers",
    "mislabeled": "embedstore.cli.finding:mislabeled",
    "report": "embedstore.cli.reporting:report",
    "update": "embedstore.cli.editing:update",
    "delete": "embedstore.cli.editing:delete",
    "export": "embedstore.cli.exporting:export",
    "info": "embedstore.cli.upkeep:info",
    "recall": "embedstore.cli.upkeep:recall",
    "tune": "embedstore.cli.upkeep:tune",
    "verify": "embedstore.cli.upkeep:verify",
    "compact": "embedstore.cli.upkeep:compact",
    "backup": "embedstore.cli.upkeep:backup",
}

#: What an interrupted command leaves, where it writes.
_KEPT = {
    "index": "everything acknowledged is kept; the same command goes on from there",
    "compact": "nothing is lost; the same command starts again",
    "tune": "the store is as it was; the same command starts again",
    "delete": "either all of it is deleted or nothing",
    "update": "the item is changed as a whole or not at all",
    "cluster": "a clustering is stored whole or not at all; `embedstore cluster list STORE` says which there are",
    "map": "a map is stored whole or not at all; the same command goes on from there",
    "duplicates": "nothing was deleted",
    "report": "no page was written; a clustering or a map that was finished is kept",
    "export": "nothing was written",
    "backup": "no backup was made",
}


class Commands(click.Group):
    """A group that imports a command when it is asked for, and turns errors into one line and an exit code.

    Both belong to the group and not to a function around it, so that click's test runner sees what a shell sees.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from difflib import get_close_matches

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(COMMANDS)}"
            ctx.fail(f"no command {args[0]!r}: {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and exit: 0 done, 1 an error, 3 done in part, 130 interrupted (2 is click's)."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                ctx.exit(super().invoke(ctx) or 0)
            except EmbedstoreError as error:
                _show_error(str(error))
            except (KeyboardInterrupt, click.Abort):  # Abort: Ctrl-C, or the end of the input, at a question
                kept = _KEPT.get(ctx.invoked_subcommand or "")
                output.say(f"interrupted: {kept}" if kept else "interrupted")
                ctx.exit(output.INTERRUPTED)
            except OSError as error:
                if error.errno == errno.EPIPE:
                    raise  # click ends quietly
                # The disk, the network share, the process's limits: not a bug, and no help in a traceback.
                _show_error(f"{error.filename or 'the system'}: {error.strerror or error}")
            ctx.exit(output.FAILED)


def _show_error(message: str) -> None:
    """``error:`` and the message; only a filter's error has more lines, for its caret."""
    first, *rest = message.split("\n") or [""]
    click.echo("\n".join([f"error: {output.printable(first)}", *map(output.printable, rest)]), err=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    output.say(f"warning: {str(message).splitlines()[0] if str(message) else type(message).__name__}")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="embedstore", prog_name="embedstore")
def main() -> None:
    """A store you can ask about a latent space: index pictures or vectors, and search them.

    \b
    embedstore index fashion.store pictures/
    embedstore search fashion.store --picture query.png -k 5

    Every command takes --json. Results go to stdout, messages and progress to stderr. Exit codes: 0 done, 1 an error,
    2 wrong usage, 3 done but some items failed, 130 interrupted.
    """
