"""Finding the picture files under a folder, without opening anything that is no regular file."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field

from embedstore.errors import SourceError, UnreadableItem
from embedstore.readers import formats
from embedstore.readers.hashing import kind_of, open_regular
from embedstore.readers.pieces import printable
from embedstore.types import Failure

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass(slots=True)
class Scan:
    """What lies under a folder; all paths are relative to it, with forward slashes, in code-point order.

    Attributes:
        pictures: files to decode.
        tables: metadata.csv, .jsonl and .parquet files.
        failures: entries that should have been pictures but can't be read.
        ignored: number of other files, hidden ones included.
        unsupported: pictures of formats that are not read, by suffix.
    """

    pictures: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    ignored: int = 0
    unsupported: Counter[str] = field(default_factory=Counter)


def scan(root: str) -> Scan:
    """Walk a folder tree.

    Symlinks to directories are followed, but a directory is read once only, by device and inode: that ends every loop.
    Real directories come before links to them, so that an id doesn't change when someone adds a link.

    Raises:
        SourceError: the folder itself can't be read.
    """
    found = Scan()
    seen = {_identity(os.stat(root))}  # noqa: PTH116
    linked: list[str] = []
    _walk(root, [""], found, seen, linked)
    while linked:
        linked.sort()
        later: list[str] = []
        for relative in linked:
            try:
                identity = _identity(os.stat(f"{root}/{relative}"))  # noqa: PTH116
            except OSError as error:
                found.failures.append(Failure(relative, f"can't be followed: {error.strerror}"))
                continue
            if identity not in seen:
                seen.add(identity)
                _walk(root, [relative + "/"], found, seen, later)
        linked = later
    found.pictures.sort()
    found.tables.sort()
    found.failures.sort(key=lambda failure: failure.id)
    return found


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _walk(root: str, todo: list[str], found: Scan, seen: set[tuple[int, int]], linked: list[str]) -> None:
    """Read the directories in ``todo`` (relative, ending in ``/`` or empty) and all real ones below."""
    while todo:
        prefix = todo.pop()
        try:
            with os.scandir(f"{root}/{prefix}") as entries:
                for entry in entries:
                    _visit(entry, prefix, todo, found, seen, linked)
        except OSError as error:
            if not prefix:
                raise SourceError(f"the folder {root} can't be read: {error.strerror}") from None
            found.failures.append(Failure(prefix, f"the folder can't be read: {error.strerror}"))


def _visit(
    entry: os.DirEntry[str], prefix: str, todo: list[str], found: Scan, seen: set[tuple[int, int]], linked: list[str]
) -> None:
    relative = prefix + entry.name
    if entry.name.startswith("."):
        found.ignored += 1
        return
    try:
        relative.encode()
    except UnicodeEncodeError:
        found.failures.append(Failure(printable(relative), "the name is not valid UTF-8: rename it to have it indexed"))
        return
    try:
        if entry.is_dir(follow_symlinks=False):
            # A bind mount can show one directory twice too, so real ones are remembered as well.
            identity = _identity(entry.stat(follow_symlinks=False))
            if identity not in seen:
                seen.add(identity)
                todo.append(relative + "/")
            return
        if entry.is_symlink() and entry.is_dir():
            linked.append(relative)
            return
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
        if not entry.is_file():
            _refuse(entry, relative, suffix, found)
            return
    except OSError as error:  # a loop of links, or a folder without search permission
        found.failures.append(Failure(relative, f"can't be followed: {error.strerror}"))
        return
    if suffix in formats.PICTURE_SUFFIXES:
        found.pictures.append(relative)
    elif entry.name in METADATA_NAMES:
        found.tables.append(relative)
    elif suffix in formats.OTHER_PICTURE_SUFFIXES:
        found.unsupported[suffix] += 1
    elif suffix in formats.OTHER_SUFFIXES or entry.name.lower() in formats.OTHER_NAMES:
        found.ignored += 1
    elif _has_picture_magic(entry.path):
        found.pictures.append(relative)
    else:
        found.ignored += 1


def _refuse(entry: os.DirEntry[str], relative: str, suffix: str, found: Scan) -> None:
    """Report what is neither file nor directory. It is never opened: opening a FIFO would wait for a writer."""
    try:
        status = entry.stat()
    except OSError as error:
        if suffix in formats.OTHER_SUFFIXES or entry.name.lower() in formats.OTHER_NAMES:
            found.ignored += 1
        else:  # to a picture, or to a folder on a disk that isn't mounted now
            found.failures.append(Failure(relative, f"is a link that leads nowhere ({error.strerror})"))
        return
    if not stat.S_ISREG(status.st_mode):
        found.failures.append(Failure(relative, f"is {kind_of(status.st_mode)}, not a regular file"))


def _has_picture_magic(path: str) -> bool:
    """Whether a file whose name says nothing begins as a picture does."""
    try:
        descriptor = open_regular(path)
    except UnreadableItem:
        return False
    try:
        return formats.looks_like_picture(os.read(descriptor, formats.MAGIC_LENGTH))
    except OSError:
        return False
    finally:
        os.close(descriptor)
