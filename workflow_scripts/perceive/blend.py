"""The meta-blender: weights of the base models that depend on the context and sum to one.

``alpha = softmax(LightGBM(context))`` and ``y = sum_k alpha_k p_k``. The weights are learned on out-of-fold
predictions, by gradient boosting of K raw scores with the squared error of the blend as the objective.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import lightgbm as lgb
import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

log = logging.getLogger(__name__)

PRIOR_ROWS = 50.0
"""Weight, in rows, of the pull towards the best constant weights; keeps tiny data from extreme weights."""

LARGEST_STEP = 5.0
"""Bound of what one round adds to a score, before the learning rate. Where nearly all weights are 0 or 1 the
objective is flat, and a Newton step would throw scores to the thousands."""


def combine(scores: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Blend predictions.

    Parameters
    ----------
    scores : ndarray of shape (n, k)
        Raw scores of the blender.
    predictions : ndarray of shape (n, k)
        Predictions of the base models.

    Returns
    -------
    ndarray of shape (n,)
    """
    return (softmax(scores, axis=1) * predictions).sum(axis=1)


def constant_scores(predictions: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Scores [k] of the best weights that do not depend on the context (least squares on the simplex)."""
    k = predictions.shape[1]
    # The error is measured in that of the best base model: the tolerances of the solver are absolute.
    scale = float(np.mean((predictions - target[:, None]) ** 2, axis=0).min()) + 1e-12
    # A slight pull towards equal weights makes the optimum unique where base models agree.
    penalty = 1e-4

    def loss(scores: np.ndarray) -> tuple[float, np.ndarray]:
        alpha = softmax(scores)
        blend = predictions @ alpha
        error = blend - target
        gradient = 2 * alpha * (error @ (predictions - blend[:, None])) / (len(target) * scale)
        value = float(np.mean(error**2) / scale + penalty * scores @ scores)
        return value, gradient + 2 * penalty * scores

    result = minimize(loss, np.zeros(k), jac=True, method="L-BFGS-B", bounds=[(-8, 8)] * k)
    return result.x - result.x.mean()


def _objective(predictions: np.ndarray, initial: np.ndarray) -> Any:
    """Squared error of the softmax blend: gradient and a damped Gauss-Newton Hessian per raw score."""

    def objective(scores: np.ndarray, data: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
        target = np.asarray(data.get_label())
        alpha = softmax(scores.reshape(predictions.shape, order="F") + initial, axis=1)
        blend = (alpha * predictions).sum(axis=1)
        slope = alpha * (predictions - blend[:, None])
        gradient = (blend - target)[:, None] * slope
        # Alone, the squared slope vanishes where a weight does, and a Newton step would explode there.
        hessian = slope**2 + np.mean(slope**2) + 1e-12
        scale = 1.0 / np.mean(hessian)
        return gradient * scale, hessian * scale

    return objective


def _train(
    context: np.ndarray,
    predictions: np.ndarray,
    target: np.ndarray,
    names: Sequence[str],
    settings: Mapping[str, Any],
    rounds: int,
    threads: int,
) -> lgb.Booster:
    """Boost ``rounds`` rounds from the best constant weights; the first trees' leaves take those in."""
    k = predictions.shape[1]
    initial = constant_scores(predictions, target)
    parameters = {
        "objective": _objective(predictions, initial),
        "num_class": k,
        "learning_rate": settings["learning_rate"],
        "num_leaves": settings["num_leaves"],
        "max_depth": settings["max_depth"],
        "min_data_in_leaf": settings["min_data_in_leaf"],
        "min_sum_hessian_in_leaf": 0.0,
        "lambda_l2": PRIOR_ROWS,
        "max_delta_step": LARGEST_STEP,
        "max_bin": 63,
        "seed": settings["seed"],
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }
    if not rounds:
        # Only the leaves count here, and all become the constants; LightGBM refuses data without variation.
        context = np.zeros_like(context)
        context[::2, 0] = 1.0
    data = lgb.Dataset(
        context,
        target,
        feature_name=list(names),
        params={"max_bin": 63, "feature_pre_filter": False, "verbosity": -1},
    )
    booster = lgb.train(parameters, data, num_boost_round=max(rounds, 1))
    leaves = booster.trees_to_dataframe().query("tree_index < @k and split_feature.isna()")
    for tree, node, value in leaves[["tree_index", "node_index", "value"]].to_numpy():
        number = int(node.partition("-L")[2] or 0)
        learned = value if rounds else 0.0
        booster.set_leaf_output(tree, number, learned + initial[tree])
    return booster


def fit_blender(
    context: np.ndarray,
    predictions: np.ndarray,
    target: np.ndarray,
    folds: np.ndarray,
    names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    threads: int = 1,
) -> tuple[lgb.Booster, dict[str, Any]]:
    """Train the blender on out-of-fold predictions.

    The number of rounds is the one with the least cross-validated error over the same owner-grouped folds;
    none at all (constant weights) wins where the context does not help.

    Parameters
    ----------
    context : ndarray of shape (n, c), float32
    predictions : ndarray of shape (n, k)
        Out-of-fold predictions of the base models.
    target : ndarray of shape (n,)
    folds : ndarray of shape (n,), int
    names : sequence of str, length c
    settings : mapping
        The ``blend`` slice of the configuration.

    Returns
    -------
    tuple of (Booster, dict)
        The blender (raw scores [n, k], all of it in the model file), and facts: rounds, cross-validated RMSE
        by rounds, of the best base, of constant weights.

    Raises
    ------
    ValueError
        If a value is not finite, or all rows lie in one fold.
    """
    if not (np.isfinite(predictions).all() and np.isfinite(target).all()):
        raise ValueError("the blender met a prediction or a label that is not finite")
    varies = bool((context != context[:1]).any())
    most = settings["max_trees"] if varies else 0
    candidates = list(range(0, most + 1, max(1, most // 12)))
    squared = np.zeros((len(candidates), len(target)))
    for fold in np.unique(folds):
        held_out = folds == fold
        rest = ~held_out
        if not rest.any():
            raise ValueError("the blender needs labelled rows in two folds at least")
        constant = constant_scores(predictions[rest], target[rest])
        squared[0, held_out] = (predictions[held_out] @ softmax(constant) - target[held_out]) ** 2
        if len(candidates) == 1 or not (context[rest] != context[rest][:1]).any():
            squared[1:, held_out] = squared[0, held_out]
            continue
        booster = _train(
            context[rest], predictions[rest], target[rest], names, settings, candidates[-1], threads
        )
        for line, rounds in enumerate(candidates[1:], start=1):
            scores = booster.predict(context[held_out], raw_score=True, num_iteration=rounds)
            squared[line, held_out] = (
                combine(np.asarray(scores), predictions[held_out]) - target[held_out]
            ) ** 2
    rmse = np.sqrt(squared.mean(axis=1))
    # The fewest rounds of those that are as good as the best: fewer trees to serve, less to overfit.
    best = int(np.flatnonzero(rmse <= rmse.min() * (1 + 1e-4))[0])
    rounds = candidates[best]
    booster = _train(context, predictions, target, names, settings, rounds, threads)
    base_rmse = np.sqrt(np.mean((predictions - target[:, None]) ** 2, axis=0))
    weights = softmax(np.asarray(booster.predict(context, raw_score=True)), axis=1)
    facts = {
        "rounds": rounds,
        "rmse_by_rounds": dict(zip(map(str, candidates), map(float, rmse), strict=True)),
        "rmse": float(rmse[best]),
        "rmse_constant_weights": float(rmse[0]),
        "rmse_bases": [float(value) for value in base_rmse],
        "gain_over_best_base": float(1 - rmse[best] / max(base_rmse.min(), 1e-12)),
        "mean_weights": [float(value) for value in weights.mean(axis=0)],
    }
    return booster, facts
