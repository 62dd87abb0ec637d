"""One OpenVINO graph for a variable: trees, softmax blend and calibrator, exact for float32 input.

All trees of all base models and of the blender walk down together: one step looks up, for every tree at
once, the feature and the threshold of the node it stands on, and moves. The leaves are summed by runs of a
few trees, and the runs by one matrix product (by it alone, the matrix of trees and outputs would be read for
every row: 14 MB in a bundle of 15,000 trees). So the number of operations grows with the depth, not with the
number of trees or of models.

Missing values cost nothing per node. The input is widened once into *slots*, one for each combination of
column, missing mode and default side that occurs; in its slot a missing value already is -inf (left
everywhere) or +inf (right everywhere), and each decision is one comparison.

Trees come in three precisions, which decide alike to the last bit and differ in what they store:

* ``fp32``: everything as it is computed.
* ``fp16``: leaves in half precision, node numbers in as few bytes as they need; thresholds stay float32.
* ``int8``: thresholds as uint8 *bins*, leaves as int16. The value of a slot becomes the number of the slot's
  own thresholds below it, and "x > the j-th threshold" the same as "number > j".

What is stored small is widened by constant operations, which the compiler folds: a walk costs the same, and
``int8`` adds the look-up of the bins, a few comparisons for each slot.

The CPU plugin may compute in bf16 by default, which moves decisions: compile with `compile_exact`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from numpy.typing import ArrayLike, NDArray

from perceive.export import PRECISIONS
from perceive.export.trees import FLOAT32_MAX, MISSING_NONE, MISSING_ZERO, ZERO_THRESHOLD, TreeEnsemble

if TYPE_CHECKING:
    import lightgbm as lgb

    Base = tuple[str, lgb.Booster, Sequence[int]]
    """A base model: name, booster, and the columns of the feature matrix that it reads, in its own order."""

EXACT_CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
"""Compile options without which trees and calibrators are not computed in float32."""

FINAL_NODES = "trees/final_nodes"
"""Name of the operation that holds, for each row, the node of the `Forest` where each tree ended."""

BLENDER = "blender"

EDGES_AT_MOST = 255
"""Distinct thresholds of a slot whose bins, 0 to this number, fit uint8; a leaf's bin is this number."""

TREES_PER_RUN = 16
"""Trees of one output whose leaves are summed before the matrix product."""

LEAVES_AT_ONCE = 4_000_000
"""Pairs of row and tree whose leaves are compared together; bounds the memory of the proof."""


@dataclass(frozen=True)
class Forest:
    """Several ensembles over one matrix, laid out for one walk; M nodes with the leaves, S slots, T trees.

    Siblings are neighbours, so that a step is ``child[node] + (x > threshold[node])``. A leaf is its own
    child behind an infinite threshold: it stays. Trees are sorted by depth, deepest first, so that the last
    steps carry only those trees that reach so far.

    Attributes
    ----------
    child : int32 [M], left child; the right one is the next.
    slot : int32 [M], the slot that the node tests; a leaf looks at slot 0, in vain.
    threshold : float32 [M]
    value : float32 [M], of a leaf: its value less the mean over its tree's leaves (small numbers add up with
        small errors; ``bias`` gives the means back).
    leaf_number : int32 [M], LightGBM's number of a leaf in its tree; -1 for other nodes.
    leaf_tree : int32 [M], place of a leaf's tree in the given order; -1 for other nodes.
    root, depth, tree : int32 [T], sorted by depth; ``tree`` is the place in the given order.
    output : int32 [T], the column of the sums; the ensembles' columns follow each other.
    bias : float64 [outputs]
    column, missing : int64 [S], column and missing mode of a slot.
    fill : float32 [S], what a missing value becomes.
    cap : float32 [S], what larger values are lowered to.
    """

    child: NDArray[np.int32]
    slot: NDArray[np.int32]
    threshold: NDArray[np.float32]
    value: NDArray[np.float32]
    leaf_number: NDArray[np.int32]
    leaf_tree: NDArray[np.int32]
    root: NDArray[np.int32]
    depth: NDArray[np.int32]
    tree: NDArray[np.int32]
    output: NDArray[np.int32]
    bias: NDArray[np.float64]
    column: NDArray[np.int64]
    missing: NDArray[np.int64]
    fill: NDArray[np.float32]
    cap: NDArray[np.float32]

    @classmethod
    def of(cls, ensembles: Sequence[TreeEnsemble]) -> Forest:
        """Lay out ensembles that read the same matrix (`TreeEnsemble.on_columns` places them on it)."""
        if len({trees.n_features for trees in ensembles}) != 1:
            raise ValueError("the ensembles of a forest must read one matrix: place them with on_columns")
        key_shape = (ensembles[0].n_features, 3, 2, 2)  # column, missing mode, default left, capped
        size = sum(trees.n_trees + 2 * len(trees.feature) for trees in ensembles)
        n_outputs = sum(trees.n_outputs for trees in ensembles)
        child = np.arange(size)
        key = np.full(size, -1)
        threshold = np.full(size, np.inf, dtype=np.float32)
        value = np.zeros(size)
        leaf_number, leaf_tree = np.full(size, -1), np.full(size, -1)
        bias = np.zeros(n_outputs)
        roots, outputs = [], []
        start = first_output = first_tree = 0
        for trees in ensembles:
            n_nodes = len(trees.feature)
            root = start + np.arange(trees.n_trees)
            pair = start + trees.n_trees + 2 * np.arange(n_nodes)
            node_at = np.zeros(n_nodes, dtype=np.int64)
            leaf_at = np.zeros(len(trees.leaf_value), dtype=np.int64)
            for which, place in ((trees.root, root), (trees.left, pair), (trees.right, pair + 1)):
                node_at[which[which >= 0]] = place[which >= 0]
                leaf_at[~which[which < 0]] = place[which < 0]

            limit = trees.threshold32
            has_default = trees.missing != MISSING_NONE
            default_left = trees.default_left & has_default
            # "x <= inf, missing to the right": an infinite x must stay on the other side of the missing ones
            capped = (limit == np.inf) & has_default & ~default_left
            key[node_at] = np.ravel_multi_index(
                (trees.feature, trees.missing, default_left.astype(int), capped.astype(int)), key_shape
            )
            threshold[node_at] = np.where(capped, FLOAT32_MAX, limit)
            child[node_at] = pair

            tree_of_leaf = np.cumsum(trees.leaf_number == 0) - 1
            mean = np.bincount(tree_of_leaf, trees.leaf_value) / np.bincount(tree_of_leaf)
            value[leaf_at] = trees.leaf_value - mean[tree_of_leaf]
            leaf_number[leaf_at] = trees.leaf_number
            leaf_tree[leaf_at] = first_tree + tree_of_leaf
            np.add.at(bias, first_output + trees.output, mean)

            roots.append(root)
            outputs.append(first_output + trees.output)
            start += trees.n_trees + 2 * n_nodes
            first_output += trees.n_outputs
            first_tree += trees.n_trees

        splits = key >= 0
        used = np.unique(key[splits]) if splits.any() else np.zeros(1, dtype=np.int64)
        column, missing, default_left, capped = np.unravel_index(used, key_shape)
        depth = np.concatenate([trees.depth for trees in ensembles])
        order = np.argsort(-depth, kind="stable")
        return cls(
            child=child.astype(np.int32),
            slot=np.searchsorted(used, key).astype(np.int32),
            threshold=threshold,
            value=value.astype(np.float32),
            leaf_number=leaf_number.astype(np.int32),
            leaf_tree=leaf_tree.astype(np.int32),
            root=np.concatenate(roots)[order].astype(np.int32),
            depth=depth[order],
            tree=order.astype(np.int32),
            output=np.concatenate(outputs)[order].astype(np.int32),
            bias=bias,
            column=column,
            missing=missing,
            fill=np.select([missing == MISSING_NONE, default_left == 1], [0, -np.inf], np.inf).astype(
                np.float32
            ),
            cap=np.where(capped == 1, FLOAT32_MAX, np.inf).astype(np.float32),
        )


def lower_forest(forest: Forest, matrix: ov.Output, precision: str = "fp32") -> ov.Output:
    """Add a forest to a graph.

    Parameters
    ----------
    forest : Forest
    matrix : ov.Output, float32 [N, columns]
    precision : str
        One of `PRECISIONS`: how the trees are stored. No decision depends on it, only the last digits of the
        sums: half a thousandth (fp16) or a 65,000th (int8) of each tree's largest leaf at most.

    Returns
    -------
    ov.Output, float32 [N, outputs]
        Sums of leaves.

    Raises
    ------
    ValueError
        Another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"trees come in the precisions {', '.join(PRECISIONS)}, not in {precision!r}")
    limit: NDArray = forest.threshold
    edges: list[NDArray[np.float32]] = []
    if precision == "int8":
        forest, limit, edges = _binned(forest)
    slots = _slots(forest, matrix)
    if precision == "int8":
        slots = _bins(edges, slots)
    n_slots = len(forest.column)
    # One flat table and row offsets: gather_elements has no vectorised kernel, and the CPU plugin's gather
    # with batch_dims=1 crashes on short static shapes (seen with 2026.4).
    flat = ops.reshape(slots, _ints([-1]), special_zero=False)
    n_rows = ops.squeeze(ops.gather(ops.shape_of(slots, "i32"), _ints([0]), _int(0)), _ints([0]))
    stop = ops.multiply(n_rows, _int(n_slots))
    offset = ops.unsqueeze(ops.range(_int(0), stop, _int(n_slots), "i32"), _ints([1]))
    child, slot, leaf, scale = _tables(forest, precision)
    deciding = ops.constant if limit.dtype == np.uint8 else _deciding
    threshold = deciding(limit)

    def step(first: ov.Output, value: ov.Output, limit: ov.Output) -> ov.Output:
        return ops.add(first, ops.convert(ops.greater(value, limit), "i32")).output(0)

    # all rows start at the same nodes, so that the first step needs no look-up
    at = step(
        ops.constant(forest.child[forest.root][None]),
        ops.gather(slots, ops.constant(forest.slot[forest.root]), _int(1)),
        deciding(limit[forest.root][None]),
    )
    finished: list[ov.Output] = []
    n_active = len(forest.root)
    for level in range(1, int(forest.depth.max())):
        deeper = int(np.count_nonzero(forest.depth > level))
        if deeper < 0.8 * n_active:  # a split costs about as much as it saves on the last fifth
            at, done = ops.variadic_split(at, _int(1), _ints([deeper, n_active - deeper])).outputs()
            finished.insert(0, done)
            n_active = deeper
        value = ops.gather(flat, ops.add(ops.gather(slot, at, _int(0)), offset), _int(0))
        at = step(ops.gather(child, at, _int(0)), value, ops.gather(threshold, at, _int(0)))
    # concat also where it has one input only: it names the result
    final = ops.concat([at, *finished], 1)
    final.set_friendly_name(FINAL_NODES)
    return _summed(forest, ops.gather(leaf, final, _int(0)).output(0), scale)


def _summed(forest: Forest, leaves: ov.Output, scale: NDArray[np.float32]) -> ov.Output:
    """Sums, float32 [N, outputs], of the leaves where the trees ended, float32 [N, T] in the walk's order.

    The trees of an output are cut into runs of `TREES_PER_RUN`, the last one filled up with trees that count
    nothing.

    Parameters
    ----------
    scale : ndarray of shape (T,)
        What a tree's leaves are multiplied by; in the order of the walk.
    """
    n_outputs = len(forest.bias)
    by_output = np.argsort(forest.output, kind="stable")
    counts = np.bincount(forest.output, minlength=n_outputs)
    runs = -(-counts // TREES_PER_RUN)
    starts = np.cumsum(runs) - runs
    within = np.arange(len(by_output)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.repeat(starts, counts) * TREES_PER_RUN + within
    tree = np.zeros(runs.sum() * TREES_PER_RUN, dtype=np.int64)
    share = np.zeros(len(tree), dtype=np.float32)
    tree[place], share[place] = by_output, scale[by_output]
    ordered = ops.multiply(ops.gather(leaves, _ints(tree), _int(1)), _deciding(share[None]))
    of_run = ops.reduce_sum(
        ops.reshape(ordered, _ints([0, len(tree) // TREES_PER_RUN, TREES_PER_RUN]), special_zero=True),
        _ints([2]),
        keep_dims=False,
    )
    # Made while compiling, so that it takes no room in the file.
    of_output = np.repeat(np.arange(n_outputs), runs)
    belongs = ops.equal(_ints(of_output, (1, -1)), _ints(range(n_outputs), (-1, 1)))
    sums = ops.matmul(of_run, ops.convert(belongs, "f32"), False, True)
    return ops.add(sums, ops.constant(forest.bias[None].astype(np.float32))).output(0)


def _tables(forest: Forest, precision: str) -> tuple[ov.Output, ov.Output, ov.Output, NDArray[np.float32]]:
    """What a walk looks up: child and slot, int32 [M], leaf value, float32 [M]; and the trees' scales, [T].

    The last, in the order of the walk, is what a tree's leaves are to be multiplied by.
    """
    n_trees = len(forest.root)
    if precision == "fp32":
        child, slot, leaf = (
            ops.constant(table).output(0) for table in (forest.child, forest.slot, forest.value)
        )
        return child, slot, leaf, np.ones(n_trees, dtype=np.float32)

    # Children lie close behind their parents, so that the distance takes a byte in most forests. Only roots
    # lie far off: they are walked through before any table is read.
    ahead = forest.child - np.arange(len(forest.child))
    ahead[forest.root] = 0
    number = ops.range(_int(0), _int(len(ahead)), _int(1), "i32")
    distance = _small(ahead)
    child = ops.add(number, distance)

    # Each tree has a scale of its own, which costs nothing: the padding of the runs asks for one anyway.
    leaves = forest.leaf_tree >= 0
    largest = np.zeros(n_trees)
    np.maximum.at(largest, forest.leaf_tree[leaves], np.abs(forest.value[leaves]))
    smallest = np.finfo(np.float32).tiny
    if precision == "int8":
        scale = np.maximum(largest / np.iinfo(np.int16).max, smallest).astype(np.float32)
    else:  # a power of two, so that half precision rounds, but neither overflows nor runs dry
        scale = np.maximum(np.exp2(np.frexp(largest)[1]), smallest).astype(np.float32)
    scaled = np.where(leaves, forest.value / scale[forest.leaf_tree].astype(np.float64), 0)
    if precision == "int8":
        # A leaf tests nothing and only a leaf has a value: they share a table. What a leaf looks up decides
        # nothing (no bin exceeds its own), but it must be there to look up.
        shared = _small(np.where(leaves, np.rint(scaled), forest.slot), least=np.int16)
        slot = ops.select(ops.equal(distance, _int(0)), _int(0), shared)
        leaf = ops.convert(shared, "f32")
    else:
        slot = _small(forest.slot)
        leaf = ops.convert(ops.constant(scaled.astype(np.float16)), "f32")
    return child.output(0), slot.output(0), leaf.output(0), scale[forest.tree]


def _small(numbers: NDArray, least: type[np.integer] = np.uint8) -> Any:
    """Whole numbers stored in as few bytes as hold them all, widened to int32."""
    for dtype in (least, np.int16):
        if np.iinfo(dtype).min <= numbers.min() and numbers.max() <= np.iinfo(dtype).max:
            return ops.convert(ops.constant(numbers.astype(dtype)), "i32")
    return ops.constant(numbers.astype(np.int32))


def _binned(forest: Forest) -> tuple[Forest, NDArray[np.uint8], list[NDArray[np.float32]]]:
    """Thresholds as bins, uint8 [M], and the distinct thresholds of each slot, rising.

    A slot with more than `EDGES_AT_MOST` of them becomes several, each with a part of them: a comparison with
    one of them needs only those of its part. The forest returned has these slots.
    """
    splits = np.flatnonzero(forest.leaf_number < 0)
    edges: list[NDArray[np.float32]] = []
    origin: list[int] = []
    slot = np.zeros_like(forest.slot)
    limit = np.full(len(slot), EDGES_AT_MOST, dtype=np.uint8)
    splits = splits[np.argsort(forest.slot[splits], kind="stable")]
    bounds = np.searchsorted(forest.slot[splits], np.arange(len(forest.column) + 1))
    for number, (start, end) in enumerate(pairwise(bounds)):
        nodes = splits[start:end]
        distinct, rank = np.unique(forest.threshold[nodes], return_inverse=True)
        if not len(nodes):  # no tree has a split
            distinct = np.array([np.inf], dtype=np.float32)
        slot[nodes] = len(edges) + rank // EDGES_AT_MOST
        limit[nodes] = rank % EDGES_AT_MOST
        parts = [distinct[i : i + EDGES_AT_MOST] for i in range(0, len(distinct), EDGES_AT_MOST)]
        edges += parts
        origin += [number] * len(parts)
    of_parts = {name: getattr(forest, name)[origin] for name in ("column", "missing", "fill", "cap")}
    return replace(forest, slot=slot, **of_parts), limit, edges


def _bins(edges: Sequence[NDArray[np.float32]], slots: ov.Output) -> ov.Output:
    """Number of each slot's edges below its value, uint8 [N, S]; beyond the last any larger number.

    Found by halving, one comparison for each bit: the edges of the n-th comparison, 2 ** n of each slot, are
    one table. Edges are stored once, and the tables made of them by constant operations.
    """
    counts = [len(of_slot) for of_slot in edges]
    n_slots, n_bits = len(counts), int(max(counts)).bit_length()
    flat = _deciding(np.concatenate(edges))
    ends = np.cumsum(counts)
    start, last = _ints(ends - counts, (-1, 1)), _ints(ends - 1, (-1, 1))
    # Place of a slot in the next table; the bits found so far are its lower digits.
    at: Any = _ints(range(n_slots), (1, -1))
    for bit in range(n_bits):
        middles = (2 * np.arange(2**bit) + 1) * 2 ** (n_bits - bit - 1) - 1
        table = ops.gather(flat, ops.minimum(ops.add(start, _ints(middles, (1, -1))), last), _int(0))
        edge = ops.gather(ops.reshape(table, _ints([-1]), special_zero=False), at, _int(0))
        above = ops.convert(ops.greater(slots, edge), "i32")
        at = ops.add(ops.multiply(at, _int(2)), above)
    number = ops.subtract(at, _ints(np.arange(n_slots) * 2**n_bits, (1, -1)))
    return ops.convert(number, "u8").output(0)


def _slots(forest: Forest, matrix: ov.Output) -> ov.Output:
    zero = ops.constant(np.float32(0))
    is_zero = ops.less_equal(ops.abs(matrix), _deciding(ZERO_THRESHOLD))
    values = ops.gather(
        ops.select(is_zero, zero, matrix), ops.constant(forest.column.astype(np.int32)), _int(1)
    )
    missing = ops.not_equal(values, values)  # NaN
    zero_too = forest.missing == MISSING_ZERO
    if zero_too.any():
        missing = ops.logical_or(
            missing, ops.logical_and(ops.equal(values, zero), ops.constant(zero_too[None]))
        )
    if np.isfinite(forest.cap).any():
        values = ops.minimum(values, _deciding(forest.cap[None]))
    return ops.select(missing, _deciding(forest.fill[None]), values).output(0)


def ensemble_model(ensemble: TreeEnsemble, precision: str = "fp32") -> ov.Model:
    """One ensemble alone: ``features`` [?, F] to ``prediction`` [?, outputs] as of ``Booster.predict``."""
    features = ops.parameter([-1, ensemble.n_features], np.float32, name="features")
    sums = lower_forest(Forest.of([ensemble]), features.output(0), precision)
    return _model({"features": features}, {"prediction": _transformed(ensemble, sums)}, "ensemble")


def build_variable_model(
    variable: str,
    bases: Sequence[Base],
    blender: lgb.Booster | None,
    calibrator_x: ArrayLike,
    calibrator_y: ArrayLike,
    feature_names: Sequence[str],
    context_names: Sequence[str] = (),
    answered: Mapping[str, int] | None = None,
    precision: str = "fp32",
) -> ov.Model:
    """The whole model of a regression variable as one graph.

    ``raw = sum_k alpha_k base_k`` with ``alpha = softmax(blender(context))``, then the piecewise linear
    calibrator through the knots, flat beyond them, clipped to 0..1.

    Parameters
    ----------
    variable : str
        Kept in the model's ``rt_info`` under ``perceive``, with the names of the features, context and bases.
    bases : sequence of (name, booster, columns)
        K base models with one output each; ``columns`` are the feature columns that a booster reads, in its
        order.
    blender : lightgbm.Booster or None
        K outputs from the context. None is allowed with a single base: its weight is 1, and the graph has no
        input ``context``.
    calibrator_x, calibrator_y : array [knots]
        x strictly increasing as float32, y nondecreasing in 0..1.
    feature_names, context_names : sequence of str
        Columns of the two inputs.
    answered : mapping of name to int, optional
        Further base models, the last of the blend, whose answer is that column of the features.
    precision : str
        How the trees are stored; see `lower_forest`. The rest of the graph is float32.

    Returns
    -------
    ov.Model
        Inputs ``features`` float32 [?, F], ``context`` float32 [?, C]; outputs ``calibrated`` and ``raw``
        [?, 1], ``base`` and ``alpha`` [?, K].

    Raises
    ------
    perceive.export.trees.UnsupportedModelError
        A booster that cannot be lowered exactly.
    ValueError
        Shapes that do not fit, knots out of order, or another precision.
    """
    knots_x, knots_y = _knots(calibrator_x, calibrator_y)
    answered = answered or {}
    n_trees, n_bases = len(bases), len(bases) + len(answered)
    if not n_trees:
        raise ValueError("a variable needs at least one base model of trees")
    if blender is None and n_bases > 1:
        raise ValueError("several base models need a blender")
    ensembles, width = _placed(bases, blender, len(feature_names), len(context_names))
    for (name, _, _), trees in zip(bases, ensembles, strict=False):
        if trees.n_outputs != 1:
            raise ValueError(f"base model {name} has {trees.n_outputs} outputs; a regression model has one")
    if blender is not None and ensembles[-1].n_outputs != n_bases:
        raise ValueError(f"the blender weighs {ensembles[-1].n_outputs} base models, but there are {n_bases}")
    features = ops.parameter([-1, len(feature_names)], np.float32, name="features")
    inputs = {"features": features}
    matrix = features.output(0)
    if blender is not None:
        inputs["context"] = ops.parameter([-1, width - len(feature_names)], np.float32, name="context")
        matrix = ops.concat([features, inputs["context"]], 1).output(0)
    sums = lower_forest(Forest.of(ensembles), matrix, precision)

    if blender is not None:
        base_sums, scores = ops.variadic_split(sums, _int(1), _ints([n_trees, n_bases])).outputs()
    else:
        base_sums = scores = sums  # softmax over one column is 1, whatever the score
    if any(trees.transform != "identity" for trees in ensembles[:n_trees]):
        columns = ops.split(base_sums, _int(1), n_trees).outputs()
        base = ops.concat(
            [_transformed(trees, c) for trees, c in zip(ensembles, columns, strict=False)], 1
        ).output(0)
    else:
        base = base_sums
    if answered:
        given = ops.gather(features, _ints(list(answered.values())), _int(1))
        base = ops.concat([base, given], 1).output(0)
    alpha = ops.softmax(scores, 1).output(0)
    raw = ops.reduce_sum(ops.multiply(alpha, base), _ints([1]), keep_dims=True).output(0)
    outputs = {"calibrated": _calibrated(raw, knots_x, knots_y), "raw": raw, "base": base, "alpha": alpha}
    model = _model(inputs, outputs, variable)
    about = {
        "features": feature_names,
        "context": context_names,
        "bases": [*(name for name, _, _ in bases), *answered],
    }
    return _described(model, variable, about)


def _placed(
    bases: Sequence[Base], blender: lgb.Booster | None, n_features: int, n_context: int
) -> tuple[list[TreeEnsemble], int]:
    """The ensembles on the matrix [features, context], the blender last, and the width of that matrix."""
    width = n_features + (n_context if blender is not None else 0)
    ensembles = []
    for name, booster, columns in bases:
        if max(columns, default=0) >= n_features:
            raise ValueError(f"base model {name} reads a column beyond the {n_features} features")
        ensembles.append(TreeEnsemble.from_lightgbm(booster).on_columns(columns, width))
    if blender is not None:
        trees = TreeEnsemble.from_lightgbm(blender)
        if trees.transform == "sigmoid":
            raise ValueError(
                "the blender must give raw scores: train it with a custom objective or multiclass"
            )
        ensembles.append(trees.on_columns(range(n_features, width), width))
    return ensembles, width


def _knots(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    knots_x, knots_y = np.asarray(x, dtype=np.float32), np.asarray(y, dtype=np.float32)
    if knots_x.ndim != 1 or knots_x.shape != knots_y.shape or not len(knots_x):
        raise ValueError("the calibrator needs as many x as y, and at least one knot")
    if not (np.isfinite(knots_x).all() and (np.diff(knots_x) > 0).all()):
        raise ValueError("the calibrator's x must increase strictly as float32: thin the knots")
    if not ((np.diff(knots_y) >= 0).all() and knots_y[0] >= 0 and knots_y[-1] <= 1):
        raise ValueError("the calibrator's y must not decrease and must lie in 0..1")
    return knots_x, knots_y


def _calibrated(raw: ov.Output, x: NDArray[np.float32], y: NDArray[np.float32]) -> ov.Output:
    if len(x) == 1:
        return ops.clamp(raw, float(y[0]), float(y[0])).output(0)
    # The segment is looked up rather than summed over hinges: there each knot would add its own rounding
    # error.
    inside = ops.clamp(raw, float(x[0]), float(x[-1]))
    passed = ops.convert(ops.greater_equal(inside, _deciding(x[None, :-1])), "f32")
    segment = ops.subtract(ops.convert(ops.reduce_sum(passed, _ints([1]), keep_dims=True), "i32"), _int(1))
    slope = (np.diff(y.astype(np.float64)) / np.diff(x.astype(np.float64))).astype(np.float32)
    start, level, rise = (ops.gather(_deciding(table), segment, _int(0)) for table in (x[:-1], y[:-1], slope))
    value = ops.add(level, ops.multiply(rise, ops.subtract(inside, start)))
    return ops.clamp(value, 0.0, 1.0).output(0)


def _transformed(ensemble: TreeEnsemble, sums: ov.Output) -> ov.Output:
    if ensemble.transform == "sigmoid":
        return ops.sigmoid(ops.multiply(sums, ops.constant(np.float32(ensemble.sigmoid)))).output(0)
    if ensemble.transform == "softmax":
        return ops.softmax(sums, 1).output(0)
    return sums


def _model(inputs: Mapping[str, Any], outputs: Mapping[str, ov.Output], name: str) -> ov.Model:
    results = []
    for tensor, output in outputs.items():
        result = ops.result(output)
        result.set_friendly_name(tensor)
        results.append(result)
    model = ov.Model(results, list(inputs.values()), name)
    for tensor, port in zip(inputs, model.inputs, strict=True):
        port.get_tensor().set_names({tensor})
    for tensor, port in zip(outputs, model.outputs, strict=True):
        port.get_tensor().add_names({tensor})
    # automatic names count up through the process: plain numbers make equal models equal files
    kept = {*inputs, *outputs, FINAL_NODES}
    for number, operation in enumerate(model.get_ordered_ops()):
        if operation.get_friendly_name() not in kept:
            operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    model.validate_nodes_and_infer_types()
    return model


def _described(model: ov.Model, variable: str, about: Mapping[str, Sequence[str]]) -> ov.Model:
    """The model, with names of its parts in its ``rt_info`` under ``perceive``."""
    model.set_rt_info(variable, ["perceive", "variable"])
    for key, names in about.items():
        model.set_rt_info(json.dumps(list(names)), ["perceive", key])
    return model


def _deciding(values: ArrayLike) -> Any:
    """A float32 constant that decisions or scales are, marked so that no pass turns it to half precision.

    `save_ir` compresses nothing, but ``openvino.save_model`` does unless told not to: reading a graph and
    saving it again would move walks, turn infinities into 65504, round off the scales of small leaves, and
    make neighbouring knots of a calibrator one. Python cannot set the mark, but the reader of IRs can, so the
    constant is read. In an IR the mark is called "precise"; OpenVINO 2026.4 reads it as its
    ``DisablePrecisionConversion`` and saves it under that name.
    """
    array = np.array(values, dtype=np.float32)
    shape = ",".join(map(str, array.shape))
    port = f'<port id="0" precision="FP32">{"".join(f"<dim>{size}</dim>" for size in array.shape)}</port>'
    ir = f"""<net name="constant" version="11"><layers>
        <layer id="0" name="values" type="Const" version="opset1">
            <data element_type="f32" shape="{shape}" offset="0" size="{array.nbytes}" />
            <rt_info><attribute name="precise" version="0" /></rt_info>
            <output>{port}</output>
        </layer>
        <layer id="1" name="result" type="Result" version="opset1"><input>{port}</input></layer>
    </layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0" /></edges></net>"""
    model = ov.Core().read_model(ir.encode(), array.tobytes())
    return model.get_results()[0].input_value(0).get_node()


def _int(value: int) -> Any:
    return ops.constant(np.int32(value))


def _ints(values: ArrayLike, shape: Sequence[int] = (-1,)) -> Any:
    return ops.constant(np.array(values, dtype=np.int32).reshape(shape))


def save_ir(model: ov.Model, path: str | Path) -> None:
    """Write ``path`` (.xml) and the .bin beside it, compressing nothing; each appears whole or not at all."""
    path = Path(path)
    if path.suffix != ".xml":
        raise ValueError(f"an IR is named by its .xml file, not {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.xml")
    try:
        ov.save_model(model, str(part), compress_to_fp16=False)
        ov.Core().read_model(str(part))  # never publish what does not read back
        os.replace(part.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
        part.with_suffix(".bin").unlink(missing_ok=True)


def compile_exact(
    core: ov.Core,
    model: ov.Model | str | Path,
    device: str = "CPU",
    batch: int | None = None,
    threads: int | None = None,
    hints: Mapping[str, str] | None = None,
) -> ov.CompiledModel:
    """Compile for float32 arithmetic.

    Parameters
    ----------
    core, model, device
        As for ``openvino.Core.compile_model``; a path is read.
    batch : int, optional
        Fix the number of rows. A graph for one row alone takes about half the time of a flexible one.
    threads : int, optional
        CPU threads; by default one for a single row (sharing so little work costs more than it saves), else
        all.
    hints : mapping of str to str, optional
        Options instead of `EXACT_CONFIG`, for a graph without trees and calibrators.
    """
    if not isinstance(model, ov.Model):
        model = core.read_model(str(model))
    if batch is not None:
        model = model.clone()
        model.reshape({port: [batch, *list(port.partial_shape)[1:]] for port in model.inputs})
    config = dict(EXACT_CONFIG if hints is None else hints)
    if threads is None and batch == 1:
        threads = 1
    if device == "CPU":
        # Pinned, two processes of one thread each would share the first core.
        config["ENABLE_CPU_PINNING"] = "NO"
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(threads)
    return core.compile_model(model, device, config)


def predict(
    compiled: ov.CompiledModel,
    features: NDArray[np.float32],
    context: NDArray[np.float32] | None = None,
    output: str | int = "calibrated",
    batch: int = 512,
) -> NDArray:
    """One output for all rows, [N, columns], computed in batches (which keeps the working set in cache)."""
    arrays = [features] if context is None else [features, context]
    request = compiled.create_infer_request()
    chunks = []
    for start in range(0, len(features), batch):
        result = request.infer([np.ascontiguousarray(array[start : start + batch]) for array in arrays])
        chunks.append(np.array(result[output]))
    return np.concatenate(chunks)


def leaf_equality(
    model: ov.Model | str | Path,
    bases: Sequence[Base],
    blender: lgb.Booster | None,
    features: NDArray[np.float32],
    context: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """Share of (row, tree) pairs that end in LightGBM's own leaf, per base model and for the blender.

    1.0 is exact. The walk is that of the given model itself (a saved IR as well): the part of it that leads
    to its last nodes.
    """
    n_context = 0 if context is None else context.shape[1]
    ensembles, _ = _placed(bases, blender, features.shape[1], n_context)
    return _leaf_shares([model], ensembles, bases, blender, features, context)[0]


def _leaf_shares(
    models: Sequence[ov.Model | str | Path],
    ensembles: Sequence[TreeEnsemble],
    bases: Sequence[Base],
    blender: lgb.Booster | None,
    features: NDArray[np.float32],
    context: NDArray[np.float32] | None,
) -> list[dict[str, float]]:
    """`leaf_equality` of several models that were built from the same placed ensembles."""
    walks = [_leaf_walk(model, ensembles) for model in models]
    parts = list(bases) if blender is None else [*bases, (BLENDER, blender, None)]
    ends = np.cumsum([trees.n_trees for trees in ensembles])
    equal = np.zeros((len(models), len(parts)))
    size = max(1, LEAVES_AT_ONCE // int(ends[-1]))
    for start in range(0, len(features), size):
        rows = slice(start, start + size)
        of_context = None if context is None or blender is None else context[rows]
        walked = [np.split(walk(features[rows], of_context), ends[:-1], axis=1) for walk in walks]
        for part, (_, booster, columns) in enumerate(parts):
            inputs = of_context if columns is None else features[rows][:, list(columns)]
            own = booster.predict(inputs, pred_leaf=True)
            for number, leaves in enumerate(walked):
                equal[number, part] += np.count_nonzero(leaves[part] == np.reshape(own, leaves[part].shape))
    pairs = [len(features) * trees.n_trees for trees in ensembles]
    names = [name for name, _, _ in parts]
    return [dict(zip(names, (of_model / pairs).tolist(), strict=True)) for of_model in equal]


def _leaf_walk(
    model: ov.Model | str | Path, ensembles: Sequence[TreeEnsemble]
) -> Callable[[NDArray[np.float32], NDArray[np.float32] | None], NDArray[np.int32]]:
    """LightGBM's leaf numbers [N, T] of a graph built from these ensembles, trees in the given order."""
    core = ov.Core()
    model = model.clone() if isinstance(model, ov.Model) else core.read_model(str(model))
    nodes = next(operation for operation in model.get_ops() if operation.get_friendly_name() == FINAL_NODES)
    names = {name for port in model.inputs for name in port.names}
    inputs = [model.input(name).get_node() for name in ("features", "context") if name in names]
    compiled = compile_exact(core, ov.Model([nodes.output(0)], inputs, "walk"))
    forest = Forest.of(ensembles)

    def walk(features: NDArray[np.float32], context: NDArray[np.float32] | None) -> NDArray[np.int32]:
        final = predict(compiled, features, context, output=0)
        if final.shape[1] != len(forest.root) or final.max(initial=0) >= len(forest.leaf_number):
            raise ValueError("the graph was built from other models than those given")
        leaves = np.empty(final.shape, dtype=np.int32)
        leaves[:, forest.tree] = forest.leaf_number[final]
        return leaves

    return walk


def parity(
    model_path: str | Path,
    expected: NDArray,
    features: NDArray[np.float32],
    context: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """Saved IR against the Python pipeline's calibrated answers [N]: ``rows``, ``rmse``, ``max_abs``."""
    ours = predict(compile_exact(ov.Core(), model_path), features, context)[:, 0].astype(np.float64)
    difference = ours - np.asarray(expected, dtype=np.float64).reshape(-1)
    return {
        "rows": len(ours),
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "max_abs": float(np.max(np.abs(difference))),
    }


def lightgbm_predicts(
    bases: Sequence[Base], blender: lgb.Booster | None, num_threads: int = 0
) -> Callable[[NDArray, NDArray | None], list[Any]]:
    """LightGBM's own predicts of one variable, bases first (0 threads: all)."""
    # a slice is cheaper than an index list, and is what a careful user would write
    parts = [(booster, _as_slice(columns)) for _, booster, columns in bases]

    def predicts(features: NDArray, context: NDArray | None) -> list[NDArray]:
        answers: list[Any] = [
            booster.predict(features[:, columns], num_threads=num_threads) for booster, columns in parts
        ]
        if blender is not None:
            answers.append(blender.predict(context, raw_score=True, num_threads=num_threads))
        return answers

    return predicts


def python_pipeline(
    bases: Sequence[Base],
    blender: lgb.Booster | None,
    calibrator_x: ArrayLike,
    calibrator_y: ArrayLike,
    num_threads: int = 0,
) -> Callable[[NDArray, NDArray | None], NDArray[np.float64]]:
    """What the graph must reproduce, in double precision with LightGBM and NumPy: calibrated answers [N]."""
    knots_x, knots_y = _knots(calibrator_x, calibrator_y)
    predicts = lightgbm_predicts(bases, blender, num_threads)

    def pipeline(features: NDArray, context: NDArray | None) -> NDArray[np.float64]:
        answers = predicts(features, context)
        base = np.stack(answers[: len(bases)], axis=1)
        alpha = np.ones_like(base)
        if blender is not None:
            scores = np.reshape(answers[-1], base.shape)
            alpha = np.exp(scores - scores.max(axis=1, keepdims=True))
            alpha /= alpha.sum(axis=1, keepdims=True)
        return np.clip(np.interp((alpha * base).sum(axis=1), knots_x, knots_y), 0, 1)

    return pipeline


def _as_slice(columns: Sequence[int]) -> slice | list[int]:
    listed = [int(column) for column in columns]
    if listed and listed == list(range(listed[0], listed[0] + len(listed))):
        return slice(listed[0], listed[0] + len(listed))
    return listed


def _call(function: Callable[[NDArray, NDArray | None], Any], rows: list[NDArray]) -> Any:
    return function(rows[0], rows[1] if len(rows) > 1 else None)


def latency(
    models: Mapping[str, ov.Model | str | Path],
    features: NDArray[np.float32],
    context: NDArray[np.float32] | None = None,
    batch_sizes: Sequence[int] = (1, 8, 64, 512),
    repeats: int = 300,
    references: Mapping[str, Callable[[NDArray, NDArray | None], Any]] | None = None,
    device: str = "CPU",
) -> dict[str, dict[str, dict[str, Any]]]:
    """Time from NumPy arrays in to NumPy arrays out, with references measured in turns in the same run.

    Parameters
    ----------
    models : mapping of name to Model or path
    repeats : int
        At one row; larger batches are repeated less often (at least 10 times). Rows rotate between repeats.
    references : mapping of name to ``f(features, context)``
        For example `lightgbm_predicts` with one thread and with all.

    Returns
    -------
    dict
        ``result[str(batch)][name]`` with ``p50_ms``, ``p95_ms``, ``p99_ms``, ``rows_per_s`` (at the
        median), ``repeats``; a model also has ``ratio``: its median by that of each reference.
    """
    core = ov.Core()
    arrays = [features] if context is None else [features, context]
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for batch in batch_sizes:
        if batch > len(features):
            raise ValueError(f"{len(features)} rows are too few to measure a batch of {batch}")
        contenders: dict[str, Callable[[list[NDArray]], Any]] = {}
        for name, model in models.items():
            compiled = compile_exact(core, model, device, batch=1 if batch == 1 else None)
            contenders[name] = partial(compiled.create_infer_request().infer, share_inputs=True)
        for name, function in (references or {}).items():
            contenders[name] = partial(_call, function)
        n_repeats = max(10, int(repeats / batch**0.5))
        starts = [(repeat * batch) % (len(features) - batch + 1) for repeat in range(n_repeats)]
        inputs = [
            [np.ascontiguousarray(array[start : start + batch]) for array in arrays] for start in starts
        ]
        times = timed_in_turns(contenders, inputs, batch)
        result[str(batch)] = {
            name: {
                **of_one,
                "ratio": {other: of_one["p50_ms"] / times[other]["p50_ms"] for other in references or {}},
            }
            if name in models
            else dict(of_one)
            for name, of_one in times.items()
        }
    return result


def timed_in_turns(
    contenders: Mapping[str, Callable[[Any], Any]], inputs: Sequence[Any], rows: int, warm_up: int = 2
) -> dict[str, dict[str, float]]:
    """Time each contender on each of the inputs.

    They take turns of several calls, each after a pause: a library's threads keep spinning for a while after
    its last call, and would be charged to whoever comes next.

    Parameters
    ----------
    contenders : mapping of name to callable
    inputs : sequence
        What one call gets.
    rows : int
        Rows of an input.
    warm_up : int
        Calls after each pause that do not count.

    Returns
    -------
    dict
        ``result[name]`` with ``p50_ms``, ``p95_ms``, ``p99_ms``, ``rows_per_s`` (at the median), ``repeats``.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in np.array_split(np.arange(len(inputs)), max(1, min(10, len(inputs) // 5))):
        for name, contender in contenders.items():
            time.sleep(0.02)
            for number, place in enumerate([*turn[:warm_up], *turn]):
                began = time.perf_counter()
                contender(inputs[place])
                if number >= min(warm_up, len(turn)):
                    times[name].append((time.perf_counter() - began) * 1e3)
    result = {}
    for name, values in times.items():
        p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
        result[name] = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "rows_per_s": rows / p50 * 1e3}
        result[name]["repeats"] = len(values)
    return result
