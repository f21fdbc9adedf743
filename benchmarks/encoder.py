"""The default encoder on Fashion-MNIST, beside PCA and (``--plain``) the same network fitted for reconstruction alone.

    python benchmarks/encoder.py --data DIR [--plain] [--minutes M] [--seed S] [--threads T]

DIR holds the four IDX files (.gz or not). One table: fit time (wall, and CPU time of the process), mean squared error
of the test pictures' reconstructions, label accuracy of a 10-nearest-neighbour vote over the 60,000 fitted pictures by
plain Euclidean distance, pictures per second through ``encode()`` and through the network alone, and their ratio.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from embedstore.encoders.pca import PcaEncoder
from embedstore.encoders.trained import BLOCK, TrainedEncoder
from embedstore.models.autoencoder import AutoencoderConfig
from embedstore.models.objective import Objective
from embedstore.models.training import fit

ROUNDS = 7
COLUMNS = (
    "encoder",
    "fit, s wall",
    "s CPU",
    "test MSE",
    "10-NN accuracy",
    "encode(), pictures/s",
    "network alone, pictures/s",
    "ratio",
)


def read_idx(directory: Path, name: str) -> npt.NDArray[np.uint8]:
    path = next((p for p in (directory / f"{name}.gz", directory / name) if p.exists()), None)
    if path is None:
        sys.exit(f"{directory} has no {name}[.gz]: name the folder of Fashion-MNIST's IDX files with --data")
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def neighbour_accuracy(
    base: npt.NDArray[np.float32],
    labels: npt.NDArray[np.uint8],
    queries: npt.NDArray[np.float32],
    truth: npt.NDArray[np.uint8],
    k: int = 10,
) -> float:
    """Share of queries whose k nearest of ``base`` vote for their label (ties: the lower label)."""
    squares = np.square(base).sum(axis=1)
    right = 0
    for start in range(0, len(queries), 500):
        distances = squares - 2 * queries[start : start + 500] @ base.T
        nearest = np.argpartition(distances, k, axis=1)[:, :k]
        votes = np.apply_along_axis(np.bincount, 1, labels[nearest], minlength=10)
        right += int((votes.argmax(axis=1) == truth[start : start + 500]).sum())
    return right / len(queries)


def bare_forward(encoder: TrainedEncoder, pictures: npt.NDArray[np.uint8]) -> Callable[[], None]:
    """The network alone, on batches that are floats in [0, 1] and channels-last already."""
    batches = [
        torch.from_numpy(pictures[start : start + BLOCK].copy()).permute(0, 3, 1, 2).float() / 255
        for start in range(0, len(pictures), BLOCK)
    ]

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                encoder._fast.encode(batch)

    return run


def rates(functions: dict[str, Callable[[], Any]], count: int) -> dict[str, float]:
    """Pictures per second of each, medians of several interleaved rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: count / statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--plain", action="store_true", help="also fit for reconstruction alone: minutes more")
    parser.add_argument("--minutes", type=float, help="bound of each fit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--save", type=Path, help="folder to keep the default model in")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train, test = (read_idx(args.data, f"{part}-images-idx3-ubyte")[..., None] for part in ("train", "t10k"))
    labels, truth = (read_idx(args.data, f"{part}-labels-idx1-ubyte") for part in ("train", "t10k"))
    config = AutoencoderConfig((train.shape[1], train.shape[2]), 1, args.dimension)

    def autoencoder(objective: Objective) -> tuple[TrainedEncoder, Any]:
        model, report = fit(train, config, seed=args.seed, minutes=args.minutes, objective=objective)
        return TrainedEncoder(model, config), report

    variants: dict[str, Callable[[], tuple[Any, Any]]] = {
        "PCA": lambda: PcaEncoder.fit(train, dimension=args.dimension, seed=args.seed, progress=False)
    }
    if args.plain:
        variants["autoencoder, reconstruction alone"] = lambda: autoencoder(Objective(contrast=0, detail=0))
    variants["autoencoder, default"] = lambda: autoencoder(Objective())

    print(f"Fashion-MNIST: {len(train):,} fitted, {len(test):,} tested")
    print(f"{args.dimension} dimensions, {args.threads} threads\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for name, make in variants.items():
        wall, cpu = time.perf_counter(), time.process_time()
        encoder, report = make()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        base, queries = encoder.encode(train), encoder.encode(test)
        error = float(np.mean((encoder.decode(queries) / np.float32(255) - test / np.float32(255)) ** 2))
        accuracy = neighbour_accuracy(base, labels, queries, truth)
        functions: dict[str, Callable[[], Any]] = {"encode": partial(encoder.encode, test)}
        if isinstance(encoder, TrainedEncoder):
            functions["bare"] = bare_forward(encoder, test)
        speed = rates(functions, len(test))
        bare, ratio = (
            (f"{speed['bare']:,.0f}", f"{speed['encode'] / speed['bare']:.2f}") if "bare" in speed else ("", "")
        )
        cells = [
            name,
            f"{wall:.0f}",
            f"{cpu:.0f}",
            f"{error:.5f}",
            f"{accuracy:.4f}",
            f"{speed['encode']:,.0f}",
            bare,
            ratio,
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
        print(f"  {report}", file=sys.stderr)
        if args.save and name.endswith("default"):
            print(f"  saved as {encoder.save(args.save)}", file=sys.stderr)


if __name__ == "__main__":
    main()
