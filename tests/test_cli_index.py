"""``index``: making a store, adding what is new, and refusing what can't be indexed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import embedstore

from .commands import answer, make_digits_store, refused, run, write_digits, write_vectors


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits_store(tmp_path_factory.mktemp("index"))


def test_a_new_store_holds_every_picture_with_its_folder_as_label(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "digits", 30)
    report = answer("index", tmp_path / "s", source, "--encoder", "pca", "--dimension", 8)
    assert report["created"] is True
    assert (report["added"], report["updated"], report["unchanged"], report["failures"]) == (30, 0, 0, [])
    with embedstore.open(tmp_path / "s") as opened:
        assert sorted(opened.ids()) == sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
        assert all(opened.get(name)["metadata"] == {"label": name.split("/")[0]} for name in opened.ids())
        assert report["encoder"] == opened.info()["spaces"][0]["fingerprint"]
        assert opened.info()["spaces"][0]["dimension"] == 8


def test_the_same_command_again_changes_nothing_and_a_removed_file_is_reported_then_pruned(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "digits", 30)
    words = ["index", tmp_path / "s", source, "--encoder", "pca", "--dimension", 8, "--seed", 0, "--recall", 0.99]
    run(*words)
    assert "30 unchanged" in run(*words).stdout
    [gone] = list(source.rglob("0007.png"))
    gone.unlink()
    name = str(gone.relative_to(source))
    result = run(*words)
    assert f"--prune deletes them): {name}" in result.stderr
    assert "1 gone from the source" in result.stdout
    report = answer(*words, "--prune")
    assert (report["removed"], report["pruned"], report["items"]) == ([name], 1, 29)


def test_a_broken_file_fails_alone_and_the_exit_code_says_so(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "digits", 20)
    (source / "0" / "broken.png").write_bytes(b"no picture")
    words = ["index", tmp_path / "s", source, "--encoder", "pca", "--dimension", 4]
    result = run(*words, code=3)
    assert result.stdout.startswith("20 added, 0 unchanged, 1 failed")
    [line] = [line for line in result.stderr.splitlines() if line.startswith("failed:")]
    assert line.startswith("failed: 0/broken.png: ")
    [failure] = answer(*words, code=3)["failures"]
    assert failure["id"] == "0/broken.png"
    assert line.endswith(failure["reason"])


def test_at_most_twenty_failures_are_listed_but_json_has_all(tmp_path: Path) -> None:
    vectors = np.ones((40, 4), np.float32) * np.arange(1, 41)[:, None]
    vectors[5:28] = np.nan
    np.save(tmp_path / "v.npy", vectors.astype(np.float32))
    lines = run("index", tmp_path / "s", tmp_path / "v.npy", "--vectors", code=3).stderr.splitlines()
    assert len([line for line in lines if line.startswith("failed: ")]) == 20
    assert "... and 3 more; --json lists all" in lines
    failures = answer("index", tmp_path / "s", tmp_path / "v.npy", code=3)["failures"]
    assert [failure["id"] for failure in failures] == [f"v/{i:05d}" for i in range(5, 28)]


def test_vectors_are_stored_as_they_are_under_the_metric_asked_for(tmp_path: Path) -> None:
    vectors = write_vectors(tmp_path / "v.npy", 50)
    run("index", tmp_path / "s", tmp_path / "v.npy", "--vectors", "--metric", "COSINE", "--recall", 0.9, "--seed", 5)
    with embedstore.open(tmp_path / "s") as opened:
        assert opened.info()["spaces"][0]["metric"] == "cosine"
        assert (opened.config.recall, opened.config.seed) == (0.9, 5)
        assert np.array_equal(np.stack([opened.vector(name).vector for name in opened.ids()]), vectors)


def test_a_factory_decides_the_index(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy", 3000, 800)
    run("index", tmp_path / "s", tmp_path / "v.npy", "--vectors", "--factory", "Flat")
    assert [tier["factory"] for tier in answer("info", tmp_path / "s")["spaces"][0]["tiers"]] == ["Flat"]


def test_several_sources_go_in_by_one_command(tmp_path: Path) -> None:
    write_vectors(tmp_path / "a.npy", 10)
    write_vectors(tmp_path / "b.npy", 15)
    assert answer("index", tmp_path / "s", tmp_path / "a.npy", tmp_path / "b.npy", "--vectors")["added"] == 25


def test_reader_options_reach_the_reader(tmp_path: Path) -> None:
    vectors = write_vectors(tmp_path / "v.npy", 5)
    rows = [{"name": f"n{i}", "weights": vector.tolist(), "kind": i} for i, vector in enumerate(vectors)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("index", tmp_path / "s", tmp_path / "t.jsonl", "--vector-column", "weights", "--id-column", "name")
    with embedstore.open(tmp_path / "s") as opened:
        assert opened.ids() == [f"n{i}" for i in range(5)]
        assert opened.get("n3")["metadata"] == {"kind": 3}
        np.testing.assert_allclose(opened.vector("n3").vector, vectors[3], rtol=1e-6)
    np.savez(tmp_path / "z.npz", first=vectors, second=vectors * 2)
    run("index", tmp_path / "z", tmp_path / "z.npz", "--vectors", "--key", "second")
    with embedstore.open(tmp_path / "z") as opened:
        assert np.array_equal(opened.vector(opened.ids()[1]).vector, vectors[1] * 2)
    source = write_digits(tmp_path / "digits", 12)
    run("index", tmp_path / "d", source, "--encoder", "pca", "--dimension", 2, "--no-labels", "--reader", "folder")
    with embedstore.open(tmp_path / "d") as opened:
        assert all(opened.get(name)["metadata"] == {} for name in opened.ids())


@pytest.mark.parametrize("source", ["missing", "empty"])
def test_a_source_with_nothing_to_read_leaves_no_store_behind(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / source) in refused("index", tmp_path / "s", tmp_path / source)
    assert not (tmp_path / "s").exists()


def test_a_folder_with_other_things_and_a_file_are_never_made_stores(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy")
    before = sorted(tmp_path.iterdir())
    assert "holds other things" in refused("index", tmp_path, tmp_path / "v.npy", "--vectors")
    assert "is a file" in refused("index", tmp_path / "v.npy", tmp_path / "v.npy", "--vectors")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--recall", "0.5"], "where recall is 0.99"),
        (["--seed", "3"], "where seed is 0"),
        (["--factory", "Flat"], "where factory is not set"),
        (["--dimension", "5"], "has 12 dimensions, not 5"),
        (["--encoder", "autoencoder"], "filled by the encoder pca"),
        (["--metric", "euclid"], "unknown metric 'euclid'"),
    ],
)
def test_what_a_store_was_made_with_is_never_silently_ignored(store: Path, words: list[str], said: str) -> None:
    assert said in refused("index", store, store.parent / "digits", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fit-minutes", -1], "can't be done in -1.0 minutes"),
        (["--encoder", "nope"], "unknown encoder 'nope': use one of autoencoder, pca"),
        (["--dimension", 0], "latents of 0 dimensions"),
        (["--image-size", 5], "5 px"),
    ],
)
def test_a_wish_that_no_fit_can_follow_is_refused_whether_or_not_there_is_a_store(
    store: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    source = write_digits(tmp_path / "digits", 5)
    for place in (tmp_path / "new", store):
        assert said in refused("index", place, source, *words)
    assert not (tmp_path / "new").exists()


def test_a_first_run_that_fails_leaves_no_settings_behind(tmp_path: Path) -> None:
    same = tmp_path / "same"
    same.mkdir()
    for number in range(3):
        Image.new("L", (8, 8), 7).save(same / f"{number}.png")
    words = ["index", tmp_path / "s", same, "--encoder", "pca"]
    assert "are the same" in refused(*words, "--seed", 3, "--recall", 0.9)
    assert "at most 1" in refused(*words, "--recall", 2)
    assert "nonsense" in refused(*words, "--factory", "nonsense")
    source = write_digits(tmp_path / "digits", 20)
    run("index", tmp_path / "s", source, "--encoder", "pca", "--dimension", 4, "--seed", 4)
    with embedstore.open(tmp_path / "s") as opened:
        assert (opened.config.seed, opened.config.recall) == (4, 0.9)
    assert "where seed is 4: leave --seed out" in refused("index", tmp_path / "s", source, "--seed", 5)


def test_a_source_of_which_nothing_can_be_read_is_refused_with_the_first_reasons(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / f"{name}.png").write_bytes(b"no picture" if name > "a" else b"")
    said = refused("index", tmp_path / "s", tmp_path / "bad", "--encoder", "pca")
    assert " has no picture that can be read: a.png: the file is empty; b.png, c.png: is no picture" in said
    assert said.endswith("; and 1 more")
    np.save(tmp_path / "v.npy", np.full((2, 3), np.nan, np.float32))
    said = refused("index", tmp_path / "v", tmp_path / "v.npy", "--vectors")
    assert "has no readable vector: v/00000, v/00001: " in said


def test_large_pictures_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    (tmp_path / "big").mkdir()
    for number in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((800, 600)).save(tmp_path / "big" / f"{number}.jpg")
    for words in ([], ["--image-size", 100]):
        store = tmp_path / f"cli{len(words)}"
        run("index", store, tmp_path / "big", "--encoder", "pca", "--dimension", 2, *words)
        with embedstore.create(tmp_path / f"library{len(words)}") as library, embedstore.open(store) as opened:
            size = 100 if words else None
            library.index(tmp_path / "big", encoder="pca", dimension=2, image_size=size, progress=False)
            for name in library.ids():
                assert np.array_equal(opened.vector(name).vector, library.vector(name).vector)


def test_a_store_of_vectors_keeps_its_metric_and_one_of_pictures_its_image_size(store: Path, tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy", 20)
    run("index", tmp_path / "s", tmp_path / "v.npy", "--vectors")
    words = ["index", tmp_path / "s", tmp_path / "v.npy", "--vectors", "--metric"]
    assert "compares by l2, not by cosine" in refused(*words, "cosine")
    run(*words, "l2")
    assert "px, not of 16" in refused("index", store, write_digits(tmp_path / "digits", 5), "--image-size", 16)


def test_a_metric_is_refused_for_pictures(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "digits", 12)
    assert "--metric is for vectors" in refused("index", tmp_path / "s", source, "--metric", "cosine")
    assert not (tmp_path / "s").exists()


def test_vectors_into_a_store_of_pictures_are_refused_and_change_nothing(store: Path, tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy")
    assert "give pictures" in refused("index", store, tmp_path / "v.npy", "--vectors")
    assert answer("info", store)["items"] == 120


def test_an_interrupted_first_try_can_be_repeated_with_other_settings(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "digits", 12)
    assert "unknown encoder" in refused("index", tmp_path / "s", source, "--encoder", "nope")
    assert answer("index", tmp_path / "s", source, "--encoder", "pca", "--dimension", 3)["added"] == 12


def test_a_copied_store_is_found_by_its_path_alone(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "copy")
    assert answer("index", tmp_path / "copy", store.parent / "digits")["unchanged"] == 120


def test_an_encoder_named_for_vectors_is_refused(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy", 20)
    words = ("index", tmp_path / "s", tmp_path / "v.npy", "--vectors")
    assert "leave the encoder 'pca' out" in refused(*words, "--encoder", "pca")
    assert not (tmp_path / "s").exists()
    run(*words)
    assert "is filled by precomputed vectors, not by pca" in refused(*words, "--encoder", "pca")


def test_a_named_kind_that_misses_the_recall_is_said(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(2_000, 24)).astype(np.float32)
    np.save(tmp_path / "v.npy", rows)
    found = run("index", tmp_path / "s", tmp_path / "v.npy", "--vectors", "--factory", "PCA2,HNSW8,SQ8")
    assert "note: PCA2,HNSW8,SQ8 finds " in found.stderr
    assert "of the nearest, not 99.0%: `embedstore tune` measures other kinds" in found.stderr
