"""The documentation says what is true: its commands exist, its links lead somewhere, its Python runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def test_the_first_two_commands_set_up_and_run_everything() -> None:
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if re.match(r"\w+:", line)}
    first, second = (block.strip() for block in blocks(README, "sh")[:2])
    assert (first, second) == ("make demo", "make test")
    assert {"demo", "test", "setup", "lint", "types", "bench"} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shown_commands_exist_with_their_options(page: Path) -> None:
    from embedstore.cli.main import main

    shown = [
        line[2:]
        for block in blocks(page.read_text(encoding="utf-8"), "console")
        for line in block.splitlines()
        if line.startswith("$ embedstore ")
    ]
    for line in shown:
        words = shlex.split(line.replace("\\", ""), comments=True)
        command = main.get_command(None, words[1])
        assert command is not None, line
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        for word in words[2:]:
            if word.startswith("-") and not re.fullmatch(r"-\d.*", word):
                assert word.split("=")[0] in known | {"--help"}, line


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder as the README supposes it: pictures/LABEL/NUMBER.png."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:120], digits.target[:120], strict=True)):
        folder = tmp_path / "pictures" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((16, 16)).save(folder / f"{number:04d}.png")
    return tmp_path


@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
def test_the_readmes_python_runs(number: int, pictures: Path) -> None:
    code = blocks(README, "python")[number]
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], cwd=pictures, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # What a comment behind a print promises is what is printed.
    for promised in re.findall(r"print\([^#]*\)\s+# (\d.*)", code):
        assert promised in done.stdout
