"""The command line, installed as ``embedstore.cli``: one file per group of commands."""
