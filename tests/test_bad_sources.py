"""Sources that are missing, empty or damaged get one clear sentence, and what is good in them is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedstore
from embedstore.errors import EmbedstoreError, InvalidArgument, SourceError
from embedstore.store import Store

from .pictures import encoded, image_of, noise, write_png
from .stores import refused, vectors


@pytest.fixture
def empty(tmp_path: Path) -> Any:
    with embedstore.create(tmp_path / "empty.store") as opened:
        yield opened


def test_a_source_that_is_not_there_or_empty_is_named(empty: Store, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    (tmp_path / "zero.npy").touch()
    (tmp_path / "zero.csv").touch()
    (tmp_path / "notes.docx").write_text("text")
    os.mkfifo(tmp_path / "fifo")
    for source in (
        tmp_path / "missing",
        tmp_path / "nothing",
        tmp_path / "texts",
        tmp_path / "zero.npy",
        tmp_path / "zero.csv",
        tmp_path / "notes.docx",
        tmp_path / "fifo",
        "http://example.org/pictures",
        [],
        iter([]),
        np.zeros((0, 8, 8), np.uint8),
        np.zeros((0, 4), np.float32),
        np.zeros(3),
        7,
        None,
    ):
        refused(EmbedstoreError, ".", lambda given=source: empty.index(given, progress=False))
        refused(EmbedstoreError, ".", lambda given=source: empty.add(given))
    assert (len(empty), empty.info()["spaces"]) == (0, [])


@pytest.mark.parametrize(
    "options",
    [
        {"dimension": 0},
        {"dimension": -3},
        {"dimension": 10**6},
        {"image_size": 0},
        {"image_size": -1},
        {"image_size": 10**6},
        {"encoder": "nonsense"},
        {"encoder": ""},
        {"metric": "nonsense", "encoder": None},
        {"nonsense": 1},
        {"kind": "nonsense"},
    ],
)
def test_options_out_of_range_are_named_and_make_no_space(empty: Store, options: dict[str, Any]) -> None:
    pictures = np.stack([noise(seed=i) for i in range(4)])
    source: Any = vectors(4) if "metric" in options else pictures
    refused(EmbedstoreError, ".", lambda: empty.index(source, progress=False, **{"encoder": "pca", **options}))
    assert empty.info()["spaces"] == []


def test_bad_pictures_fail_alone(empty: Store, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    good = {f"good{i}.png": write_png(folder / f"good{i}.png", seed=i) for i in range(3)}
    (folder / "zero.png").touch()
    whole = encoded(image_of(noise(64, 64)))
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no picture at all")
    (folder / "bomb.png").write_bytes(encoded(image_of(np.zeros((4000, 4000, 1), np.uint8))))
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "around").symlink_to(folder)
    report = empty.index(folder, encoder="pca", dimension=2, max_pixels=10**6, progress=False)
    assert (report.added, sorted(empty.ids())) == (3, sorted(good))
    failed = {failure.id: failure.reason for failure in report.failures}
    assert {"zero.png", "half.png", "text.jpg", "bomb.png"} <= set(failed) <= {
        "zero.png", "half.png", "text.jpg", "bomb.png", "loop.png", "pipe.png", "around"
    }  # fmt: skip
    assert all(failed.values())
    assert empty.verify().ok


def test_pictures_all_of_which_are_bad_make_no_space(empty: Store, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for i in range(3):
        (tmp_path / "bad" / f"{i}.png").write_bytes(b"\x89PNG not")
    refused(
        SourceError, "no picture that can be read", lambda: empty.index(tmp_path / "bad", encoder="pca", progress=False)
    )
    refused(
        InvalidArgument, "pictures are the same", lambda: empty.index(np.zeros((9, 4, 4), np.uint8), progress=False)
    )
    refused(InvalidArgument, "at least 2", lambda: empty.index(np.ones((1, 4, 4), np.uint8), progress=False))
    assert empty.info()["spaces"] == []
