"""``update`` and ``delete``."""

from __future__ import annotations

from pathlib import Path

import pytest

import embedstore
from embedstore.cli import editing

from .commands import answer, refused, run, write_vectors


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_vectors(tmp_path / "v.npy", 20)
    run("index", tmp_path / "s", tmp_path / "v.npy", "--vectors")
    for index in range(20):
        with embedstore.open(tmp_path / "s") as opened:
            opened.update(f"v/{index:05d}", metadata={"n": index})
    return tmp_path / "s"


def test_update_sets_json_or_text_keeps_the_rest_and_unsets(store: Path) -> None:
    values = ["a=7", 'b="7"', "c=seven up", "d=[1,null]", "e=x=y", "f="]
    texts = {"c": "seven up", "d": [1, None], "e": "x=y", "f": ""}
    found = answer("update", store, "v/00003", *(word for value in values for word in ("--set", value)))
    assert found["metadata"] == {"n": 3, "a": 7, "b": "7"} | texts
    run("update", store, "v/00003", "--unset", "n", "--set", "a=null", "--set", "g=NaN")
    with embedstore.open(store) as opened:
        assert opened.get("v/00003")["metadata"] == {"b": "7", "g": "NaN"} | texts


def test_update_refuses_what_it_can_not_do(store: Path) -> None:
    assert "no item has the id 'nope'" in refused("update", store, "nope", "--set", "a=1")
    assert "KEY=VALUE" in refused("update", store, "v/00003", "--set", "a", code=2)
    assert "say what to change" in refused("update", store, "v/00003", code=2)
    with embedstore.open(store) as opened:
        assert opened.get("v/00003")["metadata"] == {"n": 3}


def test_delete_by_id_takes_exactly_these(store: Path) -> None:
    assert answer("delete", store, "v/00003", "v/00005") == {"deleted": 2, "items": 18}
    with embedstore.open(store) as opened:
        assert opened.ids("n < 7") == ["v/00000", "v/00001", "v/00002", "v/00004", "v/00006"]


def test_delete_with_an_unknown_id_deletes_nothing(store: Path) -> None:
    assert "no item has the id 'nope'" in refused("delete", store, "v/00003", "nope")
    assert answer("info", store)["items"] == 20


def test_delete_by_filter_needs_yes_without_a_terminal(store: Path) -> None:
    assert "5 items match" in refused("delete", store, "--where", "n < 5", code=2)
    assert answer("info", store)["items"] == 20
    assert answer("delete", store, "--where", "n < 5", "--yes") == {"deleted": 5, "items": 15}
    with embedstore.open(store) as opened:
        assert opened.count("n < 5") == 0


@pytest.mark.parametrize(("typed", "left", "code"), [("y\n", 15, 0), ("n\n", 20, 1), ("", 20, 130)])
def test_delete_by_filter_asks_on_a_terminal(
    store: Path, monkeypatch: pytest.MonkeyPatch, typed: str, left: int, code: int
) -> None:
    monkeypatch.setattr(editing, "_on_terminal", lambda: True)
    result = run("delete", store, "--where", "n < 5", input=typed, code=code)
    assert "delete 5 of 20 items" in result.stderr
    assert answer("info", store)["items"] == left


def test_delete_refuses_what_it_can_not_do(store: Path) -> None:
    assert "either IDs or --where" in refused("delete", store, code=2)
    assert "either IDs or --where" in refused("delete", store, "v/00003", "--where", "n = 3", code=2)
    assert "unknown field m" in refused("delete", store, "--where", "m = 3", "--yes")
    assert answer("delete", store, "--where", "n = 99") == {"deleted": 0, "items": 20}
