"""What a filter says of many items at once: as `evaluate` says it of each, over columns of their values.

A column knows each different text once. A condition is asked of every different text, of true, false, null and whatever
else JSON has, by `holds` itself; its answers reach the rows by one look-up each. Numbers are compared as arrays. So the
language keeps one meaning, and a condition on a million rows takes milliseconds, unless it has to be asked of many
different texts (`asks_every_text`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedstore.filters.evaluate import holds
from embedstore.filters.syntax import And, Between, Comparison, Expression, In, IsNull, Leaf, Not, Or, Value, kind

Truth: TypeAlias = npt.NDArray[np.bool_]
#: What a row without a text has in the place of a text's number: counted from the end of a table of answers.
_NUMBER, _OTHER, _TRUE, _FALSE, _NULL = -1, -2, -3, -4, -5
_INSTEAD = {_OTHER: [], _TRUE: True, _FALSE: False, _NULL: None}
_KINDS = {int: _NUMBER, float: _NUMBER, bool: _TRUE, type(None): _NULL, str: 0}
_TEXT_BYTES = 150  # of a text's object and its place in a dict
_WHOLE = 2**53  # beyond, float64 doesn't hold every integer
_OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class InexactError(ValueError):
    """An integer that float64 doesn't hold: as such a number it would compare otherwise than the language says."""


@dataclass(frozen=True, slots=True)
class Column:
    """The values of one field, one a row. Never changed: `column` makes a longer one.

    Attributes:
        codes: int32 (n,): of a text its number among ``texts``, else what there is instead of one.
        numbers: float64 (n,), 0 where the value is none; None where no value is one.
        texts: number of each different text, in the order of their first rows.
        text_size: bytes that the texts take, about.
    """

    codes: npt.NDArray[np.int32]
    numbers: npt.NDArray[np.float64] | None
    texts: dict[str, int]
    text_size: int

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def there(self) -> Truth:
        """The rows (n,) that have a value."""
        there: Truth = self.codes != _NULL
        return there

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return self.codes.nbytes + (0 if self.numbers is None else self.numbers.nbytes) + self.text_size


def column(values: Sequence[Any], before: Column | None = None) -> Column:
    """A column of values as JSON has them, behind those of another one.

    Raises:
        InexactError: one is an integer beyond 2**53.
    """
    kinds = {_KINDS.get(kind, _OTHER) for kind in set(map(type, values))}
    if len(kinds) == 1:  # as nearly always, which takes a tenth of the time
        codes = np.full(len(values), kinds.pop(), dtype=np.int32)
    else:
        codes = np.fromiter((_KINDS.get(type(value), _OTHER) for value in values), np.int32, len(values))
    codes[[i for i in np.flatnonzero(codes == _TRUE).tolist() if not values[i]]] = _FALSE
    own = np.flatnonzero(codes >= 0)
    found = values if len(own) == len(values) else [values[i] for i in own.tolist()]
    texts, text_size = ({}, 0) if before is None else (before.texts, before.text_size)
    fresh = [text for text in dict.fromkeys(found) if text not in texts]
    if fresh:  # another dict: a search in another thread may be reading this one
        texts = texts | {text: len(texts) + i for i, text in enumerate(fresh)}
        text_size += sum(map(len, fresh)) + _TEXT_BYTES * len(fresh)
    codes[own] = np.fromiter(map(texts.__getitem__, found), np.int32, len(own))
    numbers = _numbers(values, codes)
    if before is None:
        return Column(codes, numbers, texts, text_size)
    if before.numbers is not None or numbers is not None:
        pairs = ((before.codes, before.numbers), (codes, numbers))
        numbers = np.concatenate([np.zeros(len(one)) if known is None else known for one, known in pairs])
    return Column(np.concatenate([before.codes, codes]), numbers, texts, text_size)


def _numbers(values: Sequence[Any], codes: npt.NDArray[np.int32]) -> npt.NDArray[np.float64] | None:
    rows = np.flatnonzero(codes == _NUMBER)
    if not len(rows):
        return None
    chosen = values if len(rows) == len(values) else [values[i] for i in rows.tolist()]
    try:
        found = np.array(chosen, dtype=np.float64)
    except OverflowError:
        raise InexactError from None
    for i in np.flatnonzero(np.abs(found) >= _WHOLE).tolist():
        if isinstance(chosen[i], int):
            raise InexactError
    numbers = np.zeros(len(values))
    numbers[rows] = found
    return numbers


def select(expression: Expression, ask: Callable[[Leaf, bool], Truth]) -> Truth:
    """The rows (n,) for which a filter is true.

    Args:
        expression: the filter.
        ask: of a single condition, the rows for which it is true, or with True: false. `holding` answers by a column.
    """
    return _rows(expression, ask, negated=False)


def _rows(expression: Expression, ask: Callable[[Leaf, bool], Truth], negated: bool) -> Truth:
    # De Morgan's laws hold in three-valued logic; so only "true" has to be known of what is joined.
    match expression:
        case Not(operand):
            return _rows(operand, ask, not negated)
        case And(operands) | Or(operands):
            join = np.logical_and if isinstance(expression, And) is not negated else np.logical_or
            first, *others = operands
            found = _rows(first, ask, negated)
            for one in others:
                found = join(found, _rows(one, ask, negated))
            return found
    return ask(expression, negated)


def holding(leaf: Leaf, values: Column, negated: bool = False) -> Truth:
    """The rows (n,) for which a condition is true; ``negated``: for which it is false, and not unknown.

    Raises:
        InexactError: a number of the condition is an integer beyond 2**53.
    """
    table = np.empty(len(values.texts) + len(_INSTEAD) + 1, dtype=np.bool_)
    for code, example in _INSTEAD.items():
        asked = leaf
        if isinstance(leaf, In):  # a long list is mostly of other kinds, which nothing here equals
            asked = In(leaf.field, tuple(one for one in leaf.values if isinstance(one, bool)), leaf.negated)
        table[code] = holds(asked, example) is (not negated)
    table[: len(values.texts)] = _of_texts(leaf, values.texts, negated)
    table[_NUMBER] = False
    found = table[values.codes]
    if values.numbers is not None:
        numeric = _of_numbers(leaf, values.numbers, negated)
        found |= numeric & (values.codes == _NUMBER)
    return found


def asks_every_text(leaf: Leaf) -> bool:
    """Whether a condition has to be asked of each different text, and not only of those that it names."""
    match leaf:
        case Comparison(_, "=" | "!=", _) | In() | IsNull():
            return False
        case Comparison() | Between():
            return any(isinstance(end, str) for end in _ends(leaf))
    return True


def _of_texts(leaf: Leaf, texts: dict[str, int], negated: bool) -> Truth | bool:
    def said(truth: bool | None) -> bool:
        return truth is (not negated)

    match leaf:
        case Comparison(_, "=" | "!=" as sign, value):
            wanted: tuple[Value, ...] = (value,)
            among = sign == "="
        case In(_, wanted, outside):
            among = not outside
        case IsNull():
            return said(holds(leaf, ""))
        case _ if not asks_every_text(leaf):
            return said(holds(leaf, ""))  # nothing but a text has an order with a text
        case _:
            return np.fromiter((said(holds(leaf, text)) for text in texts), np.bool_, len(texts))
    table = np.full(len(texts), said(not among))
    places = [texts[value] for value in wanted if isinstance(value, str) and value in texts]
    table[places] = said(among)
    return table


def _ends(leaf: Comparison | Between) -> tuple[Value, ...]:
    return (leaf.value,) if isinstance(leaf, Comparison) else (leaf.low, leaf.high)


def _of_numbers(leaf: Leaf, numbers: npt.NDArray[np.float64], negated: bool) -> Truth:
    match leaf:
        case Comparison(_, sign, value) if kind(value) == "number":
            compared: Truth = _OPERATORS[sign](numbers, _exact(value))
            return compared ^ negated
        case In(_, values, outside):
            wanted = np.unique([_exact(value) for value in values if kind(value) == "number"])
            found = np.zeros(len(numbers), dtype=np.bool_)
            if len(wanted) > 64:  # a comparison takes 15 us of 60,000 numbers; numpy.isin would sort them
                found = wanted[np.minimum(wanted.searchsorted(numbers), len(wanted) - 1)] == numbers
            else:
                for value in wanted.tolist():
                    found |= numbers == value
            return found ^ (outside is not negated)
        case Between(_, low, high, outside):
            parts = [
                compare(numbers, _exact(end))
                for compare, end in ((operator.ge, low), (operator.le, high))
                if kind(end) == "number"
            ]
            # An end of another kind makes the whole unknown, but where the other end says no.
            inside: Truth = np.logical_and.reduce([*parts, np.ones(len(numbers), dtype=np.bool_)])
            if outside is not negated:
                return ~inside
            return inside if len(parts) == 2 else np.zeros(len(numbers), dtype=np.bool_)
    said = holds(leaf, 0)  # the same of every number
    return np.full(len(numbers), said is (not negated))


def _exact(value: Any) -> float:
    if isinstance(value, int) and abs(value) > _WHOLE:
        raise InexactError
    return float(value)
