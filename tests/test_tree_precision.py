"""Trees of every precision decide as LightGBM does; only the last digits of the sums differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import openvino as ov
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graph import X_KNOTS, Y_KNOTS, Variable, chain
from test_trees import MISSING_MODES, grow, grown, hard_rows, own_leaves, table, target

from perceive.export import PRECISIONS, graph
from perceive.export.graph import (
    Forest,
    compile_exact,
    ensemble_model,
    leaf_equality,
    lower_forest,
    parity,
    predict,
    python_pipeline,
    save_ir,
)
from perceive.export.trees import FLOAT32_MAX, TreeEnsemble, UnsupportedModelError

CORE = ov.Core()
SMALL = ("fp16", "int8")


def rounding(ensemble: TreeEnsemble, precision: str) -> float:
    """Most that the sums of an ensemble may be off by what is stored of its leaves."""
    share = {"fp32": 0, "fp16": 2**-11, "int8": 1 / 65_534}[precision]
    ends = np.flatnonzero(ensemble.leaf_number == 0)
    spread = [np.abs(leaves - leaves.mean()).max() for leaves in np.split(ensemble.leaf_value, ends[1:])]
    sums = np.zeros(ensemble.n_outputs)
    np.add.at(sums, ensemble.output, spread)
    return 1.001 * share * float(sums.max())


def check(
    booster: lgb.Booster, x: np.ndarray, precisions: Sequence[str] = PRECISIONS, max_rows: int = 1_000
) -> None:
    """Leaves as LightGBM's own, answers within what rounding the leaves may do, one row as many."""
    ensemble = TreeEnsemble.from_lightgbm(booster)
    rows = hard_rows(booster, x, max_rows)
    leaves = own_leaves(booster, rows)
    own = np.reshape(booster.predict(rows, num_threads=1), (len(rows), -1))
    for precision in precisions:
        lowered = ensemble_model(ensemble, precision)
        walk = graph._leaf_walk(lowered, [ensemble])
        np.testing.assert_array_equal(walk(rows, None), leaves, err_msg=precision)
        ours = predict(compile_exact(CORE, lowered), rows, output="prediction")
        limit = rounding(ensemble, precision) + 2e-6 * max(1.0, float(np.abs(own).max()))
        np.testing.assert_allclose(ours, own, rtol=0, atol=limit, err_msg=precision)
        single = compile_exact(CORE, lowered, batch=1)
        for row in range(0, len(rows), max(1, len(rows) // 3)):
            np.testing.assert_allclose(single([rows[row : row + 1]])[0], ours[row : row + 1], atol=limit)


@settings(max_examples=10, deadline=None)
@given(grown)
def test_every_precision_walks_to_lightgbms_leaves(model: tuple[lgb.Booster, np.ndarray]) -> None:
    check(*model)


def grow_classes(seed: int, mode: int, classes: int, num_leaves: int) -> tuple[lgb.Booster, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = table(rng, 300, 5)
    y = target(rng, x)
    labels = np.searchsorted(np.quantile(y, np.arange(1, classes) / classes), y)
    params: dict[str, Any] = {
        "verbose": -1,
        "num_threads": 1,
        "num_leaves": num_leaves,
        "min_data_in_leaf": 3,
    }
    params |= {"objective": "multiclass", "num_class": classes} if classes > 2 else {"objective": "binary"}
    params |= MISSING_MODES[mode]
    return lgb.train(params, lgb.Dataset(x, labels, params=params), 8), x


@settings(max_examples=6, deadline=None)
@given(
    st.builds(
        grow_classes,
        seed=st.integers(0, 10_000),
        mode=st.sampled_from(range(3)),
        classes=st.sampled_from([2, 3, 6]),
        num_leaves=st.sampled_from([2, 8, 31]),
    )
)
def test_classes_in_every_precision(model: tuple[lgb.Booster, np.ndarray]) -> None:
    check(*model)


@pytest.mark.parametrize("sizes", [(1, 2), (1000, 2), (2, 1000)])
@pytest.mark.parametrize("mode", range(3))
def test_few_and_many_trees_small_and_large(sizes: tuple[int, int], mode: int) -> None:
    trees, leaves = sizes
    rng = np.random.default_rng(mode)
    x = table(rng, 1500, 6)
    params: dict[str, Any] = {"verbose": -1, "num_threads": 1, "num_leaves": leaves, "min_data_in_leaf": 1}
    params |= MISSING_MODES[mode]
    check(lgb.train(params, lgb.Dataset(x, target(rng, x), params=params), trees), x, SMALL, 400)


def test_trees_that_never_split() -> None:
    booster, x = grow(11, 0, 5, 8)  # a constant target
    ensemble = TreeEnsemble.from_lightgbm(booster)
    assert ensemble.depth.max() == 0
    check(booster, x)


@pytest.mark.parametrize("depth", [1, 2, 255, 256])
def test_chains_with_as_many_thresholds_as_bins_and_one_more(depth: int) -> None:
    booster = chain(depth)
    ensemble = TreeEnsemble.from_lightgbm(booster)
    x = np.linspace(-1, depth / 10 + 1, 200, dtype=np.float32)[:, None]
    limits = ensemble.threshold32
    edges = np.concatenate(
        [limits, np.nextafter(limits, np.float32(-9)), np.nextafter(limits, np.float32(99))]
    )
    rows = np.concatenate([x[:, 0], edges, np.float32([np.nan, np.inf, -np.inf, 0, -0.0, 1e-40])])[:, None]
    walk = graph._leaf_walk(ensemble_model(ensemble, "int8"), [ensemble])
    np.testing.assert_array_equal(walk(rows, None), own_leaves(booster, rows))


@pytest.mark.parametrize("mode", range(3))
def test_columns_with_more_thresholds_than_bins(mode: int) -> None:
    rng = np.random.default_rng(mode)
    x = table(rng, 3_000, 3)
    x[rng.random(len(x)) < 0.1, 0] = np.nan
    x[rng.random(len(x)) < 0.1, 0] = 0
    params = {"verbose": -1, "num_threads": 1, "num_leaves": 63, "min_data_in_leaf": 2, "max_bin": 3_000}
    params |= MISSING_MODES[mode]
    y = target(rng, x) + np.sin(20 * np.nan_to_num(x[:, 0]))
    booster = lgb.train(params, lgb.Dataset(x, y, params=params), 30)
    forest = Forest.of([TreeEnsemble.from_lightgbm(booster)])
    binned, limit, edges = graph._binned(forest)
    assert len(binned.column) == len(edges) > len(forest.column), "no slot was split"
    assert max(map(len, edges)) == graph.EDGES_AT_MOST == limit.max()
    splits = forest.leaf_number < 0
    restored = [edges[slot][number] for slot, number in zip(binned.slot[splits], limit[splits], strict=True)]
    np.testing.assert_array_equal(restored, forest.threshold[splits])
    for name in ("column", "missing", "fill", "cap"):
        ours, before = getattr(binned, name)[binned.slot], getattr(forest, name)[forest.slot]
        np.testing.assert_array_equal(ours[splits], before[splits])
    check(booster, x, ["int8"], 1_500)


numbers = st.floats(width=32, allow_nan=False)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(numbers, min_size=1, max_size=40, unique=True), min_size=1, max_size=4), st.data())
def test_a_bin_exceeds_just_the_thresholds_below_the_value(drawn: list[list[float]], data) -> None:
    edges = [np.unique(np.array(of_slot, dtype=np.float32)) for of_slot in drawn]
    if data.draw(st.booleans()):  # a slot that is full
        full = data.draw(st.sampled_from([127, 128, 254, 255]))
        edges.append(np.sort(np.random.default_rng(0).normal(size=full).astype(np.float32)))
    every = np.concatenate([*edges, np.float32([-np.inf, np.inf, 0, FLOAT32_MAX])])
    with np.errstate(over="ignore"):
        around = [every, np.nextafter(every, np.float32(np.inf)), np.nextafter(every, np.float32(-np.inf))]
    values = np.concatenate(around)
    # no slot ever holds a denormal (see _slots and threshold32), and a device may flush them
    normal = (values == 0) | (np.abs(values) >= np.finfo(np.float32).tiny)
    values = values[normal]
    edges = [of_slot[(of_slot == 0) | (np.abs(of_slot) >= np.finfo(np.float32).tiny)] for of_slot in edges]
    edges = [of_slot if len(of_slot) else np.zeros(1, dtype=np.float32) for of_slot in edges]
    slots = ov.opset13.parameter([-1, len(edges)], np.float32)
    compiled = compile_exact(CORE, ov.Model([graph._bins(edges, slots.output(0))], [slots], "bins"))
    found = compiled([np.repeat(values[:, None], len(edges), axis=1)])[0]
    assert found.dtype == np.uint8
    for slot, of_slot in enumerate(edges):
        exceeded = found[:, slot, None] > np.arange(len(of_slot))
        np.testing.assert_array_equal(exceeded, values[:, None] > of_slot)
        assert (found[:, slot] <= graph.EDGES_AT_MOST).all()


@pytest.mark.parametrize("factor", [1e-30, 1e-9, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("precision", SMALL)
def test_leaves_of_any_size_keep_their_digits(factor: float, precision: str) -> None:
    booster, x = grow(4, 0, 20, 15)
    ensemble = TreeEnsemble.from_lightgbm(booster)
    ensemble.leaf_value[:] *= factor
    ours = predict(compile_exact(CORE, ensemble_model(ensemble, precision)), x, output=0)
    own = ensemble.raw(x)
    limit = rounding(ensemble, precision) + 2e-6 * float(np.abs(own).max())
    np.testing.assert_allclose(ours, own, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([0, 255], "u8"),
        ([0, 256], "i16"),
        ([-1, 3], "i16"),
        ([-32_768, 32_767], "i16"),
        ([0, 32_768], "i32"),
        ([-32_769, 0], "i32"),
    ],
)
def test_numbers_are_stored_in_as_few_bytes_as_they_need(values: list[int], stored: str) -> None:
    widened = graph._small(np.array(values))
    assert widened.get_output_element_type(0) == ov.Type.i32
    constant = widened if stored == "i32" else widened.input_value(0).get_node()
    assert constant.get_element_type() == getattr(ov.Type, stored)
    assert constant.get_data().tolist() == values


def test_a_forest_of_more_nodes_than_int16_counts_and_more_slots_than_a_byte() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 300)).astype(np.float32)
    params = {"verbose": -1, "num_threads": 1, "num_leaves": 255, "min_data_in_leaf": 1, "max_bin": 31}
    params |= {"feature_fraction": 0.2}
    booster = lgb.train(params, lgb.Dataset(x, x[:, :250].sum(axis=1), params=params), 66)
    ensemble = TreeEnsemble.from_lightgbm(booster)
    forest = Forest.of([ensemble])
    assert len(forest.child) > 32_768 and len(forest.column) > 256
    rows = hard_rows(booster, x[:100], 500)
    for precision in SMALL:
        walk = graph._leaf_walk(ensemble_model(ensemble, precision), [ensemble])
        np.testing.assert_array_equal(walk(rows, None), own_leaves(booster, rows))


@pytest.fixture(scope="module")
def variable() -> Variable:
    return Variable()


@pytest.fixture(scope="module")
def saved(variable: Variable, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("export")
    paths = {precision: folder / precision / "model.xml" for precision in PRECISIONS}
    for precision, path in paths.items():
        save_ir(variable.model(precision=precision), path)
    return paths


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_saved_variable_is_exact(variable: Variable, saved: Mapping[str, Path], precision: str) -> None:
    hard = variable.hard(400)
    shares = leaf_equality(saved[precision], variable.bases, variable.blender, *hard)
    assert shares == {"lx": 1.0, "eb": 1.0, "full": 1.0, "blender": 1.0}
    pipeline = python_pipeline(variable.bases, variable.blender, X_KNOTS, Y_KNOTS, 1)
    found = parity(saved[precision], pipeline(*hard), *hard)
    assert found["rmse"] <= {"fp32": 1e-6, "fp16": 1e-3, "int8": 5e-5}[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_saving_it_again_compressed_moves_no_decision(
    variable: Variable, saved: Mapping[str, Path], precision: str, tmp_path: Path
) -> None:
    again = tmp_path / "again.xml"
    for source in (saved[precision], again):
        model = CORE.read_model(str(source))
        ov.save_model(model.clone(), str(tmp_path / "next.xml"))  # compresses unless told not to
        for suffix in (".xml", ".bin"):
            (tmp_path / "next.xml").with_suffix(suffix).replace(again.with_suffix(suffix))
        shares = leaf_equality(again, variable.bases, variable.blender, *variable.hard(200))
        assert set(shares.values()) == {1.0}
    # nor a knot of the calibrator, and what else became half is leaves and constant terms
    pipeline = python_pipeline(variable.bases, variable.blender, X_KNOTS, Y_KNOTS, 1)
    assert (
        parity(again, pipeline(variable.features, variable.context), variable.features, variable.context)[
            "max_abs"
        ]
        <= 1e-3
    )
    compiled = compile_exact(CORE, CORE.read_model(str(again)))
    raw = predict(compiled, variable.features, variable.context, "raw")[:, 0]
    ours = predict(compiled, variable.features, variable.context)[:, 0]
    np.testing.assert_allclose(ours, np.interp(raw, X_KNOTS, Y_KNOTS), atol=1e-6)
    weights = [path.with_suffix(".bin").stat().st_size for path in (again, saved[precision])]
    assert weights[0] <= weights[1]


def test_compressing_a_calibrator_moves_no_knot(tmp_path: Path) -> None:
    raw = ov.opset13.parameter([-1, 1], np.float32, name="raw")
    model = ov.Model([graph._calibrated(raw.output(0), X_KNOTS, Y_KNOTS)], [raw], "calibrator")
    ov.save_model(model, str(tmp_path / "model.xml"))
    rows = np.linspace(0, 1, 50_001, dtype=np.float32)[:, None]
    ours = compile_exact(CORE, tmp_path / "model.xml")([rows])[0]
    np.testing.assert_allclose(ours, np.interp(rows, X_KNOTS, Y_KNOTS), atol=1e-6)


def test_smaller_precisions_are_smaller(saved: Mapping[str, Path]) -> None:
    weights = {name: path.with_suffix(".bin").stat().st_size for name, path in saved.items()}
    assert weights["fp16"] < 0.75 * weights["fp32"] and weights["int8"] < 0.55 * weights["fp32"]


@pytest.mark.parametrize("precision", SMALL)
def test_equal_models_are_equal_files(
    variable: Variable, saved: Mapping[str, Path], precision: str, tmp_path: Path
) -> None:
    save_ir(variable.model(precision=precision), tmp_path / "model.xml")
    for suffix in (".xml", ".bin"):
        again = (tmp_path / "model.xml").with_suffix(suffix).read_bytes()
        assert again == saved[precision].with_suffix(suffix).read_bytes()


def test_what_is_stored_small_is_widened_when_compiled(saved: Mapping[str, Path]) -> None:
    """Else a walk would widen all tables for each row."""
    for precision in SMALL:
        compiled = compile_exact(CORE, saved[precision])
        largest = [
            (operation.get_rt_info()["layerType"].astype(str), list(port.partial_shape))
            for operation in compiled.get_runtime_model().get_ops()
            for port in operation.outputs()
            if port.partial_shape.is_static and len(port.partial_shape) == 1 and port.shape[0] > 500
        ]
        assert largest and {kind for kind, _ in largest} <= {"Const"}, precision


def test_a_walk_looks_up_only_what_is_there() -> None:
    """Also at a leaf, whose value shares the table of the slots: a device need not check the bounds."""
    forest = Forest.of([TreeEnsemble.from_lightgbm(grow(4, 0, 20, 15)[0])])
    binned, _, _ = graph._binned(forest)
    for precision, of_precision in (("fp32", forest), ("fp16", forest), ("int8", binned)):
        child, slot, *_ = graph._tables(of_precision, precision)
        compiled = compile_exact(CORE, ov.Model([child, slot], [], "tables"))
        children, slots = compiled([]).values()
        assert slots.min() >= 0 and slots.max() < len(of_precision.column), precision
        below_roots = np.setdiff1d(
            np.arange(len(forest.child)), forest.root
        )  # roots are walked through first
        np.testing.assert_array_equal(children[below_roots], forest.child[below_roots])


def test_another_precision_is_refused(variable: Variable) -> None:
    with pytest.raises(ValueError, match="fp32, fp16, int8, not in 'bf16'"):
        variable.model(precision="bf16")


@pytest.mark.parametrize(
    ("params", "dataset", "message"),
    [
        ({"linear_tree": True}, {}, "tree 0 is linear, .* linear_tree=false"),
        ({"min_data_per_group": 1, "cat_smooth": 0}, {"categorical_feature": [0]}, "tree 0 has categorical"),
    ],
)
def test_a_variable_of_other_trees_is_refused(
    variable: Variable, params: dict, dataset: dict, message: str
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)).astype(np.float32)
    x[:, 0] = rng.integers(0, 5, 300)
    params = {"verbose": -1, "num_threads": 1, "num_leaves": 4, **params}
    booster = lgb.train(params, lgb.Dataset(x, x[:, 0] % 2, params=params, **dataset), 2)
    names = variable.feature_names
    for precision in PRECISIONS:
        with pytest.raises(UnsupportedModelError, match=message):
            graph.build_variable_model(
                "x", [("lx", booster, [0, 1])], None, X_KNOTS, Y_KNOTS, names, precision=precision
            )


def test_forests_of_several_ensembles_keep_their_trees_apart() -> None:
    """Trees of several ensembles and depths share tables; each must keep its own scale and its own sum."""
    grown_ones = [grow(seed, seed % 3, trees, leaves, outputs) for seed, trees, leaves, outputs in
                  ((3, 5, 31, 1), (8, 3, 2, 3), (22, 2, 8, 1), (14, 4, 6, 2))]  # fmt: skip
    width = max(x.shape[1] for _, x in grown_ones)
    x = table(np.random.default_rng(1), 300, width)
    ensembles = [TreeEnsemble.from_lightgbm(booster) for booster, _ in grown_ones]
    for number, trees in enumerate(ensembles):
        trees.leaf_value[:] *= 10.0**number
    placed = [trees.on_columns(range(trees.n_features), width) for trees in ensembles]
    own = np.concatenate([trees.raw(x) for trees in placed], axis=1)
    features = ov.opset13.parameter([-1, width], np.float32, name="features")
    for precision in PRECISIONS:
        sums = lower_forest(Forest.of(placed), features.output(0), precision)
        ours = predict(compile_exact(CORE, ov.Model([sums], [features], "sums")), x, output=0)
        limit = [rounding(trees, precision) for trees in placed for _ in range(trees.n_outputs)]
        assert (np.abs(ours - own) <= np.array(limit) + 2e-6 * np.maximum(1, np.abs(own).max(axis=0))).all()
