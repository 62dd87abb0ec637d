"""Reading the labels and features of a hierarchy variable so that their rows agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perceive import io
from perceive.features.inhibition import CUES
from perceive.features.matrix import LEXICAL, TEXT
from perceive.paths import encode

if TYPE_CHECKING:
    from perceive.taxonomy import Taxonomy

EXTRA_INPUTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("valence", "arousal", "willingness", "invoked"), LEXICAL),
    "expressed": (*LEXICAL, *(cue for cue in CUES if cue not in LEXICAL)),
}
"""What the transformer of a variable reads beside the text. The lexicon knows Hinglish, which an
English encoder hardly does; and who holds back or masks a feeling gives signs of it."""


def path_columns(variable: str) -> tuple[str, ...]:
    """Columns of the feature matrix that the ensemble of a hierarchy variable reads."""
    return (*TEXT, *(name for name in EXTRA_INPUTS[variable] if name not in LEXICAL))


def read_paths(path: str | Path, ids: pd.Series, taxonomy: Taxonomy) -> NDArray[np.int64]:
    """Labels of a hierarchy as codes, shape (ids, levels); -1 below a label's end, and without a label.

    Parameters
    ----------
    path : str or Path
        ``corpus/labels/<variable>.parquet``.
    ids : Series of str
    taxonomy : Taxonomy
    """
    frame = io.read_parquet(path, ["item_id", "core", "nuance", "micro"])
    position = pd.Series(np.arange(len(ids)), index=pd.Index(ids))
    frame = frame[frame["item_id"].isin(position.index)]
    labels = (
        tuple(name for name in names if isinstance(name, str))
        for names in frame[["core", "nuance", "micro"]].itertuples(index=False)
    )
    codes = np.full((len(ids), taxonomy.depth), -1, dtype=np.int64)
    codes[position.loc[frame["item_id"]].to_numpy()] = encode(labels, taxonomy)
    return codes


def path_inputs(
    features: pd.DataFrame, columns: Sequence[str], cues: pd.DataFrame | None = None
) -> NDArray[np.float32]:
    """The feature matrix of a hierarchy's ensemble, shape (n, columns).

    Parameters
    ----------
    features : DataFrame
        ``item_id`` and the 418 features of n items.
    columns : sequence of str
        :func:`perceive.features.matrix.path_columns`.
    cues : DataFrame, optional
        ``item_id`` and the inhibition cues, where a column is one.
    """
    if cues is not None:
        features = features.merge(
            cues, on="item_id", how="left", validate="one_to_one", suffixes=("", "_cue")
        )
    return features[list(columns)].to_numpy(np.float32)


def as_paths(codes: NDArray[np.int64], taxonomy: Taxonomy) -> list[tuple[str, ...]]:
    """The paths that codes stand for, each as deep as it goes; every row needs a first label."""
    labels = [taxonomy.labels(level) for level in range(taxonomy.depth)]
    depth = (codes >= 0).sum(axis=1)
    return [labels[end - 1][row[end - 1]] for row, end in zip(codes, depth, strict=True)]
