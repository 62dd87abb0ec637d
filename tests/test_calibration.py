"""The calibrator: monotone, of bounded slope, exact in its file, and a gain where there is one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive import config
from perceive.calibration import SHORTEST_SEGMENT, Calibrator, fit_calibrator

SETTINGS: dict[str, Any] = config.slices(config.Settings())["calibration"]
GRID = np.linspace(-1, 2, 6001)


@st.composite
def data(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels, with ties, gaps, narrow ranges and outliers."""
    seed, n = draw(st.integers(0, 10_000)), draw(st.integers(1, 400))
    rng = np.random.default_rng(seed)
    kind = draw(st.sampled_from(["uniform", "narrow", "ties", "two ends", "outlier", "constant", "outside"]))
    raw = rng.random(n)
    if kind == "narrow":
        raw = 0.5 + 10.0 ** -rng.integers(1, 9) * rng.normal(size=n)
    elif kind == "ties":
        raw = np.round(raw, 1)
    elif kind == "two ends":
        raw = np.where(raw < 0.5, raw * 1e-4, 1 - raw * 1e-4)
    elif kind == "outlier":
        raw = np.r_[raw * 1e-3, 0.9][:n]
    elif kind == "constant":
        raw = np.full(n, raw[0])
    elif kind == "outside":
        raw = 3 * raw - 1
    shape = draw(st.sampled_from(["noise", "steps", "falling", "steep", "edges"]))
    observed = {
        "noise": rng.random(n),
        "steps": (raw > np.median(raw)).astype(float),
        "falling": np.clip(1 - raw, 0, 1),
        "steep": np.clip(50 * (raw - raw.mean()), 0, 1),
        "edges": rng.integers(0, 2, n).astype(float),
    }[shape]
    return raw, observed


OPTIONS = st.fixed_dictionaries(
    {
        "max_knots": st.sampled_from([2, 5, 20, 200]),
        "rows_per_knot": st.sampled_from([1, 10, 40]),
        "max_slope": st.sampled_from([1.0, 3.0, 20.0]),
        "ridge": st.sampled_from([0.0, 1.0, 5.0, 100.0]),
    }
)


@settings(max_examples=150, deadline=None)
@given(data(), OPTIONS)
def test_it_is_monotone_bounded_and_exact_in_its_file(
    rows: tuple[np.ndarray, np.ndarray], options: dict[str, Any]
) -> None:
    calibrator = fit_calibrator(*rows, options)
    x, y = calibrator.x.astype(np.float64), calibrator.y.astype(np.float64)
    assert calibrator.x.dtype == calibrator.y.dtype == np.float32
    assert 2 <= len(x) <= max(2, options["max_knots"])
    assert np.diff(x).min() >= SHORTEST_SEGMENT - 1e-6
    assert (np.diff(y) >= 0).all() and y[0] >= 0 and y[-1] <= 1
    assert (np.diff(y) / np.diff(x)).max() <= options["max_slope"] * (1 + 1e-3)
    answers = calibrator.predict(GRID)
    assert (np.diff(answers) >= 0).all() and answers.min() >= 0 and answers.max() <= 1
    assert calibrator.predict(np.array([x[0] - 9, x[-1] + 9])).tolist() == [y[0], y[-1]]
    read = Calibrator.from_dict(json.loads(json.dumps(calibrator.to_dict())))
    np.testing.assert_array_equal(read.x, calibrator.x)
    np.testing.assert_array_equal(read.y, calibrator.y)
    np.testing.assert_array_equal(read.predict(GRID), answers)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1.0, 3.0]))
def test_no_other_function_on_the_knots_fits_better(seed: int, max_slope: float) -> None:
    rng = np.random.default_rng(seed)
    raw, observed = rng.random(200), rng.uniform(0.4, 0.6, 200)
    options = {"max_knots": 8, "rows_per_knot": 1, "max_slope": max_slope, "ridge": 0.0}
    calibrator = fit_calibrator(raw, observed, options)
    x, y = calibrator.x.astype(np.float64), calibrator.y.astype(np.float64)

    def error(values: np.ndarray) -> float:
        return float(np.mean((np.interp(raw, x, values) - observed) ** 2))

    best = error(y)
    for _ in range(20):
        slopes = rng.choice([0, 1], len(x) - 1) * rng.uniform(0, max_slope, len(x) - 1)
        other = rng.uniform(0, 1) + np.r_[0, np.cumsum(slopes * np.diff(x))]
        for step in (0.01, 0.1, 1.0):
            assert error(y + step * (other - y)) >= best - 1e-7


def sample(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    truth = np.clip(rng.beta(3, 3, n), 0.02, 0.98)
    return truth, np.clip(truth + 0.05 * rng.normal(size=n), 0, 1), rng


def test_calibrated_predictions_stay_as_they_are() -> None:
    truth, observed, _ = sample(3000)
    calibrator = fit_calibrator(truth, observed, SETTINGS)
    inner = np.linspace(np.quantile(truth, 0.02), np.quantile(truth, 0.98), 200)
    assert np.abs(calibrator.predict(inner) - inner).max() < 0.02


@pytest.mark.parametrize("wrong", ["shrunk", "shifted", "bent"])
def test_miscalibrated_predictions_get_better_on_other_rows(wrong: str) -> None:
    bend = {
        "shrunk": lambda p: 0.5 + 0.45 * (p - 0.5),
        "shifted": lambda p: p - 0.15,
        "bent": lambda p: p**1.7,
    }[wrong]
    truth, observed, _ = sample(2000)
    calibrator = fit_calibrator(bend(truth), observed, SETTINGS)
    truth, observed, _ = sample(2000, seed=1)
    before = np.sqrt(np.mean((bend(truth) - observed) ** 2))
    after = np.sqrt(np.mean((calibrator.predict(bend(truth)) - observed) ** 2))
    assert after < 0.7 * before
    assert after < 1.1 * np.sqrt(np.mean((truth - observed) ** 2))


def test_a_jump_in_the_labels_is_answered_with_the_largest_slope_and_no_more() -> None:
    rng = np.random.default_rng(0)
    raw = rng.random(4000)
    calibrator = fit_calibrator(raw, (raw > 0.5).astype(float), {**SETTINGS, "ridge": 0})
    slopes = np.diff(calibrator.y) / np.diff(calibrator.x)
    assert slopes.max() == pytest.approx(SETTINGS["max_slope"], rel=1e-3)


def test_few_rows_are_pulled_towards_the_identity() -> None:
    raw = np.array([0.4, 0.5, 0.6])
    falling = np.array([0.6, 0.5, 0.4])
    free = fit_calibrator(raw, falling, {**SETTINGS, "ridge": 0.0})
    held = fit_calibrator(raw, falling, {**SETTINGS, "ridge": 1000.0})
    np.testing.assert_allclose(np.diff(free.y), 0, atol=1e-6)
    np.testing.assert_allclose(held.predict(raw), raw, atol=0.01)


def test_rows_decide_the_number_of_knots() -> None:
    raw, observed, _ = sample(300)
    assert len(fit_calibrator(raw, observed, {**SETTINGS, "rows_per_knot": 100, "max_knots": 50}).x) == 3
    assert len(fit_calibrator(raw, observed, {**SETTINGS, "rows_per_knot": 30, "max_knots": 50}).x) == 10
    assert len(fit_calibrator(raw, observed, {**SETTINGS, "rows_per_knot": 30, "max_knots": 4}).x) == 4
    assert len(fit_calibrator(raw[:5], observed[:5], {**SETTINGS, "rows_per_knot": 30}).x) == 2


def test_no_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="no labelled validation rows"):
        fit_calibrator(np.array([]), np.array([]), SETTINGS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_values_must_be_finite(bad: float, where: int) -> None:
    rows = np.full((2, 50), 0.5)
    rows[where, 7] = bad
    with pytest.raises(ValueError, match="not finite"):
        fit_calibrator(rows[0], rows[1], SETTINGS)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([0.5], [0.5]),
        ([0, 1], [0, 1, 1]),
        ([0.5, 0.5], [0, 1]),
        ([1, 0], [0, 1]),
        ([0, 1], [1, 0]),
        ([0, np.nan], [0, 1]),
    ],
)
def test_knots_that_are_no_function_are_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="calibrator"):
        Calibrator.from_dict({"x": x, "y": y})
