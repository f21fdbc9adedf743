"""Duplicates: what was planted is found, what merely looks alike is not, and the threshold says where it comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

import embedstore
from embedstore.errors import FilterError, InvalidArgument, NothingMatches
from embedstore.explore import duplicates, likeness, stars
from embedstore.explore.duplicates import Duplicates
from embedstore.store import Store
from embedstore.types import Item

from .pictures import encoded, image_of
from .stores import refused

SHOWN = [
    np.asarray(Image.fromarray((one * 15.9).astype(np.uint8)).resize((24, 24), Image.Resampling.BICUBIC))[..., None]
    for one in load_digits().images[:400]
]


def found(store: Store, **settings: object) -> Duplicates:
    return duplicates.find(store._latents(None), **settings)  # type: ignore[arg-type]


def slightly(picture: np.ndarray, kind: int) -> np.ndarray:
    """Shifted by a pixel, 5 % darker, or saved as JPEG of quality 85; written apart from the library's own changes."""
    if kind == 0:
        return np.concatenate([np.zeros_like(picture[:1]), picture[:-1]])
    if kind == 1:
        return np.rint(picture * 0.95).astype(np.uint8)
    import io

    return np.asarray(Image.open(io.BytesIO(encoded(image_of(picture), "JPEG", quality=85))))[..., None]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 digits; of the first 60 a slightly changed copy each, 'n00' and on, and of another 5 an equal one, 'e0'..."""
    path = tmp_path_factory.mktemp("duplicates") / "p.store"
    items = [Item(f"d{i:03d}", one, {"part": i % 2}) for i, one in enumerate(SHOWN)]
    items += [Item(f"n{i:02d}", slightly(SHOWN[i], i % 3), {"part": i % 2}) for i in range(60)]
    items += [Item(f"e{i}", SHOWN[100 + i], {"part": i % 2, "more": True}) for i in range(5)]
    with embedstore.create(path) as store:
        store.index(items, encoder="pca", dimension=16, progress=False)
    return path


def test_planted_copies_are_found_and_nothing_else(planted: Path) -> None:
    with embedstore.open(planted, read_only=True) as store:
        got = found(store)
        again = found(store)
    assert got == again
    exact = {group.ids for group in got.groups if group.kind == "exact"}
    assert exact == {(f"e{i}", f"d{100 + i}") for i in range(5)}  # with more metadata: kept
    near = {group.ids for group in got.groups if group.kind == "near"}
    truth = {(f"d{i:03d}", f"n{i:02d}") for i in range(60)}  # the older one is kept
    assert len(near & truth) >= 57
    assert len(near - truth) <= 3
    assert got.evidence.method == "pictures"
    assert got.threshold == got.evidence.numbers["threshold"]
    assert got.evidence.numbers["found"] > 0.9
    assert got.items == 465
    for group in got.groups:
        assert group.differences is None or max(group.differences) <= 2 * got.threshold
        assert group.distances[0] == 0
    assert len(got.surplus) == sum(len(group.ids) - 1 for group in got.groups)


def test_a_filter_compares_what_matches_alone(planted: Path) -> None:
    with embedstore.open(planted, read_only=True) as store:
        got = found(store, where="part = 0")
        assert all(store.get(name)["metadata"]["part"] == 0 for group in got.groups for name in group.ids)
        assert {group.ids for group in got.groups if group.kind == "exact"} == {
            (f"e{i}", f"d{100 + i}") for i in (0, 2, 4)
        }
        refused(NothingMatches, "no item matches", lambda: found(store, where="part = 7"))
        with pytest.raises(FilterError):
            found(store, where="prat = 0")


@pytest.mark.parametrize(
    "distance", [-1, float("nan"), float("inf"), "1", True, pytest.param(10**400, id="huge"), np.float32("nan")]
)
def test_a_distance_that_is_none_is_refused(planted: Path, distance: object) -> None:
    with embedstore.open(planted, read_only=True) as store:
        refused(InvalidArgument, "no distance of duplicates", lambda: found(store, distance=distance))


def test_a_given_distance_is_kept_to(planted: Path) -> None:
    with embedstore.open(planted, read_only=True) as store:
        latents = {name: store.vector(name).vector for name in store.ids()}
        got = found(store, distance=60.0)
        names = [name for name in latents if name not in {f"d{100 + i}" for i in range(5)}]
        z = np.stack([latents[name] for name in names]).astype(float)
        apart = np.linalg.norm(z[:, None] - z[None], axis=2)
        linked = {names[i] for i in np.flatnonzero(((apart <= 60) & ~np.eye(len(z), dtype=bool)).any(axis=1))}
    near = [group for group in got.groups if group.kind == "near"]
    grouped = {name for group in near for name in group.ids}
    assert got.evidence.method == "given"
    assert grouped <= linked
    assert len(grouped) > 0.8 * len(linked)  # others hang at an item that isn't their group's centre
    assert all(group.differences is None for group in near)
    for group in near:
        far = [np.linalg.norm(latents[group.ids[0]] - latents[name]) for name in group.ids]
        np.testing.assert_allclose(group.distances, far, rtol=1e-5, atol=1e-5)
        assert max(far) <= 120.001


def test_many_copies_of_one_picture_are_one_group(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    copies = [np.clip(SHOWN[0] + random.integers(-1, 2, SHOWN[0].shape), 0, 255).astype(np.uint8) for _ in range(70)]
    items = [Item(f"d{i}", one) for i, one in enumerate(SHOWN[:100])] + [
        Item(f"c{i}", one) for i, one in enumerate(copies)
    ]
    with embedstore.create(tmp_path / "c.store") as store:
        store.index(items, encoder="pca", dimension=8, progress=False)
        got = found(store)
    assert set(got.groups[0].ids) == {"d0", *(f"c{i}" for i in range(70))}
    assert got.groups[0].ids[0] == "d0"


def test_the_largest_original_is_kept(tmp_path: Path) -> None:
    large = np.kron(SHOWN[7], np.ones((2, 2, 1), dtype=np.uint8))
    items = [Item(f"d{i}", one) for i, one in enumerate(SHOWN[:50])] + [Item("large", large)]
    with embedstore.create(tmp_path / "l.store") as store:
        store.index(items, encoder="pca", dimension=8, progress=False)
        assert ("large", "d7") in {group.ids for group in found(store).groups}


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_of_vectors_a_gap_in_their_distances_decides(tmp_path: Path, metric: str) -> None:
    random = np.random.default_rng(1)
    z = random.normal(size=(500, 12)).astype(np.float32)
    with embedstore.create(tmp_path / "v.store") as store:
        store.add_vectors([f"v{i}" for i in range(500)], z, metric=metric)
        assert found(store).groups == ()
        none = found(store).evidence
        assert (none.method, none.threshold) == ("none", None)
        assert "no gap" in none.said
        store.add_vectors([f"c{i}" for i in range(40)], z[:40] + random.normal(size=(40, 12)).astype(np.float32) * 0.01)
        store.add_vectors(["same"], z[499:])
        got = found(store)
    assert {group.ids for group in got.groups if group.kind == "near"} == {(f"v{i}", f"c{i}") for i in range(40)}
    assert {group.ids for group in got.groups if group.kind == "exact"} == {("v499", "same")}
    assert got.evidence.method == "latents"
    assert got.evidence.numbers["within"] == 80
    assert got.evidence.numbers["in the gap"] == 0


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize(("dimension", "width", "dense"), [(32, 0.2, 200), (8, 0.1, 200), (2, 0.02, 600)])
def test_a_dense_class_of_different_vectors_is_no_heap_of_copies(
    tmp_path: Path, metric: str, dimension: int, width: float, dense: int
) -> None:
    """Its items are all near to each other, and deleting the surplus would delete the class."""
    random = np.random.default_rng(0)
    z = random.normal(size=(2_000, dimension))
    z[:dense] = width * z[:dense] + 3
    with embedstore.create(tmp_path / "d.store") as store:
        store.add_vectors([f"v{i}" for i in range(2_000)], z, metric=metric)
        got = found(store)
    assert (got.evidence.method, got.groups) == ("none", ())


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_copies_are_found_in_a_dense_class_as_beside_it(tmp_path: Path, metric: str) -> None:
    random = np.random.default_rng(0)
    z = random.normal(size=(1_000, 16))
    z[:200] *= 0.2
    z += 3
    noise = random.normal(size=(4, 40, 16)) * 0.01
    noise[:, :20] *= 0.2
    copied = np.r_[0:20, 500:520]
    with embedstore.create(tmp_path / "c.store") as store:
        store.add_vectors([f"v{i}" for i in range(1_000)], z, metric=metric)
        for number in range(4):
            store.add_vectors([f"c{number}/{i}" for i in copied], z[copied] + noise[number])
        got = found(store)
    groups = {group.ids[0]: set(group.ids) for group in got.groups}
    assert groups == {f"v{i}": {f"v{i}", *(f"c{number}/{i}" for number in range(4))} for i in copied}
    assert got.threshold is not None
    assert all(max(group.distances) <= (4 if metric == "cosine" else 2) * got.threshold for group in got.groups)
    assert "tenth neighbour" in got.evidence.said


@pytest.mark.parametrize("distance", [np.float32(0.5), np.float64(0.5), np.float16(0.5), 0.5])
def test_any_number_is_a_distance(planted: Path, distance: float) -> None:
    with embedstore.open(planted, read_only=True) as store:
        got = found(store, distance=distance)
    assert (got.threshold, got.evidence.numbers) == (0.5, {"distance": 0.5})
    assert "at most 0.5 from that of its centre, as asked for, and so up to 1 from each other" in got.evidence.said


def test_of_tiny_and_of_huge_vectors_none_are_equal_but_those_that_are(tmp_path: Path) -> None:
    for scale in (1e-12, 1e18):
        z = np.random.default_rng(0).normal(size=(100, 3)) * scale
        with embedstore.create(tmp_path / f"{scale}.store") as store:
            store.add_vectors([f"v{i}" for i in range(100)], z)
            assert found(store).groups == ()
            assert found(store, distance=0).groups == ()
            assert found(store, distance=1e-30 if scale < 1 else 1e-9).groups == ()
            [whole] = found(store, distance=1.7e308).groups
        assert len(whole.ids) == 100


def test_small_and_dull_stores(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "one.store") as store:
        store.add_vectors(["a"], np.ones((1, 3)))
        assert found(store).groups == ()
        assert found(store, distance=1).groups == ()
        store.delete("a")
        refused(NothingMatches, "no items", lambda: found(store))
    with embedstore.create(tmp_path / "same.store") as store:
        store.add_vectors([f"v{i}" for i in range(30)], np.ones((30, 3)))
        [group] = found(store).groups
        assert (group.kind, group.ids) == ("exact", tuple(f"v{i}" for i in range(30)))
    with embedstore.create(tmp_path / "black.store") as store:
        items = [Item(f"p{i}", one) for i, one in enumerate(SHOWN[:4])]
        items += [Item(name, np.zeros((24, 24, 1), np.uint8)) for name in ("x", "y")]
        store.index(
            [*items, Item("z", np.full((24, 24, 1), 200, np.uint8))], encoder="pca", dimension=4, progress=False
        )
        assert [group.ids for group in found(store).groups] == [("x", "y")]


def test_deleting_the_surplus_leaves_nothing_to_find(tmp_path: Path, planted: Path) -> None:
    with embedstore.open(planted, read_only=True) as store:
        store.backup(tmp_path / "b.store")
    with embedstore.open(tmp_path / "b.store") as store:
        store.delete(found(store).surplus)
        assert len(found(store).surplus) <= 1


def test_likeness_of_coloured_pictures() -> None:
    random = np.random.default_rng(0)
    picture = np.kron(random.integers(30, 220, (8, 8, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    shifted = np.roll(picture, 1, axis=1)
    swapped = picture[..., ::-1].copy()
    rest, share = likeness.differences(np.stack([picture] * 3), np.stack([picture, shifted, swapped]))
    assert rest[:2].tolist() == pytest.approx([0, 0], abs=1e-2)
    assert share[2] > 0.5


@given(
    edges=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)).filter(lambda e: e[0] < e[1]), max_size=40),
    known=st.lists(st.booleans(), min_size=40, max_size=40),
    rounds=st.sampled_from([0, 1, 20]),
)
@settings(max_examples=150, deadline=None)
def test_groups_are_stars_whatever_the_links(edges: list[tuple[int, int]], known: list[bool], rounds: int) -> None:
    truth = set(edges)

    def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.array([(x, y) in truth for x, y in zip(a.tolist(), b.tolist(), strict=True)], dtype=bool)

    links = sorted({edge for edge, there in zip(edges, known, strict=False) if there})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stars, "_ROUNDS", rounds)
        groups = [group.tolist() for group in stars.groups(np.array(links, dtype=np.int64).reshape(-1, 2), same)]
    members = [row for group in groups for row in group]
    assert len(members) == len(set(members))
    near = {row: {a + b - row for a, b in truth if row in (a, b)} for row in range(15)}
    for group in groups:
        assert len(group) > 1
        assert any(set(group) - {centre} <= near[centre] for centre in group)
    for a, b in links:  # and nothing that could be grouped is left
        assert a in members or b in members


def test_a_chain_is_not_one_group() -> None:
    chain = np.stack([np.arange(59), np.arange(1, 60)], axis=1)
    groups = stars.groups(chain, lambda a, b: np.abs(a - b) == 1)
    assert [group.tolist() for group in groups] == [[i, i + 1, i + 2] for i in range(0, 60, 3)]


def test_a_long_chain_takes_few_rounds() -> None:
    """A film: each frame is the same as those beside it."""
    chain = np.stack([np.arange(50_000), np.arange(1, 50_001)], axis=1)
    rounds = []

    def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        rounds.append(len(a))
        return np.abs(a - b) == 1

    groups = stars.groups(chain, same)
    assert len(rounds) < 60
    assert all(len(group) in (2, 3) and np.ptp(group) == len(group) - 1 for group in groups)
    members = np.concatenate(groups)
    assert len(np.unique(members)) == len(members)
    assert np.diff(np.sort(members)).max() == 2  # of those left out, no two could be grouped


def test_of_many_copies_few_are_asked_for_more_neighbours() -> None:
    count, asked = 5_000, []

    def near(rows: np.ndarray, k: int) -> np.ndarray:
        """All copies are as near to each other: the lowest are found, as by an index."""
        asked.append(len(rows) * k)
        return np.tile(np.arange(k), (len(rows), 1))

    def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a < 4_000) == (b < 4_000)

    links = stars.links(count, near, same, 3)
    assert sum(asked) < 8 * count
    [one] = [group for group in stars.groups(links, same) if len(group) > 1]
    assert np.array_equal(one, np.arange(4_000))


@pytest.mark.parametrize("shape", [(7, 8), (8, 6), (5, 5)])
def test_small_pictures_are_not_all_the_same(tmp_path: Path, shape: tuple[int, int]) -> None:
    """They have no room for a shift, so that none may be among the changes that the threshold is learnt from."""
    pictures = [(one[: shape[0], : shape[1]] * 15.9).astype(np.uint8)[..., None] for one in load_digits().images[:300]]
    with embedstore.create(tmp_path / "small.store") as store:
        items = [Item(f"d{i}", one) for i, one in enumerate(pictures)]
        store.index([*items, Item("again", slightly(pictures[7], 1))], encoder="pca", dimension=8, progress=False)
        got = found(store)
    assert "shifted" not in got.evidence.said
    assert {"d7", "again"} in [set(group.ids) for group in got.groups]
    assert len(got.surplus) < 10


@pytest.mark.parametrize("other", ["grey", "none"])
def test_what_pictures_are_like_isnt_said_by_some_of_them_alone(tmp_path: Path, other: str) -> None:
    """Where every 16th item is grey, or has no picture, the others are still compared in colour."""
    rng = np.random.default_rng(0)
    shade = rng.integers(60, 250, (40, 12, 12))
    red, green = np.zeros((2, 40, 12, 12, 3), dtype=np.uint8)
    red[..., 0], green[..., 1] = shade, shade
    with embedstore.create(tmp_path / "c.store") as store:
        store.index([Item(f"r{i}", one) for i, one in enumerate(red)], encoder="pca", dimension=8, progress=False)
        fingerprint = store.info()["spaces"][0]["fingerprint"]
        more = [Item(f"g{i}", one) for i, one in enumerate(green)]
        if other == "grey":
            grey = rng.integers(0, 255, (8, 12, 12, 1), dtype=np.uint8)
            more += [Item(f"s{i}", one) for i, one in enumerate(grey)]
        store.index([*more, Item("copy", slightly(red[3], 1))], progress=False)
        if other == "none":
            vectors = rng.normal(size=(8, 8)).astype(np.float32)
            store.add_vectors([f"v{i}" for i in range(8)], vectors, encoder=fingerprint)
        survey = likeness._SURVEYED
        likeness._SURVEYED = 0  # the worst sample: it has seen nothing
        try:
            got = found(store)
        finally:
            likeness._SURVEYED = survey
    assert got.evidence.method == "pictures"
    assert ("8 items without a picture" in got.evidence.said) == (other == "none")
    assert [set(group.ids) for group in got.groups] == [{"r3", "copy"}]
