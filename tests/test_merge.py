"""A merged model answers as its parts do, and holds and computes once what they have in common."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset1 as oldest
import openvino.opset13 as ops
import pytest
import torch
from conftest import ENGLISH, LAYERS
from conftest import WIDTH as STATES
from hypothesis import given, settings
from hypothesis import strategies as st
from test_transformer import HIERARCHY, random_model

from perceive.encoder import Encoder, resolve_model
from perceive.export import PRECISIONS
from perceive.export.graph import FINAL_NODES, _model, compile_exact, save_ir
from perceive.export.merge import encoder_graph, merge
from perceive.transformer.backbone import Backbone, load_backbone
from perceive.transformer.export import Inputs, build_graph, compressed
from perceive.transformer.model import Scales, TopTransformer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit", "ignore:Converting a tensor", "ignore:.*TracerWarning"
)

CORE = ov.Core()
WIDTH = 4
WORDS = 400


def counts(model: ov.Model) -> Counter[str]:
    return Counter(operation.get_type_name() for operation in model.get_ops())


def constant_bytes(model: ov.Model) -> int:
    return sum(node.get_byte_size() for node in model.get_ops() if node.get_type_name() == "Constant")


def answer(model: ov.Model | Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name."""
    model = CORE.read_model(model) if isinstance(model, Path) else model
    given, outputs = ([port.any_name for port in ports] for ports in (model.inputs, model.outputs))
    # By name: compilation itself adds further names.
    result = compile_exact(CORE, model).create_infer_request().infer({name: inputs[name] for name in given})
    return {name: np.array(result[name]) for name in outputs}


def check_answers(
    merged: ov.Model | Path,
    models: Mapping[str, ov.Model],
    inputs: Mapping[str, np.ndarray],
    tolerance: float = 1e-6,
) -> None:
    """The merged model's outputs are those of the separate ones, no more and no fewer, in their order.

    ``inputs`` are named as those of the merged model; a model's own ones go before the united ones.
    """
    found, names = answer(merged, inputs), []
    for key, model in models.items():
        own = {name.removeprefix(f"{key}/"): value for name, value in inputs.items() if f"{key}/" in name}
        for name, expected in answer(model, {**inputs, **own}).items():
            names.append(f"{key}/{name}")
            atol = tolerance * max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(found[names[-1]], expected, atol=atol, rtol=0)
    assert list(found) == names


# --- random graphs ---------------------------------------------------------------------------------------

Step = tuple[str, int, int, int]
"""An operation, the two places it reads from (counted back from the last), and which variant it is."""

steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "multiply", "clamp", "matmul", "split", "softmax", "constant", "reshape"]),
        *[st.integers(0, 5)] * 3,
    ),
    max_size=8,
)


def small(steps: list[Step], bound: float) -> ov.Model:
    """Graph of float32 [?, WIDTH] states from ``x`` and ``y`` through the steps.

    Outputs: the last state and all of them, cut off at the bound; what another bound gives is never shared.
    """
    x, y = (ops.parameter([-1, WIDTH], np.float32, name=name) for name in "xy")
    states = [x.output(0), y.output(0)]
    for kind, one, other, variant in steps:
        a, b = (states[-1 - place % len(states)] for place in (one, other))
        # Few variants, so that equal ones meet; all of one size, so that only their bytes differ.
        table = np.random.default_rng(variant % 3).normal(size=(WIDTH, WIDTH)).astype(np.float32)
        if kind == "add":
            states.append(ops.add(a, b).output(0))
        elif kind == "multiply":
            states.append(ops.multiply(a, ops.sigmoid(b)).output(0))
        elif kind == "clamp":
            states.append(ops.clamp(a, -1.0, 1.0 + variant % 2).output(0))
        elif kind == "matmul":
            states.append(ops.matmul(a, ops.constant(table), False, bool(variant % 2)).output(0))
        elif kind == "split":
            left, right = ops.split(a, ops.constant(np.int32(1)), 2).outputs()
            states.append(ops.concat([right, left] if variant % 2 else [left, right], 1).output(0))
        elif kind == "softmax":
            states.append(ops.softmax(a, variant % 2).output(0))
        elif kind == "constant":
            states.append(ops.add(a, ops.constant(table[variant % 2])).output(0))
        else:
            halves = ops.reshape(a, ops.constant(np.array([-1, WIDTH // 2])), special_zero=False)
            states.append(ops.reshape(halves, ops.constant(np.array([-1, WIDTH])), False).output(0))
    outputs = {"last": states[-1], "all": ops.concat(states, 1).output(0)}
    cut = {name: ops.clamp(state, -bound, bound).output(0) for name, state in outputs.items()}
    return _model({"x": x, "y": y}, cut, "small")


@settings(max_examples=15)
@given(steps, steps, steps, st.integers(0, 3))
def test_the_merged_model_answers_as_the_separate_ones(
    trunk: list[Step], one: list[Step], other: list[Step], seed: int
) -> None:
    models = {"a": small(trunk + one, 1e3), "b": small(trunk + other, 2e3)}
    before = {key: counts(model) for key, model in models.items()}
    merged = merge(models, "both")
    draw = np.random.default_rng(seed).normal
    check_answers(merged, models, {name: draw(size=(3, WIDTH)).astype(np.float32) for name in "xy"}, 1e-5)
    assert {key: counts(model) for key, model in models.items()} == before, "the models stay as they are"
    friendly = [node.get_friendly_name() for node in merged.get_ops()]
    assert len(set(friendly)) == len(friendly)

    # What is alike is there once: the same steps again add nothing, nor do those of the trunk alone.
    alone, ends = counts(merge({"a": models["a"]}, "one")), Counter(Clamp=2, Result=2)
    again = small(trunk + one, 3e3)
    assert counts(merge({"a": models["a"], "again": again}, "both")) == alone + ends
    below = small(trunk, 3e3)
    assert counts(merge({"a": models["a"], "below": below}, "both")) == alone + ends + Counter(
        Concat=1 if one else 0
    )


# --- what is shared, and what is not ---------------------------------------------------------------------


def one_step(step: Callable[[Any], Any], factor: float = 1.0) -> ov.Model:
    """``x`` float32 [?, WIDTH] through one operation, times a factor, to ``y``."""
    x = ops.parameter([-1, WIDTH], np.float32, name="x")
    y = ops.multiply(ops.convert(step(x), "f32"), ops.constant(np.float32(factor)))
    return _model({"x": x}, {"y": y.output(0)}, "one")


def shared(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> bool:
    """Whether two steps become one."""
    models = {"a": one_step(one, 1.0), "b": one_step(other, 2.0)}
    merged = merge(models, "both")
    check_answers(merged, models, {"x": np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)})
    products = [port.get_node().input_value(0).get_node() for port in merged.outputs]
    first, second = (product.input_value(0).get_node().input_value(0) for product in products)
    return (first.get_node().get_name(), first.get_index()) == (
        second.get_node().get_name(),
        second.get_index(),
    )


TABLE = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)


def times(table: np.ndarray) -> Callable[[Any], Any]:
    return lambda x: ops.matmul(x, ops.constant(table), False, False)


def nudged(table: np.ndarray, byte: int) -> np.ndarray:
    data = bytearray(table.tobytes())
    data[byte] ^= 1
    return np.frombuffer(bytes(data), table.dtype).reshape(table.shape)


def test_equal_operations_and_constants_are_there_once() -> None:
    models = {key: one_step(times(TABLE.copy()), factor) for key, factor in (("c", 1), ("a", 2), ("b", 3))}
    merged = merge(models, "three")
    assert counts(merged) == dict(Parameter=1, Constant=1 + 3, MatMul=1, Convert=1, Multiply=3, Result=3)
    assert [port.any_name for port in merged.outputs] == ["c/y", "a/y", "b/y"]


@pytest.mark.parametrize("byte", [0, 31, WIDTH * WIDTH * 4 - 1])
def test_one_bit_apart_is_not_the_same(byte: int) -> None:
    assert shared(times(TABLE), times(TABLE.copy()))
    assert not shared(times(TABLE), times(nudged(TABLE, byte)))


ZEROS = np.zeros(WIDTH, np.float32)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(lambda x: ops.clamp(x, 0, 1), lambda x: ops.clamp(x, 0, 2), id="attribute"),
        pytest.param(
            lambda x: ops.clamp(x, 0, 1),
            lambda x: ops.clamp(x, 0, float(np.nextafter(1, 2))),
            id="last bit of an attribute",
        ),
        pytest.param(ops.relu, ops.sigmoid, id="type"),
        pytest.param(lambda x: ops.subtract(x, ZEROS + 1), lambda x: ops.subtract(ZEROS + 1, x), id="order"),
        pytest.param(lambda x: ops.add(x, ZEROS), lambda x: ops.add(x, ZEROS[None]), id="constant's shape"),
        pytest.param(lambda x: ops.add(x, ZEROS), lambda x: ops.add(x, -ZEROS), id="negative zero"),
        pytest.param(
            lambda x: ops.reshape(x, ops.constant(np.array([0, 0, 0, 0, 0, 0], np.int32)[:2]), True),
            lambda x: ops.reshape(x, ops.constant(np.array([0, 0], np.uint32)), True),
            id="constant's type",
        ),
        pytest.param(
            lambda x: ops.convert(x, "i32"), lambda x: ops.convert(x, "u32"), id="type of the output"
        ),
        pytest.param(
            lambda x: ops.relu(ops.split(x, ops.constant(np.int32(1)), 2).output(0)),
            lambda x: ops.relu(ops.split(x, ops.constant(np.int32(1)), 2).output(1)),
            id="one of two outputs",
        ),
    ],
)
def test_what_differs_stays_apart(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> None:
    assert shared(one, one) and shared(other, other)
    assert not shared(one, other)


@pytest.mark.parametrize("small", [False, True], ids=["float32", "float16"])
def test_a_weight_that_products_read_both_ways_is_there_twice(small: bool, tmp_path: Path) -> None:
    """The CPU plugin gets one of them wrong otherwise."""

    def both(x: Any) -> Any:
        once = ops.matmul(x, ops.constant(TABLE), False, False)
        return ops.concat([once, ops.matmul(ops.relu(x), ops.constant(TABLE.copy()), False, True)], 1)

    models = {"both": one_step(both), "one": one_step(times(TABLE), 2.0)}
    if small:
        for key, model in models.items():
            ov.save_model(model, tmp_path / f"{key}.xml", compress_to_fp16=True)
            models[key] = CORE.read_model(tmp_path / f"{key}.xml")
    merged = merge(models, "merged")
    check_answers(merged, models, {"x": np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)})
    assert counts(merged)["MatMul"] == 2, "what reads it alike is shared all the same"


def test_versions_of_an_operation_stay_apart() -> None:
    old, new = (lambda x: oldest.softmax(x, 1)), (lambda x: ops.softmax(x, 1))
    assert shared(old, old) and shared(new, new)
    assert not shared(old, new)


def test_a_weight_that_stays_small_is_no_constant_that_may_be_folded(tmp_path: Path) -> None:
    def half(x: Any) -> Any:
        return ops.matmul(x, ops.convert(ops.constant(TABLE.astype(np.float16)), "f32"), False, False)

    ov.save_model(one_step(times(TABLE.astype(np.float16).astype(np.float32))), tmp_path / "half.xml")
    marked = CORE.read_model(tmp_path / "half.xml")
    names = {node.get_type_name(): set(node.get_rt_info()) for node in marked.get_ops()}
    assert "decompression_0" in names["Convert"]
    models, square = {"marked": marked, "plain": one_step(half)}, ov.PartialShape([WIDTH, WIDTH])
    assert counts(merge({"again": marked, "marked": marked}, "both"))["MatMul"] == 1
    for order in (models, dict(reversed(models.items()))):
        merged = merge(order, "both")
        assert counts(merged)["MatMul"] == 2
        weights = [node for node in merged.get_ops() if node.get_output_partial_shape(0) == square]
        assert [node.get_type_name() for node in weights].count("Constant") == 1
        assert sum("decompression_0" in node.get_rt_info() for node in weights) == 1


def test_random_operations_stay_apart() -> None:
    def noisy(x: Any) -> Any:
        bounds = (ops.constant(np.float32(value)) for value in (0, 1))
        noise = ops.random_uniform(ops.constant(np.array([64])), *bounds, "f32", 0, 0)
        return ops.unsqueeze(noise, ops.constant(np.int32(0)))

    model = one_step(lambda x: ops.concat([noisy(x), noisy(x)], 0))
    merged = merge({"a": model, "b": model}, "both")
    assert counts(merged)["RandomUniform"] == 4


def test_operations_with_a_graph_inside_stay_apart() -> None:
    def chosen(addend: float) -> Callable[[Any], Any]:
        def step(x: Any) -> Any:
            choice: Any = ops.if_op(ops.constant(np.array(True)))
            branches = []
            for value in (addend, -addend):
                inner = ops.parameter([-1, WIDTH], np.float32)
                result = ops.result(ops.add(inner, ops.constant(np.float32(value))))
                branches.append((inner, result, ov.Model([result], [inner])))
            choice.set_then_body(branches[0][2])
            choice.set_else_body(branches[1][2])
            choice.set_input(x.output(0), branches[0][0], branches[1][0])
            choice.set_output(branches[0][1], branches[1][1])
            return choice

        return step

    assert not shared(chosen(1), chosen(2))


def test_a_model_with_a_state_is_refused() -> None:
    x = ops.parameter([1, WIDTH], np.float32, name="x")
    read = ops.read_value(ops.constant(np.zeros((1, WIDTH), np.float32)), "state")
    total = ops.add(read, x)
    result = ops.result(total)
    model = ov.Model([result], [ops.assign(total, "state")], [x], "sums")
    model.inputs[0].get_tensor().set_names({"x"})
    model.outputs[0].get_tensor().set_names({"y"})
    with pytest.raises(ValueError, match="'sums' has a state"):
        merge({"plain": one_step(ops.relu), "sums": model}, "both")


# --- inputs and outputs ----------------------------------------------------------------------------------


def test_inputs_of_one_name_and_another_type_or_shape_are_refused() -> None:
    def model(shape: list[int], kind: Any) -> ov.Model:
        x = ops.parameter(shape, kind, name="x")
        return _model({"x": x}, {"y": ops.relu(x).output(0)}, "one")

    first = model([-1, 4], np.float32)
    assert len(merge({"a": first, "b": model([-1, 4], np.float32)}, "both").inputs) == 1
    for other in (model([-1, 4], np.int32), model([-1, 5], np.float32), model([2, 4], np.float32)):
        with pytest.raises(ValueError, match=r"input 'x': .* in 'b', but"):
            merge({"a": first, "b": other}, "both")


def with_extra(width: int, weight: float = 1.0) -> ov.Model:
    """Inputs ``extra`` [?, width] and ``x`` [?, WIDTH]; output ``y``."""
    extra = ops.parameter([-1, width], np.float32, name="extra")
    x = ops.parameter([-1, WIDTH], np.float32, name="x")
    total = ops.reduce_sum(extra, ops.constant(np.array([1])), keep_dims=True)
    y = ops.add(ops.multiply(total, ops.constant(np.float32(weight))), ops.sigmoid(x))
    return _model({"extra": extra, "x": x}, {"y": y.output(0)}, "extra")


@pytest.mark.parametrize("widths", [(2, 3), (2, 2)])
def test_own_inputs_are_not_united(widths: tuple[int, int], tmp_path: Path) -> None:
    models = {"a": with_extra(widths[0]), "b": with_extra(widths[1])}
    merged = merge(models, "both")
    assert [port.any_name for port in merged.inputs] == ["a/extra", "x", "b/extra"]
    assert [node.get_friendly_name() for node in merged.get_parameters()] == ["a/extra", "x", "b/extra"]
    assert counts(merged)["Sigmoid"] == 1 and counts(merged)["ReduceSum"] == 2
    draw = np.random.default_rng(0).normal
    shapes = {"x": WIDTH, "a/extra": widths[0], "b/extra": widths[1]}
    inputs = {name: draw(size=(3, width)).astype(np.float32) for name, width in shapes.items()}
    check_answers(merged, models, inputs)
    save_ir(merged, tmp_path / "model.xml")
    check_answers(tmp_path / "model.xml", models, inputs)

    united = merge({"a": with_extra(2), "b": with_extra(2)}, "both", own_inputs=())
    assert [port.any_name for port in united.inputs] == ["extra", "x"] and counts(united)["ReduceSum"] == 1


def test_outputs_that_are_equal_each_have_their_name(tmp_path: Path) -> None:
    models = {"one": one_step(ops.relu), "same": one_step(ops.relu), "other": one_step(ops.relu, 2)}
    merged = merge(models, "three")
    assert counts(merged)["Relu"] == 1
    values = {"x": np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)}
    save_ir(merged, tmp_path / "model.xml")
    for model in (merged, tmp_path / "model.xml"):
        check_answers(model, models, values)
        result = compile_exact(CORE, model)(values)
        np.testing.assert_array_equal(result["one/y"], result["same/y"])
    again = CORE.read_model(tmp_path / "model.xml")
    assert [port.get_names() for port in again.outputs] == [{"one/y"}, {"same/y"}, {"other/y"}]
    assert [port.get_names() for port in again.inputs] == [{"x"}]


def test_what_cannot_be_named_is_refused() -> None:
    two = one_step(ops.relu)
    two.outputs[0].get_tensor().add_names({"z"})
    with pytest.raises(ValueError, match=r"of 'a' has the names \['y', 'z'\]"):
        merge({"a": two}, "one")
    for key in ("", "a/b"):
        with pytest.raises(ValueError, match="names no model"):
            merge({key: one_step(ops.relu)}, "one")
    x = ops.parameter([-1, WIDTH], np.float32, name="x")
    unchanged = ov.Model([ops.result(x)], [x], "unchanged")
    unchanged.inputs[0].get_tensor().set_names({"x"})
    with pytest.raises(ValueError, match="is an input, unchanged"):
        merge({"a": unchanged}, "one")


def test_names_of_operations_are_unique_though_the_models_share_them(tmp_path: Path) -> None:
    def named(value: float) -> ov.Model:
        def step(x: Any) -> Any:
            operation = ops.clamp(x, 0, value)
            operation.set_friendly_name(FINAL_NODES)
            operation.output(0).get_tensor().set_names({"same"})
            return ops.relu(operation)

        return one_step(step)

    models = {"a": named(1), "b": named(2)}
    merged = merge(models, "both")
    save_ir(merged, tmp_path / "model.xml")
    for model in (merged, CORE.read_model(tmp_path / "model.xml")):
        operations = model.get_ops()
        assert len({node.get_friendly_name() for node in operations}) == len(operations) == 12
        tensors = Counter(name for node in operations for port in node.outputs() for name in port.get_names())
        assert "same" not in tensors


def test_notes_of_the_models_are_kept() -> None:
    one, other = one_step(ops.relu), one_step(ops.sigmoid)
    one.set_rt_info(json.dumps(["f"]), ["perceive", "extra"])
    merged = merge({"a": one, "b": other}, "both")
    assert json.loads(merged.get_rt_info(["perceive", "a", "extra"]).astype(str)) == ["f"]
    assert not merged.has_rt_info(["perceive", "b"])


# --- transformers ----------------------------------------------------------------------------------------

EXTRAS = {"scale": ("x0",), "deeper": (), "hierarchy": ("x0", "x1")}
TOPS = {"scale": 1, "deeper": 2, "hierarchy": 1}
"""Trained layers."""
SHARED = LAYERS - 1
"""Layers that the encoder and the models with one trained layer have in common."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sentence-transformers folder with pooling and normalisation (read only)."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel, BertTokenizer

    bert = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(WORDS))]
    (bert / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=STATES,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=48,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(bert)
    BertTokenizer(str(bert / "vocab.txt")).save_pretrained(bert)
    parts = [modules.Transformer(str(bert)), modules.Pooling(STATES), modules.Normalize()]
    folder = tmp_path_factory.mktemp("source") / "model"
    SentenceTransformer(modules=parts, device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="module")
def backbone(source: Path) -> Backbone:
    return load_backbone(source)


def trained(model: TopTransformer, key: str) -> TopTransformer:
    """The model with other weights in its top layers, as training would leave it."""
    noise = torch.Generator().manual_seed(sum(key.encode()))
    for weight in model.layers.parameters():
        weight.data += 0.02 * torch.randn(weight.shape, generator=noise)
    return model


@pytest.fixture(scope="module")
def graphs(backbone: Backbone, source: Path) -> dict[str, ov.Model]:
    """Three fine-tuned transformers and the encoder, fp32."""
    result = {"encoder": encoder_graph(backbone, source)}
    for key, extra in EXTRAS.items():
        output = HIERARCHY if key == "hierarchy" else Scales((key,))
        model = trained(random_model(backbone, top_layers=TOPS[key], extra=extra, output=output), key)
        result[key] = build_graph(model, backbone)
    return result


@pytest.fixture(scope="module")
def batch() -> Inputs:
    """Inputs of the merged model, with padding."""
    rng, lengths = np.random.default_rng(0), np.array([40, 1, 7, 12, 3, 9])
    mask = (np.arange(40) < lengths[:, None]).astype(np.int64)
    extra = {
        f"{key}/extra": rng.normal(size=(6, len(names))).astype(np.float32)
        for key, names in EXTRAS.items()
        if names
    }
    return {"input_ids": mask * rng.integers(5, 5 + WORDS, mask.shape), "attention_mask": mask, **extra}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_transformers_share_their_frozen_layers(
    graphs: dict[str, ov.Model], batch: Inputs, backbone: Backbone, precision: str, tmp_path: Path
) -> None:
    models = {key: compressed(graph, precision) for key, graph in graphs.items()}
    merged = merge(models, "text")
    path = tmp_path / "model.xml"
    save_ir(merged, path)
    for model in (merged, path):
        check_answers(model, models, batch, 1e-6 if precision == "fp32" else 1e-5)

    # Of the four models, all but the deeper one leave two layers of three as they were, that one the lowest.
    # The last layer of the three trained ones works for one position, without this operation.
    layers = SHARED + 1 + 1 + 1 + 2
    assert counts(merged)["ScaledDotProductAttention"] == layers - 3
    assert sum(counts(model)["ScaledDotProductAttention"] for model in models.values()) == 4 * LAYERS - 3
    # The table of words is in the file once, and so is each layer. Little else is in it.
    bytes_each = {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    sizes = [
        sum(value.numel() for value in part.parameters()) for part in (backbone.embeddings, *backbone.layers)
    ]
    weights = bytes_each * (sizes[0] + layers * sizes[1])
    assert 0.9 * weights < path.with_suffix(".bin").stat().st_size
    assert abs(path.with_suffix(".bin").stat().st_size - constant_bytes(merged)) < 1000
    assert constant_bytes(merged) < sum(map(constant_bytes, models.values())) - 0.9 * bytes_each * (
        3 * sizes[0] + (4 * LAYERS - layers) * sizes[1]
    )


def test_equal_models_give_equal_files(
    graphs: dict[str, ov.Model], backbone: Backbone, source: Path, tmp_path: Path
) -> None:
    rebuilt = {**graphs, "encoder": encoder_graph(backbone, source)}
    for name, models in (("one", graphs), ("again", graphs), ("rebuilt", rebuilt)):
        save_ir(merge(models, "text"), tmp_path / name / "model.xml")
    for suffix in (".xml", ".bin"):
        files = {path.read_bytes() for path in tmp_path.glob(f"*/model{suffix}")}
        assert len(files) == 1


def test_a_layer_that_was_trained_is_not_shared(graphs: dict[str, ov.Model], backbone: Backbone) -> None:
    model = random_model(backbone, top_layers=LAYERS, extra=(), output=Scales(("valence",)))
    weight = next(model.layers[1].parameters())
    weight.data.view(torch.int32).view(-1)[0] += 1  # the last bit
    merged = merge({"encoder": graphs["encoder"], "valence": build_graph(model, backbone)}, "both")
    found = counts(merged)["ScaledDotProductAttention"]
    # The lowest layer is shared, and the last of the trained ones does without this operation.
    assert found == 1 + 2 * (LAYERS - 1) - 1, "what lies above a changed layer reads other inputs"


# --- the sentence encoder --------------------------------------------------------------------------------


def embedded(graph: ov.Model, encoder: Encoder, texts: list[str]) -> np.ndarray:
    [(first, ids)] = encoder._blocks(texts)
    assert first == 0
    request = compile_exact(CORE, graph).create_infer_request()
    rows = []
    for of_text in ids:
        tokens = np.array([[*of_text, encoder._pad_id, encoder._pad_id]], dtype=np.int64)
        mask = np.array([[1] * len(of_text) + [0, 0]], dtype=np.int64)
        rows.append(np.array(request.infer({"input_ids": tokens, "attention_mask": mask})["embedding"])[0])
    return np.stack(rows)


@pytest.mark.parametrize("named", [False, True])
def test_the_encoder_embeds_as_the_converted_one(encoder_folder: Path, named: bool) -> None:
    source = resolve_model(ENGLISH)
    graph = encoder_graph(load_backbone(source), source if named else None)
    assert [port.get_names() for port in (*graph.inputs, *graph.outputs)] == [
        {"input_ids"}, {"attention_mask"}, {"embedding"},
    ]  # fmt: skip
    encoder = Encoder(encoder_folder)
    texts = ["I am so happy today", "", "a", "Why would you say that?! I never did. " * 10]
    found = embedded(graph, encoder, texts)
    assert found.shape == (4, encoder.dimension)
    assert np.abs(found - encoder.embed(texts)).max() <= 1e-6


def test_an_encoder_with_more_modules_embeds_as_the_converted_one(
    wide_source: Path, wide_folder: Path
) -> None:
    encoder = Encoder(wide_folder)
    texts = ["I am happy", "no", "why?! " * 5]
    found = embedded(encoder_graph(load_backbone(wide_source), wide_source), encoder, texts)
    assert found.shape == (3, 512)
    np.testing.assert_allclose(found, encoder.embed(texts), atol=1e-5)


def test_the_backbone_of_another_encoder_is_refused(backbone: Backbone, wide_source: Path) -> None:
    with pytest.raises(ValueError, match="another encoder"):
        encoder_graph(backbone, wide_source)
