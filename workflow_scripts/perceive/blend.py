"""The meta-blender: weights of the base models that depend on the context and sum to one.

``alpha = softmax(LightGBM(context))`` and ``y = sum_k alpha_k p_k``. The weights are learned on out-of-fold
predictions, by gradient boosting of K raw scores with the error of the blend as the objective: squared error
for scales, log loss for paths, whose probabilities are mixed at all levels by the same weights, so that the
levels stay consistent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from perceive.boosters import lgb

log = logging.getLogger(__name__)

PRIOR_ROWS = 50.0
"""Weight, in rows, of the pull towards the best constant weights; keeps tiny data from extreme weights."""

LARGEST_STEP = 5.0
"""Bound of what one round adds to a score, before the learning rate. Where nearly all weights are 0 or 1 the
objective is flat, and a Newton step would throw scores to the thousands."""


SMALLEST_PROBABILITY = 1e-7
"""Added to the probability of a label before its logarithm: an impossible label costs 16, not infinity."""


class BlendLoss(Protocol):
    """What a blend is judged by on its n rows, for K base models."""

    @property
    def name(self) -> str:
        """Of `summary`."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and base models."""

    def take(self, rows: np.ndarray) -> BlendLoss:
        """The loss on some rows."""

    def errors(self, alpha: np.ndarray) -> np.ndarray:
        """Error of each row under weights of shape (n, K) or (K,), shape (n,)."""

    def slopes(self, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient of each row's error by its raw scores, and a Gauss-Newton Hessian, of shape (n, K)."""

    def summary(self, errors: np.ndarray) -> np.ndarray:
        """What is reported of errors [..., n]: shape [...]."""


@dataclass(frozen=True)
class SquaredError:
    """Of a scale.

    Attributes
    ----------
    predictions : ndarray of shape (n, k)
    target : ndarray of shape (n,)
    """

    predictions: np.ndarray
    target: np.ndarray
    name = "rmse"

    def __post_init__(self) -> None:
        if not (np.isfinite(self.predictions).all() and np.isfinite(self.target).all()):
            raise ValueError("the blender met a prediction or a label that is not finite")

    @property
    def shape(self) -> tuple[int, int]:
        return self.predictions.shape[0], self.predictions.shape[1]

    def take(self, rows: np.ndarray) -> SquaredError:
        return SquaredError(self.predictions[rows], self.target[rows])

    def errors(self, alpha: np.ndarray) -> np.ndarray:
        return np.asarray(((alpha * self.predictions).sum(axis=1) - self.target) ** 2)

    def slopes(self, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blend = (alpha * self.predictions).sum(axis=1)
        slope = alpha * (self.predictions - blend[:, None])
        return 2 * (blend - self.target)[:, None] * slope, 2 * slope**2

    def summary(self, errors: np.ndarray) -> np.ndarray:
        return np.sqrt(errors.mean(axis=-1))


@dataclass(frozen=True)
class PathLogLoss:
    """Of a hierarchy: mean over the levels that a label reaches of -log(probability of the label there).

    Attributes
    ----------
    predictions : ndarray of shape (n, k, levels)
        Each base model's joint probability of the label at each level, NaN below the label's end.
    """

    predictions: np.ndarray
    name = "log_loss"

    def __post_init__(self) -> None:
        known = ~np.isnan(self.predictions[:, 0])
        if not (known.any(axis=1).all() and (np.isfinite(self.predictions) == known[:, None]).all()):
            raise ValueError("the blender met a row without a label, or a probability that is not finite")

    @property
    def shape(self) -> tuple[int, int]:
        return self.predictions.shape[0], self.predictions.shape[1]

    def take(self, rows: np.ndarray) -> PathLogLoss:
        return PathLogLoss(self.predictions[rows])

    def _mixed(self, alpha: np.ndarray) -> np.ndarray:
        weights = np.broadcast_to(alpha, self.shape)[:, :, None]
        return np.asarray((weights * self.predictions).sum(axis=1)) + SMALLEST_PROBABILITY

    def errors(self, alpha: np.ndarray) -> np.ndarray:
        return np.asarray(np.nanmean(-np.log(self._mixed(alpha)), axis=1))

    def slopes(self, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights = np.broadcast_to(alpha, self.shape)[:, :, None]
        slope = weights * (1 - self.predictions / self._mixed(alpha)[:, None])
        return np.nanmean(slope, axis=2), np.nanmean(slope**2, axis=2)

    def summary(self, errors: np.ndarray) -> np.ndarray:
        return np.asarray(errors.mean(axis=-1))


def constant_scores(loss: BlendLoss) -> np.ndarray:
    """Scores [k] of the best weights that do not depend on the context."""
    n, k = loss.shape
    # The error is measured in that of the best base model: the tolerances of the solver are absolute.
    scale = min(float(loss.errors(one).mean()) for one in np.eye(k)) + 1e-12
    # A slight pull towards equal weights makes the optimum unique where base models agree.
    penalty = 1e-4

    def objective(scores: np.ndarray) -> tuple[float, np.ndarray]:
        alpha = softmax(scores)
        value = float(loss.errors(alpha).mean() / scale + penalty * scores @ scores)
        return value, loss.slopes(alpha)[0].sum(axis=0) / (n * scale) + 2 * penalty * scores

    result = minimize(objective, np.zeros(k), jac=True, method="L-BFGS-B", bounds=[(-8, 8)] * k)
    return result.x - result.x.mean()


def _objective(loss: BlendLoss, initial: np.ndarray) -> Any:
    """Gradient and a damped Gauss-Newton Hessian per raw score."""

    def objective(scores: np.ndarray, data: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
        alpha = softmax(scores.reshape(loss.shape, order="F") + initial, axis=1)
        gradient, hessian = loss.slopes(alpha)
        # Alone, the squared slope vanishes where a weight does, and a Newton step would explode there.
        hessian = hessian + np.mean(hessian) + 1e-12
        scale = 1.0 / np.mean(hessian)
        return gradient * scale, hessian * scale

    return objective


def _train(
    context: np.ndarray,
    loss: BlendLoss,
    names: Sequence[str],
    settings: Mapping[str, Any],
    rounds: int,
    threads: int,
) -> lgb.Booster:
    """Boost ``rounds`` rounds from the best constant weights; the first trees' leaves take those in."""
    n, k = loss.shape
    initial = constant_scores(loss)
    parameters = {
        "objective": _objective(loss, initial),
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
        np.zeros(n),  # the objective knows its rows
        feature_name=list(names),
        params={"max_bin": 63, "feature_pre_filter": False, "verbosity": -1},
    )
    booster = lgb.train(parameters, data, num_boost_round=max(rounds, 1))
    add_to_first_trees(booster, initial, keep=rounds > 0)
    return booster


def add_to_first_trees(booster: lgb.Booster, initial: np.ndarray, *, keep: bool = True) -> None:
    """Add a constant to each output, in the leaves of its first tree: the model file then holds all of it.

    Parameters
    ----------
    booster : Booster
        Trained on scores that began at ``initial``.
    initial : ndarray of shape (outputs,)
    keep : bool
        Whether the leaves' own values count.
    """
    first = booster.trees_to_dataframe().query("tree_index < @initial.size and split_feature.isna()")
    for tree, node, value in first[["tree_index", "node_index", "value"]].to_numpy():
        number = int(node.partition("-L")[2] or 0)
        booster.set_leaf_output(tree, number, (value if keep else 0.0) + initial[tree])


@dataclass(frozen=True)
class Blend:
    """A trained blender.

    Attributes
    ----------
    booster : Booster
        Raw scores [n, k] from the context; all of it is in the model file.
    held_out : ndarray of shape (n, k)
        Weights of each training row by a blender that saw no row of its fold.
    facts : dict
        Rounds; cross-validated error by rounds, of constant weights, and of each base model.
    """

    booster: lgb.Booster
    held_out: np.ndarray
    facts: dict[str, Any]


def fit_blender(
    context: np.ndarray,
    loss: BlendLoss,
    folds: np.ndarray,
    names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    threads: int = 1,
) -> Blend:
    """Train the blender on out-of-fold predictions.

    The number of rounds is the one with the least cross-validated error over the same owner-grouped folds;
    none at all (constant weights) wins where the context does not help.

    Parameters
    ----------
    context : ndarray of shape (n, c), float32
    loss : BlendLoss
        Holds the out-of-fold predictions of the base models, and the labels.
    folds : ndarray of shape (n,), int
    names : sequence of str, length c
    settings : mapping
        The ``blend`` slice of the configuration.

    Raises
    ------
    ValueError
        If all rows lie in one fold.
    """
    n, k = loss.shape
    varies = bool((context != context[:1]).any())
    most = settings["max_trees"] if varies else 0
    candidates = list(range(0, most + 1, max(1, most // 12)))
    errors = np.zeros((len(candidates), n))
    weights = np.zeros((len(candidates), n, k))
    for fold in np.unique(folds):
        held_out, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if not len(rest):
            raise ValueError("the blender needs labelled rows in two folds at least")
        learned, judged = loss.take(rest), loss.take(held_out)
        weights[:, held_out] = softmax(constant_scores(learned))
        if len(candidates) > 1 and (context[rest] != context[rest][:1]).any():
            booster = _train(context[rest], learned, names, settings, candidates[-1], threads)
            for line, rounds in enumerate(candidates[1:], start=1):
                scores = booster.predict(context[held_out], raw_score=True, num_iteration=rounds)
                weights[line, held_out] = softmax(np.reshape(scores, (-1, k)), axis=1)
        for line in range(len(candidates)):
            errors[line, held_out] = judged.errors(weights[line, held_out])
    error = loss.summary(errors)
    # The fewest rounds of those that are as good as the best: fewer trees to serve, less to overfit.
    best = int(np.flatnonzero(error <= error.min() * (1 + 1e-4))[0])
    rounds = candidates[best]
    booster = _train(context, loss, names, settings, rounds, threads)
    of_bases = np.array([loss.summary(loss.errors(one)) for one in np.eye(k)])
    mean = softmax(np.reshape(booster.predict(context, raw_score=True), (-1, k)), axis=1).mean(axis=0)
    facts = {
        "rounds": rounds,
        f"{loss.name}_by_rounds": dict(zip(map(str, candidates), map(float, error), strict=True)),
        loss.name: float(error[best]),
        f"{loss.name}_constant_weights": float(error[0]),
        f"{loss.name}_bases": [float(value) for value in of_bases],
        "gain_over_best_base": float(1 - error[best] / max(of_bases.min(), 1e-12)),
        "mean_weights": [float(value) for value in mean],
    }
    return Blend(booster, weights[best], facts)
