"""Where things lie in a store's directory."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

DATABASE = "store.db"
LOCK = "LOCK"
SEGMENTS = "segments"
TIERS = "tiers"
MODELS = "models"
#: What the two files of an encoder are named by: a row of the database, which may come from anywhere, becomes a path.
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
#: Names of files that we write into those folders: nothing else in them is ours to remove.
OURS = re.compile(r"[0-9]+\.(vec|thumb|faiss|draft)|[0-9a-f]{64}\.(safetensors|json)|\..*\.tmp")


def segment_name(number: int, kind: str) -> str:
    """File name of a segment: '000001.vec', '000002.thumb'."""
    return f"{number:06d}.{kind}"


def tier_name(number: int) -> str:
    """File name of a tier: '000003.faiss'."""
    return f"{number:06d}.faiss"


def make(directory: Path) -> None:
    """Make a store's directory and its folders."""
    for part in (directory, directory / SEGMENTS, directory / TIERS, directory / MODELS):
        part.mkdir(exist_ok=True, parents=True)


def disk_usage(directory: Path) -> dict[str, int]:
    """Bytes of a store's files by folder; those of the directory itself count as 'database'."""
    sizes: dict[str, int] = {}
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # another process has swept or renamed it meanwhile
            if path.is_file():
                part = path.parent.name if path.parent != directory else "database"
                sizes[part] = sizes.get(part, 0) + path.stat().st_size
    return sizes
