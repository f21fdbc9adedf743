"""What the encoder is fitted for, and the way back from pictures to latents."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from embedstore.encoders.pca import PcaEncoder
from embedstore.encoders.trained import TrainedEncoder
from embedstore.models.autoencoder import Autoencoder, AutoencoderConfig
from embedstore.models.objective import Objective, local_contrast, loss

from .pictures import noise


def test_local_contrast_is_the_deviation_in_each_window() -> None:
    pictures = np.random.default_rng(0).uniform(size=(2, 3, 7, 9)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (3, 3), axis=(2, 3))
    found = local_contrast(torch.from_numpy(pictures)).numpy()
    np.testing.assert_allclose(found, windows.std(axis=(-1, -2)), rtol=1e-4)
    flat = torch.full((1, 1, 5, 5), 0.5, requires_grad=True)
    local_contrast(flat).sum().backward()
    assert torch.isfinite(flat.grad).all()  # type: ignore[arg-type]


def test_blur_costs_more_than_its_squared_error_says() -> None:
    """Two reconstructions of equal squared error: the one with the contrast of the original is the better one."""
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig((8, 8), 1, 4))
    x = torch.rand(16, 1, 8, 8)
    generator = torch.Generator()
    parts = {
        detail: float(loss(model, x, Objective(contrast=0.0, detail=detail), generator)[0].detach())
        for detail in (0.0, 1.0)
    }
    with torch.no_grad():
        rebuilt = model(x)
        error = float(torch.nn.functional.mse_loss(rebuilt, x))
        missing = float((local_contrast(rebuilt) - local_contrast(x)).abs().mean())
    assert parts[0.0] == pytest.approx(100 * error, rel=1e-5)
    assert parts[1.0] - parts[0.0] == pytest.approx(missing, rel=1e-4)


@pytest.fixture(params=["autoencoder", "pca"])
def encoder(request: pytest.FixtureRequest) -> TrainedEncoder | PcaEncoder:
    """Of 12 x 10 px in colour, with weights that nobody fitted."""
    if request.param == "pca":
        pictures = np.stack([noise(12, 10, 3, seed) for seed in range(30)])
        return PcaEncoder.fit(pictures, dimension=5, progress=False)[0]
    torch.manual_seed(0)
    config = AutoencoderConfig((12, 10), 3, 5)
    model = Autoencoder(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return TrainedEncoder(model, config)


def test_gradients_are_carried_back_to_the_latents(encoder: TrainedEncoder | PcaEncoder) -> None:
    generator = np.random.default_rng(1)
    z = generator.normal(size=(3, 5)).astype(np.float32)
    pixels, back = encoder.pull_back(z)
    gradient = generator.normal(size=(3, 12 * 10 * 3))
    if isinstance(encoder, PcaEncoder):
        np.testing.assert_allclose(pixels, z @ encoder.components + encoder.mean, atol=1e-6)
        expected = gradient @ encoder.components.T
    else:  # in double precision, and by the model whose norms aren't folded
        wide = torch.from_numpy(z).double().requires_grad_()
        rebuilt = copy.deepcopy(encoder.model.decoder).double()(wide).flatten(1)
        np.testing.assert_allclose(pixels, rebuilt.detach().numpy(), atol=1e-4)
        expected = torch.autograd.grad(rebuilt, wide, torch.from_numpy(gradient))[0].numpy()
    np.testing.assert_allclose(back(gradient), expected, atol=1e-4)


def test_the_pixels_are_those_that_are_decoded(encoder: TrainedEncoder | PcaEncoder) -> None:
    z = 0.1 * np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32)
    decoded = encoder.decode(z).astype(np.float64) / 255
    pixels = encoder.pull_back(z)[0]
    if encoder.kind == "autoencoder":  # its pixels run channel by channel; the geodesic doesn't mind
        pixels = pixels.reshape(3, 3, 12, 10).transpose(0, 2, 3, 1).reshape(3, -1)
    np.testing.assert_allclose(np.clip(pixels, 0, 1), decoded.reshape(3, -1), atol=0.51 / 255)
