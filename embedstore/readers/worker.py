"""The process that decodes picture files: it is handed paths on its standard input, answers on its standard output, and
may crash, run out of memory or be killed without anybody else noticing more than one failed picture.

Run as a program by ``workers``. It imports Pillow and NumPy, never torch or faiss. Frames are length-prefixed bytes
and JSON, not pickles: what a decoder that a hostile file took over can send back is then data only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import sys
from hashlib import blake2b
from typing import Any, BinaryIO

from embedstore.errors import UnreadableItem
from embedstore.readers.decode import Decoded, decode
from embedstore.readers.hashing import SIZE, describe_bytes, open_regular

#: length of the JSON request that follows
REQUEST = struct.Struct("<I")
#: answer to one file: width and height of the original; height, width, channels of the pixels; bytes of the thumbnail.
#: An original's width of 0 means failure: then the last number counts the bytes of the reason, all that follows.
ANSWER = struct.Struct("<IIIIBI")
_HELD = 256 << 20  # where the system doesn't say: Python with NumPy and Pillow
READY = b"embedstore worker 1\n"


def read_file(path: str, limit: int) -> bytes:
    """All bytes of a regular file; UnreadableItem where it is none, can't be read or is longer than ``limit``."""
    descriptor = open_regular(path)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - from a descriptor
        if os.fstat(descriptor).st_size > limit:
            raise MemoryError
        try:
            return file.read()
        except OSError as error:
            raise UnreadableItem(f"can't be read: {error.strerror}") from None


def decode_file(path: str, expected: bytes | None, settings: dict[str, Any]) -> Decoded | str:
    """One file decoded, or the reason why not.

    Args:
        path: the file.
        expected: content hash that the file had when it was listed, or None for any.
        settings: ``max_side``, ``max_pixels``, ``memory_limit``.
    """
    try:
        data = read_file(path, settings["memory_limit"])
        if expected is not None and blake2b(data, digest_size=SIZE).digest() != expected:
            return "was changed while it was being read"
        return decode(data, os.path.splitext(path)[1].lower(), settings["max_side"], settings["max_pixels"])  # noqa: PTH122
    except MemoryError:
        return f"needed more than {describe_bytes(settings['memory_limit'])} to decode"
    except UnreadableItem as error:
        return str(error)


def limit_memory(limit: int) -> None:
    """Bound what this process may allocate beyond what it holds now; a no-op where the system can't (Windows)."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        # RLIMIT_DATA counts private writable memory on Linux. RLIMIT_AS would also count what allocators and thread
        # stacks merely reserve, several times the truth.
        linux = sys.platform == "linux"
        which = resource.RLIMIT_DATA if linux else resource.RLIMIT_AS
        held = _held() if linux else _HELD
        resource.setrlimit(which, (held + limit, held + limit))


def _held() -> int:
    """Bytes of private memory that this process holds, as Linux tells."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123
        return next((int(line.split()[1]) << 10 for line in status if line.startswith("VmData")), _HELD)


def _answer(out: BinaryIO, result: Decoded | str) -> None:
    if isinstance(result, str):
        reason = result.encode("utf-8", "replace")
        out.write(ANSWER.pack(0, 0, 0, 0, 0, len(reason)))
        out.write(reason)
    else:
        height, width, channels = result.pixels.shape
        out.write(ANSWER.pack(*result.size, height, width, channels, len(result.thumb)))
        out.write(result.pixels.data)
        out.write(result.thumb)
    out.flush()


def main(settings: dict[str, Any]) -> None:
    """Serve requests until the standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The channel moves away from descriptors 0 to 2, so that a C library that prints can't break it.
    requests = os.fdopen(os.dup(0), "rb")
    out = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    with contextlib.suppress(ImportError, AttributeError):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is a worker per core already
    from PIL import Image

    Image.init()
    limit_memory(settings["memory_limit"])
    alarm = getattr(signal, "setitimer", None)
    out.write(READY)
    out.flush()
    with contextlib.suppress(BrokenPipeError):
        while len(head := requests.read(REQUEST.size)) == REQUEST.size:
            for path, expected in json.loads(requests.read(REQUEST.unpack(head)[0])):
                if alarm is not None:
                    # The kernel ends this process if it is stuck in a decoder, even when the parent is gone.
                    alarm(signal.ITIMER_REAL, settings["time_limit"])
                result = decode_file(path, bytes.fromhex(expected) if expected else None, settings)
                if alarm is not None:
                    alarm(signal.ITIMER_REAL, 0.0)
                _answer(out, result)
    os._exit(0)  # a flush at exit could only fail
