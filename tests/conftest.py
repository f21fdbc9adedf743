"""Before anything else is imported: one thread a library.

Several tests fork, which is safe only while OpenMP has started no threads of its own; and two test processes on two
cores would only get in each other's way with two threads each.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
