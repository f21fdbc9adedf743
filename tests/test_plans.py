"""Plans: whichever answers a search under a filter, its hits match, are as near as brute force's, and none lacks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.config import StoreConfig
from embedstore.errors import FilterError, NothingMatches
from embedstore.filters import Field
from embedstore.filters import columns as filter_columns
from embedstore.index import exact, tier
from embedstore.metadata import columns
from embedstore.query import engine, matching
from embedstore.store import Store
from embedstore.truth import opening
from embedstore.types import Metric

from .stores import refused

COUNT, TAIL, D = 3_000, 60, 16
FACTORIES = ["HNSW16,SQ8", "HNSW16,Flat", "PCA8,HNSW16,SQ8", "IVF16,SQ8", "Flat"]
FACTORIES += ["IVF16,Flat", "IVF16,SQfp16", "IVF16,SQ4", "IVF16,RaBitQfs", "PCA8,IVF16,SQ8"]
U = np.random.default_rng(1).random(COUNT + TAIL)
GONE = range(0, COUNT, 17)
#: A filter, and the numbers of the items that match it.
FILTERS: list[tuple[str, Callable[[int], bool]]] = [
    ("u < 0.7", lambda i: U[i] < 0.7),
    ("u < 0.2", lambda i: U[i] < 0.2),
    ("u < 0.01", lambda i: U[i] < 0.01),
    ("half = true", lambda i: i % 12 < 6),
    ("cloud = 3", lambda i: i % 12 == 3),
    ("cloud in (1, 7) and u >= 0.5 or name = 'n5'", lambda i: (i % 12 in (1, 7) and U[i] >= 0.5) or i % 100 == 5),
    ("not (half = true or u < 0.25)", lambda i: not (i % 12 < 6 or U[i] < 0.25)),
    (
        "id in ('i5', 'i6', 'i17') or id like 'i30%' and cloud != 4",
        lambda i: i in (5, 6) or (str(i).startswith("30") and i % 12 != 4),
    ),
]


def latents(count: int, seed: int = 0) -> np.ndarray:
    """In twelve clouds, the cloud of row i being i % 12."""
    rng = np.random.default_rng(seed)
    centres = 3.0 * np.random.default_rng(99).normal(size=(12, D))
    return (centres[np.arange(count) % 12] + rng.normal(size=(count, D))).astype(np.float32)


LATENTS = latents(COUNT + TAIL)
LATENTS[100:140] = LATENTS[100]  # ties
METADATA = [{"cloud": i % 12, "half": i % 12 < 6, "u": float(U[i]), "name": f"n{i % 100}"} for i in range(COUNT + TAIL)]


def make(path: Path, factory: str, metric: str = "l2") -> Path:
    """A store with a tier of 3,000 rows, some of them deleted, and a tail."""
    opening.create(path, StoreConfig(factory=factory, recall=0.95, tail_floats=TAIL * D + 1))
    with Store(path) as store:
        ids = [f"i{i}" for i in range(COUNT + TAIL)]
        store.add_vectors(ids[:COUNT], LATENTS[:COUNT], METADATA[:COUNT], metric=metric)
        store.build()
        store.add_vectors(ids[COUNT:], LATENTS[COUNT:], METADATA[COUNT:])
        store.delete([f"i{i}" for i in GONE])
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    made: dict[tuple[str, str], Path] = {}

    def get(factory: str, metric: str) -> Path:
        if (factory, metric) not in made:
            made[factory, metric] = make(tmp_path_factory.mktemp("plans") / "p.store", factory, metric)
        return made[factory, metric]

    return get


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(make(tmp_path / "own.store", "HNSW16,SQ8")) as store:
        yield store


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("plan", ["exact", "packed codes", "index, filtered"])
def test_every_plan_finds_what_brute_force_finds(
    stores: Callable[[str, str], Path], factory: str, metric: Metric, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_SCAN_NUMBERS", 2**19 if plan == "exact" else 0)
    monkeypatch.setattr(tier, "_ROW_NS", 0.0 if plan == "packed codes" else 1e9)
    monkeypatch.setattr(tier, "_ROW_BYTE_NS", 0.0)
    queries = latents(24, seed=5)  # of each cloud, two
    live = np.setdiff1d(np.arange(COUNT + TAIL), GONE)
    plans = set()
    with Store(stores(factory, metric.value)) as store:
        store._searcher.engine.load(store._view(None))
        for text, matches in FILTERS:
            among = np.array([i for i in live if matches(int(i))])
            truth, _ = exact.search([(0, LATENTS[among])], queries, 10, metric)
            recalls = []
            for asked in (
                store.search(queries, 10, where=text),
                [store.search(one, 10, where=text) for one in queries],
            ):
                for i, hits in enumerate(asked):
                    numbers = [int(one[1:]) for one in hits.ids]
                    assert set(numbers) <= set(among.tolist()), text
                    assert len(set(numbers)) == min(10, len(among)), text
                    own = exact.distances(queries[i : i + 1], LATENTS[numbers][None], metric)[0]
                    np.testing.assert_allclose(hits.distances, own, rtol=1e-5, atol=1e-5)
                    assert (np.diff(hits.distances) >= 0).all()
                    last = truth[i, len(numbers) - 1]
                    recalls.append(np.mean(hits.distances <= last + 1e-5 * (1 + abs(last))))
                    plans.add(str(hits.stats["plan"]))
            assert np.mean(recalls) >= (1 if plan == "exact" else 0.93), text
    # Where a plan isn't to be had (inverted lists and flat tiers hold no codes by row; a graph of inner products isn't
    # walked for some of its rows), another one answers.
    walked = plan == "index, filtered" and metric is Metric.IP
    assert "HNSW" not in factory or walked or plan in " ".join(plans)


def test_a_filter_that_leaves_what_is_far_from_the_query_keeps_its_recall(
    stores: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walk towards the query then meets hardly a row that counts, and those that it does need not be the nearest."""
    monkeypatch.setattr(engine, "_SCAN_NUMBERS", 0)
    monkeypatch.setattr(tier, "_ROW_NS", 1e9)  # nothing is packed but in need
    with Store(stores("HNSW16,SQ8", "l2")) as store:
        report = store.recall(where="half = true", sample=300)
        assert report.recall >= 0.95
        assert (report.where, report.matches) == ("half = true", store.count("half = true"))
        assert f"among the {report.matches:,} items where half = true" in str(report)
        far = store.search(latents(12, seed=3)[7], 10, where="half = true")
    assert "packed codes instead" in str(far.stats)


def test_recall_under_a_filter_of_few_and_of_none(store: Store) -> None:
    assert store.recall(where="id in ('i5', 'i6')", sample=50).recall == 1
    refused(NothingMatches, "no item matches u > 2", lambda: store.recall(where="u > 2"))


# -- what a filter matches ---------------------------------------------------------------------------------------------


def ids(store: Store, text: str) -> set[str]:
    """By a search, which asks columns."""
    return set(store.search(LATENTS[5], COUNT + 500, where=text, exact=True).ids)


def test_columns_say_what_sqlite_says_while_the_store_changes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_AT_ONCE", 700)  # several readings
    odd: list[dict[str, Any]] = [
        {"u": 0.5},
        {"u": None, "cloud": 3},
        {"u": "0.5"},
        {"u": True, "cloud": "3"},
        {"cloud": [3]},
        {},
        {"late": 1},
    ]
    texts = [text for text, _ in FILTERS]
    texts += ["u = 0.5", "u is null", "u is not null", "u > '0'", "cloud != 3", "not cloud = 3", "cloud like '3'"]
    rng = np.random.default_rng(3)
    with Store(store.path) as other:
        for step in range(6):
            for text in texts:
                expected = set(store.ids(text))
                assert ids(store, text) == expected, text
                assert ids(other, text) == expected, text
            store.add_vectors([f"x{step}/{i}" for i in range(7)], latents(7, step), odd)
            other.update(f"i{int(rng.integers(18, 30)) + 40 * step}", metadata={"u": 0.5, "cloud": 11})
            store.delete(where=f"cloud = {step} and u < 0.5")
            if step == 3:
                store.compact()
            texts.append("late = 1")


def test_a_filter_is_asked_once_a_commit(store: Store) -> None:
    def how(text: str) -> Any:
        return store.search(LATENTS[0], 3, where=text, explain=True).stats["filter"]

    assert how("cloud = 3") == "columns"
    assert how("cloud = 3") == "kept"
    assert how("cloud = 4") == "columns"
    assert how("id like 'i7%' and cloud = 4") == "columns and SQL"
    assert how("id = 'i7'") == "SQL"
    store.delete("i1")
    assert how("cloud = 3") == "columns"
    stats = store.search(LATENTS[0], 3, where="cloud = 3 and half = true", explain=True).stats
    live = [i for i in range(COUNT + TAIL) if i not in GONE and i != 1]
    assert stats["matches"] == sum(i % 12 == 3 for i in live)
    share = np.mean([i % 12 == 3 for i in live]) * np.mean([i % 12 < 6 for i in live])
    assert stats["expected"] == pytest.approx(share * len(live), rel=0.05)
    assert stats["distances"] >= 3


def test_an_unknown_field_is_pointed_at_and_a_known_one_without_values_isn_t(store: Store) -> None:
    with pytest.raises(FilterError, match="unknown field clod; did you mean cloud"):
        store.search(LATENTS[0], where="u > 0.5 and clod = 3")
    store.add_vectors(["empty"], LATENTS[:1], [{"nothing": None}])
    assert ids(store, "nothing = 3") == set()
    assert ids(store, "nothing is null and cloud is null") == {"empty"}


def test_what_a_column_doesn_t_hold_is_asked_of_sqlite(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    big = 2**53
    store.add_vectors(["a", "b"], LATENTS[:2], [{"n": big}, {"n": big + 1}])
    assert ids(store, f"n = {big + 1}") == {"b"}
    assert ids(store, f"u < 0.001 or n > {big}") == {"b", *store.ids("u < 0.001")}
    monkeypatch.setattr(columns, "MOST_TEXTS", 20)
    assert store.search(LATENTS[0], 3, where="name = 'n7'", explain=True).stats["filter"] == "SQL"
    assert ids(store, "name = 'n7'") == set(store.ids("name = 'n7'"))
    assert ids(store, "cloud = 3 and name != 'n7'") == set(store.ids("cloud = 3 and name != 'n7'"))


def test_many_texts_are_asked_by_sqlite_where_each_has_to_be(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def how(text: str) -> Any:
        assert ids(store, text) == set(store.ids(text))
        return store.search(LATENTS[0], 3, where=text + " and cloud < 12", explain=True).stats["filter"]

    texts = ("name like 'n7%'", "name > 'n5'", "not name between 'n2' and 'n3'", "name = 'n7'", "name in ('n1', 'n2')")
    assert [how(text) for text in texts] == ["columns"] * 5
    monkeypatch.setattr(matching, "_ASKED_TEXTS", 20)
    store.delete("i3")
    assert [how(text) for text in texts] == ["columns and SQL"] * 3 + ["columns"] * 2


@pytest.mark.parametrize("limit", ["_LONGEST", "_MOST_BYTES"])
def test_prose_is_no_column(store: Store, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, limit, {"_LONGEST": 100, "_MOST_BYTES": 40 * 250}[limit])
    monkeypatch.setattr(columns, "_AT_ONCE", 7)
    prose = [{"prose": f"{i} " + "x" * 110, "list": ["x" * 200]} for i in range(40)]
    store.add_vectors([f"p{i}" for i in range(40)], latents(40), prose)
    asked = "prose like '3%' and list is not null"
    assert ids(store, asked) == set(store.ids(asked)) == {f"p{i}" for i in range(40) if str(i).startswith("3")}
    assert store.search(LATENTS[0], 3, where=asked, explain=True).stats["filter"] == "kept"
    matcher = store._searcher.matcher
    assert matcher._columns["prose",].values is None
    assert matcher._columns["prose",].size == 0
    assert matcher._columns["list",].values is not None, "what is in a list matters to no filter"


def test_a_writer_waits_for_no_filter_that_is_being_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    added = []

    def holding(*given: Any) -> Any:
        with Store(store.path) as other:
            added.append(other.add_vectors([f"late{len(added)}"], LATENTS[:1]).added)
        return filter_columns.holding(*given)

    monkeypatch.setattr(matching, "holding", holding)
    monkeypatch.setattr("embedstore.metadata.database._BUSY_SECONDS", 0.5)
    assert store.search(LATENTS[5], COUNT, where="cloud = 3 and u < 0.5", exact=True).ids
    assert added == [1, 1]


def test_a_field_that_only_deleted_items_had_is_unknown_again(store: Store) -> None:
    store.add_vectors(["old"], LATENTS[:1], [{"old": 2}])
    assert ids(store, "old = 2") == {"old"}
    store.delete("old")
    for ask in (store.count, lambda text: ids(store, text)):
        with pytest.raises(FilterError, match="unknown field old"):
            ask("old = 2")


def test_some_deleted_items_cost_an_inner_product_graph_no_scan(
    stores: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_SCAN_NUMBERS", 0)
    monkeypatch.setattr(tier, "_ROW_NS", 1e9)  # a scan isn't taken for its speed
    with Store(stores("HNSW16,SQ8", "ip")) as store:
        store._searcher.engine.load(store._view(None))
        long = 5 * LATENTS[7]
        assert "packed" not in str(store.search(long, 10).stats["plan"])
        assert "packed" in str(store.search(long, 10, where="u < 0.5").stats["plan"])
        assert store.recall(sample=200).recall >= 0.95


def test_what_is_kept_stays_within_bounds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_KEPT_BYTES", 20_000)
    monkeypatch.setattr(matching, "_COLUMN_BYTES", 60_000)
    monkeypatch.setattr(matching, "_LOOKED_AFTER", 4)
    for i in range(40):
        text = f"u < {i / 40} and cloud = {i % 12} and name != 'n{i}'"
        assert ids(store, text) == set(store.ids(text))
    matcher = store._searcher.matcher
    assert len(matcher._kept) < 10
    assert 1 <= len(matcher._columns) < 3


def test_threads_ask_at_once(store: Store) -> None:
    texts = [f"u < {i / 10} and cloud in ({i}, {i + 1})" for i in range(10)]
    expected = {text: set(store.ids(text)) for text in texts}
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda text: ids(store, text) == expected[text], texts * 6))


def test_a_column_holds_what_is_there(store: Store) -> None:
    found = columns.read(store._database.read, Field(("cloud",)))
    assert found.values is not None
    assert found.values.numbers is not None
    assert np.array_equal(found.values.numbers, [i % 12 for i in range(COUNT + TAIL) if i not in GONE])
    assert found.values.texts == {}
    missing = columns.read(store._database.read, Field(("missing",))).values
    assert missing is not None
    assert not missing.there.any()


@pytest.mark.parametrize("at_once", [200, 1_000])
def test_commits_while_a_column_is_read_neither_wait_nor_are_missed(
    store: Store, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(columns, "_AT_ONCE", at_once)
    monkeypatch.setattr("embedstore.metadata.database._BUSY_SECONDS", 0.5)
    part, made, alone = columns._part, 0, threading.Lock()

    def changing(*given: Any) -> Any:
        nonlocal made
        found = part(*given)
        with alone:  # parts are read by several threads
            if made < 6:
                made += 1
                with Store(store.path) as other:
                    other.add_vectors([f"late{made}"], LATENTS[:1], [{"cloud": 3}])
                    other.delete([f"i{made * 12 + 3}", f"i{COUNT - made * 12 + 3}"])
        return found

    monkeypatch.setattr(columns, "_part", changing)
    found = ids(store, "cloud = 3")
    assert made == 6
    assert found == set(store.ids("cloud = 3"))
    assert {f"late{number}" for number in range(1, 7)} <= found
