"""The blender weighs the base models by context, and never at the price of the best of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from perceive import config
from perceive.blend import PathLogLoss, SquaredError, constant_scores, fit_blender
from perceive.features.matrix import CONTEXT

SETTINGS: dict[str, Any] = config.slices(config.Settings())["blend"]


def contexts(rng: np.random.Generator, n: int) -> np.ndarray:
    length = np.eye(3)[rng.integers(0, 3, n)]
    language = np.eye(2)[rng.integers(0, 2, n)]
    counts = rng.poisson([0.3, 1.0, 0.5, 25.0], (n, 4))
    return np.hstack([length, language, counts]).astype(np.float32)


def noisy(rng: np.random.Generator, target: np.ndarray, *noise: Any) -> np.ndarray:
    return np.column_stack([target + sigma * rng.normal(size=len(target)) for sigma in noise])


def fit(
    context: np.ndarray,
    predictions: np.ndarray,
    target: np.ndarray,
    *,
    folds: int = 5,
    threads: int = 1,
    **changes: Any,
) -> tuple[lgb.Booster, dict[str, Any]]:
    fold = np.arange(len(target)) % folds
    loss = SquaredError(predictions, target)
    blend = fit_blender(context, loss, fold, CONTEXT, {**SETTINGS, **changes}, threads=threads)
    return blend.booster, blend.facts


def combine(scores: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return np.asarray((softmax(scores, axis=1) * predictions).sum(axis=1))


def raw(booster: lgb.Booster, context: np.ndarray) -> np.ndarray:
    return np.asarray(booster.predict(context, raw_score=True))


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def experts(n: int = 1500, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first base is good on SHORT texts, the second on the others, the third nowhere."""
    rng = np.random.default_rng(seed)
    context, target = contexts(rng, n), rng.random(n)
    short = context[:, 0] > 0
    return context, noisy(rng, target, np.where(short, 0.02, 0.3), np.where(short, 0.3, 0.02), 0.5), target


def test_experts_of_a_context_are_found() -> None:
    context, predictions, target = experts()
    booster, facts = fit(context, predictions, target)
    alpha = softmax(raw(booster, context), axis=1)
    short = context[:, 0] > 0
    assert alpha[short, 0].mean() > 0.9 and alpha[~short, 1].mean() > 0.9
    assert alpha[:, 2].max() < 0.1
    assert facts["rounds"] > 0
    assert facts["gain_over_best_base"] > 0.7 and facts["rmse"] < 0.5 * facts["rmse_constant_weights"]
    # What cross-validation promised holds for new rows, too.
    context, predictions, target = experts(seed=1)
    assert rmse(combine(raw(booster, context), predictions), target) < 1.1 * facts["rmse"]


def test_scores_stay_small_where_one_base_has_nearly_all_the_weight() -> None:
    rng = np.random.default_rng(0)
    context = contexts(rng, 400)
    words, sentence, time = rng.normal(size=(3, 400))
    target = 0.5 + 0.15 * np.where(context[:, 0] > 0, words, sentence) + 0.03 * rng.normal(size=400)
    # As real bases: all too careful, and the last, which knows everything, the best nearly everywhere.
    full = 0.04 * words + 0.07 * sentence
    predictions = 0.5 + np.column_stack([0.06 * words, 0.03 * sentence, 0.01 * time, full])
    assert softmax(constant_scores(SquaredError(predictions, target)))[3] > 0.9
    booster, facts = fit(context, predictions, target, min_data_in_leaf=20)
    assert np.abs(raw(booster, context)).max() < 30
    assert facts["rounds"] > 0 and facts["rmse"] < 0.95 * facts["rmse_constant_weights"]


def test_the_weights_sum_to_one() -> None:
    context, predictions, target = experts(400)
    booster, _ = fit(context, predictions, target)
    alpha = softmax(raw(booster, context), axis=1)
    np.testing.assert_allclose(alpha.sum(axis=1), 1)
    assert (alpha >= 0).all()
    blend = combine(raw(booster, context), predictions)
    assert (blend <= predictions.max(axis=1) + 1e-12).all() and (
        blend >= predictions.min(axis=1) - 1e-12
    ).all()
    np.testing.assert_allclose(blend, (alpha * predictions).sum(axis=1))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.booleans())
def test_it_is_never_worse_than_the_best_base_by_more_than_a_hair(seed: int, k: int, alike: bool) -> None:
    rng = np.random.default_rng(seed)
    context, target = contexts(rng, 300), rng.random(300)
    noise = np.full(k, 0.1) if alike else rng.uniform(0.02, 0.4, k)
    predictions = noisy(rng, target, *noise)
    booster, facts = fit(context, predictions, target, max_trees=12)
    assert facts["rmse"] <= 1.01 * min(facts["rmse_bases"])
    assert facts["rmse_bases"] == pytest.approx([rmse(column, target) for column in predictions.T])
    assert rmse(combine(raw(booster, context), predictions), target) <= 1.01 * min(facts["rmse_bases"])
    if alike and k > 2:
        assert facts["gain_over_best_base"] > 0.2, "the mean of independent errors is smaller"


@pytest.mark.parametrize("helpful", [True, False])
def test_the_fewest_rounds_of_the_best_are_taken(helpful: bool) -> None:
    context, predictions, target = experts(600)
    if not helpful:
        context = contexts(np.random.default_rng(5), 600)
    _, facts = fit(context, predictions, target)
    by_rounds = {int(rounds): value for rounds, value in facts["rmse_by_rounds"].items()}
    assert min(by_rounds) == 0 and max(by_rounds) <= SETTINGS["max_trees"] and len(by_rounds) > 5
    assert by_rounds[0] == facts["rmse_constant_weights"]
    near = [rounds for rounds, value in by_rounds.items() if value <= min(by_rounds.values()) * (1 + 1e-4)]
    assert facts["rounds"] == min(near) and facts["rmse"] == by_rounds[facts["rounds"]]
    assert (facts["rounds"] > max(by_rounds) / 2) == helpful


def test_a_context_that_does_not_help_gets_constant_weights() -> None:
    rng = np.random.default_rng(0)
    context, target = contexts(rng, 600), rng.random(600)
    predictions = noisy(rng, target, 0.1, 0.2)
    booster, facts = fit(context, predictions, target, max_trees=0)
    assert facts["rounds"] == 0
    scores = raw(booster, context)
    assert (scores == scores[0]).all()
    # Inverse variances: four to one.
    np.testing.assert_allclose(softmax(scores[0]), [0.8, 0.2], atol=0.05)
    np.testing.assert_allclose(
        softmax(scores[0]), softmax(constant_scores(SquaredError(predictions, target))), atol=1e-6
    )


@pytest.mark.parametrize("helpful", [True, False])
def test_the_text_model_holds_all_of_it(tmp_path: Path, helpful: bool) -> None:
    context, predictions, target = experts(500)
    booster, facts = fit(context, predictions, target, max_trees=20 if helpful else 0)
    assert (facts["rounds"] > 0) == helpful
    path = tmp_path / "model.txt"
    booster.save_model(str(path))
    read = lgb.Booster(model_file=str(path))
    rows = contexts(np.random.default_rng(9), 200)
    np.testing.assert_array_equal(raw(read, rows), raw(booster, rows))
    assert read.num_trees() == 3 * max(facts["rounds"], 1)
    assert rmse(combine(raw(read, context), predictions), target) <= 1.02 * facts["rmse"]
    assert facts["mean_weights"] == pytest.approx(softmax(raw(read, context), axis=1).mean(axis=0))


def test_it_is_the_same_on_every_run_and_thread_count() -> None:
    data = experts(400)
    options: dict[str, Any] = {"max_trees": 4, "folds": 2}
    (first, facts), (again, _) = fit(*data, **options), fit(*data, **options)
    threaded, _ = fit(*data, **options, threads=2)
    rows = contexts(np.random.default_rng(9), 100)
    assert facts["rounds"] > 0
    np.testing.assert_array_equal(raw(first, rows), raw(again, rows))
    np.testing.assert_array_equal(raw(first, rows), raw(threaded, rows))


def test_weights_follow_their_base_model() -> None:
    context, predictions, target = experts(500)
    _, facts = fit(context, predictions, target)
    _, turned = fit(context, predictions[:, ::-1], target)
    np.testing.assert_allclose(facts["mean_weights"], turned["mean_weights"][::-1], atol=0.02)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_tiny_data(n: int) -> None:
    rng = np.random.default_rng(n)
    context, target = contexts(rng, n), rng.random(n)
    predictions = noisy(rng, target, 0.1, 0.3)
    booster, facts = fit(context, predictions, target, folds=2)
    assert np.isfinite(raw(booster, context)).all() and np.isfinite(facts["rmse"])
    assert raw(booster, context).shape == (n, 2)


def test_a_constant_context() -> None:
    rng = np.random.default_rng(0)
    context, target = np.zeros((200, 9), dtype=np.float32), rng.random(200)
    booster, facts = fit(context, noisy(rng, target, 0.1, 0.4), target)
    assert facts["rounds"] == 0 and len(facts["rmse_by_rounds"]) == 1
    assert softmax(raw(booster, context), axis=1)[0, 0] > 0.85


def test_a_context_that_is_constant_in_some_fold() -> None:
    rng = np.random.default_rng(0)
    context, target = np.zeros((90, 9), dtype=np.float32), rng.random(90)
    context[::3, 0] = 1  # the rows of the first of three folds
    booster, facts = fit(context, noisy(rng, target, 0.1, 0.4), target, folds=3, min_data_in_leaf=5)
    assert np.isfinite(raw(booster, context)).all() and facts["rmse"] <= 1.02 * min(facts["rmse_bases"])


@pytest.mark.parametrize("value", [0.5, 0.0, 1.0])
def test_a_base_with_constant_predictions(value: float) -> None:
    rng = np.random.default_rng(0)
    context, target = contexts(rng, 300), rng.random(300)
    predictions = np.column_stack([noisy(rng, target, 0.05), np.full(300, value)])
    booster, facts = fit(context, predictions, target)
    assert softmax(raw(booster, context), axis=1)[:, 0].min() > 0.8
    assert facts["rmse"] <= 1.01 * min(facts["rmse_bases"])


def test_a_base_without_error_takes_all() -> None:
    rng = np.random.default_rng(0)
    context, target = contexts(rng, 200), rng.random(200)
    booster, facts = fit(context, noisy(rng, target, 0.0, 0.2), target)
    assert facts["rmse"] < 1e-3
    assert softmax(raw(booster, context), axis=1)[:, 0].min() > 0.99


def test_bases_that_agree_share_the_weight() -> None:
    rng = np.random.default_rng(0)
    context, target = contexts(rng, 300), rng.random(300)
    predictions = np.repeat(noisy(rng, target, 0.1), 3, axis=1)
    booster, facts = fit(context, predictions, target)
    np.testing.assert_allclose(softmax(raw(booster, context), axis=1), 1 / 3, atol=1e-3)
    assert facts["rmse"] == pytest.approx(facts["rmse_bases"][0])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_constant_weights_are_the_best_on_the_simplex(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.random(120)
    predictions = noisy(rng, target, *rng.uniform(0.05, 0.5, k)) + rng.normal(0, 0.1, k)
    scores = constant_scores(SquaredError(predictions, target))
    best = rmse(predictions @ softmax(scores), target)
    for other in [*np.eye(k), *rng.dirichlet(np.full(k, 0.5), 50)]:
        assert best <= rmse(predictions @ other, target) * 1.002


@pytest.mark.parametrize("where", ["prediction", "label"])
def test_values_must_be_finite(where: str) -> None:
    context, predictions, target = experts(60)
    (predictions if where == "prediction" else target)[3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit(context, predictions, target)


def test_one_fold_is_an_error() -> None:
    with pytest.raises(ValueError, match="two folds at least"):
        fit(*experts(60), folds=1)


# --- Paths -------------------------------------------------------------------------------------------------


def path_experts(n: int = 900, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the label at two levels: one base is good on SHORT texts, the other elsewhere."""
    rng = np.random.default_rng(seed)
    context = contexts(rng, n)
    short = context[:, 0] > 0
    good, bad = rng.uniform(0.6, 0.95, (n, 2)), rng.uniform(0.02, 0.2, (n, 2))
    predictions = np.stack([np.where(short[:, None], good, bad), np.where(short[:, None], bad, good)], axis=1)
    predictions[rng.random(n) < 0.2, :, 1] = np.nan  # labels that stop at the first level
    return context, predictions


def test_experts_of_a_context_are_found_for_paths() -> None:
    context, predictions = path_experts()
    folds = np.arange(len(context)) % 5
    blend = fit_blender(context, PathLogLoss(predictions), folds, CONTEXT, SETTINGS)
    alpha = softmax(raw(blend.booster, context), axis=1)
    short = context[:, 0] > 0
    assert alpha[short, 0].mean() > 0.85 and alpha[~short, 1].mean() > 0.85
    assert blend.facts["log_loss"] < 0.6 * min(blend.facts["log_loss_bases"])
    assert blend.facts["gain_over_best_base"] == pytest.approx(
        1 - blend.facts["log_loss"] / min(blend.facts["log_loss_bases"])
    )


def test_held_out_weights_come_from_blenders_that_did_not_see_the_fold() -> None:
    context, predictions = path_experts(400)
    folds = np.arange(400) % 4
    settings_ = {**SETTINGS, "max_trees": 12, "min_data_in_leaf": 20}
    before = fit_blender(context, PathLogLoss(predictions), folds, CONTEXT, settings_)
    np.testing.assert_allclose(before.held_out.sum(axis=1), 1)
    # Turn what fold 0 says upside down: its own weights must not follow, those of the others must.
    turned = predictions.copy()
    turned[folds == 0] = turned[folds == 0][:, ::-1]
    after = fit_blender(context, PathLogLoss(turned), folds, CONTEXT, settings_)
    if before.facts["rounds"] == after.facts["rounds"]:
        np.testing.assert_array_equal(after.held_out[folds == 0], before.held_out[folds == 0])
    assert np.abs(after.held_out[folds != 0] - before.held_out[folds != 0]).max() > 0.01


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 4), st.booleans())
def test_slopes_are_the_derivatives_of_the_errors(seed: int, k: int, paths: bool) -> None:
    rng = np.random.default_rng(seed)
    n = 6
    if paths:
        p = rng.uniform(0.05, 0.95, (n, k, 3))
        p[rng.random(n) < 0.5, :, 2] = np.nan
        loss: Any = PathLogLoss(p)
    else:
        loss = SquaredError(rng.random((n, k)), rng.random(n))
    scores, step = rng.normal(size=(n, k)), 1e-6
    gradient, hessian = loss.slopes(softmax(scores, axis=1))
    assert (hessian >= 0).all()
    for column in range(k):
        moved = [scores.copy(), scores.copy()]
        moved[0][:, column] -= step
        moved[1][:, column] += step
        low, high = (loss.errors(softmax(of, axis=1)) for of in moved)
        np.testing.assert_allclose(gradient[:, column], (high - low) / (2 * step), atol=1e-5)


@pytest.mark.parametrize("wrong", ["no label", "one base lacks it", "infinite"])
def test_paths_without_a_label_or_a_probability_are_refused(wrong: str) -> None:
    _, predictions = path_experts(20)
    predictions[4] = {"no label": np.nan, "one base lacks it": predictions[4], "infinite": np.inf}[wrong]
    if wrong == "one base lacks it":
        predictions[4, 0] = np.nan
    with pytest.raises(ValueError, match="without a label, or a probability that is not finite"):
        PathLogLoss(predictions)
