"""Running commands in the tests: click's runner, and small stores of real digits and of vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from click.testing import CliRunner, Result
from PIL import Image
from sklearn.datasets import load_digits

from embedstore.cli.main import main


def run(*words: object, code: int = 0, **options: Any) -> Result:
    """Run a command and check its exit code."""
    result = CliRunner().invoke(main, [str(word) for word in words], **options)
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def answer(*words: object, code: int = 0) -> Any:
    """The JSON document that a command prints."""
    return json.loads(run(*words, "--json", code=code).stdout)


def refused(*words: object, code: int = 1) -> str:
    """What a command that must fail says: one line on stderr, nothing on stdout. Returns it without ``error:``."""
    result = run(*words, code=code)
    assert result.stdout == ""
    first = result.stderr.splitlines()[0]
    assert first.startswith("error: ") or code != 1
    assert "Traceback" not in result.stderr
    return result.stderr.removeprefix("error: ").rstrip("\n")


def write_digits(folder: Path, count: int = 120) -> Path:
    """Real digits, 8 × 8 px, in one folder a class: ``3/0013.png``."""
    digits = load_digits()
    for index in range(count):
        path = folder / str(digits.target[index]) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[index] * 15.9).astype(np.uint8)).save(path)
    return folder


def write_vectors(path: Path, count: int = 200, dimension: int = 12) -> npt.NDArray[np.float32]:
    """Random vectors in an .npy file."""
    vectors = np.random.default_rng(7).normal(size=(count, dimension)).astype(np.float32)
    np.save(path, vectors)
    return vectors


def make_digits_store(folder: Path) -> Path:
    """A store of 120 digits, encoded by PCA."""
    store = folder / "digits.store"
    run("index", store, write_digits(folder / "digits"), "--encoder", "pca", "--dimension", 12)
    return store
