"""Row numbers to texts, however the texts are kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.query import texts
from embedstore.query.texts import TextColumn

_LIMITS = (0, 500, 1 << 24)  # never as strings; as strings until there are a few; always
_TEXT = st.text(st.characters(codec=None), max_size=8)  # lone surrogates included: undecodable file names have them


@given(st.dictionaries(st.integers(1, 60), _TEXT, min_size=1), st.integers(1, 9), st.sampled_from(_LIMITS))
def test_a_column_grown_in_steps_gives_the_text_of_every_row_in_any_order(
    known: dict[int, str], step: int, limit: int
) -> None:
    pairs = sorted(known.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "_STRING_BYTES", limit)
        column = TextColumn.of([])
        for start in range(0, len(pairs), step):
            column = column.grown(pairs[start : start + step])
        backwards = np.array([row for row, _ in reversed(pairs)])
        assert column.lookup(backwards) == [text for _, text in reversed(pairs)]
        assert column.last == pairs[-1][0]
        assert column.size == sum(len(text.encode("utf-8", "surrogatepass")) for text in known.values())


@given(st.sets(st.integers(1, 20)), st.integers(-1, 30), st.sampled_from(_LIMITS))
def test_a_row_that_is_not_in_the_column_is_a_key_error(rows: set[int], asked: int, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "_STRING_BYTES", limit)
        column = TextColumn.of([(row, str(row)) for row in sorted(rows)])
        wanted = np.array([*sorted(rows), asked], dtype=np.int64)
        if asked in rows:
            assert column.lookup(wanted)[-1] == str(asked)
        else:
            with pytest.raises(KeyError):
                column.lookup(wanted)


def test_nothing_asked_is_nothing_answered() -> None:
    assert TextColumn.of([]).lookup(np.empty(0, dtype=np.int64)) == []
