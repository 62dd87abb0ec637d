"""Baselines, the whole evaluation of a regression variable, and its plots."""

from __future__ import annotations

import json
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from perceive.evaluation import evaluate, plots
from perceive.evaluation.baselines import BASELINES, baselines, vader_scores
from perceive.evaluation.bootstrap import bootstrap_interval, paired_gain
from perceive.evaluation.evaluate import evaluate_regression
from perceive.evaluation.gates import DEFAULT_GATES, Gate, acceptance_table
from perceive.evaluation.metrics import regression_metrics

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
