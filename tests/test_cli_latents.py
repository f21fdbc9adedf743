"""The commands that compute in the latent space, against the library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import embedstore

from .commands import answer, refused, run, write_vectors
from .computing import make


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("cli") / "digits.store")


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


def test_eval_prints_what_the_library_answers(store: Path, tmp_path: Path) -> None:
    text = "item('d001') + direction('to-three') / 2"
    found = answer("eval", store, text, "-k", 3, "--where", "label != 3", "-o", tmp_path / "sheet.png")
    with embedstore.open(store, read_only=True) as opened:
        latent = opened.evaluate(text)
        hits = opened.search(latent, 3, "label != 3")
        assert found["vector"] == pytest.approx(latent.vector.tolist())
        assert found["support"] == pytest.approx(float(opened.support(latent)[0]))
        assert [hit["id"] for hit in found["hits"]] == hits.ids
    assert size(tmp_path / "sheet.png")[0] > 400
    run("eval", store, text, "-o", tmp_path / "z.npy")
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), found["vector"], rtol=1e-6)
    shown = run("eval", store, "item('d001')").stdout
    assert shown.splitlines()[1].startswith("d001")
    assert "support 0." in shown


def test_a_point_off_the_data_is_warned_of(store: Path, tmp_path: Path) -> None:
    assert "off the data" in run("eval", store, "item('d001') * 50").stderr
    assert "off the data" not in run("eval", store, "item('d001')").stderr
    result = run("decode", store, "=item('d001') * 50", "d002", "-o", tmp_path / "x.png")
    assert "warning: =item('d001') * 50 lies off the data (support 0.000)" in result.stderr


def test_an_expressions_fault_is_shown_with_a_caret(store: Path) -> None:
    said = refused("eval", store, "item('d001') + drection('to-three')")
    assert said.splitlines() == [
        "unknown function drection: did you mean direction?",
        "  item('d001') + drection('to-three')",
        "                 ^",
    ]
    assert refused("eval", store, "mean('label = 77')").startswith("no item matches label = 77\n")


def test_similar_is_most_similar(store: Path) -> None:
    words = ("-p", "d001", "-p", "=mean('label = 3')", "-n", "d002", "-k", 4)
    found = answer("similar", store, *words)
    with embedstore.open(store, read_only=True) as opened:
        hits = opened.most_similar(["d001", opened.mean("label = 3")], ["d002"], 4)
        multiplied = opened.most_similar(["d001", opened.mean("label = 3")], ["d002"], 4, method="3cosmul")
    assert [hit["id"] for hit in found["hits"]] == hits.ids
    assert [hit["score"] for hit in found["hits"]] == pytest.approx(hits.scores.tolist())
    assert [hit["id"] for hit in answer("similar", store, *words, "--method", "3cosmul")["hits"]] == multiplied.ids
    refused("similar", store, code=2)
    assert "unknown method" in refused("similar", store, "-p", "d001", "--method", "magic")


def test_directions_are_made_listed_shown_and_removed(store: Path, tmp_path: Path) -> None:
    made = answer("direction", "make", store, "even-ness", "--positive", "odd = false", "--keep", "to-three")
    assert (made["name"], made["positive"], made["keep"]) == ("even-ness", "odd = false", ["to-three"])
    assert [one["name"] for one in answer("direction", "list", store)] == ["even-ness", "to-three"]
    assert "even-ness  difference  odd = false" in run("direction", "list", store).stdout
    shown = run(
        "direction", "show", store, "to-three", "-o", tmp_path / "show.png", "--id", "d008", "--strengths", "0,1"
    )
    assert "label = 3 (" in shown.stdout
    assert "AUC on held-out items" in shown.stdout
    assert size(tmp_path / "show.png")[0] > 400
    run("direction", "show", store, "even-ness", "-o", tmp_path / "show.png")
    assert "removed even-ness" in run("direction", "remove", store, "even-ness").stdout
    assert [one["name"] for one in answer("direction", "list", store)] == ["to-three"]
    assert "no direction is named" in refused("direction", "remove", store, "even-ness")
    assert "--positive" in refused("direction", "make", store, "x")
    refused("direction", "show", store, "to-three", "--strengths", "a,b", code=2)
    assert "out of range" in refused("direction", "show", store, "to-three", "--strengths", "0,99")


def test_an_edit_is_a_sheet_a_film_and_hits(store: Path, tmp_path: Path) -> None:
    words = ("edit", store, "d008", "--edit", "to-three=0.8")
    [found] = answer(*words, "-k", 3, "-o", tmp_path / "e.png")
    with embedstore.open(store, read_only=True) as opened:
        expected = opened.edit("d008", {"to-three": 0.8})
        assert found["vector"] == pytest.approx(expected.vector.tolist(), rel=1e-5)
        assert [hit["id"] for hit in found["hits"]] == opened.search(expected, 3).ids
        assert found["moved"] == pytest.approx((expected - opened.vector("d008")).norm(), rel=1e-5)
    assert size(tmp_path / "e.png")[0] > 400
    run(*words, "--edit", "to-three=-1", "-o", tmp_path / "e.gif")
    with Image.open(tmp_path / "e.gif") as film:
        assert film.n_frames == 2 * 23 - 2  # 11 steps for each edit and the item itself, there and back
        assert film.info["loop"] == 0
        assert max(film.size) == 256
    run(*words, "d009", "-o", tmp_path / "e.npy")
    assert np.load(tmp_path / "e.npy").shape == (2, 16)
    assert len(answer(*words, "d009", "=mean('label = 8')", "-o", tmp_path / "many.png")) == 3
    assert "a film shows one point" in refused(*words, "d009", "-o", tmp_path / "f.gif")
    assert "did you mean 'to-three'" in refused("edit", store, "d008", "--edit", "to-thre=1")
    refused("edit", store, "d008", "--edit", "to-three=much", code=2)


@pytest.mark.parametrize("method", ["linear", "density", "graph"])
def test_interpolate_lists_and_draws_its_stops(store: Path, tmp_path: Path, method: str) -> None:
    found = answer("interpolate", store, "d000", "d001", "--method", method, "--steps", 5, "-o", tmp_path / "p.png")
    with embedstore.open(store, read_only=True) as opened:
        path = opened.interpolate("d000", "d001", steps=5, method=method)
    np.testing.assert_allclose([stop["vector"] for stop in found["stops"]], path.latents, atol=1e-5)
    assert found["ids"] == path.ids
    assert (found["stops"][0]["nearest"], found["stops"][-1]["nearest"]) == ("d000", "d001")
    assert size(tmp_path / "p.png")[0] > 300
    run("interpolate", store, "d000", "=mean('label = 3')", "--method", method, "-o", tmp_path / "p.gif")
    assert size(tmp_path / "p.gif") == (256, 256)


def test_methods_are_compared_in_a_table_and_a_sheet(store: Path, tmp_path: Path) -> None:
    words = ("interpolate", store, "d000", "d001", "--compare", "--steps", 6)
    found = answer(*words, "-o", tmp_path / "c.png")
    assert list(found["methods"]) == ["linear", "spherical", "density", "graph", "geodesic"]
    assert found["left_out"] == []
    assert all(one["good_for"] for one in found["methods"].values())
    assert size(tmp_path / "c.png")[1] > 800
    text = run(*words).stdout
    assert "picture length" in text.splitlines()[0]
    assert "graph: every stop is a real item" in text
    refused(*words, "--grid", code=2)
    assert "must end in one of .png" in refused(*words, "-o", tmp_path / "c.gif")


def test_a_grid_is_drawn_between_four_corners(store: Path, tmp_path: Path) -> None:
    corners = ("d000", "d001", "d002", "d003")
    found = answer("interpolate", store, *corners, "--grid", "--steps", 4, "-o", tmp_path / "g.png")
    assert len(found["stops"]) == 16
    assert "four corners" in refused("interpolate", store, "d000", "d001", "--grid")
    refused("interpolate", store, "d000", code=2)
    assert "steps is 1" in refused("interpolate", store, "d000", "d001", "--steps", 1)


def test_samples_are_listed_drawn_and_saved(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("sample", store, 9, "--where", "label = 3", "--seed", 5)
    found = answer(*words, "-o", tmp_path / "s.png", "--save-as-dataset", tmp_path / "sampled")
    with embedstore.open(store, read_only=True) as opened:
        samples = opened.sample(9, "label = 3", seed=5)
    np.testing.assert_allclose([one["vector"] for one in found["samples"]], samples.latents, atol=1e-5)
    assert [one["nearest"] for one in found["samples"]] == samples.nearest
    assert found["usual_distance"] == pytest.approx(samples.usual)
    assert size(tmp_path / "s.png")[0] > 900
    said = [json.loads(line) for line in (tmp_path / "sampled" / "metadata.jsonl").read_text().splitlines()]
    assert [one["nearest"] for one in said] == samples.nearest
    assert "9 samples, 0 of them copies" in run(*words).stdout
    run("sample", store, 30, "--near", "d003", "--spread", 0.5, "-o", tmp_path / "s.npy")
    assert np.load(tmp_path / "s.npy").shape == (30, 16)
    monkeypatch.delenv("COLUMNS", raising=False)
    many = ("sample", store, 30, "--near", "=mean('label = 3')")
    assert len(run(*many).stdout.splitlines()) == 32  # a pipe gets all of them
    monkeypatch.setenv("COLUMNS", "100")
    assert "... and 10 more" in run(*many).stdout
    assert "can't be fitted" in refused("sample", store, 3, "--where", "id = 'd003'")
    assert "there already" in refused(*words, "--save-as-dataset", tmp_path / "sampled")


def test_decode_gives_the_decoders_picture_or_a_sheet(store: Path, tmp_path: Path) -> None:
    run("decode", store, "d001", "-o", tmp_path / "one.png")
    with embedstore.open(store, read_only=True) as opened:
        assert np.array_equal(np.asarray(Image.open(tmp_path / "one.png")), np.asarray(opened.reconstruct("d001")))
        np.save(tmp_path / "z.npy", np.stack([opened.vector("d001").vector, opened.vector("d002").vector]))
    found = answer("decode", store, "d001", "=item('d001')/2", "--vector", tmp_path / "z.npy", "-o", tmp_path / "m.png")
    assert [one["name"] for one in found] == [
        "d001",
        "=item('d001')/2",
        *(f"{tmp_path / 'z.npy'}[{i}]" for i in (0, 1)),
    ]
    assert found[0]["support"] == pytest.approx(found[2]["support"])
    refused("decode", store, "-o", tmp_path / "m.png", code=2)
    np.save(tmp_path / "bad.npy", np.zeros((2, 7), np.float32))
    assert "16 dimensions" in refused("decode", store, "--vector", tmp_path / "bad.npy", "-o", tmp_path / "m.png")
    np.save(tmp_path / "bad.npy", np.full(16, np.nan, np.float32))
    assert "NaN" in refused("decode", store, "--vector", tmp_path / "bad.npy", "-o", tmp_path / "m.png")


def test_without_a_decoder_the_search_half_works_and_decoding_says_why_not(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy")
    store = tmp_path / "v.store"
    run("index", store, tmp_path / "v.npy", "--vectors")
    text = "item('v/00001') - item('v/00002')"
    assert len(answer("eval", store, text, "-o", tmp_path / "e.png")["hits"]) == 10
    assert len(answer("sample", store, 5)["samples"]) == 5
    assert len(answer("interpolate", store, "v/00001", "v/00002")["stops"]) == 8
    assert answer("interpolate", store, "v/00001", "v/00002", "--compare")["left_out"] == ["geodesic"]
    run("direction", "make", store, "d", "--method", "principal")
    assert answer("edit", store, "v/00001", "--edit", "d=1")[0]["moved"] > 0
    for words in (
        ("decode", store, "v/00001", "-o", tmp_path / "x.png"),
        ("interpolate", store, "v/00001", "v/00002", "-o", tmp_path / "x.png"),
        ("interpolate", store, "v/00001", "v/00002", "-o", tmp_path / "x.gif"),
        ("edit", store, "v/00001", "--edit", "d=1", "-o", tmp_path / "x.png"),
        ("sample", store, 5, "-o", tmp_path / "x.png"),
        ("sample", store, 5, "--save-as-dataset", tmp_path / "d"),
        ("direction", "show", store, "d", "-o", tmp_path / "x.png"),
    ):
        assert "no decoder" in refused(*words)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "item('d001')", "-o", "x.gif"),
        ("edit", "d001", "--edit", "to-three=1", "-o", "x.bmp"),
        ("interpolate", "d000", "d001", "-o", "nowhere/x.png"),
        ("sample", "3", "-o", "x"),
        ("decode", "d001", "-o", "x.gif"),
        ("direction", "show", "to-three", "-o", "x.txt"),
    ],
)
def test_a_picture_that_cant_be_written_is_refused_first(store: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    group = 2 if words[0] == "direction" else 1
    said = refused(*words[:group], store, *words[group:-1], tmp_path / words[-1])
    assert "must end in" in said or "no folder" in said


def test_small_comforts(store: Path, tmp_path: Path) -> None:
    run("similar", store, "-p", "d000", "-p", "d010", "-n", "d003", "-k", 7, "-o", tmp_path / "s.png")
    assert size(tmp_path / "s.png")[0] > 700
    assert answer("eval", store, "=item('d000')")["vector"] == answer("eval", store, "item('d000')")["vector"]
    run("eval", store, "item('d000')", "-o", tmp_path / "e.NPY")
    assert np.load(tmp_path / "e.NPY").shape == (16,)
    run("interpolate", store, "d000", "d001", "--steps", 5, "-o", tmp_path / "p.npy")
    assert np.load(tmp_path / "p.npy").shape == (5, 16)
    [edited] = answer("edit", store, "d008", "--edit", "to-three=1", "--where", "label = 8")
    assert {hit["metadata"]["label"] for hit in edited["hits"]} == {8}
    made = ("direction", "make", store, "again", "--positive", "label = 1", "--negative", "label = 7")
    assert "replaces" not in run(*made).stderr
    assert "replaces the direction 'again'" in run(*made).stderr


def test_what_cant_be_written_or_is_meant_otherwise_is_said_before_the_work(store: Path, tmp_path: Path) -> None:
    for words, said in (
        (("edit", "mean('label = 3')", "--edit", "to-three=1"), "an expression begins with ="),
        (("sample", 3, "--near", "mean('label = 3')"), "an expression begins with ="),
        (("interpolate", "d000", "d001", "--steps", 9000, "-o", tmp_path / "w.png"), "or write .gif or .npy"),
        (("sample", 9000, "-o", tmp_path / "w.png"), "18,000 pictures are too many"),
        (("sample", 3, "--save-as-dataset", tmp_path / "no" / "folder"), "check that"),
        (("interpolate", "d000", "d001", "d002", "--steps", 2), "through 3 points"),
        (
            ("direction", "make", "d", "--positive", "label = 3", "--negative", "label = 8", "--balance", "label"),
            "label",
        ),
    ):
        name, *rest = words if words[0] != "direction" else (words[1], *words[2:])
        head = ("direction", name, store) if words[0] == "direction" else (name, store)
        assert said in refused(*head, *rest)
    refused("interpolate", store, "d000", "d001", "--compare", "--method", "linear", code=2)
    refused("interpolate", store, "d000", "d001", "d002", "d003", "--grid", "--method", "linear", code=2)
