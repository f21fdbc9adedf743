"""Text -> syntax tree, or an error with a caret under the culprit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from embedstore.errors import FilterError, InvalidArgument
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
    kind,
    literal,
)

MAX_LENGTH = 10_000
#: Of nested parentheses and nots. SQLAlchemy compiles recursively (some 14 Python frames a level), and SQLite's parser
#: has a stack of 100: neither may run over.
MAX_DEPTH = 32


def check_text(text: object) -> None:
    """Raise InvalidArgument unless this is text."""
    if not isinstance(text, str):
        raise InvalidArgument(f"a filter is text such as \"label = 'Boot'\", not {type(text).__name__}")


def parse(text: str) -> Expression:
    """Read a filter.

    Raises:
        FilterError: with a caret under the culprit and what was expected there.
        InvalidArgument: ``text`` is no str.
    """
    check_text(text)
    if len(text) > MAX_LENGTH:
        raise FilterError(f"the filter has {len(text):,} characters, and the limit is {MAX_LENGTH:,}")
    return _Parser(text).expression()


_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<text>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")*" | `(?:[^`]|``)*`)
      | (?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?!\w))
      | (?P<word>[^\W\d]\w*)
      | (?P<symbol><>|!=|<=|>=|==|[=<>(),.])""",
    re.VERBOSE,
)
_OPERATORS = {"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # a group of _TOKEN, 'keyword', or 'end'
    text: str
    position: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else self.text if len(self.text) <= 40 else self.text[:37] + "..."


@dataclass(slots=True)
class _Level:
    """What is read of one pair of parentheses: operands joined by and, in alternatives joined by or."""

    alternatives: list[list[Expression]]
    nots: int = 0  # read, and waiting for their operand

    def close(self) -> Expression:
        ands = [part[0] if len(part) == 1 else And(tuple(part)) for part in self.alternatives]
        return ands[0] if len(ands) == 1 else Or(tuple(ands))


class _Parser:
    """One pass with a stack of its own rather than recursive descent: depth is a rule, not an accident."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._tokens())
        self.next = 0

    def error(self, message: str, position: int) -> FilterError:
        return FilterError(message, self.text, position)

    def _tokens(self) -> Iterator[_Token]:
        at = 0
        if (bad := re.search(r"[\x00\ud800-\udfff]", self.text)) is not None:
            raise self.error(f"the character U+{ord(bad[0]):04X} is in no stored text", bad.start())
        while at < len(self.text):
            match = _TOKEN.match(self.text, at)
            if match is None:
                raise self._no_token(at)
            name, text = str(match.lastgroup), match[0]
            if name == "word" and text.lower() in KEYWORDS:
                yield _Token("keyword", text.lower(), at)
            elif name != "space":
                yield _Token(name, text, at)
            at = match.end()
        yield _Token("end", "", len(self.text))

    def _no_token(self, at: int) -> FilterError:
        character = self.text[at]
        if character in "'\"`":
            return self.error(f"this {character} is never closed (inside, it is doubled: {character * 2})", at)
        if character.isdigit() or character in "+-":
            return self.error("malformed number: write it like 3, -0.5 or 1e-3 (a key like this in double quotes)", at)
        return self.error(f"unexpected {character!r}: logic is written with and, or, not and ( )", at)

    def take(self, *texts: str) -> _Token | None:
        """The next token, if it is one of these keywords or symbols."""
        token = self.tokens[self.next]
        if token.kind not in ("keyword", "symbol") or token.text not in texts:
            return None
        self.next += 1
        return token

    def expect(self, text: str, where: str) -> None:
        if self.take(text) is None:
            token = self.tokens[self.next]
            raise self.error(f"expected {text!r} {where}, not {token}", token.position)

    def expression(self) -> Expression:
        if self.tokens[0].kind == "end":
            raise self.error("the filter is empty: write one such as label = 'Boot', or leave it out", 0)
        levels = [_Level([[]])]
        depth = 0
        while True:
            opened = self.take("not", "(")
            if opened is not None:
                depth += 1
                if depth > MAX_DEPTH:
                    raise self.error(f"more than {MAX_DEPTH} nested parentheses and nots", opened.position)
                if opened.text == "not":
                    levels[-1].nots += 1
                else:
                    levels.append(_Level([[]]))
                continue
            operand = self.predicate()
            while True:  # an operand is complete: what follows it?
                level = levels[-1]
                for _ in range(level.nots):
                    operand = Not(operand)
                depth -= level.nots
                level.nots = 0
                level.alternatives[-1].append(operand)
                token = self.tokens[self.next]
                if self.take("and"):
                    break
                if self.take("or"):
                    level.alternatives.append([])
                    break
                if len(levels) > 1:
                    self.expect(")", "or 'and' or 'or'")
                    operand = levels.pop().close()
                    depth -= 1
                elif token.kind == "end":
                    return level.close()
                else:
                    raise self.error(f"expected 'and', 'or' or the end, not {token}", token.position)

    def predicate(self) -> Expression:
        name = self.field()
        token = self.tokens[self.next]
        if operator := self.take(*_OPERATORS):
            return self.comparison(name, _OPERATORS[operator.text])
        if self.take("is"):
            negated = self.take("not") is not None
            self.expect("null", "after 'is'")
            return IsNull(name, negated)
        negated = self.take("not") is not None
        if self.take("in"):
            self.expect("(", "after 'in'")
            values = [self.value()]
            while self.take(","):
                values.append(self.value())
            self.expect(")", "or ','")
            return In(name, tuple(values), negated)
        if self.take("like"):
            return self.like(name, negated)
        if self.take("between"):
            low = self.ordered()
            self.expect("and", "between the two ends")
            position = self.tokens[self.next].position
            high = self.ordered()
            if kind(low) != kind(high):
                raise self.error(
                    f"both ends of between must be of one type, and {literal(low)} is a {kind(low)}", position
                )
            return Between(name, low, high, negated)
        if negated:
            token = self.tokens[self.next]
            raise self.error(f"expected 'in', 'like' or 'between' after 'not', not {token}", token.position)
        raise self.error(
            f"expected an operator (= != < <= > >= in like between is) after the field {name}, not {token}",
            token.position,
        )

    def field(self) -> Field:
        start = self.tokens[self.next]
        path = [self.key("expected a field")]
        while self.take("."):
            path.append(self.key("expected a key after '.'"))
        named = path[0] == "cluster" and len(path) == 2  # cluster.NAME: of the clustering of this name
        placed = path[0] == "map" and len(path) in (2, 3) and path[-1] in ("x", "y")  # map.x, map.NAME.x
        built_in = start.kind == "word" and (named or placed or (len(path) == 1 and path[0] in BUILT_IN))
        return Field(tuple(path), built_in, start.position)

    def key(self, expected: str) -> str:
        token = self.tokens[self.next]
        self.next += 1
        if token.kind == "word":
            return token.text
        if token.kind == "quoted":
            mark = token.text[0]
            return token.text[1:-1].replace(mark * 2, mark)
        hint = ""
        if token.kind == "keyword":
            hint = f' (a key of this name is written "{token.text}")'
        elif token.kind == "text":
            hint = " (single quotes are for values, a key that needs quotes has double ones)"
        raise self.error(f"{expected}, not {token}{hint}", token.position)

    def comparison(self, name: Field, operator: str) -> Comparison:
        return Comparison(name, operator, self.value() if operator in ("=", "!=") else self.ordered())

    def ordered(self) -> Value:
        token = self.tokens[self.next]
        value = self.value()
        if isinstance(value, bool):
            raise self.error("true and false have no order: compare them with = or !=", token.position)
        return value

    def value(self) -> Value:
        token = self.tokens[self.next]
        self.next += 1
        if token.kind == "text":
            return token.text[1:-1].replace("''", "'")
        if token.kind == "number":
            number = float(token.text)
            if math.isinf(number) or len(token.text) > 1000:
                raise self.error("this number is too large: the limit is about 1.8e308", token.position)
            return number if re.search("[.eE]", token.text) else int(token.text)
        if token.kind == "keyword" and token.text in ("true", "false"):
            return token.text == "true"
        if token.kind == "keyword" and token.text == "null":
            raise self.error("nothing equals null: write 'is null' or 'is not null'", token.position)
        hint = ""
        if token.kind in ("word", "quoted"):
            bare = token.text.strip('"`').replace("'", "''")
            hint = f": text is written in single quotes, '{bare}'" if len(bare) <= 40 else ""
        raise self.error(f"expected a value, not {token}{hint}", token.position)

    def like(self, name: Field, negated: bool) -> Like:
        pattern = self.string("a pattern such as '%boot%' after 'like'")
        position = self.tokens[self.next - 1].position
        if not self.take("escape"):
            return Like(name, pattern, None, negated)
        escape = self.string("a character after 'escape'")
        if len(escape) != 1 or escape in "%_":
            raise self.error("escape takes one character that is neither % nor _", self.tokens[self.next - 1].position)
        if len(re.sub(re.escape(escape) + ".", "", pattern, flags=re.DOTALL).split(escape)) > 1:
            raise self.error(f"the pattern ends with {escape!r}, which escapes nothing", position)
        return Like(name, pattern, escape, negated)

    def string(self, expected: str) -> str:
        token = self.tokens[self.next]
        if token.kind != "text":
            raise self.error(f"expected {expected}, not {token}", token.position)
        return str(self.value())
