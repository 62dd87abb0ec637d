"""Windows over timelines: each item with its owner's latest items before it.

They are strictly causal: a window holds its item and its owner's earlier ones, never a later item, another
owner, or a label. Items of one owner at one time are ordered by their item_id, as in the temporal features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perceive.features.matrix import EMBEDDING, LEXICAL, TEMPORAL
from perceive.features.temporal import microseconds, timeline_order

if TYPE_CHECKING:  # what serves does without
    import pandas as pd

GAP = "log_gap_hours"
"""Logarithm of one more than the hours since the owner's item before; 0 at the first."""

LONGEST = 10
"""Items of a window at most, its own included."""

_HOUR = 3_600_000_000  # microseconds


@dataclass(frozen=True)
class Windows:
    """Which rows each item's window holds.

    Attributes
    ----------
    rows : ndarray of shape (n, longest), int32
        Row numbers in the order of time, the item itself last; -1 after it where the timeline is shorter.
    lengths : ndarray of shape (n,), int64
        Items of each window, 1 to longest.
    """

    rows: NDArray[np.int32]
    lengths: NDArray[np.int64]

    def latest(self, length: int) -> Windows:
        """The same windows, cut to the latest ``length`` items."""
        lengths = np.minimum(self.lengths, length)
        places = np.arange(length)[None, :]
        taken = np.take_along_axis(
            self.rows, np.minimum((self.lengths - lengths)[:, None] + places, self.rows.shape[1] - 1), axis=1
        )
        return Windows(np.where(places < lengths[:, None], taken, -1).astype(np.int32), lengths)


def windows(
    owner_ids: Sequence[Any], timestamps: Any, *, item_ids: Sequence[str], longest: int = LONGEST
) -> tuple[Windows, NDArray[np.float32]]:
    """The window of every item, and the gap before it.

    Parameters
    ----------
    owner_ids
        n owners, in any order.
    timestamps
        n times, as :func:`perceive.features.temporal.temporal_features` takes them.
    item_ids
        n ids, unique within an owner.
    longest : int
        Items of a window at most, its own included.

    Returns
    -------
    tuple of (Windows, ndarray of shape (n,), float32)
        Rows in the order of the input. The gaps are `GAP`.

    Raises
    ------
    ValueError
        When the lengths differ, a time is missing, or two items of an owner share time and id.
    """
    times = microseconds(timestamps)
    n = len(times)
    if not len(owner_ids) == len(item_ids) == n:
        raise ValueError(
            f"lengths differ: {len(owner_ids)} owner_ids, {n} timestamps, {len(item_ids)} item_ids"
        )
    if longest < 1:
        raise ValueError(f"a window holds at least its own item, so longest must be 1 or more, not {longest}")
    codes: dict[Any, int] = {}
    owners = np.fromiter(
        (codes.setdefault(owner, len(codes)) for owner in owner_ids), dtype=np.int64, count=n
    )
    order = timeline_order(owners, times, item_ids)
    first = np.diff(owners[order], prepend=-1) != 0
    place = np.arange(n)
    since = place - np.maximum.accumulate(np.where(first, place, 0)) if n else place
    lengths = np.minimum(since + 1, longest)
    places = np.arange(longest)[None, :]
    sorted_rows = (place - lengths + 1)[:, None] + places
    rows = np.full((n, longest), -1, dtype=np.int32)
    inside = places < lengths[:, None]
    rows[order] = np.where(inside, order[np.minimum(sorted_rows, max(n - 1, 0))], -1)
    of_row = np.empty(n, dtype=np.int64)
    of_row[order] = lengths
    hours = np.where(first, 0, np.diff(times[order], prepend=0)) / _HOUR
    gaps = np.empty(n, dtype=np.float32)
    gaps[order] = np.log1p(hours)
    return Windows(rows, of_row), gaps


GROUPS: dict[str, tuple[str, ...]] = {"embedding": EMBEDDING, "lexical": LEXICAL, "temporal": TEMPORAL}
"""Groups of columns that a model may leave out; the predictions of other variables and the gap it always
reads."""


@dataclass(frozen=True)
class Timelines:
    """Items with their features and windows.

    Attributes
    ----------
    item_ids : ndarray of shape (n,), object
    matrix : ndarray of shape (n, columns), float32
    columns : tuple of str
        The 418 features, the predictions of other variables, `GAP`.
    windows : Windows
        Over the rows of the matrix.
    """

    item_ids: NDArray[np.object_]
    matrix: NDArray[np.float32]
    columns: tuple[str, ...]
    windows: Windows

    def __post_init__(self) -> None:
        bad = ~np.isfinite(self.matrix)
        if bad.any():
            names = [self.columns[column] for column in np.flatnonzero(bad.any(axis=0))[:3]]
            raise ValueError(
                f"{', '.join(names)} is not finite in {int(bad.any(axis=1).sum())} rows; build the features "
                "again"
            )

    @classmethod
    def of(cls, features: pd.DataFrame, items: pd.DataFrame, longest: int = LONGEST) -> Timelines:
        """Lay out the timelines of some items; history is what is among them.

        Parameters
        ----------
        features : DataFrame
            ``item_id``, then the columns of the matrix.
        items : DataFrame
            At least these items, with ``owner_id`` and ``timestamp``.
        """
        rows = items.set_index("item_id").loc[features["item_id"]]
        ids = features["item_id"].to_numpy(dtype=object)
        found, gaps = windows(
            rows["owner_id"].tolist(),
            rows["timestamp"],
            item_ids=ids.tolist(),
            longest=longest,
        )
        columns = [name for name in features.columns if name != "item_id"]
        matrix = np.column_stack([features[columns].to_numpy(np.float32), gaps])
        return cls(ids, matrix, (*columns, GAP), found)

    def positions(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Rows of some items.

        Raises
        ------
        KeyError
            If one is unknown.
        """
        place = {item: row for row, item in enumerate(self.item_ids)}
        return np.array([place[item] for item in item_ids], dtype=np.int64)
