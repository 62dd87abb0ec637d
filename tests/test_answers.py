"""Answers for every item: out of fold in train, and named so that other variables can read them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from perceive.answers import blended, by_level, fill, label_probabilities, upstream_columns, upstream_frame
from perceive.taxonomy import Taxonomy

TAXONOMY = Taxonomy(("core", "nuance"), (("Glad", "Calm"), ("Glad", "Wild"), ("Low-ish", "Sad")))
SIZES = [2, 3]


def test_the_training_part_is_filled_and_nothing_else() -> None:
    split = np.array(["train", "test", None, "train", "val"], dtype=object)
    found = fill(5, split, np.array([[1, 2], [3, 4]], dtype=np.float32))
    np.testing.assert_array_equal(found[[0, 3]], [[1, 2], [3, 4]])
    assert np.isnan(found[[1, 2, 4]]).all()
    with pytest.raises(ValueError, match="1 out-of-fold rows for 2 training items"):
        fill(5, split, np.zeros((1, 2), dtype=np.float32))


def test_answers_are_blended_by_each_rows_own_weights() -> None:
    bases = [np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])]
    found = blended(bases, np.array([[0.25, 0.75], [1.0, 0.0]]))
    np.testing.assert_allclose(found, [[0.25, 0.75], [1, 0]])


def test_levels_are_taken_apart() -> None:
    columns = np.arange(10, dtype=np.float32).reshape(2, 5)
    first, second = by_level(columns, SIZES, np.array([1]))
    np.testing.assert_array_equal(first, [[5, 6]])
    np.testing.assert_array_equal(second, [[7, 8, 9]])


def test_the_probability_of_the_label_at_each_level() -> None:
    columns = np.array([[0.6, 0.4, 0.1, 0.5, 0.4], [0.6, 0.4, 0.1, 0.5, 0.4]], dtype=np.float32)
    found = label_probabilities(columns, np.array([[0, 1], [1, -1]]), SIZES)
    np.testing.assert_allclose(found, [[0.6, 0.5], [0.4, np.nan]])


def test_upstream_features_are_the_first_level_under_names_that_lightgbm_takes() -> None:
    assert upstream_columns("invoked", TAXONOMY) == ["invoked_Glad", "invoked_Low_ish"]
    alike = Taxonomy(("core",), (("a b",), ("a-b",)))
    assert upstream_columns("x", alike) == ["x_0_a_b", "x_1_a_b"]
    answers = np.array([[0.6, 0.4, 0, 0, 0], [np.nan] * 5, [0.1, 0.9, 0, 0, 0]], dtype=np.float32)
    frame = upstream_frame("invoked", pd.Series(["i", "purged", "k"]), answers, TAXONOMY)
    assert frame["item_id"].tolist() == ["i", "k"]
    np.testing.assert_allclose(frame["invoked_Glad"], [0.6, 0.1])
