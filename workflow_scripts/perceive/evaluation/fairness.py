"""Who gets worse answers: error and calibration by group, the largest gap, and the worst answers for review.

The error of a group is the RMSE of a scale, and the share of wrong answers at the first level of a path. Its
bias is what calibration leaves for the group: mean predicted minus mean observed, or mean confidence minus
share of right answers (calibration in the large, per group).

The gap of a column is the error of its worst group minus that of its best. Its interval resamples owners and
follows that pair of groups. Which pair it is was chosen by the same data, so that the gap of many small
groups is larger than the true one (the maximum of noisy differences is biased upwards): a gap that passes is
safe, and one that fails may be chance where groups are many and small; their sizes and intervals are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perceive.evaluation.bootstrap import (
    N_BOOTSTRAP,
    SEED,
    OwnerBootstrap,
    expanded_level,
    percentile_interval,
)
from perceive.evaluation.evaluate import MIN_SLICE_OWNERS, MIN_SLICE_ROWS
from perceive.evaluation.metrics import json_safe
from perceive.figures import BLUE, COLUMN_LABELS, GREY, ORANGE, PathLike, new_figure

COLUMNS = ("risk_level", "language", "category")
"""Columns whose groups are compared, the risk first."""
ERROR_LABELS = {"regression": "RMSE", "sequence": "RMSE", "hierarchy": "share of wrong answers, first level"}
WORST = 50
_RISKS = ("HIGH", "MEDIUM", "LOW")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """What is wrong with each answer.

    Attributes
    ----------
    squared : array of shape (n,)
        Squared error of a scale; 1 where the first level of a path is wrong, else 0.
    signed : array of shape (n,)
        Predicted minus observed; confidence minus 1 or 0.
    """

    squared: Array
    signed: Array
    kind: str

    @classmethod
    def of(cls, predictions: pd.DataFrame, kind: str) -> Errors:
        """From ``predictions.parquet`` of an evaluation."""
        if kind != "hierarchy":
            signed = (predictions["calibrated"] - predictions["observed"]).to_numpy(np.float64)
            return cls(signed**2, signed, kind)
        first = [predictions[name].astype(str).str.split("/").str[0] for name in ("observed", "calibrated")]
        wrong = (first[0] != first[1]).to_numpy().astype(np.float64)
        answers = predictions[[f"p_{name}" for name in sorted(set(first[1]))]]
        columns = answers.columns.get_indexer(pd.Index([f"p_{name}" for name in first[1]]))
        confidence = answers.to_numpy(np.float64)[np.arange(len(answers)), columns]
        return cls(wrong, confidence - (1 - wrong), kind)

    def error(self, mean: Array) -> Array:
        """The error of a group from the mean of ``squared``."""
        return mean if self.kind == "hierarchy" else np.sqrt(mean)


def measure_fairness(
    predictions: pd.DataFrame, items: pd.DataFrame, kind: str, *, n: int = N_BOOTSTRAP, seed: int = SEED
) -> dict[str, Any]:
    """Compare the groups of each column.

    Parameters
    ----------
    predictions : DataFrame
        ``item_id, observed, calibrated``; of a hierarchy also ``p_LABEL`` of the first level.
    items : DataFrame
        ``item_id, owner_id`` and any of `COLUMNS`.
    kind : 'regression', 'sequence' or 'hierarchy'
    n, seed : int
        Of the bootstrap over owners.

    Returns
    -------
    dict
        For JSON: ``kind``; ``groups``, for each column the groups with ``n, owners`` and, where they are
        large enough to be judged, ``error`` and ``bias`` with ``value, low, high``; ``gaps``, for each column
        with two groups or more ``{worst, best, value, low, high, groups}``; ``largest``, the column of the
        largest gap, or null.
    """
    errors = Errors.of(predictions, kind)
    about = items.set_index("item_id").loc[predictions["item_id"]]
    bootstrap = OwnerBootstrap(about["owner_id"], n=n, seed=seed)
    groups: dict[str, dict[str, Any]] = {}
    gaps: dict[str, dict[str, Any]] = {}
    for column in COLUMNS:
        if column not in about or about[column].isna().all():
            continue
        names = about[column].astype("object").where(about[column].notna(), None).to_numpy()
        known = sorted({str(name) for name in names if name is not None}, key=_order)
        found, drawn, levels = {}, {}, {}
        for name in known:
            rows = np.array([other is not None and str(other) == name for other in names])
            one: dict[str, Any] = {"n": int(rows.sum()), "owners": len(np.unique(bootstrap.codes[rows]))}
            if one["n"] >= MIN_SLICE_ROWS and one["owners"] >= MIN_SLICE_OWNERS:
                values, replicates = _group(errors, bootstrap, rows)
                levels[name] = expanded_level(bootstrap.level, np.bincount(bootstrap.codes[rows]))
                for key in ("error", "bias"):
                    low, high = percentile_interval(replicates[key], levels[name])
                    one[key] = {"value": values[key], "low": low, "high": high}
                drawn[name] = replicates["error"]
            found[name] = one
        groups[column] = found
        if len(drawn) > 1:
            ranked = sorted(drawn, key=lambda name: found[name]["error"]["value"])
            best, worst = ranked[0], ranked[-1]
            low, high = percentile_interval(drawn[worst] - drawn[best], max(levels[worst], levels[best]))
            value = found[worst]["error"]["value"] - found[best]["error"]["value"]
            gaps[column] = {"worst": worst, "best": best, "value": value, "low": low, "high": high}
            gaps[column]["groups"] = len(drawn)
    largest = max(gaps, key=lambda column: gaps[column]["value"], default=None)
    return json_safe({"kind": kind, "groups": groups, "gaps": gaps, "largest": largest})


def _order(name: str) -> tuple[int, str]:
    return (_RISKS.index(name) if name in _RISKS else len(_RISKS), name)


def _group(
    errors: Errors, bootstrap: OwnerBootstrap, rows: NDArray[np.bool_]
) -> tuple[dict[str, float], dict[str, Array]]:
    """Error and bias of some rows, and both in every draw of owners (NaN where none of theirs is drawn)."""
    codes = bootstrap.codes[rows]
    sums = {
        name: np.bincount(codes, weights=of[rows], minlength=bootstrap.n_owners)
        for name, of in (("error", errors.squared), ("bias", errors.signed))
    }
    counts = np.bincount(codes, minlength=bootstrap.n_owners)
    drawn = {name: np.full(bootstrap.n, np.nan) for name in sums}
    for place, weights in bootstrap.draws():
        size = weights @ counts
        with np.errstate(invalid="ignore", divide="ignore"):
            for name, of in sums.items():
                drawn[name][place] = (weights @ of) / size
    values = {name: float(of.sum() / counts.sum()) for name, of in sums.items()}
    values["error"] = float(errors.error(np.array(values["error"])))
    return values, {**drawn, "error": errors.error(drawn["error"])}


def worst_answers(predictions: pd.DataFrame, items: pd.DataFrame, kind: str, n: int = WORST) -> pd.DataFrame:
    """The ``n`` worst answers for a human to look at, those of HIGH risk first; by id, without any text.

    Of a path variable the wrong answers at the first level, the most confident ones first.

    Returns
    -------
    DataFrame
        ``item_id, risk_level, error, observed, predicted`` and those of ``language, category, length_bucket``
        that the items have.
    """
    errors = Errors.of(predictions, kind)
    wrong = errors.squared > 0
    size = np.where(wrong, np.abs(errors.signed), 0.0)
    shown = [name for name in ("language", "category", "length_bucket") if name in items]
    about = items.set_index("item_id").loc[predictions["item_id"]].reset_index()
    risk = about["risk_level"] if "risk_level" in about else pd.Series([None] * len(about))
    table = pd.DataFrame(
        {
            "item_id": predictions["item_id"].to_numpy(),
            "risk_level": risk.to_numpy(),
            "error": size,
            "observed": predictions["observed"].to_numpy(),
            "predicted": predictions["calibrated"].to_numpy(),
            **{name: about[name].to_numpy() for name in shown},
        }
    )
    table = table[wrong].nlargest(n, "error")
    high = (table["risk_level"] == "HIGH").fillna(False).to_numpy(dtype=bool)
    table = table.assign(high=~high).sort_values(["high", "error", "item_id"], ascending=[True, False, True])
    return table.drop(columns="high").reset_index(drop=True)


def fairness_plot(path: PathLike, variable: str, found: Mapping[str, Any]) -> None:
    """Error of every group with its interval, HIGH risk on top; groups too small to judge by name alone."""
    lines: list[tuple[str, Any]] = []
    for column, groups in found["groups"].items():
        lines.append((COLUMN_LABELS.get(column, column), None))
        lines += list(groups.items())
    with new_figure(path, 6.4, 1.2 + 0.3 * max(len(lines), 3)) as figure:
        axes = figure.subplots()
        _draw_groups(axes, lines)
        axes.set(xlabel=ERROR_LABELS[found["kind"]])
        figure.suptitle(f"{variable}: error by group", fontweight="bold")


def _draw_groups(axes: Any, lines: Sequence[tuple[str, Any]]) -> None:
    for place, (name, one) in enumerate(lines):
        if one is None or "error" not in one:
            continue
        estimate = one["error"]
        low, high = (
            estimate[key] if estimate[key] is not None else estimate["value"] for key in ("low", "high")
        )
        colour = ORANGE if name == "HIGH" else BLUE
        axes.plot([low, high], [place, place], color=colour, lw=2, solid_capstyle="round")
        axes.plot([estimate["value"]], [place], "o", color=colour, ms=6)
    labels = []
    for name, one in lines:
        if one is None:
            labels.append(name)
        else:
            small = "" if "error" in one else ", too few to judge"
            labels.append(f"{name} (n = {one['n']:,}{small})")
    axes.set_yticks(range(len(lines)), labels)
    for tick, (_, one) in zip(axes.get_yticklabels(), lines, strict=True):
        if one is None:
            tick.set_fontweight("bold")
    axes.set_ylim(max(len(lines), 3) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.grid(axis="x", color=GREY, alpha=0.3)
