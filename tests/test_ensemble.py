"""The assembled model, its export, and that an export that answers otherwise is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import openvino as ov
import pytest
from scipy.special import softmax

from perceive import config
from perceive.blend import SquaredError, fit_blender
from perceive.calibration import Calibrator, fit_calibrator
from perceive.ensemble import RegressionEnsemble
from perceive.export import PRECISIONS, report
from perceive.export.report import ExportError, export_variable
from perceive.features.matrix import ALL, BASE_FEATURES, BASES, CONTEXT, TRANSFORMER
from perceive.models import fit

SLICES = config.slices(config.Settings())
SETTINGS = {
    "latency_repeats": 10,
    "adversarial_rows": 400,
    "parity_rmse": 1e-5,
    "compressed_parity_rmse": 5e-3,
}
PARAMETERS = {"learning_rate": 0.1, "num_leaves": 7, "max_depth": 4, "min_data_in_leaf": 10, "max_bin": 31}


def rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features with the transformer's answer, context and labels of n items."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, len(ALL))).astype(np.float32)
    context = np.hstack([np.eye(3)[rng.integers(0, 3, n)], rng.integers(0, 4, (n, 6))]).astype(np.float32)
    lexical, embedding, temporal = (
        features[:, ALL.index(name)] for name in ("lex_valence", "emb_007", "hour_sin")
    )
    # The words tell of SHORT items, the embedding of the others: so the weights depend on the context.
    signal = np.where(context[:, 0] > 0, 0.15 * lexical, 0.15 * embedding) + 0.03 * temporal
    target = np.clip(0.5 + signal + 0.03 * rng.normal(size=n), 0, 1)
    transformer = np.clip(target + 0.15 * rng.normal(size=n), 0, 1).astype(np.float32)
    return np.column_stack([features, transformer]), context, target


TREES = tuple(BASE_FEATURES)


def base_columns(base: str) -> list[int]:
    return [ALL.index(name) for name in BASE_FEATURES[base]]


def train(seed: int = 0, trees: int = 12) -> RegressionEnsemble:
    features, context, target = rows(400, seed)
    bases = {
        name: fit(
            features[:, base_columns(name)],
            target,
            BASE_FEATURES[name],
            PARAMETERS,
            trees=trees,
            seed=seed,
            threads=1,
        )
        for name in TREES
    }
    # Rows that the bases have not learned, as out-of-fold predictions are.
    features, context, target = rows(400, seed + 50)
    of_trees = [bases[name].predict(features[:, base_columns(name)]) for name in TREES]
    predictions = np.column_stack([*of_trees, features[:, -1]])
    settings = {**SLICES["blend"], "max_trees": 6, "min_data_in_leaf": 20}
    loss = SquaredError(predictions, target)
    blend = fit_blender(context, loss, np.arange(400) % 3, CONTEXT, settings)
    ensemble = RegressionEnsemble(bases, blend.booster, network=TRANSFORMER)
    features, context, target = rows(300, seed + 100)
    raw = ensemble.predict(features, context)["raw"].to_numpy()
    return replace(ensemble, calibrator=fit_calibrator(raw, target, SLICES["calibration"]))


@pytest.fixture(scope="module")
def ensemble() -> RegressionEnsemble:
    return train()


# --- The ensemble ------------------------------------------------------------------------------------------


def test_each_base_reads_its_own_columns(ensemble: RegressionEnsemble) -> None:
    assert [len(ensemble.base_columns(name)) for name in TREES] == [15, 390, 13, 418]
    assert ensemble.columns == (*ALL, TRANSFORMER)
    for name in TREES:
        assert ensemble.base_columns(name) == base_columns(name)


def test_answers_of_other_variables_are_columns_before_the_transformers() -> None:
    rng = np.random.default_rng(0)
    features, context, target = rows(300, 0)
    names = [*ALL, "invoked_Sad", "invoked_Happy"]
    sad, happy = rng.random((2, 300), dtype=np.float32)
    matrix = np.column_stack([features[:, :-1], sad, happy])
    booster = fit(matrix, 0.3 * target + 0.7 * sad, names, PARAMETERS, trees=20, seed=0, threads=1)
    predictions = np.column_stack([booster.predict(matrix), features[:, -1]])
    loss = SquaredError(predictions, 0.3 * target + 0.7 * sad)
    blend = fit_blender(context, loss, np.arange(300) % 3, CONTEXT, {**SLICES["blend"], "max_trees": 0})
    ensemble = RegressionEnsemble({"full": booster}, blend.booster, network=TRANSFORMER)
    assert ensemble.columns == (*names, TRANSFORMER)
    found = ensemble.predict(np.column_stack([matrix, features[:, -1]]), context)
    np.testing.assert_array_equal(found["full"], predictions[:, 0])
    np.testing.assert_allclose(found["transformer"], features[:, -1])
    assert np.corrcoef(found["raw"], sad)[0, 1] > 0.9


def test_predictions_are_blended_and_calibrated(ensemble: RegressionEnsemble) -> None:
    features, context, target = rows(200, 7)
    found = ensemble.predict(features, context)
    assert list(found.columns) == [*BASES, *(f"alpha_{name}" for name in BASES), "raw", "calibrated"]
    np.testing.assert_array_equal(found[TRANSFORMER], features[:, -1].astype(float))
    for name in TREES:
        own = ensemble.bases[name].predict(features[:, base_columns(name)])
        np.testing.assert_array_equal(found[name], own)
    alpha = found[[f"alpha_{name}" for name in BASES]].to_numpy()
    np.testing.assert_allclose(alpha, softmax(ensemble.blender.predict(context, raw_score=True), axis=1))
    np.testing.assert_allclose(alpha.sum(axis=1), 1)
    np.testing.assert_allclose(found["raw"], (alpha * found[list(BASES)].to_numpy()).sum(axis=1))
    assert ensemble.calibrator is not None
    np.testing.assert_array_equal(found["calibrated"], ensemble.calibrator.predict(found["raw"].to_numpy()))
    assert np.corrcoef(found["calibrated"], target)[0, 1] > 0.6
    assert alpha.std(axis=0).max() > 0.02, "the weights depend on the context"
    assert "calibrated" not in replace(ensemble, calibrator=None).predict(features, context)


def test_it_is_read_from_its_files(ensemble: RegressionEnsemble, tmp_path: Path) -> None:
    paths = []
    for name, booster in ensemble.bases.items():
        paths.append(tmp_path / name / "model.txt")
        paths[-1].parent.mkdir()
        booster.save_model(str(paths[-1]))
    blender = tmp_path / "blend.txt"
    ensemble.blender.save_model(str(blender))
    assert ensemble.calibrator is not None
    calibrator = Calibrator.from_dict(json.loads(json.dumps(ensemble.calibrator.to_dict())))
    read = RegressionEnsemble.load([str(path) for path in paths], blender, calibrator, TRANSFORMER)
    assert tuple(read.bases) == TREES and read.network == TRANSFORMER
    features, context, _ = rows(50, 3)
    np.testing.assert_array_equal(read.predict(features, context), ensemble.predict(features, context))


def test_a_blender_of_other_bases_is_refused(ensemble: RegressionEnsemble) -> None:
    with pytest.raises(ValueError, match="weighs 5 base models, but there are 4"):
        replace(ensemble, network=None)


def test_no_rows_give_no_predictions(ensemble: RegressionEnsemble) -> None:
    # So that calibration can say that val has no labels, rather than LightGBM that it has no data.
    features, context, _ = rows(3, 0)
    assert ensemble.predict(features[:0], context[:0]).shape == (0, 12)


# --- The export --------------------------------------------------------------------------------------------


def export(
    ensemble: RegressionEnsemble, folder: Path, **changes: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    features, context, _ = rows(100, 5)
    rng = np.random.default_rng(137)
    return export_variable("valence", ensemble, features, context, folder, {**SETTINGS, **changes}, rng=rng)


def test_the_export_answers_as_the_models_do(ensemble: RegressionEnsemble, tmp_path: Path) -> None:
    proof, latency = export(ensemble, tmp_path)
    assert set(proof["precisions"]) == set(PRECISIONS)
    assert proof["smallest"] == min(PRECISIONS, key=lambda name: proof["precisions"][name]["bytes"])
    assert 200 <= proof["leaf_rows"]["adversarial"] <= 400
    features, context, _ = rows(40, 11)
    for precision, limit in zip(PRECISIONS, (1e-5, 2e-3, 2e-3), strict=True):
        found = proof["precisions"][precision]
        assert found["leaf_equality"]["adversarial"] == dict.fromkeys((*TREES, "blender"), 1.0)
        assert found["rows"] == 100 and max(found["rmse"], found["adversarial"]["rmse"]) <= limit
        path = tmp_path / precision / "model.xml"
        assert found["bytes"] == sum(part.stat().st_size for part in path.parent.iterdir())
        # The file alone, on other rows, without this library.
        compiled = ov.Core().compile_model(path, "CPU", latency["compile"])
        answer = compiled([features, context])["calibrated"][:, 0]
        np.testing.assert_allclose(answer, ensemble.predict(features, context)["calibrated"], atol=2 * limit)
        assert sorted(part.name for part in path.parent.iterdir()) == ["model.bin", "model.xml"]
    assert proof["trees"] == {
        **dict.fromkeys(TREES, 12), "blender": ensemble.blender.num_trees()
    }  # fmt: skip
    json.dumps([proof, latency], allow_nan=False)
    assert set(latency["batch"]) == {"1", "8", "64"}, "no batch larger than the rows at hand"
    for times in latency["batch"].values():
        assert set(times) == {*PRECISIONS, "lightgbm", "lightgbm_one_thread"}
        assert all(0 < entry["p50_ms"] <= entry["p95_ms"] <= entry["p99_ms"] for entry in times.values())
    assert set(latency["absent_devices"]) <= {"GPU", "NPU"}
    available = {name.split(".")[0] for name in ov.Core().available_devices}
    assert set(latency["absent_devices"]).isdisjoint(available)


def test_an_export_is_the_same_every_time(ensemble: RegressionEnsemble, tmp_path: Path) -> None:
    first, _ = export(ensemble, tmp_path / "a")
    second, _ = export(ensemble, tmp_path / "b")
    assert first == second
    for precision in PRECISIONS:
        one, other = (tmp_path / name / precision / "model.bin" for name in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()


def test_only_a_calibrated_ensemble_is_exported(ensemble: RegressionEnsemble, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only a calibrated ensemble"):
        export(replace(ensemble, calibrator=None), tmp_path / "model.xml")


def sabotage(monkeypatch: pytest.MonkeyPatch, **wrong: Any) -> None:
    """Let the graph be built from other parts than those that are proven."""
    build = report.build_variable_model

    def built(
        variable: str, bases: Any, blender: Any, x: Any, y: Any, *others: Any, **named: Any
    ) -> ov.Model:
        bases = [(name, wrong.get(name, booster), columns) for name, booster, columns in bases]
        x, y = wrong.get("knots", (x, y))
        return build(variable, bases, wrong.get("blender", blender), x, y, *others, **named)

    monkeypatch.setattr(report, "build_variable_model", built)


def moved_threshold(booster: lgb.Booster) -> lgb.Booster:
    """The same model with its first threshold a thousandth lower."""
    text = booster.model_to_string()
    line = next(line for line in text.splitlines() if line.startswith("threshold=") and line != "threshold=")
    first, _, others = line.removeprefix("threshold=").partition(" ")
    text = text.replace(line, f"threshold={float(first) - 1e-3!r} {others}".rstrip(), 1)
    # LightGBM aborts where the sizes are wrong, and does without them.
    lines = [line for line in text.splitlines() if not line.startswith("tree_sizes=")]
    return lgb.Booster(model_str="\n".join(lines) + "\n")


def moved_leaves(booster: lgb.Booster, tree: int, by: float) -> lgb.Booster:
    """The same model with other values at the leaves of one tree."""
    other = lgb.Booster(model_str=booster.model_to_string())
    for leaf in range(booster.dump_model()["tree_info"][tree]["num_leaves"]):
        other.set_leaf_output(tree, leaf, other.get_leaf_output(tree, leaf) + by)
    return other


@pytest.mark.parametrize("name", [*TREES, "blender"])
def test_a_threshold_that_moved_a_little_is_found(
    ensemble: RegressionEnsemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    booster = ensemble.blender if name == "blender" else ensemble.bases[name]
    sabotage(monkeypatch, **{name: moved_threshold(booster)})
    with pytest.raises(
        ExportError, match=rf"the fp32 IR of valence walks to other leaves .*: {name} [89]\d\."
    ):
        export(ensemble, tmp_path / "model.xml")


def test_models_of_another_training_are_found(
    ensemble: RegressionEnsemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch, eb=train(seed=1).bases["eb"])
    with pytest.raises(ExportError):
        export(ensemble, tmp_path / "model.xml")


def test_models_with_another_number_of_trees_are_found(
    ensemble: RegressionEnsemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch, full=train(trees=5).bases["full"])
    with pytest.raises(
        ExportError, match="cannot be compared with LightGBM: the graph was built from other models"
    ):
        export(ensemble, tmp_path / "model.xml")


@pytest.mark.parametrize("name", ["full", "blender"])
def test_leaf_values_that_moved_are_found(
    ensemble: RegressionEnsemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    booster = ensemble.blender if name == "blender" else ensemble.bases[name]
    # The first trees of the blender are its outputs, one each: here that of the full model.
    tree, by = (BASES.index("full"), -2.0) if name == "blender" else (0, 0.001)
    sabotage(monkeypatch, **{name: moved_leaves(booster, tree, by)})
    with pytest.raises(ExportError, match="fp32 IR of valence differs from its models: RMSE"):
        export(ensemble, tmp_path / "model.xml")


def test_another_calibrator_is_found(
    ensemble: RegressionEnsemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ensemble.calibrator is not None
    x, y = ensemble.calibrator.x, ensemble.calibrator.y
    sabotage(monkeypatch, knots=(x, np.clip(y + np.float32(1e-4), 0, 1)))
    with pytest.raises(ExportError, match="differs from its models"):
        export(ensemble, tmp_path / "model.xml")


def test_the_limit_is_that_of_the_settings(ensemble: RegressionEnsemble, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differs from its models"):
        export(ensemble, tmp_path / "model.xml", parity_rmse=1e-12)
