"""The owner bootstrap: equal to resampling row by row, honest coverage, deterministic in any row order."""

from __future__ import annotations

import time
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive.evaluation.bootstrap import (
    Estimate,
    OwnerBootstrap,
    bootstrap_interval,
    expanded_level,
    paired_gain,
    percentile_interval,
)
from perceive.evaluation.metrics import REGRESSION_METRICS, regression_metrics


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def simulate(seed, n_owners=40, per_owner=6, owner_sd=0.08, noise_sd=0.05):
    """Predictions whose errors share a part within each owner: true RMSE sqrt(owner_sd^2 + noise_sd^2)."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(n_owners), per_owner)
    observed = rng.uniform(0, 1, owners.size)
    error = rng.normal(0, owner_sd, n_owners)[owners] + rng.normal(0, noise_sd, owners.size)
    return np.array([f"o{owner}" for owner in owners]), observed, observed + error


rows = st.lists(
    st.tuples(
        st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), st.sampled_from([0.0, 0.3, 0.5, 1.0])
    ),
    min_size=2,
    max_size=40,
)


@settings(deadline=None, max_examples=30)
@given(rows)
def test_vectorised_replicates_equal_resampling_row_by_row(data):
    owners, observed, predicted = (np.array(column) for column in zip(*data, strict=True))
    bootstrap = OwnerBootstrap(owners, n=20)
    fast = bootstrap.replicates(observed, predicted)
    for name, metric in REGRESSION_METRICS.items():
        slow = bootstrap.resample(lambda taken, m=metric: m(observed[taken], predicted[taken]))
        np.testing.assert_allclose(fast[name], slow, atol=1e-9, err_msg=name)


def test_blocks_of_draws_change_nothing(monkeypatch):
    owners, observed, predicted = simulate(1)
    whole = OwnerBootstrap(owners, n=100).replicates(observed, predicted)
    monkeypatch.setattr("perceive.evaluation.bootstrap._BLOCK", 7 * owners.size)
    pieces = OwnerBootstrap(owners, n=100).replicates(observed, predicted)
    for name in whole:
        np.testing.assert_allclose(whole[name], pieces[name], rtol=1e-12, err_msg=name)


def test_deterministic_and_blind_to_the_row_order():
    owners, observed, predicted = simulate(2)
    shuffled = np.random.default_rng(0).permutation(owners.size)
    one = OwnerBootstrap(owners).replicates(observed, predicted)
    two = OwnerBootstrap(owners[shuffled]).replicates(observed[shuffled], predicted[shuffled])
    other = OwnerBootstrap(owners, seed=138).replicates(observed, predicted)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
        assert (one[name] != other[name]).any()


def _coverage(metric, truth, by_owner=True, trials=300):
    covered = 0
    for seed in range(trials):
        owners, observed, predicted = simulate(seed, n_owners=120)
        units = owners if by_owner else np.arange(owners.size)
        low, high = bootstrap_interval(observed, predicted, units, metric, seed=1000 + seed)
        covered += low <= truth <= high
    return covered / trials


@pytest.mark.parametrize(
    ("metric", "truth"),
    [
        ("rmse", np.hypot(0.08, 0.05)),
        ("mae", np.sqrt(2 / np.pi) * np.hypot(0.08, 0.05)),
        ("pearson", np.sqrt((1 / 12) / (1 / 12 + 0.08**2 + 0.05**2))),
    ],
)
def test_intervals_cover_the_truth_about_95_percent_of_the_time(metric, truth):
    # In the long run the intervals of 120 owners cover 92 to 94 %; 300 trials have a standard error of 1.5 %.
    assert 0.89 <= _coverage(metric, truth) <= 0.985


def test_resampling_rows_instead_of_owners_would_be_overconfident():
    assert _coverage("rmse", np.hypot(0.08, 0.05), by_owner=False, trials=60) < 0.85


def test_interval_width_shrinks_with_more_owners():
    def width(n_owners):
        owners, observed, predicted = simulate(3, n_owners=n_owners)
        low, high = bootstrap_interval(observed, predicted, owners, "rmse")
        return high - low

    assert width(400) < 0.5 * width(40)


@pytest.mark.parametrize("owners", [[], ["a"], ["a", "a", "a"]])
def test_fewer_than_two_owners_have_no_interval(owners):
    observed, predicted = [0.1, 0.5, 0.9][: len(owners)], [0.2, 0.4, 0.8][: len(owners)]
    for estimate in OwnerBootstrap(owners).estimates(observed, predicted).values():
        assert np.isnan(estimate.low) and np.isnan(estimate.high)
    assert np.isnan(OwnerBootstrap(owners).resample(lambda taken: 1.0)).all()


def test_estimates_hold_the_plain_metric():
    owners, observed, predicted = simulate(4)
    found = OwnerBootstrap(owners, n=50).estimates(observed, predicted)
    assert {name: estimate.value for name, estimate in found.items()} == regression_metrics(
        observed, predicted
    )


def test_constant_predictions_have_no_correlation_interval():
    owners, observed, _ = simulate(5)
    found = OwnerBootstrap(owners, n=50).estimates(observed, np.full(observed.size, 0.3))
    assert np.isnan(found["pearson"]).all() and np.isnan(found["spearman"]).all()
    assert found["rmse"].low < found["rmse"].value < found["rmse"].high


def test_percentile_interval():
    assert percentile_interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert percentile_interval(np.append(np.arange(1001.0), [np.nan] * 50)) == pytest.approx((25, 975))
    assert np.isnan(percentile_interval(np.append(np.arange(100.0), [np.nan] * 50))).all()
    assert percentile_interval(np.arange(1001.0), level=0.5) == pytest.approx((250, 750))


def test_paired_gain_is_relative_for_errors_and_a_difference_for_correlations():
    owners, observed, worse = simulate(6)
    better = observed + 0.9 * (worse - observed)
    gain = paired_gain(observed, better, worse, owners)
    # every error is a tenth smaller, in every draw: pairing leaves no spread at all
    assert gain == pytest.approx(Estimate(0.1, 0.1, 0.1))
    assert paired_gain(observed, worse, better, owners).value == pytest.approx(1 - 1 / 0.9)
    found = paired_gain(observed, better, worse, owners, metric="pearson")
    metric = REGRESSION_METRICS["pearson"]
    assert found.value == pytest.approx(metric(observed, better) - metric(observed, worse))
    assert 0 < found.low <= found.value <= found.high


def test_gain_over_a_perfect_reference_is_undefined():
    owners, observed, predicted = simulate(7)
    assert np.isnan(paired_gain(observed, predicted, observed, owners)).all()


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"unknown metrics \['auc'\]"):
        bootstrap_interval([0.1], [0.1], ["a"], "auc")
    with pytest.raises(ValueError, match="2 predictions for 3 owner entries"):
        OwnerBootstrap(["a", "b", "c"]).replicates([0.1, 0.2], [0.1, 0.2])
    with pytest.raises(ValueError, match="at least 1"):
        OwnerBootstrap(["a", "b"], n=0)


def test_memory_is_bounded_and_it_is_fast():
    owners, observed, predicted = simulate(8, n_owners=2000, per_owner=20)
    tracemalloc.start()
    started = time.process_time()
    OwnerBootstrap(owners, n=100).replicates(observed, predicted)
    seconds = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # one array of all draws and rows would be 32 MB, and the arithmetic needs about ten of them
    assert peak < 60e6
    assert seconds < 20


@pytest.mark.parametrize(
    ("sizes", "level"), [([5] * 13, 0.9767), ([7] * 120, 0.9533), ([1] * 12 + [1000], 1.0), ([3] * 2, 1.0)]
)
def test_few_owners_need_percentiles_further_out(sizes, level):
    assert expanded_level(0.95, sizes) == pytest.approx(level, abs=0.0006)


def test_an_owner_with_most_of_the_rows_counts_as_few():
    equal, one_large = expanded_level(0.95, [10] * 20), expanded_level(0.95, [10] * 19 + [100])
    assert 0.95 < equal < one_large < 1


def test_intervals_of_few_owners_cover_the_truth_too():
    covered = plain = 0
    for seed in range(200):
        owners, observed, predicted = simulate(seed, n_owners=13)
        bootstrap = OwnerBootstrap(owners, n=400, seed=seed)
        drawn = bootstrap.replicates(observed, predicted, ["rmse"])["rmse"]
        truth = np.hypot(0.08, 0.05)
        low, high = bootstrap.interval(drawn)
        covered += low <= truth <= high
        low, high = percentile_interval(drawn)
        plain += low <= truth <= high
    # Of this simulation 84 % and 88 %; the more alike the owners' sizes, the nearer to 95 %.
    assert plain < covered and covered >= 0.86 * 200
