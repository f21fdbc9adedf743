"""Named arrays and a JSON config as two files, `<fingerprint>.safetensors` and `.json`. No torch here.

A model file may come from a stranger, so it is hostile data: sizes are bounded before anything is parsed, and keys,
dtypes, shapes and byte ranges must be exactly those that the config implies before anything is allocated.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from embedstore.errors import DiskFull, EmbedstoreError, ModelInvalid, StoreReadOnly

Weights: TypeAlias = dict[str, npt.NDArray[Any]]
#: Name to (safetensors dtype, shape): what a config implies.
Layout: TypeAlias = Mapping[str, tuple[str, tuple[int, ...]]]

CONFIG_LIMIT = 64 * 1024  # bytes of a config file
HEADER_LIMIT = 1024 * 1024  # bytes of a safetensors header
WEIGHTS_LIMIT = 2 * 1024**3  # bytes of a weights file: the largest model that a config may imply
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8"), "U8": np.dtype("u1")}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def fingerprint(weights: Weights, config: Mapping[str, Any]) -> str:
    """Hex SHA-256 over the canonical JSON config and every array (name, dtype, shape, bytes), ordered by name."""
    digest = hashlib.sha256(canonical_json(config))
    for name in sorted(weights):
        array = np.asarray(weights[name], order="C")
        digest.update(f"\0{name}\0{_NAMES[array.dtype]}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def canonical_json(config: Mapping[str, Any]) -> bytes:
    """One byte string per value: sorted keys, no blanks, ASCII."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a temporary name, fsync, rename, fsync the directory: afterwards the file is whole or not there.

    Raises:
        DiskFull: without room; the file that was there before is kept.
        StoreReadOnly: where the directory can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:16]}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise _explain(error, path) from error


def _explain(error: OSError, path: Path) -> EmbedstoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(f"no room to write {path}: free some space and run the same command again")
    return StoreReadOnly(f"{path} can't be written ({error.strerror}): make its directory writable")


def write(directory: Path, weights: Weights, config: Mapping[str, Any]) -> str:
    """Write both files into ``directory`` (made if missing) and return the fingerprint they are named by."""
    weights = {name: np.asarray(array, order="C") for name, array in weights.items()}
    name = fingerprint(weights, config)
    write_atomically(directory / f"{name}.safetensors", safetensors.numpy.save(weights))
    write_atomically(directory / f"{name}.json", json.dumps(config, indent=1, sort_keys=True).encode("ascii") + b"\n")
    return name


def read(directory: Path, name: str, layout: Callable[[dict[str, Any]], Layout]) -> tuple[Weights, dict[str, Any]]:
    """Read and check the two files of a model.

    Args:
        directory: where they are.
        name: the recorded fingerprint.
        layout: checks a config and says which arrays it implies; raises ModelInvalid for a config out of bounds.

    Raises:
        ModelInvalid: for anything missing, too large, or other than the config implies or the fingerprint says.
    """
    config = read_config(directory, name)
    weights = read_arrays(directory / f"{name}.safetensors", layout(config))
    found = fingerprint(weights, config)
    if found != name:
        raise ModelInvalid(f"the model {name[:12]} in {directory} was altered: its content hashes to {found[:12]}")
    return weights, config


def _opened(path: Path) -> BinaryIO:
    """A regular file: a store that someone else made can't send us elsewhere by a link, or have us wait for a FIFO."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return os.fdopen(descriptor, "rb")


def read_config(directory: Path, name: str) -> dict[str, Any]:
    """The config of the model of this fingerprint."""
    if not re.fullmatch(r"[0-9a-f]{64}", name):  # it becomes a file name
        raise ModelInvalid(f"{name[:80]!r} is no fingerprint of a model: 64 hexadecimal digits are meant")
    return read_json(directory / f"{name}.json")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of bounded size."""
    try:
        with _opened(path) as file:
            text = file.read(CONFIG_LIMIT + 1)
    except OSError as error:
        raise ModelInvalid(f"{path} can't be read ({error.strerror}): restore it") from None
    if len(text) > CONFIG_LIMIT:
        raise ModelInvalid(f"{path} is larger than {CONFIG_LIMIT:,} bytes: that is no config of a model")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise ModelInvalid(f"{path} is no JSON: restore the file") from None
    if not isinstance(config, dict):
        raise ModelInvalid(f"{path} holds no JSON object: restore the file")
    return config


def read_arrays(path: Path, layout: Layout) -> Weights:
    """The arrays of a safetensors file, when they are exactly those of ``layout``; nothing is allocated before that."""
    sizes = {name: DTYPES[dtype].itemsize * _product(shape) for name, (dtype, shape) in layout.items()}
    total = sum(sizes.values())
    if total > WEIGHTS_LIMIT:
        raise ModelInvalid(f"the config beside {path} implies {total:,} bytes of weights: more than is allowed")
    weights: Weights = {}
    try:
        with _opened(path) as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else HEADER_LIMIT + 1
            if length > HEADER_LIMIT:
                raise ModelInvalid(f"{path} is no safetensors file: restore it")
            header = _parse_header(path, file.read(length))
            if os.fstat(file.fileno()).st_size != 8 + length + total:
                raise ModelInvalid(f"{path} has another size than its config implies: it is torn or of another model")
            if header.keys() != layout.keys():
                odd = sorted(header.keys() ^ layout.keys())
                raise ModelInvalid(f"{path} has other tensors than its config implies: {', '.join(odd)[:200]}")
            spans = []
            for name, (dtype, shape) in layout.items():
                begin, end = _check_entry(path, name, header[name], dtype, shape)
                spans.append((begin, end, name))
                if end - begin != sizes[name]:
                    raise ModelInvalid(f"{path}: the tensor {name[:80]!r} has {end - begin} bytes, not {sizes[name]}")
            spans.sort()
            for (begin, end, name), expected in zip(spans, [0, *(end for _, end, _ in spans)], strict=False):
                if begin != expected:
                    raise ModelInvalid(f"{path}: the tensor {name[:80]!r} is out of place: the file is torn")
                dtype, shape = layout[name]
                weights[name] = np.frombuffer(bytearray(file.read(end - begin)), DTYPES[dtype]).reshape(shape)
    except OSError as error:
        raise ModelInvalid(f"{path} can't be read ({error.strerror}): restore it") from None
    return weights


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise ModelInvalid(f"{path} has no readable safetensors header: restore it") from None
    if not isinstance(header, dict):
        raise ModelInvalid(f"{path} has no readable safetensors header: restore it")
    header.pop("__metadata__", None)
    return header


def _check_entry(path: Path, name: str, entry: Any, dtype: str, shape: tuple[int, ...]) -> tuple[int, int]:
    if not isinstance(entry, dict) or entry.get("dtype") != dtype or entry.get("shape") != list(shape):
        raise ModelInvalid(f"{path}: the tensor {name[:80]!r} isn't {dtype} {list(shape)} as its config implies")
    match entry.get("data_offsets"):
        case [int(begin), int(end)] if 0 <= begin <= end:
            return begin, end
    raise ModelInvalid(f"{path}: the tensor {name[:80]!r} has no valid place in the file: restore it")


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def bounded(config: Mapping[str, Any], key: str, low: int, high: int) -> int:
    """An integer of a config within bounds (True is no integer)."""
    value = config.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ModelInvalid(f"the model's config has {key} = {str(value)[:40]!r}: {low} to {high} is allowed")
    return value
