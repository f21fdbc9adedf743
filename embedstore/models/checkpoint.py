"""An autoencoder as files; what is checked on loading is said in `embedstore.models.weights`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embedstore.errors import ModelInvalid
from embedstore.models import weights as files
from embedstore.models.autoencoder import Autoencoder, AutoencoderConfig

KIND = "autoencoder"
FORMAT = 1
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}


def to_arrays(model: torch.nn.Module) -> files.Weights:
    """Every parameter and buffer as a NumPy array of its own."""
    return {name: tensor.detach().cpu().contiguous().numpy().copy() for name, tensor in model.state_dict().items()}


def canonical(config: AutoencoderConfig, preprocessing: int) -> dict[str, Any]:
    """What is written and hashed beside the weights."""
    return {"kind": KIND, "format": FORMAT, "preprocessing": preprocessing, "model": config.to_json()}


def save(model: Autoencoder, config: AutoencoderConfig, directory: Path, preprocessing: int = 1) -> str:
    """Write the model and return its fingerprint.

    Args:
        model: in any mode, on any device.
        config: of the model.
        directory: made if missing.
        preprocessing: version of how pictures are brought to the model's size.

    Raises:
        DiskFull, StoreReadOnly: nothing half-written is left.
    """
    return files.write(directory, to_arrays(model), canonical(config, preprocessing))


def load(directory: Path, fingerprint: str, preprocessing: int = 1) -> tuple[Autoencoder, AutoencoderConfig]:
    """Read a model (on the CPU, in eval mode) after checking that it is what its config implies and its name says.

    Raises:
        ModelInvalid: for a file that is missing, torn, altered, of another kind or out of bounds.
    """

    def layout(config: Mapping[str, Any]) -> files.Layout:
        if config.get("kind") != KIND or config.get("format") != FORMAT:
            raise ModelInvalid(
                f"the model {fingerprint[:12]} is of kind {str(config.get('kind'))[:40]!r}, format "
                f"{str(config.get('format'))[:10]}: this version reads {KIND!r}, format {FORMAT}"
            )
        if config.get("preprocessing") != preprocessing:
            raise ModelInvalid(f"the model {fingerprint[:12]} was fitted with another preprocessing: fit it again")
        return layout_of(AutoencoderConfig.from_json(_model(config)))

    arrays, config = files.read(directory, fingerprint, layout)
    model_config = AutoencoderConfig.from_json(_model(config))
    model = from_arrays(arrays, model_config)
    return model, model_config


def _model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    model = config.get("model")
    return model if isinstance(model, dict) else {}


def layout_of(config: AutoencoderConfig) -> files.Layout:
    """Names, dtypes and shapes of a model's arrays; made on the meta device, so that no byte is allocated."""
    with torch.device("meta"):
        state = Autoencoder(config).state_dict()
    return {name: (_DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in state.items()}


def from_arrays(arrays: files.Weights, config: AutoencoderConfig) -> Autoencoder:
    """A model in eval mode with these weights.

    Raises:
        ModelInvalid: for a weight that is NaN or infinite.
    """
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelInvalid(f"the model's tensor {name!r} holds NaN or infinity: fit it again")
    with torch.device("meta"):
        model = Autoencoder(config)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, assign=True)
    return model.eval()
