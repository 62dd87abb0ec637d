"""What matters to a model is found where it was planted."""

from __future__ import annotations

from pathlib import Path

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest

from perceive.evaluation.insight import (
    feature_importance,
    features_plot,
    mean_weights,
    parameter_importance,
    search_history,
    search_plot,
    weights_plot,
)

NAMES = ["joy", "fear", "emb_000", "emb_001"]


def grown(outputs: int) -> tuple[lgb.Booster, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4)).astype(np.float32)
    y = 3 * x[:, 1] + x[:, 2] + x[:, 3] + 0.01 * x[:, 0]
    params = {"verbose": -1, "num_threads": 1, "num_leaves": 15}
    if outputs > 1:
        y = np.digitize(y, [-1.5, 1.5])
        params |= {"objective": "multiclass", "num_class": 3}
    return lgb.train(params, lgb.Dataset(x, y, feature_name=NAMES), 20), x


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_planted_features_matter_and_embeddings_are_one(outputs: int) -> None:
    found = feature_importance(*grown(outputs))
    assert list(found) == ["fear", "embedding (384)", "joy"]
    assert found["fear"] > 1.2 * found["embedding (384)"] > 0 and found["joy"] < 0.1 * found["fear"]


def test_shap_values_sum_to_the_answer() -> None:
    booster, x = grown(1)
    values = np.asarray(booster.predict(x, pred_contrib=True))
    np.testing.assert_allclose(values.sum(axis=1), booster.predict(x), atol=1e-9)
    rows = np.linspace(0, len(x) - 1, 500).astype(int)
    assert feature_importance(booster, x)["fear"] == pytest.approx(np.abs(values[rows, 1]).mean())


def trials(n: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rate, leaves = rng.uniform(size=(2, n))
    state = np.where(np.arange(n) % 5 == 4, "pruned", "complete")
    loss = (rate - 0.3) ** 2 + 0.001 * leaves
    return pd.DataFrame(
        {"trial": range(n), "state": state, "rmse": loss, "rate": rate, "leaves": leaves, "fixed": 7}
    )


def test_the_parameter_that_decides_is_found() -> None:
    found = parameter_importance(trials(), ["fixed", "leaves", "rate", "absent"], seed=1)
    assert list(found) == ["rate", "leaves"] and found["rate"] > 0.8
    assert sum(found.values()) == pytest.approx(1)
    assert parameter_importance(trials(4), ["rate"], seed=1) == {}


def test_the_best_so_far_never_rises() -> None:
    history = search_history(trials())
    best = [one["best"] for one in history]
    assert best == sorted(best, reverse=True)
    assert all((one["loss"] is None) == (one["state"] == "pruned") for one in history)


def test_weights_by_context() -> None:
    weights = np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    items = pd.DataFrame({"length_bucket": ["SHORT", "SHORT", "LONG"], "language": ["en"] * 3})
    found = mean_weights(weights, ["lx", "gru"], items)
    assert found["all"]["all"] == {"n": 3, "weights": {"lx": pytest.approx(0.5), "gru": pytest.approx(0.5)}}
    assert found["length_bucket"]["SHORT"]["weights"]["lx"] == pytest.approx(0.7)
    assert list(found["length_bucket"]) == ["LONG", "SHORT"]


def test_the_plots_are_drawn(tmp_path: Path) -> None:
    items = pd.DataFrame({"length_bucket": ["SHORT", "LONG"], "language": ["en", "$x$"]})
    weights_plot(tmp_path / "w.png", "valence", mean_weights(np.full((2, 2), 0.5), ["lx", "new"], items))
    features_plot(tmp_path / "f.png", "valence", {"joy": 0.1}, "all features")
    search_plot(tmp_path / "s.png", "valence", search_history(trials()), {"rate": 1.0})
    search_plot(tmp_path / "e.png", "valence", search_history(trials(3)), {})
    assert all((tmp_path / f"{name}.png").stat().st_size > 3_000 for name in "wfse")
