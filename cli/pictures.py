"""Pictures that commands write: contact sheets, and stored pictures of items."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.cli import points
from embedstore.errors import InvalidArgument, NoDecoder
from embedstore.query import sheet
from embedstore.query.resolve import ItemRef
from embedstore.readers.files import read_picture
from embedstore.truth.pictures import to_picture

if TYPE_CHECKING:
    from embedstore.query.hits import Hits
    from embedstore.store import Store
    from embedstore.types import Picture

_TITLE_KEYS = ("label", "title", "name", "caption", "text")


def check(path: Path, *others: str, count: int = 0) -> None:
    """Raise InvalidArgument where a picture can't be written to ``path``, before the work for it is done.

    Args:
        path: of the file.
        others: endings that are as good, though not a picture's: '.gif' of a film, '.npy' of latents.
        count: number of pictures on it, where it is a sheet.
    """
    endings = (*sheet.SUFFIXES, *others)
    if path.suffix.lower() not in endings:
        raise InvalidArgument(f"{path} must end in one of {', '.join(endings)}: nothing else is written")
    if path.suffix.lower() in sheet.SUFFIXES and count > sheet.MOST:
        instead = f", or write {' or '.join(others)}" if others else ""
        raise InvalidArgument(f"{count:,} pictures are too many for one sheet: ask for at most {sheet.MOST:,}{instead}")
    check_place(path)


def check_place(path: Path) -> None:
    """Raise InvalidArgument where no file can be written to ``path``."""
    parent = path.parent
    if path.is_dir():
        raise InvalidArgument(f"{path} is a folder: name a file")
    if not parent.is_dir():
        raise InvalidArgument(f"{path} can't be written: there is no folder {parent}")
    if not os.access(path if path.exists() else parent, os.W_OK):
        raise InvalidArgument(f"{path} can't be written: check the permissions")


def write(path: Path, store: Store, names: Sequence[str], queries: Sequence[Any], answers: Sequence[Hits]) -> None:
    """Write a contact sheet: one query before its hits, or several, one a row."""
    rows = [
        sheet.Row(
            [to_picture(image) for image in hits.images()],
            [_caption(hit.id, hit.metadata, f"distance {hit.distance:.4g}") for hit in hits],
            query=_query_picture(store, query),
            query_caption=_query_caption(store, name, query),
        )
        for name, query, hits in zip(names, queries, answers, strict=True)
    ]
    if len(rows) == 1:
        [row] = rows
        if row.query is None and not isinstance(queries[0], (ItemRef, Path)):  # a point that can't be decoded
            write_hits(path, answers[0])
            return
        image = sheet.sheet(row.pictures, row.captions, query=row.query, query_caption=row.query_caption)
    else:
        image = sheet.rows(rows)
    sheet.save(image, path)


def write_hits(path: Path, hits: Hits) -> None:
    """Write a contact sheet of hits alone, where there are several queries or none."""
    captions = [_caption(hit.id, hit.metadata, f"score {hit.score:.4g}") for hit in hits]
    sheet.save(sheet.sheet([to_picture(image) for image in hits.images()], captions), path)


def write_items(target: Path, store: Store, ids: Sequence[str]) -> list[Path]:
    """Write items' stored pictures, or, where ``target`` is an .npy, their latents. Returns the files written.

    Raises:
        InvalidArgument: an item has no picture, or ``target`` can't be written.
    """
    if target.suffix.lower() == ".npy":
        check_place(target)
        points.write_vectors(target, np.stack([store.vector(name).vector for name in ids]))
        return [target]
    images = store.images(ids)
    for name, image in zip(ids, images, strict=True):
        if image is None:
            raise InvalidArgument(f"item {name!r} has no picture to write")
    if len(ids) == 1 and not target.is_dir():
        check(target)
        sheet.save(images[0], target)  # type: ignore[arg-type]  # None was refused above
        return [target]
    if target.exists() and not target.is_dir():
        raise InvalidArgument(f"{target} is a file: name a folder for several pictures")
    if not target.parent.is_dir() or not os.access(target if target.is_dir() else target.parent, os.W_OK):
        raise InvalidArgument(
            f"the folder {target} can't be written: check that its parent exists, and its permissions"
        )
    target.mkdir(exist_ok=True)
    written = []
    for index, (name, image) in enumerate(zip(ids, images, strict=True)):
        # An id is no file name: it may have slashes, dots, or 1,024 bytes. The number keeps two of them apart.
        stem = re.sub(r"[^\w.-]+", "_", name)[-60:].lstrip(".")
        written.append(target / f"{index + 1:04d}-{stem}.png")
        sheet.save(image, written[-1])  # type: ignore[arg-type]
    return written


def _query_picture(store: Store, query: Any) -> Picture | None:
    """What was asked with: the item's picture, the file's, or the latent decoded where the space can."""
    if isinstance(query, ItemRef):
        return to_picture(store.images([query.id])[0])
    if isinstance(query, Path):
        return read_picture(query, max_side=sheet.TILE)
    if not any(space["encoder"] for space in store.info()["spaces"]):
        return None
    try:
        return to_picture(store.decode(query)[0])
    except NoDecoder:
        return None


def _query_caption(store: Store, name: str, query: Any) -> str:
    if isinstance(query, ItemRef):
        return _caption(name, store.get(name)["metadata"], "query")
    if isinstance(query, Path):
        return f"{Path(name).name}\nquery"
    return f"{name}\ndecoded"


def _caption(name: str, metadata: dict[str, Any], last: str) -> str:
    """Two or three lines: what it is, which one, how near."""
    title = next((str(metadata[key]) for key in _TITLE_KEYS if metadata.get(key) not in (None, "")), None)
    return "\n".join([*([title] if title is not None else []), name, last])
