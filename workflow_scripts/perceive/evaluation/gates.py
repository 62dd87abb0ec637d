"""Acceptance gates: what a model must reach, and the verdict that the data allow.

A gate passes or fails only if the value and its whole 95 % interval are on one side of the threshold.
Otherwise the test split is too small to tell, and the verdict is ``undecided``.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from perceive.evaluation import (
    LEVEL_METRICS,
    METRIC_LABELS,
    PATH_METRICS,
    level_metric,
    lower_is_better,
    metric_label,
)
from perceive.variables import HIERARCHIES

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["pass", "fail", "undecided"]
OPERATORS = ("<=", ">=")
ACCEPTANCE_COLUMNS = (
    "variable", "gate", "threshold", "value", "low", "high", "verdict",
    "baseline", "baseline_value", "ceiling", "n", "owners", "metric", "op", "slice", "note",
)  # fmt: skip


# The metric of a hierarchy ends in the name of a level, which may be any.
_METRIC = re.compile(r"\w(?:[^\[\]<>=]*[^\[\]<>=\s])?")
_GATE = re.compile(rf"({_METRIC.pattern})\s*(?:\[\s*([^\[\]]+?)\s*\])?\s*([<>]=)\s*(\S+)")
# Slice values that name their column by themselves.
_COLUMN_OF = {
    **dict.fromkeys(("SHORT", "MEDIUM", "LONG"), "length_bucket"),
    **dict.fromkeys(("LOW", "HIGH"), "risk_level"),
    **dict.fromkeys(("en", "hinglish"), "language"),
}
# Slice values that say nothing without their column.
_SAID_WITH = {"history": "history {}", "owner": "{} owners"}
# Those of its levels come on top: only the taxonomy knows their names.
_OF_HIERARCHIES = ("blend_gain", *PATH_METRICS)


@dataclass(frozen=True)
class Gate:
    """One requirement: ``metric op threshold`` for a variable, on the whole test split or on one slice of it.

    ``str`` and :meth:`parse` are inverse: ``rmse <= 0.09``, ``rmse[SHORT] <= 0.16``,
    ``mae[category=sarcasm] <= 0.2``. The lengths, languages and risk levels LOW and HIGH need no column name;
    MEDIUM alone is the length.

    Parameters
    ----------
    variable, metric : str
        The metric as named in ``metrics.json``, for example ``rmse``, ``pearson``, ``blend_gain``, of a
        sequence also ``temporal_r``, ``between_r``, ``composite_r``, ``lag_gain``, ``history_gain``; of a
        hierarchy ``hierarchical_f1``, or a metric of one of its levels, ``macro_f1_core``.
    op : '<=' or '>='
    threshold : float
    slice : str, optional
        ``column=value``, for example ``length_bucket=SHORT``.

    Raises
    ------
    ValueError
        For an unknown operator or metric, a threshold that is no finite number, or a malformed slice.
    """

    variable: str
    metric: str
    op: str
    threshold: float
    slice: str | None = None

    def __post_init__(self) -> None:
        where = f"gate of {self.variable!r} on {self.metric!r}"
        if self.variable not in HIERARCHIES:
            if self.metric not in METRIC_LABELS:
                raise ValueError(f"{where}: unknown metric; allowed: {', '.join(METRIC_LABELS)}")
        elif self.metric not in _OF_HIERARCHIES and not (
            level_metric(self.metric) and _METRIC.fullmatch(self.metric)
        ):
            raise ValueError(
                f"{where}: unknown metric; allowed: {', '.join(_OF_HIERARCHIES)}, and of each level, as in "
                f"macro_f1_core: {', '.join(LEVEL_METRICS)}"
            )
        if self.op not in OPERATORS:
            raise ValueError(f"{where}: op is {self.op!r}; allowed: {', '.join(OPERATORS)}")
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not number or not math.isfinite(self.threshold):
            raise ValueError(f"{where}: threshold is {self.threshold!r}; it must be a finite number")
        if self.slice is not None and not all(part.strip() for part in (self.slice + " ").partition("=")):
            raise ValueError(f"{where}: slice is {self.slice!r}; write it as column=value")

    @classmethod
    def parse(cls, variable: str, text: str) -> Gate:
        """The gate that ``text`` writes, as in ``rmse[SHORT] <= 0.16``.

        Raises
        ------
        ValueError
            If the text has another form, or the gate is not valid; the message says what is allowed.
        """
        match = _GATE.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"gate of {variable!r}: cannot read {text!r}; write METRIC <= NUMBER or METRIC >= "
                "NUMBER, with an optional slice, as in rmse[SHORT] <= 0.16 or rmse[category=sarcasm] <= 0.16"
            )
        metric, part, op, number = match.groups()
        try:
            threshold = float(number)
        except ValueError:
            raise ValueError(f"gate of {variable!r}: {number!r} in {text!r} is not a number") from None
        if part is not None and "=" not in part:
            if part not in _COLUMN_OF:
                raise ValueError(
                    f"gate of {variable!r}: slice {part!r} in {text!r} needs its column, as in "
                    f"category={part}; only {', '.join(_COLUMN_OF)} do without"
                )
            part = f"{_COLUMN_OF[part]}={part}"
        return cls(variable, metric, op, threshold, part)

    def __str__(self) -> str:
        column, _, level = (self.slice or "").partition("=")
        part = level if _COLUMN_OF.get(level) == column else self.slice
        return f"{self.metric}{f'[{part}]' if part else ''} {self.op} {float(self.threshold)!r}"

    @property
    def label(self) -> str:
        """For people: ``RMSE on SHORT <= 0.16``."""
        column, _, level = (self.slice or "").partition("=")
        on = f" on {_SAID_WITH.get(column, '{}').format(level)}" if level else ""
        return f"{metric_label(self.metric)}{on} {self.op} {self.threshold:g}"

    def holds(self, value: float) -> bool:
        """Whether a number is on the right side; the threshold itself is."""
        return value <= self.threshold if self.op == "<=" else value >= self.threshold


def gates_from_config(config: Mapping[str, Iterable[str]]) -> dict[str, tuple[Gate, ...]]:
    """The gates of each variable, parsed from lines as :meth:`Gate.parse` reads them."""
    return {
        variable: tuple(Gate.parse(variable, line) for line in lines) for variable, lines in config.items()
    }


DEFAULT_GATES: dict[str, tuple[Gate, ...]] = gates_from_config(
    {
        "valence": [
            "rmse <= 0.09",
            "pearson >= 0.80",
            "spearman >= 0.40",
            "ece <= 0.05",
            "mae <= 0.12",
            "rmse[SHORT] <= 0.16",
            "rmse[MEDIUM] <= 0.15",
            "blend_gain >= 0.02",
        ],
        "arousal": ["rmse <= 0.11", "pearson >= 0.75", "spearman >= 0.40", "ece <= 0.06"],
        "willingness": ["mae <= 0.10", "spearman >= 0.45", "ece <= 0.08"],
        "invoked": ["macro_f1_core >= 0.75", "hierarchical_f1 >= 0.60", "path_validity >= 0.92"],
        "expressed": ["macro_f1_core >= 0.73", "hierarchical_f1 >= 0.58", "path_validity >= 0.92"],
        # A sequence must beat what its owner's past labels, and its text alone, already say.
        "congruence": ["rmse <= 0.12", "temporal_r >= 0.55", "lag_gain >= 0", "history_gain >= 0"],
        "comparator": ["rmse <= 0.12", "temporal_r >= 0.55", "lag_gain >= 0", "history_gain >= 0"],
    }
)


def judge(gate: Gate, value: float | None, low: float | None, high: float | None) -> Verdict:
    """``pass`` if value and interval all hold, ``fail`` if none does; else, or missing, ``undecided``."""
    numbers = [value, low, high]
    if any(number is None or math.isnan(number) for number in numbers):
        return "undecided"
    holds = {gate.holds(float(number)) for number in numbers if number is not None}
    return "undecided" if len(holds) == 2 else "pass" if holds.pop() else "fail"


def judge_result(result: Mapping[str, Any], gates: Iterable[Gate]) -> list[dict[str, Any]]:
    """The gates of ``result['variable']`` judged on its numbers, one row each (:data:`ACCEPTANCE_COLUMNS`).

    Only the stored numbers are read, so that changed requirements are judged again without any data or model.

    Parameters
    ----------
    result : mapping
        What :func:`perceive.evaluation.evaluate.evaluate_regression` and its siblings return, or the same
        read back from JSON. If its ``derived`` is a text, the label was computed from others and not given
        by an annotator, and every row's note says so.
    """
    return [_judged(result, gate) for gate in gates if gate.variable == result["variable"]]


def _judged(result: Mapping[str, Any], gate: Gate) -> dict[str, Any]:
    part: Mapping[str, Any] = result
    if gate.slice is not None:
        column, _, level = gate.slice.partition("=")
        part = result["slices"].get(column, {}).get(level, {"n": 0, "owners": 0})
    n, owners = part["n"], part["owners"]
    if gate.slice is None:
        numbers = result.get(gate.metric) or result["metrics"]["calibrated"].get(gate.metric)
        compared = {
            name: of[gate.metric]["value"] for name, of in result["baselines"].items() if gate.metric in of
        }
    else:
        numbers = part.get("metrics", {}).get(gate.metric)
        compared = {name: of.get(gate.metric) for name, of in part.get("baselines", {}).items()}
    value, low, high = (numbers[key] for key in ("value", "low", "high")) if numbers else (None, None, None)
    best = best_of(compared, gate.metric)
    # A slice has no ceiling of its own: its error variance would rest on a handful of ratings.
    ceiling = (result.get("noise_ceiling") or {}).get(gate.metric) if gate.slice is None else None
    of_level = level_metric(gate.metric) if result.get("kind") == "hierarchy" else None
    if of_level and of_level[1] not in result["observed"]:
        levels = ", ".join(result["observed"])
        note = f"not measured: the taxonomy has no level {of_level[1]!r} (it has {levels})"
    elif n == 0:
        note = "no rows (n=0)"
    elif numbers is None or value is None:
        note = f"not measured (n={n}, owners={owners})"
    elif low is None or high is None:
        note = f"no interval (n={n}, owners={owners})"
    elif ceiling is not None and not gate.holds(ceiling):
        note = "beyond the noise ceiling: no model can reach it on these labels"
    else:
        note = None
    if isinstance(result.get("derived"), str):
        note = "; ".join(filter(None, ("derived label", note)))
    return {
        "variable": gate.variable,
        "gate": gate.label,
        "threshold": float(gate.threshold),
        "value": value,
        "low": low,
        "high": high,
        "verdict": judge(gate, value, low, high),
        "baseline": best,
        "baseline_value": compared[best] if best else None,
        "ceiling": ceiling,
        "n": n,
        "owners": owners,
        "metric": gate.metric,
        "op": gate.op,
        "slice": gate.slice,
        "note": note,
    }


def best_of(values: Mapping[str, float | None], metric: str) -> str | None:
    """Name of the best value of a metric; the first of equals, None if none is defined."""
    defined = {name: value for name, value in values.items() if value is not None and not math.isnan(value)}
    if not defined:
        return None
    sign = 1 if lower_is_better(metric) else -1
    return min(defined, key=lambda name: sign * defined[name])


def acceptance_table(
    results: Mapping[str, Mapping[str, Any]], gates: Mapping[str, Iterable[Gate]] | None = None
) -> pd.DataFrame:
    """One row per gate, columns :data:`ACCEPTANCE_COLUMNS`, in the order of ``results`` and of the gates.

    Parameters
    ----------
    results : mapping of variable to evaluation result
    gates : mapping of variable to gates, optional
        Judge by these; by default the verdicts stored in the results stand.
    """
    import pandas as pd

    rows: list[Mapping[str, Any]] = []
    for variable, result in results.items():
        rows.extend(result["gates"] if gates is None else judge_result(result, gates.get(variable, ())))
    table = pd.DataFrame(
        [[row.get(key) for key in ACCEPTANCE_COLUMNS] for row in rows], columns=ACCEPTANCE_COLUMNS
    )
    numbers = ["threshold", "value", "low", "high", "baseline_value", "ceiling"]
    return table.astype(dict.fromkeys(numbers, "float64") | dict.fromkeys(("n", "owners"), "int64"))


_MARKS = {"pass": ("✓", "+"), "fail": ("✗", "x"), "undecided": ("?", "?")}
_COUNTED = {"pass": "passed", "fail": "failed", "undecided": "undecided"}


def summary_text(table: pd.DataFrame, *, unicode: bool | None = None) -> str:
    """The acceptance table for a terminal: one line per gate under its variable, and the counts.

    Parameters
    ----------
    table : DataFrame
        From :func:`acceptance_table`.
    unicode : bool, optional
        Whether ticks and crosses may be used; by default if standard output's encoding holds them.
    """
    import pandas as pd

    if unicode is None:
        unicode = _encodes(
            getattr(sys.stdout, "encoding", None), "".join(mark for mark, _ in _MARKS.values())
        )
    header = ("", "", "", "95 % interval", "best baseline", "ceiling", "")
    cells: dict[str, list[tuple[str, ...]]] = {}
    for row in table.to_dict("records"):
        mark = _MARKS[row["verdict"]][0 if unicode else 1]
        interval = (
            "" if pd.isna(row["low"]) or pd.isna(row["high"]) else f"{row['low']:.3f} .. {row['high']:.3f}"
        )
        baseline = "" if pd.isna(row["baseline_value"]) else f"{row['baseline_value']:.3f} {row['baseline']}"
        value = "-" if pd.isna(row["value"]) else f"{row['value']:.3f}"
        note = row["note"] if isinstance(row["note"], str) else ""
        ceiling = "" if pd.isna(row["ceiling"]) else f"{row['ceiling']:.3f}"
        cells.setdefault(row["variable"], []).append(
            (mark, row["gate"], value, interval, baseline, ceiling, note)
        )
    flat = [header, *(line for lines in cells.values() for line in lines)]
    widths = [max(len(line[i]) for line in flat) for i in range(len(header))]

    def aligned(line: tuple[str, ...]) -> str:
        right = {2}  # numbers
        parts = (
            c.rjust(w) if i in right else c.ljust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        return ("  " + "  ".join(parts)).rstrip()

    lines = ["Acceptance on the test split"]
    for number, (variable, of) in enumerate(cells.items()):
        n, owners = table.loc[table["variable"] == variable, ["n", "owners"]].max()
        title = f"{variable} (n={n}, {owners} owners)" if owners else f"{variable} (n={n})"
        lines.append(title + aligned(header)[len(title) :] if number == 0 else title)
        lines.extend(map(aligned, of))
    counts = table["verdict"].value_counts()
    named = (f"{counts.get(verdict, 0)} {word}" for verdict, word in _COUNTED.items())
    lines.append(f"{len(table)} gates: {', '.join(named)}")
    return "\n".join(lines)


def _encodes(encoding: str | None, text: str) -> bool:
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def read_acceptance(path: str | PathLike[str]) -> pd.DataFrame:
    """Read ``acceptance.tsv``."""
    import pandas as pd

    return pd.read_csv(path, sep="\t", dtype={"slice": "object", "note": "object", "baseline": "object"})
