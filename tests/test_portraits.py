"""Portraits of clusters: each number and id in them against the items, their metadata and their latents."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.explore.portraits import Portrait, Trait
from embedstore.store import Store

from .clustered import between, blobs, copy, told

NOISE = 7


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of which some items are in no cluster, and one item has a value that no other one has."""
    path = copy(tmp_path_factory)
    with embedstore.open(path) as store:
        fingerprint = store.info()["spaces"][0]["fingerprint"]
        store.add_vectors([f"noise {i}" for i in range(NOISE)], between(store, "found", NOISE), encoder=fingerprint)
        for id, (number, _) in told(store).items():
            if number == 2:
                store.update(id, metadata={"only": "here", "n": None})
        store.name_cluster(2, "twos")
    return path


@pytest.fixture(scope="module")
def store(path: Path) -> Iterator[Store]:
    with embedstore.open(path, read_only=True) as store:
        yield store


@pytest.fixture(scope="module")
def latents(store: Store) -> dict[str, np.ndarray]:
    return {id: store.vector(id).vector.astype(np.float64) for id in store.ids()}


def members(store: Store, level: int | None = None) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for id, (number, _) in told(store, level=level).items():
        found.setdefault(number, []).append(id)
    return found


@pytest.fixture(scope="module", params=[0, 1, 3])
def level(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def portraits(store: Store, level: int) -> list[Portrait]:
    return store.clusters(level=level)


def test_every_item_is_in_one_portrait_those_in_no_cluster_last(
    store: Store, portraits: list[Portrait], level: int
) -> None:
    inside = members(store, level)
    assert [one.number for one in portraits] == [*range(store.clustering().levels[level].clusters), -1]
    strengths = told(store)
    for one in portraits:
        assert one.size == len(inside[one.number])
        assert one.share == one.size / len(store)
        assert one.strength == pytest.approx(np.mean([strengths[id][1] for id in inside[one.number]]))
    assert sum(one.share for one in portraits) == pytest.approx(1)
    assert portraits[-1].size >= NOISE
    assert {one.number: one.name for one in portraits if one.name} == ({2: "twos"} if level == 3 else {})


def test_compactness_and_neighbours_are_by_the_centres(
    store: Store, portraits: list[Portrait], level: int, latents: dict[str, np.ndarray]
) -> None:
    inside = {number: np.stack([latents[id] for id in ids]) for number, ids in members(store, level).items()}
    every = np.stack(list(latents.values()))
    overall = np.linalg.norm(every - every.mean(axis=0), axis=1).mean()
    centres = {number: part.mean(axis=0) for number, part in inside.items() if number >= 0}
    for one in portraits[:-1]:
        spread = np.linalg.norm(inside[one.number] - centres[one.number], axis=1).mean()
        assert one.compactness == pytest.approx(spread / overall, rel=1e-4)
        others = {n: float(np.linalg.norm(centres[one.number] - c)) / spread for n, c in centres.items()}
        expected = sorted((far, n) for n, far in others.items() if n != one.number)[:3]
        assert [number for number, _ in one.nearest] == [n for _, n in expected]
        assert [far for _, far in one.nearest] == pytest.approx([far for far, _ in expected], rel=1e-4)
    assert np.mean([one.compactness for one in portraits[:-1]]) < 1


def test_exemplars_are_of_the_cluster_the_most_central_one_first_and_the_rim_is_the_least_sure(
    store: Store, portraits: list[Portrait], level: int, latents: dict[str, np.ndarray]
) -> None:
    inside, strengths, ids = members(store, level), told(store), store.ids()
    for one in portraits[:-1]:
        own = inside[one.number]
        assert len(one.exemplars) == len(set(one.exemplars)) == min(6, len(own))
        assert set(one.exemplars) <= set(own)
        centre = np.mean([latents[id] for id in own], axis=0)
        assert one.exemplars[0] == min(own, key=lambda id: float(np.linalg.norm(latents[id] - centre)))
        # They show different parts: together they are nearer to the cluster's items than the most central ones are.
        central = sorted(own, key=lambda id: float(np.linalg.norm(latents[id] - centre)))[:6]
        assert covered(one.exemplars, own, latents) <= covered(central, own, latents) * 1.05
        rest = set(own) - set(one.exemplars)
        assert list(one.rim) == sorted(rest, key=lambda id: (strengths[id][1], ids.index(id)))[:3]
    noise = portraits[-1]
    assert list(noise.exemplars) == sorted(inside[-1], key=lambda id: strengths[id][1])[:6]
    assert (noise.rim, noise.nearest, noise.traits, noise.parent) == ((), (), (), None)


def covered(shown: list[str] | tuple[str, ...], own: list[str], latents: dict[str, np.ndarray]) -> float:
    """Mean distance of a cluster's items to the nearest one that is shown."""
    return float(np.mean([min(np.linalg.norm(latents[id] - latents[one]) for one in shown) for id in own]))


def test_traits_are_the_values_with_the_most_telling_excess(
    store: Store, portraits: list[Portrait], level: int
) -> None:
    total = len(store)
    metadata = {id: store.get(id)["metadata"] for id in store.ids()}

    def pairs(id: str) -> list[tuple[str, object]]:
        shown = {key: str(value).lower() if isinstance(value, bool) else value for key, value in metadata[id].items()}
        return [(key, value) for key, value in shown.items() if key != "n"]  # n is nearly an id

    counts = Counter(pair for id in metadata for pair in pairs(id))
    having = Counter(key for id in metadata for key, _ in pairs(id))  # items without a key count for nothing
    telling = 0
    for number, own in members(store, level).items():
        if number < 0:
            continue
        here = Counter(pair for id in own for pair in pairs(id))
        known = Counter(key for id in own for key, _ in pairs(id))
        expected = []
        for (key, value), inside in here.items():
            outside = counts[key, value] - inside
            # Where no other item has the key, that says something by itself.
            size, every = (known[key], having[key]) if having[key] > known[key] else (len(own), total)
            rest = every - size
            pooled = counts[key, value] / every
            error = math.sqrt(max(pooled * (1 - pooled), 1e-12) * (1 / size + 1 / rest))
            z = (inside / size - outside / rest) / error
            if z > 3:
                lift = inside / size / (outside / rest) if outside else math.inf
                expected.append((z, (key, value, inside, outside, known[key], pytest.approx(lift))))
        [portrait] = [one for one in portraits if one.number == number]
        found = [(one.key, one.value, one.inside, one.outside, one.known, one.lift) for one in portrait.traits]
        # Values may be as telling as each other, in any order: so it is how telling they are that is compared.
        shown = [next(z for z, one in expected if one == trait) for trait in found]
        assert shown == sorted((z for z, _ in expected), reverse=True)[:4]
        assert len({trait[:2] for trait in found}) == len(found)
        telling += len(found)
    assert telling > 0
    if level == 3:
        [twos] = [one for one in portraits if one.name == "twos"]
        assert Trait("only", "here", twos.size, 0, twos.size, math.inf) in twos.traits


def test_a_trait_s_value_finds_its_items_as_a_filter(store: Store, portraits: list[Portrait], level: int) -> None:
    from embedstore.filters import literal

    number = {one.number: members(store, level)[one.number] for one in portraits}
    for one in portraits:
        for trait in one.traits:
            text = trait.value if trait.value in ("true", "false") else literal(trait.value)
            matching = set(store.ids(f"{trait.key} = {text}"))
            assert len(matching & set(number[one.number])) == trait.inside
            assert len(matching) == trait.inside + trait.outside


def test_a_parent_is_the_coarser_cluster_that_holds_most(store: Store, portraits: list[Portrait], level: int) -> None:
    if level == 0:
        assert all(one.parent is None for one in portraits)
        return
    coarse, fine = told(store, level=level - 1), members(store, level)
    for one in portraits[:-1]:
        counted = Counter(coarse[id][0] for id in fine[one.number] if coarse[id][0] >= 0)
        most = max(counted.values())
        assert one.parent is not None
        assert counted[one.parent[0]] == most
        assert one.parent[1] == pytest.approx(most / one.size)


@pytest.mark.parametrize(("exemplars", "rim"), [(0, 0), (1, 0), (0, 2), (1000, 5), (3, 1000)])
def test_as_many_pictures_as_are_asked_for_and_there_are(store: Store, exemplars: int, rim: int) -> None:
    for one in store.clusters(exemplars=exemplars, rim=rim):
        assert len(one.exemplars) == min(exemplars, one.size)
        if one.number >= 0:
            assert len(one.rim) == min(rim, one.size - len(one.exemplars))


def test_portraits_are_the_same_each_time(store: Store, path: Path) -> None:
    with embedstore.open(path) as again:
        assert again.clusters() == store.clusters() == store.clusters("found", level=store.clustering().level)


def test_clusters_of_copies_have_their_one_item_as_exemplar(
    store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with embedstore.open(copy(tmp_path_factory)) as own:
        fingerprint = own.info()["spaces"][0]["fingerprint"]
        keep = own.ids("cluster = 0")[0]
        same = np.repeat(own.vector(keep).vector[None], 30, axis=0)
        own.delete([id for id in own.ids("cluster = 0") if id != keep])
        own.add_vectors([f"copy {i}" for i in range(30)], same, encoder=fingerprint)
        [portrait] = [one for one in own.clusters() if one.number == 0]
        assert portrait.size == 31
        assert portrait.exemplars[0] == keep
        assert portrait.compactness == pytest.approx(0, abs=1e-5)
        assert all(math.isfinite(far) for _, far in portrait.nearest)


def test_under_cosine_lengths_say_nothing(tmp_path: Path) -> None:
    latents, _ = blobs([60, 50, 40])
    latents /= np.linalg.norm(latents, axis=1, keepdims=True)
    told = []
    for number, lengths in enumerate((1.0, np.random.default_rng(0).uniform(0.1, 30, (len(latents), 1)))):
        with embedstore.create(tmp_path / f"{number}.store") as store:
            names = [f"i{i}" for i in range(len(latents))]
            store.add_vectors(names, (latents * lengths).astype(np.float32), metric="cosine")
            store.cluster()
            told.append(store.clusters(rim=0))
    for one, other in zip(*told, strict=True):
        assert one.compactness == pytest.approx(other.compactness, rel=1e-3)
        assert [number for number, _ in one.nearest] == [number for number, _ in other.nearest]
        assert one.exemplars[0] == other.exemplars[0]
