"""Agreement between annotators: published examples, the textbook's definitions, and what is reported."""

from __future__ import annotations

import json
import warnings
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perceive.corpus import ceiling, coefficients, latent_paths
from perceive.corpus.agreement import items_for_review, measure_agreement
from perceive.corpus.coefficients import (
    cohen_kappas,
    crossed_table,
    fleiss_kappa,
    icc_one_way,
    icc_two_way,
    krippendorff_interval,
    krippendorff_nominal,
)
from perceive.corpus.latent_paths import NotComputableError

LEVELS = ("core", "nuance", "micro")
SCALE_NAMES = {"icc_1", "icc_k", "icc_a1", "icc_ak", "icc_c1", "icc_ck", "krippendorff_alpha"}
LEVEL_NAMES = {"cohen_kappa", "fleiss_kappa", "krippendorff_alpha"}

# Shrout and Fleiss 1979, table 2: 6 targets, 4 judges.
JUDGES = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
)
# Krippendorff 2011, section C: 4 observers (rows), 12 units; 0 is missing.
OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
        [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
    ]
)
# The worked example of many textbooks: 10 subjects, 14 raters, 5 categories; kappa .210.
SUBJECTS = np.array(
    [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
)
# Cohen 1960, table 2: 200 patients, three diagnoses, two judges; kappa .492.
DIAGNOSES = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def long(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, items and raters of a table (items, raters); NaN is missing."""
    item, rater = np.nonzero(np.isfinite(table))
    return table[item, rater], item, rater


def paired(first: list[int], second: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.array([first, second], dtype=float).T
    value, item, rater = long(table)
    return value.astype(int), item, rater


# --------------------------------------------------------------------------- published examples


def test_icc_of_shrout_and_fleiss_1979():
    value, item, rater = long(JUDGES)
    assert icc_one_way(value, item) == pytest.approx((0.17, 0.44), abs=0.005)
    table = crossed_table(value, item, rater)
    assert icc_two_way(table) == pytest.approx((0.29, 0.62, 0.71, 0.91), abs=0.005)


def test_alpha_of_krippendorff_2011():
    table = np.where(OBSERVERS == 0, np.nan, OBSERVERS).T
    value, item, _ = long(table)
    assert krippendorff_nominal(value.astype(int), item) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_interval(value, item) == pytest.approx(0.849, abs=5e-4)


def test_kappa_of_fleiss():
    item, code = np.nonzero(SUBJECTS)
    votes = SUBJECTS[item, code]
    assert fleiss_kappa(np.repeat(code, votes), np.repeat(item, votes)) == pytest.approx(0.210, abs=5e-4)


def test_kappa_of_cohen_1960():
    first, second = (
        np.repeat(side, DIAGNOSES.ravel()) for side in np.indices(DIAGNOSES.shape).reshape(2, -1)
    )
    [(a, b, n, kappa)] = cohen_kappas(*paired(first, second))
    assert (a, b, n) == (0, 1, 200)
    assert kappa == pytest.approx(0.492, abs=5e-4)


# --------------------------------------------------------------------------- the definitions

tables = st.integers(2, 4).flatmap(
    lambda raters: st.lists(
        st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=raters, max_size=raters),
        min_size=2,
        max_size=12,
    )
)


def groups(table: list[list[int | None]]) -> list[list[int]]:
    rated = [[value for value in row if value is not None] for row in table]
    return [row for row in rated if row]


def flat(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    item = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return np.array([value for row in rows for value in row]), item


def alpha_by_pairs(rows: list[list[int]], distance) -> float:
    rows = [row for row in rows if len(row) > 1]
    pooled = [value for row in rows for value in row]
    observed = sum(sum(distance(a, b) for a, b in permutations(row, 2)) / (len(row) - 1) for row in rows)
    expected = sum(distance(a, b) for a, b in permutations(pooled, 2)) / (len(pooled) - 1)
    return 1 - observed / expected


@given(tables)
def test_alpha_is_one_less_observed_over_expected_disagreement(table):
    rows = groups(table)
    pooled = [value for row in rows if len(row) > 1 for value in row]
    assume(len(set(pooled)) > 1)
    value, item = flat(rows)
    assert krippendorff_nominal(value, item) == pytest.approx(alpha_by_pairs(rows, lambda a, b: a != b))
    interval = alpha_by_pairs(rows, lambda a, b: (a - b) ** 2)
    assert krippendorff_interval(value.astype(float), item) == pytest.approx(interval)


@given(tables)
def test_fleiss_is_agreement_beyond_chance_over_items_with_two_ratings(table):
    rows = [row for row in groups(table) if len(row) > 1]
    assume(len({value for row in rows for value in row}) > 1)
    agreement = np.mean([np.mean([a == b for a, b in combinations(row, 2)]) for row in rows])
    chance = sum(np.mean([row.count(c) / len(row) for row in rows]) ** 2 for c in range(4))
    value, item = flat(groups(table))
    assert fleiss_kappa(value, item) == pytest.approx((agreement - chance) / (1 - chance))


@given(tables)
def test_icc_one_way_is_the_analysis_of_variance_with_searles_n0(table):
    rows = groups(table)
    value, item = flat(rows)
    means = [np.mean(row) for row in rows]
    n, k = np.array([len(row) for row in rows]), len(rows)
    assume(k >= 2 and n.max() >= 2)
    grand = np.mean(value)
    between = sum(size * (mean - grand) ** 2 for size, mean in zip(n, means, strict=True)) / (k - 1)
    within = sum((v - mean) ** 2 for row, mean in zip(rows, means, strict=True) for v in row) / (n.sum() - k)
    assume(between > 1e-9)
    n0 = (n.sum() - (n**2).sum() / n.sum()) / (k - 1)
    single = (between - within) / (between + (n0 - 1) * within)
    found = icc_one_way(value.astype(float), item)
    assert found == pytest.approx((single, (between - within) / between))
    if single > -1 / n0 + 1e-6:  # Spearman-Brown with n0 ratings
        assert found[1] == pytest.approx(n0 * single / (1 + (n0 - 1) * single), abs=1e-6)


@given(tables, st.floats(0.1, 10), st.floats(-5, 5), st.randoms(use_true_random=False))
def test_scale_coefficients_do_not_depend_on_unit_origin_or_order(table, unit, origin, random):
    rows = groups(table)
    assume(len(rows) > 1 and any(len(set(row)) > 1 for row in rows))
    value, item = flat(rows)
    order = list(range(len(value)))
    random.shuffle(order)
    moved = (value * unit + origin)[order]
    for coefficient in (lambda v, i: icc_one_way(v, i), lambda v, i: (krippendorff_interval(v, i),)):
        try:
            expected = coefficient(value.astype(float), item)
        except NotComputableError:
            continue
        if abs(expected[0]) < 1e3:
            assert coefficient(moved, item[order]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@given(tables, st.permutations(range(4)))
def test_class_coefficients_do_not_depend_on_the_names_of_the_classes(table, names):
    rows = groups(table)
    assume(len({value for row in rows if len(row) > 1 for value in row}) > 1)
    value, item = flat(rows)
    renamed = np.array(names)[value]
    assert fleiss_kappa(renamed, item) == pytest.approx(fleiss_kappa(value, item))
    assert krippendorff_nominal(renamed, item) == pytest.approx(krippendorff_nominal(value, item))


def test_perfect_agreement_is_one():
    value, item = flat([[0, 0], [1, 1, 1], [2, 2]])
    assert fleiss_kappa(value, item) == krippendorff_nominal(value, item) == 1.0
    assert icc_one_way(value.astype(float), item) == (1.0, 1.0)
    assert krippendorff_interval(value.astype(float), item) == 1.0


def test_equal_means_of_items_have_no_icc():
    value, item = np.array([1.0, 1.0, 3.0, 1.0, 2.0, 2.0]), np.array([0, 0, 0, 1, 1, 1])
    for moved in (value, 10 * value + 1.1, value[::-1]):
        with pytest.raises(NotComputableError, match="means do not differ"):
            icc_one_way(moved, item)


def test_equal_ratings_have_no_coefficient():
    value, item = flat([[1, 1], [1, 1], [1]])
    for coefficient in (icc_one_way, krippendorff_interval):
        with pytest.raises(NotComputableError, match="all ratings are equal"):
            coefficient(value * 0.1, item)
    for coefficient in (fleiss_kappa, krippendorff_nominal):
        with pytest.raises(NotComputableError, match="all ratings are equal"):
            coefficient(value, item)


# --------------------------------------------------------------------------- Cohen and the two-way design


def test_cohen_takes_each_pair_on_its_common_items():
    rng = np.random.default_rng(1)
    table = rng.integers(0, 3, (40, 3)).astype(float)
    table[:20, 2] = np.nan
    table[25:, 0] = np.nan
    code, item, rater = long(table)
    found = cohen_kappas(code.astype(int), item, rater)
    # raters 0 and 2 have five common items only
    assert [(a, b, n) for a, b, n, _ in found] == [(0, 1, 25), (1, 2, 20)]
    for a, b, _, kappa in found:
        both = np.isfinite(table[:, [a, b]]).all(axis=1)
        x, y = table[both, a], table[both, b]
        chance = sum(np.mean(x == c) * np.mean(y == c) for c in range(3))
        assert kappa == pytest.approx((np.mean(x == y) - chance) / (1 - chance))


def test_cohen_keeps_the_pairs_with_the_most_common_items(monkeypatch):
    monkeypatch.setattr(coefficients, "MAX_PAIRS", 2)
    table = np.random.default_rng(2).integers(0, 2, (60, 3)).astype(float)
    table[50:, 0] = np.nan
    table[30:, 1] = np.nan
    code, item, rater = long(table)
    found = cohen_kappas(code.astype(int), item, rater)
    assert [(a, b, n) for a, b, n, _ in found] == [(0, 2, 50), (0, 1, 30)]


def test_the_two_way_table_holds_the_items_that_all_busy_raters_rated():
    table = np.arange(80.0).reshape(20, 4)
    table[0, 0] = np.nan  # rated 95 %
    table[5:, 2] = np.nan  # rated 25 %
    table[:, 3] = np.nan
    value, item, rater = long(table)
    assert np.array_equal(crossed_table(value, item, rater), table[1:, :2])
    with pytest.raises(NotComputableError, match="fewer than two raters rated 90%"):
        crossed_table(value[rater != 1], item[rater != 1], rater[rater != 1])
    with pytest.raises(NotComputableError, match="no rater ids"):
        crossed_table(value, item, np.full(len(item), -1))


# --------------------------------------------------------------------------- the report


def scale_corpus(n: int = 120, raters: int = 3, noise: float = 0.05, seed: int = 0):
    rng = np.random.default_rng(seed)
    true = rng.uniform(0.1, 0.9, n)
    ratings = pd.DataFrame(
        {
            "item_id": np.repeat([f"i{k:03d}" for k in range(n)], raters),
            "rater": np.tile([f"r{k}" for k in range(raters)], n),
            "value": np.clip(np.repeat(true, raters) + rng.normal(0, noise, n * raters), 0, 1),
        }
    )
    items = pd.DataFrame({"item_id": [f"i{k:03d}" for k in range(n)]})
    items["language"] = np.where(np.arange(n) < 100, "en", "hinglish")
    items["category"] = pd.array(rng.choice(["a", "b"], n), dtype=object)
    items.loc[::10, "category"] = None
    items["risk_level"] = "LOW"
    labels = ratings.groupby("item_id", as_index=False)["value"].mean()
    labels["n_raters"] = raters
    return ratings, items, labels


def path_corpus(n: int = 120, raters: int = 3, wrong: float = 0.1, seed: int = 0):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, (n, 3))
    said = np.repeat(true, raters, axis=0)
    said = np.where(rng.random(said.shape) < wrong, rng.integers(0, 3, said.shape), said)
    ratings = pd.DataFrame(
        {
            "item_id": np.repeat([f"i{k:03d}" for k in range(n)], raters),
            "rater": np.tile([f"r{k}" for k in range(raters)], n),
            # The same names below every parent: only the path tells the class.
            **{level: np.array(["x", "y", "z"], dtype=object)[said[:, k]] for k, level in enumerate(LEVELS)},
        }
    )
    items = pd.DataFrame({"item_id": [f"i{k:03d}" for k in range(n)]})
    items["language"], items["category"], items["risk_level"] = "en", "a", "LOW"
    labels = ratings.drop_duplicates("item_id")[["item_id", *LEVELS]].reset_index(drop=True)
    labels["n_raters"] = raters
    return ratings, items, labels


def entries(result: object):
    """All coefficients of a result."""
    if isinstance(result, dict):
        if "met" in result:
            yield result
        else:
            for value in result.values():
                yield from entries(value)


def test_the_report_of_a_scale():
    ratings, items, labels = scale_corpus()
    result = measure_agreement("valence", "regression", ratings, items, labels, required_kappa=0.75)
    assert (result["n_items"], result["n_ratings"], result["n_raters"], result["n_anonymous"]) == (
        120,
        360,
        3,
        0,
    )
    assert result["ratings_per_item"] == {"3": 120}
    assert set(result["coefficients"]) == SCALE_NAMES
    assert all(e["requirement"] == 0.75 and e["met"] is True for e in entries(result["coefficients"]))
    assert {name: of["n_items"] for name, of in result["by_language"].items()} == {"en": 100, "hinglish": 20}
    rows = ratings["item_id"].isin(items.loc[items["language"] == "en", "item_id"])
    value, (item, _) = ratings.loc[rows, "value"].to_numpy(), pd.factorize(ratings.loc[rows, "item_id"])
    assert result["by_language"]["en"]["coefficients"]["icc_1"]["value"] == pytest.approx(
        icc_one_way(value, item)[0], abs=1e-6
    )
    few = result["by_language"]["hinglish"]["coefficients"]["icc_1"]
    assert (few["value"], few["met"], few["reason"]) == (None, None, "fewer than 30 items have two ratings")
    for least, computed in ((20, True), (21, False)):
        again = measure_agreement("valence", "regression", ratings, items, labels, min_items=least)
        assert (again["by_language"]["hinglish"]["coefficients"]["icc_1"]["value"] is not None) == computed
    assert sum(of["n_items"] for of in result["by_category"].values()) == 108
    assert set(result["by_category"]) == {"a", "b"}
    assert result["ceiling"]["metrics"]["pearson"]["value"] > 0.95
    json.dumps(result, allow_nan=False)


def test_more_noise_misses_the_requirement():
    ratings, items, labels = scale_corpus(noise=0.3)
    result = measure_agreement("valence", "regression", ratings, items, labels)
    assert result["coefficients"]["icc_1"]["met"] is False
    assert result["coefficients"]["krippendorff_alpha"]["met"] is False


def test_the_report_of_a_hierarchy():
    ratings, items, labels = path_corpus()
    result = measure_agreement("invoked", "hierarchy", ratings, items, labels)
    assert set(result["coefficients"]) == set(LEVELS)
    core = result["coefficients"]["core"]
    assert set(core) == LEVEL_NAMES | {"n_items", "n_items_left_out"}
    pairs = core["cohen_kappa"]["pairs"]
    assert [pair["raters"] for pair in pairs] == [["r0", "r1"], ["r0", "r2"], ["r1", "r2"]]
    assert core["cohen_kappa"]["value"] == pytest.approx(np.mean([p["value"] for p in pairs]), abs=2e-6)
    # a class is the path down to the level, though the names repeat
    path = ratings[list(LEVELS)].agg("/".join, axis=1)
    (code, _), (item, _) = pd.factorize(path), pd.factorize(ratings["item_id"])
    assert result["coefficients"]["micro"]["fleiss_kappa"]["value"] == pytest.approx(
        fleiss_kappa(code, item), abs=1e-6
    )
    assert result["coefficients"]["core"]["fleiss_kappa"]["met"] is True
    assert result["coefficients"]["micro"]["fleiss_kappa"]["met"] is False
    assert set(result["ceiling"]["metrics"]) >= {"macro_f1_core", "hierarchical_f1"}
    json.dumps(result, allow_nan=False)


def test_the_mean_of_cohens_kappa_is_weighted_by_common_items():
    ratings, items, labels = path_corpus(wrong=0.3)
    ratings = ratings[(ratings["rater"] != "r2") | (ratings["item_id"] < "i040")]
    cohen = measure_agreement("v", "hierarchy", ratings, items, labels)["coefficients"]["core"]["cohen_kappa"]
    values, weights = zip(*[(pair["value"], pair["n_items"]) for pair in cohen["pairs"]], strict=True)
    assert sorted(weights) == [40, 40, 120]
    assert cohen["value"] == pytest.approx(np.average(values, weights=weights), abs=2e-6)


def test_a_rating_that_stops_early_is_missing_below():
    ratings, items, labels = path_corpus()
    stops = ratings["item_id"] < "i050"
    ratings.loc[stops & (ratings["rater"] != "r0"), ["nuance", "micro"]] = None
    # a micro below a missing nuance says nothing
    ratings.loc[stops & (ratings["rater"] == "r1"), "micro"] = "x"
    levels = measure_agreement("v", "hierarchy", ratings, items, labels)["coefficients"]
    counts = {name: (of["n_items"], of["n_items_left_out"]) for name, of in levels.items()}
    assert counts == {"core": (120, 0), "nuance": (70, 50), "micro": (70, 50)}


def test_another_taxonomy_has_other_levels():
    ratings, items, labels = path_corpus()
    ratings, labels = (frame.rename(columns={"core": "emotion"}) for frame in (ratings, labels))
    result = measure_agreement("v", "hierarchy", ratings, items, labels, levels=("emotion",))
    assert list(result["coefficients"]) == ["emotion"]
    assert "macro_f1_emotion" in result["ceiling"]["metrics"]


def test_without_ids_only_the_coefficients_that_need_none():
    ratings, items, labels = scale_corpus()
    ratings["rater"] = None
    result = measure_agreement("valence", "regression", ratings, items, labels)
    assert (result["n_raters"], result["n_anonymous"]) == (None, 360)
    missing = {name for name, of in result["coefficients"].items() if of["value"] is None}
    assert missing == {"icc_a1", "icc_ak", "icc_c1", "icc_ck"}
    ratings, items, labels = path_corpus()
    ratings["rater"] = np.nan
    core = measure_agreement("v", "hierarchy", ratings, items, labels)["coefficients"]["core"]
    assert core["cohen_kappa"]["value"] is None
    assert core["cohen_kappa"]["reason"] == "the ratings have no rater ids"
    assert core["cohen_kappa"]["pairs"] == []
    assert core["fleiss_kappa"]["value"] is not None


def test_one_rating_an_item_gives_reasons():
    for kind, (ratings, items, labels) in (
        ("regression", scale_corpus(raters=1)),
        ("hierarchy", path_corpus(raters=1)),
    ):
        result = measure_agreement("v", kind, ratings, items, labels)
        found = list(entries(result["coefficients"]))
        assert found
        assert {entry["reason"] for entry in found} == {"no item has two ratings"}
        assert result["ceiling"] == {"metrics": {}, "reason": "no item has two ratings"}


def test_derived_labels_have_no_ceiling_and_are_not_for_review():
    ratings, items, labels = scale_corpus(n=40)
    labels = labels.assign(n_raters=3, derived=False)
    items["risk_level"] = "HIGH"
    plain = measure_agreement("v", "sequence", ratings, items, labels)
    assert "derived" not in plain
    none = measure_agreement("v", "sequence", ratings, items, labels, formula="a / 2")
    assert none == {**plain, "derived": {"formula": "a / 2", "items": 0}} and none["ceiling"]["metrics"]
    more = pd.DataFrame({"item_id": ["x", "y"], "value": [0.1, 0.9], "n_raters": 0, "derived": True})
    items = pd.concat([items, pd.DataFrame({"item_id": ["x", "y"], "risk_level": "HIGH"})])
    both = pd.concat([labels, more])
    some = measure_agreement("v", "sequence", ratings, items, both, formula="a / 2")
    assert some["coefficients"] == plain["coefficients"] and some["derived"]["items"] == 2
    reason = "derived label: 2 of 42 labels: computed by a / 2, not rated, so that its error is unknown"
    assert some["ceiling"] == {"metrics": {}, "reason": reason}
    all_derived = measure_agreement("v", "sequence", ratings[:0], items[:0], more, formula="a / 2")
    assert all_derived["ceiling"]["reason"].startswith("derived label: computed by a / 2, not rated")
    assert items_for_review("v", "sequence", ratings, items, both, review_spread=1.0).empty
    assert len(items_for_review("v", "sequence", ratings, items, both, min_raters_high_risk=4)) == 40


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["sequence", "hierarchy"]))
def test_any_ratings_give_strict_json_with_a_reason_for_each_gap(data, kind):
    n = data.draw(st.integers(0, 25))
    part = st.one_of(st.none(), st.sampled_from(["x", "y"]))
    rows = data.draw(
        st.lists(
            st.tuples(
                st.integers(0, 6),
                st.one_of(st.none(), st.integers(0, 3)),
                st.integers(0, 4),
                part,
                part,
                part,
            ),
            min_size=n,
            max_size=n,
            unique_by=lambda row: (row[0], row[1]) if row[1] is not None else object(),
        )
    )
    frame = pd.DataFrame(rows, columns=["item_id", "rater", "value", *LEVELS])
    frame["item_id"] = frame["item_id"].astype(str)
    frame["value"] = frame["value"].astype(float) / 4
    items = pd.DataFrame({"item_id": [str(k) for k in range(7)], "risk_level": "HIGH"})
    items["language"], items["category"] = "en", None
    if kind == "hierarchy":
        labels = frame[frame["core"].notna()].drop_duplicates("item_id")[["item_id", *LEVELS]].copy()
    else:
        labels = frame.groupby("item_id", as_index=False)["value"].mean()
    labels["n_raters"] = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_paths, "MAX_STEPS", 10)
        patch.setattr(ceiling, "DRAWS", 2)
        result = measure_agreement("v", kind, frame, items, labels, min_items=2)
    json.dumps(result, allow_nan=False)
    found = list(entries(result))
    assert found
    for entry in found:
        assert (entry["value"] is None) == (entry["met"] is None) == ("reason" in entry)
        if entry["value"] is not None:
            assert entry["met"] == (entry["value"] >= 0.70)
    assert ("reason" in result["ceiling"]) == (not result["ceiling"]["metrics"])
    review = items_for_review("v", kind, frame, items, labels)
    assert set(review["item_id"]) <= set(labels["item_id"])


def test_a_second_rating_by_one_rater_is_refused():
    ratings, items, labels = scale_corpus(n=10)
    twice = pd.concat([ratings, ratings.iloc[:2]])
    with pytest.raises(ValueError, match="2 ratings of valence repeat an item and a rater"):
        measure_agreement("valence", "regression", twice, items, labels)
    with pytest.raises(ValueError, match="2 ratings"):
        items_for_review("valence", "regression", twice, items, labels)


@pytest.mark.parametrize(
    ("frame", "column"), [("ratings", "rater"), ("items", "language"), ("labels", "value")]
)
def test_a_missing_column_is_named(frame, column):
    frames = dict(zip(("ratings", "items", "labels"), scale_corpus(n=10), strict=True))
    frames[frame] = frames[frame].drop(columns=column)
    with pytest.raises(ValueError, match=rf"the {frame} of valence lack the columns \['{column}'\]"):
        measure_agreement("valence", "regression", **frames)


# --------------------------------------------------------------------------- a second look


def test_wide_spread_and_lonely_high_risk_are_listed():
    ratings = pd.DataFrame(
        {
            "item_id": ["b", "b", "a", "a", "c", "d", "d"],
            "rater": ["1", "2", "1", "2", "1", "1", "2"],
            "value": [0.1, 0.9, 0.5, 0.6, 0.5, 0.2, 0.6],
        }
    )
    items = pd.DataFrame(
        {"item_id": list("abcdef"), "risk_level": ["HIGH", None, "HIGH", "LOW", "HIGH", "LOW"]}
    )
    labels = pd.DataFrame({"item_id": list("abcdef"), "n_raters": [2, 2, 1, 2, 1, 1]})
    found = items_for_review("valence", "regression", ratings, items, labels)
    assert found.to_numpy().tolist() == [
        ["b", "valence: spread 0.57 over 2 raters"],
        ["c", "valence: HIGH risk and rated by 1"],
        ["d", "valence: spread 0.28 over 2 raters"],
        ["e", "valence: HIGH risk and rated by 1"],
    ]
    stricter = items_for_review(
        "valence", "regression", ratings, items, labels, review_spread=0.5, min_raters_high_risk=3
    )
    assert stricter["item_id"].tolist() == ["a", "b", "c", "e"]
    # ratings without a label are no item to look at
    fewer = items_for_review("valence", "regression", ratings, items, labels[labels["item_id"] != "d"])
    assert fewer["item_id"].tolist() == ["b", "c", "e"]


def test_items_without_a_majority_at_the_core_are_listed():
    paths = {"a": "xx", "b": "xy", "c": "xxy", "d": "xyz", "e": "xxyy", "f": "x"}
    ratings = pd.DataFrame(
        [
            (item, str(rater), core, "n", None)
            for item, cores in paths.items()
            for rater, core in enumerate(cores)
        ],
        columns=["item_id", "rater", *LEVELS],
    )
    items = pd.DataFrame({"item_id": list(paths), "risk_level": ["LOW"] * 5 + ["HIGH"]})
    labels = pd.DataFrame({"item_id": list(paths), "n_raters": [len(cores) for cores in paths.values()]})
    found = items_for_review("invoked", "hierarchy", ratings, items, labels)
    assert found.to_numpy().tolist() == [
        ["b", "invoked: no majority at the core"],
        ["d", "invoked: no majority at the core"],
        ["e", "invoked: no majority at the core"],
        ["f", "invoked: HIGH risk and rated by 1"],
    ]


def test_several_reasons_stand_in_one_row():
    ratings, items, labels = scale_corpus(n=4)
    ratings["value"] = [0.0, 0.5, 1.0] * 4
    items["risk_level"] = "HIGH"
    found = items_for_review("v", "regression", ratings, items, labels, min_raters_high_risk=4)
    assert found["item_id"].tolist() == ["i000", "i001", "i002", "i003"]
    assert set(found["reasons"]) == {"v: HIGH risk and rated by 3; v: spread 0.50 over 3 raters"}


def test_nothing_to_review_is_an_empty_table():
    ratings, items, labels = scale_corpus(n=4, noise=0.0)
    found = items_for_review("v", "regression", ratings, items, labels)
    assert found.shape == (0, 2)
    assert list(found) == ["item_id", "reasons"]
