"""Which positions may be answered, in the forms that searches take: made once, used by many queries and threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.index.bindings import faiss
from embedstore.index.exact import Positions

_ptr = faiss.swig_ptr


class Selection:
    """A set of positions of a space. Never changed; what is derived from it is kept with it.

    Args:
        mask: bool or uint8 (n,), true where a position is selected.

    Attributes:
        mask: uint8 (n,).
        count: of selected positions.
    """

    def __init__(self, mask: npt.NDArray[np.uint8] | npt.NDArray[np.bool_]) -> None:
        self.mask = np.ascontiguousarray(mask).view(np.uint8)
        self.count = int(np.count_nonzero(self.mask))
        self._positions: Positions | None = None
        self._parts: dict[tuple[int, int], Part] = {}
        self._among: tuple[Selection, Selection] | None = None

    @classmethod
    def of(cls, positions: Positions, total: int) -> Selection:
        """These positions, ascending, of so many."""
        mask = np.zeros(total, dtype=np.uint8)
        mask[positions] = 1
        made = cls(mask)
        made._positions = positions
        return made

    @property
    def size(self) -> int:
        """Bytes that it takes, with what is derived from it."""
        parts = sum(part.size for part in list(self._parts.values()))
        return len(self.mask) + parts + (0 if self._positions is None else self._positions.nbytes)

    @property
    def positions(self) -> Positions:
        """int64 (count,), ascending."""
        if self._positions is None:
            self._positions = np.flatnonzero(self.mask)
        return self._positions

    def part(self, first: int, count: int, index: Any = None) -> Part:
        """What of it lies among ``count`` positions from ``first``, for searches of an index over them."""
        part = self._parts.get((first, count))
        if part is None or part.index is not index:  # what is derived from one index is nothing to another one
            part = self._parts[first, count] = Part(self.mask[first : first + count], first, index)
        return part

    def among(self, other: Selection) -> Selection:
        """The positions that are also in another one, which is kept with this one."""
        kept = self._among
        if kept is None or kept[0] is not other:
            both = self.mask & other.mask
            kept = self._among = (other, self if np.array_equal(both, self.mask) else Selection(both))
        return kept[1]


class Part:
    """A selection of a tier's rows.

    Attributes:
        index: whose rows they are; kept, for what is packed shares its centres.
        count: of selected rows.
        share: of all its rows.
        selector: FAISS's view of it; None where all rows are selected.
        parameters: for whoever searches, by the value of its parameter.
        mask: uint8 (n,) over the tier's rows.
        lists: selected rows in each inverted list, where the index has them.
        packed: an index of the selected rows alone, once one was made; False where none can be.
    """

    def __init__(self, mask: npt.NDArray[np.uint8], first: int, index: Any = None) -> None:
        self.first = first
        self.index = index
        self.count = int(np.count_nonzero(mask))
        self.share = self.count / max(1, len(mask))
        self.mask = mask
        self._bits = np.packbits(mask, bitorder="little")
        self._rows: Positions | None = None
        self.selector: Any = None
        if self.count < len(mask):
            self.selector = faiss.IDSelectorBitmap(len(self._bits), _ptr(self._bits))
        self.parameters: dict[Any, Any] = {}
        self.packed: Any = None
        self.lists: Any = None

    @property
    def rows(self) -> Positions:
        """int64 (count,), ascending, from 0 for the tier's first row."""
        if self._rows is None:
            self._rows = np.flatnonzero(self.mask)
        return self._rows

    def first_of(
        self, labels: Positions, width: int, values: npt.NDArray[np.float32] | None = None
    ) -> tuple[Positions, npt.NDArray[np.float32] | None]:
        """The first selected ones of each row of labels (nq, m): (nq, width), -1 where there are fewer.

        FAISS's values of the labels, where they are given, are cut as they are, with infinity where the label is -1.
        """
        there = self.mask[labels].view(np.bool_) & (labels >= 0)
        if len(labels) == 1:
            order = there.nonzero()[1][None, :width]
            found = labels[:, order[0]]
        else:
            order = np.argsort(~there, axis=1, kind="stable")[:, :width]
            found = np.where(np.take_along_axis(there, order, 1), np.take_along_axis(labels, order, 1), -1)
        missing = ((0, 0), (0, width - found.shape[1]))
        if found.shape[1] < width:
            found = np.pad(found, missing, constant_values=-1)
        if values is None:
            return found, None
        values = np.take_along_axis(values, order, 1)
        if order.shape[1] < width:
            values = np.pad(values, missing, constant_values=np.inf)
        return found, np.where(found >= 0, values, np.float32(np.inf))

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        packed = self.count * self.packed.sa_code_size() if self.packed else 0
        return len(self._bits) + int(packed) + (0 if self._rows is None else self._rows.nbytes)
