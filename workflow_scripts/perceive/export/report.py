"""Export of one regression variable with its proofs: leaf equality, parity, latency."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightgbm as lgb
import numpy as np
import openvino as ov

from perceive.ensemble import RegressionEnsemble
from perceive.export.graph import (
    EXACT_CONFIG,
    build_variable_model,
    latency,
    leaf_equality,
    lightgbm_predicts,
    parity,
    save_ir,
)
from perceive.export.trees import TreeEnsemble, adversarial_rows
from perceive.features.matrix import CONTEXT

if TYPE_CHECKING:
    from perceive.export.graph import Base

log = logging.getLogger(__name__)

BATCHES = (1, 8, 64, 512)


class ExportError(RuntimeError):
    """The exported model does not answer as the trained one does."""


def adversarial(
    bases: Sequence[Base],
    blender: lgb.Booster,
    features: np.ndarray,
    context: np.ndarray,
    rows: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows at the thresholds of every base model and of the blender, ``rows`` in all at most.

    Parameters
    ----------
    bases : sequence of (name, booster, columns)
    blender : Booster
    features, context : ndarray of shape (n, F) and (n, C), float32
        Ordinary rows.
    rows : int
    rng : Generator

    Returns
    -------
    tuple of (ndarray of shape (m, F), ndarray of shape (m, C))
    """
    share = max(1, rows // (len(bases) + 1))
    hard_features, hard_context = [], []
    for _, booster, columns in bases:
        trees = TreeEnsemble.from_lightgbm(booster).on_columns(columns, features.shape[1])
        hard_features.append(adversarial_rows(trees, features, rng, share))
    hard_context.append(adversarial_rows(TreeEnsemble.from_lightgbm(blender), context, rng, share))

    def pair(hard: list[np.ndarray], ordinary: np.ndarray, total: int) -> np.ndarray:
        filler = ordinary[rng.integers(0, len(ordinary), total - sum(map(len, hard)))]
        return np.concatenate([*hard, filler])

    total = sum(map(len, [*hard_features, *hard_context]))
    return pair(hard_features, features, total), pair(hard_context, context, total)[::-1].copy()


def ir_bytes(path: str | Path) -> int:
    """Size of an IR: the .xml and the .bin beside it."""
    return sum(part.stat().st_size for part in (Path(path), Path(path).with_suffix(".bin")))


def measured_on() -> dict[str, Any]:
    """The machine and the libraries of a latency report."""
    core = ov.Core()
    return {
        "device": core.get_property("CPU", "FULL_DEVICE_NAME"),
        "absent_devices": sorted({"GPU", "NPU"} - {name.split(".")[0] for name in core.available_devices}),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "openvino": ov.get_version(),
        "lightgbm": lgb.__version__,
    }


def export_variable(
    variable: str,
    ensemble: RegressionEnsemble,
    features: np.ndarray,
    context: np.ndarray,
    path: str | Path,
    settings: Mapping[str, Any],
    *,
    rng: np.random.Generator,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the fp32 IR of a variable and prove it.

    Parameters
    ----------
    variable : str
    ensemble : RegressionEnsemble
        With its calibrator.
    features, context : ndarray of shape (n, columns of the ensemble) and (n, 9), float32
        Ordinary rows for parity and latency, and the base of the adversarial ones.
    path : str or Path
        The ``.xml`` to write.
    settings : mapping
        The ``export`` slice of the configuration.
    rng : Generator
        Draws the adversarial rows.

    Returns
    -------
    tuple of (dict, dict)
        Contents of ``parity.json`` and ``latency.json``.

    Raises
    ------
    ExportError
        If a leaf differs from LightGBM's, or the answers differ by more than ``parity_rmse``.
    """
    if ensemble.calibrator is None:
        raise ValueError("only a calibrated ensemble is exported")
    bases: list[tuple[str, lgb.Booster, Any]] = [
        (name, booster, ensemble.base_columns(name)) for name, booster in ensemble.bases.items()
    ]
    calibrator = ensemble.calibrator
    model = build_variable_model(
        variable,
        bases,
        ensemble.blender,
        calibrator.x,
        calibrator.y,
        ensemble.columns,
        CONTEXT,
        # The network is a graph of its own.
        {ensemble.network: len(ensemble.columns) - 1} if ensemble.network else None,
    )
    save_ir(model, path)

    def python_predict(features: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        assert context is not None
        return ensemble.predict(features, context)["calibrated"].to_numpy()

    hard = adversarial(bases, ensemble.blender, features, context, settings["adversarial_rows"], rng)
    if ensemble.network:
        # No tree tests it: it is an answer in 0..1, and what is neither would only spread through the sums.
        hard[0][:, -1] = rng.choice(features[:, -1], len(hard[0]))
    try:
        leaves = leaf_equality(path, bases, ensemble.blender, *hard)
    except ValueError as error:
        raise ExportError(f"the IR of {variable} cannot be compared with LightGBM: {error}") from error
    proof: dict[str, Any] = {
        "variable": variable,
        "precision": "fp32",
        "leaf_equality": {"rows": len(hard[0]), **leaves},
        "val": parity(path, python_predict, features, context),
        "adversarial": parity(path, python_predict, *hard),
        "limit_rmse": settings["parity_rmse"],
        "bytes": ir_bytes(path),
        "trees": {
            name: booster.num_trees()
            for name, booster in [*ensemble.bases.items(), ("blender", ensemble.blender)]
        },
    }
    wrong = [f"{name} {share:.4%}" for name, share in leaves.items() if share != 1]
    if wrong:
        raise ExportError(f"the IR of {variable} walks to other leaves than LightGBM: {', '.join(wrong)}")
    for rows in ("val", "adversarial"):
        if not proof[rows]["rmse"] <= settings["parity_rmse"]:
            raise ExportError(
                f"the IR of {variable} differs from its models: RMSE {proof[rows]['rmse']:.2e} on {rows}"
            )
    log.info(
        "%s: every leaf equal on %d adversarial rows, RMSE %.1e", variable, len(hard[0]), proof["val"]["rmse"]
    )

    timed = latency(
        path,
        features,
        context,
        batch_sizes=[size for size in BATCHES if size <= len(features)],
        repeats=settings["latency_repeats"],
        references={
            "lightgbm": lightgbm_predicts(bases, ensemble.blender),
            "lightgbm_one_thread": lightgbm_predicts(bases, ensemble.blender, num_threads=1),
        },
    )
    report = {
        "variable": variable,
        "precision": "fp32",
        "scope": "features in, calibrated answer out: trees, blend and calibrator, without the encoder",
        "compile": EXACT_CONFIG,
        **measured_on(),
        "batch": timed,
    }
    return proof, report
