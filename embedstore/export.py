"""Write items to files that other tools read: JSON Lines, CSV, Parquet, NPZ, or a folder of pictures with a table.

Every format but NPZ is written as the records come, never holding them all. A file appears under its name when it is
whole: it is written beside it under a temporary name, synced, and renamed.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.errors import DiskFull, InvalidArgument, MissingExtra
from embedstore.progress import Progress
from embedstore.types import Metadata, Vectors

if TYPE_CHECKING:
    from PIL import Image

FORMATS = {"jsonl": ".jsonl", "csv": ".csv", "parquet": ".parquet", "npz": ".npz", "dataset": ""}


@dataclass(frozen=True, slots=True)
class Records:
    """A batch of items.

    Attributes:
        ids, metadata, sources: parallel, one entry an item.
        vectors: float32 (n, d), or None.
        pictures: picture of the item at an index of this batch, or None where it has none.
    """

    ids: Sequence[str]
    metadata: Sequence[Metadata]
    sources: Sequence[str | None]
    vectors: Vectors | None = None
    pictures: Callable[[int], Image.Image | None] | None = None


@dataclass(slots=True)
class Exported:
    """What was written.

    Attributes:
        path: the file or folder.
        format: one of FORMATS.
        count: items written.
        left_out: ids of items that the format has no place for (in ``dataset``: those without a picture).
    """

    path: Path
    format: str
    count: int = 0
    left_out: list[str] = field(default_factory=list)


def export(
    records: Iterable[Records],
    path: str | Path,
    format: str | None = None,
    *,
    keys: Sequence[str] = (),
    vectors: bool | None = None,
    dimension: int | None = None,
    total: int | None = None,
    progress: bool = False,
) -> Exported:
    """Write records to ``path``; a file of that name is replaced.

    Args:
        records: the items, batch by batch.
        path: a file, or for ``dataset`` a folder that doesn't exist or is empty.
        format: one of FORMATS; by default what the suffix of ``path`` says (none says ``dataset``).
        keys: all metadata keys that occur, in the order wanted: the columns of CSV, Parquet and dataset.
        vectors: whether to write them; by default if the records have them.
        dimension: of the vectors; a Parquet table without rows gets its column of vectors by it.
        total: number of items, for the progress bar.
        progress: whether to draw one.

    Columns: ``id``, ``source``, the metadata keys, ``vector``. A key that equals one of the other names is written as
    ``metadata.id`` and so on.

    Raises:
        InvalidArgument: an unknown format, a path that can't be written, a key that ``keys`` doesn't name.
        MissingExtra: Parquet and dataset need pyarrow.
        DiskFull: no room; nothing is left behind.
    """
    path = Path(path)
    if not path.name:
        raise InvalidArgument(f"{path} has no name: name the file or folder to export to")
    name = _format(path, format)
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file() and not path.is_dir():  # a device or a FIFO would be replaced by a file
        raise InvalidArgument(f"{path} is no regular file: name a file to export to")
    done = Exported(path, name)
    writers = {"jsonl": _jsonl, "csv": _csv, "npz": _npz, "parquet": _parquet, "dataset": _dataset}
    if name in ("parquet", "dataset"):
        _pyarrow(name)
    if name == "dataset" and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InvalidArgument(f"{path} is there already: a dataset is exported to a new or an empty folder")
    with _aside(path) as temporary, Progress("exporting", total, progress) as bar:
        writers[name](_checked(records, done, vectors, bar), temporary, _Layout(keys, dimension), done)
    return done


def _format(path: Path, format: str | None) -> str:
    if format is None:
        format = next((name for name, suffix in FORMATS.items() if suffix == path.suffix.lower()), None)
        if format is None:
            known = ", ".join(filter(None, FORMATS.values()))
            raise InvalidArgument(f"no export format has the suffix of {path.name!r}: use {known}, or name the format")
    if format not in FORMATS:
        raise InvalidArgument(f"unknown export format {format!r}: use one of {', '.join(FORMATS)}")
    return format


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        if temporary.is_file():
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise DiskFull(f"no room to write {path}: free some space or export to another disk") from error
        raise InvalidArgument(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):  # what was wrong with writing it has been said
                temporary.unlink(missing_ok=True)


def _checked(records: Iterable[Records], done: Exported, vectors: bool | None, bar: Progress) -> Iterator[Records]:
    """The batches, counted, each with vectors or each without."""
    for batch in records:
        vectors = batch.vectors is not None if vectors is None else vectors
        if vectors and batch.vectors is None:
            raise InvalidArgument("some of these items have no vectors: export them without vectors")
        done.count += len(batch.ids)
        yield batch if vectors else replace(batch, vectors=None)
        bar.advance(len(batch.ids))


@dataclass(frozen=True, slots=True)
class _Layout:
    keys: Sequence[str]
    dimension: int | None


def columns(keys: Sequence[str], taken: Sequence[str] = ("id", "source", "vector")) -> dict[str, str]:
    """The column of each metadata key: the key itself, or ``metadata.`` before it where that name is taken."""
    names: dict[str, str] = {}
    used = {*taken, *(key for key in keys if key not in taken)}
    for key in keys:
        name = key
        while name in taken or (name != key and name in used):
            name = f"metadata.{name}"
        used.add(name)
        names[key] = name
    return names


def _values(batch: Records, keys: Sequence[str]) -> list[list[Any]]:
    """The metadata by key, None where it is missing; a key without a column is an error, never dropped."""
    unknown = set().union(*batch.metadata) - set(keys) if batch.metadata else set()
    if unknown:
        raise InvalidArgument(f"the metadata key {min(unknown)!r} has no column: name it in keys")
    return [[metadata.get(key) for metadata in batch.metadata] for key in keys]


def _jsonl(records: Iterator[Records], path: Path, _: _Layout, done: Exported) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for batch in records:
            vectors: list[Any] = [] if batch.vectors is None else batch.vectors.tolist()
            for index, (id, source, metadata) in enumerate(zip(batch.ids, batch.sources, batch.metadata, strict=True)):
                names = columns(list(metadata))
                row = {"id": id, "source": source, **{names[key]: value for key, value in metadata.items()}}
                if vectors:
                    row["vector"] = vectors[index]
                file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def _csv(records: Iterator[Records], path: Path, layout: _Layout, done: Exported) -> None:
    keys = layout.keys
    # Rows end as RFC 4180 says, \r\n: with another end the csv module leaves a lone \r in a value unquoted.
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        header: list[str] = []
        for batch in records:
            if not header:
                header = ["id", "source", *columns(keys).values(), *(["vector"] if batch.vectors is not None else [])]
                writer.writerow(header)
            cells = [[_cell(value) for value in column] for column in _values(batch, keys)]
            if batch.vectors is not None:
                cells.append([json.dumps(vector, separators=(",", ":")) for vector in batch.vectors.tolist()])
            writer.writerows(zip(batch.ids, (source or "" for source in batch.sources), *cells, strict=True))
        if not header:
            writer.writerow(["id", "source", *columns(keys).values()])


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _npz(records: Iterator[Records], path: Path, _: _Layout, done: Exported) -> None:
    batches = list(records)
    texts = {
        "ids": [id for batch in batches for id in batch.ids],
        "sources": [source or "" for batch in batches for source in batch.sources],
        "metadata": [json.dumps(one, ensure_ascii=False) for batch in batches for one in batch.metadata],
    }
    for name, column in texts.items():
        # NumPy's text arrays (the only ones without pickle) give each entry the room of the longest.
        room = 4 * len(column) * max(map(len, column), default=0)
        if room > 64 * 2**20 + 32 * sum(map(len, column)):
            raise InvalidArgument(f"the {name} are too uneven in length for NPZ ({room / 2**30:.1f} GiB): use .parquet")
    arrays: dict[str, Any] = {name: np.array(column, dtype=np.str_) for name, column in texts.items()}
    blocks = [batch.vectors for batch in batches if batch.vectors is not None]
    if blocks:
        arrays["vectors"] = np.concatenate(blocks).astype(np.float32, copy=False)
    with path.open("wb") as file:  # given a name, NumPy would append .npz to it
        np.savez(file, allow_pickle=False, **arrays)


def _pyarrow(purpose: str) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "parquet", f"export to {purpose}") from None
    return pa


def _parquet(records: Iterator[Records], path: Path, layout: _Layout, done: Exported) -> None:
    _write_parquet(((batch, None) for batch in records), path, columns(layout.keys), layout.dimension)


def _dataset(records: Iterator[Records], path: Path, layout: _Layout, done: Exported) -> None:
    """Hugging Face's imagefolder layout: ``images/*.png`` and ``metadata.parquet`` with a column ``file_name``.

    Its loader takes metadata.csv, .jsonl or .parquet and wants a picture for every row, so that an item without one
    has no place here; it names the column of pictures ``image``.
    """
    images = path / "images"
    images.mkdir(parents=True)
    numbers = iter(range(2**63))

    def saved() -> Iterator[tuple[Records, list[str]]]:
        for batch in records:
            names, kept = [], []
            for index, id in enumerate(batch.ids):
                picture = batch.pictures(index) if batch.pictures is not None else None
                if picture is None:
                    done.left_out.append(id)
                    continue
                names.append(f"images/{next(numbers):07d}.png")
                kept.append(index)
                picture.save(path / names[-1], "PNG")
            yield _subset(batch, kept), names

    taken = ("id", "source", "vector", "file_name", "image")
    _write_parquet(saved(), path / "metadata.parquet", columns(layout.keys, taken), layout.dimension)
    done.count -= len(done.left_out)


def _subset(batch: Records, kept: list[int]) -> Records:
    return Records(
        [batch.ids[index] for index in kept],
        [batch.metadata[index] for index in kept],
        [batch.sources[index] for index in kept],
        None if batch.vectors is None else batch.vectors[kept],
    )


def _write_parquet(
    batches: Iterator[tuple[Records, list[str] | None]], path: Path, names: dict[str, str], dimension: int | None
) -> None:
    """Two passes: whether a column is uniform is known at its end, so it is spooled as JSON text first."""
    pa = _pyarrow("parquet")
    spool = path.with_name(path.name + ".spool")
    kinds: dict[str, set[str]] = {key: set() for key in names}
    writer = None
    try:
        for batch, files in batches:
            data: dict[str, Any] = {"id": pa.array(batch.ids, pa.string())}
            if files is not None:
                data["file_name"] = pa.array(files, pa.string())
            data["source"] = pa.array(batch.sources, pa.string())
            for key, values in zip(names, _values(batch, list(names)), strict=True):
                kinds[key].update(map(_arrow_kind, values))
                texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
                data[names[key]] = pa.array(texts, pa.string())
            if batch.vectors is not None:
                flat = pa.array(np.ascontiguousarray(batch.vectors, dtype=np.float32).reshape(-1))
                data["vector"] = pa.FixedSizeListArray.from_arrays(flat, batch.vectors.shape[1])
            table = pa.table(data)
            if writer is None:
                writer = pa.parquet.ParquetWriter(spool, table.schema, compression="none", use_dictionary=False)
            writer.write_table(table)
        if writer is None:  # no items at all: a table of no rows
            schema = pa.schema([(name, pa.string()) for name in ("id", "source", *names.values())])
            if dimension is not None:
                schema = schema.append(pa.field("vector", pa.list_(pa.float32(), dimension)))
            writer = pa.parquet.ParquetWriter(spool, schema)
        writer.close()
        _finish_parquet(pa, spool, path, {names[key]: _arrow_type(pa, kinds[key]) for key in names})
    finally:
        if writer is not None:
            writer.close()
        spool.unlink(missing_ok=True)


def _arrow_kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() if -(2**53) <= value <= 2**53:
            return "small int"
        case int() if -(2**63) <= value < 2**63:
            return "int"
        case float():
            return "float"
        case str():
            return "text"
        case _:
            return "json"


def _arrow_type(pa: Any, kinds: set[str]) -> Any:
    """The Arrow type that holds all values unchanged, or None: JSON text (integers beyond 2^53 are no float64)."""
    kinds = kinds - {"null"}
    for fitting, type_ in (
        ({"text"}, pa.string()),
        ({"bool"}, pa.bool_()),
        ({"small int", "int"}, pa.int64()),
        ({"small int", "float"}, pa.float64()),
    ):
        if kinds <= fitting:
            return type_
    return None


def _finish_parquet(pa: Any, spool: Path, path: Path, types: dict[str, Any]) -> None:
    source = pa.parquet.ParquetFile(spool)
    fields = []
    for one in source.schema_arrow:
        if one.name in types:
            json_text = types[one.name] is None
            type_ = pa.string() if json_text else types[one.name]
            one = pa.field(one.name, type_, metadata={"encoding": "json"} if json_text else None)
        fields.append(one)
    schema = pa.schema(fields)
    texts = [one.name for one in schema if pa.types.is_string(one.type)]
    with pa.parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=texts) as writer:
        for group in range(source.num_row_groups):
            table = source.read_row_group(group)
            data = []
            for one in schema:
                column = table.column(one.name)
                if types.get(one.name) is not None:
                    values = [None if text is None else json.loads(text) for text in column.to_pylist()]
                    column = pa.array(values, one.type)
                data.append(column)
            writer.write_table(pa.table(data, schema=schema))
    source.close()
