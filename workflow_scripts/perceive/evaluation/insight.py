"""Why a model answers as it does: features that matter, weights of the base models, the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perceive.evaluation.metrics import json_safe
from perceive.evaluation.plots import BASE_LABELS
from perceive.figures import BLUE, COLUMN_LABELS, GREY, ORANGE, PathLike, new_figure, shown

if TYPE_CHECKING:
    import lightgbm as lgb

MAX_ROWS = 500
SHOWN_FEATURES = 15
_MIN_TRIALS = 4

Array = NDArray[np.float64]


def _group(name: str) -> str:
    """The embedding's columns mean nothing one by one."""
    return "embedding (384)" if name.startswith("emb_") else name


def feature_importance(booster: lgb.Booster, features: NDArray[np.float32]) -> dict[str, float]:
    """Mean absolute SHAP value of each feature, the embedding's columns summed, the largest first.

    The values are LightGBM's own exact ones for trees (``pred_contrib``), in units of the raw answer, summed
    over the outputs where there are several.

    Parameters
    ----------
    booster : lightgbm.Booster
    features : array of shape (n, columns)
        In the booster's order; of many rows `MAX_ROWS`, evenly spaced, are taken.

    References
    ----------
    Lundberg et al., From local explanations to global understanding with explainable AI for trees, 2020.
    """
    rows = np.linspace(0, len(features) - 1, min(len(features), MAX_ROWS)).astype(int)
    names = booster.feature_name()
    found = np.asarray(booster.predict(features[rows], pred_contrib=True))
    # Each output has its features and, last, its expected value.
    found = np.abs(found.reshape(len(rows), -1, len(names) + 1)[:, :, :-1]).mean(axis=0).sum(axis=0)
    summed = pd.Series(found, index=[_group(name) for name in names]).groupby(level=0).sum()
    return {str(name): float(value) for name, value in summed.sort_values(ascending=False).items()}


def parameter_importance(trials: pd.DataFrame, parameters: Sequence[str], *, seed: int) -> dict[str, float]:
    """How much each parameter of a search decides its loss: the mean decrease of impurity in a random forest.

    Parameters
    ----------
    trials : DataFrame
        ``trials.csv``: ``state``, the loss in the third column, and the parameters.
    parameters : sequence of str
        Those that may have been searched; constant ones are left out.

    Returns
    -------
    dict
        Shares that sum to 1, the largest first; empty with fewer than four finished trials.

    References
    ----------
    Hutter, Hoos and Leyton-Brown, An efficient approach for assessing hyperparameter importance, 2014, use
    the same forests; Optuna's MeanDecreaseImpurityImportanceEvaluator is this measure.
    """
    from sklearn.ensemble import RandomForestRegressor

    done = trials[trials["state"] == "complete"]
    varied = [name for name in parameters if name in done and done[name].nunique() > 1]
    if len(done) < _MIN_TRIALS or not varied:
        return {}
    forest = RandomForestRegressor(n_estimators=64, max_depth=64, random_state=seed)
    forest.fit(done[varied].to_numpy(np.float64), done.iloc[:, 2].to_numpy(np.float64))
    found = pd.Series(forest.feature_importances_, index=varied).sort_values(ascending=False)
    return {str(name): float(value) for name, value in found.items()}


def search_history(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """Each trial with its state, its loss (null where it was stopped early) and the best loss so far."""
    loss = trials.iloc[:, 2].where(trials["state"] == "complete").astype("float64")
    best = loss.cummin().ffill()
    rows = zip(trials["trial"], trials["state"], loss, best, strict=True)
    return json_safe(
        [
            {"trial": int(number), "state": str(state), "loss": value, "best": so_far}
            for number, state, value, so_far in rows
        ]
    )


def mean_weights(weights: Array, bases: Sequence[str], items: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Mean weight of each base model, over all rows and by length and language.

    Parameters
    ----------
    weights : array of shape (n, bases)
        Of the training rows, out of fold.
    items : DataFrame
        Of the same n rows: ``length_bucket`` and ``language``.

    Returns
    -------
    dict
        ``{"all": {"all": {n, weights}}, "length_bucket": {"SHORT": ...}, "language": {...}}``.
    """

    def told(rows: NDArray[np.bool_]) -> dict[str, Any]:
        means = weights[rows].mean(axis=0)
        return {"n": int(rows.sum()), "weights": dict(zip(bases, map(float, means), strict=True))}

    found: dict[str, dict[str, Any]] = {"all": {"all": told(np.ones(len(weights), dtype=bool))}}
    for column in ("length_bucket", "language"):
        names = items[column].astype(str).to_numpy()
        found[column] = {name: told(names == name) for name in sorted(set(names))}
    return found


def features_plot(path: PathLike, variable: str, importance: Mapping[str, float], model: str) -> None:
    """Bars of the features that move the answers most."""
    top = list(importance.items())[:SHOWN_FEATURES]
    with new_figure(path, 6, 1.1 + 0.27 * len(top)) as figure:
        axes = figure.subplots()
        axes.barh(range(len(top)), [value for _, value in top], color=BLUE)
        axes.set_yticks(range(len(top)), [shown(name) for name, _ in top])
        axes.invert_yaxis()
        axes.set(xlabel="mean |SHAP value|")
        figure.suptitle(f"{variable}: features that matter (model: {model})", fontweight="bold")


def search_plot(
    path: PathLike, variable: str, history: Sequence[Mapping[str, Any]], importance: Mapping[str, float]
) -> None:
    """The loss of each trial with the best so far, and how much each parameter decides."""
    with new_figure(path, 7.4, 3.2) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
        done = [one for one in history if one["loss"] is not None]
        left.plot(
            [one["trial"] for one in done],
            [one["loss"] for one in done],
            "o",
            color=BLUE,
            ms=4,
            label="trial",
        )
        left.step(
            [one["trial"] for one in history],
            [np.nan if one["best"] is None else one["best"] for one in history],
            where="post",
            color=ORANGE,
            label="best so far",
        )
        stopped = [one["trial"] for one in history if one["loss"] is None]
        if stopped:
            top = left.get_ylim()[1]
            left.plot(
                stopped, [top] * len(stopped), "x", color=GREY, ms=5, label="stopped early", clip_on=False
            )
        left.set(xlabel="trial", ylabel="loss")
        left.legend(frameon=False)
        top_parameters = list(importance.items())[:10]
        if top_parameters:
            right.barh(range(len(top_parameters)), [value for _, value in top_parameters], color=BLUE)
            right.set_yticks(range(len(top_parameters)), [shown(name) for name, _ in top_parameters])
            right.invert_yaxis()
            right.set(xlabel="importance")
        else:
            right.axis("off")
            right.text(0, 0.5, "too few trials\nto weigh the parameters", va="center", color=GREY)
        figure.suptitle(f"{variable}: the search ({len(history)} trials)", fontweight="bold")


def weights_plot(path: PathLike, variable: str, weights: Mapping[str, Mapping[str, Any]]) -> None:
    """Stacked bars of the mean weights, for all rows, by length and by language."""
    import seaborn as sns

    lines = [
        ("all rows" if column == "all" else f"{COLUMN_LABELS[column]}: {shown(name)}", one)
        for column, groups in weights.items()
        for name, one in groups.items()
    ]
    bases = list(lines[0][1]["weights"])
    colours = sns.color_palette("colorblind", len(bases))
    with new_figure(path, 6.6, 1.3 + 0.32 * len(lines)) as figure:
        axes = figure.subplots()
        left = np.zeros(len(lines))
        for base, colour in zip(bases, colours, strict=True):
            values = np.array([one["weights"][base] for _, one in lines])
            axes.barh(range(len(lines)), values, left=left, color=colour, label=BASE_LABELS.get(base, base))
            left += values
        axes.set_yticks(range(len(lines)), [f"{name} (n = {one['n']:,})" for name, one in lines])
        axes.invert_yaxis()
        axes.set(xlabel="mean weight", xlim=(0, 1))
        figure.legend(loc="outside lower center", ncols=len(bases), frameon=False)
        figure.suptitle(f"{variable}: weights of the base models", fontweight="bold")
