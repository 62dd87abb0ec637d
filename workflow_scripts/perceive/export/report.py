"""Export of one regression variable with its proofs: leaf equality, parity, latency."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov

from perceive.boosters import lgb
from perceive.ensemble import RegressionEnsemble
from perceive.export import PRECISIONS
from perceive.export.graph import (
    EXACT_CONFIG,
    _leaf_shares,
    _placed,
    build_variable_model,
    latency,
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


LIMITS = ("parity_rmse", "compressed_parity_rmse")
"""Settings: the largest RMSE of fp32, and of the other precisions."""
SAME_PATH = 0.99
"""Share of the rows whose path a smaller precision must keep."""


class ExportError(RuntimeError):
    """The exported model does not answer as the trained one does."""


def judge_parity(name: str, found: Mapping[str, dict[str, Any]], settings: Mapping[str, Any]) -> str:
    """Mark each precision with ``passes``, and tell the smallest that does.

    Parameters
    ----------
    name : str
        Of what was exported, for messages.
    found : mapping of precision to dict
        Each with ``rmse``, ``bytes`` and, where there are trees or paths, ``leaf_equality`` (by
        kind of rows, then by ensemble), ``adversarial`` (``rmse`` on these rows), ``same_path`` (share).
    settings : mapping
        `LIMITS`; they hold on ordinary and adversarial rows.

    Raises
    ------
    ExportError
        If a leaf differs from LightGBM's in any precision, or fp32 does not pass.
    """
    for precision, of_one in found.items():
        for rows, shares in of_one.get("leaf_equality", {}).items():
            if wrong := [f"{trees} {share:.4%}" for trees, share in shares.items() if share != 1]:
                raise ExportError(
                    f"the {precision} IR of {name} walks to other leaves than LightGBM on the {rows} rows: "
                    f"{', '.join(wrong)}"
                )
        rmse = max(of_one["rmse"], of_one.get("adversarial", of_one)["rmse"])
        limit = settings["parity_rmse" if precision == "fp32" else "compressed_parity_rmse"]
        of_one["passes"] = rmse <= limit and of_one.get("same_path", 1.0) >= SAME_PATH
        if of_one["passes"]:
            continue
        if precision == "fp32":
            raise ExportError(
                f"the fp32 IR of {name} differs from its models: RMSE {rmse:.1e} (at most {limit}), "
                f"{of_one.get('same_path', 1.0):.2%} of the paths the same"
            )
        log.warning("%s: %s does not pass (RMSE %.1e) and is not proposed", name, precision, rmse)
    return min((one for one in found if found[one]["passes"]), key=lambda one: int(found[one]["bytes"]))


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
    folder: str | Path,
    settings: Mapping[str, Any],
    *,
    rng: np.random.Generator,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write ``{fp32,fp16,int8}/model.xml`` of a scale's trees, blend and calibrator, and prove them.

    Parameters
    ----------
    variable : str
    ensemble : RegressionEnsemble
        With its calibrator.
    features, context : ndarray of shape (n, columns of the ensemble) and (n, 9), float32
        Ordinary rows for parity and latency, and the base of the adversarial ones.
    folder : str or Path
    settings : mapping
        The ``export`` slice of the configuration.
    rng : Generator
        Draws the adversarial rows.

    Returns
    -------
    tuple of (dict, dict)
        Contents of ``parity.json`` and ``latency.json``. The first has, for each precision against the
        Python pipeline, ``rows``, ``rmse``, ``max_abs``, the same of the ``adversarial`` rows,
        ``leaf_equality`` by ensemble of trees, ``bytes`` and whether it ``passes``; and in ``smallest`` the
        smallest precision that does.

    Raises
    ------
    ExportError
        As of `judge_parity`.
    """
    if ensemble.calibrator is None:
        raise ValueError("only a calibrated ensemble is exported")
    bases: list[tuple[str, lgb.Booster, Any]] = [
        (name, booster, ensemble.base_columns(name)) for name, booster in ensemble.bases.items()
    ]
    calibrator = ensemble.calibrator
    paths = {precision: Path(folder) / precision / "model.xml" for precision in PRECISIONS}
    for precision, path in paths.items():
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
            precision=precision,
        )
        save_ir(model, path)

    def python_predict(features: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        assert context is not None
        return ensemble.predict(features, context)["calibrated"].to_numpy()

    hard = adversarial(bases, ensemble.blender, features, context, settings["adversarial_rows"], rng)
    if ensemble.network:
        # No tree tests it: it is an answer in 0..1, and what is neither would only spread through the sums.
        hard[0][:, -1] = rng.choice(features[:, -1], len(hard[0]))
    placed, _ = _placed(bases, ensemble.blender, features.shape[1], context.shape[1])
    try:
        shares = _leaf_shares(list(paths.values()), placed, bases, ensemble.blender, *hard)
    except ValueError as error:
        raise ExportError(f"the IR of {variable} cannot be compared with LightGBM: {error}") from error
    expected = {"val": python_predict(features, context), "adversarial": python_predict(*hard)}
    found: dict[str, dict[str, Any]] = {}
    for (precision, path), leaves in zip(paths.items(), shares, strict=True):
        found[precision] = {
            **parity(path, expected["val"], features, context),
            "adversarial": parity(path, expected["adversarial"], *hard),
            "leaf_equality": {"adversarial": leaves},
            "bytes": ir_bytes(path),
        }
        log.info(
            "%s, %s: RMSE %.1e, %d kB",
            variable, precision, found[precision]["rmse"], found[precision]["bytes"] // 1000,
        )  # fmt: skip
    smallest = judge_parity(variable, found, settings)
    proof: dict[str, Any] = {
        "variable": variable,
        "limit_rmse": {name: settings[name] for name in LIMITS},
        "leaf_rows": {"adversarial": len(hard[0])},
        "trees": {
            name: booster.num_trees()
            for name, booster in [*ensemble.bases.items(), ("blender", ensemble.blender)]
        },
        "precisions": found,
        "smallest": smallest,
    }
    timed = latency(
        paths,
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
        "scope": "features in, calibrated answer out: trees, blend and calibrator, without the encoder",
        "compile": EXACT_CONFIG,
        **measured_on(),
        "batch": timed,
    }
    return proof, report
