"""Row numbers to ids and metadata without asking SQLite for each hit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

#: Texts are kept as strings while they take at most so many bytes, and else as UTF-8 behind one another: a fifth of
#: the memory, for some microseconds a query. (An array of fixed width was rejected: NumPy's calls cost more than ten
#: steps of a loop.)
_STRING_BYTES = 16 * 2**20
_OVERHEAD = 72  # bytes of a string, and of the list's pointer to it, beside its letters
_BETWEEN = "\0"
_RECENT = 8  # what was added lies in a column of its own until it is one in so many

Rows = npt.NDArray[np.int64]


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
        block: the texts in UTF-8, each with a byte behind it.
        offsets: int64 (n + 1,), where each begins in the block.
        earlier: the column of all rows before these, where they are many: it isn't copied for a few more.
    """

    rows: Rows
    first: int
    last: int
    size: int
    strings: list[str] | None
    block: bytes
    offsets: npt.NDArray[np.int64]
    earlier: TextColumn | None = None

    @classmethod
    def of(cls, rows: Rows, joined: bytes) -> TextColumn:
        """Of ascending rows and their texts in UTF-8, with a NUL between each two of them, which no text contains."""
        if not len(rows):
            return cls(np.empty(0, np.int64), 1, 0, 0, [], b"", np.zeros(1, np.int64))
        first, last, size = int(rows[0]), int(rows[-1]), len(joined) - len(rows) + 1
        if size + _OVERHEAD * len(rows) <= _STRING_BYTES:
            strings = joined.decode("utf-8", "surrogatepass").split(_BETWEEN)
            return cls(rows, first, last, size, strings, b"", np.zeros(1, np.int64))
        ends = np.flatnonzero(np.frombuffer(joined, np.uint8) == 0)
        offsets = np.concatenate([[0], ends + 1, [len(joined) + 1]])
        return cls(rows, first, last, size, None, joined, offsets)

    def grown(self, rows: Rows, joined: bytes) -> TextColumn:
        """With later rows behind; arguments as for ``of``."""
        if not len(rows):
            return self
        if not len(self.rows):
            return TextColumn.of(rows, joined)
        if self.earlier is None and (self.strings is not None or len(rows) * _RECENT > len(self.rows)):
            return self._merged(rows, joined)
        earlier = self.earlier or self
        recent = TextColumn.of(rows, joined) if self.earlier is None else self._recent()._merged(rows, joined)
        if len(recent.rows) * _RECENT > len(earlier.rows):
            return earlier._merged(recent.rows, recent._joined())
        return replace(recent, earlier=earlier, size=recent.size + earlier.size)

    def _recent(self) -> TextColumn:
        """Without what is earlier."""
        return self if self.earlier is None else replace(self, earlier=None, size=self.size - self.earlier.size)

    def _merged(self, rows: Rows, joined: bytes) -> TextColumn:
        return TextColumn.of(np.concatenate([self.rows, rows]), self._joined() + _BETWEEN.encode() + joined)

    def _joined(self) -> bytes:
        return self.block if self.strings is None else _BETWEEN.join(self.strings).encode("utf-8", "surrogatepass")

    def run(self, shift: int | None, numbers: list[int]) -> list[str] | None:
        """The texts of the rows that are ``numbers`` plus a shift; None where they have to be searched for."""
        strings = self.strings
        if shift is None or strings is None or self.earlier is not None or len(strings) != self.last - self.first + 1:
            return None
        shift -= self.first
        if min(numbers) + shift < 0 or max(numbers) + shift >= len(strings):
            return None
        return [strings[number + shift] for number in numbers] if shift else [strings[number] for number in numbers]

    def lookup(self, rows: Rows) -> list[str]:
        """The texts of these rows.

        Raises:
            KeyError: a row isn't in the column: it is newer, or was deleted before the column was read.
        """
        wanted = rows.tolist()
        if not wanted:
            return []
        first, lowest = self.first, min(wanted)
        if self.earlier is not None and lowest <= self.earlier.last:
            old = rows <= self.earlier.last
            before, behind = iter(self.earlier.lookup(rows[old])), iter(self._recent().lookup(rows[~old]))
            return [next(before if is_old else behind) for is_old in old.tolist()]
        if not first <= lowest <= max(wanted) <= self.last:
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
        return [block[offsets[i] : offsets[i + 1] - 1].decode("utf-8", "surrogatepass") for i in at]
