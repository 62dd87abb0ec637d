"""Everything that is said about a regression variable on the test split, as one JSON-safe dictionary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perceive.evaluation.baselines import baselines
from perceive.evaluation.bootstrap import LEVEL, N_BOOTSTRAP, SEED, Estimate, OwnerBootstrap
from perceive.evaluation.gates import DEFAULT_GATES, Gate, best_of, judge_result
from perceive.evaluation.metrics import json_safe, regression_metrics, reliability_bins

BASES = ("lx", "eb", "tm", "full")
SLICES = ("length_bucket", "language", "category", "risk_level")
# Below either, a slice has only its size: an RMSE of a dozen rows of two people says nothing about the slice.
MIN_SLICE_ROWS = 20
MIN_SLICE_OWNERS = 3

_ORDER = {"length_bucket": ("SHORT", "MEDIUM", "LONG"), "risk_level": ("LOW", "MEDIUM", "HIGH")}


def evaluate_regression(
    frame: pd.DataFrame,
    *,
    variable: str,
    train: pd.DataFrame,
    bases: Sequence[str] = BASES,
    gates: Iterable[Gate] | None = None,
    history: pd.DataFrame | None = None,
    ceiling: Mapping[str, Any] | None = None,
    slices: Sequence[str] = SLICES,
    owners: str = "owner_id",
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = SEED,
) -> dict[str, Any]:
    """Metrics with intervals, slices, baselines, base models, the blend's gain, reliability and gates.

    Parameters
    ----------
    frame : DataFrame
        The labelled test rows: ``item_id, owner_id, timestamp, observed, raw, calibrated``, one column per
        base model, the columns of ``slices`` that exist, and ``text`` for the VADER baseline. ``raw`` is the
        blend before calibration.
    variable : str
        Picks the default gates, and how VADER is read.
    train : DataFrame
        The labelled train rows: ``item_id, owner_id, timestamp, observed`` and ``text``.
    bases : sequence of str
        Columns of the base models.
    gates : iterable of Gate, optional
        By default those of the contract. Pass ``()`` where :func:`perceive.evaluation.gates.acceptance_table`
        judges the stored result, so that a changed requirement is no reason to evaluate again.
    history : DataFrame, optional
        Labelled items from which the baselines may know a test owner's past; by default ``train``, which
        matters only where a published split shares owners.
    ceiling : mapping, optional
        What a perfect model could reach on these rows by metric (``pearson, rmse, mae``), or a reason why
        that is not known; stored as ``noise_ceiling``.
    slices : sequence of str
        Columns to slice by; absent columns and missing values are left out.
    owners : str
        Column that the bootstrap resamples.

    Returns
    -------
    dict
        ``variable, kind, n, owners, observed, bootstrap, metrics{calibrated,raw}, slices, baselines, bases,
        best_base, blend_gain, best_baseline, baseline_gain, reliability{raw,calibrated}, noise_ceiling,
        gates``. Numbers with an interval are ``{value, low, high}``. Undefined numbers are None. Owners are
        counted, never named. ``blend_gain`` compares the uncalibrated blend with the base of the lowest test
        RMSE, both uncalibrated; ``baseline_gain`` compares the calibrated answer with the baseline of the
        lowest RMSE.

    Raises
    ------
    ValueError
        If a column is missing, an ``item_id`` is repeated, or a number is not finite.
    """
    required = ["item_id", "owner_id", owners, "timestamp", "observed", "raw", "calibrated", *bases]
    if missing := [column for column in dict.fromkeys(required) if column not in frame]:
        raise ValueError(f"the test rows of {variable} lack the columns {missing}")
    if frame["item_id"].duplicated().any():
        raise ValueError(
            f"{int(frame['item_id'].duplicated().sum())} test rows of {variable} repeat an item_id"
        )
    if variable_bases := sorted({"raw", "calibrated", "observed"} & set(bases)):
        raise ValueError(f"{variable_bases} cannot be base models")

    observed = _floats(frame, "observed", variable)
    predicted = {column: _floats(frame, column, variable) for column in ("calibrated", "raw", *bases)}
    naive = baselines(variable, train, frame, history=train if history is None else history)
    bootstrap = OwnerBootstrap(frame[owners].to_numpy(), n=n_bootstrap, seed=seed)

    def measured(values: Mapping[str, NDArray[np.float64]]) -> dict[str, dict[str, Any]]:
        return {name: _estimates(bootstrap.estimates(observed, column)) for name, column in values.items()}

    of_naive = measured(naive)
    of_bases = measured({base: predicted[base] for base in bases})
    best_base, best_naive = (
        best_of({name: metrics["rmse"]["value"] for name, metrics in of.items()}, "rmse")
        for of in (of_bases, of_naive)
    )
    undefined = Estimate(np.nan, np.nan, np.nan)
    blend_gain = bootstrap.gain(observed, predicted["raw"], predicted[best_base]) if best_base else undefined
    naive_gain = (
        bootstrap.gain(observed, predicted["calibrated"], naive[best_naive]) if best_naive else undefined
    )
    result: dict[str, Any] = {
        "variable": variable,
        "kind": "regression",
        "n": len(frame),
        "owners": bootstrap.n_owners,
        "observed": {
            "mean": observed.mean() if observed.size else np.nan,
            "sd": observed.std(ddof=1) if observed.size > 1 else np.nan,
        },
        "bootstrap": {"unit": "owner", "n": n_bootstrap, "seed": seed, "level": LEVEL},
        "metrics": measured({name: predicted[name] for name in ("calibrated", "raw")}),
        "slices": _slices(frame, observed, predicted["calibrated"], naive, slices, owners, n_bootstrap, seed),
        "baselines": of_naive,
        "bases": of_bases,
        "best_base": best_base,
        "blend_gain": blend_gain._asdict(),
        "best_baseline": best_naive,
        "baseline_gain": naive_gain._asdict(),
        "reliability": {name: reliability_bins(observed, predicted[name]) for name in ("raw", "calibrated")},
        "noise_ceiling": None if ceiling is None else dict(ceiling),
    }
    result = json_safe(result)
    result["gates"] = judge_result(result, DEFAULT_GATES.get(variable, ()) if gates is None else gates)
    return result


def _floats(frame: pd.DataFrame, column: str, variable: str) -> NDArray[np.float64]:
    values = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~np.isfinite(values)
    if bad.any():
        first = frame["item_id"].to_numpy()[bad][0]
        raise ValueError(
            f"{variable}: {column} is not finite in {int(bad.sum())} test rows, first item_id {first}"
        )
    return values


def _estimates(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: estimate._asdict() for name, estimate in estimates.items()}


def _slices(
    frame: pd.DataFrame,
    observed: NDArray[np.float64],
    predicted: NDArray[np.float64],
    naive: Mapping[str, NDArray[np.float64]],
    slices: Sequence[str],
    owners: str,
    n_bootstrap: int,
    seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """``{column: {value: {n, owners, metrics?, baselines?}}}``; a slice resamples its own owners."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for column in slices:
        if column not in frame:
            continue
        levels = frame[column].astype("object").where(frame[column].notna(), None).to_numpy()
        for level in _sorted_levels(column, {str(level) for level in levels if level is not None}):
            rows = np.array([known is not None and str(known) == level for known in levels])
            bootstrap = OwnerBootstrap(frame[owners].to_numpy()[rows], n=n_bootstrap, seed=seed)
            part: dict[str, Any] = {"n": int(rows.sum()), "owners": bootstrap.n_owners}
            if part["n"] >= MIN_SLICE_ROWS and part["owners"] >= MIN_SLICE_OWNERS:
                part["metrics"] = _estimates(bootstrap.estimates(observed[rows], predicted[rows]))
                part["baselines"] = {
                    name: regression_metrics(observed[rows], values[rows]) for name, values in naive.items()
                }
            result.setdefault(column, {})[level] = part
    return result


def _sorted_levels(column: str, levels: Iterable[str]) -> list[str]:
    order = _ORDER.get(column, ())
    return sorted(levels, key=lambda level: (order.index(level) if level in order else len(order), level))
