"""One OpenVINO graph for a hierarchy variable: encoder, trained top, trees, blend, calibration, decoding.

From token ids, features and context to the calibrated probabilities of each level and the decoded path. The
NumPy counterpart, against which the graph is measured, is `perceive.path_ensemble`.

Only the transformer's weights change with the precision: its graph comes compressed, and the trees, the blend
and the calibration are attached in float32 afterwards. The other way round, a compression of the whole would
round thresholds, and move decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from perceive.export.graph import Forest, _described, _int, _ints, _model, _placed, lower_forest
from perceive.hierarchy_calibration import SMALLEST
from perceive.path_ensemble import PathEnsemble, PathTrees, sibling_softmax
from perceive.transformer.model import _siblings

if TYPE_CHECKING:
    import lightgbm as lgb

    from perceive.export.trees import TreeEnsemble
    from perceive.hierarchy_calibration import HierarchyCalibrator
    from perceive.transformer.model import Hierarchy

Levels = list[ov.Output]
"""One output for each level, float32 [?, labels]."""

NEVER = -1e30
"""Logit of a label that is none: it fills the groups of fewer siblings."""


def build_path_graph(
    variable: str,
    transformer: ov.Model,
    extra_columns: Sequence[int],
    classifiers: Sequence[PathTrees],
    blender: lgb.Booster,
    calibrator: HierarchyCalibrator,
    hierarchy: Hierarchy,
    feature_names: Sequence[str],
    context_names: Sequence[str],
) -> ov.Model:
    """The whole model of a hierarchy variable as one graph.

    Parameters
    ----------
    variable : str
        Kept in the model's ``rt_info`` under ``perceive``, with the names of the features, context, bases,
        levels and outputs.
    transformer : ov.Model
        From :func:`perceive.transformer.export.build_graph`, in the wanted precision
        (:func:`perceive.transformer.export.compressed`). It stays as it is.
    extra_columns : sequence of int
        Feature columns that are the transformer's extra inputs; empty where it has none.
    classifiers : sequence of PathTrees
        The base models before the transformer, in the order of the blender's outputs.
    blender : lightgbm.Booster
        One output for each base model, the transformer's last.
    calibrator : HierarchyCalibrator
    hierarchy : Hierarchy
    feature_names, context_names : sequence of str
        Columns of the two inputs.

    Returns
    -------
    ov.Model
        Inputs ``input_ids`` and ``attention_mask`` int64 [?, ?], ``features`` float32 [?, F], ``context``
        float32 [?, C]; outputs ``p_LEVEL`` (calibrated) and ``raw_LEVEL`` float32 [?, labels], joint
        probabilities of each level, ``path`` int64 [?, levels], codes of the path decoded from the
        calibrated ones, and ``alpha`` float32 [?, bases].

    Raises
    ------
    perceive.export.trees.UnsupportedModelError
        A booster that cannot be lowered exactly.
    ValueError
        Parts that do not fit each other.
    """
    ensemble = PathEnsemble(list(classifiers), blender, calibrator, hierarchy)
    trees = placed_trees(ensemble, len(feature_names), len(context_names))
    return attach(variable, transformer, extra_columns, ensemble, trees, feature_names, context_names)


def placed_trees(ensemble: PathEnsemble, n_features: int, n_context: int) -> list[TreeEnsemble]:
    """The tree ensembles on the matrix [features, context], the blender last."""
    bases = [(trees.name, trees.booster, trees.columns) for trees in ensemble.classifiers]
    return _placed(bases, ensemble.blender, n_features, n_context)[0]


def attach(
    variable: str,
    transformer: ov.Model,
    extra_columns: Sequence[int],
    ensemble: PathEnsemble,
    trees: Sequence[TreeEnsemble],
    feature_names: Sequence[str],
    context_names: Sequence[str],
    precision: str = "fp32",
) -> ov.Model:
    """`build_path_graph` with the trees already read by `placed_trees`: thousands of them take seconds.

    ``precision`` is that of the trees: see :func:`perceive.export.graph.lower_forest`.
    """
    calibrator, hierarchy = ensemble.calibrator, ensemble.hierarchy
    if calibrator is None:
        raise ValueError("only a calibrated ensemble is exported: calibrate it first")
    _check_transformer(transformer, extra_columns, hierarchy, len(feature_names))
    transformer = transformer.clone()
    for operation in transformer.get_ops():
        for port in operation.outputs():
            if operation.get_type_name() != "Parameter":
                port.get_tensor().set_names(set())  # they must be unique, and p_LEVEL is to be the answer's

    features = ops.parameter([-1, len(feature_names)], np.float32, name="features")
    context = ops.parameter([-1, len(context_names)], np.float32, name="context")
    if extra_columns:
        extra = ops.gather(features, _ints(extra_columns), _int(1)).output(0)
        for reader in transformer.input("extra").get_node().output(0).get_target_inputs():
            reader.replace_source_output(extra)
    of_transformer = [result.input_value(0) for result in transformer.get_results()]

    sums = lower_forest(Forest.of(trees), ops.concat([features, context], 1).output(0), precision)
    *logits, scores = _split(sums, [of_one.n_outputs for of_one in trees])
    alpha = ops.softmax(scores, 1).output(0)
    of_bases = [
        _classified(of_one, classifier, hierarchy)
        for of_one, classifier in zip(logits, ensemble.classifiers, strict=True)
    ]
    raw = _blended([*of_bases, of_transformer], alpha, hierarchy)
    calibrated = _calibrated(raw, calibrator)
    outputs = {f"p_{level}": of_level for level, of_level in zip(hierarchy.levels, calibrated, strict=True)}
    outputs |= {f"raw_{level}": of_level for level, of_level in zip(hierarchy.levels, raw, strict=True)}
    outputs |= {"path": _decoded(calibrated, hierarchy), "alpha": alpha}
    tokens = {name: transformer.input(name).get_node() for name in ("input_ids", "attention_mask")}
    model = _model({**tokens, "features": features, "context": context}, outputs, variable)
    about = {
        "features": feature_names,
        "context": context_names,
        "bases": ensemble.bases,
        "levels": hierarchy.levels,
        "outputs": list(outputs),
    }
    return _described(model, variable, about)


def _check_transformer(
    transformer: ov.Model, extra_columns: Sequence[int], hierarchy: Hierarchy, n_features: int
) -> None:
    answers = {
        port.any_name: port.partial_shape[1].get_length() if port.partial_shape[1].is_static else -1
        for port in transformer.outputs
    }
    expected = {f"p_{level}": size for level, size in zip(hierarchy.levels, hierarchy.sizes, strict=True)}
    if list(answers.items()) != list(expected.items()):
        raise ValueError(
            f"the transformer answers {answers}, but the taxonomy asks for {expected}: it was trained for "
            "another taxonomy; train it again"
        )
    inputs = {name: port for port in transformer.inputs for name in port.names}
    n_extra = inputs["extra"].partial_shape[1].get_length() if "extra" in inputs else 0
    if n_extra != len(extra_columns):
        raise ValueError(
            f"the transformer reads {n_extra} extra inputs, but {len(extra_columns)} columns are given; "
            "train it again on the present features"
        )
    if len(extra_columns) and not 0 <= min(extra_columns) <= max(extra_columns) < n_features:
        raise ValueError(f"the transformer's extra inputs must be columns in 0..{n_features - 1}")


def _split(values: ov.Output, sizes: Sequence[int]) -> list[ov.Output]:
    """The columns, in parts of these sizes."""
    return list(ops.variadic_split(values, _int(1), _ints(sizes)).outputs())


def _sibling_softmax(scores: ov.Output, parents: Sequence[int]) -> ov.Output:
    """Softmax among the labels of each parent, float32 [?, labels]."""
    slots, place = _siblings(np.array(parents))
    if len(slots) == 1:
        return ops.softmax(scores, 1).output(0)
    if (slots < 0).any():  # -1 is the last column
        scores = ops.pad(scores, _ints([0, 0]), _ints([0, 1]), "constant", ops.constant(np.float32(NEVER)))
    table = ops.gather(scores, ops.constant(slots.astype(np.int32)), _int(1))
    flat = ops.reshape(ops.softmax(table, 2), _ints([0, slots.size]), special_zero=True)
    return ops.gather(flat, ops.constant(place.astype(np.int32)), _int(1)).output(0)


def _below(above: ov.Output | None, conditional: ov.Output, parents: Sequence[int]) -> ov.Output:
    """Joint probabilities of a level from those of the level above."""
    if above is None:
        return conditional
    return ops.multiply(ops.gather(above, _ints(parents), _int(1)), conditional).output(0)


def _classified(logits: ov.Output, trees: PathTrees, hierarchy: Hierarchy) -> Levels:
    """A tree base model's joint probabilities."""
    n_learned = int(np.searchsorted(np.cumsum(hierarchy.sizes), trees.n_logits)) + 1
    conditionals = [
        _sibling_softmax(of_level, parents)
        for of_level, parents in zip(
            _split(logits, hierarchy.sizes[:n_learned]), hierarchy.parents, strict=False
        )
    ]
    ends = np.cumsum(hierarchy.sizes[n_learned:])[:-1]
    if n_learned < len(hierarchy.sizes):
        conditionals += [
            ops.constant(sibling_softmax(of_level[None], parents).astype(np.float32)).output(0)
            for of_level, parents in zip(
                np.split(trees.constants, ends), hierarchy.parents[n_learned:], strict=True
            )
        ]
    joint: Levels = []
    for conditional, parents in zip(conditionals, hierarchy.parents, strict=True):
        joint.append(_below(joint[-1] if joint else None, conditional, parents))
    return joint


def _blended(of_bases: Sequence[Levels], alpha: ov.Output, hierarchy: Hierarchy) -> Levels:
    """Weighted sums of the base models' probabilities, all levels side by side."""
    weights = ops.split(alpha, _int(1), len(of_bases)).outputs()
    parts = [
        ops.multiply(weight, ops.concat(levels, 1)) for weight, levels in zip(weights, of_bases, strict=True)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = ops.add(total, part)
    return _split(total.output(0), hierarchy.sizes)


def _calibrated(raw: Levels, calibrator: HierarchyCalibrator) -> Levels:
    joint: Levels = []
    for p, level in zip(raw, calibrator.levels, strict=True):
        logs = ops.log(ops.add(p, ops.constant(np.float32(SMALLEST))))
        scores = ops.add(
            ops.multiply(logs, ops.constant(np.float32(level.slope))), ops.constant(level.intercepts[None])
        )
        parents = level.parents.tolist()
        conditional = _sibling_softmax(scores.output(0), parents)
        joint.append(_below(joint[-1] if joint else None, conditional, parents))
    return joint


def _decoded(p: Levels, hierarchy: Hierarchy) -> ov.Output:
    """Codes int64 [?, levels] of the most probable first label, its most probable child, and so on."""
    codes: list[ov.Output] = []
    for of_level, parents in zip(p, hierarchy.parents, strict=True):
        values = of_level
        if codes:
            elsewhere = ops.not_equal(ops.constant(np.array([parents], dtype=np.int32)), codes[-1])
            values = ops.select(elsewhere, ops.constant(np.float32(-1)), of_level).output(0)
        # stable: of equals, the first
        best = ops.topk(values, _int(1), 1, "max", "value", index_element_type="i32", stable=True)
        codes.append(best.output(1))
    return ops.convert(ops.concat(codes, 1), "i64").output(0)
