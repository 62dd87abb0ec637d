"""Formulas of derived labels: what they give, that they see no later item, and what they refuse."""

from __future__ import annotations

import math
import random
import time
from array import array
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perceive.corpus.formulas import FUNCTIONS, Formula, FormulaError, check_column_name

NAMES = ("a", "b", "valence")
NUMBERS = (0.0, 0.25, 1.0, 1.5, 3.0)
VALUES = st.none() | st.integers(0, 8).map(lambda n: n / 8)
Rows = list[tuple[str, int, dict[str, float | None]]]

TREES = st.recursive(
    st.sampled_from(NAMES) | st.sampled_from(NUMBERS),
    lambda tree: st.one_of(
        st.tuples(st.sampled_from("+-*/"), tree, tree),
        st.tuples(st.sampled_from(["min", "max"]), tree, tree, tree),
        st.tuples(st.sampled_from(["abs", "sqrt", "neg", "usual", "last"]), tree),
    ),
    max_leaves=8,
).filter(lambda tree: bool(set(NAMES) & set(leaves(tree))))
ROWS: st.SearchStrategy[Rows] = st.lists(
    st.tuples(st.sampled_from("xy"), st.integers(0, 4), st.fixed_dictionaries(dict.fromkeys(NAMES, VALUES))),
    min_size=1,
    max_size=9,
)


def leaves(tree: Any) -> list[Any]:
    return [tree] if not isinstance(tree, tuple) else [leaf for part in tree[1:] for leaf in leaves(part)]


def written(tree: Any) -> str:
    if not isinstance(tree, tuple):
        return str(tree)
    parts = [written(part) for part in tree[1:]]
    if tree[0] in "+-*/":
        return f"({parts[0]} {tree[0]}{parts[1]})"
    return f"-({parts[0]})" if tree[0] == "neg" else f"{tree[0]}({', '.join(parts)})"


def exact_mean(values: Sequence[float]) -> float:
    return float(sum(map(Fraction, values)) / len(values))


def meaning(tree: Any, item: int, rows: Rows) -> float | None:
    """The value by the definition: looks every earlier item up, again and again."""
    if not isinstance(tree, tuple):
        return rows[item][2][tree] if isinstance(tree, str) else tree
    owner, moment, _ = rows[item]
    if tree[0] in ("usual", "last"):
        earlier = [(then, meaning(tree[1], other, rows)) for other, (whose, then, _) in enumerate(rows)
                   if whose == owner and then < moment]  # fmt: skip
        known = [(then, value) for then, value in earlier if value is not None]
        latest = max((then for then, _ in known), default=None)
        found = [value for then, value in known if tree[0] == "usual" or then == latest]
        return exact_mean(found) if found else None
    parts = [meaning(part, item, rows) for part in tree[1:]]
    if any(part is None for part in parts):
        return None
    x, y = [*parts, None][:2]
    if tree[0] == "/":
        return x / y if y else None  # type: ignore[operator]
    if tree[0] == "sqrt":
        return math.sqrt(x) if x >= 0 else None  # type: ignore[operator, arg-type]
    operations: dict[str, Any] = {
        "+": lambda: x + y, "-": lambda: x - y, "*": lambda: x * y, "neg": lambda: -x, "abs": lambda: abs(x),
        "min": lambda: min(parts), "max": lambda: max(parts),
    }  # type: ignore[operator, arg-type, type-var]  # fmt: skip
    return operations[tree[0]]()


def values_of(formula: Formula, rows: Rows) -> list[float | None]:
    columns = [array("d", [math.nan if (v := row[2][name]) is None else v for row in rows])
               for name in formula.names]  # fmt: skip
    found = formula.evaluate(columns, [row[0] for row in rows], [row[1] for row in rows])
    return [None if value != value else value for value in found]


@given(TREES, ROWS)
@settings(max_examples=400, deadline=None)
def test_a_formula_is_what_its_definition_says(tree, rows):
    formula = Formula(written(tree), NAMES)
    assert formula.names == [name for name in NAMES if name in leaves(tree)]
    assert values_of(formula, rows) == [meaning(tree, item, rows) for item in range(len(rows))]


FLAT = st.lists(
    st.tuples(
        st.sampled_from([" + ", "-", "*", " / ", "- -", "*-"]), st.sampled_from([*NAMES, "2", ".5", "1e-1"])
    ),
    max_size=8,
)


@given(st.sampled_from(NAMES), FLAT, st.tuples(*[st.floats(0.125, 1)] * 3))
@settings(max_examples=200, deadline=None)
def test_operators_bind_as_in_python(first, rest, numbers):
    text = first + "".join(operator + name for operator, name in rest)
    row = dict(zip(NAMES, numbers, strict=True))
    [found] = values_of(Formula(text, NAMES), [("x", 0, row)])
    assert found == eval(text, {"__builtins__": {}}, row)


@given(TREES, ROWS, st.data())
@settings(max_examples=300, deadline=None)
def test_no_later_and_no_simultaneous_item_and_no_other_owner_is_seen(tree, rows, data):
    formula = Formula(written(tree), NAMES)
    item = data.draw(st.integers(0, len(rows) - 1))
    owner, moment, _ = rows[item]
    before = values_of(formula, rows)[item]
    unseen = [n for n, row in enumerate(rows) if n != item and (row[0] != owner or row[1] >= moment)]
    changed = list(rows)
    for n in unseen:
        new = {name: data.draw(VALUES) for name in NAMES}
        changed[n] = (rows[n][0], rows[n][1] + data.draw(st.integers(0, 2)), new)
    assert values_of(formula, changed)[item] == before
    kept = [n for n in range(len(rows)) if n not in unseen]
    assert values_of(formula, [rows[n] for n in kept])[kept.index(item)] == before


@given(TREES, ROWS, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_order_of_the_items_changes_no_bit(tree, rows, rng):
    formula = Formula(written(tree), NAMES)
    order = list(range(len(rows)))
    rng.shuffle(order)
    before = values_of(formula, rows)
    assert values_of(formula, [rows[n] for n in order]) == [before[n] for n in order]


def test_the_past_by_hand():
    timeline = [("x", 1, 0.5), ("x", 2, None), ("y", 2, 0.0), ("x", 3, 0.25), ("x", 3, 0.75), ("x", 4, 1.0)]
    rows: Rows = [(owner, moment, {"a": value}) for owner, moment, value in timeline]
    assert values_of(Formula("usual(a)", ["a"]), rows) == [None, 0.5, None, 0.5, 0.5, 0.5]
    assert values_of(Formula("last(a)", ["a"]), rows) == [None, 0.5, None, 0.5, 0.5, 0.5]
    assert values_of(Formula("a - last(a)", ["a"]), rows) == [None, None, None, -0.25, 0.25, 0.5]
    # The change from the last one, against the usual change.
    rows = [("x", moment, {"a": value}) for moment, value in enumerate([0.0, 0.5, 0.25, 1.0])]
    found = values_of(Formula("abs(a - last(a)) - usual(abs(a - last(a)))", ["a"]), rows)
    assert found == [None, None, -0.25, 0.375]


@given(st.floats(0, 1), st.integers(2, 50))
def test_who_is_always_the_same_never_departs_from_the_usual(value, count):
    rows: Rows = [("x", moment, {"a": value}) for moment in range(count)]
    assert values_of(Formula("abs(a - usual(a))", ["a"]), rows) == [None] + [0.0] * (count - 1)


def test_what_has_no_value_is_missing():
    row: Rows = [("x", 0, {"a": 0.5, "b": 0.0})]
    missing = ("a / b", "sqrt(b - a)", "min(1, a / b)", "max(a / b, 1)", "max(1, a / b)", "0 * (1 / b)",
               "1e15 * 1e15 / (1 / 1e15) * 1e15" + " * 1e15" * 20 + " * a")  # fmt: skip
    for text in missing:
        formula = Formula(text, ["a", "b"])
        assert values_of(formula, row) == [None], text
    assert values_of(Formula("a / -.5", ["a"]), row) == [-1.0]


def test_a_long_timeline_takes_no_quadratic_time():
    count = 10_000
    formula = Formula("min(1, 2 * abs(a - usual(a)) + last(b) / 9)", ["a", "b"])
    rng = random.Random(1)
    columns = [array("d", [rng.random() for _ in range(count)]) for _ in formula.names]
    times = array("q", [rng.randrange(10**15) for _ in range(count)])
    begin = time.process_time()
    formula.evaluate(columns, array("Q", [7]) * count, times)
    assert time.process_time() - begin < 1.0


# --------------------------------------------------------------------------- what is refused

KNOWN = ["reader", "writer", "valence"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("abs(readr - writer)", "unknown name 'readr'; did you mean 'reader'? Known are reader, writer, va"),
        ("xyz", "unknown name 'xyz'. Known are reader"),
        ("usal(valence)", "unknown function 'usal'; did you mean 'usual'? Known are abs, min, max, sqrt"),
        ("open(valence)", "unknown function 'open'"),
        ("arousal", "'arousal' cannot be used: derived itself"),
        ("2 * abs", "'abs' is a function: write abs(...)"),
        ("abs(valence, 1)", "'abs(valence, 1)': abs takes one value"),
        ("min(valence)", "'min(valence)': min takes two values or more"),
        ("usual()", "'usual()': usual takes one value"),
        ("2", "uses no name"),
        ("", "cannot be read"),
        ("valence + (", "cannot be read at"),
        ("valence writer", "cannot be read at"),
        ("valence ** 2", "'valence ** 2' is not allowed; allowed are numbers, names, + - * /"),
        ("9 ** 9 ** 9 ** 9 * valence", "is not allowed"),
        ("valence.real", "'valence.real' is not allowed"),
        ("valence.__class__.__base__", "is not allowed"),
        ("__import__ (valence)", "unknown function '__import__'"),
        ("__builtins__ + valence", "unknown name '__builtins__'"),
        ("lambda: valence", "':' is not allowed"),
        ("(lambda x: x)(valence)", "':' is not allowed"),
        ("[valence]", "'[' is not allowed"),
        ("'a' * 3", '"\'" is not allowed'),
        ("valence // 2", "'valence // 2' is not allowed"),
        ("valence % 2", "'%' is not allowed"),
        ("valence < 1", "'<' is not allowed"),
        ("valence if 1 else 2", "'valence if 1 else 2' is not allowed"),
        ("valence or 1", "'valence or 1' is not allowed"),
        ("not valence", "'not valence' is not allowed"),
        ("+valence", "'+valence' is not allowed"),
        ("valence, 1", "is not allowed"),
        ("min(*valence, 1)", "'*valence' is not allowed"),
        ("abs(valence)(1)", "'abs(valence)(1)' is not allowed"),
        ("min(valence for valence in reader)", "min takes two"),
        ("min(1, (valence for valence in reader))", "is not allowed"),
        ("True * valence", "'True' is not allowed"),
        ("None", "'None' is not allowed"),
        ("1j * valence", "'1j' is not allowed"),
        ("0x10 * valence", "'0x10' is not allowed"),
        ("1_0 * valence", "'1_0' is not allowed"),
        ("1e999 * valence", "the number 1e999 is too large"),
        ("9" * 400 + " * valence", "is too large"),
        ("valence # comment", "'#' is not allowed"),
        ("välence", "'ä' is not allowed"),
        ("valence" + " + valence" * 90, "longer than 500 characters"),
        ("-" * 250 + "valence", "more than 200 parts"),
        ("(" * 230 + "valence" + ")" * 230, "cannot be read"),
    ],
)  # fmt: skip
def test_what_a_formula_may_not_say(text, said):
    with pytest.raises(FormulaError) as caught:
        Formula(text, KNOWN, {"arousal": "derived itself"})
    message = str(caught.value)
    assert said in message and message.startswith("formula ") and len(message) < 420
    assert text[:50] in message or "\\" in message or '"' in message


PIECES = (*KNOWN, *FUNCTIONS, "+", "-", "*", "/", "(", ")", ",", ".", "1", "0.5", "**", "//", "__class__",
          " ", "if", "else", "lambda", "for", "in", "not", "1e5", "_")  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=30))
@example("-valence")
@settings(max_examples=1_500, deadline=None)
def test_what_is_accepted_is_arithmetic_and_all_else_an_error_of_its_own(text):
    try:
        formula = Formula(text, KNOWN)
    except FormulaError:
        return
    row = dict.fromkeys(KNOWN, 0.5)
    [found] = values_of(formula, [("x", 0, row)])
    # Python has nothing to work with but these, and agrees.
    functions: dict[str, Any] = {"abs": abs, "min": min, "max": max, "sqrt": math.sqrt}
    functions |= dict.fromkeys(("usual", "last"), lambda x: math.nan)
    try:
        expected = eval(formula.text, {"__builtins__": {}, **functions}, row)
    except (ZeroDivisionError, ValueError):
        expected = math.nan
    if not formula.causal:
        assert found == (expected if math.isfinite(expected) else None)


def test_names_of_columns():
    check_column_name("reader_V2", ["valence"])
    for name in (
        "",
        "_x",
        "__class__",
        "2x",
        "a b",
        "a-b",
        "lambda",
        "None",
        "é",
        "x" * 41,
        "abs",
        "last",
        "valence",
    ):
        with pytest.raises(FormulaError, match="columns: "):
            check_column_name(name, ["valence"])
