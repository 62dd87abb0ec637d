"""Gates: reading and writing, verdicts, the acceptance table and its summary."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perceive.evaluation import (
    LEVEL_METRICS,
    LOWER_IS_BETTER,
    METRIC_LABELS,
    PATH_METRICS,
    lower_is_better,
    metric_label,
)
from perceive.evaluation.gates import (
    ACCEPTANCE_COLUMNS,
    DEFAULT_GATES,
    Gate,
    acceptance_table,
    best_of,
    gates_from_config,
    judge,
    judge_result,
    summary_text,
)


def numbers(value, low, high):
    return {"value": value, "low": low, "high": high}


def a_result(**changes):
    """A stored evaluation, as small as the gates need it."""
    baselines = {
        "mean": {"rmse": numbers(0.21, 0.20, 0.22), "pearson": numbers(None, None, None)},
        "owner_mean": {"rmse": numbers(0.19, 0.18, 0.20), "pearson": numbers(0.4, 0.3, 0.5)},
    }
    short = {
        "n": 100,
        "owners": 40,
        "metrics": {"rmse": numbers(0.14, 0.12, 0.17)},
        "baselines": {"mean": {"rmse": 0.25}, "owner_mean": {"rmse": 0.26}},
    }
    result = {
        "variable": "valence",
        "n": 780,
        "owners": 120,
        "metrics": {
            "calibrated": {"rmse": numbers(0.08, 0.07, 0.085), "pearson": numbers(0.7, 0.6, 0.75)},
            "raw": {"rmse": numbers(0.5, 0.5, 0.5)},
        },
        "slices": {"length_bucket": {"SHORT": short, "MEDIUM": {"n": 12, "owners": 2}}},
        "baselines": baselines,
        "blend_gain": numbers(0.03, 0.01, 0.05),
    }
    result |= changes
    result["gates"] = judge_result(result, DEFAULT_GATES[result["variable"]])
    return result


def test_default_gates_are_the_contract():
    written = {variable: [str(gate) for gate in gates] for variable, gates in DEFAULT_GATES.items()}
    assert written == {
        "valence": [
            "rmse <= 0.09",
            "pearson >= 0.8",
            "spearman >= 0.4",
            "ece <= 0.05",
            "mae <= 0.12",
            "rmse[SHORT] <= 0.16",
            "rmse[MEDIUM] <= 0.15",
            "blend_gain >= 0.02",
        ],
        "arousal": ["rmse <= 0.11", "pearson >= 0.75", "spearman >= 0.4", "ece <= 0.06"],
        "willingness": ["mae <= 0.1", "spearman >= 0.45", "ece <= 0.08"],
        "invoked": ["macro_f1_core >= 0.75", "hierarchical_f1 >= 0.6", "path_validity >= 0.92"],
        "expressed": ["macro_f1_core >= 0.73", "hierarchical_f1 >= 0.58", "path_validity >= 0.92"],
        "congruence": ["rmse <= 0.12", "temporal_r >= 0.55", "lag_gain >= 0.0", "history_gain >= 0.0"],
        "comparator": ["rmse <= 0.12", "temporal_r >= 0.55", "lag_gain >= 0.0", "history_gain >= 0.0"],
    }
    assert gates_from_config(written) == DEFAULT_GATES
    assert all(gate.variable == variable for variable, gates in DEFAULT_GATES.items() for gate in gates)


def test_slices_without_a_column_name():
    assert Gate.parse("valence", "rmse[MEDIUM]<=.15").slice == "length_bucket=MEDIUM"
    assert Gate.parse("valence", "rmse[HIGH] <= .15").slice == "risk_level=HIGH"
    assert Gate.parse("valence", "rmse [ hinglish ] <= .15").slice == "language=hinglish"
    assert str(Gate.parse("valence", "rmse[risk_level=MEDIUM] <= .15")) == "rmse[risk_level=MEDIUM] <= 0.15"
    assert Gate.parse("valence", "rmse[SHORT] <= .16").label == "RMSE on SHORT <= 0.16"


@settings(deadline=None)
@given(
    st.sampled_from(sorted(METRIC_LABELS)),
    st.sampled_from(["<=", ">="]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        [None, "category=self harm", "length_bucket=SHORT", "risk_level=MEDIUM", "language=en"]
        + [f"history={bucket}" for bucket in ("1", "2-4", "5-9", "10+")]
    ),
)
def test_parse_inverts_str(metric, op, threshold, part):
    gate = Gate("valence", metric, op, threshold, part)
    assert Gate.parse("valence", str(gate)) == gate


def test_slices_of_sequences():
    gate = Gate.parse("congruence", "rmse[history=10+] <= .1")
    assert (gate.slice, gate.label, str(gate)) == (
        "history=10+", "RMSE on history 10+ <= 0.1", "rmse[history=10+] <= 0.1",
    )  # fmt: skip
    assert Gate.parse("congruence", "temporal_r[owner=unseen]>=.5").label == (
        "temporal r on unseen owners >= 0.5"
    )
    with pytest.raises(ValueError, match="needs its column"):
        Gate.parse("congruence", "rmse[10+] <= .1")


level_names = st.text("abz019_ .-é'()", min_size=1, max_size=9).map(str.strip).filter(bool)


@settings(deadline=None)
@given(
    st.sampled_from(["invoked", "expressed"]),
    st.sampled_from(["blend_gain", *PATH_METRICS])
    | st.builds("{}_{}".format, st.sampled_from(sorted(LEVEL_METRICS)), level_names),
    st.sampled_from(["<=", ">="]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([None, "category=self harm", "length_bucket=SHORT"]),
)
def test_any_level_of_a_hierarchy_may_have_gates(variable, metric, op, threshold, part):
    gate = Gate(variable, metric, op, threshold, part)
    assert Gate.parse(variable, str(gate)) == gate
    assert gate.label.startswith(metric_label(metric))


def test_labels_and_directions_of_the_metrics_of_a_level():
    assert Gate.parse("invoked", "macro_f1_ekman >= .6").label == "macro-F1 (ekman) >= 0.6"
    assert Gate.parse("invoked", "ece_fine grained[SHORT]<=.1").label == "ECE (fine grained) on SHORT <= 0.1"
    assert Gate.parse("invoked", "exact_path >= .5").label == "exact path accuracy >= 0.5"
    lower = {"log_loss", "brier", "ece", "mce", "classwise_ece"}
    assert {name for name in LEVEL_METRICS if lower_is_better(f"{name}_core")} == lower
    assert {name for name in METRIC_LABELS if lower_is_better(name)} == LOWER_IS_BETTER & METRIC_LABELS.keys()
    assert not any(map(lower_is_better, PATH_METRICS))
    assert best_of({"a": 0.2, "b": 0.1}, "log_loss_micro") == best_of({"a": 0.2, "b": 0.1}, "ece_a_b") == "b"
    assert best_of({"a": 0.2, "b": 0.1}, "macro_f1_core") == "a"


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("invoked", "rmse <= 0.1", "allowed: blend_gain, hierarchical_precision.*of each level.*: macro_f1"),
        ("invoked", "macro_f1 >= 0.5", "unknown metric"),
        ("invoked", "macro_f1_ >= 0.5", "unknown metric"),
        ("invoked", "core >= 0.5", "unknown metric"),
        ("invoked", "f1_core >= 0.5", "unknown metric"),
        ("expressed", "macro_f1_core[LONG >= 0.5", "METRIC <= NUMBER"),
        ("valence", "macro_f1_core >= 0.5", "allowed: rmse"),
        ("valence", "hierarchical_f1 >= 0.5", "allowed: rmse"),
    ],
)
def test_each_kind_has_its_own_metrics(variable, text, message):
    with pytest.raises(ValueError, match=message):
        Gate.parse(variable, text)


@pytest.mark.parametrize("level", ["core ", "core\n", "a[b", "a>=b", "a]"])
def test_a_level_that_no_line_could_name_has_no_gates(level):
    with pytest.raises(ValueError, match="unknown metric"):
        Gate("invoked", f"macro_f1_{level}", ">=", 0.5)


def a_hierarchy(**changes):
    """A stored evaluation of a hierarchy of the levels sentiment and ekman."""
    metrics = {"macro_f1_sentiment": numbers(0.7, 0.68, 0.72), "log_loss_ekman": numbers(0.5, 0.4, 0.6)}
    baselines = {
        "majority": {"macro_f1_sentiment": numbers(0.2, 0.1, 0.3), "log_loss_ekman": numbers(1.5, 1.4, 1.6)},
        "lexicon": {"macro_f1_sentiment": numbers(0.3, 0.2, 0.4), "log_loss_ekman": numbers(1.9, 1.8, 2.0)},
    }
    return {
        "variable": "invoked",
        "kind": "hierarchy",
        "n": 100,
        "owners": 40,
        "observed": {"sentiment": {"n": 100}, "ekman": {"n": 90}},
        "metrics": {"calibrated": metrics, "raw": {}},
        "slices": {},
        "baselines": baselines,
    } | changes


def test_gates_on_the_levels_of_another_taxonomy():
    lines = [
        "macro_f1_sentiment >= 0.65",
        "log_loss_ekman <= 0.3",
        "macro_f1_core >= 0.75",
        "ece_ekman <= 1",
        "macro_f1_core[SHORT] >= 0.5",
        "macro_f1_ekman[SHORT] >= 0.5",
    ]
    gates = gates_from_config({"invoked": lines})
    sentiment, ekman, core, ece, short_core, short = judge_result(a_hierarchy(), gates["invoked"])
    assert (sentiment["verdict"], sentiment["baseline"], sentiment["note"]) == ("pass", "lexicon", None)
    # Of losses the smaller one is the better baseline.
    assert (ekman["verdict"], ekman["baseline"], ekman["note"]) == ("fail", "majority", None)
    lacking = "not measured: the taxonomy has no level 'core' (it has sentiment, ekman)"
    assert (core["verdict"], core["value"], core["note"]) == ("undecided", None, lacking)
    assert short_core["note"] == lacking
    assert ece["note"] == "not measured (n=100, owners=40)" and short["note"] == "no rows (n=0)"
    assert lacking in summary_text(acceptance_table({"invoked": a_hierarchy()}, gates))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rmse < 0.1", "METRIC <= NUMBER"),
        ("", "METRIC <= NUMBER"),
        ("rmse <= small", "'small' in .* is not a number"),
        ("rmse <= nan", "finite number"),
        ("rsme <= 0.1", "unknown metric; allowed: rmse"),
        ("rmse[abuse] <= 0.1", "needs its column, as in category=abuse"),
        ("rmse[category=] <= 0.1", "column=value"),
        ("rmse[] <= 0.1", "METRIC <= NUMBER"),
    ],
)
def test_unusable_gates_are_errors_that_say_how(text, message):
    with pytest.raises(ValueError, match=message) as error:
        Gate.parse("valence", text)
    assert "'valence'" in str(error.value)


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.08, 0.07, 0.085, "pass"),
        (0.08, 0.07, 0.09, "pass"),  # the threshold itself holds
        (0.08, 0.07, 0.0901, "undecided"),
        (0.10, 0.08, 0.12, "undecided"),
        (0.10, 0.091, 0.12, "fail"),
        (0.08, 0.095, 0.12, "undecided"),  # a biased interval beside its value decides nothing
        (0.08, None, None, "undecided"),
        (None, None, None, "undecided"),
        (math.nan, math.nan, math.nan, "undecided"),
        (0.5, math.nan, math.nan, "undecided"),
    ],
)
def test_verdicts(value, low, high, verdict):
    assert judge(Gate("valence", "rmse", "<=", 0.09), value, low, high) == verdict
    # the mirror image of a lower bound is an upper bound
    mirrored = [None if x is None else -x for x in (value, high, low)]
    assert judge(Gate("valence", "rmse", ">=", -0.09), *mirrored) == verdict


unit = st.floats(-1, 1)


@settings(deadline=None)
@given(unit, unit, unit, unit, unit, st.sampled_from(["<=", ">="]))
def test_a_stricter_gate_never_improves_the_verdict(a, b, c, one, two, op):
    low, value, high = sorted((a, b, c))
    assume(one != two)
    lenient, strict = sorted((one, two), reverse=op == "<=")
    rank = {"fail": 0, "undecided": 1, "pass": 2}
    verdicts = [judge(Gate("valence", "rmse", op, t), value, low, high) for t in (lenient, strict)]
    assert rank[verdicts[0]] >= rank[verdicts[1]]


def test_acceptance_table():
    table = acceptance_table({"valence": a_result()})
    assert tuple(table.columns) == ACCEPTANCE_COLUMNS
    assert tuple(table.columns[:7]) == ("variable", "gate", "threshold", "value", "low", "high", "verdict")
    by_gate = table.set_index("gate")
    rmse = by_gate.loc["RMSE <= 0.09"]
    assert (rmse.verdict, rmse.value, rmse.baseline, rmse.baseline_value) == (
        "pass",
        0.08,
        "owner_mean",
        0.19,
    )
    assert (rmse.n, rmse.owners) == (780, 120)
    pearson = by_gate.loc["Pearson r >= 0.8"]
    assert (pearson.verdict, pearson.baseline, pearson.baseline_value) == ("fail", "owner_mean", 0.4)
    short = by_gate.loc["RMSE on SHORT <= 0.16"]
    assert (short.verdict, short.n, short.owners, short.baseline) == ("undecided", 100, 40, "mean")
    medium = by_gate.loc["RMSE on MEDIUM <= 0.15"]
    assert medium.verdict == "undecided" and medium.note == "not measured (n=12, owners=2)"
    gain = by_gate.loc["blend gain >= 0.02"]
    assert (gain.value, gain.verdict) == (0.03, "undecided")


def test_missing_slice_is_undecided_with_no_rows():
    table = acceptance_table({"valence": a_result(slices={})}).set_index("gate")
    assert table.loc["RMSE on SHORT <= 0.16", "verdict"] == "undecided"
    assert table.loc["RMSE on SHORT <= 0.16", "note"] == "no rows (n=0)"


def test_changed_requirements_are_judged_on_the_stored_numbers():
    gates = gates_from_config({"valence": ["rmse <= 0.05", "rmse <= 0.5"], "arousal": ["rmse <= 0.5"]})
    table = acceptance_table({"valence": a_result()}, gates)
    assert table["verdict"].tolist() == ["fail", "pass"]
    empty = acceptance_table({"valence": a_result()}, {})
    assert empty.empty and tuple(empty.columns) == ACCEPTANCE_COLUMNS
    assert "0 gates: 0 passed" in summary_text(empty)


def test_a_gate_beyond_the_noise_ceiling_says_so():
    ceiling = {"rmse": 0.095, "pearson": 0.91, "mae": 0.07}
    table = acceptance_table({"valence": a_result(noise_ceiling=ceiling)}).set_index("gate")
    # No model can reach an RMSE below that of a perfect one; .08 there would be luck.
    assert table.loc["RMSE <= 0.09", "ceiling"] == 0.095
    assert "beyond the noise ceiling" in table.loc["RMSE <= 0.09", "note"]
    reachable = table.loc["Pearson r >= 0.8"]
    assert reachable["ceiling"] == 0.91 and not isinstance(reachable["note"], str)
    # The whole split's ceiling is no statement about a slice, nor about what has none.
    assert math.isnan(table.loc["RMSE on SHORT <= 0.16", "ceiling"])
    assert math.isnan(table.loc["ECE <= 0.05", "ceiling"])
    line = next(text for text in summary_text(table.reset_index()).splitlines() if "Pearson" in text)
    assert "0.910" in line


@pytest.mark.parametrize("ceiling", [None, {"reason": "no item has two ratings"}])
def test_without_a_ceiling_gates_stand_alone(ceiling):
    table = acceptance_table({"valence": a_result(noise_ceiling=ceiling)})
    assert table["ceiling"].isna().all()
    assert not table["note"].fillna("").str.contains("ceiling").any()


def a_sequence(**changes):
    """A stored evaluation of a sequence, as small as the gates need it."""
    baselines = {
        "mean": {"rmse": numbers(0.2, 0.19, 0.21), "temporal_r": numbers(0.0, 0.0, 0.0)},
        "ridge_lags": {"rmse": numbers(0.12, 0.11, 0.13), "temporal_r": numbers(0.3, 0.2, 0.4)},
        "text_alone": {"rmse": numbers(0.15, 0.14, 0.16), "temporal_r": numbers(0.5, 0.4, 0.6)},
    }
    calibrated = {"rmse": numbers(0.11, 0.1, 0.115), "temporal_r": numbers(0.6, 0.56, 0.64)}
    long = {
        "n": 90,
        "owners": 30,
        "metrics": {"rmse": numbers(0.09, 0.08, 0.1), "temporal_r": numbers(None, None, None)},
        "baselines": {"mean": {"rmse": 0.2}, "text_alone": {"rmse": 0.1}},
    }
    return {
        "variable": "congruence",
        "kind": "sequence",
        "n": 500,
        "owners": 60,
        "metrics": {"calibrated": calibrated, "raw": {}},
        "slices": {"history": {"1": {"n": 3, "owners": 3}, "10+": long}},
        "baselines": baselines,
        "lag_gain": numbers(0.08, 0.02, 0.14),
        "history_gain": numbers(-0.02, -0.05, 0.01),
        "noise_ceiling": {"rmse": 0.05},
    } | changes


def test_gates_of_a_sequence():
    rmse, temporal, lag, history = judge_result(a_sequence(), DEFAULT_GATES["congruence"])
    assert (rmse["verdict"], rmse["baseline"], rmse["ceiling"]) == ("pass", "ridge_lags", 0.05)
    # The best in following its owners is not the best in RMSE.
    assert (temporal["verdict"], temporal["baseline"], temporal["baseline_value"]) == (
        "pass", "text_alone", 0.5,
    )  # fmt: skip
    assert temporal["ceiling"] is None
    assert (lag["value"], lag["low"], lag["verdict"], lag["note"]) == (0.08, 0.02, "pass", None)
    # A gain is compared with a baseline by itself.
    assert (lag["baseline"], lag["baseline_value"], lag["ceiling"]) == (None, None, None)
    assert (history["value"], history["verdict"]) == (-0.02, "undecided")
    lost = judge_result(a_sequence(history_gain=numbers(-0.2, -0.3, -0.1)), DEFAULT_GATES["congruence"])[3]
    assert lost["verdict"] == "fail"
    assert lag["gate"] == "gain over lags >= 0" and history["gate"] == "gain of history >= 0"
    lines = ["rmse[history=10+] <= 0.12", "rmse[history=1] <= 0.1", "temporal_r[history=10+] >= 0.5"]
    long, first, undefined = judge_result(
        a_sequence(), gates_from_config({"congruence": lines})["congruence"]
    )
    assert (long["value"], long["verdict"], long["baseline"]) == (0.09, "pass", "text_alone")
    assert first["note"] == "not measured (n=3, owners=3)"
    assert (undefined["verdict"], undefined["note"]) == ("undecided", "not measured (n=90, owners=30)")


def test_gains_of_another_kind_are_not_measured():
    gates = gates_from_config({"valence": ["lag_gain >= 0", "history_gain >= 0", "composite_r >= 0.5"]})
    for row in judge_result(a_result(), gates["valence"]):
        assert (row["verdict"], row["note"]) == ("undecided", "not measured (n=780, owners=120)")


def test_a_derived_label_says_so_in_every_row():
    lines = ["rmse <= 0.12", "rmse <= 0.01", "composite_r >= 0.5"]
    gates = gates_from_config({"congruence": lines})
    result = a_sequence(derived="1 - |invoked - expressed|")
    notes = [row["note"] for row in judge_result(result, gates["congruence"])]
    assert notes == [
        "derived label",
        "derived label; beyond the noise ceiling: no model can reach it on these labels",
        "derived label; not measured (n=500, owners=60)",
    ]
    text = summary_text(acceptance_table({"congruence": result}, gates))
    assert text.count("derived label") == 3 and "derived label; not measured" in text
    for derived in (None, False, True):
        rows = judge_result(a_sequence(derived=derived), gates["congruence"])
        assert not any("derived" in (row["note"] or "") for row in rows)


def test_best_of():
    assert best_of({"a": 0.2, "b": 0.1, "c": None, "d": math.nan}, "rmse") == "b"
    assert best_of({"a": 0.2, "b": 0.1}, "pearson") == "a"
    assert best_of({"a": None}, "pearson") is None


def test_summary():
    table = acceptance_table({"valence": a_result(), "arousal": a_result(variable="arousal")})
    text = summary_text(table, unicode=True)
    assert "✓  RMSE <= 0.09" in text and "✗  Pearson r >= 0.8" in text and "?  RMSE on SHORT" in text
    assert "valence (n=780, 120 owners)" in text and "arousal (n=780, 120 owners)" in text
    assert text.endswith("12 gates: 2 passed, 1 failed, 9 undecided")
    lines = [line for line in text.splitlines() if " .. " in line]
    assert len({line.index(" .. ") for line in lines}) == 1
    assert max(map(len, text.splitlines())) <= 120
    plain = summary_text(table, unicode=False)
    assert plain.isascii() and plain.count("\n") == text.count("\n")


def test_the_import_is_light():
    """The configuration imports the gates on every parse of the workflow."""
    code = (
        "import sys, perceive.evaluation.gates as g; "
        "print({'numpy', 'pandas', 'scipy', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "set()"
