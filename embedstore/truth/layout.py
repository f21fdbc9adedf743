"""Where things lie in a store's directory."""

from __future__ import annotations

from pathlib import Path

DATABASE = "store.db"
LOCK = "LOCK"
SEGMENTS = "segments"
TIERS = "tiers"
MODELS = "models"


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
