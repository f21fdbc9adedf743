"""The command line as a shell sees it: real processes, their streams, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from embedstore.config import StoreConfig
from embedstore.truth import opening

from .commands import make_digits_store, write_digits, write_vectors

COMMAND = [sys.executable, "-m", "embedstore.cli"]
#: A question by id starts a process: none of these may be the price of it.
HEAVY = ("torch", "sklearn", "pyarrow", "pandas", "alembic", "tqdm", "scipy", "PIL", "multiprocessing.pool")


def shell(*words: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *map(os.fsencode, map(str, words))], capture_output=True, timeout=120, **options)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits_store(tmp_path_factory.mktemp("process"))


@pytest.mark.parametrize(
    "words",
    [
        ["search", "0/0000.png", "--where", "label = '0'"],
        ["get", "0/0000.png"],
        ["info"],
        ["update", "0/0000.png", "--set", "a=1"],
    ],
)
def test_a_quick_command_loads_no_heavy_library(store: Path, words: list[str]) -> None:
    code = (
        "import sys\n"
        "from embedstore.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        f"finally:\n    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, words[0], store, *words[1:]], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_json_is_all_there_is_on_stdout_and_progress_goes_to_stderr(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "digits", 30)
    done = shell("index", tmp_path / "s", source, "--encoder", "pca", "--dimension", 4, "--json", "--progress")
    assert done.returncode == 0
    assert json.loads(done.stdout)["added"] == 30
    assert b"encoding" in done.stderr
    quiet = shell("index", tmp_path / "s", source, "--json")
    assert (json.loads(quiet.stdout)["unchanged"], quiet.stderr) == (30, b"")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["info"], 0, b""),
        (["search", "nope"], 1, b"error: no item has the id 'nope'"),
        (["serch", "x"], 2, b"did you mean 'search'?"),
        (["search", "0/0000.png", "-k", "x"], 2, b"not a valid integer"),
    ],
)
def test_exit_codes(store: Path, words: list[str], code: int, said: bytes) -> None:
    done = shell(words[0], store, *words[1:])
    assert done.returncode == code
    assert said in done.stderr
    assert (done.stdout == b"") == (code != 0)
    assert len(done.stderr.splitlines()) == code or code == 2


def test_items_that_failed_give_exit_code_3(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "digits", 12)
    (source / "0" / "empty.png").touch()
    done = shell("index", tmp_path / "s", source, "--encoder", "pca", "--dimension", 4)
    assert done.returncode == 3
    assert done.stderr.startswith(b"failed: 0/empty.png: ")


def test_ctrl_c_ends_with_130_and_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = ["index", tmp_path / "s", write_digits(tmp_path / "digits", 200), "--no-progress"]
    child = subprocess.Popen(
        [*COMMAND, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    while not (tmp_path / "s" / "store.db").exists():
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to the worker processes too
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, b"")
    assert err == b"interrupted: everything acknowledged is kept; the same command goes on from there\n"
    again = shell(*words, "--encoder", "pca", "--dimension", 4, "--json")
    assert json.loads(again.stdout)["added"] == 200


def test_ctrl_c_while_python_imports_is_as_quiet() -> None:
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'numpy': raise KeyboardInterrupt\n"
        "from embedstore.cli import run\n"
        "assert 'numpy' not in sys.modules\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "run()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "info", "nowhere"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy", 200, 4)
    assert shell("index", tmp_path / "s", tmp_path / "v.npy", "--vectors").returncode == 0
    words = ["search", str(tmp_path / "s"), "--vector", str(tmp_path / "v.npy"), "-k", "200"]
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""


def test_warnings_are_one_line_on_stderr(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy", 3000, 800)
    shell("index", tmp_path / "s", tmp_path / "v.npy", "--vectors", "--factory", "Flat")
    [tier] = (tmp_path / "s" / "tiers").iterdir()
    tier.write_bytes(tier.read_bytes()[:-9])
    done = shell("recall", tmp_path / "s", "--sample", 20, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["recall"] == 1.0
    [line] = done.stderr.splitlines()
    assert line.startswith(b"warning: ")
    assert tier.name.encode() in line


def test_a_name_that_is_no_utf8_is_printed_with_replacements(store: Path) -> None:
    done = shell("search", os.fsdecode(b"/no\xff"), "x")
    assert done.returncode == 1
    assert "there is no store at /no\ufffd".encode() in done.stderr
    assert b"not valid UTF-8" in shell("get", store, os.fsdecode(b"\xff")).stderr


def test_an_ascii_terminal_gets_what_it_can_show(store: Path, tmp_path: Path) -> None:
    assert shell("update", store, "0/0000.png", "--set", "name=Größe").returncode == 0
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    found = shell("get", store, "0/0000.png", "--json", env=environment)
    assert json.loads(found.stdout)["metadata"]["name"] == "Größe"
    shown = shell("get", store, "0/0000.png", env=environment)
    assert shown.returncode == 0
    assert b"Gr" in shown.stdout


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    store = tmp_path / "s"
    opening.create(store, StoreConfig(lock_seconds=0.2))
    write_vectors(tmp_path / "v.npy", 5)
    assert shell("index", store, tmp_path / "v.npy", "--vectors").returncode == 0
    code = (
        "import embedstore, sys, time\n"
        "with embedstore.open(sys.argv[1])._writer.locked('a long job'):\n"
        "    print(flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, store], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        reader, writer = shell("search", store, "v/00001"), shell("delete", store, "v/00001")
        holder.kill()
    assert reader.returncode == 0  # readers don't wait
    assert writer.returncode == 1
    assert f"process {holder.pid} (a long job".encode() in writer.stderr
