from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedstore.errors import UnreadableItem
from embedstore.readers.files import PictureFiles, read_picture
from embedstore.readers.hashing import hash_file

from .pictures import noise, write_png


def files_of(folder: Path, count: int) -> PictureFiles:
    ids = [f"{i}.png" for i in range(count)]
    return PictureFiles(ids, lambda i: f"{folder}/{i}.png", lambda i: {"n": i}, [], {"workers": 1})


@pytest.mark.parametrize("size", [1, 3, 100])
def test_chunks_cover_all_files_in_order_whatever_their_size(tmp_path: Path, size: int) -> None:
    for i in range(130):
        write_png(tmp_path / f"{i}.png", i, height=2, width=2)
    files = files_of(tmp_path, 131)
    chunks = list(files.chunks(size))
    assert [len(chunk.ids) + len(chunk.failures) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert [name for chunk in chunks for name in chunk.ids] == [f"{i}.png" for i in range(130)]
    assert [digest for chunk in chunks for digest in chunk.hashes] == [
        hash_file(f"{tmp_path}/{i}.png") for i in range(130)
    ]
    assert [m["n"] for chunk in chunks for m in chunk.metadata] == list(range(130))
    assert [failure.id for chunk in chunks for failure in chunk.failures] == ["130.png"]
    files.close()


def test_no_process_starts_where_nothing_is_loaded(tmp_path: Path) -> None:
    write_png(tmp_path / "0.png")
    files = files_of(tmp_path, 1)
    chunk = next(files.chunks(10))
    chunk.prefetch([])
    assert len(chunk.load([]).which) == 0
    assert chunk.pool._state.processes == {}
    files.close()


def test_loading_part_of_what_was_prefetched_gives_just_that(tmp_path: Path) -> None:
    for i in range(6):
        write_png(tmp_path / f"{i}.png", i)
    files = files_of(tmp_path, 6)
    chunk = next(files.chunks(10))
    chunk.prefetch([0, 2, 4])
    loaded = chunk.load([2, 3, 4])
    assert list(loaded.which) == [2, 3, 4]
    np.testing.assert_array_equal(loaded.pictures, [noise(seed=i) for i in (2, 3, 4)])
    files.close()


def test_one_picture_is_read_or_named_with_the_reason(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), noise())
    os.mkfifo(tmp_path / "f.png")
    (tmp_path / "e.png").touch()
    for name, said in (("f.png", "is a FIFO"), ("e.png", "the file is empty"), ("gone.png", "No such file")):
        with pytest.raises(UnreadableItem, match=said) as caught:
            read_picture(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path}/{name}: ")


def test_a_huge_picture_is_read_outside_this_process_under_the_limits_of_the_readers(tmp_path: Path) -> None:
    Image.new("RGB", (6000, 5000), (9, 90, 200)).save(tmp_path / "huge.png")
    code = f"""
from embedstore.readers.files import read_picture
picture = read_picture({str(tmp_path / "huge.png")!r}, 256)
assert picture.shape == (213, 256, 3) and (picture == (9, 90, 200)).all(), picture.shape
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
assert peak < 100_000, f"{{peak}} KiB, where the pixels alone have 117,000"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UnreadableItem, match="has more than 178,956,970 pixels"):
        read_picture(tmp_path / "bomb.png", 256)
