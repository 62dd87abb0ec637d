"""Coefficients of agreement, from one row a rating.

Cohen's kappa is scikit-learn's. The others are a few sums over items, written out: the libraries that have
them are slow, want equal numbers of ratings, or are under the GPL.

Every function takes arrays of shape (N,), one entry a rating: ``value`` (float) or ``code`` (int, the class,
from 0), ``item`` and ``rater`` (ints from 0; rater -1: unknown). :class:`NotComputableError` tells why there
is no coefficient.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.metrics import cohen_kappa_score

from perceive.corpus.latent_paths import Array, Codes, NotComputableError

# Two raters are compared on no fewer common items, and no more pairs than this, those with the most.
MIN_COMMON_ITEMS = 10
MAX_PAIRS = 100
# The two-way ICCs take the raters who rated this share of the items, on the items that all of them rated.
CROSSED = 0.9
# Below this a variance (0..1 squared) is rounding.
_NO_VARIANCE = 1e-13


# --------------------------------------------------------------------------- scales


def icc_one_way(value: Array, item: Codes) -> tuple[float, float]:
    """ICC(1) and ICC(k): one-way random effects, so that no rater needs an identity.

    With unequal numbers of ratings the mean square between items has the coefficient n0 (Searle, Linear
    Models, 1971), which also stands for k. Shrout and Fleiss (Psychological Bulletin 86, 1979); McGraw and
    Wong (Psychological Methods 1, 1996).

    Parameters
    ----------
    value : float array of shape (N,)
        One row a rating.
    item : int array of shape (N,)
        The number of each rating's item, from 0. Items with one rating count between items only.

    Raises
    ------
    NotComputableError
        If there are fewer than two items, or no variance.
    """
    counts = np.bincount(item)
    counts = counts[counts > 0]
    if len(counts) < 2:
        raise NotComputableError("fewer than two items")
    squares = squares_within(value, item)
    within = float(squares.sum()) / (len(value) - len(counts))
    total = float(((value - value.mean()) ** 2).sum())
    between = (total - float(squares.sum())) / (len(counts) - 1)
    n0 = (len(value) - float((counts.astype(np.float64) ** 2).sum()) / len(value)) / (len(counts) - 1)
    if total <= _NO_VARIANCE * len(value):
        raise NotComputableError("all ratings are equal")
    # Less is rounding: equal means would give a difference of either sign, and ICC(k) any number.
    if between <= 1e-9 * total:
        raise NotComputableError("the items' means do not differ")
    return (between - within) / (between + (n0 - 1.0) * within), (between - within) / between


def icc_two_way(table: Array) -> tuple[float, float, float, float]:
    """ICC(A,1), ICC(A,k), ICC(C,1), ICC(C,k): absolute agreement, and consistency, of the same raters.

    Shrout and Fleiss (1979) call them ICC(2,1), ICC(2,k), ICC(3,1) and ICC(3,k).

    Parameters
    ----------
    table : float array of shape (items, raters)
        Without gaps.

    Raises
    ------
    NotComputableError
        If there are fewer than two items or raters, or no variance between items.
    """
    n, k = table.shape
    if n < 2 or k < 2:
        raise NotComputableError("fewer than two items or raters")
    mean, of_items, of_raters = table.mean(), table.mean(axis=1), table.mean(axis=0)
    rows = k * float(((of_items - mean) ** 2).sum()) / (n - 1)
    columns = n * float(((of_raters - mean) ** 2).sum()) / (k - 1)
    rest = table - of_items[:, None] - of_raters + mean
    error = float((rest**2).sum()) / ((n - 1) * (k - 1))
    if rows <= _NO_VARIANCE:
        raise NotComputableError("the items' means do not differ")
    return (
        (rows - error) / (rows + (k - 1) * error + k * (columns - error) / n),
        (rows - error) / (rows + (columns - error) / n),
        (rows - error) / (rows + (k - 1) * error),
        (rows - error) / rows,
    )


def krippendorff_interval(value: Array, item: Codes) -> float:
    """Krippendorff's alpha for interval data; any number of ratings an item.

    ``1 - observed / expected`` squared differences of pairs (Krippendorff, Computing Krippendorff's
    Alpha-Reliability, 2011), as variances. Items with one rating are not pairable and do not count.

    Parameters
    ----------
    value, item
        As for :func:`icc_one_way`.

    Raises
    ------
    NotComputableError
        If all pairable ratings are equal.
    """
    counts = np.bincount(item)
    pairable = counts[item] > 1
    value, item, counts = value[pairable], item[pairable], np.where(counts > 1, counts, 0)
    total = float(((value - value.mean()) ** 2).sum())
    if total <= _NO_VARIANCE * len(value):
        raise NotComputableError("all ratings are equal")
    observed = float((counts * squares_within(value, item, len(counts)) / np.maximum(counts - 1, 1)).sum())
    return 1.0 - observed / len(value) / (total / (len(value) - 1))


def squares_within(value: Array, item: Codes, n_items: int = 0) -> Array:
    """Sum of the squared deviations from the mean, of each item."""
    counts = np.maximum(np.bincount(item, minlength=n_items), 1)
    means = np.bincount(item, value, minlength=n_items) / counts
    return np.asarray(np.bincount(item, (value - means[item]) ** 2, minlength=n_items), dtype=np.float64)


def crossed_table(value: Array, item: Codes, rater: Codes) -> Array:
    """The ratings of the items that all busy raters rated, as a table (items, raters)."""
    if rater.max() < 0:
        raise NotComputableError("the ratings have no rater ids")
    per_rater = np.bincount(rater[rater >= 0])
    busy = np.flatnonzero(per_rater >= CROSSED * (np.bincount(item) > 0).sum())
    if len(busy) < 2:
        raise NotComputableError(f"fewer than two raters rated {CROSSED:.0%} of the items")
    place = np.full(len(per_rater) + 1, -1)
    place[busy] = np.arange(len(busy))
    rows = place[rater] >= 0
    table = np.full((int(item.max()) + 1, len(busy)), np.nan)
    table[item[rows], place[rater[rows]]] = value[rows]
    return table[np.isfinite(table).all(axis=1)]


# --------------------------------------------------------------------------- classes


def cohen_kappas(code: Codes, item: Codes, rater: Codes) -> list[tuple[int, int, int, float]]:
    """Cohen's kappa (Educational and Psychological Measurement 20, 1960) of each pair of raters.

    Parameters
    ----------
    code, item, rater : int arrays of shape (N,)
        Class, item and rater of each rating; rater -1: unknown, left out.

    Returns
    -------
    list of (rater, rater, common items, kappa)
        Pairs with at least ``MIN_COMMON_ITEMS`` common items, the ``MAX_PAIRS`` with the most; kappa is NaN
        where both raters named one and the same class only.

    Raises
    ------
    NotComputableError
        If there is no such pair.
    """
    known = rater >= 0
    if not known.any():
        raise NotComputableError("the ratings have no rater ids")
    order = np.flatnonzero(known)[np.lexsort((item[known], rater[known]))]
    code, item, rater = code[order], item[order], rater[order]
    design = sparse.csr_matrix((np.ones(len(item), dtype=np.int64), (item, rater)))
    common = sparse.triu(design.T @ design, k=1).tocoo()
    enough = np.flatnonzero(common.data >= MIN_COMMON_ITEMS)
    if not enough.size:
        raise NotComputableError(f"no two raters rated the same {MIN_COMMON_ITEMS} items")
    most = np.lexsort((common.col[enough], common.row[enough], -common.data[enough]))[:MAX_PAIRS]
    bounds = np.searchsorted(rater, np.arange(rater[-1] + 2))
    found = []
    for pair in enough[most]:
        a, b = int(common.row[pair]), int(common.col[pair])
        first, second = slice(bounds[a], bounds[a + 1]), slice(bounds[b], bounds[b + 1])
        shared, left, right = np.intersect1d(item[first], item[second], True, return_indices=True)
        kappa = cohen_kappa_score(code[first][left], code[second][right], replace_undefined_by=np.nan)
        found.append((a, b, len(shared), float(kappa)))
    return found


def fleiss_kappa(code: Codes, item: Codes) -> float:
    """Fleiss' kappa (Psychological Bulletin 76, 1971); items with one rating do not count.

    With unequal numbers of ratings both the agreement and the shares of the classes are means over items
    (Gwet, Handbook of Inter-Rater Reliability, 2014); with equal numbers that is Fleiss' own formula.

    Parameters
    ----------
    code, item : int arrays of shape (N,)
        Class and item of each rating.

    Raises
    ------
    NotComputableError
        If all ratings are equal.
    """
    counts, cell_item, cell_code, votes = _votes(code, item)
    of_item = counts[cell_item]
    n_items = int((counts > 1).sum())
    agreement = float((votes * (votes - 1.0) / (of_item * (of_item - 1.0))).sum()) / n_items
    shares = np.bincount(cell_code, votes / of_item) / n_items
    chance = float((shares**2).sum())
    if chance >= 1.0 - _NO_VARIANCE:
        raise NotComputableError("all ratings are equal")
    return (agreement - chance) / (1.0 - chance)


def krippendorff_nominal(code: Codes, item: Codes) -> float:
    """Krippendorff's alpha for classes; any number of ratings an item, those with one do not count.

    From the sums of the coincidence matrix (Krippendorff 2011).

    Parameters
    ----------
    code, item
        As for :func:`fleiss_kappa`.

    Raises
    ------
    NotComputableError
        If all pairable ratings are equal.
    """
    counts, cell_item, cell_code, votes = _votes(code, item)
    of_item = counts[cell_item]
    total = float(votes.sum())
    equal = float((votes * (votes - 1.0) / (of_item - 1.0)).sum())
    of_class = np.bincount(cell_code, votes)
    expected = float((of_class * (of_class - 1.0)).sum()) / (total - 1.0)
    if expected >= total * (1.0 - _NO_VARIANCE):
        raise NotComputableError("all ratings are equal")
    return 1.0 - (total - equal) / (total - expected)


def _votes(code: Codes, item: Codes) -> tuple[Codes, Codes, Codes, Array]:
    """Ratings of each item; and of each (item, class) of the items with two or more: item, class, votes."""
    counts = np.bincount(item)
    pairable = counts[item] > 1
    n_classes = int(code.max()) + 1
    cells, votes = np.unique(item[pairable] * n_classes + code[pairable], return_counts=True)
    return counts, cells // n_classes, cells % n_classes, votes.astype(np.float64)


def alpha_interval(
    value: Array | Codes, item: Codes, *, nominal: bool, seed: int, n: int = 400, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of Krippendorff's alpha over draws of the items with replacement.

    An item counts as often as it is drawn, so that each draw is a weighted alpha of a few sums per item.

    Parameters
    ----------
    value : array of shape (N,)
        Ratings; codes of classes where ``nominal``.
    item : array of shape (N,)
        The number of each rating's item.
    nominal : bool
        Differences count 0 or 1, not squared.
    n : int
        Number of draws.

    Returns
    -------
    tuple of float
        NaN where no draw has an alpha (all ratings alike, or no item with two).

    References
    ----------
    Krippendorff, Content Analysis, 4th ed. 2019, chapter 12; Efron and Tibshirani 1993 for the percentiles.
    """
    sizes = np.bincount(item)
    paired = sizes >= 2
    rows = paired[item]
    number = np.cumsum(paired) - 1
    unit, size = number[item[rows]], sizes[paired].astype(np.float64)
    units = len(size)
    if not units:
        return np.nan, np.nan
    if nominal:
        classes = np.unique(np.asarray(value)[rows], return_inverse=True)[1].reshape(-1)
        votes = sparse.csr_array((np.ones(len(unit)), (unit, classes)), shape=(units, int(classes.max()) + 1))
        within = size**2 - np.asarray(votes.multiply(votes).sum(axis=1)).reshape(-1)
    else:
        ratings = np.asarray(value, dtype=np.float64)[rows]
        ratings = ratings - ratings.mean()
        first = np.bincount(unit, weights=ratings, minlength=units)
        second = np.bincount(unit, weights=ratings**2, minlength=units)
        within = 2 * (size * second - first**2)
    within = within / (size - 1)
    rng = np.random.default_rng(seed)
    alphas = np.full(n, np.nan)
    for draw in range(n):
        weights = np.bincount(rng.integers(units, size=units), minlength=units).astype(np.float64)
        total = weights @ size
        if nominal:
            expected = total**2 - np.sum((votes.T @ weights) ** 2)
        else:
            expected = 2 * (total * (weights @ second) - (weights @ first) ** 2)
        if expected > 0:
            alphas[draw] = 1 - (total - 1) * (weights @ within) / expected
    known = alphas[~np.isnan(alphas)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
