"""Reading items, features, labels and splits so that their rows agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from perceive import io
from perceive.features.lexical import FEATURES as LEXICAL
from perceive.features.matrix import ALL, context

ITEM_COLUMNS = ["item_id", "language", "length_bucket"]


def read_labels(path: str | Path) -> pd.Series:
    """Labels of a scale by item id, float64."""
    frame = io.read_parquet(path, ["item_id", "value"])
    return pd.Series(frame["value"].to_numpy(np.float64), index=pd.Index(frame["item_id"], name="item_id"))


def labelled(features: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    """The rows of ``features`` (with ``item_id``) that have a label."""
    return features[features["item_id"].isin(labels.index)].reset_index(drop=True)


def model_inputs(features: pd.DataFrame, items: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What an ensemble reads.

    Parameters
    ----------
    features : DataFrame
        ``item_id`` and the 418 features of n items.
    items : DataFrame
        At least these items, with ``language`` and ``length_bucket``.

    Returns
    -------
    tuple of (ndarray of shape (n, 418), ndarray of shape (n, 9)), float32
        Features and the blender's context.
    """
    rows = items.set_index("item_id").loc[features["item_id"]]
    return features[list(ALL)].to_numpy(np.float32), context(rows, features[list(LEXICAL)])
