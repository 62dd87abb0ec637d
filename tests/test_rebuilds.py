"""Every kind of change rebuilds what the table promises, and nothing else."""

from __future__ import annotations

import pytest
from project import Project
from rebuilds import CHANGES, INITIALS, cells, planned, read_table, rules_in_order

from perceive.explain import cause_of, in_words, read_plan
from perceive.variables import VARIABLES

TABLE = read_table()


@pytest.mark.workflow
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_rebuilds_what_the_table_says(project: Project, change: str) -> None:
    assert cells(planned(project, change)) == TABLE[change]


@pytest.mark.workflow
def test_nothing_of_it_stayed(project: Project) -> None:
    assert project.planned("all") == {}


def test_the_table_has_every_change_and_every_rule() -> None:
    assert list(TABLE) == list(CHANGES)
    ever = {rule for row in TABLE.values() for rule in row}
    # The encoder follows the settings of the encoders alone.
    assert set(rules_in_order()) - ever == {"encoder"}


# What the contract says of labels, which no table written by the DAG itself may contradict.
READERS = {
    "valence": {"congruence", "comparator"}, "arousal": {"congruence", "comparator"}, "willingness": set(),
    "invoked": {"willingness", "congruence"}, "expressed": {"willingness", "congruence"},
    "congruence": set(), "comparator": set(),
}  # fmt: skip


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_label_reaches_its_own_chain_and_its_readers(variable: str) -> None:
    row = TABLE[f"label of {variable}"]
    reached = {INITIALS[name] for name in {variable} | READERS[variable]}
    assert set().union(*(cell for cell in row.values() if cell != "*")) == reached
    assert row["labels"] == INITIALS[variable]
    assert not set(row) & {"items", "splits", "folds", "lexical", "embedding", "temporal", "encoder"}


@pytest.mark.parametrize(
    "change", ["another order of the lines", "touched files", "setting: the value it had"]
)
def test_what_changes_nothing_rebuilds_nothing(change: str) -> None:
    assert TABLE[change] == {}


@pytest.mark.parametrize("change", ["category", "risk level", "device", "another rater of the same ratings"])
def test_what_no_model_reads_trains_none(change: str) -> None:
    trains = {
        rule for rule in TABLE[change] if rule.startswith(("tuning", "oof", "models", "blend", "calib"))
    }
    assert trains == set() and TABLE[change]


def test_a_text_is_embedded_again_and_a_time_is_not() -> None:
    assert "embedding" in TABLE["text"] and "labels" not in TABLE["text"]
    assert not set(TABLE["timestamp"]) & {
        "embedding",
        "lexical",
        "splits",
        "models_transformer",
        "tuning_transformer",
    }


@pytest.mark.workflow
def test_the_explanation_names_the_cause(project: Project) -> None:
    project.configure(calibration={"max_knots": 5})
    try:
        done = project.run("all", "--dry-run", "--quiet", "host")
    finally:
        project.configure()
    plan = read_plan(done.stdout + done.stderr)
    assert list(plan.causes) == ["the configuration of calibration: changed"]
    assert plan.counts["calibration"] == 5 and plan.jobs == sum(plan.counts.values())
    text = in_words(plan)
    assert f"{plan.jobs} jobs would run" in text and "Calibrating" in text
    assert f"{plan.jobs - 5} more follow" in text


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("results/state/data/labels/valence.sha256", "the labels of valence"),
        ("results/state/data/items/text.sha256", "the column text of the items"),
        ("results/state/config/tuning/valence.json", "the configuration of tuning of valence"),
        (
            "results/state/code/oof.tsv",
            "the code of oof, a module or resource that it uses, or the lock file",
        ),
        ("other/file.csv", "the file other/file.csv"),
    ],
)
def test_causes_in_words(path: str, words: str) -> None:
    assert cause_of(path) == words


@pytest.mark.parametrize("indent", ["", "    "])
def test_jobs_in_a_group_and_outside_are_read(indent: str) -> None:
    lines = (
        "Job 7: Calibrating valence", "Reason: Updated input files: results/state/config/calibration.json",
        "Job 9: Evaluating valence", "Reason: Input files updated by another job: results/a.json, results/b",
        "rule all:", "Reason: Input files updated by another job: results/c.json",
    )  # fmt: skip
    stats = "job    count\n----\ncalibration  1\nevaluation  1\nall   1\ntotal   3\n"
    # As Snakemake prints it: the counts before the jobs, and again after them.
    plan = read_plan(stats + "".join(f"{indent}{line}\n" for line in lines) + stats)
    assert (plan.jobs, plan.counts) == (2, {"calibration": 1, "evaluation": 1})
    assert plan.causes == {"the configuration of calibration: changed": ["Calibrating valence"]}


def test_nothing_to_do_is_said() -> None:
    assert "Nothing would be built" in in_words(read_plan("Building DAG of jobs...\nNothing to be done.\n"))
