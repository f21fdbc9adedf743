"""Precomputed vectors straight into a space, and changes to single items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedstore.errors import InvalidArgument, InvalidVector, UnknownItem
from embedstore.ingest.pipeline import Target, carry_over
from embedstore.metadata import items
from embedstore.truth import pictures
from embedstore.truth.writer import NewItems
from embedstore.types import AddReport, Failure, Metadata, Picture, Vectors
from embedstore.validate import check_dimension, dump_metadata, id_fault, last_of_each
from embedstore.vectors import coding


def check_columns(
    ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata] | None, sources: Sequence[str | None] | None
) -> None:
    """Raise InvalidArgument unless there is one id, one object of metadata and one source a vector."""
    for name, column in (("ids", ids), ("metadata", metadata), ("sources", sources)):
        if column is None:
            continue
        if isinstance(column, (str, bytes, dict)) or not hasattr(column, "__len__"):
            raise InvalidArgument(f"{name} must be a list, one entry a vector, not {type(column).__name__}")
        if len(column) != len(vectors):
            raise InvalidArgument(f"{len(column)} {name} were given for {len(vectors)} vectors: give one a vector")


def add_vectors(
    target: Target,
    ids: Sequence[str],
    vectors: Vectors,
    metadata: Sequence[Metadata] | None,
    sources: Sequence[str | None] | None = None,
) -> AddReport:
    """Commit vectors in one transaction; faulty ones are listed in the report and the rest is kept.

    The columns are as ``check_columns`` wants them.
    """
    report = AddReport()
    check_dimension(vectors, target.space.dimension)
    faults = coding.faults(vectors, target.space.metric, target.space.dtype)
    texts = ["{}"] * len(ids)
    chosen = []
    try:
        last = last_of_each(ids)
    except TypeError:
        raise InvalidArgument("every id must be text: one of them is a list or a dict") from None
    if len(last) < len(ids):
        again = len(ids) - len(last)
        report.notes.append(f"{again:,} id{'s' * (again > 1)} came more than once: the last of each is kept")
    for index in last:
        fault = faults.get(index) or id_fault(ids[index])
        if fault is None and metadata is not None:
            try:
                texts[index] = dump_metadata(metadata[index])
            except InvalidArgument as error:
                fault = str(error)
        if fault is None:
            chosen.append(index)
        else:
            report.failures.append(Failure(str(ids[index]), fault))
    whole = len(chosen) == len(ids)
    report.added, report.updated = target.writer.append(
        target.space,
        NewItems(
            ids=ids if whole else [ids[i] for i in chosen],
            vectors=vectors if whole else vectors[chosen],
            metadata=texts if whole else [texts[i] for i in chosen],
            sources=sources if sources is None or whole else [sources[i] for i in chosen],
        ),
    )
    report.notes += target.writer.loss.notes(target.space.dtype)
    return report


def update(
    target: Target, name: str, *, metadata: Metadata | None, picture: Picture | None, vector: Vectors | None
) -> None:
    """Replace parts of one item in one commit: metadata keys are merged (None removes one), the rest is kept.

    Raises:
        UnknownItem: there is no such item.
    """
    if (fault := id_fault(name)) is not None:
        raise UnknownItem(f"no item has the id {name!r}: {fault}")
    if picture is not None and vector is not None:
        raise InvalidArgument("an update takes a picture or a vector, not both: the picture is encoded to its vector")
    with target.writer.locked("updating an item"):
        with target.writer.database.read() as connection:
            found = items.describe(connection, [name])
            known = items.find(connection, [name])
        if name not in found:
            raise UnknownItem(f"no item has the id {name!r}: add it first")
        if metadata is not None and not isinstance(metadata, dict):
            raise InvalidArgument(f"metadata must be a dict, not {type(metadata).__name__}")
        row = found[name]
        merged: dict[str, Any] = {**row["metadata"], **(metadata or {})}
        vectors, thumbs, sizes = carry_over(target, np.array([known[name].row], dtype=np.int64))
        content: dict[str, Any] = {"kept_thumbs": thumbs, "sizes": sizes, "hashes": [row["hash"]]}
        content["same_latents"] = vector is None
        if picture is not None:
            vectors = target.encoder().encode(picture[None])
            # Its hash is unknown to the source, so that the next run over the source puts the source's picture back.
            content = {"thumbs": pictures.pack(picture[None]), "sizes": [picture.shape[1::-1]], "hashes": [None]}
        if vector is not None:
            if len(vector) != 1:
                raise InvalidVector(f"{name!r} can't be updated: one vector is wanted, not {len(vector)}")
            vectors = vector
            content["hashes"] = [None]
        check_dimension(vectors, target.space.dimension)
        for reason in coding.faults(vectors, target.space.metric, target.space.dtype).values():
            raise InvalidVector(f"{name!r} can't be updated: {reason}")
        target.writer.append(
            target.space,
            NewItems(
                ids=[name],
                vectors=vectors,
                metadata=[dump_metadata({key: value for key, value in merged.items() if value is not None})],
                sources=[row["source"]],
                origin=row["scope"],
                **content,
            ),
        )
