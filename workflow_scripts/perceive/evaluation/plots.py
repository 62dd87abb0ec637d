"""Plots of the evaluation.

Each function takes plain numbers, as :func:`perceive.evaluation.evaluate.evaluate_regression` returns them,
or the test rows, and writes one picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from perceive.evaluation import metric_label
from perceive.evaluation.baselines import BASELINE_LABELS, LAG_BASELINES
from perceive.evaluation.gates import Gate, best_of
from perceive.evaluation.metrics import as_pair
from perceive.evaluation.timelines import within_owner_r
from perceive.figures import (
    BLACK,
    BLUE,
    COLUMN_LABELS,
    GREY,
    ORANGE,
    SKY,
    PathLike,
    new_figure,
    shown,
)
from perceive.ledger import owner_key

BASE_LABELS = {
    "lx": "lexical", "eb": "embedding", "tm": "temporal", "full": "all features",
    "transformer": "transformer", "gru": "GRU",
}  # fmt: skip
# More points than this hide one another, and a density says more.
_SCATTER_ROWS = 3000
_TIMELINE_ROWS = 200


def _title(figure: Figure, variable: str, what: str, n: int, owners: int | None = None) -> None:
    counted = f"n = {n:,}" + (f", {owners:,} owners" if owners is not None else "")
    figure.suptitle(f"{variable}: {what} ({counted})", fontweight="bold")


def _number(value: float | None, digits: int = 3) -> str:
    return "undefined" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def reliability_plot(
    path: PathLike,
    variable: str,
    n: int,
    reliability: Mapping[str, Sequence[Mapping[str, float]]],
    metrics: Mapping[str, Mapping[str, Mapping[str, float | None]]] | None = None,
) -> None:
    """Mean observed over mean predicted value of each equal-mass bin, before and after calibration.

    Parameters
    ----------
    reliability : mapping
        Keys ``raw`` and ``calibrated``; each a list of ``{bin, n, predicted, observed}``.
    metrics : mapping, optional
        With the same keys: their ECE goes into the legend.
    """
    drawn = (
        ("raw", "before calibration", ORANGE, "s", "white", "--"),
        ("calibrated", "after calibration", BLUE, "o", BLUE, "-"),
    )
    with new_figure(path, 5.2, 6.6) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4.5, 1])
        values = [b[key] for bins in reliability.values() for b in bins for key in ("predicted", "observed")]
        low, high = _limits(values)
        top.plot([low, high], [low, high], color=GREY, lw=1, ls=":", zorder=1, label="perfect calibration")
        width = 0.008 * (high - low)
        for (name, label, colour, marker, face, line), side in zip(drawn, (-1, 1), strict=True):
            bins = reliability.get(name, [])
            x = np.array([b["predicted"] for b in bins])
            y = np.array([b["observed"] for b in bins])
            if metrics is not None:
                label += f" (ECE {_number(metrics[name]['ece']['value'])})"
            top.plot(
                x, y, color=colour, ls=line, marker=marker, mfc=face, ms=5.5, lw=1.4, label=label, zorder=3
            )
            counts = [b["n"] for b in bins]
            bottom.bar(x + side * width / 2, counts, width=width, color=colour, linewidth=0)
        top.set(xlim=(low, high), ylim=(low, high), ylabel="mean observed")
        top.legend(frameon=False, loc="upper left")
        bottom.set(xlabel="mean predicted", ylabel="rows in bin")
        bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        _title(figure, variable, "reliability", n)


def _limits(values: Iterable[float]) -> tuple[float, float]:
    """Limits inside -0.02..1.02 with a margin, at least .1 apart."""
    known = np.array(list(values), dtype=np.float64)
    if known.size == 0:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    margin = max(0.06 * (high - low), (0.1 - (high - low)) / 2)
    return max(low - margin, -0.02), min(high + margin, 1.02)


def residual_plot(path: PathLike, variable: str, observed: ArrayLike, predicted: ArrayLike) -> None:
    """Predicted over observed values, and the distribution of the residuals (predicted - observed).

    Above 3,000 rows the points become a density of hexagons.
    """
    o, p = as_pair(observed, predicted)
    with new_figure(path, 8.6, 4.2) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1, 1])
        left.plot([0, 1], [0, 1], color=BLACK, lw=1, ls=":", zorder=3)
        if o.size > _SCATTER_ROWS:
            hexes = left.hexbin(
                o, p, gridsize=40, extent=(0, 1, 0, 1), mincnt=1, cmap="cividis", linewidths=0
            )
            figure.colorbar(hexes, ax=left, label="rows", shrink=0.8)
        else:
            alpha = float(np.clip(18 / max(np.sqrt(o.size), 1), 0.25, 0.9))
            left.scatter(o, p, s=14, color=BLUE, alpha=alpha, linewidths=0)
        left.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="observed", ylabel="predicted")
        left.set_box_aspect(1)

        residual = p - o
        if o.size:
            reach = max(0.05, float(np.abs(residual).max()))
            bins = int(np.clip(np.sqrt(o.size) * 1.5, 7, 60)) | 1
            edges = np.linspace(-reach, reach, bins + 1)
            right.hist(residual, bins=edges, color=SKY, edgecolor="white", linewidth=0.4)
            mean, sd = float(residual.mean()), float(residual.std())
            right.axvline(mean, color=ORANGE, lw=1.6, solid_capstyle="butt")
            right.axvspan(mean - sd, mean + sd, color=ORANGE, alpha=0.12, lw=0)
            right.set_xlim(-1.04 * reach, 1.04 * reach)
            # adding 0. turns a rounded -0. into 0.
            right.set_title(
                f"mean {round(mean, 3) + 0.0:.3f} ± sd {sd:.3f}", color=ORANGE, fontweight="normal"
            )
        right.axvline(0, color=BLACK, lw=1, ls=":")
        right.set(xlabel="residual (predicted - observed)", ylabel="rows")
        right.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        _title(figure, variable, "predicted and observed", o.size)


def slice_plot(
    path: PathLike,
    variable: str,
    n: int,
    overall: Mapping[str, Mapping[str, float | None]],
    slices: Mapping[str, Mapping[str, Mapping[str, Any]]],
    gates: Iterable[Gate] = (),
    metric: str = "rmse",
) -> None:
    """A metric with its interval for each slice, the largest on top of its group, the whole split as a band.

    Parameters
    ----------
    overall : mapping
        The metrics of the whole split, ``{metric: {value, low, high}}``.
    slices : mapping
        ``{column: {level: {n, owners, metrics?}}}``; a level without metrics is shown as too small.
    gates : iterable of Gate
        Those of this variable and metric are drawn: across the plot, or at their slice.
    """
    rows: list[tuple[str, str, Mapping[str, Any]]] = []
    for column, levels in slices.items():
        measured = [(level, part) for level, part in levels.items() if _known(part, metric)]
        measured.sort(key=lambda item: -item[1]["metrics"][metric]["value"])
        small = [(level, part) for level, part in levels.items() if not _known(part, metric)]
        rows += [(column, level, part) for level, part in measured + small]
    columns = list(slices)
    # half a row of space between the groups
    places = [number + 0.7 * columns.index(column) for number, (column, _, _) in enumerate(rows)]
    height = 1.7 + 0.27 * ((places[-1] + 1) if places else 1)
    with new_figure(path, 7.0, max(height, 2.4)) as figure:
        axes: Axes = figure.subplots()
        whole = overall[metric]
        if whole["value"] is not None:
            label = f"all rows ({_number(whole['value'])})"
            axes.axvline(whole["value"], color=BLUE, lw=1.2, zorder=1, label=label)
            if whole["low"] is not None and whole["high"] is not None:
                axes.axvspan(whole["low"], whole["high"], color=BLUE, alpha=0.12, lw=0, zorder=0)
        marked = False
        for gate in gates:
            if gate.variable != variable or gate.metric != metric:
                continue
            label = f"gate ({gate.op} {gate.threshold:g})" if gate.slice is None else "gate of the slice"
            style: dict[str, Any] = {"color": ORANGE, "lw": 1.6, "ls": "--" if gate.slice is None else "-"}
            if gate.slice is None:
                axes.axvline(gate.threshold, **style, zorder=1, label=label)
            for place, (column, level, _) in zip(places, rows, strict=True):
                if gate.slice == f"{column}={level}":
                    name = "_nolegend_" if marked else label
                    axes.plot([gate.threshold] * 2, [place - 0.45, place + 0.45], **style, label=name)
                    marked = True
        for place, (_, _, part) in zip(places, rows, strict=True):
            if not _known(part, metric):
                axes.text(
                    0.012, place, "too few rows or owners", color=GREY, va="center", fontsize="small",
                    transform=axes.get_yaxis_transform(), zorder=5,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
                )  # fmt: skip
                continue
            numbers = part["metrics"][metric]
            if numbers["low"] is not None and numbers["high"] is not None:
                axes.plot([numbers["low"], numbers["high"]], [place] * 2, color=BLACK, lw=1.6, zorder=3)
            axes.plot(numbers["value"], place, "o", color=BLACK, ms=5, zorder=4)
        axes.set_yticks(places, [f"{shown(level)}  (n={part['n']:,})" for _, level, part in rows])
        for column in columns:
            of = [place for place, (known, _, _) in zip(places, rows, strict=True) if known == column]
            if of:
                axes.text(
                    1.015, (of[0] + of[-1]) / 2, COLUMN_LABELS.get(column, column), color=GREY, va="center",
                    transform=axes.get_yaxis_transform(),
                )  # fmt: skip
        axes.set_ylim((places[-1] if places else 0) + 0.8, -0.8)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", lw=0.5, alpha=0.6)
        axes.set_xlabel(f"{metric_label(metric)} with 95 % interval over owners")
        if axes.get_legend_handles_labels()[0]:
            figure.legend(frameon=False, loc="outside lower center", ncols=3)
        _title(figure, variable, f"{metric_label(metric)} by slice", n)


def _known(part: Mapping[str, Any], metric: str) -> bool:
    return part.get("metrics", {}).get(metric, {}).get("value") is not None


def baseline_plot(
    path: PathLike,
    variable: str,
    n: int,
    model: Mapping[str, Mapping[str, float | None]],
    bases: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    baselines: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    owners: int | None = None,
) -> None:
    """RMSE and Pearson r, with intervals, of the calibrated model, its base models and the naive baselines.

    Parameters
    ----------
    model : mapping
        ``{metric: {value, low, high}}`` of the calibrated model.
    bases, baselines : mapping
        The same by name.
    """
    rows = [("Perceive", model, BLUE)]
    rows += [(BASE_LABELS.get(name, name), numbers, SKY) for name, numbers in bases.items()]
    rows += [(BASELINE_LABELS.get(name, name), numbers, GREY) for name, numbers in baselines.items()]
    gaps = [0.0] + [0.5] * len(bases) + [1.0] * len(baselines)
    places = np.arange(len(rows)) + np.array(gaps)
    with new_figure(path, 8.6, 1.3 + 0.31 * (places[-1] + 1)) as figure:
        for axes, metric, better in zip(
            figure.subplots(1, 2, sharey=True), ("rmse", "pearson"), ("lower", "higher"), strict=True
        ):
            # The numbers get a column of their own, right of the bars, clear of the intervals.
            known = [
                bound
                for _, numbers, _ in rows
                for bound in numbers[metric].values()
                if bound is not None and np.isfinite(bound)
            ]
            left, right = min([0.0, *known]), max([1e-3, *known])
            for place, (_, numbers, colour) in zip(places, rows, strict=True):
                value, low, high = (numbers[metric][key] for key in ("value", "low", "high"))
                if value is not None:
                    axes.barh(place, value, height=0.72, color=colour, linewidth=0)
                if low is not None and high is not None:
                    axes.plot([low, high], [place] * 2, color=BLACK, lw=1.4, solid_capstyle="butt")
                text = _number(value) if value is not None else "–"
                axes.text(
                    1.02, place, text, va="center", ha="left", fontsize="small",
                    transform=axes.get_yaxis_transform(),
                )  # fmt: skip
            axes.set_xlim(left - (0.03 * (right - left) if left < 0 else 0.0), right + 0.03 * (right - left))
            axes.axvline(0, color=BLACK, lw=0.8)
            axes.set_xlabel(f"{metric_label(metric)} ({better} is better)")
            axes.set_yticks(places, [label for label, _, _ in rows])
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", lw=0.5, alpha=0.6)
            axes.set_axisbelow(True)
            axes.set_ylim(places[-1] + 0.6, -0.6)
        _title(figure, variable, "the model, its base models, and naive baselines", n, owners)


def timeline_plot(
    path: PathLike, variable: str, frame: pd.DataFrame, n_owners: int = 6, *, salt: str
) -> None:
    """Observed and predicted values over time of the owners with the most test items, one panel each.

    Parameters
    ----------
    frame : DataFrame
        The labelled test rows: ``item_id, owner_id, timestamp, observed, calibrated``. Of an owner with more
        than 200 rows the last 200 are drawn.
    n_owners : int
        Panels at most.
    salt : str
        Of the hashes that stand for the owners.
    """
    rows = frame.sort_values(["timestamp", "item_id"], kind="stable")
    groups = {owner_key(str(owner), salt): group for owner, group in rows.groupby("owner_id", sort=False)}
    most = sorted(groups, key=lambda key: (-len(groups[key]), key))[:n_owners]
    columns = min(2, max(len(most), 1))
    lines = max(-(-len(most) // columns), 1)
    with new_figure(path, 4.3 * columns, 1.2 + 1.75 * lines) as figure:
        places = figure.subplots(lines, columns, sharey=True, squeeze=False).reshape(-1)
        for place, key in zip(places, most, strict=False):
            every = groups[key]
            drawn = every.tail(_TIMELINE_ROWS)
            many = len(drawn) > 60
            times = pd.to_datetime(drawn["timestamp"], utc=True).dt.tz_localize(None).to_numpy()
            place.plot(
                times, drawn["observed"], "-o", color=GREY, lw=0.8, ms=2.5 if many else 4, mfc=BLACK, mew=0,
                label="observed",
            )  # fmt: skip
            place.plot(
                times, drawn["calibrated"], "-", color=BLUE, lw=1.3, marker=None if many else "s", ms=3,
                label="predicted",
            )  # fmt: skip
            if times[0] == times[-1]:
                day = np.timedelta64(1, "D")
                place.set_xlim(times[0] - day, times[0] + day)
            locator = AutoDateLocator(minticks=2, maxticks=5)
            place.xaxis.set_major_locator(locator)
            place.xaxis.set_major_formatter(ConciseDateFormatter(locator))
            place.set_ylim(-0.02, 1.02)
            place.grid(axis="y", lw=0.5, alpha=0.6)
            counted = f"{len(every):,} item{'s' if len(every) > 1 else ''}"
            if len(drawn) < len(every):
                counted = f"last {len(drawn)} of {counted}"
            r = within_owner_r(every["observed"], every["calibrated"], [key] * len(every))
            says = f"r = {r:.2f}" if np.isfinite(r) else "r undefined"
            place.set_title(
                f"owner {key[:8]}: {counted}, {says}", loc="left", fontweight="normal", fontsize="small"
            )
        for place in places[len(most) :]:
            place.set_visible(False)
        if most:
            figure.legend(
                *places[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2
            )
            figure.supylabel(variable)
        else:
            places[0].set_visible(True)
            places[0].set_axis_off()
            places[0].text(0.5, 0.5, "no test rows", color=GREY, ha="center", transform=places[0].transAxes)
        _title(figure, variable, "timelines", len(frame), len(groups))


def history_plot(
    path: PathLike,
    variable: str,
    n: int,
    slices: Mapping[str, Mapping[str, Mapping[str, Any]]],
    overall: Mapping[str, Mapping[str, float | None]],
    baselines: Mapping[str, Mapping[str, Mapping[str, float | None]]],
) -> None:
    """RMSE by the number of the owner's items so far: the model, the best lag baseline and the text alone.

    Parameters
    ----------
    slices, baselines : mapping
        Those of a result of :func:`perceive.evaluation.evaluate.evaluate_sequence`.
    overall : mapping
        ``{metric: {value, low, high}}`` of the calibrated model.
    """
    parts = slices.get("history", {})
    lags = {name: baselines[name]["rmse"]["value"] for name in LAG_BASELINES if name in baselines}
    best = best_of(lags, "rmse")
    compared = [(best, ORANGE, "s", 0.14)] if best else []
    compared += [("text_alone", GREY, "D", -0.14)] if "text_alone" in baselines else []
    with new_figure(path, 5.8, 4.2) as figure:
        axes: Axes = figure.subplots()
        measured = [(place, part) for place, part in enumerate(parts.values()) if _known(part, "rmse")]
        model = [(place, part["metrics"]["rmse"]) for place, part in measured]
        if model:
            axes.plot(
                [place for place, _ in model], [numbers["value"] for _, numbers in model], "-o",
                color=BLUE, lw=1.4, ms=6, zorder=4, label="Perceive",
            )  # fmt: skip
        for name, colour, marker, aside in compared:
            points = [(place + aside, part["baselines"][name]["rmse"]) for place, part in measured]
            if points:
                x, y = zip(*points, strict=True)
                label = BASELINE_LABELS.get(name, name)
                axes.plot(x, y, marker, color=colour, mfc="white", mew=1.4, ms=6, zorder=3, label=label)
        for place, numbers in model:
            if numbers["low"] is not None and numbers["high"] is not None:
                axes.plot([place] * 2, [numbers["low"], numbers["high"]], color=BLUE, lw=1.6, zorder=4)
        whole = overall["rmse"]
        if whole["value"] is not None:
            label = f"all rows ({_number(whole['value'])})"
            axes.axhline(whole["value"], color=BLUE, lw=1, ls="--", zorder=1, label=label)
            if whole["low"] is not None and whole["high"] is not None:
                axes.axhspan(whole["low"], whole["high"], color=BLUE, alpha=0.1, lw=0, zorder=0)
        for place, part in enumerate(parts.values()):
            if not _known(part, "rmse"):
                axes.text(
                    place, 0.03, "too few\nrows or\nowners", color=GREY, ha="center", va="bottom",
                    fontsize="small", transform=axes.get_xaxis_transform(), zorder=5,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
                )  # fmt: skip
        if not parts:
            axes.text(0.5, 0.5, "no history", color=GREY, ha="center", transform=axes.transAxes)
        axes.set_xticks(
            range(len(parts)), [f"{shown(level)}\n(n={part['n']:,})" for level, part in parts.items()]
        )
        axes.set_xlim(-0.5, max(len(parts), 1) - 0.5)
        axes.margins(y=0.12)
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="y", lw=0.5, alpha=0.6)
        axes.set(xlabel="items of the owner so far, this one included", ylabel="RMSE with 95 % interval")
        if axes.get_legend_handles_labels()[0]:
            figure.legend(frameon=False, loc="outside lower center", ncols=2)
        _title(figure, variable, "RMSE by history", n)


def scale_plots(
    paths: Mapping[str, PathLike], variable: str, frame: pd.DataFrame, result: Mapping[str, Any]
) -> None:
    """The plots that every scale has: ``reliability, residuals, slices, baselines``.

    Parameters
    ----------
    paths : mapping
        Plot to its file.
    frame : DataFrame
        The labelled test rows: ``observed, calibrated``.
    result : mapping
        Of :func:`perceive.evaluation.evaluate.evaluate_regression` or ``evaluate_sequence``.
    """
    n, metrics = result["n"], result["metrics"]
    reliability_plot(paths["reliability"], variable, n, result["reliability"], metrics)
    residual_plot(paths["residuals"], variable, frame["observed"], frame["calibrated"])
    slice_plot(paths["slices"], variable, n, metrics["calibrated"], result["slices"])
    baseline_plot(
        paths["baselines"],
        variable,
        n,
        metrics["calibrated"],
        result["bases"],
        result["baselines"],
        result["owners"],
    )
