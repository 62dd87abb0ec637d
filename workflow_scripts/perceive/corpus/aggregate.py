"""Make one label of several ratings, and measure each annotator's additive bias."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Path3 = tuple[str, str | None, str | None]
Value = float | Path3
Rating = tuple[str | None, Value]
"""Who rated (None: a rater without a name), and the rating: 0..1, or a path."""
Label = tuple[Value, int, float]
"""Value, number of raters, and spread."""
ROOT: Path3 = ("", None, None)
"""Above all paths; as a rating: paths that have no label in common. No item carries it."""

# Sums of integers do not depend on the order of their terms, so neither do the biases.
_UNIT = 1 << 40
_BIAS_DIGITS = 9
# Eigenvalues of the normal matrix below this share of the largest are zeros that rounding has moved.
_ZERO = 1e-10


def rating_order(rating: Rating) -> tuple[str, Any]:
    """Sort key of ratings: by annotator, those without a name first and by value."""
    name, value = rating
    return name or "", value if type(value) is float else [part or "" for part in value]  # type: ignore[union-attr]


# --------------------------------------------------------------------------- labels


def scale_label(values: Sequence[float]) -> Label:
    """Return the mean of the ratings of one item, their number, and their sample standard deviation.

    Parameters
    ----------
    values
        The ratings, at least one; corrected for bias they may leave 0..1, which the mean does not.

    Returns
    -------
    tuple
        Mean in 0..1, number of raters, and spread (NaN with one rater).
    """
    count = len(values)
    mean = math.fsum(values) / count
    spread = math.dist(values, [mean] * count) / math.sqrt(count - 1) if count > 1 else math.nan
    return mean if 0.0 <= mean <= 1.0 else float(mean > 0.5), count, spread


def path_label(paths: Sequence[Path3], item_id: str) -> Label:
    """Return the plurality path, the number of raters, and the share of raters with another core.

    The share is NaN with one rater. See `plurality_path`.
    """
    path = plurality_path(paths, item_id)
    return path, len(paths), core_spread(paths, path)


def core_spread(paths: Sequence[Path3], path: Path3) -> float:
    """Return the share of the paths whose core is not that of `path`; NaN with one rater."""
    count = len(paths)
    if count == 1:
        return math.nan
    core = path[0]
    return sum([other[0] != core for other in paths]) / count


def plurality_path(paths: Sequence[Path3], item_id: str) -> Path3:
    """Aggregate paths level by level: at each level the most frequent part below the part chosen above.

    The result is a path that a rater gave, or the beginning of one, so it is valid where theirs are. Of parts
    named equally often the one with the smallest sha256 of (item_id, part) is taken: a fair coin for each
    item, the same on every run, that favours no class over the corpus (the alphabet would). A level is left
    out when more of the raters that are still in agreement left it out than chose its most frequent part.

    Parameters
    ----------
    paths
        The ratings of one item, at least one, in any order.
    item_id
        Decides ties.
    """
    for path in paths:
        # What more than half of the raters gave wins at each level.
        if 2 * paths.count(path) > len(paths):
            return path
    chosen: list[str | None] = [None, None, None]
    for level in range(3):
        votes: dict[str | None, int] = {}
        for path in paths:
            votes[path[level]] = votes.get(path[level], 0) + 1
        most = max(votes.values())
        tied = [part for part, count in votes.items() if count == most and part is not None]
        if not tied:
            break
        winner = tied[0] if len(tied) == 1 else min(tied, key=lambda part: _coin(item_id, part))
        chosen[level] = winner
        paths = [path for path in paths if path[level] == winner]
    core, nuance, micro = chosen
    assert core is not None
    return core, nuance, micro


def common_ancestor(paths: Sequence[Path3]) -> Path3:
    """Return the deepest label that all paths lie at or below; `ROOT` where not even their cores agree.

    Parameters
    ----------
    paths
        At least one, in any order.
    """
    shared = paths[0]
    for path in paths[1:]:
        depth = next((level for level in range(3) if path[level] != shared[level]), 3)
        core, nuance, micro = [*shared[:depth], None, None, None][:3]
        if core is None:
            return ROOT
        shared = core, nuance, micro
    return shared


def _coin(item_id: str, part: str) -> bytes:
    # Neither holds the separator: control characters are rejected.
    return hashlib.sha256(f"{item_id}\x1f{part}".encode()).digest()


# --------------------------------------------------------------------------- bias


@dataclass(frozen=True)
class Bias:
    """The additive biases of the annotators on one scale.

    Attributes
    ----------
    of
        Annotator to bias, on 0..1; to be subtracted from the annotator's ratings.
    ratings
        Annotator to the number of ratings behind it.
    items
        Number of items with several named raters.
    variance, error_variance
        Estimated variance between the annotators' biases, and of what neither item nor annotator explains.
    """

    of: Mapping[str, float]
    ratings: Mapping[str, int]
    items: int
    variance: float
    error_variance: float

    def report(self) -> dict[str, object]:
        """Return the biases for a report: annotators are people, so they are numbered, not named.

        The number is the place of the annotator's id in the sorted list of the ids.
        """
        return {
            "items": self.items,
            "variance": self.variance,
            "error_variance": self.error_variance,
            "annotators": [
                {"annotator": number, "ratings": self.ratings[name], "bias": self.of[name]}
                for number, name in enumerate(sorted(self.of), 1)
            ],
        }


class BiasFit:
    """Least-squares fit of rating = item + annotator + error on one scale, in memory that items do not enter.

    The item effects are eliminated (the within transformation), so what is kept is the normal matrix of the
    annotators: the square of their number, and the solution takes its cube (a thousand take seconds). The
    biases are shrunk to zero as the best linear unbiased prediction of a random annotator effect has it
    (Henderson 1975; Robinson 1991, "That BLUP is a good thing"): the ridge is the ratio of the variances of
    error and annotator, which Henderson's method 3 estimates (Searle, Casella and McCulloch 1992, section
    5.5). An annotator with few items is thereby shrunk most, and where the annotators do not differ by more
    than chance, all biases are zero. Within each group of annotators that shared items link, the sum of the
    biases, weighted by the number of ratings, is zero: the mean of all ratings stays what it was; groups
    without any link cannot be compared.

    Items may be added in any order: the result is the same to the last bit.
    """

    def __init__(self) -> None:
        self._items = 0
        self._ratings: Counter[str] = Counter()
        # By number of raters, since the share of an item in the sums is 1/n, which is no integer.
        self._together: Counter[tuple[int, str, str]] = Counter()
        self._deviations: defaultdict[tuple[int, str], int] = defaultdict(int)
        self._squares: Counter[int] = Counter()

    def add(self, ratings: Sequence[Rating]) -> None:
        """Add the ratings of one item (0..1); those of raters without a name are left out."""
        named = [(name, round(value * _UNIT)) for name, value in ratings if name is not None]  # type: ignore
        count = len(named)
        if count < 2:
            return
        self._items += 1
        total = sum([value for _, value in named])
        squares = 0
        for name, value in named:
            self._ratings[name] += 1
            self._deviations[count, name] += count * value - total
            squares += value * value
            for other, _ in named:
                self._together[count, name, other] += 1
        self._squares[count] += count * squares - total * total

    def solve(self) -> Bias:
        """Return the biases, rounded to 9 digits."""
        import numpy as np

        names = sorted(self._ratings)
        place = {name: number for number, name in enumerate(names)}
        matrix = np.zeros((len(names), len(names)))
        for (count, name, other), times in sorted(self._together.items()):
            matrix[place[name], place[other]] -= times / count
        ratings = np.array([self._ratings[name] for name in names], dtype=np.float64)
        matrix[np.diag_indices_from(matrix)] += ratings
        # Deviations from the mean of the item, summed by annotator; and their squares.
        deviations = np.zeros(len(names))
        for (count, name), total in sorted(self._deviations.items()):
            deviations[place[name]] += total / (count * _UNIT)
        squares = math.fsum(total / (count * _UNIT**2) for count, total in sorted(self._squares.items()))
        if not names:
            return Bias({}, {}, 0, 0.0, 0.0)

        eigenvalues, vectors = np.linalg.eigh(matrix)
        kept = eigenvalues > _ZERO * max(1.0, eigenvalues[-1])
        projected = (vectors.T @ deviations)[kept]
        rank = int(kept.sum())
        explained = float((projected**2 / eigenvalues[kept]).sum())
        freedom = int(ratings.sum()) - self._items - rank
        error = max(0.0, squares - explained) / freedom if freedom > 0 else math.nan
        variance = max(0.0, (explained - rank * error) / np.trace(matrix)) if freedom > 0 else 0.0
        biases = np.zeros(len(names))
        if variance > 0:
            biases = vectors[:, kept] @ (projected / (eigenvalues[kept] + error / variance))
            biases -= _level(matrix, ratings, biases)
        rounded = [round(float(bias), _BIAS_DIGITS) + 0.0 for bias in biases]
        return Bias(
            of=dict(zip(names, rounded, strict=True)),
            ratings={name: self._ratings[name] for name in names},
            items=self._items,
            variance=round(float(variance), 12),
            error_variance=round(float(error), 12) if freedom > 0 else 0.0,
        )


def _level(
    matrix: npt.NDArray[np.float64], ratings: npt.NDArray[np.float64], biases: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The weighted mean of the biases of each group of linked annotators, for each annotator."""
    import numpy as np
    from scipy.sparse.csgraph import connected_components

    _, group = connected_components(matrix != 0, directed=False)
    means = np.bincount(group, weights=ratings * biases) / np.bincount(group, weights=ratings)
    return means[group]
