"""The labels that enter the strata of the splits, straight from the annotations."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from perceive.corpus.reader import Item, Reject


def strata_labels(entries: Iterable[Item | Reject]) -> pd.DataFrame | None:
    """Take the labels that strata are made of from the annotations as they are read.

    Returns
    -------
    pandas.DataFrame or None
        item_id, and core (of invoked) and valence as far as there are any, missing where an item has none;
        None without either.
    """
    rows = []
    for entry in entries:
        if isinstance(entry, Item):
            path = entry.labels.get("invoked", (None,))[0]
            valence = entry.labels.get("valence", (None,))[0]
            rows.append((entry.item_id, path[0] if isinstance(path, tuple) else None, valence))
    frame = pd.DataFrame(rows, columns=["item_id", "core", "valence"]).dropna(axis="columns", how="all")
    return frame if len(frame.columns) > 1 else None
