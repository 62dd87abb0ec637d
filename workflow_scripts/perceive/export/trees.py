"""Exact tree ensembles: what a LightGBM model decides, as flat arrays, for float32 input.

LightGBM stores thresholds as doubles and compares doubles; a served graph compares float32. For a float32
``x`` and a double threshold ``t`` the decision ``x <= t`` equals ``x <= f`` where ``f`` is the *largest
float32 not above t*, so nothing is lost, while rounding ``t`` to the nearest float32 moves the decision of
an input on the threshold at about every second node. Missing values go their own way at each node. Both are
kept here; `perceive.export.graph` lowers the arrays to OpenVINO.

Why not through ONNX: an OpenVINO ``ConversionExtension`` for ``ai.onnx.ml.TreeEnsemble*`` works, but the
operator cannot say that a zero is missing (``zero_as_missing``) or that tiny numbers count as zero, and
onnxmltools rounds thresholds to nearest. Every threshold and default side would have to be repaired from
the LightGBM model after the detour, so the arrays are read from that model directly. The tests measure what
plain onnxmltools gets wrong.

References
----------
LightGBM v4, ``include/LightGBM/tree.h``: ``NumericalDecision``, ``GetMissingType``, ``IsZero``;
``include/LightGBM/meta.h``: ``kZeroThreshold``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # reading a model needs its text only, so that nothing here loads the training stack
    import lightgbm as lgb

MISSING_NONE, MISSING_ZERO, MISSING_NAN = 0, 1, 2

ZERO_THRESHOLD = np.float32(1e-35)
"""LightGBM reads every |x| up to this value as zero (its constant is this very float32)."""

FLOAT32_MAX = np.finfo(np.float32).max

WALKED_AT_ONCE = 500_000
"""Pairs of row and tree that `adversarial_rows` follows together; bounds its memory."""

# objectives whose prediction is the plain sum of the leaves
_IDENTITY_OBJECTIVES = {
    "", "none", "custom", "regression", "regression_l1", "huber", "fair", "quantile", "mape",
    "lambdarank", "rank_xendcg",
}  # fmt: skip


class UnsupportedModelError(ValueError):
    """The LightGBM model uses something that cannot be served exactly."""


def float32_at_most(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """Largest float32 not above each double: a float32 ``x`` compares to both alike by ``x <= ...``."""
    threshold = np.asarray(threshold, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):
        nearest = threshold.astype(np.float32)
        below = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest.astype(np.float64) > threshold, below, nearest)


@dataclass(frozen=True)
class TreeEnsemble:
    """All trees of one model in flat arrays; n nodes with a split, L leaves, T trees.

    Attributes
    ----------
    feature : int32 [n], the column that a node tests.
    threshold : float64 [n], as in the LightGBM model; go left when ``x <= threshold``.
    missing : uint8 [n], ``MISSING_NONE`` (NaN counts as 0), ``MISSING_ZERO`` (NaN and zero are missing) or
        ``MISSING_NAN`` (NaN is missing).
    default_left : bool [n], the side of missing values.
    left, right : int32 [n], a node (>= 0) or ``~leaf`` (< 0), both counted over the whole ensemble.
    leaf_value : float64 [L].
    leaf_number : int32 [L], the leaf's number inside its tree, as ``predict(pred_leaf=True)`` counts.
    root : int32 [T], a node or ``~leaf`` for a tree that never splits.
    output : int32 [T], the output column that a tree adds to.
    depth : int32 [T], splits on the longest path.
    n_outputs, n_features : int
    transform : 'identity', 'sigmoid' or 'softmax', from the sums to the model's prediction.
    sigmoid : float, slope of the sigmoid.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    missing: NDArray[np.uint8]
    default_left: NDArray[np.bool_]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    leaf_value: NDArray[np.float64]
    leaf_number: NDArray[np.int32]
    root: NDArray[np.int32]
    output: NDArray[np.int32]
    depth: NDArray[np.int32]
    n_outputs: int
    n_features: int
    transform: str = "identity"
    sigmoid: float = 1.0

    @classmethod
    def from_lightgbm(cls, booster: lgb.Booster) -> TreeEnsemble:
        """Read a trained booster (up to its best iteration, as its own ``predict`` does).

        Raises
        ------
        UnsupportedModelError
            Categorical splits, linear trees, or an objective whose output transform is not served.
        """
        return cls.from_text(booster.model_to_string())

    @classmethod
    def from_text(cls, text: str) -> TreeEnsemble:
        """Read a LightGBM text model (``Booster.save_model``). Raises as `from_lightgbm`."""
        head, *blocks = text.split("\nend of trees", 1)[0].split("\nTree=")
        header = _fields(head)
        if not head.startswith("tree\n") or "max_feature_idx" not in header:
            raise UnsupportedModelError("not a LightGBM text model: save it with Booster.save_model")
        transform, sigmoid = _transform(header.get("objective", ""))
        n_outputs = int(header.get("num_tree_per_iteration", "1"))
        if not blocks:
            raise UnsupportedModelError("the model has no trees: train it for at least one round")

        parts: dict[str, list[NDArray]] = {
            name: []
            for name in ("feature", "threshold", "kind", "left", "right", "leaf_value", "leaf_number")
        }
        roots, n_nodes, n_leaves = [], 0, 0
        for number, block in enumerate(blocks):
            tree = _fields("Tree=" + block)
            if int(tree["num_cat"]):
                raise UnsupportedModelError(
                    f"tree {number} has categorical splits, which cannot be lowered: encode categories as "
                    "numbers before training"
                )
            if tree.get("is_linear", "0") != "0":
                raise UnsupportedModelError(
                    f"tree {number} is linear, which cannot be lowered: train with linear_tree=false"
                )
            leaves = int(tree["num_leaves"])
            values = _array(tree, "leaf_value", leaves, np.float64)
            parts["leaf_value"].append(values)
            parts["leaf_number"].append(np.arange(leaves))
            if leaves == 1:
                roots.append(~n_leaves)
            else:
                roots.append(n_nodes)
                parts["feature"].append(_array(tree, "split_feature", leaves - 1, np.int64))
                parts["threshold"].append(_array(tree, "threshold", leaves - 1, np.float64))
                parts["kind"].append(_array(tree, "decision_type", leaves - 1, np.int64))
                for side in ("left", "right"):
                    child = _array(tree, f"{side}_child", leaves - 1, np.int64)
                    parts[side].append(np.where(child >= 0, child + n_nodes, child - n_leaves))
                n_nodes += leaves - 1
            n_leaves += leaves

        def joined(name: str, dtype: type) -> NDArray:
            return np.concatenate([np.zeros(0), *parts[name]]).astype(dtype)

        kind = joined("kind", np.int64)
        leaf_value = joined("leaf_value", np.float64)
        if "average_output" in header:  # a random forest predicts the mean over its iterations
            leaf_value /= len(blocks) // n_outputs
        root = np.array(roots, dtype=np.int32)
        left, right = joined("left", np.int32), joined("right", np.int32)
        return cls(
            feature=joined("feature", np.int32),
            threshold=joined("threshold", np.float64),
            missing=((kind >> 2) & 3).astype(np.uint8),
            default_left=(kind & 2) > 0,
            left=left,
            right=right,
            leaf_value=leaf_value,
            leaf_number=joined("leaf_number", np.int32),
            root=root,
            output=(np.arange(len(root)) % n_outputs).astype(np.int32),
            depth=_depths(root, left, right),
            n_outputs=n_outputs,
            n_features=int(header["max_feature_idx"]) + 1,
            transform=transform,
            sigmoid=sigmoid,
        )

    @property
    def n_trees(self) -> int:
        return len(self.root)

    @property
    def threshold32(self) -> NDArray[np.float32]:
        """Thresholds for float32 input, float32 [n].

        Thresholds so near to zero that only x = 0 lies around them are moved to the end of that gap: no
        decision changes (see `ZERO_THRESHOLD`), and no denormal number is left for a device to flush.
        """
        threshold = float32_at_most(self.threshold)
        threshold = np.where((threshold >= 0) & (threshold <= ZERO_THRESHOLD), np.float32(0), threshold)
        return np.where((threshold < 0) & (threshold > -ZERO_THRESHOLD), -ZERO_THRESHOLD, threshold)

    def on_columns(self, columns: Sequence[int], n_features: int) -> TreeEnsemble:
        """The same trees on a wider matrix: feature ``f`` becomes column ``columns[f]`` of ``n_features``."""
        wanted = np.asarray(columns, dtype=np.int64)
        if wanted.shape != (self.n_features,):
            raise ValueError(
                f"the model reads {self.n_features} features, but {wanted.size} columns were given"
            )
        if wanted.size and (wanted.min() < 0 or wanted.max() >= n_features):
            raise ValueError(f"columns must lie in 0..{n_features - 1}")
        return replace(self, feature=wanted[self.feature].astype(np.int32), n_features=n_features)

    def leaves(self, features: NDArray[np.float32]) -> NDArray[np.int32]:
        """Leaf numbers [N, T] by float32 comparisons alone: the reference for the lowered graph."""
        chunks = [features[i : i + 1024] for i in range(0, max(len(features), 1), 1024)]
        return np.concatenate([self.leaf_number[self._leaf(chunk)] for chunk in chunks])

    def raw(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Sums of the leaves, float64 [N, n_outputs]."""
        values = self.leaf_value[self._leaf(features)]
        sums = np.zeros((len(values), self.n_outputs))
        for output in range(self.n_outputs):
            sums[:, output] = values[:, self.output == output].sum(axis=1)
        return sums

    def _leaf(self, features: NDArray[np.float32], visited: list[NDArray] | None = None) -> NDArray[np.int64]:
        x = _matrix(features, self.n_features)
        rows = np.arange(len(x))[:, None]
        threshold = self.threshold32
        at = np.broadcast_to(self.root, (len(x), self.n_trees)).astype(np.int64)
        for _ in range(int(self.depth.max())):
            node = np.maximum(at, 0)  # a finished tree looks at node 0 and ignores the answer
            value = x[rows, self.feature[node]]
            value = np.where(np.abs(value) <= ZERO_THRESHOLD, np.float32(0), value)
            missing = self.missing[node]
            nan = np.isnan(value)
            value = np.where(nan & (missing != MISSING_NAN), np.float32(0), value)
            default = ((missing == MISSING_NAN) & nan) | ((missing == MISSING_ZERO) & (value == 0))
            go_left = np.where(default, self.default_left[node], value <= threshold[node])
            if visited is not None:
                visited.append(at)
            at = np.where(at >= 0, np.where(go_left, self.left[node], self.right[node]), at)
        return ~at


def adversarial_rows(
    ensemble: TreeEnsemble,
    base_rows: NDArray[np.float32],
    rng: np.random.Generator,
    max_rows: int = 20_000,
) -> NDArray[np.float32]:
    """Rows that sit where a careless lowering goes wrong.

    For each node a base row that reaches it is taken (any row if none does), and the tested feature is set
    to the largest float32 not above the threshold, to its two neighbours, and to one special value (NaN,
    infinities, signed zeros, denormals, the edge of LightGBM's zero, the largest numbers). A further tenth
    of the rows mixes special values and thresholds of all nodes over all columns.

    Parameters
    ----------
    ensemble : TreeEnsemble
    base_rows : float32 [B, n_features]
        Ordinary rows; rows of the training data reach the most nodes.
    rng : numpy.random.Generator
    max_rows : int
        With more nodes than fit, a random choice of them is taken.

    Returns
    -------
    float32 [M, n_features], M <= max_rows
    """
    base = _matrix(base_rows, ensemble.n_features)
    if not len(base):
        raise ValueError("adversarial rows are built from base rows: give at least one")
    special = _special_values()
    n_nodes = len(ensemble.feature)
    nodes = np.arange(n_nodes)
    if n_nodes * 4 > max_rows * 0.9:
        nodes = np.sort(rng.choice(n_nodes, size=int(max_rows * 0.9) // 4, replace=False))

    # Thousands of trees need no thousands of rows, and the walk's memory grows with both.
    most = max(64, 8_000_000 // ensemble.n_trees)
    picked = base[rng.integers(len(base), size=min(len(base), 2_000, most))]
    reaching = np.full(n_nodes, -1)
    size = max(1, WALKED_AT_ONCE // ensemble.n_trees)
    for start in range(0, len(picked), size):
        visited: list[NDArray] = []
        ensemble._leaf(picked[start : start + size], visited)
        for at in visited:
            row, _ = np.nonzero(at >= 0)
            reaching[at[at >= 0]] = start + row
    reaching = np.where(reaching >= 0, reaching, rng.integers(len(picked), size=n_nodes))

    on = float32_at_most(ensemble.threshold)
    around = [on, np.nextafter(on, np.float32(np.inf)), np.nextafter(on, np.float32(-np.inf))]
    blocks = []
    for values in (*around, rng.choice(special, size=n_nodes)):
        block = picked[reaching[nodes]]
        block[np.arange(len(nodes)), ensemble.feature[nodes]] = values[nodes]
        blocks.append(block)

    mixed = base[rng.integers(len(base), size=max(16, sum(map(len, blocks)) // 10))]
    chance = rng.random(mixed.shape)
    mixed = np.where(chance < 0.3, rng.choice(special, size=mixed.shape), mixed)
    by_feature = np.argsort(ensemble.feature, kind="stable")
    starts = np.searchsorted(ensemble.feature[by_feature], np.arange(ensemble.n_features + 1))
    edges = np.stack(around, axis=1)[by_feature]
    for column in range(ensemble.n_features):
        pool = edges[starts[column] : starts[column + 1]].ravel()
        if pool.size:
            chosen = rng.choice(pool, size=len(mixed))
            mixed[:, column] = np.where(chance[:, column] > 0.6, chosen, mixed[:, column])
    return np.concatenate([*blocks, mixed])[:max_rows].astype(np.float32)


def _special_values() -> NDArray[np.float32]:
    zero_edge = np.array([ZERO_THRESHOLD, ZERO_THRESHOLD])
    zero_edge[1] = np.nextafter(ZERO_THRESHOLD, np.float32(1))
    positive = np.array(
        [0.0, 1e-45, 1e-40, 1e-36, *zero_edge, 2e-35, 1e-30, FLOAT32_MAX, np.inf], dtype=np.float32
    )
    return np.concatenate([positive, -positive, np.full(3, np.nan, dtype=np.float32)])


def _matrix(features: NDArray, n_features: int) -> NDArray[np.float32]:
    x = np.asarray(features)
    if x.dtype != np.float32 or x.ndim != 2 or x.shape[1] != n_features:
        raise ValueError(f"expected float32 [rows, {n_features}], got {x.dtype} {list(x.shape)}")
    return x


def _fields(block: str) -> dict[str, str]:
    return {key: value for key, _, value in (line.partition("=") for line in block.splitlines())}


def _array(tree: dict[str, str], key: str, size: int, dtype: type) -> NDArray:
    values: NDArray = np.array(tree[key].split(), dtype=np.float64).astype(dtype)
    if values.shape != (size,):
        raise UnsupportedModelError(
            f"damaged LightGBM model: {key} holds {values.size} values instead of {size}"
        )
    return values


def _transform(objective: str) -> tuple[str, float]:
    name, *options = objective.split() or [""]
    if name in _IDENTITY_OBJECTIVES and "sqrt" not in options:
        return "identity", 1.0
    if name == "binary":
        return "sigmoid", float(dict(option.split(":") for option in options).get("sigmoid", 1.0))
    if name == "multiclass":
        return "softmax", 1.0
    raise UnsupportedModelError(
        f"objective '{objective}' transforms its output in a way that is not lowered: use regression, "
        "another objective without a transform, binary, multiclass, or a custom objective"
    )


def _depths(root: NDArray[np.int32], left: NDArray[np.int32], right: NDArray[np.int32]) -> NDArray[np.int32]:
    depth = np.zeros(len(root), dtype=np.int32)
    tree = np.flatnonzero(root >= 0)
    at = root[tree]
    level = 0
    while len(at):
        level += 1
        if level > len(left):
            raise UnsupportedModelError("damaged LightGBM model: the children of its nodes form a circle")
        depth[tree] = level
        children, trees = np.concatenate([left[at], right[at]]), np.concatenate([tree, tree])
        at, tree = children[children >= 0], trees[children >= 0]
    return depth
