"""Reading items, features, labels and splits so that their rows agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from perceive import io
from perceive.features.lexical import FEATURES as LEXICAL
from perceive.features.matrix import ALL, context


def read_labels(path: str | Path) -> pd.Series:
    """Labels of a scale by item id, float64."""
    frame = io.read_parquet(path, ["item_id", "value"])
    return pd.Series(frame["value"].to_numpy(np.float64), index=pd.Index(frame["item_id"], name="item_id"))


def labelled(features: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    """The rows of ``features`` (with ``item_id``) that have a label."""
    return features[features["item_id"].isin(labels.index)].reset_index(drop=True)


def model_inputs(
    features: pd.DataFrame, items: pd.DataFrame, columns: Sequence[str] = ALL
) -> tuple[np.ndarray, np.ndarray]:
    """What an ensemble reads.

    Parameters
    ----------
    features : DataFrame
        ``item_id`` and the features of n items.
    items : DataFrame
        At least these items, with ``language`` and ``length_bucket``.
    columns : sequence of str
        Of the matrix.

    Returns
    -------
    tuple of (ndarray of shape (n, columns), ndarray of shape (n, 9)), float32
        Features and the blender's context.
    """
    rows = items.set_index("item_id").loc[features["item_id"]]
    return features[list(columns)].to_numpy(np.float32), context(rows, features[list(LEXICAL)])


def upstream_names(upstream: Sequence[str | Path]) -> list[str]:
    """Columns that :func:`with_upstream` adds."""
    return [name for path in upstream for name in io.read_parquet(path).columns if name != "item_id"]


def with_upstream(features: pd.DataFrame, upstream: Sequence[str | Path]) -> pd.DataFrame:
    """Features joined with the answers of other variables that are inputs of this one.

    Raises
    ------
    ValueError
        If an item has no answer.
    """
    for path in upstream:
        answers = io.read_parquet(path)
        features = features.merge(answers, on="item_id", how="left", validate="one_to_one")
        lacking = features[answers.columns[-1]].isna()
        if lacking.any():
            raise ValueError(
                f"{path} lacks {int(lacking.sum())} of the items; delete it and run again to rebuild it"
            )
    return features
