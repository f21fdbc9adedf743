"""Encoders: preprocessing, PCA, and the fitted autoencoder behind the same calls."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from embedstore.encoders import preprocess
from embedstore.encoders.pca import PcaEncoder
from embedstore.encoders.preprocess import choose_channels, choose_image_size, fit_pictures
from embedstore.encoders.trained import TrainedEncoder
from embedstore.errors import InvalidArgument, InvalidVector, ModelInvalid
from embedstore.models.autoencoder import Autoencoder, AutoencoderConfig
from embedstore.types import Decoder, Encoder, Metric

Bytes = npt.NDArray[np.uint8]


def pictures(count: int, height: int = 20, width: int = 28, channels: int = 3, seed: int = 0) -> Bytes:
    """Smooth random pictures: random 4 x 4 ones enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    large = [np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC)) for one in coarse]
    return np.ascontiguousarray(np.stack(large)[..., :channels])


# --- preprocessing -----------------------------------------------------------------------------------------------


def test_an_array_of_the_right_shape_is_not_copied() -> None:
    array = pictures(4)
    assert fit_pictures(array, (20, 28), 3) is array


def test_a_grey_array_without_its_channel_axis_is_a_view() -> None:
    array = pictures(4)[..., 0].copy()
    assert np.shares_memory(fit_pictures(array, (20, 28), 1), array)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(8, 30), st.integers(8, 30), st.integers(0, 255))
def test_a_plain_picture_stays_plain_at_any_size(h: int, w: int, height: int, width: int, level: int) -> None:
    picture = np.full((h, w, 1), level, dtype=np.uint8)
    assert (fit_pictures([picture], (height, width), 1) == level).all()


def test_the_shape_is_kept_and_the_rest_is_filled_with_the_edge_colour() -> None:
    picture = np.full((10, 40, 3), (200, 100, 50), dtype=np.uint8)
    picture[2:8, 10:30] = 0
    fitted = fit_pictures([picture], (40, 40), 3)[0]
    np.testing.assert_array_equal(fitted[15:25], picture)
    assert (fitted[:15] == (200, 100, 50)).all()
    assert (fitted[25:] == (200, 100, 50)).all()


def test_reducing_averages_instead_of_dropping_pixels() -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    fitted = fit_pictures([board.astype(np.uint8)], (8, 8), 1)
    assert abs(fitted.astype(int) - 127).max() <= 8


@given(arrays(np.uint8, (3, 5, 4, 3)))
def test_colour_becomes_the_grey_that_pillow_makes(colour: Bytes) -> None:
    grey = fit_pictures(colour, (5, 4), 1)
    expected = np.stack([np.asarray(Image.fromarray(one).convert("L")) for one in colour])[..., None]
    np.testing.assert_array_equal(grey, expected)


@given(arrays(np.uint8, (2, 5, 4, 1)))
def test_grey_to_colour_and_back_is_the_same(grey: Bytes) -> None:
    colour = fit_pictures(grey, (5, 4), 3)
    assert (colour == grey).all()
    np.testing.assert_array_equal(fit_pictures(colour, (5, 4), 1), grey)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 5, 4, 3), dtype=np.float32),
        np.zeros((2, 5, 4, 2), dtype=np.uint8),
        np.zeros((5, 4), dtype=np.uint8),
        [np.zeros((5, 4, 4), dtype=np.uint8)],
        [np.zeros((0, 4, 3), dtype=np.uint8)],
        [np.zeros((5, 4, 3))],
    ],
)
def test_what_is_no_picture_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidArgument):
        fit_pictures(wrong, (8, 8), 3)


@pytest.mark.parametrize(
    ("sizes", "requested", "expected", "says"),
    [
        ([(28, 28)] * 5, None, (28, 28), ""),
        ([(64, 48)] * 5 + [(10, 10)], None, (64, 48), ""),
        ([(128, 128)] * 5, None, (64, 64), "128 x 128"),
        ([(100, 200)] * 5, None, (32, 64), "200 x 100"),
        ([(20, 30), (40, 50), (41, 51)], None, (50, 50), "many sizes"),
        ([(200, 300), (400, 500), (401, 501)], None, (64, 64), "many sizes"),
        ([(128, 128)] * 5, 128, (128, 128), ""),
        ([(100, 200)] * 5, 128, (64, 128), ""),
        ([(28, 28)] * 5, 56, (56, 56), ""),
        ([(28, 28)] * 5, (32, 40), (32, 40), ""),
        ([(4, 4)] * 5, None, (8, 8), "4 x 4"),
        ([(10, 1000)], None, (8, 64), "1000 x 10"),
    ],
)
def test_the_image_size_follows_its_rule(
    sizes: list[tuple[int, int]], requested: Any, expected: tuple[int, int], says: str
) -> None:
    size, note = choose_image_size(sizes, requested)
    assert size == expected
    assert says in note
    assert bool(says) == bool(note)


def test_the_note_names_the_option_that_keeps_the_detail() -> None:
    _, note = choose_image_size([(128, 128)] * 5)
    assert note == "pictures of 128 x 128 px are fitted at 64 x 64 px; --image-size 128 keeps their detail"


@pytest.mark.parametrize("requested", [0, 7, 1025, -3, (7, 28), (28, 5000)])
def test_an_image_size_out_of_bounds_is_refused(requested: Any) -> None:
    with pytest.raises(InvalidArgument, match="8 to 1024"):
        choose_image_size([(28, 28)], requested)


def test_an_image_size_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no picture"):
        choose_image_size([])


def test_grey_pictures_stored_as_colour_are_seen_as_grey() -> None:
    grey = np.repeat(pictures(5)[..., :1], 3, axis=-1)
    assert choose_channels(grey) == 1
    assert choose_channels([*grey, pictures(1)[0]]) == 3
    assert choose_channels(grey[..., 0]) == 1


# --- both encoders -----------------------------------------------------------------------------------------------


def make_pca(channels: int = 3, seed: int = 0) -> PcaEncoder:
    return PcaEncoder.fit(pictures(80, channels=channels, seed=seed), dimension=6, progress=False)[0]


def make_trained(channels: int = 3, seed: int = 0) -> TrainedEncoder:
    from embedstore.models.training import new_model

    config = AutoencoderConfig((20, 28), channels, 6, stem=4, width=8)
    model: Autoencoder = new_model(config, pictures(80, channels=channels, seed=seed), np.arange(80), seed)
    with torch.no_grad():  # a fitted model's convolutional path isn't zero
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.02)
    return TrainedEncoder(model, config)


both = pytest.mark.parametrize("make", [make_pca, make_trained], ids=["pca", "autoencoder"])
Make = Callable[..., Any]


@both
def test_an_encoder_has_what_the_protocols_ask_for(make: Make) -> None:
    encoder = make()
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder, Decoder)
    assert encoder.metric is Metric.L2
    assert encoder.dimension == 6
    assert encoder.describe()["fingerprint"] == encoder.fingerprint
    assert encoder.describe()["kind"] == encoder.kind
    json.dumps(encoder.describe())


@both
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_has_the_same_latent_bit_for_bit_whatever_it_is_encoded_with(make: Make, channels: int) -> None:
    encoder, many = make(channels), pictures(700, channels=channels, seed=5)
    latents = encoder.encode(many)
    assert latents.dtype == np.float32
    assert latents.shape == (700, 6)
    for start, stop in [(0, 1), (3, 4), (5, 12), (250, 400), (699, 700), (1, 700)]:
        np.testing.assert_array_equal(encoder.encode(many[start:stop]), latents[start:stop])
    backwards = encoder.encode([many[row] for row in range(699, -1, -1)])
    np.testing.assert_array_equal(backwards[::-1], latents)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_encodes_and_decodes_as_the_cpu_does() -> None:
    gpu, cpu = make_trained(), make_trained()
    cpu._device = torch.device("cpu")
    many = pictures(300, seed=5)
    latents = gpu.encode(many)
    assert gpu._fast.encoder.linear.weight.is_cuda
    np.testing.assert_allclose(latents, cpu.encode(many), atol=1e-4)
    assert np.abs(gpu.decode(latents).astype(int) - cpu.decode(latents)).max() <= 1
    assert gpu.fingerprint == cpu.fingerprint


def test_threads_that_encode_at_once_get_what_one_gets() -> None:
    encoder, many = make_trained(), pictures(40, seed=5)
    expected = make_trained().encode(many)
    with ThreadPoolExecutor(4) as threads:
        for latents in threads.map(encoder.encode, [many] * 8):
            np.testing.assert_array_equal(latents, expected)


@both
def test_encoding_nothing_gives_no_latents(make: Make) -> None:
    assert make().encode(pictures(5)[:0]).shape == (0, 6)
    assert make().decode(np.empty((0, 6), dtype=np.float32)).shape == (0, 20, 28, 3)


@both
def test_a_read_only_array_is_encoded_and_left_alone(make: Make) -> None:
    encoder, many = make(), pictures(300)
    expected = encoder.encode(many)
    many.flags.writeable = False
    np.testing.assert_array_equal(encoder.encode(many), expected)


@both
def test_a_picture_of_another_size_is_encoded_as_its_fitted_self(make: Make) -> None:
    encoder, large = make(), pictures(2, 60, 84)
    expected = encoder.encode(fit_pictures(large, (20, 28), 3))
    np.testing.assert_array_equal(encoder.encode(list(large)), expected)
    np.testing.assert_array_equal(encoder.encode(large), expected)


@both
def test_an_encoder_comes_back_from_its_files_the_same(make: Make, tmp_path: Path) -> None:
    encoder = make()
    assert encoder.save(tmp_path) == encoder.fingerprint
    loaded = type(encoder).load(tmp_path, encoder.fingerprint)
    many = pictures(50, seed=9)
    np.testing.assert_array_equal(loaded.encode(many), encoder.encode(many))
    latents = encoder.encode(many)
    np.testing.assert_array_equal(loaded.decode(latents), encoder.decode(latents))
    assert loaded.fingerprint == encoder.fingerprint
    assert loaded.describe() == encoder.describe()
    assert make(seed=1).fingerprint != encoder.fingerprint


@both
@pytest.mark.parametrize("shape", [(6,), (2, 5), (2, 7), (1, 2, 6)])
def test_latents_of_another_shape_are_not_decoded(make: Make, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidVector, match=r"\(n, 6\)"):
        make().decode(np.zeros(shape, dtype=np.float32))


@both
def test_a_latent_far_out_is_decoded_to_some_picture(make: Make) -> None:
    far = np.array([[1e30] * 6, [-1e30] * 6, [0] * 6], dtype=np.float32)
    assert make().decode(far).shape == (3, 20, 28, 3)


@both
def test_files_of_the_other_kind_or_another_preprocessing_are_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make()
    encoder.save(tmp_path)
    other = TrainedEncoder if isinstance(encoder, PcaEncoder) else PcaEncoder
    with pytest.raises(ModelInvalid, match="kind"):
        other.load(tmp_path, encoder.fingerprint)
    monkeypatch.setattr(preprocess, "VERSION", preprocess.VERSION + 1)
    with pytest.raises(ModelInvalid, match="preprocessing"):
        type(encoder).load(tmp_path, encoder.fingerprint)


@both
def test_every_altered_byte_of_the_files_is_found(make: Make, tmp_path: Path) -> None:
    encoder = make()
    encoder.save(tmp_path)
    weights = tmp_path / f"{encoder.fingerprint}.safetensors"
    content = weights.read_bytes()
    for place in np.linspace(0, len(content) - 1, 40).astype(int):
        changed = bytearray(content)
        changed[place] ^= 1
        weights.write_bytes(changed)
        with pytest.raises(ModelInvalid):
            type(encoder).load(tmp_path, encoder.fingerprint)


# --- PCA ---------------------------------------------------------------------------------------------------------


def test_pca_is_the_projection_that_a_singular_value_decomposition_gives() -> None:
    many = pictures(80)
    encoder, report = PcaEncoder.fit(many, dimension=6, progress=False)
    flat = many.reshape(80, -1) / 255.0
    centred = flat - flat.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    latents = encoder.encode(many)
    np.testing.assert_allclose(np.abs(latents), np.abs(centred @ directions[:6].T), atol=2e-4)
    assert report.explained == pytest.approx((singular[:6] ** 2).sum() / (singular**2).sum(), rel=1e-4)
    expected = (centred @ directions[:6].T @ directions[:6] + flat.mean(axis=0)).clip(0, 1) * 255
    assert np.abs(encoder.decode(latents).reshape(80, -1) - expected).max() <= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(8, 12), st.integers(1, 200))
def test_pca_never_has_more_dimensions_than_pictures_or_numbers(count: int, side: int, dimension: int) -> None:
    many = np.random.default_rng(count).integers(0, 256, (count, side, side, 1), dtype=np.uint8)
    encoder, _ = PcaEncoder.fit(many, dimension=dimension, progress=False)
    assert encoder.dimension == min(dimension, count, side * side)
    np.testing.assert_allclose(encoder.components @ encoder.components.T, np.eye(encoder.dimension), atol=1e-4)
    if dimension >= count:  # nothing was lost: the pictures come back
        assert np.abs(encoder.decode(encoder.encode(many)).astype(int) - many).max() <= 1


def test_pca_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np; from embedstore.encoders.pca import PcaEncoder; "
        "x = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), dtype=np.uint8); "
        "PcaEncoder.fit(x, progress=False)[0].encode(x); "
        "print([m for m in ('torch', 'sklearn', 'faiss') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
