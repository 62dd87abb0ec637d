"""The noise ceiling: how well a perfect model could score against labels that people made.

A perfect model knows each item's true state. The label is an aggregate of a few ratings, so it misses that
state now and then, and no model can follow it there. Both estimates use the ratings alone: for a scale their
spread within items, for a hierarchy a latent class model of the raters (`latent_paths`).

Raters are taken to err independently. What misleads several raters of an item alike is no noise here but part
of the state, so where that is frequent the ceilings are too high; no rating could tell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import f1_score

from perceive.corpus.latent_paths import Array, Codes, NotComputableError, PathPosterior, fit_paths

# A label counts as the mean of its ratings within this distance (0..1): published scores are rounded.
LABEL_TOLERANCE = 0.005
# Below this share of such labels they are made in another way, and the mean's error says nothing about them.
MIN_MATCHED = 0.5
# A rater's bias is taken out only where this many ratings tell it.
MIN_RATINGS_FOR_BIAS = 50
MAX_BIASES = 1_000
Z95 = 1.959964

DRAWS = 20
# Below this share of items with three ratings, errors that differ by class or rater are not identified.
FEW_TRIPLES = 0.05


def number(value: float) -> float:
    """Six decimals, so that a different order of summation does not show in a stored result."""
    return round(float(value), 6)


def _estimate(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": number(value), "low": number(low), "high": number(high)}


# --------------------------------------------------------------------------- scales


def scale_ceiling(error_variance: float, n_raters: ArrayLike, observed: ArrayLike) -> dict[str, float]:
    """Best Pearson r, RMSE and MAE of a perfect model on items whose label is the mean of their ratings.

    The mean of n ratings errs with variance ``error_variance / n``. So with V the variance of the labels,
    ``r = sqrt(1 - mean(error) / V)``, ``RMSE = sqrt(mean(error))``, and for Gaussian errors
    ``MAE = sqrt(2 / pi) * mean(sqrt(error))``, which is ``RMSE * sqrt(2 / pi)`` where all n are equal.

    Parameters
    ----------
    error_variance : float
        Variance of one rating around the item's true value (0..1 squared), of
        :func:`measure_scale_ceiling`.
    n_raters : array of shape (N,)
        Ratings behind each label.
    observed : array of shape (N,)
        The labels.

    Returns
    -------
    dict
        ``pearson`` (0 where the labels vary less than their errors), ``rmse``, ``mae``: the names of the
        evaluation's metrics. NaN where no rows, one row or constant labels leave them undefined.
    """
    n, y = np.asarray(n_raters, dtype=np.float64), np.asarray(observed, dtype=np.float64)
    if n.shape != y.shape or n.ndim != 1:
        raise ValueError(f"n_raters and observed must be 1-d and equally long, not {n.shape}, {y.shape}")
    if n.size and not n.min() >= 1:
        raise ValueError("n_raters must be at least 1 everywhere")
    if not n.size:
        return {"pearson": np.nan, "rmse": np.nan, "mae": np.nan}
    errors = error_variance / n
    mean = float(errors.mean())
    variance = float(y.var(ddof=1)) if y.size > 1 else 0.0
    r = np.sqrt(max(0.0, 1.0 - mean / variance)) if variance > 0 else np.nan
    mae = np.sqrt(2.0 / np.pi) * float(np.sqrt(errors).mean())
    return {"pearson": float(r), "rmse": float(np.sqrt(mean)), "mae": float(mae)}


def measure_scale_ceiling(
    ratings: pd.DataFrame, labels: pd.DataFrame, *, bias_corrected: bool = False
) -> dict[str, Any]:
    """Noise ceiling of a scale whose labels are means of ratings, with 95 % intervals.

    The error variance of one rating is the pooled variance within items. Where raters have ids and common
    items, their constant biases are taken out first (two-way model without interaction, least squares): the
    same raters on every item shift all labels alike, which is no error. Where the raters of an item are a
    selection, the mean of their biases differs between items; that is an error of the label and is put back,
    spread over the ratings. Elsewhere the biases stay in (one-way model), which says the same on average for
    raters assigned at random.

    Items whose label is not the mean of their ratings (a published score that left ratings out) do not count.
    The intervals come from the influence of each item (delta method); the biases are taken as known.

    Parameters
    ----------
    ratings : DataFrame
        ``item_id, rater, value``: one row a rating, value in 0..1, rater missing where unknown.
    labels : DataFrame
        ``item_id, value``.
    bias_corrected : bool
        The labels are means of ratings whose raters' biases were removed: no bias is put back, and labels
        are not compared with the plain means.

    Returns
    -------
    dict
        ``metrics``: ``pearson, rmse, mae``, each ``value, low, high``; ``error_variance``; ``method``
        (``one-way`` or ``two-way``); ``n_items``, ``n_items_left_out`` (label is not the mean).

    Raises
    ------
    NotComputableError
        If no item has two ratings, the labels are constant, or most are not the means of their ratings.
    """
    item, ids = pd.factorize(ratings["item_id"])
    value = ratings["value"].to_numpy(dtype=np.float64)
    label = labels.set_index("item_id")["value"].reindex(ids).to_numpy(dtype=np.float64)
    labelled = np.isfinite(label)
    if not labelled.any():
        raise NotComputableError("no rated item has a label")
    mean = np.bincount(item, value) / np.bincount(item)
    matched = labelled & (bias_corrected | (np.abs(label - mean) <= LABEL_TOLERANCE))
    if (share := matched.sum() / labelled.sum()) < MIN_MATCHED:
        raise NotComputableError(
            f"only {share:.0%} of the labels are the mean of their ratings: leave out the ratings that the "
            "labels do not use"
        )
    kept = matched[item]
    item, value, label = pd.factorize(item[kept])[0], value[kept], label[matched]
    counts = np.bincount(item)
    if counts.max() < 2:
        raise NotComputableError("no item has two ratings")
    if len(label) < 2 or not float(label.var()) > 0.0:
        raise NotComputableError("the labels are constant")

    bias = _biases(item, ratings["rater"][kept], value)
    squares, drift = _errors(item, value, bias)
    if bias_corrected:
        drift = np.zeros(len(counts))
    freedom, inverse = counts - 1.0, 1.0 / counts
    of_one = float(squares.sum() / freedom.sum())
    effective = of_one + float(drift.mean() / inverse.mean())
    found = scale_ceiling(effective, counts, label)

    # The influence of each item on the mean error, and on its ratio to the labels' variance.
    error, total = float(effective * inverse.mean()), float(label.var(ddof=1))
    influence = inverse.mean() * (squares - of_one * freedom) / freedom.mean()
    influence += of_one * (inverse - inverse.mean()) + drift - drift.mean()
    of_ratio = (influence - error / total * ((label - label.mean()) ** 2 - total)) / total
    width, width_of_ratio = (Z95 * float(of.std()) / np.sqrt(len(label)) for of in (influence, of_ratio))
    low, high = (np.sqrt(max(0.0, error + side * width)) for side in (-1, 1))
    least, most = (
        np.sqrt(min(1.0, max(0.0, 1.0 - error / total + side * width_of_ratio))) for side in (-1, 1)
    )
    gaussian = found["mae"] / found["rmse"] if found["rmse"] else 0.0
    return {
        "metrics": {
            "pearson": _estimate(found["pearson"], least, most),
            "rmse": _estimate(found["rmse"], low, high),
            "mae": _estimate(found["mae"], gaussian * low, gaussian * high),
        },
        "error_variance": float(f"{effective:.9g}"),
        "method": "one-way" if bias is None else "two-way",
        "n_items": len(label),
        "n_items_left_out": int(labelled.sum() - matched.sum()),
    }


def _errors(item: Codes, value: Array, bias: tuple[Codes, Array] | None) -> tuple[Array, Array]:
    """Squared deviations within each item, and the square by which its raters' mean bias departs from all.

    The first are scaled so that their sum over the sum of (ratings - 1) is the variance: each bias costs a
    degree of freedom, less the one that the items' means hold already.
    """
    counts = np.bincount(item)
    shift = np.zeros(len(value)) if bias is None else bias[1][bias[0]]
    rest = value - shift
    squares = np.bincount(item, (rest - (np.bincount(item, rest) / counts)[item]) ** 2)
    freedom = len(value) - len(counts)
    lost = 0 if bias is None else len(bias[1]) - 1
    drift = np.bincount(item, shift) / counts
    return squares * freedom / max(freedom - lost, 1), (drift - drift.mean()) ** 2


def _biases(item: Codes, raters: pd.Series, value: Array) -> tuple[Codes, Array] | None:
    """Least-squares bias of each rater: the number of each rating's rater, and the biases (mean 0).

    Raters with few ratings and without id share the last number. None where the ratings do not tell the
    biases: fewer than two busy raters, or groups of them without a common item.
    """
    counts = np.bincount(item)
    comparable = counts[item] > 1
    code, names = pd.factorize(raters)
    frequency = np.bincount(code[comparable & (code >= 0)], minlength=len(names))
    busy = np.argsort(-frequency, kind="stable")[:MAX_BIASES]
    busy = busy[frequency[busy] >= MIN_RATINGS_FOR_BIAS]
    if len(busy) < 2:
        return None
    renumbered = np.full(len(names) + 1, len(busy))
    renumbered[busy] = np.arange(len(busy))
    rater = renumbered[code]
    design = sparse.csr_matrix((np.ones(len(item)), (item, rater)), shape=(len(counts), rater.max() + 1))
    together = (design.T @ design)[: len(busy), : len(busy)]
    if connected_components(together, directed=False)[0] > 1:
        return None
    # Normal equations without the items' means; the mean of the biases is free, hence the least norm.
    matrix = np.diag(np.bincount(rater).astype(np.float64))
    matrix -= (design.T @ sparse.diags(1.0 / counts) @ design).toarray()
    means = np.bincount(item, value) / counts
    biases = np.linalg.lstsq(matrix, np.bincount(rater, value - means[item]), rcond=None)[0]
    return rater, biases - biases.mean()


# --------------------------------------------------------------------------- hierarchies


def hierarchy_ceiling(
    posterior: PathPosterior, item_ids: ArrayLike | None = None, *, seed: int = 137, draws: int = DRAWS
) -> dict[str, float]:
    """Accuracy, macro-F1 and hierarchical F1 that a model which knows the true path reaches on the labels.

    True paths are drawn from their posterior and scored against the labels, like predictions; the figures are
    means over the draws. At each level the items count whose label reaches it, and a class is its path down
    to that level. The hierarchical F1 (Kiritchenko et al., Canadian AI 2006) is micro-averaged and compares
    as deep as the label goes, so precision and recall are one.

    Parameters
    ----------
    posterior : PathPosterior
        From :func:`fit_paths`, fitted on all items.
    item_ids : array of str, optional
        The items to score (the test rows, say); those outside the fitted sample are left out. Default: all.
    seed, draws : int
        Of the draws.

    Returns
    -------
    dict
        ``accuracy_L`` and ``macro_f1_L`` of each level L that a label reaches, and ``hierarchical_f1``: the
        names of the evaluation's metrics.

    Raises
    ------
    NotComputableError
        If none of the items is in the fitted sample.
    """
    return {name: float(of.mean()) for name, of in _scores(posterior, item_ids, seed, draws).items()}


def _scores(posterior: PathPosterior, item_ids: ArrayLike | None, seed: int, draws: int) -> dict[str, Array]:
    """Every metric on each draw."""
    wanted = np.ones(len(posterior.item_ids), dtype=bool)
    if item_ids is not None:
        wanted = pd.Index(posterior.item_ids).isin(np.asarray(item_ids))
    if not wanted.any():
        raise NotComputableError("none of the items was rated")
    rng = np.random.default_rng(seed)
    scores: dict[str, list[float]] = {}
    for _ in range(draws):
        right = depth = 0
        for level, label, true in zip(posterior.levels, posterior.labels, posterior.draw(rng), strict=True):
            rows = wanted & (label >= 0)
            if not rows.any():
                continue
            same = label[rows] == true[rows]
            right, depth = right + int(same.sum()), depth + same.size
            scores.setdefault(f"accuracy_{level}", []).append(float(same.mean()))
            f1 = f1_score(label[rows], true[rows], average="macro", zero_division=0.0)
            scores.setdefault(f"macro_f1_{level}", []).append(float(f1))
        scores.setdefault("hierarchical_f1", []).append(right / depth)
    return {name: np.array(values) for name, values in scores.items()}


def measure_hierarchy_ceiling(
    ratings: pd.DataFrame, labels: pd.DataFrame, levels: tuple[str, ...], *, seed: int = 137
) -> dict[str, Any]:
    """:func:`hierarchy_ceiling` of all items, with intervals and with what the estimate rests on.

    Returns
    -------
    dict
        ``metrics``: those of :func:`hierarchy_ceiling`, each ``value, low, high``; the 95 % intervals hold
        the chance in the true paths, not that in the fitted model. ``rater_accuracy``: share of right ratings
        per level, where the parent is right. ``method``; ``n_items`` scored, ``n_items_rated`` (more where a
        sample was taken); ``note`` where hardly an item has three ratings.

    Raises
    ------
    NotComputableError
        As :func:`fit_paths`.
    """
    posterior = fit_paths(ratings, labels, levels, seed=seed)
    metrics = {}
    for name, values in _scores(posterior, None, seed, DRAWS).items():
        mean, width = float(values.mean()), Z95 * float(values.std())
        metrics[name] = _estimate(mean, max(0.0, mean - width), min(1.0, mean + width))
    result: dict[str, Any] = {
        "metrics": metrics,
        "rater_accuracy": {level: number(share) for level, share in posterior.accuracy.items()},
        "method": "latent classes (Dawid and Skene 1979)",
        "n_items": len(posterior.item_ids),
        "n_items_rated": posterior.n_items,
    }
    if np.mean(posterior.n_ratings >= 3) < FEW_TRIPLES:
        result["note"] = (
            "hardly an item has three ratings: the estimate assumes that raters and classes err alike"
        )
    return result
