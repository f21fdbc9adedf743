"""Row numbers to ids and metadata without asking SQLite for each hit."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

#: Short texts of about one length are kept in an array of that width. What a query's ten ids take is mostly the memory
#: that has to be fetched for them, and this is the least: 2 microseconds.
_WIDEST, _PADDING = 24, 8  # bytes of one, and at most so many more than needed, on average
#: Others are kept as strings while they take at most so many bytes, and else as UTF-8 behind one another: a fifth of
#: the memory, for some microseconds a query.
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
        count: of rows.
        first: the lowest row.
        last: the highest row, 0 where there is none.
        size: UTF-8 bytes of all texts.
        fixed: the texts in UTF-8, in an array (n,) of fixed width, or None.
        strings: the texts, or None where ``fixed`` or ``block`` has them.
        block: the texts in UTF-8, each with a byte behind it.
        offsets: whole numbers (n + 1,), where each begins in the block.
        earlier: the column of all rows before these, where they are many: it isn't copied for a few more.
    """

    count: int
    first: int
    last: int
    size: int
    fixed: npt.NDArray[np.bytes_] | None = None
    strings: list[str] | None = None
    block: bytes = b""
    offsets: npt.NDArray[np.unsignedinteger] = field(default_factory=lambda: np.zeros(1, np.uint32))
    scattered: Rows | None = None  # int64 (n,), ascending, where rows are missing in between
    is_ascii: bool = False
    earlier: TextColumn | None = None

    @classmethod
    def of(cls, rows: Rows, joined: bytes) -> TextColumn:
        """Of ascending rows and their texts in UTF-8, with a NUL between each two of them, which no text contains."""
        if not len(rows):
            return cls(0, 1, 0, 0, strings=[])
        count, first, last, size = len(rows), int(rows[0]), int(rows[-1]), len(joined) - len(rows) + 1
        scattered = None if last - first + 1 == count else rows
        ends = np.append(np.flatnonzero(np.frombuffer(joined, np.uint8) == 0), len(joined))
        starts = np.append(0, ends[:-1] + 1)
        width = int((ends - starts).max())
        if 0 < width <= _WIDEST and width * count <= size + _PADDING * count:
            fixed, is_ascii = _padded(joined, starts, ends, width), joined.isascii()
            return cls(count, first, last, size, fixed=fixed, is_ascii=is_ascii, scattered=scattered)
        if size + _OVERHEAD * count <= _STRING_BYTES:
            strings = joined.decode("utf-8", "surrogatepass").split(_BETWEEN)
            return cls(count, first, last, size, strings=strings, scattered=scattered)
        kind: type[np.unsignedinteger] = np.uint32 if len(joined) < 2**32 - 1 else np.uint64
        offsets: npt.NDArray[np.unsignedinteger] = np.append(starts, len(joined) + 1).astype(kind)
        return cls(count, first, last, size, block=joined, offsets=offsets, scattered=scattered)

    @property
    def rows(self) -> Rows:
        """int64 (n,), ascending."""
        return np.arange(self.first, self.last + 1) if self.scattered is None else self.scattered

    def grown(self, rows: Rows, joined: bytes) -> TextColumn:
        """With later rows behind; arguments as for ``of``."""
        if not len(rows):
            return self
        if not self.count:
            return TextColumn.of(rows, joined)
        if self.earlier is None and (self.strings is not None or len(rows) * _RECENT > self.count):
            return self._merged(rows, joined)
        earlier = self.earlier or self
        recent = TextColumn.of(rows, joined) if self.earlier is None else self._recent()._merged(rows, joined)
        if recent.count * _RECENT > earlier.count:
            return earlier._merged(recent.rows, recent._joined())
        return replace(recent, earlier=earlier, size=recent.size + earlier.size)

    def _recent(self) -> TextColumn:
        """Without what is earlier."""
        return self if self.earlier is None else replace(self, earlier=None, size=self.size - self.earlier.size)

    def _merged(self, rows: Rows, joined: bytes) -> TextColumn:
        return TextColumn.of(np.concatenate([self.rows, rows]), self._joined() + _BETWEEN.encode() + joined)

    def _joined(self) -> bytes:
        if self.fixed is not None:
            return _BETWEEN.encode().join(self.fixed.tolist())
        return self.block if self.strings is None else _BETWEEN.join(self.strings).encode("utf-8", "surrogatepass")

    def run(self, shift: int | None, numbers: Rows) -> list[str] | None:
        """The texts of the rows that are ``numbers`` (n,), 0 or more, plus a shift; None where they aren't a run."""
        if self.earlier is not None:
            return self.earlier.run(shift, numbers)  # what was just added is seldom among them
        if shift is None or shift < self.first or self.scattered is not None:
            return None
        try:
            return self._at(numbers if shift == self.first else numbers + (shift - self.first))
        except IndexError:
            return None

    def _at(self, places: Rows) -> list[str]:
        """The texts at these places (n,) among all, from 0."""
        if (fixed := self.fixed) is not None:
            some = fixed.take(places).tolist()
            return [text.decode() for text in some] if self.is_ascii else [_text(text) for text in some]
        if (strings := self.strings) is not None:
            return [strings[i] for i in places.tolist()]
        block, offsets = self.block, memoryview(self.offsets.data)  # an array gives single numbers three times slower
        return [_text(block[offsets[i] : offsets[i + 1] - 1]) for i in places.tolist()]

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
        if self.scattered is None:
            return self._at(rows - first)
        found = self.scattered.searchsorted(rows)
        if (self.scattered[found] != rows).any():
            raise KeyError("row")
        return self._at(found)


def _text(encoded: bytes) -> str:
    return encoded.decode("utf-8", "surrogatepass")


def _padded(joined: bytes, starts: Rows, ends: Rows, width: int) -> npt.NDArray[np.bytes_]:
    """Texts from ``starts`` to ``ends`` in an array of fixed width, a column of bytes at a time."""
    letters, lengths = np.frombuffer(joined, np.uint8), ends - starts
    found = np.zeros((len(starts), width), dtype=np.uint8)
    for place in range(width):
        long = np.flatnonzero(lengths > place)
        found[long, place] = letters[starts[long] + place]
    return found.reshape(-1).view(f"S{width}")


def give_back() -> None:
    """Give what reading a long column took back to the system: glibc keeps it, which at a million rows is 40 MB."""
    import ctypes

    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
