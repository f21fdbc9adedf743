"""Colours of a map: one for each value, a scale for numbers, and what can't be coloured by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedstore
from embedstore.errors import InvalidArgument, NothingMatches, UnknownRun
from embedstore.show import colours
from embedstore.show.colours import Colouring, colouring

from . import clustered


def coloured(path: Path, field: str | None, said: list[dict[str, Any]]) -> Colouring:
    with embedstore.create(path / "a.store") as store:
        vectors = np.random.default_rng(0).normal(size=(len(said), 4)).astype(np.float32)
        store.add_vectors([f"i{i}" for i in range(len(said))], vectors, said)
        return colouring(store._latents(None), field)


def test_values_come_most_frequent_first_and_each_item_has_the_colour_of_its_own(tmp_path: Path) -> None:
    said = [{"kind": "b"}, {"kind": "a"}, {"kind": "b"}, {}, {"kind": ["a"]}, {"kind": True}]
    found = coloured(tmp_path, "kind", said)
    assert found.values == ("b", "a", "true", "none")
    assert found.counts == (2, 1, 1, 2)
    assert found.codes.tolist() == [0, 1, 0, 3, 3, 2]
    assert found.missing == 2
    assert not found.is_scale
    assert found.rgb.shape == (6, 3)
    assert np.array_equal(found.rgb[0], found.colours[0])
    assert len(np.unique(found.colours, axis=0)) == 4


def test_beyond_twenty_values_the_rest_is_other(tmp_path: Path) -> None:
    said = [{"kind": f"k{i}"} for i in range(25) for _ in range(30 - i)]
    found = coloured(tmp_path, "kind", said)
    assert found.values[:2] == ("k0", "k1")
    assert found.values[20:] == ("other (5 values)",)
    assert found.counts[20] == sum(30 - i for i in range(20, 25))
    assert len(np.unique(found.colours, axis=0)) == 21


def test_twenty_numbers_are_values_and_more_are_a_scale(tmp_path: Path) -> None:
    few = coloured(tmp_path, "n", [{"n": i} for i in range(20)])
    assert not few.is_scale
    (tmp_path / "more").mkdir()
    more = coloured(tmp_path / "more", "n", [*({"n": i * 10} for i in range(21)), {}, {"n": 105}])
    assert (more.low, more.high, more.missing) == (0.0, 200.0, 1)
    assert more.values == ()
    assert more.codes[[0, 20, 21]].tolist() == [0, 255, 256]
    assert more.codes[22] == round(105 / 200 * 255)
    light = colours.ramp().astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) >= -1).all(), "a scale gets lighter all the way"


def test_numbers_as_far_apart_as_can_be_are_a_scale(tmp_path: Path) -> None:
    said = [{"n": 1e308}, {"n": -1e308}, *({"n": float(i)} for i in range(30))]
    found = coloured(tmp_path, "n", said)
    assert found.codes[:3].tolist() == [255, 0, 128]


def test_a_field_that_is_nearly_an_id_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"'name' has 1,001 different values.*up to 1,000, or cluster"):
        coloured(tmp_path, "name", [{"name": f"n{i}"} for i in range(1001)])


def test_a_key_that_no_item_has_is_refused_with_what_is_near(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="'lable': did you mean 'label'"):
        coloured(tmp_path, "lable", [{"label": 1}])


@pytest.mark.parametrize("field", ["", 3, ["label"]])
def test_what_is_no_field_is_refused(tmp_path: Path, field: Any) -> None:
    with pytest.raises(InvalidArgument, match="can't be coloured by"):
        coloured(tmp_path, field, [{"label": 1}])


def test_without_a_field_all_have_one_colour(tmp_path: Path) -> None:
    found = coloured(tmp_path, None, [{}, {}])
    assert found.codes.tolist() == [0, 0]
    assert found.values == ()


def test_without_a_clustering_there_is_no_colour_by_cluster(tmp_path: Path) -> None:
    with pytest.raises(UnknownRun, match="no clustering yet"):
        coloured(tmp_path, "cluster", [{}])


def test_what_is_usual_without_a_clustering(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "a.store") as store:
        store.add_vectors(
            ["a", "b"], np.eye(2, 4, dtype=np.float32), [{"x": 1, "same": 1, "y": 1}, {"same": 1, "y": 2}]
        )
        assert colours.usual(store._latents(None)) == "y"
        store.delete(["a", "b"])
        with pytest.raises(NothingMatches):
            colouring(store._latents(None), None)


def test_clusters_by_size_with_their_names_and_numbers(tmp_path_factory: pytest.TempPathFactory) -> None:
    with embedstore.open(clustered.copy(tmp_path_factory)) as store:
        space = store._latents(None)
        assert colours.usual(space) == "cluster"
        sizes = {one.number: one.size for one in store.clusters()}
        number = max(number for number in sizes if number >= 0)
        store.name_cluster(number, "last")
        space = store._latents(None)
        for field in ("cluster", "cluster.found"):
            found = colouring(space, field)
            place = found.values.index("last")
            assert found.numbers[place] == number
            assert found.counts[place] == sizes[number]
            shown = [count for count, own in zip(found.counts, found.numbers, strict=True) if own >= 0]
            assert shown == sorted(shown, reverse=True)
            assert sum(found.counts) == len(store)
        with pytest.raises(UnknownRun, match="did you mean 'found'"):
            colouring(space, "cluster.fund")


def test_a_cluster_keeps_its_colour_whatever_becomes_of_its_size(tmp_path_factory: pytest.TempPathFactory) -> None:
    with embedstore.open(clustered.copy(tmp_path_factory)) as store:
        before = colouring(store._latents(None), "cluster")
        most = store.ids("cluster = 0")
        store.delete(most[2:])  # the largest one is now the smallest
        after = colouring(store._latents(None), "cluster")
    known = dict(zip(before.numbers, before.colours.tolist(), strict=True))
    assert after.numbers[0] == 0
    assert after.counts[0] == 2
    for number, colour in zip(after.numbers, after.colours.tolist(), strict=True):
        assert known[number] == colour


def test_a_metadata_key_called_cluster_is_quoted_as_in_filters(tmp_path: Path) -> None:
    said = [{"cluster": "a"}, {"cluster": "b"}, {"cluster": "b"}]
    found = coloured(tmp_path, '"cluster"', said)
    assert found.values == ("b", "a")
    assert found.field == '"cluster"'
    with embedstore.open(tmp_path / "a.store", read_only=True) as store:
        assert colours.usual(store._latents(None)) == '"cluster"'


@pytest.mark.parametrize("key", ["label", "cluster", "cluster.x", '"x"', '"', '"cluster"'])
def test_a_key_is_coloured_by_as_it_is_quoted_whatever_it_is_called(tmp_path: Path, key: str) -> None:
    found = coloured(tmp_path, colours.quoted(key), [{key: "a"}, {key: "b", "x": "other"}])
    assert found.values == ("a", "b")
    assert found.field == colours.quoted(key)


def test_what_stands_at_the_end_of_the_values_is_counted(tmp_path: Path) -> None:
    said = [{"kind": f"k{i}"} for i in range(25) for _ in range(30 - i)]
    assert coloured(tmp_path, "kind", [*said, {}]).extra == 2
    (tmp_path / "few").mkdir()
    assert coloured(tmp_path / "few", "kind", said[:1]).extra == 0


def test_a_key_that_is_null_everywhere_is_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="'gone' is null wherever it is: choose another key"):
        coloured(tmp_path, "gone", [{"gone": None}, {"gone": None}, {}])
    (tmp_path / "mixed").mkdir()
    with pytest.raises(InvalidArgument, match="'gone' holds lists or objects"):
        coloured(tmp_path / "mixed", "gone", [{"gone": None}, {"gone": [1]}])


def test_a_key_with_lists_alone_is_refused_by_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="'box' holds lists or objects"):
        coloured(tmp_path, "box", [{"box": [1, 2]}])
