"""One OpenVINO graph of encoder and trained top: from token ids and extra inputs to the answer.

Inputs ``input_ids`` and ``attention_mask`` (int64 [b, t]) and, where the model has any, ``extra`` (float32
[b, extra inputs]). Outputs of a hierarchy: ``p_LEVEL``, joint probabilities of each level; of scales:
``scales``. What is served of a hierarchy is this graph with the trees, the blend and the calibration around
it: `perceive.export.paths`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray

from perceive.encoder import TextTokenizer
from perceive.transformer.backbone import Backbone, additive_mask
from perceive.transformer.model import Hierarchy, TopTransformer

TOKENS_PER_BATCH = 2048

Inputs = dict[str, NDArray[Any]]
"""Arrays of a batch by the name of the input."""


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
        if isinstance(output, Hierarchy):
            return tuple(f"p_{level}" for level in output.levels)
        return ("scales",)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, extra: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        states, attention = self.embeddings(input_ids), additive_mask(attention_mask)
        for layer in self.below:
            states = layer(states, attention)
        return tuple(self.top(states, attention_mask, extra))


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
    answer: Callable[[Inputs], Sequence[NDArray[Any]]],
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    others: Mapping[str, NDArray[np.float32]],
) -> list[NDArray[Any]]:
    """Outputs for some texts, one array for each, computed in batches of similar length.

    Parameters
    ----------
    answer : callable
        Inputs of a batch to its outputs: `ask_graph` or `ask_torch`.
    tokenizer : TextTokenizer
    texts : sequence of str
        At least one.
    others : mapping of input to ndarray of shape (texts, columns)
        The inputs beside the tokens.
    """
    ids = tokenizer.ids(texts)
    order = np.argsort([-len(of_text) for of_text in ids], kind="stable")
    parts: list[Sequence[NDArray[Any]]] = []
    first = 0
    while first < len(order):
        rows = order[first : first + max(1, TOKENS_PER_BATCH // len(ids[order[first]]))]
        first += len(rows)
        parts.append(answer(batch_inputs(tokenizer, [ids[row] for row in rows], others, rows)))
    back = np.argsort(order)
    return [np.concatenate(of_output)[back] for of_output in zip(*parts, strict=True)]


def batch_inputs(
    tokenizer: TextTokenizer,
    ids: Sequence[Sequence[int]],
    others: Mapping[str, NDArray[np.float32]],
    rows: NDArray[np.int64],
) -> Inputs:
    """Inputs of some rows: their padded token ids with the mask, and their part of the other inputs."""
    tokens, mask = tokenizer.padded(ids)
    of_rows = {name: np.ascontiguousarray(values[rows], dtype=np.float32) for name, values in others.items()}
    return {"input_ids": tokens, "attention_mask": mask, **of_rows}


def ask_graph(compiled: ov.CompiledModel) -> Callable[[Inputs], list[NDArray[Any]]]:
    """A compiled graph as `answers` asks it."""
    request = compiled.create_infer_request()
    return lambda inputs: [np.array(value) for value in request.infer(inputs).values()]


def ask_torch(model: TopTransformer, backbone: Backbone) -> Callable[[Inputs], list[NDArray[Any]]]:
    """The trained model on the whole encoder, in float32, as `answers` asks it."""
    whole = WholeTransformer(model, backbone)

    def ask(inputs: Inputs) -> list[NDArray[Any]]:
        with torch.inference_mode():
            return [
                value.numpy()
                for value in whole(**{name: torch.from_numpy(value) for name, value in inputs.items()})
            ]

    return ask
