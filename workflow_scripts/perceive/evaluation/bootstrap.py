"""Confidence intervals from a bootstrap over owners.

The texts of one person resemble one another, so rows are not independent, and an interval that resamples rows
is too narrow. Whole owners are drawn with replacement instead (the cluster bootstrap), and percentiles of the
metric over the draws, a little further out where owners are few (:func:`expanded_level`), are its interval.

A draw is a vector of counts, one per owner. Every metric here is computed exactly from those counts as
weights, for a block of draws at a time: RMSE, MAE, R2 and Pearson from sums per owner, Spearman from weighted
mid-ranks, ECE and MCE from weighted equal-mass bins. The results equal those of building each resample row by
row, at a small part of the cost. Modules with statistics of their own (temporal r) read
:meth:`OwnerBootstrap.draws`; everything else goes through :meth:`OwnerBootstrap.resample`.

References
----------
Davison and Hinkley, Bootstrap Methods and their Application, 1997, sections 3.8 and 5.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtrit

from perceive.evaluation import LOWER_IS_BETTER
from perceive.evaluation.metrics import (
    CONSTANT_VARIANCE,
    REGRESSION_METRICS,
    Array,
    as_pair,
)
from perceive.evaluation.weighted import Ties, WeightedBins

N_BOOTSTRAP = 1000
SEED = 137
LEVEL = 0.95

# Draws times rows held at once: 2^18 float64 are 2 MiB, so the handful of temporaries stays in the cache.
_BLOCK = 1 << 18
# A metric that is undefined in more than a tenth of the draws has no trustworthy interval.
_MIN_DEFINED = 0.9
_SUMS = ("rmse", "mae", "r2", "pearson")


class Estimate(NamedTuple):
    """A value and its interval; NaN where undefined."""

    value: float
    low: float
    high: float


def percentile_interval(replicates: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Central percentile interval over the defined (not NaN) replicates; NaN if a tenth are undefined."""
    values = np.asarray(replicates, dtype=np.float64)
    defined = values[~np.isnan(values)]
    if defined.size == 0 or defined.size < _MIN_DEFINED * values.size:
        return np.nan, np.nan
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def expanded_level(level: float, sizes: ArrayLike) -> float:
    """Level of the percentiles that cover ``level``: the expanded percentile interval.

    Percentiles of the bootstrap are too narrow for few clusters: by the factor of sqrt((n - 1) / n), and by
    the normal quantile in the place of Student's. n is the effective number of owners, since one owner with
    half of the rows counts as few. With 13 equal owners 95 % become 97.7 %, with 120 they are 95.3 %.

    Parameters
    ----------
    level : float
    sizes : array of shape (owners,)
        Rows of each owner.

    References
    ----------
    Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69(4), 2015, 5.3;
    Kish, Survey Sampling, 1965, 11.7 (the effective number).
    """
    rows = np.asarray(sizes, dtype=np.float64)
    owners = rows.sum() ** 2 / max(float(rows @ rows), 1.0)
    if owners <= 1:
        return level
    t = stdtrit(owners - 1, (1 + level) / 2)
    return float(2 * ndtr(np.sqrt(owners / (owners - 1)) * t) - 1)


class OwnerBootstrap:
    """Resampling of owners, with the same draws for everything that is computed on the same rows.

    Because the draws depend on the owners, ``n`` and ``seed`` alone, two models scored by one object are
    compared draw by draw (paired). Nothing depends on the order of the rows.

    Parameters
    ----------
    owners : array of shape (N,)
        Owner of every row. With fewer than two distinct owners every interval is NaN.
    n : int
        Number of draws.
    seed : int
    level : float
        Coverage of the intervals.
    """

    def __init__(
        self, owners: ArrayLike, n: int = N_BOOTSTRAP, seed: int = SEED, level: float = LEVEL
    ) -> None:
        if n < 1:
            raise ValueError(f"the number of bootstrap draws must be at least 1, not {n}")
        names, codes = np.unique(np.asarray(owners).astype(str), return_inverse=True)
        self.n, self.seed, self.level = n, seed, level
        self.n_owners = len(names)
        self._codes: NDArray[np.int64] = codes.reshape(-1)

    @property
    def n_rows(self) -> int:
        return self._codes.size

    @property
    def codes(self) -> NDArray[np.int64]:
        """Number of every row's owner, 0..n_owners-1, shape (N,)."""
        return self._codes

    def draws(self) -> Iterator[tuple[slice, Array]]:
        """Blocks of draws: their positions, and the count of every owner, shape (block, owners).

        The same blocks at every call. There are no draws of no owners.
        """
        if self.n_owners == 0:
            return
        rng = np.random.default_rng(self.seed)
        size = max(1, _BLOCK // max(self.n_rows, 1))
        for start in range(0, self.n, size):
            stop = min(start + size, self.n)
            drawn = rng.integers(self.n_owners, size=(stop - start, self.n_owners))
            drawn += self.n_owners * np.arange(stop - start)[:, None]
            counts = np.bincount(drawn.reshape(-1), minlength=(stop - start) * self.n_owners)
            yield slice(start, stop), counts.reshape(stop - start, self.n_owners).astype(np.float64)

    _draws = draws

    def replicates(
        self, observed: ArrayLike, predicted: ArrayLike, metrics: Iterable[str] = tuple(REGRESSION_METRICS)
    ) -> dict[str, Array]:
        """Each metric in each draw, shape (n,); all NaN with fewer than two owners.

        Raises
        ------
        ValueError
            For an unknown metric, non-finite values, or another number of rows than there are owners.
        """
        metrics = tuple(metrics)
        unknown = [name for name in metrics if name not in REGRESSION_METRICS]
        if unknown:
            raise ValueError(f"unknown metrics {unknown}; known: {list(REGRESSION_METRICS)}")
        o, p = as_pair(observed, predicted)
        if o.size != self.n_rows:
            raise ValueError(f"{o.size} predictions for {self.n_rows} owner entries")
        result = {name: np.full(self.n, np.nan) for name in metrics}
        if self.n_owners < 2:
            return result
        # One canonical row order makes the floating-point sums, too, independent of the order of the input.
        order = np.lexsort((p, o, self._codes))
        o, p, codes = o[order], p[order], self._codes[order]
        sums = _OwnerSums(o, p, codes) if any(name in _SUMS for name in metrics) else None
        ranks = _WeightedRanks(o, p) if "spearman" in metrics else None
        bins = WeightedBins(o, p) if {"ece", "mce"} & set(metrics) else None
        for where, counts in self.draws():
            block: dict[str, Array] = {}
            if sums is not None:
                block |= sums(counts)
            if ranks is not None or bins is not None:
                weights = counts[:, codes]
                if ranks is not None:
                    block["spearman"] = ranks(weights)
                if bins is not None:
                    block |= bins(weights)
            for name in metrics:
                result[name][where] = block[name]
        return result

    def resample(self, statistic: Callable[[NDArray[np.int64]], float]) -> Array:
        """Any statistic of the drawn row positions (repeated as often as drawn) in each draw, shape (n,)."""
        values = np.full(self.n, np.nan)
        if self.n_owners < 2:
            return values
        rows_of = np.split(np.argsort(self._codes, kind="stable"), np.cumsum(np.bincount(self._codes))[:-1])
        for where, counts in self.draws():
            for draw, count in zip(range(where.start, where.stop), counts.astype(np.int64), strict=True):
                taken = np.repeat(np.arange(self.n_owners), count)
                values[draw] = statistic(np.concatenate([rows_of[owner] for owner in taken]))
        return values

    def interval(self, replicates: ArrayLike) -> tuple[float, float]:
        """:func:`percentile_interval` that covers this object's level with its owners."""
        return percentile_interval(replicates, expanded_level(self.level, np.bincount(self._codes)))

    def estimates(
        self, observed: ArrayLike, predicted: ArrayLike, metrics: Iterable[str] = tuple(REGRESSION_METRICS)
    ) -> dict[str, Estimate]:
        """Value and interval of each metric."""
        drawn = self.replicates(observed, predicted, metrics)
        return {
            name: Estimate(REGRESSION_METRICS[name](observed, predicted), *self.interval(values))
            for name, values in drawn.items()
        }

    def gain(self, observed: ArrayLike, a: ArrayLike, b: ArrayLike, metric: str = "rmse") -> Estimate:
        """Gain of predictions ``a`` over the reference ``b``, paired; see :func:`paired_gain`."""

        def compare(of_a: ArrayLike, of_b: ArrayLike) -> Array:
            of_a, of_b = np.asarray(of_a, dtype=np.float64), np.asarray(of_b, dtype=np.float64)
            if metric not in LOWER_IS_BETTER:
                return of_a - of_b
            return 1.0 - np.divide(of_a, of_b, out=np.full_like(of_b, np.nan), where=of_b > 0)

        drawn = compare(*(self.replicates(observed, x, [metric])[metric] for x in (a, b)))
        value = compare(*(REGRESSION_METRICS[metric](observed, x) for x in (a, b)))
        return Estimate(float(value), *self.interval(drawn))


def bootstrap_interval(
    observed: ArrayLike,
    predicted: ArrayLike,
    owners: ArrayLike,
    metric: str,
    n: int = N_BOOTSTRAP,
    seed: int = SEED,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Interval (low, high) of one metric over resampled owners; NaN with fewer than two owners."""
    bootstrap = OwnerBootstrap(owners, n, seed, level)
    return bootstrap.interval(bootstrap.replicates(observed, predicted, [metric])[metric])


def paired_gain(
    observed: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    owners: ArrayLike,
    metric: str = "rmse",
    n: int = N_BOOTSTRAP,
    seed: int = SEED,
    level: float = LEVEL,
) -> Estimate:
    """Gain of ``a`` over the reference ``b`` on the same draws of owners; positive: ``a`` is better.

    For errors (smaller is better) the relative gain ``1 - metric(a) / metric(b)``; for correlations and R2
    the difference ``metric(a) - metric(b)``, since their ratio means nothing near zero.
    """
    return OwnerBootstrap(owners, n, seed, level).gain(observed, a, b, metric)


class _OwnerSums:
    """RMSE, MAE, R2 and Pearson of weighted owners, from eight sums per owner."""

    def __init__(self, o: Array, p: Array, codes: NDArray[np.int64]) -> None:
        d = p - o
        # centred, so that the variances below are not small differences of large numbers
        o, p = o - o.mean(), p - p.mean()
        terms = (np.ones_like(o), d * d, np.abs(d), o, p, o * o, p * p, o * p)
        self._sums = np.stack([np.bincount(codes, weights=term) for term in terms], axis=1)

    def __call__(self, counts: Array) -> dict[str, Array]:
        n, squared, absolute, o, p, oo, pp, op = (counts @ self._sums).T
        o, p = o / n, p / n
        var_o, var_p, cov = oo / n - o * o, pp / n - p * p, op / n - o * p
        return {
            "rmse": np.sqrt(squared / n),
            "mae": absolute / n,
            "r2": 1.0 - squared / n / np.where(var_o > CONSTANT_VARIANCE, var_o, np.nan),
            "pearson": _correlation(cov, var_o, var_p, CONSTANT_VARIANCE),
        }


def _correlation(cov: Array, var_a: Array, var_b: Array, tiny: float) -> Array:
    defined = (var_a > tiny) & (var_b > tiny)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(defined, np.clip(cov / np.sqrt(var_a * var_b), -1.0, 1.0), np.nan)


class _WeightedRanks:
    """Spearman: Pearson of the mid-ranks (average ranks less one half, which changes nothing)."""

    def __init__(self, o: Array, p: Array) -> None:
        self._ties = Ties(o), Ties(p)
        self._values = o, p

    def __call__(self, weights: Array) -> Array:
        n = weights.sum(axis=1, keepdims=True)
        # the weighted mean of mid-ranks is always half the mass
        a, b = (ties.middle(weights) - n / 2 for ties in self._ties)
        weighted_a = weights * a
        cov = np.einsum("ij,ij->i", weighted_a, b)
        var_a = np.einsum("ij,ij->i", weighted_a, a)
        var_b = np.einsum("ij,ij->i", weights * b, b)
        # one drawn tie group leaves exactly 0; two give at least about n
        return _correlation(cov, var_a, var_b, 1e-6)
