"""Fitting the autoencoder: from pictures in an array to a model, in minutes on a CPU.

The schedule counts steps, so that a seed gives the same weights every time; a time limit only shortens it, and the
learning rate then still reaches zero in time.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from embedstore.errors import InvalidArgument
from embedstore.models import resume
from embedstore.models.autoencoder import Autoencoder, AutoencoderConfig, channels_last, reduce
from embedstore.models.geometry import BASE, apply_map, neighbourhood_map
from embedstore.models.objective import FEW, FOR_FEW, Objective, loss
from embedstore.models.optimizer import Muon
from embedstore.models.principal import principal_components, sample_rows
from embedstore.progress import Progress

BATCH = 128
STEPS = 1770  # for pictures of 28 x 28 px: just under four minutes on two cores
MIN_STEPS = 500
MAX_EPOCHS = 100
WARM_UP = 100  # steps
ANNEALING = 0.6  # the learning rate falls to zero over this last share of the fit
VALIDATIONS = 16  # per fit
PATIENCE = 4  # validations without improvement before the fit stops
TRIAL = 0.3  # but not in this first share of the schedule: the contrastive term costs some reconstruction at first
SAVE_SECONDS = 30.0
LEARNING_RATE_MUON = 0.02
LEARNING_RATE_ADAM = 2e-3
AVERAGE = 0.995  # decay of the moving average of weights that is validated and kept
VALIDATION_SHARE, VALIDATION_LIMIT = 0.05, 1024
FEWEST_TO_SPLIT = 20  # pictures; with fewer the fit is validated on the pictures that it is fitted to

Stopped = Literal["converged", "schedule done", "time"]


@dataclass(frozen=True, slots=True)
class FitReport:
    """What a fit did.

    Attributes:
        pictures: number fitted to (those kept for validation not counted).
        epochs: passes over them.
        steps: optimiser steps.
        seconds: wall time, of earlier interrupted tries too.
        stopped: 'schedule done'; 'converged': validation stopped improving before; 'time': the limit cut it short.
        validation_error: mean squared error of the reconstructions of held-out pictures, pixels in [0, 1].
        device: 'cpu' or 'cuda'.
        resumed: whether an interrupted fit was continued.
        history: (step, validation error) over the fit.
    """

    pictures: int
    epochs: float
    steps: int
    seconds: float
    stopped: Stopped
    validation_error: float
    device: str
    resumed: bool = False
    history: list[tuple[int, float]] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"reconstruction error {self.validation_error:.4f} after {self.epochs:.1f} epochs, "
            f"{self.seconds:.0f} s on {self.device} ({self.stopped})"
        )


def planned_steps(config: AutoencoderConfig, count: int, batch: int) -> int:
    """Number of steps: fewer for larger pictures (by the root of their area), at most 100 epochs, at least 500."""
    (gh, gw), halvings = config.grid, config.halvings
    area = (gh << halvings) * (gw << halvings)
    steps = round(STEPS * min(1.0, 28 / math.sqrt(area)))
    return min(steps, max(MIN_STEPS, MAX_EPOCHS * count // batch))


def fit(
    pictures: npt.NDArray[np.uint8],
    config: AutoencoderConfig,
    *,
    seed: int = 0,
    minutes: float | None = None,
    progress: bool = True,
    checkpoint: Path | None = None,
    device: str | None = None,
    objective: Objective | None = None,
    steps: int | None = None,
) -> tuple[Autoencoder, FitReport]:
    """Fit an autoencoder.

    Args:
        pictures: uint8 (n, h, w, c) of the config's size; may be a memory map, it is read batch by batch.
        config: of the model.
        seed: the same pictures, config, seed and number of threads give the same weights, unless time runs out.
        minutes: upper bound of the wall time.
        progress: whether to draw a bar on stderr.
        checkpoint: a file for the state of the fit, written about every 30 s and on Ctrl-C: the same call goes on from
            there, and ends at once where it was done. It is ignored when it is of other pictures or settings, and is
            the caller's to remove once the model is kept.
        device: 'cpu' or 'cuda'; CUDA where there is one by default.
        objective: None is the default one for this number of pictures.
        steps: None plans them from the number and size of the pictures.

    Raises:
        InvalidArgument: for fewer than two pictures, pictures of another shape, or no time.
    """
    shape = (*config.image_size, config.channels)
    if pictures.shape[1:] != shape or pictures.dtype != np.uint8:
        raise InvalidArgument(f"pictures of shape {pictures.shape}, {pictures.dtype} can't be fitted as uint8 {shape}")
    if len(pictures) < 2:
        raise InvalidArgument(f"an encoder can't be fitted to {len(pictures)} picture(s): give at least 2")
    if minutes is not None and not minutes > 0:
        raise InvalidArgument(f"a fit can't be done in {minutes} minutes: give a positive number")
    started = time.perf_counter()
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    order = np.random.default_rng(seed).permutation(len(pictures))
    held = min(VALIDATION_LIMIT, max(1, int(len(pictures) * VALIDATION_SHARE)))
    small = len(pictures) < FEWEST_TO_SPLIT
    validation, training = np.sort(order[:held] if not small else order), order[held:] if not small else order
    objective = objective or (FOR_FEW if len(training) < FEW else Objective())
    batch = min(BATCH, len(training))
    steps = steps or planned_steps(config, len(training), batch)

    model = channels_last(new_model(config, pictures, training, seed).to(place))
    average = copy.deepcopy(model).eval()
    optimizers = _optimizers(model)
    identity = resume.identity(pictures, config, objective, seed, steps)
    state = resume.State(model, average, optimizers)
    resumed = checkpoint is not None and resume.load(checkpoint, identity, state)
    earlier = state.seconds
    limit = None if minutes is None else minutes * 60

    def elapsed() -> float:
        return earlier + time.perf_counter() - started

    def save() -> None:
        if checkpoint is not None:
            state.seconds = elapsed()
            resume.save(checkpoint, identity, state)

    def converged() -> bool:
        return state.stale >= PATIENCE and TRIAL * steps <= state.step < steps

    stopped: Stopped = "schedule done"
    saved = time.perf_counter()
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    every = max(1, steps // VALIDATIONS)
    with resume.interrupts_between_steps() as check, Progress("fitting the encoder", steps, progress, "steps") as bar:
        bar.advance(state.step)
        try:
            while state.step < steps and not converged():
                done = state.step / steps
                if limit is not None:
                    done = max(done, elapsed() / limit)
                    if done >= 1:
                        stopped = "time"
                        break
                rate = min(1.0, (state.step + 1) / WARM_UP, (1 - done) / ANNEALING)
                for optimizer, rates in zip(optimizers, base, strict=True):
                    for group, value in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = value * rate
                rows = _batch(training, state.step, batch, seed)
                generator = torch.Generator().manual_seed((seed << 24) + state.step)
                error = _step(
                    model, average, optimizers, _load(pictures, rows, place), objective, generator, state.step
                )
                state.step += 1
                check()
                if state.step % every == 0 or state.step == steps:
                    state.record(validate(average, pictures, validation, place))
                bar.advance(1, f"error {error:.4f}")
                if time.perf_counter() - saved > SAVE_SECONDS:
                    save()
                    saved = time.perf_counter()
            check()
            save()
        except KeyboardInterrupt:
            save()
            raise
    if stopped != "time" and converged():
        stopped = "converged"
    if stopped == "time" or not state.history:
        state.record(validate(average, pictures, validation, place))
    average.load_state_dict(state.best)
    if objective.contrast:
        sample = np.random.default_rng(seed).permutation(training)[:BASE]
        apply_map(average, neighbourhood_map(_encode(average, pictures, sample, place)).to(place))
    report = FitReport(
        pictures=len(training),
        epochs=state.step * batch / len(training),
        steps=state.step,
        seconds=elapsed(),
        stopped=stopped,
        validation_error=min(error for _, error in state.history),
        device=place.type,
        resumed=resumed,
        history=list(state.history),
    )
    return average.to("cpu").eval(), report


def new_model(
    config: AutoencoderConfig, pictures: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], seed: int
) -> Autoencoder:
    """A model whose linear paths are a PCA with whitened latents and whose convolutional paths add nothing yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder(config)
    size = config.channels * config.linear_size[0] * config.linear_size[1]
    chosen = np.sort(rows)[sample_rows(len(rows), size, seed)]
    parts = [
        reduce(_load(pictures, part, torch.device("cpu")), config).flatten(1)
        for part in np.array_split(chosen, max(1, len(chosen) // 2048))
    ]
    flat = torch.cat(parts).numpy()  # (m, size)
    mean = flat.mean(axis=0)
    flat -= mean
    components, variances = principal_components(flat, min(config.dimension, *flat.shape), seed)
    # Directions almost without variance aren't blown up to the others' size.
    deviations = np.sqrt(np.maximum(variances, max(variances[0] * 0.05**2, 1e-8)))
    with torch.no_grad():
        filled = len(components)
        encoder, decoder = model.encoder, model.decoder
        for parameter in (
            encoder.linear.weight,
            decoder.linear.weight,
            encoder.head.weight,
            *decoder.last.parameters(),
        ):
            parameter.zero_()
        encoder.linear.weight[:filled] = torch.from_numpy(components / deviations[:, None])
        decoder.linear.weight[:, :filled] = torch.from_numpy(components * deviations[:, None]).T
        decoder.linear.bias.copy_(torch.from_numpy(mean))
        encoder.head.bias.copy_(-(encoder.linear.weight @ torch.from_numpy(mean)))
    return model


def validate(
    model: Autoencoder, pictures: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], device: torch.device
) -> float:
    """Mean squared error of the reconstructions of these pictures."""
    total = 0.0
    with torch.inference_mode():
        for part in np.array_split(rows, max(1, -(-len(rows) // 512))):
            x = _load(pictures, part, device)
            total += float(F.mse_loss(model(x), x)) * len(part)
    return total / len(rows)


def _encode(
    model: Autoencoder, pictures: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], device: torch.device
) -> Tensor:
    """Latents (n, d), on the CPU, of these pictures."""
    with torch.inference_mode():
        parts = np.array_split(rows, max(1, -(-len(rows) // 512)))
        latents = torch.cat([model.encode(_load(pictures, part, device)).cpu() for part in parts])
    return latents.clone()


def _optimizers(model: Autoencoder) -> list[torch.optim.Optimizer]:
    """Muon for the weights inside, AdamW for biases, norms, the linear paths and the pixels' layer."""
    inside: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        outer = parameter.ndim < 2 or name.startswith(("encoder.linear", "decoder.linear", "decoder.last"))
        (rest if outer else inside).append(parameter)
    return [
        Muon(inside, lr=LEARNING_RATE_MUON),
        torch.optim.AdamW(rest, lr=LEARNING_RATE_ADAM, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _batch(rows: npt.NDArray[np.int64], step: int, size: int, seed: int) -> npt.NDArray[np.int64]:
    """The rows of a step: each epoch is a permutation of its own, a rest smaller than a batch is left out.

    Stateless, so that an interrupted fit goes on with the batch that it would have had.
    """
    per_epoch = len(rows) // size
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(len(rows))
    return np.sort(rows[order[place * size : (place + 1) * size]])


def _load(pictures: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """Pictures (b, h, w, c) uint8 as (b, c, h, w) in [0, 1]; the memory stays channels-last."""
    batch = torch.from_numpy(np.ascontiguousarray(pictures[rows])).to(device)
    return batch.permute(0, 3, 1, 2).float().div_(255)


def _step(
    model: Autoencoder,
    average: Autoencoder,
    optimizers: list[torch.optim.Optimizer],
    batch: Tensor,
    objective: Objective,
    generator: torch.Generator,
    step: int,
) -> float:
    model.train()
    value, error = loss(model, batch, objective, generator)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        optimizer.step()
    decay = min(AVERAGE, (step + 1) / (step + 10))  # a short memory first: the start is soon forgotten
    with torch.no_grad():
        for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)
    return float(error)
