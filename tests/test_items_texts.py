"""Texts of many rows read as one value are the texts row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.metadata import items


@pytest.mark.parametrize("together", [1, 3, 7, 100])
def test_texts_are_those_of_the_rows_whatever_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(items, "_TOGETHER", together)
    ids = ["a", "ä\n'\"", ",", "x" * 300, *(f"i{i}" for i in range(17))]
    with embedstore.create(tmp_path / "t.store") as store:
        read = store._database.read
        assert list(items.texts(read, "id")) == []
        store.add_vectors(ids, np.eye(21, 4, dtype=np.float32), [{"n": i, "s": "ü,\n"} for i in range(21)])
        store.delete(["i3", "i4", "a"])
        with store._database.read() as connection:
            for column, after in (("id", 0), ("metadata", 0), ("id", 5), ("id", 21)):
                query = f"SELECT row, {column} FROM items WHERE row > ? ORDER BY row"  # noqa: S608 - our own text
                expected = connection.execute(query, (after,)).fetchall()
                found = []
                for rows, joined in items.texts(read, column, after):
                    assert len(rows) <= together
                    found += zip(rows.tolist(), joined.decode().split("\0"), strict=True)
                assert found == expected


@pytest.mark.parametrize("together", [1, 4, 100])
def test_a_commit_waits_for_no_long_read_and_loses_nothing_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(items, "_TOGETHER", together)
    monkeypatch.setattr("embedstore.metadata.database._BUSY_SECONDS", 0.5)
    with embedstore.create(tmp_path / "t.store") as reader, embedstore.open(tmp_path / "t.store") as writer:
        writer.add_vectors([f"i{i}" for i in range(10)], np.eye(10, 4, dtype=np.float32))
        found: list[str] = []
        for number, (_, joined) in enumerate(items.texts(reader._database.read, "id")):
            found += joined.decode().split("\0")
            if number < 3:
                writer.add_vectors([f"late{number}"], np.eye(1, 4, dtype=np.float32))
                writer.delete(f"i{9 - number}")
        last = {1: set(), 4: {"late2"}, 100: {"late0"}}[together]  # added when all had been read
        assert set(writer.ids()) - set(found) == last
        assert found[:7] == [f"i{i}" for i in range(7)]
