"""``embedstore map`` and ``unmap``, and directions between clusters and boxes of a map, against the library."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import embedstore

from .charted import copy, copy_of_blobs, hurry, seq
from .clustered import COUNT, digits
from .commands import answer, refused, run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing but directions is written to this one."""
    return copy(tmp_path_factory)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors without pictures and without a decoder; nothing is changed."""
    return copy_of_blobs(tmp_path_factory)


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    hurry(monkeypatch)
    return copy(tmp_path_factory)


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def test_a_map_is_drawn_as_the_library_draws_it(store: Path, tmp_path: Path) -> None:
    found = answer("map", store, "-o", tmp_path / "a.png", "--color", "label", "--no-thumbnails", "--side", 300)
    run("map", "make", store, "-o", tmp_path / "b.png", "--colour", "odd", "--side", 250)
    run("map", store, "-o", tmp_path / "c.png", "--grid", 3)
    with embedstore.open(store, read_only=True) as opened:
        assert found == asdict(opened.map())
        assert pixels(tmp_path / "a.png") == opened.draw_map(colour="label", thumbnails=False, side=300).tobytes()
        assert pixels(tmp_path / "b.png") == opened.draw_map(colour="odd", side=250).tobytes()
        assert pixels(tmp_path / "c.png") == opened.draw_grid(3).tobytes()
    shown = run("map", store)
    lines = {line.split()[0]: line.split()[1:] for line in shown.stdout.splitlines()}
    assert lines["map"] == ["default"]
    assert lines["items"] == [str(COUNT)]
    assert float(lines["trustworthiness"][0]) == pytest.approx(found["trustworthiness"], abs=1e-4)
    assert shown.stderr == ""
    assert f"wrote {tmp_path / 'a.png'}" in run("map", store, "-o", tmp_path / "a.png", "--side", 200).stderr


def test_maps_are_made_once_made_anew_listed_and_removed(own: Path) -> None:
    first = answer("map", own)
    with embedstore.open(own) as opened:
        commits = seq(opened)
        opened.add(digits(COUNT, COUNT + 60))
    again = answer("map", own)
    assert (again["commit"], again["placed"]) == (first["commit"], 60)
    said = run("map", own).stderr
    assert f"60 items were placed since this map was made of {COUNT}; it may be time for another one" in said
    assert "--refit" in said
    new = answer("map", own, "--refit", "--seed", 4)
    assert (new["items"], new["placed"], new["name"]) == (COUNT + 60, 0, "default")
    assert new["commit"] > commits
    other = answer("map", own, "--name", "b side")
    assert (other["name"], other["is_default"]) == ("b side", True)
    assert [one["name"] for one in answer("map", "list", own)] == ["b side", "default"]
    lines = run("map", "list", own).stdout.splitlines()
    assert lines[1].startswith("b side (default)")
    assert answer("map", "remove", own, "b side") == {"removed": "b side"}
    assert run("map", "remove", own, "default").stdout == "removed default\n"
    assert answer("map", "list", own) == []
    result = run("map", "list", own)
    assert (result.stdout, "no maps yet" in result.stderr) == ("", True)


def test_items_that_were_deleted_since_are_counted(own: Path) -> None:
    with embedstore.open(own) as opened:
        opened.delete(opened.ids()[:10])
        said = run("map", own).stderr
        assert said == f"note: 10 of the {COUNT} items that this map was made of were deleted since\n"
        opened.add(digits(COUNT, COUNT + 60))
        said = run("map", own).stderr.splitlines()
        assert said[0] == f"note: 60 items were placed since this map was made of {COUNT}"
        both = f"{COUNT + 60} items that it was made of or that were placed since"
        assert said[1].startswith(f"note: 10 of the {both} were deleted or replaced; ")
        assert said[1].endswith("it may be time for another one: `embedstore map STORE --name default --refit`")
        opened.delete(opened.ids())
    assert f"note: {COUNT + 60} of the {COUNT + 60} items" in run("map", own).stderr
    assert [one["name"] for one in answer("map", "list", own)] == ["default"]
    assert "default (default)" in run("map", "list", own).stdout


def test_no_colour_is_drawn_and_written_alike(store: Path, tmp_path: Path) -> None:
    run("map", store, "--color", "", "--side", 200, "-o", tmp_path / "m.png", "--html", tmp_path / "m.html")
    with embedstore.open(store, read_only=True) as opened:
        assert pixels(tmp_path / "m.png") == opened.draw_map(colour="", side=200).tobytes()
    assert (tmp_path / "m.html").is_file()


@pytest.mark.parametrize("place", [("0.25", "-0.5"), ("-.5", "-1e-1"), ("-1", "2"), ("0", "0")])
def test_a_point_is_turned_back_as_the_library_does_also_where_it_is_negative(
    store: Path, tmp_path: Path, place: tuple[str, str]
) -> None:
    x, y = map(float, place)
    found = answer("unmap", store, *place, "-k", 3, "--where", "odd = true", "-o", tmp_path / "z.npy")
    with embedstore.open(store, read_only=True) as opened:
        latent = opened.unmap((x, y))
        hits = opened.search(latent, 3, "odd = true")
        assert (found["x"], found["y"]) == (x, y)
        assert found["vector"] == pytest.approx(latent.vector.tolist(), rel=1e-6)
        assert found["support"] == pytest.approx(float(opened.support(latent)[0]))
        assert [hit["id"] for hit in found["hits"]] == hits.ids
        assert [hit["distance"] for hit in found["hits"]] == pytest.approx(hits.distances.tolist())
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), found["vector"], rtol=1e-6)
    shown = run("unmap", "-k", 3, store, *place, "--where", "odd = true", "--map", "default").stdout
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == hits.ids
    assert f"support {found['support']:.3f}" in shown


def test_a_point_is_drawn_with_what_lies_there(store: Path, tmp_path: Path) -> None:
    result = run("unmap", store, 0.25, -0.5, "-k", 4, "-o", tmp_path / "there.png")
    assert result.stderr.splitlines()[-1] == f"wrote {tmp_path / 'there.png'}"
    with Image.open(tmp_path / "there.png") as image:
        assert image.width > 400


def test_without_a_decoder_the_nearest_items_are_found_and_it_says_why_there_is_no_picture(
    plain: Path, tmp_path: Path
) -> None:
    result = run("unmap", plain, -0.5, 0.5, "-k", 3, "-o", tmp_path / "p.png")
    assert "note: " in result.stderr
    assert "decode" in result.stderr
    assert "the sheet shows the nearest items alone" in result.stderr
    assert (tmp_path / "p.png").is_file()
    assert len(result.stdout.splitlines()) == 5  # head, three items, support
    run("map", plain, "-o", tmp_path / "map.png", "--side", 200)
    assert (tmp_path / "map.png").is_file()
    said = refused("map", plain, "-o", tmp_path / "grid.png", "--grid", 3)
    assert "decode" in said
    assert not (tmp_path / "grid.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("map", "STORE", "-o", "x.gif"), "x.gif must end in one of"),
        (("map", "STORE", "-o", "nowhere/x.png"), "there is no folder nowhere"),
        (("map", "STORE", "-o", "x.html"), "-o draws a picture, and x.html is a page: give it to --html"),
        (("map", "STORE", "--html", "x.txt"), "x.txt must end in .html or .htm"),
        (("map", "STORE", "--html", "nowhere/x.html"), "there is no folder nowhere"),
        (("map", "STORE", "-o", "x.png", "--color", "lable"), "did you mean 'label'?"),
        (("map", "STORE", "-o", "x.png", "--color", "cluster.fuond"), "no clustering is named 'fuond'"),
        (("map", "STORE", "-o", "x.png", "--side", 20), "the map's side is 20"),
        (("map", "STORE", "-o", "x.png", "--grid", 1), "squares along a side is 1"),
        (("map", "STORE", "-o", "x.png", "--grid", 100), "squares along a side is 100"),
        (("map", "STORE", "--name", "a'b"), "can't name a map"),
        (("map", "STORE", "--refit", "--seed", -1), "seed"),
        (("map", "remove", "STORE", "defualt"), "no map is named 'defualt': did you mean 'default'?"),
        (("map", "list", "nowhere.store"), "nowhere.store"),
        (("unmap", "STORE", 0, 0, "--map", "defualt"), "did you mean 'default'?"),
        (("unmap", "STORE", "nan", 0), "two finite numbers"),
        (("unmap", "STORE", 0, "-inf"), "two finite numbers"),
        (("unmap", "STORE", 0, 20000), "there is nothing at"),
        (("unmap", "STORE", 0, 0, "-k", 0), "k"),
        (("unmap", "STORE", 0, 0, "-o", "x.gif"), "x.gif must end in one of"),
    ],
)
def test_mistakes_are_one_line_that_names_them(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refused(*(store if word == "STORE" else word for word in words))
    assert said in told
    assert "\n" not in told
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [
        ("map", "STORE", "--grid", 4),  # where to?
        ("unmap", "STORE", 0),
        ("unmap", "STORE", "left", 0),
        ("unmap", "STORE", 0, 0, 0),
        ("unmap", "STORE", 0, 0, "--wher", "odd = true"),
        ("map", "STORE", "--siide", 300),
    ],
)
def test_wrong_usage_ends_with_2(store: Path, words: tuple[object, ...]) -> None:
    result = run(*(store if word == "STORE" else word for word in words), code=2)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_store_without_a_map_says_how_to_make_one(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "new.store") as new:
        new.add_vectors([f"i{i}" for i in range(8)], np.eye(8, dtype=np.float32))
    assert answer("map", "list", tmp_path / "new.store") == []
    embedstore.create(tmp_path / "empty.store").close()
    assert answer("map", "list", tmp_path / "empty.store") == []
    assert "no maps yet" in run("map", "list", tmp_path / "empty.store").stderr
    assert "no map yet: `embedstore map STORE` makes one" in refused("unmap", tmp_path / "new.store", 0, 0)
    assert "8 items are too few" in refused("map", tmp_path / "new.store")
    said = refused("direction", "make", tmp_path / "new.store", "d", "--to-box", "0,0,1,1")
    assert "no map yet to draw a box on" in said


def direction(store: Path, *words: object) -> list[float]:
    """The vector of a direction."""
    vector: list[float] = answer("direction", "make", store, "made", *words)["vector"]
    return vector


def test_a_direction_between_clusters_is_the_one_between_their_filters(store: Path) -> None:
    made = direction(store, "--from-cluster", 2, "--to-cluster", 5)
    assert made == pytest.approx(direction(store, "--negative", "cluster = 2", "--positive", "cluster = 5"))
    with embedstore.open(store) as opened:
        opened.name_cluster(5, "it's")
        expected = opened.mean("cluster = 5").vector - opened.mean("cluster = 2").vector
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-3)
    assert direction(store, "--from-cluster", 2, "--to-cluster", "it's") == pytest.approx(made)
    alone = direction(store, "--to-cluster", 5)
    assert alone == pytest.approx(direction(store, "--positive", "cluster = 5"))
    # It keeps its meaning when another clustering is chosen.
    found = answer("direction", "make", store, "kept", "--to-cluster", 5)
    assert found["positive"] == "cluster.found = 5"


def test_a_direction_between_boxes_of_the_map_is_the_one_between_their_filters(store: Path) -> None:
    left, right = (
        "map.x between -9 and -0.25 and map.y between -9 and 9",
        "map.x between 0.5 and 9 and map.y between -9 and 9",
    )
    expected = direction(store, "--negative", left, "--positive", right)
    assert direction(store, "--from-box", "-9,-9,-0.25,9", "--to-box", "0.5,-9,9,9") == pytest.approx(expected)
    # Any two opposite corners, and blanks, will do.
    assert direction(store, "--from-box", "-0.25,9, -9,-9", "--to-box=9,-9,0.5,9") == pytest.approx(expected)
    with embedstore.open(store, read_only=True) as opened:
        number = next(
            one for one in range(opened.clustering().clusters) if not opened.count(f"cluster = {one} and {right}")
        )
    mixed = direction(store, "--from-cluster", number, "--to-box", "0.5,-9,9,9")
    assert mixed == pytest.approx(direction(store, "--negative", f"cluster = {number}", "--positive", right))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ("--from-cluster", 1, "--negative", "odd = true", "--to-cluster", 2),
            2,
            "--negative and --from-cluster name the same side",
        ),
        (("--to-cluster", 1, "--positive", "odd = true"), 2, "--positive and --to-cluster"),
        (("--to-cluster", 1, "--to-box", "0,0,1,1"), 2, "--to-cluster and --to-box"),
        (("--to-cluster", 1, "--from-box", "0,0,1,1", "--from-cluster", 3), 2, "--from-cluster and --from-box"),
        (("--to-box", "0,0,1"), 2, "'0,0,1' is no box such as -1,0.5,0.25,2"),
        (("--to-box", "0,0,1,1,2"), 2, "is no box"),
        (("--to-box", "a,b,c,d"), 2, "is no box"),
        (("--to-box", ""), 2, "is no box"),
        (("--from-cluster", 1), 1, "--to-cluster or --to-box is missing"),
        (("--to-cluster", 99), 1, "there is no cluster 99"),
        (("--to-cluster", "boots"), 1, "no cluster is named 'boots'"),
        (("--to-box", "900,900,901,901"), 1, "no item"),
    ],
)
def test_sides_that_can_t_be_meant_are_refused(store: Path, words: tuple[object, ...], code: int, said: str) -> None:
    result = run("direction", "make", store, "x", *words, code=code)
    assert said in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "x" not in [one["name"] for one in answer("direction", "list", store)]
