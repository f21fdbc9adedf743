"""Networks as files of arrays: they compute what NumPy and torch do, come back as written, and let nothing else in."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from embedstore.errors import EmbedstoreError, ModelInvalid
from embedstore.models import layers, network, weights
from embedstore.models.network import Layer, Network

from .stores import refused

sizes_of_layers = st.lists(st.integers(1, 9), min_size=2, max_size=5)


def random_network(sizes: list[int], seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    made = [
        Layer(
            rng.normal(size=(taken, given)).astype(np.float32),
            rng.normal(size=given).astype(np.float32),
        )
        for taken, given in pairwise(sizes)
    ]
    return Network(tuple(made))


def by_hand(made: Network, point: np.ndarray) -> list[float]:
    """One point through the network, number by number."""
    values = [float(value) for value in point]
    for number, layer in enumerate(made.layers):
        weight, bias = layer.weight.astype(float), layer.bias.astype(float)
        values = [
            sum(values[i] * weight[i, o] for i in range(len(values))) + bias[o] for o in range(layer.weight.shape[1])
        ]
        if number < len(made.layers) - 1:
            values = [max(value, 0.0) for value in values]
    return values


@settings(max_examples=40, deadline=None)
@given(sizes_of_layers, st.integers(0, 1000), st.integers(0, 7))
def test_a_network_computes_what_loops_do(sizes: list[int], seed: int, count: int) -> None:
    made = random_network(sizes, seed)
    assert made.sizes == sizes
    points = np.random.default_rng(seed + 1).normal(size=(count, sizes[0])).astype(np.float32)
    before = points.copy()
    given = made(points)
    expected = np.array([by_hand(made, point) for point in points]).reshape(count, sizes[-1])
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)
    assert given.dtype == np.float32
    assert np.array_equal(points, before)


def test_many_points_are_answered_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    made = random_network([4, 8, 3])
    points = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    whole = made(points)
    monkeypatch.setattr(network, "_PART", 7)
    np.testing.assert_allclose(made(points), whole, rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    several=st.dictionaries(st.sampled_from(["place", "back", "a b"]), sizes_of_layers, min_size=1), seed=st.integers()
)
def test_saved_networks_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, several: dict[str, list[int]], seed: int
) -> None:
    directory = tmp_path_factory.mktemp("models")
    made = {name: random_network(sizes, abs(seed)) for name, sizes in several.items()}
    name = network.save(directory, "clustering", made)
    assert sorted(path.name for path in directory.iterdir()) == [f"{name}.json", f"{name}.safetensors"]
    loaded = network.load(directory, "clustering", name)
    assert loaded.keys() == made.keys()
    for key, one in made.items():
        assert loaded[key].sizes == one.sizes
        for ours, theirs in zip(one.layers, loaded[key].layers, strict=True):
            assert np.array_equal(ours.weight, theirs.weight)
            assert np.array_equal(ours.bias, theirs.bias)
    assert network.save(directory, "clustering", made) == name
    assert network.save(directory, "map", made) != name


def test_networks_of_another_kind_are_refused(tmp_path: Path) -> None:
    name = network.save(tmp_path, "map", {"place": random_network([4, 2])})
    refused(
        ModelInvalid, rf"{name[:12]} is no clustering of format 1", lambda: network.load(tmp_path, "clustering", name)
    )
    assert network.load(tmp_path, "map", name)["place"].sizes == [4, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float, part: str) -> None:
    made = random_network([4, 3, 2])
    getattr(made.layers[1], part).flat[1] = value
    name = network.save(tmp_path, "clustering", {"place": made})
    refused(
        ModelInvalid, rf"'place\.1\.{part}' holds NaN or infinity", lambda: network.load(tmp_path, "clustering", name)
    )


def hostile(directory: Path, config: Any, arrays: dict[str, np.ndarray] | None = None) -> str:
    """A config that someone else wrote, under a fingerprint that fits it."""
    return weights.write(directory, arrays or {"place.0.weight": np.zeros((4, 2), np.float32)}, config)


@pytest.mark.parametrize(
    "networks",
    [
        None,
        {},
        [],
        7,
        {f"n{i}": [4, 2] for i in range(9)},
        {"place": None},
        {"place": []},
        {"place": [4]},
        {"place": "42"},
        {"place": [4, 2, 3, 4, 5, 6, 7, 8, 9]},
        {"place": [4, 0]},
        {"place": [-4, 2]},
        {"place": [4, 2.0]},
        {"place": [4, True]},
        {"place": [4, "2"]},
        {"place": [4, [2]]},
        {"place": [4, network.MOST + 1]},
        {"place": [4, 10**30]},
        {"place": [network.MOST, network.MOST]},  # 40 GB: refused before anything is allocated
        {"place": [4, 3]},  # other sizes than the arrays have
        {"place": [4, 2, 2]},  # and more of them
    ],
)
def test_a_config_out_of_bounds_is_refused(tmp_path: Path, networks: Any) -> None:
    arrays = {"place.0.weight": np.zeros((4, 2), np.float32), "place.0.bias": np.zeros(2, np.float32)}
    saved = network.save(tmp_path, "clustering", {"place": random_network([4, 2])})
    config = {**json.loads((tmp_path / f"{saved}.json").read_text()), "networks": networks}
    name = hostile(tmp_path, config, arrays)
    refused(ModelInvalid, ".", lambda: network.load(tmp_path, "clustering", name))
    good = hostile(tmp_path, {**config, "networks": {"place": [4, 2]}}, arrays)
    assert network.load(tmp_path, "clustering", good)["place"].sizes == [4, 2]


@pytest.mark.parametrize("config", [{"kind": "clustering"}, {"kind": "clustering", "format": 2}, {"format": 1}, {}])
def test_another_format_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    name = hostile(tmp_path, {**config, "networks": {"place": [4, 2]}})
    refused(
        ModelInvalid,
        "no clustering of format 1; the clustering can be made again",
        lambda: network.load(tmp_path, "clustering", name),
    )


@pytest.mark.parametrize("part", ["safetensors", "json"])
@pytest.mark.parametrize("how", ["missing", "empty", "torn", "longer", "noise", "link"])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, part: str, how: str) -> None:
    name = network.save(tmp_path, "clustering", {"place": random_network([4, 8, 3])})
    path = tmp_path / f"{name}.{part}"
    content = path.read_bytes()
    path.unlink()
    damaged = {
        "empty": b"",
        "torn": content[: len(content) // 2],
        "longer": content + b"x",
        "noise": os.urandom(len(content)),
    }
    if how == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    elif how != "missing":
        path.write_bytes(damaged[how])
    refused(ModelInvalid, name[:12], lambda: network.load(tmp_path, "clustering", name))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_altered_byte_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("models")
    made = random_network([3, 4, 2])
    name = network.save(directory, "clustering", {"place": made})
    path = directory / f"{name}.{data.draw(st.sampled_from(['safetensors', 'json']))}"
    whole = path.read_bytes()
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    path.write_bytes(content)
    try:
        loaded = network.load(directory, "clustering", name)["place"]
    except ModelInvalid:
        return
    # Another blank between two tokens, or behind the header that is padded with them, is the same JSON, and the only
    # change that goes through.
    assert {whole[place], content[place]} <= set(b" \t\n\r")
    start, stop = (0, len(whole)) if path.suffix == ".json" else (8, 8 + int.from_bytes(whole[:8], "little"))
    assert start <= place < stop
    assert json.loads(content[start:stop]) == json.loads(whole[start:stop])
    assert all(np.array_equal(a.weight, b.weight) for a, b in zip(loaded.layers, made.layers, strict=True))


# -- made with torch -------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(1, 8), st.integers(0, 100))
def test_a_folded_trunk_computes_what_torch_does(dimension: int, width: int, given_: int, seed: int) -> None:
    torch.manual_seed(seed)
    body, last = layers.Trunk(dimension, width), nn.Linear(width, given_)
    for name, tensor in body.state_dict().items():  # everything differs from its default
        if tensor.dtype == torch.float32:
            tensor.uniform_(1e-5, 2e-4) if "var" in name else tensor.uniform_(
                0.5, 2.0
            ) if name == "scale" else tensor.normal_()
    body.eval()
    points = np.random.default_rng(seed).normal(size=(9, dimension)).astype(np.float32)
    folded = Network((*layers.fold(body), *layers.fold(last)))
    assert folded.sizes == [dimension, width, width, given_]
    with torch.inference_mode():
        expected = last(body(torch.from_numpy(points))).numpy()
    scale = 1 + np.abs(expected).max()
    np.testing.assert_allclose(folded(points) / scale, expected / scale, atol=2e-5)


def test_a_new_trunk_brings_latents_to_mean_0_and_variance_1_as_a_whole() -> None:
    latents = (np.random.default_rng(0).normal(size=(500, 3)) * [1, 5, 20] + [100, 0, -7]).astype(np.float32)
    body = layers.trunk(latents)
    scaled = (torch.from_numpy(latents) - body.mean) / body.scale
    np.testing.assert_allclose(scaled.mean(dim=0), 0, atol=1e-4)
    assert float((scaled**2).mean()) == pytest.approx(1, rel=1e-4)
    # One scale for all dimensions: the third still varies most.
    np.testing.assert_allclose(
        scaled.std(dim=0) / scaled.std(dim=0)[0], latents.std(axis=0) / latents.std(axis=0)[0], rtol=1e-3
    )
    same = layers.trunk(np.full((5, 3), 2.5, np.float32))
    assert float(same.scale) == 1  # not 0, by which it divides


def test_only_what_can_be_folded_is() -> None:
    with pytest.raises(TypeError, match="Conv2d isn't folded"):
        layers.fold(nn.Conv2d(1, 1, 1))
    body = layers.Trunk(3)
    body.first_norm = nn.BatchNorm1d(256, track_running_stats=False)
    with pytest.raises(TypeError, match="running statistics"):
        layers.fold(body)


def test_a_directory_that_cant_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the directory should be")
    refused(
        EmbedstoreError,
        "can't be written",
        lambda: network.save(tmp_path / "models", "map", {"a": random_network([1, 1])}),
    )
