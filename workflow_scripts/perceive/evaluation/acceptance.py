"""Acceptance beyond the metrics: agreement, leakage, fairness, parity and latency, judged as gates are.

The rows have the columns of :func:`perceive.evaluation.gates.acceptance_table`, and two more: the share of
the noise ceiling that is reached, and the gain over the best naive baseline (see `completed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from perceive.evaluation import lower_is_better
from perceive.evaluation.gates import ACCEPTANCE_COLUMNS, Verdict
from perceive.evaluation.metrics import json_safe
from perceive.figures import COLUMN_LABELS

BUNDLE = "bundle"
"""Stands for the variable in the rows of what is deployed."""
ERRORS = frozenset({"group_gap", "leaks", "parity_rmse", "p50_ms"})
"""Metrics of this module of which less is better."""
COLUMNS = (*ACCEPTANCE_COLUMNS[:10], "ceiling_share", "baseline_gain", *ACCEPTANCE_COLUMNS[10:])

Row = dict[str, Any]


def _row(variable: str, gate: str, metric: str, op: str, threshold: float, **known: Any) -> Row:
    row: Row = dict.fromkeys(ACCEPTANCE_COLUMNS)
    row |= {"variable": variable, "gate": gate, "metric": metric, "op": op, "threshold": float(threshold)}
    return row | {"n": 0, "owners": 0} | known


def _by_interval(op: str, threshold: float, low: float | None, high: float | None) -> Verdict:
    if low is None or high is None or np.isnan(low) or np.isnan(high):
        return "undecided"
    if op == "<=":
        return "pass" if high <= threshold else "fail" if low > threshold else "undecided"
    return "pass" if low >= threshold else "fail" if high < threshold else "undecided"


def agreement_row(variable: str, agreement: Mapping[str, Any], minimum: float) -> Row:
    """Krippendorff's alpha of the annotators against what is asked; undecided where nobody rated twice.

    Parameters
    ----------
    agreement : mapping
        Of :func:`perceive.corpus.agreement.measure_agreement`.
    """
    alpha = agreement["alpha"]
    low, high = alpha.get("low"), alpha.get("high")
    return _row(
        variable,
        f"Krippendorff's alpha >= {minimum:g}",
        "krippendorff_alpha",
        ">=",
        minimum,
        value=alpha["value"],
        low=low,
        high=high,
        verdict=_by_interval(">=", minimum, low, high),
        n=agreement["n_items"],
        note="not measured: no two ratings of an item" if alpha["value"] is None else "of the annotators",
    )


def leakage_row(variable: str, audits: Iterable[Mapping[str, Any]]) -> Row:
    """No check of the audits failed; waived ones leave it undecided."""
    checks = [check for audit in audits for check in audit["checks"]]
    waived = [check["name"] for check in checks if check["verdict"] == "waived"]
    failed = sum(check["verdict"] not in ("pass", "waived") for check in checks)
    verdict = "fail" if failed else "undecided" if waived else "pass"
    note = f"{len(checks)} checks" + (f"; waived: {', '.join(waived)}" if waived else "")
    return _row(variable, "leaks <= 0", "leaks", "<=", 0, value=float(failed), verdict=verdict, note=note)


def fairness_row(variable: str, fairness: Mapping[str, Any], limits: Mapping[str, float]) -> Row:
    """The largest gap between the groups of a column.

    Parameters
    ----------
    fairness : mapping
        Of :func:`perceive.evaluation.fairness.measure_fairness`.
    limits : mapping
        ``scale`` (RMSE) and ``hierarchy`` (share of wrong answers).
    """
    limit = limits["hierarchy" if fairness["kind"] == "hierarchy" else "scale"]
    column = fairness["largest"]
    what = f"largest gap between groups <= {limit:g}"
    if column is None:
        note = "not measured: no column with two groups that are large enough"
        return _row(variable, what, "group_gap", "<=", limit, verdict="undecided", note=note)
    gap = fairness["gaps"][column]
    sizes = [fairness["groups"][column][gap[side]] for side in ("worst", "best")]
    return _row(
        variable,
        what,
        "group_gap",
        "<=",
        limit,
        value=gap["value"],
        low=gap["low"],
        high=gap["high"],
        verdict=_by_interval("<=", limit, gap["low"], gap["high"]),
        n=sum(size["n"] for size in sizes),
        owners=max(size["owners"] for size in sizes),
        note=f"{COLUMN_LABELS.get(column, column)}: {gap['worst']} against {gap['best']}, "
        f"out of {gap['groups']} groups",
    )


def parity_rows(parity: Mapping[str, Any], default: str, limits: Mapping[str, float]) -> list[Row]:
    """Parity of fp32 and of the precision that is served by default with the training pipeline.

    Parameters
    ----------
    parity : mapping
        ``serving/parity.json``.
    default : str
        The precision that the bundle serves.
    limits : mapping
        Precision to the largest RMSE; ``fp32`` and ``other``.
    """
    rows = []
    for precision in dict.fromkeys(("fp32", default)):
        found = parity["precisions"][precision]
        limit = limits.get(precision, limits["other"])
        paths = found.get("same_path")
        # Counted on every test item: there is no sample to draw again.
        rows.append(
            _row(
                BUNDLE,
                f"RMSE to the pipeline at {precision} <= {limit:g}",
                "parity_rmse",
                "<=",
                limit,
                value=found["rmse"],
                low=found["rmse"],
                high=found["rmse"],
                verdict="pass" if found["passes"] and found["rmse"] <= limit else "fail",
                n=max(one["rows"] for one in found["variables"].values()),
                note=None if paths is None else f"{paths:.1%} of the paths are the same",
            )
        )
    return rows


def latency_row(latency: Mapping[str, Any], precision: str, limit: float) -> Row:
    """p50 from text to all answers at one item, on the device that ran first; p95 as the upper end."""
    device, found = next(iter(latency["devices"].items()))
    timed = found[precision]["batch"]["1"]
    return _row(
        BUNDLE,
        f"p50 at one item <= {limit:g} ms",
        "p50_ms",
        "<=",
        limit,
        value=timed["p50_ms"],
        verdict="pass" if timed["p50_ms"] <= limit else "fail",
        n=timed["repeats"],
        note=f"{precision} on {device} ({latency['device']}, {latency['threads']} threads); "
        f"p95 {timed['p95_ms']:.1f} ms",
    )


def completed(table: pd.DataFrame, rows: Iterable[Row] = ()) -> pd.DataFrame:
    """The table with further rows and with two columns that follow from the others.

    ``ceiling_share``
        How much of what the labels allow is reached: value / ceiling where more is better, ceiling / value of
        an error; 1 is the ceiling.
    ``baseline_gain``
        Over the best naive baseline: the share of its error that is gone, or, where more is better, the
        difference.
    """
    further = list(rows)
    if further:
        added = pd.DataFrame([[row[key] for key in ACCEPTANCE_COLUMNS] for row in further])
        added.columns = pd.Index(ACCEPTANCE_COLUMNS)
        numbers = ["threshold", "value", "low", "high", "baseline_value", "ceiling"]
        added = added.astype(dict.fromkeys(numbers, "float64"))
        table = added if table.empty else pd.concat([table, added], ignore_index=True)
    lower = np.array([metric in ERRORS or lower_is_better(metric) for metric in table["metric"]], dtype=bool)
    value, ceiling, baseline = (
        table[name].to_numpy(np.float64) for name in ("value", "ceiling", "baseline_value")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(lower, ceiling / value, value / ceiling)
        gain = np.where(lower, (baseline - value) / baseline, value - baseline)
    table = table.assign(ceiling_share=share, baseline_gain=gain)
    table = table.replace({"ceiling_share": [np.inf, -np.inf], "baseline_gain": [np.inf, -np.inf]}, np.nan)
    order = {name: place for place, name in enumerate(dict.fromkeys(table["variable"]))}
    order[BUNDLE] = len(order)
    place = table["variable"].map(order)
    return table.iloc[np.argsort(place.to_numpy(), kind="stable")][list(COLUMNS)].reset_index(drop=True)


def as_json(table: pd.DataFrame) -> dict[str, Any]:
    """The table for machines: counts, a verdict for each variable, and every gate.

    A variable is ``fail`` where a gate fails, else ``undecided`` where one is, else ``pass``.
    """
    verdicts = {
        str(variable): next(name for name in ("fail", "undecided", "pass") if name in set(of_one["verdict"]))
        for variable, of_one in table.groupby("variable", sort=False)
    }
    counts = {name: int((table["verdict"] == name).sum()) for name in ("pass", "fail", "undecided")}
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return json_safe({"counts": counts, "variables": verdicts, "gates": rows})
