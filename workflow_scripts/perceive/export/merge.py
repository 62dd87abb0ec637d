"""Several OpenVINO models over the same inputs as one model that computes what they share once.

Encoders fine-tuned in their top layers alone have the embeddings and the frozen layers below in common, bit
for bit. `merge` finds that by the graph itself: two operations are one where type, attributes and inputs are,
and two constants where their bytes are. So it asks nothing of how the models were made, and shares frozen
weights that were compressed alike as well.

The plain sentence encoder is traced anew by `encoder_graph`: the IR of `perceive.encoder.convert` computes
the same, but builds its attention mask by other operations, behind which nothing would be shared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov

if TYPE_CHECKING:
    from perceive.transformer.backbone import Backbone

PURE_NAMES = """
Abs Add BitwiseAnd BitwiseNot BitwiseOr Broadcast Ceiling Clamp Concat Constant Convert ConvertLike CumSum
Divide Elu Equal Erf Exp Floor FloorMod Gather GatherElements GatherND Gelu Greater GreaterEqual HSigmoid
HSwish Less LessEqual Log LogSoftmax LogicalAnd LogicalNot LogicalOr LogicalXor MVN MatMul Maximum Minimum Mod
Multiply Negative NotEqual OneHot Pad Power Range ReduceL1 ReduceL2 ReduceLogicalAnd ReduceLogicalOr ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Round ScaledDotProductAttention Select ShapeOf Sigmoid
Sign Slice SoftPlus Softmax Split Sqrt SquaredDifference Squeeze StridedSlice Subtract Swish Tanh Tile
Transpose Unsqueeze VariadicSplit
"""
"""Operations that may be shared: their outputs follow from their inputs and from the attributes that
``get_attributes`` tells. All others stay each model's own: random and stateful ones must, and those with
bodies do not tell all their attributes."""

PURE = frozenset(PURE_NAMES.split())

PASSING = (
    "WeightlessCacheAttribute",
    "fused_names",
    "can_be_folded",
    "DisableConstantFolding",
    "nonconvertable_divide",
)
"""Runtime information that a saved model loses (so that a converted and a read model share); all other may
say how an operation is to be compiled, and keeps it apart from one without."""


def merge(models: Mapping[str, ov.Model], name: str, own_inputs: Collection[str] = ("extra",)) -> ov.Model:
    """Join models; the given ones stay as they are, but the constants are theirs (none is copied).

    Parameters
    ----------
    models : mapping of key to Model
        Every input and output has one name. What a model has in its ``rt_info`` under ``perceive``, the
        merged one has under ``perceive`` and the key.
    name : str
        Of the merged model.
    own_inputs : collection of str
        Inputs that each model keeps for itself, as ``KEY/INPUT``. All others are united by name.

    Returns
    -------
    Model
        Inputs in the order of their first appearance; outputs ``KEY/OUTPUT`` in the order of the models.
        Equal models give equal files (`perceive.export.graph.save_ir`).

    Raises
    ------
    ValueError
        If a united input differs in element type or shape between models, an input or output has not exactly
        one name, a model hands an input out as its output, or has a state (two states of one name would be
        one).
    """
    inputs: dict[str, Any] = {}
    results: dict[str, Any] = {}
    known: dict[Hashable, Any] = {}
    for key, model in models.items():
        if "/" in key or not key:
            raise ValueError(f"{key!r} names no model: a key is not empty and has no slash")
        _check_ports(key, model)
        model = model.clone()
        for port in model.inputs:
            input_name = port.get_any_name()
            if input_name in own_inputs:
                input_name = f"{key}/{input_name}"
            first = inputs.setdefault(input_name, port.get_node())
            if (port.element_type, port.partial_shape) != (first.element_type, first.partial_shape):
                raise ValueError(
                    f"the models differ in the input {input_name!r}: {port.element_type.to_string()} "
                    f"{port.partial_shape} in {key!r}, but {first.element_type.to_string()} "
                    f"{first.partial_shape} before it"
                )
            _replace(port.get_node(), first)
        for port, result in zip(model.outputs, model.get_results(), strict=True):
            results[f"{key}/{port.get_any_name()}"] = result
        for operation in model.get_ordered_ops():  # inputs first, so that they are the shared ones already
            content = _content(operation)
            if content is None:
                continue
            shared = known.setdefault(content, operation)
            # Two outputs of one operation would lose one of their names when compiled (seen with 2026.4).
            if not (_is_answer(operation) and _is_answer(shared)):
                _replace(operation, shared)
    merged = _named(inputs, results, name)
    for key, model in models.items():
        if model.has_rt_info(["perceive"]):
            for what, value in model.get_rt_info(["perceive"]).astype(dict).items():
                merged.set_rt_info(value.astype(str), ["perceive", key, what])
    return merged


def _check_ports(key: str, model: ov.Model) -> None:
    for port in (*model.inputs, *model.outputs):
        if len(port.names) != 1:
            raise ValueError(
                f"an input or output of {key!r} has the names {sorted(port.names)}, not one name"
            )
    for result in model.get_results():
        if result.input_value(0).get_node().get_type_name() == "Parameter":
            raise ValueError(f"the output {result.get_friendly_name()!r} of {key!r} is an input, unchanged")
    if model.get_sinks() or model.get_variables():
        raise ValueError(f"{key!r} has a state, and cannot be merged")


def _content(operation: Any) -> Hashable | None:
    """What makes an operation the same as another over the same inputs; None for one that is not shared."""
    kind = operation.get_type_info()
    if kind.name not in PURE or not str(kind.version_id).startswith("opset"):
        return None
    digest, products = b"", frozenset[str]()
    if kind.name == "Constant":
        if operation.get_element_type() == ov.Type.string:
            return None  # its bytes are addresses
        values = np.ascontiguousarray(operation.data).reshape(-1)
        digest = hashlib.sha256(values.view(np.uint8).data).digest()
        if sum(length > 1 for length in operation.get_output_shape(0)) > 1:
            products = _products(operation)
    sources = [entry.get_source_output() for entry in operation.inputs()]
    return (
        kind.name,
        kind.version_id,
        repr(sorted(operation.get_attributes().items())),
        tuple((port.element_type.to_string(), str(port.partial_shape)) for port in operation.outputs()),
        tuple((source.get_node().get_instance_id(), source.get_index()) for source in sources),
        tuple(sorted(mark for mark in operation.get_rt_info() if not mark.startswith(PASSING))),
        digest,
        products,
    )


def _products(weight: Any) -> frozenset[str]:
    """How matrix products read a weight, also one that is stored in a smaller type.

    Of two products with one constant, only one of which transposes it, the CPU plugin gets one wrong (seen
    with 2026.4; with a constant for each, both are right).
    """
    found: set[str] = set()
    for port in weight.outputs():
        for reader in port.get_target_inputs():
            operation = reader.get_node()
            if operation.get_type_name() == "MatMul":
                found.add(f"{reader.get_index()} {sorted(operation.get_attributes().items())}")
            elif operation.get_type_name() in ("Convert", "Subtract", "Multiply"):
                found |= _products(operation)
    return frozenset(found)


def _replace(operation: Any, shared: Any) -> None:
    """Let all that reads an operation read ``shared`` instead."""
    if operation.get_instance_id() != shared.get_instance_id():
        for port, instead in zip(operation.outputs(), shared.outputs(), strict=True):
            for reader in port.get_target_inputs():
                reader.replace_source_output(instead)


def _is_answer(operation: Any) -> bool:
    readers = (reader for port in operation.outputs() for reader in port.get_target_inputs())
    return any(reader.get_node().get_type_name() == "Result" for reader in readers)


def _named(inputs: Mapping[str, Any], results: Mapping[str, Any], name: str) -> ov.Model:
    """The model of these inputs and results, with all names in it new."""
    model = ov.Model(list(results.values()), list(inputs.values()), name)
    # The names that the models' own conversions gave repeat between them, or count up through the process:
    # plain numbers make equal models equal files.
    for number, operation in enumerate(model.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
        for port in operation.outputs():
            port.get_tensor().set_names(set())
    for tensor, parameter in inputs.items():
        parameter.set_friendly_name(tensor)
        parameter.output(0).get_tensor().set_names({tensor})
    for tensor, result in results.items():
        result.set_friendly_name(tensor)
        result.output(0).get_tensor().set_names({tensor})
    model.validate_nodes_and_infer_types()
    return model


def encoder_graph(backbone: Backbone, source: Path | None = None) -> ov.Model:
    """The sentence encoder as `perceive.transformer.export.build_graph` converts its fine-tuned copies.

    Parameters
    ----------
    backbone : Backbone
        The encoder's transformer.
    source : Path, optional
        Its sentence-transformers folder, for what follows on the transformer (pooling, dense, normalisation).
        Without it that is the mean over the tokens, at length 1, as of MiniLM.

    Returns
    -------
    Model
        In float32. Inputs ``input_ids`` and ``attention_mask`` (int64 [b, t]), output ``embedding`` (float32
        [b, dimension]), the one of `perceive.encoder.convert` up to float rounding.

    Raises
    ------
    ValueError
        If ``backbone`` was read from another folder.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    from perceive.encoder import source_sha256
    from perceive.transformer.backbone import additive_mask

    after: list[Any] = [Pooling(backbone.width, "mean"), Normalize()]
    if source is not None:
        if source_sha256(source) != backbone.sha256:
            raise ValueError(f"the backbone was read from another encoder than {source}")
        after = list(SentenceTransformer(str(source), device="cpu"))[1:]

    class Embed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings, self.layers = backbone.embeddings, backbone.layers
            self.after = torch.nn.ModuleList(after)
            self.eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states, attention = self.embeddings(input_ids), additive_mask(attention_mask)
            for layer in self.layers:
                states = layer(states, attention)
            features = {"token_embeddings": states, "attention_mask": attention_mask}
            for module in self.after:
                features = module(features)
            return features["sentence_embedding"]

    example = torch.ones(2, 8, dtype=torch.int64)
    with torch.no_grad():
        graph = ov.convert_model(Embed(), example_input={"input_ids": example, "attention_mask": example})
    for port, name in zip(graph.inputs, ("input_ids", "attention_mask"), strict=True):
        port.get_tensor().set_names({name})
    graph.reshape({port.get_any_name(): [-1, -1] for port in graph.inputs})
    graph.outputs[0].get_tensor().set_names({"embedding"})
    return graph
