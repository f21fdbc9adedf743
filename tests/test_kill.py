"""A writer killed at any moment loses nothing that it acknowledged, and brings back nothing that it deleted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROUNDS = 200


def test_nothing_acknowledged_is_lost_when_a_writer_is_killed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.killing", str(tmp_path), str(ROUNDS)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= ROUNDS  # acknowledged operations, each of them found again
