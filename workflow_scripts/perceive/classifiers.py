"""Gradient-boosted trees that classify paths: the base models Lx and Eb of a hierarchy.

One booster answers for the first levels of the taxonomy at once: it has one output for each of their labels,
and its objective is the cross entropy of the softmax among siblings at every level, so that it learns
p(label | parent) from the rows below that parent alone, and nothing where a label stops early. Levels below
have too few rows a label for trees; there the shares of the training labels answer, smoothed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perceive import io
from perceive.blend import add_to_first_trees
from perceive.boosters import lgb
from perceive.models import dataset, lightgbm_parameters
from perceive.path_ensemble import PathTrees, sibling_softmax

Parents = Sequence[NDArray[np.int64]]

PRIOR_ROWS = 1.0
"""Added to the count of every label: none is impossible (Laplace)."""


def log_shares(codes: NDArray[np.int64], parents: Parents) -> list[NDArray[np.float64]]:
    """Log of the smoothed share of each label among its siblings, one array per level.

    Parameters
    ----------
    codes : ndarray of shape (n, levels)
        Labels of the training rows, -1 below the end of a path.
    parents : sequence of ndarray
        :func:`perceive.evaluation.hierarchy.parents`.
    """
    result = []
    for level, above in enumerate(parents):
        known = codes[:, level][codes[:, level] >= 0]
        counts = np.bincount(known, minlength=len(above)) + PRIOR_ROWS
        result.append(np.log(counts / np.bincount(above, counts)[above]))
    return result


def _objective(codes: NDArray[np.int64], parents: Parents, initial: NDArray[np.float64]) -> Any:
    """Cross entropy among the siblings of each row's label, at every level that it reaches."""
    n = len(codes)
    ends = np.cumsum([len(above) for above in parents])
    truth = np.zeros((n, ends[-1]))
    among = np.zeros((n, ends[-1]))
    for level, (above, end) in enumerate(zip(parents, ends, strict=True)):
        columns = slice(end - len(above), end)
        rows = np.flatnonzero(codes[:, level] >= 0)
        label = codes[rows, level]
        truth[rows, columns.start + label] = 1.0
        among[rows, columns] = above[label][:, None] == above

    def objective(scores: np.ndarray, data: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
        logits = scores.reshape(truth.shape, order="F") + initial
        p = np.concatenate(
            [
                sibling_softmax(of_level, above)
                for of_level, above in zip(np.split(logits, ends[:-1], axis=1), parents, strict=True)
            ],
            axis=1,
        )
        # Twice p (1 - p), as in LightGBM's own multiclass objective.
        return (p - truth) * among, np.maximum(2 * p * (1 - p), 1e-6) * among

    return objective


def fit_classifier(
    features: NDArray[np.float32],
    codes: NDArray[np.int64],
    parents: Parents,
    names: Sequence[str],
    parameters: Mapping[str, Any],
    *,
    trees: int,
    levels: int,
    seed: int,
    threads: int,
) -> tuple[lgb.Booster, NDArray[np.float32]]:
    """Train a classifier with a fixed number of rounds, so that no validation row decides when to stop.

    Parameters
    ----------
    features : ndarray of shape (n, d), float32
    codes : ndarray of shape (n, levels of the taxonomy)
        -1 below the end of a path; rows without any label are an error.
    parents : sequence of ndarray
        Of all levels.
    names : sequence of str, length d
    parameters : mapping
        As for :func:`perceive.models.lightgbm_parameters`.
    trees : int
        Rounds; each grows one tree a label.
    levels : int
        Levels that trees answer; those below get the shares of the training labels.

    Returns
    -------
    tuple of (Booster, ndarray)
        Raw outputs [n, labels of the first levels], and the logits of all labels below, float32.

    Raises
    ------
    ValueError
        If there are no rows, one has no label, or no feature varies over them.
    """
    if not len(codes):
        raise ValueError(
            "no labelled training rows: at least one owner with labels must lie in the training part"
        )
    if (codes[:, 0] < 0).any():
        raise ValueError(f"{int((codes[:, 0] < 0).sum())} training rows have no label")
    if not (features != features[:1]).any():
        raise ValueError(
            f"none of the {features.shape[1]} features varies over the {len(features)} training rows: "
            "label more items"
        )
    levels = min(levels, len(parents))
    shares = log_shares(codes, parents)
    initial = np.concatenate(shares[:levels])
    chosen = lightgbm_parameters(parameters, seed=seed, threads=threads)
    chosen |= {
        "objective": _objective(codes[:, :levels], parents[:levels], initial),
        "num_class": len(initial),
        # A tree is of one label: only the rows below its parent have any weight.
        "min_sum_hessian_in_leaf": 1.0,
    }
    del chosen["boost_from_average"]
    data = dataset(features, np.zeros(len(codes)), names, max_bin=int(parameters["max_bin"]))
    booster = lgb.train(chosen, data, num_boost_round=trees)
    add_to_first_trees(booster, initial)
    below = np.concatenate([np.zeros(0), *shares[levels:]])
    return booster, below.astype(np.float32)


def read_trees(path: str | Path, columns: Sequence[str]) -> PathTrees:
    """A trained classifier from its ``model.txt`` and the ``model.json`` beside it.

    Parameters
    ----------
    path : str or Path
        The classifier's name is that of the folder.
    columns : sequence of str
        Columns of the matrix that it is to read from.
    """
    path = Path(path)
    booster = lgb.Booster(model_file=str(path))
    constants = np.array(io.read_json(path.with_name("model.json"))["constants"], dtype=np.float32)
    index = {name: position for position, name in enumerate(columns)}
    return PathTrees(path.parent.name, booster, [index[name] for name in booster.feature_name()], constants)
