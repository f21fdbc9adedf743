"""Making the space that a first source goes to: fitting an encoder on a sample of it, or taking vectors as they are."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from embedstore.errors import EncoderMismatch, SourceError
from embedstore.ingest.pipeline import CHUNK
from embedstore.metadata.catalog import Space
from embedstore.progress import Progress
from embedstore.truth.layout import MODELS
from embedstore.truth.snapshot import Snapshots
from embedstore.truth.writer import Writer
from embedstore.types import AddReport, Metric, Pictures, Reader, Vectors
from embedstore.validate import as_vectors

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How the encoder of a first source is fitted.

    Attributes:
        encoder: registry name; None for the autoencoder.
        dimension: of the latents.
        image_size: side in px that pictures are fitted at; None chooses.
        minutes: bound on fitting; None lets it stop by itself.
        seed: of everything random in it.
        metric: of a space of precomputed vectors; None for l2. A fitted encoder brings its own.
    """

    encoder: str | None = None
    dimension: int = 64
    image_size: int | None = None
    minutes: float | None = None
    seed: int = 0
    metric: str | Metric | None = None


def prepare(
    writer: Writer, snapshots: Snapshots, reader: Reader, options: FitOptions, report: AddReport, *, progress: bool
) -> Space:
    """The default space, made from the source where the store has none.

    An interrupted fit leaves its state beside the models; the same call goes on from it.

    Raises:
        EncoderMismatch: the source, or the encoder named, doesn't fit the space that is there.
    """
    view = snapshots.current().view()
    if view is not None:
        check_encoder(view.space, options.encoder, reader.brings_vectors)
        return view.space
    if reader.brings_vectors:
        dimension = first_vectors(reader).shape[1]
        writer.add_space(
            name=DEFAULT, encoder="", fingerprint="", dimension=dimension, metric=Metric.parse(options.metric or "l2")
        )
    else:
        _fit(writer, reader, options, report, progress=progress)
    return snapshots.current().spaces[DEFAULT].space


def _fit(writer: Writer, reader: Reader, options: FitOptions, report: AddReport, *, progress: bool) -> None:
    from embedstore import fit

    start = time.perf_counter()
    pictures = sample(reader, options.seed, progress=progress)
    models = writer.directory / MODELS
    encoder, _, notes = fit.fit_encoder(
        pictures,
        kind=options.encoder or "autoencoder",
        dimension=options.dimension,
        image_size=options.image_size,
        seed=options.seed,
        minutes=options.minutes,
        progress=progress,
        checkpoint=models / "fit.state",
    )
    encoder.save(models)
    writer.add_space(
        name=DEFAULT,
        encoder=encoder.kind,
        fingerprint=encoder.fingerprint,
        dimension=encoder.dimension,
        metric=encoder.metric,
    )
    report.notes.extend(notes)
    report.seconds["fit"] = time.perf_counter() - start


def sample(reader: Reader, seed: int, *, progress: bool) -> Pictures:
    """Read the pictures that an encoder is fitted to: all of a source, or a random sample of a large one.

    Failures are not reported here: the run over the whole source will meet them again.
    """
    from embedstore.fit import sample_positions

    count = reader.count()
    if count is None:
        count = sum(len(chunk.ids) for chunk in reader.chunks(CHUNK))
    wanted = set(sample_positions(count, seed=seed).tolist())
    parts: list[Pictures] = []
    offset = 0
    with Progress("reading a sample", len(wanted), progress) as bar:
        for chunk in reader.chunks(CHUNK):
            which = [i for i in range(len(chunk.ids)) if offset + i in wanted]
            offset += len(chunk.ids)
            if which:
                loaded = chunk.load(which)
                if loaded.pictures is None:
                    raise SourceError(f"{reader.name} brings vectors, not pictures")
                if len(loaded.which):
                    parts.append(loaded.pictures)
                bar.advance(len(which))
    if not parts:
        raise SourceError(f"{reader.name} has no picture that can be read")
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({part.shape[1:] for part in arrays}) == 1:
        return np.concatenate(arrays)
    return list(chain.from_iterable(parts))


def first_vectors(reader: Reader) -> Vectors:
    """The first readable vectors of a source that brings them: their dimension is the space's."""
    for chunk in islice(reader.chunks(CHUNK), 16):
        loaded = chunk.load(range(len(chunk.ids)))
        if loaded.vectors is not None and len(loaded.vectors):
            return as_vectors(loaded.vectors)
    raise SourceError(f"{reader.name} has no readable vector")


def check_encoder(space: Space, kind: str | None, brings_vectors: bool) -> None:
    """Raise EncoderMismatch where a source or a named encoder doesn't fit the space that is there."""
    if brings_vectors and space.encoder:
        raise EncoderMismatch(
            f"the source brings vectors, but space {space.name!r} is filled by the encoder "
            f"{space.encoder} {space.fingerprint[:12]}: give pictures, or use another store for the vectors"
        )
    if not brings_vectors and not space.encoder:
        raise EncoderMismatch(
            f"the source brings pictures, but space {space.name!r} holds precomputed vectors and has no encoder: "
            "give vectors, or use another store for the pictures"
        )
    if kind is not None and kind != space.encoder:
        raise EncoderMismatch(
            f"space {space.name!r} is filled by the encoder {space.encoder or 'none'} {space.fingerprint[:12]}, "
            f"not by {kind}: leave --encoder out, or use another store"
        )

