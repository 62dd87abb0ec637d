"""The 13 temporal features: what an owner's timeline says at the moment of each item.

They are strictly causal: the features of an item depend on its owner's earlier items and on itself, never on
a later item, another owner, or a label. The mood that they follow is the lexical valence, which is computed
from the text alone. Items of one owner at one time are ordered by their item_id.

The features
------------
ema_valence_smooth, ema_valence_reactive
    Exponential moving averages ``e_i = a v_i + (1 - a) e_{i-1}`` with a = .3 and .7; ``e_1 = v_1``.
variance_7d
    Population variance of the valence over the owner's items in (t - 7 days, t], the item included.
volatility_7d
    Mean absolute difference between successive items, both in that window; 0 when it holds one item.
timeline_density
    Items a day so far: their number by the days since the first, taken as at least one; 1 for a first item.
max_gap_hours, avg_gap_hours
    Longest and mean time between successive items so far; 0 for a first item.
hour_sin, hour_cos, day_sin, day_cos, week_sin, week_cos
    Sine and cosine of the hour of the day (with its fraction, by 24), the day of the week (whole, Monday 0,
    by 7) and the week of the year (days since 1 January by 7, by 52.1775), in UTC.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

FEATURES: tuple[str, ...] = (
    "ema_valence_smooth",
    "ema_valence_reactive",
    "variance_7d",
    "volatility_7d",
    "timeline_density",
    "max_gap_hours",
    "avg_gap_hours",
    "hour_sin",
    "hour_cos",
    "day_sin",
    "day_cos",
    "week_sin",
    "week_cos",
)
SMOOTH, REACTIVE = 0.3, 0.7
WEEKS_A_YEAR = 52.1775

_HOUR = 3_600_000_000  # microseconds
_DAY = 24 * _HOUR
_WINDOW = 7 * _DAY
_FIXED_POINT = 1 << 30


def temporal_features(
    owner_ids: Sequence[Any],
    timestamps: Any,
    lex_valence: Sequence[float] | np.ndarray,
    *,
    item_ids: Sequence[str],
) -> np.ndarray:
    """Compute the temporal features of all items of all owners in one pass.

    To score a new item, pass the owner's whole history together with it and take its row: the averages, the
    density and the gaps reach back to the owner's first item.

    Parameters
    ----------
    owner_ids
        n owners, in any order.
    timestamps
        n times: a datetime64 array or Series (one with a time zone is converted to UTC), or datetimes. A time
        without a zone is taken as UTC. Only microseconds count.
    lex_valence
        n lexical valences, the feature ``lex_valence``.
    item_ids
        n ids, unique within an owner.

    Returns
    -------
    float32 array [n, 13]
        Finite; rows in the order of the input, columns as in `FEATURES`.

    Raises
    ------
    ValueError
        When the lengths differ, a time is missing, a valence is not finite, or two items of an owner share
        time and id; the message gives the row, counted from 0.
    """
    times = microseconds(timestamps)
    valence = np.asarray(lex_valence, dtype=np.float64)
    n = len(times)
    if not len(owner_ids) == len(item_ids) == len(valence) == n:
        raise ValueError(
            f"lengths differ: {len(owner_ids)} owner_ids, {n} timestamps, {len(valence)} lex_valence, "
            f"{len(item_ids)} item_ids"
        )
    if not np.isfinite(valence).all():
        raise ValueError(f"row {np.flatnonzero(~np.isfinite(valence))[0]}: lex_valence must be finite")
    features = np.empty((n, len(FEATURES)), dtype=np.float32)
    features[:, 7:] = _calendar(times)
    if n == 0:
        return features

    codes: dict[Any, int] = {}
    owners = np.fromiter(
        (codes.setdefault(owner, len(codes)) for owner in owner_ids), dtype=np.int64, count=n
    )
    order = timeline_order(owners, times, item_ids)
    starts = np.flatnonzero(np.diff(owners[order], prepend=-1))
    for start, end in zip(starts, [*starts[1:], n], strict=True):
        rows = order[start:end]
        features[rows, :7] = _timeline(times[rows].tolist(), valence[rows].tolist())
    return features


def microseconds(timestamps: Any) -> np.ndarray:
    """Times as int64 microseconds since 1970 in UTC."""
    if hasattr(timestamps, "to_numpy") and getattr(timestamps.dtype, "kind", None) == "M":
        times = timestamps.to_numpy(dtype="datetime64[us]")  # pandas converts to UTC
    else:
        times = np.asarray(timestamps)
        if times.dtype == object:
            naive = [_naive_utc(time, row) for row, time in enumerate(times)]
            times = np.array(naive, dtype="datetime64[us]")
        elif times.size == 0:
            times = times.astype("datetime64[us]")
    if not np.issubdtype(times.dtype, np.datetime64):
        raise ValueError(f"timestamps must be times, not {times.dtype}; convert them to datetime64")
    times = times.astype("datetime64[us]")
    if np.isnat(times).any():
        raise ValueError(f"row {np.flatnonzero(np.isnat(times))[0]}: timestamp is missing")
    return times.astype(np.int64)


def _naive_utc(time: Any, row: int) -> datetime:
    if not isinstance(time, datetime) or time != time:  # pandas' NaT is a datetime that differs from itself
        raise ValueError(f"row {row}: timestamp is missing or not a datetime")
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def timeline_order(owners: np.ndarray, times: np.ndarray, item_ids: Sequence[str]) -> np.ndarray:
    """Rows by owner, time and item_id."""
    ids = item_ids if isinstance(item_ids, list) else list(item_ids)
    order = np.lexsort((times, owners))
    same = (np.diff(owners[order]) == 0) & (np.diff(times[order]) == 0)
    # Ties are few, and numpy's fixed-width strings would drop trailing NULs and grow with the longest id.
    edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        tied = sorted(order[start : end + 1].tolist(), key=ids.__getitem__)
        order[start : end + 1] = tied
        for before, after in pairwise(tied):
            if ids[before] == ids[after]:
                raise ValueError(f"rows {before} and {after}: the same owner, timestamp and item_id")
    return order


def _timeline(times: list[int], valence: list[float]) -> list[tuple[float, ...]]:
    """The seven features of the timeline, for one owner's items in order."""
    # Sums slide in integers, which are exact: a constant stretch has variance 0, not the rounding residue of
    # what came before it, and the features of a window do not depend on what has left it.
    fixed = [round(value * _FIXED_POINT) for value in valence]
    rows: list[tuple[float, ...]] = []
    smooth = reactive = valence[0]
    left = 0
    total = squares = changes = 0
    max_gap = 0
    for i, (time, value) in enumerate(zip(times, fixed, strict=True)):
        total += value
        squares += value * value
        if i > 0:
            smooth = SMOOTH * valence[i] + (1 - SMOOTH) * smooth
            reactive = REACTIVE * valence[i] + (1 - REACTIVE) * reactive
            changes += abs(value - fixed[i - 1])
            max_gap = max(max_gap, time - times[i - 1])
        while times[left] <= time - _WINDOW:
            total -= fixed[left]
            squares -= fixed[left] * fixed[left]
            changes -= abs(fixed[left + 1] - fixed[left])
            left += 1
        count = i + 1 - left
        span = time - times[0]
        rows.append(
            (
                smooth,
                reactive,
                (count * squares - total * total) / (count * _FIXED_POINT) ** 2,
                changes / ((count - 1) * _FIXED_POINT) if count > 1 else 0.0,
                (i + 1) / max(1.0, span / _DAY),
                max_gap / _HOUR,
                span / i / _HOUR if i else 0.0,
            )
        )
    return rows


def _calendar(times: np.ndarray) -> np.ndarray:
    """Sine and cosine of hour, day and week, float64 [n, 6]."""
    stamps = times.astype("datetime64[us]")
    days = stamps.astype("datetime64[D]")
    day_number = days.astype(np.int64)
    hour = (times - day_number * _DAY) / _HOUR
    weekday = (day_number + 3) % 7  # 1 January 1970 was a Thursday
    week = (day_number - stamps.astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)) / 7
    phases = [2 * math.pi * hour / 24, 2 * math.pi * weekday / 7, 2 * math.pi * week / WEEKS_A_YEAR]
    return np.column_stack([function(phase) for phase in phases for function in (np.sin, np.cos)])
