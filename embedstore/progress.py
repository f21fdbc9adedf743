"""One progress bar for all long work: on stderr, with an ETA, and silent where nobody looks."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """A bar over ``total`` steps; use as a context manager and call ``advance``.

    Args:
        title: what is being done ("encoding").
        total: number of steps, or None where it is unknown.
        enabled: False draws nothing.
        unit: what is counted.
    """

    def __init__(self, title: str, total: int | None, enabled: bool = True, unit: str = "items") -> None:
        self._bar: Any = None
        if enabled:
            from tqdm import tqdm

            # A bar redrawn in a log file is noise: there, one line every ten seconds.
            interval = 0.1 if sys.stderr.isatty() else 10.0
            self._bar = tqdm(
                total=total, desc=title, unit=f" {unit}", unit_scale=True, file=sys.stderr, mininterval=interval
            )

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count ``steps`` as done; ``note`` replaces the text behind the bar."""
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(steps)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
