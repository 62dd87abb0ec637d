"""Export of one hierarchy variable in three precisions, with its proofs: leaf equality, parity, latency."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from perceive.encoder import TextTokenizer
from perceive.export import PRECISIONS
from perceive.export.graph import (
    BLENDER,
    EXACT_CONFIG,
    _leaf_shares,
    compile_exact,
    save_ir,
    timed_in_turns,
)
from perceive.export.paths import attach, placed_trees
from perceive.export.report import (
    LIMITS,
    SAME_PATH,
    ExportError,
    adversarial,
    ir_bytes,
    judge_parity,
    measured_on,
)
from perceive.path_ensemble import PathAnswers, PathEnsemble
from perceive.torch_runs import torch_threads
from perceive.transformer.backbone import Backbone
from perceive.transformer.export import (
    Inputs,
    answers,
    ask_graph,
    ask_torch,
    batch_inputs,
    build_graph,
    compressed,
)
from perceive.transformer.model import Hierarchy, TopTransformer

log = logging.getLogger(__name__)

BATCHES = (1, 8)


def export_paths(
    variable: str,
    model: TopTransformer,
    backbone: Backbone,
    tokenizer: TextTokenizer,
    ensemble: PathEnsemble,
    texts: Sequence[str],
    features: NDArray[np.float32],
    context: NDArray[np.float32],
    feature_names: Sequence[str],
    context_names: Sequence[str],
    folder: str | Path,
    settings: Mapping[str, Any],
    *,
    threads: int,
    rng: np.random.Generator,
    precisions: Sequence[str] = PRECISIONS,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write ``{fp32,fp16,int8}/model.xml`` below ``folder`` and prove them.

    Parameters
    ----------
    variable : str
    model : TopTransformer
        Of the ensemble's hierarchy. The names of its extra inputs are names of features.
    backbone, tokenizer
        Of the encoder.
    ensemble : PathEnsemble
        With its calibrator.
    texts : sequence of str
        Ordinary rows for parity and latency, with
    features, context : ndarray of shape (texts, F) and (texts, C), float32
        which are the base of the adversarial rows as well.
    feature_names, context_names : sequence of str
        Columns of the two.
    folder : str or Path
    settings : mapping
        The ``export`` slice of the configuration.
    threads : int
        Of torch, LightGBM and OpenVINO.
    rng : Generator
        Draws the adversarial rows.
    precisions : sequence of str
        Out of `PRECISIONS`.

    Returns
    -------
    tuple of (dict, dict)
        Contents of ``parity.json`` and ``latency.json``. The first has, for each of ``precisions``, against
        the Python pipeline: ``rows``, ``rmse`` and ``max_abs`` of the calibrated probabilities of all levels,
        ``rmse_raw``, ``same_path`` (share of the rows with the same path), ``same_LEVEL``,
        ``leaf_equality`` (by rows, then by ensemble of trees), ``bytes`` and whether it ``passes``; and in
        ``smallest`` the smallest precision that does.

    Raises
    ------
    ExportError
        As of :func:`perceive.export.report.judge_parity`.
    ValueError
        If the parts do not fit each other.
    """
    if not len(texts) == len(features) == len(context):
        raise ValueError(f"{len(texts)} texts, {len(features)} rows of features, {len(context)} of context")
    extra_columns = _extra_columns(model, feature_names)
    with torch_threads(threads):
        extra = {"extra": features[:, extra_columns]}
        of_transformer = answers(ask_torch(model, backbone), tokenizer, texts, extra)
    expected = ensemble.predict(features, context, of_transformer, threads=threads)
    trees = placed_trees(ensemble, len(feature_names), len(context_names))
    whole = build_graph(model, backbone)
    paths: dict[str, Path] = {}
    found: dict[str, dict[str, Any]] = {}
    for precision in precisions:
        path = paths[precision] = Path(folder) / precision / "model.xml"
        graph = attach(
            variable,
            compressed(whole, precision),
            extra_columns,
            ensemble,
            trees,
            feature_names,
            context_names,
            precision,
        )
        save_ir(graph, path)
        ask = ask_graph(compile_exact(ov.Core(), path, threads=threads))
        outputs = answers(ask, tokenizer, texts, {"features": features, "context": context})
        found[precision] = _difference(expected, outputs, ensemble.hierarchy)
        found[precision]["bytes"] = ir_bytes(path)
        log.info("%s, %s: largest difference %.1e", variable, precision, found[precision]["max_abs"])

    bases = [(of_one.name, of_one.booster, of_one.columns) for of_one in ensemble.classifiers]
    hard = adversarial(bases, ensemble.blender, features, context, settings["adversarial_rows"], rng)
    leaf_rows = {"val": (features, context), "adversarial": hard}
    for name, rows in leaf_rows.items():
        try:
            shares = _leaf_shares(list(paths.values()), trees, bases, ensemble.blender, *rows)
        except ValueError as error:
            raise ExportError(f"the IR of {variable} cannot be compared with LightGBM: {error}") from error
        for precision, of_precision in zip(paths, shares, strict=True):
            found[precision].setdefault("leaf_equality", {})[name] = of_precision
    smallest = judge_parity(variable, found, settings)
    proof = {
        "variable": variable,
        "compile": EXACT_CONFIG,
        "limit_rmse": {name: settings[name] for name in LIMITS},
        "limit_same_path": SAME_PATH,
        "leaf_rows": {name: len(rows[0]) for name, rows in leaf_rows.items()},
        "trees": {
            name: booster.num_trees() for name, booster, _ in [*bases, (BLENDER, ensemble.blender, ())]
        },
        "precisions": found,
        "smallest": smallest,
    }
    times = _latency(
        paths,
        _reference(model, backbone, ensemble, extra_columns, threads),
        tokenizer,
        texts,
        {"features": features, "context": context},
        repeats=settings["latency_repeats"],
        threads=threads,
    )
    report = {
        "variable": variable,
        "scope": "token ids, features and context in, calibrated probabilities and path out",
        "reference": "the whole encoder in torch and LightGBM's predicts; no blend and no calibration",
        "compile": EXACT_CONFIG,
        "threads": threads,
        **measured_on(),
        "batch": times,
    }
    return proof, report


def _extra_columns(model: TopTransformer, feature_names: Sequence[str]) -> list[int]:
    place = {name: column for column, name in enumerate(feature_names)}
    if unknown := [name for name in model.shape.extra if name not in place]:
        raise ValueError(
            f"the transformer reads {', '.join(unknown)}, which are no features; train it again on the "
            "present features"
        )
    return [place[name] for name in model.shape.extra]


def _difference(
    expected: PathAnswers, outputs: Sequence[NDArray[Any]], hierarchy: Hierarchy
) -> dict[str, Any]:
    """Of a graph's outputs, in their order, from what Python answers."""
    n_levels = len(hierarchy.levels)

    def errors(ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        return np.concatenate(ours, axis=1).astype(np.float64) - np.concatenate(theirs, axis=1)

    calibrated = errors(outputs[:n_levels], expected.calibrated)
    raw = errors(outputs[n_levels : 2 * n_levels], expected.raw)
    same = outputs[2 * n_levels] == expected.path
    return {
        "rows": len(calibrated),
        "rmse": float(np.sqrt(np.mean(calibrated**2))),
        "max_abs": float(np.abs(calibrated).max()),
        "rmse_raw": float(np.sqrt(np.mean(raw**2))),
        "same_path": float(same.all(axis=1).mean()),
        **{f"same_{name}": float(same[:, level].mean()) for level, name in enumerate(hierarchy.levels)},
    }


def _reference(
    model: TopTransformer,
    backbone: Backbone,
    ensemble: PathEnsemble,
    extra_columns: Sequence[int],
    threads: int,
) -> Callable[[Inputs], Any]:
    """What the graph is timed against: the models alone, as Python would call them."""
    transformer = ask_torch(model, backbone)
    columns = list(extra_columns)

    def ask(inputs: Inputs) -> list[Any]:
        features = inputs["features"]
        tokens = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        scores: list[Any] = [
            trees.booster.predict(features[:, list(trees.columns)], raw_score=True, num_threads=threads)
            for trees in ensemble.classifiers
        ]
        scores.append(ensemble.blender.predict(inputs["context"], raw_score=True, num_threads=threads))
        return [*transformer({**tokens, "extra": features[:, columns]}), *scores]

    return ask


def _latency(
    paths: Mapping[str, Path],
    reference: Callable[[Inputs], Any],
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    others: Mapping[str, NDArray[np.float32]],
    *,
    repeats: int,
    threads: int,
) -> dict[str, dict[str, dict[str, float]]]:
    """``result[str(batch)][name]`` as of `timed_in_turns`; ``ratio`` is a median by that of the reference.

    Each call gets other texts, so that their lengths are mixed as in use.
    """
    ids = tokenizer.ids(texts)
    result: dict[str, dict[str, dict[str, float]]] = {}
    with torch_threads(threads):
        for batch in (size for size in BATCHES if size <= len(texts)):
            inputs = []
            for number in range(max(10, int(repeats / batch**0.5))):
                rows = (number * batch + np.arange(batch)) % len(texts)
                inputs.append(batch_inputs(tokenizer, [ids[row] for row in rows], others, rows))
            contenders: dict[str, Callable[[Inputs], Any]] = {}
            for precision, path in paths.items():
                compiled = compile_exact(ov.Core(), path, batch=1 if batch == 1 else None, threads=threads)
                contenders[precision] = partial(compiled.create_infer_request().infer, share_inputs=True)
            times = timed_in_turns({**contenders, "reference": reference}, inputs, batch)
            for precision in paths:
                times[precision]["ratio"] = times[precision]["p50_ms"] / times["reference"]["p50_ms"]
            result[str(batch)] = times
    return result


def export_regressor(
    variable: str,
    model: TopTransformer,
    backbone: Backbone,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    extra: NDArray[np.float32],
    folder: str | Path,
    settings: Mapping[str, Any],
    *,
    threads: int,
    precisions: Sequence[str] = PRECISIONS,
) -> dict[str, Any]:
    """Write ``{fp32,fp16,int8}/model.xml`` of a scale's transformer below ``folder``, and measure them.

    Parameters
    ----------
    texts : sequence of str
        Ordinary rows, with their
    extra : ndarray of shape (texts, extra inputs), float32

    Returns
    -------
    dict
        Contents of ``parity.json``: ``precisions``, each with ``rows, rmse, max_abs, bytes`` and whether it
        ``passes``, and the ``smallest`` that does.

    Raises
    ------
    ExportError
        As of :func:`perceive.export.report.judge_parity`.
    """
    others = {"extra": extra} if model.shape.extra else {}
    with torch_threads(threads):
        (expected,) = answers(ask_torch(model, backbone), tokenizer, texts, others)
        whole = build_graph(model, backbone)
    found: dict[str, dict[str, Any]] = {}
    for precision in precisions:
        path = Path(folder) / precision / "model.xml"
        save_ir(compressed(whole, precision), path)
        ask = ask_graph(compile_exact(ov.Core(), path, threads=threads))
        errors = answers(ask, tokenizer, texts, others)[0].astype(np.float64) - expected
        found[precision] = {
            "rows": len(errors),
            "rmse": float(np.sqrt(np.mean(errors**2))),
            "max_abs": float(np.abs(errors).max()),
            "bytes": ir_bytes(path),
        }
    return {
        "variable": variable,
        "compile": EXACT_CONFIG,
        "limit_rmse": {name: settings[name] for name in LIMITS},
        "smallest": judge_parity(f"the transformer of {variable}", found, settings),
        "precisions": found,
    }
