"""Every mistake of a user gets one clear sentence, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedstore
from embedstore.errors import (
    DimensionMismatch,
    EmbedstoreError,
    EncoderMismatch,
    FilterError,
    InvalidArgument,
    InvalidVector,
    NoDecoder,
    NoEncoder,
    SpaceMismatch,
    UnknownItem,
    UnknownSpace,
    UnreadableItem,
)
from embedstore.store import Store

from .pictures import image_of, noise
from .stores import D, refused, small_store, vectors

NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with small_store(tmp_path / "vectors.store") as opened:
        opened.add_vectors(["a", "b", "c"], vectors(3), [{"label": "Boot", "n": i} for i in range(3)])
        yield opened


@pytest.fixture
def empty(tmp_path: Path) -> Any:
    with embedstore.create(tmp_path / "empty.store") as opened:
        yield opened


# -- k, recall, queries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "k", [0, -1, True, False, 2.0, 1.5, float("nan"), "3", None, 10**9, 10**30, [1], np.float32(2)]
)
def test_k_must_be_a_whole_number_in_range(store: Store, empty: Store, k: Any) -> None:
    for where in (store, empty):
        refused(InvalidArgument, "k is .* from 1 to 100,000", lambda opened=where: opened.search(vectors(1)[0], k=k))
    refused(InvalidArgument, "k is", lambda: store.recall(k=k))


@pytest.mark.parametrize("k", [3, 4, 1000, 100_000, np.int64(3), np.uint8(200)])
def test_k_beyond_the_number_of_items_gives_all(store: Store, k: Any) -> None:
    assert sorted(store.search(vectors(1)[0], k=k).ids) == ["a", "b", "c"]


@pytest.mark.parametrize("recall", [0, -0.1, 1.01, float("nan"), float("inf"), "0.9", True, [0.9]])
def test_recall_must_be_a_share(store: Store, tmp_path: Path, recall: Any) -> None:
    refused(InvalidArgument, "recall is", lambda: store.search(vectors(1)[0], recall=recall))
    refused(InvalidArgument, "recall is", lambda: store.recall(recall=recall))
    refused(InvalidArgument, "recall is", lambda: embedstore.create(tmp_path / "new.store", recall=recall))
    assert not (tmp_path / "new.store").exists()


@pytest.mark.parametrize("sample", [0, -1, 1.5, "9", True])
def test_the_sample_of_recall_must_be_a_whole_number(store: Store, sample: Any) -> None:
    refused(InvalidArgument, "sample is", lambda: store.recall(sample=sample))


@pytest.mark.parametrize("seed", [-1, 1.5, "x", None, 2**40, True])
def test_a_seed_must_be_a_whole_number(tmp_path: Path, seed: Any) -> None:
    refused(InvalidArgument, "seed is", lambda: embedstore.create(tmp_path / "new.store", seed=seed))


def test_a_text_is_a_path_and_an_items_id_is_said_to_be_asked_otherwise(tmp_path: Path) -> None:
    with small_store(tmp_path / "t.store") as store:
        store.add_vectors(["a.png"], vectors(1))
        refused(
            UnreadableItem,
            r"a\.png: .*; the item of that id is asked with as store\.item\('a\.png'\)",
            lambda: store.search("a.png"),
        )
        assert "item" not in refused(UnreadableItem, "b.png", lambda: store.search("b.png"))


BAD_QUERIES: list[tuple[type[EmbedstoreError], str, Any]] = [
    (DimensionMismatch, "4 dimensions, but the query vectors have 3", np.zeros(3, np.float32)),
    (DimensionMismatch, "4 dimensions", np.zeros((2, 5))),
    (DimensionMismatch, "4 dimensions", [1.0, 2.0]),
    (InvalidVector, "the query .* NaN or infinity", np.array([1, 2, np.nan, 0])),
    (InvalidVector, "NaN or infinity", [1.0, float("inf"), 0.0, 0.0]),
    (InvalidVector, "query 1 .* NaN or infinity", np.array([[0, 0, 0, 0], [np.nan, 0, 0, 0]])),
    (InvalidVector, "too long", np.full(D, 1e30)),
    (InvalidVector, "NaN or infinity", np.full(D, 1e300)),
    (InvalidVector, "numbers, not complex", np.zeros(D, complex)),
    (InvalidVector, "numbers, not bool", np.zeros(D, bool)),
    (InvalidVector, "numbers, not <U", np.array(["a"] * D)),
    (InvalidVector, "numbers, not object", object()),
    (InvalidVector, "numbers, not object", None),
    (InvalidVector, "numbers, not object", {"a": 1}),
    (InvalidVector, "shape", np.zeros((2, 2, D))),
    (InvalidVector, "shape", np.zeros((1, 2, 3, D))),
    (InvalidVector, "shape", np.zeros(0)),
    (InvalidVector, "shape", 3.5),
    (InvalidVector, "a query vector", [[1.0, 2.0], [1.0, 2.0, 3.0], "x" * 0]),
    (EmbedstoreError, "missing.png.* can't be (read|opened)", Path("missing.png")),
    (EmbedstoreError, "missing.png.* can't be (read|opened)", "missing.png"),
    (EmbedstoreError, "directory", Path("/")),
    (UnknownItem, "no item has the id 'zz'", embedstore.store.ItemRef("zz")),
    (UnknownItem, "an id must be text", embedstore.store.ItemRef(7)),  # type: ignore[arg-type]
    (NoEncoder, "precomputed vectors", noise()),
    (SpaceMismatch, "latent is of space 'other'", embedstore.Latent(np.zeros(D, np.float32), "other")),
    (SpaceMismatch, "latent is of space 'default'", embedstore.Latent(np.zeros(D, np.float32), "default", "ab" * 32)),
]


@pytest.mark.parametrize(("kind", "match", "query"), BAD_QUERIES)
def test_a_query_that_can_not_be_asked_is_named(
    store: Store, kind: type[EmbedstoreError], match: str, query: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    if match == "a query vector":
        kind, match = EmbedstoreError, "."
    refused(kind, match, lambda: store.search(query))


def test_a_zero_query_has_no_direction_under_cosine(tmp_path: Path) -> None:
    with small_store(tmp_path / "cosine.store") as store:
        store.add_vectors(["a"], vectors(1), metric="cosine")
        for zero in (np.zeros(D), np.full(D, 1e-30)):
            refused(InvalidVector, "no direction under cosine", lambda query=zero: store.search(query))


def test_no_queries_give_no_answers(store: Store) -> None:
    assert store.search([]) == []
    assert store.search(np.zeros((0, D))) == []


def test_an_empty_store_answers_with_nothing(empty: Store) -> None:
    hits = empty.search(vectors(1)[0])
    assert (hits.ids, list(hits), hits.images(), hits.distances.tolist(), hits.scores.tolist()) == ([], [], [], [], [])
    assert empty.search([0.5] * 3).ids == []
    assert [found.ids for found in empty.search(vectors(2))] == [[], []]
    assert empty.search(noise()).ids == []
    assert empty.search(image_of(noise(channels=1))).ids == []
    assert empty.search(noise(channels=1)[:, :, 0]).ids == []
    assert (len(empty), empty.ids(), empty.count(), empty.delete("a"), empty.delete(where="id = 'a'")) == (
        0,
        [],
        0,
        0,
        0,
    )
    assert empty.verify().ok
    assert empty.compact().dropped == 0
    assert empty.info()["items"] == 0
    for call in (
        empty.recall,
        lambda: empty.encode(noise()),
        lambda: empty.decode(np.zeros(3)),
        lambda: empty.update("a"),
    ):
        refused(UnknownSpace, "is empty: index something first", call)
    for call in (lambda: empty.get("a"), lambda: empty.vector("a"), lambda: empty.images(["a"])):
        refused(EmbedstoreError, "no item has the id 'a'|is empty", call)
    with pytest.raises(FilterError):
        empty.search(vectors(1)[0], where="label = ")


def filtering(store: Store) -> list[Callable[[Any], Any]]:
    return [
        store.count,
        store.ids,
        lambda where: store.delete(where=where),
        lambda where: store.search(vectors(1)[0], where=where),
        lambda where: store.export(store.path / "out.jsonl", where=where),
    ]


# -- filters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("label = ", 8),
        ("", 0),
        ("label = 'x' and", 15),
        ("(label = 'x'", 12),
        ("label = 'x", 8),
        ("label = 'x' garbage", 12),
        ("labl = 'Boot'", 0),
        ("n > 1 and labl = 'Boot'", 10),
        ("n in (1, )", 9),
        ("cluster = 3", 0),
    ],
)
def test_a_bad_filter_shows_where_it_goes_wrong(store: Store, where: str, place: int) -> None:
    for call in (
        store.count,
        store.ids,
        lambda w: store.delete(where=w),
        lambda w: store.search(vectors(1)[0], where=w),
    ):
        with pytest.raises(FilterError) as caught:
            call(where)
        message, shown, caret = str(caught.value).split("\n")
        assert message
        assert (shown, caret, caught.value.position) == (f"  {where}", " " * (place + 2) + "^", place)
    assert len(store) == 3


def test_an_unknown_field_is_suggested(store: Store) -> None:
    with pytest.raises(FilterError, match="unknown field labl; did you mean label"):
        store.count("labl = 'Boot'")


@pytest.mark.parametrize("where", [3, b"n = 1", ["n = 1"], object()])
def test_a_filter_is_text(store: Store, where: Any) -> None:
    for call in (
        store.count,
        store.ids,
        lambda w: store.delete(where=w),
        lambda w: store.search(vectors(1)[0], where=w),
    ):
        refused(EmbedstoreError, "filter", lambda run=call: run(where))


# -- adding -------------------------------------------------------------------------------------------------------


BAD_ADDS: list[tuple[type[EmbedstoreError], str, dict[str, Any]]] = [
    (InvalidArgument, "1 ids were given for 2 vectors", {"ids": ["x"], "vectors": vectors(2)}),
    (InvalidArgument, "2 ids were given for 1 vectors", {"ids": ["x", "y"], "vectors": vectors(1)[0]}),
    (InvalidArgument, "1 metadata were given", {"ids": ["x", "y"], "vectors": vectors(2), "metadata": [{}]}),
    (InvalidArgument, "1 sources were given", {"ids": ["x", "y"], "vectors": vectors(2), "sources": ["s"]}),
    (InvalidArgument, "metadata must be a list", {"ids": ["x"], "vectors": vectors(1), "metadata": {"n": 1}}),
    (InvalidArgument, "ids must be a list", {"ids": "x", "vectors": vectors(1)}),
    (InvalidArgument, "ids must be a list", {"ids": (i for i in "x"), "vectors": vectors(1)}),
    (InvalidVector, "numbers, not object", {"ids": ["x"], "vectors": [object()]}),
    (InvalidVector, "same length", {"ids": ["x", "y"], "vectors": [[1.0, 2.0], [1.0]]}),
    (InvalidVector, "shape", {"ids": ["x"], "vectors": np.zeros((1, 2, D))}),
    (InvalidVector, "shape", {"ids": ["x"], "vectors": np.zeros((1, 0))}),
    (InvalidVector, "shape", {"ids": [], "vectors": []}),
    (InvalidVector, "numbers, not <U", {"ids": ["x"], "vectors": [["a"] * D]}),
    (InvalidArgument, "unknown metric 'manhattan'", {"ids": ["x"], "vectors": vectors(1), "metric": "manhattan"}),
]


@pytest.mark.parametrize(("kind", "match", "arguments"), BAD_ADDS)
def test_vectors_that_can_not_be_added_are_named_and_change_nothing(
    store: Store, empty: Store, kind: type[EmbedstoreError], match: str, arguments: dict[str, Any]
) -> None:
    before = store.info()["commits"]
    refused(kind, match, lambda: store.add_vectors(**arguments))
    assert (store.ids(), store.info()["commits"]) == (["a", "b", "c"], before)
    # A first call that fails must not settle the dimension or the metric of the store.
    refused(kind, match, lambda: empty.add_vectors(**arguments))
    empty.add_vectors(["x"], np.ones((1, 7)), metric="ip")
    assert empty.info()["spaces"][0]["dimension"] == 7


def test_another_dimension_or_metric_is_refused(store: Store) -> None:
    wide = vectors(1, dimension=D + 1)
    refused(DimensionMismatch, "4 dimensions, but the vectors have 5", lambda: store.add_vectors(["x"], wide))
    refused(
        InvalidArgument, "compares by l2, not by cosine", lambda: store.add_vectors(["x"], wide[:, :D], metric="cosine")
    )
    refused(DimensionMismatch, "4 dimensions", lambda: store.update("a", vector=np.zeros(5)))
    assert store.ids() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "can't be empty"),
        ("a\0b", "NUL"),
        ("x" * 1025, "longer than 1024 bytes"),
        ("é" * 513, "longer than 1024 bytes"),
        ("\udcff", "not valid Unicode"),
        (5, "must be text, not int"),
        (None, "must be text, not NoneType"),
        (b"x", "must be text, not bytes"),
    ],
)
def test_an_id_that_can_not_be_is_listed_and_the_rest_kept(store: Store, name: Any, reason: str) -> None:
    report = store.add_vectors(["good", name], vectors(2, seed=1))
    assert (report.added, [failure.id for failure in report.failures]) == (1, [str(name)])
    assert reason in report.failures[0].reason
    assert store.ids() == ["a", "b", "c", "good"]
    refused(EmbedstoreError, ".", lambda: store.get(name))
    refused(EmbedstoreError, ".", lambda: store.vector(name))
    refused(EmbedstoreError, "can't be deleted", lambda: store.delete([name]))
    refused(EmbedstoreError, ".", lambda: store.update(name, metadata={"a": 1}))
    assert len(store) == 4


@pytest.mark.parametrize(
    "metadata", [{"a": float("nan")}, {"a": object()}, {1: "a"}, {"a": b"x"}, {"a": "\ud800"}, [1], "x", {"a": {1, 2}}]
)
def test_metadata_that_json_lacks_is_listed_and_the_rest_kept(store: Store, metadata: Any) -> None:
    report = store.add_vectors(["good", "bad"], vectors(2, seed=1), [{"fine": 1}, metadata])
    assert (report.added, [failure.id for failure in report.failures]) == (1, ["bad"])
    assert store.get("good")["metadata"] == {"fine": 1}
    refused(InvalidArgument, "metadata", lambda: store.update("good", metadata=metadata))
    assert store.get("good")["metadata"] == {"fine": 1}


def test_metadata_that_holds_itself_is_listed(store: Store) -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"in": deep}
    report = store.add_vectors(["x", "y"], vectors(2), [endless, deep])
    assert [failure.id for failure in report.failures] == ["x", "y"]


def test_an_update_takes_what_it_says(store: Store) -> None:
    before = store.vector("a").vector.tolist()
    for kind, match, change in (
        (InvalidVector, "one vector is wanted, not 2", {"vector": vectors(2)}),
        (InvalidVector, "NaN or infinity", {"vector": np.full(D, np.nan)}),
        (NoEncoder, "precomputed vectors", {"picture": noise()}),
        (InvalidArgument, "not both", {"picture": noise(), "vector": vectors(1)}),
        (EmbedstoreError, ".", {"picture": "a.png"}),
        (EmbedstoreError, ".", {"picture": 7}),
        (EmbedstoreError, ".", {"picture": np.zeros((4, 4))}),
    ):
        refused(kind, match, lambda wanted=change: store.update("a", metadata={"n": 9}, **wanted))
    assert (store.get("a")["metadata"]["n"], store.vector("a").vector.tolist()) == (0, before)
    refused(UnknownItem, "no item has the id 'zz'", lambda: store.update("zz", metadata={}))


def test_delete_takes_ids_or_a_filter(store: Store) -> None:
    refused(InvalidArgument, "either ids or where", store.delete)
    refused(InvalidArgument, "either ids or where", lambda: store.delete(["a"], where="n = 1"))
    assert store.delete(["zz", "a", "a"]) == 1
    assert store.delete([]) == 0
    assert store.ids() == ["b", "c"]


def test_pictures_and_vectors_can_not_be_mixed(store: Store) -> None:
    refused(NoEncoder, "precomputed vectors", lambda: store.encode(noise()))
    refused(NoDecoder, "no decoder", lambda: store.decode(vectors(1)))
    refused(NoDecoder, "no decoder", lambda: store.reconstruct("a"))
    refused(EncoderMismatch, "brings pictures, but space", lambda: store.index([noise()], progress=False))
    refused(UnknownSpace, "no space is named 'other'", lambda: store.search(vectors(1)[0], space="other"))


@pytest.mark.parametrize(
    ("bad", "said"),
    [([[np.inf] * 7], "none of the 1 vectors can be stored: the vector has NaN"), (np.zeros((0, 4)), "")],
)
def test_vectors_that_can_not_be_stored_do_not_fix_the_dimension(tmp_path: Path, bad: Any, said: str) -> None:
    with embedstore.create(tmp_path / "s") as store:
        with pytest.raises(InvalidVector, match=said or "none was given"):
            store.add_vectors(["a"] * len(bad), bad)
        assert store.add_vectors(["a"], vectors(1)).added == 1


def test_ids_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "s") as store:
        store.add_vectors(["a"], vectors(1))
        with pytest.raises(InvalidArgument, match="every id must be text"):
            store.add_vectors([["a"]], vectors(1))  # type: ignore[list-item]
        with pytest.raises(InvalidArgument, match="an id must be text, not int"):
            store.delete(5)  # type: ignore[arg-type]
        assert store.ids() == ["a"]
