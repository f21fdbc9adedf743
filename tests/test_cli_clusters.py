"""``embedstore cluster`` and what is under it, against the library."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import embedstore

from .charted import copy, hurry
from .clustered import COUNT, between, blobs, told
from .commands import answer, refused, run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing is changed in this one."""
    return copy(tmp_path_factory)


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    hurry(monkeypatch)
    return copy(tmp_path_factory)


def as_json(value: Any) -> Any:
    """As JSON has what a dataclass holds: lists, and null for what is not finite."""
    if isinstance(value, dict):
        return {key: as_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def test_clusters_are_made_where_no_other_command_is_named(own: Path) -> None:
    found = answer("cluster", own, "--k", 7, "--name", "seven", "--seed", 3)
    with embedstore.open(own, read_only=True) as opened:
        assert found["clusters"] == opened.clustering("seven").clusters == 7
        assert (found["asked"], found["items"], found["is_default"]) == (7, COUNT, True)
        portraits = [asdict(one) for one in opened.clusters("seven")]
        assert found["found"] == as_json(portraits)
        first = told(opened, "seven")
    shown = run("cluster", "make", own, "--k", 7, "--name", "again", "--seed", 3).stdout
    with embedstore.open(own, read_only=True) as opened:
        assert told(opened, "again") == first
    lines = shown.splitlines()
    assert lines[0].split()[:3] == ["cluster", "items", "share"]
    sizes = {line.split()[0]: line.split()[1] for line in lines[1:8]}
    assert sizes == {str(one["number"]): str(one["size"]) for one in portraits if one["number"] >= 0}
    assert f"7, of {COUNT} items, {found['noise']} in none" in shown


def test_noise_is_left_alone_unless_it_is_to_be_assigned(own: Path) -> None:
    with embedstore.open(own) as opened:
        fingerprint = opened.info()["spaces"][0]["fingerprint"]
        unsure = between(opened, "found", 9)
        opened.add_vectors([f"x{i}" for i in range(9)], unsure, encoder=fingerprint)
    run("cluster", own, "--assign-noise", "--name", "all")
    with embedstore.open(own, read_only=True) as opened:
        assert opened.clustering("all").noise == 0
        assert opened.clustering("found").noise == 9
        assert opened.count("cluster.all is null") == 0


def test_a_store_in_a_folder_called_like_a_command_is_written_with_its_folder(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = own.parent
    own.rename(folder / "show")
    monkeypatch.chdir(folder)
    assert [one["name"] for one in answer("cluster", "list", "./show")] == ["found"]
    assert answer("cluster", "show", "show")["name"] == "found"
    refused("cluster", "show", code=2)
    assert answer("cluster", "./show", "--k", 5, "--name", "five")["clusters"] == 5


def test_clusters_are_shown_as_the_library_has_them(store: Path, tmp_path: Path) -> None:
    found = answer("cluster", "show", store, "--exemplars", 4, "--rim", 2, "-o", tmp_path / "c.png")
    with embedstore.open(store, read_only=True) as opened:
        portraits = opened.clusters(exemplars=4, rim=2)
        picture = opened.draw_clusters()
        coarse = opened.clusters(level=0)
        number = opened.clustering().clusters
    assert found["found"] == as_json([asdict(one) for one in portraits])
    assert (found["name"], found["clusters"]) == ("found", number)
    assert Image.open(tmp_path / "c.png").convert("RGB").tobytes() == picture.tobytes()
    assert len(answer("cluster", "show", store, "--level", 0)["found"]) == len(coarse) < len(portraits)
    shown = run("cluster", "show", store, "--clustering", "found").stdout
    for one in portraits:
        assert f"{one.size} ({one.share:.1%})" in shown
        assert one.exemplars[0] in shown
    assert "times as often as elsewhere" in shown
    assert shown.rstrip().count(", used\n") + shown.rstrip().endswith(", used") == 1


def test_a_cluster_is_named_and_the_name_selects_it(own: Path) -> None:
    assert "cluster 3 is named ankle boots" in run("cluster", "name", own, 3, "ankle boots").stdout
    with embedstore.open(own, read_only=True) as opened:
        assert opened.ids("cluster = 'ankle boots'") == opened.ids("cluster = 3")
    found = answer("cluster", "name", own, 1, "it's", "--clustering", "found", "--level", 0)
    assert found["levels"][0]["names"] == {"1": "it's"}
    assert "3 ankle boots" in run("cluster", "show", own).stdout
    assert "cluster 3 is named boots\n" in run("cluster", "name", own, 3, " boots ").stdout
    assert run("cluster", "name", own, 3, "   ").stdout == "cluster 3 has no name\n"
    run("cluster", "name", own, 3, "boots")
    assert "cluster 3 has no name" in run("cluster", "name", own, 3, "").stdout
    with embedstore.open(own, read_only=True) as opened:
        found = opened.clustering()
        assert found.levels[found.level].names == {}


def test_clusterings_are_listed_chosen_and_removed(own: Path) -> None:
    run("cluster", own, "--k", 6, "--name", "six")
    [found, six] = answer("cluster", "list", own)
    assert (found["name"], six["name"], six["clusters"]) == ("found", "six", 6)
    assert (found["is_default"], six["is_default"]) == (False, True)
    lines = run("cluster", "list", own).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["found", "six"]
    assert "six (default)" in lines[2]
    chosen = answer("cluster", "use", own, "found", "--level", 0)
    assert (chosen["name"], chosen["level"], chosen["is_default"]) == ("found", 0, True)
    assert chosen["clusters"] == chosen["levels"][0]["clusters"]
    shown = run("cluster", "use", own, "six").stdout
    assert shown == "cluster now means the 6 clusters of six\n"
    with embedstore.open(own, read_only=True) as opened:
        assert opened.clustering().name == "six"
    assert answer("cluster", "remove", own, "six") == {"removed": "six"}
    assert run("cluster", "remove", own, "found").stdout == "removed found\n"
    assert answer("cluster", "list", own) == []
    result = run("cluster", "list", own)
    assert (result.stdout, "no clusterings yet" in result.stderr) == ("", True)


def test_many_items_placed_since_suggest_another_clustering(own: Path) -> None:
    with embedstore.open(own) as opened:
        fingerprint = opened.info()["spaces"][0]["fingerprint"]
        some = np.stack([opened.vector(id).vector for id in opened.ids()[:60]])
        opened.add_vectors([f"x{i}" for i in range(3)], some[:3] + 0.01, encoder=fingerprint)
        said = run("cluster", "show", own).stderr
        assert f"note: 3 items were placed since this clustering was made of {COUNT}\n" in said
        opened.add_vectors([f"y{i}" for i in range(60)], some + 0.01, encoder=fingerprint)
    said = run("cluster", "show", own).stderr
    assert f"63 items were placed since this clustering was made of {COUNT}; it may be time for another" in said
    assert "--name found" in said


def test_items_that_were_deleted_since_are_counted(own: Path) -> None:
    with embedstore.open(own) as opened:
        opened.delete(opened.ids()[:10])
        said = run("cluster", "show", own).stderr
        assert f"note: 10 of the {COUNT} items that this clustering was made of were deleted since\n" in said
        opened.delete(opened.ids()[1:])
    said = run("cluster", "show", own).stderr
    assert f"note: {COUNT - 1} of the {COUNT} items that this clustering was made of were deleted since; it" in said
    assert "it may be time for another one: `embedstore cluster STORE --name found`" in said
    with embedstore.open(own) as opened:
        opened.delete(opened.ids())
    assert [one["name"] for one in answer("cluster", "list", own)] == ["found"]
    assert "found (default)" in run("cluster", "list", own).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "STORE", "--clustering", "fuond"), "no clustering is named 'fuond': did you mean 'found'?"),
        (("show", "STORE", "--level", 99), "level"),
        (("show", "STORE", "--exemplars", -1), "number of items shown is -1"),
        (("show", "STORE", "-o", "x.gif"), "x.gif must end in one of"),
        (("show", "STORE", "-o", "nowhere/x.png"), "there is no folder nowhere"),
        (("name", "STORE", 99, "x"), "99"),
        (("name", "STORE", 0, "x", "--clustering", "fuond"), "did you mean 'found'?"),
        (("use", "STORE", "fuond"), "did you mean 'found'?"),
        (("use", "STORE", "found", "--level", 99), "level"),
        (("remove", "STORE", "fuond"), "did you mean 'found'?"),
        (("make", "STORE", "--k", 500), "500"),
        (("make", "STORE", "--k", 0), "0"),
        (("make", "STORE", "--name", "a'b"), "can't name a clustering"),
        (("make", "STORE", "--seed", -1), "seed"),
        (("make", "STORE", "-o", "x.txt"), "x.txt must end in one of"),
        (("list", "nowhere.store"), "nowhere.store"),
        (("nowhere.store",), "nowhere.store"),
    ],
)
def test_mistakes_are_one_line_that_names_them(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    told_of_it = refused("cluster", *(store if word == "STORE" else word for word in words))
    assert said in told_of_it
    assert "\n" not in told_of_it
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [
        ("make", "STORE", "--k", "many"),
        ("name", "STORE"),
        ("make", "STORE", "--kk", 3),
        (),
    ],
)
def test_wrong_usage_ends_with_2(store: Path, words: tuple[object, ...]) -> None:
    result = run("cluster", *(store if word == "STORE" else word for word in words), code=2)
    assert "Traceback" not in result.stderr


def test_a_store_without_items_has_no_clusterings_and_none_are_found(tmp_path: Path) -> None:
    embedstore.create(tmp_path / "new.store").close()
    assert answer("cluster", "list", tmp_path / "new.store") == []
    assert "\n" not in refused("cluster", tmp_path / "new.store")
    assert "\n" not in refused("cluster", "show", tmp_path / "new.store")


def test_items_without_pictures_are_not_drawn_before_anything_is_made(tmp_path: Path) -> None:
    path = tmp_path / "vectors.store"
    latents, _ = blobs([30, 30])
    with embedstore.create(path) as store:
        store.add_vectors([f"i{i}" for i in range(60)], latents)
    result = run("cluster", path, "--json", "-o", tmp_path / "c.png", code=1)
    assert "no pictures" in result.stderr
    assert result.stdout == ""
    assert answer("cluster", "list", path) == []


def test_a_mistyped_command_is_told_from_a_store(own: Path) -> None:
    assert "did you mean 'show'" in run("cluster", "shwo", own, code=2).stderr
    assert "did you mean 'list'" in run("map", "lisst", own, code=2).stderr
    assert "no store at" in run("cluster", "elsewhere.store", code=1).stderr


def test_another_clustering_says_that_it_is_meant_now(own: Path) -> None:
    assert "cluster means other now" in run("cluster", own, "--name", "other", "--k", 3).stderr
