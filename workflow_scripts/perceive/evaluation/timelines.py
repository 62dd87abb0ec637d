"""How well predictions follow each owner in time: within-owner, between-owner and composite r.

A corpus whose people differ much makes a model look good that only knows who writes. Temporal r asks whether
the predictions rise and fall with the labels of one person, between-owner r whether they tell the people
apart, and the composite is one number for both.

References
----------
SemEval-2026 Task 2, Predicting Variation in Emotional Valence and Arousal over Time from Ecological Essays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from perceive.evaluation.bootstrap import Estimate, OwnerBootstrap
from perceive.evaluation.metrics import CONSTANT_VARIANCE, Array, as_pair
from perceive.features.temporal import microseconds, timeline_order

MIN_ITEMS = 5
"""Owners with fewer items have no temporal r: a correlation of four points is mostly chance."""

HISTORY_BUCKETS = ("1", "2-4", "5-9", "10+")

_STARTS = (2, 5, 10)  # first length of every bucket but the first
_REACH = 1 - 1e-7  # |r| = 1 has no atanh


def within_owner_r(observed: ArrayLike, predicted: ArrayLike, owners: ArrayLike) -> float:
    """Temporal r: mean over owners of the Pearson correlation within the owner.

    Only owners with at least :data:`MIN_ITEMS` items whose observed values are not constant count; where an
    owner's *predictions* are constant, its r is 0, since a constant says nothing about change. NaN if no
    owner counts.

    Parameters
    ----------
    observed, predicted : array of shape (N,)
    owners : array of shape (N,)
    """
    return temporal_metrics(observed, predicted, owners)["temporal_r"]


def between_owner_r(observed: ArrayLike, predicted: ArrayLike, owners: ArrayLike) -> float:
    """Pearson correlation of the owners' means, each owner once; NaN if either side's means are constant.

    Parameters
    ----------
    observed, predicted : array of shape (N,)
    owners : array of shape (N,)
    """
    return temporal_metrics(observed, predicted, owners)["between_r"]


def composite_r(observed: ArrayLike, predicted: ArrayLike, owners: ArrayLike) -> float:
    """Fisher mean of the two, ``tanh((atanh within + atanh between) / 2)``; NaN if either is.

    Parameters
    ----------
    observed, predicted : array of shape (N,)
    owners : array of shape (N,)
    """
    return temporal_metrics(observed, predicted, owners)["composite_r"]


def temporal_metrics(observed: ArrayLike, predicted: ArrayLike, owners: ArrayLike) -> dict[str, float]:
    """``temporal_r``, ``between_r`` and ``composite_r`` of the rows.

    Raises
    ------
    ValueError
        If the lengths differ or a number is not finite.
    """
    names, codes = np.unique(np.asarray(owners).astype(str), return_inverse=True)
    return _OwnerTimelines(observed, predicted, codes.reshape(-1), len(names)).values()


def temporal_replicates(
    bootstrap: OwnerBootstrap, observed: ArrayLike, predicted: ArrayLike
) -> dict[str, Array]:
    """The three metrics in each draw, shape (n,); all NaN with fewer than two owners.

    An owner that is drawn twice counts as two people. Equal to building each resample row by row.
    """
    timelines = _OwnerTimelines(observed, predicted, bootstrap.codes, bootstrap.n_owners)
    result = {name: np.full(bootstrap.n, np.nan) for name in timelines.values()}
    if bootstrap.n_owners >= 2:
        for where, counts in bootstrap.draws():
            for name, drawn in timelines(counts).items():
                result[name][where] = drawn
    return result


def temporal_estimates(
    bootstrap: OwnerBootstrap, observed: ArrayLike, predicted: ArrayLike
) -> dict[str, Estimate]:
    """Value and interval of ``temporal_r``, ``between_r`` and ``composite_r``; owners are the bootstrap's.

    Parameters
    ----------
    bootstrap : OwnerBootstrap
        Of the N rows.
    observed, predicted : array of shape (N,)
    """
    value = _OwnerTimelines(observed, predicted, bootstrap.codes, bootstrap.n_owners).values()
    drawn = temporal_replicates(bootstrap, observed, predicted)
    return {name: Estimate(value[name], *bootstrap.interval(drawn[name])) for name in value}


def temporal_gain(
    bootstrap: OwnerBootstrap,
    observed: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    metric: str = "temporal_r",
) -> Estimate:
    """Difference ``metric(a) - metric(b)`` on the same draws of owners; positive: ``a`` is better."""
    of_a, of_b = (
        _OwnerTimelines(observed, x, bootstrap.codes, bootstrap.n_owners).values()[metric] for x in (a, b)
    )
    drawn_a, drawn_b = (temporal_replicates(bootstrap, observed, x)[metric] for x in (a, b))
    return Estimate(of_a - of_b, *bootstrap.interval(drawn_a - drawn_b))


class _OwnerTimelines:
    """The three metrics of weighted owners, from one r and two means per owner."""

    def __init__(
        self, observed: ArrayLike, predicted: ArrayLike, codes: NDArray[np.int64], n_owners: int
    ) -> None:
        o, p = as_pair(observed, predicted)
        if o.size != codes.size:
            raise ValueError(f"{o.size} predictions for {codes.size} owner entries")
        # One canonical row order makes the floating-point sums independent of the order of the input.
        order = np.lexsort((p, o, codes))
        o, p, codes = o[order], p[order], codes[order]

        def mean(values: Array) -> Array:
            return np.bincount(codes, weights=values, minlength=n_owners) / n

        n = np.bincount(codes, minlength=n_owners).astype(np.float64)
        self._means = mean(o), mean(p)
        # centred on the owner first, so that a small spread is no difference of large numbers
        o, p = (values - means[codes] for values, means in zip((o, p), self._means, strict=True))
        var_o, var_p, cov = mean(o * o), mean(p * p), mean(o * p)
        self._counts = ((n >= MIN_ITEMS) & (var_o > CONSTANT_VARIANCE)).astype(np.float64)
        follows = (self._counts > 0) & (var_p > CONSTANT_VARIANCE)
        spread = np.sqrt(np.where(follows, var_o * var_p, 1.0))
        self._r = np.where(follows, np.clip(cov / spread, -1.0, 1.0), 0.0)

    def values(self) -> dict[str, float]:
        """The metrics of every owner once."""
        return {name: float(of[0]) for name, of in self(np.ones((1, self._r.size))).items()}

    def __call__(self, counts: Array) -> dict[str, Array]:
        """The metrics of draws, shape (draws,) each, from ``counts`` of shape (draws, owners)."""
        counted = counts @ self._counts
        within = np.divide(
            counts @ (self._counts * self._r), counted, out=np.full(len(counts), np.nan), where=counted > 0
        )
        between = _weighted_pearson(counts, *self._means)
        angles = np.arctanh(np.clip(np.stack([within, between]), -_REACH, _REACH))
        return {"temporal_r": within, "between_r": between, "composite_r": np.tanh(angles.mean(axis=0))}


def _weighted_pearson(weights: Array, a: Array, b: Array) -> Array:
    """Pearson r of ``a`` and ``b`` under each row of weights (draws, values); NaN without spread."""
    if a.size == 0:
        return np.full(len(weights), np.nan)
    a, b = a - a.mean(), b - b.mean()
    n = weights.sum(axis=1)
    mean_a, mean_b = weights @ a / n, weights @ b / n
    var_a, var_b = weights @ (a * a) / n - mean_a**2, weights @ (b * b) / n - mean_b**2
    cov = weights @ (a * b) / n - mean_a * mean_b
    defined = (var_a > CONSTANT_VARIANCE) & (var_b > CONSTANT_VARIANCE)
    spread = np.sqrt(np.where(defined, var_a * var_b, 1.0))
    return np.where(defined, np.clip(cov / spread, -1.0, 1.0), np.nan)


def history_lengths(owner_ids: Sequence[Any], timestamps: Any, item_ids: Sequence[str]) -> NDArray[np.int64]:
    """How many items of its owner there are up to each item, itself included.

    Parameters
    ----------
    owner_ids, timestamps, item_ids
        n of each, in any order. Items of one owner at one time are ordered by their item_id, as in the
        temporal features. A time without a zone is taken as UTC.

    Returns
    -------
    int64 array [n]
        1 for an owner's first item.

    Raises
    ------
    ValueError
        If the lengths differ, a time is missing, or two items of an owner share time and id.
    """
    times = microseconds(timestamps)
    if not len(owner_ids) == len(item_ids) == len(times):
        raise ValueError(
            f"lengths differ: {len(owner_ids)} owner_ids, {len(times)} timestamps, {len(item_ids)} item_ids"
        )
    owners = pd.factorize(np.asarray(owner_ids, dtype=object))[0].astype(np.int64)
    order = timeline_order(owners, times, list(item_ids))
    place = np.arange(order.size)
    first = np.diff(owners[order], prepend=-1) != 0
    lengths = np.empty(order.size, dtype=np.int64)
    lengths[order] = place - np.maximum.accumulate(np.where(first, place, 0)) + 1
    return lengths


def history_bucket(lengths: ArrayLike) -> NDArray[np.object_]:
    """The bucket of :data:`HISTORY_BUCKETS` of each history length (n,), as strings.

    Raises
    ------
    ValueError
        If a length is below 1.
    """
    values = np.asarray(lengths, dtype=np.int64)
    if (values < 1).any():
        raise ValueError(f"row {int((values < 1).argmax())}: a history holds at least the item itself")
    return np.array(HISTORY_BUCKETS, dtype=object)[np.digitize(values, _STARTS)]
