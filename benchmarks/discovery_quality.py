"""What discovery finds in Fashion-MNIST, all 70,000 pictures, no label used until scoring.

    python benchmarks/discovery_quality.py [--data DIR] [--store STORE] [--seeds 5] [--only clusters,map,...]

The store holds all pictures and is made if there is none (minutes: the encoder is fitted to them); it isn't written to:
everything is done to copies. The judge is a classifier of its own (`judge.py`). One table, each row beside what one
would use instead, in the same run; half an hour on two cores. `--only million` makes a store of 1,000,000 latents by
resampling, and runs on it in a process of its own, whose memory is measured.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from encoder import read_idx
from judge import train
from planted import copied, near_duplicates, outliers, wrong_labels
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.manifold import trustworthiness
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import embedstore
from embedstore.compute.space import LatentSpace
from embedstore.explore import clusterings, layout, sampled
from embedstore.index import exact
from embedstore.store import Store
from embedstore.types import Metric

SECTIONS = ("clusters", "unknown", "placed", "map", "mapped", "back", "planted")
HELD_OUT = 10_000
Labels = npt.NDArray[np.int64]


class Table:
    """Rows of name, value, what is beside it, what was asked; printed as they come."""

    def __init__(self) -> None:
        print("| measured | value | beside it | to reach |\n| --- | --- | --- | --- |", flush=True)

    def row(self, name: str, value: str, beside: str = "", reach: str = "") -> None:
        print(f"| {name} | {value} | {beside} | {reach} |", flush=True)


def space_of(store: Store) -> LatentSpace:
    return store._latents(None)


def matched(found: Labels, truth: Labels) -> Labels:
    """Clusters renamed so that most items have the label of the truth: one to one (Kuhn 1955)."""
    table = np.zeros((int(found.max()) + 2, int(truth.max()) + 1), dtype=np.int64)
    np.add.at(table, (found, truth), 1)  # -1 counts in the last row
    rows, columns = linear_sum_assignment(-table)
    name = np.full(len(table), -1)
    name[rows] = columns
    return name[found]


def scores(found: Labels, truth: Labels) -> npt.NDArray[np.float64]:
    """Accuracy, normalised mutual information, adjusted Rand index."""
    accuracy = np.mean(matched(found, truth) == truth)
    return np.array([accuracy, normalized_mutual_info_score(truth, found), adjusted_rand_score(truth, found)])


def told(values: npt.NDArray[np.float64]) -> str:
    mean = " / ".join(f"{value:.3f}" for value in values.mean(axis=0))
    spread = " / ".join(f"{value:.3f}" for value in values.std(axis=0))
    return f"{mean} (± {spread})"


def clusters(table: Table, store: Store, truth: Labels, seeds: int) -> None:
    """Ten clusters, over several seeds; and the same seed twice."""
    found, seconds, first = [], [], None
    for seed in range(seeds):
        made = store.cluster(10, name="ten", assign_noise=True, seed=seed)
        labels, _ = clusterings.labels(space_of(store), "ten")
        found.append(scores(labels, truth))
        seconds.append(made.seconds)
        first = labels if first is None else first
    store.cluster(10, name="again", assign_noise=True, seed=0)
    same = np.array_equal(clusterings.labels(space_of(store), "again")[0], first)
    latents = space_of(store).vectors(space_of(store).positions(None))
    start = time.perf_counter()
    plain = np.array([scores(KMeans(10, n_init=10, random_state=s).fit_predict(latents), truth) for s in range(seeds)])
    beside = f"k-means on the same latents {told(plain)}, {(time.perf_counter() - start) / seeds:.0f} s"
    name = f"ten clusters: accuracy / NMI / ARI, mean of {seeds} seeds"
    table.row(name, told(np.array(found)), beside, "≥ 0.70 / 0.74 / 0.58")
    table.row("seconds, mean and worst", f"{np.mean(seconds):.0f}, {max(seconds):.0f}", "", "≤ 240")
    table.row("the same seed again: labels", "identical" if same else "differ", "", "identical")


def unknown(table: Table, store: Store, truth: Labels, seeds: int) -> None:
    """The number of clusters left open."""
    rows = []
    for seed in range(seeds):
        made = store.cluster(name="free", seed=seed)
        labels, _ = clusterings.labels(space_of(store), "free")
        nmi = normalized_mutual_info_score(truth, labels)
        rows.append(
            (made.clusters, nmi, float(np.mean(labels < 0)), made.seconds, [one.clusters for one in made.levels])
        )
    counts = ", ".join(str(row[0]) for row in rows)
    levels = " | ".join(dict.fromkeys(" ".join(map(str, row[4])) for row in rows)).replace("|", "or")
    value = (
        f"{counts} clusters, NMI {np.mean([row[1] for row in rows]):.3f}, noise {np.mean([row[2] for row in rows]):.2%}"
    )
    beside = f"levels {levels}; {np.mean([row[3] for row in rows]):.0f} s"
    table.row(f"number unknown, {seeds} seeds", value, beside, "8 to 14, ≥ 0.68, ≤ 5 %")


def held_out(store: Store, seed: int = 0) -> tuple[list[str], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Ids and latents of random items, which are taken out of the store, and which of its items they were."""
    space = space_of(store)
    names, latents = store.ids(), space.vectors(space.positions(None))
    out = np.zeros(len(names), dtype=bool)
    out[np.random.default_rng(seed).choice(len(names), HELD_OUT, replace=False)] = True
    chosen = [name for name, gone in zip(names, out.tolist(), strict=True) if gone]
    store.delete(chosen)
    return chosen, latents[out], out


def put_back(store: Store, names: list[str], latents: npt.NDArray[np.float32]) -> float:
    """Add them again, as one batch; returns items a second, everything included."""
    start = time.perf_counter()
    store.add_vectors(names, latents, encoder=space_of(store).view.space.fingerprint)
    return len(names) / (time.perf_counter() - start)


def placed(table: Table, base: Path) -> None:
    """Items placed into a stored clustering, beside all of them clustered together."""
    for k, name in ((None, "number unknown"), (10, "ten")):
        with copied(base) as store:
            store.cluster(k, name="all", assign_noise=True)
            whole = dict(zip(store.ids(), clusterings.labels(space_of(store), "all")[0].tolist(), strict=True))
            store.remove_clustering("all")
            names, latents, _ = held_out(store)
            store.cluster(k, name="some", assign_noise=True)
            put_back(store, names, latents)
            there = store.ids()
            labels, _ = clusterings.labels(space_of(store), "some")
            truth = np.array([whole[one] for one in there])
            agreed = matched(labels, truth) == truth
            new = np.isin(there, names)
            table.row(
                f"label of {len(names):,} held-out items = theirs when all are clustered ({name})",
                f"{agreed[new].mean():.4f}",
                f"fitted items {agreed[~new].mean():.4f}",
                "≥ 0.95",
            )


def mapped(table: Table, base: Path, truth: Labels) -> None:
    """Items placed on a map."""
    with copied(base) as store:
        known = dict(zip(store.ids(), truth.tolist(), strict=True))
        names, latents, _ = held_out(store)
        store.map()
        put_back(store, names, latents)
        there = store.ids()
        places, labels = store.places(), np.array([known[one] for one in there])
        new = np.isin(there, names)
        fitted = np.flatnonzero(~new)
        some = np.random.default_rng(1).choice(len(fitted), HELD_OUT, replace=False)
        right = []
        for queries, own in ((places[fitted[some]], some), (places[new], None)):
            _, near = exact.search([(0, places[fitted])], queries, 11, Metric.L2)
            if own is not None:
                itself = near == own[:, None]
                itself[~itself.any(axis=1), -1] = True
                near = near[~itself].reshape(len(near), 10)
            votes = labels[fitted][near[:, :10]]
            vote = np.array([np.bincount(row, minlength=10).argmax() for row in votes])
            right.append(float(np.mean(vote == (labels[fitted[some]] if own is not None else labels[new]))))
        value = f"{right[0]:.4f} / {right[1]:.4f}, difference {right[0] - right[1]:.4f}"
        table.row("10-NN accuracy on the map, fitted / held-out items", value, "", "difference ≤ 0.02")
        speed = place_speed(store)
        table.row("items placed a second, by the network", f"{speed:,.0f}", "", "≥ 50,000")


def place_speed(store: Store) -> float:
    from embedstore.explore import stored
    from embedstore.models import network, placement

    space = space_of(store)
    run = stored.find(space, "maps", None)
    place = placement.placement(network.load(store.path / "models", "map", run.model))
    latents = space.vectors(space.positions(None))
    return best(lambda: place(latents), len(latents))


def best(work: Any, count: int) -> float:
    """Items a second, the best of five: others use the machine at times."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return count / min(seconds)


def maps(table: Table, store: Store) -> None:
    """A map of all items: its quality, its time, and the same seed twice."""
    made = store.map()
    places = store.places()
    start = time.perf_counter()
    sample = sampled.take(space_of(store), neighbours=layout.NEIGHBOURS, least=layout.FEWEST)
    middle = time.perf_counter()
    layout.layout(sample.latents, sample.neighbours, sample.distances)
    times = (
        f"{time.perf_counter() - middle:.0f}; neighbours {middle - start:.0f}, with both networks {made.seconds:.0f}"
    )
    some = np.random.default_rng(0).choice(len(places), 10_000, replace=False)
    latents = space_of(store).vectors(space_of(store).positions(None)[some])
    trust = trustworthiness(latents, places[some], n_neighbors=15)
    continuity = trustworthiness(places[some], latents, n_neighbors=15)
    value = f"{trust:.4f} / {continuity:.4f}"
    table.row("map: trustworthiness / continuity, 15 neighbours, 10,000 items", value, "", "≥ 0.97 / ≥ 0.97")
    table.row("layout of 70,000 items, seconds", times, "", "≤ 90")
    store.map(refit=True)
    same = np.array_equal(store.places(), places)
    table.row("the same seed again: coordinates", "identical" if same else "differ", "", "identical")


def back(table: Table, store: Store, data: Path) -> None:
    """Item to map to latent to picture, as the judge sees it."""
    pictures, labels = (read_idx(data, f"train-{part}") for part in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    judge = train(pictures, labels)
    store.map()
    ids = store.ids("split = 'test'")
    places = store.places()[np.isin(store.ids(), ids)]
    truth = np.array([store.get(one)["metadata"]["class"] for one in ids])
    latents = store.unmap(places)
    space = space_of(store)
    decoded = np.concatenate([space.decode(latents[i : i + 1000]) for i in range(0, len(latents), 1000)])[..., 0]
    seen, _ = judge.look(decoded)
    own = space.vectors(space.positions("split = 'test'"))
    rebuilt = np.concatenate([space.decode(own[i : i + 1000]) for i in range(0, len(own), 1000)])[..., 0]
    straight, _ = judge.look(rebuilt)
    beside = f"reconstructions of the items {np.mean(straight.argmax(1) == truth):.4f}"
    value = f"{np.mean(seen.argmax(1) == truth):.4f}"
    table.row("there and back: judge's accuracy on the decoded picture", value, beside, "≥ 0.75")
    speed = best(lambda: store.unmap(places), len(places))
    encoder = space.encoder()
    decoding = best(lambda: encoder.decode(latents), len(latents))
    value = f"{1 / (1 / place_speed(store) + 1 / speed):,.0f}"
    beside = f"back alone {speed:,.0f}; pictures decoded {decoding:,.0f}"
    table.row("points a second, to the map and back to the latent", value, beside, "≥ 20,000")


def planted(table: Table, base: Path, seed: int = 0) -> None:
    """What the scans find of what was planted, and how long they take over all 70,000."""
    one, whole = outliers(base, seed=seed), outliers(base, whole=True, seed=seed)
    value, beside = f"{one['auroc']:.4f}", f"among all 70,000 {whole['auroc']:.4f}"
    table.row("100 digits among 10,000 test pictures, AUROC", value, beside, "≥ 0.97")
    near = near_duplicates(base, seed=seed)
    beside = (
        f"precision of planted pairs alone {near['precision, planted alone']:.3f}: {near['of its own']} pairs are "
        f"Fashion-MNIST's own, {near['neither']} neither"
    )
    value = f"{near['precision']:.3f} / {near['recall']:.3f}"
    table.row("1,000 near-duplicates, precision / recall", value, beside, "≥ 0.95 / ≥ 0.90")
    wrong = wrong_labels(base, seed=seed)
    beside = f"{wrong['their right label suggested']:.0%} of as many as planted are named with their right label"
    table.row("3 % wrong labels, average precision", f"{wrong['average precision']:.3f}", beside, "≥ 0.75")
    value = f"{near['seconds']:.1f}, {whole['seconds']:.1f}, {wrong['seconds']:.1f}"
    table.row("seconds of the scans of 70,000: duplicates, outliers, wrong labels", value, "", "≤ 20 each")


def million(table: Table, base: Path, folder: Path) -> None:
    """1,000,000 latents, resampled, with a little of the distance to a neighbour between them."""
    path = folder / "million.store"
    if not path.exists():
        with embedstore.open(base, read_only=True) as store:
            space = space_of(store)
            latents = space.vectors(space.positions(None))
            _, near = space.others(space.positions(None), 5)
        random = np.random.default_rng(0)
        row_of = np.full(int(near.max()) + 1, -1)
        row_of[space.positions(None)] = np.arange(len(latents))
        with embedstore.create(path) as store:
            for start in range(0, 1_000_000, 100_000):
                rows = random.integers(0, len(latents), 100_000)
                other = latents[row_of[near[rows, random.integers(0, 5, len(rows))]]]
                made = latents[rows] + random.random((len(rows), 1), np.float32) * (other - latents[rows])
                made += random.normal(scale=0.02, size=made.shape).astype(np.float32)
                store.add_vectors([f"i{start + i}" for i in range(len(rows))], made)
    for what, limit in (("cluster", 15), ("map", 20)):
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport discovery_quality\n"
        code += f"discovery_quality.measured({str(path)!r}, {what!r})"
        out = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
        seconds, memory, said = out.strip().splitlines()[-1].split("\t")
        value = f"{float(seconds) / 60:.1f} min, {float(memory) / 2**30:.1f} GiB"
        table.row(f"1,000,000 x 64: {what}", value, said, f"≤ {limit} min, 8 GB")


def measured(path: str, what: str) -> None:
    """One of the two, in this process; prints seconds, the most memory, and what was found."""
    with embedstore.open(path) as store:
        start = time.perf_counter()
        made: Any = store.cluster(progress=True) if what == "cluster" else store.map(refit=True, progress=True)
        seconds = time.perf_counter() - start
        said = f"{made.clusters} clusters, {made.noise:,} in none" if what == "cluster" else f"{made.items:,} items"
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, said, sep="\t")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--store", type=Path, default=Path("discovery.store"), help="made if it isn't there")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--only", default=",".join(SECTIONS), help="some of the sections, with commas, or million: %(default)s"
    )
    args = parser.parse_args()
    if not args.store.exists():
        with embedstore.create(args.store) as store:
            print(store.index(args.data), file=sys.stderr)
    with embedstore.open(args.store, read_only=True) as store:
        classes = space_of(store).searcher.read_metadata(space_of(store).view.rows[space_of(store).positions(None)])
        truth = np.array([one["class"] for one in classes])
    table, chosen = Table(), args.only.split(",")
    with copied(args.store) as store:
        for name in ("clusters", "unknown"):
            if name in chosen:
                globals()[name](table, store, truth, args.seeds)
        if "map" in chosen:
            maps(table, store)
        if "back" in chosen:
            back(table, store, args.data)
    if "placed" in chosen:
        placed(table, args.store)
    if "mapped" in chosen:
        mapped(table, args.store, truth)
    if "planted" in chosen:
        planted(table, args.store)
    if "million" in chosen:
        with tempfile.TemporaryDirectory(prefix="million-") as folder:
            million(table, args.store, Path(folder))


if __name__ == "__main__":
    main()
