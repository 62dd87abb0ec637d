"""Everything that is said about a regression or a sequence on the test split, as one JSON-safe dictionary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from perceive.evaluation.baselines import LAG_BASELINES, baselines, lag_baselines, vader_baseline
from perceive.evaluation.bootstrap import LEVEL, N_BOOTSTRAP, SEED, Estimate, OwnerBootstrap
from perceive.evaluation.gates import DEFAULT_GATES, Gate, best_of, judge_result
from perceive.evaluation.metrics import Array, json_safe, regression_metrics, reliability_bins
from perceive.evaluation.timelines import (
    HISTORY_BUCKETS,
    temporal_estimates,
    temporal_gain,
    temporal_metrics,
)

BASES = ("lx", "eb", "tm", "full")
SEQUENCE_BASES = (*BASES, "gru")
SLICES = ("length_bucket", "language", "category", "risk_level")
SEQUENCE_SLICES = (*SLICES, "history", "owner")
# Below either, a slice has only its size: an RMSE of a dozen rows of two people says nothing about the slice.
MIN_SLICE_ROWS = 20
MIN_SLICE_OWNERS = 3

_ORDER = {
    "length_bucket": ("SHORT", "MEDIUM", "LONG"),
    "risk_level": ("LOW", "MEDIUM", "HIGH"),
    "history": HISTORY_BUCKETS,
    "owner": ("seen", "unseen"),
}


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
    values = _checked(frame, variable, owners, bases)
    naive = baselines(variable, train, frame, history=train if history is None else history)
    bootstrap = OwnerBootstrap(frame[owners].to_numpy(), n=n_bootstrap, seed=seed)
    result = _measured(
        frame, "regression", variable, bootstrap, values, bases, naive, ceiling, slices, owners
    )
    return _judged(result, variable, gates)


def evaluate_sequence(
    frame: pd.DataFrame,
    *,
    variable: str,
    train: pd.DataFrame,
    bases: Sequence[str] = SEQUENCE_BASES,
    gates: Iterable[Gate] | None = None,
    history: pd.DataFrame | None = None,
    ceiling: Mapping[str, Any] | None = None,
    slices: Sequence[str] = SEQUENCE_SLICES,
    owners: str = "owner_id",
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = SEED,
) -> dict[str, Any]:
    """As :func:`evaluate_regression`, and what a sequence must show: that it follows its owners in time.

    Parameters
    ----------
    frame : DataFrame
        As for :func:`evaluate_regression`, with ``gru`` among the bases, and ``text_alone``: what the same
        network answers when it sees the item without any history. Optional columns ``history``
        (:func:`perceive.evaluation.timelines.history_bucket`) and ``owner`` (``seen`` or ``unseen`` in train)
        become slices.
    variable, train, bases, gates, history, ceiling, slices
        As for :func:`evaluate_regression`.
    owners : str
        Column that the bootstrap resamples; whose timelines the temporal metrics follow.
    n_bootstrap, seed : int

    Returns
    -------
    dict
        That of :func:`evaluate_regression` with ``kind`` sequence; ``temporal_r, between_r, composite_r``
        beside the other metrics everywhere; the baselines of
        :func:`perceive.evaluation.baselines.lag_baselines`, ``vader`` and ``text_alone``; and

        - ``lag_gain``: relative gain in RMSE of the calibrated answer over ``best_lag``, of the baselines
          that know labels alone the one of the lowest RMSE;
        - ``history_gain``: relative gain in RMSE of ``gru`` over ``text_alone``, so of the same network with
          and without its history, and ``history_gain_temporal_r``, the difference of their temporal r.

    Raises
    ------
    ValueError
        If a column is missing, ``gru`` is not among the bases, an ``item_id`` is repeated, or a number is not
        finite.
    """
    if "gru" not in bases:
        raise ValueError(f"the gain of history of {variable} needs 'gru' among the bases, not {list(bases)}")
    values = _checked(frame, variable, owners, bases, ["text_alone"])
    naive = lag_baselines(variable, train, frame, history=train if history is None else history)
    if "text" in train and "text" in frame:
        naive["vader"] = vader_baseline(variable, train, frame)
    naive["text_alone"] = values["text_alone"]
    bootstrap = OwnerBootstrap(frame[owners].to_numpy(), n=n_bootstrap, seed=seed)
    result = _measured(frame, "sequence", variable, bootstrap, values, bases, naive, ceiling, slices, owners)
    best_lag = best_of({name: result["baselines"][name]["rmse"]["value"] for name in LAG_BASELINES}, "rmse")
    observed, gru, alone = (values[column] for column in ("observed", "gru", "text_alone"))
    result |= {
        "best_lag": best_lag,
        "lag_gain": _gain(bootstrap, observed, values["calibrated"], naive, best_lag),
        "history_gain": bootstrap.gain(observed, gru, alone)._asdict(),
        "history_gain_temporal_r": temporal_gain(bootstrap, observed, gru, alone)._asdict(),
    }
    return _judged(result, variable, gates)


def _checked(
    frame: pd.DataFrame, variable: str, owners: str, bases: Sequence[str], further: Sequence[str] = ()
) -> dict[str, Array]:
    """The numbers of the test rows by column, once all columns are there and every item is there once."""
    numbers = ["observed", "calibrated", "raw", *bases, *further]
    required = ["item_id", "owner_id", owners, "timestamp", *numbers]
    if missing := [column for column in dict.fromkeys(required) if column not in frame]:
        raise ValueError(f"the test rows of {variable} lack the columns {missing}")
    if frame["item_id"].duplicated().any():
        raise ValueError(
            f"{int(frame['item_id'].duplicated().sum())} test rows of {variable} repeat an item_id"
        )
    if variable_bases := sorted({"raw", "calibrated", "observed", *further} & set(bases)):
        raise ValueError(f"{variable_bases} cannot be base models")
    return {column: _floats(frame, column, variable) for column in numbers}


def _measured(
    frame: pd.DataFrame,
    kind: Literal["regression", "sequence"],
    variable: str,
    bootstrap: OwnerBootstrap,
    values: Mapping[str, Array],
    bases: Sequence[str],
    naive: Mapping[str, Array],
    ceiling: Mapping[str, Any] | None,
    slices: Sequence[str],
    owners: str,
) -> dict[str, Any]:
    """What the results of both kinds have in common, not yet safe for JSON."""
    observed = values["observed"]

    def measured(columns: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
        return {name: _estimates(kind, bootstrap, observed, column) for name, column in columns.items()}

    of_naive = measured(naive)
    of_bases = measured({base: values[base] for base in bases})
    best_base, best_naive = (
        best_of({name: metrics["rmse"]["value"] for name, metrics in of.items()}, "rmse")
        for of in (of_bases, of_naive)
    )
    return {
        "variable": variable,
        "kind": kind,
        "n": len(frame),
        "owners": bootstrap.n_owners,
        "observed": {
            "mean": observed.mean() if observed.size else np.nan,
            "sd": observed.std(ddof=1) if observed.size > 1 else np.nan,
        },
        "bootstrap": {"unit": "owner", "n": bootstrap.n, "seed": bootstrap.seed, "level": LEVEL},
        "metrics": measured({name: values[name] for name in ("calibrated", "raw")}),
        "slices": _slices(frame, kind, observed, values["calibrated"], naive, slices, owners, bootstrap),
        "baselines": of_naive,
        "bases": of_bases,
        "best_base": best_base,
        "blend_gain": _gain(bootstrap, observed, values["raw"], values, best_base),
        "best_baseline": best_naive,
        "baseline_gain": _gain(bootstrap, observed, values["calibrated"], naive, best_naive),
        "reliability": {name: reliability_bins(observed, values[name]) for name in ("raw", "calibrated")},
        "noise_ceiling": None if ceiling is None else dict(ceiling),
    }


def _gain(
    bootstrap: OwnerBootstrap,
    observed: Array,
    predicted: Array,
    references: Mapping[str, Array],
    name: str | None,
) -> dict[str, float]:
    """Relative gain in RMSE over the named reference; undefined without one."""
    undefined = Estimate(np.nan, np.nan, np.nan)
    return (bootstrap.gain(observed, predicted, references[name]) if name else undefined)._asdict()


def _judged(result: dict[str, Any], variable: str, gates: Iterable[Gate] | None) -> dict[str, Any]:
    result = json_safe(result)
    result["gates"] = judge_result(result, DEFAULT_GATES.get(variable, ()) if gates is None else gates)
    return result


def _floats(frame: pd.DataFrame, column: str, variable: str) -> Array:
    values = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~np.isfinite(values)
    if bad.any():
        first = frame["item_id"].to_numpy()[bad][0]
        raise ValueError(
            f"{variable}: {column} is not finite in {int(bad.sum())} test rows, first item_id {first}"
        )
    return values


def _estimates(
    kind: str, bootstrap: OwnerBootstrap, observed: Array, predicted: Array
) -> dict[str, dict[str, float]]:
    """Each metric of a kind with its interval."""
    estimates = bootstrap.estimates(observed, predicted)
    if kind == "sequence":
        estimates |= temporal_estimates(bootstrap, observed, predicted)
    return {name: estimate._asdict() for name, estimate in estimates.items()}


def _slices(
    frame: pd.DataFrame,
    kind: str,
    observed: Array,
    predicted: Array,
    naive: Mapping[str, Array],
    slices: Sequence[str],
    owners: str,
    whole: OwnerBootstrap,
) -> dict[str, dict[str, dict[str, Any]]]:
    """``{column: {value: {n, owners, metrics?, baselines?}}}``; a slice resamples its own owners."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for column in slices:
        if column not in frame:
            continue
        levels = frame[column].astype("object").where(frame[column].notna(), None).to_numpy()
        for level in _sorted_levels(column, {str(level) for level in levels if level is not None}):
            rows = np.array([known is not None and str(known) == level for known in levels])
            of_rows = frame[owners].to_numpy()[rows]
            bootstrap = OwnerBootstrap(of_rows, n=whole.n, seed=whole.seed)
            part: dict[str, Any] = {"n": int(rows.sum()), "owners": bootstrap.n_owners}
            if part["n"] >= MIN_SLICE_ROWS and part["owners"] >= MIN_SLICE_OWNERS:
                part["metrics"] = _estimates(kind, bootstrap, observed[rows], predicted[rows])
                part["baselines"] = {
                    name: regression_metrics(observed[rows], values[rows])
                    | (temporal_metrics(observed[rows], values[rows], of_rows) if kind == "sequence" else {})
                    for name, values in naive.items()
                }
            result.setdefault(column, {})[level] = part
    return result


def _sorted_levels(column: str, levels: Iterable[str]) -> list[str]:
    order = _ORDER.get(column, ())
    return sorted(levels, key=lambda level: (order.index(level) if level in order else len(order), level))
