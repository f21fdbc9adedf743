"""``search`` and ``get`` against the library and against NumPy."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import embedstore

from .commands import answer, make_digits_store, refused, run, write_vectors


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits_store(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def first(store: Path) -> str:
    with embedstore.open(store, read_only=True) as opened:
        return opened.ids()[0]


def test_search_by_id_prints_what_the_library_answers(store: Path, first: str) -> None:
    found = answer("search", store, first, "-k", 7)
    with embedstore.open(store, read_only=True) as opened:
        hits = opened.search(opened.item(first), k=7)
    assert found == {
        "query": first,
        "hits": [{"id": h.id, "score": h.score, "distance": h.distance, "metadata": h.metadata} for h in hits],
    }
    assert first not in [hit["id"] for hit in found["hits"]]


def test_search_by_vector_file_finds_what_numpy_finds(tmp_path: Path) -> None:
    vectors = write_vectors(tmp_path / "v.npy")
    run("index", tmp_path / "v.store", tmp_path / "v.npy", "--vectors")
    query = np.random.default_rng(3).normal(size=(3, 12)).astype(np.float32)
    np.save(tmp_path / "q.npy", query)
    found = answer("search", tmp_path / "v.store", "--vector", tmp_path / "q.npy", "-k", 5)
    assert [one["query"] for one in found] == [f"{tmp_path}/q.npy[{i}]" for i in range(3)]
    for one, vector in zip(found, query, strict=True):
        distances = np.linalg.norm(vectors.astype(np.float64) - vector, axis=1)
        nearest = np.argsort(distances, kind="stable")[:5]
        assert [hit["id"] for hit in one["hits"]] == [f"v/{i:05d}" for i in nearest]
        np.testing.assert_allclose([hit["distance"] for hit in one["hits"]], distances[nearest], rtol=1e-5)


def test_one_vector_gives_an_object_and_an_array_of_one_a_list(store: Path, first: str, tmp_path: Path) -> None:
    run("get", store, first, "-o", tmp_path / "one.npy")
    vector = np.load(tmp_path / "one.npy")
    np.save(tmp_path / "row.npy", vector[None])
    single = answer("search", store, "--vector", tmp_path / "one.npy", "-k", 1)
    [row] = answer("search", store, "--vector", tmp_path / "row.npy", "-k", 1)
    assert single["hits"] == row["hits"]
    assert single["hits"][0]["id"] == first
    assert single["hits"][0]["distance"] == 0


def test_the_picture_of_an_item_finds_the_item_first(store: Path, first: str) -> None:
    found = answer("search", store, "--picture", store.parent / "digits" / first, "-k", 3)
    assert found["hits"][0]["id"] == first
    assert found["hits"][0]["distance"] == pytest.approx(0, abs=1e-4)


def test_queries_of_several_kinds_are_answered_in_the_order_ids_pictures_vectors(
    store: Path, first: str, tmp_path: Path
) -> None:
    run("get", store, first, "-o", tmp_path / "v.npy")
    picture = store.parent / "digits" / first
    found = answer("search", store, first, "--vector", tmp_path / "v.npy", "--picture", picture, "--id", first, "-k", 2)
    assert [one["query"] for one in found] == [first, first, str(picture), str(tmp_path / "v.npy")]
    assert found[0]["hits"] == found[1]["hits"] == answer("search", store, first, "-k", 2)["hits"]


def test_a_filter_holds_for_every_hit_and_none_is_missing(store: Path, first: str) -> None:
    found = answer("search", store, first, "-k", 50, "--where", "label = '3'")
    with embedstore.open(store, read_only=True) as opened:
        threes = set(opened.ids("label = '3'")) - {first}
    assert {hit["id"] for hit in found["hits"]} == threes


def test_explain_says_the_plan_and_what_was_scanned(store: Path, first: str) -> None:
    assert answer("search", store, first, "--exact", "--explain")["explain"]["scanned"] == 120
    assert list(answer("search", store, first, "--explain")["explain"]["seconds"]) == ["search", "ids"]
    text = run("search", store, first, "--exact", "--explain").stdout
    assert "plan: exact, scanned: 120" in text
    assert "searched in" in text


def test_the_table_has_the_label_first_and_numbers_to_the_right(store: Path, first: str) -> None:
    run("update", store, first, "--set", "aaa=1")
    [other] = answer("search", store, first, "-k", 1)["hits"]
    lines = run("search", store, other["id"], "-k", 3).stdout.splitlines()
    run("update", store, first, "--unset", "aaa")
    assert lines[0].split() == ["id", "score", "distance", "label", "aaa"]
    ends = [[found.end() for found in re.finditer(r"\S+", line)][:3] for line in lines]
    assert len({tuple(end[1:]) for end in ends}) == 1


def test_a_narrow_terminal_cuts_off_metadata_before_ids(store: Path, first: str) -> None:
    lines = run("search", store, first, "-k", 2, env={"COLUMNS": "34"}).stdout.splitlines()
    assert lines[0].split() == ["id", "score", "distance"]
    assert all(len(line) <= 34 for line in lines)


@pytest.mark.parametrize("several", [False, True])
def test_a_sheet_shows_each_query_and_its_hits(store: Path, first: str, tmp_path: Path, several: bool) -> None:
    words = ["--id", first] if several else []
    result = run("search", store, first, *words, "-k", 4, "-o", tmp_path / "s.png")
    assert "wrote" in result.stderr
    with Image.open(tmp_path / "s.png") as image:
        sheet = np.asarray(image.convert("L"))
    with embedstore.open(store, read_only=True) as opened:
        [digit] = opened.images([first])
    assert digit is not None
    enlarged = np.asarray(digit.resize((128, 128), Image.Resampling.NEAREST))
    rows, columns = sheet.shape[0] - 127, 64
    found = [
        (y, x) for y in range(rows) for x in range(columns) if np.array_equal(sheet[y : y + 128, x : x + 128], enlarged)
    ]
    assert len(found) == (2 if several else 1)  # the query stands at the left of each row


def test_a_sheet_of_items_without_pictures_is_still_written(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy", 20)
    run("index", tmp_path / "v.store", tmp_path / "v.npy", "--vectors")
    run("search", tmp_path / "v.store", "v/00003", "-k", 2, "-o", tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as image:
        assert image.width > 3 * 128


def test_get_shows_what_the_library_knows(store: Path, first: str) -> None:
    with embedstore.open(store, read_only=True) as opened:
        expected, vector = opened.get(first), opened.vector(first).vector
        two = [opened.get(name) for name in opened.ids()[:2]]
    found = answer("get", store, first, "--vector")
    assert found.pop("vector") == pytest.approx(vector.tolist())
    assert found == expected
    assert answer("get", store, *(one["id"] for one in two)) == two
    assert f"label     '{expected['metadata']['label']}'" in run("get", store, first).stdout


def test_get_writes_the_pictures_that_were_indexed(store: Path, first: str, tmp_path: Path) -> None:
    with embedstore.open(store, read_only=True) as opened:
        ids = opened.ids()[:3]
    run("get", store, first, "-o", tmp_path / "one.png")
    run("get", store, *ids, "-o", tmp_path / "several")
    written = [tmp_path / "one.png", *sorted((tmp_path / "several").iterdir())]
    for path, name in zip(written, [first, *ids], strict=True):
        with Image.open(path) as image, Image.open(store.parent / "digits" / name) as original:
            assert np.array_equal(np.asarray(image), np.asarray(original))


def test_get_writes_the_latents_that_the_library_gives(store: Path, tmp_path: Path) -> None:
    with embedstore.open(store, read_only=True) as opened:
        ids = opened.ids()[:3]
        vectors = np.stack([opened.vector(name).vector for name in ids])
    run("get", store, *ids, "-o", tmp_path / "v.npy")
    assert np.array_equal(np.load(tmp_path / "v.npy"), vectors)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nope"], "no item has the id 'nope'"),
        ([os.fsdecode(b"\xff")], "not valid UTF-8"),
        (["ID", "-k", "0"], "k is 0"),
        (["ID", "-k", "-1"], "k is -1"),
        (["ID", "--recall", "1.5"], "recall is 1.5"),
        (["ID", "--where", "label ="], "expected a value"),
        (["ID", "--where", "lable = 3"], "did you mean label?"),
        (["ID", "-o", "sheet.txt"], "must end in one of"),
        (["ID", "-o", "no/folder/s.png"], "there is no folder"),
        (["--picture", "missing.png"], "there is no file missing.png"),
        (["--picture", "."], "is no file"),
        (["--vector", "missing.npy"], "there is no file missing.npy"),
    ],
)
def test_a_bad_search_gets_one_sentence(store: Path, first: str, words: list[str], said: str) -> None:
    words = [first if word == "ID" else word for word in words]
    assert said in refused("search", store, *words)


def test_a_filter_that_does_not_parse_has_a_caret_under_the_place(store: Path, first: str) -> None:
    lines = refused("search", store, first, "--where", "label == = 3").splitlines()
    assert lines[1] == "  label == = 3"
    assert lines[2].strip() == "^"
    assert lines[1][lines[2].index("^")] == "="


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full(12, np.nan, np.float32), "NaN or infinity"),
        (np.ones(5, np.float32), "12 dimensions"),
        (np.ones((2, 2, 12), np.float32), "shape (d,) or (n, d)"),
        (np.ones((0, 12), np.float32), "shape (d,) or (n, d)"),
        (np.array(["a"]), "shape (d,) or (n, d)"),
    ],
)
def test_a_bad_vector_file_gets_one_sentence(store: Path, tmp_path: Path, array: np.ndarray, said: str) -> None:
    np.save(tmp_path / "q.npy", array)
    assert said in refused("search", store, "--vector", tmp_path / "q.npy")


def test_files_that_hold_no_vector_get_one_sentence(store: Path, tmp_path: Path) -> None:
    (tmp_path / "junk.npy").write_bytes(b"junk")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=np.ones(12))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "archive.npz").write_bytes(b"PK\x03\x04 and no more")
    headers = {
        "lie": b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }",
        "open": b"{'descr': '<f4', 'shape': (",
        "odd": b"{[]: 1}",
        "deep": b"-" * 9000 + b"1",
    }
    for name, header in headers.items():
        (tmp_path / f"{name}.npy").write_bytes(b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header)
    for name, said in {
        "junk.npy": "no .npy",
        "object.npy": "no .npy",
        "many.npz": "is an .npz",
        "archive.npz": "is an .npz",
        **{f"{name}.npy": "no .npy" for name in headers},
        "fifo": "no file",
    }.items():
        assert said in refused("search", store, "--vector", tmp_path / name)
    assert "no file" in refused("search", store, "--picture", tmp_path / "fifo")


def test_a_query_must_be_named(store: Path) -> None:
    assert "name what to search for" in refused("search", store, code=2)


@pytest.mark.parametrize(
    "command", [["search", "x"], ["get", "x"], ["info"], ["verify"], ["recall"], ["export", "f.csv"]]
)
def test_reading_commands_refuse_what_is_no_store(tmp_path: Path, command: list[str]) -> None:
    name, *rest = command
    assert "there is no store at" in refused(name, tmp_path / "none", *rest)
    assert "is no store" in refused(name, tmp_path, *rest)
    (tmp_path / "file").touch()
    assert "is a file" in refused(name, tmp_path / "file", *rest)


def test_ids_and_metadata_that_would_move_the_cursor_are_shown_escaped(store: Path, first: str) -> None:
    run("update", store, first, "--set", "note=\x1b[31mred\nline")
    shown = run("get", store, first).stdout
    run("update", store, first, "--unset", "note")
    assert "\x1b" not in shown
    assert "\\x1b[31mred\\x0aline" in shown


def test_values_are_told_apart_as_filters_do(tmp_path: Path) -> None:
    metadata = [{"n": 1901, "t": "5", "b": True, "f": 0.5, "e": "", "w": "true"}, {"n": 70000, "t": "x", "b": "b"}]
    with embedstore.create(tmp_path / "v.store") as store:
        store.add_vectors(["a", "b"], np.eye(2, dtype=np.float32), metadata)
    shown = dict(line.split(maxsplit=1) for line in run("get", tmp_path / "v.store", "a").stdout.splitlines())
    assert shown == {"id": "a", "n": "1901", "t": "'5'", "b": "true", "f": "0.5000", "e": "''", "w": "'true'"}
    assert "70000" in run("search", tmp_path / "v.store", "a").stdout
    assert "'5' (1), x (1)" in run("info", tmp_path / "v.store").stdout
    assert "true (1), b (1)" in run("info", tmp_path / "v.store").stdout
