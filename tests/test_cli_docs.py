"""The help and docs/cli.md: every command and every option is in both."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from embedstore.cli.groups import Group
from embedstore.cli.main import COMMANDS, main

from .commands import run

PAGE = (Path(__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in re.split(r"^## ", PAGE, flags=re.M)[1:]}


def command_of(name: str) -> click.Command:
    command: click.Command | None = main
    for word in name.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    return command


def every_command() -> list[str]:
    """In the help's order; of a group, its commands in its place: 'direction make'."""
    found = []
    for name in COMMANDS:
        command = command_of(name)
        inside = command.commands if isinstance(command, click.Group) else {}
        found += [f"{name} {one}" for one in inside] or [name]
    return found


def spelled(name: str) -> str:
    """As it is usually written: of cluster and map, the first command is meant where none is named."""
    group, _, inner = name.partition(" ")
    found = command_of(group)
    return group if isinstance(found, Group) and inner == next(iter(found.commands)) else name


EVERY = every_command()


def test_the_page_has_one_section_a_command_in_the_helps_order() -> None:
    assert list(SECTIONS) == EVERY


@pytest.mark.parametrize("name", EVERY)
def test_every_option_is_documented_and_every_documented_one_exists(name: str) -> None:
    real = {option for parameter in command_of(name).params if isinstance(parameter, click.Option)
            for option in (*parameter.opts, *parameter.secondary_opts)}  # fmt: skip
    shown = set(re.findall(r"`(--?[a-z][a-z-]*)\b", SECTIONS[name]))
    assert shown == real


@pytest.mark.parametrize("name", EVERY)
def test_every_command_has_help_an_example_and_json(name: str) -> None:
    text = run(*name.split(), "--help").stdout
    assert f"embedstore {spelled(name)} " in text.split("Example:")[1]
    assert "--json" in text
    for parameter in command_of(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("name", EVERY)
def test_every_command_is_shown_with_real_output(name: str) -> None:
    [block, *_] = re.findall(r"^```console\n(.*?)^```", SECTIONS[name], re.M | re.S)
    assert block.startswith(f"$ embedstore {spelled(name)} ")
    assert any(not line.startswith("$") for line in block.splitlines())


def test_the_overview_lists_every_command_and_the_exit_codes() -> None:
    text = run("--help").stdout
    assert re.findall(r"^  (\w+)  +\S", text.split("Commands:")[1], re.M) == list(COMMANDS)
    assert "..." not in text.split("Commands:")[1]  # each says what it does in full
    assert "3 done but some items failed" in " ".join(text.split())
    assert re.fullmatch(r"embedstore, version \d+\.\d+\.\d+\S*\n", run("--version").stdout)


def test_examples_in_the_help_use_options_that_exist() -> None:
    for name in EVERY:
        known = {option for parameter in command_of(name).params for option in parameter.opts}
        for line in run(*name.split(), "--help").stdout.split("Example:")[1].split("Options:")[0].splitlines():
            assert {word for word in line.split() if re.fullmatch(r"--?[a-z][a-z-]*", word)} <= known, line
