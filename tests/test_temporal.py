"""The temporal features: equal to a slow reference, causal, and blind to other owners and to row order."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive.features.temporal import FEATURES, temporal_features

START = datetime(2026, 1, 1)
WEEK = timedelta(days=7)


def compute(items: list[tuple]) -> np.ndarray:
    """Features of (owner, time, valence, item_id) tuples."""
    owners, times, valence, ids = ([item[i] for item in items] for i in range(4))
    return temporal_features(owners, np.array(times, dtype="datetime64[us]"), valence, item_ids=ids)


def reference(items: list[tuple], row: int) -> list[float]:
    """The features of one item, straight from their definitions."""
    owner, now, _, item_id = items[row]
    past = sorted((t, i, v) for o, t, v, i in items if o == owner and (t, i) <= (now, item_id))
    times = [t for t, _, _ in past]
    values = [v for _, _, v in past]

    def average(alpha: float) -> float:
        n = len(values)
        first = (1 - alpha) ** (n - 1) * values[0]
        return first + sum(alpha * (1 - alpha) ** (n - 1 - i) * values[i] for i in range(1, n))

    window = [i for i, t in enumerate(times) if now - WEEK < t]
    recent = [values[i] for i in window]
    mean = sum(recent) / len(recent)
    steps = [abs(values[b] - values[a]) for a, b in pairwise(window)]
    gaps = [(b - a) / timedelta(hours=1) for a, b in pairwise(times)]
    hour = (now - datetime(now.year, now.month, now.day)) / timedelta(hours=24)
    angles = [hour, now.weekday() / 7, (now.timetuple().tm_yday - 1) / 7 / 52.1775]
    return [
        average(0.3),
        average(0.7),
        sum((v - mean) ** 2 for v in recent) / len(recent),
        sum(steps) / len(steps) if steps else 0.0,
        len(times) / max(1.0, (times[-1] - times[0]) / timedelta(days=1)),
        max(gaps, default=0.0),
        sum(gaps) / len(gaps) if gaps else 0.0,
        *(f(2 * math.pi * angle) for angle in angles for f in (math.sin, math.cos)),
    ]


# Few distinct times make ties frequent; exact multiples of a day put items on the edge of the window.
TIMES = st.one_of(
    st.integers(0, 30).map(lambda days: START + timedelta(days=days)),
    st.integers(0, 40 * 86_400_000_000).map(lambda us: START + timedelta(microseconds=us)),
    st.datetimes(datetime(1960, 1, 1), datetime(2040, 1, 1)),
)
VALENCES = st.one_of(st.sampled_from([-1.0, 0.0, 0.3, 1.0]), st.floats(-1, 1))


@st.composite
def timelines(draw, min_size: int = 1, max_size: int = 25) -> list[tuple]:
    rows = draw(
        st.lists(st.tuples(st.sampled_from("AB"), TIMES, VALENCES), min_size=min_size, max_size=max_size)
    )
    ids = draw(
        st.permutations([f"i{k}" for k in range(len(rows))])
    )  # i10 < i2: ordered as text, not by arrival
    return [(*row, item_id) for row, item_id in zip(rows, ids, strict=True)]


PROPERTY = settings(max_examples=150, deadline=None)


@PROPERTY
@given(timelines())
def test_agrees_with_the_definitions(items):
    expected = [reference(items, row) for row in range(len(items))]
    np.testing.assert_allclose(compute(items), expected, rtol=1e-6, atol=1e-6)


@PROPERTY
@given(timelines(), st.data())
def test_no_later_item_matters(items, data):
    """Change, add and remove items after a moment: no row up to that moment may change by a bit."""
    owner, now, _, item_id = items[data.draw(st.integers(0, len(items) - 1))]
    before = [item for item in items if (item[1], item[3]) <= (now, item_id)]
    later = [
        (who, now + timedelta(microseconds=delay), valence, f"later{k}")
        for k, (who, delay, valence) in enumerate(
            data.draw(st.lists(st.tuples(st.just(owner), st.integers(1, 10**13), VALENCES), max_size=6))
        )
    ]
    kept = [item for item in items if item not in before]
    changed = [(o, t, data.draw(VALENCES), i) for o, t, _, i in kept]
    alone = compute(before)
    for rest in (kept, changed, later):
        np.testing.assert_array_equal(compute(before + rest)[: len(before)], alone)
        np.testing.assert_array_equal(compute(rest + before)[len(rest) :], alone)


@PROPERTY
@given(timelines(), st.randoms(use_true_random=False))
def test_row_order_does_not_matter(items, random):
    order = list(range(len(items)))
    random.shuffle(order)
    np.testing.assert_array_equal(compute([items[i] for i in order]), compute(items)[order])


@PROPERTY
@given(timelines(min_size=2))
def test_owners_do_not_influence_each_other(items):
    together = compute(items)
    for owner in {item[0] for item in items}:
        rows = [row for row, item in enumerate(items) if item[0] == owner]
        np.testing.assert_array_equal(compute([items[row] for row in rows]), together[rows])


@PROPERTY
@given(st.lists(VALENCES, min_size=1, max_size=12), st.floats(-1, 1), st.integers(2, 12))
def test_a_constant_week_has_no_variance_whatever_came_before(past, level, n):
    items = [("A", START + timedelta(hours=k), v, f"a{k}") for k, v in enumerate(past)]
    items += [("A", START + timedelta(days=10, hours=k), level, f"b{k}") for k in range(n)]
    result = compute(items)
    assert result[-1, FEATURES.index("variance_7d")] == 0  # exactly: a rounding residue is a split for a tree
    assert result[-1, FEATURES.index("volatility_7d")] == 0


def test_ties_are_ordered_by_item_id():
    result = compute([("A", START, 1.0, "b"), ("A", START, 0.0, "a"), ("A", START, 1.0, "c\0")])
    np.testing.assert_allclose(result[:, 0], [0.3, 0.0, 0.51], rtol=1e-6)
    with pytest.raises(ValueError, match="rows 0 and 1: the same owner, timestamp and item_id"):
        compute([("A", START, 1.0, "b"), ("A", START, 0.0, "b")])


def test_a_first_item():
    row = dict(zip(FEATURES, compute([("A", datetime(2026, 1, 1, 6), 0.4, "a")])[0].tolist(), strict=True))
    assert row["ema_valence_smooth"] == row["ema_valence_reactive"] == pytest.approx(0.4)
    assert row["timeline_density"] == 1
    assert row["variance_7d"] == row["volatility_7d"] == row["max_gap_hours"] == row["avg_gap_hours"] == 0
    assert row["hour_sin"] == pytest.approx(1) and row["day_sin"] == pytest.approx(math.sin(6 * math.pi / 7))
    assert (row["week_sin"], row["week_cos"]) == (0, 1)


def test_the_window_is_open_on_the_left():
    variance = FEATURES.index("variance_7d")
    at_edge = [("A", START, -1.0, "a"), ("A", START + WEEK, 1.0, "b")]
    inside = [("A", START + timedelta(microseconds=1), -1.0, "a"), ("A", START + WEEK, 1.0, "b")]
    assert compute(at_edge)[1, variance] == 0 and compute(inside)[1, variance] == 1


def test_all_forms_of_time_agree():
    naive = [
        datetime(2026, 3, 29, 1, 30),
        datetime(2026, 3, 29, 23, 59, 59, 123456),
        datetime(1969, 12, 31, 5),
    ]
    aware = [time.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=5, minutes=30))) for time in naive]
    numpy = np.array(naive, dtype="datetime64[us]")
    series = pd.Series(naive, index=[7, 8, 9])
    forms = [naive, aware, numpy, series, series.dt.tz_localize("UTC"), pd.DatetimeIndex(aware), list(series)]
    forms += [numpy.astype("datetime64[ns]"), series.dt.tz_localize("UTC").dt.tz_convert("Asia/Kolkata")]
    forms += [pd.Series(aware, dtype=object)]
    results = [
        temporal_features(["A", "B", "A"], form, [0.1, 0.2, 0.3], item_ids=["x", "y", "z"]) for form in forms
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_shapes_and_types():
    assert FEATURES[:7] == (
        "ema_valence_smooth",
        "ema_valence_reactive",
        "variance_7d",
        "volatility_7d",
        "timeline_density",
        "max_gap_hours",
        "avg_gap_hours",
    )
    assert FEATURES[7:] == ("hour_sin", "hour_cos", "day_sin", "day_cos", "week_sin", "week_cos")
    empty = temporal_features([], [], [], item_ids=[])
    assert empty.shape == (0, 13) and empty.dtype == np.float32
    series = temporal_features(
        pd.Series(["A", "B"], index=[3, 1]),
        pd.Series([START, START], index=[3, 1]),
        pd.Series([0.5, -0.5], index=[3, 1]),
        item_ids=pd.Series(["a", "b"], index=[3, 1]),
    )
    np.testing.assert_array_equal(series, compute([("A", START, 0.5, "a"), ("B", START, -0.5, "b")]))


@pytest.mark.parametrize(
    ("times", "valence", "message"),
    [
        ([START, None], [0, 0], "row 1: timestamp is missing"),
        ([START, pd.NaT], [0, 0], "row 1: timestamp is missing"),
        (np.array(["2026-01-01", "NaT"], dtype="datetime64[us]"), [0, 0], "row 1: timestamp is missing"),
        (pd.Series(["2026-01-01", "2026-01-02"]), [0, 0], "timestamp|times"),
        ([1, 2], [0, 0], "convert them to datetime64"),
        ([START, START], [0, math.nan], "row 1: lex_valence must be finite"),
        ([START, START], [0], "lengths differ"),
    ],
)
def test_bad_input_is_named(times, valence, message):
    with pytest.raises(ValueError, match=message):
        temporal_features(["A", "B"], times, valence, item_ids=["a", "b"])


def test_long_owners_are_not_quadratic():
    random = np.random.default_rng(137)
    n = 60_000
    times = np.datetime64("2026-01-01", "us") + random.integers(0, 6 * 86_400_000_000, n)  # all in one window
    ids = [f"i{k}" for k in range(n)]
    start = time.process_time()
    result = temporal_features(["A"] * n, times, random.uniform(-1, 1, n), item_ids=ids)
    assert time.process_time() - start < 10  # about .2 s on an idle core
    assert np.isfinite(result).all()
