"""The recurrent regressor as OpenVINO IR.

Inputs ``sequence`` (float32 [n, t, columns], in the order of time, whatever after an item's own step) and
``lengths`` (int64 [n], items of each window); output ``scale`` [n, 1]. The graph holds no state: whoever
serves passes the window each time, so that two servers, or one after a restart, give the same answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import torch
from numpy.typing import NDArray

from perceive.export import PRECISIONS
from perceive.export.graph import EXACT_CONFIG, compile_exact, save_ir
from perceive.export.report import LIMITS, ir_bytes, judge_parity
from perceive.sequence.model import GruRegressor
from perceive.sequence.training import PREDICTED_AT_ONCE, Rows, batch, predict
from perceive.sequence.windows import Timelines
from perceive.transformer.export import compressed

_WEIGHTS, _RECURRENT_WEIGHTS = 3, 4
"""Inputs of the operation GRUSequence (OpenVINO's operation set 5)."""


def build_graph(model: GruRegressor) -> ov.Model:
    """Convert to OpenVINO, in float32; see the module for inputs and outputs."""
    shape = model.shape
    example = {
        "sequence": torch.zeros(2, 3, len(shape.columns)),
        "lengths": torch.tensor([1, 3]),
    }
    with torch.no_grad():
        graph = ov.convert_model(model.eval(), example_input=example)
    for port, name in zip(graph.inputs, example, strict=True):
        port.get_tensor().set_names({name})
    graph.reshape({"sequence": [-1, -1, len(shape.columns)], "lengths": [-1]})
    (port,) = graph.outputs
    port.get_tensor().set_names({"scale"})
    about: dict[str, Any] = {"columns": list(shape.columns), "length": shape.length}
    for key, value in about.items():
        graph.set_rt_info(json.dumps(value), ["perceive", key])
    return graph


def recurrent_weights_to_int8(graph: ov.Model) -> ov.Model:
    """Store the weights of the GRU as int8 with a scale for each row, in place: nncf leaves them as they are.

    Symmetric, as nncf does for other layers; the plugin widens them when it compiles the graph.
    """
    for operation in graph.get_ops():
        if operation.get_type_name() != "GRUSequence":
            continue
        for port in (_WEIGHTS, _RECURRENT_WEIGHTS):
            values = _constant(operation.input_value(port))
            scale = np.maximum(np.abs(values).max(axis=-1, keepdims=True), 1e-12) / 127
            stored = ops.constant(np.round(values / scale).astype(np.int8))
            widened = ops.multiply(ops.convert(stored, np.float32), ops.constant(scale.astype(np.float32)))
            operation.input(port).replace_source_output(widened.output(0))
    graph.validate_nodes_and_infer_types()
    return graph


def _constant(output: ov.Output) -> NDArray[np.float64]:
    """Value of a constant, behind the conversion that widens a stored fp16."""
    node = output.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        raise ValueError(f"the weights of the GRU are a {node.get_type_name()}, not a constant")
    return np.asarray(node.data, dtype=np.float64)


def ask(compiled: ov.CompiledModel, timelines: Timelines, rows: Rows, length: int) -> NDArray[np.float32]:
    """A compiled graph's answers for some rows, shape (rows,)."""
    request = compiled.create_infer_request()
    result = np.zeros(len(rows), dtype=np.float32)
    for start in range(0, len(rows), PREDICTED_AT_ONCE):
        sequence, lengths = batch(timelines, rows[start : start + PREDICTED_AT_ONCE], length)
        answer = request.infer({"sequence": sequence, "lengths": lengths})
        result[start : start + len(lengths)] = answer["scale"][:, 0]
    return result


def export_sequence(
    variable: str,
    model: GruRegressor,
    timelines: Timelines,
    rows: Rows,
    folder: str | Path,
    settings: Mapping[str, Any],
    *,
    threads: int,
    precisions: Sequence[str] = PRECISIONS,
) -> dict[str, Any]:
    """Write ``{fp32,fp16,int8}/model.xml`` of a variable's GRU below ``folder``, and measure them.

    Parameters
    ----------
    timelines : Timelines
    rows : ndarray of int
        Ordinary rows.

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
    expected = predict(model, timelines, rows, threads=threads)
    whole = build_graph(model)
    found: dict[str, dict[str, Any]] = {}
    for precision in precisions:
        path = Path(folder) / precision / "model.xml"
        graph = compressed(whole, precision)
        save_ir(recurrent_weights_to_int8(graph) if precision == "int8" else graph, path)
        compiled = compile_exact(ov.Core(), path, threads=threads)
        errors = ask(compiled, timelines, rows, model.shape.length).astype(np.float64) - expected
        found[precision] = {
            "rows": len(errors),
            "rmse": float(np.sqrt(np.mean(errors**2))),
            "max_abs": float(np.abs(errors).max()),
            "bytes": ir_bytes(path),
        }
    return {
        "variable": variable,
        "compile": EXACT_CONFIG,
        "state": "none: the caller passes the window each time",
        "limit_rmse": {name: settings[name] for name in LIMITS},
        "smallest": judge_parity(f"the GRU of {variable}", found, settings),
        "precisions": found,
    }
