"""Row numbers to ids and metadata without asking SQLite for each hit."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Texts are kept as strings while they take at most so many bytes, and else as UTF-8 behind one another: a fifth of
#: the memory, for some microseconds a query. (An array of fixed width was rejected: NumPy's calls cost more than ten
#: steps of a loop.)
_STRING_BYTES = 16 * 2**20
_OVERHEAD = 72  # bytes of a string, and of the list's pointer to it, beside its letters


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A text of each of many rows. Never changed: ``grown`` makes the next one.

    Rows deleted since it was read stay in it; a newer snapshot never asks for them.

    Attributes:
        rows: int64 (n,), ascending.
        first: the lowest row.
        last: the highest row, 0 where there is none.
        size: UTF-8 bytes of all texts.
        strings: the texts, or None where ``block`` has them.
        block: the texts in UTF-8.
        offsets: int64 (n + 1,), where each begins in the block.
    """

    rows: npt.NDArray[np.int64]
    first: int
    last: int
    size: int
    strings: list[str] | None
    block: bytes
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, str]]) -> TextColumn:
        """From (row, text) pairs by ascending row; they may be many, and are not kept."""
        numbers, strings = array("q"), []
        for row, text in pairs:
            numbers.append(row)
            strings.append(text)
        rows = np.array(numbers, dtype=np.int64)
        first, last = (numbers[0], numbers[-1]) if numbers else (1, 0)
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in strings)
        if size + _OVERHEAD * len(rows) <= _STRING_BYTES:
            return cls(rows, first, last, size, strings, b"", np.zeros(1, dtype=np.int64))
        encoded = [text.encode("utf-8", "surrogatepass") for text in strings]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        return cls(rows, first, last, size, None, b"".join(encoded), np.concatenate([[0], np.cumsum(lengths)]))

    def grown(self, pairs: Iterable[tuple[int, str]]) -> TextColumn:
        """With pairs of later rows behind."""
        more = TextColumn.of(pairs)
        if not len(more.rows) or not len(self.rows):
            return more if len(more.rows) else self
        rows, size = np.concatenate([self.rows, more.rows]), self.size + more.size
        if self.strings is not None and more.strings is not None and size + _OVERHEAD * len(rows) <= _STRING_BYTES:
            return TextColumn(rows, self.first, more.last, size, self.strings + more.strings, b"", self.offsets)
        if self.strings is None and more.strings is None:
            offsets = np.concatenate([self.offsets, more.offsets[1:] + self.offsets[-1]])
            return TextColumn(rows, self.first, more.last, size, None, self.block + more.block, offsets)
        return TextColumn.of(
            pair
            for part in (self, more)
            for pair in zip(part.rows.tolist(), part.strings or part.lookup(part.rows), strict=True)
        )

    def lookup(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """The texts of these rows.

        Raises:
            KeyError: a row isn't in the column: it is newer, or was deleted before the column was read.
        """
        wanted = rows.tolist()
        if not wanted:
            return []
        first = self.first
        if not first <= min(wanted) <= max(wanted) <= self.last:
            raise KeyError("row")
        if self.last - first + 1 == len(self.rows):  # no row is missing in between: nothing to search
            at = [row - first for row in wanted]
        else:
            found = self.rows.searchsorted(rows)
            if (self.rows[found] != rows).any():
                raise KeyError("row")
            at = found.tolist()
        if (strings := self.strings) is not None:
            return [strings[i] for i in at]
        block, offsets = self.block, memoryview(self.offsets.data)  # an array gives single numbers three times slower
        return [block[offsets[i] : offsets[i + 1]].decode("utf-8", "surrogatepass") for i in at]
