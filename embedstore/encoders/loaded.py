"""The encoders of one store, each loaded when first needed, and the pictures that they decoded last.

A query by id never imports torch.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedstore import registry
from embedstore.errors import NoDecoder, NoEncoder
from embedstore.types import Decoder, Encoder, Vectors

_CACHE_BYTES = 64 * 2**20  # of decoded pictures kept: whoever pages through a film or a map asks for the same again


class Encoders:
    """Loads from a directory of models, by registry name and fingerprint."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._loaded: dict[str, Encoder] = {}
        self._lock = threading.Lock()
        self._decoded: OrderedDict[tuple[str, bytes], npt.NDArray[np.uint8]] = OrderedDict()  # the last asked for last
        self._decoded_bytes = 0

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
        # A protocol is compared member by member at each check, which would take as long as decoding one latent.
        if not hasattr(encoder, "decode"):
            raise NoDecoder("this space has no decoder, so its latents can be searched but not shown as pictures")
        decoder: Decoder = encoder
        latents = np.ascontiguousarray(latents, dtype=np.float32)
        keys = [(fingerprint, row.tobytes()) for row in latents]
        with self._lock:
            kept = [self._decoded.get(key) for key in keys]
            for key, picture in zip(keys, kept, strict=True):
                if picture is not None:
                    self._decoded.move_to_end(key)
        missing = [index for index, picture in enumerate(kept) if picture is None]
        if not missing and kept:
            return np.stack(kept)  # type: ignore[arg-type]  # None was counted as missing
        new = decoder.decode(latents[missing] if len(missing) < len(keys) else latents)
        self._keep([keys[index] for index in missing], new)
        if len(missing) == len(keys):
            return new
        out = np.empty((len(keys), *new.shape[1:]), dtype=np.uint8)
        out[missing] = new
        for index, picture in enumerate(kept):
            if picture is not None:
                out[index] = picture
        return out

    def _keep(self, keys: list[tuple[str, bytes]], pictures: npt.NDArray[np.uint8]) -> None:
        """Remember pictures, and forget those not asked for the longest where there are too many."""
        if pictures.nbytes > _CACHE_BYTES // 2:
            return  # of a bulk job nothing is asked for twice
        with self._lock:
            for key, picture in zip(keys, pictures, strict=True):
                if key not in self._decoded:
                    self._decoded[key] = picture.copy()  # a view would keep its whole batch alive
                    self._decoded_bytes += picture.nbytes
            while self._decoded_bytes > _CACHE_BYTES:
                self._decoded_bytes -= self._decoded.popitem(last=False)[1].nbytes
