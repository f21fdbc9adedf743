"""Wrong labels: planted ones come first with their right value, and what can't be learnt is refused by name."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

import embedstore
from embedstore.errors import FilterError, InvalidArgument, NothingMatches
from embedstore.explore import mislabels
from embedstore.explore.mislabels import Mislabels
from embedstore.store import Store

from .stores import refused

DIGITS = load_digits()
PIXELS, TRUTH = DIGITS.data[:900].astype(np.float32), DIGITS.target[:900]
WRONG = np.random.default_rng(0).choice(900, 27, replace=False)  # 3 %
NAMES = [f"d{i:03d}" for i in range(900)]


def found(store: Store, key: str = "label", **settings: object) -> Mislabels:
    return mislabels.find(store._latents(None), key, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """900 digits as vectors of pixels; 27 have another digit's label."""
    path = tmp_path_factory.mktemp("mislabels") / "m.store"
    labels = TRUTH.copy()
    labels[WRONG] = (labels[WRONG] + 1 + np.arange(27) % 9) % 10
    said: list[dict] = [
        {
            "label": int(label),
            "name": f"digit {label}",
            "odd": bool(label % 2),
            "serial": i,
            "one": "x",
            "rare": "few" if i < 3 else "a" if label < 5 else "b",
            "list": [1],
        }
        for i, label in enumerate(labels)
    ]
    for one in said[:100]:
        del one["name"]
    with embedstore.create(path) as store:
        store.add_vectors(NAMES, PIXELS, said)
    return path


def test_planted_labels_are_found_with_the_right_one(flipped: Path) -> None:
    with embedstore.open(flipped, read_only=True) as store:
        got = found(store, limit=27)
        assert found(store, limit=27).found == got.found
    planted = np.isin(np.arange(900), WRONG)
    assert average_precision_score(planted, got.scores) > 0.95
    hits = [one for one in got.found if int(one.id[1:]) in set(WRONG.tolist())]
    assert len(hits) >= 24
    assert np.mean([one.suggested == TRUTH[int(one.id[1:])] for one in hits]) > 0.95
    assert 22 <= got.wrong <= 45
    assert (got.items, got.unlabelled, got.left_out) == (900, 0, {})
    assert got.accuracy == pytest.approx(0.96, abs=0.03)
    for one in got.found:
        assert one.given != one.suggested
        assert one.score > 0.5
        assert one.probability > one.confidence
        assert one.probability + one.confidence <= 1 + 1e-6
    assert [one.score for one in got.found] == sorted((one.score for one in got.found), reverse=True)


def test_texts_and_truth_values_and_missing_ones(flipped: Path) -> None:
    with embedstore.open(flipped, read_only=True) as store:
        named = found(store, "name")
        assert (named.items, named.unlabelled) == (800, 100)
        assert all(str(one.suggested).startswith("digit ") for one in named.found)
        odd = found(store, "odd")
        assert {one.given for one in odd.found} <= {"true", "false"}
        rare = found(store, "rare")
        assert rare.left_out == {"few": 3}
        assert rare.items == 897


def test_a_filter_compares_what_matches_alone(flipped: Path) -> None:
    with embedstore.open(flipped, read_only=True) as store:
        got = found(store, where="serial < 450")
        assert got.items == 450
        assert all(int(one.id[1:]) < 450 for one in got.found)
        refused(NothingMatches, "no item matches", lambda: found(store, where="serial > 5000"))
        with pytest.raises(FilterError):
            found(store, where="seral > 3")
        refused(InvalidArgument, "none of the items that match", lambda: found(store, "name", where="serial < 100"))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("\udcff", r"'\\udcff' is no metadata key: it is no valid Unicode text"),  # b"\xff" on a command line
        (7, "7 is no metadata key"),
        ("lable", "did you mean 'label'"),
        ("zzzzzz", "there are 'label', 'list'"),
        ("serial", "900 different values on 900 items"),
        ("one", "'one' is 'x' for all 900 items"),
        ("list", "holds no texts"),
    ],
)
def test_a_key_that_cant_be_learnt_says_why(flipped: Path, key: Any, said: str) -> None:
    with embedstore.open(flipped, read_only=True) as store:
        refused(InvalidArgument, said, lambda: found(store, key))


@pytest.mark.parametrize("limit", [0, -1, 1.5, "3", True])
def test_a_limit_that_is_none_is_refused(flipped: Path, limit: object) -> None:
    with embedstore.open(flipped, read_only=True) as store:
        refused(InvalidArgument, "ask for 1 or more", lambda: found(store, limit=limit))


def test_small_and_dull_stores(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "s.store") as store:
        store.add_vectors(["a"], np.ones((1, 3)))
        refused(InvalidArgument, "the items have no metadata", lambda: found(store))
        store.add_vectors(["a"], np.ones((1, 3)), [{"label": 1}])
        refused(InvalidArgument, "for all 1 items", lambda: found(store))
        store.add_vectors(["b", "c"], np.eye(2, 3), [{"label": 2}, {"label": 2}])
        refused(InvalidArgument, "name a key|label more items", lambda: found(store))
        store.delete(store.ids())
        refused(NothingMatches, "no items", lambda: found(store))
    with embedstore.create(tmp_path / "same.store") as store:
        store.add_vectors([f"v{i}" for i in range(40)], np.ones((40, 3)), [{"label": i % 2} for i in range(40)])
        refused(InvalidArgument, "latents of all 40 items are equal", lambda: found(store))
    with embedstore.create(tmp_path / "few.store") as store:
        z = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
        z[:6, 0] += 30
        store.add_vectors(
            [f"v{i}" for i in range(12)], z, [{"label": "ab"[i >= 6]} for i in range(12)], metric="cosine"
        )
        assert found(store).items == 12


def test_classes_of_unequal_size_and_space_under_cosine(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sizes = [300, 60, 12]
    truth = np.repeat(np.arange(3), sizes)
    z = random.normal(size=(372, 6)).astype(np.float32) * 0.2
    z[np.arange(372), truth] += 2
    z *= random.uniform(0.5, 5, (372, 1)).astype(np.float32)  # lengths mean nothing
    given = truth.copy()
    given[[0, 1, 2, 310, 365]] = [1, 2, 1, 0, 0]
    with embedstore.create(tmp_path / "u.store") as store:
        names = [f"v{i}" for i in range(372)]
        store.add_vectors(names, z, [{"label": int(value)} for value in given], metric="cosine")
        got = found(store, limit=5)
    assert {one.id for one in got.found} == {"v0", "v1", "v2", "v310", "v365"}
    assert all(one.suggested == truth[int(one.id[1:])] for one in got.found)
    assert 4 <= got.wrong <= 7


def test_a_rare_value_is_learnt_though_only_a_part_of_the_items_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    codes = np.zeros(4_000, dtype=np.int64)
    codes[rng.choice(4_000, 6, replace=False)] = 1
    latents = rng.normal(size=(4_000, 3)).astype(np.float32)
    latents[codes == 1] += 8
    monkeypatch.setattr(mislabels, "_FITTED", 50)
    for seed in range(4):
        chances = mislabels._regression(latents, codes, seed, progress=False)(slice(None))
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
        assert chances[codes == 1, 1].min() > chances[codes == 0, 1].max()


def test_items_are_compared_some_at_a_time_to_the_same_result(flipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with embedstore.open(flipped, read_only=True) as store:
        whole = found(store)
        monkeypatch.setattr(mislabels, "_CELLS", 70)
        parts = found(store)
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-6)
    assert (parts.wrong, parts.accuracy) == (whole.wrong, whole.accuracy)
    assert [one.id for one in parts.found] == [one.id for one in whole.found]


def test_many_values_of_many_items_are_never_all_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, values = 6_000, 400
    z = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
    monkeypatch.setattr(mislabels, "_FITTED", 5)
    monkeypatch.setattr(mislabels, "_WORK", 0)
    monkeypatch.setattr(mislabels, "_CELLS", 2**17)
    with embedstore.create(tmp_path / "many.store") as store:
        store.add_vectors([f"v{i}" for i in range(count)], z, [{"label": i % values} for i in range(count)])
        monkeypatch.setattr(mislabels, "_vote", lambda *_: lambda part: np.zeros((len(z[part]), values), np.float32))
        tracemalloc.start()
        try:
            found(store)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 4 * count * values  # of bytes: not even one probability of each


@given(codes=st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_turns_count_those_before(codes: list[int]) -> None:
    assert mislabels._turn(np.array(codes)).tolist() == [codes[:i].count(one) for i, one in enumerate(codes)]
