"""Segment files: appended behind the committed end, read as committed, whatever lies behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import EmbedstoreError, StoreDamaged
from embedstore.vectors import segments
from embedstore.vectors.segments import HEADER, SegmentVectors

from .stores import refused

D = 3


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def write(path: Path, parts: list[np.ndarray]) -> int:
    segments.create(path, D)
    length = 0
    for part in parts:
        length = segments.append(path, length, [part.data.cast("B")] if len(part) else [])
    return length // (4 * D)


@given(sizes=st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=4), data=st.data())
@settings(max_examples=60, deadline=None)
def test_positions_count_over_all_segments(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("segments")
    parts = [[rows(size, seed=17 * i + j) for j, size in enumerate(batch)] for i, batch in enumerate(sizes)]
    files = [(f"{i}.vec", write(folder / f"{i}.vec", batch)) for i, batch in enumerate(parts)]
    whole = np.concatenate([np.empty((0, D), np.float32), *(part for batch in parts for part in batch)])
    read = SegmentVectors(folder, D, files)
    assert len(read) == len(whole)
    if len(whole):
        positions = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20)), dtype=np.int64)
        assert (read.read(positions) == whole[positions]).all()
    first = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.none() | st.integers(0, len(whole)))
    stop = len(whole) if count is None else first + count
    end = first
    blocks = list(read.blocks(first, count))
    for start, block in blocks:
        assert start == end
        end += len(block)
    found = np.concatenate([np.empty((0, D), np.float32), *(block for _, block in blocks)])
    assert (found == whole[first:stop]).all()
    assert found.shape == whole[first:stop].shape
    for _, block in blocks:
        assert not block.flags.writeable
    read.release()
    assert (np.concatenate([found[:0], *(block for _, block in blocks)]) == whole[first:stop]).all()


def test_an_append_overwrites_what_was_never_committed(tmp_path: Path) -> None:
    path = tmp_path / "1.vec"
    write(path, [rows(4)])
    segments.append(path, 4 * 4 * D, [rows(9, seed=1).data.cast("B")])  # not committed
    assert segments.append(path, 4 * 4 * D, [rows(2, seed=2).data.cast("B")]) == 6 * 4 * D
    found = SegmentVectors(tmp_path, D, [("1.vec", 6)])
    assert (found.read(np.arange(6)) == np.concatenate([rows(4), rows(2, seed=2)])).all()
    # An older reader's map still shows what it was told of.
    assert (SegmentVectors(tmp_path, D, [("1.vec", 4)]).read(np.arange(4)) == rows(4)).all()


def test_a_map_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "1.vec"
    write(path, [rows(5)])
    read = SegmentVectors(tmp_path, D, [("1.vec", 5)])
    path.unlink()
    assert (read.read(np.arange(5)) == rows(5)).all()
    ((_, block),) = read.blocks()
    read.close()
    assert (block == rows(5)).all()


def test_what_is_not_the_committed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "1.vec"
    write(path, [rows(5)])
    whole = path.read_bytes()
    for content, reason in (
        (whole[:-1], "shorter"),
        (whole[: HEADER - 1], "shorter"),
        (b"", "shorter"),
        (b"x" + whole[1:], "header differs"),
        (whole[:12] + b"\4" + whole[13:], "header differs"),
        (whole[: HEADER - 1] + b"x" + whole[HEADER:], "header differs"),
    ):
        path.write_bytes(content)
        refused(StoreDamaged, reason, lambda: SegmentVectors(tmp_path, D, [("1.vec", 5)]))
        assert reason in str(segments.fault(path, D, 5 * 4 * D))
    refused(StoreDamaged, "shorter", lambda: segments.append(path, 6 * 4 * D, [b"x"]))
    path.write_bytes(whole)
    assert segments.fault(path, D, 5 * 4 * D) is None
    refused(StoreDamaged, "header differs", lambda: SegmentVectors(tmp_path, 5, [("1.vec", 3)]))
    refused(StoreDamaged, "missing", lambda: SegmentVectors(tmp_path, D, [("2.vec", 3)]))
    refused(StoreDamaged, "missing", lambda: segments.read_bytes(tmp_path / "2.vec", [(0, 1)]))


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "1.vec", [rows(5)])
    before = (tmp_path / "1.vec").read_bytes()
    (tmp_path / "2.vec").symlink_to(tmp_path / "1.vec")
    os.mkfifo(tmp_path / "3.vec")
    for name in ("2.vec", "3.vec"):
        refused(EmbedstoreError, name, lambda file=name: SegmentVectors(tmp_path, D, [(file, 5)]))
        refused(EmbedstoreError, name, lambda file=name: segments.append(tmp_path / file, 0, [b"x"]))
    refused(EmbedstoreError, "2.vec", lambda: segments.create(tmp_path / "2.vec", D))
    refused(EmbedstoreError, "2.vec", lambda: segments.read_bytes(tmp_path / "2.vec", [(0, 1)]))
    assert (tmp_path / "1.vec").read_bytes() == before


@given(parts=st.lists(st.binary(max_size=40), max_size=5))
def test_a_checksum_is_of_the_bytes_not_of_their_parts(parts: list[bytes]) -> None:
    assert segments.checksum(parts) == segments.checksum([b"".join(parts)])
    assert len(segments.checksum(parts)) == 16
    assert segments.checksum([*parts, b"\0"]) != segments.checksum(parts)
