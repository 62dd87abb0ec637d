"""The OpenVINO graph of a variable answers as LightGBM, the blend and the calibrator do in Python."""

from __future__ import annotations

import json
from pathlib import Path

import lightgbm as lgb
import numpy as np
import openvino as ov
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trees import MISSING_MODES, grown, hard_rows, own_leaves, table, target

from perceive.export import graph
from perceive.export.graph import (
    Forest,
    build_variable_model,
    compile_exact,
    ensemble_model,
    latency,
    leaf_equality,
    lightgbm_predicts,
    parity,
    predict,
    python_pipeline,
    save_ir,
)
from perceive.export.trees import TreeEnsemble, adversarial_rows

CORE = ov.Core()
X_KNOTS = np.array([0.05, 0.2, 0.2001, 0.2002, 0.5, 0.9], dtype=np.float32)
Y_KNOTS = np.array([0.1, 0.15, 0.15, 0.151, 0.7, 0.95], dtype=np.float32)


def graph_leaves(ensemble: TreeEnsemble, model: ov.Model, rows: np.ndarray) -> np.ndarray:
    return graph._leaf_walk(model, [ensemble])(rows, None)


@settings(max_examples=40, deadline=None)
@given(grown)
def test_the_graph_walks_to_lightgbms_leaves(model: tuple[lgb.Booster, np.ndarray]) -> None:
    booster, x = model
    rows = hard_rows(booster, x, 1_500)
    ensemble = TreeEnsemble.from_lightgbm(booster)
    lowered = ensemble_model(ensemble)
    np.testing.assert_array_equal(graph_leaves(ensemble, lowered, rows), own_leaves(booster, rows))
    own = np.reshape(booster.predict(rows, num_threads=1), (len(rows), -1))
    ours = predict(compile_exact(CORE, lowered), rows, output="prediction")
    assert np.sqrt(np.mean((ours - own) ** 2)) <= 1e-6 * max(1.0, float(np.abs(own).max()))
    single = compile_exact(CORE, lowered, batch=1)
    for row in range(0, len(rows), max(1, len(rows) // 10)):
        np.testing.assert_array_equal(single([rows[row : row + 1]])["prediction"], ours[row : row + 1])


@pytest.mark.parametrize("sizes", [(1, 2), (1000, 2), (3, 1000)])
def test_many_trees_and_many_leaves(sizes: tuple[int, int]) -> None:
    trees, leaves = sizes
    rng = np.random.default_rng(0)
    x = table(rng, 1500, 6)
    params = {"verbose": -1, "num_threads": 1, "num_leaves": leaves, "min_data_in_leaf": 1}
    check_exact(lgb.train(params, lgb.Dataset(x, target(rng, x), params=params), trees), x)


def chain(depth: int) -> lgb.Booster:
    """One tree that is a chain, with as many thresholds of one column as it is deep."""
    fields = {
        "num_leaves": [depth + 1],
        "num_cat": [0],
        "split_feature": [0] * depth,
        "split_gain": [1] * depth,
        "threshold": [repr(number / 10) for number in range(depth, 0, -1)],
        "decision_type": [2 + 8 * (number % 2) for number in range(depth)],
        "left_child": [*range(1, depth), -depth - 1],
        "right_child": [-1 - number for number in range(depth)],
        "leaf_value": [number / 100 for number in range(depth + 1)],
    }
    header = "tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\nmax_feature_idx=0\n"
    header += "objective=regression\nfeature_names=x\nfeature_infos=[0:30]\n"
    tree = "\n".join(f"{name}={' '.join(map(str, values))}" for name, values in fields.items())
    return lgb.Booster(model_str=f"{header}\nTree=0\n{tree}\nshrinkage=1\n\n\nend of trees\n")


def test_a_tree_that_is_one_long_chain() -> None:
    booster = chain(300)
    assert TreeEnsemble.from_lightgbm(booster).depth.tolist() == [300]
    check_exact(booster, np.linspace(-1, 31, 500, dtype=np.float32)[:, None])


def check_exact(booster: lgb.Booster, x: np.ndarray) -> None:
    ensemble = TreeEnsemble.from_lightgbm(booster)
    rows = hard_rows(booster, x, 1_500)
    lowered = ensemble_model(ensemble)
    np.testing.assert_array_equal(graph_leaves(ensemble, lowered, rows), own_leaves(booster, rows))
    ours = predict(compile_exact(CORE, lowered), rows, output="prediction")[:, 0]
    np.testing.assert_allclose(ours, booster.predict(rows), atol=1e-5)


@pytest.mark.parametrize("objective", ["binary", "multiclass"])
def test_output_transforms(objective: str) -> None:
    rng = np.random.default_rng(0)
    x = table(rng, 300, 4)
    params = {"objective": objective, "verbose": -1, "num_threads": 1, "num_leaves": 8, "sigmoid": 1.7}
    if objective == "multiclass":
        params["num_class"] = 3
    booster = lgb.train(params, lgb.Dataset(x, (target(rng, x) > 0).astype(int)), 20)
    ours = predict(compile_exact(CORE, ensemble_model(TreeEnsemble.from_lightgbm(booster))), x, output=0)
    np.testing.assert_allclose(ours, np.reshape(booster.predict(x), ours.shape), atol=1e-6)


class Variable:
    """A small variable: three bases of different missing modes and overlapping columns, and a blender."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.features = table(rng, 1200, 12)
        self.context = np.round(np.abs(rng.normal(size=(1200, 4))) * 2).astype(np.float32)
        y = target(rng, self.features)
        y = (y - y.min()) / (y.max() - y.min())
        columns = ([0, 1, 2, 3, 4], [11, 9, 7, 5], list(range(12)))
        self.bases = []
        for name, mode, chosen in zip(("lx", "eb", "full"), range(3), columns, strict=True):
            params = {"objective": "regression", "verbose": -1, "num_threads": 1, "num_leaves": 15}
            params |= MISSING_MODES[mode]
            data = lgb.Dataset(self.features[:, chosen], y, params=params)
            self.bases.append((name, lgb.train(params, data, 25), chosen))
        answers = np.stack([booster.predict(self.features[:, c]) for _, booster, c in self.bases], axis=1)

        def blend(scores: np.ndarray, _: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
            alpha = np.exp(np.reshape(scores, answers.shape))
            alpha /= alpha.sum(axis=1, keepdims=True)
            mixed = (alpha * answers).sum(axis=1, keepdims=True)
            return (mixed - y[:, None]) * alpha * (answers - mixed), np.full_like(answers, 0.01)

        params = {"objective": blend, "num_class": 3, "verbose": -1, "num_threads": 1, "num_leaves": 5}
        self.blender = lgb.train(params, lgb.Dataset(self.context, y), 10)
        self.feature_names = [f"f{i}" for i in range(12)]
        self.context_names = [f'c "{i}" <&>' for i in range(4)]

    def model(self, x: np.ndarray = X_KNOTS, y: np.ndarray = Y_KNOTS, precision: str = "fp32") -> ov.Model:
        names = self.feature_names, self.context_names
        return build_variable_model("valence", self.bases, self.blender, x, y, *names, precision=precision)

    def hard(self, max_rows: int = 1_000) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(9)
        both = np.concatenate([self.features, self.context], axis=1)
        blocks = [both]
        parts = [*self.bases, ("blender", self.blender, range(12, 16))]
        for _, booster, columns in parts:
            trees = TreeEnsemble.from_lightgbm(booster).on_columns(columns, 16)
            blocks.append(adversarial_rows(trees, both, rng, max_rows))
        rows = np.concatenate(blocks)
        return np.ascontiguousarray(rows[:, :12]), np.ascontiguousarray(rows[:, 12:])


@pytest.fixture(scope="module")
def variable() -> Variable:
    return Variable()


@pytest.fixture(scope="module")
def saved(variable: Variable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "fp32" / "model.xml"
    save_ir(variable.model(), path)
    return path


def test_saved_variable_is_exact_on_adversarial_rows(variable: Variable, saved: Path) -> None:
    features, context = variable.hard()
    shares = leaf_equality(saved, variable.bases, variable.blender, features, context)
    assert shares == {"lx": 1.0, "eb": 1.0, "full": 1.0, "blender": 1.0}
    pipeline = python_pipeline(variable.bases, variable.blender, X_KNOTS, Y_KNOTS, 1)
    result = parity(saved, pipeline(features, context), features, context)
    assert result["rows"] == len(features) and result["rmse"] <= 1e-6 and result["max_abs"] <= 1e-5
    compiled = compile_exact(CORE, saved)
    alpha = predict(compiled, features, context, "alpha")
    np.testing.assert_allclose(alpha.sum(axis=1), 1, atol=1e-6)
    base = predict(compiled, features, context, "base")
    raw = predict(compiled, features, context, "raw")
    np.testing.assert_allclose((alpha * base).sum(axis=1, keepdims=True), raw, atol=1e-6)
    own = np.stack([b.predict(features[:, c], num_threads=1) for _, b, c in variable.bases], axis=1)
    np.testing.assert_allclose(base, own, atol=2e-6)


def test_leaf_equality_catches_nearest_rounding(
    variable: Variable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearest = property(lambda self: self.threshold.astype(np.float32))
    with monkeypatch.context() as patch:
        patch.setattr(TreeEnsemble, "threshold32", nearest)
        careless = variable.model()
    shares = leaf_equality(careless, variable.bases, variable.blender, *variable.hard())
    assert all(share < 1 for name, share in shares.items() if name != "blender")  # its counts split at .5


def test_leaf_equality_catches_other_models(variable: Variable, saved: Path) -> None:
    other = Variable(seed=1)
    try:
        shares = leaf_equality(saved, other.bases, other.blender, variable.features, variable.context)
    except ValueError as error:
        assert "other models" in str(error)
    else:
        assert min(shares.values()) < 1


@pytest.mark.parametrize("batch", [1, 2, 1000])
def test_batches_agree(variable: Variable, saved: Path, batch: int) -> None:
    features, context = variable.features[:1000], variable.context[:1000]
    whole = predict(compile_exact(CORE, saved), features, context, batch=1000)
    rows = slice(0, 40 if batch < 1000 else 1000)
    for fixed in (None, batch):
        ours = predict(compile_exact(CORE, saved, batch=fixed), features[rows], context[rows], batch=batch)
        np.testing.assert_allclose(ours, whole[rows], atol=1e-6)


def test_the_saved_ir_describes_itself(variable: Variable, saved: Path) -> None:
    model = CORE.read_model(str(saved))
    assert [(port.any_name, str(port.partial_shape)) for port in model.inputs] == [
        ("features", "[?,12]"),
        ("context", "[?,4]"),
    ]
    assert [(port.any_name, str(port.partial_shape)) for port in model.outputs] == [
        ("calibrated", "[?,1]"),
        ("raw", "[?,1]"),
        ("base", "[?,3]"),
        ("alpha", "[?,3]"),
    ]
    about = {
        key: model.get_rt_info(["perceive", key]).astype(str) for key in ("variable", "features", "bases")
    }
    assert about["variable"] == "valence" and json.loads(about["bases"]) == ["lx", "eb", "full"]
    assert json.loads(about["features"]) == variable.feature_names
    assert json.loads(model.get_rt_info(["perceive", "context"]).astype(str)) == variable.context_names


def test_saving_twice_gives_the_same_bytes_and_leaves_nothing_else(variable: Variable, saved: Path) -> None:
    again = saved.parent.parent / "again" / "model.xml"
    save_ir(variable.model(), again)
    save_ir(variable.model(), again)
    assert sorted(path.name for path in again.parent.iterdir()) == ["model.bin", "model.xml"]
    for suffix in (".xml", ".bin"):
        assert again.with_suffix(suffix).read_bytes() == saved.with_suffix(suffix).read_bytes()


def test_a_failed_save_keeps_the_old_files(variable: Variable, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "model.xml"
    save_ir(variable.model(), path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def broken(model: ov.Model, target: str, **_: bool) -> None:
        Path(target).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(graph.ov, "save_model", broken)
    with pytest.raises(OSError, match="disk full"):
        save_ir(Variable(1).model(), path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_single_base_needs_no_blender(variable: Variable) -> None:
    base = variable.bases[2:]
    model = build_variable_model("arousal", base, None, X_KNOTS, Y_KNOTS, variable.feature_names)
    assert [port.any_name for port in model.inputs] == ["features"]
    features, _ = variable.hard()
    assert leaf_equality(model, base, None, features) == {"full": 1.0}
    compiled = compile_exact(CORE, model)
    assert (predict(compiled, features, output="alpha") == 1).all()
    own = python_pipeline(base, None, X_KNOTS, Y_KNOTS, 1)(features, None)
    np.testing.assert_allclose(predict(compiled, features)[:, 0], own, atol=1e-6)
    with pytest.raises(ValueError, match="need a blender"):
        build_variable_model("x", variable.bases, None, X_KNOTS, Y_KNOTS, variable.feature_names)


def calibrator_graph(x: np.ndarray, y: np.ndarray) -> ov.CompiledModel:
    raw = ov.opset13.parameter([-1, 1], np.float32, name="raw")
    return compile_exact(CORE, ov.Model([graph._calibrated(raw.output(0), *graph._knots(x, y))], [raw], "c"))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3, 10, 300]))
def test_the_calibrator_is_the_one_of_python(seed: int, n_knots: int) -> None:
    rng = np.random.default_rng(seed)
    # neighbours down to 1e-4 apart, the slope bounded to 10 as a fitted calibrator's would be
    steps = rng.choice([1e-4, 1e-3, 2e-2], size=n_knots) * rng.uniform(1, 2, n_knots)
    x = (rng.uniform(-0.2, 0.3) + np.cumsum(steps)).astype(np.float32)
    rises = np.diff(x, prepend=x[0]) * rng.uniform(0, 10, n_knots) * (rng.random(n_knots) < 0.7)
    y = np.minimum(rng.uniform(0, 0.3) + np.cumsum(rises), 1).astype(np.float32)
    around = np.concatenate([x, np.nextafter(x, np.float32(-9)), np.nextafter(x, np.float32(9))])
    raw = np.concatenate([around, rng.uniform(-1, 2, 200), [-1e30, 1e30]]).astype(np.float32)[:, None]
    ours = calibrator_graph(x, y)([raw])[0][:, 0]
    np.testing.assert_allclose(ours, np.interp(raw[:, 0], x, y), atol=1e-6)
    assert ours.min() >= 0 and ours.max() <= 1
    order = np.argsort(raw[:, 0], kind="stable")
    assert (np.diff(ours[order]) >= -2e-7).all()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([0.1, 0.1], [0.1, 0.2], "increase strictly"),
        ([0.1, 0.1 + 1e-12], [0.1, 0.2], "increase strictly"),
        ([0.1, np.nan], [0.1, 0.2], "increase strictly"),
        ([0.1, 0.2], [0.3, 0.2], "must not decrease"),
        ([0.1, 0.2], [0.3, 1.2], "0..1"),
        ([0.1, 0.2], [0.3, np.nan], "must not decrease"),
        ([0.1, 0.2], [0.3], "as many"),
        ([], [], "as many"),
    ],
)
def test_bad_knots_are_refused(variable: Variable, x: list[float], y: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variable.model(np.array(x), np.array(y))


def test_models_that_do_not_fit_are_refused(variable: Variable) -> None:
    names = variable.feature_names, variable.context_names
    two = variable.bases[:2]
    with pytest.raises(ValueError, match="weighs 3 base models, but there are 2"):
        build_variable_model("x", two, variable.blender, X_KNOTS, Y_KNOTS, *names)
    wide = [*two, ("full", variable.bases[2][1], range(1, 13))]
    with pytest.raises(ValueError, match="beyond the 12 features"):
        build_variable_model("x", wide, variable.blender, X_KNOTS, Y_KNOTS, *names)
    many = [*two, ("full", variable.blender, [0, 1, 2, 3])]
    with pytest.raises(ValueError, match="3 outputs"):
        build_variable_model("x", many, variable.blender, X_KNOTS, Y_KNOTS, *names)
    with pytest.raises(ValueError, match="reads 4 features, but 3"):
        build_variable_model("x", variable.bases, variable.blender, X_KNOTS, Y_KNOTS, names[0], names[1][:3])


def test_trees_are_sorted_and_every_leaf_stays(variable: Variable) -> None:
    ensembles, _ = graph._placed(variable.bases, variable.blender, 12, 4)
    forest = Forest.of(ensembles)
    assert (np.diff(forest.depth) <= 0).all()
    leaf = forest.leaf_number >= 0
    assert leaf.sum() == sum(len(trees.leaf_value) for trees in ensembles)
    assert (forest.child[leaf] == np.flatnonzero(leaf)).all() and np.isinf(forest.threshold[leaf]).all()


def test_latency_reports_percentiles_and_ratios(variable: Variable, saved: Path) -> None:
    references = {"lightgbm": lightgbm_predicts(variable.bases, variable.blender, 1)}
    report = latency({"fp32": saved}, variable.features, variable.context, (1, 64), 20, references)
    assert set(report) == {"1", "64"}
    for batch, entry in report.items():
        ours, theirs = entry["fp32"], entry["lightgbm"]
        assert 0 < ours["p50_ms"] <= ours["p95_ms"] <= ours["p99_ms"]
        assert ours["ratio"]["lightgbm"] == pytest.approx(ours["p50_ms"] / theirs["p50_ms"])
        assert ours["rows_per_s"] == pytest.approx(int(batch) / ours["p50_ms"] * 1e3)
    with pytest.raises(ValueError, match="too few"):
        latency({"fp32": saved}, variable.features[:5], variable.context[:5], (8,))
