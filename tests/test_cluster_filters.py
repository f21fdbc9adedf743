"""Clusters in filters and expressions: what a store selects is what its labels say, and a mistyped one is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import embedstore
from embedstore import filters
from embedstore.errors import ExpressionError, FilterError
from embedstore.filters import And, Between, Comparison, Expression, Field, In, IsNull, Like, Not, Or
from embedstore.metadata import runs
from embedstore.metadata.runs import Run
from embedstore.store import Store

from .clustered import between, copy, digits, made, told

NAMES = {0: "zeros", 1: "it's", 4: "ZEROS 2"}
OTHER = {1: "ones", 2: "zeros"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with noise, items that no clustering knows, names, and a second clustering that is the rows modulo 4."""
    path = copy(tmp_path_factory)
    with embedstore.open(path) as store:
        fingerprint = store.info()["spaces"][0]["fingerprint"]
        unsure = between(store, "found", 9)
        store.add_vectors([f"noise {i}" for i in range(9)], unsure, [{"label": 3}] * 9, encoder=fingerprint)
        for number, name in NAMES.items():
            store.name_cluster(number, name)
        found = made(store, "found")
        levels = [{"of_leaf": [0, 1, 2], "names": {str(a): b for a, b in OTHER.items()}, "stability": 1, "gap": 1}]
        told_of_itself = {**found.made, "levels": levels, "level": 0, "main": 0}
        run = Run(0, found.space, "b side", found.seq, found.next_row, found.model, False, told_of_itself)
        with store._writer.locked("testing"), store._database.write() as connection:
            number = runs.add(connection, "clusterings", run)
            rows = np.array([row for (row,) in connection.execute("SELECT row FROM items WHERE row % 5 != 0")])
            runs.say(connection, "clusterings", number, rows, (rows % 4 - 1, np.full(len(rows), 0.75)))
    return path


@pytest.fixture(scope="module")
def store(path: Path) -> Iterator[Store]:
    with embedstore.open(path, read_only=True) as store:
        yield store


Known = dict[str, tuple[dict, dict[str | None, tuple[int | None, str | None]]]]


@pytest.fixture(scope="module")
def known(store: Store) -> Known:
    """Of each item by id: its metadata, and its cluster's number and name by clustering."""
    found: Known = {}
    labels, other = told(store), told(store, "b side")
    for id in store.ids():
        a, b = labels[id][0], other[id][0]
        here = (None, None) if a < 0 else (a, NAMES.get(a))
        there = (None, None) if b < 0 else (b, OTHER.get(b))
        found[id] = store.get(id)["metadata"], {None: here, "found": here, "b side": there}
    return found


def test_the_simplest_conditions_select_by_the_labels(store: Store) -> None:
    labels = {id: number for id, (number, _) in told(store).items()}
    count = store.clustering().clusters
    assert -1 in labels.values()
    for number in range(count):
        inside = [id for id, one in labels.items() if one == number]
        assert store.ids(f"cluster = {number}") == inside
        assert store.count(f"cluster = {number}") == len(inside) > 0
        # Of an item in no cluster nothing is known: it is neither in this one nor in another.
        outside = [id for id, one in labels.items() if one not in (number, -1)]
        assert store.ids(f"cluster != {number}") == store.ids(f"not cluster = {number}") == outside
        if number in NAMES:
            quoted = NAMES[number].replace("'", "''")
            assert store.ids(f"cluster = '{quoted}'") == inside
            assert store.ids(f"cluster != '{quoted}'") == outside
    noise = [id for id, one in labels.items() if one < 0]
    assert store.ids("cluster is null") == noise
    assert store.ids("cluster is not null") == [id for id in labels if id not in noise]
    assert store.ids("cluster.found = 2") == store.ids("cluster = 2")
    assert store.count("cluster in (0, 1)") == store.count("cluster = 0 or cluster = 1")
    assert store.count("cluster not in (0, 1) or cluster in (0, 1)") == len(labels) - len(noise)
    assert store.ids('cluster."b side" = 1') == [id for id, (one, _) in told(store, "b side").items() if one == 1]


numbers = st.integers(0, 8)
names = st.sampled_from(sorted(NAMES.values()))
default = st.sampled_from([Field(("cluster",), True), Field(("cluster", "found"), True)])
other = st.just(Field(("cluster", "b side"), True))
orders = st.sampled_from(["<", "<=", ">", ">="])
loose = st.integers(-3, 20) | st.floats(-2, 12)
texts = st.sampled_from(["", "a", "zeros", "zzz", "it's", "Z"])
patterns = st.sampled_from(["%", "zero%", "%s", "_", "it_s", ""])
either = default | other
leaves = st.one_of(
    st.builds(Comparison, default, st.sampled_from(["=", "!="]), numbers | names),
    st.builds(Comparison, other, st.sampled_from(["=", "!="]), st.integers(0, 2) | st.sampled_from(["ones", "zeros"])),
    st.builds(In, default, st.lists(numbers | names, min_size=1, max_size=4).map(tuple), st.booleans()),
    st.builds(In, other, st.lists(st.sampled_from([0, 2, "ones"]), min_size=1).map(tuple), st.booleans()),
    st.builds(Comparison, either, orders, loose | texts),
    st.builds(Between, either, loose, loose, st.booleans()),
    st.builds(Between, either, texts, texts, st.booleans()),
    st.builds(Like, either, patterns, st.none(), st.booleans()),
    st.builds(IsNull, either, st.booleans()),
    st.builds(Comparison, st.just(Field(("label",))), st.sampled_from(["=", "!=", "<"]), st.integers(0, 9)),
)


def _nested(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.builds(And, several) | st.builds(Or, several) | st.builds(Not, inner)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(expression=st.recursive(leaves, _nested, max_leaves=6))
def test_a_store_selects_what_the_evaluator_says_is_true(store: Store, known: Known, expression: Expression) -> None:
    expected = [
        id
        for id, (metadata, clusters) in known.items()
        if filters.evaluate(expression, id, None, metadata, clusters) is True
    ]
    text = filters.format(expression)
    assert store.ids(text) == expected, text
    assert store.count(text) == len(expected)


def test_a_search_is_within_a_cluster(store: Store) -> None:
    inside = store.ids("cluster = 1 and label = 3") or store.ids("cluster = 1")
    hits = store.search(store.vector(inside[0]), k=500, where="cluster = 1")
    assert sorted(hits.ids) == sorted(store.ids("cluster = 1"))
    far = {id: float(np.linalg.norm((store.vector(id) - store.vector(inside[0])).vector)) for id in hits.ids}
    assert hits.ids == sorted(hits.ids, key=far.__getitem__)


@pytest.mark.parametrize(
    ("text", "said", "position"),
    [
        ("cluster = 99", "there is no cluster 99: they are numbered 0 to 10", 0),
        ("label = 3 and cluster != -1", "there is no cluster -1", 14),
        ("cluster = 1.5", "there is no cluster 1.5", 0),
        ("cluster in (1, 77)", "there is no cluster 77", 0),
        ("not cluster not in (1, 77)", "there is no cluster 77", 4),
        ("cluster = 'zeroes'", "no cluster is named 'zeroes': did you mean 'zeros'?", 0),
        ("cluster = 'qqqqq'", "names are 'ZEROS 2', \"it's\", 'zeros'", 0),
        ("cluster in ('zeros', 'qqqqq')", "no cluster is named 'qqqqq'", 0),
        ("cluster.fond = 1", "no clustering is named 'fond': there is 'b side', 'found'", 0),
        ("id = 'a' or cluster.\"b side\" = 3", "there is no cluster 3: they are numbered 0 to 2", 12),
        ("cluster.\"b side\" = 'it''s'", "no cluster is named \"it's\": names are 'ones', 'zeros'", 0),
    ],
)
def test_a_cluster_that_isn_t_there_is_refused_and_pointed_at(
    store: Store, text: str, said: str, position: int
) -> None:
    assert store.clustering().clusters == 11
    with pytest.raises(FilterError) as caught:
        store.count(text)
    assert said in str(caught.value)
    assert caught.value.position == position


def test_a_store_without_clusterings_says_how_to_make_one(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "plain.store") as plain:
        plain.index(digits(0, 12), encoder="pca", dimension=2, progress=False)
        for text in ("cluster = 1", "cluster is null", "cluster.x = 1"):
            with pytest.raises(FilterError, match="no clustering yet; `embedstore cluster STORE` makes one"):
                plain.count(text)
        with pytest.raises(FilterError, match=r'a key of the metadata is written "cluster"\.x'):
            plain.count("cluster.x = 1")
        with pytest.raises(FilterError, match=r'no map yet; .*is written "map"\.x'):
            plain.count("map.x > 1")
        plain.update("d000", metadata={"map": {"x": 3}})
        assert plain.ids('"map".x = 3') == ["d000"]


def test_a_cluster_s_mean_is_a_term_of_expressions(store: Store) -> None:
    latents = {id: store.vector(id).vector.astype(np.float64) for id in store.ids()}
    labels = told(store)

    def mean(number: int) -> np.ndarray:
        return np.mean([latents[id] for id, (one, _) in labels.items() if one == number], axis=0)

    np.testing.assert_allclose(store.evaluate("cluster(3)").vector, mean(3), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(store.evaluate("cluster('zeros')").vector, mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(store.evaluate('cluster("it\'s")').vector, mean(1), rtol=1e-4, atol=1e-4)
    half = store.evaluate("0.5 * cluster(3) - cluster('ZEROS 2')").vector
    np.testing.assert_allclose(half, 0.5 * mean(3) - mean(4), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(
        store.mean("cluster in (3, 'zeros')").vector,
        np.average([mean(3), mean(0)], axis=0, weights=[store.count("cluster = 3"), store.count("cluster = 0")]),
        rtol=1e-4,
        atol=1e-3,
    )
    for text, said in (
        ("cluster(77)", "there is no cluster 77"),
        ("2 * cluster('zeroes')", "did you mean 'zeros'"),
    ):
        with pytest.raises(ExpressionError, match=said):
            store.evaluate(text)
