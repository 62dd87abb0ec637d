"""ECE and MCE of weighted rows: what a bootstrap needs many times, and a metric once."""

from __future__ import annotations

import numpy as np

from perceive.evaluation.metrics import N_BINS, Array


class Ties:
    """Rows sorted by a value and grouped where it is equal; ``middle`` is the middle of a row's group in the
    cumulated weight, whatever the weights are."""

    def __init__(self, values: Array) -> None:
        self._order = np.argsort(values, kind="stable")
        new = np.diff(values[self._order], prepend=np.nan) != 0
        self._starts = np.flatnonzero(new)
        self._group = np.empty(values.size, dtype=np.int64)
        self._group[self._order] = np.cumsum(new) - 1

    def middle(self, weights: Array) -> Array:
        mass = np.add.reduceat(weights[:, self._order], self._starts, axis=1)
        middles = np.cumsum(mass, axis=1)
        middles -= mass / 2
        return middles[:, self._group]


class WeightedBins:
    """ECE and MCE over equal-mass bins of the weighted predictions, ties together."""

    def __init__(self, o: Array, p: Array) -> None:
        self._ties = Ties(p)
        self._difference = p - o

    def __call__(self, weights: Array) -> dict[str, Array]:
        draws = len(weights)
        n = weights.sum(axis=1, keepdims=True)
        bins = np.minimum((N_BINS * self._ties.middle(weights) / n).astype(np.int64), N_BINS - 1)
        bins += N_BINS * np.arange(draws)[:, None]
        flat = bins.reshape(-1)
        shape = draws, N_BINS
        mass = np.bincount(flat, weights.reshape(-1), draws * N_BINS).reshape(shape)
        gap = np.abs(np.bincount(flat, (weights * self._difference).reshape(-1), draws * N_BINS)).reshape(
            shape
        )
        return {
            "ece": gap.sum(axis=1) / n[:, 0],
            "mce": np.divide(gap, mass, out=np.zeros(shape), where=mass > 0).max(axis=1),
        }
