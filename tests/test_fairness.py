"""A planted gap between groups is found and judged; where there is none, nothing fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive.evaluation.acceptance import fairness_row
from perceive.evaluation.fairness import fairness_plot, measure_fairness, worst_answers

LIMITS = {"scale": 0.05, "hierarchy": 0.10}


def corpus(
    extra: float, seed: int = 0, owners: int = 120, each: int = 6
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Answers with an error of .06, larger by ``extra`` in hinglish."""
    rng = np.random.default_rng(seed)
    n = owners * each
    owner = np.repeat([f"o{number}" for number in range(owners)], each)
    language = np.where(np.arange(n) // each % 3 == 0, "hinglish", "en")
    items = pd.DataFrame(
        {
            "item_id": [f"i{number}" for number in range(n)],
            "owner_id": owner,
            "language": language,
            "risk_level": rng.choice(["LOW", "MEDIUM", "HIGH"], n),
            "category": rng.choice(["a", "b"], n),
            "length_bucket": "SHORT",
        }
    )
    observed = rng.uniform(0.2, 0.8, n)
    size = np.where(language == "hinglish", 0.06 + extra, 0.06)
    predictions = pd.DataFrame(
        {
            "item_id": items["item_id"],
            "observed": observed,
            "calibrated": observed + size * rng.normal(size=n),
        }
    )
    return predictions, items.sample(frac=1, random_state=seed)


def test_a_planted_gap_fails_and_its_groups_are_named() -> None:
    found = measure_fairness(*corpus(0.10), "regression", n=300)
    assert found["largest"] == "language"
    gap = found["gaps"]["language"]
    assert (gap["worst"], gap["best"]) == ("hinglish", "en")
    assert gap["value"] == pytest.approx(0.10, abs=0.02) and gap["low"] < gap["value"] < gap["high"]
    row = fairness_row("valence", found, LIMITS)
    assert row["verdict"] == "fail" and "hinglish against en" in row["note"]


def test_without_a_gap_nothing_fails() -> None:
    rows = [
        fairness_row("valence", measure_fairness(*corpus(0.0, seed), "regression", n=200), LIMITS)
        for seed in range(10)
    ]
    assert [row["verdict"] for row in rows] == ["pass"] * 10


def test_a_gap_at_the_limit_is_undecided() -> None:
    verdicts = [
        fairness_row("valence", measure_fairness(*corpus(0.05, seed), "regression", n=200), LIMITS)["verdict"]
        for seed in range(10)
    ]
    assert verdicts.count("undecided") >= 8


def test_errors_and_bias_are_those_of_the_rows() -> None:
    predictions, items = corpus(0.02)
    found = measure_fairness(predictions, items, "sequence", n=50)
    rows = predictions.set_index("item_id").loc[items.loc[items["risk_level"] == "HIGH", "item_id"]]
    signed = rows["calibrated"] - rows["observed"]
    high = found["groups"]["risk_level"]["HIGH"]
    assert high["n"] == len(rows)
    assert high["error"]["value"] == pytest.approx(np.sqrt((signed**2).mean()))
    assert high["bias"]["value"] == pytest.approx(signed.mean())
    assert list(found["groups"]) == ["risk_level", "language", "category"]
    assert list(found["groups"]["risk_level"]) == ["HIGH", "MEDIUM", "LOW"]


def test_a_small_group_is_named_and_not_judged() -> None:
    predictions, items = corpus(0.0)
    items["category"] = np.where(np.arange(len(items)) < 5, "rare", "common")
    found = measure_fairness(predictions, items, "regression", n=50)
    assert set(found["groups"]["category"]["rare"]) == {"n", "owners"} and "category" not in found["gaps"]


def test_without_groups_it_is_undecided() -> None:
    predictions, items = corpus(0.0)
    found = measure_fairness(predictions, items[["item_id", "owner_id"]], "regression", n=50)
    assert found["groups"] == {} and found["largest"] is None
    row = fairness_row("valence", found, LIMITS)
    assert row["verdict"] == "undecided" and "not measured" in row["note"]


def paths(seed: int = 0, n: int = 400) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    _, items = corpus(0, seed, owners=n // 4, each=4)
    items = items.sort_index()
    core = rng.choice(["Sad", "Happy"], n)
    p_sad = rng.uniform(size=n)
    answer = np.where(p_sad > 0.5, "Sad", "Happy")
    frame = pd.DataFrame(
        {
            "item_id": items["item_id"],
            "observed": [f"{name}/x" for name in core],
            "calibrated": [f"{name}/y" for name in answer],
            "p_Happy": 1 - p_sad,
            "p_Sad": p_sad,
        }
    )
    return frame, items


def test_a_path_is_wrong_by_its_first_level_alone() -> None:
    frame, items = paths()
    found = measure_fairness(frame, items, "hierarchy", n=50)
    rows = frame[(items["language"] == "en").to_numpy()]
    wrong = rows["observed"].str.split("/").str[0] != rows["calibrated"].str.split("/").str[0]
    one = found["groups"]["language"]["en"]
    assert one["error"]["value"] == pytest.approx(wrong.mean())
    confidence = rows[["p_Happy", "p_Sad"]].max(axis=1)
    assert one["bias"]["value"] == pytest.approx((confidence - (1 - wrong)).mean())


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 80))
def test_the_worst_answers_are_the_worst_and_high_risk_comes_first(seed: int, n: int) -> None:
    frame, items = paths(seed)
    for predictions, kind in ((frame, "hierarchy"), (corpus(0.0, seed)[0].iloc[:400], "regression")):
        worst = worst_answers(predictions, items, kind, n)
        assert len(worst) <= n and "text" not in worst and set(worst["item_id"]) <= set(items["item_id"])
        high = (worst["risk_level"] == "HIGH").to_numpy()
        assert not np.any(np.diff(high.astype(int)) > 0)
        for part in (worst[high], worst[~high]):
            assert part["error"].is_monotonic_decreasing
        if kind == "regression":
            error = (predictions["calibrated"] - predictions["observed"]).abs()
            assert worst["error"].min() == pytest.approx(error.nlargest(n).min())
        else:
            assert (worst["observed"].str[:3] != worst["predicted"].str[:3]).all()


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    predictions, items = corpus(0.05)
    items["category"] = np.where(np.arange(len(items)) < 5, "rare", "common")
    for name, found in {
        "whole": measure_fairness(predictions, items, "regression", n=50),
        "none": measure_fairness(predictions, items[["item_id", "owner_id"]], "regression", n=50),
    }.items():
        fairness_plot(tmp_path / f"{name}.png", "valence", found)
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000
