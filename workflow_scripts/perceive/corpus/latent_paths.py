"""What ratings tell about the true path of an item: a latent class model of the annotators of a hierarchy.

After Dawid and Skene (Applied Statistics 28, 1979), at every level below each parent, all fitted together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

MAX_ITEMS = 50_000
# Raters with fewer ratings, and those beyond the first so many, share one confusion matrix.
MIN_RATINGS_FOR_CONFUSION = 200
MAX_CONFUSIONS = 20
# Pseudo-ratings that pull a class's errors towards the mean accuracy of the level, a rater's towards those of
# all raters, and what is named under wrong parents towards what all ratings name.
PULL_TO_LEVEL, PULL_TO_ALL, PULL_TO_RATINGS = 4.0, 100.0, 10.0
INITIAL_ACCURACY = 0.8
MAX_STEPS, TOLERANCE = 500, 1e-4


class NotComputableError(ValueError):
    """A figure cannot be computed from these ratings; the message is the reason."""


@dataclass(frozen=True)
class PathLevel:
    """One level of coded paths.

    Attributes
    ----------
    code : int array (N,)
        The class of each row: its path down to this level; -1 where the path stops earlier.
    parent : int array (C,)
        Class of the level above of each class, ascending (all 0 at the first level).
    place : int array (C,)
        Number of each class among its siblings, from 0.
    """

    code: Codes
    parent: Codes
    place: Codes


def path_levels(frame: pd.DataFrame, levels: tuple[str, ...]) -> list[PathLevel]:
    """Code paths level by level; a part below a missing one counts as missing.

    Parameters
    ----------
    frame : DataFrame
        One row a path, one column a level.
    levels : tuple of str
        The columns, from the top.
    """
    above = np.zeros(len(frame), dtype=np.int64)
    found = []
    for level in levels:
        part, names = pd.factorize(frame[level], sort=True)
        key = np.where((part < 0) | (above < 0), -1, above * len(names) + part)
        classes, code = np.unique(key, return_inverse=True)
        if classes.size and classes[0] < 0:
            classes, code = classes[1:], code - 1
        parent = classes // max(len(names), 1)
        found.append(PathLevel(code, parent, np.arange(len(parent)) - np.searchsorted(parent, parent)))
        above = code
    return found


@dataclass
class _Level:
    """Ratings and parameters of one level. A cell is a pattern of ratings under one parent.

    K is the largest number of siblings, G the number of confusion matrices, P that of parents. Classes are
    named by their place among the siblings.
    """

    siblings: Codes  # (P,)
    pattern: Codes  # of each cell
    parent: Codes  # of each cell
    key: Codes  # of each cell: pattern * P + parent, ascending
    start: Codes  # first rating of each cell
    cell: Codes  # of each rating
    group: Codes  # of each rating: its confusion matrix
    place: Codes  # of each rating: the class it names
    above: Codes  # of each cell: the cell of the level above that it hangs from
    above_place: Codes  # of each cell: its parent's place there
    confusion: Array  # (G, P, true K, named K)
    prior: Array  # (P, K)
    named: Array  # (P, K): what all ratings name
    stray: Array  # (P, K): what a rating names under a parent that is not the true one
    posterior: Array = field(default_factory=lambda: np.zeros((0, 0)))  # (cells, K), given the parent is true
    weight: Array = field(default_factory=lambda: np.zeros(0))  # of each cell: P(parent is true)
    evidence: Array = field(default_factory=lambda: np.zeros(0))  # of each cell: log odds for its parent

    @property
    def exists(self) -> NDArray[np.bool_]:
        """(P, K): which places have a class."""
        return np.arange(self.prior.shape[1]) < self.siblings[:, None]


@dataclass(frozen=True)
class PathPosterior:
    """What the ratings tell about the true path of each item; made by :func:`fit_paths`."""

    levels: tuple[str, ...]
    item_ids: NDArray[Any]
    n_items: int
    n_ratings: Codes
    pattern: Codes
    labels: list[Codes]
    parents: list[Codes]
    fitted: list[_Level]
    steps: int

    @property
    def accuracy(self) -> dict[str, float]:
        """Share of ratings that name the true class where they named the true parent, per level."""
        return {
            name: _accuracy(level, _counts(level, self._multiplicity))
            for name, level in zip(self.levels, self.fitted, strict=True)
        }

    @property
    def _multiplicity(self) -> Array:
        return np.bincount(self.pattern).astype(np.float64)

    def draw(self, rng: np.random.Generator) -> list[Codes]:
        """True paths drawn from the posterior: for each level the class of every item.

        Below a class without children stands a negative number, which equals no label.
        """
        drawn, parent = [], np.zeros(len(self.item_ids), dtype=np.int64)
        for level, parents in zip(self.fitted, self.parents, strict=True):
            first = np.searchsorted(parents, np.arange(len(level.siblings)))
            known = np.maximum(parent, 0)
            key = self.pattern * len(level.siblings) + known
            cell = np.minimum(np.searchsorted(level.key, key), len(level.key) - 1)
            rated = (level.key[cell] == key)[:, None]
            # Without a rating under the drawn parent only the prior speaks.
            chances = np.where(rated, level.posterior[cell], level.prior[known])
            chosen = (rng.random(len(key))[:, None] > chances.cumsum(axis=1)).sum(axis=1)
            chosen = np.minimum(chosen, level.siblings[known] - 1)
            below = np.where(level.siblings[known] > 0, first[known] + chosen, -2 - known)
            parent = np.where(parent < 0, parent, below)
            drawn.append(parent)
        return drawn


def fit_paths(
    ratings: pd.DataFrame, labels: pd.DataFrame, levels: tuple[str, ...], *, seed: int = 137
) -> PathPosterior:
    """Estimate, from the ratings alone, each item's true path and how the raters err.

    A latent class model with one confusion matrix a rater (Dawid and Skene, Applied Statistics 28, 1979), at
    every level below each parent, fitted at all levels together by expectation maximisation. A rating under
    the true parent errs by that parent's confusion matrix; one under a wrong parent tells nothing about the
    levels below, and names a class there by a distribution of its own. How deep a rating goes is taken as
    independent of the truth. Raters without an id, or with few ratings, share one matrix. All matrices are
    pulled a little towards the mean accuracy of the level, which decides what the ratings leave open: with
    two ratings an item, errors that differ by class or by rater are not told apart for certain.

    Beyond ``MAX_ITEMS`` items a random sample of that size is used.

    Parameters
    ----------
    ratings : DataFrame
        ``item_id, rater`` and a column for each level; one row a rating.
    labels : DataFrame
        ``item_id`` and a column for each level: the paths that a model is scored against.
    levels : tuple of str
        The columns of the levels, from the top.
    seed : int
        Of the sample.

    Raises
    ------
    NotComputableError
        If no labelled item has two ratings.
    """
    rng = np.random.default_rng(seed)
    columns = list(levels)
    labels = labels[labels[levels[0]].notna()].set_index("item_id")[columns]
    ratings = ratings[ratings[levels[0]].notna()]
    item, ids = pd.factorize(ratings["item_id"], sort=True)
    used = np.flatnonzero(labels.index.get_indexer(ids) >= 0)
    n_items = len(used)
    if n_items > MAX_ITEMS:
        used = np.sort(rng.choice(used, MAX_ITEMS, replace=False))
    renumbered = np.full(len(ids), -1)
    renumbered[used] = np.arange(len(used))
    item, ids = renumbered[item], ids[used]
    kept = np.flatnonzero(item >= 0)
    order = kept[np.argsort(item[kept], kind="stable")]
    ratings, item = ratings.iloc[order], item[order]
    if not len(item) or np.bincount(item).max() < 2:
        raise NotComputableError("no item has two ratings")
    paths = pd.concat([ratings[columns], labels.loc[ids]], ignore_index=True)
    coded = path_levels(paths, levels)
    group = _groups(ratings["rater"])
    first, pattern = _patterns(item, [level.code[: len(item)] for level in coded], group, rng)
    number_of = np.full(len(ids), -1)
    number_of[first] = np.arange(len(first))
    chosen = number_of[item] >= 0
    owner = number_of[item[chosen]]
    by_pattern = np.argsort(owner, kind="stable")
    rows = np.flatnonzero(chosen)[by_pattern]

    fitted: list[_Level] = []
    for level in coded:
        if not (level.code[rows] >= 0).any():
            break
        above = (coded[len(fitted) - 1], fitted[-1]) if fitted else None
        fitted.append(_start(owner[by_pattern], level, rows, group, above))
    coded = coded[: len(fitted)]
    multiplicity = np.bincount(pattern).astype(np.float64)
    steps = 0
    for steps in range(1, MAX_STEPS + 1):  # noqa: B007
        _expect(fitted)
        if _maximise(fitted, multiplicity) < TOLERANCE:
            break
    _expect(fitted)
    return PathPosterior(
        levels[: len(fitted)],
        np.asarray(ids, dtype=object),
        n_items,
        np.bincount(item),
        pattern,
        [level.code[len(item) :] for level in coded],
        [level.parent for level in coded],
        fitted,
        steps,
    )


def _groups(raters: pd.Series) -> Codes:
    """Number of the confusion matrix of each rating: 0 is shared, the busiest raters have their own."""
    code, _ = pd.factorize(raters)
    counts = np.bincount(code[code >= 0])
    busiest = np.argsort(-counts, kind="stable")[:MAX_CONFUSIONS]
    own = np.zeros(len(counts) + 1, dtype=np.int64)
    busiest = busiest[counts[busiest] >= MIN_RATINGS_FOR_CONFUSION]
    own[busiest] = np.arange(1, len(busiest) + 1)
    return own[code]


def _patterns(item: Codes, codes: list[Codes], group: Codes, rng: np.random.Generator) -> tuple[Codes, Codes]:
    """First item of each distinct set of ratings, and the number of each item's set.

    Sets are told apart by a sum of random 64-bit numbers, one for each distinct rating.
    """
    rating = group
    for code in codes:
        _, rating = np.unique(rating * (code.max() + 2) + code + 1, return_inverse=True)
    marks = rng.integers(0, 2**64, size=int(rating.max()) + 1, dtype=np.uint64)
    starts = np.flatnonzero(np.r_[True, item[1:] != item[:-1]])
    sums = np.add.reduceat(marks[rating], starts)
    _, first, pattern = np.unique(sums, return_index=True, return_inverse=True)
    return first, pattern


def _start(
    owner: Codes, level: PathLevel, rows: Codes, group: Codes, above: tuple[PathLevel, _Level] | None
) -> _Level:
    """The tables of one level, with every rater right in the share ``INITIAL_ACCURACY``."""
    code = level.code[rows]
    has = code >= 0
    n_groups = int(group.max()) + 1
    owner, group, code = owner[has], group[rows][has], code[has]
    n_parents = len(above[0].parent) if above else 1
    n_places = int(level.place.max()) + 1
    siblings = np.bincount(level.parent, minlength=n_parents)
    of_rating = owner * n_parents + level.parent[code]
    order = np.argsort(of_rating, kind="stable")
    key, start = np.unique(of_rating[order], return_index=True)
    pattern, parent = key // n_parents, key % n_parents
    place = level.place[code[order]]
    cell = np.repeat(np.arange(len(key)), np.diff(np.r_[start, len(order)]))
    up = up_place = np.zeros(0, dtype=np.int64)
    if above:
        paths, top = above
        up = np.searchsorted(top.key, pattern * len(top.siblings) + paths.parent[parent])
        up_place = paths.place[parent]
    exists = np.arange(n_places) < siblings[:, None]
    named = np.bincount(parent[cell] * n_places + place, minlength=n_parents * n_places) + 1.0
    prior = _shares(np.where(exists, named.reshape(n_parents, n_places), 0.0))
    found = _Level(
        siblings, pattern, parent, key, start, cell, group[order], place, up, up_place,
        np.zeros(0), prior, prior, prior,
    )  # fmt: skip
    found.confusion = np.repeat(_around(found, INITIAL_ACCURACY)[None], n_groups, axis=0)
    return found


def _shares(table: Array) -> Array:
    """Rows scaled to the sum 1; rows of zeros stay."""
    return table / np.maximum(table.sum(axis=-1, keepdims=True), 1e-300)


def _around(level: _Level, accuracy: float) -> Array:
    """Confusion matrices (P, K, K) of one accuracy, their errors spread evenly over the siblings."""
    n_places = level.prior.shape[1]
    siblings = level.siblings[:, None, None]
    right = np.where(siblings == 1, 1.0, accuracy)
    even = np.where(np.eye(n_places, dtype=bool), right, (1.0 - right) / np.maximum(siblings - 1, 1))
    return _existing(level, even)


def _existing(level: _Level, confusion: Array) -> Array:
    """The matrices with a 1 where there is no class: its logarithm is 0, and the prior rules it out."""
    both = level.exists[:, None, :] & level.exists[:, :, None]
    return np.where(both, confusion, 1.0)


def _expect(fitted: list[_Level]) -> None:
    """E-step. Upwards: how much the ratings below a class speak for it. Downwards: what is then true."""
    below: _Level | None = None
    with np.errstate(divide="ignore"):
        for level in reversed(fitted):
            named = np.log(level.confusion).transpose(0, 1, 3, 2)
            of_rating = named[level.group, level.parent[level.cell], level.place]
            logs = np.add.reduceat(of_rating, level.start, axis=0) + np.log(level.prior)[level.parent]
            if below is not None:
                logs[below.above, below.above_place] += below.evidence
            highest = logs.max(axis=1, keepdims=True)
            chances = np.exp(logs - highest)
            total = chances.sum(axis=1, keepdims=True)
            level.posterior = chances / total
            astray = np.log(level.stray)[level.parent[level.cell], level.place]
            level.evidence = (np.log(total) + highest)[:, 0] - np.add.reduceat(astray, level.start)
            below = level
    above: _Level | None = None
    for level in fitted:
        level.weight = (
            np.ones(len(level.key))
            if above is None
            else above.weight[level.above] * above.posterior[level.above, level.above_place]
        )
        above = level


def _counts(level: _Level, multiplicity: Array) -> Array:
    """Expected number of ratings (G, P, true K, named K) under true parents."""
    n_groups, n_parents, n_places, _ = level.confusion.shape
    weights = level.posterior * (level.weight * multiplicity[level.pattern])[:, None]
    key = (level.group * n_parents + level.parent[level.cell]) * n_places + level.place
    size = n_groups * n_parents * n_places
    tables = [np.bincount(key, weights[level.cell, true], minlength=size) for true in range(n_places)]
    return np.stack([table.reshape(n_groups, n_parents, n_places) for table in tables], axis=2)


def _accuracy(level: _Level, counts: Array) -> float:
    """Share of right ratings where there is something to be wrong about."""
    pooled = counts.sum(axis=0)[level.siblings > 1]
    return float((np.trace(pooled, axis1=1, axis2=2).sum() + INITIAL_ACCURACY) / (pooled.sum() + 1.0))


def _maximise(fitted: list[_Level], multiplicity: Array) -> float:
    """M-step; returns the largest change of a confusion matrix."""
    change = 0.0
    for level in fitted:
        n_parents, n_places = level.prior.shape
        of_cell = level.weight * multiplicity[level.pattern]
        items = np.stack(
            [
                np.bincount(level.parent, level.posterior[:, place] * of_cell, minlength=n_parents)
                for place in range(n_places)
            ],
            axis=1,
        )
        level.prior = _shares(items + level.exists / n_places)
        wrong = ((1.0 - level.weight) * multiplicity[level.pattern])[level.cell]
        key = level.parent[level.cell] * n_places + level.place
        stray = np.bincount(key, wrong, minlength=n_parents * n_places).reshape(n_parents, n_places)
        level.stray = _shares(stray + PULL_TO_RATINGS * level.named)

        counts = _counts(level, multiplicity)
        pooled = counts.sum(axis=0) + PULL_TO_LEVEL * _around(level, _accuracy(level, counts))
        # Places without a class hold ones there: they must not count into the sums.
        pooled = _shares(np.where(level.exists[:, None, :], pooled, 0.0))
        updated = pooled[None]
        if len(counts) > 1:
            updated = _shares(counts + PULL_TO_ALL * pooled)
        updated = _existing(level, updated)
        change = max(change, float(np.abs(updated - level.confusion).max()))
        level.confusion = updated
    return change
