"""What computing in a store's latent space is worth, on Fashion-MNIST, as a judge sees it.

    python benchmarks/latent_quality.py --data DIR [--store STORE] [--quick] [--only edits,paths,...]

The store holds the 60,000 training pictures and is made if there is none (minutes: the encoder is fitted to them); the
test pictures are only asked with. The judge is a classifier of its own (`judge.py`). One table: edits between all pairs
of classes, beside the plain difference of means; paths, beside the line; samples; and what each of them takes. Half an
hour on two cores, or a third of that with --quick.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from encoder import read_idx
from judge import Judge, frechet, train

import embedstore
from embedstore.encoders.pca import PcaEncoder
from embedstore.encoders.trained import TrainedEncoder
from embedstore.models.autoencoder import AutoencoderConfig
from embedstore.models.objective import Objective
from embedstore.models.training import fit
from embedstore.store import Store

CLASSES = range(10)
SECTIONS = ("baselines", "edits", "samples", "timings", "paths")
STEPS = 16
#: Paths of each method that are judged: a geodesic takes a thousand times as long as a line.
PATHS = {"linear": 2000, "spherical": 2000, "density": 2000, "graph": 300, "geodesic": 200}
Floats = npt.NDArray[np.float64]


class Table:
    """Rows of name, value, what was asked; printed as they come."""

    def __init__(self) -> None:
        print("| measured | value | beside it | to reach |\n| --- | --- | --- | --- |", flush=True)

    def row(self, name: str, value: str, beside: str = "", reach: str = "") -> None:
        print(f"| {name} | {value} | {beside} | {reach} |", flush=True)


def reconstructions(table: Table, store: Store, judge: Judge, data: dict[str, Any]) -> tuple[Any, float]:
    """The judge on reconstructed test pictures. Returns its features of the originals, and their Fréchet distance."""
    rebuilt = decoded(store, data["latents"])
    (seen, there), (real, features) = judge.look(rebuilt), judge.look(data["test"])
    truth = data["truth"]
    right, originals = (seen.argmax(1) == truth).mean(), (real.argmax(1) == truth).mean()
    table.row("judge's accuracy on reconstructions", f"{right:.4f}", f"originals {originals:.4f}", "≥ 0.88")
    error = np.mean((rebuilt / 255.0 - data["test"][..., None] / 255.0) ** 2)
    table.row("reconstruction error", f"{error:.5f}", "", "≤ 0.0070")
    distance = frechet(there, features)
    table.row("Fréchet distance of reconstructions", f"{distance:.2f}", "", "≤ 5")
    other = frechet(judge.look(data["train"][:10_000])[1], features)
    table.row("Fréchet distance of 10,000 training pictures: the scale", f"{other:.2f}")
    data["confidence"] = seen.max(1).mean()
    return features, distance


def baselines(table: Table, judge: Judge, data: dict[str, Any], features: Any) -> None:
    """The same of PCA, and of the same network fitted for its reconstructions alone."""
    train, test, truth = data["train"][..., None], data["test"][..., None], data["truth"]
    pca, _ = PcaEncoder.fit(train, dimension=64, progress=False)
    config = AutoencoderConfig(train.shape[1:3], 1, 64)
    model, _ = fit(train, config, objective=Objective(contrast=0, detail=0), minutes=1.5)
    for name, encoder in (("PCA", pca), ("plain autoencoder, 90 s", TrainedEncoder(model, config))):
        rebuilt = encoder.decode(encoder.encode(test))
        seen, there = judge.look(rebuilt)
        error = np.mean((rebuilt / 255.0 - test / 255.0) ** 2)
        table.row(
            f"{name}: judge's accuracy; error; Fréchet distance",
            f"{(seen.argmax(1) == truth).mean():.4f}; {error:.5f}; {frechet(there, features):.2f}",
        )


def decoded(store: Store, latents: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    return np.stack([np.asarray(image) for image in store.decode(latents)])[..., None]


def edits(table: Table, store: Store, judge: Judge, data: dict[str, Any], count: int) -> None:
    """All 90 ordered pairs of classes: each item of one edited into the other."""
    scores: dict[str, list[tuple[float, float, float, float, float]]] = {"edit": [], "difference": []}
    for a in CLASSES:
        z = data["latents"][data["truth"] == a][:count]
        for b in CLASSES:
            if a == b:
                continue
            direction = store.direction(f"{a} to {b}", f"class = {b}", f"class = {a}")
            others = data["latents"][data["truth"] == b][:count]
            apart = np.linalg.norm(z - others[: len(z)], axis=1).mean()
            for name, edited in (("edit", store.edit(z, {f"{a} to {b}": 1.0})), ("difference", z + direction.vector)):
                seen = (judge.look(decoded(store, edited))[0].argmax(1) == b).mean()
                hits = store.search(list(edited), 5)
                found = np.mean([hit.metadata["class"] == b for one in hits for hit in one])
                length = np.linalg.norm(edited - z, axis=1).mean()
                scores[name].append((seen, found, length, direction.latent.norm(), length / apart))
    mine, plain = (np.array(scores[name]) for name in ("edit", "difference"))

    def both(column: int) -> tuple[str, str]:
        texts = [f"mean {one[:, column].mean():.3f}, worst pair {one[:, column].min():.3f}" for one in (mine, plain)]
        return texts[0], f"difference of means: {texts[1]}"

    table.row(f"edits judged as the target, 90 pairs x {count}", *both(0), "mean ≥ 0.95, worst ≥ 0.80")
    table.row("their 5 nearest items in the target", *both(1), "mean ≥ 0.90, worst ≥ 0.60")
    table.row(
        "length of an edit over the difference of means'", f"{mine[:, 2].mean() / mine[:, 3].mean():.3f}", "", "≤ 1.25"
    )
    beside = f"difference of means: {plain[:, 4].mean():.3f}"
    table.row("length over the distance between random items", f"{mine[:, 4].mean():.3f}", beside, "≤ 0.8")


def paths(table: Table, store: Store, judge: Judge, data: dict[str, Any], quick: bool) -> None:
    """Midpoints of random pairs, and paths between items of two classes, by every method."""
    z, truth = data["latents"], data["truth"]
    generator = np.random.default_rng(0)
    a, b = generator.permutation(len(z))[:2000], generator.permutation(len(z))[:2000]
    own = nearest(store, z[generator.permutation(len(z))[:2000]]).mean()
    left, right = (generator.integers(len(z), size=6000) for _ in range(2))
    cross = truth[left] != truth[right]
    left, right = left[cross][:2000], right[cross][:2000]
    for method, most in PATHS.items():
        count = most // 10 if quick else most
        middles = np.stack(
            [
                store.interpolate(z[i], z[j], steps=3, method=method).latents[1]
                for i, j in zip(a[:count], b[:count], strict=True)
                if i != j
            ]
        )
        sure = judge.look(decoded(store, middles))[0].max(1).mean()
        far = nearest(store, middles).mean() / own
        reach = "best ≥ 0.75; ≤ 1.15"
        table.row(
            f"{method}: confidence at {len(middles)} midpoints; neighbour distance",
            f"{sure:.3f}; {far:.2f}",
            f"reconstructions {data['confidence']:.3f}",
            reach,
        )
        clean, lowest, uneven = [], [], []
        for i, j in zip(left[:count], right[:count], strict=True):
            path = store.interpolate(z[i], z[j], steps=STEPS, method=method)
            seen = judge.look(decoded(store, path.latents))[0]
            named = seen.argmax(1)
            clean.append(bool(np.isin(named, [named[0], named[-1]]).all()))
            lowest.append(seen.max(1).min())
            uneven.append(path.measures().unevenness or 0.0)
        table.row(
            f"{method}: {count} paths between classes without a third; lowest confidence",
            f"{np.mean(clean):.3f}; {np.median(lowest):.3f}",
            "",
            "best ≥ 0.90; ≥ 0.55",
        )
        reach = "≤ 0.25" if method in ("density", "geodesic") else ""
        table.row(f"{method}: unevenness of the steps in pictures", f"{np.median(uneven):.3f}", "", reach)


def nearest(store: Store, latents: npt.NDArray[np.floating]) -> Floats:
    return np.array([hits.distances[0] for hits in store.search(list(latents), 1)])


def samples(table: Table, store: Store, judge: Judge, features: Any, distance: float) -> None:
    """Ten thousand new items, and as many stored ones: what is left is what the decoder takes away."""
    generator, ratios, stored = np.random.default_rng(0), [], []
    ids = store.ids()
    for seed in range(5):
        found = store.sample(10_000, seed=seed)
        ratios.append(frechet(judge.look(decoded(store, found.latents))[1], features) / distance)
        chosen = generator.choice(len(ids), 10_000, replace=False)
        latents = np.stack([np.asarray(store.vector(ids[i])) for i in chosen])
        stored.append(frechet(judge.look(decoded(store, latents))[1], features) / distance)
    table.row(
        "Fréchet distance of 10,000 samples over the reconstructions', 5 seeds",
        f"mean {np.mean(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}",
        f"stored items {np.mean(stored):.3f}, {min(stored):.3f} to {max(stored):.3f}",
        "≤ 1.05",
    )
    relative = np.median(found.distances) / found.usual
    table.row(
        "samples that are copies; median distance to the nearest item",
        f"{found.copies.mean():.2%}; {relative:.2f} x usual",
        "",
        "≤ 2 %",
    )


def clock(function: Callable[[], Any], rounds: int) -> float:
    """Median milliseconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def timings(table: Table, store: Store, data: dict[str, Any]) -> None:
    """Each beside the bare forward pass where there is one; new latents every time, so that nothing is cached."""
    encoder = store._encoder(store._view().space)
    assert isinstance(encoder, TrainedEncoder)
    generator = np.random.default_rng(0)

    def fresh(count: int) -> npt.NDArray[np.float32]:
        rows = generator.integers(len(data["latents"]), size=count)
        return data["latents"][rows] + generator.normal(size=(count, 64)).astype(np.float32) * 1e-3

    def bare(z: npt.NDArray[np.float32]) -> None:
        with torch.inference_mode():
            for part in torch.from_numpy(z).split(256):
                encoder._fast.decode(part)

    for count, rounds in ((1, 300), (1000, 15)):
        inputs = [fresh(count) for _ in range(2 * rounds)]
        mine, alone = iter(inputs[:rounds]), iter(inputs[rounds:])
        store.decode(fresh(count)), bare(fresh(count))
        ours, theirs = (
            clock(lambda it=mine: store.decode(next(it)), rounds),
            clock(lambda it=alone: bare(next(it)), rounds),
        )
        table.row(f"decode {count:,}, ms", f"{ours:.2f}", f"{ours / theirs:.2f} x the bare {theirs:.2f}", "≤ 1.3 x")
    a, b, *_ = store.ids("class = 5")[:1] + store.ids("class = 9")[:1]
    text = f"item('{a}') - mean('class = 5') + mean('class = 9')"
    store.search(store.evaluate(text))
    table.row(
        "eval with stored means, and the search of its result, ms",
        f"{clock(lambda: store.search(store.evaluate(text)), 100):.2f}",
        "",
        "≤ 3",
    )
    pairs = iter([(x, y) for x in store.ids("class = 5")[:40] for y in store.ids("class = 0")[:40]])
    for method, rounds, reach in (("density", 40, "≤ 20"), ("graph", 15, "≤ 100"), ("geodesic", 10, "≤ 1,000")):
        store.interpolate(a, b, method=method)
        taken = clock(lambda m=method: store.interpolate(*next(pairs), steps=8, method=m), rounds)
        table.row(f"{method} path of 8 steps, ms", f"{taken:.1f}", "", reach)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--store", type=Path, default=Path("latent_quality.store"), help="made if it isn't there")
    parser.add_argument("--quick", action="store_true", help="a tenth of the paths, a third of the edited items")
    parser.add_argument("--only", default=",".join(SECTIONS), help="some of the sections, with commas: %(default)s")
    args = parser.parse_args()
    pictures = {
        name: read_idx(args.data, f"{part}-images-idx3-ubyte") for name, part in (("train", "train"), ("test", "t10k"))
    }
    labels, truth = (read_idx(args.data, f"{part}-labels-idx1-ubyte") for part in ("train", "t10k"))
    if not args.store.exists():
        with embedstore.create(args.store) as store:
            print(store.index(args.data, split="train"), file=sys.stderr)
    with embedstore.open(args.store) as store:
        if len(store) != len(pictures["train"]):
            sys.exit(f"{args.store} holds {len(store):,} items, not the 60,000 training pictures: name another")
        start = time.perf_counter()
        judge = train(pictures["train"], labels)
        print(f"the judge: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        data: dict[str, Any] = {**pictures, "truth": truth, "latents": store.encode(pictures["test"])}
        table, chosen = Table(), args.only.split(",")
        features, distance = reconstructions(table, store, judge, data)
        if "baselines" in chosen:
            baselines(table, judge, data, features)
        if "edits" in chosen:
            edits(table, store, judge, data, 100 if args.quick else 300)
        if "samples" in chosen:
            samples(table, store, judge, features, distance)
        if "timings" in chosen:
            timings(table, store, data)
        if "paths" in chosen:
            paths(table, store, judge, data, args.quick)


if __name__ == "__main__":
    main()
