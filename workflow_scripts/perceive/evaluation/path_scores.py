"""Metrics of paths and of the probabilities of their levels (:mod:`perceive.paths`).

A label that stops at the core says nothing about nuance and micro. Deeper parts of the answer are then
neither right nor wrong: every metric of a level is over the rows that are labelled there, and the
hierarchical metrics compare as deep as the label goes. Where the answer is at least as deep as the label,
hierarchical precision, recall and F1 are therefore equal; they differ for predictors that stop early.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from perceive.evaluation import TOP_K
from perceive.evaluation.weighted import WeightedBins
from perceive.paths import Array, Codes, Levels, decode, is_path, levelwise_argmax

if TYPE_CHECKING:
    from perceive.taxonomy import Taxonomy

_SMALLEST = float(np.finfo(np.float64).eps)


class PathScores:
    """What the metrics need of one predictor's answers, row by row.

    ``accuracy_L``
        Share of the rows labelled at level L whose answer is right there.
    ``macro_f1_L``
        Mean F1 of the classes that occur among those rows' labels or answers.
    ``hierarchical_precision, _recall, _f1``
        Kiritchenko et al. 2006, micro-averaged: labels that path and answer share, with all their ancestors,
        over those of the answer, and of the label; as deep as the label goes.
    ``exact_path``
        Share of the rows whose answer is right as deep as the label goes.

    With probabilities, further:

    ``path_validity``
        Share of the rows whose :func:`levelwise_argmax` is a path.
    ``top3_accuracy_L``
        Share of the labels among the three most probable; absent where a level has no more than three.
    ``log_loss_L``, ``brier_L``
        Of all labels of the level; Brier sums over the labels, so it is in 0..2 (Brier 1950).
    ``ece_L``, ``mce_L``
        Confidence against accuracy of the level's most probable label (Guo et al. 2017), in ten equal-mass
        bins; see :func:`perceive.evaluation.metrics.equal_mass_bins`.
    ``classwise_ece_L``
        First level only: mean over its labels of the ECE of that label's probability (Kull et al. 2019).

    Parameters
    ----------
    observed : ndarray of shape (n, levels)
        Codes of the labels.
    taxonomy : Taxonomy
    p : sequence of arrays, optional
        Checked probabilities.
    answers : ndarray of shape (n, levels), optional
        Codes of the answers, which may stop early; by default those that :func:`decode` gives for ``p``.

    References
    ----------
    Kiritchenko, Matwin, Nock and Famili, Learning and evaluation in the presence of class hierarchies, 2006.
    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML 2017.
    Kull et al., Beyond temperature scaling, NeurIPS 2019.
    """

    def __init__(
        self, observed: Codes, taxonomy: Taxonomy, p: Levels | None = None, answers: Codes | None = None
    ) -> None:
        if answers is None:
            if p is None:
                raise ValueError("pass probabilities or answers")
            answers = decode(p, taxonomy)
        self.observed, self.answers = observed, answers
        #: numerator and denominator of each row; a metric is the sum of the one over that of the other
        self.ratios: dict[str, tuple[Array, Array]] = {}
        #: labelled rows, their labels and answers
        self.classes: dict[str, tuple[NDArray[np.int64], Codes, Codes]] = {}
        #: names of ECE and MCE: labelled rows, and pairs of outcome and probability whose errors are averaged
        self.bins: dict[tuple[str, ...], tuple[NDArray[np.int64], list[tuple[Array, Array]]]] = {}
        labelled = observed >= 0
        right = labelled & (observed == answers)
        one = np.ones(len(observed))
        shared, of_label = right.sum(axis=1) * one, labelled.sum(axis=1) * one
        of_answer = (labelled & (answers >= 0)).sum(axis=1) * one
        for level, name in enumerate(taxonomy.levels):
            rows = np.flatnonzero(labelled[:, level])
            self.classes[f"macro_f1_{name}"] = rows, observed[rows, level], answers[rows, level]
            self.ratios[f"accuracy_{name}"] = right[:, level] * one, labelled[:, level] * one
            if p is not None:
                self._probabilistic(level, name, rows, p[level])
        self.ratios["hierarchical_precision"] = shared, of_answer
        self.ratios["hierarchical_recall"] = shared, of_label
        self.ratios["hierarchical_f1"] = 2 * shared, of_answer + of_label
        self.ratios["exact_path"] = (shared == of_label) * one, one
        if p is not None:
            self.ratios["path_validity"] = is_path(levelwise_argmax(p), taxonomy) * one, one

    def _probabilistic(self, level: int, name: str, rows: NDArray[np.int64], p: Array) -> None:
        label, p = self.observed[rows, level], p[rows]
        of_label = p[np.arange(len(rows)), label]
        weight = (self.observed[:, level] >= 0).astype(np.float64)

        def per_row(values: Array) -> tuple[Array, Array]:
            all_rows = np.zeros(len(weight))
            all_rows[rows] = values
            return all_rows, weight

        if p.shape[1] > TOP_K:
            before = np.arange(p.shape[1]) < label[:, None]
            rank = ((p > of_label[:, None]) | ((p == of_label[:, None]) & before)).sum(axis=1)
            self.ratios[f"top{TOP_K}_accuracy_{name}"] = per_row((rank < TOP_K).astype(np.float64))
        self.ratios[f"log_loss_{name}"] = per_row(-np.log(np.clip(of_label, _SMALLEST, 1.0)))
        self.ratios[f"brier_{name}"] = per_row((p**2).sum(axis=1) - 2 * of_label + 1.0)
        self.bins[f"ece_{name}", f"mce_{name}"] = rows, [confidence_pair(label, p)]
        if level == 0:
            outcomes = label[:, None] == np.arange(p.shape[1])
            pairs = list(zip(outcomes.T.astype(np.float64), p.T, strict=True))
            self.bins[(f"classwise_ece_{name}",)] = rows, pairs


def confidence_pair(label: Codes, p: Array) -> tuple[Array, Array]:
    """Whether the most probable label is right, and its probability; both of shape (n,)."""
    top = p.argmax(axis=1)
    return (top == label).astype(np.float64), p[np.arange(len(p)), top]


class OwnerScores:
    """Every metric of weighted owners, from what PathScores holds; ``counts`` are (draws, owners)."""

    def __init__(self, scores: PathScores, codes: Codes, n_owners: int) -> None:
        self._codes, self._names = codes, list(scores.ratios)
        terms = [values for pair in scores.ratios.values() for values in pair]
        self._sums = np.stack([np.bincount(codes, term, n_owners) for term in terms], axis=1)
        self._classes = {
            name: _class_counts(codes[rows], label, answer, n_owners)
            for name, (rows, label, answer) in scores.classes.items()
        }
        self._bins = {
            names: (rows, [WeightedBins(outcome, p) for outcome, p in pairs])
            for names, (rows, pairs) in scores.bins.items()
        }

    def __call__(self, counts: Array) -> dict[str, Array]:
        result: dict[str, Array] = {}
        sums = counts @ self._sums
        for number, name in enumerate(self._names):
            result[name] = _divide(sums[:, 2 * number], sums[:, 2 * number + 1])
        for name, (both, either) in self._classes.items():
            # F1 = 2 TP / (labels + answers); a class that does not occur in a draw does not count in it
            right, occurring = (both.T @ counts.T).T, (either.T @ counts.T).T
            f1 = np.divide(2 * right, occurring, out=np.zeros_like(right), where=occurring > 0)
            result[name] = _divide(f1.sum(axis=1), (occurring > 0).sum(axis=1).astype(np.float64))
        for names, (rows, bins) in self._bins.items():
            weights = counts[:, self._codes[rows]]
            defined = weights.sum(axis=1) > 0
            errors = [of(weights[defined]) for of in bins] if defined.any() else []
            for name, kind in zip(names, ("ece", "mce"), strict=False):
                result[name] = np.full(len(counts), np.nan)
                if errors:
                    result[name][defined] = np.mean([error[kind] for error in errors], axis=0)
        return result


def _class_counts(owner: Codes, label: Codes, answer: Codes, n_owners: int) -> tuple[csr_array, csr_array]:
    """Per owner and occurring class: rows where label and answer are that class, and labels plus answers."""
    classes, position = np.unique(np.concatenate([label, answer[answer >= 0]]), return_inverse=True)
    shape = n_owners, len(classes)
    right = label == answer
    owners = np.concatenate([owner, owner[answer >= 0]])
    labels = position[: len(label)]
    both = csr_array((right * 1.0, (owner, labels)), shape=shape)
    return both, csr_array((np.ones(len(owners)), (owners, position)), shape=shape)


def _divide(a: Array, b: Array) -> Array:
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def path_metrics(scores: PathScores) -> dict[str, float]:
    """Each metric of all rows; NaN where undefined. ``macro_f1`` and the others are listed at PathScores."""
    everyone = OwnerScores(scores, np.zeros(len(scores.observed), dtype=np.int64), 1)
    return {name: float(value[0]) for name, value in everyone(np.ones((1, 1))).items()}
