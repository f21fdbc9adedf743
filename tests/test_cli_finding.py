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
from embedstore.cli import finding
from embedstore.explore.duplicates import Group
from embedstore.query import sheet
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
        assert min(image.size) > 2 * 96
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


def test_where_no_label_is_suspicious_no_picture_is_written_and_it_says_so(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 40, (40, 8, 8, 1), dtype=np.uint8)
    with embedstore.create(tmp_path / "clean.store") as store:
        items = [Item(str(i), noise[i] + np.uint8(200 * (i % 2)), {"light": i % 2}) for i in range(40)]
        store.index(items, encoder="pca", dimension=4, progress=False)
        assert not store.mislabeled("light").found
    result = run("mislabeled", tmp_path / "clean.store", "light", "-o", tmp_path / "x.png")
    assert f"there are no items to draw: {tmp_path / 'x.png'} was not written" in result.stderr
    assert "wrote" not in result.stderr
    assert not (tmp_path / "x.png").exists()


def many_pairs(path: Path, count: int = 45) -> Path:
    """Items that are each there twice, and others."""
    items = [Item(f"train/{i:05d}{turn}", PICTURES[i][..., None], {}) for i in range(count) for turn in ("", "b")] + [
        Item(f"only/{i:05d}", PICTURES[i][..., None], {}) for i in range(count, 2 * count)
    ]
    with embedstore.create(path) as store:
        store.index(items, encoder="pca", dimension=8, progress=False)
    return path


def test_many_groups_stand_beside_each_other_as_many_as_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = many_pairs(tmp_path / "pairs.store")
    drawn: list[tuple[int, int]] = []
    blocks = sheet.blocks

    def counting(rows: Any, *, tile: int) -> Image.Image:
        drawn.append((len(rows), tile))
        assert all((row.query_caption or "").endswith("\nkeep") for row in rows)
        return blocks(rows, tile=tile)

    monkeypatch.setattr(sheet, "blocks", counting)
    few = run("duplicates", store, "--limit", 3, "-o", tmp_path / "few.png")
    assert sum(line.startswith(("exact", "near")) for line in few.stdout.splitlines()) == 3
    groups = len(answer("duplicates", store, "--limit", 3)["groups"])
    assert groups >= 45
    assert f"... and {groups - 3} more groups: --limit shows more, --json lists all" in few.stderr
    more = run("duplicates", store, "--limit", 43, "-o", tmp_path / "more.png")
    assert sum(line.startswith(("exact", "near")) for line in more.stdout.splitlines()) == 43
    assert [count for count, _ in drawn] == [40, 43]
    assert sum(line.startswith(("exact", "near")) for line in run("duplicates", store).stdout.splitlines()) == 20
    with Image.open(tmp_path / "more.png") as image:
        assert image.width <= 1600
        assert 0.75 < image.width / image.height < 1.33


def test_the_tiles_of_groups_are_as_wide_as_their_ids_need_within_reason() -> None:
    assert finding._tile(["a", "b"]) == 96
    name = "train/60000.png"
    assert sheet.width_of(name, 13) + 14 <= finding._tile(["a", name]) < 144
    assert finding._tile(["x" * 200, "b"]) == 144


def test_the_difference_that_the_threshold_is_one_of_is_listed_where_pictures_were_compared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    near = Group("near", ("a", "b", "c"), (0.0, 1.5, 0.25), (0.0, 0.5, 0.75))
    exact = Group("exact", ("d", "e"), (0.0, 0.0))
    finding._list([near, exact])
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.endswith("largest difference  largest distance")
    assert first.split()[-2:] == ["0.7500", "1.5000"]
    assert second.split() == ["exact", "2", "d", "e", "0.0000"]
    finding._list([exact])
    assert "difference" not in capsys.readouterr().out


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
    assert "note: 1 item without label not compared" in shown.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("duplicates", "STORE", "--distance", -1), "-1"),
        (("duplicates", "STORE", "--distance", "nan"), "nan"),
        (("duplicates", "STORE", "-o", "x.gif"), "x.gif must end in one of"),
        (("duplicates", "STORE", "-o", "nowhere/x.png"), "there is no folder nowhere"),
        (("duplicates", "STORE", "--limit", 10**6, "-o", "x.png"), "too many for one sheet"),
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
    [
        ("mislabeled", "STORE"),
        ("outliers", "STORE", "--limit", "many"),
        ("duplicates", "STORE", "--distance", "x"),
        ("duplicates", "STORE", "--limit", 0),
    ],
)
def test_wrong_usage_ends_with_2(made: Path, words: tuple[object, ...]) -> None:
    result = run(*(made if word == "STORE" else word for word in words), code=2)
    assert (result.stdout, "Traceback" in result.stderr) == ("", False)


def test_what_the_items_around_know_nothing_of_is_said_of_no_single_item(made: Path) -> None:
    found = answer("mislabeled", made, "half")
    label = answer("mislabeled", made, "label")
    assert (found["is_known"], label["is_known"]) == (False, True)
    assert 0.4 < found["guessed"] < 0.7
    assert "may be wrong" not in run("mislabeled", made, "half").stdout
    assert "know too little of it" in run("mislabeled", made, "half").stdout
    assert "may be wrong" in run("mislabeled", made, "label").stdout
