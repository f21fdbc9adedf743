"""Small networks without the library that fitted them: matrix products and a threshold, as files of arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import ModelInvalid
from embedstore.models import weights as files
from embedstore.types import Vectors

FORMAT = 1
MOST = 100_000  # numbers that go into or come out of a layer
_PART = 16_384  # points at a time: the widest layer's values stay in the cache's reach


@dataclass(frozen=True, slots=True)
class Layer:
    """One linear map: weight (i, o) and bias (o,), float32."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Network:
    """Linear maps with what is below zero set to zero between them.

    Attributes:
        layers: at least one; each takes what the one before gives.
        waves: whether the first map is followed by a sine instead (Tancik et al. 2020, "Fourier features let networks
            learn high frequency functions in low dimensional domains").
    """

    layers: tuple[Layer, ...]
    waves: bool = False

    @property
    def sizes(self) -> list[int]:
        """Length of what goes in, of what each layer gives."""
        return [len(self.layers[0].weight), *(len(layer.bias) for layer in self.layers)]

    def __call__(self, points: Vectors) -> Vectors:
        """The values (n, o) at points (n, i)."""
        given = np.empty((len(points), self.sizes[-1]), dtype=np.float32)
        for start in range(0, len(points), _PART):
            values = np.asarray(points[start : start + _PART], dtype=np.float32)
            for number, layer in enumerate(self.layers):
                values = values @ layer.weight
                values += layer.bias
                if number == 0 and self.waves:
                    np.sin(values, out=values)
                elif number < len(self.layers) - 1:
                    np.maximum(values, 0, out=values)
            given[start : start + _PART] = values
        return given


def save(directory: Path, kind: str, networks: Mapping[str, Network]) -> str:
    """Write networks to two files named by their fingerprint, which is returned.

    Raises:
        DiskFull, StoreReadOnly.
    """
    config: dict[str, Any] = {"kind": kind, "format": FORMAT}
    config["networks"] = {name: one.sizes for name, one in networks.items()}
    config["waves"] = sorted(name for name, one in networks.items() if one.waves)
    arrays = {}
    for name, network in networks.items():
        for number, layer in enumerate(network.layers):
            arrays[f"{name}.{number}.weight"] = layer.weight
            arrays[f"{name}.{number}.bias"] = layer.bias
    return files.write(directory, arrays, config)


def load(directory: Path, kind: str, fingerprint: str) -> dict[str, Network]:
    """Read networks that `save` wrote; what is checked is said in `embedstore.models.weights`.

    Raises:
        ModelInvalid: missing, torn, altered, or of another kind.
    """

    def layout(config: Mapping[str, Any]) -> files.Layout:
        if config.get("kind") != kind or config.get("format") != FORMAT:
            raise ModelInvalid(f"the model {fingerprint[:12]} is no {kind} of format {FORMAT}")
        return {name: ("F32", shape) for name, shape in _shapes(_sizes(config))}

    try:
        arrays, config = files.read(directory, fingerprint, layout)
    except ModelInvalid as error:
        raise ModelInvalid(f"{error}; the {kind} can be made again, too") from None
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ModelInvalid(f"the model's tensor {name!r} holds NaN or infinity: make it again")
    waves = config.get("waves")
    if not isinstance(waves, list):
        raise ModelInvalid("the model's config doesn't say which networks have waves: make it again")
    return {
        name: Network(
            tuple(Layer(arrays[f"{name}.{i}.weight"], arrays[f"{name}.{i}.bias"]) for i in range(len(sizes) - 1)),
            name in waves,
        )
        for name, sizes in _sizes(config).items()
    }


def _sizes(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """What goes in and out of each layer, by network, within bounds."""
    found = config.get("networks")
    if not isinstance(found, dict) or not 1 <= len(found) <= 8:
        raise ModelInvalid("the model's config names no networks")
    for name, sizes in found.items():
        whole = isinstance(sizes, list) and 2 <= len(sizes) <= 8
        if not whole or not all(type(size) is int and 1 <= size <= MOST for size in sizes):
            raise ModelInvalid(f"the model's network {str(name)[:40]!r} has odd sizes")
    return found


def _shapes(sizes: Mapping[str, list[int]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, lengths in sizes.items():
        for number, (taken, given) in enumerate(pairwise(lengths)):
            yield f"{name}.{number}.weight", (taken, given)
            yield f"{name}.{number}.bias", (given,)
