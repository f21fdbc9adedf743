"""The expression language: ``item('a') - mean("label = 'Sandal'") + 1.2 * mean("label = 'Boot'")``.

Python's own parser reads it, and a whitelist decides what of Python it may be; nothing is ever run as code. What the
names mean is the caller's: parsing knows neither items nor filters.
"""

from __future__ import annotations

import ast
import difflib
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from embedstore.errors import EmbedstoreError, ExpressionError, PointedError

Operator: TypeAlias = Literal["+", "-", "*", "/"]

MAX_LENGTH = 10_000  # characters
MAX_DEPTH = 100
MAX_NODES = 1_000

#: Calls that name something in the store, with what they take.
SOURCES = {
    "item": "an id",
    "image": "a path",
    "mean": "a filter",
    "medoid": "a filter",
    "direction": "a name",
    "cluster": "a number or a name",
}
_MARKS = set("()'\"")  # that a text without is no expression
_SHAPES = ("unit", "mix")
_EXAMPLES = {
    "item": "item('an id')",
    "image": "image('a/file.png')",
    "mean": "mean(\"label = 'Boot'\")",
    "medoid": "medoid(\"label = 'Boot'\")",
    "direction": "direction('its name')",
    "cluster": "cluster(3)",
    "unit": "unit(x)",
    "mix": "mix(a, b, t)",
}
_OPERATORS: dict[type[ast.operator], Operator] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}

Vector: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Number:
    """A number."""

    value: float
    position: int


@dataclass(frozen=True, slots=True)
class Source:
    """A latent that the store knows: ``item('a')``, ``mean("label = 'Boot'")``."""

    name: str
    argument: str | int
    position: int


@dataclass(frozen=True, slots=True)
class Binary:
    """``left operator right``."""

    operator: Operator
    left: Node
    right: Node
    position: int


@dataclass(frozen=True, slots=True)
class Unit:
    """A latent brought to length 1."""

    of: Node
    position: int


@dataclass(frozen=True, slots=True)
class Mix:
    """``a + t * (b - a)``."""

    a: Node
    b: Node
    t: Node
    position: int


Node: TypeAlias = Number | Source | Binary | Unit | Mix


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression, whose value is a latent.

    Attributes:
        root: of its tree.
        text: as given.
    """

    root: Node
    text: str

    def sources(self) -> list[Source]:
        """Everything of the store that it names, from left to right."""
        return [node for node in walk(self.root) if isinstance(node, Source)]


def walk(node: Node) -> list[Node]:
    """A node and all below it, left to right."""
    found, waiting = [], [node]  # no recursion: a sum of many terms is a chain as long
    while waiting:
        node = waiting.pop()
        found.append(node)
        match node:
            case Binary():
                waiting += [node.right, node.left]
            case Unit():
                waiting.append(node.of)
            case Mix():
                waiting += [node.t, node.b, node.a]
    return found


def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        ExpressionError: anything but the grammar, a number where a latent is meant, or too long or deep a text; with
            a caret under the place.
    """
    if not isinstance(text, str) or not text.strip():
        raise ExpressionError("an expression is a text such as item('a') + 0.5 * direction('boot-ness')")
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"an expression of {len(text):,} characters is too long: at most {MAX_LENGTH:,}")
    if "\0" in text:
        raise ExpressionError("an expression can't hold a NUL character", text.replace("\0", "?"), text.index("\0"))
    # In parentheses, lines may be broken and spaces may stand in front.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # '5(x)' and 'is 5' are errors of ours anyway
            tree = ast.parse(f"({text}\n)", mode="eval")
    except SyntaxError as error:
        position = _Reader(text).offset(error.lineno or 1, error.offset or 1, encoded=False)
        hint = _plain(error.msg) if set(text) & _MARKS else f"did you mean item({text.strip()!r})?"
        raise ExpressionError(f"this is no expression: {hint}", text, position) from None
    except (RecursionError, MemoryError):
        raise ExpressionError(f"the expression is nested too deeply: at most {MAX_DEPTH} levels") from None
    except ValueError as error:  # a lone surrogate, an integer of thousands of digits
        raise ExpressionError(f"this is no expression: {error}") from None
    reader = _Reader(text)
    if tree.body.col_offset == 0 and tree.body.lineno == 1 and isinstance(tree.body, (ast.BinOp, ast.Call)):
        # The parenthesis that we put in front was closed by one of the text's.
        raise ExpressionError("this is no expression: unmatched ')'", text, _unmatched(text))
    root = reader.read(tree.body, 0)
    if not is_latent(root):
        raise ExpressionError("this is a number, not a latent: name an item, a mean or a direction", text, 0)
    return Expression(root, text)


def _unmatched(text: str) -> int:
    """Offset of the first parenthesis that closes none."""
    try:
        ast.parse(text.lstrip(), mode="eval")
    except SyntaxError as error:
        return _Reader(text).offset(error.lineno or 1, (error.offset or 1) + 1, encoded=False)
    return 0


def is_latent(node: Node) -> bool:
    """Whether a node's value is a latent; else it is a number."""
    while isinstance(node, Binary):
        if is_latent(node.right):
            return True
        node = node.left
    return not isinstance(node, Number)


def _chain(node: Binary) -> list[Binary]:
    """A node, the one at its left, the one at that one's left, ...: a sum of many terms is as deep as it is long."""
    found = [node]
    while isinstance(found[-1].left, Binary):
        found.append(found[-1].left)
    return found


def evaluate(expression: Expression, lookup: Callable[[Source], Vector]) -> Vector:
    """The value, float32 (d,).

    Args:
        expression: parsed.
        lookup: gives the latent (d,) of a source. What it raises keeps its kind, and gets the place in the text.

    Raises:
        ExpressionError: division by zero, the unit of nothing, a result that isn't finite, or what ``lookup`` raised.
    """

    def value(node: Node) -> npt.NDArray[np.float64] | float:
        match node:
            case Number():
                return node.value
            case Source():
                try:
                    return lookup(node).astype(np.float64)
                except PointedError as error:
                    # A filter's own caret points into the filter, which says more than one into the expression.
                    raise ExpressionError(f"in {node.name}(...): {error}") from error
                except EmbedstoreError as error:
                    raise ExpressionError(str(error), expression.text, node.position) from error
            case Unit():
                inside = value(node.of)
                length = float(np.linalg.norm(inside))
                if length == 0 or not math.isfinite(length):
                    raise ExpressionError("a latent of length 0 has no unit", expression.text, node.position)
                return inside / length
            case Mix():
                a, b = value(node.a), value(node.b)
                return a + value(node.t) * (b - a)
        chain = _chain(node)
        found = value(chain[-1].left)
        for one in reversed(chain):
            found = applied(one, found, value(one.right))
        return found

    def applied(node: Binary, left: Any, right: Any) -> Any:
        match node.operator:
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
        if right == 0:
            raise ExpressionError("this divides by zero", expression.text, node.position)
        return left / right

    with np.errstate(over="ignore", invalid="ignore"):
        found = np.asarray(value(expression.root), dtype=np.float32)
    if not np.isfinite(found).all():
        raise ExpressionError("the result has numbers that are not finite: a factor is too large", expression.text, 0)
    return found


def _plain(message: str | None) -> str:
    """A syntax error's words, without what only makes sense for Python code."""
    plain = (message or "").split(". Perhaps")[0].split("(<")[0].strip()
    return plain.replace("invalid syntax", "") or "something is missing or out of place"


class _Reader:
    """Turns Python's tree into ours, refusing what isn't in the grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = text.split("\n")
        self.nodes = 0

    def offset(self, line: int, column: int, *, encoded: bool = True) -> int:
        """Offset in the text of a place that Python names: its columns count UTF-8 bytes in trees, letters in errors.

        Column and line are those of the text in parentheses, one letter further to the right in the first line.
        """
        if line > len(self.lines):  # the parenthesis that we put behind
            return max(0, len(self.text.rstrip()) - 1)
        line = max(line, 1)
        own = self.lines[line - 1]
        column -= (line == 1) + (not encoded)
        column = max(column, 0)
        inside = len(own.encode("utf-8", "replace")[:column].decode("utf-8", "ignore")) if encoded else column
        before = sum(len(one) + 1 for one in self.lines[: line - 1])
        return min(before + inside, max(0, len(self.text) - 1))

    def fail(self, message: str, node: ast.AST) -> ExpressionError:
        return ExpressionError(message, self.text, self.place(node))

    def place(self, node: ast.AST) -> int:
        return self.offset(getattr(node, "lineno", 1), getattr(node, "col_offset", 1))

    def read(self, node: ast.expr, depth: int) -> Node:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            deep = f"nested too deeply: at most {MAX_DEPTH} levels"
            limit = deep if depth > MAX_DEPTH else f"too long: at most {MAX_NODES:,} names, numbers and operators"
            raise self.fail(f"the expression is {limit}", node)
        match node:
            case ast.Constant():
                return self.number(node)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                inside = self.read(node.operand, depth + 1)
                sign = -1.0 if isinstance(node.op, ast.USub) else 1.0
                if isinstance(inside, Number):
                    return Number(sign * inside.value, self.place(node))
                return Binary("*", Number(sign, self.place(node)), inside, self.place(node))
            case ast.BinOp():
                return self.binary(node, depth)
            case ast.Call():
                return self.call(node, depth)
            case ast.Name():
                known = node.id in SOURCES or node.id in _SHAPES
                # An id as it stands, such as test/00017, reads as a division.
                whole = node.id if set(self.text) & _MARKS else self.text.strip()
                hint = f"write {_EXAMPLES[node.id]}" if known else f"did you mean item({whole!r})?"
                raise self.fail(f"{node.id} alone is nothing: {hint}", node)
        raise self.fail("only numbers, + - * / ( ) and the named functions are understood here", node)

    def number(self, node: ast.Constant) -> Number:
        value = node.value
        if isinstance(value, str):
            raise self.fail(f"a text alone is nothing: did you mean item({value!r})?", node)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.fail(f"{value!r} is no number", node)
        if not abs(value) <= sys.float_info.max:
            raise self.fail("this number is too large", node)
        return Number(float(value), self.place(node))

    def binary(self, node: ast.BinOp, depth: int) -> Node:
        chain = [node]
        while isinstance(chain[-1].left, ast.BinOp):
            chain.append(chain[-1].left)
        self.nodes += len(chain) - 1
        left = self.read(chain[-1].left, depth + 1)
        for one in reversed(chain):
            left = self.joined(one, left, self.read(one.right, depth + 1))
        return left

    def joined(self, node: ast.BinOp, left: Node, right: Node) -> Node:
        operator = _OPERATORS.get(type(node.op))
        if operator is None:
            raise self.fail("of the operators only + - * / are understood", node)
        latents = is_latent(left), is_latent(right)
        if operator in "+-" and latents[0] != latents[1]:
            raise self.fail("a latent and a number can't be added: multiply the latent by the number", node)
        if operator == "*" and all(latents):
            raise self.fail("two latents can't be multiplied: one side must be a number", node)
        if operator == "/" and latents[1]:
            raise self.fail("nothing can be divided by a latent", node)
        if not any(latents) and isinstance(left, Number) and isinstance(right, Number):
            return self.folded(operator, left.value, right.value, node)
        return Binary(operator, left, right, self.place(node))

    def folded(self, operator: str, left: float, right: float, node: ast.BinOp) -> Number:
        if operator == "/" and right == 0:
            raise self.fail("this divides by zero", node.right)
        value = left / right if operator == "/" else {"+": left + right, "-": left - right, "*": left * right}[operator]
        if not math.isfinite(value):
            raise self.fail("this number is too large", node)
        return Number(value, self.place(node))

    def call(self, node: ast.Call, depth: int) -> Node:
        if not isinstance(node.func, ast.Name):
            raise self.fail("only the named functions can be called", node.func)
        name = node.func.id
        if name not in SOURCES and name not in _SHAPES:
            near = difflib.get_close_matches(name, [*SOURCES, *_SHAPES], n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join([*SOURCES, *_SHAPES])}"
            raise self.fail(f"unknown function {name}: {hint}", node)
        if node.keywords or any(isinstance(one, ast.Starred) for one in node.args):
            raise self.fail(f"{name} takes its arguments by place: {_EXAMPLES[name]}", node)
        if name in SOURCES:
            return self.source(name, node)
        if len(node.args) != (1 if name == "unit" else 3):
            raise self.fail(f"{name} takes other arguments: {_EXAMPLES[name]}", node)
        parts = [self.read(one, depth + 1) for one in node.args]
        for part, one in zip(parts[:2], node.args, strict=False):
            if not is_latent(part):
                raise self.fail(f"{name} takes latents here: {_EXAMPLES[name]}", one)
        if name == "unit":
            return Unit(parts[0], self.place(node))
        if is_latent(parts[2]):
            raise self.fail("the t of mix(a, b, t) is a number", node.args[2])
        return Mix(parts[0], parts[1], parts[2], self.place(node))

    def source(self, name: str, node: ast.Call) -> Source:
        if len(node.args) != 1:
            raise self.fail(f"{name} takes one argument, {SOURCES[name]}: {_EXAMPLES[name]}", node)
        [one] = node.args
        value = one.value if isinstance(one, ast.Constant) else None
        if isinstance(one, ast.UnaryOp) and isinstance(one.op, ast.USub) and isinstance(one.operand, ast.Constant):
            inside = one.operand.value
            value = -inside if isinstance(inside, int) and not isinstance(inside, bool) else None
        if isinstance(value, int) and abs(value) >= 2**63:
            raise self.fail("this number is too large", one)
        kinds = (str, int) if name == "cluster" else (str,)
        if isinstance(value, bool) or not isinstance(value, kinds):
            hint = f" in quotes: {name}('{one.id}')" if isinstance(one, ast.Name) else f": {_EXAMPLES[name]}"
            raise self.fail(f"{name} takes {SOURCES[name]}{hint}", one)
        return Source(name, value, self.place(node))
