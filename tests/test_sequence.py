"""Windows over timelines, the recurrent regressor, its search, its folds and its export."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive.export.report import ExportError
from perceive.features.matrix import ALL, EMBEDDING, LEXICAL, TEMPORAL
from perceive.oof import Fold
from perceive.sequence.crossfit import out_of_fold
from perceive.sequence.export import ask, build_graph, export_sequence
from perceive.sequence.model import GruRegressor, Shape, load, save
from perceive.sequence.search import FoldTimelines, SequenceSearch
from perceive.sequence.training import (
    Hyperparameters,
    batch,
    fit,
    labelled_rows,
    predict,
    text_alone,
)
from perceive.sequence.windows import GAP, Timelines, Windows, windows

START = datetime(2026, 1, 1, tzinfo=UTC)
SMALL = Hyperparameters(
    hidden=16, length=5, epochs=4, dropout=0.1, learning_rate=5e-3, embedding=False, temporal=False
)


# --- Windows ---

# Few distinct times make ties frequent; a year's gap is among them.
ITEMS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([0, 1, 2, 3, 5, 8, 24 * 366]), st.integers(0, 10**6)),
    max_size=24,
    unique_by=lambda item: (item[0], item[2]),
)


def lay(items: list[tuple[str, int, int]], longest: int = 4) -> tuple[Windows, np.ndarray]:
    return windows(
        [owner for owner, _, _ in items],
        [START + timedelta(hours=hours) for _, hours, _ in items],
        item_ids=[f"{number:07d}" for _, _, number in items],
        longest=longest,
    )


def by_definition(items: list[tuple[str, int, int]], row: int, longest: int) -> list[int]:
    owner, hours, number = items[row]
    past = sorted(
        (other[1], other[2], place)
        for place, other in enumerate(items)
        if other[0] == owner and (other[1], other[2]) <= (hours, number)
    )
    return [place for _, _, place in past][-longest:]


@given(ITEMS, st.integers(1, 6))
def test_a_window_holds_the_owners_latest_items_up_to_its_own(items, longest):
    found, gaps = lay(items, longest)
    for row in range(len(items)):
        expected = by_definition(items, row, longest)
        assert found.rows[row, : found.lengths[row]].tolist() == expected
        assert (found.rows[row, found.lengths[row] :] == -1).all()
        before = by_definition(items, row, 2)
        hours = items[before[-1]][1] - items[before[0]][1]
        assert gaps[row] == pytest.approx(np.log1p(hours), rel=1e-6)


@given(ITEMS, st.data())
def test_no_later_item_changes_an_earlier_window(items, data):
    if not items:
        return
    found, gaps = lay(items)
    cut = data.draw(st.integers(0, len(items) - 1))
    now = items[cut][1:]
    # Any subset of the later items stays, and others come: of this owner and of strangers.
    kept = [item for item in items if item[1:] <= now or data.draw(st.booleans())]
    later = data.draw(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 99)), max_size=5))
    added = [(owner, now[0] + hours, 2 * 10**6 + n) for n, (owner, hours) in enumerate(later)]
    changed, new_gaps = lay([*kept, *added])
    names = [*kept, *added]
    for row, item in enumerate(items):
        if item[1:] <= now:
            place = kept.index(item)
            of_item = [items[r] for r in found.rows[row, : found.lengths[row]]]
            assert [names[r] for r in changed.rows[place, : changed.lengths[place]]] == of_item
            assert new_gaps[place] == gaps[row]


@given(ITEMS, st.integers(1, 4))
def test_the_latest_of_a_window_is_the_shorter_window(items, length):
    long, short = lay(items, 4)[0], lay(items, length)[0]
    np.testing.assert_array_equal(long.latest(length).rows, short.rows)
    np.testing.assert_array_equal(long.latest(length).lengths, short.lengths)


def test_one_item_a_gap_of_a_year_and_ties():
    found, gaps = lay([("a", 0, 1), ("b", 0, 1), ("b", 24 * 366, 2), ("b", 24 * 366, 1)])
    assert found.lengths.tolist() == [1, 1, 3, 2]
    assert found.rows[2].tolist() == [1, 3, 2, -1]  # tied: by item id
    assert gaps == pytest.approx([0, 0, 0, np.log1p(24 * 366)])


def test_ten_thousand_items_of_one_owner_are_laid_out_at_once():
    many = [("a", hours, hours) for hours in range(10_000)]
    began = time.perf_counter()
    reference = sorted(many * 10)
    sorting = time.perf_counter() - began
    began = time.perf_counter()
    found, _ = lay(many, 10)
    assert found.lengths[-1] == 10 and found.rows[-1].tolist() == list(range(9990, 10_000))
    # Quadratic time would be hundreds of times that of sorting ten times as many.
    assert time.perf_counter() - began < 60 * sorting + 0.2 and len(reference) == 100_000


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="lengths differ: 1 owner_ids, 2 timestamps, 2 item_ids"):
        windows(["a"], [START, START], item_ids=["1", "2"])
    with pytest.raises(ValueError, match="same owner, timestamp and item_id"):
        windows(["a", "a"], [START, START], item_ids=["1", "1"])
    with pytest.raises(ValueError, match="1 or more, not 0"):
        windows(["a"], [START], item_ids=["1"], longest=0)


# --- A world in which history tells ---

N_OWNERS, EACH = 60, 8


@pytest.fixture(scope="module")
def items() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    owners = np.repeat([f"o{number:02d}" for number in range(N_OWNERS)], EACH)
    days = np.concatenate([np.sort(rng.uniform(0, 60, EACH)) for _ in range(N_OWNERS)])
    times = pd.Timestamp(START) + pd.to_timedelta((days * 86400).astype(int), unit="s")
    ids = [f"i{number:04d}" for number in range(len(owners))]
    return pd.DataFrame({"item_id": ids, "owner_id": owners, "timestamp": times})


@pytest.fixture(scope="module")
def features(items: pd.DataFrame) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    frame = pd.DataFrame(rng.normal(size=(len(items), len(ALL))).astype(np.float32), columns=list(ALL))
    frame["valence_answer"] = rng.random(len(items)).astype(np.float32)
    frame.insert(0, "item_id", items["item_id"])
    return frame


@pytest.fixture(scope="module")
def timelines(features: pd.DataFrame, items: pd.DataFrame) -> Timelines:
    return Timelines.of(features, items)


@pytest.fixture(scope="module")
def labels(features: pd.DataFrame, items: pd.DataFrame) -> pd.Series:
    """How far an item's valence lies from the mean of the owner's items before it."""
    valence = features["valence_answer"].groupby(items["owner_id"])
    usual = valence.transform(lambda v: v.shift().expanding().mean())
    known = (features["valence_answer"] - usual).abs().fillna(0.2)
    return pd.Series(known.to_numpy(float), index=pd.Index(items["item_id"]))


def test_the_columns_of_a_timeline(timelines: Timelines):
    assert timelines.columns == (*ALL, "valence_answer", GAP)
    assert timelines.matrix.shape == (N_OWNERS * EACH, len(ALL) + 2)
    assert timelines.windows.lengths.tolist() == [*range(1, EACH + 1)] * N_OWNERS


def test_a_planted_nan_is_named(features: pd.DataFrame, items: pd.DataFrame):
    broken = features.copy()
    broken.loc[7, "joy"] = np.nan
    with pytest.raises(ValueError, match="joy is not finite in 1 rows"):
        Timelines.of(broken, items)


@given(st.lists(st.integers(0, N_OWNERS * EACH - 1), min_size=1, max_size=9), st.integers(1, 10))
@settings(max_examples=30)
def test_a_batch_holds_the_windows_rows_and_zeros_after_them(timelines, rows, length):
    sequence, lengths = batch(timelines, np.array(rows), length)
    cut = timelines.windows.latest(length)
    assert sequence.shape == (len(rows), int(lengths.max()), len(timelines.columns))
    for place, row in enumerate(rows):
        taken = cut.rows[row, : cut.lengths[row]]
        np.testing.assert_array_equal(sequence[place, : lengths[place]], timelines.matrix[taken])
        assert not sequence[place, lengths[place] :].any()


# --- The model ---


def some_model(timelines: Timelines, layers: int = 1, **parameters: Any) -> GruRegressor:
    torch.manual_seed(0)
    groups = parameters.pop("groups", ("embedding", "lexical", "temporal"))
    model = GruRegressor(Shape(timelines.columns, groups, 10, 12, layers))
    model.get_buffer("target_mean").fill_(0.5)
    return model.eval()


def test_the_columns_of_a_group_that_is_left_out_do_not_matter(timelines: Timelines):
    model = some_model(timelines, groups=("lexical",))
    assert not model.shape.embedding
    assert [timelines.columns[column] for column in model.shape.others] == [*LEXICAL, "valence_answer", GAP]
    sequence, lengths = batch(timelines, np.arange(20), 10)
    before = model(torch.from_numpy(sequence), torch.from_numpy(lengths))
    for column, name in enumerate(timelines.columns):
        if name in EMBEDDING or name in TEMPORAL:
            sequence[:, :, column] += 3
    after = model(torch.from_numpy(sequence), torch.from_numpy(lengths))
    torch.testing.assert_close(before, after, rtol=0, atol=0)


@pytest.mark.parametrize("layers", [1, 2])
def test_what_follows_the_own_step_does_not_matter_and_what_precedes_it_does(timelines, layers):
    model = some_model(timelines, layers)
    rows = np.flatnonzero(timelines.windows.lengths == 4)
    sequence, lengths = batch(timelines, rows, 10)
    expected = model(torch.from_numpy(sequence), torch.from_numpy(lengths))
    padded = np.concatenate([sequence, np.full((len(rows), 3, sequence.shape[2]), 7, np.float32)], axis=1)
    found = model(torch.from_numpy(padded), torch.from_numpy(lengths))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    earlier = sequence.copy()
    earlier[:, 0] += 1
    assert (model(torch.from_numpy(earlier), torch.from_numpy(lengths)) != expected).float().mean() > 0.5


def test_no_later_item_changes_an_answer(features, items, timelines):
    """The same through everything: later items change, go and come; earlier answers stay."""
    model = some_model(timelines)
    rows = np.arange(len(items))
    before = pd.Series(predict(model, timelines, rows, threads=1), index=items["item_id"])
    middle = items["timestamp"].quantile(0.5)
    later = (items["timestamp"] > middle).to_numpy()
    rng = np.random.default_rng(0)
    changed = features.copy()
    changed.loc[later, list(ALL)] += 1
    kept = ~later | (rng.random(len(items)) < 0.5)
    again = Timelines.of(changed[kept].reset_index(drop=True), items)
    after = pd.Series(predict(model, again, np.arange(kept.sum()), threads=1), index=again.item_ids)
    early = items.loc[~later, "item_id"]
    np.testing.assert_allclose(after.loc[early], before.loc[early], atol=1e-6)
    assert (np.abs(after.loc[items.loc[kept & later, "item_id"]] - before) > 1e-4).any()


def test_a_model_learns_what_only_history_tells(timelines, labels):
    rows, targets = labelled_rows(timelines, timelines.item_ids.tolist(), labels)
    learn, score = rows[: 45 * EACH], rows[45 * EACH :]
    parameters = Hyperparameters(
        hidden=24, epochs=40, dropout=0.0, learning_rate=5e-3, embedding=False, lexical=False, temporal=False
    )

    def error(of: Hyperparameters) -> float:
        model = fit(timelines, learn, targets[: len(learn)], of, seed=5, threads=1)
        answers = predict(model, timelines, score, threads=1)
        assert ((answers >= 0) & (answers <= 1)).all()
        return float(np.sqrt(np.mean((answers - targets[len(learn) :]) ** 2)))

    spread = float(targets[len(learn) :].std())
    assert error(parameters) < 0.5 * spread
    # The same network without history cannot know the usual state.
    assert text_alone(parameters).length == 1 and not text_alone(parameters).temporal
    assert error(text_alone(parameters)) > 0.6 * spread


def test_one_seed_gives_one_model_and_another_another(timelines, labels):
    rows, targets = labelled_rows(timelines, timelines.item_ids.tolist(), labels)

    def answers(seed: int) -> np.ndarray:
        model = fit(timelines, rows, targets, SMALL, seed=seed, threads=1)
        return predict(model, timelines, rows, threads=1)

    first = answers(1)
    np.testing.assert_array_equal(answers(1), first)
    assert np.abs(answers(2) - first).max() > 1e-3


def test_training_needs_finite_labels(timelines):
    with pytest.raises(ValueError, match="no labelled training rows"):
        fit(timelines, np.array([], dtype=int), np.array([]), SMALL, seed=1, threads=1)
    with pytest.raises(ValueError, match="1 training labels are not finite"):
        fit(timelines, np.array([0, 1]), np.array([0.5, np.nan]), SMALL, seed=1, threads=1)


def test_constant_labels_and_one_row_are_learned(timelines):
    model = fit(timelines, np.array([3]), np.array([0.7]), SMALL, seed=1, threads=1)
    assert np.isfinite(predict(model, timelines, np.arange(9), threads=1)).all()
    model = fit(timelines, np.arange(40), np.full(40, 0.7), SMALL, seed=1, threads=1)
    assert predict(model, timelines, np.arange(40), threads=1) == pytest.approx(0.7, abs=0.2)


def test_a_saved_model_answers_the_same(timelines, labels, tmp_path: Path):
    rows, targets = labelled_rows(timelines, timelines.item_ids.tolist(), labels)
    model = fit(timelines, rows, targets, SMALL, seed=1, threads=1)
    save(model, tmp_path)
    read = load(tmp_path, timelines.columns)
    np.testing.assert_array_equal(
        predict(read, timelines, rows, threads=1), predict(model, timelines, rows, threads=1)
    )
    assert read.shape == model.shape
    with pytest.raises(ValueError, match="trained on other columns"):
        load(tmp_path, [*timelines.columns[1:], "another"])


# --- Folds ---


def halves(features: pd.DataFrame, items: pd.DataFrame) -> list[Fold]:
    first = (items["owner_id"] < "o30").to_numpy()
    parts = [features[first].reset_index(drop=True), features[~first].reset_index(drop=True)]
    return [Fold(0, parts[1], parts[0]), Fold(1, parts[0], parts[1])]


def test_every_row_is_predicted_by_a_model_that_saw_none_of_its_owner(features, items, labels):
    ids = items["item_id"].tolist()
    folds = halves(features, items)
    some = labels.iloc[5:]  # the first five have no label, and are predicted all the same
    found = out_of_fold(ids, folds, items, some, SMALL, seed=1, threads=1)
    assert np.isfinite(found.predictions).all()
    owner_of = items.set_index("item_id")["owner_id"]
    for fold in (0, 1):
        trained = found.trained_on.loc[found.trained_on["fold"] == fold, "item_id"]
        predicted = found.records.loc[found.records["fold"] == fold, "item_id"]
        assert not set(owner_of.loc[trained]) & set(owner_of.loc[predicted])
    assert sorted(found.trained_on["item_id"]) == ids[5:]
    # Another label of an owner changes nothing of what its own fold's model says of that owner.
    other = some.copy()
    other.loc[other.index < "i0200"] = 0.9
    again = out_of_fold(ids, folds, items, other, SMALL, seed=1, threads=1)
    of_first = (items["owner_id"] < "o30").to_numpy()
    np.testing.assert_array_equal(again.predictions[of_first], found.predictions[of_first])
    assert np.abs(again.predictions[~of_first] - found.predictions[~of_first]).max() > 1e-3


def test_a_planted_leak_is_refused(features, items, labels):
    one, other = halves(features, items)
    ids = items["item_id"].tolist()
    leaky = Fold(0, pd.concat([one.train, one.val.iloc[:1]], ignore_index=True), one.val)
    with pytest.raises(ValueError, match="fold 0 would learn from 1 of the owners it predicts"):
        out_of_fold(ids, [leaky, other], items, labels, SMALL, seed=1, threads=1)
    with pytest.raises(ValueError, match="240 training rows were not predicted exactly once"):
        out_of_fold(ids, [one], items, labels, SMALL, seed=1, threads=1)
    with pytest.raises(ValueError, match="fold 0 has no labelled training row"):
        out_of_fold(ids, [one, other], items, labels.iloc[:3], SMALL, seed=1, threads=1)


# --- Search ---

SPACE = {
    "hidden": {"low": 8, "high": 16},
    "layers": {"low": 1, "high": 2},
    "length": {"low": 3, "high": 6},
    "dropout": {"low": 0.0, "high": 0.3},
    "learning_rate": {"low": 1e-3, "high": 1e-2},
    "weight_decay": {"low": 1e-3, "high": 0.1},
}
SETTINGS: dict[str, Any] = {
    "trials": 4, "patience": 10, "min_gain": 0.005, "tolerance": 0.005, "seed": 137, "time_limit_s": 600.0,
    "pruning_startup": 2, "max_epochs": 3, "stopping_epochs": 1, "batch_rows": 64, "space": SPACE,
}  # fmt: skip


@pytest.fixture(scope="module")
def folds(features, items, labels) -> list[FoldTimelines]:
    result = []
    for fold in halves(features, items):
        train, val = Timelines.of(fold.train, items), Timelines.of(fold.val, items)
        learn, score = (labelled_rows(part, part.item_ids.tolist(), labels) for part in (train, val))
        result.append(FoldTimelines(train, val, learn[0], score[0], learn[1], score[1]))
    return result


def search(tmp_path: Path, folds: list[FoldTimelines], **changes: Any) -> SequenceSearch:
    return SequenceSearch(tmp_path / "a.journal", "comparator", folds, {**SETTINGS, **changes}, threads=1)


def test_a_killed_search_resumes_with_its_trials_and_ends_like_an_uninterrupted_one(tmp_path, folds):
    whole = search(tmp_path / "whole", folds)
    whole.run()
    first = search(tmp_path / "parts", folds, trials=2)
    first.run()
    first.study.ask()  # a trial that a kill left running
    second = search(tmp_path / "parts", folds)
    second.run()
    columns = ["state", "rmse", "folds", "epochs", *SPACE, "embedding", "lexical", "temporal"]
    pd.testing.assert_frame_equal(second.table()[columns], whole.table()[columns])
    best = {key: value for key, value in whole.best().items() if key != "seconds"}
    assert {key: value for key, value in second.best().items() if key != "seconds"} == best
    assert best["stopped_by"] == "budget" and best["trials"] == 4
    assert best["parameters"]["epochs"] <= SETTINGS["max_epochs"]
    Hyperparameters(**best["parameters"])


def test_the_first_trials_are_the_defaults_within_the_space(tmp_path, folds):
    found = search(tmp_path, folds, trials=2)
    found.run()
    rows = found.table().to_dict("records")
    assert [(row["hidden"], row["length"], row["layers"]) for row in rows] == [(16, 6, 1)] * 2
    groups = [[row["embedding"], row["lexical"], row["temporal"]] for row in rows]
    assert groups == [[True] * 3, [False] * 3]


def test_the_search_stops_by_time_but_not_without_a_complete_trial(tmp_path, folds):
    found = search(tmp_path, folds, time_limit_s=1e-6)
    found.run()
    assert found.stopped_by() == "time" and len(found.finished()) == 1


def test_the_search_needs_labels_on_both_sides(tmp_path, folds):
    fold = folds[0]
    empty = FoldTimelines(
        fold.train, fold.val, fold.learn, fold.score[:0], fold.learn_targets, fold.score_targets[:0]
    )
    with pytest.raises(ValueError, match="no fold has labelled rows"):
        search(tmp_path, [empty])


# --- Export ---

LIMITS = {"parity_rmse": 1e-5, "compressed_parity_rmse": 0.005}


@pytest.mark.parametrize("layers", [1, 2])
def test_the_graph_answers_as_the_model_does(timelines, labels, layers, tmp_path):
    rows, targets = labelled_rows(timelines, timelines.item_ids.tolist(), labels)
    parameters = Hyperparameters(hidden=64, layers=layers, length=5, epochs=2)
    model = fit(timelines, rows, targets, parameters, seed=1, threads=1)
    proof = export_sequence("comparator", model, timelines, rows, tmp_path, LIMITS, threads=1)
    found = proof["precisions"]
    assert found["fp32"]["max_abs"] < 1e-5
    assert found["fp16"]["rmse"] < 1e-3 and found["int8"]["rmse"] < 0.005
    # The GRU's own weights are stored in int8, too.
    assert found["int8"]["bytes"] < found["fp16"]["bytes"] < found["fp32"]["bytes"]
    stored = ov.Core().read_model(tmp_path / "int8/model.xml")
    sizes = {str(op.get_element_type()) for op in stored.get_ops() if op.get_type_name() == "Constant"}
    assert any("int8" in size for size in sizes)
    assert json.loads(stored.get_rt_info(["perceive", "columns"]).astype(str)) == list(timelines.columns)


def test_the_graph_takes_any_number_of_windows_and_steps(timelines, labels):
    model = some_model(timelines)
    compiled = ov.Core().compile_model(build_graph(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for rows in (np.arange(1), np.arange(3, 40), np.flatnonzero(timelines.windows.lengths == 1)):
        found = ask(compiled, timelines, rows, 10)
        np.testing.assert_allclose(found, predict(model, timelines, rows, threads=1), atol=1e-6)


def test_an_export_that_differs_is_refused(timelines, labels, tmp_path):
    model = some_model(timelines)
    with pytest.raises(ExportError, match="the GRU of comparator differs"):
        strict = {**LIMITS, "parity_rmse": 1e-12}
        export_sequence("comparator", model, timelines, np.arange(50), tmp_path, strict, threads=1)
