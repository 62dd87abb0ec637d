"""Regression metrics: textbook values, defined answers at the edges, and the equal-mass bins."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive.evaluation.metrics import (
    REGRESSION_METRICS,
    ece,
    equal_mass_bins,
    json_safe,
    mce,
    regression_metrics,
    reliability_bins,
)

unit = st.floats(0, 1, allow_subnormal=False)
pairs = st.lists(st.tuples(unit, unit), min_size=1, max_size=60)
# few distinct values, so that ties are common
tied = st.lists(st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=60)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_known_values():
    observed = np.array([0.0, 0.5, 1.0, 0.5])
    predicted = np.array([0.1, 0.4, 0.8, 0.6])
    found = regression_metrics(observed, predicted)
    assert list(found) == list(REGRESSION_METRICS)
    error = predicted - observed
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert found["mae"] == pytest.approx(0.125)
    assert found["r2"] == pytest.approx(1 - 0.07 / 0.5)
    assert found["pearson"] == pytest.approx(np.corrcoef(observed, predicted)[0, 1])
    # ranks 1, 2.5, 4, 2.5 against 1, 2, 4, 3
    assert found["spearman"] == pytest.approx(np.corrcoef([1, 2.5, 4, 2.5], [1, 2, 4, 3])[0, 1])
    # fewer rows than bins: every prediction is its own bin
    assert found["ece"] == pytest.approx(0.125)
    assert found["mce"] == pytest.approx(0.2)


def test_ece_averages_within_bins_and_weighs_them_by_rows():
    predicted = np.repeat([0.2, 0.6], [30, 10])
    observed = np.concatenate([np.tile([0.1, 0.5], 15), np.full(10, 0.5)])
    bins = reliability_bins(observed, predicted)
    assert bins["n"].tolist() == [30, 10]
    assert bins["predicted"].tolist() == pytest.approx([0.2, 0.6])
    assert bins["observed"].tolist() == pytest.approx([0.3, 0.5])
    assert ece(observed, predicted) == pytest.approx(0.1)
    assert mce(observed, predicted) == pytest.approx(0.1)
    # within the first bin the errors are +.1 and -.3: only their mean counts
    observed[:30] = 0.2
    assert ece(observed, predicted) == pytest.approx(0.025)
    assert mce(observed, predicted) == pytest.approx(0.1)


def test_constant_predictor_is_one_bin_with_the_difference_of_the_means():
    observed = np.linspace(0, 1, 101) ** 2
    bins = reliability_bins(observed, np.full(101, 0.3))
    assert bins["n"].tolist() == [101]
    assert ece(observed, np.full(101, 0.3)) == pytest.approx(abs(0.3 - observed.mean()))


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11, 99, 100, 780])
def test_bins_without_ties_have_equal_mass(n):
    bins = equal_mass_bins(np.random.default_rng(n).permutation(n) / n)
    counts = np.bincount(bins, minlength=10)
    assert counts.size == 10
    assert counts.max() - counts.min() <= 1


@settings(deadline=None, max_examples=150)
@given(tied)
def test_bins_keep_ties_together_and_follow_the_order(values):
    predicted = np.array(values)
    bins = equal_mass_bins(predicted)
    assert bins.min() >= 0 and bins.max() <= 9
    for value in np.unique(predicted):
        assert np.unique(bins[predicted == value]).size == 1
    order = np.argsort(predicted, kind="stable")
    assert (np.diff(bins[order]) >= 0).all()


@settings(deadline=None, max_examples=150)
@given(pairs, st.randoms(use_true_random=False))
def test_contracts(rows, random):
    observed, predicted = np.array(rows).T
    found = regression_metrics(observed, predicted)
    shuffled = list(rows)
    random.shuffle(shuffled)
    again = regression_metrics(*np.array(shuffled).T)
    for name, value in found.items():
        assert value == pytest.approx(again[name], abs=1e-9, nan_ok=True), name
    slack = 1e-12
    assert abs(np.mean(predicted - observed)) <= found["ece"] + slack
    assert found["ece"] <= found["mae"] + slack
    assert found["mae"] <= found["rmse"] + slack
    assert found["ece"] <= found["mce"] + slack
    for name in ("pearson", "spearman"):
        assert np.isnan(found[name]) or -1 - slack <= found[name] <= 1 + slack
    perfect = regression_metrics(observed, observed)
    assert [perfect[name] for name in ("rmse", "mae", "ece", "mce")] == [0, 0, 0, 0]


def test_small_and_constant_inputs_have_defined_answers():
    empty = regression_metrics([], [])
    assert all(np.isnan(value) for value in empty.values())
    one = regression_metrics([0.5], [0.7])
    assert one["rmse"] == one["ece"] == one["mce"] == pytest.approx(0.2)
    assert all(np.isnan(one[name]) for name in ("r2", "pearson", "spearman"))
    flat_prediction = regression_metrics([0.1, 0.9, 0.4], [0.3 + 1e-16, 0.3, 0.3 + 2e-8])
    assert np.isnan(flat_prediction["pearson"]) and np.isnan(flat_prediction["spearman"])
    assert np.isfinite(flat_prediction["r2"])
    flat_truth = regression_metrics([0.4] * 3, [0.1, 0.2, 0.9])
    assert all(np.isnan(flat_truth[name]) for name in ("r2", "pearson", "spearman"))


@pytest.mark.parametrize("name", list(REGRESSION_METRICS))
def test_bad_input_is_an_error_that_names_the_row(name):
    with pytest.raises(ValueError, match="predicted is not finite in 1 of 3 rows, first in row 1"):
        REGRESSION_METRICS[name]([0.1, 0.2, 0.3], [0.1, np.nan, 0.3])
    with pytest.raises(ValueError, match="equally long"):
        REGRESSION_METRICS[name]([0.1, 0.2], [0.1])


def test_json_safe():
    frame = reliability_bins([0.1, 0.2], [0.1, 0.3])
    value = {"a": np.float32(0.5), "b": [np.nan, np.inf, np.int64(3)], "c": frame, 1: np.array([True, None])}
    text = json.dumps(json_safe(value), allow_nan=False)
    loaded = json.loads(text)
    assert loaded["a"] == 0.5 and loaded["b"] == [None, None, 3] and loaded["1"] == [True, None]
    assert loaded["c"][0] == {"bin": 2, "n": 1, "predicted": 0.1, "observed": 0.1}
