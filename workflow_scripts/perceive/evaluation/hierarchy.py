"""Evaluation of a hierarchy variable: decoding, metrics with intervals, baselines, and the whole result.

Probabilities come as ``p``: one array per level, shape (n, labels of the level), columns in the order of
``taxonomy.labels(level)``. They are joint: ``p[1]`` holds p(core and nuance), so every row of every level
sums to one. Paths are held as codes: one row per item, one column per level, each the position of the label
in ``taxonomy.labels(level)``, -1 where the path stops early.

How labels that stop early count
--------------------------------
A label that stops at the core says nothing about nuance and micro. Deeper parts of the answer are then
neither right nor wrong: every metric of a level is over the rows that are labelled there, and the
hierarchical metrics compare as deep as the label goes. Where the answer is at least as deep as the label,
hierarchical precision, recall and F1 are therefore equal; they differ for predictors that stop early.

What the intervals cannot mend
------------------------------
A resample holds fewer distinct rows than the sample. This adds noise within bins, so that ECE and MCE come
out larger, and it loses rare classes, which moves the macro-F1 of a level of hundreds of labels. The interval
of such a metric may lie to one side of its value, or miss it. At the first level the effect is small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from perceive import path_ensemble
from perceive.evaluation import PATH_METRICS, TOP_K
from perceive.evaluation.bootstrap import (
    LEVEL,
    N_BOOTSTRAP,
    SEED,
    Estimate,
    OwnerBootstrap,
    _WeightedBins,
)
from perceive.evaluation.evaluate import MIN_SLICE_OWNERS, MIN_SLICE_ROWS, SLICES, _sorted_levels
from perceive.evaluation.gates import DEFAULT_GATES, Gate, best_of, judge_result
from perceive.evaluation.metrics import Array, json_safe, reliability_bins

if TYPE_CHECKING:
    from perceive.taxonomy import Taxonomy

Codes = NDArray[np.int64]
Levels = Sequence[Array]

N_CONFUSIONS = 12

LEXICON_CORES: dict[str, str] = {"joy": "Happy", "sadness": "Sad", "anger": "Angry", "fear": "Fearful"}
"""Core that each emotion's words stand for; words of trust stand for Strong where the text is aroused
(``lex_arousal > 0``: brave, confident) and for Peaceful where it is not (safe, settled). Surprise stands for
none."""

_TRUST_CORES = ("Strong", "Peaceful")
_LEXICON_COLUMNS = (*LEXICON_CORES, "trust", "lex_arousal")
# Rows of rounded float32 probabilities of hundreds of labels stay well within this.
_SUM_TOLERANCE = 1e-3
_SMALLEST = float(np.finfo(np.float64).eps)


# --- paths as codes ------------------------------------------------------------------------------------


def parents(taxonomy: Taxonomy) -> tuple[Codes, ...]:
    """For each level, the position of every label's parent in the level above; zeros at the first level."""
    above: dict[tuple[str, ...], int] = {(): 0}
    result = []
    for level in range(taxonomy.depth):
        labels = taxonomy.labels(level)
        result.append(np.array([above[label[:-1]] for label in labels], dtype=np.int64))
        above = {label: position for position, label in enumerate(labels)}
    return tuple(result)


def encode(paths: Iterable[Sequence[str]], taxonomy: Taxonomy) -> Codes:
    """Codes of paths of one to all levels, shape (n, levels).

    Raises
    ------
    ValueError
        If a path is empty or not in the taxonomy; the message gives its row.
    """
    depth = taxonomy.depth
    known: dict[tuple[str, ...], list[int]] = {(): []}
    for level in range(depth):
        for position, label in enumerate(taxonomy.labels(level)):
            known[label] = [*known[label[:-1]], position]
    paths = [tuple(path) for path in paths]
    codes = np.full((len(paths), depth), -1, dtype=np.int64)
    for row, path in enumerate(paths):
        if not path or path not in known:
            raise ValueError(
                f"the label of row {row} is not in the taxonomy ({'/'.join(taxonomy.levels)}); correct the "
                "label, or add its path to the taxonomy file"
            )
        codes[row, : len(path)] = known[path]
    return codes


def checked(p: Sequence[Any], taxonomy: Taxonomy, name: str = "p") -> list[Array]:
    """The probabilities as float64.

    Raises
    ------
    ValueError
        If a level is missing, a shape differs, a value is not finite or negative, or a row does not sum to
        one; the message gives level and row.
    """
    if len(p) != taxonomy.depth:
        raise ValueError(f"{name} has {len(p)} levels, but the taxonomy has {taxonomy.depth}")
    result = [np.asarray(level, dtype=np.float64) for level in p]
    for number, (level, values) in enumerate(zip(taxonomy.levels, result, strict=True)):
        shape = len(result[0]), len(taxonomy.labels(number))
        if values.shape != shape:
            raise ValueError(f"{name} at level {level} has the shape {values.shape}, not {shape}")
        wrong = ~(np.isfinite(values).all(axis=1) & (values >= 0).all(axis=1))
        wrong |= ~(np.abs(values.sum(axis=1) - 1.0) <= _SUM_TOLERANCE)
        if wrong.any():
            raise ValueError(
                f"{name} at level {level} is no distribution in {int(wrong.sum())} rows, first in row "
                f"{np.flatnonzero(wrong)[0]}: probabilities must be finite, not negative, and sum to 1"
            )
    return result


def decode(p: Levels, taxonomy: Taxonomy) -> Codes:
    """The answer: the most probable core, the most probable nuance of that core, and so on; always valid.

    Top down, not the leaf of the highest joint probability, because (1) the answer's core is then the most
    probable core, which the highest leaf's often is not where a core's mass spreads over many leaves; (2)
    adding deeper levels never changes the answer above them; (3) a calibration that keeps the order of
    siblings, as a temperature does, never changes an answer. Equal probabilities: the first in the
    taxonomy's order.

    Returns
    -------
    ndarray of shape (n, levels)
        Codes.
    """
    return path_ensemble.decode(p, parents(taxonomy))


def levelwise_argmax(p: Levels) -> Codes:
    """The most probable label of each level by itself, codes of shape (n, levels); see :func:`is_path`."""
    return np.stack([np.asarray(values).argmax(axis=1) for values in p], axis=1)


def is_path(codes: Codes, taxonomy: Taxonomy) -> NDArray[np.bool_]:
    """Whether each row's labels lie below one another, shape (n,)."""
    valid = np.ones(len(codes), dtype=bool)
    for level, above in enumerate(parents(taxonomy)[1:], start=1):
        valid &= above[codes[:, level]] == codes[:, level - 1]
    return valid


# --- metrics -------------------------------------------------------------------------------------------


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


class _OwnerScores:
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
            names: (rows, [_WeightedBins(outcome, p) for outcome, p in pairs])
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


def replicates(bootstrap: OwnerBootstrap, scores: PathScores) -> dict[str, Array]:
    """Each metric in each draw of owners, shape (draws,); all NaN with fewer than two owners.

    Equal to building each resample row by row, at a small part of the cost.
    """
    of = _OwnerScores(scores, bootstrap._codes, bootstrap.n_owners)
    if bootstrap.n_owners < 2:
        names = of(np.ones((1, bootstrap.n_owners)))
        return {name: np.full(bootstrap.n, np.nan) for name in names}
    blocks = [of(counts) for _, counts in bootstrap._draws()]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def path_metrics(scores: PathScores) -> dict[str, float]:
    """Each metric of all rows; NaN where undefined. ``macro_f1`` and the others are listed at PathScores."""
    everyone = _OwnerScores(scores, np.zeros(len(scores.observed), dtype=np.int64), 1)
    return {name: float(value[0]) for name, value in everyone(np.ones((1, 1))).items()}


def estimates(bootstrap: OwnerBootstrap, scores: PathScores) -> dict[str, Estimate]:
    """Value and interval of each metric, by name, the path's first."""
    values, drawn = path_metrics(scores), replicates(bootstrap, scores)
    names = sorted(values, key=lambda name: name not in PATH_METRICS)
    return {name: Estimate(values[name], *bootstrap.interval(drawn[name])) for name in names}


# --- baselines -----------------------------------------------------------------------------------------


def majority_probabilities(train: Codes, taxonomy: Taxonomy) -> list[Array]:
    """Shares of the train labels, one row per level: p(core), p(nuance | core), ... multiplied.

    Each conditional share adds one to every count (Laplace), so that no label is impossible.
    """
    result: list[Array] = []
    above_p = np.ones(1)
    for level, above in enumerate(parents(taxonomy)):
        counts = np.bincount(train[train[:, level] >= 0, level], minlength=len(above)) + 1.0
        above_p = above_p[above] * counts / np.bincount(above, counts)[above]
        result.append(above_p)
    return result


def lexicon_available(frame: pd.DataFrame, taxonomy: Taxonomy) -> bool:
    """Whether the columns are there and the taxonomy begins with the cores that the words stand for."""
    cores = {label[0] for label in taxonomy.labels(0)}
    return set(_LEXICON_COLUMNS) <= set(frame) and {*LEXICON_CORES.values(), *_TRUST_CORES} <= cores


def lexicon_answers(frame: pd.DataFrame, taxonomy: Taxonomy, prior: Levels) -> Codes:
    """Paths by counting emotion words, for the six cores; see :data:`LEXICON_CORES`.

    The core of the most words; of equals, and without any word, the most frequent in train. Below the core,
    the most frequent path of train.

    Parameters
    ----------
    frame : DataFrame
        The lexical features ``joy, sadness, anger, fear, trust, lex_arousal``.
    prior : sequence of arrays
        From :func:`majority_probabilities`.
    """
    position = {label[0]: number for number, label in enumerate(taxonomy.labels(0))}
    words = np.zeros((len(frame), len(position)))
    for feature, core in LEXICON_CORES.items():
        words[:, position[core]] = frame[feature]
    aroused = frame["lex_arousal"].to_numpy() > 0
    strong, peaceful = (position[core] for core in _TRUST_CORES)
    words[np.arange(len(frame)), np.where(aroused, strong, peaceful)] = frame["trust"]
    most = words == words.max(axis=1, keepdims=True)
    first = np.where(most, prior[0], 0.0)
    return decode(
        [first, *(np.broadcast_to(level, (len(frame), level.size)) for level in prior[1:])], taxonomy
    )


BASELINE_LABELS: dict[str, str] = {"majority": "train majority", "lexicon": "keyword lexicon"}


# --- the whole result ----------------------------------------------------------------------------------


def evaluate_hierarchy(
    frame: pd.DataFrame,
    probabilities: Mapping[str, Sequence[Any]],
    *,
    variable: str,
    taxonomy: Taxonomy,
    train: pd.DataFrame,
    gates: Iterable[Gate] | None = None,
    ceiling: Mapping[str, Any] | None = None,
    slices: Sequence[str] = SLICES,
    owners: str = "owner_id",
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = SEED,
) -> dict[str, Any]:
    """Metrics with intervals, slices, baselines, base models, gains, reliability, confusions and gates.

    Parameters
    ----------
    frame : DataFrame
        The labelled test rows: ``item_id, owner_id, observed`` (paths of one to all levels, as tuples), the
        columns of ``slices`` that exist, and the lexical features for the lexicon baseline.
    probabilities : mapping of name to ``p``
        ``calibrated``, ``raw`` (the blend before calibration) and the base models in the order to show.
    variable : str
        Picks the default gates.
    taxonomy : Taxonomy
    train : DataFrame
        The labelled train rows: ``observed``.
    gates, ceiling, slices, owners, n_bootstrap, seed
        As in :func:`perceive.evaluation.evaluate.evaluate_regression`.

    Returns
    -------
    dict
        ``variable, kind, n, owners, observed, bootstrap, metrics{calibrated,raw}, slices, baselines, bases,
        best_base, blend_gain, best_baseline, baseline_gain, reliability, confusion, confusions,
        noise_ceiling, gates``; the shape is that of a regression, so that gates are judged by the same code.
        ``observed`` counts the rows and labels of each level. The gains are differences of hierarchical F1:
        the uncalibrated blend against the best base, the calibrated answer against the best baseline.
        ``reliability`` is ``{level: {raw, calibrated}}``; ``confusion`` counts first-level labels by
        answers; ``confusions`` lists the largest of each deeper level, ``share`` being that of the rows with
        the observed label, ``within`` whether the level above was right.

    Raises
    ------
    ValueError
        If a column or ``calibrated`` or ``raw`` is missing, an ``item_id`` is repeated, a label is not in the
        taxonomy, or probabilities have another shape or are none.
    """
    required = ["item_id", "owner_id", owners, "observed"]
    if missing := [column for column in dict.fromkeys(required) if column not in frame]:
        raise ValueError(f"the test rows of {variable} lack the columns {missing}")
    if repeated := int(frame["item_id"].duplicated().sum()):
        raise ValueError(f"{repeated} test rows of {variable} repeat an item_id")
    if missing := [name for name in ("calibrated", "raw") if name not in probabilities]:
        raise ValueError(f"the probabilities of {variable} lack {missing}")
    if train.empty:
        raise ValueError(f"no train rows with a label for {variable}: the baselines need at least one")
    observed = encode(frame["observed"], taxonomy)
    scores: dict[str, PathScores] = {}
    checked_p: dict[str, list[Array]] = {}
    for name, p in probabilities.items():
        checked_p[name] = checked(p, taxonomy, f"{variable}: {name}")
        if len(checked_p[name][0]) != len(frame):
            raise ValueError(
                f"{variable}: {name} has {len(checked_p[name][0])} rows for {len(frame)} test rows"
            )
        scores[name] = PathScores(observed, taxonomy, checked_p[name])
    prior = majority_probabilities(encode(train["observed"], taxonomy), taxonomy)
    constant = [np.broadcast_to(level, (len(frame), level.size)) for level in prior]
    naive_answers: dict[str, tuple[Levels | None, Codes]] = {
        "majority": (constant, decode(constant, taxonomy))
    }
    if lexicon_available(frame, taxonomy):
        naive_answers["lexicon"] = None, lexicon_answers(frame, taxonomy, prior)
    naive = {name: PathScores(observed, taxonomy, p, answers) for name, (p, answers) in naive_answers.items()}
    bootstrap = OwnerBootstrap(frame[owners].to_numpy(), n=n_bootstrap, seed=seed)

    def measured(of: Mapping[str, PathScores]) -> dict[str, dict[str, Any]]:
        return {name: _as_dicts(estimates(bootstrap, of_one)) for name, of_one in of.items()}

    of_naive = measured(naive)
    of_bases = measured({name: of for name, of in scores.items() if name not in ("calibrated", "raw")})
    best_base, best_naive = (
        best_of({name: of["hierarchical_f1"]["value"] for name, of in known.items()}, "hierarchical_f1")
        for known in (of_bases, of_naive)
    )
    undefined = Estimate(np.nan, np.nan, np.nan)
    result: dict[str, Any] = {
        "variable": variable,
        "kind": "hierarchy",
        "n": len(frame),
        "owners": bootstrap.n_owners,
        "observed": {
            name: {
                "n": int((observed[:, level] >= 0).sum()),
                "labels": len(taxonomy.labels(level)),
                "occurring": len(np.unique(observed[observed[:, level] >= 0, level])),
            }
            for level, name in enumerate(taxonomy.levels)
        },
        "bootstrap": {"unit": "owner", "n": n_bootstrap, "seed": seed, "level": LEVEL},
        "metrics": measured({name: scores[name] for name in ("calibrated", "raw")}),
        "slices": _slices(
            frame,
            observed,
            taxonomy,
            checked_p["calibrated"],
            naive_answers,
            slices,
            owners,
            n_bootstrap,
            seed,
        ),
        "baselines": of_naive,
        "bases": of_bases,
        "best_base": best_base,
        "blend_gain": (
            gain(bootstrap, taxonomy, observed, scores["raw"].answers, scores[best_base].answers)
            if best_base
            else undefined
        )._asdict(),
        "best_baseline": best_naive,
        "baseline_gain": (
            gain(bootstrap, taxonomy, observed, scores["calibrated"].answers, naive[best_naive].answers)
            if best_naive
            else undefined
        )._asdict(),
        "reliability": {
            name: {
                kind: reliability_bins(*confidence_pair(observed[rows, level], checked_p[kind][level][rows]))
                for kind in ("raw", "calibrated")
            }
            for level, name in enumerate(taxonomy.levels)
            for rows in [observed[:, level] >= 0]
        },
        "confusion": confusion(observed, scores["calibrated"].answers, taxonomy),
        "confusions": largest_confusions(observed, scores["calibrated"].answers, taxonomy),
        "noise_ceiling": None if ceiling is None else dict(ceiling),
    }
    result = json_safe(result)
    result["gates"] = judge_result(result, DEFAULT_GATES.get(variable, ()) if gates is None else gates)
    return result


def gain(bootstrap: OwnerBootstrap, taxonomy: Taxonomy, observed: Codes, a: Codes, b: Codes) -> Estimate:
    """Hierarchical F1 of the answers ``a`` less that of ``b``, on the same draws of owners."""
    of_a, of_b = (PathScores(observed, taxonomy, answers=answers) for answers in (a, b))
    name = "hierarchical_f1"
    drawn = replicates(bootstrap, of_a)[name] - replicates(bootstrap, of_b)[name]
    return Estimate(path_metrics(of_a)[name] - path_metrics(of_b)[name], *bootstrap.interval(drawn))


def confusion(observed: Codes, answers: Codes, taxonomy: Taxonomy) -> dict[str, Any]:
    """First level: ``{level, labels, counts}``, rows the observed labels, columns the answers."""
    labels = [label[0] for label in taxonomy.labels(0)]
    pairs = observed[:, 0] * len(labels) + answers[:, 0]
    counts = np.bincount(pairs, minlength=len(labels) ** 2).reshape(len(labels), -1)
    return {"level": taxonomy.levels[0], "labels": labels, "counts": counts}


def largest_confusions(
    observed: Codes, answers: Codes, taxonomy: Taxonomy, limit: int = N_CONFUSIONS
) -> dict[str, list[dict[str, Any]]]:
    """For each level below the first, the most frequent wrong answers: observed, predicted, n, share, within.

    Those that occur once are left out. Of equally frequent ones, first the larger share, then the taxonomy's
    order.
    """
    above = parents(taxonomy)
    result = {}
    for level, name in enumerate(taxonomy.levels[1:], start=1):
        labels = ["/".join(label) for label in taxonomy.labels(level)]
        rows = observed[:, level] >= 0
        label, answer = observed[rows, level], answers[rows, level]
        of_label = np.bincount(label, minlength=len(labels))
        pairs, counts = np.unique(
            np.stack([label, answer], axis=1)[label != answer], axis=0, return_counts=True
        )
        shares = counts / of_label[pairs[:, 0]]
        order = np.lexsort((pairs[:, 1], pairs[:, 0], -shares, -counts))
        result[name] = [
            {
                "observed": labels[pairs[i, 0]],
                "predicted": labels[pairs[i, 1]],
                "n": int(counts[i]),
                "share": float(shares[i]),
                "within": bool(above[level][pairs[i, 0]] == above[level][pairs[i, 1]]),
            }
            for i in order[:limit]
            if counts[i] > 1
        ]
    return result


def _as_dicts(of: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: estimate._asdict() for name, estimate in of.items()}


def _slices(
    frame: pd.DataFrame,
    observed: Codes,
    taxonomy: Taxonomy,
    p: Levels,
    naive: Mapping[str, tuple[Levels | None, Codes]],
    slices: Sequence[str],
    owners: str,
    n_bootstrap: int,
    seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """``{column: {value: {n, owners, metrics?, baselines?}}}``; a slice resamples its own owners."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for column in slices:
        if column not in frame:
            continue
        values = frame[column].astype("object").where(frame[column].notna(), None).to_numpy()
        for value in _sorted_levels(column, {str(value) for value in values if value is not None}):
            rows = np.array([known is not None and str(known) == value for known in values])
            bootstrap = OwnerBootstrap(frame[owners].to_numpy()[rows], n=n_bootstrap, seed=seed)
            part: dict[str, Any] = {"n": int(rows.sum()), "owners": bootstrap.n_owners}
            if part["n"] >= MIN_SLICE_ROWS and part["owners"] >= MIN_SLICE_OWNERS:
                scores = PathScores(observed[rows], taxonomy, [level[rows] for level in p])
                part["metrics"] = _as_dicts(estimates(bootstrap, scores))
                part["baselines"] = {
                    name: path_metrics(
                        PathScores(
                            observed[rows],
                            taxonomy,
                            None if of is None else [level[rows] for level in of],
                            answers[rows],
                        )
                    )
                    for name, (of, answers) in naive.items()
                }
            result.setdefault(column, {})[value] = part
    return result
