"""The labels that enter the strata of the splits, straight from the annotations."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from perceive.corpus.reader import Item, Reject
from perceive.taxonomy import Taxonomy


def strata_labels(entries: Iterable[Item | Reject], taxonomy: Taxonomy | None) -> pd.DataFrame | None:
    """Take the labels that strata are made of from the annotations as they are read.

    Parameters
    ----------
    entries
        What the reader yields.
    taxonomy
        Knows the tier of a path (see `corpus_taxonomy`); None: there are no tiers.

    Returns
    -------
    pandas.DataFrame or None
        item_id, and core and tier (of the path invoked) and valence as far as there are any, missing where an
        item has none; None without any.
    """
    rows = []
    for entry in entries:
        if isinstance(entry, Item):
            path = entry.labels["invoked"][0] if "invoked" in entry.ratings else None
            valence = entry.labels["valence"][0] if "valence" in entry.ratings else None
            core = tier = None
            if isinstance(path, tuple):
                core = path[0]
                tier = taxonomy.tier([part for part in path if part is not None]) if taxonomy else None
            rows.append((entry.item_id, core, tier, valence))
    columns = ["item_id", "core", "tier", "valence"]
    frame = pd.DataFrame(rows, columns=columns).dropna(axis="columns", how="all")
    return frame if len(frame.columns) > 1 else None


def strata_columns(entries: Iterable[Item | Reject]) -> pd.DataFrame:
    """Take the columns of the items that strata are made of from the annotations as they are read.

    Returns
    -------
    pandas.DataFrame
        item_id, language, length_bucket, category, risk_level.
    """
    columns = ["item_id", "language", "length_bucket", "category", "risk_level"]
    return pd.DataFrame(
        [[getattr(entry, name) for name in columns] for entry in entries if isinstance(entry, Item)],
        columns=columns,
    )
