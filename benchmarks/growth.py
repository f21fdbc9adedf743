"""How cost grows with the number of vectors: queries a second, memory and build time, with raw FAISS beside, as a plot.

    python benchmarks/growth.py --latents FILE.npy -o growth.png [--rows 10000,100000,1000000] [--keep DIR]

Measured as by `scale.py`, on vectors made as there; both are tuned to a recall@10 of 0.99. Ten million take a quarter
of an hour more, and 6 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import scale
from sets import head, row

_STORE, _RAW, _INK = "#1f5fa8", "#b4532a", "#444444"


def measure(maker: scale.Maker, folder: Path, rows: int) -> dict[str, Any]:
    """All of one size; a store that is kept from before isn't built again."""
    path = folder / f"{rows}.store"
    if not path.with_suffix(".json").exists():
        shutil.rmtree(path, ignore_errors=True)
        scale.import_(maker, path, rows)
    took = json.loads(path.with_suffix(".json").read_text())
    return {"rows": rows, **scale.search(maker, path, rows), "build": took["store"], **took}


def draw(found: list[dict[str, Any]], dimension: int, target: Path) -> None:
    """Three panels over the number of vectors."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [one["rows"] for one in found]
    panels = [
        ("queries a second, one thread", "queries/s", "raw queries/s", 1.0),
        ("memory of a process that searches, MB", "memory", "raw memory", 1e-6),
        ("seconds to import and build, two keys of metadata", "store", None, 1.0),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), constrained_layout=True)
    for axis, (title, ours, raw, unit) in zip(axes, panels, strict=True):
        axis.plot(rows, [one[ours] * unit for one in found], "o-", color=_STORE, label="embedstore")
        theirs = [one[raw] if raw else one["FAISS"] + one["SQLite"] for one in found]
        label = "raw FAISS, candidates only" if raw else "raw FAISS + bare SQLite"
        axis.plot(rows, [value * unit for value in theirs], "s--", color=_RAW, label=label)
        if ours == "memory":
            size = [4 * dimension * count * unit for count in rows]
            axis.plot(rows, size, ":", color=_INK, label="the vectors, float32")
        axis.set(xscale="log", yscale="log", title=title, xlabel="vectors")
        axis.title.set_fontsize(10)
        axis.grid(alpha=0.25, which="major")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=Path, required=True, help=".npy (n, d) float32")
    parser.add_argument("--rows", default="10000,100000,1000000", help="with commas: %(default)s")
    parser.add_argument("--keep", type=Path, help="folder for the stores, used again if they are there")
    parser.add_argument("-o", "--output", type=Path, required=True, help=".png")
    args = parser.parse_args()
    maker = scale.Maker(np.load(args.latents).astype(np.float32))
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        home = args.keep or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        found = [measure(maker, home, int(rows)) for rows in args.rows.split(",")]
    head("vectors", "recall@10", "queries/s", "of raw FAISS", "MB", "seconds to build", "over FAISS + SQLite")
    (home / "growth.json").write_text(json.dumps(found))
    for one in found:
        build = one["build"] / (one["FAISS"] + one["SQLite"])
        speed = one["queries/s"], one["queries/s"] / one["raw queries/s"]
        row(f"{one['rows']:,}", one["recall"], *speed, one["memory"] / 1e6, one["build"], build)
    draw(found, maker.latents.shape[1], args.output)
    print(f"\n{args.output}; cores {os.cpu_count()}, load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
