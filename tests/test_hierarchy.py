"""Hierarchies: decoding, metrics equal to scikit-learn's and to counting, intervals, the result."""

from __future__ import annotations

import json
import time
import warnings
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from perceive.evaluation import LEVEL_METRICS, PATH_METRICS, hierarchy, level_metric, metric_label
from perceive.evaluation.bootstrap import OwnerBootstrap
from perceive.evaluation.gates import ACCEPTANCE_COLUMNS, Gate, acceptance_table
from perceive.evaluation.hierarchy import (
    confusion,
    estimates,
    evaluate_hierarchy,
    gain,
    largest_confusions,
    lexicon_answers,
    lexicon_available,
    majority_probabilities,
    replicates,
)
from perceive.evaluation.metrics import ece, mce
from perceive.evaluation.path_scores import PathScores, path_metrics
from perceive.paths import checked, decode, encode, is_path, levelwise_argmax, parents
from perceive.taxonomy import Taxonomy, load_taxonomy
from perceive.variables import CORES

ROOT = Path(__file__).parents[1]
LEVELS = ("core", "nuance", "micro")
EMOTIONS = Taxonomy(LEVELS, tuple((c, f"{c}{i}", f"{c}{i}{j}") for c, i, j in product(CORES, "abc", "xyz")))
SMALL = Taxonomy(("core", "nuance"), (("A", "a"), ("A", "b"), ("B", "c"), ("B", "d"), ("B", "e")))


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def random_taxonomy(rng, depth):
    """One to four labels below each label, siblings not together; names repeat below different parents."""

    def below(prefix):
        if len(prefix) == depth:
            return [prefix]
        count = rng.integers(2 if not prefix else 1, 5)
        return [path for i in range(count) for path in below((*prefix, f"L{len(prefix)}{i}"))]

    paths = below(())
    return Taxonomy(LEVELS[:depth], tuple(paths[i] for i in rng.permutation(len(paths))))


def joint(conditional_logits, taxonomy):
    """Joint probabilities per level from logits of each level, by a softmax among siblings."""
    above, result = np.ones((len(conditional_logits[0]), 1)), []
    for logits, parent in zip(conditional_logits, parents(taxonomy), strict=True):
        powers = np.exp(logits)
        sums = powers @ np.eye(int(parent.max()) + 1)[parent]
        above = above[:, parent] * powers / sums[:, parent]
        result.append(above)
    return result


def draw_leaves(rng, p):
    return (rng.random((len(p[-1]), 1)) > np.cumsum(p[-1], axis=1)).sum(axis=1).clip(max=p[-1].shape[1] - 1)


def simulate(seed, n=300, n_owners=40, taxonomy=EMOTIONS, scale=3.0, sharpness=1.0, partial=0.2):
    """Probabilities of which labels are drawn, raised to a power; some labels stop early.

    Returns (p, paths, owners).
    """
    rng = np.random.default_rng(seed)
    logits = [
        scale * rng.normal(size=(n, len(taxonomy.labels(level)))) for level in range(len(taxonomy.levels))
    ]
    leaves = draw_leaves(rng, joint(logits, taxonomy))
    stops = np.where(
        rng.random(n) < partial, rng.integers(1, len(taxonomy.levels) + 1, n), len(taxonomy.levels)
    )
    paths = [taxonomy.paths[leaf][:stop] for leaf, stop in zip(leaves, stops, strict=True)]
    owners = np.array([f"secret-owner-{o}" for o in rng.integers(n_owners, size=n)])
    return joint([sharpness * level for level in logits], taxonomy), paths, owners


@st.composite
def cases(draw):
    """(taxonomy, p, observed codes, owners), with ties and impossible labels among the probabilities."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    taxonomy = random_taxonomy(rng, draw(st.integers(1, 3)))
    p, paths, owners = simulate(
        rng.integers(1 << 30), draw(st.integers(1, 40)), draw(st.integers(1, 6)), taxonomy
    )
    if draw(st.booleans()):
        leaf = np.round(p[-1] * 4) + (np.arange(p[-1].shape[1]) == 0)
        p = from_leaves(leaf / leaf.sum(axis=1, keepdims=True), taxonomy)
    return taxonomy, p, encode(paths, taxonomy), owners


def from_leaves(leaf, taxonomy):
    result = [leaf]
    for parent in reversed(parents(taxonomy)[1:]):
        result.insert(0, result[0] @ np.eye(int(parent.max()) + 1)[parent])
    return result


# --- paths and decoding


def test_parents_and_codes_of_a_small_taxonomy():
    assert [above.tolist() for above in parents(SMALL)] == [[0, 0], [0, 0, 1, 1, 1]]
    assert encode([("B", "d"), ("A",), ["A", "b"]], SMALL).tolist() == [[1, 3], [0, -1], [0, 1]]


@pytest.mark.parametrize("path", [(), ("C",), ("A", "c"), ("A", "a", "x")])
def test_a_path_outside_the_taxonomy_is_refused_with_its_row(path):
    with pytest.raises(ValueError, match=r"row 1.*taxonomy"):
        encode([("A",), path], SMALL)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_answer_is_the_best_child_of_the_best_child_and_always_valid(case):
    taxonomy, p, _, _ = case
    answers = decode(p, taxonomy)
    for row, codes in enumerate(answers):
        prefix = ()
        for level, code in enumerate(codes):
            labels = taxonomy.labels(level)
            allowed = [label for label in labels if label[:-1] == prefix]
            # max takes the first of equals
            prefix = max(allowed, key=lambda label: p[level][row, labels.index(label)])
            assert labels[code] == prefix
        assert taxonomy.is_valid(prefix)
    assert is_path(answers, taxonomy).all()
    np.testing.assert_array_equal(answers[:, 0], p[0].argmax(axis=1))


@settings(max_examples=30, deadline=None)
@given(cases())
def test_deeper_levels_never_change_the_answer_above(case):
    taxonomy, p, _, _ = case
    for depth in range(1, len(taxonomy.levels)):
        shallow = Taxonomy(taxonomy.levels[:depth], taxonomy.labels(depth - 1))
        np.testing.assert_array_equal(decode(p[:depth], shallow), decode(p, taxonomy)[:, :depth])


def test_the_best_core_wins_over_the_best_leaf():
    # A has .6, spread over two; the best leaf by far is B's
    p = from_leaves(np.array([[0.3, 0.3, 0.4, 0.0, 0.0]]), SMALL)
    assert decode(p, SMALL).tolist() == [[0, 0]]
    assert levelwise_argmax(p).tolist() == [[0, 2]]
    assert not is_path(levelwise_argmax(p), SMALL).any()


def test_the_answer_is_valid_even_where_the_levels_contradict_one_another():
    # nothing is left for the children of B, as independent rounding of the levels could have it
    p = [np.array([[0.4, 0.6]]), np.array([[0.5, 0.5, 0.0, 0.0, 0.0]])]
    assert decode(p, SMALL).tolist() == [[1, 2]]


@settings(max_examples=30, deadline=None)
@given(cases())
def test_validity_agrees_with_the_taxonomy(case):
    taxonomy, p, _, _ = case
    codes = levelwise_argmax(p)
    for row, valid in zip(codes, is_path(codes, taxonomy), strict=True):
        labels = [taxonomy.labels(level)[code] for level, code in enumerate(row)]
        assert valid == all(deeper[: len(label)] == label for label, deeper in pairwise(labels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:1], "1 levels, but the taxonomy has 2"),
        (lambda p: [p[0], p[1][:, :4]], "level nuance has the shape"),
        (lambda p: [p[0], p[1][:2]], "level nuance has the shape"),
        (lambda p: [p[0], np.where(p[1] == p[1][2, 0], np.nan, p[1])], "nuance is no distribution.*row 2"),
        (lambda p: [p[0] * 1.01, p[1]], "core is no distribution in 3 rows, first in row 0"),
        (lambda p: [p[0], p[1] + [2, -2, 0, 0, 0]], "nuance is no distribution"),
    ],
)
def test_what_is_no_distribution_is_refused(change, message):
    p = joint([np.arange(6.0).reshape(3, 2), np.arange(15.0).reshape(3, 5) ** 0.5], SMALL)
    assert [level.dtype for level in checked([level.astype("float32") for level in p], SMALL)] == [
        "float64"
    ] * 2
    with pytest.raises(ValueError, match=message):
        checked(change(p), SMALL)


# --- metrics


@settings(max_examples=30, deadline=None)
@given(cases())
def test_metrics_equal_those_of_scikit_learn(case):
    taxonomy, p, observed, _ = case
    answers = decode(p, taxonomy)
    found = path_metrics(PathScores(observed, taxonomy, p))
    for level, name in enumerate(taxonomy.levels):
        rows = observed[:, level] >= 0
        expected = dict.fromkeys(
            ("accuracy", "macro_f1", "log_loss", "brier", "ece", "mce", "top3_accuracy"), np.nan
        )
        if rows.any():
            y, a, q = observed[rows, level], answers[rows, level], p[level][rows]
            labels = np.arange(q.shape[1])
            expected["accuracy"] = sk.accuracy_score(y, a)
            expected["macro_f1"] = sk.f1_score(y, a, average="macro", zero_division=0)
            right, confidence = (q.argmax(axis=1) == y).astype(float), q.max(axis=1)
            expected["ece"], expected["mce"] = ece(right, confidence), mce(right, confidence)
            # a hair of noise makes scikit-learn, too, put the first of equals first
            untied = q - 1e-12 * labels
            best = [set(np.argsort(-row)[:3]) for row in untied]
            expected["top3_accuracy"] = np.mean(
                [label in three for label, three in zip(y, best, strict=True)]
            )
            if len(labels) > 2:
                expected["log_loss"] = sk.log_loss(y, q, labels=labels)
                expected["brier"] = sk.brier_score_loss(y, q, labels=labels)
            else:
                one_hot = np.eye(len(labels))[y]
                smallest = np.finfo(float).eps
                expected["log_loss"] = -np.log(np.clip(q[one_hot > 0], smallest, 1)).mean()
                expected["brier"] = ((q - one_hot) ** 2).sum(axis=1).mean()
        if p[level].shape[1] <= 3:
            assert f"top3_accuracy_{name}" not in found
            del expected["top3_accuracy"]
        for metric, value in expected.items():
            assert found[f"{metric}_{name}"] == pytest.approx(value, abs=1e-9, nan_ok=True), (metric, name)
    assert found["path_validity"] == np.mean(
        [is_path(levelwise_argmax(p)[[row]], taxonomy)[0] for row in range(len(observed))]
    )


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 10_000))
def test_hierarchical_metrics_equal_counting_sets_of_ancestors(case, seed):
    taxonomy, p, observed, _ = case
    rng = np.random.default_rng(seed)
    answers = decode(p, taxonomy)
    # a predictor that stops early itself; the first level is always answered
    stop = rng.integers(1, len(taxonomy.levels) + 1, len(answers))
    answers = np.where(np.arange(len(taxonomy.levels)) < stop[:, None], answers, -1)
    found = path_metrics(PathScores(observed, taxonomy, answers=answers))
    shared = predicted = labelled = exact = 0
    for label, answer in zip(observed, answers, strict=True):
        of_label = {taxonomy.labels(level)[c] for level, c in enumerate(label) if c >= 0}
        of_answer = {
            taxonomy.labels(level)[c] for level, c in enumerate(answer) if c >= 0 and label[level] >= 0
        }
        shared += len(of_label & of_answer)
        predicted += len(of_answer)
        labelled += len(of_label)
        exact += of_label == of_answer
    assert found["hierarchical_precision"] == pytest.approx(shared / predicted)
    assert found["hierarchical_recall"] == pytest.approx(shared / labelled)
    assert found["hierarchical_f1"] == pytest.approx(2 * shared / (predicted + labelled))
    assert found["exact_path"] == pytest.approx(exact / len(observed))
    assert not {"path_validity", "log_loss_core", "ece_core"} & set(found)


def test_a_worked_example():
    observed = encode([("A", "a"), ("B", "d"), ("B",), ("A", "b")], SMALL)
    answers = encode([("A", "a"), ("B", "c"), ("B", "e"), ("B",)], SMALL)
    found = path_metrics(PathScores(observed, SMALL, answers=answers))
    # shared 2 + 1 + 1 + 0; of the answers, as deep as the labels, 2 + 2 + 1 + 1; of the labels 2 + 2 + 1 + 2
    assert found["hierarchical_precision"] == pytest.approx(4 / 6)
    assert found["hierarchical_recall"] == pytest.approx(4 / 7)
    assert found["hierarchical_f1"] == pytest.approx(8 / 13)
    assert found["exact_path"] == 0.5
    assert found["accuracy_core"] == 0.75 and found["accuracy_nuance"] == pytest.approx(1 / 3)
    # A: 1 of 2 found, none wrong: 2/3. B: 2 of 2 found, 1 wrong: 4/5
    assert found["macro_f1_core"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    # a right, d and b missed, c answered in vain; e is answered only where no nuance is labelled
    assert found["macro_f1_nuance"] == pytest.approx(1 / 4)


def test_classwise_ece_is_the_mean_over_the_first_levels_labels():
    p, paths, _ = simulate(3, taxonomy=SMALL)
    observed = encode(paths, SMALL)
    found = path_metrics(PathScores(observed, SMALL, p))
    expected = np.mean([ece((observed[:, 0] == label).astype(float), p[0][:, label]) for label in (0, 1)])
    assert found["classwise_ece_core"] == pytest.approx(expected)
    assert "classwise_ece_nuance" not in found and "mce_core" in found


def test_perfect_and_worst_answers():
    _, paths, _ = simulate(1, partial=0.3)
    observed = encode(paths, EMOTIONS)
    leaf = np.zeros((len(observed), len(EMOTIONS.paths)))
    for row, path in enumerate(paths):
        leaf[row, next(i for i, full in enumerate(EMOTIONS.paths) if full[: len(path)] == path)] = 1
    best = path_metrics(PathScores(observed, EMOTIONS, from_leaves(leaf, EMOTIONS)))
    worst = path_metrics(PathScores(observed, EMOTIONS, from_leaves(np.roll(leaf, 9, axis=1), EMOTIONS)))
    for name, value in best.items():
        low = any(name.startswith(part) for part in ("log_loss", "brier", "ece", "mce", "classwise"))
        assert value == pytest.approx(0 if low else 1), name
    for name, value in worst.items():
        if name.startswith("log_loss"):
            assert value == pytest.approx(-np.log(np.finfo(float).eps))
        elif name.startswith("brier"):
            assert value == pytest.approx(2)
        elif name.startswith(("ece", "mce", "path_validity")):
            assert value == pytest.approx(1)
        elif not name.startswith(("classwise", "top3")):
            assert value == 0, name


def test_every_metric_has_a_label():
    p, paths, _ = simulate(1, 40)
    names = list(path_metrics(PathScores(encode(paths, EMOTIONS), EMOTIONS, p)))
    labels = [metric_label(name) for name in names]
    assert len(set(labels)) == len(names)
    # So all of them may have gates, and there are no others.
    assert all(
        Gate("invoked", name, ">=", 0.5).label == f"{label} >= 0.5"
        for name, label in zip(names, labels, strict=True)
    )
    assert {level_metric(name)[0] for name in names if level_metric(name)} == set(LEVEL_METRICS)
    assert {name for name in names if not level_metric(name)} == set(PATH_METRICS)
    assert metric_label("macro_f1_core") == "macro-F1 (core)" and metric_label("ece_a_b") == "ECE (a_b)"
    assert metric_label("classwise_ece_core") == "classwise ECE (core)"
    assert metric_label("rmse") == "RMSE"
    for unknown in ("rsme", "macro_f1", "core"):
        with pytest.raises(ValueError, match=unknown):
            metric_label(unknown)


def test_a_predictor_needs_probabilities_or_answers():
    with pytest.raises(ValueError, match="probabilities or answers"):
        PathScores(encode([("A",)], SMALL), SMALL)


# --- intervals


@settings(max_examples=25, deadline=None)
@given(cases())
def test_replicates_equal_resampling_row_by_row(case):
    taxonomy, p, observed, owners = case
    bootstrap = OwnerBootstrap(owners, n=12)
    fast = replicates(bootstrap, PathScores(observed, taxonomy, p))
    slow = {name: [] for name in fast}

    def statistic(taken):
        drawn = path_metrics(PathScores(observed[taken], taxonomy, [level[taken] for level in p]))
        for name, value in drawn.items():
            slow[name].append(value)
        return 0.0

    bootstrap.resample(statistic)
    for name, values in fast.items():
        expected = slow[name] or np.full(12, np.nan)
        np.testing.assert_allclose(values, expected, atol=1e-9, err_msg=name)


def test_blocks_of_draws_and_the_order_of_rows_change_nothing(monkeypatch):
    p, paths, owners = simulate(2)
    observed = encode(paths, EMOTIONS)
    whole = replicates(OwnerBootstrap(owners, n=50), PathScores(observed, EMOTIONS, p))
    order = np.random.default_rng(0).permutation(len(owners))
    shuffled = replicates(
        OwnerBootstrap(owners[order], n=50), PathScores(observed[order], EMOTIONS, [q[order] for q in p])
    )
    monkeypatch.setattr("perceive.evaluation.bootstrap._BLOCK", 7 * len(owners))
    pieces = replicates(OwnerBootstrap(owners, n=50), PathScores(observed, EMOTIONS, p))
    other = replicates(OwnerBootstrap(owners, n=50, seed=1), PathScores(observed, EMOTIONS, p))
    for name, values in whole.items():
        np.testing.assert_allclose(values, shuffled[name], rtol=1e-10, err_msg=name)
        np.testing.assert_allclose(values, pieces[name], rtol=1e-10, err_msg=name)
        assert (values != other[name]).any(), name


def test_whole_owners_are_resampled():
    # each owner's answers are all right or all wrong, so the interval is that of 20 coins, not of 400
    owners = np.repeat(np.arange(20), 20)
    observed = encode([("A", "a")] * 400, SMALL)
    answers = np.where(owners[:, None] < 10, observed, encode([("B", "c")] * 400, SMALL))
    scores = PathScores(observed, SMALL, answers=answers)
    by_owner = estimates(OwnerBootstrap(owners), scores)["accuracy_core"]
    by_row = estimates(OwnerBootstrap(np.arange(400)), scores)["accuracy_core"]
    assert by_owner.value == by_row.value == 0.5
    assert by_owner.high - by_owner.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(20), rel=0.12)
    assert by_row.high - by_row.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(400), rel=0.12)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_fewer_than_two_owners_have_no_interval(n):
    p, paths, _ = simulate(5, n, 1, SMALL)
    found = estimates(OwnerBootstrap(["x"] * n, n=5), PathScores(encode(paths, SMALL), SMALL, p))
    assert all(np.isnan(of.low) and np.isnan(of.high) for of in found.values())
    assert np.isnan(found["accuracy_core"].value) == (n == 0)


def test_gain_is_paired():
    p, paths, owners = simulate(6)
    observed = encode(paths, EMOTIONS)
    good = decode(p, EMOTIONS)
    worse = np.where(np.arange(len(good))[:, None] % 5 == 0, 0, good)
    bootstrap = OwnerBootstrap(owners, n=200)
    found = gain(bootstrap, EMOTIONS, observed, good, worse)
    f1 = [path_metrics(PathScores(observed, EMOTIONS, answers=a))["hierarchical_f1"] for a in (good, worse)]
    assert found.value == pytest.approx(f1[0] - f1[1]) and found.low > 0
    of_one = estimates(bootstrap, PathScores(observed, EMOTIONS, answers=good))["hierarchical_f1"]
    assert found.high - found.low < of_one.high - of_one.low
    assert gain(bootstrap, EMOTIONS, observed, good, good) == (0, 0, 0)
    assert gain(bootstrap, EMOTIONS, observed, worse, good).value == -found.value


def test_a_thousand_resamples_are_cheap():
    p, paths, owners = simulate(7, 780, 120)
    scores = PathScores(encode(paths, EMOTIONS), EMOTIONS, p)
    start = time.perf_counter()
    estimates(OwnerBootstrap(owners, n=1000), scores)
    # .15 s on one core
    assert time.perf_counter() - start < 3


# --- baselines


@settings(max_examples=40, deadline=None)
@given(cases())
def test_majority_is_a_consistent_prior(case):
    taxonomy, _, observed, _ = case
    prior = majority_probabilities(observed, taxonomy)
    for level, above in enumerate(parents(taxonomy)):
        assert prior[level].min() > 0
        if level:
            np.testing.assert_allclose(np.bincount(above, prior[level]), prior[level - 1], atol=1e-12)
    counts = np.bincount(observed[:, 0], minlength=len(prior[0])) + 1
    np.testing.assert_allclose(prior[0], counts / counts.sum(), atol=1e-12)


def test_majority_counts_each_level_where_it_is_labelled():
    train = encode([("B",), ("B",), ("B", "d"), ("A", "b"), ("A", "b")], SMALL)
    prior = majority_probabilities(train, SMALL)
    np.testing.assert_allclose(prior[0], [3 / 7, 4 / 7])
    np.testing.assert_allclose(
        prior[1], [3 / 7 * 1 / 4, 3 / 7 * 3 / 4, 4 / 7 * 1 / 4, 4 / 7 * 2 / 4, 4 / 7 * 1 / 4]
    )


def lexical(**counts):
    return {
        name: 0.0 for name in ("joy", "sadness", "anger", "fear", "trust", "surprise", "lex_arousal")
    } | counts


def test_the_lexicon_takes_the_core_of_the_most_words():
    train = encode([("Sad", "Sadb", "Sadby")] * 3 + [("Happy", "Happyc", "Happycx")] * 2, EMOTIONS)
    rows = {
        "Happy": lexical(joy=2, sadness=1),
        "Sad": lexical(sadness=1),
        "Angry": lexical(anger=3, fear=2, lex_arousal=0.9),
        "Fearful": lexical(fear=1, surprise=4),
        "Strong": lexical(trust=2, joy=1, lex_arousal=0.1),
        "Peaceful": lexical(trust=2, joy=1, lex_arousal=0.0),
    }
    ties = {"Sad": lexical(joy=1, sadness=1, fear=1), "Happy": lexical(joy=1, fear=1)}
    none = {"Sad": lexical(surprise=1, lex_arousal=0.5)}
    frame = pd.DataFrame([row for part in (rows, ties, none) for row in part.values()])
    prior = majority_probabilities(train, EMOTIONS)
    answers = lexicon_answers(frame, EMOTIONS, prior)
    assert is_path(answers, EMOTIONS).all()
    cores = [EMOTIONS.labels(0)[code][0] for code in answers[:, 0]]
    assert cores == [core for part in (rows, ties, none) for core in part]
    # below the core: what train has most of
    assert EMOTIONS.labels(2)[answers[1, 2]] == ("Sad", "Sadb", "Sadby")
    assert EMOTIONS.labels(2)[answers[0, 2]] == ("Happy", "Happyc", "Happycx")


def test_the_lexicon_needs_its_columns_and_the_six_cores():
    frame = pd.DataFrame([lexical()])
    assert lexicon_available(frame, load_taxonomy(ROOT / "resources" / "taxonomy.tsv"))
    assert lexicon_available(frame, EMOTIONS)
    assert not lexicon_available(frame, SMALL)
    assert not lexicon_available(frame.drop(columns="trust"), EMOTIONS)
    assert not lexicon_available(frame.drop(columns="lex_arousal"), EMOTIONS)


# --- confusions


def test_confusions_are_counted_by_label_and_answer():
    pairs = [(("A", "a"), ("A", "b"))] * 3 + [(("A", "a"), ("B", "c"))] * 2 + [(("B", "d"), ("B", "e"))] * 2
    pairs += [(("B", "d"), ("B", "c")), (("B",), ("B", "c")), (("A", "a"), ("A", "a"))]
    observed, answers = (encode(side, SMALL) for side in zip(*pairs, strict=True))
    found = confusion(observed, answers, SMALL)
    assert found["labels"] == ["A", "B"] and found["level"] == "core"
    assert found["counts"].tolist() == [[4, 2], [0, 4]]
    listed = largest_confusions(observed, answers, SMALL)
    assert listed == {
        "nuance": [
            {"observed": "A/a", "predicted": "A/b", "n": 3, "share": 0.5, "within": True},
            {"observed": "B/d", "predicted": "B/e", "n": 2, "share": pytest.approx(2 / 3), "within": True},
            {"observed": "A/a", "predicted": "B/c", "n": 2, "share": pytest.approx(1 / 3), "within": False},
        ]
    }
    assert [pair["n"] for pair in largest_confusions(observed, answers, SMALL, limit=1)["nuance"]] == [3]


# --- the whole result


def frame_of(paths, owners, seed=0, prefix="t"):
    rng = np.random.default_rng(seed)
    n = len(paths)
    frame = pd.DataFrame(
        {
            "item_id": [f"{prefix}{i:05d}" for i in range(n)],
            "owner_id": owners,
            "length_bucket": rng.choice(["SHORT", "MEDIUM", "LONG"], n, p=[0.2, 0.5, 0.3]),
            "language": rng.choice(["en", "hinglish"], n, p=[0.99, 0.01]),
            "risk_level": None,
        }
    )
    frame["observed"] = paths
    words = {"Happy": "joy", "Sad": "sadness", "Angry": "anger", "Fearful": "fear"}
    for feature in ("joy", "sadness", "anger", "fear", "trust"):
        frame[feature] = [
            float(words.get(path[0], "trust") == feature and rng.random() < 0.6) for path in paths
        ]
    frame["lex_arousal"] = [0.3 if path[0] == "Strong" else -0.3 for path in paths]
    return frame


def blurred(p, taxonomy, seed, noise):
    rng = np.random.default_rng(seed)
    return joint([np.log(level + 1e-9) + noise * rng.normal(size=level.shape) for level in p], taxonomy)


@pytest.fixture(scope="module")
def inputs():
    p, paths, owners = simulate(11, 400, 60, scale=5.0)
    probabilities = {
        "calibrated": p,
        "raw": blurred(p, EMOTIONS, 3, 0.7),
        "lx": blurred(p, EMOTIONS, 1, 2.0),
        "eb": blurred(p, EMOTIONS, 2, 1.0),
    }
    _, train, of_train = simulate(12, 600, 50, scale=5.0)
    return frame_of(paths, owners), probabilities, frame_of(train, of_train, 1, "r")


@pytest.fixture(scope="module")
def result(inputs):
    frame, probabilities, train = inputs
    return evaluate_hierarchy(
        frame,
        probabilities,
        variable="invoked",
        taxonomy=EMOTIONS,
        train=train,
        ceiling={"macro_f1_core": 0.7},
        n_bootstrap=200,
    )


def test_the_result_has_the_shape_of_a_regressions(result):
    assert list(result) == [
        "variable", "kind", "n", "owners", "observed", "bootstrap", "metrics", "slices", "baselines", "bases",
        "best_base", "blend_gain", "best_baseline", "baseline_gain", "reliability", "confusion", "confusions",
        "noise_ceiling", "gates",
    ]  # fmt: skip
    assert result["kind"] == "hierarchy" and result["n"] == 400 and result["owners"] == 60
    assert result["bootstrap"] == {"unit": "owner", "n": 200, "seed": 137, "level": 0.95}
    assert set(result["metrics"]) == {"calibrated", "raw"}
    assert list(result["bases"]) == ["lx", "eb"] and list(result["baselines"]) == ["majority", "lexicon"]
    assert result["observed"]["core"] == {"n": 400, "labels": 6, "occurring": 6}
    assert result["observed"]["micro"]["n"] < 400 and result["observed"]["micro"]["labels"] == 54
    text = json.dumps(result, allow_nan=False)
    assert "secret-owner" not in text and "t00" not in text


def test_numbers_are_those_of_the_parts(result, inputs):
    frame, probabilities, _ = inputs
    observed = encode(frame["observed"], EMOTIONS)
    for kind in ("calibrated", "raw"):
        expected = path_metrics(PathScores(observed, EMOTIONS, probabilities[kind]))
        for name, value in expected.items():
            numbers = result["metrics"][kind][name]
            assert numbers["value"] == pytest.approx(value)
            if name.endswith("core") and not name.startswith(("ece", "mce", "classwise")):
                assert numbers["low"] <= value <= numbers["high"]
    for name, of in result["bases"].items():
        expected = path_metrics(PathScores(observed, EMOTIONS, probabilities[name]))
        assert of["hierarchical_f1"]["value"] == pytest.approx(expected["hierarchical_f1"])
    rows = observed[:, 2] >= 0
    bins = result["reliability"]["micro"]["calibrated"]
    assert sum(b["n"] for b in bins) == rows.sum() == result["observed"]["micro"]["n"]
    confidence = probabilities["calibrated"][2][rows].max(axis=1)
    assert sum(b["n"] * b["predicted"] for b in bins) == pytest.approx(confidence.sum())
    assert result["reliability"]["core"]["raw"] != result["reliability"]["core"]["calibrated"]
    assert np.sum(result["confusion"]["counts"]) == 400
    assert np.trace(result["confusion"]["counts"]) == pytest.approx(
        400 * result["metrics"]["calibrated"]["accuracy_core"]["value"]
    )
    assert set(result["confusions"]) == {"nuance", "micro"} and result["confusions"]["nuance"]


def test_gains_compare_hierarchical_f1(result):
    def f1(of):
        return of["hierarchical_f1"]["value"]

    assert result["best_base"] == "eb" and result["best_baseline"] == "lexicon"
    assert result["blend_gain"]["value"] == pytest.approx(
        f1(result["metrics"]["raw"]) - f1(result["bases"]["eb"])
    )
    assert result["baseline_gain"]["value"] == pytest.approx(
        f1(result["metrics"]["calibrated"]) - f1(result["baselines"]["lexicon"])
    )
    for name in ("blend_gain", "baseline_gain"):
        assert result[name]["low"] < result[name]["value"] < result[name]["high"]
    assert f1(result["baselines"]["majority"]) < f1(result["baselines"]["lexicon"])
    assert "log_loss_core" in result["baselines"]["majority"]


def test_gates_are_judged_by_the_common_code(result):
    table = acceptance_table({"invoked": result})
    assert list(table.columns) == list(ACCEPTANCE_COLUMNS)
    assert table["metric"].tolist() == ["macro_f1_core", "hierarchical_f1", "path_validity"]
    core = table.iloc[0]
    assert core["verdict"] == "pass" and core["n"] == 400 and core["owners"] == 60
    assert core["value"] == result["metrics"]["calibrated"]["macro_f1_core"]["value"]
    assert core["baseline"] == "lexicon" and core["ceiling"] == 0.7 and "ceiling" in core["note"]
    strict = [
        Gate("invoked", "hierarchical_f1", ">=", 0.999),
        Gate("invoked", "macro_f1_core", ">=", 0.1, "length_bucket=SHORT"),
        Gate("invoked", "blend_gain", ">=", 0.9),
    ]
    judged = acceptance_table({"invoked": result}, {"invoked": strict})
    assert judged["verdict"].tolist() == ["fail", "pass", "fail"]
    assert judged["baseline"][1] == "lexicon"


def test_slices_have_their_own_intervals(result, inputs):
    frame, probabilities, _ = inputs
    assert list(result["slices"]["length_bucket"]) == ["SHORT", "MEDIUM", "LONG"]
    assert "risk_level" not in result["slices"] and "category" not in result["slices"]
    rows = (frame["length_bucket"] == "SHORT").to_numpy()
    part = result["slices"]["length_bucket"]["SHORT"]
    assert part["n"] == rows.sum() and part["owners"] == frame.loc[rows, "owner_id"].nunique()
    observed = encode(frame.loc[rows, "observed"], EMOTIONS)
    expected = path_metrics(PathScores(observed, EMOTIONS, [p[rows] for p in probabilities["calibrated"]]))
    assert part["metrics"]["log_loss_nuance"]["value"] == pytest.approx(expected["log_loss_nuance"])
    whole, of_part = (of["metrics"] for of in ({"metrics": result["metrics"]["calibrated"]}, part))
    assert whole["accuracy_core"]["high"] - whole["accuracy_core"]["low"] < (
        of_part["accuracy_core"]["high"] - of_part["accuracy_core"]["low"]
    )
    assert set(part["baselines"]) == {"majority", "lexicon"}
    small = result["slices"]["language"]["hinglish"]
    assert small["n"] < hierarchy.MIN_SLICE_ROWS and set(small) == {"n", "owners"}


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_taxonomies_of_other_depths_and_names_work_unchanged(depth):
    taxonomy = Taxonomy(
        ("sentiment", "ekman", "emotion")[:depth], random_taxonomy(np.random.default_rng(3), depth).paths
    )
    p, paths, owners = simulate(8, 120, 20, taxonomy)
    frame = frame_of(paths, owners)
    found = evaluate_hierarchy(
        frame, {"raw": p, "calibrated": p}, variable="invoked", taxonomy=taxonomy, train=frame, n_bootstrap=20
    )
    assert list(found["reliability"]) == list(taxonomy.levels) == list(found["observed"])
    assert set(found["baselines"]) == {"majority"} and found["best_base"] is None
    assert found["blend_gain"] == {"value": None, "low": None, "high": None}
    assert list(found["confusions"]) == list(taxonomy.levels[1:])
    assert found["metrics"]["calibrated"]["macro_f1_sentiment"]["value"] > 0
    gate = found["gates"][0]
    assert (
        gate["metric"] == "macro_f1_core"
        and gate["verdict"] == "undecided"
        and "not measured: the taxonomy has no level 'core' (it has sentiment" in gate["note"]
    )


def test_labels_that_all_stop_at_the_core_leave_the_deeper_levels_undefined(inputs):
    frame, probabilities, train = inputs
    frame = frame.assign(observed=[path[:1] for path in frame["observed"]])
    found = evaluate_hierarchy(
        frame, probabilities, variable="invoked", taxonomy=EMOTIONS, train=train, n_bootstrap=20
    )
    numbers = found["metrics"]["calibrated"]
    nothing = {"value": None, "low": None, "high": None}
    for name in ("macro_f1", "accuracy", "log_loss", "brier", "ece", "mce", "top3_accuracy"):
        assert numbers[f"{name}_micro"] == nothing, name
    assert numbers["hierarchical_f1"]["value"] == numbers["accuracy_core"]["value"]
    assert found["confusions"] == {"nuance": [], "micro": []} and found["reliability"]["micro"]["raw"] == []
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, p, t: (f.drop(columns="observed"), p, t), "lack the columns"),
        (lambda f, p, t: (f.assign(item_id="x"), p, t), "399 test rows of invoked repeat an item_id"),
        (lambda f, p, t: (f, {"raw": p["raw"]}, t), r"lack \['calibrated'\]"),
        (lambda f, p, t: (f.head(9), p, t), "400 rows for 9 test rows"),
        (lambda f, p, t: (f, {**p, "eb": p["eb"][:2]}, t), "eb has 2 levels"),
        (lambda f, p, t: (f, p, t.head(0)), "no train rows"),
        (lambda f, p, t: (f.assign(observed=[("Odd",)] * 400), p, t), "row 0.*not in the taxonomy"),
    ],
)
def test_wrong_input_is_refused(inputs, change, message):
    frame, probabilities, train = change(*inputs)
    with pytest.raises(ValueError, match=message):
        evaluate_hierarchy(frame, probabilities, variable="invoked", taxonomy=EMOTIONS, train=train)


def test_the_same_input_gives_the_same_result(result, inputs):
    frame, probabilities, train = inputs
    again = evaluate_hierarchy(
        frame,
        probabilities,
        variable="invoked",
        taxonomy=EMOTIONS,
        train=train,
        ceiling={"macro_f1_core": 0.7},
        n_bootstrap=200,
    )
    assert again == result
