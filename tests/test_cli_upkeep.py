"""``info``, ``export``, ``recall``, ``verify``, ``compact``, ``backup``."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import embedstore

from .commands import answer, make_digits_store, refused, run, write_vectors
from .stores import small_store, vectors


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits_store(tmp_path_factory.mktemp("upkeep"))


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "copy.store"))


def test_info_prints_what_the_library_knows(store: Path) -> None:
    found = answer("info", store)
    with embedstore.open(store, read_only=True) as opened:
        assert found == json.loads(json.dumps(opened.info()))
    shown = dict(line.split(maxsplit=1) for line in run("info", store).stdout.splitlines() if line)
    assert shown["items"] == "120"
    assert shown["vectors"] == "120 × 12, l2"
    assert shown["encoder"] == f"pca {found['spaces'][0]['fingerprint'][:12]}"


def test_info_says_how_an_index_comes_that_was_never_built(tmp_path: Path) -> None:
    """Of a process that was killed, or never closed the store."""
    with small_store(tmp_path / "s", tail=10**6) as store:
        store.add_vectors([str(i) for i in range(500)], vectors(500))
    assert "500 vectors\n" in run("info", tmp_path / "s").stdout
    with embedstore.open(tmp_path / "s") as store:
        store._writer.configure(replace(store.config, tail_floats=10))
    assert "500 vectors: `embedstore compact` makes an index of them" in run("info", tmp_path / "s").stdout
    run("compact", tmp_path / "s")
    assert "searched exactly" not in run("info", tmp_path / "s").stdout
    with small_store(tmp_path / "t", tail=10, factory="IVF4096,Flat") as store:
        store.add_vectors([str(i) for i in range(500)], vectors(500))
        with pytest.warns(UserWarning, match="can't be trained"):
            store.build()
    assert "500 vectors\n" in run("info", tmp_path / "t").stdout  # for which there can't be one


def test_get_shows_no_size_of_what_has_no_picture(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy", 3)
    run("index", tmp_path / "s", tmp_path / "v.npy", "--vectors")
    assert "px" not in run("get", tmp_path / "s", "v/00001").stdout


def test_verify_says_what_is_lost_and_what_mends_it(copy: Path) -> None:
    segment = sorted((copy / "segments").glob("*.vec"))[0]
    damaged = bytearray(segment.read_bytes())
    damaged[-1] ^= 1
    segment.write_bytes(damaged)
    found = run("verify", copy, code=1)
    assert f"delete 120 items in what differs (--json lists them), run `embedstore compact {copy}`" in found.stderr
    names = json.loads(run("verify", copy, "--json", code=1).stdout)["damaged"]
    run("delete", copy, *names, "--yes")
    assert "which drops what differs" in run("verify", copy, code=1).stderr
    run("compact", copy)
    assert run("verify", copy).stdout.startswith("whole: 0 items")


def test_export_writes_every_item_with_its_vector(store: Path, tmp_path: Path) -> None:
    report = answer("export", store, tmp_path / "all.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert report == {"path": f"{tmp_path}/all.jsonl", "format": "jsonl", "items": 120, "left_out": []}
    with embedstore.open(store, read_only=True) as opened:
        assert [row["id"] for row in rows] == opened.ids()
        for row in rows[::17]:
            assert row["label"] == opened.get(row["id"])["metadata"]["label"]
            assert np.array_equal(np.float32(row["vector"]), opened.vector(row["id"]).vector)


def test_export_obeys_filter_format_and_no_vectors(store: Path, tmp_path: Path) -> None:
    run("export", store, tmp_path / "threes", "--format", "csv", "--where", "label = '3'", "--no-vectors")
    with (tmp_path / "threes").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with embedstore.open(store, read_only=True) as opened:
        assert [row["id"] for row in rows] == opened.ids("label = '3'")
    assert set(rows[0]) == {"id", "source", "label"}


def test_export_of_a_dataset_says_what_has_no_picture(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy", 3)
    run("index", tmp_path / "s", tmp_path / "v.npy", "--vectors")
    assert "3 items have no picture" in run("export", tmp_path / "s", tmp_path / "d", "--format", "dataset").stderr
    assert answer("export", tmp_path / "s", tmp_path / "e", "--format", "dataset")["left_out"] == [
        "v/00000", "v/00001", "v/00002",
    ]  # fmt: skip


def test_export_refuses_what_it_can_not_write(store: Path, tmp_path: Path) -> None:
    assert "unknown export format 'foo'" in refused("export", store, tmp_path / "f.csv", "--format", "foo")
    assert "f.xyz" in refused("export", store, tmp_path / "f.xyz")
    assert str(tmp_path / "no") in refused("export", store, tmp_path / "no" / "f.csv")
    assert "unknown field" in refused("export", store, tmp_path / "f.csv", "--where", "lable = 3")
    assert list(tmp_path.iterdir()) == []


def test_recall_of_a_store_that_is_searched_exactly_is_one(store: Path) -> None:
    report = answer("recall", store, "-k", 5, "--sample", 40)
    assert (report["recall"], report["high"], report["k"], report["queries"]) == (1.0, 1.0, 5, 40)
    assert 0.9 < report["low"] < 1
    assert run("recall", store, "--sample", 40).stdout.startswith("recall@10 1.0000 (95 % CI ")
    assert "sample is 0" in refused("recall", store, "--sample", 0)
    assert "k is 0" in refused("recall", store, "-k", 0)


def test_recall_equals_the_librarys_on_an_approximate_index(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy", 3000, 800)
    run("index", tmp_path / "s", tmp_path / "v.npy", "--vectors", "--factory", "HNSW8,Flat", "--recall", 0.5)
    with embedstore.open(tmp_path / "s", read_only=True) as opened:
        assert answer("recall", tmp_path / "s", "--sample", 60) == asdict(opened.recall(10, sample=60))


def test_verify_of_a_whole_store(store: Path) -> None:
    found = answer("verify", store)
    assert (found["ok"], found["problems"], found["items"]) == (True, [], 120)
    assert run("verify", store).stdout.startswith("whole: 120 items")


def test_verify_lists_damage_and_exits_with_1(copy: Path) -> None:
    segment = sorted((copy / "segments").glob("*.vec"))[0]
    damaged = bytearray(segment.read_bytes())
    damaged[-5] ^= 1
    segment.write_bytes(damaged)
    found = answer("verify", copy, code=1)
    assert found["ok"] is False
    [problem] = found["problems"]
    assert segment.name in problem
    result = run("verify", copy, code=1)
    assert f"damaged: {problem}" in result.stdout.splitlines()
    assert "is damaged" in result.stderr


def test_compact_frees_what_was_deleted(copy: Path) -> None:
    run("delete", copy, "--where", "label = '3'", "--yes")
    gone = 120 - answer("info", copy)["items"]
    report = answer("compact", copy)
    assert report["dropped"] == gone > 0
    assert report["freed"] > 12 * 4 * gone
    assert answer("verify", copy)["ok"]
    assert "0 deleted rows dropped" in run("compact", copy).stdout


def test_a_backup_answers_as_its_original_did(copy: Path, tmp_path: Path) -> None:
    first = "0/0000.png"
    before = answer("search", copy, first)
    report = answer("backup", copy, tmp_path / "safe.store")
    assert report["bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "safe.store").rglob("*") if path.is_file()
    )
    run("delete", copy, first)
    assert answer("search", tmp_path / "safe.store", first) == before
    assert "exists already" in refused("backup", copy, tmp_path / "safe.store")
