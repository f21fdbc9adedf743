"""The encoders of one store, each loaded when first needed: a query by id never imports torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedstore import registry
from embedstore.errors import NoDecoder, NoEncoder
from embedstore.types import Decoder, Encoder, Vectors


class Encoders:
    """Loads from a directory of models, by registry name and fingerprint."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._loaded: dict[str, Encoder] = {}

    def get(self, kind: str, fingerprint: str) -> Encoder:
        """The encoder of a space.

        Raises:
            NoEncoder: the space holds precomputed vectors (``kind`` is "").
            ModelInvalid: its files are missing or not those that were recorded.
        """
        if not kind:
            raise NoEncoder("this space holds precomputed vectors and has no encoder: give vectors, not pictures")
        encoder = self._loaded.get(fingerprint)
        if encoder is None:
            encoder = self._loaded[fingerprint] = registry.resolve("encoders", kind).load(self._directory, fingerprint)
        return encoder

    def decode(self, kind: str, fingerprint: str, latents: Vectors) -> npt.NDArray[np.uint8]:
        """Pictures (n, h, w, c) of latents (n, d).

        Raises:
            NoDecoder: the space has no encoder, or one that can't decode.
        """
        encoder: object = self.get(kind, fingerprint) if kind else None
        if not isinstance(encoder, Decoder):
            raise NoDecoder("this space has no decoder, so its latents can be searched but not shown as pictures")
        return encoder.decode(latents)
