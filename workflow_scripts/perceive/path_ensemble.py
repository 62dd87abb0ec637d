"""The assembled model of a hierarchy variable, in NumPy: base models, blend, calibration, decoding.

A tree base model is one booster whose raw sums are the logits of all labels of the first levels, level after
level; the labels of the deeper levels, too rare for trees, have constant logits. The transformer's answer is
taken as it comes: who evaluates has it from cached token states, and what serves is the graph of
`perceive.export.paths`, which is measured against this module. Probabilities of a level are joint ones, so
that a blend of base models keeps the levels consistent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

if TYPE_CHECKING:
    import lightgbm as lgb

    from perceive.hierarchy_calibration import HierarchyCalibrator
    from perceive.transformer.model import Hierarchy

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

TRANSFORMER = "transformer"
"""Name of the last base model."""


def sibling_softmax(logits: NDArray[Any], parents: Sequence[int] | Codes) -> Array:
    """p(label | parent): the softmax among the labels of each parent.

    Parameters
    ----------
    logits : ndarray of shape (n, labels)
    parents : sequence of int, length labels
        Position of each label's parent in the level above; zeros at the first level.

    Returns
    -------
    ndarray of shape (n, labels)

    Raises
    ------
    ValueError
        If a parent has no label, or the lengths differ.
    """
    values, above = np.asarray(logits, dtype=np.float64), np.asarray(parents, dtype=np.int64)
    if values.ndim != 2 or values.shape[1] != len(above):
        raise ValueError(f"logits of the shape {values.shape} for {len(above)} labels")
    counts = np.bincount(above)
    if not counts.all():
        raise ValueError("a label above the last level has no children; every path must reach the last level")
    order, starts = np.argsort(above, kind="stable"), np.cumsum(counts) - counts
    largest = np.maximum.reduceat(values[:, order], starts, axis=1)
    powers = np.exp(values - largest[:, above])
    return powers / np.add.reduceat(powers[:, order], starts, axis=1)[:, above]


def joint(conditionals: Sequence[Array], parents: Sequence[Sequence[int] | Codes]) -> list[Array]:
    """Joint probabilities of each level from p(label | parent): products down the paths.

    Parameters
    ----------
    conditionals : sequence of ndarray of shape (n, labels)
        One per level.
    parents : sequence of sequence of int
        As ``Hierarchy.parents``.
    """
    result: list[Array] = []
    for conditional, above in zip(conditionals, parents, strict=True):
        result.append(result[-1][:, list(above)] * conditional if result else conditional)
    return result


def decode(p: Sequence[NDArray[Any]], parents: Sequence[Sequence[int] | Codes]) -> Codes:
    """Codes (n, levels) of the most probable first label, its most probable child, and so on.

    What :func:`perceive.evaluation.hierarchy.decode` gives, from the parents alone; of equals, the first.
    """
    chosen = np.zeros(len(p[0]), dtype=np.int64)
    codes = []
    for values, above in zip(p, parents, strict=True):
        chosen = np.where(np.asarray(above) == chosen[:, None], values, -np.inf).argmax(axis=1)
        codes.append(chosen)
    return np.stack(codes, axis=1)


@dataclass(frozen=True)
class PathTrees:
    """A tree base model of a hierarchy.

    Attributes
    ----------
    name : str
    booster : Booster
        Raw sums: the logits of all labels of the first levels, level after level.
    columns : sequence of int
        Columns of the features that it reads, in its order.
    constants : ndarray of shape (labels of the deeper levels,), float32
        Their logits; empty where the booster answers all levels.
    """

    name: str
    booster: lgb.Booster
    columns: Sequence[int]
    constants: NDArray[np.float32]

    @property
    def n_logits(self) -> int:
        """Logits that the booster gives."""
        return self.booster.num_model_per_iteration()

    def logits(self, features: NDArray[np.float32], *, threads: int = 0) -> Array:
        """Logits of all labels, shape (n, labels of all levels), from features of shape (n, F)."""
        sums = self.booster.predict(features[:, list(self.columns)], raw_score=True, num_threads=threads)
        learned = np.reshape(np.asarray(sums, dtype=np.float64), (len(features), -1))
        constants = np.broadcast_to(self.constants.astype(np.float64), (len(features), len(self.constants)))
        return np.concatenate([learned, constants], axis=1)


def classify(
    trees: PathTrees,
    features: NDArray[np.float32],
    parents: Sequence[Sequence[int] | Codes],
    *,
    threads: int = 0,
) -> list[Array]:
    """Joint probabilities of each level, shape (n, labels), by one tree base model."""
    ends = np.cumsum([len(above) for above in parents])[:-1]
    levels = np.split(trees.logits(features, threads=threads), ends, axis=1)
    return joint([sibling_softmax(*of_level) for of_level in zip(levels, parents, strict=True)], parents)


@dataclass(frozen=True)
class PathAnswers:
    """What an ensemble says of n rows.

    Attributes
    ----------
    raw, calibrated : list of ndarray of shape (n, labels)
        Joint probabilities of each level before and after calibration; the same without a calibrator.
    alpha : ndarray of shape (n, bases)
        Weights of the base models.
    path : ndarray of shape (n, levels), int64
        Codes of the path that `decode` reads from the calibrated probabilities.
    """

    raw: list[Array]
    calibrated: list[Array]
    alpha: Array
    path: Codes


@dataclass(frozen=True)
class PathEnsemble:
    """Tree base models, the transformer (whose answers are passed in), blender and calibrator.

    Attributes
    ----------
    classifiers : list of PathTrees
        In the order of the blender's outputs, of which the last is the transformer's.
    blender : Booster
        Raw scores from the context, one per base model.
    calibrator : HierarchyCalibrator or None
        None before calibration.
    hierarchy : Hierarchy

    Raises
    ------
    ValueError
        If labels, names or outputs do not fit each other.
    """

    classifiers: list[PathTrees]
    blender: lgb.Booster
    calibrator: HierarchyCalibrator | None
    hierarchy: Hierarchy

    def __post_init__(self) -> None:
        if len(set(self.bases)) != len(self.bases):
            raise ValueError(f"the base models {', '.join(self.bases)} need distinct names")
        sizes = self.hierarchy.sizes
        ends = np.cumsum(sizes).tolist()
        for trees in self.classifiers:
            labels = trees.n_logits + len(trees.constants)
            if labels != ends[-1] or trees.n_logits not in ends:
                raise ValueError(
                    f"base model {trees.name} has {trees.n_logits} logits and {len(trees.constants)} "
                    f"constants for levels of {list(sizes)} labels: it was trained for another taxonomy; "
                    "train it again"
                )
            if not np.isfinite(trees.constants).all():
                raise ValueError(f"a constant of base model {trees.name} is not finite; train it again")
            if trees.booster.num_feature() != len(trees.columns):
                raise ValueError(
                    f"base model {trees.name} reads {trees.booster.num_feature()} features, but "
                    f"{len(trees.columns)} columns are given; train it again on the present features"
                )
        weighed = self.blender.num_model_per_iteration()
        if weighed != len(self.bases):
            raise ValueError(
                f"the blender weighs {weighed} base models, but there are {len(self.bases)} "
                f"({', '.join(self.bases)}); train the blender again"
            )
        if self.calibrator is not None:
            known = tuple(tuple(level.parents.tolist()) for level in self.calibrator.levels)
            if known != self.hierarchy.parents:
                raise ValueError(
                    f"the calibrator has levels of {[len(level) for level in known]} labels, the taxonomy of "
                    f"{list(sizes)}, or other parents: it was fitted for another taxonomy; calibrate again"
                )

    @property
    def bases(self) -> tuple[str, ...]:
        """Names of the base models, in the order of the weights."""
        return (*(trees.name for trees in self.classifiers), TRANSFORMER)

    def classify(self, trees: PathTrees, features: NDArray[np.float32], *, threads: int = 0) -> list[Array]:
        """One tree base model's answer.

        Parameters
        ----------
        trees : PathTrees
        features : ndarray of shape (n, F), float32
        threads : int
            Of LightGBM; 0 for all.

        Returns
        -------
        list of ndarray of shape (n, labels)
            Joint probabilities of each level.
        """
        return classify(trees, features, self.hierarchy.parents, threads=threads)

    def blend(
        self,
        per_base: Mapping[str, Sequence[NDArray[Any]]],
        context: NDArray[np.float32],
        *,
        threads: int = 0,
    ) -> tuple[list[Array], Array]:
        """Weighted means of the base models' answers.

        Parameters
        ----------
        per_base : mapping of base to sequence of ndarray of shape (n, labels)
            Joint probabilities of each level, for each of `bases`.
        context : ndarray of shape (n, C), float32
        threads : int
            Of LightGBM; 0 for all.

        Returns
        -------
        tuple of (list of ndarray of shape (n, labels), ndarray of shape (n, bases))
            Joint probabilities of each level before calibration, and the weights.

        Raises
        ------
        ValueError
            If the base models are not those of the blender, or an answer has another shape.
        """
        if set(per_base) != set(self.bases):
            raise ValueError(
                f"answers of {', '.join(per_base)} for a blend of {', '.join(self.bases)}: train the blender "
                "again, or pass the answers of its base models"
            )
        expected = [(len(context), size) for size in self.hierarchy.sizes]
        for name, levels in per_base.items():
            if (shapes := [level.shape for level in levels]) != expected:
                raise ValueError(f"the answers of {name} have the shapes {shapes}, not {expected}")
        scores = np.asarray(self.blender.predict(context, raw_score=True, num_threads=threads))
        alpha = softmax(scores.reshape(len(context), -1), axis=1)
        raw = [
            np.einsum("nk,knl->nl", alpha, np.stack([per_base[name][level] for name in self.bases]))
            for level in range(len(expected))
        ]
        return raw, alpha

    def predict(
        self,
        features: NDArray[np.float32],
        context: NDArray[np.float32],
        transformer: Sequence[NDArray[Any]],
        *,
        threads: int = 0,
    ) -> PathAnswers:
        """The whole answer.

        Parameters
        ----------
        features : ndarray of shape (n, F), float32
        context : ndarray of shape (n, C), float32
        transformer : sequence of ndarray of shape (n, labels)
            The transformer's joint probabilities of each level.
        threads : int
            Of LightGBM; 0 for all.
        """
        per_base: dict[str, Sequence[NDArray[Any]]] = {
            trees.name: self.classify(trees, features, threads=threads) for trees in self.classifiers
        }
        raw, alpha = self.blend({**per_base, TRANSFORMER: transformer}, context, threads=threads)
        calibrated = raw if self.calibrator is None else self.calibrator.apply(raw)
        return PathAnswers(raw, calibrated, alpha, decode(calibrated, self.hierarchy.parents))
