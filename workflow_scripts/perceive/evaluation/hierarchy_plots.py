"""Plots of the evaluation of a hierarchy variable.

Each function takes plain numbers, as :func:`perceive.evaluation.hierarchy.evaluate_hierarchy` returns them,
and writes one picture. Slices are drawn by :func:`perceive.evaluation.plots.slice_plot` with the metric
``hierarchical_f1``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from perceive.evaluation import metric_label
from perceive.evaluation.hierarchy import BASELINE_LABELS
from perceive.evaluation.plots import BASE_LABELS, _number, _title
from perceive.figures import BLACK, BLUE, GREY, ORANGE, SKY, PathLike, new_figure, shown

Numbers = Mapping[str, Mapping[str, float | None]]


def reliability_plot(
    path: PathLike,
    variable: str,
    n: int,
    reliability: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]],
    metrics: Mapping[str, Numbers],
) -> None:
    """Accuracy over confidence of each level's most probable label, before and after calibration.

    Parameters
    ----------
    reliability : mapping
        ``{level: {raw, calibrated}}``, each a list of ``{bin, n, predicted, observed}``.
    metrics : mapping
        ``{raw, calibrated}``: their ECE goes into the legends.
    """
    drawn = (
        ("raw", "before", ORANGE, "s", "white", "--"),
        ("calibrated", "after", BLUE, "o", BLUE, "-"),
    )
    with new_figure(path, 0.9 + 3.3 * len(reliability), 4.9) as figure:
        grid = figure.subplots(
            2, len(reliability), sharex="col", sharey="row", height_ratios=[4.2, 1], squeeze=False
        )
        for (top, bottom), (level, bins_of) in zip(grid.T, reliability.items(), strict=True):
            top.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":", zorder=1)
            for (name, label, colour, marker, face, line), side in zip(drawn, (-1, 1), strict=True):
                bins = bins_of[name]
                x = np.array([b["predicted"] for b in bins])
                y = [b["observed"] for b in bins]
                ece = metrics[name][f"ece_{level}"]["value"]
                top.plot(
                    x, y, color=colour, ls=line, marker=marker, mfc=face, ms=5, lw=1.4, zorder=3,
                    label=f"{label} (ECE {_number(ece)})",
                )  # fmt: skip
                bottom.bar(x + side * 0.006, [b["n"] for b in bins], width=0.012, color=colour, linewidth=0)
            top.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            top.set_title(shown(level))
            top.legend(frameon=False, loc="upper left", title="calibration", alignment="left")
            bottom.set_xlabel("confidence")
            bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        grid[0, 0].set_ylabel("accuracy")
        grid[1, 0].set_ylabel("rows in bin")
        _title(figure, variable, "reliability of each level's most probable label", n)


def confusion_plot(path: PathLike, variable: str, confusion: Mapping[str, Any]) -> None:
    """First-level labels by answers: each row's shares in colour, shares and counts as numbers.

    Parameters
    ----------
    confusion : mapping
        ``{level, labels, counts}``.
    """
    counts = np.asarray(confusion["counts"], dtype=np.int64)
    labels = [shown(label, 18) for label in confusion["labels"]]
    of_label = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, of_label, out=np.zeros(counts.shape), where=of_label > 0)
    side = 0.82 * len(labels)
    with new_figure(path, 2.2 + side, 1.9 + 0.8 * side) as figure:
        axes: Axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(*counts.shape):
            if counts[row, column]:
                axes.text(
                    column, row, f"{100 * shares[row, column]:.0f} %\n{counts[row, column]:,}",
                    ha="center", va="center", fontsize="small",
                    color="white" if shares[row, column] > 0.55 else BLACK,
                )  # fmt: skip
        names = [f"{label} ({total:,})" for label, total in zip(labels, of_label[:, 0], strict=True)]
        axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), names)
        axes.set(xlabel="answered", ylabel="observed (rows)")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the observed label's rows")
        bar.outline.set_visible(False)
        _title(figure, variable, f"confusion at level {shown(confusion['level'])}", int(counts.sum()))


def confusions_plot(
    path: PathLike,
    variable: str,
    n: int,
    confusions: Mapping[str, Sequence[Mapping[str, Any]]],
    observed: Mapping[str, Mapping[str, int]],
) -> None:
    """The most frequent wrong answers of each level below the first.

    Parameters
    ----------
    confusions : mapping
        ``{level: [{observed, predicted, n, share, within}, ...]}``.
    observed : mapping
        ``{level: {n, ...}}``, for the titles.
    """
    heights = [max(len(pairs), 2) for pairs in confusions.values()] or [2]
    with new_figure(path, 8.6, 1.0 + 0.9 * len(heights) + 0.29 * sum(heights)) as figure:
        grid = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axes in grid[len(confusions) :]:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "the taxonomy has one level", ha="center", color=GREY)
        for axes, height, (level, pairs) in zip(grid, heights, confusions.items(), strict=False):
            places = range(len(pairs))
            for place, pair in zip(places, pairs, strict=True):
                axes.barh(place, pair["n"], height=0.72, color=SKY if pair["within"] else ORANGE, linewidth=0)
                axes.annotate(
                    f"{pair['n']:,} of {round(pair['n'] / pair['share']):,} ({100 * pair['share']:.0f} %)",
                    (pair["n"], place), xytext=(4, 0), textcoords="offset points", va="center",
                    fontsize="small",
                )  # fmt: skip
            names = [f"{shown(pair['observed'], 40)} → {shown(pair['predicted'], 40)}" for pair in pairs]
            axes.set_yticks(places, names)
            axes.set_ylim(height - 0.4, -0.6)
            axes.set_xlim(0, 1.3 * max([1, *(pair["n"] for pair in pairs)]))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.tick_params(axis="y", length=0)
            axes.set_title(f"{shown(level)}: {observed[level]['n']:,} labelled rows", loc="left")
            if not pairs:
                axes.text(0.65, height / 2 - 0.5, "no wrong answer occurs twice", ha="center", color=GREY)
        if confusions:
            grid[-1].set_xlabel("rows (observed → answered)")
            handles = [
                grid[-1].barh([0], [0], color=colour, label=label, linewidth=0)
                for colour, label in ((SKY, "the level above is right"), (ORANGE, "already wrong above"))
            ]
            figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=2)
        _title(figure, variable, "largest confusions below the first level", n)


def baseline_plot(
    path: PathLike,
    variable: str,
    n: int,
    model: Numbers,
    bases: Mapping[str, Numbers],
    baselines: Mapping[str, Numbers],
    levels: Sequence[str],
    owners: int | None = None,
) -> None:
    """Macro-F1 of the first level and hierarchical F1, with intervals, of model, base models and baselines.

    Parameters
    ----------
    model : mapping
        ``{metric: {value, low, high}}`` of the calibrated model.
    bases, baselines : mapping
        The same by name.
    levels : sequence of str
        Names of the levels.
    """
    rows = [("Perceive", model, BLUE)]
    rows += [(BASE_LABELS.get(name, name), numbers, SKY) for name, numbers in bases.items()]
    rows += [(BASELINE_LABELS.get(name, name), numbers, GREY) for name, numbers in baselines.items()]
    gaps = [0.0] + [0.5] * len(bases) + [1.0] * len(baselines)
    places = np.arange(len(rows)) + np.array(gaps)
    with new_figure(path, 8.6, 1.3 + 0.31 * (places[-1] + 1)) as figure:
        for axes, metric in zip(
            figure.subplots(1, 2, sharey=True), (f"macro_f1_{levels[0]}", "hierarchical_f1"), strict=True
        ):
            for place, (_, numbers, colour) in zip(places, rows, strict=True):
                value, low, high = (numbers[metric][key] for key in ("value", "low", "high"))
                if value is not None:
                    axes.barh(place, value, height=0.72, color=colour, linewidth=0)
                if low is not None and high is not None:
                    axes.plot([low, high], [place] * 2, color=BLACK, lw=1.4, solid_capstyle="butt")
                axes.text(
                    1.02, place, "–" if value is None else _number(value), va="center", ha="left",
                    fontsize="small", transform=axes.get_yaxis_transform(),
                )  # fmt: skip
            axes.set_xlim(0, 1)
            axes.set_xlabel(f"{metric_label(metric)} (higher is better)")
            axes.set_yticks(places, [label for label, _, _ in rows])
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", lw=0.5, alpha=0.6)
            axes.set_axisbelow(True)
            axes.set_ylim(places[-1] + 0.6, -0.6)
        _title(figure, variable, "the model, its base models, and naive baselines", n, owners)
