"""The naive predictors that a model must beat to be worth its cost.

Most of them see what no model here sees, the *labels* of the owner's earlier items; they are strong on
corpora whose owners differ much and change slowly, and say how much of a model's correlation is merely
knowing the person. A model of sequences must beat the best of them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

BASELINES = ("mean", "owner_mean", "last_value", "vader")
LAG_BASELINES = ("mean", "owner_mean", "last_value", "ema", "ridge_lags")

BASELINE_LABELS: dict[str, str] = {
    "mean": "train mean",
    "owner_mean": "owner's running mean",
    "last_value": "owner's last value",
    "ema": "owner's exponential average",
    "ridge_lags": "ridge on the lags",
    "vader": "VADER",
    "text_alone": "text alone",
}

_LAGS = (1, 2, 3)
_EMA = 0.3

# VADER slows down with the square of the words; no sentiment needs more than this many characters.
_VADER_CHARACTERS = 10_000


def baselines(
    variable: str, train: pd.DataFrame, test: pd.DataFrame, history: pd.DataFrame | None = None
) -> dict[str, Array]:
    """Predictions of every baseline for the rows of ``test``, in their order, all in 0..1.

    ``mean``: mean of the train labels. ``owner_mean``: mean of the labels of the same owner's strictly
    earlier items (in ``test`` and ``history``). ``last_value``: the label of the latest of those; several at
    one instant are averaged. Both fall back to the train mean. ``vader``: see :func:`vader_baseline`; absent
    without texts.

    Parameters
    ----------
    variable : str
        Name of the variable; VADER reads ``arousal`` as intensity, everything else as pleasantness.
    train, test : DataFrame
        Columns ``item_id, owner_id, timestamp, observed`` and, for VADER, ``text``.
    history : DataFrame, optional
        Further labelled items of the test owners (``item_id, owner_id, timestamp, observed``), as in corpora
        whose published split shares owners between train and test. Items that are in ``test`` as well are
        ignored.

    Raises
    ------
    ValueError
        If a column is missing or ``train`` has no rows.
    """
    mean = _train_mean(variable, train, test, history)
    predictions = _of_the_past(_past(test, history), mean)
    if "text" in train and "text" in test:
        predictions["vader"] = vader_baseline(variable, train, test)
    return predictions


def lag_baselines(
    variable: str, train: pd.DataFrame, test: pd.DataFrame, history: pd.DataFrame | None = None
) -> dict[str, Array]:
    """Predictions of :data:`LAG_BASELINES` for the rows of ``test``, in their order, all in 0..1.

    All but ``mean`` are made from the labels of the owner's strictly earlier items alone, and never from the
    text; items of one instant do not know each other, and count as one step with the mean of their labels.
    ``mean``, ``owner_mean`` and ``last_value``: see :func:`baselines`. ``ema``: exponential average of the
    earlier steps, ``e_k = .3 y_k + .7 e_(k-1)``, ``e_1 = y_1``. ``ridge_lags``: ridge regression on the last
    three steps, the running mean, the exponential average, and the logarithms of the hours since the last
    step and of the number of earlier items; fitted on the train rows with their own earlier labels. A lag
    that is missing stands at the train mean, and an indicator says which are known. Without any earlier
    label all but ``ridge_lags`` fall back to the train mean.

    Parameters
    ----------
    variable : str
        For messages.
    train, test : DataFrame
        Columns ``item_id, owner_id, timestamp, observed``.
    history : DataFrame, optional
        As for :func:`baselines`.

    Raises
    ------
    ValueError
        If a column is missing or ``train`` has no rows.
    """
    from sklearn.linear_model import Ridge

    mean = _train_mean(variable, train, test, history)
    past = _past(test, history)
    ridge = Ridge().fit(_lag_features(_past(train, None), mean), train["observed"].to_numpy(dtype=np.float64))
    predictions = _of_the_past(past, mean)
    predictions["ema"] = past["ema"].fillna(mean).to_numpy(dtype=np.float64)
    predictions["ridge_lags"] = (
        np.clip(ridge.predict(_lag_features(past, mean)), 0.0, 1.0) if len(test) else np.zeros(0)
    )
    return predictions


def _train_mean(
    variable: str, train: pd.DataFrame, test: pd.DataFrame, history: pd.DataFrame | None
) -> float:
    """Mean label of the train rows, after a check of all rows."""
    for name, frame in (("train", train), ("test", test), ("history", history)):
        missing = (
            []
            if frame is None
            else [c for c in ("item_id", "owner_id", "timestamp", "observed") if c not in frame]
        )
        if missing:
            raise ValueError(f"the {name} rows lack the columns {missing}")
    if train.empty:
        raise ValueError(f"no train rows with a label for {variable}: the baselines need at least one")
    return float(np.clip(train["observed"].mean(), 0.0, 1.0))


def _of_the_past(past: pd.DataFrame, mean: float) -> dict[str, Array]:
    return {
        "mean": np.full(len(past), mean),
        "owner_mean": past["mean"].fillna(mean).to_numpy(dtype=np.float64),
        "last_value": past["lag1"].fillna(mean).to_numpy(dtype=np.float64),
    }


def _past(rows: pd.DataFrame, history: pd.DataFrame | None) -> pd.DataFrame:
    """What the labels of its owner's strictly earlier items say at each of ``rows``, in their order.

    Columns ``count`` and ``mean`` (of items), ``lag1, lag2, lag3, ema`` (of instants), ``hours`` since the
    last; without any earlier label ``count`` is 0 and the others are NaN.
    """
    columns = ["owner_id", "timestamp", "observed"]
    known = rows[columns]
    if history is not None:
        further = history["owner_id"].isin(rows["owner_id"]) & ~history["item_id"].isin(rows["item_id"])
        known = pd.concat([known, history.loc[further, columns]], ignore_index=True)
    # Items of one instant do not know each other, so whole instants are accumulated and then shifted.
    instants = known.groupby(["owner_id", "timestamp"], sort=True)["observed"].agg(["sum", "count"])
    instants["observed"] = instants["sum"] / instants["count"]
    owner = instants.index.get_level_values("owner_id")
    earlier = instants.groupby(owner).cumsum().groupby(owner).shift(fill_value=0)
    past = pd.DataFrame({"count": earlier["count"]}, index=instants.index)
    past["mean"] = np.where(earlier["count"] > 0, earlier["sum"] / earlier["count"].clip(lower=1), np.nan)
    of_owner = instants["observed"].groupby(owner)
    for lag in _LAGS:
        past[f"lag{lag}"] = of_owner.shift(lag)
    # in the order of the index, which is sorted by owner
    average = of_owner.ewm(alpha=_EMA, adjust=False).mean().to_numpy()
    past["ema"] = pd.Series(average, index=past.index).groupby(owner).shift()
    time = past.index.get_level_values("timestamp").to_series(index=past.index)
    past["hours"] = (time - time.groupby(owner).shift()).dt.total_seconds() / 3600
    found = past.reindex(pd.MultiIndex.from_frame(rows[["owner_id", "timestamp"]]))
    return found.reset_index(drop=True)


def _lag_features(past: pd.DataFrame, mean: float) -> Array:
    """Finite features, shape (rows, 10); values less the train mean, so that a missing one stands there."""
    lags = [f"lag{lag}" for lag in _LAGS]
    values = past[["mean", "ema", *lags]].to_numpy(dtype=np.float64) - mean
    known = past[lags].notna().to_numpy(dtype=np.float64)
    sizes = np.log1p(past[["hours", "count"]].to_numpy(dtype=np.float64))
    return np.nan_to_num(np.concatenate([values, known, sizes], axis=1), nan=0.0)


def vader_scores(texts: pd.Series, *, intensity: bool = False) -> Array:
    """VADER's compound score as a number in 0..1: ``(compound + 1) / 2``, or ``|compound|`` as an intensity.

    References ---------- Hutto and Gilbert, VADER: a parsimonious rule-based model for sentiment analysis of
    social media text, ICWSM 2014.
    """
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    compound = np.array(
        [analyzer.polarity_scores(str(text)[:_VADER_CHARACTERS])["compound"] for text in texts],
        dtype=np.float64,
    )
    return np.abs(compound) if intensity else (compound + 1.0) / 2.0


def vader_baseline(variable: str, train: pd.DataFrame, test: pd.DataFrame) -> Array:
    """VADER mapped to the label's scale by a straight line fitted on the train rows, clipped to 0..1.

    The line makes its RMSE comparable; it leaves the size of its correlation alone.
    """
    intensity = variable == "arousal"
    x = vader_scores(train["text"], intensity=intensity)
    y = train["observed"].to_numpy(dtype=np.float64)
    spread = float(np.var(x))
    slope = float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread > 0 else 0.0
    scores = vader_scores(test["text"], intensity=intensity)
    return np.clip(y.mean() + slope * (scores - x.mean()), 0.0, 1.0)
