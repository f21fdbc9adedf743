"""Models as files: what is written comes back, and nothing else is let in."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import ModelInvalid
from embedstore.models import checkpoint, weights
from embedstore.models.autoencoder import Autoencoder, AutoencoderConfig

SMALL = AutoencoderConfig((16, 12), 1, dimension=6, stem=4, width=8, decoder_blocks=1)


def random_model(config: AutoencoderConfig, seed: int = 0) -> Autoencoder:
    """A model all of whose weights and statistics differ from their defaults."""
    torch.manual_seed(seed)
    model = Autoencoder(config).eval()
    for name, tensor in model.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 2.0)
    return model


def test_a_saved_model_comes_back_bit_for_bit_under_its_fingerprint(tmp_path: Path) -> None:
    model = random_model(SMALL)
    name = checkpoint.save(model, SMALL, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.json", f"{name}.safetensors"]
    loaded, config = checkpoint.load(tmp_path, name)
    assert config == SMALL
    before, after = checkpoint.to_arrays(model), checkpoint.to_arrays(loaded)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert checkpoint.save(model, SMALL, tmp_path) == name
    assert checkpoint.save(random_model(SMALL, 1), SMALL, tmp_path) != name
    assert checkpoint.save(model, SMALL, tmp_path, preprocessing=2) != name


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_altered_byte_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("models")
    name = checkpoint.save(random_model(SMALL), SMALL, directory)
    path = directory / f"{name}.{data.draw(st.sampled_from(['safetensors', 'json']))}"
    content = bytearray(path.read_bytes())
    # Half of the bytes drawn lie in the header, where an error is more interesting than in the weights.
    place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, min(len(content), 3000) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    content[place] = value
    path.write_bytes(content)
    try:
        _, config = checkpoint.load(directory, name)
    except ModelInvalid:
        return
    # Another blank between two tokens is the same JSON: the only change that goes through changes nothing.
    assert config == SMALL


@pytest.mark.parametrize("part", ["safetensors", "json"])
@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "longer", "noise", "huge header"])
def test_a_damaged_file_is_refused(tmp_path: Path, part: str, how: str) -> None:
    name = checkpoint.save(random_model(SMALL), SMALL, tmp_path)
    path = tmp_path / f"{name}.{part}"
    content = path.read_bytes()
    path.unlink()
    damaged = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "longer": content + b"x",
        "noise": os.urandom(len(content)),
        "huge header": struct.pack("<Q", 1 << 62) + content[8:],
    }
    if how != "missing":
        path.write_bytes(damaged[how])
    with pytest.raises(ModelInvalid, match=name[:12]):
        checkpoint.load(tmp_path, name)


def test_a_config_of_a_giant_model_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    name = checkpoint.save(random_model(SMALL), SMALL, tmp_path)
    path = tmp_path / f"{name}.json"
    config = json.loads(path.read_text())
    config["model"] |= {"image_size": [1024, 1024], "width": 1024, "dimension": 4096}
    path.write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match="bytes of weights"):
        checkpoint.load(tmp_path, name)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_name_that_is_no_fingerprint_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelInvalid, match="fingerprint"):
        checkpoint.load(tmp_path, name)


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    model = random_model(SMALL)
    with torch.no_grad():
        model.decoder.head.bias[0] = float("nan")
    name = checkpoint.save(model, SMALL, tmp_path)
    with pytest.raises(ModelInvalid, match="NaN"):
        checkpoint.load(tmp_path, name)


def test_a_fingerprint_hangs_on_names_shapes_values_and_config_and_not_on_their_order() -> None:
    a, b = np.arange(6, dtype=np.float32), np.ones(2, dtype=np.float32)
    base = weights.fingerprint({"a": a, "b": b}, {"x": 1, "y": 2})
    assert base == weights.fingerprint({"b": b, "a": a}, {"y": 2, "x": 1})
    others = [
        weights.fingerprint({"a": a, "c": b}, {"x": 1, "y": 2}),
        weights.fingerprint({"a": a.reshape(2, 3), "b": b}, {"x": 1, "y": 2}),
        weights.fingerprint({"a": a + 1, "b": b}, {"x": 1, "y": 2}),
        weights.fingerprint({"a": a, "b": b}, {"x": 1, "y": 3}),
    ]
    assert len({base, *others}) == 5
