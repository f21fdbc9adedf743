"""What may enter a store: each fault is found, and nothing else is called one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embedstore.errors import InvalidArgument, InvalidVector
from embedstore.types import Metric
from embedstore.validate import as_vectors, check_k, check_queries, dump_metadata, id_fault, last_of_each, vector_faults

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(text, plain, max_size=4))
def test_metadata_comes_back_as_it_went_in_and_its_text_knows_no_order(metadata: dict) -> None:
    stored = dump_metadata(metadata)
    assert json.loads(stored) == metadata
    assert dump_metadata(dict(reversed(metadata.items()))) == stored


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": math.nan}, {"a": [math.inf]}, {1: 2}, {"a": {1, 2}}, {"a": b"x"}, {"a": "x\0y"}, {"a\0": 1},
        {"a": [{"b": "\0"}]}, {"a": "\ud800"}, ["a"],
    ],
    ids=repr,
)  # fmt: skip
def test_metadata_that_json_or_sqlite_would_bend_is_refused(metadata: object) -> None:
    with pytest.raises(InvalidArgument):
        dump_metadata(metadata)  # type: ignore[arg-type]


def test_a_backslash_before_u0000_is_text_like_any_other() -> None:
    assert json.loads(dump_metadata({"a": "\\u0000"})) == {"a": "\\u0000"}


def test_numpy_values_become_json_values() -> None:
    stored = dump_metadata({"i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "v": np.arange(2)})
    assert json.loads(stored) == {"i": 3, "f": 0.5, "b": True, "v": [0, 1]}


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 4)),
        elements=st.sampled_from([0.0, 1.0, -2.5, np.nan, np.inf, -np.inf, 1e30, 1e-30]),
    ),
    st.sampled_from(list(Metric)),
)
def test_exactly_the_vectors_without_usable_float32_distances_are_faulty(vectors: np.ndarray, metric: Metric) -> None:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = (vectors * vectors).sum(axis=1, dtype=np.float32)
    expected = {
        i for i in range(len(vectors)) if not math.isfinite(squares[i]) or (metric is Metric.COSINE and squares[i] == 0)
    }
    assert set(vector_faults(vectors, metric)) == expected
    for index in range(len(vectors)):
        one = vectors[index : index + 1]
        if index in expected:
            with pytest.raises(InvalidVector):
                check_queries(one, vectors.shape[1], metric)
        else:
            check_queries(one, vectors.shape[1], metric)


@given(st.lists(st.sampled_from("abc")))
def test_of_each_id_the_last_is_kept_in_order(ids: list[str]) -> None:
    kept = last_of_each(ids)
    assert kept == sorted(kept)
    assert {ids[i]: i for i in kept} == {name: i for i, name in enumerate(ids)}


@pytest.mark.parametrize("k", [0, -1, True, 1.0, "3", None, 100_001])
def test_k_is_a_whole_number_in_range(k: object) -> None:
    with pytest.raises(InvalidArgument, match="k is"):
        check_k(k)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a\0", "\ud800", "x" * 1025, 3, None])
def test_ids_that_sqlite_or_people_could_not_hold_are_refused(name: object) -> None:
    assert id_fault(name) is not None


@given(text.filter(lambda name: name and len(name.encode()) <= 1024))
def test_any_other_text_is_an_id(name: str) -> None:
    assert id_fault(name) is None


@pytest.mark.parametrize("value", [["a"], [[None]], np.zeros((2, 2, 2)), np.array(3.0), [[1 + 2j]]], ids=repr)
def test_what_is_no_vector_is_refused(value: object) -> None:
    with pytest.raises(InvalidVector):
        as_vectors(value)
