"""NumPy arrays of pictures or of vectors: in memory, .npy (memory-mapped) and .npz."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from embedstore.errors import EmbedstoreError, InvalidArgument, SourceError
from embedstore.readers.hashing import hash_rows
from embedstore.readers.pieces import ArrayChunk, check_expansion, check_text_path, chunk_size, label_metadata
from embedstore.readers.scaling import factor_for, scale
from embedstore.types import Failure, Metadata, Picture

#: Names under which the pictures (or vectors) of an .npz are looked for, best first; each may carry a split's name.
_PICTURE_KEYS = ("x", "images", "pictures", "data", "imgs", "vectors", "embeddings", "arr_0")
_LABEL_KEYS = ("y", "labels", "label", "targets", "target")
_SPLITS = ("train", "valid", "val", "test")


@dataclass(frozen=True, slots=True)
class _Part:
    prefix: str  # of the ids, with its slash, or ""
    split: str | None
    source: str | None  # path[:key], or None in memory
    rows: npt.NDArray[Any]  # pictures (n, h, w, c), of any accepted dtype, or vectors (n, d)
    columns: Mapping[str, npt.NDArray[Any]]
    factor: float


class ArrayReader:
    """Rows of arrays: (n, h, w) and (n, h, w, c) or (n, c, h, w) with 1, 3 or 4 channels are pictures; (n, d) vectors.

    Pictures become uint8 by one rule for the whole array, see ``scaling.factor_for``; a fourth channel is
    transparency and is laid over white. In an .npz the arrays ``x``, ``images``, ``data``, ``vectors``,
    ``embeddings`` or ``arr_0`` are taken, with or without ``train``/``val``/``test`` before or behind (both splits, if
    there are two); ``y``, ``labels`` or ``targets`` become ``label``, an ``ids`` array becomes the ids, ``sources`` the
    items' sources, ``metadata`` (JSON objects as text, as an export has them) the metadata, and every other
    one-dimensional array of the same length a metadata key.

    Args:
        source: an array, or the path of an .npy or .npz.
        key: name of the array in an .npz.
        vectors: True takes rows as vectors whatever their shape (flattened), False as pictures, None by shape.
        labels: one per row, as metadata ``label``; False leaves out those that a file brings.
        classes: names of the classes, by number.
        ids: one per row; else ``00000``, ``00001``, ..., behind the split's name or the file's stem and a slash.
        metadata: one dict per row.
        scope: names an array in memory for pruning; a file is named by its path.

    Raises:
        SourceError: missing, empty, of a shape or of values that are neither pictures nor vectors.
    """

    def __init__(
        self,
        source: npt.NDArray[Any] | str | Path,
        *,
        key: str | None = None,
        vectors: bool | None = None,
        labels: Sequence[Any] | npt.NDArray[Any] | bool | None = None,
        classes: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        metadata: Sequence[Metadata] | None = None,
        scope: str | None = None,
    ) -> None:
        in_memory = isinstance(source, np.ndarray)
        #: whether nothing tells this array from another one
        self.anonymous = in_memory and scope is None
        #: whether ids are the rows' positions
        self.numbered = ids is None
        self.notes: list[str] = []
        self._classes = classes
        columns: dict[str, npt.NDArray[Any]] = {}
        self._without = {"ids", "sources", *(["label"] if labels is False else [])}
        if labels is not None and not isinstance(labels, bool):
            columns["label"] = np.asarray(labels)
        if ids is not None:
            columns["ids"] = np.asarray(ids, dtype=object)
        if metadata is not None:
            columns["metadata"] = np.fromiter(metadata, dtype=object, count=len(metadata))
        if isinstance(source, np.ndarray):
            self.scope, what = scope or "array", f"array {source.shape}"
            parts = [("", None, None, source, columns)]
        else:
            path = Path(source)
            # An array named by its key is a source of its own: pruning it must not take another's items for gone.
            self.scope = scope or check_text_path(path) + (f":{key}" if key is not None else "")
            self._path, what = check_text_path(path), f"file {path}"
            parts = [(*head, rows, {**more, **columns}) for *head, rows, more in self._open(path, key)]  # type: ignore[misc]
        self._parts = [_prepare(*part, what=what, vectors=vectors) for part in parts]
        for part in self._parts if classes is not None else ():
            if "label" in part.columns and part.columns["label"].dtype.kind not in "biu":
                raise InvalidArgument(f"{what} has labels that are no integers: classes= names classes by number")
        kinds = {part.rows.ndim == 2 for part in self._parts}
        if len(kinds) > 1:
            raise SourceError(f"{what} holds vectors and pictures: choose one with key=")
        self.brings_vectors = kinds.pop()
        noun = "vectors" if self.brings_vectors else "pictures"
        self.name = f"{what} ({self.count():,} {noun})"

    def count(self) -> int:
        """Number of rows."""
        return sum(len(part.rows) for part in self._parts)

    def chunks(self, size: int) -> Iterator[ArrayChunk]:
        """All rows in order; no chunk crosses from one split into the next."""
        for part in self._parts:
            step = chunk_size(size, part.rows[0].nbytes)
            for start in range(0, len(part.rows), step):
                yield self._chunk(part, start, min(start + step, len(part.rows)))

    def close(self) -> None:
        """Free the arrays and the file they are mapped from."""
        self._parts = []

    def _chunk(self, part: _Part, start: int, stop: int) -> ArrayChunk:
        numbers = np.arange(start, stop)
        rows = part.rows[start:stop]
        ids = [f"{part.prefix}{i:05d}" for i in numbers]
        if "ids" in part.columns:
            ids = [str(name) for name in part.columns["ids"][start:stop]]
        records = self._metadata(part, numbers)
        faults = {place: record for place, record in enumerate(records) if isinstance(record, str)}
        if not self.brings_vectors and rows.dtype.kind == "f":
            nan = np.isnan(rows).any(axis=(1, 2, 3))
            faults.update(dict.fromkeys(np.flatnonzero(nan).tolist(), "the picture holds NaN"))
        failures = [Failure(ids[place], reason) for place, reason in sorted(faults.items())]
        sources = self._sources(part, numbers)
        if faults:
            keep = [place for place in range(len(ids)) if place not in faults]
            rows, ids, sources = rows[keep], [ids[i] for i in keep], [sources[i] for i in keep]
        metadata = [record for place, record in enumerate(records) if place not in faults and isinstance(record, dict)]
        if self.brings_vectors:
            # float32 is what is stored and searched, whatever the source has; the hash is of what is stored.
            with np.errstate(over="ignore"):  # beyond float32 is infinite, and fails alone for that
                values = np.ascontiguousarray(rows, dtype=np.float32)
            return ArrayChunk(ids, hash_rows(values), metadata, sources, vectors=values, failures=failures)
        pictures = over_white(scale(rows, part.factor))
        return ArrayChunk(ids, hash_rows(pictures), metadata, sources, pictures, failures=failures)

    @staticmethod
    def _sources(part: _Part, numbers: npt.NDArray[np.int64]) -> list[str | None]:
        if "sources" in part.columns:
            return [str(source) or None for source in part.columns["sources"][numbers]]
        return [None if part.source is None else f"{part.source}#{i}" for i in numbers]

    def _metadata(self, part: _Part, numbers: npt.NDArray[np.int64]) -> list[Metadata | str]:
        """Each row's metadata, or the reason why it has none."""
        records: list[Metadata | str] = [{"split": part.split} if part.split else {} for _ in numbers]
        # What is given row by row wins over what a whole column says.
        for name, column in sorted(part.columns.items(), key=lambda pair: pair[0] == "metadata"):
            if name in self._without:
                continue
            for place, value in enumerate(column[numbers].tolist()):
                record = records[place]
                if isinstance(record, str) or (isinstance(value, float) and not np.isfinite(value)):
                    continue
                if name == "metadata":
                    found = _object(value)
                    records[place] = found if isinstance(found, str) else {**record, **found}
                elif name == "label":
                    record.update(label_metadata(value, self._classes))
                else:
                    record[name] = value
        return records

    def _open(self, path: Path, key: str | None) -> list[tuple[str, str | None, str, npt.NDArray[Any], dict[str, Any]]]:
        """(id prefix, split, source, rows, columns) of each array in a file."""
        if not path.is_file():
            raise SourceError(f"there is no file {path}")
        begun = b""
        try:
            with path.open("rb") as file:
                if (begun := file.read(2)) != b"PK":
                    rows = np.load(path, mmap_mode="r", allow_pickle=False)
                    return [(f"{path.stem}/", None, self._path, rows, {})]
                file.seek(0)
                with zipfile.ZipFile(file) as members:
                    for member in members.infolist():
                        check_expansion(f"{path} ({member.filename})", member.compress_size, member.file_size)
                file.seek(0)
                with np.load(file, allow_pickle=False) as archive:
                    return self._choose(path, archive, key)
        except EmbedstoreError:
            raise
        except OSError as error:
            raise SourceError(f"{path} can't be read: {error.strerror or error}") from None
        except MemoryError:
            raise SourceError(f"{path} is damaged, or its arrays need more memory than there is") from None
        except Exception as error:  # noqa: BLE001 - damaged bytes raise whatever NumPy, zipfile, zlib and tokenize have
            reason = f"is damaged: {error}"
            if re.search("pickle|Python objects", str(error)):  # for which NumPy takes whatever isn't an array
                objects = begun[:1] == b"\x80" or re.search("Object arrays|Python objects", str(error))
                reason = "holds Python objects, which are not read" if objects else "is no file of NumPy's"
            raise SourceError(f"{path} {reason}") from None

    def _choose(
        self, path: Path, archive: Any, key: str | None
    ) -> list[tuple[str, str | None, str, npt.NDArray[Any], dict[str, Any]]]:
        names = list(archive.files)
        if key is not None and key not in names:
            raise SourceError(f"{path} has no array {key!r}: it has {', '.join(names) or 'none'}")
        keys = [key] if key is not None else _picture_keys(names)
        if not keys:
            raise SourceError(
                f"{path}: which array holds the pictures or vectors? name one with key=: {', '.join(names)}"
            )
        chosen = []
        for name in keys:
            rows = archive[name]
            split = _split_of(name)
            prefix = f"{split}/" if split else f"{path.stem}/"
            columns = _columns(archive, keys, split, len(rows), self.notes)
            chosen.append((prefix, split, f"{self._path}:{name}", rows, columns))
        return chosen


def _object(value: Any) -> Metadata | str:
    """A row's metadata: an object, or the JSON text of one; else the reason why it is none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            return f"has metadata that is no JSON: {error}"
    if value is None:
        return {}
    return dict(value) if isinstance(value, Mapping) else "has metadata that is no object"


def _columns(
    archive: Any, keys: Sequence[str], split: str | None, count: int, notes: list[str]
) -> dict[str, npt.NDArray[Any]]:
    """The other arrays of a split that have a value for each row."""
    columns = {}
    for name in archive.files:
        if name in keys or _split_of(name) != split:
            continue
        try:
            column = archive[name]
        except ValueError as error:
            if not re.search("pickle|Python objects", str(error)):
                raise
            notes.append(f"array {name!r} was left out: it holds Python objects, which are not read")
            continue
        if column.ndim == 2 and column.shape[1] == 1:
            column = column[:, 0]  # Keras's CIFAR keeps its labels so
        if column.ndim != 1 or len(column) != count or column.dtype.kind not in "iufbU":
            continue
        base = _base_of(name)
        columns["label" if base in _LABEL_KEYS else "ids" if base in ("ids", "id") else base] = column
    return columns


def _split_of(name: str) -> str | None:
    parts = name.lower().split("_")
    return next((split for split in _SPLITS if split in (parts[0], parts[-1]) and len(parts) > 1), None)


def _base_of(name: str) -> str:
    split = _split_of(name)
    return name if split is None else "_".join(part for part in name.split("_") if part.lower() != split)


def _picture_keys(names: Sequence[str]) -> list[str]:
    """The arrays that hold the pictures: all splits of the best name there is, or the only array."""
    for wanted in _PICTURE_KEYS:
        found = [name for name in names if _base_of(name).lower() == wanted]
        if found:
            order = {split: i for i, split in enumerate(_SPLITS)}
            return sorted(found, key=lambda name: order.get(_split_of(name) or "", -1))
    return list(names) if len(names) == 1 else []


def _prepare(
    prefix: str,
    split: str | None,
    source: str | None,
    rows: npt.NDArray[Any],
    columns: dict[str, npt.NDArray[Any]],
    *,
    what: str,
    vectors: bool | None,
) -> _Part:
    for name, column in columns.items():
        if len(column) != len(rows):
            raise SourceError(f"{what} has {len(rows):,} rows, but {len(column):,} {name}s were given")
    if rows.ndim < 2 or not rows.size:
        raise SourceError(f"{what} has shape {rows.shape}: pictures are (n, h, w) or (n, h, w, c), vectors (n, d)")
    if vectors or (vectors is None and rows.ndim == 2):
        if rows.dtype.kind not in "fiu":
            raise SourceError(f"{what} holds {rows.dtype} values: vectors are floats")
        return _Part(prefix, split, source, rows.reshape(len(rows), -1), columns, 1.0)
    try:
        pictures = as_channels_last(rows)
        return _Part(prefix, split, source, pictures, columns, factor_for(pictures))
    except ValueError as error:
        raise SourceError(f"{what} {error}") from None


def as_channels_last(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(n, h, w), (n, h, w, c) or (n, c, h, w) as (n, h, w, c); last place wins where both could be channels.

    Raises:
        ValueError: no such shape.
    """
    if rows.ndim == 3:
        return rows[..., None]
    if rows.ndim == 4 and rows.shape[3] in (1, 3, 4):
        return rows
    if rows.ndim == 4 and rows.shape[1] in (1, 3, 4):
        return rows.transpose(0, 2, 3, 1)
    raise ValueError(
        f"has shape {rows.shape}; pictures are (n, h, w), (n, h, w, c) or (n, c, h, w) with 1, 3 or 4 channels"
    )


def over_white(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pictures (..., c) with their fourth channel, if any, taken as opacity over white."""
    if pictures.shape[-1] != 4:
        return pictures
    colour, alpha = pictures[..., :3].astype(np.uint16), pictures[..., 3:].astype(np.uint16)
    return cast("Picture", ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8))
