"""A corpus at a glance: counts, distributions of the labels, moods in time, agreement, invoked and expressed.

The numbers are gathered in one pass over the annotations that keeps no text; owners are shown by salted
hashes.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import MaxNLocator, PercentFormatter

from perceive.corpus.reader import Derived, Item, Reject
from perceive.figures import (
    BLACK,
    BLUE,
    COLUMN_LABELS,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    YELLOW,
    PathLike,
    new_figure,
    shown,
)
from perceive.ledger import owner_key
from perceive.variables import HIERARCHIES, SCALES, VARIABLES

_COLUMNS = ("category", "language", "risk_level", "length_bucket")
_ORDER = ("LOW", "MEDIUM", "HIGH", "SHORT", "MEDIUM", "LONG")
_MAX_LEVELS = 14
N_MOODS = 3
# Smoothing of the mood line; the same as the slow one of the temporal features.
_SMOOTH = 0.3


@dataclass
class Portrait:
    """What the pictures show.

    Attributes
    ----------
    counts
        Items by column and level.
    sizes
        Items by owner.
    scales
        All values of each scale.
    derived
        Those that a formula gave.
    cores
        Items by core, of each hierarchy.
    pairs
        Items by (core invoked, core expressed).
    moods
        Microseconds since 1970 and valence of each owner's labelled items.
    """

    counts: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in _COLUMNS})
    sizes: Counter[str] = field(default_factory=Counter)
    scales: dict[str, array[float]] = field(default_factory=lambda: {name: array("f") for name in SCALES})
    derived: dict[str, array[float]] = field(default_factory=lambda: {name: array("f") for name in SCALES})
    cores: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in HIERARCHIES})
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    moods: dict[str, tuple[array[int], array[float]]] = field(default_factory=dict)

    @property
    def items(self) -> int:
        """Number of items."""
        return self.sizes.total()

    def add(self, item: Item) -> None:
        """Count one item."""
        self.sizes[item.owner_id] += 1
        for column, counter in self.counts.items():
            level = getattr(item, column)
            counter["none" if level is None else level] += 1
        for variable, (value, _, _) in item.labels.items():
            if isinstance(value, float):
                self.scales[variable].append(value)
            else:
                self.cores[variable][value[0]] += 1
        if "invoked" in item.labels and "expressed" in item.labels:
            invoked, expressed = (item.labels[name][0][0] for name in HIERARCHIES)  # type: ignore[index]
            self.pairs[invoked, expressed] += 1
        if "valence" in item.labels:
            times, values = self.moods.setdefault(item.owner_id, (array("q"), array("f")))
            times.append(item.timestamp)
            values.append(item.labels["valence"][0])  # type: ignore[arg-type]

    def longest(self) -> list[str]:
        """The owners with the most valence labels, at most three; ties by name."""
        return sorted(self.moods, key=lambda owner: (-len(self.moods[owner][0]), owner))[:N_MOODS]


def gather(entries: Iterable[Item | Reject | Derived]) -> Portrait:
    """The portrait of the accepted items."""
    portrait = Portrait()
    for entry in entries:
        if isinstance(entry, Item):
            portrait.add(entry)
        elif isinstance(entry, Derived):
            portrait.derived[entry.variable].append(entry.value)
    return portrait


def counts_plot(path: PathLike, portrait: Portrait) -> None:
    """Items by category, language, risk level and length, and how many items the owners have."""
    with new_figure(path, 8.6, 5.6) as figure:
        axes = figure.subplot_mosaic([["category", "owners"], ["category", "owners"],
                                      ["language", "risk_level"], ["language", "length_bucket"]])  # fmt: skip
        for column, counter in portrait.counts.items():
            place = axes[column]
            levels = _levels(counter)
            numbers = [number for _, number in levels]
            place.barh(range(len(levels)), numbers, color=BLUE, height=0.72, linewidth=0)
            for row, number in enumerate(numbers):
                share = number / portrait.items if portrait.items else 0.0
                place.text(number, row, f" {number:,} ({share:.0%})", va="center", fontsize="small")
            place.set_yticks(range(len(levels)), [shown(level) for level, _ in levels])
            place.set(ylim=(len(levels) - 0.4, -0.6), xlim=(0, 1.45 * max([1, *numbers])), xticks=[])
            place.tick_params(axis="y", length=0)
            place.spines["bottom"].set_visible(False)
            place.set_title(COLUMN_LABELS[column], loc="left")
        sizes = np.array(list(portrait.sizes.values()) or [0])
        place = axes["owners"]
        place.hist(
            sizes, bins=_bins_of_sizes(int(sizes.max())).tolist(), color=SKY, edgecolor="white", linewidth=0.4
        )
        median = float(np.median(sizes))
        place.axvline(median, color=ORANGE, lw=1.6)
        place.set_title(f"items an owner (median {median:g}, most {sizes.max():,})", loc="left")
        place.set(xlabel="items", ylabel="owners")
        place.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        figure.suptitle(f"{portrait.items:,} items of {len(portrait.sizes):,} owners", fontweight="bold")


def _levels(counter: Mapping[str, int]) -> list[tuple[str, int]]:
    """Levels in their natural order, else by size; what is beyond the fourteenth is one row."""
    levels = sorted(
        counter.items(),
        key=lambda entry: (_ORDER.index(entry[0]) if entry[0] in _ORDER else -1, -entry[1], entry[0]),
    )
    if len(levels) > _MAX_LEVELS:
        rest = levels[_MAX_LEVELS - 1 :]
        levels = [*levels[: _MAX_LEVELS - 1], (f"{len(rest)} others", sum(number for _, number in rest))]
    return levels


def _bins_of_sizes(largest: int) -> np.ndarray:
    if largest <= 60:
        return np.arange(0.5, largest + 1.5)
    return np.linspace(0.5, largest + 0.5, 40)


def labels_plot(path: PathLike, portrait: Portrait) -> None:
    """The distribution of each variable: a histogram of a scale, the shares of the cores of a hierarchy."""
    with new_figure(path, 9.4, 5.2) as figure:
        places = figure.subplots(2, 4).ravel()
        for place, variable in zip(places, (*SCALES, *HIERARCHIES), strict=False):
            place.set_title(variable, loc="left")
            if variable in SCALES:
                own, derived = (np.asarray(of[variable]) for of in (portrait.scales, portrait.derived))
                values = np.concatenate([own, derived])
                place.set(xlim=(0, 1), xlabel=f"n = {values.size:,}", xticks=[0, 0.5, 1])
                if derived.size:
                    some = f"{derived.size:,} derived" if own.size else "derived"
                    place.set_title(f"{variable} ({some})", loc="left")
                if values.size:
                    bins = np.linspace(0, 1, 41).tolist()
                    place.hist([own, derived], bins=bins, color=[BLUE, GREY], linewidth=0, stacked=True)
                    place.axvline(values.mean(), color=ORANGE, lw=1.4)
                    place.set_xlabel(
                        f"{values.mean():.2f} ± {values.std():.2f} (n = {values.size:,})", size=8
                    )
                place.set_yticks([])
                place.spines["left"].set_visible(False)
            else:
                counter = portrait.cores[variable]
                total = counter.total()
                names = sorted(counter, key=lambda name: (-counter[name], name))[:_MAX_LEVELS]
                shares = [counter[name] / total for name in names]
                place.barh(range(len(names)), shares, color=BLUE, height=0.72, linewidth=0)
                for row, share in enumerate(shares):
                    place.text(share, row, f" {share:.0%}", va="center", fontsize="small")
                place.set_yticks(range(len(names)), [shown(name, 14) for name in names])
                place.set(ylim=(max(len(names), 1) - 0.4, -0.6), xlim=(0, 1.3 * max([0.1, *shares])))
                place.set(xticks=[], xlabel=f"n = {total:,}")
                place.tick_params(axis="y", length=0)
            counted = (portrait.scales, portrait.derived) if variable in SCALES else (portrait.cores,)
            if not any(of[variable] for of in counted):
                place.text(0.5, 0.5, "no label", color=GREY, ha="center", transform=place.transAxes)
                place.set_yticks([])
        for place in places[len(SCALES) + len(HIERARCHIES) :]:
            place.set_visible(False)
        figure.suptitle("Labels, aggregated over the annotators", fontweight="bold")


def moods_plot(
    path: PathLike,
    portrait: Portrait,
    salt: str,
    truth: Mapping[str, Sequence[tuple[int, float]]] | None = None,
) -> None:
    """Valence over time of the three owners with the most labels, with an exponential average.

    Parameters
    ----------
    salt
        Of the hashes that stand for the owners.
    truth
        For a generated corpus: seconds since 1970 and true mood (in standard deviations) of these owners.
    """
    owners = portrait.longest()
    with new_figure(path, 8.6, 1.2 + 1.9 * max(len(owners), 1)) as figure:
        places = figure.subplots(max(len(owners), 1), 1, sharey=True, squeeze=False)[:, 0]
        for place, owner in zip(places, owners, strict=False):
            times, values = (np.asarray(part) for part in portrait.moods[owner])
            order = np.argsort(times, kind="stable")
            dates = [datetime.fromtimestamp(time / 1e6, tz=UTC) for time in times[order]]
            observed = values[order]
            place.plot(dates, observed, "o", color=SKY, ms=4, label="valence label")
            place.plot(dates, _smoothed(observed), color=BLUE, lw=1.6, label="exponential average")
            if truth and owner in truth:
                known = sorted(truth[owner])
                moments = [datetime.fromtimestamp(second, tz=UTC) for second, _ in known]
                aside = place.twinx()
                aside.plot(moments, [mood for _, mood in known], color=ORANGE, lw=1.2, ls="--")
                aside.set(ylim=(-3.1, 3.1))
                aside.set_ylabel("true mood (sd)", color=ORANGE)
                aside.spines["right"].set_visible(True)
                # The line hides no point.
                place.set_zorder(aside.get_zorder() + 1)
                place.patch.set_visible(False)
            place.axhline(float(observed.mean()), color=GREY, lw=0.8, ls=":")
            locator = AutoDateLocator(maxticks=8)
            place.xaxis.set_major_locator(locator)
            place.xaxis.set_major_formatter(ConciseDateFormatter(locator))
            place.set(ylim=(-0.02, 1.02), ylabel="valence")
            place.set_title(f"owner {owner_key(owner, salt)[:8]} ({len(observed):,} items)", loc="left")
        if owners:
            places[0].legend(
                frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0
            )
        else:
            places[0].text(0.5, 0.5, "no valence label", color=GREY, ha="center")
        figure.suptitle("Moods in time", fontweight="bold", x=0.02, ha="left")


def _smoothed(values: np.ndarray) -> np.ndarray:
    smooth = np.empty_like(values)
    level = values[0] if values.size else 0.0
    for place, value in enumerate(values):
        level = level + _SMOOTH * (value - level)
        smooth[place] = level
    return smooth


def pairs_plot(path: PathLike, portrait: Portrait) -> None:
    """How often each core is expressed where another is invoked: shares of the rows, and counts."""
    invoked = sorted({pair[0] for pair in portrait.pairs})
    expressed = sorted({pair[1] for pair in portrait.pairs} | set(invoked))
    with new_figure(path, 6.6, 5.4) as figure:
        place = figure.subplots()
        if not portrait.pairs:
            place.text(0.5, 0.5, "no item has both labels", color=GREY, ha="center")
            place.set_axis_off()
            return
        table = np.array([[portrait.pairs[a, b] for b in expressed] for a in invoked], dtype=float)
        shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        text = np.array(
            [[f"{share:.0%}\n{int(count):,}" if count else "" for share, count in zip(*rows, strict=True)]
             for rows in zip(shares, table, strict=True)]
        )  # fmt: skip
        sns.heatmap(
            shares, ax=place, annot=text, fmt="", cmap="Blues", vmin=0, vmax=1, linewidths=0.5,
            annot_kws={"fontsize": 8}, cbar_kws={"label": "share of the row", "format": PercentFormatter(1)},
            xticklabels=[shown(name, 14) for name in expressed],
            yticklabels=[shown(name, 14) for name in invoked],
        )  # fmt: skip
        place.tick_params(length=0, rotation=0)
        place.set(xlabel="expressed", ylabel="invoked")
        same = sum(number for (a, b), number in portrait.pairs.items() if a == b)
        total = portrait.pairs.total()
        place.set_title(f"Invoked and expressed core: {same / total:.0%} agree (n = {total:,})", loc="left")


#: Drawn coefficients: key, name, marker, colour.
_COEFFICIENTS = (
    ("icc_1", "ICC(1)", "s", BLUE),
    ("icc_k", "ICC(k)", "D", GREEN),
    ("cohen_kappa", "Cohen's kappa", "s", SKY),
    ("fleiss_kappa", "Fleiss' kappa", "D", YELLOW),
    ("krippendorff_alpha", "Krippendorff's alpha", "o", ORANGE),
)


def agreement_plot(path: PathLike, agreement: Mapping[str, Mapping[str, Any]]) -> None:
    """Each variable's agreement between raters, with the requirement, and its noise ceiling.

    Parameters
    ----------
    agreement
        By variable what `perceive.corpus.agreement.measure_agreement` gave. Variables without a coefficient
        (rated once an item, or not at all) are left out.
    """
    variables = [name for name in VARIABLES if name in agreement]
    rows = [row for name in variables for row in _agreement_rows(name, agreement[name])]
    with new_figure(path, 8.6, 1.9 + 0.3 * max(len(rows), 1)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.5, 1])
        if not rows:
            left.text(0.5, 0.5, "no item has two ratings", color=GREY, ha="center")
            left.set_axis_off()
            right.set_axis_off()
            return
        labelled: set[str] = set()

        def once(name: str) -> str:
            fresh = name not in labelled
            labelled.add(name)
            return name if fresh else "_nolegend_"

        least = 0.0
        for place, (_, coefficients, ceiling) in enumerate(rows):
            for key, name, marker, colour in _COEFFICIENTS:
                found = coefficients.get(key)
                if found is None or found["value"] is None:
                    continue
                least = min(least, found["value"])
                required = [found["requirement"]] * 2
                left.plot(required, [place - 0.4, place + 0.4], color=BLACK, lw=1.4, label=once("required"))
                left.plot(found["value"], place, marker, color=colour, ms=6, ls="", label=once(name))
            if ceiling is not None:
                right.barh(place, ceiling[1], color=SKY, height=0.7, linewidth=0)
                right.text(0.03, place, f"{ceiling[0]} {ceiling[1]:.3f}", va="center", fontsize="small")
        left.set_yticks(range(len(rows)), [name for name, *_ in rows])
        left.set(ylim=(len(rows) - 0.4, -0.6), xlim=(least - 0.02, 1.02), xlabel="agreement")
        right.set(xlim=(0, 1), xlabel="noise ceiling (r or F1)")
        for place in (left, right):
            place.tick_params(axis="y", length=0)
            place.grid(axis="x", lw=0.5, alpha=0.6)
            place.set_axisbelow(True)
        figure.legend(frameon=False, loc="outside lower center", ncols=3)
        figure.suptitle("Agreement between annotators", fontweight="bold")


_LEVELS = ("core", "nuance", "micro")
_Row = tuple[str, Mapping[str, Any], tuple[str, float] | None]


def _agreement_rows(variable: str, of: Mapping[str, Any]) -> Iterator[_Row]:
    """Rows of the plot: one a scale, one a level of a hierarchy; those without any coefficient left out."""
    metrics = of["ceiling"]["metrics"]

    def ceiling(metric: str, name: str) -> tuple[str, float] | None:
        return (name, metrics[metric]["value"]) if metric in metrics else None

    if of["kind"] == "hierarchy":
        rows: list[_Row] = [
            (f"{variable}, {level}", coefficients, ceiling(f"macro_f1_{level}", "macro-F1"))
            for level in sorted(of["coefficients"], key=_LEVELS.index)
            for coefficients in [of["coefficients"][level]]
        ]
    else:
        rows = [(variable, of["coefficients"], ceiling("pearson", "r"))]
    for row in rows:
        if any(row[1].get(key, {}).get("value") is not None for key, *_ in _COEFFICIENTS):
            yield row
