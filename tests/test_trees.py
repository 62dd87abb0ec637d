"""Trees as arrays decide exactly as LightGBM does, on rows made to break them."""

from __future__ import annotations

from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive.export.trees import (
    MISSING_NONE,
    MISSING_ZERO,
    ZERO_THRESHOLD,
    TreeEnsemble,
    UnsupportedModelError,
    adversarial_rows,
    float32_at_most,
)

MISSING_MODES = ({}, {"use_missing": False}, {"zero_as_missing": True})


def table(rng: np.random.Generator, n_rows: int, n_features: int) -> np.ndarray:
    """Columns of every kind: continuous, counts, sparse, constant, with NaN, infinite, tiny and huge."""
    x = rng.normal(size=(n_rows, n_features)).astype(np.float32)
    for column in range(1, n_features):  # the first stays ordinary: LightGBM wants something to split
        kind = rng.integers(8)
        if kind == 1:
            x[:, column] = rng.poisson(1.0, n_rows)
        elif kind == 2:
            x[:, column] *= rng.random(n_rows) < 0.3
        elif kind == 3:
            x[:, column] = 1
        elif kind == 4:
            x[rng.random(n_rows) < 0.3, column] = np.inf * rng.choice([-1, 1])
        elif kind == 5:
            x[:, column] *= np.float32(1e-35)
        elif kind == 6:
            x[:, column] = np.sign(x[:, column]) * np.float32(3e38) * rng.random(n_rows, dtype=np.float32)
        if rng.random() < 0.7:
            x[rng.random(n_rows) < 0.15, column] = np.nan
    return x


def target(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Depends on order, missingness and zeros of the columns, so that each kind of split is worth making."""
    ranks = np.argsort(np.argsort(np.nan_to_num(x), axis=0), axis=0) / len(x)
    weights = rng.normal(size=(3, x.shape[1]))
    return ranks @ weights[0] + np.isnan(x) @ weights[1] + (x == 0) @ weights[2] + rng.normal(0, 0.1, len(x))


def grow(
    seed: int, mode: int, trees: int, num_leaves: int, outputs: int = 1
) -> tuple[lgb.Booster, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = table(rng, int(rng.integers(30, 400)), int(rng.integers(1, 8)))
    y = np.full(len(x), 0.37) if seed % 11 == 0 else target(rng, x)
    params = {
        "verbose": -1, "num_threads": 1, "seed": seed, "num_leaves": num_leaves, "learning_rate": 0.2,
        "min_data_in_leaf": int(rng.integers(1, 10)), "objective": "regression", **MISSING_MODES[mode],
    }  # fmt: skip
    if outputs > 1:

        def objective(scores: np.ndarray, _: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
            gradient = np.reshape(scores, (len(y), outputs)) - y[:, None] * np.arange(1, outputs + 1)
            return gradient, np.ones_like(gradient)

        params |= {"objective": objective, "num_class": outputs}
    return lgb.train(params, lgb.Dataset(x, y, params=params), trees), x


grown = st.builds(
    grow,
    seed=st.integers(0, 10_000),
    mode=st.sampled_from(range(3)),
    trees=st.sampled_from([1, 2, 7, 60]),
    num_leaves=st.sampled_from([2, 3, 8, 31, 100]),
    outputs=st.sampled_from([1, 1, 3]),
)


def hard_rows(booster: lgb.Booster, x: np.ndarray, max_rows: int = 3_000) -> np.ndarray:
    ensemble = TreeEnsemble.from_lightgbm(booster)
    return np.concatenate([x, adversarial_rows(ensemble, x, np.random.default_rng(5), max_rows)])


def own_leaves(booster: lgb.Booster, x: np.ndarray) -> np.ndarray:
    return np.reshape(booster.predict(x, pred_leaf=True, num_threads=1), (len(x), -1))


@settings(max_examples=80, deadline=None)
@given(grown)
def test_every_leaf_is_lightgbms(model: tuple[lgb.Booster, np.ndarray]) -> None:
    booster, x = model
    ensemble = TreeEnsemble.from_lightgbm(booster)
    rows = hard_rows(booster, x)
    np.testing.assert_array_equal(ensemble.leaves(rows), own_leaves(booster, rows))
    own = np.reshape(booster.predict(rows, num_threads=1), (len(rows), -1))
    np.testing.assert_allclose(ensemble.raw(rows), own, rtol=1e-9, atol=1e-12)


def test_the_models_grown_here_use_every_missing_mode_and_single_leaves() -> None:
    """Without this, the property above could hold by never meeting a hard case."""
    seen, defaults, infinite, stumps = set(), set(), 0, 0
    for seed in range(24):
        ensemble = TreeEnsemble.from_lightgbm(grow(seed, seed % 3, 20, 31)[0])
        seen |= set(ensemble.missing.tolist())
        defaults |= set(zip(ensemble.missing.tolist(), ensemble.default_left.tolist(), strict=True))
        infinite += int(np.isinf(ensemble.threshold32).sum())
        stumps += int((ensemble.depth == 0).sum())
    assert seen == {0, 1, 2}
    assert {(1, True), (1, False), (2, True), (2, False)} <= defaults
    assert infinite and stumps


@pytest.mark.parametrize("mode", range(3))
def test_adversarial_rows_catch_nearest_rounding(mode: int) -> None:
    booster, x = grow(10, mode, 30, 31)
    ensemble = TreeEnsemble.from_lightgbm(booster)
    careless = replace(ensemble, threshold=ensemble.threshold.astype(np.float32).astype(np.float64))
    assert (careless.leaves(x) == own_leaves(booster, x)).mean() > 0.999, "ordinary rows hide the mistake"
    rows = adversarial_rows(ensemble, x, np.random.default_rng(0), 3_000)
    flipped = (careless.leaves(rows) != own_leaves(booster, rows)).any(axis=1)
    assert flipped.mean() > 0.05


@pytest.mark.parametrize(
    ("mode", "broken"),
    [
        (0, lambda e: replace(e, default_left=~e.default_left)),
        (0, lambda e: replace(e, missing=np.full_like(e.missing, MISSING_NONE))),
        (1, lambda e: replace(e, missing=np.full_like(e.missing, MISSING_ZERO))),
        (2, lambda e: replace(e, missing=np.full_like(e.missing, MISSING_NONE))),
    ],
)
def test_adversarial_rows_catch_a_wrong_missing_mode(mode: int, broken) -> None:
    booster, x = grow(10, mode, 30, 31)
    ensemble = TreeEnsemble.from_lightgbm(booster)
    rows = adversarial_rows(ensemble, x, np.random.default_rng(0), 3_000)
    np.testing.assert_array_equal(ensemble.leaves(rows), own_leaves(booster, rows))
    assert (broken(ensemble).leaves(rows) != own_leaves(booster, rows)).any()


def test_adversarial_rows_do_not_depend_on_how_many_are_walked_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    booster, x = grow(5, 0, 20, 8)
    ensemble = TreeEnsemble.from_lightgbm(booster)
    together = adversarial_rows(ensemble, x, np.random.default_rng(1))
    monkeypatch.setattr("perceive.export.trees.WALKED_AT_ONCE", 7 * ensemble.n_trees)
    np.testing.assert_array_equal(adversarial_rows(ensemble, x, np.random.default_rng(1)), together)


def test_adversarial_rows_keep_to_their_limit_and_need_base_rows() -> None:
    booster, x = grow(5, 0, 60, 31)
    ensemble = TreeEnsemble.from_lightgbm(booster)
    for limit in (1, 10, 500):
        rows = adversarial_rows(ensemble, x, np.random.default_rng(0), limit)
        assert 0 < len(rows) <= limit and rows.dtype == np.float32
    with pytest.raises(ValueError, match="at least one"):
        adversarial_rows(ensemble, x[:0], np.random.default_rng(0))


@given(st.floats(allow_nan=False))
def test_float32_at_most_is_the_largest(threshold: float) -> None:
    below = float32_at_most(np.array([threshold]))[0]
    assert below.dtype == np.float32 and float(below) <= threshold
    with np.errstate(over="ignore"):
        assert below == np.inf or float(np.nextafter(below, np.float32(np.inf))) > threshold


@given(st.floats(-3e-35, 3e-35))
def test_thresholds_moved_out_of_the_zero_gap_decide_alike(threshold: float) -> None:
    stump, _ = grow(1, 1, 1, 2)
    ensemble = replace(TreeEnsemble.from_lightgbm(stump), threshold=np.array([threshold]))
    tiny = np.finfo(np.float32).tiny
    assert ensemble.threshold32[0] == 0 or abs(ensemble.threshold32[0]) >= tiny
    x = np.array([0, *np.nextafter(ZERO_THRESHOLD, np.float32([1, 0])), 1.5e-35, 2.5e-35], dtype=np.float32)
    for value in (*x, *-x):
        seen = np.float32(0) if abs(value) <= ZERO_THRESHOLD else value
        assert (seen <= ensemble.threshold32[0]) == (float(seen) <= threshold)


@pytest.mark.parametrize(
    ("objective", "transform"),
    [("binary", "sigmoid"), ("multiclass", "softmax"), ("huber", "identity"), ("quantile", "identity")],
)
def test_objectives_that_are_served(objective: str, transform: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    params = {"objective": objective, "verbose": -1, "num_threads": 1, "num_leaves": 4}
    if objective == "multiclass":
        params["num_class"] = 3
    booster = lgb.train(params, lgb.Dataset(x, rng.integers(0, 2, 200)), 4)
    ensemble = TreeEnsemble.from_lightgbm(booster)
    assert ensemble.transform == transform
    own = np.reshape(booster.predict(x, raw_score=True), (len(x), -1))
    np.testing.assert_allclose(ensemble.raw(x), own, atol=1e-12)


def test_random_forests_average_and_early_stopping_counts() -> None:
    booster, x = grow(7, 0, 30, 8)
    booster.best_iteration = 5
    assert TreeEnsemble.from_lightgbm(booster).n_trees == 5 == own_leaves(booster, x).shape[1]
    rng = np.random.default_rng(0)
    params = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5, "verbose": -1, "num_threads": 1}
    forest = lgb.train(params, lgb.Dataset(x, rng.normal(size=len(x))), 7)
    np.testing.assert_allclose(TreeEnsemble.from_lightgbm(forest).raw(x)[:, 0], forest.predict(x), atol=1e-12)


@pytest.mark.parametrize(
    ("params", "dataset", "message"),
    [
        ({"linear_tree": True}, {}, "linear_tree=false"),
        ({"min_data_per_group": 1, "cat_smooth": 0}, {"categorical_feature": [0]}, "categorical"),
        ({"objective": "poisson"}, {}, "poisson"),
        ({"objective": "tweedie"}, {}, "tweedie"),
        ({"objective": "regression", "reg_sqrt": True}, {}, "sqrt"),
        ({"objective": "cross_entropy"}, {}, "cross_entropy"),
        ({"objective": "multiclassova", "num_class": 3}, {}, "multiclassova"),
    ],
)
def test_what_cannot_be_exact_is_refused(params: dict, dataset: dict, message: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)).astype(np.float32)
    x[:, 0] = rng.integers(0, 5, 300)
    y = (x[:, 0] % 2 == 0).astype(float)
    params = {"verbose": -1, "num_threads": 1, "num_leaves": 4, **params}
    booster = lgb.train(params, lgb.Dataset(x, y, params=params, **dataset), 2)
    with pytest.raises(UnsupportedModelError, match=message):
        TreeEnsemble.from_lightgbm(booster)


def test_damaged_models_are_refused() -> None:
    text = grow(2, 0, 2, 8)[0].model_to_string()
    with pytest.raises(UnsupportedModelError, match="not a LightGBM"):
        TreeEnsemble.from_text("something else")
    cut = text.replace("left_child=", "left_child=9 ", 1)
    with pytest.raises(UnsupportedModelError, match="left_child"):
        TreeEnsemble.from_text(cut)


def test_input_of_another_type_or_width_is_an_error() -> None:
    booster, x = grow(2, 0, 2, 8)
    ensemble = TreeEnsemble.from_lightgbm(booster)
    with pytest.raises(ValueError, match="float32"):
        ensemble.leaves(x.astype(np.float64))
    with pytest.raises(ValueError, match="columns"):
        ensemble.on_columns(range(ensemble.n_features + 1), 50)
    with pytest.raises(ValueError, match="columns must lie"):
        ensemble.on_columns(range(ensemble.n_features), ensemble.n_features - 1)


@pytest.mark.parametrize("mode", range(3))
def test_plain_onnxmltools_goes_wrong_where_this_does_not(mode: int) -> None:
    """A second opinion, equal on ordinary rows unless zeros are missing; and why not to go through ONNX."""
    import onnxmltools
    import onnxruntime
    from onnxmltools.convert.common.data_types import FloatTensorType

    rng = np.random.default_rng(mode)
    x = rng.normal(size=(400, 4)).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = 0
    x[rng.random(x.shape) < 0.2] = np.nan
    params = {"objective": "regression", "verbose": -1, "num_threads": 1, **MISSING_MODES[mode]}
    booster = lgb.train(params, lgb.Dataset(x, target(rng, x), params=params), 20)
    ensemble = TreeEnsemble.from_lightgbm(booster)
    model = onnxmltools.convert_lightgbm(
        booster, initial_types=[("x", FloatTensorType([None, 4]))], zipmap=False
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = adversarial_rows(ensemble, x, rng, 2_000)

    def wrong(predict, rows: np.ndarray) -> float:
        return float((np.abs(predict(rows).ravel() - booster.predict(rows)) > 1e-5).mean())

    def onnx(rows: np.ndarray) -> np.ndarray:
        return session.run(None, {"x": rows})[0]

    assert wrong(ensemble.raw, x) == wrong(ensemble.raw, rows) == 0
    assert wrong(onnx, rows) > 0.03
    if mode < 2:
        assert wrong(onnx, x) == 0
