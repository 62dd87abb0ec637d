"""Temporal metrics: equal to their definitions and to row-by-row resampling; lengths of the history."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceive.evaluation.bootstrap import Estimate, OwnerBootstrap
from perceive.evaluation.metrics import CONSTANT_VARIANCE, pearson
from perceive.evaluation.timelines import (
    HISTORY_BUCKETS,
    MIN_ITEMS,
    between_owner_r,
    composite_r,
    history_bucket,
    history_lengths,
    temporal_estimates,
    temporal_gain,
    temporal_metrics,
    temporal_replicates,
    within_owner_r,
)

NAMES = ("temporal_r", "between_r", "composite_r")


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def reference(observed, predicted, owners):
    """The three metrics straight from their definitions, one owner at a time."""
    rows = pd.DataFrame({"o": observed, "p": predicted, "owner": owners})
    within = []
    for _, of in rows.groupby("owner"):
        if len(of) >= 5 and of["o"].var(ddof=0) > CONSTANT_VARIANCE:
            r = pearson(of["o"], of["p"])
            within.append(0.0 if np.isnan(r) else r)
    means = rows.groupby("owner")[["o", "p"]].mean()
    between = pearson(means["o"], means["p"])
    temporal = float(np.mean(within)) if within else np.nan
    angles = np.arctanh(np.clip([temporal, between], -1 + 1e-7, 1 - 1e-7))
    return dict(zip(NAMES, (temporal, between, np.tanh(angles.mean())), strict=True))


def simulate(seed, n_owners=40, per_owner=8, noise=0.1):
    """Owners with usual values of their own, and predictions that follow their items."""
    rng = np.random.default_rng(seed)
    owners = np.repeat([f"o{owner}" for owner in range(n_owners)], per_owner)
    observed = np.repeat(rng.normal(0.5, 0.15, n_owners), per_owner) + rng.normal(0, 0.1, owners.size)
    return owners, observed, observed + rng.normal(0, noise, owners.size)


# Few owners and values: constant owners, constant predictions and equal means are frequent.
VALUES = st.sampled_from([0.0, 0.1, 0.5, 1.0])
ROWS = st.lists(st.tuples(st.integers(0, 3), VALUES, VALUES), min_size=2, max_size=40)


@given(ROWS)
def test_equal_to_the_definitions(rows):
    owners, observed, predicted = (np.array(column) for column in zip(*rows, strict=True))
    found = temporal_metrics(observed, predicted, owners)
    expected = reference(observed, predicted, owners)
    assert list(found) == list(NAMES)
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
    single = (f(observed, predicted, owners) for f in (within_owner_r, between_owner_r, composite_r))
    assert list(single) == pytest.approx(list(found.values()), abs=0, nan_ok=True)


@given(ROWS)
def test_replicates_equal_resampling_row_by_row(rows):
    owners, observed, predicted = (np.array(column) for column in zip(*rows, strict=True))
    bootstrap = OwnerBootstrap(owners, n=20)
    fast = temporal_replicates(bootstrap, observed, predicted)

    def people(taken):
        # the second time that a row is drawn, it belongs to a second person
        copy = pd.Series(taken).groupby(taken).cumcount()
        return [f"{owner} {number}" for owner, number in zip(owners[taken], copy, strict=True)]

    for name in NAMES:
        slow = bootstrap.resample(
            lambda taken, n=name: reference(observed[taken], predicted[taken], people(taken))[n]
        )
        np.testing.assert_allclose(fast[name], slow, atol=1e-9, err_msg=name)


def test_only_owners_that_change_and_have_enough_items_count():
    follows, opposes = [0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.4, 0.3, 0.2, 0.1]

    def r(*of_owners):
        owners = np.repeat(np.arange(len(of_owners)), [len(o) for o, _ in of_owners])
        return within_owner_r(*(np.concatenate(side) for side in zip(*of_owners, strict=True)), owners)

    assert MIN_ITEMS == 5
    assert r((follows, follows)) == pytest.approx(1)
    assert r((follows, follows), (follows, opposes)) == pytest.approx(0)
    # a constant prediction is no answer to a changing label, a constant label no question
    assert r((follows, follows), (follows, [0.3] * 5)) == pytest.approx(0.5)
    assert r((follows, follows), ([0.3] * 5, opposes)) == pytest.approx(1)
    # four items do not count
    assert r((follows, follows), (follows[:4], opposes[1:])) == pytest.approx(1)
    assert np.isnan(r((follows[:4], follows[:4]), ([0.3] * 9, [0.1, 0.2, 0.3] * 3)))
    # float32 noise around one value is no change
    noisy = 0.3 + np.array([0, 1, 0, -1, 0]) * 1e-8
    assert r((follows, follows), (noisy, opposes)) == pytest.approx(1)
    assert r((follows, follows), (follows, noisy)) == pytest.approx(0.5)


def test_within_and_between_are_different_questions():
    owners = np.repeat(list("abc"), 5)
    usual, change = np.repeat([0.2, 0.5, 0.8], 5), np.tile([-0.1, -0.05, 0, 0.05, 0.1], 3)
    knows_the_person = temporal_metrics(usual + change, usual, owners)
    assert knows_the_person["temporal_r"] == 0 and knows_the_person["between_r"] == pytest.approx(1)
    follows = temporal_metrics(usual + change, 0.5 + change, owners)
    assert follows["temporal_r"] == pytest.approx(1) and np.isnan(follows["between_r"])
    assert np.isnan(follows["composite_r"])
    both = temporal_metrics(usual + change, 1 - usual + change, owners)
    assert both["between_r"] == pytest.approx(-1) and both["composite_r"] == pytest.approx(0, abs=1e-6)


def test_each_owner_counts_once_between_owners():
    owners, observed, predicted = ["a"] * 50 + ["b", "c"], [0.2] * 50 + [0.4, 0.9], [0.1] * 50 + [0.6, 0.5]
    assert between_owner_r(observed, predicted, owners) == pytest.approx(
        pearson([0.2, 0.4, 0.9], [0.1, 0.6, 0.5])
    )


def test_estimates_and_blocks_of_draws(monkeypatch):
    owners, observed, predicted = simulate(1)
    bootstrap = OwnerBootstrap(owners, n=200)
    found = temporal_estimates(bootstrap, observed, predicted)
    assert {name: of.value for name, of in found.items()} == pytest.approx(
        reference(observed, predicted, owners)
    )
    drawn = temporal_replicates(bootstrap, observed, predicted)
    for name, of in found.items():
        assert of.low < of.value < of.high
        assert (of.low, of.high) == bootstrap.interval(drawn[name])
    monkeypatch.setattr("perceive.evaluation.bootstrap._BLOCK", 7 * owners.size)
    pieces = temporal_replicates(bootstrap, observed, predicted)
    for name in NAMES:
        np.testing.assert_allclose(pieces[name], drawn[name], rtol=1e-12)


def test_row_order_does_not_matter():
    owners, observed, predicted = simulate(2)
    shuffled = np.random.default_rng(0).permutation(owners.size)
    one = temporal_estimates(OwnerBootstrap(owners, n=50), observed, predicted)
    two = temporal_estimates(OwnerBootstrap(owners[shuffled], n=50), observed[shuffled], predicted[shuffled])
    assert one == two


def test_gain_is_paired_and_positive_for_the_better():
    owners, observed, good = simulate(3, noise=0.05)
    bad = observed + np.random.default_rng(9).normal(0, 0.3, owners.size)
    bootstrap = OwnerBootstrap(owners, n=200)
    gain = temporal_gain(bootstrap, observed, good, bad)
    of_good, of_bad = (within_owner_r(observed, x, owners) for x in (good, bad))
    assert gain.value == pytest.approx(of_good - of_bad) and gain.value > 0.2
    assert 0 < gain.low < gain.value < gain.high
    mirrored = temporal_gain(bootstrap, observed, bad, good)
    assert mirrored == pytest.approx(Estimate(-gain.value, -gain.high, -gain.low))
    # a straight line changes no correlation, in no draw: pairing leaves no spread at all
    assert temporal_gain(bootstrap, observed, 0.5 * good + 0.1, good) == pytest.approx((0, 0, 0), abs=1e-12)
    between = temporal_gain(bootstrap, observed, good, bad, "between_r")
    assert between.value == pytest.approx(
        between_owner_r(observed, good, owners) - between_owner_r(observed, bad, owners)
    )


@pytest.mark.parametrize("n_owners", [0, 1])
def test_fewer_than_two_owners_have_no_interval(n_owners):
    owners, observed, predicted = simulate(4, n_owners=n_owners)
    found = temporal_estimates(OwnerBootstrap(owners, n=10), observed, predicted)
    assert np.isfinite(found["temporal_r"].value) == bool(n_owners)
    assert np.isnan([*found["between_r"], *found["composite_r"], *found["temporal_r"][1:]]).all()


def test_errors():
    with pytest.raises(ValueError, match="predicted is not finite in 1 of 2 rows, first in row 1"):
        temporal_metrics([0.1, 0.2], [0.1, np.nan], ["a", "a"])
    with pytest.raises(ValueError, match="2 predictions for 3 owner entries"):
        within_owner_r([0.1, 0.2], [0.1, 0.2], ["a", "a", "b"])


def test_many_rows_are_fast():
    owners, observed, predicted = simulate(5, n_owners=5000, per_owner=20)
    started = time.process_time()
    temporal_replicates(OwnerBootstrap(owners, n=100), observed, predicted)
    assert time.process_time() - started < 5  # about .3 s on an idle core


# --- the history


ITEMS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.integers(0, 99)),
    max_size=25,
    unique_by=lambda item: (item[0], item[2]),
)


@given(ITEMS)
def test_history_is_what_the_owner_wrote_up_to_the_item(items):
    owners, days, numbers = ([item[i] for item in items] for i in range(3))
    ids = [f"i{number:02d}" for number in numbers]
    times = pd.Series(pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(days, unit="D"))
    found = history_lengths(owners, times, ids)
    assert found.dtype == np.int64
    keys = list(zip(owners, days, ids, strict=True))
    assert found.tolist() == [
        sum(owner == other and (d, i) <= (day, item) for other, d, i in keys) for owner, day, item in keys
    ]


def test_history_takes_a_series_with_any_index():
    frame = pd.DataFrame(
        {"owner": ["a", "b", "a"], "time": pd.to_datetime(["2026-01-02", "2026-01-01", "2026-01-01"])},
        index=[7, 7, 3],
    )
    assert history_lengths(frame["owner"], frame["time"], frame["owner"] + "x").tolist() == [2, 1, 1]


def test_history_errors():
    times = np.array(["2026-01-01", "2026-01-01"], dtype="datetime64[us]")
    with pytest.raises(ValueError, match="rows 0 and 1: the same owner, timestamp and item_id"):
        history_lengths(["a", "a"], times, ["i", "i"])
    with pytest.raises(ValueError, match="lengths differ: 1 owner_ids, 2 timestamps, 2 item_ids"):
        history_lengths(["a"], times, ["i", "j"])
    with pytest.raises(ValueError, match="row 1: timestamp is missing"):
        history_lengths(["a", "a"], pd.Series([times[0], pd.NaT]), ["i", "j"])


def test_buckets():
    assert HISTORY_BUCKETS == ("1", "2-4", "5-9", "10+")
    found = history_bucket([1, 2, 4, 5, 9, 10, 1000])
    assert found.tolist() == ["1", "2-4", "2-4", "5-9", "5-9", "10+", "10+"]
    assert history_bucket([]).size == 0
    with pytest.raises(ValueError, match="row 1: a history holds at least the item itself"):
        history_bucket([1, 0])
