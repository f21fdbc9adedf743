"""Index tiers are derived: whatever becomes of their files, answers stay right, and compact makes them anew."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.index import build
from embedstore.truth import building, trust
from embedstore.truth.tiers import TierWarning

from .oracle import Oracle
from .stores import D, add, assert_answers, filled, small_store, tier_files, vectors


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path) -> None:
    os.truncate(file, 0)


def torn(file: Path) -> None:
    """The size is right, but the second half never reached the disk."""
    size = file.stat().st_size
    os.truncate(file, size // 2)
    os.truncate(file, size)


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def grown(file: Path) -> None:
    with file.open("ab") as out:
        out.write(b"\0")


def missing(file: Path) -> None:
    file.unlink()


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def a_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def swapped(file: Path) -> None:
    first, second = tier_files(file.parent.parent)[:2]
    parked = file.with_name("parked")
    first.rename(parked)
    second.rename(first)
    parked.rename(second)


def of_another_store(file: Path) -> None:
    other = file.parent.parent.with_name("other.store")
    filled(other, rows=31)
    shutil.copy(tier_files(other)[0], file)


DAMAGE = [truncated, emptied, torn, flipped, grown, missing, a_folder, a_fifo, swapped, of_another_store]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiers.store"


def test_a_whole_tier_is_used(path: Path) -> None:
    oracle = filled(path)
    assert len(tier_files(path)) >= 2
    with embedstore.open(path) as store:
        plans = assert_answers(store, oracle)
        assert plans[0] == "exact"
        assert plans[-1] != "exact"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_tier_gives_right_answers_and_one_warning_and_is_rebuilt(
    path: Path, damage: Callable[[Path], None]
) -> None:
    oracle = filled(path)
    damage(tier_files(path)[0])
    bad = 2 if damage is swapped else 1
    with embedstore.open(path) as store:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert_answers(store, oracle)
            assert_answers(store, oracle)
        assert [warning.category for warning in caught] == [TierWarning] * bad
        assert all("embedstore compact" in str(warning.message) for warning in caught)
        report = store.verify()
        assert report.problems == []
        assert len(report.derived) == bad
        store.compact()
        assert store.verify().derived == []
        plans = assert_answers(store, oracle)
        assert plans[-1] != "exact"
    with embedstore.open(path) as store:
        assert_answers(store, oracle)


@pytest.mark.parametrize("damage", DAMAGE)
def test_indexing_drops_and_rebuilds_a_damaged_tier(path: Path, damage: Callable[[Path], None]) -> None:
    oracle = filled(path)
    damage(tier_files(path)[0])
    extra = vectors(1, seed=50)
    with embedstore.open(path) as store:
        report = store.index([embedstore.Item("extra", vector=extra[0])], progress=False)
        assert (report.added, report.failures) == (1, [])
        oracle.put("extra", extra[0], {})
        assert store.verify().derived == []
        assert_answers(store, oracle)


def test_a_tier_is_parsed_only_after_its_hash_matched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = filled(path)
    first, *rest = tier_files(path)
    flipped(first)
    parsed = []

    def read(file: Path) -> object:
        parsed.append(file)
        return original(file)

    original = build.read
    monkeypatch.setattr(build, "read", read)
    with embedstore.open(path) as store, pytest.warns(TierWarning, match=first.name):
        assert_answers(store, oracle)
    assert parsed == rest


def test_a_tier_of_another_user_is_not_parsed(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = filled(path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another home"))
    trust._key.cache_clear()
    try:
        monkeypatch.setattr(build, "read", lambda file: pytest.fail(f"{file} was parsed"))
        with embedstore.open(path) as store:
            with pytest.warns(TierWarning, match="another user"):
                assert_answers(store, oracle)
            monkeypatch.undo()
            monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another home"))
            store.compact()
            assert store.verify().derived == []
            assert assert_answers(store, oracle)[-1] != "exact"
        # The key is made once, for this user alone.
        key = tmp_path / "another home" / "embedstore" / "tier.key"
        assert key.stat().st_mode & 0o777 == 0o600
        assert len(key.read_bytes()) == 32
    finally:
        trust._key.cache_clear()


def test_without_a_home_that_keeps_a_key_tiers_are_rebuilt_by_the_next_process(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    trust._key.cache_clear()
    try:
        oracle = filled(path)
        with embedstore.open(path) as store:
            assert assert_answers(store, oracle)[-1] != "exact"
        trust._key.cache_clear()
        with embedstore.open(path) as store, pytest.warns(TierWarning, match="another user"):
            assert_answers(store, oracle)
    finally:
        trust._key.cache_clear()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("first = first + 1000", "another space"),
        ("count = count - 1", r"holds \d+ vectors, not \d+"),
        ("tuned = '{}'", "can't be loaded"),
        ("signature = ''", "another user"),
        ("sha256 = ''", "not the file that was recorded"),
    ],
)
def test_a_tier_row_that_does_not_fit_its_file_is_not_followed(path: Path, change: str, reason: str) -> None:
    oracle = filled(path, batches=1)
    with sqlite3.connect(path / "store.db") as connection:
        connection.execute(f"UPDATE tiers SET {change}")  # noqa: S608 - our own text
    connection.close()
    with embedstore.open(path) as store, pytest.warns(TierWarning, match=reason):
        assert_answers(store, oracle)


def test_a_tier_of_another_dimension_is_not_searched(path: Path, tmp_path: Path) -> None:
    """Its signature is this user's, so only its dimension tells: FAISS would read behind the end of the query."""
    oracle = filled(path, batches=1)
    wide = tmp_path / "wide.store"
    with small_store(wide, tail=3) as store:
        store.add_vectors([str(i) for i in range(30)], vectors(30, dimension=64))
    with sqlite3.connect(wide / "store.db") as connection:
        ((sha256, signature),) = connection.execute("SELECT sha256, signature FROM tiers")
    connection.close()
    shutil.copy(tier_files(wide)[0], tier_files(path)[0])
    with sqlite3.connect(path / "store.db") as connection:
        connection.execute("UPDATE tiers SET sha256 = ?, signature = ?", (sha256, signature))
    connection.close()
    with embedstore.open(path) as store, pytest.warns(TierWarning, match="another space"):
        assert_answers(store, oracle, rounds=300)


def test_a_lost_folder_of_tiers_is_made_again(path: Path) -> None:
    oracle = filled(path)
    shutil.rmtree(path / "tiers")
    with embedstore.open(path) as store:
        with pytest.warns(TierWarning, match="missing"):
            assert_answers(store, oracle)
        assert store.verify().problems == []
        store.compact()
        assert assert_answers(store, oracle)[-1] != "exact"


def test_a_half_built_tier_that_a_crash_left_is_nothing(path: Path) -> None:
    oracle = filled(path)
    for name in ("000099.draft", "000098.faiss"):
        (path / "tiers" / name).write_bytes(b"half")
    with embedstore.open(path) as store:
        assert_answers(store, oracle)
        report = store.verify()
        assert report.ok
        assert report.leftovers == ["tiers/000098.faiss", "tiers/000099.draft"]
        assert store.compact().swept == 2
        assert store.verify().leftovers == []


def test_a_build_removes_what_no_row_names_and_nothing_of_others(path: Path) -> None:
    with small_store(path, tail=3) as store:
        for name in ("000098.faiss", "notes.txt"):
            (path / "tiers" / name).write_text("something")
        store.add_vectors([str(i) for i in range(30)], vectors(30))
        store.build()
        assert sorted(file.name for file in (path / "tiers").iterdir() if file.suffix != ".faiss") == ["notes.txt"]
        assert "000098.faiss" not in [file.name for file in tier_files(path)]


def test_adds_never_rewrite_a_tier_and_each_vector_is_rebuilt_a_logarithmic_number_of_times(path: Path) -> None:
    oracle = Oracle()
    seen: dict[str, tuple[bytes, int]] = {}
    built = 0
    tail, adds = 4, 60
    with small_store(path, tail=tail) as store:
        for number in range(adds):
            add(store, oracle, [str(number)], vectors(1, seed=number))
            sizes = {t["name"]: t["vectors"] for t in store.info()["spaces"][0]["tiers"]}
            for file in tier_files(path):
                content = file.read_bytes(), file.stat().st_mtime_ns
                if file.name not in seen:
                    built += sizes[file.name]
                assert seen.setdefault(file.name, content) == content
            assert len(tier_files(path)) == len(sizes) <= 2 + math.log2(adds / tail)
            assert store.info()["spaces"][0]["searched_exactly"] <= tail
        assert built / adds <= 1 + math.log2(adds / tail)
        assert_answers(store, oracle)


def test_a_factory_that_needs_more_vectors_waits_for_them(path: Path) -> None:
    oracle = Oracle()
    with small_store(path, tail=30, factory="IVF64,Flat") as store:
        with pytest.warns(TierWarning, match="searching exactly, for .* can't be trained on 40 vectors"):
            add(store, oracle, [f"a{i}" for i in range(40)], vectors(40, seed=1))
        assert tier_files(path) == []
        assert assert_answers(store, oracle)[-1] == "exact"
        add(store, oracle, [f"b{i}" for i in range(60)], vectors(60, seed=2))
        assert len(tier_files(path)) == 1
        assert store.verify().ok


def test_a_tier_that_was_merged_away_under_a_reader_is_no_fault(path: Path) -> None:
    oracle = filled(path, batches=1)
    with embedstore.open(path, read_only=True) as reader, embedstore.open(path) as store:
        held = reader._snapshots.current().spaces["default"]
        query = vectors(1, seed=3)
        expected = oracle.nearest(query[0], 5, "l2")
        add(store, oracle, [f"more/{i}" for i in range(20)], vectors(20, seed=9))
        assert held.tiers[0].name not in [file.name for file in tier_files(path)]
        for _ in range(30):  # warnings are errors
            answer = reader._searcher.engine.search(held, query, 5)
            assert answer.distances[0].tolist() == [distance for _, distance in expected]
        assert_answers(reader, oracle)


def test_compacting_what_is_whole_keeps_its_tiers_and_segments(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a segment has many parts by itself: a second compact has nothing to do."""
    monkeypatch.setattr("embedstore.truth.rewriting.PART_BYTES", 5 * D * 4)
    filled(path, batches=6, rows=64)
    with embedstore.open(path) as store:
        store.compact()
        files = {file: file.stat().st_ino for file in path.glob("*/*")}
        commits = store.info()["commits"]
        report = store.compact()
        assert (report.dropped, report.freed, report.swept) == (0, 0, 0)
        assert {file: file.stat().st_ino for file in path.glob("*/*")} == files
        assert store.info()["commits"] == commits


def _factory(path: Path) -> str:
    with sqlite3.connect(path / "store.db") as connection:
        return str(connection.execute("SELECT factory FROM tiers").fetchone()[0])


def test_a_projection_is_kept_only_where_tuning_reaches_the_recall_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_WIDE_WALK", 10_000)  # however wide the walk has to be
    rng = np.random.default_rng(0)
    place = rng.integers(0, 12, 7500)
    centres = rng.normal(0, 100, (12, 300))
    # Both lie in twelve far clusters, in eleven directions. What tells neighbours apart within a cluster is in those
    # directions too, or in all the others.
    inside = centres[place] + rng.normal(0, 5, (7500, 12)) @ centres / 100
    across = centres[place] + rng.normal(0, 1, (7500, 300))
    for base, expected in ((inside, "PCA32,HNSW32,SQ8"), (across, "HNSW32,SQ8")):
        with embedstore.create(tmp_path / expected) as store:
            store.add_vectors([str(i) for i in range(7500)], base.astype(np.float32))
            store.build()
            assert store.recall(sample=200).recall >= 0.97
        assert _factory(tmp_path / expected) == expected
