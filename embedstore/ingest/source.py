"""One source, from the first look at it to its last commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from embedstore.encoders.preprocess import MAX_SIZE
from embedstore.errors import EmbedstoreError, EncoderMismatch, SourceError
from embedstore.ingest import pipeline, spaces
from embedstore.ingest.pipeline import Target
from embedstore.ingest.spaces import FitOptions
from embedstore.metadata.catalog import Space
from embedstore.models.weights import read_config
from embedstore.readers.open import open_reader
from embedstore.readers.pieces import reduce_to
from embedstore.truth.layout import MODELS
from embedstore.truth.snapshot import Snapshots
from embedstore.truth.writer import Writer
from embedstore.types import AddReport, Encoder

#: Pictures are reduced to this longer side while they are read, or to twice what the encoder takes: enough for both
#: the encoder and the thumbnail, and a photograph of 24 megapixels never reaches the main process whole.
_READ_SIDE = 128


def ingest_source(
    writer: Writer,
    snapshots: Snapshots,
    encoder_of: Callable[[Space], Encoder],
    source: Any,
    options: FitOptions,
    reader_options: dict[str, Any],
    *,
    prune: bool | None,
    progress: bool,
) -> AddReport:
    """Read a source, make a space for it where there is none, commit what is new.

    Args:
        writer: of the store.
        snapshots: of the store.
        encoder_of: loads a space's encoder.
        source: anything that ``open_reader`` takes.
        options: of a new encoder.
        reader_options: of the reader.
        prune: whether to delete items that are gone from the source; None doesn't look for them.
        progress: bars on stderr.

    Raises:
        SourceError: nothing to read.
    """
    report = AddReport()
    options.check()
    fitted = _side_of_encoder(writer, snapshots)
    if options.image_size is not None and fitted not in (0, options.image_size):
        raise EncoderMismatch(
            f"the store's encoder takes pictures of {fitted} px, not of {options.image_size}: "
            "leave the image size out, or use another store"
        )
    side = options.image_size or fitted
    side = max(_READ_SIDE, 2 * side)
    reader = open_reader(source, **{"max_side": side, **reader_options})
    if reader is source:  # opened before the store was, which knows the side
        reduce_to(reader, side)
    try:
        pipeline.check_prune(reader, prune)  # before a fit that may take minutes
        if reader.count() == 0:
            raise SourceError(f"{reader.name} is empty: there is nothing to index")
        with writer.locked(f"indexing {reader.name}"):
            space = spaces.prepare(writer, snapshots, reader, options, report, progress=progress)
            report.encoder = space.fingerprint
            target = Target(writer, snapshots, space, lambda: encoder_of(space))
            pipeline.ingest(target, reader, report, prune=prune, progress=progress)
            report.notes[:0] = getattr(reader, "notes", [])
    finally:
        reader.close()
    return report


def _side_of_encoder(writer: Writer, snapshots: Snapshots) -> int:
    """The longer side in px that the store's encoder takes; 0 where it doesn't say.

    Read from its config alone: loading it would import torch even where nothing has changed and nothing is encoded.
    """
    view = snapshots.current().view()
    if view is None or not view.space.encoder:
        return 0
    try:
        config = read_config(writer.directory / MODELS, view.space.fingerprint)
        model = config.get("model", config)
        height, width = model.get("image_size") or (model["height"], model["width"])
        return min(MAX_SIZE, max(int(height), int(width)))
    except (EmbedstoreError, ValueError, TypeError, KeyError, AttributeError):
        return 0  # whoever encodes will say what is wrong with the file
