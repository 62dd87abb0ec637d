"""One graph for the heads of several variables: all that comes after the encoder and the networks.

Trees, blends, calibration and decoding of all variables that can be answered at once. Tree ensembles that
read the same matrix walk down together, whatever variable they belong to, so that the number of operations
hardly grows with the number of variables. Where a variable reads the answers of another one, those of its
trees that do so walk in a second round.

Inputs, float32: ``features`` [?, F], ``context`` [?, C], ``VARIABLE/network`` [?, columns] (what the
variable's transformer or GRU answers) and, where a head reads answers that are no part of the graph,
``upstream`` [?, U]. Outputs: of a scale ``VARIABLE/calibrated`` and ``VARIABLE/raw`` [?, 1]; of a hierarchy
``VARIABLE/p`` and ``VARIABLE/raw`` [?, labels of all levels] and ``VARIABLE/path`` int64 [?, levels].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from perceive.boosters import lgb
from perceive.ensemble import RegressionEnsemble
from perceive.export import graph, paths
from perceive.export.graph import Forest, _described, _int, _ints, _knots, _model, lower_forest
from perceive.export.trees import TreeEnsemble
from perceive.path_ensemble import PathEnsemble


@dataclass(frozen=True)
class Head:
    """A variable as it comes after its network.

    Attributes
    ----------
    name : str
    ensemble : RegressionEnsemble or PathEnsemble
        Calibrated, with a network.
    columns : tuple of str
        Names of the columns of the ensemble's own matrix.
    answers : tuple of str
        Names under which others read what it answers: its raw value, or the first level's probabilities.
    """

    name: str
    ensemble: RegressionEnsemble | PathEnsemble
    columns: tuple[str, ...]
    answers: tuple[str, ...]

    @property
    def width(self) -> int:
        """Columns of what its network answers."""
        return 1 if isinstance(self.ensemble, RegressionEnsemble) else sum(self.ensemble.hierarchy.sizes)

    def parts(self) -> list[tuple[lgb.Booster, tuple[str, ...] | None]]:
        """Base models with the columns that they read, and the blender, which reads the context."""
        ensemble = self.ensemble
        found: list[tuple[lgb.Booster, tuple[str, ...] | None]]
        if isinstance(ensemble, RegressionEnsemble):
            found = [(booster, tuple(booster.feature_name())) for booster in ensemble.bases.values()]
        else:
            found = [
                (trees.booster, tuple(self.columns[column] for column in trees.columns))
                for trees in ensemble.classifiers
            ]
        return [*found, (ensemble.blender, None)]


def build_heads(
    heads: Sequence[Head],
    features: Sequence[str],
    context: Sequence[str],
    upstream: Sequence[str] = (),
    *,
    name: str = "heads",
    precision: str = "fp32",
) -> ov.Model:
    """Build the graph; see the module for its inputs and outputs.

    Parameters
    ----------
    heads : sequence of Head
        Each after those that it reads.
    features, context : sequence of str
        Names of the columns of these inputs.
    upstream : sequence of str
        Names of answers of variables that are no part of the graph.
    name : str
    precision : str
        Of the trees' leaves: see :func:`perceive.export.graph.lower_forest`.

    Raises
    ------
    ValueError
        If a head reads a column that there is not, or is not calibrated.
    perceive.export.trees.UnsupportedModelError
        A booster that cannot be lowered exactly.
    """
    inputs = {
        "features": ops.parameter([-1, len(features)], np.float32, name="features"),
        "context": ops.parameter([-1, len(context)], np.float32, name="context"),
    }
    if upstream:
        inputs["upstream"] = ops.parameter([-1, len(upstream)], np.float32, name="upstream")
    known = [*features, *(f"context {column}" for column in context), *upstream]
    matrix = ops.concat([port.output(0) for port in inputs.values()], 1).output(0)
    for head in heads:
        inputs[f"{head.name}/network"] = ops.parameter([-1, head.width], np.float32)

    # Boosters by head, with the columns that they read by the names of the wide matrix.
    waiting: dict[tuple[str, int], tuple[TreeEnsemble, list[str]]] = {}
    for head in heads:
        for place, (booster, columns) in enumerate(head.parts()):
            read = [f"context {column}" for column in context] if columns is None else list(columns)
            waiting[head.name, place] = (TreeEnsemble.from_lightgbm(booster), read)
    sums: dict[tuple[str, int], ov.Output] = {}
    outputs: dict[str, ov.Output] = {}
    open_heads = list(heads)
    while open_heads:
        index = {column: place for place, column in enumerate(known)}
        ready = [key for key, (_, read) in waiting.items() if all(column in index for column in read)]
        if not ready:
            (head_name, _), (_, read) = next(iter(waiting.items()))
            raise ValueError(
                f"{head_name} reads {next(column for column in read if column not in index)}, which neither "
                "the features nor an earlier variable have"
            )
        placed = []
        for key in ready:
            trees, read = waiting.pop(key)
            placed.append(trees.on_columns([index[column] for column in read], len(known)))
        of_round = lower_forest(Forest.of(placed), matrix, precision)
        parts = ops.variadic_split(of_round, _int(1), _ints([trees.n_outputs for trees in placed])).outputs()
        for key, trees, part in zip(ready, placed, parts, strict=True):
            sums[key] = part if key[1] == _blender_place(heads, key[0]) else graph._transformed(trees, part)
        answered: list[ov.Output] = []
        for head in list(open_heads):
            places = range(len(head.parts()))
            if all((head.name, place) in sums for place in places):
                of_head = _finished(
                    head,
                    [sums[head.name, place] for place in places],
                    inputs[f"{head.name}/network"].output(0),
                )
                outputs |= {f"{head.name}/{key}": value for key, value in of_head.items()}
                answered.append(_first(of_head["raw"], len(head.answers)))
                known += head.answers
                open_heads.remove(head)
        if answered:
            matrix = ops.concat([matrix, *answered], 1).output(0)
    model = _model(inputs, outputs, name)
    about: Mapping[str, Sequence[str]] = {
        "features": features,
        "context": context,
        "upstream": upstream,
        "variables": [head.name for head in heads],
    }
    return _described(model, name, about)


def _blender_place(heads: Sequence[Head], name: str) -> int:
    return next(len(head.parts()) - 1 for head in heads if head.name == name)


def _first(values: ov.Output, count: int) -> ov.Output:
    return ops.gather(values, _ints(range(count)), _int(1)).output(0)


def _finished(head: Head, sums: Sequence[ov.Output], network: ov.Output) -> dict[str, ov.Output]:
    """Answers of one variable from the sums of its trees, the blender's last, and what its network says."""
    *of_bases, scores = sums
    ensemble = head.ensemble
    alpha = ops.softmax(scores, 1).output(0)
    if isinstance(ensemble, RegressionEnsemble):
        if ensemble.calibrator is None:
            raise ValueError(f"{head.name} is not calibrated")
        knots = _knots(ensemble.calibrator.x, ensemble.calibrator.y)
        bases = ops.concat([*of_bases, network], 1)
        raw = ops.reduce_sum(ops.multiply(alpha, bases), _ints([1]), keep_dims=True).output(0)
        return {"calibrated": graph._calibrated(raw, *knots), "raw": raw}
    if ensemble.calibrator is None:
        raise ValueError(f"{head.name} is not calibrated")
    hierarchy = ensemble.hierarchy
    levels = [
        paths._classified(of_one, classifier, hierarchy)
        for of_one, classifier in zip(of_bases, ensemble.classifiers, strict=True)
    ]
    blended = paths._blended([*levels, paths._split(network, hierarchy.sizes)], alpha, hierarchy)
    calibrated = paths._calibrated(blended, ensemble.calibrator)
    return {
        "p": ops.concat(calibrated, 1).output(0),
        "raw": ops.concat(blended, 1).output(0),
        "path": paths._decoded(calibrated, hierarchy),
    }
