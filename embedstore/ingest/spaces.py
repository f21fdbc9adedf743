"""Making the space that a first source goes to: fitting an encoder on a sample of it, or taking vectors as they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from embedstore.errors import EncoderMismatch, InvalidArgument, InvalidVector, SourceError
from embedstore.ingest.pipeline import CHUNK
from embedstore.metadata.catalog import Space
from embedstore.progress import Progress
from embedstore.truth.layout import MODELS
from embedstore.truth.pictures import to_image
from embedstore.truth.snapshot import Snapshots
from embedstore.truth.writer import Writer
from embedstore.types import AddReport, Dtype, Failure, Metric, Picture, Pictures, Reader, Vectors
from embedstore.validate import as_vectors
from embedstore.vectors import coding

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How the encoder of a first source is fitted.

    Attributes:
        encoder: registry name; None for the autoencoder.
        dimension: of the latents; None for 64.
        image_size: side in px that pictures are fitted at; None chooses.
        minutes: bound on fitting; None lets it stop by itself.
        seed: of everything random in it.
        metric: of a space of precomputed vectors; None for l2. A fitted encoder brings its own.
    """

    encoder: str | None = None
    dimension: int | None = None
    image_size: int | None = None
    minutes: float | None = None
    seed: int = 0
    metric: str | Metric | None = None

    def check(self) -> None:
        """Raise InvalidArgument for what no fit could follow: before a source is read, or a store made for it."""
        from embedstore import registry
        from embedstore.encoders.preprocess import choose_image_size
        from embedstore.fit import MAX_DIMENSION

        known = registry.names("encoders")
        if self.encoder is not None and self.encoder not in known:
            raise InvalidArgument(f"unknown encoder {self.encoder!r}: use one of {', '.join(known)}")
        if self.dimension is not None and not 1 <= self.dimension <= MAX_DIMENSION:
            raise InvalidArgument(f"latents of {self.dimension} dimensions can't be fitted: use 1 to {MAX_DIMENSION}")
        if self.minutes is not None and not self.minutes > 0:
            raise InvalidArgument(f"a fit can't be done in {self.minutes} minutes: give a positive number")
        if self.image_size is not None:
            choose_image_size([(1, 1)], self.image_size)
        if self.metric is not None:
            Metric.parse(self.metric)


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
        check_encoder(view.space, options, reader.brings_vectors)
        return view.space
    if reader.brings_vectors:
        check_no_encoder(reader, options.encoder)
        return for_vectors(writer, snapshots, first_vectors(reader).shape[1], options.metric)
    _fit(writer, reader, options, report, progress=progress)
    return snapshots.current().spaces[DEFAULT].space


def check_no_encoder(reader: Reader, name: str | None) -> None:
    """Raise InvalidArgument for an encoder that is named for a source of vectors."""
    if reader.brings_vectors and name is not None:
        raise InvalidArgument(f"{reader.name} brings vectors, which no encoder makes: leave the encoder {name!r} out")


def for_vectors(
    writer: Writer,
    snapshots: Snapshots,
    dimension: int,
    metric: str | Metric | None,
    fingerprint: str = "",
    vectors: Vectors | None = None,
) -> Space:
    """The default space, made for precomputed vectors where the store has none.

    Raises:
        InvalidVector: the store has none, and all of ``vectors`` are faulty: a mistake must not fix the dimension.
        InvalidArgument: another metric than that of the space that is there.
        EncoderMismatch: ``fingerprint`` isn't that of the space's encoder.
    """
    # Any snapshot names the space: reading the newest commit would be a third of the time of adding one vector.
    view = snapshots.known().view() or snapshots.current().view()
    if view is None:
        chosen = Metric.parse(metric or Metric.L2)
        kept = Dtype.parse(writer.config.dtype)
        faults = {} if vectors is None else coding.faults(vectors, chosen, kept)
        if vectors is not None and len(faults) == len(vectors):
            reason = next(iter(faults.values()), "none was given")
            raise InvalidVector(f"none of the {len(vectors)} vectors can be stored: {reason}")
        writer.add_space(name=DEFAULT, encoder="", fingerprint="", dimension=dimension, metric=chosen)
        return snapshots.current().spaces[DEFAULT].space
    if metric is not None and Metric.parse(metric) is not view.space.metric:
        raise InvalidArgument(f"the store compares by {view.space.metric}, not by {metric}: leave the metric out")
    if fingerprint != view.space.fingerprint:
        raise EncoderMismatch(
            f"space {view.space.name!r} holds latents of the encoder {view.space.fingerprint or 'none'}, and these "
            f"vectors are said to be of {fingerprint or 'none'}: name the right one with encoder=, or use another store"
        )
    return view.space


def _fit(writer: Writer, reader: Reader, options: FitOptions, report: AddReport, *, progress: bool) -> None:
    from embedstore import fit
    from embedstore.encoders.preprocess import choose_image_size

    start = time.perf_counter()
    pictures, sizes = sample(reader, options, progress=progress)
    # From the originals' sizes: the sample was reduced while it was read.
    size, note = choose_image_size(sizes, options.image_size)
    models = writer.directory / MODELS
    encoder, _, notes = fit.fit_encoder(
        pictures,
        kind="autoencoder" if options.encoder is None else options.encoder,
        dimension=64 if options.dimension is None else options.dimension,
        image_size=size,
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
    (models / "fit.state").unlink(missing_ok=True)
    report.notes += [*([note] if note else []), *notes]
    report.seconds["fit"] = time.perf_counter() - start


def sample(reader: Reader, options: FitOptions, *, progress: bool) -> tuple[Pictures, list[tuple[int, int]]]:
    """Read the pictures that an encoder is fitted to: all of a source, or a random sample of a large one.

    What can't be read is left out; the run over the whole source will meet it again and report it.

    Returns:
        The pictures, none larger than they are fitted at, and the (height, width) of their originals.
    """
    from embedstore.encoders.preprocess import SIZE_LIMIT
    from embedstore.fit import sample_positions

    side = options.image_size or SIZE_LIMIT
    count = reader.count()
    if count is None:
        count = sum(len(chunk.ids) for chunk in reader.chunks(CHUNK))
    wanted = set(sample_positions(count, picture_bytes=3 * side * side, seed=options.seed).tolist())
    parts: list[Pictures] = []
    sizes: list[tuple[int, int]] = []
    failures: list[Failure] = []
    offset = 0
    with Progress("reading a sample", len(wanted), progress) as bar:
        for chunk in reader.chunks(CHUNK):
            failures += chunk.failures
            which = [i for i in range(len(chunk.ids)) if offset + i in wanted]
            offset += len(chunk.ids)
            if which:
                loaded = chunk.load(which)
                if loaded.pictures is None:
                    raise SourceError(f"{reader.name} brings vectors, not pictures")
                failures += loaded.failures
                if len(loaded.which):
                    parts.append(_reduced(loaded.pictures, side))
                    sizes += [(height, width) for width, height in loaded.sizes]
                bar.advance(len(which))
    if not parts:
        raise SourceError(f"{reader.name} has no picture that can be read{_first(failures)}")
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({part.shape[1:] for part in arrays}) == 1:
        return np.concatenate(arrays), sizes
    return list(chain.from_iterable(parts)), sizes


def _first(failures: Sequence[Failure]) -> str:
    """The first failures as the end of a sentence: a source of which nothing can be read has no report to list them."""
    if not failures:
        return ""
    named: dict[str, list[str]] = {}
    for failure in failures[:3]:
        named.setdefault(failure.reason, []).append(failure.id)
    shown = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in named.items())
    return f": {shown}" + (f"; and {len(failures) - 3:,} more" if len(failures) > 3 else "")


def _reduced(pictures: Pictures, side: int) -> Pictures:
    """Pictures of at most ``side`` px: a sample of large originals would not fit into memory."""
    if isinstance(pictures, np.ndarray) and max(pictures.shape[1:3]) <= side:
        return pictures
    return [_reduced_one(picture, side) if max(picture.shape[:2]) > side else picture for picture in pictures]


def _reduced_one(picture: Picture, side: int) -> Picture:
    from PIL import Image

    image = to_image(picture)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    reduced = np.asarray(image)
    return reduced if reduced.ndim == 3 else reduced[:, :, None]


def first_vectors(reader: Reader) -> Vectors:
    """The first readable vectors of a source that brings them: their dimension is the space's."""
    failures: list[Failure] = []
    for chunk in islice(reader.chunks(CHUNK), 16):
        loaded = chunk.load(range(len(chunk.ids)))
        if loaded.vectors is not None and len(loaded.vectors):
            return as_vectors(loaded.vectors)
        failures += [*chunk.failures, *loaded.failures]
    raise SourceError(f"{reader.name} has no readable vector{_first(failures)}")


def check_encoder(space: Space, options: FitOptions, brings_vectors: bool) -> None:
    """Raise EncoderMismatch where a source, or what is asked of an encoder, doesn't fit the space that is there."""
    there = f"the encoder {space.encoder} {space.fingerprint[:12]}" if space.encoder else "precomputed vectors"
    if brings_vectors and space.encoder:
        raise EncoderMismatch(
            f"the source brings vectors, but space {space.name!r} is filled by {there}: "
            "give pictures, or use another store for the vectors"
        )
    if not brings_vectors and not space.encoder:
        raise EncoderMismatch(
            f"the source brings pictures, but space {space.name!r} holds precomputed vectors and has no encoder: "
            "give vectors, or use another store for the pictures"
        )
    if options.encoder is not None and options.encoder != space.encoder:
        raise EncoderMismatch(
            f"space {space.name!r} is filled by {there}, not by {options.encoder}: "
            "leave the encoder out, or use another store"
        )
    if options.dimension is not None and options.dimension != space.dimension:
        raise EncoderMismatch(
            f"space {space.name!r} has {space.dimension} dimensions, not {options.dimension}: "
            "leave the dimension out, or use another store"
        )
    if options.metric is not None and Metric.parse(options.metric) is not space.metric:
        raise InvalidArgument(
            f"the store compares by {space.metric}, not by {Metric.parse(options.metric)}: leave the metric out"
        )
