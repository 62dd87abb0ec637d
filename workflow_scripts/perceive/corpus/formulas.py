"""Formulas of derived labels: arithmetic over named values, and two functions of the owner's past.

A formula is parsed, never run as Python: what is not listed here is refused. A value that lacks is NaN, and
so is what has none (a division by zero, the root of a negative number).
"""

from __future__ import annotations

import ast
import difflib
import keyword
import math
import operator
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

MAX_CHARS, MAX_PARTS = 500, 200
_FOREIGN = re.compile(r"[^A-Za-z0-9_.,+\-*/() ]+")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_ONE_ARGUMENT = ("abs", "sqrt", "usual", "last")
FUNCTIONS = ("abs", "min", "max", "sqrt", "usual", "last")
ALLOWED = "numbers, names, + - * /, parentheses, abs(x), min(x, y), max(x, y), sqrt(x), usual(x) and last(x)"
# Every number is a multiple of 1 / _UNIT: sums of integers are exact, so that no order of the items shows.
_UNIT = 1 << 1074

Row = Sequence[float]
Step = Callable[[Row], float]


class FormulaError(ValueError):
    """A formula that cannot be used; the message names it, the part at fault and what is allowed."""


class _Past:
    """What one call of `usual` or `last` knows of the owner's earlier items."""

    def __init__(self, of: Step) -> None:
        self.of = of
        self.value = math.nan

    def forget(self) -> None:
        """Begin with another owner."""
        self.value = math.nan

    def learn(self, values: Sequence[float]) -> None:
        """Take in what the items of one instant have: at least one value, none of them missing."""
        self.value = _mean(len(values), sum(map(_fixed, values)))


class _Usual(_Past):
    def forget(self) -> None:
        super().forget()
        self._count = self._total = 0

    def learn(self, values: Sequence[float]) -> None:
        self._count += len(values)
        self._total += sum(map(_fixed, values))
        self.value = _mean(self._count, self._total)


def _fixed(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return numerator * (_UNIT // denominator)


def _mean(count: int, total: int) -> float:
    return total / (count * _UNIT)


class Formula:
    """A formula, checked.

    Parameters
    ----------
    text
        The formula.
    known
        The names that it may use.
    refused
        Names that it may not use, and why.

    Attributes
    ----------
    text
        The formula with single spaces.
    names
        The names that it uses, in the order of `known`.

    Raises
    ------
    FormulaError
        If it holds anything that is not allowed, or no name.
    """

    def __init__(self, text: str, known: Iterable[str], refused: dict[str, str] | None = None) -> None:
        self.text = " ".join(text.split())
        self._known = list(known)
        self._refused = refused or {}
        self._past: list[_Past] = []
        tree = self._tree()
        self._check(tree)
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}
        self.names = [name for name in self._known if name in used]
        if not self.names:
            raise self._error(
                "it uses no name, so that all labels would be equal; known names: " + self._list()
            )
        self._places = {name: place for place, name in enumerate(self.names)}
        self._step = self._compiled(tree)

    # ---- what is allowed

    def _error(self, reason: str) -> FormulaError:
        shown = self.text if len(self.text) <= 120 else self.text[:117] + "..."
        return FormulaError(f"formula {shown!r}: {reason}")

    def _list(self) -> str:
        return ", ".join(self._known)

    def _tree(self) -> ast.expr:
        if len(self.text) > MAX_CHARS:
            raise self._error(f"longer than {MAX_CHARS} characters")
        if foreign := _FOREIGN.search(self.text):
            raise self._error(f"{foreign[0]!r} is not allowed; allowed are {ALLOWED}")
        try:
            tree = ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            at = self.text[max((error.offset or 1) - 1, 0) :][:20]
            raise self._error(f"cannot be read at {at!r}; allowed are {ALLOWED}") from None
        except (ValueError, RecursionError, MemoryError):
            raise self._error(f"cannot be read; allowed are {ALLOWED}") from None
        if sum(1 for _ in ast.walk(tree)) > MAX_PARTS:
            raise self._error(f"it has more than {MAX_PARTS} parts")
        return tree

    def _check(self, node: ast.expr) -> None:
        part = ast.get_source_segment(self.text, node) or self.text
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            children = [node.left, node.right]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            children = [node.operand]
        elif isinstance(node, ast.Constant) and _NUMBER.fullmatch(part):
            if abs(node.value) > 1e15:  # type: ignore[arg-type, operator]
                raise self._error(f"the number {part[:20]} is too large")
            children = []
        elif isinstance(node, ast.Name):
            self._check_name(node.id)
            children = []
        elif isinstance(node, ast.Call):
            self._check_call(node, part)
            children = node.args
        else:
            raise self._error(f"{part!r} is not allowed; allowed are {ALLOWED}")
        for child in children:
            self._check(child)

    def _check_name(self, name: str) -> None:
        if name in self._known:
            return
        if name in self._refused:
            raise self._error(f"{name!r} cannot be used: {self._refused[name]}")
        if name in FUNCTIONS:
            raise self._error(f"{name!r} is a function: write {name}(...)")
        raise self._error(f"unknown name {name!r}{_meant(name, self._known)} Known are {self._list()}")

    def _check_call(self, node: ast.Call, part: str) -> None:
        if not isinstance(node.func, ast.Name):
            raise self._error(f"{part!r} is not allowed; allowed are {ALLOWED}")
        name = node.func.id
        if name not in FUNCTIONS:
            raise self._error(
                f"unknown function {name!r}{_meant(name, FUNCTIONS)} Known are {', '.join(FUNCTIONS)}"
            )
        one = name in _ONE_ARGUMENT
        if node.keywords or not (len(node.args) == 1 if one else len(node.args) >= 2):
            raise self._error(f"{part!r}: {name} takes {'one value' if one else 'two values or more'}")

    # ---- its value

    def _compiled(self, node: ast.expr) -> Step:
        if isinstance(node, ast.Constant):
            number = float(node.value)  # type: ignore[arg-type]
            return lambda row: number
        if isinstance(node, ast.Name):
            return operator.itemgetter(self._places[node.id])
        if isinstance(node, ast.UnaryOp):
            return _negative(self._compiled(node.operand))
        if isinstance(node, ast.BinOp):
            left, right = self._compiled(node.left), self._compiled(node.right)
            if isinstance(node.op, ast.Div):
                return _quotient(left, right)
            return _combined(_OPERATORS[type(node.op)], left, right)
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        name, steps = node.func.id, [self._compiled(argument) for argument in node.args]
        if name == "abs":
            return _absolute(steps[0])
        if name == "sqrt":
            return _root(steps[0])
        if name in ("min", "max"):
            return _extreme(min if name == "min" else max, steps)
        past = (_Usual if name == "usual" else _Past)(steps[0])
        self._past.append(past)
        return lambda row: past.value

    @property
    def causal(self) -> bool:
        """Whether it reads the owner's earlier items."""
        return bool(self._past)

    def evaluate(
        self, columns: Sequence[array[float]], owners: Sequence[Any], times: Sequence[int]
    ) -> array[float]:
        """Return its value for each of n items: NaN where an input lacks, or the value is not finite.

        `usual(x)` is the mean of x over the owner's strictly earlier items that have it; `last(x)` the x of
        the latest such item (of several at the same instant their mean).

        Parameters
        ----------
        columns
            The values of each of `names`, each of length n; NaN where one lacks.
        owners, times
            Of the items; only compared, and only where the formula is `causal`.
        """
        count = len(columns[0])
        values = array("d", bytes(8 * count))
        step = self._step
        if not self.causal:
            for item in range(count):
                values[item] = _finite(step([column[item] for column in columns]))
            return values
        # Two stable sorts, since one by pairs would hold a tuple for each item.
        order = sorted(range(count), key=times.__getitem__)
        order.sort(key=owners.__getitem__)
        begin = 0
        while begin < count:
            first = order[begin]
            if begin == 0 or owners[first] != owners[order[begin - 1]]:
                for past in self._past:
                    past.forget()
            learned: list[list[float]] = [[] for _ in self._past]
            end = begin
            # Items of one instant do not know each other.
            while end < count and times[order[end]] == times[first] and owners[order[end]] == owners[first]:
                item = order[end]
                row = [column[item] for column in columns]
                values[item] = _finite(step(row))
                for past, found in zip(self._past, learned, strict=True):
                    value = past.of(row)
                    if math.isfinite(value):
                        found.append(value)
                end += 1
            for past, found in zip(self._past, learned, strict=True):
                if found:
                    past.learn(found)
            begin = end
        return values


def check_column_name(name: str, taken: Collection[str]) -> None:
    """Check the name that a formula gives to a column; `taken` are those with a meaning of their own.

    Raises
    ------
    FormulaError
        If it cannot stand in a formula, or is taken.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise FormulaError(
            f"columns: {name!r} is no name for a formula (letters, digits and _, a letter first, at most 40)"
        )
    if name in FUNCTIONS or name in taken:
        raise FormulaError(f"columns: {name!r} has a meaning of its own in formulas; choose another name")


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _negative(of: Step) -> Step:
    return lambda row: -of(row)


def _combined(operation: Callable[[float, float], float], left: Step, right: Step) -> Step:
    return lambda row: operation(left(row), right(row))


def _quotient(left: Step, right: Step) -> Step:
    def quotient(row: Row) -> float:
        divisor = right(row)
        return left(row) / divisor if divisor else math.nan

    return quotient


def _absolute(of: Step) -> Step:
    return lambda row: abs(of(row))


def _root(of: Step) -> Step:
    def root(row: Row) -> float:
        value = of(row)
        return math.sqrt(value) if value >= 0 else math.nan

    return root


def _extreme(choose: Callable[[list[float]], float], steps: Sequence[Step]) -> Step:
    def extreme(row: Row) -> float:
        found = [step(row) for step in steps]
        # min and max of Python depend on the place of a NaN.
        return math.nan if any(value != value for value in found) else choose(found)

    return extreme
