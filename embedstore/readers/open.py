"""From whatever a user names to a reader of it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np

from embedstore import registry
from embedstore.errors import InvalidArgument, SourceError
from embedstore.readers import formats, idx, rows
from embedstore.readers.hashing import kind_of
from embedstore.types import Item, Reader

ACCEPTED = (
    "a folder of pictures, a picture file, IDX files (MNIST family), .npz or .npy, .csv, .jsonl or .parquet, "
    "and from Python arrays, datasets and iterables of items"
)
#: Meant for whatever is read, so a reader that has no use for one is not bothered with it.
_COMMON = frozenset({"max_side", "workers", "time_limit", "memory_limit", "max_pixels"})


def open_reader(source: Any, *, kind: str | None = None, **options: Any) -> Reader:
    """A reader of ``source``.

    Args:
        source: a path, a list of paths, an array or tensor, an iterable of items, a torch or Hugging Face dataset, or
            a Reader, which is returned as it is.
        kind: a registered reader's name ("folder", "idx", "arrays", "table", "items", or a plugin's) instead of the
            one that fits.
        options: of that reader, see docs/sources.md; ``max_side``, ``workers``, ``time_limit``, ``memory_limit``,
            ``max_pixels`` and ``id_prefix`` may be given for every source.

    Raises:
        SourceError: nothing there, empty, damaged as a whole, or of no known kind.
        InvalidArgument: an option that the reader doesn't have, or one out of bounds.
    """
    _check_limits(options)
    prefix = options.pop("id_prefix", "")
    if not isinstance(prefix, str):
        raise InvalidArgument(f"id_prefix is {prefix!r}, but must be text")
    if kind is not None:
        reader = _make(kind, source, options)
    elif isinstance(source, Reader):
        reader = source
    else:
        reader = _open(source, options)
    if not prefix:
        return reader
    from embedstore.readers.several import PrefixedReader

    return PrefixedReader(reader, prefix)


def _check_limits(options: dict[str, Any]) -> None:
    for name in sorted(_COMMON & options.keys()):
        value = options[name]
        if value is None and name in ("max_side", "workers"):
            continue
        seconds = name == "time_limit"
        number = isinstance(value, (int, float, np.integer, np.floating) if seconds else (int, np.integer))
        if not number or isinstance(value, bool) or not (0 < value < float("inf") if seconds else value >= 1):
            wanted = "a number above 0" if seconds else "a whole number of at least 1"
            raise InvalidArgument(f"{name} is {value!r}, but must be {wanted}")


def _open(source: Any, options: dict[str, Any]) -> Reader:
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source), options)
    if isinstance(source, Item):
        return _make("items", [source], options)
    if hasattr(source, "detach") and hasattr(source, "cpu"):  # a torch tensor, without importing torch
        source = source.detach().cpu().numpy()
        if source.ndim == 4 and source.shape[1] in (1, 3, 4):  # torch has its channels in front
            source = source.transpose(0, 2, 3, 1)
    if isinstance(source, np.ndarray):
        return _make("arrays", source, options)
    if hasattr(source, "getbands") and hasattr(source, "convert"):
        return _make("items", [source], options)
    if isinstance(source, list | tuple) and source and all(isinstance(part, str | os.PathLike) for part in source):
        return _open_paths([Path(part) for part in source], options)
    if isinstance(source, Iterable) or (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        return _make("items", source, options)
    raise SourceError(f"a {type(source).__name__} is no source: accepted are {ACCEPTED}")


def _open_path(path: Path, options: dict[str, Any]) -> Reader:
    kind = _kind_of_path(path)
    return _make_files([path], options) if kind == "file" else _make(kind, path, options)


def _open_paths(paths: list[Path], options: dict[str, Any]) -> Reader:
    # Files that are missing count as pictures: among many, they are failures and not the end.
    if (
        len(paths) > 1
        and all(not path.exists() or _is_picture(path) for path in paths)
        and any(map(Path.exists, paths))
    ):
        return _make_files(paths, options)
    if len(paths) == 1:
        return _open_path(paths[0], options)
    from embedstore.readers.several import SeveralReader

    readers: list[Reader] = []
    try:
        for path in paths:
            readers.append(_open_path(path, options))
        return SeveralReader(readers, paths)
    except BaseException:
        for reader in readers:
            reader.close()
        raise


def _kind_of_path(path: Path) -> str:
    """The name of the reader for a path, or "file" for a picture file."""
    text = str(path)
    if "://" in text or text.startswith(("http:", "https:")):
        raise SourceError(f"{text} is an address: download it and name the local file or folder")
    if not path.exists():
        raise SourceError(f"there is no file or folder {path}")
    if path.is_dir():
        return "idx" if idx.is_idx(path) else "folder"
    if not path.is_file():
        raise SourceError(f"{path} is {kind_of(path.stat().st_mode)}, not a file or folder")
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return "arrays"
    if suffix in rows.SUFFIXES:
        return "table"
    if idx.is_idx(path):
        return "idx"
    if _is_picture(path):
        return "file"
    try:
        with path.open("rb") as file:
            if file.read(3) == b"\0\0\x08":
                return "idx"
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror}") from None
    raise SourceError(f"{path} is of no known kind: accepted are {ACCEPTED}")


def _is_picture(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix.lower() in formats.PICTURE_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return formats.looks_like_picture(file.read(formats.MAGIC_LENGTH))
    except OSError:
        return False


def _make_files(paths: list[Path], options: dict[str, Any]) -> Reader:
    from embedstore.readers.several import FileListReader

    return _construct(FileListReader, "file", paths, options)


def _make(kind: str, source: Any, options: dict[str, Any]) -> Reader:
    return _construct(registry.resolve("readers", kind), kind, source, options)


def _construct(factory: Any, kind: str, source: Any, options: dict[str, Any]) -> Reader:
    """Call a reader with those of the options that it has; a common one it lacks is dropped, another is an error."""
    parameters = inspect.signature(factory).parameters
    takes_pool = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    known = {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    known |= _COMMON if takes_pool else set()
    unknown = sorted(set(options) - known - _COMMON)
    if unknown:
        raise InvalidArgument(
            f"a source of kind {kind!r} has no option {unknown[0]!r}: it has {', '.join(sorted(known)) or 'none'}"
        )
    return cast(Reader, factory(source, **{name: value for name, value in options.items() if name in known}))
