"""Out of fold: every row is predicted once, by a model that saw nothing of its owner."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive.oof import Fold, OutOfFold, out_of_fold

COLUMNS = ["x", "memory"]


class Corpus:
    """Items of owners in folds; ``memory`` names the item, so that a model can know a row again."""

    def __init__(self, seed: int, n: int, folds: int, unlabelled: float = 0.2) -> None:
        rng = np.random.default_rng(seed)
        self.n_folds = folds
        owner = rng.integers(0, 3 * folds, n)
        owner[:folds] = np.arange(folds)  # no fold is empty
        self.items = pd.DataFrame(
            {
                "item_id": [f"i{number}" for number in rng.permutation(n)],
                "owner": owner,
                "fold": owner % folds,
                "x": rng.normal(size=n).astype(np.float32),
                "memory": np.arange(n, dtype=np.float32),
            }
        )
        value = pd.Series(rng.random(n), index=self.items["item_id"])
        known = rng.random(n) >= unlabelled
        known[: folds + 1] = True
        self.labels = value[known]

    def folds(self) -> Iterator[Fold]:
        columns = ["item_id", *COLUMNS]
        for number in range(self.n_folds):
            inside = self.items["fold"] == number
            # Files hold their rows in an order of their own.
            train = self.items.loc[~inside, columns].sample(frac=1, random_state=number)
            yield Fold(number, train.reset_index(drop=True), self.items.loc[inside, columns].iloc[::-1])


def nearest(features: np.ndarray, target: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """A model that knows every row again that it has seen: the label, else -1."""
    known = dict(zip(features[:, 1].tolist(), target.tolist(), strict=True))
    return np.array([known.get(row, -1.0) for row in held_out[:, 1].tolist()])


def run(corpus: Corpus) -> OutOfFold:
    return out_of_fold(corpus.items["item_id"].tolist(), corpus.folds(), corpus.labels, COLUMNS, nearest)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(10, 60), st.integers(2, 5))
def test_every_row_is_predicted_once_by_a_model_that_saw_none_of_its_owner(
    seed: int, n: int, folds: int
) -> None:
    corpus = Corpus(seed, n, folds)
    found = run(corpus)
    assert found.predictions.shape == (n,) and found.predictions.dtype == np.float32
    # The model knows what it has seen: any prediction but -1 would be a row that it had learned from.
    assert (found.predictions == -1).all()
    assert sorted(found.records["item_id"]) == sorted(corpus.items["item_id"])
    owner = corpus.items.set_index("item_id")["owner"]
    for fold, predicted in found.records.groupby("fold")["item_id"]:
        learned = found.trained_on.loc[found.trained_on["fold"] == fold, "item_id"]
        assert set(learned).isdisjoint(predicted)
        assert set(owner[learned]).isdisjoint(owner[predicted])
        assert set(learned) <= set(corpus.labels.index)
    inside = corpus.items.set_index("item_id")["fold"]
    assert (inside[found.records["item_id"]].to_numpy() == found.records["fold"].to_numpy()).all()


def test_the_model_gets_the_labels_of_its_rows_and_the_answers_find_their_place() -> None:
    corpus = Corpus(3, 40, 4)
    by_memory = corpus.items.set_index("memory")

    def fit_predict(features: np.ndarray, target: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        assert features.dtype == held_out.dtype == np.float32 and target.dtype == np.float64
        ids = by_memory.loc[features[:, 1], "item_id"]
        np.testing.assert_array_equal(target, corpus.labels[ids])
        np.testing.assert_array_equal(features[:, 0], by_memory.loc[features[:, 1], "x"])
        return held_out[:, 1]

    found = out_of_fold(corpus.items["item_id"].tolist(), corpus.folds(), corpus.labels, COLUMNS, fit_predict)
    np.testing.assert_array_equal(found.predictions, corpus.items["memory"])


def test_rows_without_a_label_are_predicted_but_not_learned_from() -> None:
    corpus = Corpus(1, 50, 3, unlabelled=0.6)
    found = run(corpus)
    unlabelled = set(corpus.items["item_id"]) - set(corpus.labels.index)
    assert len(unlabelled) > 10
    assert unlabelled <= set(found.records["item_id"])
    assert unlabelled.isdisjoint(found.trained_on["item_id"])
    assert not np.isnan(found.predictions).any()


def changed(corpus: Corpus, folds: list[Fold]) -> OutOfFold:
    return out_of_fold(corpus.items["item_id"].tolist(), folds, corpus.labels, COLUMNS, nearest)


def test_a_missing_fold_is_an_error() -> None:
    corpus = Corpus(0, 30, 3)
    missing = int((corpus.items["fold"] == 1).sum())
    folds = [fold for fold in corpus.folds() if fold.number != 1]
    with pytest.raises(ValueError, match=f"^{missing} training rows were not predicted exactly once"):
        changed(corpus, folds)


def test_a_row_in_two_folds_or_twice_in_one_is_an_error() -> None:
    corpus = Corpus(0, 30, 3)
    first, second, third = corpus.folds()
    twice = Fold(1, second.train[~second.train["item_id"].isin(first.val["item_id"])], first.val)
    with pytest.raises(ValueError, match="were not predicted exactly once"):
        changed(corpus, [first, second, third, twice])
    doubled = Fold(2, third.train, pd.concat([third.val, third.val.iloc[:1]]))
    with pytest.raises(ValueError, match=r"^1 training rows were not predicted exactly once"):
        changed(corpus, [first, second, doubled])


def test_a_planted_leak_is_an_error() -> None:
    corpus = Corpus(0, 30, 3)
    first, second, third = corpus.folds()
    labelled = second.val[second.val["item_id"].isin(corpus.labels.index)]
    leaky = Fold(1, pd.concat([second.train, labelled.iloc[:2]]), second.val)
    with pytest.raises(ValueError, match="fold 1 would learn from 2 of the rows that it predicts"):
        changed(corpus, [first, leaky, third])


def test_a_fold_without_labels_to_learn_from_is_an_error() -> None:
    corpus = Corpus(0, 30, 3)
    inside = corpus.items.loc[corpus.items["fold"] == 2, "item_id"]
    corpus.labels = corpus.labels[corpus.labels.index.isin(inside)]
    with pytest.raises(ValueError, match="fold 2 has no labelled training row"):
        run(corpus)


def test_an_empty_fold_is_no_error() -> None:
    corpus = Corpus(0, 30, 3)
    empty = corpus.items.iloc[:0][["item_id", *COLUMNS]]
    last = Fold(3, corpus.items[["item_id", *COLUMNS]], empty)
    assert len(changed(corpus, [*corpus.folds(), last]).records) == 30
