"""What an iterable or a dataset may yield, turned into items: Items, arrays, tensors, PIL images, paths, vectors,
(picture, label) tuples and records. Libraries are recognised by what their objects can do, never imported.
"""

from __future__ import annotations

import json
import numbers
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import UnreadableItem
from embedstore.readers.arrays import as_channels_last, over_white
from embedstore.readers.pieces import label_metadata
from embedstore.readers.scaling import factor_for, scale
from embedstore.types import Failure, Item, Metadata, Picture

PICTURE_COLUMNS = ("image", "img", "picture", "pixels", "file_name", "path", "file")
VECTOR_COLUMNS = ("vector", "embedding", "embeddings")
LABEL_COLUMNS = ("label", "labels", "target", "fine_label")
_SLICE = 256  # rows of a Hugging Face dataset read at a time


@dataclass(frozen=True, slots=True)
class Rules:
    """How entries are read.

    Attributes:
        classes: names of the classes, by number.
        picture_column, label_column: names in records; None looks for the usual ones.
    """

    classes: Sequence[str] | None = None
    picture_column: str | None = None
    label_column: str | None = None


def to_item(entry: Any, number: int, rules: Rules) -> Item | Failure:
    """One entry as an item whose picture is uint8 (h, w, c) or a path, or as the reason why it can't be one."""
    name: Any = entry.id if isinstance(entry, Item) else f"{number:05d}"
    if not isinstance(name, str):
        return Failure(str(name), f"an id must be text, not {type(name).__name__}")
    if isinstance(entry, Mapping) and entry.get("id") is not None:
        name = str(entry["id"])
    try:
        if isinstance(entry, Failure):
            return Failure(name, entry.reason)
        item = _to_item(entry, name, rules)
        return replace(item, metadata=_json_object(item.metadata))
    except UnreadableItem as error:
        return Failure(name, str(error))


def _to_item(entry: Any, name: str, rules: Rules) -> Item:
    if isinstance(entry, Item):
        return _checked(entry)
    if isinstance(entry, Mapping):
        return _from_record(entry, name, rules)
    if (isinstance(entry, tuple) and len(entry) == 2) or _has_parts(entry):
        payload, *rest = entry
        return _with_payload(Item(name, metadata=_from_parts(rest, rules)), payload, own_name=not rest)
    return _with_payload(Item(name), entry, own_name=True)


def _has_parts(entry: Any) -> bool:
    """Whether a tuple or list is a picture (or vector) and what belongs to it, rather than rows of numbers."""
    if not isinstance(entry, tuple | list) or not entry:
        return False
    first, *rest = entry
    if isinstance(first, str | os.PathLike) or hasattr(first, "getbands"):
        return True
    shape = getattr(first, "shape", ())
    return len(shape) > 0 and not any(getattr(part, "shape", None) == shape for part in rest)


def _from_parts(rest: Sequence[Any], rules: Rules) -> Metadata:
    """Metadata from what comes behind the picture: a label or metadata, or both."""
    if len(rest) > 2 or (len(rest) == 2 and not isinstance(rest[1], Mapping)):
        raise UnreadableItem(
            f"has {len(rest) + 1} parts, and only (picture,), (picture, label), (picture, metadata) and "
            "(picture, label, metadata) can be told apart: give the rest names, as metadata"
        )
    found: Metadata = {}
    for part in rest:
        found.update(part if isinstance(part, Mapping) else label_metadata(plain(part), rules.classes))
    return found


def _checked(item: Item) -> Item:
    """An item of the user's, its arrays in our dtypes."""
    if item.vector is not None:
        return replace(item, vector=_vector(item.vector))
    if item.picture is None:
        raise UnreadableItem("has neither a picture nor a vector")
    return _with_payload(item, item.picture, own_name=False)


def _with_payload(item: Item, payload: Any, *, own_name: bool) -> Item:
    if isinstance(payload, str | os.PathLike):
        path = Path(payload)
        return replace(
            item,
            id=path.as_posix() if own_name else item.id,
            picture=path,
            source=item.source or os.path.abspath(path),  # noqa: PTH100 - links stay as the user named them
        )
    if hasattr(payload, "getbands") and hasattr(payload, "convert"):
        from embedstore.readers.decode import to_picture

        try:
            return replace(item, picture=to_picture(payload))
        except (OSError, ValueError, SyntaxError) as error:
            raise UnreadableItem(f"can't be decoded: {error}") from None
    values, channels_first = _as_array(payload)
    if values.ndim == 1:
        return replace(item, picture=None, vector=_vector(values))
    return replace(item, picture=to_uint8(values, channels_first))


def _as_array(payload: Any) -> tuple[npt.NDArray[Any], bool]:
    """A NumPy array and whether channels are expected in front, as torch has them."""
    tensor = hasattr(payload, "detach") and hasattr(payload, "cpu")
    try:
        return np.asarray(payload.detach().cpu().numpy() if tensor else payload), tensor
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnreadableItem(f"is no picture: {error}") from None


def _vector(values: Any) -> npt.NDArray[np.float32]:
    vector = np.asarray(values)
    if vector.ndim != 1 or vector.dtype.kind not in "fiu" or not vector.size:
        raise UnreadableItem(f"has a vector of shape {vector.shape} and type {vector.dtype}: (d,) floats are expected")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and fails alone for that
        return vector.astype(np.float32)


def to_uint8(values: npt.NDArray[Any], channels_first: bool = False) -> Picture:
    """One picture (h, w), (h, w, c) or (c, h, w) of any accepted dtype as uint8 (h, w, c).

    Raises:
        UnreadableItem: of another shape or with values that are no pixels.
    """
    if values.ndim == 3 and channels_first and values.shape[0] in (1, 3, 4):
        values = values.transpose(1, 2, 0)
    if values.ndim not in (2, 3) or not values.size:
        raise UnreadableItem(f"has shape {values.shape}; a picture is (h, w), (h, w, c) or (c, h, w)")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UnreadableItem("holds NaN")
    try:
        shaped = as_channels_last(values[None])[0]
        return np.ascontiguousarray(over_white(scale(shaped, factor_for(shaped))))
    except ValueError as error:
        raise UnreadableItem(str(error)) from None


def _from_record(record: Mapping[str, Any], name: str, rules: Rules) -> Item:
    """A row with named columns: the picture or vector, ``id``, the label, and metadata."""
    columns = dict(record)
    columns.pop("id", None)
    candidates = (rules.picture_column,) if rules.picture_column else (*PICTURE_COLUMNS, *VECTOR_COLUMNS)
    column = next((c for c in candidates if columns.get(c) is not None), None)
    if column is None:
        raise UnreadableItem(f"has no column {' or '.join(map(repr, candidates[:3]))} with a picture")
    payload = columns.pop(column)
    label_columns = (rules.label_column,) if rules.label_column else LABEL_COLUMNS
    metadata = {key: plain(value) for key, value in columns.items()}
    for key in label_columns:
        if rules.classes is not None and isinstance(metadata.get(key), int):
            metadata.update(label_metadata(metadata.pop(key), rules.classes))
            break
    return _with_payload(Item(name, metadata=metadata), payload, own_name=False)


def plain(value: Any) -> Any:
    """NumPy and torch scalars and arrays as Python's own; anything else as it is."""
    if hasattr(value, "tolist") and not isinstance(value, str | bytes):
        return value.tolist()
    return value


def _json_object(metadata: Metadata) -> Metadata:
    """Metadata as JSON can hold it.

    Raises:
        UnreadableItem: it holds something else.
    """
    try:
        text = json.dumps(metadata, default=_plain_or_fail, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UnreadableItem(f"has metadata that JSON can't hold: {error}") from None
    loaded: Metadata = json.loads(text)
    return loaded


def _plain_or_fail(value: Any) -> Any:
    if isinstance(value, numbers.Integral):
        return int(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def is_hugging_face(source: Any) -> bool:
    """Whether a source has the parts of a Hugging Face Dataset that are used here."""
    return all(hasattr(source, part) for part in ("features", "column_names", "__getitem__", "__len__"))


def is_map_style(source: Any) -> bool:
    """Whether a source is read by number, as torch's map-style Datasets are."""
    return (
        hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, str | bytes | Mapping)
    )


def hugging_face_rules(source: Any, rules: Rules) -> Rules:
    """Rules with the picture column and class names that a Hugging Face dataset's features tell."""
    features = getattr(source, "features", None)
    if not isinstance(features, Mapping):  # an iterable dataset may not know its own
        return rules
    column = rules.picture_column
    if column is None:
        column = next((name for name, kind in features.items() if type(kind).__name__ == "Image"), None)
    label = rules.label_column
    if label is None:
        label = next((name for name, kind in features.items() if getattr(kind, "names", None)), None)
    names = getattr(features.get(label), "names", None) if label is not None else None
    return replace(rules, picture_column=column, label_column=label, classes=rules.classes or names)


def by_number(source: Any) -> Iterator[Any]:
    """The entries of a map-style dataset; one that raises is a failure of its own."""
    for number in range(len(source)):
        yield _attempt(lambda number=number: source[number])  # type: ignore[misc]


def by_slice(source: Any) -> Iterator[Any]:
    """The rows of a Hugging Face dataset as records, many at a time, one at a time where a slice can't be read."""
    for start in range(0, len(source), _SLICE):
        stop = min(start + _SLICE, len(source))
        columns = _attempt(lambda start=start, stop=stop: source[start:stop])  # type: ignore[misc]
        if isinstance(columns, Failure):
            for number in range(start, stop):
                yield _attempt(lambda number=number: source[number])  # type: ignore[misc]
        else:
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))


def _attempt(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - the user's own code; one bad entry must not cost the rest
        return Failure("", f"the dataset raised {type(error).__name__}: {error}")
