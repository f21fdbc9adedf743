"""FAISS, as a module of type Any.

FAISS 1.15 ships type stubs that lack much of what its module has (``fvec_L2sqr_ny``, ``SearchParametersHNSW``, ...); a
checker that believes them would need an exception on every other line here.
"""

from __future__ import annotations

import importlib
from typing import Any

faiss: Any = importlib.import_module("faiss")
