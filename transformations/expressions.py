"""A small language over named values: conditions on an action, and weights of examples.

It is written as Python is (`dwell >= 30 and source != "mail"`), but only comparisons, and, or, not,
`is missing`, in, numbers, texts, + - * /, min and max exist. What is compared with a missing value
is unknown, as in SQL: not is unknown too, and a rule whose condition is unknown does not apply.

An expression is checked once, and then runs as SQL and over NumPy arrays;
tests/transformations/test_expressions.py holds both equal.
"""

import ast
import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from transformations.quoting import identifier, quoted

Kind = Literal["number", "text", "truth"]

COMPARISONS: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.Eq: ("=", operator.eq),
    ast.NotEq: ("<>", operator.ne),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
}
CALLS: dict[str, tuple[str, Callable[..., Any]]] = {
    "min": ("least", np.minimum),
    "max": ("greatest", np.maximum),
}
MISSING_WORD = "missing"
DEEPEST = 50
"""Nested deeper, an expression is refused rather than run into Python's own limit."""


@dataclass(frozen=True)
class Column:
    """Values of one kind, and which of them are there.

    Attributes:
        values: float64, object (str) or bool [n]; anything where it is missing.
        known: bool [n].
    """

    values: NDArray[Any]
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class _Node:
    kind: Kind
    sql: str
    run: Callable[[Mapping[str, Column], int], Column]


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes:
        text: As it was written.
        names: The values that it reads.
        sql: The same in SQL; a name is a column of that name.
    """

    text: str
    names: frozenset[str]
    sql: str
    _node: _Node

    def __call__(self, columns: Mapping[str, Column], count: int) -> Column:
        """Return the result for each of `count` rows of these columns."""
        return self._node.run(columns, count)

    def holds(self, columns: Mapping[str, Column], count: int) -> NDArray[np.bool_]:
        """Return for which rows a condition is true: neither false nor unknown; bool [count].

        >>> dwell = Column(np.array([40.0, 3.0, 0.0]), np.array([True, True, False]))
        >>> parse("dwell >= 30", {"dwell": "number"}, "truth").holds({"dwell": dwell}, 3).tolist()
        [True, False, False]
        """
        result = self(columns, count)
        held: NDArray[np.bool_] = result.values.astype(bool) & result.known
        return held


def parse(text: str, names: Mapping[str, Kind], wanted: Kind) -> Expression:
    """Check an expression.

    Args:
        names: The values that it may read, and their kinds.
        wanted: What its result has to be.

    Raises:
        ValueError: it is none; the message says where and what was expected.
    """
    try:
        # Leading blanks would be an indent to Python.
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        at = f" at character {error.offset}" if isinstance(error, SyntaxError) else ""
        raise ValueError(
            f"cannot be read{at}: {text!r}; expected for example {_example(names, wanted)!r}"
        ) from None
    reader = _Reader(text.strip(), names)
    node = reader.read(tree, wanted)
    return Expression(text, frozenset(reader.used), node.sql, node)


def _example(names: Mapping[str, Kind], wanted: Kind) -> str:
    numbers = [name for name, kind in names.items() if kind == "number"]
    if wanted == "truth":
        return f"{numbers[0]} >= 30" if numbers else 'source == "mail"'
    return f"min(1, {numbers[0]} / 10)" if numbers else "1"


class _Reader:
    def __init__(self, text: str, names: Mapping[str, Kind]) -> None:
        self._text, self._names = text, names
        self.used: set[str] = set()

    def read(self, tree: ast.expr, wanted: Kind | None, depth: int = 0) -> _Node:
        if depth > DEEPEST:
            raise self._wrong(tree, f"expected at most {DEEPEST} levels of brackets and operators")
        node = self._read(tree, depth + 1)
        if wanted is not None and node.kind != wanted:
            words = {"truth": "a condition", "number": "a number", "text": "a text"}
            raise self._wrong(tree, f"expected {words[wanted]}, got {words[node.kind]}")
        return node

    def _read(self, tree: ast.expr, depth: int) -> _Node:
        match tree:
            case ast.Constant(value=bool() | None):
                pass
            case ast.Constant(value=int() | float() as number) if abs(number) < float("inf"):
                return _constant("number", f"{float(number)!r}::double", np.float64(number))
            case ast.Constant(value=str() as text):
                return _constant("text", quoted(text), text)
            case ast.Name(id=name) if name in self._names:
                self.used.add(name)
                return _name(name, self._names[name])
            case ast.Name(id=name):
                known = ", ".join(self._names) or "none"
                raise self._wrong(tree, f"unknown name {name!r}; expected one of: {known}")
            case ast.Compare(left=left, ops=[ast.Is() | ast.IsNot() as op], comparators=[right]):
                if not (isinstance(right, ast.Name) and right.id == MISSING_WORD):
                    raise self._wrong(right, "expected `missing` after `is` or `is not`")
                return _is_missing(self.read(left, None, depth), isinstance(op, ast.IsNot))
            case ast.Compare(left=left, ops=[ast.In() | ast.NotIn() as op], comparators=[several]):
                if not isinstance(several, ast.Tuple | ast.List) or not several.elts:
                    raise self._wrong(several, 'expected values in brackets, such as ("a", "b")')
                equal = [self._compared(left, ast.Eq(), one, depth) for one in several.elts]
                found = _both("or", equal)
                return _not(found) if isinstance(op, ast.NotIn) else found
            case ast.Compare(left=left, ops=ops, comparators=rights):
                lefts = [left, *rights]
                parts = [
                    self._compared(a, op, b, depth)
                    for a, op, b in zip(lefts, ops, rights, strict=False)
                ]
                return _both("and", parts)
            case ast.BoolOp(op=op, values=values):
                word: Literal["and", "or"] = "and" if isinstance(op, ast.And) else "or"
                return _both(word, [self.read(value, "truth", depth) for value in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _not(self.read(operand, "truth", depth))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.read(operand, "number", depth)
                return _of("number", f"(-{inner.sql})", operator.neg, [inner])
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                sign, function = ARITHMETIC[type(op)]
                two = [self.read(side, "number", depth) for side in (left, right)]
                if sign == "/":
                    return _of("number", _divided(*two), _divide, two)
                return _of("number", f"({two[0].sql} {sign} {two[1].sql})", function, two)
            case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if (
                name in CALLS and len(given) > 1
            ):
                numbers = [self.read(one, "number", depth) for one in given]
                least, function = CALLS[name]
                # DuckDB's least and greatest leave nulls out; here a missing one makes it missing.
                missing = " or ".join(f"{one.sql} is null" for one in numbers)
                listed = ", ".join(one.sql for one in numbers)
                least_of = f"(case when not ({missing}) then {least}({listed}) end)"
                return _of("number", least_of, lambda *v: functools.reduce(function, v), numbers)
        raise self._wrong(
            tree,
            "expected a comparison, and, or, not, is missing, in, a number, a text, a name, "
            "+ - * /, min or max",
        )

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int) -> _Node:
        if type(op) not in COMPARISONS:
            raise self._wrong(left, "expected `is missing`, in, or one of < <= > >= == != alone")
        sign, function = COMPARISONS[type(op)]
        two = [self.read(side, None, depth) for side in (left, right)]
        if two[0].kind != two[1].kind or two[0].kind == "truth":
            raise self._wrong(right, "expected two numbers or two texts to compare")
        if two[0].kind == "text" and sign not in ("=", "<>"):
            raise self._wrong(left, "texts have no order here; expected == or !=")
        return _of("truth", f"({two[0].sql} {sign} {two[1].sql})", function, two)

    def _wrong(self, tree: ast.expr, message: str) -> ValueError:
        return ValueError(f"at character {tree.col_offset + 1} of {self._text!r}: {message}")


def _constant(kind: Kind, sql: str, value: Any) -> _Node:
    def run(_: Mapping[str, Column], count: int) -> Column:
        dtype = object if kind == "text" else np.float64
        return Column(np.full(count, value, dtype), np.ones(count, bool))

    return _Node(kind, sql, run)


def _name(name: str, kind: Kind) -> _Node:
    return _Node(kind, identifier(name), lambda columns, _: columns[name])


def _of(kind: Kind, sql: str, function: Callable[..., Any], parts: list[_Node]) -> _Node:
    """Return a function of parts, missing where one of them is."""

    def run(columns: Mapping[str, Column], count: int) -> Column:
        results = [part.run(columns, count) for part in parts]
        known = np.logical_and.reduce([result.known for result in results])
        with np.errstate(all="ignore"):
            values = function(*(result.values for result in results))
        if kind == "number":  # out of range, or divided by 0
            known &= np.isfinite(values)
        return Column(np.asarray(values), known)

    if kind == "number" and len(parts) > 1:
        sql = f"(case when isfinite({sql}) then {sql} end)"
    return _Node(kind, sql, run)


def _divided(above: _Node, below: _Node) -> str:
    return f"({above.sql} / nullif({below.sql}, 0))"


def _divide(above: Any, below: Any) -> Any:
    return above / np.where(below == 0, np.nan, below)


def _is_missing(part: _Node, negated: bool) -> _Node:
    def run(columns: Mapping[str, Column], count: int) -> Column:
        known = part.run(columns, count).known
        return Column(known if negated else ~known, np.ones(count, bool))

    return _Node("truth", f"({part.sql} is {'not ' if negated else ''}null)", run)


def _not(part: _Node) -> _Node:
    return _of("truth", f"(not {part.sql})", lambda values: ~values.astype(bool), [part])


def _both(word: Literal["and", "or"], parts: list[_Node]) -> _Node:
    """Return Kleene's and, or: unknown only where the known parts do not decide."""

    def run(columns: Mapping[str, Column], count: int) -> Column:
        results = [part.run(columns, count) for part in parts]
        decides = word == "or"  # one part of this value decides
        decided = np.logical_or.reduce(
            [result.known & (result.values.astype(bool) == decides) for result in results]
        )
        known = decided | np.logical_and.reduce([result.known for result in results])
        return Column(np.where(decided, decides, not decides), known)

    if len(parts) == 1:
        return parts[0]
    return _Node("truth", f"({f' {word} '.join(part.sql for part in parts)})", run)
