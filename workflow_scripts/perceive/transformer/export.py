"""One OpenVINO graph of encoder and trained top: from token ids and extra inputs to the answer.

Inputs ``input_ids`` and ``attention_mask`` (int64 [b, t]) and, where the model has any, ``extra`` (float32
[b, extra inputs]). Outputs of a hierarchy: ``p_LEVEL``, joint probabilities of each level, and ``path``, the
codes (int64 [b, levels]) that :func:`perceive.evaluation.hierarchy.decode` gives; of scales: ``scales``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray

from perceive.export.graph import EXACT_CONFIG, compile_exact, save_ir
from perceive.export.report import ExportError
from perceive.transformer.backbone import Backbone, additive_mask, torch_threads
from perceive.transformer.model import Hierarchy, HierarchyHead, TopTransformer
from perceive.transformer.states import TextTokenizer

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16", "int8")
LARGEST_DIFFERENCE = 1e-4
"""Of the fp32 graph's answers from those of torch."""
TOKENS_PER_BATCH = 2048


class WholeTransformer(torch.nn.Module):
    """Encoder and trained top in one module; not for training."""

    def __init__(self, model: TopTransformer, backbone: Backbone) -> None:
        super().__init__()
        self.embeddings = backbone.embeddings
        self.below = backbone.layers[: len(backbone.layers) - model.shape.top_layers]
        self.top = model
        self.eval()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what :meth:`forward` returns."""
        output = self.top.shape.output
        return (
            (*(f"p_{level}" for level in output.levels), "path")
            if isinstance(output, Hierarchy)
            else ("scales",)
        )

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, extra: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        states, attention = self.embeddings(input_ids), additive_mask(attention_mask)
        for layer in self.below:
            states = layer(states, attention)
        answers = self.top(states, attention_mask, extra)
        if isinstance(self.top.head, HierarchyHead):
            answers.append(_decode(answers, self.top.head))
        return tuple(answers)


def _decode(p: Sequence[torch.Tensor], head: HierarchyHead) -> torch.Tensor:
    """Codes [b, levels] of the most probable first label, its most probable child, and so on."""
    chosen = torch.zeros_like(p[0][:, 0], dtype=torch.int64)
    codes = []
    for level, values in enumerate(p):
        elsewhere = head.get_buffer(f"parents{level}")[None, :] != chosen[:, None]
        chosen = values.masked_fill(elsewhere, -1.0).argmax(dim=1)
        codes.append(chosen)
    return torch.stack(codes, dim=1)


def build_graph(model: TopTransformer, backbone: Backbone) -> ov.Model:
    """Convert to OpenVINO, in float32; see the module for inputs and outputs."""
    whole = WholeTransformer(model, backbone)
    example = {
        "input_ids": torch.ones(2, 8, dtype=torch.int64),
        "attention_mask": torch.ones(2, 8, dtype=torch.int64),
    }
    if model.shape.extra:
        example["extra"] = torch.zeros(2, len(model.shape.extra))
    with torch.no_grad():
        graph = ov.convert_model(whole, example_input=example)
    # Conversion gives ports numbers as further names, of which one may come first.
    for port, name in zip(graph.inputs, example, strict=True):
        port.get_tensor().set_names({name})
    graph.reshape({name: [-1, value.shape[1] if name == "extra" else -1] for name, value in example.items()})
    for port, name in zip(graph.outputs, whole.outputs, strict=True):
        port.get_tensor().set_names({name})
    about = {"extra": list(model.shape.extra), "outputs": list(whole.outputs)}
    for key, names in about.items():
        graph.set_rt_info(json.dumps(names), ["perceive", key])
    return graph


def compressed(graph: ov.Model, precision: str) -> ov.Model:
    """The graph with weights in another precision: fp16, or int8 for the weights alone (nncf)."""
    if precision == "fp32":
        return graph
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.save_model(graph, path, compress_to_fp16=precision == "fp16")
        # Read whole, not mapped: the file goes.
        copy = ov.Core().read_model(
            path.read_bytes(), ov.Tensor(np.fromfile(path.with_suffix(".bin"), np.uint8))
        )
    if precision == "int8":
        import nncf

        nncf.set_log_level(logging.ERROR)
        with contextlib.redirect_stdout(None):  # its progress bar
            copy = nncf.compress_weights(copy, mode=nncf.CompressWeightsMode.INT8_ASYM)
    return copy


def answers(
    answer: Callable[[dict[str, NDArray[Any]]], Sequence[NDArray[Any]]],
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    extra: NDArray[np.float32],
) -> list[NDArray[Any]]:
    """Outputs for some texts, one array for each, computed in batches of similar length.

    Parameters
    ----------
    answer : callable
        Inputs of a batch to its outputs: `ask_graph` or `ask_torch`.
    tokenizer : TextTokenizer
    texts : sequence of str
        At least one.
    extra : ndarray of shape (texts, extra inputs)
    """
    ids = tokenizer.ids(texts)
    order = np.argsort([-len(of_text) for of_text in ids], kind="stable")
    parts: list[Sequence[NDArray[Any]]] = []
    first = 0
    while first < len(order):
        rows = order[first : first + max(1, TOKENS_PER_BATCH // len(ids[order[first]]))]
        first += len(rows)
        tokens, mask = tokenizer.padded([ids[row] for row in rows])
        inputs: dict[str, NDArray[Any]] = {"input_ids": tokens, "attention_mask": mask}
        if extra.shape[1]:
            inputs["extra"] = np.ascontiguousarray(extra[rows], dtype=np.float32)
        parts.append(answer(inputs))
    back = np.argsort(order)
    return [np.concatenate(of_output)[back] for of_output in zip(*parts, strict=True)]


def ask_graph(compiled: ov.CompiledModel) -> Callable[[dict[str, NDArray[Any]]], list[NDArray[Any]]]:
    """A compiled graph as `answers` asks it."""
    request = compiled.create_infer_request()
    return lambda inputs: [np.array(value) for value in request.infer(inputs).values()]


def ask_torch(model: TopTransformer, backbone: Backbone) -> Callable[..., list[NDArray[Any]]]:
    """The trained model on the whole encoder, in float32, as `answers` asks it."""
    whole = WholeTransformer(model, backbone)

    def ask(inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        with torch.inference_mode():
            return [
                value.numpy()
                for value in whole(**{name: torch.from_numpy(value) for name, value in inputs.items()})
            ]

    return ask


def export_transformer(
    model: TopTransformer,
    backbone: Backbone,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    extra: NDArray[np.float32],
    folder: Path,
    *,
    parity_rmse: float,
    threads: int,
    precisions: Sequence[str] = PRECISIONS,
) -> dict[str, Any]:
    """Write ``{fp32,fp16,int8}/model.xml`` below ``folder``, and measure how near each is to torch.

    Parameters
    ----------
    model, backbone, tokenizer
    texts : sequence of str
        Of val, at least one.
    extra : ndarray of shape (texts, extra inputs), float32
    folder : Path
    parity_rmse : float
        Largest RMSE allowed at any precision.
    threads : int
        Of torch and OpenVINO.
    precisions : sequence of str
        Out of `PRECISIONS`.

    Returns
    -------
    dict
        By precision: ``rows``, ``rmse`` and ``max_abs`` over all probabilities (or scales), ``bytes``, and
        for a hierarchy ``same_path``, the share of rows with the same decoded path, and ``same_LEVEL``.

    Raises
    ------
    ExportError
        If the fp32 graph differs by more than `LARGEST_DIFFERENCE`, or any by an RMSE above ``parity_rmse``.
    """
    with torch_threads(threads):
        expected = answers(ask_torch(model, backbone), tokenizer, texts, extra)
        graph = build_graph(model, backbone)
    report: dict[str, Any] = {}
    for precision in precisions:
        path = folder / precision / "model.xml"
        save_ir(compressed(graph, precision), path)
        compiled = compile_exact(ov.Core(), path, threads=threads)
        found = answers(ask_graph(compiled), tokenizer, texts, extra)
        report[precision] = _difference(model, expected, found)
        report[precision]["bytes"] = sum(p.stat().st_size for p in (path, path.with_suffix(".bin")))
        log.info("%s: largest difference %.1e", precision, report[precision]["max_abs"])
    for precision in precisions:
        found = report[precision]
        if precision == "fp32" and not found["max_abs"] <= LARGEST_DIFFERENCE:
            raise ExportError(
                f"the fp32 graph differs from its model by {found['max_abs']:.1e}, above {LARGEST_DIFFERENCE}"
            )
        if not found["rmse"] <= parity_rmse:
            raise ExportError(
                f"the {precision} graph differs from its model: RMSE {found['rmse']:.1e}, above {parity_rmse}"
            )
    return {**report, "compile": EXACT_CONFIG}


def _difference(
    model: TopTransformer, expected: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]
) -> dict[str, Any]:
    output = model.shape.output
    n_arrays = len(output.sizes)
    errors = np.concatenate(
        [ours.astype(np.float64) - theirs for ours, theirs in zip(found, expected, strict=True)][:n_arrays],
        axis=1,
    )
    result: dict[str, Any] = {
        "rows": len(errors),
        "rmse": float(np.sqrt(np.mean(errors**2))),
        "max_abs": float(np.abs(errors).max()),
    }
    if isinstance(output, Hierarchy):
        same = expected[-1] == found[-1]
        result["same_path"] = float(same.all(axis=1).mean())
        for level, name in enumerate(output.levels):
            result[f"same_{name}"] = float(same[:, level].mean())
    return result
