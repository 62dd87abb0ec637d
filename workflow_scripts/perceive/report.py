"""The report: one page that needs no network, in which every number names the artifact that it comes from.

The template takes numbers and names through :class:`Cite` alone. It writes them as ``<data value="..."
data-source="file#/pointer">``, with a pointer (RFC 6901) into the file's JSON, or into the list of the rows
of its CSV or TSV. So a reader can look any of them up, and a test looks all of them up.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import seaborn as sns
from markupsafe import Markup
from PIL import Image

from perceive.evaluation import METRICS, PLOTS, lower_is_better, metric_label
from perceive.evaluation.acceptance import ERRORS
from perceive.figures import BLUE, GREY, ORANGE, PathLike, new_figure

Key = str | int

KINDS = {
    "regression": "a scale from nothing to full, of each text by itself",
    "sequence": "a scale from nothing to full, of each text and its owner's history",
    "hierarchy": "a path from a core emotion down to its finest name",
}
BASE_NAMES = {
    "lx": "trees on lexicons",
    "eb": "trees on the embedding",
    "tm": "trees on the timeline",
    "full": "trees on all features",
    "transformer": "transformer",
    "gru": "recurrent network on the history",
}
BASELINE_NAMES = {
    "mean": "the training mean",
    "last_value": "the owner's last value",
    "owner_mean": "the owner's mean so far",
    "ema": "the owner's moving average",
    "ridge_lags": "ridge on the owner's last values",
    "text_alone": "this text without the history",
    "vader": "VADER",
    "majority": "the commonest path",
    "lexicon": "the lexicon's emotion",
}
COLUMN_NAMES = {
    "risk_level": "risk",
    "language": "language",
    "category": "category",
    "length_bucket": "length",
    "history": "history before the text",
}
PLOT_NAMES = {
    "reliability": "what was answered against what was observed, before and after calibration",
    "residuals": "what is left unexplained",
    "slices": "quality by group, with intervals",
    "baselines": "the model beside naive baselines and the noise ceiling",
    "timelines": "owners over time, observed and answered",
    "history": "quality by the length of the history",
    "confusion": "core emotions observed and answered",
    "confusions": "the commonest confusions",
}
ORDER = {"HIGH": 0, "SHORT": 0, "MEDIUM": 1, "LOW": 2, "LONG": 2}
"""Of groups: high risk first, short texts first, others by name."""
WORST = 10
"""Worst answers on the page; their artifact has more."""
VERDICT_WORDS = {"pass": "✓ passes", "fail": "✗ fails", "undecided": "? undecided"}
LIBRARIES = (
    "lightgbm",
    "openvino",
    "nncf",
    "torch",
    "transformers",
    "scikit-learn",
    "optuna",
    "pandas",
    "snakemake",
)


class Artifacts:
    """Files of a results folder, each read once.

    Parameters
    ----------
    results : path
    """

    def __init__(self, results: PathLike) -> None:
        self.results = Path(results)
        self._read = cache(self._load)

    def _load(self, file: str) -> Any:
        path = self.results / file
        if not path.is_file():
            return None
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        with path.open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ","))

    def get(self, file: str, *keys: Key) -> Any:
        """What stands there; None where the file or one of the keys is not there."""
        found = self._read(file)
        for key in keys:
            try:
                found = found[key]
            except (KeyError, IndexError, TypeError):
                return None
        return found


def pointer(keys: Iterable[Key]) -> str:
    """JSON pointer (RFC 6901)."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def formatted(value: float, style: str) -> str:
    """A number for people.

    ``count``: 5,200; ``3`` (digits after the point): 0.074; ``%``: 47 %; ``+3`` and ``+%`` with a sign.
    """
    sign, style = ("+", style[1:]) if style[0] == "+" else ("", style)
    if style == "count":
        return f"{value:{sign},.0f}"
    if style == "%":
        return f"{100 * value:{sign}.0f} %"
    text = f"{value:{sign}.{style}f}"
    # Not "0.000" for what is small and not nothing.
    return f"{value:{sign}.1e}" if value and not float(text) else text


class Cite:
    """Numbers and names of artifacts as HTML that names its source."""

    def __init__(self, artifacts: Artifacts) -> None:
        self.artifacts = artifacts

    def number(self, file: str, *keys: Key, style: str = "3") -> Markup:
        """A number; a dash where there is none."""
        value = self.artifacts.get(file, *keys)
        if isinstance(value, str):
            value = float(value) if value.strip() else None
        if value is None or not math.isfinite(value):
            return Markup('<span class="none">–<span class="aside"> not measured</span></span>')
        return Markup('<data value="{}" data-source="{}#{}">{}</data>').format(
            repr(value), file, pointer(keys), formatted(value, style)
        )

    def text(self, file: str, *keys: Key) -> Markup:
        """A name or a sentence as it stands in the artifact, escaped."""
        value = self.artifacts.get(file, *keys)
        if value is None or value == "":
            return Markup('<span class="none">–<span class="aside"> none</span></span>')
        return Markup('<data value="{0}" data-source="{1}#{2}">{0}</data>').format(
            str(value), file, pointer(keys)
        )

    def key(self, file: str, *keys: Key) -> Markup:
        """The last of the keys, a group's name; the source is the object that has it."""
        return Markup('<data value="{0}" data-source="{1}#{2}">{0}</data>').format(
            str(keys[-1]), file, pointer(keys[:-1])
        )

    def estimate(self, file: str, *keys: Key, style: str = "3") -> Markup:
        """A value with its interval, from ``{value, low, high}`` or from a value alone."""
        found = self.artifacts.get(file, *keys)
        if not isinstance(found, Mapping):
            return self.number(file, *keys, style=style)
        value = self.number(file, *keys, "value", style=style)
        if found.get("low") is None or found.get("high") is None:
            return value
        return Markup('{} <span class="interval">({} to {})</span>').format(
            value,
            self.number(file, *keys, "low", style=style),
            self.number(file, *keys, "high", style=style),
        )

    def image(self, file: str, alt: str, caption: str = "") -> Markup:
        """A plot, inside the page; nothing where there is none."""
        path = self.artifacts.results / file
        if not path.is_file():
            return Markup("")
        encoded = base64.b64encode(_small(path)).decode("ascii")
        return Markup(
            '<figure data-source="{}"><img alt="{}" src="data:image/png;base64,{}">'
            "<figcaption>{}</figcaption></figure>"
        ).format(file, alt, Markup(encoded), caption or alt)


def _small(path: Path) -> bytes:
    """The plot in 128 colours, more than it has but for the edges of its letters: a third of the bytes."""
    stream = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").quantize(128).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def provenance(results: PathLike) -> dict[str, Any]:
    """What the results were made with, and when: versions, and of every rule its jobs, time and memory.

    Parameters
    ----------
    results : path
        With ``benchmarks/`` (of Snakemake) and ``state/made/`` (of :mod:`perceive.integrity`).

    Returns
    -------
    dict
        ``{written, python, platform, versions: {library: version}, rules: [{rule, jobs, seconds, memory_mb,
        first, last}], seconds}``; seconds of the last run of each job, the times in UTC, the longest rule
        first.
    """
    results = Path(results)
    rules: dict[str, dict[str, Any]] = {}
    for path in sorted((results / "benchmarks").rglob("*.tsv")):
        rule = path.relative_to(results / "benchmarks").parts[0].removesuffix(".tsv")
        took = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
        one = rules.setdefault(rule, {"rule": rule, "jobs": 0, "seconds": 0.0, "memory_mb": 0.0, "made": []})
        one["jobs"] += 1
        one["seconds"] += float(took["s"].sum())
        memory = took["max_rss"].max()
        one["memory_mb"] = max(one["memory_mb"], 0.0 if pd.isna(memory) else float(memory))
        one["made"].append(path.stat().st_mtime)
    found = []
    for one in sorted(rules.values(), key=lambda one: -one["seconds"]):
        made = one.pop("made")
        first, last = (
            datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="minutes")[:16]
            for at in (min(made), max(made))
        )
        found.append({**one, "seconds": round(one["seconds"], 1), "first": first, "last": last})
    return {
        "written": datetime.now(UTC).isoformat(sep=" ", timespec="minutes")[:16],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in LIBRARIES},
        "rules": found,
        "seconds": round(sum(one["seconds"] for one in found), 1),
    }


def in_order(values: Iterable[str]) -> list[str]:
    """Names of groups, high risk first."""
    return sorted(values, key=lambda value: (ORDER.get(value, len(ORDER)), value))


def main_gate(gates: Sequence[Mapping[str, Any]], variable: str) -> int | None:
    """Position of a variable's first gate on its quality over all items; None where it has none."""
    for place, gate in enumerate(gates):
        if gate["variable"] == variable and gate["slice"] is None and gate["value"] is not None:
            try:
                metric_label(gate["metric"])
            except ValueError:
                continue
            return place
    return None


def quality_plot(path: PathLike, gates: Sequence[Mapping[str, Any]], variables: Sequence[str]) -> None:
    """Every variable between its best naive baseline and what the labels allow.

    A variable's first gate decides the metric. 0 is the baseline and 1 the noise ceiling; the bar is the
    interval of the owner bootstrap, the tick the gate's threshold. Variables without a baseline or a ceiling
    are left out.
    """
    drawn = []
    for variable in variables:
        place = main_gate(gates, variable)
        if place is None:
            continue
        gate = gates[place]
        base, ceiling = gate["baseline_value"], gate["ceiling"]
        better = -1 if lower_is_better(gate["metric"]) else 1
        if None in (base, ceiling, gate["low"], gate["high"]) or better * (ceiling - base) <= 0:
            continue
        scaled = [(gate[name] - base) / (ceiling - base) for name in ("value", "low", "high", "threshold")]
        drawn.append((f"{variable}\n{metric_label(gate['metric'])}", *scaled))
    with new_figure(path, 7.5, 0.9 + 0.55 * max(len(drawn), 1)) as figure:
        axes = figure.subplots()
        for row, (_, value, one, other, threshold) in enumerate(drawn):
            axes.plot([one, other], [row, row], color=BLUE, linewidth=3, solid_capstyle="round", alpha=0.5)
            axes.plot(value, row, "o", color=BLUE, markersize=8, label="model" if row == 0 else None)
            axes.plot(
                threshold, row, "|", color=ORANGE, markersize=18, markeredgewidth=3,
                label="gate" if row == 0 else None,
            )  # fmt: skip
        axes.axvline(0, color=GREY, linestyle=":")
        axes.axvline(1, color=GREY, linestyle="-")
        axes.set_yticks(range(len(drawn)), [name for name, *_ in drawn])
        axes.set_ylim(max(len(drawn), 1) - 0.5, -0.5)
        axes.set_xticks([0, 1], ["best naive\nbaseline", "noise ceiling\nof the labels"])
        if drawn:
            axes.legend(
                loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.35 / len(drawn)), ncols=2, frameon=False
            )
        else:
            said = (
                "nothing to draw: no variable has a noise ceiling above its baseline\n"
                "(a ceiling needs items with two ratings)"
            )
            axes.text(0.5, 0, said, ha="center", va="center", color=GREY)
        sns.despine(ax=axes, left=True)


def render(
    artifacts: Artifacts,
    template: PathLike,
    *,
    corpus: str,
    variables: Sequence[str],
) -> str:
    """The page.

    Parameters
    ----------
    artifacts : Artifacts
        With all that the rules before the report write, and ``report/provenance.json, report/quality.png``.
    template : path
        A Jinja2 template.
    corpus : str
        The corpus's name.
    variables : sequence of str

    Returns
    -------
    str
        HTML without scripts and without addresses that a browser would load.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    cite = Cite(artifacts)
    gates = artifacts.get("acceptance.json", "gates") or []
    return environment.from_string(Path(template).read_text(encoding="utf-8")).render(
        corpus=corpus,
        variables=variables,
        plots=PLOTS,
        get=artifacts.get,
        num=cite.number,
        text=cite.text,
        key=cite.key,
        est=cite.estimate,
        image=cite.image,
        gates=gates,
        main={name: main_gate(gates, name) for name in variables},
        metrics=METRICS,
        kinds=KINDS,
        bases=BASE_NAMES,
        baselines=BASELINE_NAMES,
        columns=COLUMN_NAMES,
        plots_alt=PLOT_NAMES,
        order=in_order,
        shown_worst=WORST,
        words=VERDICT_WORDS,
        label=metric_label,
        lower=lower_is_better,
        lower_metric=lambda metric: metric in ERRORS or lower_is_better(metric),
    )
