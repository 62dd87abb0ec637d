"""Calibration of a hierarchy's probabilities, level by level, that keeps the levels consistent.

What is calibrated is not p(nuance) but p(nuance | core): the joint probabilities are then products again, so
that each level's sum to one and add up to those of the level above, whatever the parameters. The likelihood
of a path is a product too, so each level is fitted by itself, on the rows labelled there, among the children
of the label above. With ``p`` the joint probabilities of a level (labels j below parent k)::

    c_j = (p_j + e) / sum_i (p_i + e)        over the siblings i of j
    d_j = c_j ^ slope * exp(intercept_j)
    calibrated_j = calibrated_k * d_j / sum_i d_i

At the first level all labels are siblings and their parent has probability one. ``slope`` is one over the
temperature. Everything is elementwise but the sums over siblings and their spread, which are products with
the 0/1 matrix of parents: few operations for an exported graph. The bounds keep every sum far above the
smallest float32, so no maximum need be subtracted.

Two methods are tried at every level: temperature scaling (one slope; Guo et al. 2017), and Platt scaling with
one slope and an intercept a label (bias-corrected temperature scaling, Alexandari et al. 2020). A slope a
label (vector scaling) is no choice: it needs logits, whose common offset a blend of probabilities does not
keep. Temperature stands unless Platt's held-out log loss, summed over folds of the owners, is lower by more
than one standard error of that gain (over owners): the burden of proof is on the method that can change
answers. Temperature keeps the order of siblings, and so every answer of
:func:`perceive.evaluation.hierarchy.decode`.

References
----------
Platt, Probabilistic outputs for support vector machines, 1999.
Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML 2017.
Alexandari, Kundaje and Shrikumar, Maximum likelihood with bias-corrected calibration is hard-to-beat at label
shift adaptation, ICML 2020.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

from perceive.paths import Codes, checked, encode, parents

if TYPE_CHECKING:
    from perceive.taxonomy import Taxonomy

Array = NDArray[np.float64]
Method = Literal["temperature", "platt"]

SMALLEST = 1e-12
"""``e`` above. Where a parent is impossible, its children become equally probable, instead of 0 / 0."""
SLOPES = (0.1, 5.0)
"""Temperatures from ten down to a fifth."""
LARGEST_INTERCEPT = 3.0
FOLDS = 5
# Standard deviations of normal priors around the identity: next to nothing against hundreds of rows, and
# what keeps a dozen rows, which a level may have, from extreme parameters.
_SLOPE_SD, _INTERCEPT_SD = 0.5, 0.5


@dataclass(frozen=True)
class LevelCalibration:
    """The calibration of one level.

    Attributes
    ----------
    method : 'temperature' or 'platt'
    slope : float
        Exactly a float32.
    intercepts : ndarray of shape (labels,), float32
        Zeros for a temperature.
    parents : ndarray of shape (labels,), int64
        Position of each label's parent in the level above; zeros at the first level.
    rows : int
        Labelled rows of val with a choice among siblings.
    log_loss : dict of str to float
        Mean held-out log loss by method, and that of the probabilities as they came (``raw``); empty where
        there are fewer than two owners.
    """

    method: Method
    slope: float
    intercepts: NDArray[np.float32]
    parents: Codes
    rows: int
    log_loss: dict[str, float]

    def __post_init__(self) -> None:
        if self.method not in ("temperature", "platt"):
            raise ValueError(f"the calibration's method is {self.method!r}; allowed: temperature, platt")
        if len(self.intercepts) != len(self.parents):
            raise ValueError(f"{len(self.intercepts)} intercepts for {len(self.parents)} labels")
        if not SLOPES[0] * (1 - 1e-6) <= self.slope <= SLOPES[1] * (1 + 1e-6):
            raise ValueError(f"the calibration's slope is {self.slope}, outside {SLOPES[0]} .. {SLOPES[1]}")
        if not (np.abs(self.intercepts) <= LARGEST_INTERCEPT).all():
            raise ValueError(f"an intercept of the calibration is beyond {LARGEST_INTERCEPT} or no number")

    @property
    def temperature(self) -> float:
        return 1.0 / self.slope

    def conditional(self, p: Array) -> Array:
        """Calibrated p(label | parent) from joint probabilities, both of shape (n, labels)."""
        share = p + SMALLEST
        powers = (share / self._of_siblings(share)) ** self.slope * np.exp(self.intercepts.astype(np.float64))
        return powers / self._of_siblings(powers)

    def _of_siblings(self, values: Array) -> Array:
        below = np.eye(int(self.parents.max()) + 1)[self.parents]
        return (values @ below)[:, self.parents]


@dataclass(frozen=True)
class HierarchyCalibrator:
    """The calibration of all levels, first to last."""

    levels: tuple[LevelCalibration, ...]

    def apply(self, p: Sequence[Any]) -> list[Array]:
        """Calibrated joint probabilities from joint ones: arrays of shape (n, labels), one per level.

        Raises
        ------
        ValueError
            If the number of levels or of labels differs from the calibrator's.
        """
        values = [np.asarray(level, dtype=np.float64) for level in p]
        shapes = [level.shape[1] for level in values]
        if shapes != (known := [len(level.parents) for level in self.levels]):
            raise ValueError(
                f"the probabilities have {shapes} labels, but the calibrator {known}: it was fitted for "
                "another taxonomy; calibrate again"
            )
        above = np.ones((len(values[0]), 1))
        result = []
        for level, joint in zip(self.levels, values, strict=True):
            above = above[:, level.parents] * level.conditional(joint)
            result.append(above)
        return result

    def to_dict(self) -> dict[str, Any]:
        """As a JSON value; float32 values survive the round trip exactly."""
        return {
            "levels": [
                {
                    "method": level.method,
                    "slope": level.slope,
                    "intercepts": [float(value) for value in level.intercepts],
                    "parents": level.parents.tolist(),
                    "rows": level.rows,
                    "log_loss": level.log_loss,
                }
                for level in self.levels
            ]
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> HierarchyCalibrator:
        """The inverse of `to_dict`."""
        return cls(
            tuple(
                LevelCalibration(
                    level["method"],
                    level["slope"],
                    np.asarray(level["intercepts"], dtype=np.float32),
                    np.asarray(level["parents"], dtype=np.int64),
                    level["rows"],
                    dict(level["log_loss"]),
                )
                for level in value["levels"]
            )
        )


def fit_hierarchy_calibrator(
    p: Sequence[Any],
    observed: Iterable[Sequence[str]],
    owners: ArrayLike,
    taxonomy: Taxonomy,
    folds: int = FOLDS,
) -> HierarchyCalibrator:
    """Fit a calibrator on the validation split; nothing depends on the order of the rows.

    Parameters
    ----------
    p : sequence of ndarray of shape (n, labels)
        Joint probabilities of each level.
    observed : iterable of paths
        Labels of one to all levels.
    owners : array of shape (n,)
    taxonomy : Taxonomy
    folds : int
        Folds of the owners by which the method is chosen; fewer where there are fewer owners.

    Raises
    ------
    ValueError
        If there are no rows, a label is not in the taxonomy, or probabilities have another shape or are none.
    """
    values, codes = checked(p, taxonomy, "calibration"), encode(observed, taxonomy)
    names = np.asarray(owners).astype(str)
    if not len(codes):
        raise ValueError(
            "no labelled validation rows: calibration needs at least one owner with labels in val"
        )
    if not len(codes) == len(values[0]) == len(names):
        raise ValueError(f"{len(values[0])} predictions for {len(codes)} labels and {len(names)} owners")
    levels = []
    for level, above in enumerate(parents(taxonomy)):
        choices = _Choices.of(values[level], codes[:, level], above, names)
        levels.append(_fit_level(choices, above, folds))
    return HierarchyCalibrator(tuple(levels))


@dataclass(frozen=True)
class _Choices:
    """Rows with a choice: log probabilities of the label and its siblings, padded with -inf.

    Joint ones do: the parent's probability is a common factor, which the softmax among siblings takes out.
    """

    logs: Array  # (n, most siblings)
    labels: Codes  # (n, most siblings), 0 where padded
    chosen: Codes  # (n,): the position of the label among its siblings
    owners: NDArray[np.str_]

    @classmethod
    def of(cls, p: Array, label: Codes, above: Codes, owners: NDArray[np.str_]) -> _Choices:
        siblings = [np.flatnonzero(above == parent) for parent in range(int(above.max()) + 1)]
        table = np.full((len(siblings), max(map(len, siblings))), -1, dtype=np.int64)
        for parent, members in enumerate(siblings):
            table[parent, : len(members)] = members
        several = np.array([len(members) > 1 for members in siblings])
        rows = np.flatnonzero((label >= 0) & several[above[label]])
        # One order for every order of the input: sums of floats depend on it, and so do ties of the folds.
        rows = rows[np.lexsort((*p[rows].T, label[rows], owners[rows]))]
        of_row = table[above[label[rows]]]
        real = of_row >= 0
        share = np.where(real, p[rows[:, None], of_row] + SMALLEST, 0.0)
        logs = np.log(share, out=np.full(share.shape, -np.inf), where=real)
        chosen = (of_row == label[rows][:, None]).argmax(axis=1)
        return cls(logs, np.where(real, of_row, 0), chosen, owners[rows])

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, rows: NDArray[np.int64]) -> _Choices:
        return _Choices(self.logs[rows], self.labels[rows], self.chosen[rows], self.owners[rows])

    def losses(self, slope: float, intercepts: Array) -> Array:
        scores = slope * self.logs + intercepts[self.labels]
        return logsumexp(scores, axis=1) - scores[np.arange(len(self)), self.chosen]

    def fit(self, method: Method, n_labels: int) -> tuple[float, Array]:
        """Slope and intercepts of the highest posterior: a convex problem in a box."""
        finite = np.where(np.isfinite(self.logs), self.logs, 0.0)
        row = np.arange(len(self))
        free = n_labels if method == "platt" else 0

        def objective(parameters: Array) -> tuple[float, Array]:
            slope, intercepts = parameters[0], np.zeros(n_labels)
            intercepts[:free] = parameters[1:]
            scores = slope * self.logs + intercepts[self.labels]
            total = logsumexp(scores, axis=1)
            error = np.exp(scores - total[:, None])
            value = float(np.sum(total - scores[row, self.chosen]))
            error[row, self.chosen] -= 1.0
            gradient = np.r_[
                np.sum(error * finite), np.bincount(self.labels.ravel(), error.ravel(), n_labels)[:free]
            ]
            value += ((slope - 1) / _SLOPE_SD) ** 2 / 2 + float(np.sum((intercepts / _INTERCEPT_SD) ** 2)) / 2
            gradient[0] += (slope - 1) / _SLOPE_SD**2
            gradient[1:] += parameters[1:] / _INTERCEPT_SD**2
            return value, gradient

        bounds = [SLOPES] + [(-LARGEST_INTERCEPT, LARGEST_INTERCEPT)] * free
        start = np.r_[1.0, np.zeros(free)]
        found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
        intercepts = np.zeros(n_labels)
        intercepts[:free] = found[1:]
        return float(found[0]), intercepts


def _fit_level(choices: _Choices, above: Codes, folds: int) -> LevelCalibration:
    n_labels = len(above)
    if not len(choices):
        return LevelCalibration("temperature", 1.0, np.zeros(n_labels, dtype=np.float32), above, 0, {})
    method, log_loss = _choose(choices, n_labels, folds)
    slope, intercepts = choices.fit(method, n_labels)
    return LevelCalibration(
        method, float(np.float32(slope)), intercepts.astype(np.float32), above, len(choices), log_loss
    )


def _choose(choices: _Choices, n_labels: int, folds: int) -> tuple[Method, dict[str, float]]:
    """The method by the held-out log loss, and that loss; temperature where owners are too few to tell."""
    names, owner = np.unique(choices.owners, return_inverse=True)
    if len(names) < 2:
        return "temperature", {}
    # Only a fit needs it, and it takes as long to import as all else.
    from sklearn.model_selection import GroupKFold

    methods: tuple[Method, ...] = ("temperature", "platt")
    held_out = {method: np.empty(len(choices)) for method in methods}
    splitter = GroupKFold(n_splits=min(folds, len(names)))
    for train, test in splitter.split(choices.logs, groups=owner):
        for method in methods:
            parameters = choices.take(train).fit(method, n_labels)
            held_out[method][test] = choices.take(test).losses(*parameters)
    gains = np.bincount(owner, held_out["temperature"] - held_out["platt"])
    error = float(np.sqrt(len(gains)) * gains.std(ddof=1))
    log_loss = {"raw": float(choices.losses(1.0, np.zeros(n_labels)).mean())}
    log_loss |= {method: float(losses.mean()) for method, losses in held_out.items()}
    return ("platt" if gains.sum() > error else "temperature"), log_loss
