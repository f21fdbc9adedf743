"""What may be asked with: latents, arrays, pictures, files, and items of the store, one or many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import InvalidArgument, InvalidVector, SpaceMismatch, UnknownItem, UnreadableItem
from embedstore.metadata import items
from embedstore.metadata.database import Database
from embedstore.truth.snapshot import SpaceView
from embedstore.types import Latent, Picture, Pictures, Vectors
from embedstore.validate import as_vectors, check_dimension, check_queries, id_fault

#: Larger query pictures are reduced while decoding, as the readers reduce them.
_QUERY_SIDE = 256


@dataclass(frozen=True, slots=True)
class ItemRef:
    """An item of the store as a query: its own latent is looked up, and it is left out of its own answer."""

    id: str


@dataclass(slots=True)  # not frozen: each field would be set by a call of its own, in every search
class Resolved:
    """Queries as vectors.

    Attributes:
        vectors: float32 (nq, d), checked.
        own: int64 (nq,) rows of items that ask for their neighbours, -1 elsewhere; None where there is none.
        single: whether one query was given, not a list of one.
    """

    vectors: Vectors
    own: npt.NDArray[np.int64] | None
    single: bool


def resolve(
    query: Any,
    view: SpaceView,
    database: Database,
    encode: Callable[[Pictures], Vectors],
) -> Resolved:
    """Turn any query into vectors of the view's space.

    Raises:
        InvalidVector, DimensionMismatch, SpaceMismatch, UnknownItem, or what reading and encoding a picture raises.
    """
    space = view.space
    if isinstance(query, np.ndarray) and query.ndim <= 2 and query.dtype != np.uint8:
        if query.ndim == 1 and query.dtype == np.float32 and query.flags.c_contiguous and len(query):
            vectors = query[None]  # what the checks of any array would come to, in a fifth of their time
        else:
            vectors = as_vectors(query, "query vectors")
        check_queries(vectors, space.dimension, space.metric)
        return Resolved(vectors, None, single=query.ndim == 1)
    single = is_single(query)
    parts: Sequence[Any] = [query] if single else query
    vectors = np.empty((len(parts), space.dimension), dtype=np.float32)
    own = np.full(len(parts), -1, dtype=np.int64)
    pictures: list[tuple[int, Picture]] = []
    for index, part in enumerate(parts):
        if isinstance(part, ItemRef):
            own[index] = row_of(database, part.id)
        elif isinstance(part, Latent):
            if (part.space, part.fingerprint) != (space.name, space.fingerprint):
                raise SpaceMismatch(
                    f"the latent is of space {part.space!r} ({part.fingerprint[:12] or 'no encoder'}), and the search "
                    f"is in {space.name!r} ({space.fingerprint[:12] or 'no encoder'}): encode it there, or name space="
                )
            vectors[index] = _one(part.vector, space.dimension)
        elif isinstance(part, (str, Path)):
            from embedstore.readers.files import read_picture

            try:
                pictures.append((index, read_picture(part, _QUERY_SIDE)))
            except UnreadableItem as error:
                if isinstance(part, str) and _is_item(database, part):
                    raise UnreadableItem(
                        f"{error}; the item of that id is asked with as store.item({part!r})"
                    ) from None
                raise
        elif (picture := as_picture(part)) is not None:
            pictures.append((index, picture))
        else:
            vectors[index] = _one(part, space.dimension)
    asked = np.flatnonzero(own >= 0)
    if len(asked):
        vectors[asked] = vectors_of_rows(view, own[asked])
    if pictures:
        vectors[[index for index, _ in pictures]] = encode([picture for _, picture in pictures])
    check_queries(vectors, space.dimension, space.metric)
    return Resolved(vectors, own if len(asked) else None, single)


def as_pictures(images: Any) -> Pictures:
    """Pictures from an array (n, h, w[, c]) of uint8, one PIL image, or a sequence of arrays or PIL images."""
    if (one := as_picture(images)) is not None:
        return one[None]
    if isinstance(images, np.ndarray) and images.ndim in (3, 4):
        if images.dtype != np.uint8:
            raise InvalidArgument(f"pictures must be uint8 with values from 0 to 255, not {images.dtype}")
        return images[..., None] if images.ndim == 3 else images
    pictures = [as_picture(image) for image in images] if isinstance(images, Iterable) else [None]
    if any(picture is None for picture in pictures):
        raise InvalidArgument("pictures must be uint8 arrays (h, w[, c]) or PIL images")
    return [picture for picture in pictures if picture is not None]


def one_picture(value: Any) -> Picture:
    """A PIL image or uint8 array as a picture (h, w, c).

    Raises:
        InvalidArgument: it is neither.
    """
    if (picture := as_picture(value)) is None:
        raise InvalidArgument("a picture must be a uint8 array (h, w[, c]) or a PIL image")
    return picture


def as_picture(value: Any) -> Picture | None:
    """A PIL image or uint8 array (h, w) or (h, w, 1|3|4) as a picture (h, w, c); None for anything else."""
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or not (value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 3, 4))):
            return None
        if value.shape[2:] == (4,):
            from PIL import Image

            return as_picture(Image.fromarray(value))
        return value[:, :, None] if value.ndim == 2 else value
    if hasattr(value, "getbands") and hasattr(value, "convert"):
        from embedstore.readers.decode import to_picture

        return to_picture(value)
    return None


def _is_item(database: Database, name: str) -> bool:
    if id_fault(name) is not None:
        return False
    with database.read() as connection:
        return name in items.find(connection, [name])


def row_of(database: Database, name: str) -> int:
    """The row of an item.

    Raises:
        UnknownItem: there is none; near ids are suggested.
    """
    if (fault := id_fault(name)) is not None:
        raise UnknownItem(f"no item has the id {name!r}: {fault}")
    with database.read() as connection:
        known = items.find(connection, [name])
        if name in known:
            return known[name].row
        near = items.similar_ids(connection, name)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ": `embedstore export` lists the ids"
    raise UnknownItem(f"no item has the id {name!r}{hint}")


def vectors_of_rows(view: SpaceView, rows: npt.NDArray[np.int64]) -> Vectors:
    """Latents (n, d) of rows, in the order asked for."""
    positions = np.searchsorted(view.rows, rows)
    positions = np.minimum(positions, max(0, len(view.rows) - 1))
    if not len(view.rows) or (view.rows[positions] != rows).any():
        raise UnknownItem(f"an item asked for has no latent in space {view.space.name!r}")
    return view.vectors.read(positions)


def is_single(query: Any) -> bool:
    """Whether this is one query, not several."""
    if isinstance(query, np.ndarray):
        return as_picture(query) is not None or query.ndim < 2
    return not isinstance(query, (list, tuple)) or _is_numbers(query)


def _is_numbers(value: Any) -> bool:
    return len(value) > 0 and all(isinstance(number, (int, float, np.number)) for number in value)


def _one(value: Any, dimension: int) -> Vectors:
    vectors = as_vectors(value, "a query vector")
    if len(vectors) != 1:
        raise InvalidVector(f"a list of queries may hold vectors of shape ({dimension},), not {np.shape(value)}")
    check_dimension(vectors, dimension, "query vectors")
    vector: Vectors = vectors[0]
    return vector
