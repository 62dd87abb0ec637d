"""What is asked beyond the metrics is judged, and the table says how much of the ceiling is reached."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceive.corpus.coefficients import alpha_interval, krippendorff_interval, krippendorff_nominal
from perceive.evaluation.acceptance import (
    BUNDLE,
    COLUMNS,
    agreement_row,
    as_json,
    completed,
    latency_row,
    leakage_row,
    parity_rows,
)
from perceive.evaluation.gates import ACCEPTANCE_COLUMNS, acceptance_table


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    empty = dict.fromkeys(ACCEPTANCE_COLUMNS)
    frame = pd.DataFrame([{**empty, "n": 1, "owners": 1, **row} for row in rows], columns=ACCEPTANCE_COLUMNS)
    return frame.astype(dict.fromkeys(("value", "low", "high", "baseline_value", "ceiling"), "float64"))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.70, 0.8, "pass"), (0.6, 0.6999, "fail"), (0.6, 0.70, "undecided"), (None, None, "undecided")],
)
def test_agreement_is_judged_by_its_interval(low: float | None, high: float | None, verdict: str) -> None:
    agreement = {"alpha": {"value": 0.7, "low": low, "high": high}, "n_items": 9}
    assert agreement_row("valence", agreement, 0.70)["verdict"] == verdict


def test_one_rater_leaves_agreement_undecided() -> None:
    row = agreement_row("valence", {"alpha": {"value": None}, "n_items": 9}, 0.70)
    assert row["verdict"] == "undecided" and "no two ratings" in row["note"]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [(["pass", "pass"], "pass"), (["pass", "fail"], "fail"), (["waived", "pass"], "undecided"),
     (["waived", "fail"], "fail")],
)  # fmt: skip
def test_a_leak_fails_and_a_waived_check_is_no_pass(verdicts: list[str], expected: str) -> None:
    audit = {"checks": [{"name": f"c{n}", "verdict": verdict} for n, verdict in enumerate(verdicts)]}
    row = leakage_row("valence", [audit])
    assert row["verdict"] == expected and ("c0" in row["note"]) == (verdicts[0] == "waived")


def parity(rmse: float, passes: bool = True) -> dict[str, Any]:
    one = {"rmse": rmse, "passes": passes, "variables": {"valence": {"rows": 7}}}
    return {"precisions": {"fp32": {**one, "rmse": 1e-7}, "fp16": {**one, "same_path": 0.995}}}


@pytest.mark.parametrize(
    ("rmse", "passes", "verdict"),
    [(0.005, True, "pass"), (math.nextafter(0.005, 1), True, "fail"), (0.001, False, "fail")],
)
def test_parity(rmse: float, passes: bool, verdict: str) -> None:
    limits = {"fp32": 1e-5, "other": 0.005}
    rows = parity_rows(parity(rmse, passes), "fp16", limits)
    assert [row["gate"].split()[5] for row in rows] == ["fp32", "fp16"]
    assert rows[1]["verdict"] == verdict and rows[1]["note"] == "99.5% of the paths are the same"
    assert len(parity_rows(parity(rmse), "fp32", limits)) == 1


@pytest.mark.parametrize(("p50", "verdict"), [(100.0, "pass"), (100.1, "fail")])
def test_latency(p50: float, verdict: str) -> None:
    timed = {"batch": {"1": {"p50_ms": p50, "p95_ms": 200.0, "repeats": 50}}}
    report = {"devices": {"CPU": {"fp16": timed}}, "device": "a machine", "threads": 2}
    row = latency_row(report, "fp16", 100)
    assert row["verdict"] == verdict and "a machine" in row["note"] and row["variable"] == BUNDLE


def test_shares_of_the_ceiling_and_gains() -> None:
    found = completed(
        table(
            {"variable": "valence", "metric": "rmse", "value": 0.1, "ceiling": 0.05, "baseline_value": 0.2},
            {"variable": "valence", "metric": "pearson", "value": 0.8, "ceiling": 0.9, "baseline_value": 0.5},
            {"variable": "valence", "metric": "ece", "value": 0.0, "ceiling": 0.0},
            {"variable": "valence", "metric": "mae", "value": 0.1},
        )
    )
    assert tuple(found.columns) == COLUMNS
    assert found["ceiling_share"].tolist()[:2] == [0.5, pytest.approx(0.8 / 0.9)]
    assert found["baseline_gain"].tolist()[:2] == [0.5, pytest.approx(0.3)]
    assert found["ceiling_share"][2:].isna().all() and found["baseline_gain"][2:].isna().all()


def test_rows_stand_with_their_variable_and_the_bundle_is_last() -> None:
    of_two = table(
        {"variable": "valence", "metric": "rmse", "verdict": "pass", "gate": "a"},
        {"variable": "arousal", "metric": "rmse", "verdict": "pass", "gate": "b"},
    )
    bundle = parity_rows(parity(0.001), "fp32", {"fp32": 1e-5, "other": 0.005})
    more = [agreement_row("valence", {"alpha": {"value": None}, "n_items": 1}, 0.7)]
    found = completed(completed(of_two, [*bundle]), more)
    assert found["variable"].tolist() == ["valence", "valence", "arousal", BUNDLE]
    told = as_json(found)
    assert told["variables"] == {"valence": "undecided", "arousal": "pass", BUNDLE: "pass"}
    assert told["counts"] == {"pass": 3, "fail": 0, "undecided": 1} and len(told["gates"]) == 4
    json.dumps(told, allow_nan=False)


def test_a_table_without_gates_takes_rows_all_the_same() -> None:
    row = leakage_row("valence", [{"checks": []}])
    assert completed(acceptance_table({}), [row])["verdict"].tolist() == ["pass"]


@given(st.integers(0, 1000), st.booleans())
def test_the_interval_of_alpha_holds_alpha(seed: int, nominal: bool) -> None:
    rng = np.random.default_rng(seed)
    item = rng.permutation(np.repeat(np.arange(150), rng.integers(1, 5, 150)))
    true = rng.uniform(size=150)[item]
    if nominal:
        code = np.where(rng.random(len(item)) < 0.8, (true * 4).astype(int), rng.integers(0, 4, len(item)))
        low, high = alpha_interval(code, item, nominal=True, seed=seed, n=100)
        assert low < krippendorff_nominal(code, item) < high
    else:
        value = true + rng.normal(scale=0.1, size=len(item))
        low, high = alpha_interval(value, item, nominal=False, seed=seed, n=100)
        assert low < krippendorff_interval(value, item) < high
    assert -0.2 < low < high <= 1 and high - low < 0.4


def test_an_item_drawn_twice_counts_as_two() -> None:
    """The weighted sums are alpha itself: with one item there is only one draw."""
    value, item = np.array([0.1, 0.4, 0.35]), np.zeros(3, dtype=int)
    low, high = alpha_interval(value, item, nominal=False, seed=1, n=5)
    assert low == high == pytest.approx(krippendorff_interval(value, item))


def test_no_interval_where_there_is_no_alpha() -> None:
    assert np.isnan(alpha_interval(np.ones(4), np.array([0, 0, 1, 1]), nominal=False, seed=1)).all()
    assert np.isnan(alpha_interval(np.ones(2), np.array([0, 1]), nominal=True, seed=1)).all()
