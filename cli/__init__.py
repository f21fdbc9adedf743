"""The command line, installed as ``embedstore.cli``: one file per group of commands."""

from __future__ import annotations


def run() -> None:
    """What the installed command calls: Ctrl-C while Python still imports ends as quietly as any other."""
    try:
        from embedstore.cli.main import main
    except KeyboardInterrupt:
        import sys

        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
    main()
