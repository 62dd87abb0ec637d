"""Evaluation of a hierarchy variable: intervals of its metrics, baselines, and the whole result.

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

from perceive.evaluation import PATH_METRICS
from perceive.evaluation.bootstrap import (
    LEVEL,
    N_BOOTSTRAP,
    SEED,
    Estimate,
    OwnerBootstrap,
)
from perceive.evaluation.evaluate import MIN_SLICE_OWNERS, MIN_SLICE_ROWS, SLICES, _sorted_levels
from perceive.evaluation.gates import DEFAULT_GATES, Gate, best_of, judge_result
from perceive.evaluation.metrics import Array, json_safe, reliability_bins
from perceive.evaluation.path_scores import OwnerScores, PathScores, confidence_pair, path_metrics
from perceive.paths import Codes, Levels, checked, decode, encode, parents

if TYPE_CHECKING:
    from perceive.taxonomy import Taxonomy

N_CONFUSIONS = 12

LEXICON_CORES: dict[str, str] = {"joy": "Happy", "sadness": "Sad", "anger": "Angry", "fear": "Fearful"}
"""Core that each emotion's words stand for; words of trust stand for Strong where the text is aroused
(``lex_arousal > 0``: brave, confident) and for Peaceful where it is not (safe, settled). Surprise stands for
none."""

_TRUST_CORES = ("Strong", "Peaceful")
_LEXICON_COLUMNS = (*LEXICON_CORES, "trust", "lex_arousal")


# --- metrics -------------------------------------------------------------------------------------------


def replicates(bootstrap: OwnerBootstrap, scores: PathScores) -> dict[str, Array]:
    """Each metric in each draw of owners, shape (draws,); all NaN with fewer than two owners.

    Equal to building each resample row by row, at a small part of the cost.
    """
    of = OwnerScores(scores, bootstrap._codes, bootstrap.n_owners)
    if bootstrap.n_owners < 2:
        names = of(np.ones((1, bootstrap.n_owners)))
        return {name: np.full(bootstrap.n, np.nan) for name in names}
    blocks = [of(counts) for _, counts in bootstrap._draws()]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


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
