"""Clusterings of a store: made, replaced, listed, chosen, named, forgotten; and what is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import embedstore
from embedstore.errors import EmbedstoreError, InvalidArgument, StoreDamaged, StoreReadOnly, UnknownRun, UnknownSpace
from embedstore.explore import stored
from embedstore.models import agreement, labelling
from embedstore.store import Store
from embedstore.truth import placing

from .clustered import COUNT, LABELS, between, copy, digits, made, placed, said, told
from .stores import refused


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(tmp_path_factory)


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with embedstore.open(path) as store:
        yield store


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that learn for a moment, where it isn't them that is tested."""
    monkeypatch.setattr(labelling, "FEWEST_STEPS", 60)
    monkeypatch.setattr(agreement, "FEWEST_STEPS", 20)


def test_a_clustering_says_how_it_was_made_and_holds_every_item(store: Store) -> None:
    found = store.clustering()
    assert store.clusterings() == [found] == [store.clustering("found")]
    assert (found.name, found.space, found.items, found.placed, found.asked) == ("found", "default", COUNT, 0, None)
    assert found.is_default
    assert found.seconds > 0
    counts = [level.clusters for level in found.levels]
    assert counts == sorted(set(counts))
    assert found.clusters == counts[found.level]
    assert found.levels[found.level].gap == max(level.gap for level in found.levels) == 1
    assert all(0.9 <= level.stability <= 1 for level in found.levels)
    assert found.noise == sum(number < 0 for number, _ in told(store).values())
    for level, count in enumerate(counts):
        labels = [number for number, _ in told(store, level=level).values()]
        assert set(labels) - {-1} == set(range(count))
    # Clusters mean something: the digits' own classes come out far better than by chance.
    from sklearn.metrics import adjusted_rand_score

    assert adjusted_rand_score(LABELS[:COUNT], [number for number, _ in told(store).values()]) > 0.6


def test_the_clusters_are_those_of_the_groups_and_their_strength_the_network_s_probability(store: Store) -> None:
    from embedstore.explore import grouping, sampled
    from embedstore.models import network

    space = store._latents(None)
    sample = sampled.take(space)
    levels, main = grouping.levels(sample.latents, sample.neighbours, None, seed=store.config.seed)
    run = made(store, "found")
    assert run.made["main"] == run.made["level"] == main
    odds = network.load(store.path / "models", "clustering", run.model)["place"](sample.latents).astype(np.float64)
    start = sum(level.groups for level in levels[:main])
    own = np.exp(odds[:, start : start + levels[main].groups])
    own /= own.sum(axis=1, keepdims=True)
    expected = own[np.arange(COUNT), levels[main].labels]
    strengths = np.array([strength for _, strength in told(store).values()])
    np.testing.assert_allclose(strengths, expected, atol=1e-4)
    for number, level in enumerate(levels):
        labels = np.array([cluster for cluster, _ in told(store, level=number).values()])
        assert np.array_equal(labels, np.where(strengths < placing.LEAST_STRENGTH, -1, level.labels))


def test_the_same_seed_makes_the_same_clusters_and_a_new_one_of_the_name_takes_the_old_one_s_place(
    store: Store, quick: None
) -> None:
    store.name_cluster(0, "zeros", name="found")
    first = store.cluster(name="a", seed=3)
    labels = told(store, "a")
    again = store.cluster(name="a", seed=3)
    assert told(store, "a") == labels
    assert again.levels == first.levels
    assert again.commit > first.commit
    assert [one.name for one in store.clusterings()] == ["a", "found"]
    assert [one.is_default for one in store.clusterings()] == [True, False]
    # Replaced, it starts anew: no items that were placed later.
    store.add(digits(COUNT, COUNT + 5))
    assert [(one.items, one.placed) for one in store.clusterings()] == [(COUNT, 5), (COUNT, 5)]
    replaced = store.cluster(name="found")
    assert (replaced.items, replaced.placed, replaced.is_default) == (COUNT + 5, 0, True)
    assert {name for level in replaced.levels for name in level.names.values()} <= {"zeros"}
    with store._database.read() as connection:
        counted = connection.execute("SELECT count(*) FROM labels GROUP BY clustering").fetchall()
    assert counted == [(COUNT + 5,), (COUNT + 5,)]  # and nothing of the replaced ones is left
    assert store.verify().ok


def test_noise_is_what_the_network_is_unsure_of_unless_it_is_assigned(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "FEWEST_STEPS", 8)  # so it is unsure of many
    without = store.cluster(name="without", seed=1)
    every = store.cluster(name="every", seed=1, assign_noise=True)
    assert without.noise > 0
    assert every.noise == 0
    assert every.levels == without.levels
    assigned = told(store, "every")
    for id, (number, strength) in told(store, "without").items():
        assert assigned[id][1] == strength
        assert number == (-1 if strength < placing.LEAST_STRENGTH else assigned[id][0])
    assert store.count("cluster.without is null") == without.noise
    assert store.count("cluster.every is null") == 0
    # And so it goes with those that come later: assigned here, left alone there.
    unsure = between(store, "without", 3)
    store.add_vectors(["x", "y", "z"], unsure, encoder=store.info()["spaces"][0]["fingerprint"])
    for name, noise in (("every", False), ("without", True)):
        leaves, strengths = placed(store, name, unsure)
        assert [said(store, name)[id][0] for id in "xyz"] == leaves.tolist()
        assert [said(store, name)[id][1] for id in "xyz"] == pytest.approx(strengths.tolist())
        assert (leaves < 0).tolist() == [noise] * 3


def test_the_number_that_is_asked_for_is_made_and_recorded(store: Store, quick: None) -> None:
    found = store.cluster(7, name="seven")
    assert (found.asked, found.clusters, found.levels[found.level].clusters) == (7, 7, 7)
    assert {number for number, _ in told(store).values()} - {-1} <= set(range(7))


def test_another_clustering_and_level_is_chosen_and_the_newest_is_meant_when_the_default_goes(
    store: Store, quick: None
) -> None:
    store.cluster(name="later", seed=1)
    assert store.clustering().name == "later"
    chosen = store.use_clustering("found", level=0)
    assert (chosen.is_default, chosen.level, chosen.clusters) == (True, 0, chosen.levels[0].clusters)
    assert store.clustering() == chosen
    assert {number for number, _ in told(store).values()} == set(range(chosen.clusters))
    assert told(store) == told(store, "found", 0)
    assert store.use_clustering("found").level == 0  # stays as chosen
    assert store.use_clustering("later").level == store.clustering("later").level
    store.use_clustering("found")
    store.remove_clustering("found")
    assert store.clustering().name == "later"
    assert store.clustering().is_default
    store.remove_clustering("later")
    refused(UnknownRun, "there is no clustering yet", store.clustering)
    refused(UnknownRun, "there is no clustering yet", store.clusters)
    assert store.clusterings() == []
    with store._database.read() as connection:
        assert connection.execute("SELECT count(*) FROM labels").fetchone() == (0,)


def test_a_chosen_level_and_names_survive_closing_and_are_seen_by_others(path: Path) -> None:
    with embedstore.open(path) as store, embedstore.open(path, read_only=True) as other:
        finest = store.clustering().levels[-1].clusters
        assert other.count("cluster = 0") == store.count("cluster = 0")
        store.use_clustering("found", level=0)
        store.name_cluster(0, "many")
        expected = sum(number == 0 for number, _ in told(store, "found", 0).values())
        assert other.count("cluster = 'many'") == expected == store.count("cluster = 0")
        assert other.clustering().clusters < finest
    with embedstore.open(path) as store:
        assert store.clustering().levels[0].names == {0: "many"}
        assert store.clustering().level == 0


def test_a_term_of_an_expression_follows_the_chosen_level_and_the_name(store: Store) -> None:
    fine = store.evaluate("cluster(0)").vector
    store.use_clustering("found", level=0)
    inside = [id for id, (number, _) in told(store, level=0).items() if number == 0]
    expected = np.mean([store.vector(id).vector for id in inside], axis=0)
    np.testing.assert_allclose(store.evaluate("cluster(0)").vector, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(fine - expected).max() > 0.1
    for number in (0, 1):
        store.name_cluster(0, "")
        store.name_cluster(1, "")
        store.name_cluster(number, "it")
        np.testing.assert_array_equal(
            store.evaluate("cluster('it')").vector, store.evaluate(f"cluster({number})").vector
        )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(-1, 5),
            st.sampled_from(["", "a", "b", " a ", "größe", "it's", '"', "x" * 100]),
        ),
        max_size=8,
    )
)
def test_names_of_clusters_are_kept_by_level_each_once(store: Store, steps: list[tuple[int, int, str]]) -> None:
    model: dict[tuple[int, int], str] = {}
    for level, found in enumerate(store.clustering().levels):
        for number in found.names:
            store.name_cluster(number, "", level=level)
    counts = [level.clusters for level in store.clustering().levels]
    for level, number, label in steps:
        text = label.strip()
        twice = any(
            (at, one) != (level, number) and at == level and named == text for (at, one), named in model.items()
        )
        if not 0 <= number < counts[level]:
            refused(
                InvalidArgument,
                f"is {number}, but must",
                lambda n=number, t=label, at=level: store.name_cluster(n, t, level=at),
            )
        elif text and twice:
            refused(InvalidArgument, "already", lambda n=number, t=label, at=level: store.name_cluster(n, t, level=at))
        else:
            store.name_cluster(number, label, level=level)
            model.pop((level, number), None)
            if text:
                model[level, number] = text
    for level, found in enumerate(store.clustering().levels):
        assert found.names == {number: text for (at, number), text in model.items() if at == level}


@pytest.mark.parametrize("label", ["x" * 101, "a\nb", "tab\tbed", "\0", "\u200b"])
def test_a_cluster_s_name_is_short_and_printable(store: Store, label: str) -> None:
    refused(InvalidArgument, "can't name a cluster", lambda: store.name_cluster(0, label))
    assert store.clustering().levels[store.clustering().level].names == {}


@pytest.mark.parametrize("name", ["", " a", "a ", "a=b", "a,b", "x" * 101, "a'b", 'a"b', "a\nb", "a(b)", "`"])
def test_a_clustering_s_name_can_be_written_on_a_command_line_and_in_a_filter(store: Store, name: str) -> None:
    refused(InvalidArgument, "can't name a clustering", lambda: store.cluster(name=name))
    assert [one.name for one in store.clusterings()] == ["found"]


@pytest.mark.parametrize("name", ["x y", "größe", "in", "cluster", "x" * 100, "a.b", "2024", "-"])
def test_every_name_that_is_taken_can_be_asked_for_in_a_filter(store: Store, quick: None, name: str) -> None:
    with closing(sqlite3.connect(store.path / "store.db")) as database, database:
        database.execute("UPDATE clusterings SET name = ?", (name,))  # as `cluster(name=name)` would store it
    stored.check_name(name, "clustering")
    assert store.count(f'cluster."{name}" is not null') == COUNT
    assert store.clustering(name).name == name


def test_what_isn_t_there_is_said_with_what_is_near(store: Store) -> None:
    refused(UnknownRun, "no clustering is named 'fond': did you mean 'found'?", lambda: store.clustering("fond"))
    for call in (store.clustering, store.clusters, store.use_clustering, store.remove_clustering):
        refused(UnknownRun, "no clustering is named 'zzz': there is 'found'", lambda c=call: c("zzz"))
    refused(UnknownRun, "no clustering is named 'x'", lambda: store.name_cluster(0, "a", name="x"))
    top = len(store.clustering().levels)
    for level in (-1, top, 99):
        for call in (store.use_clustering, store.clusters):
            refused(
                InvalidArgument,
                f"is {level}, but must be a whole number from 0 to {top - 1}",
                lambda c=call, n=level: c("found", level=n),
            )
        refused(InvalidArgument, f"is {level}, but must", lambda n=level: store.name_cluster(0, "a", level=n))
    for number in (-1, 99):
        refused(InvalidArgument, f"is {number}, but must be a whole", lambda n=number: store.name_cluster(n, "a"))
    refused(UnknownSpace, "nope", lambda: store.clusterings(space="nope"))


def test_a_store_that_is_read_can_t_be_clustered_or_named(path: Path) -> None:
    with embedstore.open(path, read_only=True) as store:
        assert store.clustering().name == "found"
        assert len(store.clusters()) == store.clustering().clusters
        for call in (
            lambda: store.use_clustering("found", level=0),
            lambda: store.name_cluster(0, "a"),
            lambda: store.remove_clustering("found"),
        ):
            refused(StoreReadOnly, "opened for reading", call)


def test_a_store_without_items_has_no_clusters(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "empty.store") as store:
        refused(EmbedstoreError, ".", store.cluster)
        refused(EmbedstoreError, ".", store.clusters)


@pytest.mark.parametrize(
    "told_of_itself",
    ["", "7", "[]", "nonsense", '"text"', "null"],
)
def test_a_run_that_is_no_object_is_said_to_be_unreadable(path: Path, told_of_itself: str) -> None:
    damage(path, told_of_itself)
    with embedstore.open(path) as store:
        refused(StoreDamaged, "clustering 'found' is unreadable: remove it", store.clustering)
        refused(StoreDamaged, "clustering 'found' is unreadable: remove it", lambda: store.count("cluster = 0"))
        assert any("'found'" in text for text in store.verify().derived)
        assert store.verify().problems == []
        assert len(store.search(store.item("d000"), k=3)) == 3  # the rest of the store goes on


def damage(path: Path, told_of_itself: Any) -> None:
    with closing(sqlite3.connect(path / "store.db")) as database, database:
        database.execute("UPDATE clusterings SET made = ?", (told_of_itself,))
