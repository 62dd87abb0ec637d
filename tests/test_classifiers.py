"""Trees that classify paths: conditional at every level, blind to what a label does not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive import io
from perceive.classifiers import fit_classifier, log_shares, read_trees
from perceive.path_ensemble import PathTrees, classify, joint

# Three labels; the first has two children, the second one, the third three.
PARENTS = (np.zeros(3, dtype=np.int64), np.array([0, 0, 1, 2, 2, 2]))
NAMES = ["a", "b", "c"]
PARAMETERS = {"learning_rate": 0.2, "num_leaves": 5, "max_depth": 3, "min_data_in_leaf": 5, "max_bin": 31}


def rows(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Column a tells the first level, column b the second below labels 0 and 2; c is noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 3)).astype(np.float32)
    first = np.digitize(features[:, 0], [-0.4, 0.4])
    second = np.array([0, 2, 3])[first]
    second = np.where(first == 0, (features[:, 1] > 0).astype(int), second)
    second = np.where(first == 2, 3 + np.digitize(features[:, 1], [-0.4, 0.4]), second)
    return features, np.column_stack([first, second])


def fit(features: np.ndarray, codes: np.ndarray, **changes: Any) -> tuple[lgb.Booster, np.ndarray]:
    options: dict[str, Any] = {"trees": 30, "levels": 2, "seed": 1, "threads": 1, **changes}
    return fit_classifier(features, codes, PARENTS, NAMES, PARAMETERS, **options)


def answer(model: tuple[lgb.Booster, np.ndarray], features: np.ndarray) -> list[np.ndarray]:
    return classify(PathTrees("lx", model[0], range(3), model[1]), features, PARENTS, threads=1)


def test_it_learns_both_levels() -> None:
    model = fit(*rows(900))
    features, codes = rows(400, seed=1)
    p = answer(model, features)
    for level in range(2):
        assert (p[level].argmax(axis=1) == codes[:, level]).mean() > 0.9
        np.testing.assert_allclose(p[level].sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(p[1][:, :2].sum(axis=1), p[0][:, 0])
    assert model[1].size == 0, "no level is left to constants"


def test_shuffled_labels_teach_nothing() -> None:
    features, codes = rows(900)
    model = fit(features, codes[np.random.default_rng(3).permutation(900)])
    features, codes = rows(400, seed=1)
    accuracy = (answer(model, features)[0].argmax(axis=1) == codes[:, 0]).mean()
    assert abs(accuracy - 1 / 3) < 0.12


def test_levels_below_the_trees_get_the_shares_of_the_training_labels() -> None:
    features, codes = rows(600)
    booster, constants = fit(features, codes, levels=1)
    assert booster.num_model_per_iteration() == 3 and constants.shape == (6,)
    p = answer((booster, constants), features[:50])
    counts = np.bincount(codes[:, 1], minlength=6) + 1.0
    expected = counts[3:] / counts[3:].sum()
    np.testing.assert_allclose(p[1][:, 3:] / p[0][:, 2:], np.tile(expected, (50, 1)), rtol=1e-5)


def test_without_information_it_answers_the_shares() -> None:
    _, codes = rows(500)
    features = np.zeros((500, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="none of the 3 features varies over the 500 training rows"):
        fit(features, codes)
    features[:4, 0] = 1  # too few to split on
    p = answer(fit(features, codes, trees=3), features[:1])
    shares = joint([np.exp(level)[None] for level in log_shares(codes, PARENTS)], PARENTS)
    for found, expected in zip(p, shares, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_label_that_stops_early_says_nothing_about_the_level_below() -> None:
    features, codes = rows(600)
    stopped = codes.copy()
    stopped[300:, 1] = -1
    # The second level is learned from the first half alone, whatever the other half says of the first.
    misled = stopped.copy()
    misled[300:, 0] = (misled[300:, 0] + 1) % 3
    conditional = [
        answer(fit(features, of), features)[1][:, 3:] / answer(fit(features, of), features)[0][:, 2:]
        for of in (stopped, misled)
    ]
    assert np.abs(conditional[0] - conditional[1]).mean() < 0.02


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(2, 40))
def test_probabilities_are_distributions_whatever_the_data(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    features, codes = rows(n, seed)
    codes[rng.random(n) < 0.4, 1] = -1
    features[rng.random(features.shape) < 0.1] = np.nan
    p = answer(fit(features, codes, trees=3), features)
    for level in p:
        assert np.isfinite(level).all() and (level > 0).all()
        np.testing.assert_allclose(level.sum(axis=1), 1, atol=1e-9)


def test_it_is_the_same_on_every_run_and_thread_count() -> None:
    data = rows(400)
    features, _ = rows(50, seed=2)
    expected = answer(fit(*data, trees=5), features)
    for threads in (1, 2):
        for found, wanted in zip(
            answer(fit(*data, trees=5, threads=threads), features), expected, strict=True
        ):
            np.testing.assert_array_equal(found, wanted)


def test_it_is_read_back_from_its_files(tmp_path: Path) -> None:
    features, codes = rows(300)
    booster, constants = fit(features, codes, levels=1)
    folder = tmp_path / "lx"
    folder.mkdir()
    booster.save_model(str(folder / "model.txt"))
    io.write_json(folder / "model.json", {"constants": [float(value) for value in constants]})
    trees = read_trees(folder / "model.txt", ["x", "c", "b", "a"])
    assert (trees.name, list(trees.columns)) == ("lx", [3, 2, 1])
    wide = np.column_stack([np.zeros(300), features[:, ::-1]]).astype(np.float32)
    expected = booster.predict(features, raw_score=True)
    np.testing.assert_array_equal(trees.logits(wide)[:, :3], expected)


def test_rows_without_a_label_are_an_error() -> None:
    features, codes = rows(20)
    codes[3] = -1
    with pytest.raises(ValueError, match="1 training rows have no label"):
        fit(features, codes)
    with pytest.raises(ValueError, match="at least one owner with labels"):
        fit(features[:0], codes[:0])
