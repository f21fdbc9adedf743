"""Points of the latent space on the command line: ``test/00017``, or ``=`` and an expression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.cli import output
from embedstore.durable import writing_output
from embedstore.errors import UnknownItem
from embedstore.latent.support import LOW

if TYPE_CHECKING:
    from embedstore.query.hits import Hits
    from embedstore.store import Store
    from embedstore.types import Latent

HELP = "an id, or = and an expression"


def point(store: Store, text: str) -> Latent:
    """The latent that a word of the command line names."""
    if text.startswith("="):
        return store.evaluate(text[1:])
    try:
        return store.vector(text)
    except UnknownItem as error:
        raise _hinted(error, text) from None


def _hinted(error: UnknownItem, text: str) -> UnknownItem:
    """The error, and what is missing where the id looks like an expression."""
    return UnknownItem(f"{error}; an expression begins with =") if "(" in text else error


def corner(store: Store, text: str) -> Any:
    """The same, but an item stays an item where it matters that it is one."""
    found = point(store, text)  # says what is wrong with it
    return found if text.startswith("=") else text


def warn(supports: Sequence[float] | np.ndarray[Any, Any], names: Sequence[str]) -> None:
    """Say which points lie where the data don't reach."""
    low = [(name, float(value)) for name, value in zip(names, supports, strict=True) if value < LOW]
    for name, value in low[:5]:
        output.say(f"warning: {name} lies off the data (support {value:.3f}): what is decoded there means little")
    if len(low) > 5:
        output.say(f"warning: so do {len(low) - 5:,} others")


def note_without_decoder(store: Store, latent: Latent) -> None:
    """Say why a sheet has no picture of a point, where the space can't decode it."""
    from embedstore.errors import NoDecoder

    try:
        store.decode(latent)
    except NoDecoder as error:
        output.say(f"note: {error}; the sheet shows the nearest items alone")


def hits_json(hits: Hits) -> list[dict[str, Any]]:
    """Hits as JSON has them, everywhere the same."""
    return [{"id": hit.id, "score": hit.score, "distance": hit.distance, "metadata": hit.metadata} for hit in hits]


def write_vectors(path: Path, vectors: np.ndarray[Any, Any]) -> None:
    """Write latents as .npy, one as (d,)."""
    with writing_output(path), path.open("wb") as file:  # np.save would add .npy to a name that ends in .NPY
        np.save(file, vectors if len(vectors) > 1 else vectors[0])
