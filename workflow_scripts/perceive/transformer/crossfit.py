"""Out-of-fold predictions of the transformer, with the records that the audit checks."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from perceive.oof import OutOfFold
from perceive.splits import fold_members
from perceive.transformer.backbone import Backbone
from perceive.transformer.training import Examples, Hyperparameters, Machine, fit, predict

log = logging.getLogger(__name__)


def out_of_fold(
    split_items: pd.DataFrame,
    examples: Examples,
    backbone: Backbone,
    parameters: Hyperparameters,
    machine: Machine,
    *,
    seed: int,
) -> OutOfFold:
    """Predict every training item by the model of the fold that it was held out of.

    Parameters
    ----------
    split_items : DataFrame
        What :func:`perceive.splits.split_items` returns.
    examples : Examples
        Rows as in ``split_items``.
    backbone, parameters, machine, seed
        As for :func:`perceive.transformer.training.fit`.

    Returns
    -------
    OutOfFold
        ``predictions`` has the shape (n, columns): the columns of all levels side by side
        (:func:`perceive.answers.by_level` takes them apart), or one for each scale.

    Raises
    ------
    ValueError
        If the examples are of other rows, a fold has no labelled row to learn from or would learn from a row
        that it predicts, or an item is not predicted exactly once.
    """
    ids = split_items["item_id"]
    if len(examples.extra) != len(ids):
        raise ValueError(f"{len(examples.extra)} examples for {len(ids)} items")
    position = pd.Series(np.arange(len(ids)), index=pd.Index(ids))
    labelled = examples.labelled()
    predictions = np.full((len(ids), sum(examples.output.sizes)), np.nan, dtype=np.float32)
    times = np.zeros(len(ids), dtype=int)
    records, trained = [], []
    train = (split_items["split"] == "train").to_numpy(dtype=bool)
    for fold in sorted(map(int, split_items.loc[train, "fold"].unique())):
        learn, held_out = (position.loc[members].to_numpy() for members in fold_members(split_items, fold))
        learn = learn[labelled[learn]]
        if not len(learn):
            raise ValueError(
                f"fold {fold} has no labelled training row; use fewer folds or label more owners"
            )
        if leaked := len(np.intersect1d(learn, held_out)):
            raise ValueError(f"fold {fold} would learn from {leaked} of the rows that it predicts")
        log.info("fold %d: %d rows to learn from, %d to predict", fold, len(learn), len(held_out))
        model = fit(examples, learn, backbone, parameters, machine, seed=seed)
        predictions[held_out] = np.concatenate(predict(model, examples, held_out, machine), axis=1)
        times[held_out] += 1
        records.append(pd.DataFrame({"item_id": ids.to_numpy()[held_out], "fold": np.int8(fold)}))
        trained.append(pd.DataFrame({"fold": np.int8(fold), "item_id": ids.to_numpy()[learn]}))
    if (times[train] != 1).any():
        raise ValueError(f"{int((times[train] != 1).sum())} training rows were not predicted exactly once")
    return OutOfFold(
        predictions[train], pd.concat(records, ignore_index=True), pd.concat(trained, ignore_index=True)
    )
