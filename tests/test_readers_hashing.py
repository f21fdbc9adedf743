from __future__ import annotations

import os
import socket
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from embedstore.errors import UnreadableItem
from embedstore.readers.hashing import hash_file, hash_rows, open_regular

from .pictures import noise


def test_a_file_is_hashed_by_its_bytes(tmp_path: Path) -> None:
    data = noise(100, 100, 3).tobytes() * 40  # more than one block
    (tmp_path / "a").write_bytes(data)
    assert hash_file(str(tmp_path / "a")) == blake2b(data, digest_size=16).digest()


def test_rows_of_an_array_and_of_a_list_hash_alike() -> None:
    pictures = np.stack([noise(seed=i) for i in range(5)])
    assert hash_rows(pictures) == hash_rows(list(pictures)) == hash_rows(pictures[:, ::1].copy(order="F"))
    assert len(set(hash_rows(pictures))) == 5


def test_shape_and_type_enter_the_hash() -> None:
    row = np.arange(16, dtype=np.uint8)
    shapes = [row.reshape(1, 2, 8, 1), row.reshape(1, 4, 4, 1), row.view(np.float32).reshape(1, 4)]
    assert len({hash_rows(rows)[0] for rows in shapes}) == 3
    assert hash_rows(row[:0].reshape(0, 4)) == []


@pytest.mark.parametrize(
    ("kind", "said"), [("fifo", "a FIFO"), ("socket", "opened"), ("folder", "a directory"), ("nothing", "No such file")]
)
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, kind: str, said: str) -> None:
    path = tmp_path / "x.png"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(UnreadableItem, match=said):
        open_regular(str(path))
    assert said in str(hash_file(str(path)))


def test_a_device_is_refused() -> None:
    assert hash_file(os.devnull) == "is a character device, not a regular file"


def test_a_file_of_more_than_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(12 << 30)  # takes no room on the disk; reading it would take minutes
    assert hash_file(str(path), 1 << 30) == "has 12 GiB, more than may be read of one file (1 GiB)"
