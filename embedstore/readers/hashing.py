"""Content hashes: 16 bytes of BLAKE2b over what determines the latent.

BLAKE2b is in the standard library, keyless here, and as fast as the disks at hand (about 1 GB/s a core).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import UnreadableItem

SIZE = 16
_BLOCK = 1 << 20
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def kind_of(mode: int) -> str:
    """What a file that is no regular file is, in words."""
    return next((words for test, words in _KINDS if test(mode)), "no regular file")


def open_regular(path: str) -> int:
    """Open a regular file for reading and return its descriptor; nothing else is ever waited for or read.

    ``O_NONBLOCK`` keeps a FIFO that took the file's place since it was listed from blocking the open itself.

    Raises:
        UnreadableItem: it can't be opened, or is a FIFO, socket, device or directory.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UnreadableItem(f"can't be opened: {getattr(error, 'strerror', None) or error}") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise UnreadableItem(f"is {kind_of(mode)}, not a regular file")
    return descriptor


def describe_bytes(count: int) -> str:
    """``1 GiB``, ``512 MiB``."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"


def hash_file(path: str, limit: int | None = None) -> bytes | str:
    """The content hash of a file's bytes, or the reason why it can't be read.

    A file of more than ``limit`` bytes, the memory that decoding it may need, is refused unread: a sparse one of
    terabytes takes no room on the disk, and hours to read.
    """
    try:
        descriptor = open_regular(path)
    except UnreadableItem as error:
        return str(error)
    digest = blake2b(digest_size=SIZE)
    try:
        size = os.fstat(descriptor).st_size
        if limit is not None and size > limit:
            return f"has {describe_bytes(size)}, more than may be read of one file ({describe_bytes(limit)})"
        while block := os.read(descriptor, _BLOCK):
            digest.update(block)
    except OSError as error:
        return f"can't be read: {error.strerror}"
    finally:
        os.close(descriptor)
    return digest.digest()


def hash_rows(rows: npt.NDArray[Any] | Sequence[npt.NDArray[Any]]) -> list[bytes]:
    """One content hash for each row of an array (n, ...), or each array of a sequence.

    Shape and dtype enter the hash: equal bytes of another shape are another picture.
    """
    if not isinstance(rows, np.ndarray):
        return [hash_rows(row[None])[0] for row in rows]
    if not len(rows):
        return []
    seed = blake2b(f"{rows.dtype.str}{rows.shape[1:]}".encode(), digest_size=SIZE)
    flat = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
    stride = len(flat) // len(rows)
    hashes = []
    for start in range(0, len(flat), stride):
        digest = seed.copy()
        digest.update(flat[start : start + stride])
        hashes.append(digest.digest())
    return hashes
