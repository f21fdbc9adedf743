"""Keeping what a one-shot iterator yields, so that it can be read again: in memory up to a bound, then in a temporary
file that has no name and is gone with the process.

Alternatives rejected: ``itertools.tee`` keeps everything in memory, and refusing iterators would make the user write
this file.
"""

from __future__ import annotations

import errno
import json
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from embedstore.errors import DiskFull
from embedstore.types import Failure, Item

_MEMORY = 64 << 20  # bytes kept in memory before the file is used
_HEAD = struct.Struct("<II")  # bytes of the JSON, bytes of the array


class Spool:
    """Items that come once, readable any number of times.

    Args:
        items: read as far as somebody asks, never twice.
        memory: bytes kept before a temporary file is used.
    """

    def __init__(self, items: Iterator[Item | Failure], memory: int = _MEMORY) -> None:
        self._items = items
        self._file = cast("IO[bytes]", tempfile.SpooledTemporaryFile(max_size=memory))  # noqa: SIM115 - closed below
        self._end = 0
        self.finished = False
        self.length = 0

    def __iter__(self) -> Iterator[Item | Failure]:
        """Everything from the first item on; several iterations may be under way at once."""
        position = 0
        while position < self._end or self._pull():
            self._file.seek(position)
            text_length, array_length = _HEAD.unpack(self._file.read(_HEAD.size))
            record = json.loads(self._file.read(text_length))
            data = bytearray(self._file.read(array_length))
            position += _HEAD.size + text_length + array_length
            yield _unpack(record, data)

    def close(self) -> None:
        """Free memory and file."""
        self._file.close()

    def _pull(self) -> bool:
        """Append the next item; False at the end."""
        item = next(self._items, None)
        if item is None:
            self.finished = True
            return False
        record, array = _pack(item)
        text = json.dumps(record).encode()
        data = b"" if array is None else np.ascontiguousarray(array).tobytes()
        try:
            self._file.seek(self._end)
            self._file.write(_HEAD.pack(len(text), len(data)) + text + data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise DiskFull(
                    f"no room in {tempfile.gettempdir()} for what the iterator yields: set TMPDIR, or pass a list"
                ) from None
            raise
        self._end += _HEAD.size + len(text) + len(data)
        self.length += 1
        return True


def _pack(item: Item | Failure) -> tuple[list[Any], np.ndarray[Any, Any] | None]:
    if isinstance(item, Failure):
        return ["failure", item.id, item.reason], None
    rest = [item.id, item.metadata, item.source]
    if item.vector is not None:
        return ["vector", *rest, item.vector.shape], item.vector
    if isinstance(item.picture, Path):
        return ["path", *rest, str(item.picture)], None
    if item.picture is not None:
        return ["picture", *rest, item.picture.shape], item.picture
    return ["nothing", *rest], None


def _unpack(record: list[Any], data: bytearray) -> Item | Failure:
    kind, *rest = record
    if kind == "failure":
        return Failure(*rest)
    name, metadata, source = rest[:3]
    if kind == "vector":
        return Item(name, None, metadata, source, np.frombuffer(data, dtype=np.float32).reshape(rest[3]))
    if kind == "path":
        return Item(name, Path(rest[3]), metadata, source)
    if kind == "picture":
        return Item(name, np.frombuffer(data, dtype=np.uint8).reshape(rest[3]), metadata, source)
    return Item(name, None, metadata, source)
