"""Regression metrics on the 0..1 scale, with defined answers for constants and for few rows.

Every function takes ``(observed, predicted)``, two float arrays of shape (N,), and returns a float. What
cannot be computed is NaN, never a warning: a correlation or an R2 needs at least two rows and a spread, an
error at least one row. Non-finite inputs raise, because a NaN that reaches the evaluation is a fault upstream
and no property of a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

N_BINS = 10

# Variances below this count as none: (3e-7)^2 on the 0..1 scale is float32 noise around one value.
CONSTANT_VARIANCE = 1e-13

Array = NDArray[np.float64]


def as_pair(observed: ArrayLike, predicted: ArrayLike) -> tuple[Array, Array]:
    """Both arguments as finite float64 arrays of one shape (N,).

    Raises
    ------
    ValueError
        If the shapes differ, are not one-dimensional, or a value is not finite; the message gives the row
        number.
    """
    pair = np.asarray(observed, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape:
        raise ValueError(
            f"observed and predicted must be 1-d and equally long, not {pair[0].shape}, {pair[1].shape}"
        )
    for name, values in zip(("observed", "predicted"), pair, strict=True):
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise ValueError(
                f"{name} is not finite in {bad.size} of {values.size} rows, first in row {bad[0]}"
            )
    return pair


def _has_spread(values: Array) -> bool:
    return values.size >= 2 and float(np.var(values)) > CONSTANT_VARIANCE


def rmse(observed: ArrayLike, predicted: ArrayLike) -> float:
    """Root mean squared error; NaN without rows."""
    o, p = as_pair(observed, predicted)
    return float(root_mean_squared_error(o, p)) if o.size else np.nan


def mae(observed: ArrayLike, predicted: ArrayLike) -> float:
    """Mean absolute error; NaN without rows."""
    o, p = as_pair(observed, predicted)
    return float(mean_absolute_error(o, p)) if o.size else np.nan


def r2(observed: ArrayLike, predicted: ArrayLike) -> float:
    """Coefficient of determination; NaN if the observed values are constant or fewer than two."""
    o, p = as_pair(observed, predicted)
    return float(r2_score(o, p)) if _has_spread(o) else np.nan


def pearson(observed: ArrayLike, predicted: ArrayLike) -> float:
    """Pearson correlation; NaN if either side is constant or there are fewer than two rows."""
    o, p = as_pair(observed, predicted)
    return float(stats.pearsonr(o, p).statistic) if _has_spread(o) and _has_spread(p) else np.nan


def spearman(observed: ArrayLike, predicted: ArrayLike) -> float:
    """Spearman rank correlation (ties get their average rank); NaN where :func:`pearson` would be."""
    o, p = as_pair(observed, predicted)
    return float(stats.spearmanr(o, p).statistic) if _has_spread(o) and _has_spread(p) else np.nan


def equal_mass_bins(predicted: ArrayLike, n_bins: int = N_BINS) -> NDArray[np.int64]:
    """Bin number of every row, 0..n_bins-1, by the rank of its prediction, equal predictions always together.

    A group of equal predictions that fills the ranks r..s goes, whole, into the bin of the group's middle,
    ``floor(n_bins * (r + s + 1) / 2 / N)`` with ranks from 0. Without ties the bins therefore differ by one
    row at most; a constant predictor has exactly one bin, in which its error is the plain difference of the
    means, instead of ten that differ only by how the rows happened to be sorted. With fewer rows than bins
    each distinct prediction is a bin of its own, and the ECE approaches the MAE.

    Parameters
    ----------
    predicted : array of shape (N,)
    """
    values = np.asarray(predicted, dtype=np.float64)
    if values.size == 0:
        return np.zeros(0, dtype=np.int64)
    # average ranks from 1 are (r + s)/2 + 1, so the middle of the group's mass is the rank less one half
    middle = stats.rankdata(values, method="average") - 0.5
    return np.minimum((n_bins * middle / values.size).astype(np.int64), n_bins - 1)


def reliability_bins(observed: ArrayLike, predicted: ArrayLike, n_bins: int = N_BINS) -> pd.DataFrame:
    """The non-empty equal-mass bins in order: columns ``bin, n, predicted, observed`` (the means)."""
    o, p = as_pair(observed, predicted)
    rows = pd.DataFrame({"bin": equal_mass_bins(p, n_bins), "predicted": p, "observed": o})
    table = rows.groupby("bin", sort=True).agg(
        n=("predicted", "size"), predicted=("predicted", "mean"), observed=("observed", "mean")
    )
    return table.reset_index()


def ece(observed: ArrayLike, predicted: ArrayLike, n_bins: int = N_BINS) -> float:
    """Expected calibration error: |mean predicted - mean observed| of the bins, weighted by rows.

    The bins are :func:`equal_mass_bins`. The value is biased upwards (noise within a bin never cancels), by
    about .8 * sd / sqrt(N / n_bins) for a perfectly calibrated model. NaN without rows.
    """
    bins = reliability_bins(observed, predicted, n_bins)
    if bins.empty:
        return np.nan
    return float(np.average((bins["predicted"] - bins["observed"]).abs(), weights=bins["n"]))


def mce(observed: ArrayLike, predicted: ArrayLike, n_bins: int = N_BINS) -> float:
    """Maximum calibration error: the largest |mean predicted - mean observed| of a bin; NaN without rows."""
    bins = reliability_bins(observed, predicted, n_bins)
    return float((bins["predicted"] - bins["observed"]).abs().max()) if not bins.empty else np.nan


REGRESSION_METRICS: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "rmse": rmse,
    "mae": mae,
    "r2": r2,
    "pearson": pearson,
    "spearman": spearman,
    "ece": ece,
    "mce": mce,
}


def regression_metrics(observed: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """All metrics of :data:`REGRESSION_METRICS`, in its order."""
    return {name: metric(observed, predicted) for name, metric in REGRESSION_METRICS.items()}


def json_safe(value: Any) -> Any:
    """A copy that strict JSON can hold: numpy values as plain ones, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, pd.DataFrame):
        return json_safe(value.to_dict("records"))
    if isinstance(value, (list, tuple, np.ndarray)):
        return [json_safe(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
