"""The search for the transformer's hyperparameters: halving, stopping, resuming."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from test_transformer import (
    F32,
    HIERARCHY,
    LEAVES,
    TAXONOMY,
    examples_of,
    planted,
    write_encoder,
)

from perceive.encoder import TextTokenizer
from perceive.paths import decode, encode
from perceive.transformer import search as module
from perceive.transformer.backbone import Backbone, load_backbone
from perceive.transformer.losses import one_hot
from perceive.transformer.search import (
    TransformerSearch,
    climbs,
    hierarchy_error,
)
from perceive.transformer.states import StateStore
from perceive.transformer.training import Examples, Hyperparameters

ROWS = 90
FOLDS = [(np.arange(30, 90), np.arange(0, 30)), (np.r_[0:30, 60:90], np.arange(30, 60))]
SETTINGS: dict[str, Any] = {
    "trials": 6,
    "patience": 50,
    "min_gain": 0.005,
    "tolerance": 0.005,
    "seed": 137,
    "halving": 3,
    "rungs": [
        {"rows": 0.3, "epochs": 0.5, "folds": 1},
        {"rows": 1.0, "epochs": 1.0, "folds": 1},
        {"rows": 1.0, "epochs": 1.0, "folds": 2},
    ],
    "max_rows": 1000,
    "time_limit_s": 1e9,
    "space": {
        "top_layers": {"low": 0, "high": 2},
        "learning_rate": {"low": 1e-3, "high": 2e-2},
        "gamma": {"low": 2, "high": 3},
        "epochs": {"low": 1, "high": 3},
    },
    "fixed": {"batch_rows": 16, "dropout": 0.0, "head_factor": 2.0},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Examples, Backbone, np.ndarray]:
    source, converted = write_encoder(tmp_path_factory.mktemp("search"))
    backbone = load_backbone(source)
    store = StateStore(tmp_path_factory.mktemp("states"), backbone, TextTokenizer(converted), threads=1)
    texts, codes = planted(ROWS)
    return examples_of(store, texts, one_hot(codes, HIERARCHY)), backbone, codes


def search_in(
    folder: Path, world: tuple[Examples, Backbone, np.ndarray], folds: Any = FOLDS, **changes: Any
) -> TransformerSearch:
    examples, backbone, codes = world
    settings = {**SETTINGS, **changes}
    error = hierarchy_error(codes, TAXONOMY)
    return TransformerSearch(folder / "journal", "invoked", examples, folds, error, backbone, settings, F32)


@pytest.fixture(scope="module")
def whole(
    world: tuple[Examples, Backbone, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> TransformerSearch:
    search = search_in(tmp_path_factory.mktemp("whole"), world)
    search.run()
    return search


def test_only_the_best_climb(whole: TransformerSearch) -> None:
    table = whole.table()
    assert len(table) == 6 and whole.stopped_by() == "budget"
    assert table["rung_0"].notna().all()
    for rung in (0, 1):
        reached = table[f"rung_{rung}"].notna()
        values = table[f"rung_{rung}"].to_numpy()
        for row in np.flatnonzero(reached):
            before = values[:row][reached[:row]].tolist()
            assert climbs(values[row], before, 3) == bool(np.isfinite(table[f"rung_{rung + 1}"][row]))
    complete = table["rung_2"].notna()
    assert 0 < complete.sum() < 6
    assert (table["state"] == np.where(complete, "complete", "pruned")).all()
    np.testing.assert_array_equal(table["error"][complete], table["rung_2"][complete])
    assert table["error"][~complete].isna().all()


def test_the_first_trial_has_the_defaults_within_the_space(whole: TransformerSearch) -> None:
    first = whole.table().iloc[0]
    assert (first["top_layers"], first["gamma"]) == (1, 2.0)
    assert first["learning_rate"] == 1e-3 and first["epochs"] == 3, "the nearest values that the space has"


def test_the_best_trial_is_told_with_how_the_search_went(whole: TransformerSearch) -> None:
    best, table = whole.best(), whole.table()
    assert best["best_error"] == table["error"].min() and best["error"] <= best["best_error"] * 1.005
    near = table[table["error"] <= best["best_error"] * 1.005]
    cost = (near["top_layers"] - 1).clip(lower=0)  # the last layer works for one position
    assert max(0, best["parameters"]["top_layers"] - 1) == cost.min(), "the cheapest to serve"
    parameters = Hyperparameters(**best["parameters"])
    assert parameters.batch_rows == 16 and parameters.learning_rate == table["learning_rate"][best["trial"]]
    assert best["trials"] == 6 and best["pruned"] == (table["state"] == "pruned").sum()
    assert best["seconds"] == pytest.approx(table["seconds"].sum(), abs=0.5) and best["time_limit_s"] == 1e9


def test_rungs_grow_in_rows_epochs_and_folds(
    world: tuple[Examples, Backbone, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[set[int], int]] = []

    def spy(
        examples: Examples,
        rows: np.ndarray,
        backbone: Backbone,
        parameters: Hyperparameters,
        *rest: Any,
        **more: Any,
    ) -> Any:
        asked.append((set(rows.tolist()), parameters.epochs))
        return fit(examples, rows, backbone, parameters, *rest, **more)

    fit = module.fit
    monkeypatch.setattr(module, "fit", spy)
    space = {**SETTINGS["space"], "epochs": {"low": 3, "high": 3}, "top_layers": {"low": 0, "high": 0}}
    search_in(tmp_path, world, trials=1, space=space).run()
    (first, few), (second, full), (third, all_epochs) = asked
    assert (
        len(first) == 18
        and first < second == set(FOLDS[0][0].tolist())
        and third == set(FOLDS[1][0].tolist())
    )
    assert (few, full, all_epochs) == (2, 3, 3)
    asked.clear()
    search_in(tmp_path / "small", world, trials=1, space=space, max_rows=20).run()
    assert [len(rows) for rows, _ in asked] == [6, 20, 20]


def test_a_killed_search_goes_on_as_the_uninterrupted_one(
    whole: TransformerSearch, world: tuple[Examples, Backbone, np.ndarray], tmp_path: Path
) -> None:
    # Killed in its third trial, after a rung: what that trial has reported must count for nothing.
    script = f"""
        import os, signal, sys, tempfile
        sys.path[:0] = {sys.path!r}
        from pathlib import Path
        import test_transformer_search as t
        from perceive.transformer import search as module
        import numpy as np, torch
        folder = Path({str(tmp_path)!r})
        source, converted = t.write_encoder(folder / "encoder")
        backbone = t.load_backbone(source)
        store = t.StateStore(folder / "states", backbone, t.TextTokenizer(converted), threads=1)
        texts, codes = t.planted(t.ROWS)
        world = t.examples_of(store, texts, t.one_hot(codes, t.HIERARCHY)), backbone, codes
        search = t.search_in(folder, world)
        objective = search._objective
        def killed(trial):
            if len(search.finished()) == 2:
                report = trial.report
                def last(value, step):
                    report(value, step)
                    os.kill(os.getpid(), signal.SIGKILL)
                trial.report = last
            return objective(trial)
        search._objective = killed
        search.run()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with open(tmp_path / "journal", "ab") as journal:
        journal.write(b'{"op_code": 5, "torn')
    search = search_in(tmp_path, world)
    assert len(search.finished()) == 2
    assert [t.state for t in search.study.trials][-1] == optuna.trial.TrialState.RUNNING
    assert [*search.study.trials[-1].intermediate_values] == [0]
    search.run()
    assert_frame_equal(search.table().drop(columns="seconds"), whole.table().drop(columns="seconds"))
    assert search.best()["parameters"] == whole.best()["parameters"]
    again = search_in(tmp_path, world)
    again.run()
    assert len(again.study.trials) == len(search.study.trials), "a finished search tries nothing more"


def test_a_search_that_stalls_stops(world: tuple[Examples, Backbone, np.ndarray], tmp_path: Path) -> None:
    whole = {"rungs": [{"rows": 1.0, "epochs": 1.0, "folds": 1}]}
    search = search_in(tmp_path, world, patience=2, min_gain=0.99, **whole)
    search.run()
    assert search.stopped_by() == "patience" and search.best()["stopped_by"] == "patience"
    assert len(search.finished()) == 3


def test_a_trial_that_leaves_a_lower_rung_says_nothing_of_a_gain(
    world: tuple[Examples, Backbone, np.ndarray], tmp_path: Path
) -> None:
    search = search_in(tmp_path, world, patience=2, min_gain=0.99, halving=6)
    search.run()
    table = search.table()
    assert table["rung_2"].isna().sum() > 2 and search.stopped_by() == "budget"


def test_a_search_that_is_out_of_time_stops_with_a_complete_trial(
    world: tuple[Examples, Backbone, np.ndarray], tmp_path: Path
) -> None:
    search = search_in(tmp_path, world, time_limit_s=0.0)
    search.run()
    best = search.best()
    assert best["stopped_by"] == "time" and best["trials"] == 1 and best["pruned"] == 0
    assert best["seconds"] > 0


def test_late_trials_do_not_climb(
    world: tuple[Examples, Backbone, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = search_in(tmp_path, world, trials=1)
    search.run()
    late = search_in(tmp_path, world, trials=4, halving=2, time_limit_s=1e9)
    # Time runs out inside the second trial, which would otherwise climb: it is better than the first.
    monkeypatch.setattr(late, "spent", lambda done: 2e9)
    monkeypatch.setattr(late, "_error", lambda answers, rows: 0.0)
    monkeypatch.setattr(module, "climbs", lambda *_: True)
    late.study.optimize(late._objective, n_trials=1)
    assert late.table()["state"].tolist() == ["complete", "pruned"]
    assert np.isnan(late.table()["rung_1"][1])


def test_trials_that_diverge_are_pruned(
    world: tuple[Examples, Backbone, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = TransformerSearch._answers
    calls = []

    def broken(self: TransformerSearch, *arguments: Any) -> list[np.ndarray]:
        calls.append(arguments)
        return [level * np.nan if len(calls) == 1 else level for level in answers(self, *arguments)]

    monkeypatch.setattr(TransformerSearch, "_answers", broken)
    search = search_in(tmp_path, world, trials=2)
    search.run()
    assert search.table()["state"].tolist() == ["pruned", "complete"]
    assert search.table().loc[0, ["rung_0", "rung_1", "rung_2"]].isna().all()


def test_too_few_folds_are_refused(world: tuple[Examples, Backbone, np.ndarray], tmp_path: Path) -> None:
    examples, backbone, codes = world
    nothing = replace(examples, targets=[t * (np.arange(ROWS) >= 30)[:, None] for t in examples.targets])
    with pytest.raises(ValueError, match="only 1 folds"):
        search_in(tmp_path, (nothing, backbone, codes))


# --- halving and errors --------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0, 1), st.integers(2, 5))
def test_one_in_so_many_climbs(others: list[float], value: float, halving: int) -> None:
    better = sum(other < value for other in others)
    assert climbs(value, others, halving) == (better <= max(0, (len(others) + 1) // halving - 1))
    assert not climbs(np.inf, others, halving) and not climbs(np.nan, others, halving)


def test_the_error_of_a_hierarchy_is_what_the_gates_ask_for() -> None:
    codes = encode([LEAVES[0], LEAVES[2], LEAVES[3], ("Sad",)], TAXONOMY)
    exact = [
        np.maximum(target, 1e-9)
        for target in one_hot(encode([*LEAVES[:1], *LEAVES[2:4], LEAVES[1]], TAXONOMY), HIERARCHY)
    ]
    exact = [level / level.sum(axis=1, keepdims=True) for level in exact]
    error = hierarchy_error(codes, TAXONOMY)
    assert error(exact, np.arange(4)) == pytest.approx(0.0)
    assert error([level[::-1] for level in exact], np.arange(4)) > 0.2
    wrong = [level[[0, 2, 1, 3]] for level in exact]  # Glad/Merry for Proud/Sure: right core, wrong below
    assert decode(wrong, TAXONOMY)[1, 0] == codes[1, 0]
    shared, deep = 3 + 1 + 1 + 1, 3 + 3 + 3 + 1
    assert error(wrong, np.arange(4)) == pytest.approx(1 - (1 + shared / deep) / 2)
    assert error([level[[3, 0]] for level in exact], np.array([3, 0])) == pytest.approx(0.0), (
        "rows are followed"
    )
