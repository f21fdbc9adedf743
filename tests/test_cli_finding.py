"""``embedstore duplicates``, ``outliers`` and ``mislabeled``, against the library."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import embedstore
from embedstore.types import Item

from .clustered import LABELS, PICTURES
from .commands import answer, refused, run

COUNT = 120
WRONG = {3: 4, 17: 0, 50: 9}  # items whose label is another one's
EQUAL = [5, 6, 7]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 digits, three of them twice and once more, three with a wrong label, and one that is noise."""
    label = [int(WRONG.get(i, LABELS[i])) for i in range(COUNT)]
    items = [Item(f"d{i:03d}", PICTURES[i][..., None], {"label": label[i], "half": i % 2}) for i in range(COUNT)]
    items += [Item(f"e{i}{turn}", PICTURES[i][..., None], {"label": label[i]}) for i in EQUAL for turn in "ab"]
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    path = tmp_path_factory.mktemp("finding") / "found.store"
    with embedstore.create(path) as store:
        store.index([*items, Item("noise", noise, {})], encoder="pca", dimension=8, progress=False)
    return path


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "own.store"))


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def ids(store: Path) -> list[str]:
    with embedstore.open(store, read_only=True) as opened:
        return opened.ids()


def test_duplicates_are_listed_as_the_library_finds_them(made: Path, tmp_path: Path) -> None:
    found = answer("duplicates", made, "-o", tmp_path / "d.png")
    with embedstore.open(made, read_only=True) as opened:
        got = opened.duplicates()
    assert found["groups"] == plain([{k: v for k, v in asdict(group).items() if k != "rows"} for group in got.groups])
    assert (found["items"], found["surplus"], found["deleted"]) == (COUNT + 7, got.surplus, 0)
    assert {tuple(sorted(group["ids"])) for group in found["groups"] if group["kind"] == "exact"} == {
        tuple(sorted((f"d{i:03d}", f"e{i}a", f"e{i}b"))) for i in EQUAL
    }
    with Image.open(tmp_path / "d.png") as image:
        assert image.height > 3 * 96
    shown = run("duplicates", made)
    for group in got.groups[:20]:
        assert any(group.ids[0] in line and ", ".join(group.ids[1:]) in line for line in shown.stdout.splitlines())
    assert f"{len(got.groups)} groups among {COUNT + 7} items (3 of equal content)" in shown.stdout
    assert f"{len(got.surplus)} items could go" in shown.stdout
    near = answer("duplicates", made, "--distance", 0.4, "--where", "half = 0")
    with embedstore.open(made, read_only=True) as opened:
        assert near["surplus"] == opened.duplicates(distance=0.4, where="half = 0").surplus
    assert len(ids(made)) == COUNT + 7


def test_nothing_is_deleted_where_there_is_nobody_to_ask(own: Path) -> None:
    for words in ((), ("--json",)):
        result = run("duplicates", own, "--delete", *words, code=2)
        assert "items would be deleted, and there is no terminal to ask on: give --yes" in result.stderr
        assert "Traceback" not in result.stderr
    assert len(ids(own)) == COUNT + 7


def test_exactly_what_is_more_than_enough_is_deleted(own: Path) -> None:
    before = ids(own)
    with embedstore.open(own, read_only=True) as opened:
        surplus = opened.duplicates().surplus
    assert len(surplus) >= 6
    found = answer("duplicates", own, "--delete", "--yes")
    assert (found["surplus"], found["deleted"]) == (surplus, len(surplus))
    assert ids(own) == [id for id in before if id not in surplus]
    again = run("duplicates", own, "--delete", "--yes").stdout  # there is nothing left to ask about
    assert "0 items could go" in again
    assert "deleted" not in again
    assert len(ids(own)) == len(before) - len(surplus)


def test_where_there_is_nothing_to_draw_it_says_so(made: Path, tmp_path: Path) -> None:
    result = run("duplicates", made, "--where", "half = 0", "--distance", 0, "-o", tmp_path / "d.png")
    assert f"there are no groups to draw: {tmp_path / 'd.png'} was not written" in result.stderr
    assert "wrote" not in result.stderr
    assert not (tmp_path / "d.png").exists()


def on_a_terminal(answered: str, *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that somebody answers on a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "embedstore.cli", *map(str, words)],
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    os.close(follower)
    try:
        os.write(leader, answered.encode())
        out, said = process.communicate(timeout=120)
    finally:
        os.close(leader)
    return process.returncode, out, said


def test_who_is_asked_on_a_terminal_decides(own: Path) -> None:
    with embedstore.open(own, read_only=True) as opened:
        surplus = opened.duplicates().surplus
    code, out, said = on_a_terminal("n\n", "duplicates", own, "--delete", "--json")
    assert (json.loads(out)["surplus"], json.loads(out)["deleted"]) == (surplus, 0)
    assert f"delete {len(surplus)} of {COUNT + 7} items, and keep one of each group?" in said
    assert "nothing was deleted" in said
    assert (code, len(ids(own))) == (1, COUNT + 7)
    code, _, _ = on_a_terminal("y\n", "duplicates", own, "--delete")
    assert (code, len(ids(own))) == (0, COUNT + 7 - len(surplus))


def test_outliers_are_listed_with_their_reasons(made: Path, tmp_path: Path) -> None:
    found = answer("outliers", made, "--limit", 5, "-o", tmp_path / "o.png")
    with embedstore.open(made, read_only=True) as opened:
        got = opened.outliers(5)
    assert found["found"] == plain([asdict(one) for one in got.found])
    assert (found["items"], found["measured"]) == (COUNT + 7, list(got.measured))
    assert found["found"][0]["id"] == "noise"
    assert found["found"][0]["reasons"]
    assert (tmp_path / "o.png").is_file()
    lines = run("outliers", made, "--limit", 5).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == [one.id for one in got.found]
    assert str(got.found[0].reasons[0]) in lines[1]
    assert lines[6].startswith(f"{COUNT + 7} items scored by: ")
    among = answer("outliers", made, "--where", "half = 1", "--limit", 3)
    assert (among["items"], len(among["found"])) == (COUNT // 2, 3)


def test_suspicious_labels_are_listed_with_what_they_should_be(made: Path, tmp_path: Path) -> None:
    found = answer("mislabeled", made, "label", "--limit", 10, "-o", tmp_path / "m.png")
    with embedstore.open(made, read_only=True) as opened:
        got = opened.mislabeled("label", 10)
    assert found["found"] == plain([asdict(one) for one in got.found])
    assert "scores" not in found
    assert (found["wrong"], found["accuracy"], found["unlabelled"]) == (got.wrong, pytest.approx(got.accuracy), 1)
    suspicious = {one["id"]: one["suggested"] for one in found["found"]}
    for item in WRONG:
        assert suspicious[f"d{item:03d}"] == LABELS[item]
    assert (tmp_path / "m.png").is_file()
    shown = run("mislabeled", made, "label", "--limit", 10)
    assert [line.split()[0] for line in shown.stdout.splitlines()[1 : len(got.found) + 1]] == [
        one.id for one in got.found
    ]
    assert f"about {got.wrong} may be wrong" in shown.stdout
    assert "note: 1 items without label were not compared" in shown.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("duplicates", "STORE", "--distance", -1), "-1"),
        (("duplicates", "STORE", "--distance", "nan"), "nan"),
        (("duplicates", "STORE", "-o", "x.gif"), "x.gif must end in one of"),
        (("duplicates", "STORE", "-o", "nowhere/x.png"), "there is no folder nowhere"),
        (("duplicates", "nowhere.store"), "nowhere.store"),
        (("duplicates", "nowhere.store", "--delete", "--yes"), "nowhere.store"),
        (("outliers", "STORE", "--limit", -1), "-1"),
        (("outliers", "STORE", "-o", "x.txt"), "x.txt must end in one of"),
        (("outliers", "STORE", "--limit", 10**6, "-o", "x.png"), "too many for one sheet"),
        (("outliers", "STORE", "--where", "label = 77"), "label = 77"),
        (("mislabeled", "STORE", "lable"), "label"),
        (("mislabeled", "STORE", "label", "--limit", -3), "-3"),
        (("mislabeled", "nowhere.store", "label"), "nowhere.store"),
    ],
)
def test_mistakes_are_one_line_that_names_them(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refused(*(made if word == "STORE" else word for word in words))
    assert said in told
    assert "\n" not in told
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["duplicates", "outliers"])
def test_a_mistyped_filter_is_pointed_at(made: Path, name: str) -> None:
    said = refused(name, made, "--where", "half = 1 and lable = 3").splitlines()
    assert "did you mean label?" in said[0]
    assert said[2].index("^") - 2 == len("half = 1 and ")


@pytest.mark.parametrize(
    "words",
    [("mislabeled", "STORE"), ("outliers", "STORE", "--limit", "many"), ("duplicates", "STORE", "--distance", "x")],
)
def test_wrong_usage_ends_with_2(made: Path, words: tuple[object, ...]) -> None:
    result = run(*(made if word == "STORE" else word for word in words), code=2)
    assert (result.stdout, "Traceback" in result.stderr) == ("", False)
