"""The plots of a hierarchy are written, show what they are given, and take odd results."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
from matplotlib.image import imread
from test_hierarchy import EMOTIONS, SMALL, frame_of, simulate

from perceive.evaluation import hierarchy_plots
from perceive.evaluation.hierarchy import evaluate_hierarchy
from perceive.evaluation.plots import slice_plot
from perceive.taxonomy import Taxonomy


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def evaluated(taxonomy, n=160, **options):
    raw, paths, owners = simulate(1, n, 30, taxonomy, scale=4.0, sharpness=2.0)
    calibrated, _, _ = simulate(1, n, 30, taxonomy, scale=4.0)
    frame = frame_of(paths, owners)
    return evaluate_hierarchy(
        frame,
        {"raw": raw, "calibrated": calibrated, "lx": raw},
        variable="invoked",
        taxonomy=taxonomy,
        train=frame,
        n_bootstrap=20,
        **options,
    )


@pytest.fixture(scope="module")
def result():
    return evaluated(EMOTIONS)


def draw(folder, result, suffix="png"):
    """All plots of a result; their paths."""
    n, metrics, levels = result["n"], result["metrics"], list(result["observed"])
    paths = {
        name: folder / f"{name}.{suffix}" for name in ("rel", "confusion", "confusions", "base", "slices")
    }
    hierarchy_plots.reliability_plot(paths["rel"], "invoked", n, result["reliability"], metrics)
    hierarchy_plots.confusion_plot(paths["confusion"], "invoked", result["confusion"])
    hierarchy_plots.confusions_plot(
        paths["confusions"], "invoked", n, result["confusions"], result["observed"]
    )
    hierarchy_plots.baseline_plot(
        paths["base"],
        "invoked",
        n,
        metrics["calibrated"],
        result["bases"],
        result["baselines"],
        levels,
        result["owners"],
    )
    slice_plot(
        paths["slices"], "invoked", n, metrics["calibrated"], result["slices"], metric="hierarchical_f1"
    )
    return paths


def test_every_plot_is_a_picture_of_legible_size_and_the_same_again(result, tmp_path):
    paths = draw(tmp_path, result)
    for path, again in zip(paths.values(), draw(tmp_path / "again", result).values(), strict=True):
        picture = imread(path)[..., :3]
        assert 300 <= picture.shape[0] <= 3000 and 700 <= picture.shape[1] <= 2000
        assert 0.01 < (picture.min(axis=2) < 0.9).mean() < 0.8
        assert path.read_bytes() == again.read_bytes()


def test_the_texts_are_those_of_the_result(result, tmp_path):
    paths = draw(tmp_path, result, "svg")
    text = {name: path.read_text() for name, path in paths.items()}
    counts = np.array(result["confusion"]["counts"])
    for core, total in zip(result["confusion"]["labels"], counts.sum(axis=1), strict=True):
        assert f"{core} ({total})" in text["confusion"]
    assert f"{100 * counts[0, 0] / counts[0].sum():.0f} %" in text["confusion"]
    for level, pairs in result["confusions"].items():
        assert f"{level}: {result['observed'][level]['n']} labelled rows" in text["confusions"]
        for pair in pairs:
            assert f"{pair['observed']} → {pair['predicted']}" in text["confusions"]
            of_label = round(pair["n"] / pair["share"])
            assert f"{pair['n']} of {of_label} ({100 * pair['share']:.0f} %)" in text["confusions"]
    for level in EMOTIONS.levels:
        for kind, label in (("raw", "before"), ("calibrated", "after")):
            value = result["metrics"][kind][f"ece_{level}"]["value"]
            assert f"{label} (ECE {value:.3f})" in text["rel"]
    for label in ("Perceive", "lexical", "train majority", "keyword lexicon", "macro-F1 (core)"):
        assert label in text["base"]
    for of in (result["metrics"]["calibrated"], *result["bases"].values(), *result["baselines"].values()):
        assert f"{of['hierarchical_f1']['value']:.3f}" in text["base"]
        assert f"{of['macro_f1_core']['value']:.3f}" in text["base"]


def test_a_changed_number_changes_the_picture(result, tmp_path):
    before = {name: path.read_bytes() for name, path in draw(tmp_path, result).items()}
    changed = copy.deepcopy(result)
    changed["reliability"]["micro"]["raw"][0]["observed"] += 0.2
    changed["confusion"]["counts"][0][5] += 4
    changed["confusions"]["micro"][0]["within"] = not changed["confusions"]["micro"][0]["within"]
    changed["baselines"]["lexicon"]["hierarchical_f1"]["high"] += 0.1
    after = {name: path.read_bytes() for name, path in draw(tmp_path, changed).items()}
    assert {name for name in before if before[name] != after[name]} == {
        "rel", "confusion", "confusions", "base",
    }  # fmt: skip


@pytest.mark.parametrize("taxonomy", [SMALL, Taxonomy(("the_emotion",), (("a$",), ("b_$x$",)))])
def test_other_taxonomies_are_drawn(taxonomy, tmp_path):
    for path in draw(tmp_path, evaluated(taxonomy)).values():
        assert path.stat().st_size > 5000


def test_undefined_numbers_are_drawn(result, tmp_path):
    empty = copy.deepcopy(result)
    for of in (*empty["metrics"].values(), *empty["bases"].values()):
        for numbers in of.values():
            numbers.update(value=None, low=None, high=None)
    for bins in empty["reliability"].values():
        bins.update(raw=[], calibrated=[])
    empty["confusions"] = {"nuance": [], "micro": []}
    empty["confusion"]["counts"] = np.zeros((6, 6), int).tolist()
    text = {name: path.read_text() for name, path in draw(tmp_path, empty, "svg").items()}
    assert "ECE undefined" in text["rel"] and "–" in text["base"]
    assert "no wrong answer occurs twice" in text["confusions"]
