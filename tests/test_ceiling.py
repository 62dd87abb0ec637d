"""The noise ceiling against the known truth of simulated annotators, and on a real corpus."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from perceive.corpus import ceiling, latent_paths
from perceive.corpus.ceiling import (
    hierarchy_ceiling,
    measure_hierarchy_ceiling,
    measure_scale_ceiling,
    scale_ceiling,
)
from perceive.corpus.latent_paths import NotComputableError, fit_paths, path_levels

EMOBANK = Path(os.environ.get("PERCEIVE_DATA", "../shared/data")) / "emobank"
LEVELS = ("core", "nuance", "micro")


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --------------------------------------------------------------------------- scales


def rated_scale(
    n: int = 4000,
    counts: tuple[int, int] = (3, 3),
    raters: int = 3,
    bias: float = 0.06,
    noise: float = 0.09,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, float]]:
    """Ratings (number of ratings drawn between ``counts``, by raters drawn for each item), labels, truth."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0.5, 0.16, n)
    biases = rng.normal(0, bias, raters)
    chosen = np.argsort(rng.random((n, raters)), axis=1)
    size = rng.integers(counts[0], counts[1] + 1, n)
    item, place = np.nonzero(np.arange(raters) < size[:, None])
    rater = chosen[item, place]
    value = true[item] + biases[rater] + rng.normal(0, noise, len(item))
    ratings = pd.DataFrame({"item_id": item.astype(str), "rater": [f"r{k}" for k in rater], "value": value})
    mean = np.bincount(item, value) / size
    labels = pd.DataFrame({"item_id": np.arange(n).astype(str), "value": mean})
    error = mean - true - (mean - true).mean()
    truth = {
        "pearson": float(np.corrcoef(true, mean)[0, 1]),
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
    }
    return ratings, labels, truth


@pytest.mark.parametrize(
    ("design", "method"),
    [
        ({}, "two-way"),
        ({"noise": 0.25}, "two-way"),
        ({"raters": 2, "counts": (2, 2), "bias": 0.15}, "two-way"),
        ({"raters": 8, "bias": 0.12}, "two-way"),
        ({"raters": 6, "counts": (1, 5), "bias": 0.12}, "two-way"),
        ({"raters": 400, "counts": (1, 5), "bias": 0.1}, "one-way"),
        ({"raters": 12, "counts": (10, 12), "bias": 0.0}, "two-way"),
    ],
)
def test_the_ceiling_of_a_scale_is_what_the_truth_scores(design, method):
    for seed in range(3):
        ratings, labels, truth = rated_scale(seed=seed, **design)
        found = measure_scale_ceiling(ratings, labels)
        assert found["method"] == method
        for name, value in truth.items():
            assert found["metrics"][name]["value"] == pytest.approx(
                value, abs=0.012 if name == "pearson" else 0.004
            )


def test_without_ids_biases_count_as_errors():
    """Right for raters drawn for each item; for the same raters everywhere it is too low, never too high."""
    ratings, labels, truth = rated_scale(raters=60, bias=0.1)
    ratings["rater"] = None
    found = measure_scale_ceiling(ratings, labels)
    assert found["method"] == "one-way"
    assert found["metrics"]["pearson"]["value"] == pytest.approx(truth["pearson"], abs=0.008)
    ratings, labels, truth = rated_scale(raters=3, bias=0.1)
    with_ids = measure_scale_ceiling(ratings, labels)["metrics"]["pearson"]["value"]
    ratings["rater"] = None
    assert measure_scale_ceiling(ratings, labels)["metrics"]["pearson"]["value"] < with_ids - 0.01


def test_the_same_shift_on_every_item_is_no_error():
    ratings, labels, _ = rated_scale()
    before = measure_scale_ceiling(ratings, labels)
    ratings.loc[ratings["rater"] == "r1", "value"] += 0.3
    labels["value"] += 0.1
    after = measure_scale_ceiling(ratings, labels)
    assert after["metrics"] == before["metrics"]
    assert after["error_variance"] == pytest.approx(before["error_variance"])


def test_the_error_variance_is_the_mean_square_of_the_two_way_analysis():
    ratings, labels, _ = rated_scale(n=60, raters=4, counts=(4, 4))
    found = measure_scale_ceiling(ratings, labels)
    table = ratings.pivot(index="item_id", columns="rater", values="value").to_numpy()
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    assert found["error_variance"] == pytest.approx((rest**2).sum() / (59 * 3), rel=1e-6)
    ratings["rater"] = None
    rest = table - table.mean(axis=1, keepdims=True)
    assert measure_scale_ceiling(ratings, labels)["error_variance"] == pytest.approx(
        (rest**2).sum() / 180, rel=1e-6
    )


def test_rare_and_anonymous_raters_leave_the_others_biases_known(monkeypatch):
    ratings, labels, _ = rated_scale(bias=0.15)
    ids = ratings["item_id"].drop_duplicates()[:40]
    extra = pd.DataFrame({"item_id": ids, "rater": [*(f"x{k}" for k in range(20)), *[None] * 20]})
    extra["value"] = labels.set_index("item_id")["value"].reindex(ids).to_numpy() + 0.4
    more = pd.concat([ratings, extra])
    labels = more.groupby("item_id", as_index=False)["value"].mean()
    found = measure_scale_ceiling(more, labels)
    assert found["method"] == "two-way"
    # together they are one more rater
    more.loc[~more["rater"].isin(["r0", "r1", "r2"]), "rater"] = "others"
    monkeypatch.setattr(ceiling, "MIN_RATINGS_FOR_BIAS", 1)
    assert measure_scale_ceiling(more, labels) == found


def test_teams_without_a_common_item_are_one_way():
    one, labels_one, _ = rated_scale(n=500)
    other, labels_other, _ = rated_scale(n=500, seed=1)
    for frame in (other, labels_other):
        frame["item_id"] = "x" + frame["item_id"]
    other["rater"] = "x" + other["rater"]
    found = measure_scale_ceiling(pd.concat([one, other]), pd.concat([labels_one, labels_other]))
    assert found["method"] == "one-way"


def test_labels_corrected_for_bias_have_no_error_from_the_choice_of_raters():
    ratings, _, _ = rated_scale(raters=8, bias=0.2)
    biases = ratings["value"].groupby(ratings["rater"]).transform("mean") - ratings["value"].mean()
    corrected = ratings.assign(value=ratings["value"] - biases)
    labels = corrected.groupby("item_id", as_index=False)["value"].mean()
    with pytest.raises(NotComputableError, match="are the mean of their ratings"):
        measure_scale_ceiling(ratings, labels)
    found = measure_scale_ceiling(ratings, labels, bias_corrected=True)
    assert found["metrics"]["rmse"]["value"] == pytest.approx(0.09 / np.sqrt(3), abs=0.002)


def test_the_intervals_hold_the_truth():
    inside = {"pearson": [], "rmse": []}
    for seed in range(60):
        ratings, labels, truth = rated_scale(n=300, counts=(1, 3), noise=0.15, seed=seed)
        metrics = measure_scale_ceiling(ratings, labels)["metrics"]
        pearson, rmse = metrics["pearson"], metrics["rmse"]
        assert pearson["low"] < pearson["value"] < pearson["high"] <= 1
        inside["pearson"].append(pearson["low"] <= truth["pearson"] <= pearson["high"])
        # The RMSE in the long run; a sample's own one varies besides.
        expected = np.sqrt(0.15**2 * (1 + 1 / 2 + 1 / 3) / 3 + _drift(seed))
        inside["rmse"].append(rmse["low"] <= expected <= rmse["high"])
        assert metrics["mae"]["low"] < metrics["mae"]["value"] < metrics["mae"]["high"]
        assert pearson["high"] - pearson["low"] < 0.2
    assert np.mean(inside["pearson"]) >= 0.88
    assert np.mean(inside["rmse"]) >= 0.85


def _drift(seed: int) -> float:
    """Variance of the mean bias over items that draw 1, 2 or 3 of the three raters of `rated_scale`."""
    rng = np.random.default_rng(seed)
    rng.normal(0.5, 0.16, 300)
    biases = rng.normal(0, 0.06, 3)
    one = biases.var()
    return float((one + one / 4) / 3)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0, 1)), min_size=3, max_size=30),
    st.floats(1e-4, 0.05),
)
def test_the_ceiling_of_a_subset_follows_from_the_error_variance(rows, error_variance):
    n, observed = (np.array(side, dtype=float) for side in zip(*rows, strict=True))
    found = scale_ceiling(error_variance, n, observed)
    error = np.mean([error_variance / size for size in n])
    assert found["rmse"] == pytest.approx(np.sqrt(error))
    assert found["mae"] <= np.sqrt(2 / np.pi) * found["rmse"] * (1 + 1e-9)
    variance = np.var(observed, ddof=1)
    if variance > 0:
        assert found["pearson"] == pytest.approx(np.sqrt(max(0, 1 - error / variance)))
    else:
        assert np.isnan(found["pearson"])
    equal = scale_ceiling(error_variance, np.full(len(n), 4), observed)
    assert equal["mae"] == pytest.approx(np.sqrt(2 / np.pi) * equal["rmse"])


def test_the_stored_error_variance_gives_the_ceiling_of_any_part():
    ratings, labels, _ = rated_scale(raters=6, counts=(1, 5), bias=0.12)
    found = measure_scale_ceiling(ratings, labels)
    counts = ratings["item_id"].value_counts().reindex(labels["item_id"]).to_numpy()
    whole = scale_ceiling(found["error_variance"], counts, labels["value"])
    assert whole == pytest.approx({name: of["value"] for name, of in found["metrics"].items()}, abs=1e-6)
    part = scale_ceiling(found["error_variance"], counts[counts > 3], labels["value"][counts > 3])
    assert part["pearson"] > whole["pearson"]


def test_what_the_subset_needs():
    assert all(np.isnan(value) for value in scale_ceiling(0.01, [], []).values())
    assert np.isnan(scale_ceiling(0.01, [2], [0.5])["pearson"])
    assert scale_ceiling(0.04, [1, 1], [0.4, 0.5])["pearson"] == 0.0
    with pytest.raises(ValueError, match="equally long"):
        scale_ceiling(0.01, [2, 2], [0.5])
    with pytest.raises(ValueError, match="at least 1"):
        scale_ceiling(0.01, [2, 0], [0.5, 0.6])


def test_labels_that_are_not_the_means_do_not_count():
    ratings, labels, _ = rated_scale(n=1000)
    published = labels.copy()
    published.loc[:299, "value"] += 0.1
    found = measure_scale_ceiling(ratings, published)
    assert (found["n_items"], found["n_items_left_out"]) == (700, 300)
    expected = measure_scale_ceiling(ratings, labels[300:])
    assert found["metrics"] == expected["metrics"]
    # rounded scores are means all the same
    rounded = measure_scale_ceiling(ratings, labels.round(2))
    assert rounded["n_items_left_out"] == 0
    published["value"] += np.where(np.arange(1000) < 600, 0.1, 0)
    with pytest.raises(NotComputableError, match="only 40% of the labels"):
        measure_scale_ceiling(ratings, published)


def test_a_scale_without_a_ceiling_tells_why():
    ratings, labels, _ = rated_scale(n=50)
    first = ratings.drop_duplicates("item_id")
    singles = first[["item_id", "value"]]
    with pytest.raises(NotComputableError, match="no item has two ratings"):
        measure_scale_ceiling(first, singles)
    with pytest.raises(NotComputableError, match="constant"):
        measure_scale_ceiling(ratings.assign(value=0.5), labels.assign(value=0.5))
    with pytest.raises(NotComputableError, match="no rated item has a label"):
        measure_scale_ceiling(ratings, labels.assign(item_id="x" + labels["item_id"]))


# --------------------------------------------------------------------------- a real corpus


@pytest.mark.skipif(not EMOBANK.is_dir(), reason=f"EmoBank is not at {EMOBANK}; set PERCEIVE_DATA")
@pytest.mark.parametrize(("column", "pearson"), [("V", 0.89), ("A", 0.67)])
def test_the_ceiling_of_emobank(column, pearson):
    """The published score is the mean of all ratings of both perspectives, but those that say 1, 1, 1."""
    published = pd.read_csv(EMOBANK / "emobank.csv")
    ratings = pd.concat(
        [pd.read_csv(EMOBANK / f"individual_{side}_ratings.csv") for side in ("reader", "writer")]
    )
    labels = pd.DataFrame({"item_id": published["id"], "value": (published[column] - 1) / 4})

    def frame(rows: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"item_id": rows["id"], "rater": None, "value": (rows[column] - 1) / 4})

    used = ratings[(ratings[["V", "A", "D"]] != 1).any(axis=1)]
    found = measure_scale_ceiling(frame(used), labels)
    assert (found["n_items"], found["n_items_left_out"]) == (9062, 0)
    estimate = found["metrics"]["pearson"]
    assert estimate["value"] == pytest.approx(pearson, abs=0.011)
    assert estimate["low"] - 0.002 < pearson < estimate["high"]
    # An independent look: random halves of the ratings, corrected for their length (Spearman and Brown).
    mixed = used.sample(frac=1, random_state=1).reset_index(drop=True)
    halves = mixed.groupby(["id", mixed.groupby("id").cumcount() % 2])[column].mean().unstack()
    r = halves[0].corr(halves[1])
    assert estimate["value"] == pytest.approx(np.sqrt(2 * r / (1 + r)), abs=0.012)
    # With the unused ratings, the items that have some are recognised and left out.
    everything = measure_scale_ceiling(frame(ratings), labels)
    assert everything["n_items_left_out"] == 3288
    assert everything["metrics"]["pearson"]["value"] == pytest.approx(pearson, abs=0.04)


# --------------------------------------------------------------------------- hierarchies


def rated_paths(
    n: int = 5000,
    counts: tuple[int, int] = (3, 3),
    raters: int = 3,
    errors: tuple[float, float, float] = (0.12, 0.15, 0.15),
    uneven: float = 0.25,
    stops: float = 0.0,
    drawn_to: bool = False,
    shape: tuple[int, int, int] = (6, 6, 6),
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Ratings, labels by plurality with random ties, and true paths.

    A rater's errors differ from the mean by up to ``uneven`` times, those of the cores by a third; cores are
    mistaken for neighbours, and below a wrong core or nuance anything is named. A rating stops at the core
    with probability ``stops``. ``drawn_to``: whoever mistakes the core names the same path below it.
    """
    rng = np.random.default_rng(seed)
    cores, nuances, micros = shape
    prior = 0.8 ** np.arange(cores)
    below = [
        rng.dirichlet(np.full(nuances, 8.0), cores),
        rng.dirichlet(np.full(micros, 8.0), (cores, nuances)),
    ]
    weights = np.exp(-np.abs(np.subtract.outer(np.arange(cores), np.arange(cores))))
    np.fill_diagonal(weights, 0)

    def choose(chances: np.ndarray) -> np.ndarray:
        sums = chances.cumsum(axis=-1)
        return (rng.random(len(chances))[:, None] * sums[:, -1:] > sums).sum(axis=1)

    core = choose(np.broadcast_to(prior, (n, cores)))
    nuance = choose(below[0][core])
    micro = choose(below[1][core, nuance])
    by_core = 1 + 0.33 * np.cos(np.arange(cores) * 2.0)
    frames = []
    for factor in 1 + uneven * np.linspace(-1, 1, raters):
        said = np.where(rng.random(n) < errors[0] * factor * by_core[core], choose(weights[core]), core)
        slip = (nuance + rng.choice([1, 1, 2, nuances - 1], n)) % nuances
        said_nuance = np.where(rng.random(n) < errors[1] * factor, slip, nuance)
        said_nuance = np.where(said == core, said_nuance, 0 if drawn_to else choose(below[0][said]))
        slip = (micro + rng.integers(1, micros, n)) % micros
        said_micro = np.where(rng.random(n) < errors[2] * factor, slip, micro)
        right = (said == core) & (said_nuance == nuance)
        said_micro = np.where(right, said_micro, 0 if drawn_to else choose(below[1][said, said_nuance]))
        stop = rng.random(n) < stops
        frames.append(
            np.stack([said, np.where(stop, -1, said_nuance), np.where(stop, -1, said_micro)], axis=1)
        )
    given_by = np.argsort(np.argsort(rng.random((n, raters)), axis=1), axis=1)
    item, rater = np.nonzero(given_by < rng.integers(counts[0], counts[1] + 1, n)[:, None])
    said = np.stack(frames, axis=1)[item, rater]
    ratings = _named(said).assign(item_id=item, rater=np.array([f"r{k}" for k in range(raters)])[rater])
    return (
        ratings,
        _plurality(item, said, n, rng),
        _named(np.stack([core, nuance, micro], 1)).assign(item_id=range(n)),
    )


def _named(paths: np.ndarray) -> pd.DataFrame:
    """Parts are named alike below every parent."""
    names = np.array([*(f"p{k}" for k in range(paths.max() + 1)), None], dtype=object)
    return pd.DataFrame(dict(zip(LEVELS, names[paths].T, strict=True)))


def _plurality(item: np.ndarray, said: np.ndarray, n: int, rng: np.random.Generator) -> pd.DataFrame:
    label = np.full((n, 3), -1)
    alive = np.ones(len(item), dtype=bool)
    for level in range(3):
        votes = np.zeros((n, said.max() + 2))
        np.add.at(votes, (item[alive], said[alive, level]), 1.0)
        votes[:, :-1] += 0.5 * rng.random(votes[:, :-1].shape) * (votes[:, :-1] > 0)
        winner = votes.argmax(axis=1)
        winner[(winner == votes.shape[1] - 1) | (votes.max(axis=1) == 0)] = -1
        label[:, level] = winner
        alive &= (said[:, level] == winner[item]) & (winner[item] >= 0)
    return _named(label).assign(item_id=range(n))


def exact(labels: pd.DataFrame, truth: pd.DataFrame) -> dict[str, float]:
    """What the true path scores against the labels, by the plain definitions."""
    scores: dict[str, float] = {}
    shared = depth = 0
    for count, level in enumerate(LEVELS, start=1):
        reached = labels[level].notna().to_numpy()
        label, true = (
            sum(
                (frame[part][reached] + "/" for part in LEVELS[1:count]), frame["core"][reached] + "/"
            ).to_numpy(str)
            for frame in (labels, truth)
        )
        scores[f"accuracy_{level}"] = float(np.mean(label == true))
        scores[f"macro_f1_{level}"] = float(f1_score(label, true, average="macro"))
        shared, depth = shared + int(np.sum(label == true)), depth + len(label)
    return scores | {"hierarchical_f1": shared / depth}


# 36 and 216 classes, some with a handful of items, let the macro-F1 of one sample itself vary.
TOLERANCES = {"macro_f1_nuance": 0.025, "macro_f1_micro": 0.035}


@pytest.mark.parametrize(
    "design",
    [
        {},
        {"errors": (0.04, 0.05, 0.05)},
        {"errors": (0.25, 0.3, 0.3)},
        {"raters": 2, "counts": (2, 2)},
        {"raters": 5, "counts": (5, 5)},
        {"raters": 6, "counts": (1, 5)},
        {"stops": 0.3},
        {"uneven": 0.7},
        {"drawn_to": True, "errors": (0.3, 0.2, 0.2)},
    ],
)
def test_the_ceiling_of_a_hierarchy_is_what_the_true_path_scores(design):
    ratings, labels, truth = rated_paths(**design)
    found = measure_hierarchy_ceiling(ratings, labels, LEVELS)
    scores = exact(labels, truth)
    assert set(found["metrics"]) == set(scores)
    for name, value in scores.items():
        entry = found["metrics"][name]
        assert entry["value"] == pytest.approx(value, abs=TOLERANCES.get(name, 0.02)), name
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert ("note" in found) == (design.get("raters") == 2)


def test_without_ids_one_confusion_serves_all_raters():
    ratings, labels, truth = rated_paths(seed=3)
    found = measure_hierarchy_ceiling(ratings.assign(rater=None), labels, LEVELS)["metrics"]
    scores = exact(labels, truth)
    for name in ("macro_f1_core", "hierarchical_f1", "accuracy_micro"):
        assert found[name]["value"] == pytest.approx(scores[name], abs=0.02)


def test_each_raters_own_errors_are_learnt():
    """A careless rater beside two careful ones: one confusion matrix for all takes the labels for worse."""
    ratings, labels, truth = rated_paths(n=3000, uneven=0.95, errors=(0.25, 0.2, 0.2))
    scores = exact(labels, truth)
    with_ids, without = (
        measure_hierarchy_ceiling(frame, labels, LEVELS)["metrics"]
        for frame in (ratings, ratings.assign(rater=None))
    )
    for name in ("accuracy_nuance", "hierarchical_f1"):
        assert with_ids[name]["value"] == pytest.approx(scores[name], abs=0.02)
        assert abs(without[name]["value"] - scores[name]) > abs(with_ids[name]["value"] - scores[name])


def test_errors_may_run_one_way():
    """The first class is often taken for the second, never the other way round."""
    rng = np.random.default_rng(0)
    true = rng.choice(3, 4000, p=[0.5, 0.2, 0.3])
    said = np.repeat(true[:, None], 3, axis=1)
    said = np.where((said == 0) & (rng.random(said.shape) < 0.35), 1, said)
    ratings = pd.DataFrame(
        {"item_id": np.repeat(np.arange(4000), 3), "rater": np.tile(["x", "y", "z"], 4000)}
    )
    ratings["core"] = np.array(["a", "b", "c"])[said.ravel()]
    label = np.where((said == 1).sum(axis=1) > 1, 1, true)
    labels = pd.DataFrame({"item_id": np.arange(4000), "core": np.array(["a", "b", "c"])[label]})
    found = measure_hierarchy_ceiling(ratings, labels, ("core",))["metrics"]
    assert found["accuracy_core"]["value"] == pytest.approx(np.mean(label == true), abs=0.02)
    assert found["macro_f1_core"]["value"] == pytest.approx(f1_score(label, true, average="macro"), abs=0.02)


def test_the_raters_accuracy_is_found():
    ratings, labels, truth = rated_paths(errors=(0.2, 0.1, 0.3), n=3000)
    found = fit_paths(ratings, labels, LEVELS).accuracy
    joined = ratings.merge(truth, on="item_id", suffixes=("", "_true"))
    right = np.ones(len(joined), dtype=bool)
    for level in LEVELS:
        same = (joined[level] == joined[f"{level}_true"]).to_numpy()
        assert found[level] == pytest.approx(same[right].mean(), abs=0.02)
        right &= same


def test_raters_without_errors_have_no_ceiling_below_one():
    ratings, labels, _ = rated_paths(n=600, errors=(0.0, 0.0, 0.0))
    found = measure_hierarchy_ceiling(ratings, labels, LEVELS)["metrics"]
    assert all(entry["value"] > 0.995 for entry in found.values())


def test_the_labels_are_scored_whoever_made_them():
    """Labels need not be pluralities: those of one rater alone have a ceiling of their own."""
    ratings, _, truth = rated_paths(n=2500, uneven=0.6)
    for rater in ("r0", "r2"):
        labels = ratings[ratings["rater"] == rater].reset_index(drop=True)
        found = measure_hierarchy_ceiling(ratings, labels, LEVELS)["metrics"]
        scores = exact(labels, truth)
        assert found["accuracy_core"]["value"] == pytest.approx(scores["accuracy_core"], abs=0.02)
        assert found["macro_f1_core"]["value"] == pytest.approx(scores["macro_f1_core"], abs=0.02)


def test_the_ceiling_of_a_part():
    ratings, labels, truth = rated_paths(raters=6, counts=(1, 5))
    posterior = fit_paths(ratings, labels, LEVELS)
    often = ratings["item_id"].value_counts().loc[lambda n: n >= 4].index
    found = hierarchy_ceiling(posterior, often)
    scores = exact(*(frame[frame["item_id"].isin(often)] for frame in (labels, truth)))
    for name in ("macro_f1_core", "hierarchical_f1"):
        assert found[name] == pytest.approx(scores[name], abs=0.02)
    assert found["hierarchical_f1"] > hierarchy_ceiling(posterior)["hierarchical_f1"] + 0.05
    with pytest.raises(NotComputableError, match="none of the items was rated"):
        hierarchy_ceiling(posterior, [-1])


def test_equal_arguments_give_equal_results_in_any_order_of_rows():
    ratings, labels, _ = rated_paths(n=400)
    found = measure_hierarchy_ceiling(ratings, labels, LEVELS)
    shuffled = ratings.sample(frac=1, random_state=0)
    again = measure_hierarchy_ceiling(shuffled, labels.sample(frac=1, random_state=0), LEVELS)
    for name, entry in found["metrics"].items():
        assert again["metrics"][name]["value"] == pytest.approx(entry["value"], abs=1e-4)
    assert measure_hierarchy_ceiling(ratings, labels, LEVELS) == found


def test_below_a_core_that_nobody_went_beyond_only_the_prior_speaks():
    ratings, _, truth = rated_paths(n=3000, errors=(0.05, 0.1, 0.1))
    stopped = np.arange(0, 3000, 2)
    ratings.loc[ratings["item_id"].isin(stopped), ["nuance", "micro"]] = None
    found = hierarchy_ceiling(fit_paths(ratings, truth, LEVELS), stopped)
    shares = truth.groupby(["core", "nuance"]).size() / truth.groupby("core").size()
    by_chance = (shares**2).groupby("core").sum().reindex(truth["core"]).mean()
    assert found["accuracy_nuance"] == pytest.approx(found["accuracy_core"] * by_chance, abs=0.02)


def test_weights_of_parents_are_shares():
    ratings, labels, _ = rated_paths(n=800, errors=(0.3, 0.3, 0.3))
    for level in fit_paths(ratings, labels, LEVELS).fitted:
        of_pattern = np.bincount(level.pattern, level.weight)
        assert of_pattern.max() <= 1 + 1e-9
        assert level.posterior.sum(axis=1) == pytest.approx(1)
        assert level.confusion.shape[0] == 4  # three raters and the shared one
        inner = level.confusion * level.exists[:, None, :]
        assert inner.sum(axis=-1)[:, level.exists] == pytest.approx(1)


def test_a_large_corpus_is_sampled(monkeypatch):
    ratings, labels, truth = rated_paths(n=4000, errors=(0.2, 0.2, 0.2))
    # the first items are rated without an error: a sample must not take the first
    easy = ratings["item_id"] < 2000
    ratings.loc[easy, list(LEVELS)] = (
        truth.set_index("item_id").loc[ratings["item_id"][easy], list(LEVELS)].to_numpy()
    )
    labels.loc[:1999, list(LEVELS)] = truth.loc[:1999, list(LEVELS)]
    monkeypatch.setattr(latent_paths, "MAX_ITEMS", 1500)
    found = measure_hierarchy_ceiling(ratings, labels, LEVELS)
    assert (found["n_items"], found["n_items_rated"]) == (1500, 4000)
    posterior = fit_paths(ratings, labels, LEVELS)
    assert len(set(posterior.item_ids)) == 1500
    scores = exact(labels, truth)
    assert found["metrics"]["hierarchical_f1"]["value"] == pytest.approx(scores["hierarchical_f1"], abs=0.03)


def test_taxonomies_of_other_shapes():
    ratings, labels, truth = rated_paths(n=1500, shape=(3, 1, 4))
    found = measure_hierarchy_ceiling(ratings, labels, LEVELS)["metrics"]
    scores = exact(labels, truth)
    # a nuance without sisters cannot be missed once the core is right
    assert found["accuracy_nuance"]["value"] == pytest.approx(found["accuracy_core"]["value"], abs=1e-6)
    assert found["hierarchical_f1"]["value"] == pytest.approx(scores["hierarchical_f1"], abs=0.02)
    flat = measure_hierarchy_ceiling(ratings, labels, ("core",))
    assert set(flat["metrics"]) == {"accuracy_core", "macro_f1_core", "hierarchical_f1"}
    assert flat["metrics"]["hierarchical_f1"] == flat["metrics"]["accuracy_core"]


def test_branches_may_end_at_different_levels():
    ratings, labels, truth = rated_paths(n=2000, errors=(0.15, 0.1, 0.1))
    for frame in (ratings, labels, truth):
        frame.loc[frame["core"] == "p0", ["nuance", "micro"]] = None
    found = measure_hierarchy_ceiling(ratings, labels, LEVELS)["metrics"]
    reached = labels["nuance"].notna()
    posterior = fit_paths(ratings, labels, LEVELS)
    core, nuance, micro = posterior.draw(np.random.default_rng(0))
    assert (core == 0).any()
    assert (nuance[core == 0] < 0).all()
    assert (nuance[core != 0] >= 0).all()
    assert np.array_equal(micro[core == 0], nuance[core == 0])
    same = (labels[["core", "nuance"]] == truth[["core", "nuance"]])[reached].all(axis=1).mean()
    assert found["accuracy_nuance"]["value"] == pytest.approx(same, abs=0.02)


def test_ratings_that_all_stop_early_leave_the_lower_levels_out():
    ratings, labels, _ = rated_paths(n=300, stops=1.0)
    found = measure_hierarchy_ceiling(ratings, labels, LEVELS)
    assert set(found["metrics"]) == {"accuracy_core", "macro_f1_core", "hierarchical_f1"}
    assert set(found["rater_accuracy"]) == {"core"}


def test_a_hierarchy_without_a_ceiling_tells_why():
    ratings, labels, _ = rated_paths(n=50)
    for bad in (ratings[ratings["rater"] == "r1"], ratings.assign(core=None), ratings[:0]):
        with pytest.raises(NotComputableError, match="no item has two ratings"):
            measure_hierarchy_ceiling(bad, labels, LEVELS)
    with pytest.raises(NotComputableError, match="no item has two ratings"):
        measure_hierarchy_ceiling(ratings, labels.assign(core=None), LEVELS)


def test_paths_are_coded_by_their_parents():
    frame = pd.DataFrame(
        [
            ("b", "x", "u"),
            ("a", "x", None),
            ("a", "y", "u"),
            ("a", None, "u"),
            (None, "x", "u"),
            ("b", "x", "v"),
        ],
        columns=LEVELS,
    )
    core, nuance, micro = path_levels(frame, LEVELS)
    assert core.code.tolist() == [1, 0, 0, 0, -1, 1]
    assert nuance.code.tolist() == [2, 0, 1, -1, -1, 2]
    assert nuance.parent.tolist() == [0, 0, 1]
    assert nuance.place.tolist() == [0, 1, 0]
    assert micro.code.tolist() == [1, -1, 0, -1, -1, 2]
    assert micro.parent.tolist() == [1, 2, 2]
