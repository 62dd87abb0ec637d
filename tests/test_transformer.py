"""The transformer: cached states, conditional heads, losses, training, out-of-fold predictions, export."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ENGLISH, LAYERS, WIDTH, WORDS, write_encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, BertModel, DistilBertModel

from perceive.answers import by_level
from perceive.encoder import TextTokenizer, resolve_model
from perceive.export.graph import compile_exact
from perceive.paths import checked, decode, encode, parents
from perceive.taxonomy import Taxonomy
from perceive.transformer import crossfit
from perceive.transformer.backbone import Backbone, additive_mask, ask, load_backbone
from perceive.transformer.export import answers, ask_graph, ask_torch, build_graph
from perceive.transformer.losses import HierarchyLoss, ScalesLoss, class_weights, focal_loss, one_hot
from perceive.transformer.model import (
    Hierarchy,
    HierarchyHead,
    Scales,
    Shape,
    TopTransformer,
    load,
    save,
)
from perceive.transformer.states import StateStore
from perceive.transformer.training import Examples, Hyperparameters, Machine, _batches, fit, predict

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit", "ignore:Converting a tensor", "ignore:.*TracerWarning"
)

F32 = Machine(threads=1, precision="f32", device="cpu")

# Six leaves; one nuance has one micro only.
TAXONOMY = Taxonomy(
    ("core", "nuance", "micro"),
    (
        ("Sad", "Low", "Blue"),
        ("Sad", "Low", "Empty"),
        ("Happy", "Glad", "Merry"),
        ("Happy", "Proud", "Sure"),
        ("Happy", "Proud", "Tall"),
        ("Happy", "Glad", "Light"),
    ),
)
HIERARCHY = Hierarchy.of(TAXONOMY)
LEAVES = TAXONOMY.paths


# --- a tiny encoder and its texts ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def store(
    backbone: Backbone, tokenizer: TextTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> StateStore:
    return StateStore(tmp_path_factory.mktemp("states"), backbone, tokenizer, threads=1)


def random_texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(4, 12))) for _ in range(count)]


def planted(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts whose first words w0..w5 name their leaf, and the codes of the leaves."""
    rng = np.random.default_rng(seed)
    leaf = rng.integers(len(LEAVES), size=count)
    texts = [" ".join(rng.permutation([f"w{k}", *rng.choice(WORDS[6:], rng.integers(0, 4))])) for k in leaf]
    return texts, encode([LEAVES[k] for k in leaf], TAXONOMY)


def examples_of(
    store: StateStore,
    texts: Sequence[str],
    targets: Sequence[np.ndarray],
    output: Hierarchy | Scales = HIERARCHY,
    extra: np.ndarray | None = None,
) -> Examples:
    store.prepare(texts, range(LAYERS + 1))
    extra = np.zeros((len(texts), 0), np.float32) if extra is None else extra.astype(np.float32)
    names = tuple(f"x{number}" for number in range(extra.shape[1]))
    return Examples(partial(store.states, texts), LAYERS, targets, output, extra, names)


QUICK = Hyperparameters(
    top_layers=2, learning_rate=1e-2, head_factor=2.0, epochs=5, dropout=0.0, gamma=2.0, batch_rows=16
)


# --- states --------------------------------------------------------------------------------------------


def reference_states(backbone: Backbone, tokenizer: TextTokenizer, text: str, depth: int) -> np.ndarray:
    with torch.inference_mode():
        hidden = backbone.embeddings(torch.tensor(tokenizer.ids([text])))
        for layer in backbone.layers[:depth]:
            hidden = layer(hidden, None)
    return hidden[0].numpy()


def test_states_are_those_of_the_encoder_at_each_depth(
    store: StateStore, backbone: Backbone, tokenizer: TextTokenizer
) -> None:
    texts = [*random_texts(30), "", "w1 " * 100, "unknown words"]
    store.prepare(texts, range(LAYERS + 1))
    for depth in range(LAYERS + 1):
        states = store.states(texts, depth)
        rows = np.array([32, 3, 30, 31, 3])
        found, mask = states.batch(rows)
        assert found.dtype == np.float16 and mask.sum(axis=1).tolist() == states.lengths[rows].tolist()
        assert states.lengths[31] == 40, "cut at the encoder's limit"
        for line, row in enumerate(rows):
            expected = reference_states(backbone, tokenizer, texts[row], depth)
            np.testing.assert_allclose(found[line][mask[line]], expected, atol=5e-3)
            assert not found[line][~mask[line]].any()


def test_the_reference_is_the_model_of_transformers(
    folders: tuple[Path, Path], tokenizer: TextTokenizer
) -> None:
    whole, text = BertModel.from_pretrained(folders[0]).eval(), "w1 w2 w3 w4"
    with torch.inference_mode():
        expected = whole(torch.tensor(tokenizer.ids([text]))).last_hidden_state[0].numpy()
    found = reference_states(load_backbone(folders[0]), tokenizer, text, LAYERS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_each_text_is_computed_once(backbone: Backbone, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    texts = random_texts(20)
    first = StateStore(tmp_path, backbone, tokenizer, threads=1)
    assert first.prepare([*texts, *texts], [1]) == 20
    assert first.prepare(texts, [1]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    again = StateStore(tmp_path, backbone, tokenizer, threads=1)
    assert again.prepare([*texts, "w1 w1", "w2 w2"], [1]) == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.prepare(texts, [1, 2]) == 20, "another depth"
    assert not again.prepare(texts[::-1], [2, 1])
    with pytest.raises(KeyError, match="prepare"):
        again.states(["w9 w9 w9"], 1)
    assert not any(b"w1" in path.read_bytes() for path in tmp_path.rglob("*.npy"))


def test_chunks_hold_no_more_than_asked_for_and_survive_damage(
    backbone: Backbone, tokenizer: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StateStore, "TEXTS_PER_CHUNK", 8)
    store = StateStore(tmp_path, backbone, tokenizer, threads=1)
    texts = random_texts(20)
    store.prepare(texts, [2])
    whole, mask = store.states(texts, 2).batch(np.arange(20))
    chunks = sorted(tmp_path.rglob("depth-2.npy"))
    assert len(chunks) == 3
    chunks[1].write_bytes(chunks[1].read_bytes()[:-100])  # a disk that was full
    (chunks[0].parent.parent / ".left.tmp").mkdir()  # a killed process
    assert store.prepare(texts, [2]) == 8
    np.testing.assert_allclose(store.states(texts, 2).batch(np.arange(20))[0][mask], whole[mask], atol=2e-3)
    assert not list(tmp_path.rglob("*.tmp"))


def test_states_of_another_encoder_are_never_taken(
    folders: tuple[Path, Path], tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    other_source, other_converted = write_encoder(tmp_path / "other", seed=1)
    other = load_backbone(other_source)
    with pytest.raises(ValueError, match="another model"):
        StateStore(tmp_path / "states", other, tokenizer, threads=1)
    for backbone, converted in ((load_backbone(folders[0]), folders[1]), (other, other_converted)):
        store = StateStore(tmp_path / "states", backbone, TextTokenizer(converted), threads=1)
        assert store.prepare(["w1 w2"], [1]) == 1


def test_depths_and_layers_beyond_the_encoder_are_refused(store: StateStore, backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"0\.\.3"):
        store.prepare(["w1"], [4])
    with pytest.raises(ValueError, match="top_layers"):
        backbone.top(4)


def test_cached_states_and_top_layers_answer_as_the_whole_encoder(
    store: StateStore, backbone: Backbone, tokenizer: TextTokenizer
) -> None:
    texts = random_texts(25)
    extra = np.random.default_rng(0).normal(size=(25, 2))
    examples = examples_of(store, texts, one_hot(np.zeros((25, 3), np.int64), HIERARCHY), extra=extra)
    for top_layers in range(LAYERS + 1):
        model = random_model(backbone, top_layers=top_layers, extra=("x0", "x1"))
        cached = predict(model, examples, np.arange(25), F32)
        whole = answers(ask_torch(model, backbone), tokenizer, texts, {"extra": examples.extra})
        for one, other in zip(cached, whole, strict=True):
            np.testing.assert_allclose(one, other, atol=3e-3)


def test_a_distilbert_has_the_same_parts(tmp_path: Path) -> None:
    source, converted = write_encoder(tmp_path, "distilbert")
    backbone, tokenizer = load_backbone(source), TextTokenizer(converted)
    whole = DistilBertModel.from_pretrained(source).eval()
    tokens, mask = map(torch.from_numpy, tokenizer.padded(tokenizer.ids(["w1 w2 w3", "w4"])))
    with torch.inference_mode():
        hidden = backbone.embeddings(tokens)
        for layer in backbone.layers:
            hidden = layer(hidden, additive_mask(mask))
        expected = whole(tokens, attention_mask=mask).last_hidden_state
    np.testing.assert_allclose(hidden[mask == 1], expected[mask == 1], atol=1e-5)


def test_an_unknown_architecture_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import MPNetConfig, MPNetModel

    MPNetModel(
        MPNetConfig(
            vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
    ).save_pretrained(tmp_path)
    (tmp_path / "modules.json").write_text((folders[0] / "modules.json").read_text())
    with pytest.raises(ValueError, match="'mpnet'"):
        load_backbone(tmp_path)


# --- heads ---------------------------------------------------------------------------------------------


def random_model(
    backbone: Backbone,
    top_layers: int = 1,
    extra: tuple[str, ...] = (),
    output: Hierarchy | Scales = HIERARCHY,
) -> TopTransformer:
    torch.manual_seed(1)
    model = TopTransformer(Shape(output, top_layers, WIDTH, extra), backbone).eval()
    torch.nn.init.normal_(model.head.linear.weight, std=0.5)
    torch.nn.init.normal_(model.head.linear.bias)
    return model


@st.composite
def taxonomies(draw: st.DrawFn) -> Taxonomy:
    """One to three levels, uneven numbers of children, rows in any order."""
    depth = draw(st.integers(1, 3))
    paths = {()}
    for level in range(depth):
        paths = {
            (*path, f"{'-'.join(path)}{level}.{child}")
            for path in sorted(paths)
            for child in range(draw(st.integers(1, 4)))
        }
    order = draw(st.permutations(sorted(paths)))
    return Taxonomy(("a", "b", "c")[:depth], tuple(order))


@settings(max_examples=60, deadline=None)
@given(taxonomies(), st.integers(0, 1000), st.floats(0.1, 60))
def test_probabilities_sum_to_one_and_add_up_to_the_level_above(
    taxonomy: Taxonomy, seed: int, scale: float
) -> None:
    torch.manual_seed(seed)
    head = HierarchyHead(5, Hierarchy.of(taxonomy))
    with torch.inference_mode():
        features = scale * torch.randn(4, 5)
        p = [level.numpy() for level in head.answer(features)]
        conditionals = [level.exp().numpy() for level in head(features)]
    checked(p, taxonomy)
    for level, above in enumerate(parents(taxonomy)):
        of_parents = np.zeros_like(p[level - 1] if level else np.zeros((4, 1)))
        np.add.at(of_parents.T, above, p[level].T)
        np.testing.assert_allclose(of_parents, p[level - 1] if level else 1.0, atol=1e-5)
        joint = conditionals[level] * (p[level - 1][:, above] if level else 1.0)
        np.testing.assert_allclose(p[level], joint, atol=1e-6)
        sums = np.zeros((len(p[level]), above.max() + 1))
        np.add.at(sums.T, above, conditionals[level].T)
        np.testing.assert_allclose(sums, 1.0, atol=1e-5)


def test_a_logit_moves_only_its_siblings() -> None:
    head = HierarchyHead(1, HIERARCHY)
    torch.nn.init.zeros_(head.linear.weight)
    with torch.inference_mode():
        before = [level.clone() for level in head(torch.zeros(1, 1))]
        position = TAXONOMY.labels(2).index(("Happy", "Proud", "Tall"))
        head.linear.bias[HIERARCHY.sizes[0] + HIERARCHY.sizes[1] + position] += 1.0
        after = head(torch.zeros(1, 1))
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False]
    moved = [TAXONOMY.labels(2)[k] for k in np.flatnonzero((before[2] != after[2]).numpy()[0])]
    assert set(moved) == {("Happy", "Proud", "Tall"), ("Happy", "Proud", "Sure")}


def test_padding_and_batch_mates_change_nothing(backbone: Backbone) -> None:
    model = random_model(backbone, top_layers=2)
    states = torch.randn(3, 6, WIDTH)
    mask = torch.arange(6) < torch.tensor([[2], [6], [4]])
    noise = torch.where(mask[:, :, None], 0.0, 100.0)
    with torch.inference_mode():
        together = model(states + noise, mask, torch.zeros(3, 0))[2]
        alone = model(states[:1, :2], mask[:1, :2], torch.zeros(1, 0))[2]
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "electra", "distilbert"])
def test_a_layer_asked_for_the_position_of_a_token_answers_as_for_the_token(kind: str) -> None:
    sizes = {"vocab_size": 20, "max_position_embeddings": 20}
    if kind == "distilbert":
        config = AutoConfig.for_model(kind, dim=WIDTH, n_layers=1, n_heads=4, hidden_dim=24, **sizes)
    else:
        config = AutoConfig.for_model(
            kind,
            hidden_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=24,
            hidden_act="gelu",
            **sizes,
        )
    torch.manual_seed(0)
    whole = AutoModel.from_config(config, attn_implementation="eager").eval()
    layer = (whole.transformer if kind == "distilbert" else whole.encoder).layer[0]
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    states = torch.randn(3, 6, WIDTH)
    attention = additive_mask(torch.arange(6) < torch.tensor([[2], [6], [4]]))
    with torch.inference_mode():
        expected = layer(states, attention)
        for position in range(2):
            found = ask(layer, states[:, position], states, attention)
            np.testing.assert_allclose(found, expected[:, position], atol=2e-5)


def test_the_head_reads_the_mean_where_no_layer_is_trained(backbone: Backbone) -> None:
    model = TopTransformer(Shape(HIERARCHY, 0, WIDTH), backbone).eval()
    states = torch.randn(2, 4, WIDTH)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    features = model.features(states, mask, torch.zeros(2, 0))
    mean = torch.stack([states[0].mean(dim=0), states[1, :2].mean(dim=0)])
    np.testing.assert_allclose(features, torch.nn.functional.layer_norm(mean, (WIDTH,)), atol=1e-6)


def test_a_label_without_children_is_refused() -> None:
    with pytest.raises(ValueError, match="last level"):
        HierarchyHead(2, Hierarchy(("a", "b"), ((0, 0, 0), (0, 2))))


# --- losses --------------------------------------------------------------------------------------------


def test_focal_loss_without_focus_and_weights_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(50, 7), torch.randint(7, (50,))
    target = torch.nn.functional.one_hot(label, 7).float()
    loss = focal_loss(logits.log_softmax(1), target, torch.ones(7), gamma=0.0)
    expected = torch.nn.functional.cross_entropy(logits, label, reduction="none")
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    flat = Hierarchy(("only",), (tuple([0] * 7),))
    head = HierarchyHead(7, flat)
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(7))
        head.linear.bias.zero_()
        whole = HierarchyLoss([np.ones(7, np.float32)], [3.0], 0.0, torch.device("cpu"))(
            head(logits), [target]
        )
    assert whole.item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_focal_loss_follows_its_formula() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1]])
    target = torch.tensor([[0.0, 0.75, 0.25]])
    loss = focal_loss(p.log(), target, torch.tensor([9.0, 2.0, 0.5]), gamma=2.5)
    expected = 0.75 * 2.0 * 0.8**2.5 * -np.log(0.2) + 0.25 * 0.5 * 0.9**2.5 * -np.log(0.1)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 2.0, 2.7])
def test_deeper_levels_of_a_label_that_stops_early_are_not_moved(gamma: float) -> None:
    torch.manual_seed(0)
    head = HierarchyHead(4, HIERARCHY)
    codes = encode([("Sad",), ("Happy", "Proud"), ("Happy",)], TAXONOMY)
    targets = [torch.from_numpy(target) for target in one_hot(codes, HIERARCHY)]
    weights = class_weights([target.numpy() for target in targets], power=0.5, bound=4.0)
    log_p = head(torch.randn(3, 4))
    for level in log_p:
        level.retain_grad()
    HierarchyLoss(weights, (1.0, 1.0, 1.0), gamma, torch.device("cpu"))(log_p, targets).backward()
    gradients = [level.grad for level in log_p]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    moved = np.array([(gradient != 0).any(dim=1).tolist() for gradient in gradients])  # levels by rows
    np.testing.assert_array_equal(moved, [[True, True, True], [False, True, False], [False, False, False]])
    first = sum(HIERARCHY.sizes[:2])
    assert not head.linear.weight.grad[first:].any() and head.linear.weight.grad[:first].any()


def test_class_weights_are_bounded_and_sum_to_the_rows() -> None:
    counts = np.array([1000, 100, 10, 0])
    target = np.repeat(np.eye(4, dtype=np.float32), counts, axis=0)
    unlabelled = np.concatenate([target, np.zeros((90, 4), np.float32)])
    (weight,) = class_weights([unlabelled], power=0.5, bound=3.0)
    assert (weight * counts).sum() == pytest.approx(1200, rel=1e-5)
    assert (np.diff(weight) > 0)[:1].all() and weight[2] == pytest.approx(weight[3])
    assert weight.max() / weight.min() <= 9.0 + 1e-6
    (even,) = class_weights([target], power=0.0, bound=3.0)
    np.testing.assert_allclose(even, 1.0, rtol=1e-6)
    (inverse,) = class_weights([target], power=1.0, bound=1e9)
    assert inverse[1] / inverse[0] == pytest.approx(1005 / 105, rel=1e-5)
    assert np.isfinite(class_weights([np.zeros((5, 3), np.float32)], power=1.0, bound=2.0)[0]).all()


def test_scales_loss_is_over_the_labels_that_there_are() -> None:
    outputs = torch.tensor([[1.0, 0.0], [0.0, 5.0]], requires_grad=True)
    targets = torch.tensor([[0.7, torch.nan], [torch.nan, torch.nan]])
    loss = ScalesLoss(torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.1]))([outputs], [targets])
    loss.backward()
    assert loss.item() == pytest.approx(1.0, rel=1e-4)  # (1 - 2)^2, one label
    assert (outputs.grad != 0).tolist() == [[True, False], [False, False]]


# --- training ------------------------------------------------------------------------------------------


def accuracy(p: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    return (decode([level.astype(float) for level in p], TAXONOMY) == codes).mean(axis=0)


def test_a_planted_signal_is_learned_and_shuffled_labels_are_not(
    store: StateStore, backbone: Backbone
) -> None:
    texts, codes = planted(500)
    shuffled = codes[np.random.default_rng(1).permutation(500)]
    learn, test = np.arange(400), np.arange(400, 500)
    found = {}
    for name, of in (("true", codes), ("shuffled", shuffled)):
        examples = examples_of(store, texts, one_hot(of, HIERARCHY))
        model = fit(examples, learn, backbone, QUICK, F32, seed=3)
        found[name] = accuracy(predict(model, examples, test, F32), of[test])
    assert (found["true"] > (0.85, 0.8, 0.7)).all(), found
    assert (found["shuffled"] < (0.8, 0.6, 0.4)).all(), found


def test_layers_learn_and_the_encoder_does_not(store: StateStore, backbone: Backbone) -> None:
    texts, codes = planted(60)
    before = {name: value.clone() for name, value in backbone.layers.state_dict().items()}
    embeddings = {name: value.clone() for name, value in backbone.embeddings.state_dict().items()}
    examples = examples_of(store, texts, one_hot(codes, HIERARCHY))
    parameters = replace(QUICK, top_layers=2, epochs=1)
    model = fit(examples, np.arange(60), backbone, parameters, F32, seed=0)
    for name, value in backbone.layers.state_dict().items():
        assert torch.equal(value, before[name])
    for name, value in backbone.embeddings.state_dict().items():
        assert torch.equal(value, embeddings[name])
    trained = model.layers.state_dict()
    assert len(trained) == 2 * len(backbone.layers[0].state_dict())
    for name, value in trained.items():
        number, _, rest = name.partition(".")
        # The bias of the keys adds the same to all scores: its gradient is rounding.
        if not rest.endswith("key.bias"):
            assert not torch.equal(value, before[f"{int(number) + 1}.{rest}"]), name
    assert model.head.linear.weight.any()


def test_the_trained_layers_are_copies_of_the_topmost(store: StateStore, backbone: Backbone) -> None:
    store.prepare(["w1 w2 w3 w4 w5"], [1, 2])
    model = TopTransformer(Shape(HIERARCHY, 2, WIDTH), backbone).eval()
    states, mask = store.states(["w1 w2 w3 w4 w5"], 1).batch(np.array([0]))
    with torch.inference_mode():
        found = model.features(torch.from_numpy(states).float(), torch.from_numpy(mask), torch.zeros(1, 0))
    entering = torch.from_numpy(store.states(["w1 w2 w3 w4 w5"], 2).batch(np.array([0]))[0]).float()
    with torch.inference_mode():
        last = ask(backbone.layers[2], entering.mean(dim=1), entering, torch.zeros(1, 1, 1, 1))
    expected = torch.nn.functional.layer_norm(last, (WIDTH,))
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert not {*map(id, model.layers.parameters())} & {*map(id, backbone.layers.parameters())}


def test_dropout_is_at_work_in_training_alone(store: StateStore, backbone: Backbone) -> None:
    texts, codes = planted(60)
    examples = examples_of(store, texts, one_hot(codes, HIERARCHY))
    weights = []
    for dropout in (0.0, 0.5):
        parameters = replace(QUICK, epochs=1, dropout=dropout)
        model = fit(examples, np.arange(60), backbone, parameters, F32, seed=0)
        weights.append(model.layers[0].state_dict()["output.dense.weight"])
        one, other = (predict(model, examples, np.arange(60), F32)[2] for _ in range(2))
        np.testing.assert_array_equal(one, other)
    assert (weights[0] - weights[1]).abs().max() > 1e-3


def test_lower_layers_learn_more_slowly(store: StateStore, backbone: Backbone) -> None:
    texts, codes = planted(64)
    examples = examples_of(store, texts, one_hot(codes, HIERARCHY))
    parameters = replace(QUICK, top_layers=3, epochs=1, layer_decay=0.1, weight_decay=0.0)
    model = fit(examples, np.arange(64), backbone, parameters, F32, seed=0)
    moved = [
        max(
            float((trained - start).abs().max().detach())
            for trained, start in zip(layer.parameters(), original.parameters(), strict=True)
        )
        for layer, original in zip(model.layers, backbone.layers, strict=True)
    ]
    assert moved[0] < moved[1] / 3 < moved[2] / 9


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_one_seed_gives_one_model(store: StateStore, backbone: Backbone, precision: Any) -> None:
    texts, codes = planted(120)
    examples = examples_of(store, texts, one_hot(codes, HIERARCHY))
    machine = replace(F32, precision=precision)

    def answers_of(seed: int) -> np.ndarray:
        torch.manual_seed(torch.seed() % 1000)  # whatever happened before
        parameters = replace(QUICK, dropout=0.3, epochs=2)
        model = fit(examples, np.arange(100), backbone, parameters, machine, seed=seed)
        return predict(model, examples, np.arange(120), machine)[2]

    one = answers_of(5)
    np.testing.assert_array_equal(one, answers_of(5))
    assert np.abs(one - answers_of(6)).max() > 1e-4


def test_training_leaves_torch_as_it_was(store: StateStore, backbone: Backbone) -> None:
    texts, codes = planted(20)
    examples = examples_of(store, texts, one_hot(codes, HIERARCHY))
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    fit(
        examples, np.arange(20), backbone, replace(QUICK, epochs=1), replace(F32, threads=threads + 1), seed=0
    )
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads and not torch.are_deterministic_algorithms_enabled()


def test_bf16_learns_as_float32_does(store: StateStore, backbone: Backbone) -> None:
    texts, codes = planted(400)
    examples = examples_of(store, texts, one_hot(codes, HIERARCHY))
    learn, test = np.arange(300), np.arange(300, 400)
    for precision in ("f32", "bf16"):
        machine = replace(F32, precision=precision)
        model = fit(examples, learn, backbone, replace(QUICK, epochs=5), machine, seed=3)
        assert accuracy(predict(model, examples, test, machine), codes[test])[0] > 0.9
        assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_regressor_learns_two_scales_with_gaps(store: StateStore, backbone: Backbone) -> None:
    texts, codes = planted(500)
    rng = np.random.default_rng(0)
    scales = np.stack([0.2 + 0.1 * codes[:, 2], 0.7 - 0.3 * (codes[:, 0] == 0)], axis=1).astype(np.float32)
    gappy = scales.copy()
    gappy[:400][rng.random((400, 2)) < 0.4] = np.nan
    examples = examples_of(store, texts, [gappy], Scales(("valence", "arousal")))
    model = fit(examples, np.arange(400), backbone, QUICK, F32, seed=1)
    (found,) = predict(model, examples, np.arange(400, 500), F32)
    assert found.shape == (100, 2) and (found >= 0).all() and (found <= 1).all()
    for scale in (0, 1):
        assert np.corrcoef(found[:, scale], scales[400:, scale])[0, 1] > 0.75


def test_answers_of_a_regressor_stay_within_the_scale(backbone: Backbone) -> None:
    model = random_model(backbone, output=Scales(("valence",)))
    model.head.get_buffer("deviation").fill_(50.0)
    with torch.inference_mode():
        (found,) = model(torch.randn(20, 3, WIDTH), torch.ones(20, 3, dtype=torch.bool), torch.zeros(20, 0))
    assert found.min() == 0.0 and found.max() == 1.0


def test_extra_inputs_are_scaled_on_the_training_rows_alone(store: StateStore, backbone: Backbone) -> None:
    texts, codes = planted(80)
    rng = np.random.default_rng(0)
    extra = rng.normal(3.0, 2.0, size=(80, 3))
    extra[:, 2] = 1.0  # constant
    learn = np.arange(50)
    targets = one_hot(codes, HIERARCHY)
    targets[0][40:50] = targets[1][40:50] = targets[2][40:50] = 0  # no label: not a row to learn from
    parameters = replace(QUICK, epochs=1)
    one = fit(examples_of(store, texts, targets, extra=extra), learn, backbone, parameters, F32, seed=0)
    changed = extra.copy()
    changed[40:] *= 100.0
    examples = examples_of(store, texts, targets, extra=changed)
    other = fit(examples, learn, backbone, parameters, F32, seed=0)
    np.testing.assert_allclose(one.get_buffer("extra_mean"), extra[:40].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(one.get_buffer("extra_deviation")[:2], extra[:40, :2].std(axis=0), rtol=1e-5)
    assert one.get_buffer("extra_deviation")[2] == 1.0
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_extra_inputs_reach_the_answer(store: StateStore, backbone: Backbone) -> None:
    texts, codes = planted(300)
    rng = np.random.default_rng(0)
    codes = encode(
        [LEAVES[k] for k in rng.integers(len(LEAVES), size=300)], TAXONOMY
    )  # the text says nothing
    extra = np.stack([codes[:, 0] * 7.0 + 100.0, rng.normal(size=300)], axis=1)
    examples = examples_of(store, texts, one_hot(codes, HIERARCHY), extra=extra)
    model = fit(examples, np.arange(200), backbone, replace(QUICK, top_layers=0), F32, seed=0)
    assert accuracy(predict(model, examples, np.arange(200, 300), F32), codes[200:])[0] > 0.95


def test_an_extreme_extra_input_is_cut_off(backbone: Backbone) -> None:
    model = random_model(backbone, extra=("count",))
    model.get_buffer("extra_deviation").fill_(2.0)
    states, mask = torch.randn(3, 2, WIDTH), torch.ones(3, 2, dtype=torch.bool)
    extra = torch.tensor([[4.0], [10.0], [1e9]])
    with torch.inference_mode():
        features = model.features(states, mask, extra)
    assert features[:, -1].tolist() == [2.0, 5.0, 5.0]


def test_rates_rise_and_fall(store: StateStore, backbone: Backbone) -> None:
    from perceive.transformer.training import _optimizer

    model = random_model(backbone, top_layers=2)
    parameters = replace(QUICK, learning_rate=1.0, layer_decay=0.5, head_factor=3.0, warmup=0.2)
    optimizer, schedule = _optimizer(model, parameters, steps=50)
    rates = []
    for _ in range(50):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    rates_of = np.array(rates)
    np.testing.assert_allclose(rates_of[9], [3.0, 3.0, 1.0, 1.0, 0.5, 0.5])
    np.testing.assert_allclose(rates_of[:10, 2], np.arange(1, 11) / 10)
    assert (np.diff(rates_of[10:, 2]) < 0).all() and 0 < rates_of[-1, 2] < 0.05
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(owned) == len(list(model.parameters())), "every parameter is trained"
    decayed = {group["weight_decay"] for group in optimizer.param_groups if group["params"][0].ndim == 1}
    assert decayed == {0.0}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(1, 40), st.integers(0, 99))
def test_batches_hold_every_row_once(lengths: list[int], batch_rows: int, seed: int) -> None:
    sizes = np.array(lengths, dtype=np.int32)
    batches = _batches(sizes, batch_rows, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_rows for batch in batches)
    assert all(len(batch) == 1 or len(batch) * sizes[batch].max() <= 2048 for batch in batches)


def test_batches_are_of_similar_length_and_shuffled() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 200, 2000).astype(np.int32)
    batches = _batches(lengths, 16, rng)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.1 * lengths.sum()
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


def test_an_epoch_hook_sees_each_epoch_and_can_stop(store: StateStore, backbone: Backbone) -> None:
    texts, codes = planted(60)
    examples = examples_of(store, texts, one_hot(codes, HIERARCHY))
    seen: list[tuple[int, float]] = []

    def hook(epoch: int, loss: float) -> bool:
        seen.append((epoch, loss))
        return epoch == 3

    fit(examples, np.arange(60), backbone, replace(QUICK, epochs=9), F32, seed=0, on_epoch=hook)
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert seen[2][1] < seen[0][1]


def test_progress_names_no_text(
    store: StateStore, backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    texts, codes = planted(40, seed=77)
    with caplog.at_level(logging.DEBUG):
        examples = examples_of(store, texts, one_hot(codes, HIERARCHY))
        fit(examples, np.arange(40), backbone, replace(QUICK, epochs=1), F32, seed=0)
    logged = " ".join(record.getMessage() for record in caplog.records)
    assert "epoch 1 of 1" in logged and "new texts" in logged
    assert not any(word in logged.split() for word in WORDS)


def test_examples_that_do_not_fit_are_refused(store: StateStore, backbone: Backbone) -> None:
    texts, codes = planted(10)
    targets = one_hot(codes, HIERARCHY)
    with pytest.raises(ValueError, match="shapes"):
        examples_of(store, texts, targets[:2])
    with pytest.raises(ValueError, match="shapes"):
        examples_of(store, texts, [target[:5] for target in targets])
    with pytest.raises(ValueError, match="not finite"):
        examples_of(store, texts, targets, extra=np.full((10, 1), np.nan))
    with pytest.raises(ValueError, match="names"):
        Examples(partial(store.states, texts), LAYERS, targets, HIERARCHY, np.zeros((10, 1), np.float32))
    nothing = examples_of(store, texts, [target * 0 for target in targets])
    with pytest.raises(ValueError, match="no labelled training rows"):
        fit(nothing, np.arange(10), backbone, QUICK, F32, seed=0)
    half = np.stack([np.linspace(0, 1, 10), np.full(10, np.nan)], axis=1).astype(np.float32)
    with pytest.raises(ValueError, match="arousal"):
        fit(
            examples_of(store, texts, [half], Scales(("valence", "arousal"))),
            np.arange(10),
            backbone,
            QUICK,
            F32,
            seed=0,
        )


# --- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", [HIERARCHY, Scales(("valence", "arousal"))])
def test_a_saved_model_answers_as_before(
    store: StateStore, backbone: Backbone, tmp_path: Path, output: Hierarchy | Scales
) -> None:
    texts, codes = planted(60)
    extra = np.random.default_rng(0).normal(size=(60, 2))
    hierarchy = isinstance(output, Hierarchy)
    targets = one_hot(codes, HIERARCHY) if hierarchy else [extra.astype(np.float32) % 1]
    examples = examples_of(store, texts, targets, output, extra)
    parameters = replace(QUICK, top_layers=2, epochs=1, dropout=0.2)
    model = fit(examples, np.arange(60), backbone, parameters, F32, seed=0)
    save(model, tmp_path)
    again = load(tmp_path, backbone)
    assert again.shape == model.shape and not again.training
    rows = np.arange(60)
    for one, other in zip(
        predict(model, examples, rows, F32), predict(again, examples, rows, F32), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "model.json"}


def test_a_model_of_another_encoder_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    save(random_model(backbone), tmp_path / "model")
    other = load_backbone(write_encoder(tmp_path / "other", seed=1)[0])
    with pytest.raises(ValueError, match="another encoder"):
        load(tmp_path / "model", other)


def test_a_model_file_with_missing_weights_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    save(random_model(backbone), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("head.linear.bias")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"head\.linear\.bias"):
        load(tmp_path, backbone)


# --- out of fold ---------------------------------------------------------------------------------------


def split_table(n_train: int, n_other: int, folds: int = 3) -> pd.DataFrame:
    count = n_train + n_other
    split = np.array(["train"] * n_train + ["val"] * n_other, dtype=object)
    order = np.random.default_rng(0).permutation(count)
    fold = pd.array([k % folds if k < n_train else pd.NA for k in range(count)], dtype="Int8")
    table = pd.DataFrame({"split": split, "fold": fold, "barred_folds": np.int32(0)})
    table = table.iloc[order].reset_index(drop=True)
    table["item_id"] = [f"i{k}" for k in range(count)]
    return table


def test_out_of_fold_rows_are_predicted_by_a_model_that_did_not_see_them(
    store: StateStore, backbone: Backbone
) -> None:
    items = split_table(90, 12)
    # Two rows of different folds share their text: neither fold's model may learn from the other one.
    twins = [items.index[(items["fold"] == fold).fillna(False)][0] for fold in (0, 1)]
    items.loc[twins, "barred_folds"] = np.array([1 << 1, 1 << 0], np.int32)
    texts, codes = planted(len(items))
    targets = one_hot(codes, HIERARCHY)
    unlabelled = items.index[items["split"] == "train"][5]
    for target in targets:
        target[unlabelled] = 0
    examples = examples_of(store, texts, targets)
    parameters = replace(QUICK, epochs=2)
    result = crossfit.out_of_fold(items, examples, backbone, parameters, F32, seed=0)
    train = items["split"] == "train"
    assert result.predictions.shape == (90, sum(HIERARCHY.sizes)) and np.isfinite(result.predictions).all()
    checked(by_level(result.predictions, HIERARCHY.sizes), TAXONOMY)
    assert sorted(result.records["item_id"]) == sorted(items.loc[train, "item_id"])
    learned = set(zip(result.trained_on["fold"], result.trained_on["item_id"], strict=True))
    predicted = set(zip(result.records["fold"], result.records["item_id"], strict=True))
    assert not learned & predicted
    assert len(learned) == 2 * 90 - 2 - 2, "two twins, and an unlabelled row that two models would have read"
    assert items.loc[unlabelled, "item_id"] not in set(result.trained_on["item_id"])
    # The same as a model trained by hand on the recorded rows, in the order of the train part.
    position = pd.Series(items.index, index=items["item_id"])
    learn = position.loc[result.trained_on.query("fold == 1")["item_id"]].to_numpy()
    held_out = np.flatnonzero((items["fold"] == 1).fillna(False))
    model = fit(examples, learn, backbone, parameters, F32, seed=0)
    expected = np.concatenate(predict(model, examples, held_out, F32), axis=1)
    order = np.cumsum(train) - 1
    np.testing.assert_array_equal(result.predictions[order[held_out]], expected)


def test_out_of_fold_without_enough_rows_says_so(store: StateStore, backbone: Backbone) -> None:
    items = split_table(12, 0, folds=2)
    texts, codes = planted(12)
    targets = one_hot(codes, HIERARCHY)
    for target in targets:
        target[(items["fold"] == 0).to_numpy(dtype=bool)] = 0
    examples = examples_of(store, texts, targets)
    with pytest.raises(ValueError, match="fold 1 has no labelled"):
        crossfit.out_of_fold(items, examples, backbone, replace(QUICK, epochs=1), F32, seed=0)
    with pytest.raises(ValueError, match="12 examples for 11 items"):
        crossfit.out_of_fold(items.iloc[:11], examples, backbone, QUICK, F32, seed=0)


# --- export --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [("x0", "x1"), ()])
@pytest.mark.parametrize("output", [HIERARCHY, Scales(("valence", "arousal"))])
def test_the_graph_answers_as_torch(
    backbone: Backbone, tokenizer: TextTokenizer, extra: tuple[str, ...], output: Hierarchy | Scales
) -> None:
    import openvino as ov

    texts = [*random_texts(40), "", "w1 " * 60]
    values = np.random.default_rng(0).normal(size=(42, len(extra))).astype(np.float32)
    inputs = {"extra": values} if extra else {}
    model = random_model(backbone, top_layers=2, extra=extra, output=output)
    graph = build_graph(model, backbone)
    assert {port.any_name for port in graph.inputs} == {"input_ids", "attention_mask", *inputs}
    names = ["p_core", "p_nuance", "p_micro"] if isinstance(output, Hierarchy) else ["scales"]
    assert [port.any_name for port in graph.outputs] == names
    assert json.loads(graph.get_rt_info(["perceive", "extra"]).astype(str)) == list(extra)
    found = answers(ask_graph(compile_exact(ov.Core(), graph)), tokenizer, texts, inputs)
    expected = answers(ask_torch(model, backbone), tokenizer, texts, inputs)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


# --- the real encoder ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def english_states(
    encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Backbone, TextTokenizer, StateStore]:
    backbone, tokenizer = load_backbone(resolve_model(ENGLISH)), TextTokenizer(encoder_folder)
    return backbone, tokenizer, StateStore(tmp_path_factory.mktemp("english"), backbone, tokenizer, threads=2)


def test_the_real_encoder_learns_from_a_few_sentences(
    english_states: tuple[Backbone, TextTokenizer, StateStore],
) -> None:
    backbone, tokenizer, store = english_states
    glad = [
        "I am so happy today",
        "what a wonderful morning",
        "we laughed and danced",
        "I feel proud and calm",
    ]
    sad = ["I cried all night", "nothing matters any more", "I miss her so much", "it hurts and I feel empty"]
    texts = [f"{text} {ending}" for text in (*glad, *sad) for ending in ("", "again", "with my sister")]
    codes = encode([("Happy", "Glad") if k < 12 else ("Sad", "Low", "Blue") for k in range(24)], TAXONOMY)
    store.prepare(texts, [5])
    examples = Examples(
        partial(store.states, texts), 6, one_hot(codes, HIERARCHY), HIERARCHY, np.zeros((24, 0), np.float32)
    )
    parameters = Hyperparameters(top_layers=1, epochs=12, learning_rate=5e-4, batch_rows=8)
    held_out = np.array([1, 5, 9, 13, 17, 21])  # each with another ending
    learn = np.setdiff1d(np.arange(24), held_out)
    model = fit(examples, learn, backbone, parameters, replace(F32, threads=2), seed=0)
    p = predict(model, examples, held_out, F32)
    assert (p[0].argmax(axis=1) == codes[held_out, 0]).all()
    whole = answers(ask_torch(model, backbone), tokenizer, [texts[row] for row in held_out], {})
    np.testing.assert_allclose(whole[0], p[0], atol=3e-3)
