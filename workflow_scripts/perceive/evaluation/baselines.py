"""The naive predictors that a model must beat to be worth its cost.

Two of them see what no model here sees, the *labels* of the owner's earlier items; they are strong on corpora
whose owners differ much and change slowly, and say how much of a model's correlation is merely knowing the
person.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

BASELINES = ("mean", "owner_mean", "last_value", "vader")

BASELINE_LABELS: dict[str, str] = {
    "mean": "train mean",
    "owner_mean": "owner's running mean",
    "last_value": "owner's last value",
    "vader": "VADER",
}

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
    mean = float(np.clip(train["observed"].mean(), 0.0, 1.0))
    past_mean, past_last = _past(test, history)
    predictions = {
        "mean": np.full(len(test), mean),
        "owner_mean": np.where(np.isnan(past_mean), mean, past_mean),
        "last_value": np.where(np.isnan(past_last), mean, past_last),
    }
    if "text" in train and "text" in test:
        predictions["vader"] = vader_baseline(variable, train, test)
    return predictions


def _past(test: pd.DataFrame, history: pd.DataFrame | None) -> tuple[Array, Array]:
    """Mean and last label of each test item's strictly earlier items of its owner; NaN without any."""
    columns = ["owner_id", "timestamp", "observed"]
    rows = test[columns]
    if history is not None:
        known = history["owner_id"].isin(test["owner_id"]) & ~history["item_id"].isin(test["item_id"])
        rows = pd.concat([rows, history.loc[known, columns]], ignore_index=True)
    # Items of one instant do not know each other, so whole instants are accumulated and then shifted.
    instants = rows.groupby(["owner_id", "timestamp"], sort=True)["observed"].agg(["sum", "count"])
    owner = instants.index.get_level_values("owner_id")
    earlier = instants.groupby(owner).cumsum().groupby(owner).shift(fill_value=0)
    instants["mean"] = np.where(earlier["count"] > 0, earlier["sum"] / earlier["count"].clip(lower=1), np.nan)
    instants["last"] = (instants["sum"] / instants["count"]).groupby(owner).shift()
    found = instants.reindex(pd.MultiIndex.from_frame(test[["owner_id", "timestamp"]]))
    return found["mean"].to_numpy(dtype=np.float64), found["last"].to_numpy(dtype=np.float64)


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
