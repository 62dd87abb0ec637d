"""What a hierarchy variable answers for every item, as those read it who come after it.

An item of the training part is answered out of fold: by base models that saw none of its owner, and by
weights that its label had no say in. Every other item is answered by the models that serve.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from perceive.taxonomy import Taxonomy

Array = NDArray[np.float32]


def by_level(columns: Array, sizes: Sequence[int], rows: NDArray[np.int64] | None = None) -> list[Array]:
    """Columns of all levels side by side as one array per level, of some rows."""
    chosen = columns if rows is None else columns[rows]
    return np.split(chosen, np.cumsum(sizes)[:-1], axis=1)


def fill(n: int, split: NDArray[np.object_], out_of_fold: Array) -> Array:
    """Answers of all n items, of which only the training part is known yet; NaN elsewhere.

    Raises
    ------
    ValueError
        If the training part has another number of rows.
    """
    train = split == "train"
    if len(out_of_fold) != train.sum():
        raise ValueError(
            f"{len(out_of_fold)} out-of-fold rows for {int(train.sum())} training items: delete the oof "
            "folder of the variable and run again"
        )
    result = np.full((n, out_of_fold.shape[1]), np.nan, dtype=np.float32)
    result[train] = out_of_fold
    return result


def blended(bases: Sequence[Array], weights: Array) -> Array:
    """Weighted mean of the base models' answers.

    Parameters
    ----------
    bases : sequence of ndarray of shape (n, columns)
    weights : ndarray of shape (n, bases)
    """
    return np.asarray(np.einsum("nk,knl->nl", weights, np.stack(bases)), dtype=np.float32)


def upstream_columns(variable: str, taxonomy: Taxonomy) -> list[str]:
    """Names under which the first level's probabilities are features of other variables."""
    # LightGBM takes no other characters; the number keeps names apart that differ in these alone.
    labels = [re.sub(r"[^A-Za-z0-9]+", "_", label[0]) for label in taxonomy.labels(0)]
    if len(set(labels)) < len(labels):
        labels = [f"{number}_{label}" for number, label in enumerate(labels)]
    return [f"{variable}_{label}" for label in labels]


def upstream_frame(variable: str, ids: pd.Series, answers: Array, taxonomy: Taxonomy) -> pd.DataFrame:
    """``item_id`` and the first level's probabilities of the items that have an answer."""
    columns = upstream_columns(variable, taxonomy)
    frame = pd.DataFrame(answers[:, : len(columns)], columns=columns)
    frame.insert(0, "item_id", ids.to_numpy())
    return frame[frame[columns[0]].notna()].reset_index(drop=True)


def label_probabilities(
    columns: Array, codes: NDArray[np.int64], sizes: Sequence[int]
) -> NDArray[np.float64]:
    """Probability that an answer gives to each row's own label at each level, NaN below the label's end.

    Parameters
    ----------
    columns : ndarray of shape (n, labels of all levels)
    codes : ndarray of shape (n, levels)
    sizes : sequence of int
        Labels of each level.
    """
    first = np.cumsum(sizes, dtype=np.int64) - np.asarray(sizes, dtype=np.int64)
    own = np.take_along_axis(columns, first + np.maximum(codes, 0), axis=1).astype(np.float64)
    return np.where(codes >= 0, own, np.nan)
