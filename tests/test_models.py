"""The autoencoder, its objective and its training."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import InvalidArgument, ModelInvalid
from embedstore.models import checkpoint, resume, training
from embedstore.models.augment import augment
from embedstore.models.autoencoder import (
    Autoencoder,
    AutoencoderConfig,
    channels_last,
    fold_norms,
    from_patches,
    to_patches,
)
from embedstore.models.geometry import apply_map, neighbourhood_map
from embedstore.models.objective import FOR_FEW, Objective, contrast, loss
from embedstore.models.optimizer import orthogonalize
from embedstore.models.principal import principal_components, sample_rows

SMALL = AutoencoderConfig((16, 12), 1, dimension=6, stem=4, width=8, decoder_blocks=1)


def blobs(count: int, height: int = 16, width: int = 12, channels: int = 1, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Pictures of one bright blob each: few degrees of freedom, none of them linear."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0, height, (count, 1, 1)), rng.uniform(0, width, (count, 1, 1))
    size = rng.uniform(1.5, 4, (count, 1, 1))
    grey = 255 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * size**2))
    return np.repeat(grey[..., None], channels, axis=-1).astype(np.uint8)


def random_model(config: AutoencoderConfig, seed: int = 0) -> Autoencoder:
    """A model all of whose weights and statistics differ from their defaults."""
    torch.manual_seed(seed)
    model = Autoencoder(config).eval()
    for name, tensor in model.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 2.0)
    return model


# --- the model ---------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(8, 70), st.integers(8, 70), st.sampled_from([1, 3]), st.integers(1, 9))
def test_pictures_of_any_size_come_back_in_their_size(height: int, width: int, channels: int, dimension: int) -> None:
    config = AutoencoderConfig((height, width), channels, dimension, stem=2, width=4, decoder_blocks=1)
    model = random_model(config)
    with torch.inference_mode():
        latents = model.encode(torch.rand(2, channels, height, width))
        assert latents.shape == (2, dimension)
        assert model.decode(latents).shape == (2, channels, height, width)


@pytest.mark.parametrize("size", [(256, 256), (300, 20), (8, 8)])
def test_the_grid_of_the_body_has_at_most_eight_positions_on_a_side(size: tuple[int, int]) -> None:
    config = AutoencoderConfig(size, 1)
    assert max(config.grid) <= 8
    for side, positions in zip(size, config.grid, strict=True):
        assert 0 <= (positions << config.halvings) - side < 1 << config.halvings


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_come_back_from_their_patches(channels: int) -> None:
    pictures = torch.rand(2, channels, 8, 12)
    patches = to_patches(pictures, 4)
    assert patches.shape == (2, 16 * channels, 2, 3)
    assert torch.equal(patches[1, :, 1, 2], pictures[1, :, 4:8, 8:12].permute(1, 2, 0).flatten())
    assert torch.equal(from_patches(patches, 4), pictures)


def test_folding_the_norms_keeps_the_function() -> None:
    model = random_model(SMALL)
    pictures = torch.rand(5, 1, 16, 12)
    with torch.inference_mode():
        expected = model(pictures)
        folded = channels_last(fold_norms(model))
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
        torch.testing.assert_close(folded(pictures), expected, rtol=1e-4, atol=1e-5)


def test_a_config_survives_json() -> None:
    assert AutoencoderConfig.from_json(json.loads(json.dumps(SMALL.to_json()))) == SMALL


@settings(deadline=None)
@given(
    st.sampled_from(["image_size", "channels", "dimension", "stem", "width", "encoder_blocks", "decoder_blocks"]),
    st.sampled_from([None, -1, 10**9, 2.5, True, "64", [1], [28], [28, 10**6], [28, None], {}, float("nan")]),
)
def test_a_config_out_of_bounds_is_refused(key: str, value: object) -> None:
    with pytest.raises(ModelInvalid):
        AutoencoderConfig.from_json({**SMALL.to_json(), key: value})


# --- its parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (24, 24)])
def test_an_orthogonalized_matrix_has_singular_values_near_one_and_keeps_its_directions(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalize(matrix)
    singular = torch.linalg.svdvals(result)
    assert singular.min() > 0.3
    assert singular.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    rotated = u.T @ result @ v.T
    assert (rotated - torch.diag(rotated.diag())).abs().max() < 1e-3


@pytest.mark.parametrize(("count", "size"), [(50, 12), (12, 50), (2200, 2100)])
def test_principal_components_are_those_of_a_singular_value_decomposition(count: int, size: int) -> None:
    rng = np.random.default_rng(1)
    rows = (rng.standard_normal((count, 10)) * 2.0 ** -np.arange(10)) @ rng.standard_normal((10, size))
    centred = (rows - rows.mean(axis=0)).astype(np.float32)
    components, variances = principal_components(centred, 5)
    # The oracle works on the ten coordinates that the rows were made from.
    q, _ = np.linalg.qr(centred.T @ rng.standard_normal((count, 10)))
    _, singular, directions = np.linalg.svd(centred @ q, full_matrices=False)
    np.testing.assert_allclose(variances, singular[:5] ** 2 / count, rtol=1e-3)
    np.testing.assert_allclose(np.abs(components @ (directions @ q.T)[:5].T), np.eye(5), atol=2e-2)
    np.testing.assert_allclose(components @ components.T, np.eye(5), atol=1e-5)
    assert (np.take_along_axis(components, np.abs(components).argmax(1)[:, None], 1) > 0).all()


def test_components_of_too_few_pictures_are_completed_to_an_orthonormal_set() -> None:
    centred = np.zeros((4, 30), dtype=np.float32)
    centred[0, 3], centred[1, 3] = 1, -1
    components, variances = principal_components(centred, 4)
    np.testing.assert_allclose(components @ components.T, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(variances, [0.5, 0, 0, 0], atol=1e-6)


def test_a_sample_of_rows_is_bounded_in_number_and_memory() -> None:
    assert sample_rows(10, 784, 0).tolist() == list(range(10))
    assert len(sample_rows(10**6, 784, 0)) == 20_000
    rows = sample_rows(10**6, 12288, 0)
    assert len(rows) * 12288 <= 1 << 26
    assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_views_differ_from_the_picture_stay_in_range_and_repeat_with_their_seed(channels: int) -> None:
    pictures = torch.from_numpy(blobs(16, channels=channels)).permute(0, 3, 1, 2).float() / 255
    before = pictures.clone()
    views = augment(pictures, torch.Generator().manual_seed(3))
    assert torch.equal(pictures, before)
    assert views.shape == pictures.shape
    assert views.min() >= 0
    assert views.max() <= 1
    assert ((views - pictures).flatten(1).abs().max(dim=1).values > 0.05).all()
    assert torch.equal(views, augment(pictures, torch.Generator().manual_seed(3)))
    assert not torch.equal(views, augment(pictures, torch.Generator().manual_seed(4)))


def test_the_contrastive_term_is_low_for_matching_pairs_and_high_for_shuffled_ones() -> None:
    a = torch.eye(8)
    assert contrast(a, a, 0.1) < 0.01
    assert contrast(a, a.roll(1, 0), 0.1) > 5
    torch.testing.assert_close(contrast(a, torch.ones(8, 8), 0.1), torch.tensor(8.0).log())


def test_neighbours_differ_equally_in_every_direction_after_the_neighbourhood_map() -> None:
    rng = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 1, 4, generator=rng) * 50
    within = torch.randn(40, 30, 4, generator=rng) @ torch.tensor(
        [[3.0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0.3, 0], [0, 0, 0.2, 0.5]]
    )
    latents = (centres + within).flatten(0, 1)
    matrix = neighbourhood_map(latents)
    torch.testing.assert_close(matrix, matrix.T)
    mapped = latents @ matrix
    torch.testing.assert_close(mapped.var(dim=0).sum(), latents.var(dim=0).sum(), rtol=1e-3, atol=0)
    distances = torch.cdist(latents, latents)  # the oracle: the same neighbours, one by one
    nearest = distances.argsort(dim=1)[:, 1:6]
    differences = (mapped[:, None] - mapped[nearest]).flatten(0, 1)
    values = torch.linalg.eigvalsh(differences.T @ differences)
    assert values.max() / values.min() < 1.5


@pytest.mark.parametrize("latents", [torch.zeros(5, 3), torch.ones(2, 3)])
def test_latents_without_neighbourhoods_are_left_alone(latents: torch.Tensor) -> None:
    assert torch.equal(neighbourhood_map(latents), torch.eye(3))


def test_a_map_of_the_latents_is_folded_in_without_changing_the_pictures() -> None:
    model, pictures = random_model(SMALL), torch.rand(5, 1, 16, 12)
    random = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    matrix = random @ random.T + torch.eye(6)
    with torch.inference_mode():
        latents, rebuilt = model.encode(pictures), model(pictures)
    apply_map(model, matrix)
    with torch.inference_mode():
        torch.testing.assert_close(model.encode(pictures), latents @ matrix, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(pictures), rebuilt, rtol=1e-3, atol=1e-4)


def test_a_varied_picture_is_encoded_and_rebuilt_as_its_view() -> None:
    model = random_model(SMALL)
    pictures = torch.from_numpy(blobs(8)).permute(0, 3, 1, 2).float() / 255
    views = augment(pictures, _after_choice(8))
    for share, expected in [(0.0, pictures), (1.0, views)]:
        generator = torch.Generator().manual_seed(1)
        _, error = loss(model, pictures, Objective(contrast=0, vary=share), generator)
        torch.testing.assert_close(error, (model(expected) - expected).square().mean().detach())


def _after_choice(count: int) -> torch.Generator:
    """The generator as it is once the pictures to vary have been drawn."""
    generator = torch.Generator().manual_seed(1)
    torch.rand(count, 1, 1, 1, generator=generator)
    return generator


# --- training ----------------------------------------------------------------------------------------------------


def test_a_fit_starts_at_the_error_of_pca() -> None:
    pictures = blobs(200)
    model = training.new_model(SMALL, pictures, np.arange(200), seed=0).eval()
    flat = pictures.reshape(200, -1) / 255.0
    centred = flat - flat.mean(axis=0)
    singular = np.linalg.svd(centred, compute_uv=False)
    error = training.validate(model, pictures, np.arange(200), torch.device("cpu"))
    assert error == pytest.approx((singular[6:] ** 2).sum() / flat.size, rel=1e-3)


def test_a_fit_becomes_better_than_pca_and_says_what_it_did() -> None:
    pictures = blobs(200)
    start = training.new_model(SMALL, pictures, np.arange(200), seed=0).eval()
    pca = training.validate(start, pictures, np.arange(200), torch.device("cpu"))
    model, report = training.fit(pictures, SMALL, steps=150, progress=False, objective=Objective(contrast=0, detail=0))
    assert training.validate(model, pictures, np.arange(200), torch.device("cpu")) < 0.8 * pca
    assert report.steps == 150
    assert report.stopped == "schedule done"
    assert report.pictures == 190
    assert report.validation_error == min(error for _, error in report.history)
    assert not model.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    pictures = blobs(60)
    first, second, other = (
        checkpoint.to_arrays(training.fit(pictures, SMALL, seed=seed, steps=6, progress=False)[0]) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_an_interrupted_fit_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, state = blobs(60), tmp_path / "fit.state"
    whole, uninterrupted = training.fit(pictures, SMALL, steps=12, progress=False)
    step, calls = training._step, 0

    def interrupted(*arguments: object) -> float:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.fit(pictures, SMALL, steps=12, progress=False, checkpoint=state)
    assert state.exists()
    resumed, report = training.fit(pictures, SMALL, steps=12, progress=False, checkpoint=state)
    assert report.resumed
    assert report.history == uninterrupted.history
    assert calls == uninterrupted.steps + 1  # the interrupted one is done again, none other
    again, report = training.fit(pictures, SMALL, steps=12, progress=False, checkpoint=state)
    assert (calls, report.history) == (uninterrupted.steps + 1, uninterrupted.history)  # nothing was left to be done
    expected = checkpoint.to_arrays(whole)
    for found in (checkpoint.to_arrays(resumed), checkpoint.to_arrays(again)):
        assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_ctrl_c_during_the_last_validation_is_obeyed_and_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, state = blobs(60), tmp_path / "fit.state"
    validate = training.validate

    def pressed(*arguments: object) -> float:
        signal.raise_signal(signal.SIGINT)
        return validate(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "VALIDATIONS", 1)  # the only validation is that of the last step
    monkeypatch.setattr(training, "validate", pressed)
    with pytest.raises(KeyboardInterrupt):
        training.fit(pictures, SMALL, steps=4, progress=False, checkpoint=state)
    monkeypatch.setattr(training, "validate", validate)
    monkeypatch.delattr(training, "_step")
    assert training.fit(pictures, SMALL, steps=4, progress=False, checkpoint=state)[1].steps == 4


def test_ctrl_c_waits_for_the_end_of_the_step_and_saves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, state = blobs(60), tmp_path / "fit.state"
    step, finished = training._step, 0

    def interrupted(*arguments: object) -> float:
        nonlocal finished
        if finished == 2:
            signal.raise_signal(signal.SIGINT)
        error = step(*arguments)  # type: ignore[arg-type]
        finished += 1
        return error

    monkeypatch.setattr(training, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.fit(pictures, SMALL, steps=12, progress=False, checkpoint=state)
    assert finished == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    model = random_model(SMALL)
    found = resume.State(model, random_model(SMALL), training._optimizers(model))
    assert resume.load(state, resume.identity(pictures, SMALL, FOR_FEW, 0, 12), found)
    assert found.step == 3


@pytest.mark.parametrize("damage", ["other pictures", "torn", "absent"])
def test_a_state_that_does_not_fit_is_left_aside(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "fit.state"
    model = random_model(SMALL)
    state = resume.State(model, random_model(SMALL, 1), training._optimizers(model), step=5)
    identity = resume.identity(blobs(60), SMALL, Objective(), 0, 12)
    if damage != "absent":
        resume.save(path, identity, state)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    if damage == "other pictures":
        identity = resume.identity(blobs(60, seed=1), SMALL, Objective(), 0, 12)
    fresh = resume.State(model, random_model(SMALL, 1), training._optimizers(model))
    assert not resume.load(path, identity, fresh)
    assert fresh.step == 0


def test_a_time_limit_ends_the_fit_with_its_schedule_at_zero() -> None:
    _, report = training.fit(blobs(400), SMALL, minutes=0.01, steps=100_000, progress=False)
    assert report.stopped == "time"
    assert 0 < report.steps < 100_000
    assert report.history


def test_a_fit_that_no_longer_improves_stops_by_itself() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 16, 12, 1), dtype=np.uint8)
    _, report = training.fit(noise, SMALL, steps=200, progress=False)
    assert report.stopped == "converged"
    assert report.steps < 200


@pytest.mark.parametrize("count", [2, 3, 19, 20])
def test_a_handful_of_pictures_can_be_fitted(count: int) -> None:
    model, report = training.fit(blobs(count), SMALL, steps=3, progress=False)
    assert np.isfinite(report.validation_error)
    assert all(np.isfinite(array).all() for array in checkpoint.to_arrays(model).values())


def test_a_plain_autoencoder_is_fitted_without_views() -> None:
    _, report = training.fit(blobs(40), SMALL, steps=3, progress=False, objective=Objective(contrast=0))
    assert report.steps == 3


def test_steps_are_planned_for_minutes_whatever_the_source() -> None:
    fashion = training.planned_steps(AutoencoderConfig((28, 28), 1), 57_000, 256)
    assert fashion == training.STEPS
    assert training.planned_steps(AutoencoderConfig((28, 28), 1), 10**6, 256) == fashion
    assert training.planned_steps(AutoencoderConfig((28, 28), 1), 100, 100) == training.MIN_STEPS
    assert training.planned_steps(AutoencoderConfig((64, 64), 3), 10**5, 256) < fashion


@pytest.mark.parametrize(
    ("pictures", "options"),
    [
        (blobs(1), {}),
        (blobs(5, 8, 8), {}),
        (blobs(5).astype(np.float32), {}),
        (blobs(5), {"minutes": 0}),
        (blobs(5), {"minutes": float("nan")}),
    ],
)
def test_what_cannot_be_fitted_is_refused(pictures: npt.NDArray[np.uint8], options: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument):
        training.fit(pictures, SMALL, progress=False, minutes=options.get("minutes"))
