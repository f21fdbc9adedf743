"""Row numbers to texts, however the texts are kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.query import texts
from embedstore.query.texts import TextColumn

_LIMITS = (0, 500, 1 << 24)  # never as strings; as strings until there are a few; always
_TEXT = st.text(
    st.characters(codec=None, exclude_characters="\0"), max_size=8
)  # lone surrogates included: undecodable file names have them


def joined(pairs: list[tuple[int, str]]) -> tuple[np.ndarray, bytes]:
    texts_ = [text.encode("utf-8", "surrogatepass") for _, text in pairs]
    return np.array([row for row, _ in pairs], dtype=np.int64), b"\0".join(texts_)


def of(pairs: list[tuple[int, str]]) -> TextColumn:
    return TextColumn.of(*joined(pairs))


@given(
    st.dictionaries(st.integers(1, 60), _TEXT, min_size=1),
    st.integers(1, 9),
    st.sampled_from(_LIMITS),
    st.sampled_from((0, 4, 24)),
)
def test_a_column_grown_in_steps_gives_the_text_of_every_row_in_any_order(
    known: dict[int, str], step: int, limit: int, widest: int
) -> None:
    pairs = sorted(known.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "_STRING_BYTES", limit)
        patch.setattr(texts, "_WIDEST", widest)
        column = of([])
        for start in range(0, len(pairs), step):
            column = column.grown(*joined(pairs[start : start + step]))
        backwards = np.array([row for row, _ in reversed(pairs)])
        assert column.lookup(backwards) == [text for _, text in reversed(pairs)]
        assert column.last == pairs[-1][0]
        assert column.size == sum(len(text.encode("utf-8", "surrogatepass")) for text in known.values())


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 50), st.sampled_from(_LIMITS), st.sampled_from((0, 24)))
def test_rows_by_a_shift_are_the_rows_that_they_are(
    count: int, first: int, lowest: int, limit: int, widest: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "_STRING_BYTES", limit)
        patch.setattr(texts, "_WIDEST", widest)
        column = of([(first + i, f"row {first + i}") for i in range(count)])
        numbers = np.array([lowest, lowest + 3, lowest + 1])
        inside = first <= lowest + 2 and lowest + 5 < first + count
        expected = [f"row {2 + number}" for number in numbers] if inside and first <= 2 else None
        assert column.run(2, numbers) == expected
        assert column.run(None, numbers) is None
        assert of([(1, "a"), (3, "b")]).run(1, np.array([0, 2])) is None  # a row is missing in between


@given(st.sets(st.integers(1, 20)), st.integers(-1, 30), st.sampled_from(_LIMITS), st.sampled_from((0, 24)))
def test_a_row_that_is_not_in_the_column_is_a_key_error(rows: set[int], asked: int, limit: int, widest: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "_STRING_BYTES", limit)
        patch.setattr(texts, "_WIDEST", widest)
        column = of([(row, str(row)) for row in sorted(rows)])
        wanted = np.array([*sorted(rows), asked], dtype=np.int64)
        if asked in rows:
            assert column.lookup(wanted)[-1] == str(asked)
        else:
            with pytest.raises(KeyError):
                column.lookup(wanted)


def test_nothing_asked_is_nothing_answered() -> None:
    assert of([]).lookup(np.empty(0, dtype=np.int64)) == []


@pytest.mark.parametrize("widest", [0, 24])
def test_a_few_more_rows_don_t_copy_the_many_there_are(widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_STRING_BYTES", 0)
    monkeypatch.setattr(texts, "_WIDEST", widest)
    column = of([(row, f"row {row}") for row in range(1, 1001)])
    kept = column.fixed if widest else column.block
    for row in range(1001, 1100):
        column = column.grown(*joined([(row, f"row {row}")]))
        assert column.earlier is not None
        assert (column.earlier.fixed if widest else column.earlier.block) is kept
        assert column.lookup(np.array([row, 1, row - 1])) == [f"row {row}", "row 1", f"row {row - 1}"]
    column = column.grown(*joined([(row, f"row {row}") for row in range(1100, 1200)]))
    assert column.earlier is None
    assert column.lookup(np.arange(1, 1200)) == [f"row {row}" for row in range(1, 1200)]
    with pytest.raises(KeyError):
        column.lookup(np.array([1200]))
