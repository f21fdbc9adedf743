"""The documentation says what is true: its commands exist, its links lead somewhere, its Python runs."""

from __future__ import annotations

import gzip
import http.server
import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import embedstore
from embedstore.cli.groups import Group

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
        if isinstance(command, click.Group):
            first = next(iter(command.commands.values()))  # of cluster and map, it is meant where none is named
            command = command.get_command(None, words[2]) or (first if isinstance(command, Group) else None)
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


def test_the_python_on_computing_runs(pictures: Path) -> None:
    with embedstore.create(pictures / "pictures.store") as store:
        store.index(pictures / "pictures", encoder="pca", dimension=12, progress=False)
    [code] = blocks((ROOT / "docs" / "latents.md").read_text(encoding="utf-8"), "python")
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(command, cwd=pictures, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6
    assert (pictures / "eight.png").is_file()


def test_the_python_on_discovery_runs(pictures: Path) -> None:
    with embedstore.create(pictures / "pictures.store") as store:
        store.index(pictures / "pictures", encoder="pca", dimension=12, progress=False)
    [code] = blocks((ROOT / "docs" / "discovery.md").read_text(encoding="utf-8"), "python")
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(command, cwd=pictures, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "clusters of 120" in done.stdout
    assert all((pictures / name).is_file() for name in ("there.png", "map.png", "report.html"))


@pytest.fixture
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "docs" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demonstrations_digits_are_found_by_the_ids_it_asks_with(demo: ModuleType, tmp_path: Path) -> None:
    asked = re.findall(
        r'query = "test/00000" if source.is_dir\(\) else "(.*)"', (ROOT / "docs" / "demo.py").read_text()
    )
    with embedstore.create(tmp_path / "s") as store:
        assert store.index(demo.digits(tmp_path), encoder="pca", dimension=4, progress=False).added == 1797
        hits = store.search(store.item(asked[0]), 5, "label != 0")
        assert len(hits) == 5
        assert all(hit.metadata["label"] != 0 for hit in hits)


@pytest.mark.parametrize(
    "body",
    [b"no gzip", gzip.compress(b"x" * 9999)[:-20], b"\x1f\x8b\x08\x00" + bytes(6) + b"\xff" * 50, b""],
    ids=["no gzip", "cut short", "damaged", "empty"],  # a gzip holds the time, and a test's name must not
)
def test_a_download_that_is_damaged_is_no_download(demo: ModuleType, tmp_path: Path, body: bytes) -> None:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(max(1, len(body))))  # of nothing, a byte is promised
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        demo.HOME = f"http://127.0.0.1:{server.server_port}"
        assert demo.from_home(tmp_path / "data") is None
        server.shutdown()
    assert list((tmp_path / "data").iterdir()) == []


def test_the_reference_is_what_the_docstrings_say() -> None:
    """``python docs/reference.py > docs/python.md`` writes it."""
    written = runpy.run_path(str(ROOT / "docs" / "reference.py"))["reference"]()
    assert (ROOT / "docs" / "python.md").read_text() == written
