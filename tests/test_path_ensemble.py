"""The hierarchy ensemble in NumPy: softmax among siblings, joint probabilities, blend, decoding."""

from __future__ import annotations

from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from test_hierarchy_calibration import calibrator
from test_transformer import TAXONOMY, taxonomies

from perceive.path_ensemble import TRANSFORMER, PathEnsemble, PathTrees, decode, joint, sibling_softmax
from perceive.paths import checked
from perceive.paths import decode as decode_by_taxonomy
from perceive.taxonomy import Taxonomy
from perceive.transformer.model import Hierarchy, HierarchyHead

HIERARCHY = Hierarchy.of(TAXONOMY)  # 2, 3 and 6 labels


def multi_output(x: np.ndarray, targets: np.ndarray, rounds: int = 8, **settings: object) -> lgb.Booster:
    """A booster of several raw outputs, grown towards targets of shape (n, outputs)."""

    def objective(scores: np.ndarray, _: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
        gradient = scores.reshape(targets.shape, order="F") - targets
        return gradient, np.ones_like(gradient)

    parameters = {
        "objective": objective, "num_class": targets.shape[1], "verbose": -1, "num_threads": 1,
        "num_leaves": 6, "min_data_in_leaf": 5, "learning_rate": 0.3, **settings,
    }  # fmt: skip
    return lgb.train(parameters, lgb.Dataset(x, np.zeros(len(x)), params=parameters), rounds)


def grown(n_outputs: int, columns: int = 4, seed: int = 0) -> lgb.Booster:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(80, columns)).astype(np.float32)
    return multi_output(x, np.tanh(x) @ rng.normal(0, 2, (columns, n_outputs)))


def small(**changes: object) -> PathEnsemble:
    """Two tree base models over 6 features, of which one knows the first level only."""
    classifiers = [
        PathTrees("lx", grown(2, 2), [5, 0], np.linspace(-1, 1, 9).astype(np.float32)),
        PathTrees("eb", grown(11, 4), range(1, 5), np.zeros(0, np.float32)),
    ]
    intercepts = [np.linspace(2, -2, size) for size in HIERARCHY.sizes]  # so that answers change
    calibrate = calibrator(TAXONOMY, [0.5, 1.0, 2.0], intercepts)
    ensemble = PathEnsemble(classifiers, grown(3, 3), calibrate, HIERARCHY)
    return replace(ensemble, **changes)


ROWS = np.random.default_rng(5).normal(size=(30, 6)).astype(np.float32)
CONTEXT = np.random.default_rng(6).normal(size=(30, 3)).astype(np.float32)


def some_answer(seed: int, n: int = 30) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = [rng.normal(size=(n, size)) for size in HIERARCHY.sizes]
    conditionals = [sibling_softmax(*both) for both in zip(logits, HIERARCHY.parents, strict=True)]
    return joint(conditionals, HIERARCHY.parents)


@settings(max_examples=60)
@given(taxonomies(), st.integers(0, 1000), st.sampled_from([0.1, 3.0, 80.0, 2000.0]))
def test_the_head_of_the_transformer_says_the_same(taxonomy: Taxonomy, seed: int, scale: float) -> None:
    hierarchy = Hierarchy.of(taxonomy)
    total = sum(hierarchy.sizes)
    head = HierarchyHead(total, hierarchy)
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(total))
        head.linear.bias.zero_()
        logits = scale * torch.randn(5, total, generator=torch.Generator().manual_seed(seed))
        expected = [level.numpy() for level in head.answer(logits)]
    parts = np.split(logits.numpy(), np.cumsum(hierarchy.sizes)[:-1], axis=1)
    conditionals = [sibling_softmax(*both) for both in zip(parts, hierarchy.parents, strict=True)]
    p = joint(conditionals, hierarchy.parents)
    checked(p, taxonomy)
    for ours, theirs, logit, above in zip(p, expected, parts, hierarchy.parents, strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
        siblings = np.flatnonzero(np.array(above) == above[-1])
        alone = softmax(logit[:, siblings].astype(np.float64), axis=1)
        np.testing.assert_allclose(sibling_softmax(logit, above)[:, siblings], alone, atol=1e-12)
    # Row by row, from the definition: each level's most probable label among the children of the one above.
    for row, found in enumerate(decode(p, hierarchy.parents)):
        above = 0
        for level, parents in enumerate(hierarchy.parents):
            children = [label for label, parent in enumerate(parents) if parent == above]
            above = max(children, key=lambda label: p[level][row, label])
            assert found[level] == above


def test_of_equals_the_first_is_decoded() -> None:
    p = [np.full((2, size), 1 / size) for size in HIERARCHY.sizes]
    assert decode(p, HIERARCHY.parents).tolist() == [[0, 0, 0]] * 2


def test_labels_and_parents_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) for 2 labels"):
        sibling_softmax(np.zeros((2, 3)), [0, 0])
    with pytest.raises(ValueError, match="no children"):
        sibling_softmax(np.zeros((2, 2)), [0, 2])


def test_a_tree_base_model_answers_from_its_columns_and_constants() -> None:
    ensemble = small()
    assert ensemble.bases == ("lx", "eb", TRANSFORMER)
    lx, eb = ensemble.classifiers
    first = softmax(np.asarray(lx.booster.predict(ROWS[:, [5, 0]])), axis=1)
    p = ensemble.classify(lx, ROWS)
    np.testing.assert_allclose(p[0], first, rtol=1e-12)
    below = sibling_softmax(lx.constants[None, :3], HIERARCHY.parents[1])
    np.testing.assert_allclose(p[1] / p[0][:, HIERARCHY.parents[1]], np.tile(below, (30, 1)), rtol=1e-12)
    checked(p, TAXONOMY)
    whole = np.split(np.asarray(eb.booster.predict(ROWS[:, 1:5])), [2, 5], axis=1)
    conditionals = [sibling_softmax(*both) for both in zip(whole, HIERARCHY.parents, strict=True)]
    for ours, theirs in zip(
        ensemble.classify(eb, ROWS, threads=1), joint(conditionals, HIERARCHY.parents), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_the_blend_weighs_by_name_and_keeps_levels_consistent() -> None:
    ensemble = small()
    per_base = {name: some_answer(seed) for seed, name in enumerate((TRANSFORMER, "eb", "lx"))}
    raw, alpha = ensemble.blend(per_base, CONTEXT)
    np.testing.assert_allclose(alpha, softmax(np.asarray(ensemble.blender.predict(CONTEXT)), axis=1))
    for level, values in enumerate(raw):
        expected = sum(
            alpha[:, [number]] * per_base[name][level] for number, name in enumerate(ensemble.bases)
        )
        np.testing.assert_allclose(values, expected, rtol=1e-12)
    checked(raw, TAXONOMY)
    np.testing.assert_allclose(raw[1] @ np.eye(2)[list(HIERARCHY.parents[1])], raw[0], rtol=1e-12)


def test_the_whole_answer_is_calibrated_and_decoded() -> None:
    ensemble, transformer = small(), some_answer(3)
    answer = ensemble.predict(ROWS, CONTEXT, transformer)
    per_base = {trees.name: ensemble.classify(trees, ROWS) for trees in ensemble.classifiers}
    raw, alpha = ensemble.blend({**per_base, TRANSFORMER: transformer}, CONTEXT)
    assert ensemble.calibrator is not None
    calibrated = ensemble.calibrator.apply(raw)
    for level in range(3):
        np.testing.assert_array_equal(answer.raw[level], raw[level])
        np.testing.assert_array_equal(answer.calibrated[level], calibrated[level])
    np.testing.assert_array_equal(answer.alpha, alpha)
    np.testing.assert_array_equal(answer.path, decode_by_taxonomy(calibrated, TAXONOMY))
    before = small(calibrator=None).predict(ROWS, CONTEXT, transformer)
    np.testing.assert_array_equal(before.calibrated[2], raw[2])
    np.testing.assert_array_equal(before.path, decode_by_taxonomy(raw, TAXONOMY))
    assert (before.path != answer.path).any()


def test_one_row_and_one_base_model() -> None:
    alone = small(classifiers=[], blender=grown(1, 3))
    transformer = some_answer(0, 1)
    answer = alone.predict(ROWS[:1], CONTEXT[:1], transformer)
    assert answer.alpha.tolist() == [[1.0]] and answer.path.shape == (1, 3)
    np.testing.assert_array_equal(answer.raw[2], transformer[2])


def test_parts_that_do_not_fit_are_refused_with_a_remedy() -> None:
    lx, eb = small().classifiers
    for broken in (
        replace(lx, constants=lx.constants[1:]),
        replace(eb, constants=np.zeros(1, np.float32)),
        PathTrees("ends between levels", grown(4), range(4), np.zeros(7, np.float32)),
    ):
        with pytest.raises(ValueError, match="another taxonomy; train it again"):
            small(classifiers=[replace(broken, name="broken"), eb])
    with pytest.raises(ValueError, match="reads 2 features, but 3 columns"):
        small(classifiers=[replace(lx, columns=[1, 2, 3]), eb])
    with pytest.raises(ValueError, match="not finite"):
        small(classifiers=[replace(lx, constants=lx.constants * np.nan), eb])
    with pytest.raises(ValueError, match="distinct"):
        small(classifiers=[lx, replace(eb, name="lx")])
    with pytest.raises(ValueError, match=r"weighs 3 base models, but there are 2 \(eb, transformer\)"):
        small(classifiers=[eb])
    other = Taxonomy(("core", "nuance"), (("Sad", "Low"), ("Happy", "Glad")))
    with pytest.raises(ValueError, match="calibrate again"):
        small(calibrator=calibrator(other, [1.0, 1.0]))
    with pytest.raises(ValueError, match="train the blender again"):
        small().blend({"lx": some_answer(0), TRANSFORMER: some_answer(1)}, CONTEXT)
    wrong = {name: some_answer(0, 29) for name in small().bases}
    with pytest.raises(ValueError, match=r"the answers of lx have the shapes"):
        small().blend(wrong, CONTEXT)
