"""Single rows are read through the map or, beyond a limit of memory, through the file: it makes no difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedstore.vectors import segments
from embedstore.vectors.segments import SegmentVectors

_DIMENSION = 5


def _write(directory: Path, lengths: list[int]) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """Segments with these numbers of rows, one more behind the committed end of each."""
    everything = np.random.default_rng(0).normal(size=(sum(lengths), _DIMENSION)).astype(np.float32)
    files, first = [], 0
    for number, length in enumerate(lengths):
        name = f"{number:06d}.vec"
        segments.create(directory / name, _DIMENSION)
        rows = everything[first : first + length]
        segments.append(directory / name, 0, [rows.tobytes(), b"\xff" * _DIMENSION * 4])
        files.append((name, length))
        first += length
    return everything, files


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(any),
    resident=st.integers(0, 30),
    many=st.integers(0, 6),
    scan=st.booleans(),
    data=st.data(),
)
def test_rows_are_read_alike_through_the_map_and_through_the_file(
    tmp_path: Path, lengths: list[int], resident: int, many: int, scan: bool, data: st.DataObject
) -> None:
    everything, files = _write(tmp_path, lengths)
    positions = data.draw(st.lists(st.integers(0, len(everything) - 1), max_size=12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "_RESIDENT_BYTES", resident * _DIMENSION * 4)
        patch.setattr(segments, "_MANY", many)
        vectors = SegmentVectors(tmp_path, _DIMENSION, files)
        for _ in range(2):
            if scan:
                assert np.array_equal(np.concatenate([block for _, block in vectors.blocks()]), everything)
            found = vectors.read(np.array(positions, dtype=np.int64))
            assert found.dtype == np.float32
            assert np.array_equal(found, everything[positions])
            found[:] = 0  # a copy: the next read must not see it
