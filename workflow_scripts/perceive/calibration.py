"""Isotonic calibration with a bounded slope.

Isotonic regression (Barlow et al. 1972) as a step function jumps: its knots can lie a millionth apart and
then amplify float error without bound. Here the monotone function is piecewise linear, with knots at
quantiles of the predictions and every slope in ``[0, max_slope]`` (isotonic regression under a Lipschitz
constraint, Yeganova and Wilbur 2009), solved exactly as a bounded linear least-squares problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import lsq_linear

SHORTEST_SEGMENT = 1e-3
"""Least distance between knots."""


@dataclass(frozen=True)
class Calibrator:
    """A monotone piecewise-linear map of 0..1 into 0..1; beyond the outer knots it is constant.

    Attributes
    ----------
    x, y : ndarray of shape (k,), float32
        Knots: ``x`` strictly increasing, ``y`` nondecreasing.
    """

    x: np.ndarray
    y: np.ndarray

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or len(self.x) < 2:
            raise ValueError("a calibrator needs two knots or more, with one y per x")
        if not (np.diff(self.x) > 0).all() or not (np.diff(self.y) >= 0).all():
            raise ValueError("a calibrator's x must increase strictly and its y must not decrease")

    def predict(self, raw: np.ndarray) -> np.ndarray:
        """Calibrate raw predictions [n]."""
        return np.interp(raw, self.x.astype(np.float64), self.y.astype(np.float64))

    def to_dict(self) -> dict[str, list[float]]:
        """Knots as a JSON value; float32 values survive the round trip exactly."""
        return {"x": [float(value) for value in self.x], "y": [float(value) for value in self.y]}

    @classmethod
    def from_dict(cls, value: Mapping[str, list[float]]) -> Calibrator:
        """The inverse of `to_dict`."""
        return cls(np.asarray(value["x"], dtype=np.float32), np.asarray(value["y"], dtype=np.float32))


def fit_calibrator(raw: np.ndarray, observed: np.ndarray, settings: Mapping[str, Any]) -> Calibrator:
    """Fit a calibrator.

    Parameters
    ----------
    raw : ndarray of shape (n,)
        Raw predictions on the validation split.
    observed : ndarray of shape (n,)
        Labels in 0..1.
    settings : mapping
        The ``calibration`` slice: ``max_knots``, ``rows_per_knot``, ``max_slope``, ``ridge``.

    Raises
    ------
    ValueError
        If there are no rows, or a value is not finite.
    """
    raw, observed = np.asarray(raw, dtype=np.float64), np.asarray(observed, dtype=np.float64)
    if not len(raw):
        raise ValueError(
            "no labelled validation rows: calibration needs at least one owner with labels in val"
        )
    if not (np.isfinite(raw).all() and np.isfinite(observed).all()):
        raise ValueError("calibration met a prediction or a label that is not finite")
    count = int(np.clip(len(raw) // settings["rows_per_knot"], 2, settings["max_knots"]))
    knots = [float(value) for value in np.quantile(raw, np.linspace(0, 1, count))]
    x = [knots[0]]
    for value in knots[1:]:
        if value - x[-1] >= SHORTEST_SEGMENT:
            x.append(value)
    if len(x) == 1:
        x = [x[0] - SHORTEST_SEGMENT, x[0] + SHORTEST_SEGMENT]
    knot = np.asarray(x, dtype=np.float32).astype(np.float64)
    widths = np.diff(knot)
    # y(raw) = intercept + sum_j slope_j * (the part of segment j that lies below raw)
    parts = np.clip(raw[:, None] - knot[:-1], 0, widths)
    design = np.column_stack([np.ones(len(raw)), parts])
    # The ridge pulls each slope towards 1 with the strength of `ridge` rows at the segment's far end.
    pull = np.zeros((len(widths), design.shape[1]))
    pull[:, 1:] = np.diag(np.sqrt(settings["ridge"]) * widths)
    lower = np.r_[-np.inf, np.zeros(len(widths))]
    upper = np.r_[np.inf, np.full(len(widths), settings["max_slope"])]
    solution = lsq_linear(
        np.vstack([design, pull]),
        np.r_[observed, pull[:, 1:].diagonal()],
        bounds=(lower, upper),
        method="bvls",
    ).x
    y = np.clip(solution[0] + np.r_[0.0, np.cumsum(np.clip(solution[1:], 0, None) * widths)], 0.0, 1.0)
    return Calibrator(knot.astype(np.float32), np.maximum.accumulate(y.astype(np.float32)))
