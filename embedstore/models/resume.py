"""The state of a fit as one safetensors file, so that Ctrl-C costs at most the step at hand."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from embedstore.models.autoencoder import AutoencoderConfig
from embedstore.models.objective import Objective
from embedstore.models.weights import canonical_json, write_atomically

IMPROVEMENT = 0.002  # a validation error counts as better when it is lower by this share


@dataclass(slots=True)
class State:
    """All that changes during a fit."""

    model: nn.Module
    average: nn.Module
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0
    stale: int = 0  # validations since the last improvement
    history: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def record(self, error: float) -> None:
        """Take note of a validation: the averaged weights are kept when they are the best so far."""
        lowest = min((e for _, e in self.history), default=float("inf"))
        self.stale = 0 if error < lowest * (1 - IMPROVEMENT) else self.stale + 1
        if error < lowest or not self.best:
            self.best = {name: tensor.clone() for name, tensor in self.average.state_dict().items()}
        self.history.append((self.step, error))


def identity(
    pictures: npt.NDArray[np.uint8], config: AutoencoderConfig, objective: Objective, seed: int, steps: int
) -> str:
    """Hash of what must be the same for a fit to go on: settings, number of pictures, and a sample of them."""
    settings = {
        "config": config.to_json(),
        "objective": asdict(objective),
        "seed": seed,
        "steps": steps,
        "shape": list(pictures.shape),
    }
    digest = hashlib.sha256(canonical_json(settings))
    for row in np.linspace(0, len(pictures) - 1, min(256, len(pictures))).astype(int):
        digest.update(np.ascontiguousarray(pictures[row]).tobytes())
    return digest.hexdigest()


def save(path: Path, identity: str, state: State) -> None:
    """Write the state, whole or not at all."""
    meta = {
        "identity": identity,
        "step": state.step,
        "seconds": state.seconds,
        "stale": state.stale,
        "history": state.history,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(state).items()}
    write_atomically(path, safetensors.torch.save(tensors, {"fit": json.dumps(meta)}))


def load(path: Path, identity: str, state: State) -> bool:
    """Fill ``state`` from a file of the same fit; False (and an untouched state) where there is none that fits."""
    if path.is_symlink() or not path.is_file():  # a FIFO that someone put there would be waited for
        return False
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            meta: dict[str, Any] = json.loads((file.metadata() or {}).get("fit", "{}"))
            if meta.get("identity") != identity:
                return False
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
    except (OSError, ValueError, safetensors.SafetensorError):
        return False  # no file, or a torn one: the fit starts from the beginning
    state.model.load_state_dict(_part(tensors, "model."))
    state.average.load_state_dict(_part(tensors, "average."))
    state.best = _part(tensors, "best.")
    for number, optimizer in enumerate(state.optimizers):
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, f"optimizer{number}.").items():
            position, slot = name.split(".")
            slots.setdefault(int(position), {})[slot] = tensor
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    state.step, state.seconds, state.stale = int(meta["step"]), float(meta["seconds"]), int(meta["stale"])
    state.history = [(int(step), float(error)) for step, error in meta["history"]]
    return True


@contextmanager
def interrupts_between_steps() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C wait for the end of a step, so that the state saved is a whole one; a second Ctrl-C doesn't wait.

    Yields a function that raises the KeyboardInterrupt if one has come. A program that handles SIGINT itself is left
    alone, and so are threads other than the main one, which get no signals.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield lambda: None
        return
    came = False

    def note(*_: object) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _tensors(state: State) -> dict[str, Tensor]:
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    for number, optimizer in enumerate(state.optimizers):
        for position, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}.{position}.{slot}": tensor for slot, tensor in slots.items()}
    return tensors


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
