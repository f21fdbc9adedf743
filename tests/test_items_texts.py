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
        with store._database.read() as connection:
            assert list(items.texts(connection, "id")) == []
        store.add_vectors(ids, np.eye(21, 4, dtype=np.float32), [{"n": i, "s": "ü,\n"} for i in range(21)])
        store.delete(["i3", "i4", "a"])
        with store._database.read() as connection:
            for column, after in (("id", 0), ("metadata", 0), ("id", 5), ("id", 21)):
                query = f"SELECT row, {column} FROM items WHERE row > ? ORDER BY row"  # noqa: S608 - our own text
                expected = connection.execute(query, (after,)).fetchall()
                found = []
                for rows, joined in items.texts(connection, column, after):
                    assert len(rows) <= together
                    found += zip(rows.tolist(), joined.decode().split("\0"), strict=True)
                assert found == expected
