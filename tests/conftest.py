"""Before anything else is imported: one thread a library.

Several tests fork, which is safe only while OpenMP has started no threads of its own; and two test processes on two
cores would only get in each other's way with two threads each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from embedstore.store import Store

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
# Whoever runs the tests in a narrow terminal still sees whole lines in them.
os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 600 digits, for the tests of computing; see `computing.make`."""
    from .computing import make

    return make(tmp_path_factory.mktemp("compute") / "digits.store")


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """That store, open; nothing but directions is written to it."""
    import embedstore

    with embedstore.open(path) as store:
        yield store
