"""Out-of-fold predictions: every training row is predicted once, by a model that saw none of its owner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Fold:
    """One fold's rows: what the model of the fold learns from, and what it predicts.

    ``train`` and ``val`` hold ``item_id`` and the features of the fold (its own projection applied).
    """

    number: int
    train: pd.DataFrame
    val: pd.DataFrame


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold predictions with the record that the audit checks.

    Attributes
    ----------
    predictions : ndarray of shape (n,) or (n, outputs), float32
        Rows as in the training part of ``splits/items.parquet``.
    records : DataFrame
        ``item_id`` and ``fold`` (whose model predicted the row), one row per prediction.
    trained_on : DataFrame
        ``fold`` and ``item_id`` of every row that the fold's model learned from.
    """

    predictions: np.ndarray
    records: pd.DataFrame
    trained_on: pd.DataFrame


def out_of_fold(
    item_ids: Sequence[str],
    folds: Iterable[Fold],
    labels: pd.Series,
    columns: Sequence[str],
    fit_predict: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    outputs: int | None = None,
) -> OutOfFold:
    """Predict every training item by the model of the fold that it was held out of.

    Parameters
    ----------
    item_ids : sequence of str
        The training items, in the order of the result. Items without a label are predicted too.
    folds : iterable of Fold
    labels : Series
        Label by item id; items without one are not learned from.
    columns : sequence of str
        Feature columns of this base model.
    fit_predict : callable
        ``(features, target, features_to_predict) -> predictions``.
    outputs : int, optional
        Columns of a prediction; by default it is a number.

    Raises
    ------
    ValueError
        If an item is predicted by no fold or by two, or a fold has no labelled row to learn from, or would
        learn from a row that it predicts.
    """
    position = pd.Series(np.arange(len(item_ids)), index=pd.Index(item_ids))
    shape = len(item_ids) if outputs is None else (len(item_ids), outputs)
    predictions = np.full(shape, np.nan, dtype=np.float32)
    times = np.zeros(len(item_ids), dtype=int)
    records, trained = [], []
    for fold in folds:
        known = fold.train["item_id"].isin(labels.index).to_numpy()
        if not known.any():
            raise ValueError(
                f"fold {fold.number} has no labelled training row; use fewer folds or label more owners"
            )
        learn = fold.train.loc[known]
        leaked = int(learn["item_id"].isin(fold.val["item_id"]).sum())
        if leaked:
            raise ValueError(f"fold {fold.number} would learn from {leaked} of the rows that it predicts")
        rows = position.loc[fold.val["item_id"]].to_numpy()
        predictions[rows] = fit_predict(
            learn[list(columns)].to_numpy(np.float32),
            labels.loc[learn["item_id"]].to_numpy(),
            fold.val[list(columns)].to_numpy(np.float32),
        )
        np.add.at(times, rows, 1)
        records.append(
            pd.DataFrame({"item_id": fold.val["item_id"].to_numpy(), "fold": np.int8(fold.number)})
        )
        trained.append(pd.DataFrame({"fold": np.int8(fold.number), "item_id": learn["item_id"].to_numpy()}))
    if (times != 1).any():
        raise ValueError(f"{int((times != 1).sum())} training rows were not predicted exactly once")
    return OutOfFold(
        predictions, pd.concat(records, ignore_index=True), pd.concat(trained, ignore_index=True)
    )
