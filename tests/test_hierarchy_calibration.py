"""The calibrator of a hierarchy: consistent, bounded, recovers what was done, exact in its file."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from test_hierarchy import EMOTIONS, SMALL, cases, from_leaves, joint, random_taxonomy, simulate

from perceive.evaluation.path_scores import PathScores, path_metrics
from perceive.hierarchy_calibration import (
    LARGEST_INTERCEPT,
    SLOPES,
    SMALLEST,
    HierarchyCalibrator,
    LevelCalibration,
    fit_hierarchy_calibrator,
)
from perceive.paths import decode, encode, parents


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def calibrator(taxonomy, slopes, intercepts=None):
    """One of given parameters."""
    levels = []
    for level, (above, slope) in enumerate(zip(parents(taxonomy), slopes, strict=True)):
        b = np.zeros(len(above)) if intercepts is None else intercepts[level]
        method = "temperature" if intercepts is None else "platt"
        levels.append(LevelCalibration(method, slope, b.astype(np.float32), above, 1, {}))
    return HierarchyCalibrator(tuple(levels))


@st.composite
def calibrators(draw):
    """(taxonomy, p with ties, zeros and certainties, calibrator with parameters up to the bounds)."""
    taxonomy, p, _, _ = draw(cases())
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    if draw(st.booleans()):
        leaf = np.eye(p[-1].shape[1])[rng.integers(p[-1].shape[1], size=len(p[0]))]
        p = from_leaves(leaf, taxonomy)
    slopes = [draw(st.sampled_from([*SLOPES, 0.4, 1.0, 2.5])) for _ in taxonomy.levels]
    reach = draw(st.sampled_from([0.0, 1.0, LARGEST_INTERCEPT]))
    return taxonomy, p, calibrator(taxonomy, slopes, [rng.uniform(-reach, reach, q.shape[1]) for q in p])


def sums_of_children(p, above):
    return p @ np.eye(int(above.max()) + 1)[above]


@settings(max_examples=80, deadline=None)
@given(calibrators())
def test_calibrated_levels_are_distributions_that_add_up(case):
    taxonomy, p, fitted = case
    found = fitted.apply(p)
    for level, above in enumerate(parents(taxonomy)):
        assert found[level].shape == p[level].shape and (found[level] >= 0).all()
        np.testing.assert_allclose(found[level].sum(axis=1), 1, atol=1e-9)
        if level:
            np.testing.assert_allclose(sums_of_children(found[level], above), found[level - 1], atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_slope_one_changes_nothing(case):
    taxonomy, p, _, _ = case
    for before, after in zip(p, calibrator(taxonomy, [1.0] * len(p)).apply(p), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(cases(), st.lists(st.floats(*SLOPES), min_size=3, max_size=3))
def test_a_temperature_keeps_the_order_of_siblings_and_the_answers(case, slopes):
    taxonomy, p, _, _ = case
    found = calibrator(taxonomy, slopes[: len(p)]).apply(p)
    np.testing.assert_array_equal(found[0].argmax(axis=1), p[0].argmax(axis=1))
    for level, above in enumerate(parents(taxonomy)):
        for parent in np.unique(above):
            siblings = above == parent
            before, after = p[level][:, siblings], found[level][:, siblings]
            # pairs that differ visibly keep their order, and equal ones stay equal
            further = before[:, :, None] > before[:, None, :] + 1e-9
            assert (after[:, :, None] >= after[:, None, :])[further].all()
            same = before[:, :, None] == before[:, None, :]
            np.testing.assert_allclose((after[:, :, None] - after[:, None, :])[same], 0, atol=1e-12)
    np.testing.assert_array_equal(decode(p, taxonomy), decode(found, taxonomy))


@settings(max_examples=60, deadline=None)
@given(calibrators())
def test_float32_and_few_operations_give_the_same(case):
    _, p, fitted = case
    f = np.float32
    above_p = np.ones((len(p[0]), 1), f)
    for level, expected, values in zip(fitted.levels, fitted.apply(p), p, strict=True):
        below = np.eye(int(level.parents.max()) + 1, dtype=f)[level.parents]
        share = values.astype(f) + f(SMALLEST)
        conditional = share / np.take(share @ below, level.parents, axis=1)
        with np.errstate(under="ignore"):
            powers = np.power(conditional, f(level.slope)) * np.exp(level.intercepts)
        above_p = (
            np.take(above_p, level.parents, axis=1) * powers / np.take(powers @ below, level.parents, axis=1)
        )
        assert above_p.dtype == f
        np.testing.assert_allclose(above_p, expected, atol=2e-5)


def test_a_wide_level_stays_within_float32_at_the_bounds():
    taxonomy = type(SMALL)(("emotion",), tuple((f"e{i}",) for i in range(1000)))
    p = np.full((1, 1000), 1e-3)
    intercepts = np.full(1000, -LARGEST_INTERCEPT)
    level = calibrator(taxonomy, [SLOPES[1]], [intercepts]).levels[0]
    powers = np.power(p.astype(np.float32), np.float32(level.slope)) * np.exp(level.intercepts)
    assert powers.min() > np.finfo(np.float32).tiny
    np.testing.assert_allclose(level.conditional(p), p, rtol=1e-6)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.5])
def test_it_finds_the_temperature_and_mends_the_calibration(sharpness):
    p, paths, owners = simulate(1, 1500, 100, sharpness=sharpness)
    fitted = fit_hierarchy_calibrator(p, paths, owners, EMOTIONS)
    for level in fitted.levels:
        assert level.method == "temperature" and not level.intercepts.any()
        assert level.temperature == pytest.approx(sharpness, rel=0.15)
        assert level.log_loss["temperature"] <= level.log_loss["raw"] + 0.01
    assert fitted.levels[0].rows == 1500 > fitted.levels[1].rows > fitted.levels[2].rows > 1000
    fresh, labels, _ = simulate(2, 3000, 100, sharpness=sharpness)
    observed = encode(labels, EMOTIONS)
    before, after = (path_metrics(PathScores(observed, EMOTIONS, q)) for q in (fresh, fitted.apply(fresh)))
    for name in EMOTIONS.levels:
        assert after[f"log_loss_{name}"] < before[f"log_loss_{name}"] + 0.005
        assert after[f"ece_{name}"] < 0.04
        if sharpness != 1:
            assert after[f"ece_{name}"] < 0.6 * before[f"ece_{name}"]
            assert after[f"log_loss_{name}"] < before[f"log_loss_{name}"] - 0.02
    assert after["hierarchical_f1"] == before["hierarchical_f1"]


def biased(p, taxonomy, shifts):
    """What a model trained with class weights gives: conditional odds shifted per label."""
    return joint(
        [np.log(level + 1e-12) + shift for level, shift in zip(p, shifts, strict=True)],
        taxonomy,
    )


def test_platt_is_chosen_where_labels_are_shifted_and_gives_the_shift_back():
    p, paths, owners = simulate(3, 1500, 100, SMALL, scale=1.5)
    shifts = [np.array([0.6, -0.6]), np.array([0.0, 0.0, 1.0, -1.0, 0.0])]
    fitted = fit_hierarchy_calibrator(biased(p, SMALL, shifts), paths, owners, SMALL)
    for level, shift, above in zip(fitted.levels, shifts, parents(SMALL), strict=True):
        assert level.method == "platt" and level.log_loss["platt"] < level.log_loss["temperature"]
        assert level.slope == pytest.approx(1, abs=0.2)
        for parent in np.unique(above):
            b = level.intercepts[above == parent].astype(float)
            np.testing.assert_allclose(b - b.mean(), -shift[above == parent], atol=0.25)
    fresh, labels, _ = simulate(4, 2000, 100, SMALL, scale=1.5)
    observed, fresh_biased = encode(labels, SMALL), biased(fresh, SMALL, shifts)
    before, after = (
        path_metrics(PathScores(observed, SMALL, q)) for q in (fresh_biased, fitted.apply(fresh_biased))
    )
    assert after["classwise_ece_core"] < 0.5 * before["classwise_ece_core"]
    assert after["macro_f1_core"] > before["macro_f1_core"]


def test_temperature_stands_where_platt_gains_too_little():
    chosen = []
    for seed in range(12):
        p, paths, owners = simulate(100 + seed, 250, 40, SMALL, scale=2.0, sharpness=2.0)
        chosen += [level.method for level in fit_hierarchy_calibrator(p, paths, owners, SMALL).levels]
    assert chosen.count("temperature") >= 20


def test_one_odd_owner_does_not_choose_platt():
    # The gain of the intercepts comes from one owner of twenty, so it is no more than its standard error.
    p, paths, owners = simulate(5, 400, 20, SMALL, scale=1.0, partial=0)
    owners = np.repeat(np.arange(20), 20)
    paths = [("A", "a") if owner == 0 else path for owner, path in zip(owners, paths, strict=True)]
    fitted = fit_hierarchy_calibrator(p, paths, owners, SMALL)
    assert [level.method for level in fitted.levels] == ["temperature", "temperature"]


def test_the_methods_are_compared_on_owners_that_they_have_not_seen():
    p, paths, owners = simulate(13, 80, 2, SMALL, sharpness=2.0, partial=0)
    codes = encode(paths, SMALL)
    losses = []
    for owner in np.unique(owners):
        seen, held_out = np.flatnonzero(owners != owner), np.flatnonzero(owners == owner)
        # one owner alone is always calibrated by a temperature
        of_other = fit_hierarchy_calibrator(
            [q[seen] for q in p], [paths[i] for i in seen], owners[seen], SMALL
        )
        answers = of_other.apply([q[held_out] for q in p])[0]
        losses.append(-np.log(answers[np.arange(len(held_out)), codes[held_out, 0]]))
    found = fit_hierarchy_calibrator(p, paths, owners, SMALL).levels[0].log_loss
    assert found["temperature"] == pytest.approx(np.concatenate(losses).mean(), abs=1e-6)
    assert found["raw"] == pytest.approx(-np.log(p[0][np.arange(80), codes[:, 0]]).mean(), abs=1e-6)


def posterior(p, codes, above, slope, intercepts):
    """Log likelihood of the observed among its siblings, and the normal priors, written out plainly."""
    total = -((slope - 1) ** 2 + np.sum(intercepts**2)) / (2 * 0.5**2)
    for row, label in zip(p, codes, strict=True):
        if label >= 0:
            siblings = np.flatnonzero(above == above[label])
            shares = softmax(slope * np.log(row[siblings] + SMALLEST) + intercepts[siblings])
            total += np.log(shares[siblings == label][0])
    return total


# Of a dozen rows the priors weigh as much as the data.
@pytest.mark.parametrize(("shift", "n", "step"), [(0.0, 12, 0.005), (0.0, 200, 0.01), (1.0, 200, 0.02)])
def test_the_fit_is_the_highest_posterior(shift, n, step):
    p, paths, owners = simulate(6, n, 30, SMALL, sharpness=2.0)
    p = biased(p, SMALL, [shift * np.array([1, -1]), shift * np.array([1.0, -1, 1, -1, 0])])
    fitted, codes = fit_hierarchy_calibrator(p, paths, owners, SMALL), encode(paths, SMALL)
    assert n < 200 or {level.method for level in fitted.levels} == {"platt" if shift else "temperature"}
    for number, level in enumerate(fitted.levels):
        data = p[number], codes[:, number], level.parents
        b = level.intercepts.astype(float)
        best = posterior(*data, level.slope, b)
        for change in (-step, step):
            assert posterior(*data, level.slope + change, b) < best
            for label in range(len(b) if level.method == "platt" else 0):
                assert posterior(*data, level.slope, b + change * (np.arange(len(b)) == label)) < best


@settings(max_examples=60, deadline=None)
@given(cases())
def test_tiny_and_odd_data_stay_within_bounds_and_the_file_is_exact(case):
    taxonomy, p, codes, owners = case
    paths = [taxonomy.labels((row >= 0).sum() - 1)[row[row >= 0][-1]] for row in codes]
    fitted = fit_hierarchy_calibrator(p, paths, owners, taxonomy)
    several = [np.bincount(above)[above] > 1 for above in parents(taxonomy)]
    for number, level in enumerate(fitted.levels):
        label = codes[codes[:, number] >= 0, number]
        assert level.rows == several[number][label].sum()
        assert np.isfinite(level.slope) and SLOPES[0] <= level.slope <= SLOPES[1] * (1 + 1e-7)
        assert level.slope == float(np.float32(level.slope)) and level.intercepts.dtype == np.float32
        if not level.rows:
            assert level.slope == 1 and level.log_loss == {}
        if len(set(owners)) < 2:
            assert level.method == "temperature" and level.log_loss == {}
    read = HierarchyCalibrator.from_dict(json.loads(json.dumps(fitted.to_dict(), allow_nan=False)))
    assert read.to_dict() == fitted.to_dict()
    for a, b in zip(read.apply(p), fitted.apply(p), strict=True):
        np.testing.assert_array_equal(a, b)


def test_labels_that_are_always_wrong_reach_the_bounds_and_no_further():
    p = from_leaves(np.tile([[0.9, 0.05, 0.02, 0.02, 0.01]], (3000, 1)), SMALL)
    fitted = fit_hierarchy_calibrator(p, [("B", "e")] * 3000, np.arange(3000) % 7, SMALL)
    assert fitted.levels[0].slope == pytest.approx(SLOPES[0])
    assert np.abs(fitted.levels[0].intercepts).max() <= LARGEST_INTERCEPT
    right = from_leaves(np.tile([[0.25, 0.15, 0.15, 0.15, 0.3]], (3000, 1)), SMALL)
    fitted = fit_hierarchy_calibrator(right, [("B", "e")] * 3000, np.arange(3000) % 7, SMALL)
    assert fitted.apply(right)[1][0, 4] > 0.9


def test_a_dozen_rows_hardly_move_the_identity():
    p, _, owners = simulate(7, 12, 4, scale=1.0)
    fitted = fit_hierarchy_calibrator(
        p, [EMOTIONS.paths[leaf] for leaf in p[2].argmax(axis=1)], owners, EMOTIONS
    )
    assert all(0.8 < level.slope < 2.5 for level in fitted.levels)
    assert all(np.abs(level.intercepts).max() < 1 for level in fitted.levels)


def test_the_order_of_rows_changes_nothing():
    p, paths, owners = simulate(8, 200, 20, SMALL)
    order = np.random.default_rng(0).permutation(200)
    one = fit_hierarchy_calibrator(p, paths, owners, SMALL)
    two = fit_hierarchy_calibrator([q[order] for q in p], [paths[i] for i in order], owners[order], SMALL)
    assert one.to_dict() == two.to_dict()


def test_levels_are_calibrated_by_conditional_probabilities():
    # The cores are right and the nuances over-confident: only the nuances' temperature may rise.
    rng = np.random.default_rng(9)
    taxonomy = random_taxonomy(rng, 2)
    p, paths, owners = simulate(9, 1500, 80, taxonomy, partial=0)
    logs = [np.log(level + 1e-12) for level in p]
    sharp = joint([logs[0], 3 * logs[1]], taxonomy)
    fitted = fit_hierarchy_calibrator(sharp, paths, owners, taxonomy)
    assert fitted.levels[0].temperature == pytest.approx(1, rel=0.15)
    assert fitted.levels[1].temperature == pytest.approx(3, rel=0.2)
    np.testing.assert_allclose(fitted.apply(sharp)[1], p[1], atol=0.1)


def test_wrong_input_is_refused_with_the_remedy():
    p, paths, owners = simulate(10, 20, 4, SMALL)
    with pytest.raises(ValueError, match="no labelled validation rows"):
        fit_hierarchy_calibrator([q[:0] for q in p], [], [], SMALL)
    with pytest.raises(ValueError, match="20 predictions for 19 labels and 20 owners"):
        fit_hierarchy_calibrator(p, paths[:-1], owners, SMALL)
    with pytest.raises(ValueError, match="20 predictions for 20 labels and 19 owners"):
        fit_hierarchy_calibrator(p, paths, owners[:-1], SMALL)
    with pytest.raises(ValueError, match="not in the taxonomy"):
        fit_hierarchy_calibrator(p, [("X",), *paths[1:]], owners, SMALL)
    with pytest.raises(ValueError, match="no distribution"):
        fit_hierarchy_calibrator([2 * p[0], p[1]], paths, owners, SMALL)
    fitted = fit_hierarchy_calibrator(p, paths, owners, SMALL)
    with pytest.raises(ValueError, match="another taxonomy; calibrate again"):
        fitted.apply([p[0], p[1][:, :4]])
    with pytest.raises(ValueError, match="another taxonomy; calibrate again"):
        fitted.apply(p[:1])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("method", "isotonic", "method is 'isotonic'"),
        ("slope", 0.0, "slope is 0"),
        ("slope", float("nan"), "slope is nan"),
        ("slope", 6.0, "slope is 6"),
        ("intercepts", [0.0], "1 intercepts for 2 labels"),
        ("intercepts", [0.0, float("nan")], "intercept"),
        ("intercepts", [0.0, 4.0], "intercept"),
    ],
)
def test_a_damaged_file_is_refused(key, value, message):
    stored = calibrator(SMALL, [1.0, 1.0]).to_dict()
    stored["levels"][0][key] = value
    with pytest.raises(ValueError, match=message):
        HierarchyCalibrator.from_dict(stored)
