"""Gradient-boosted regression trees: the base models of the regression variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perceive.boosters import lgb
from perceive.io import read_json

PARAMETERS = (
    "learning_rate",
    "num_leaves",
    "max_depth",
    "min_data_in_leaf",
    "feature_fraction",
    "bagging_fraction",
    "lambda_l1",
    "lambda_l2",
    "max_bin",
)
"""Hyperparameters that `lightgbm_parameters` takes over from a configuration or a trial."""


def lightgbm_parameters(parameters: Mapping[str, Any], *, seed: int, threads: int) -> dict[str, Any]:
    """LightGBM's parameters for a regression tree ensemble that is the same on every run and thread count.

    Parameters
    ----------
    parameters : mapping
        Values for (some of) `PARAMETERS`; other keys are ignored.
    seed : int
        Seed of the row and column samples.
    threads : int
        Threads of the training.
    """
    chosen = {key: parameters[key] for key in PARAMETERS if key in parameters}
    return {
        "objective": "regression",
        "boost_from_average": True,
        "bagging_freq": 1,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": threads,
        "verbosity": -1,
        # The data of a fold is binned once and shared by all trials, which differ in min_data_in_leaf.
        "feature_pre_filter": False,
        **chosen,
    }


def dataset(features: np.ndarray, target: np.ndarray, names: Sequence[str], *, max_bin: int) -> lgb.Dataset:
    """Bin a feature matrix once; the result serves any number of trainings.

    Parameters
    ----------
    features : ndarray of shape (n, d), float32
    target : ndarray of shape (n,)
    names : sequence of str, length d
        Column names, stored in the model file.
    max_bin : int
        Histogram bins of a column at most.
    """
    parameters = {"max_bin": max_bin, "feature_pre_filter": False, "verbosity": -1}
    return lgb.Dataset(
        features,
        np.asarray(target, dtype=np.float64),
        feature_name=list(names),
        params=parameters,
        free_raw_data=True,
    )


def fit(
    features: np.ndarray,
    target: np.ndarray,
    names: Sequence[str],
    parameters: Mapping[str, Any],
    *,
    trees: int,
    seed: int,
    threads: int,
) -> lgb.Booster:
    """Train an ensemble with a fixed number of trees, so that no validation row decides when to stop.

    Raises
    ------
    ValueError
        If there are no rows, or a target is not finite.
    """
    target = np.asarray(target, dtype=np.float64)
    if not len(target):
        raise ValueError(
            "no labelled training rows: at least one owner with labels must lie in the training part"
        )
    if not np.isfinite(target).all():
        raise ValueError(f"{int((~np.isfinite(target)).sum())} training labels are not finite")
    data = dataset(features, target, names, max_bin=int(parameters["max_bin"]))
    return lgb.train(lightgbm_parameters(parameters, seed=seed, threads=threads), data, num_boost_round=trees)


def training_settings(settings: Mapping[str, Any], tuned: str | Sequence[str]) -> tuple[dict[str, Any], int]:
    """Hyperparameters and number of trees of a base model.

    Parameters
    ----------
    settings : mapping
        The ``models/<base>`` slice of the configuration.
    tuned : str or empty sequence
        ``best.json`` of the search, for the tuned model; empty for the others.

    Returns
    -------
    tuple of (dict, int)
    """
    found = read_json(str(tuned)) if tuned else settings
    parameters = found["parameters"] if tuned else found
    return {key: parameters[key] for key in PARAMETERS if key in parameters}, int(found["trees"])
