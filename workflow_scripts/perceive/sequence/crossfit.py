"""Out-of-fold predictions of the recurrent regressor, with the records that the audit checks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from perceive.oof import Fold, OutOfFold
from perceive.sequence.training import Hyperparameters, fit, labelled_rows, predict
from perceive.sequence.windows import Timelines

log = logging.getLogger(__name__)


def out_of_fold(
    item_ids: Sequence[str],
    folds: Iterable[Fold],
    items: pd.DataFrame,
    labels: pd.Series,
    parameters: Hyperparameters,
    *,
    seed: int,
    threads: int,
) -> OutOfFold:
    """Predict every training item by the model of the fold that it was held out of.

    A fold's model reads the timelines of the owners that it learns from, and then those of the owners that it
    predicts; folds never share an owner.

    Parameters
    ----------
    item_ids : sequence of str
        The training items, in the order of the result. Items without a label are predicted, too.
    folds : iterable of Fold
    items : DataFrame
        ``item_id, owner_id, timestamp``.
    labels : Series
        Label by item id.
    parameters : Hyperparameters

    Returns
    -------
    OutOfFold
        ``trained_on`` holds the items whose labels were learned from.

    Raises
    ------
    ValueError
        If an item is predicted by no fold or by two, a fold has no labelled row to learn from, or it would
        read an owner's timeline on both sides.
    """
    position = pd.Series(np.arange(len(item_ids)), index=pd.Index(item_ids))
    owner_of = items.set_index("item_id")["owner_id"]
    predictions = np.full(len(item_ids), np.nan, dtype=np.float32)
    times = np.zeros(len(item_ids), dtype=int)
    records, trained = [], []
    for fold in folds:
        shared = set(owner_of.loc[fold.train["item_id"]]) & set(owner_of.loc[fold.val["item_id"]])
        if shared:
            raise ValueError(f"fold {fold.number} would learn from {len(shared)} of the owners it predicts")
        train, val = (Timelines.of(part, items) for part in (fold.train, fold.val))
        learn, targets = labelled_rows(train, fold.train["item_id"].tolist(), labels)
        if not len(learn):
            raise ValueError(
                f"fold {fold.number} has no labelled training row; use fewer folds or label more owners"
            )
        model = fit(train, learn, targets, parameters, seed=seed, threads=threads)
        log.info("fold %d: learned from %d rows, predicts %d", fold.number, len(learn), len(val.item_ids))
        rows = position.loc[val.item_ids.tolist()].to_numpy()
        predictions[rows] = predict(model, val, np.arange(len(rows)), threads=threads)
        np.add.at(times, rows, 1)
        records.append(pd.DataFrame({"item_id": val.item_ids, "fold": np.int8(fold.number)}))
        trained.append(pd.DataFrame({"fold": np.int8(fold.number), "item_id": train.item_ids[learn]}))
    if (times != 1).any():
        raise ValueError(f"{int((times != 1).sum())} training rows were not predicted exactly once")
    return OutOfFold(
        predictions, pd.concat(records, ignore_index=True), pd.concat(trained, ignore_index=True)
    )
