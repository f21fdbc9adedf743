"""Names of readers and encoders, ours and other people's, and where their code is: ``name -> "module:attribute"``.

Plugins enter through the entry-point groups ``embedstore.readers`` and ``embedstore.encoders``, our own built-ins
through the table below, and both are resolved by the same call, on first use: nothing is imported to list names.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

from embedstore.errors import InvalidArgument

_BUILT_IN: dict[str, dict[str, str]] = {
    "readers": {
        "folder": "embedstore.readers.folder:FolderReader",
        "idx": "embedstore.readers.idx:IdxReader",
        "arrays": "embedstore.readers.arrays:ArrayReader",
        "table": "embedstore.readers.table:TableReader",
        "items": "embedstore.readers.iterables:ItemReader",
    },
    "encoders": {
        "autoencoder": "embedstore.encoders.trained:TrainedEncoder",
        "pca": "embedstore.encoders.pca:PcaEncoder",
    },
}


def names(group: str) -> list[str]:
    """All registered names of a group, sorted."""
    return sorted({*_BUILT_IN[group], *(entry.name for entry in entry_points(group=f"embedstore.{group}"))})


def resolve(group: str, name: str) -> Any:
    """Import and return what ``name`` stands for; a plugin can't shadow a built-in name."""
    target = _BUILT_IN[group].get(name)
    if target is not None:
        module, attribute = target.split(":")
        return getattr(importlib.import_module(module), attribute)
    for entry in entry_points(group=f"embedstore.{group}", name=name):
        return entry.load()
    raise InvalidArgument(f"unknown {group[:-1]} {name!r}: use one of {', '.join(names(group))}")
