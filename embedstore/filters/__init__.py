"""The filter language: the WHERE part of SQL over metadata keys. Text in, frozen AST out; nothing here knows SQL.

    label = 'Boot' and (year between 1990 and 1999 or source like '%/archive/%') and not "split" in ('test', 'val')

==========  ==========================================================================================
fields      ``label``; nested ``camera.lens``; any other key in double quotes or backticks: ``"f number"``.
            ``id``, ``source`` and ``cluster`` are built in; in quotes they are metadata keys. A cluster is
            compared by its number or by its name; ``cluster.fine`` is that of the clustering named 'fine'.
values      ``'text'`` (a quote is doubled: ``'it''s'``), numbers, ``true``, ``false``
operators   ``= == != <> < <= > >=``, ``[not] in (...)``, ``[not] like '...' [escape '.']``,
            ``[not] between ... and ...``, ``is [not] null``
logic       ``not``, then ``and``, then ``or``; parentheses. Keywords are case-insensitive, keys are not.
==========  ==========================================================================================

Meaning: the three-valued logic of SQL. A key that is missing, or JSON null, is unknown, and an unknown comparison
selects nothing: neither ``a = 1`` nor ``not (a = 1)`` nor ``a != 1`` selects an item without ``a``.

JSON's types are kept apart (the affinities and the type order of SQLite are not used):

* Values of different types are never equal: ``5``, ``'5'`` and ``true`` are three different values.
* Order exists among numbers, and among texts (by code point); between types ``<`` is unknown. Booleans have none.
* ``like`` is for text alone, and unknown otherwise: ``%`` any run, ``_`` one character, ASCII letters of either case.
* Numbers compare exactly, integer with float too; an integer beyond 64 bits counts as the nearest float, which is
  what SQLite makes of it.
* Arrays and objects equal no value; they are not null.
"""

from __future__ import annotations

from embedstore.filters.evaluate import evaluate, holds_of_cluster
from embedstore.filters.parser import MAX_DEPTH, MAX_LENGTH, check_text, parse
from embedstore.filters.syntax import (
    BUILT_IN,
    KEYWORDS,
    And,
    Between,
    Comparison,
    Expression,
    Field,
    In,
    IsNull,
    Like,
    Not,
    Or,
    Value,
    fields,
    format,
    kind,
    literal,
)

__all__ = [
    "BUILT_IN",
    "KEYWORDS",
    "MAX_DEPTH",
    "MAX_LENGTH",
    "And",
    "Between",
    "Comparison",
    "Expression",
    "Field",
    "In",
    "IsNull",
    "Like",
    "Not",
    "Or",
    "Value",
    "check_text",
    "evaluate",
    "fields",
    "format",
    "holds_of_cluster",
    "kind",
    "literal",
    "parse",
]
