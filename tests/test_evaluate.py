"""Baselines, the whole evaluation of a regression and of a sequence, and their plots."""

from __future__ import annotations

import json
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from sklearn.linear_model import Ridge

from perceive.evaluation import evaluate, plots
from perceive.evaluation.baselines import (
    BASELINE_LABELS,
    BASELINES,
    LAG_BASELINES,
    baselines,
    lag_baselines,
    vader_scores,
)
from perceive.evaluation.bootstrap import OwnerBootstrap, bootstrap_interval, paired_gain
from perceive.evaluation.evaluate import evaluate_regression, evaluate_sequence
from perceive.evaluation.gates import DEFAULT_GATES, Gate, acceptance_table
from perceive.evaluation.metrics import regression_metrics
from perceive.evaluation.timelines import (
    HISTORY_BUCKETS,
    history_bucket,
    history_lengths,
    temporal_gain,
    temporal_metrics,
)
from perceive.ledger import owner_key

GOOD, BAD = "I love this wonderful happy day", "I hate this terrible awful day"


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def simulate(n=780, n_owners=120, seed=0, prefix="t"):
    """Items whose text, base models and blend all follow one latent value."""
    rng = np.random.default_rng(seed)
    owner = np.sort(rng.integers(n_owners, size=n))
    latent = np.clip(0.5 + rng.normal(0, 0.12, n_owners)[owner] + rng.normal(0, 0.17, n), 0, 1)
    frame = pd.DataFrame(
        {
            "item_id": [f"{prefix}{i:05d}" for i in range(n)],
            "owner_id": [f"{prefix}-secret-owner-{o}" for o in owner],
            "timestamp": pd.Timestamp("2025-01-01", tz="UTC")
            + pd.to_timedelta(rng.uniform(0, 90, n), unit="D"),
            "text": np.where(latent > 0.5, GOOD, BAD),
            "observed": np.clip(latent + rng.normal(0, 0.05, n), 0, 1),
            "length_bucket": rng.choice(["SHORT", "MEDIUM", "LONG"], n, p=[0.2, 0.5, 0.3]),
            "language": rng.choice(["en", "hinglish"], n, p=[0.7, 0.3]),
            "category": rng.choice(["sarcasm", "abuse", "profanity"], n),
            "risk_level": None,
        }
    )
    for base, noise in {"lx": 0.12, "eb": 0.09, "tm": 0.19, "full": 0.075}.items():
        frame[base] = (latent + rng.normal(0, noise, n)).astype(np.float32)
    frame["raw"] = 0.5 + 0.6 * (0.2 * frame["lx"] + 0.3 * frame["eb"] + 0.5 * frame["full"] - 0.5)
    frame["calibrated"] = 0.5 + (frame["raw"] - 0.5) / 0.6
    return frame


@pytest.fixture(scope="module")
def test_rows():
    return simulate()


@pytest.fixture(scope="module")
def train_rows():
    return simulate(1000, 150, seed=1, prefix="r")


@pytest.fixture(scope="module")
def result(test_rows, train_rows):
    return evaluate_regression(test_rows, variable="valence", train=train_rows, n_bootstrap=200)


# --- baselines


def items(rows):
    frame = pd.DataFrame(rows, columns=["item_id", "owner_id", "day", "observed"])
    frame["timestamp"] = pd.Timestamp("2025-01-01", tz="UTC") + pd.to_timedelta(frame.pop("day"), unit="D")
    return frame


TRAIN = items([("x1", "x", 0, 0.2), ("x2", "x", 1, 0.4)])


def test_running_mean_and_last_value_know_strictly_earlier_items_only():
    # in no order; a2 and a3 are of one instant, so neither knows the other
    test = items(
        [
            ("a4", "a", 3, 0.9),
            ("b1", "b", 2, 0.5),
            ("a1", "a", 1, 0.1),
            ("a3", "a", 2, 0.7),
            ("a2", "a", 2, 0.3),
        ]
    )
    found = baselines("valence", TRAIN, test)
    assert set(found) == set(BASELINES) - {"vader"}
    np.testing.assert_allclose(found["mean"], 0.3)
    np.testing.assert_allclose(found["owner_mean"], [1.1 / 3, 0.3, 0.3, 0.1, 0.1])
    np.testing.assert_allclose(found["last_value"], [0.5, 0.3, 0.3, 0.1, 0.1])


def test_history_adds_what_was_known_of_the_owner_before():
    test = items([("a1", "a", 1, 0.1), ("a2", "a", 3, 0.3)])
    history = items(
        [
            ("h1", "a", 0, 0.8),
            ("h2", "a", 2, 0.6),
            ("h3", "a", 9, 1.0),
            ("h4", "z", 0, 0.0),
            ("a1", "a", 0, 0.9),
        ]
    )
    found = baselines("valence", TRAIN, test, history)
    np.testing.assert_allclose(found["owner_mean"], [0.8, (0.8 + 0.1 + 0.6) / 3])
    np.testing.assert_allclose(found["last_value"], [0.8, 0.6])


def test_no_baseline_sees_an_items_own_or_a_later_label(test_rows, train_rows):
    columns = ["item_id", "owner_id", "timestamp", "observed", "text"]
    test = test_rows[columns].head(60)
    before = baselines("valence", train_rows[columns], test)
    for position in (0, 17, 59):
        changed = test.copy()
        item = changed.iloc[position]
        later = (changed["owner_id"] == item["owner_id"]) & (changed["timestamp"] >= item["timestamp"])
        changed.loc[later, "observed"] = 1 - changed.loc[later, "observed"]
        after = baselines("valence", train_rows[columns], changed)
        for name in BASELINES:
            assert before[name][position] == after[name][position], name


def test_vader_is_rescaled_on_train_and_reads_arousal_as_intensity():
    assert vader_scores(pd.Series([GOOD]))[0] > 0.8 > 0.2 > vader_scores(pd.Series([BAD]))[0]
    assert vader_scores(pd.Series([BAD]), intensity=True)[0] > 0.6
    assert vader_scores(pd.Series(["the table"]), intensity=True)[0] == 0
    train = items([("x1", "x", 0, 0.4), ("x2", "x", 1, 0.6)]).assign(text=[BAD, GOOD])
    test = items([("a1", "a", 0, 0.0), ("a2", "a", 1, 1.0)]).assign(text=[GOOD, BAD])
    np.testing.assert_allclose(baselines("valence", train, test)["vader"], [0.6, 0.4])
    constant = train.assign(text=GOOD)
    np.testing.assert_allclose(baselines("valence", constant, test)["vader"], [0.5, 0.5])


def test_vader_calls_strong_texts_of_either_sign_aroused():
    train = items([("x1", "x", 0, 0.2), ("x2", "x", 1, 0.8)]).assign(text=["the table", GOOD])
    test = items([("a1", "a", 0, 0.0), ("a2", "a", 1, 1.0)]).assign(text=[BAD, "the table"])
    aroused, calm = baselines("arousal", train, test)["vader"]
    assert aroused > 0.6 and calm == pytest.approx(0.2)


def test_vader_survives_a_huge_text():
    started = time.process_time()
    vader_scores(pd.Series(["but I love it and hate it " * 4000]))
    assert time.process_time() - started < 5


def test_baseline_errors():
    with pytest.raises(ValueError, match=r"history rows lack the columns \['observed'\]"):
        baselines("valence", TRAIN, TRAIN, TRAIN.drop(columns="observed"))
    with pytest.raises(ValueError, match="no train rows"):
        baselines("valence", TRAIN.head(0), TRAIN)


# --- baselines of sequences


def test_exponential_average_of_strictly_earlier_instants():
    test = items(
        [
            ("a5", "a", 4, 0.2),
            ("a4", "a", 3, 1.0),
            ("b1", "b", 2, 0.5),
            ("a1", "a", 1, 0.1),
            ("a3", "a", 2, 0.7),
            ("a2", "a", 2, 0.3),
        ]
    )
    found = lag_baselines("congruence", TRAIN, test)
    assert tuple(found) == LAG_BASELINES and set(found) < set(BASELINE_LABELS)
    after_two = 0.3 * 0.5 + 0.7 * 0.1  # a2 and a3 are of one instant and count as one step
    np.testing.assert_allclose(found["ema"], [0.3 * 1.0 + 0.7 * after_two, after_two, 0.3, 0.3, 0.1, 0.1])
    shared = baselines("congruence", TRAIN, test)
    for name in ("mean", "owner_mean", "last_value"):
        np.testing.assert_array_equal(found[name], shared[name])


def lagged(frame, mean):
    """What the ridge knows, one item at a time."""
    rows = []
    for _, item in frame.iterrows():
        past = frame[(frame["owner_id"] == item["owner_id"]) & (frame["timestamp"] < item["timestamp"])]
        steps = past.groupby("timestamp")["observed"].mean()
        ema = mean
        for number, value in enumerate(steps):
            ema = value if number == 0 else 0.3 * value + 0.7 * ema
        hours = (item["timestamp"] - steps.index[-1]) / pd.Timedelta(hours=1) if len(steps) else 0
        last = [steps.iloc[-lag] if len(steps) >= lag else mean for lag in (1, 2, 3)]
        known = [float(len(steps) >= lag) for lag in (1, 2, 3)]
        running = past["observed"].mean() if len(past) else mean
        rows.append([*last, running, ema, *known, np.log1p(hours), np.log1p(len(past))])
    return np.array(rows)


def wandering(n, n_owners, seed, prefix):
    """Owners whose labels drift, some items at one instant."""
    rng = np.random.default_rng(seed)
    rows, level = [], rng.uniform(0.2, 0.8, n_owners)
    for i in range(n):
        owner = int(rng.integers(n_owners))
        level[owner] = np.clip(level[owner] + rng.normal(0, 0.1), 0, 1)
        rows.append((f"{prefix}{i:04d}", f"{prefix}{owner}", i // 4, level[owner]))
    return items(rows)


def test_ridge_is_fitted_on_the_lags_of_train_and_reads_those_of_test():
    train, test = wandering(300, 10, 0, "r"), wandering(100, 6, 1, "t").sample(frac=1, random_state=0)
    mean = train["observed"].mean()
    ridge = Ridge().fit(lagged(train, mean), train["observed"])
    expected = np.clip(ridge.predict(lagged(test, mean)), 0, 1)
    found = lag_baselines("congruence", train, test)
    np.testing.assert_allclose(found["ridge_lags"], expected, atol=1e-9)
    error = {name: np.sqrt(np.mean((values - test["observed"]) ** 2)) for name, values in found.items()}
    assert min(error, key=error.get) in ("ridge_lags", "last_value")
    assert error["ridge_lags"] < 0.8 * error["mean"]


def test_ridge_stays_on_the_scale():
    rising = items([(f"x{i}", f"x{i // 2}", i % 2, float(i % 2)) for i in range(200)])
    test = items([("a1", "a", 0, 1.0), ("a2", "a", 500, 1.0), ("a3", "a", 501, 0.0), ("a4", "a", 502, 0.5)])
    found = lag_baselines("congruence", rising, test)["ridge_lags"]
    assert found.min() >= 0 and found.max() == 1


TIMELINES = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.sampled_from([0.0, 0.2, 0.7, 1.0]), st.booleans()),
    min_size=1,
    max_size=15,
)


@settings(max_examples=60)
@given(TIMELINES, st.data())
def test_no_later_or_simultaneous_label_changes_a_lag_baseline(timeline, data):
    rows = items([(f"i{i:02d}", owner, day, value) for i, (owner, day, value, _) in enumerate(timeline)])
    tested = np.array([known for *_, known in timeline])
    if not tested.any():
        tested[0] = True
    chosen = data.draw(st.sampled_from(np.flatnonzero(tested).tolist()))
    item = rows.loc[chosen]
    changed = rows.copy()
    unseen = (rows["owner_id"] != item["owner_id"]) | (rows["timestamp"] >= item["timestamp"])
    changed.loc[unseen, "observed"] = 1 - changed.loc[unseen, "observed"]
    train = wandering(30, 3, 2, "r")
    before, after = (
        lag_baselines("congruence", train, frame[tested], frame[~tested]) for frame in (rows, changed)
    )
    position = int(tested[:chosen].sum())
    for name in LAG_BASELINES:
        assert before[name][position] == after[name][position], name


def test_an_earlier_label_does_change_the_lag_baselines():
    test = items([("a1", "a", 0, 0.1), ("a2", "a", 1, 0.5)])
    train = wandering(100, 5, 3, "r")
    before = lag_baselines("congruence", train, test)
    after = lag_baselines("congruence", train, test.assign(observed=[0.9, 0.5]))
    for name in set(LAG_BASELINES) - {"mean"}:
        assert before[name][0] == after[name][0] and before[name][1] < after[name][1], name


def test_lag_baselines_of_one_owner_do_not_grow_quadratically():
    train = items([(f"x{i}", "x", i, i % 7 / 7) for i in range(10_000)])
    test = items([(f"a{i}", "a", i, i % 5 / 5) for i in range(10_000)])
    started = time.process_time()
    lag_baselines("congruence", train, test)
    assert time.process_time() - started < 1.5  # about .1 s on an idle core


@pytest.mark.parametrize("rows", [0, 1])
def test_lag_baselines_of_few_rows(rows):
    found = lag_baselines("congruence", TRAIN.head(1), items([("a1", "a", 0, 0.9)]).head(rows))
    for name, values in found.items():
        np.testing.assert_allclose(values, [0.2] * rows, err_msg=name)
    with pytest.raises(ValueError, match="no train rows"):
        lag_baselines("congruence", TRAIN.head(0), TRAIN)
    with pytest.raises(ValueError, match=r"test rows lack the columns \['timestamp'\]"):
        lag_baselines("congruence", TRAIN, TRAIN.drop(columns="timestamp"))


# --- the evaluation


def test_result_is_strict_json_without_owners_or_texts(result):
    text = json.dumps(result, allow_nan=False)
    assert json.loads(text) == result
    assert "secret-owner" not in text and "terrible" not in text and "t00000" not in text


def test_numbers_are_those_of_the_parts(result, test_rows):
    observed, owners = test_rows["observed"], test_rows["owner_id"]
    assert (result["n"], result["owners"]) == (780, owners.nunique())
    for name in ("calibrated", "raw"):
        values = {metric: of["value"] for metric, of in result["metrics"][name].items()}
        assert values == pytest.approx(regression_metrics(observed, test_rows[name]))
    interval = bootstrap_interval(observed, test_rows["calibrated"], owners, "rmse", n=200)
    found = result["metrics"]["calibrated"]["rmse"]
    assert (found["low"], found["high"]) == pytest.approx(interval)
    assert result["best_base"] == "full"
    gain = paired_gain(observed, test_rows["raw"], test_rows["full"], owners, n=200)
    assert result["blend_gain"] == pytest.approx(gain._asdict())
    best = result["best_baseline"]
    assert result["baselines"][best]["rmse"]["value"] == min(
        b["rmse"]["value"] for b in result["baselines"].values()
    )
    assert result["baseline_gain"]["value"] == pytest.approx(
        1 - found["value"] / result["baselines"][best]["rmse"]["value"]
    )
    assert set(result["bases"]) == set(evaluate.BASES) and set(result["baselines"]) == set(BASELINES)
    assert result["baselines"]["mean"]["pearson"] == {"value": None, "low": None, "high": None}
    assert result["noise_ceiling"] is None


def test_slices(result, test_rows):
    assert list(result["slices"]) == ["length_bucket", "language", "category"]  # no risk level is known
    assert list(result["slices"]["length_bucket"]) == ["SHORT", "MEDIUM", "LONG"]
    short = test_rows[test_rows["length_bucket"] == "SHORT"]
    found = result["slices"]["length_bucket"]["SHORT"]
    assert (found["n"], found["owners"]) == (len(short), short["owner_id"].nunique())
    expected = regression_metrics(short["observed"], short["calibrated"])
    assert {name: of["value"] for name, of in found["metrics"].items()} == pytest.approx(expected)
    assert sum(part["n"] for part in result["slices"]["category"].values()) == 780


def test_slices_too_small_to_judge_have_only_their_size(test_rows, train_rows):
    frame = test_rows.copy()
    frame["category"] = "rest"
    frame.loc[frame.index[:19], "category"] = "few rows"
    two = frame["owner_id"].isin(frame["owner_id"].unique()[-2:])
    frame["language"] = np.where(two, "two owners", "en")
    frame = pd.concat([frame, *(frame[two].assign(item_id=frame["item_id"] + mark) for mark in "abcd")])
    assert (frame["language"] == "two owners").sum() >= 20
    found = evaluate_regression(frame, variable="valence", train=train_rows, n_bootstrap=5)["slices"]
    assert found["category"]["few rows"].keys() == {"n", "owners"}
    assert found["language"]["two owners"].keys() == {"n", "owners"}
    assert "metrics" in found["category"]["rest"]


def test_reliability_before_and_after(result):
    for name in ("raw", "calibrated"):
        bins = result["reliability"][name]
        assert sum(b["n"] for b in bins) == 780 and len(bins) == 10
    assert result["metrics"]["calibrated"]["ece"]["value"] < result["metrics"]["raw"]["ece"]["value"]


def test_gates_are_judged_on_the_calibrated_answer(result, test_rows, train_rows):
    table = acceptance_table({"valence": result})
    assert table["metric"].tolist() == [gate.metric for gate in DEFAULT_GATES["valence"]]
    assert table.loc[0, "value"] == result["metrics"]["calibrated"]["rmse"]["value"]
    gates = [
        Gate("valence", "rmse", "<=", 0.0),
        Gate("valence", "rmse", "<=", 1.0),
        Gate("arousal", "rmse", "<=", 1.0),
    ]
    own = evaluate_regression(test_rows, variable="valence", train=train_rows, gates=gates, n_bootstrap=20)
    assert [gate["verdict"] for gate in own["gates"]] == ["fail", "pass"]


def test_row_order_does_not_matter(result, test_rows, train_rows):
    shuffled = test_rows.sample(frac=1, random_state=3)
    again = evaluate_regression(shuffled, variable="valence", train=train_rows, n_bootstrap=200)
    flat_a, flat_b = (pd.json_normalize(json.loads(json.dumps(r))) for r in (result, again))
    shared = [c for c in flat_a if pd.api.types.is_numeric_dtype(flat_a[c])]
    assert len(shared) > 300
    np.testing.assert_allclose(flat_a[shared].to_numpy(float), flat_b[shared].to_numpy(float), rtol=1e-9)


def test_published_split_lets_the_baselines_know_train_items_of_test_owners(test_rows):
    known = test_rows["item_id"].isin(test_rows["item_id"].sample(frac=0.5, random_state=0))
    train, frame = test_rows[known], test_rows[~known]
    shared = evaluate_regression(frame, variable="valence", train=train, n_bootstrap=5)
    none = evaluate_regression(frame, variable="valence", train=train, history=train.head(0), n_bootstrap=5)
    assert (
        shared["baselines"]["owner_mean"]["pearson"]["value"]
        > none["baselines"]["owner_mean"]["pearson"]["value"]
    )


@pytest.mark.parametrize("rows", [0, 1, 2, 12])
def test_tiny_test_splits(test_rows, train_rows, rows):
    found = evaluate_regression(test_rows.head(rows), variable="valence", train=train_rows, n_bootstrap=10)
    json.dumps(found, allow_nan=False)
    assert found["n"] == rows
    table = acceptance_table({"valence": found})
    if rows < 2:
        assert set(table["verdict"]) == {"undecided"}
        assert table["note"].notna().all()


def test_errors_name_the_column_and_the_item(test_rows, train_rows):
    with pytest.raises(ValueError, match=r"lack the columns \['eb'\]"):
        evaluate_regression(test_rows.drop(columns="eb"), variable="valence", train=train_rows)
    broken = test_rows.copy()
    broken.loc[5, "raw"] = np.nan
    with pytest.raises(ValueError, match="raw is not finite in 1 test rows, first item_id t00005"):
        evaluate_regression(broken, variable="valence", train=train_rows)
    with pytest.raises(ValueError, match="1 test rows of valence repeat an item_id"):
        evaluate_regression(
            pd.concat([test_rows, test_rows.head(1)]), variable="valence", train=train_rows, n_bootstrap=5
        )


def test_speed(test_rows, train_rows):
    started = time.process_time()
    evaluate_regression(test_rows, variable="valence", train=train_rows)
    assert time.process_time() - started < 10  # about 1.5 s on an idle core


# --- the evaluation of a sequence


def simulate_sequence(n=700, n_owners=40, seed=0, prefix="s"):
    """As `simulate`, with labels that drift within each owner, a GRU, and the GRU without history."""
    frame = simulate(n, n_owners, seed, prefix).sort_values(["owner_id", "timestamp"], ignore_index=True)
    rng = np.random.default_rng(seed + 100)
    drift = frame.groupby("owner_id")["observed"].transform(lambda values: values.ewm(alpha=0.4).mean())
    frame["observed"] = np.clip(drift + rng.normal(0, 0.02, n), 0, 1)
    for column, noise in {"gru": 0.06, "text_alone": 0.12}.items():
        frame[column] = frame["observed"] + rng.normal(0, noise, n)
    frame["raw"] = 0.5 + 0.6 * (frame["gru"] - 0.5)
    frame["calibrated"] = frame["gru"] + rng.normal(0, 0.01, n)
    frame["history"] = history_bucket(
        history_lengths(frame["owner_id"], frame["timestamp"], frame["item_id"])
    )
    frame["owner"] = np.where(frame["owner_id"].str.contains("[0-4]$"), "seen", "unseen")
    return frame


@pytest.fixture(scope="module")
def sequence_rows():
    return simulate_sequence()


@pytest.fixture(scope="module")
def sequence_train():
    return simulate_sequence(900, 50, seed=1, prefix="r")


@pytest.fixture(scope="module")
def sequence_result(sequence_rows, sequence_train):
    return evaluate_sequence(sequence_rows, variable="congruence", train=sequence_train, n_bootstrap=100)


def test_sequence_result_is_that_of_a_regression_and_more(sequence_result, sequence_rows, sequence_train):
    text = json.dumps(sequence_result, allow_nan=False)
    assert json.loads(text) == sequence_result
    assert "secret-owner" not in text and "terrible" not in text and "s00000" not in text
    bases = (*evaluate.BASES, "gru")
    plain = evaluate_regression(
        sequence_rows, variable="congruence", train=sequence_train, bases=bases, n_bootstrap=100
    )
    assert (plain["kind"], sequence_result["kind"]) == ("regression", "sequence")
    assert set(sequence_result) - set(plain) == {
        "lag_gain", "best_lag", "history_gain", "history_gain_temporal_r",
    }  # fmt: skip
    assert "temporal_r" not in plain["metrics"]["calibrated"]
    for name in ("calibrated", "raw"):
        assert plain["metrics"][name].items() <= sequence_result["metrics"][name].items()
    for base in bases:
        assert plain["bases"][base].items() <= sequence_result["bases"][base].items()
    for name in ("n", "owners", "observed", "bootstrap", "best_base", "blend_gain", "reliability"):
        assert plain[name] == sequence_result[name]
    assert set(sequence_result["baselines"]) == {*LAG_BASELINES, "vader", "text_alone"}
    for name in BASELINES:
        assert plain["baselines"][name].items() <= sequence_result["baselines"][name].items()


def test_temporal_metrics_stand_beside_the_others(sequence_result, sequence_rows):
    owners, observed = sequence_rows["owner_id"], sequence_rows["observed"]
    for part, name in (
        ("metrics", "calibrated"), ("metrics", "raw"), ("bases", "lx"), ("baselines", "text_alone"),
    ):  # fmt: skip
        for metric, value in temporal_metrics(observed, sequence_rows[name], owners).items():
            found = sequence_result[part][name][metric]
            assert found["value"] == pytest.approx(value)
            assert found["low"] < value < found["high"]
    constant = sequence_result["baselines"]["mean"]
    assert constant["temporal_r"]["value"] == 0 and constant["between_r"]["value"] is None


def test_gains_of_a_sequence(sequence_result, sequence_rows):
    observed, owners = sequence_rows["observed"], sequence_rows["owner_id"]
    rmse = {name: of["rmse"]["value"] for name, of in sequence_result["baselines"].items()}
    best = sequence_result["best_lag"]
    assert best == min(LAG_BASELINES, key=rmse.__getitem__)
    model = sequence_result["metrics"]["calibrated"]["rmse"]["value"]
    gain = sequence_result["lag_gain"]
    assert gain["value"] == pytest.approx(1 - model / rmse[best]) and gain["low"] < gain["value"]
    gru, alone = sequence_rows["gru"], sequence_rows["text_alone"]
    expected = paired_gain(observed, gru, alone, owners, n=100)
    assert sequence_result["history_gain"] == pytest.approx(expected._asdict())
    assert expected.low > 0.3  # the GRU has half the error
    expected = temporal_gain(OwnerBootstrap(owners, n=100), observed, gru, alone)
    assert sequence_result["history_gain_temporal_r"] == pytest.approx(expected._asdict())
    assert expected.low > 0


def test_a_network_that_history_confuses_has_a_negative_gain(sequence_rows, sequence_train):
    frame = sequence_rows.rename(columns={"gru": "text_alone", "text_alone": "gru"})
    found = evaluate_sequence(frame, variable="congruence", train=sequence_train, n_bootstrap=50)
    assert found["history_gain"]["high"] < 0 and found["history_gain_temporal_r"]["high"] < 0
    verdicts = {gate["metric"]: gate["verdict"] for gate in found["gates"]}
    assert verdicts["history_gain"] == "fail" and verdicts["lag_gain"] == "pass"


def test_text_alone_is_no_lag(sequence_rows, sequence_train):
    frame = sequence_rows.assign(text_alone=sequence_rows["observed"])
    found = evaluate_sequence(frame, variable="congruence", train=sequence_train, n_bootstrap=10)
    assert found["best_baseline"] == "text_alone" and found["best_lag"] in LAG_BASELINES
    assert found["history_gain"] == {"value": None, "low": None, "high": None}  # over a perfect reference


def test_slices_by_history_and_by_owner(sequence_result, sequence_rows):
    slices = sequence_result["slices"]
    assert list(slices) == ["length_bucket", "language", "category", "history", "owner"]
    assert tuple(slices["history"]) == HISTORY_BUCKETS and list(slices["owner"]) == ["seen", "unseen"]
    first = slices["history"]["1"]
    assert first["n"] == first["owners"] == 40
    assert first["metrics"]["temporal_r"] == {"value": None, "low": None, "high": None}
    long = sequence_rows[sequence_rows["history"] == "10+"]
    found = slices["history"]["10+"]
    expected = temporal_metrics(long["observed"], long["calibrated"], long["owner_id"])
    assert {name: found["metrics"][name]["value"] for name in expected} == pytest.approx(expected)
    expected = temporal_metrics(long["observed"], long["text_alone"], long["owner_id"])
    assert {name: found["baselines"]["text_alone"][name] for name in expected} == pytest.approx(expected)


def test_without_the_columns_there_are_no_such_slices(sequence_rows, sequence_train):
    frame = sequence_rows.drop(columns=["history", "owner"])
    found = evaluate_sequence(frame, variable="comparator", train=sequence_train, n_bootstrap=5)
    assert list(found["slices"]) == ["length_bucket", "language", "category"]


def test_gates_of_a_sequence(sequence_result):
    table = acceptance_table({"congruence": sequence_result}).set_index("metric")
    assert list(table.index) == ["rmse", "temporal_r", "lag_gain", "history_gain"]
    temporal = {name: of["temporal_r"]["value"] for name, of in sequence_result["baselines"].items()}
    best = max((name for name in temporal if temporal[name] is not None), key=temporal.__getitem__)
    assert table.loc["temporal_r", ["baseline", "baseline_value"]].tolist() == [best, temporal[best]]
    for metric in ("lag_gain", "history_gain"):
        assert table.loc[metric, "value"] == sequence_result[metric]["value"]
        assert table.loc[metric, "verdict"] == "pass" and pd.isna(table.loc[metric, "baseline"])
    gates = [Gate.parse("congruence", "rmse[history=10+] <= 0.5"), Gate.parse("congruence", "between_r >= 0")]
    again = acceptance_table({"congruence": sequence_result}, {"congruence": gates})
    assert again["verdict"].tolist() == ["pass", "pass"]
    assert again.loc[0, "value"] == sequence_result["slices"]["history"]["10+"]["metrics"]["rmse"]["value"]


@pytest.mark.parametrize("rows", [0, 1, 2, 12])
def test_tiny_test_splits_of_a_sequence(sequence_rows, sequence_train, rows, tmp_path):
    frame = sequence_rows.head(rows)
    found = evaluate_sequence(frame, variable="congruence", train=sequence_train, n_bootstrap=10)
    json.dumps(found, allow_nan=False)
    assert {gate["verdict"] for gate in found["gates"]} == {"undecided"}
    assert all(path.stat().st_size > 5000 for path in draw_sequence(tmp_path, frame, found))


def test_a_sequence_needs_the_network_without_history(sequence_rows, sequence_train):
    with pytest.raises(ValueError, match=r"lack the columns \['text_alone'\]"):
        evaluate_sequence(
            sequence_rows.drop(columns="text_alone"), variable="congruence", train=sequence_train
        )
    with pytest.raises(ValueError, match="the gain of history of congruence needs 'gru' among the bases"):
        evaluate_sequence(sequence_rows, variable="congruence", train=sequence_train, bases=evaluate.BASES)
    broken = sequence_rows.assign(text_alone=sequence_rows["text_alone"].where(sequence_rows.index != 3))
    with pytest.raises(ValueError, match="text_alone is not finite in 1 test rows"):
        evaluate_sequence(broken, variable="congruence", train=sequence_train)


def draw_sequence(folder, frame, found, suffix=".png"):
    paths = [folder / f"{name}{suffix}" for name in ("timelines", "history")]
    plots.timeline_plot(paths[0], "congruence", frame, salt="pepper")
    model = found["metrics"]["calibrated"]
    plots.history_plot(paths[1], "congruence", found["n"], found["slices"], model, found["baselines"])
    return paths


def test_plots_of_a_sequence(sequence_result, sequence_rows, tmp_path):
    first = draw_sequence(tmp_path / "a", sequence_rows, sequence_result)
    shuffled = sequence_rows.sample(frac=1, random_state=0)
    again = draw_sequence(tmp_path / "b", shuffled, sequence_result)
    for one, two in zip(first, again, strict=True):
        assert imread(one).shape[1] > 600 and imread(one)[..., :3].std() > 0.05
        assert one.read_bytes() == two.read_bytes()
    timelines, history = (
        path.read_text() for path in draw_sequence(tmp_path, sequence_rows, sequence_result, ".svg")
    )
    assert "secret-owner" not in timelines + history
    sizes = sequence_rows["owner_id"].value_counts()
    drawn = [owner for owner in sizes.index if owner_key(owner, "pepper")[:8] in timelines]
    assert len(drawn) == 6 and sizes[drawn].min() >= sizes.drop(drawn).max()
    assert "n = 700, 40 owners" in timelines and "n = 700" in history
    for label in ("Perceive", BASELINE_LABELS[sequence_result["best_lag"]], "text alone", "(n=40)"):
        assert label in history


def test_timelines_of_many_items_end_with_the_last(sequence_rows, tmp_path):
    n = 300
    many = pd.concat([sequence_rows] * 2, ignore_index=True).head(n).assign(owner_id="one")
    many["timestamp"] = pd.Timestamp("2025-01-01", tz="UTC") + pd.to_timedelta(np.arange(n), unit="h")
    plots.timeline_plot(tmp_path / "many.svg", "congruence", many, n_owners=1, salt="pepper")
    assert "last 200 of 300 items" in (tmp_path / "many.svg").read_text()


# --- plots


def draw_all(folder, frame, found, suffix=".png"):
    model, n = found["metrics"]["calibrated"], found["n"]
    paths = [folder / f"{name}{suffix}" for name in ("reliability", "residuals", "slices", "baselines")]
    plots.reliability_plot(paths[0], "valence", n, found["reliability"], found["metrics"])
    plots.residual_plot(paths[1], "valence", frame["observed"], frame["calibrated"])
    plots.slice_plot(paths[2], "valence", n, model, found["slices"], DEFAULT_GATES["valence"])
    plots.baseline_plot(paths[3], "valence", n, model, found["bases"], found["baselines"], found["owners"])
    return paths


def test_plots_are_pictures_and_reproducible(result, test_rows, tmp_path):
    first = draw_all(tmp_path / "a", test_rows, result)
    again = draw_all(tmp_path / "b", test_rows, result)
    for one, two in zip(first, again, strict=True):
        picture = imread(one)
        assert picture.shape[0] > 400 and picture.shape[1] > 600
        assert picture[..., :3].std() > 0.05
        assert one.read_bytes() == two.read_bytes()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        path.name for path in first
    }  # no temporary files


def test_plots_as_svg_say_variable_and_size_and_name_no_owner(result, test_rows, tmp_path):
    for path in draw_all(tmp_path, test_rows, result, ".svg"):
        text = path.read_text()
        assert "valence" in text and "n = 780" in text
        assert "secret-owner" not in text
    again = tmp_path / "again.svg"
    plots.reliability_plot(again, "valence", 780, result["reliability"], result["metrics"])
    assert again.read_bytes() == (tmp_path / "reliability.svg").read_bytes()


@pytest.mark.parametrize("rows", [0, 1, 12])
def test_plots_of_tiny_splits(test_rows, train_rows, rows, tmp_path):
    frame = test_rows.head(rows).copy()
    frame["category"] = "a <b>long</b> name $x$ of a user's own category"
    found = evaluate_regression(frame, variable="valence", train=train_rows, n_bootstrap=10)
    assert all(path.stat().st_size > 5000 for path in draw_all(tmp_path, frame, found))


def test_a_failed_plot_leaves_the_old_one(tmp_path):
    path = tmp_path / "residuals.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="equally long"):
        plots.residual_plot(path, "valence", [0.1], [0.1, 0.2])
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_many_rows_become_a_density(tmp_path):
    rng = np.random.default_rng(0)
    observed = rng.random(4000)
    plots.residual_plot(
        tmp_path / "many.png", "valence", observed, np.clip(observed + rng.normal(0, 0.1, 4000), 0, 1)
    )
    assert (tmp_path / "many.png").stat().st_size > 5000
