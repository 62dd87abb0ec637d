"""The graph of a hierarchy variable answers as the models do in Python, in every precision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_path_ensemble import multi_output
from test_transformer import HIERARCHY, TAXONOMY, random_model, random_texts, taxonomies
from test_trees import MISSING_MODES, table

from perceive.encoder import TextTokenizer
from perceive.export import PRECISIONS
from perceive.export.graph import Forest, compile_exact, leaf_equality, save_ir
from perceive.export.path_report import export_paths
from perceive.export.paths import build_path_graph, placed_trees
from perceive.export.report import ExportError, adversarial, judge_parity
from perceive.export.trees import TreeEnsemble, float32_at_most
from perceive.hierarchy_calibration import LARGEST_INTERCEPT, SLOPES, HierarchyCalibrator, LevelCalibration
from perceive.path_ensemble import PathAnswers, PathEnsemble, PathTrees
from perceive.paths import decode
from perceive.taxonomy import Taxonomy
from perceive.transformer.backbone import Backbone
from perceive.transformer.export import answers, ask_graph, ask_torch, build_graph, compressed
from perceive.transformer.model import Hierarchy, TopTransformer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit", "ignore:Converting a tensor", "ignore:.*TracerWarning", "ignore:Converting column"
)

CORE = ov.Core()
N_FEATURES, N_CONTEXT, N_TOKENS = 7, 4, 30
FEATURES = [f'f "{number}" <&>' for number in range(N_FEATURES)]
CONTEXT = [f"c{number}" for number in range(N_CONTEXT)]
CLEAN = [0, 6]
"""Feature columns without missing or infinite values: the transformer's extra inputs."""


@dataclass(frozen=True)
class Rows:
    features: np.ndarray
    context: np.ndarray

    def __len__(self) -> int:
        return len(self.features)


def rows_of(seed: int, n: int = 200) -> Rows:
    rng = np.random.default_rng(seed)
    features = table(rng, n, N_FEATURES)
    features[:, CLEAN] = rng.normal(size=(n, 2))
    return Rows(features, rng.poisson(1.0, (n, N_CONTEXT)).astype(np.float32))


def random_calibrator(hierarchy: Hierarchy, rng: np.random.Generator) -> HierarchyCalibrator:
    levels = []
    for parents in hierarchy.parents:
        slope = float(np.float32(rng.choice([*SLOPES, 1.0, rng.uniform(0.5, 2)])))
        reach = rng.choice([0.0, 1.0, LARGEST_INTERCEPT])
        intercepts = rng.uniform(-reach, reach, len(parents)).astype(np.float32)
        levels.append(LevelCalibration("platt", slope, intercepts, np.array(parents), 1, {}))
    return HierarchyCalibrator(tuple(levels))


def random_ensemble(
    hierarchy: Hierarchy, rows: Rows, seed: int, n_classifiers: int = 2, learned: Sequence[int] = (1, 9)
) -> PathEnsemble:
    """Boosters of different missing modes and overlapping columns; ``learned`` levels each."""
    rng = np.random.default_rng(seed)
    ends = [0, *np.cumsum(hierarchy.sizes).tolist()]

    def signal(x: np.ndarray, outputs: int) -> np.ndarray:
        ranks = np.argsort(np.argsort(np.nan_to_num(x), axis=0), axis=0) / len(x)
        weights = rng.normal(0, 2, (3, x.shape[1], outputs))
        return ranks @ weights[0] + np.isnan(x) @ weights[1] + (x == 0) @ weights[2]

    classifiers = []
    for number, levels in zip(range(n_classifiers), learned, strict=False):
        columns = rng.permutation(N_FEATURES)[: rng.integers(3, N_FEATURES + 1)].tolist()
        columns = list(dict.fromkeys([0, *columns]))  # LightGBM wants one that it can split
        n_learned = ends[min(levels, len(hierarchy.sizes))]
        x = rows.features[:, columns]
        booster = multi_output(x, signal(x, n_learned), 6, **MISSING_MODES[(seed + number) % 3])
        constants = rng.normal(0, 2, ends[-1] - n_learned).astype(np.float32)
        classifiers.append(PathTrees(f"base{number}", booster, columns, constants))
    blender = multi_output(rows.context, signal(rows.context, n_classifiers + 1), 4)
    return PathEnsemble(classifiers, blender, random_calibrator(hierarchy, rng), hierarchy)


def stand_in(hierarchy: Hierarchy, n_extra: int, seed: int) -> ov.Model:
    """Something with the inputs and outputs of a transformer's graph, quicker to make."""
    rng = np.random.default_rng(seed)
    n_leaves = hierarchy.sizes[-1]
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    mask = ops.parameter([-1, -1], np.int64, name="attention_mask")
    inputs = {"input_ids": ids, "attention_mask": mask}
    weights = rng.normal(0, 3, (N_TOKENS, n_leaves)).astype(np.float32)
    embedded = ops.gather(ops.constant(weights), ids, ops.constant(np.int32(0)))
    real = ops.unsqueeze(ops.convert(mask, "f32"), ops.constant(np.int32(2)))
    logits = ops.reduce_sum(ops.multiply(embedded, real), ops.constant(np.array([1], np.int32)))
    if n_extra:
        extra = inputs["extra"] = ops.parameter([-1, n_extra], np.float32, name="extra")
        matrix = ops.constant(rng.normal(size=(n_extra, n_leaves)).astype(np.float32))
        logits = ops.add(logits, ops.matmul(extra, matrix, False, False))
    p = [ops.softmax(logits, 1)]
    for parents in hierarchy.parents[:0:-1]:
        above = ops.constant(np.eye(max(parents) + 1, dtype=np.float32)[list(parents)])
        p.insert(0, ops.matmul(p[0], above, False, False))
    model = ov.Model([ops.result(level) for level in p], list(inputs.values()), "stand-in")
    for port, name in zip(model.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
    for port, level in zip(model.outputs, hierarchy.levels, strict=True):
        port.get_tensor().set_names({f"p_{level}"})
    return model


def token_inputs(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, n)
    mask = (np.arange(lengths.max(initial=1)) < lengths[:, None]).astype(np.int64)
    return {"input_ids": rng.integers(0, N_TOKENS, mask.shape) * mask, "attention_mask": mask}


def built(ensemble: PathEnsemble, transformer: ov.Model, columns: Sequence[int] = CLEAN) -> ov.Model:
    return build_path_graph(
        "invoked",
        transformer,
        columns,
        ensemble.classifiers,
        ensemble.blender,
        ensemble.calibrator,
        ensemble.hierarchy,
        FEATURES,
        CONTEXT,
    )


def bases_of(ensemble: PathEnsemble) -> list[tuple[str, Any, Sequence[int]]]:
    return [(trees.name, trees.booster, trees.columns) for trees in ensemble.classifiers]


def hard_rows(ensemble: PathEnsemble, rows: Rows, count: int = 600) -> Rows:
    rng = np.random.default_rng(3)
    return Rows(*adversarial(bases_of(ensemble), ensemble.blender, rows.features, rows.context, count, rng))


def check_answers(
    outputs: Sequence[np.ndarray], expected: PathAnswers, hierarchy: Hierarchy, atol: float = 1e-5
) -> None:
    """Outputs of a graph against Python's: every level, weights, and a path that is as probable."""
    n = len(hierarchy.levels)
    for level, (calibrated, raw) in enumerate(zip(outputs[:n], outputs[n : 2 * n], strict=True)):
        assert calibrated.dtype == raw.dtype == np.float32
        np.testing.assert_allclose(calibrated, expected.calibrated[level], atol=atol)
        np.testing.assert_allclose(raw, expected.raw[level], atol=atol)
        for values, of_level in ((calibrated, outputs), (raw, outputs[n:])):
            np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)
            if level:
                children = np.eye(hierarchy.sizes[level - 1])[list(hierarchy.parents[level])]
                np.testing.assert_allclose(values @ children, of_level[level - 1], atol=1e-5)
    np.testing.assert_allclose(outputs[2 * n + 1], expected.alpha, atol=atol)
    path = outputs[2 * n]
    assert path.dtype == np.int64 and path.shape == expected.path.shape
    chosen = np.zeros(len(path), dtype=np.int64)
    for level, parents in enumerate(hierarchy.parents):
        siblings = np.where(np.array(parents) == chosen[:, None], expected.calibrated[level], -1)
        chosen = path[:, level]
        taken = siblings[np.arange(len(path)), chosen]
        assert (taken >= siblings.max(axis=1) - max(atol, 1e-6) / 10).all()


def python_answers(
    ensemble: PathEnsemble,
    transformer: ov.Model,
    rows: Rows,
    tokens: dict[str, np.ndarray],
    columns: Sequence[int] = CLEAN,
) -> PathAnswers:
    extra = {"extra": rows.features[:, columns]} if len(columns) else {}
    of_transformer = ask_graph(compile_exact(CORE, transformer))({**tokens, **extra})
    return ensemble.predict(rows.features, rows.context, of_transformer, threads=1)


# --- any taxonomy --------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(taxonomies(), st.integers(0, 10_000), st.integers(0, 2), st.integers(1, 3), st.booleans())
def test_the_graph_answers_as_numpy(
    taxonomy: Taxonomy, seed: int, n_classifiers: int, learned: int, has_extra: bool
) -> None:
    hierarchy, columns = Hierarchy.of(taxonomy), CLEAN if has_extra else []
    rows = rows_of(seed)
    ensemble = random_ensemble(hierarchy, rows, seed, n_classifiers, (learned, 3))
    transformer = stand_in(hierarchy, len(columns), seed)
    model = built(ensemble, transformer, columns)
    assert [port.any_name for port in transformer.outputs] == [f"p_{level}" for level in taxonomy.levels]

    hard = hard_rows(ensemble, rows)
    shares = leaf_equality(model, bases_of(ensemble), ensemble.blender, hard.features, hard.context)
    assert set(shares) == {*ensemble.bases[:-1], "blender"} and set(shares.values()) == {1.0}

    # A number that is none makes the transformer answer none: extra inputs are finite.
    hard.features[:, CLEAN] = np.random.default_rng(seed).normal(size=(len(hard), 2))
    tokens = token_inputs(len(hard), seed)
    expected = python_answers(ensemble, transformer, hard, tokens, columns)
    inputs = {**tokens, "features": hard.features, "context": hard.context}
    compiled = compile_exact(CORE, model)
    outputs = ask_graph(compiled)(inputs)
    check_answers(outputs, expected, hierarchy)
    np.testing.assert_array_equal(outputs[-2], decode(outputs[: taxonomy.depth], taxonomy))
    alone = ask_graph(compile_exact(CORE, model, batch=1))
    for row in (0, len(hard) // 2, len(hard) - 1):
        one = {name: values[row : row + 1] for name, values in inputs.items()}
        for ask in (alone, ask_graph(compiled)):
            for ours, whole in zip(ask(one), outputs, strict=True):
                np.testing.assert_allclose(ours, whole[row : row + 1], atol=1e-5)


def test_of_equals_the_first_is_decoded() -> None:
    rows = rows_of(0)
    ensemble = random_ensemble(HIERARCHY, rows, 0, 0)
    flat = [
        LevelCalibration("temperature", 1.0, np.zeros(len(parents), np.float32), np.array(parents), 1, {})
        for parents in HIERARCHY.parents
    ]
    ensemble = replace(ensemble, calibrator=HierarchyCalibrator(tuple(flat)))
    transformer = stand_in(HIERARCHY, 0, 0)
    ask = ask_graph(compile_exact(CORE, built(ensemble, transformer, [])))
    nothing = {name: np.zeros((3, 2), np.int64) for name in ("input_ids", "attention_mask")}
    outputs = ask({**nothing, "features": rows.features[:3], "context": rows.context[:3]})
    # Six equal leaves: of the cores Sad (2 leaves) and Happy (4), of the nuances Glad and Proud (2 each).
    np.testing.assert_allclose(outputs[2], 1 / 6, atol=1e-6)
    glad = TAXONOMY.labels(1).index(("Happy", "Glad"))
    assert outputs[6].tolist() == [[1, glad, TAXONOMY.labels(2).index(("Happy", "Glad", "Merry"))]] * 3


# --- the transformer in each precision -------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A tiny BERT, its ensemble, and rows."""

    model: TopTransformer
    ensemble: PathEnsemble
    rows: Rows
    texts: list[str]
    graph: ov.Model
    """Of the transformer, fp32."""


@pytest.fixture(scope="module")
def case(backbone: Backbone) -> Case:
    texts = [*random_texts(40), "", "w1 " * 60]
    rows = rows_of(1, 300)
    ensemble = random_ensemble(HIERARCHY, rows, 1, 2, (2, 3))
    model = random_model(backbone, top_layers=2, extra=(FEATURES[6], FEATURES[0]))
    some = Rows(rows.features[: len(texts)], rows.context[: len(texts)])
    return Case(model, ensemble, some, texts, build_graph(model, backbone))


@pytest.fixture(scope="module")
def saved(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("paths")
    paths = {precision: folder / precision / "model.xml" for precision in PRECISIONS}
    for precision, path in paths.items():
        save_ir(built(case.ensemble, compressed(case.graph, precision), [6, 0]), path)
    return paths


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_the_transformer_is_compressed(
    case: Case, saved: dict[str, Path], tokenizer: TextTokenizer, backbone: Backbone, precision: str
) -> None:
    ensemble, rows = case.ensemble, case.rows
    hard = hard_rows(ensemble, rows, 2_000)
    for some in (rows, hard):
        shares = leaf_equality(
            saved[precision], bases_of(ensemble), ensemble.blender, some.features, some.context
        )
        assert shares == {"base0": 1.0, "base1": 1.0, "blender": 1.0}

    # The saved whole answers as the compressed transformer alone with the trees of Python...
    extra = {"extra": rows.features[:, [6, 0]]}
    part = compile_exact(CORE, compressed(case.graph, precision))
    of_transformer = answers(ask_graph(part), tokenizer, case.texts, extra)
    expected = ensemble.predict(rows.features, rows.context, of_transformer)
    others = {"features": rows.features, "context": rows.context}
    outputs = answers(ask_graph(compile_exact(CORE, saved[precision])), tokenizer, case.texts, others)
    check_answers(outputs, expected, HIERARCHY, atol=2e-5)
    # ... and near torch.
    exact = answers(ask_torch(case.model, backbone), tokenizer, case.texts, extra)
    whole = ensemble.predict(rows.features, rows.context, exact)
    check_answers(outputs, whole, HIERARCHY, atol=2e-5 if precision == "fp32" else 0.1)

    model = CORE.read_model(str(saved[precision]))
    constants = [operation for operation in model.get_ops() if operation.get_type_name() == "Constant"]
    kinds = [constant.get_element_type().get_type_name() for constant in constants]
    expected_kinds = {"fp32": set(), "fp16": {"f16"}, "int8": {"u8"}}[precision]
    assert {"f16", "u8", "i8"} & set(kinds) >= expected_kinds
    if precision == "fp32":
        assert not {"f16", "u8", "i8"} & set(kinds)
    forest = Forest.of(placed_trees(ensemble, N_FEATURES, N_CONTEXT))
    single = [constant.data for constant, kind in zip(constants, kinds, strict=True) if kind == "f32"]
    for kept in (forest.threshold, forest.value, forest.bias[None].astype(np.float32)):
        assert any(np.array_equal(kept, constant) for constant in single)
    sizes = {name: path.with_suffix(".bin").stat().st_size for name, path in saved.items()}
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"]


def test_the_ir_describes_itself(case: Case, saved: dict[str, Path]) -> None:
    for path in saved.values():
        model = CORE.read_model(str(path))
        assert [(port.any_name, str(port.partial_shape)) for port in model.inputs] == [
            ("input_ids", "[?,?]"),
            ("attention_mask", "[?,?]"),
            ("features", "[?,7]"),
            ("context", "[?,4]"),
        ]
        outputs = [(port.any_name, str(port.partial_shape)) for port in model.outputs]
        assert [name for name, _ in outputs] == [
            *(f"{kind}_{level}" for kind in ("p", "raw") for level in TAXONOMY.levels),
            "path",
            "alpha",
        ]
        assert [shape for _, shape in outputs] == [*["[?,2]", "[?,3]", "[?,6]"] * 2, "[?,3]", "[?,3]"]
        kinds = [port.get_element_type().get_type_name() for port in [*model.inputs, *model.outputs]]
        assert kinds == ["i64", "i64", "f32", "f32", *["f32"] * 6, "i64", "f32"]
        assert model.get_rt_info(["perceive", "variable"]).astype(str) == "invoked"
        about = {
            key: json.loads(model.get_rt_info(["perceive", key]).astype(str))
            for key in ("features", "context", "bases", "levels", "outputs")
        }
        assert about == {
            "features": FEATURES,
            "context": CONTEXT,
            "bases": ["base0", "base1", "transformer"],
            "levels": ["core", "nuance", "micro"],
            "outputs": [name for name, _ in outputs],
        }


def test_building_twice_gives_the_same_bytes(case: Case, saved: dict[str, Path], tmp_path: Path) -> None:
    save_ir(built(case.ensemble, case.graph, [6, 0]), tmp_path / "model.xml")
    for suffix in (".xml", ".bin"):
        again = (tmp_path / "model.xml").with_suffix(suffix).read_bytes()
        assert again == saved["fp32"].with_suffix(suffix).read_bytes()


def test_leaf_equality_catches_boosters_that_changed(
    case: Case, saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(booster: lgb.Booster) -> lgb.Booster:
        """One threshold of one tree, by one float32."""
        lines = booster.model_to_string().splitlines()
        of_trees = [number for number, line in enumerate(lines) if line.startswith("threshold=")]
        values = {place: lines[place].removeprefix("threshold=").split() for place in of_trees}
        # Not around zero, where there is nothing to decide.
        place = next(place for place in of_trees if abs(float(values[place][0])) > 0.01)
        first, *others = values[place]
        lower = np.nextafter(float32_at_most(np.array(float(first))), np.float32(-np.inf))
        lines[place] = " ".join([f"threshold={float(lower)!r}", *others])
        # Without the sizes of its parts, a model is read line by line.
        kept = [line for line in lines if not line.startswith("tree_sizes=")]
        return lgb.Booster(model_str="\n".join(kept) + "\n")

    first, second = case.ensemble.classifiers
    bases = [("base0", changed(first.booster), first.columns), ("base1", second.booster, second.columns)]
    blender = changed(case.ensemble.blender)
    hard = hard_rows(case.ensemble, case.rows, 4_000)
    for path in saved.values():
        shares = leaf_equality(path, bases, blender, hard.features, hard.context)
        assert 0.99 < shares["base0"] < 1 and 0.99 < shares["blender"] < 1 and shares["base1"] == 1
    # However many rows are compared together.
    monkeypatch.setattr("perceive.export.graph.LEAVES_AT_ONCE", 10_000)
    again = leaf_equality(path, bases, blender, hard.features, hard.context)
    assert again == pytest.approx(shares, rel=1e-12)


def test_parts_that_do_not_fit_are_refused_with_a_remedy(case: Case) -> None:
    ensemble = case.ensemble
    other = Hierarchy.of(Taxonomy(TAXONOMY.levels, TAXONOMY.paths[:-1]))
    smaller = random_ensemble(other, rows_of(0), 0, 0)
    with pytest.raises(ValueError, match=r"taxonomy asks for .*'p_micro': 5.*train it again"):
        built(smaller, case.graph)
    with pytest.raises(ValueError, match=r"base0 has .* another taxonomy; train it again"):
        build_path_graph(
            "x", case.graph, CLEAN, ensemble.classifiers, ensemble.blender, smaller.calibrator, other, [], []
        )
    with pytest.raises(ValueError, match="reads 2 extra inputs, but 1 columns"):
        built(ensemble, case.graph, [0])
    with pytest.raises(ValueError, match=r"columns in 0\.\.6"):
        built(ensemble, case.graph, [0, 7])
    with pytest.raises(ValueError, match=r"columns in 0\.\.6"):
        built(ensemble, case.graph, [-1, 0])
    wide = replace(ensemble.classifiers[0], columns=[*ensemble.classifiers[0].columns[:-1], 7])
    with pytest.raises(ValueError, match="base0 reads a column beyond the 7 features"):
        built(replace(ensemble, classifiers=[wide, ensemble.classifiers[1]]), case.graph, [6, 0])
    with pytest.raises(ValueError, match="calibrate"):
        built(replace(ensemble, calibrator=None), case.graph, [6, 0])


# --- the export with its proofs --------------------------------------------------------------------------


def export(
    case: Case,
    backbone: Backbone,
    tokenizer: TextTokenizer,
    folder: Path,
    *,
    parity_rmse: float = 1e-5,
    model: TopTransformer | None = None,
    precisions: Sequence[str] = PRECISIONS,
    names: Sequence[str] = FEATURES,
    convert: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """With the case's graph of the transformer, unless it is to be converted (seconds)."""
    with pytest.MonkeyPatch.context() as patch:
        if not convert:
            patch.setattr("perceive.export.path_report.build_graph", lambda *_: case.graph)
        return export_paths(
            "invoked",
            model or case.model,
            backbone,
            tokenizer,
            case.ensemble,
            case.texts,
            case.rows.features,
            case.rows.context,
            names,
            CONTEXT,
            folder,
            {
                "parity_rmse": parity_rmse,
                "compressed_parity_rmse": 0.01,
                "adversarial_rows": 900,
                "latency_repeats": 10,
            },
            threads=1,
            rng=np.random.default_rng(0),
            precisions=precisions,
        )


def test_an_export_is_proven_and_timed(
    case: Case, backbone: Backbone, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    proof, report = export(case, backbone, tokenizer, tmp_path, convert=True)
    json.dumps([proof, report], allow_nan=False)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == sorted(
        f"{precision}/model.{kind}" for precision in PRECISIONS for kind in ("bin", "xml")
    )
    assert list(proof["precisions"]) == list(PRECISIONS)
    everything = {"base0": 1.0, "base1": 1.0, "blender": 1.0}
    for precision, found in proof["precisions"].items():
        assert found["leaf_equality"] == {"val": everything, "adversarial": everything}
        assert found["rows"] == len(case.texts) and found["bytes"] > 10_000
        assert 0 < found["rmse"] <= found["max_abs"] and found["same_path"] <= found["same_core"]
        # The numbers are those of the files.
        ask = ask_graph(compile_exact(CORE, tmp_path / precision / "model.xml", threads=1))
        others = {"features": case.rows.features, "context": case.rows.context}
        outputs = answers(ask, tokenizer, case.texts, others)
        extra = {"extra": case.rows.features[:, [6, 0]]}
        torch_answers = answers(ask_torch(case.model, backbone), tokenizer, case.texts, extra)
        expected = case.ensemble.predict(case.rows.features, case.rows.context, torch_answers)
        error = np.concatenate(outputs[:3], axis=1) - np.concatenate(expected.calibrated, axis=1)
        raw_error = np.concatenate(outputs[3:6], axis=1) - np.concatenate(expected.raw, axis=1)
        assert found["max_abs"] == pytest.approx(np.abs(error).max(), rel=1e-3)
        assert found["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-3)
        assert found["rmse_raw"] == pytest.approx(np.sqrt(np.mean(raw_error**2)), rel=1e-3)
        assert found["same_micro"] == np.mean(outputs[6][:, 2] == expected.path[:, 2])
    assert proof["precisions"]["fp32"]["max_abs"] < 2e-5 and proof["precisions"]["fp32"]["same_path"] == 1
    assert proof["leaf_rows"]["val"] == len(case.texts) and 500 < proof["leaf_rows"]["adversarial"] <= 900
    assert proof["smallest"] in PRECISIONS
    assert proof["trees"] == {"base0": 30, "base1": 66, "blender": 12}
    assert set(report["batch"]) == {"1", "8"}
    for times in report["batch"].values():
        assert set(times) == {*PRECISIONS, "reference"}
        for precision in PRECISIONS:
            of_one = times[precision]
            assert 0 < of_one["p50_ms"] <= of_one["p95_ms"] <= of_one["p99_ms"] and of_one["repeats"] == 10
            assert of_one["ratio"] == pytest.approx(of_one["p50_ms"] / times["reference"]["p50_ms"])


def test_the_smallest_precision_that_passes_is_proposed() -> None:
    limits = {"parity_rmse": 1e-5, "compressed_parity_rmse": 0.005}

    def smallest(**answers: tuple[float, float]) -> str:
        sizes = {"fp32": 100, "fp16": 60, "int8": 40}
        found: dict[str, dict[str, Any]] = {
            name: {"same_path": share, "rmse": rmse, "bytes": sizes[name]}
            for name, (share, rmse) in answers.items()
        }
        chosen = judge_parity("it", found, limits)
        assert found[chosen]["passes"]
        return chosen

    assert smallest(fp32=(1.0, 1e-6), fp16=(1.0, 1e-3), int8=(0.99, 0.005)) == "int8"
    assert smallest(fp32=(1.0, 1e-6), fp16=(0.995, 1e-3), int8=(0.989, 1e-3)) == "fp16"
    assert smallest(fp32=(1.0, 1e-6), fp16=(0.5, 1e-3), int8=(1.0, 0.0051)) == "fp32"
    for exact in ((0.98, 1e-6), (1.0, 1.1e-5)):
        with pytest.raises(ExportError, match="the fp32 IR of it differs"):
            smallest(fp32=exact, int8=(1.0, 1e-3))


def test_an_export_that_answers_otherwise_is_refused(
    case: Case,
    backbone: Backbone,
    tokenizer: TextTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = partial(export, case, backbone, tokenizer, tmp_path, precisions=["fp32"])
    with pytest.raises(ExportError, match="fp32 IR of invoked differs from its models: RMSE"):
        refused(parity_rmse=1e-12)
    other = random_model(backbone, top_layers=2, extra=case.model.shape.extra)
    with torch.no_grad():
        other.head.linear.bias[0] += 0.01
    with pytest.raises(ExportError, match="fp32 IR of invoked differs from its models: RMSE"):
        refused(model=other)
    with monkeypatch.context() as patch:  # thresholds rounded to the nearest float32
        patch.setattr(TreeEnsemble, "threshold32", property(lambda self: self.threshold.astype(np.float32)))
        with pytest.raises(ExportError, match="other leaves than LightGBM on the adversarial rows: base0"):
            refused()
    with pytest.raises(ValueError, match="no features; train it again"):
        refused(names=[f"g{number}" for number in range(N_FEATURES)])
    with pytest.raises(ValueError, match="41 texts, 42 rows"):
        export(replace(case, texts=case.texts[1:]), backbone, tokenizer, tmp_path)


def test_trees_that_change_after_the_graph_was_built_are_caught(
    case: Case,
    backbone: Backbone,
    tokenizer: TextTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trees = placed_trees(case.ensemble, N_FEATURES, N_CONTEXT)
    damaged = replace(trees[0], leaf_value=trees[0].leaf_value + np.where(trees[0].leaf_number == 1, 0.1, 0))
    monkeypatch.setattr("perceive.export.path_report.placed_trees", lambda *_: [damaged, *trees[1:]])
    with pytest.raises(ExportError, match="fp32 IR of invoked differs from its models: RMSE"):
        export(case, backbone, tokenizer, tmp_path, precisions=["fp32"])
    fewer = random_ensemble(HIERARCHY, rows_of(2, 300), 2, 2, (2, 3))
    trees = placed_trees(fewer, N_FEATURES, N_CONTEXT)
    monkeypatch.setattr("perceive.export.path_report.placed_trees", lambda *_: trees)
    with pytest.raises(ExportError, match=r"leaves than LightGBM|cannot be compared"):
        export(case, backbone, tokenizer, tmp_path, precisions=["int8"])
