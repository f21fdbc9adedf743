"""The IDX format of MNIST and its family (Fashion-MNIST, KMNIST, EMNIST), plain or gzipped.

Format: two zero bytes, a type byte (8 is uint8), the number of dimensions, each dimension as a big-endian uint32,
then the values, row-major (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist).
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from embedstore.errors import SourceError
from embedstore.readers.hashing import hash_rows
from embedstore.readers.pieces import ArrayChunk, check_expansion, check_text_path, chunk_size, label_metadata
from embedstore.types import Metadata

FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_NAME = re.compile(r"(?P<set>.*?)[-_.]?(?P<what>images|labels)[-.]idx(?P<dimensions>[0-9])-ubyte(?P<gz>\.gz)?\Z")
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CLASS_FILES = ("labels.txt", "classes.txt", "label_names.txt")
_BLOCK = 1 << 20
_DEFLATE = 1032  # bytes that one can stand for at most


@dataclass(frozen=True, slots=True)
class _Part:
    """One images file of the family with its labels."""

    prefix: str  # of the ids
    split: str
    path: Path
    pictures: npt.NDArray[np.uint8]  # (n, h, w, 1)
    labels: npt.NDArray[np.int64] | None


def is_idx(path: Path) -> bool:
    """Whether a file has an IDX name, or a folder holds an images file with one."""
    if path.is_dir():
        return any((match := _NAME.match(entry.name)) and match["what"] == "images" for entry in path.iterdir())
    return _NAME.match(path.name) is not None


class IdxReader:
    """An images file, or all images files of a folder, with the labels files beside them.

    Ids are ``train/00000``, ``test/00000``, ... (``t10k`` is called ``test``); a folder with several sets, as EMNIST
    has them, uses the file's own prefix (``emnist-balanced-train/00000``). Metadata: ``split`` and, with labels,
    ``label``: the class's name, with its number as ``class``, where names are known (a ``labels.txt`` or
    ``classes.txt`` with one name a line, EMNIST's ``*-mapping.txt``, or a path with "fashion" in it); else the number.

    Args:
        source: an images file, or a folder of them.
        split: only this one ("train" or "test").
        classes: names of the classes, by number; overrides what is found.

    Raises:
        SourceError: a file that is missing, truncated, no IDX, or whose labels don't match.
    """

    brings_vectors = False

    def __init__(self, source: str | Path, *, split: str | None = None, classes: Sequence[str] | None = None) -> None:
        path = Path(source)
        # One split is a source of its own: pruning it must not take the other's items for gone.
        self.scope = check_text_path(path) + (f":{split}" if split is not None else "")
        self.notes: list[str] = []
        files = _image_files(path)
        names = [_split(match["set"]) for _, match in files]
        unique = len(set(names)) == len(names)
        chosen = [(file, m, name) for (file, m), name in zip(files, names, strict=True) if split in (None, name)]
        if not chosen:
            raise SourceError(f"{path} has no split {split!r}: it has {', '.join(sorted(set(names)))}")
        self._parts = [_read_part(file, m, name, name if unique else m["set"] or name) for file, m, name in chosen]
        folder = path if path.is_dir() else path.parent
        self._classes = list(classes) if classes is not None else _class_names(folder, path)
        self.name = f"IDX {path} ({self.count():,} pictures)"

    def count(self) -> int:
        """Number of pictures."""
        return sum(len(part.pictures) for part in self._parts)

    def chunks(self, size: int) -> Iterator[ArrayChunk]:
        """All pictures, split by split; no chunk crosses from one split into the next."""
        for part in self._parts:
            step = chunk_size(size, math.prod(part.pictures.shape[1:]))
            for start in range(0, len(part.pictures), step):
                pictures = part.pictures[start : start + step]
                numbers = range(start, start + len(pictures))
                ids = [f"{part.prefix}/{i:05d}" for i in numbers]
                sources = [f"{self._path_of(part)}#{i}" for i in numbers]
                yield ArrayChunk(ids, hash_rows(pictures), self._metadata(part, numbers), sources, pictures)

    def close(self) -> None:
        """Free the arrays."""
        self._parts = []

    def _path_of(self, part: _Part) -> str:
        return check_text_path(part.path)

    def _metadata(self, part: _Part, numbers: range) -> list[Metadata]:
        if part.labels is None:
            return [{"split": part.split} for _ in numbers]
        labels = part.labels[numbers.start : numbers.stop].tolist()
        return [{"split": part.split, **label_metadata(label, self._classes)} for label in labels]


def _image_files(path: Path) -> list[tuple[Path, re.Match[str]]]:
    if not path.exists():
        raise SourceError(f"there is no file or folder {path}")
    if not path.is_dir():
        match = _NAME.match(path.name)
        if match is None:
            match = cast("re.Match[str]", _NAME.match(f"{path.name.split('.')[0]}-images-idx3-ubyte"))
        elif match["what"] == "labels":
            raise SourceError(f"{path} holds labels: name the images file beside it")
        return [(path, match)]
    found: dict[str, tuple[Path, re.Match[str]]] = {}
    for entry in sorted(path.iterdir()):
        match = _NAME.match(entry.name)
        # Sorted, the plain file comes before its .gz twin and is preferred: it can be mapped.
        if match is not None and match["what"] == "images":
            found.setdefault(match["set"], (entry, match))
    if not found:
        raise SourceError(f"{path} holds no IDX files (such as train-images-idx3-ubyte.gz)")
    # Training pictures first, as everybody counts them.
    return sorted(found.values(), key=lambda pair: (_split(pair[1]["set"]) != "train", pair[0].name))


def _split(prefix: str) -> str:
    lowered = prefix.lower()
    if lowered.endswith("train"):
        return "train"
    return "test" if lowered.endswith(("t10k", "test")) else prefix or "all"


def _read_part(path: Path, match: re.Match[str], split: str, prefix: str) -> _Part:
    pictures = read_idx(path)
    if pictures.dtype != np.uint8 or pictures.ndim not in (3, 4):
        raise SourceError(
            f"{path} holds {pictures.dtype} values of shape {pictures.shape}: pictures are uint8 (n, h, w)"
        )
    if pictures.ndim == 4 and pictures.shape[3] not in (1, 3):
        raise SourceError(f"{path} has {pictures.shape[3]} channels: pictures have 1 or 3")
    labels = None
    label_file = _labels_beside(path)
    if label_file is not None:
        labels = read_idx(label_file)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise SourceError(
                f"{label_file} holds {labels.dtype} values of shape {labels.shape}: labels are one integer each"
            )
        if len(labels) != len(pictures):
            raise SourceError(
                f"{label_file} has {len(labels):,} labels, but {path.name} has {len(pictures):,} pictures"
            )
        labels = labels.astype(np.int64)
    shaped = pictures[..., None] if pictures.ndim == 3 else pictures
    return _Part(prefix, split, path, shaped, labels)


def _labels_beside(path: Path) -> Path | None:
    match = _NAME.match(path.name)
    if match is None:
        return None
    for entry in sorted(path.parent.iterdir()):
        other = _NAME.match(entry.name)
        if other is not None and other["what"] == "labels" and other["set"] == match["set"]:
            return entry
    return None


def _class_names(folder: Path, source: Path) -> list[str] | None:
    for candidate in [folder / name for name in _CLASS_FILES] + sorted(folder.glob("*-mapping.txt")):
        if candidate.is_file():
            lines = candidate.read_text(encoding="utf-8", errors="replace").splitlines()
            return _mapping(lines) if candidate.name.endswith("-mapping.txt") else [line.strip() for line in lines]
    return list(FASHION) if "fashion" in str(source.absolute()).lower() else None


def _mapping(lines: Sequence[str]) -> list[str]:
    """EMNIST's mapping files: ``class ascii [ascii]`` a line."""
    names: dict[int, str] = {}
    for line in lines:
        numbers = [int(part) for part in line.split() if part.isdigit()]
        if len(numbers) >= 2 and numbers[0] < 1000:
            names[numbers[0]] = "/".join(chr(code) for code in dict.fromkeys(numbers[1:]) if code < 0x110000)
    return [names.get(i, str(i)) for i in range(max(names, default=-1) + 1)]


def read_idx(path: Path) -> npt.NDArray[Any]:
    """The array of one IDX file: mapped if plain, decompressed into one array if gzipped.

    Raises:
        SourceError: it is no IDX, or shorter or longer than its header says.
    """
    try:
        with path.open("rb") as raw:
            if raw.read(2) == b"\x1f\x8b":
                raw.seek(0)
                with gzip.open(raw) as unpacked:
                    return _read_stream(cast("IO[bytes]", unpacked), path)
            raw.seek(0)
            dtype, shape = _header(raw, path)
            offset, expected = raw.tell(), math.prod(shape) * dtype.itemsize
            held = path.stat().st_size - offset
            if held != expected:
                raise SourceError(f"{path} holds {held:,} bytes of values where its header promises {expected:,}")
            if not expected:
                return np.zeros(shape, dtype.newbyteorder("="))
            values = np.memmap(raw, dtype=dtype, mode="r", offset=offset, shape=shape)
            return values if dtype.itemsize == 1 else np.asarray(values.astype(dtype.newbyteorder("=")))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"{path} is damaged or truncated: {error}") from None
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror or error}") from None


def _header(file: IO[bytes], path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not 1 <= magic[3] <= 4:
        raise SourceError(f"{path} is no IDX file: its first bytes are {magic.hex(' ') or 'missing'}, not 00 00 08 03")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise SourceError(f"{path} is truncated: its header ends early")
    return np.dtype(_TYPES[magic[2]]), struct.unpack(f">{magic[3]}I", sizes)


def _read_stream(file: IO[bytes], path: Path) -> npt.NDArray[Any]:
    dtype, shape = _header(file, path)
    expected = math.prod(shape) * dtype.itemsize
    # Grown as the bytes come: a header that lies must not make us allocate what it says.
    values, packed = bytearray(), path.stat().st_size
    if expected <= _DEFLATE * packed:  # it may be true: what it says is refused before it is read
        check_expansion(str(path), packed, expected)
    while len(values) <= expected and (block := file.read(min(_BLOCK, expected - len(values) + 1))):
        values += block
        check_expansion(str(path), packed, len(values))
    if len(values) != expected:
        held = f"more than {expected:,}" if len(values) > expected else f"{len(values):,}"
        raise SourceError(f"{path} holds {held} bytes of values where its header promises {expected:,}")
    array = np.frombuffer(values, dtype=dtype).reshape(shape)
    return array if dtype.itemsize == 1 else array.astype(dtype.newbyteorder("="))
