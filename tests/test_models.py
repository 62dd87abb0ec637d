"""Base models: the same on every run and thread count, with as many trees as were asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest

from perceive import config
from perceive.models import PARAMETERS, dataset, fit, lightgbm_parameters, training_settings

NAMES = [f"x{number}" for number in range(10)]
PARAMETERS_OF_A_MODEL: dict[str, Any] = {
    "learning_rate": 0.1,
    "num_leaves": 7,
    "max_depth": 3,
    "min_data_in_leaf": 5,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.7,
    "lambda_l1": 0.1,
    "lambda_l2": 1.0,
    "max_bin": 31,
}


def data(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 10)).astype(np.float32)
    features[rng.random(features.shape) < 0.02] = np.nan
    target = np.nan_to_num(0.5 + 0.1 * features[:, 0] - 0.05 * features[:, 1] ** 2)
    return features, np.clip(target + 0.02 * rng.normal(size=n), 0, 1)


def trained(**changes: Any) -> lgb.Booster:
    arguments: dict[str, Any] = {"trees": 20, "seed": 137, "threads": 1, **changes}
    return fit(*data(), NAMES, PARAMETERS_OF_A_MODEL, **arguments)


def without_parameters(booster: lgb.Booster) -> str:
    return booster.model_to_string().split("\nparameters:")[0]


def test_the_model_is_the_same_on_every_run_and_thread_count() -> None:
    first = without_parameters(trained())
    assert without_parameters(trained()) == first
    assert without_parameters(trained(threads=2)) == first
    assert without_parameters(trained(seed=1)) != first, "rows and columns are drawn by the seed"


def test_it_learns() -> None:
    features, target = data(seed=1)
    error = np.sqrt(np.mean((trained(trees=100).predict(features) - target) ** 2))
    assert error < 0.5 * target.std()


@pytest.mark.parametrize("trees", [1, 7, 300])
def test_fitting_never_stops_early(trees: int) -> None:
    # 300 trees overfit 400 rows by far: a search for the best round would have ended.
    booster = trained(trees=trees)
    assert booster.num_trees() == booster.current_iteration() == trees
    assert booster.best_iteration <= 0


def test_the_parameters_reach_lightgbm() -> None:
    booster = trained(trees=30)
    table = booster.trees_to_dataframe()
    leaves = table[table["split_feature"].isna()]
    assert leaves.groupby("tree_index").size().max() <= 7
    assert table["node_depth"].max() <= 4  # of nodes, the root counted
    assert booster.feature_name() == NAMES
    text = booster.model_to_string()
    for key, value in PARAMETERS_OF_A_MODEL.items():
        assert f"[{key}: {value:g}]" in text, key
    assert "[objective: regression]" in text and "[bagging_freq: 1]" in text


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_labels_must_be_finite(bad: float) -> None:
    features, target = data(50)
    target[[3, 9]] = bad
    with pytest.raises(ValueError, match="2 training labels are not finite"):
        fit(features, target, NAMES, PARAMETERS_OF_A_MODEL, trees=2, seed=0, threads=1)


def test_no_rows_are_an_error() -> None:
    features, target = data(50)
    with pytest.raises(ValueError, match="no labelled training rows"):
        fit(features[:0], target[:0], NAMES, PARAMETERS_OF_A_MODEL, trees=2, seed=0, threads=1)


@pytest.mark.parametrize("n", [2, 6])
def test_few_rows_give_their_mean(n: int) -> None:
    features, target = data(50)
    booster = fit(features[:n], target[:n], NAMES, PARAMETERS_OF_A_MODEL, trees=3, seed=0, threads=1)
    np.testing.assert_allclose(booster.predict(features), target[:n].mean(), atol=1e-6)


def test_a_constant_label_is_predicted() -> None:
    features, _ = data(100)
    booster = fit(features, np.full(100, 0.25), NAMES, PARAMETERS_OF_A_MODEL, trees=3, seed=0, threads=1)
    np.testing.assert_allclose(booster.predict(features), 0.25, atol=1e-6)


def test_unknown_parameters_are_left_out() -> None:
    found = lightgbm_parameters(
        {**PARAMETERS_OF_A_MODEL, "trees": 5, "objective": "huber"}, seed=3, threads=2
    )
    assert found.keys() >= set(PARAMETERS) and "trees" not in found
    assert (found["objective"], found["seed"], found["num_threads"]) == ("regression", 3, 2)
    assert found["deterministic"] is True and found["force_col_wise"] is True


def test_one_binning_serves_trainings_with_other_parameters() -> None:
    features, target = data()
    shared = dataset(features, target, NAMES, max_bin=31)
    for leaf_rows in (5, 50, 10):
        parameters = {**PARAMETERS_OF_A_MODEL, "min_data_in_leaf": leaf_rows}
        one = lgb.train(lightgbm_parameters(parameters, seed=1, threads=1), shared, num_boost_round=10)
        other = fit(features, target, NAMES, parameters, trees=10, seed=1, threads=1)
        assert without_parameters(one) == without_parameters(other)


def test_settings_of_a_base_model_and_of_the_tuned_one(tmp_path: Path) -> None:
    slices = config.slices(config.Settings())
    parameters, trees = training_settings(slices["models/lx"], [])
    assert trees == slices["models/lx"]["trees"]
    assert parameters == {key: slices["models/lx"][key] for key in PARAMETERS if key in slices["models/lx"]}
    assert "max_bin" in parameters and "seed" not in parameters
    best = tmp_path / "best.json"
    best.write_text(json.dumps({"parameters": PARAMETERS_OF_A_MODEL, "trees": 42, "rmse": 0.1}))
    assert training_settings(slices["models/full"], str(best)) == (PARAMETERS_OF_A_MODEL, 42)
