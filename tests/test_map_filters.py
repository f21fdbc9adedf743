"""Places in filters: what a store selects is what its maps say, and a mistyped one is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import embedstore
from embedstore import filters
from embedstore.errors import FilterError
from embedstore.filters import And, Between, Comparison, Expression, Field, In, IsNull, Like, Not, Or
from embedstore.metadata import runs
from embedstore.store import Store
from embedstore.types import Metadata

from .charted import copy_of_blobs, made, said

# Few different coordinates, so that equality finds something, and the ends of the scale.
COORDINATES = [-2.5, -1.0, -0.0, 0.5, 1.0, 3.0, 1e-300, 1e30]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a map, another of round numbers that misses every fifth item, and a metadata key called map."""
    path = copy_of_blobs(tmp_path_factory)
    with embedstore.open(path) as store:
        for number, id in enumerate(store.ids()[:6]):
            store.update(id, metadata={"map": {"x": number, "b side": {"y": -number}}, "blob": number % 2})
        run = replace(made(store), name="b side", is_default=False)
        with store._writer.locked("testing"), store._database.write() as connection:
            other = runs.add(connection, "maps", run)
            rows = np.array([row for (row,) in connection.execute("SELECT row FROM items WHERE row % 5 != 0")])
            x, y = (np.array(COORDINATES)[rows // step % len(COORDINATES)] for step in (1, 3))
            runs.say(connection, "maps", other, rows, (x, y))
    return path


@pytest.fixture(scope="module")
def store(path: Path) -> Iterator[Store]:
    with embedstore.open(path, read_only=True) as store:
        yield store


Known = dict[str, tuple[Metadata, dict[str | None, tuple[float, float] | None]]]


@pytest.fixture(scope="module")
def known(store: Store) -> Known:
    """Of each item by id: its metadata, and its place by map."""
    here, there = said(store), said(store, "b side")
    return {
        id: (store.get(id)["metadata"], {None: here[id], "default": here[id], "b side": there.get(id)})
        for id in store.ids()
    }


def test_the_simplest_conditions_select_by_the_places(store: Store) -> None:
    places, ids = store.places(), store.ids()
    middle = float(np.median(places[:, 0]))
    assert store.ids(f"map.x < {middle!r}") == [id for id, (x, _) in said(store).items() if x < middle]
    box = f"map.x between -1 and 0.75 and map.default.y between {middle!r} and 2"
    inside = [id for id, (x, y) in said(store).items() if -1 <= x <= 0.75 and middle <= y <= 2]
    assert store.ids(box) == inside
    assert 0 < len(inside) < len(ids)
    assert store.count("map.x is not null and map.y is not null") == len(ids)
    missing = [id for id in ids if id not in said(store, "b side")]
    assert store.ids('map."b side".x is null') == missing
    # Of an item that isn't there nothing is known: it lies neither to the left of a place nor not.
    assert store.count('map."b side".x < 1 or not map."b side".x < 1') == len(ids) - len(missing)
    hits = store.search(store.vector(inside[0]), k=500, where=box)
    assert sorted(hits.ids) == sorted(inside)


default = st.sampled_from([Field(("map", axis), True) for axis in "xy"])
default |= st.sampled_from([Field(("map", "default", axis), True) for axis in "xy"])
other = st.sampled_from([Field(("map", "b side", axis), True) for axis in "xy"])
either = default | other | other
numbers = st.sampled_from([*COORDINATES, 0, 1, 3, -(2**63), 10**30]) | st.floats(-3, 3)
texts = st.sampled_from(["", "0.5", "a"])
leaves = st.one_of(
    st.builds(Comparison, either, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), numbers),
    st.builds(Comparison, either, st.sampled_from(["=", "!=", "<", ">="]), texts),
    st.builds(Comparison, either, st.sampled_from(["=", "!="]), st.booleans()),
    st.builds(Between, either, numbers, numbers, st.booleans()),
    st.builds(In, either, st.lists(numbers | texts | st.booleans(), min_size=1, max_size=4).map(tuple), st.booleans()),
    st.builds(IsNull, either, st.booleans()),
    st.builds(Like, either, st.sampled_from(["%", "0%"]), st.none(), st.booleans()),
    st.builds(Comparison, st.just(Field(("blob",))), st.sampled_from(["=", "!=", "<"]), st.integers(0, 2)),
)


def _nested(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.builds(And, several) | st.builds(Or, several) | st.builds(Not, inner)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(expression=st.recursive(leaves, _nested, max_leaves=6))
def test_a_store_selects_what_the_evaluator_says_is_true(store: Store, known: Known, expression: Expression) -> None:
    expected = [
        id
        for id, (metadata, places) in known.items()
        if filters.evaluate(expression, id, None, metadata, places=places) is True
    ]
    text = filters.format(expression)
    assert filters.parse(text) == expression
    assert store.ids(text) == expected, text
    assert store.count(text) == len(expected)


def test_a_metadata_key_that_is_called_map_is_reached_in_quotes(store: Store) -> None:
    ids = store.ids('"map".x is not null')
    assert len(ids) == 6
    assert store.ids('"map".x > 3') == [
        id for id in store.ids() if id in ids and store.get(id)["metadata"]["map"]["x"] > 3
    ]
    assert store.ids('"map"."b side".y = -2') == store.ids('"map".x = 2')
    assert store.count("map.x is not null") == len(store)


@pytest.mark.parametrize(
    ("text", "said_of_it", "position"),
    [
        ("map.fond.x = 1", "no map is named 'fond': there is 'b side', 'default'; `embedstore map STORE`", 0),
        ("blob = 1 and not map.x.y < 2", "no map is named 'x': there is 'b side', 'default'", 17),
        ("id = 'a' or map.\"c side\".y between 1 and 2", "no map is named 'c side'", 12),
    ],
)
def test_a_map_that_isn_t_there_is_refused_and_pointed_at(
    store: Store, text: str, said_of_it: str, position: int
) -> None:
    with pytest.raises(FilterError) as caught:
        store.count(text)
    assert said_of_it in str(caught.value)
    assert caught.value.position == position
    assert str(caught.value).splitlines()[1:] == [f"  {text}", f"  {' ' * position}^"]


@pytest.mark.parametrize("text", ["map.x = 1", "map.y is null", "blob = 0 or map.default.x < 1"])
def test_a_store_without_maps_says_how_to_make_one(tmp_path: Path, text: str) -> None:
    with embedstore.create(tmp_path / "plain.store") as plain:
        plain.add_vectors(["a", "b"], np.eye(2, dtype=np.float32), [{"blob": 0}, {"blob": 1}])
        with pytest.raises(FilterError, match="no map yet; `embedstore map STORE` makes one") as caught:
            plain.ids(text)
        assert caught.value.position == text.index("map")


@pytest.mark.parametrize("text", ["map = 1", "map.z = 1", "map.default = 1", "map.default.z < 0", "map.x.y.z = 1"])
def test_what_is_no_coordinate_is_a_metadata_key(store: Store, text: str) -> None:
    assert not any(field.built_in for field in filters.fields(filters.parse(text)))
    if text == "map = 1":
        assert store.count(text) == 0
    else:  # the key is there, and nothing in it is called that
        with pytest.raises(FilterError, match='unknown field "map"'):
            store.count(text)


def test_a_filter_over_places_selects_for_directions_and_deletes(path: Path, tmp_path: Path) -> None:
    with embedstore.open(path) as store:
        store.backup(tmp_path / "copy.store")
    with embedstore.open(tmp_path / "copy.store") as store:
        right = store.ids("map.x > 0")
        expected = np.mean([store.vector(id).vector for id in right], axis=0)
        np.testing.assert_allclose(store.mean("map.x > 0").vector, expected, rtol=1e-4, atol=1e-4)
        assert store.delete(where="map.default.x > 0") == len(right)
        assert store.count("map.x > 0") == 0
