"""How far annotators agree, against what is required of them, and which items need a second look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perceive.corpus.ceiling import measure_hierarchy_ceiling, measure_scale_ceiling, number
from perceive.corpus.coefficients import (
    alpha_interval,
    cohen_kappas,
    crossed_table,
    fleiss_kappa,
    icc_one_way,
    icc_two_way,
    krippendorff_interval,
    krippendorff_nominal,
    squares_within,
)
from perceive.corpus.latent_paths import Array, Codes, NotComputableError, path_levels
from perceive.variables import Kind

# A slice with fewer items rated twice gives no coefficient: its standard error would be above .1.
MIN_SLICE_ITEMS = 30
SLICES = ("language", "category")


def measure_agreement(
    variable: str,
    kind: Kind,
    ratings: pd.DataFrame,
    items: pd.DataFrame,
    labels: pd.DataFrame,
    *,
    required_kappa: float = 0.70,
    levels: tuple[str, ...] = ("core", "nuance", "micro"),
    bias_corrected: bool = False,
    formula: str | None = None,
    min_items: int = MIN_SLICE_ITEMS,
    seed: int = 137,
) -> dict[str, Any]:
    """Agreement between the annotators of a variable, overall and by slice, and its noise ceiling.

    Parameters
    ----------
    variable : str
        Name of the variable; used in errors only.
    kind : str
        ``hierarchy``, or else a scale.
    ratings : DataFrame
        One row a rating: ``item_id``, ``rater`` (missing where unknown), and ``value`` in 0..1 or a column
        for each level. Rows without value or first level are left out.
    items : DataFrame
        ``item_id, language, category``; values may be missing.
    labels : DataFrame
        ``item_id`` and ``value`` or the levels: the aggregated labels that models learn and are tested on.
        Of scales also ``derived``, where any label may be: computed, not rated.
    required_kappa : float
        What each coefficient must reach.
    levels : tuple of str
        The columns of the levels, from the top.
    bias_corrected : bool
        The labels of a scale are means of ratings whose raters' biases were removed.
    formula : str, optional
        Of the derived labels.
    min_items : int
        Slices with fewer items rated twice have no coefficients.
    seed : int
        Of the interval of alpha, and of the ceiling of a hierarchy.

    Returns
    -------
    dict
        For JSON. ``variable, kind, n_items, n_ratings, n_raters`` (null without ids), ``n_anonymous``
        (ratings), ``ratings_per_item`` (number of ratings: items); ``coefficients``; ``alpha``
        (Krippendorff's, of a hierarchy at its first level: ``value, requirement`` and, where it can be
        computed, ``low, high``, 95 % over draws of items); ``by_language, by_category``
        (each ``{value: {n_items, coefficients}}``); ``ceiling``, of
        :func:`perceive.corpus.ceiling.measure_scale_ceiling` or ``measure_hierarchy_ceiling``, or
        ``{"metrics": {}, "reason": ...}``; with a formula ``derived`` (``{formula, items}``), and no ceiling
        where it gave any label.

        A coefficient is ``{value, requirement, met}``; value and met are null, with a ``reason``, where it
        cannot be computed. Scales have ``icc_1, icc_k, icc_a1, icc_ak, icc_c1, icc_ck, krippendorff_alpha``;
        hierarchies ``{level: {n_items, n_items_left_out, cohen_kappa, fleiss_kappa, krippendorff_alpha}}``,
        of the items with two ratings that reach the level, a class being the path down to it. Cohen's kappa
        is the mean over the pairs of raters, weighted by their common items; overall it lists ``pairs``.

    Raises
    ------
    ValueError
        If a column is missing, or one rater rated an item twice.
    """
    columns = levels if kind == "hierarchy" else ("value",)
    ratings = _checked(variable, ratings, columns)
    _require(variable, "items", items, ("item_id", *SLICES))
    _require(variable, "labels", labels, ("item_id", *columns))
    item, ids = pd.factorize(ratings["item_id"])
    rater, names = pd.factorize(ratings["rater"])
    per_item = np.bincount(item, minlength=len(ids))
    sizes, frequency = np.unique(per_item, return_counts=True)
    if kind == "hierarchy":
        codes = dict(zip(levels, (level.code for level in path_levels(ratings, levels)), strict=True))

        def coefficients(rows: NDArray[np.bool_], least: int, listed: Sequence[str] | None) -> dict[str, Any]:
            return {
                level: _level(code[known], item[known], rater[known], listed, required_kappa, least)
                for level, code in codes.items()
                for known in [rows & (code >= 0)]
            }
    else:
        value = ratings["value"].to_numpy(dtype=np.float64)

        def coefficients(rows: NDArray[np.bool_], least: int, listed: Sequence[str] | None) -> dict[str, Any]:
            return _scale(value[rows], item[rows], rater[rows], required_kappa, least)

    result: dict[str, Any] = {
        "variable": variable,
        "kind": kind,
        "n_items": len(ids),
        "n_ratings": len(ratings),
        "n_raters": len(names) or None,
        "n_anonymous": int((rater < 0).sum()),
        "ratings_per_item": {str(size): int(count) for size, count in zip(sizes, frequency, strict=True)},
        "coefficients": coefficients(np.ones(len(ratings), dtype=bool), 2, [str(name) for name in names]),
    }
    if kind == "hierarchy":
        code = codes[levels[0]]
        known = code >= 0
        top, of_top = result["coefficients"][levels[0]], (code[known], item[known])
    else:
        top, of_top = result["coefficients"], (value, item)
    result["alpha"] = {key: top["krippendorff_alpha"][key] for key in ("value", "requirement")}
    if result["alpha"]["value"] is not None:
        bounds = alpha_interval(*of_top, nominal=kind == "hierarchy", seed=seed)
        result["alpha"] |= {name: number(bound) for name, bound in zip(("low", "high"), bounds, strict=True)}
    described = items.drop_duplicates("item_id").set_index("item_id").reindex(ids)
    for column in SLICES:
        slices = {}
        code, values = pd.factorize(described[column], sort=True)
        for position, name in enumerate(values):
            members = code == position
            slices[str(name)] = {
                "n_items": int(members.sum()),
                "coefficients": coefficients(members[item], min_items, None),
            }
        result[f"by_{column}"] = slices
    derived = int(labels["derived"].sum()) if "derived" in labels else 0
    if formula is not None:
        result["derived"] = {"formula": formula, "items": derived}
    try:
        if derived:
            share = "" if derived == len(labels) else f"{derived} of {len(labels)} labels: "
            computed = f" by {formula}" if formula else ""
            raise NotComputableError(
                f"derived label: {share}computed{computed}, not rated, so that its error is unknown"
            )
        if kind == "hierarchy":
            result["ceiling"] = measure_hierarchy_ceiling(ratings, labels, levels, seed=seed)
        else:
            result["ceiling"] = measure_scale_ceiling(ratings, labels, bias_corrected=bias_corrected)
    except NotComputableError as error:
        result["ceiling"] = {"metrics": {}, "reason": str(error)}
    return result


def items_for_review(
    variable: str,
    kind: Kind,
    ratings: pd.DataFrame,
    items: pd.DataFrame,
    labels: pd.DataFrame,
    *,
    review_spread: float = 0.25,
    min_raters_high_risk: int = 2,
    levels: tuple[str, ...] = ("core", "nuance", "micro"),
) -> pd.DataFrame:
    """Labelled items that need a second look, with the reasons.

    HIGH risk and fewer raters than ``min_raters_high_risk``; for scales a sample standard deviation of the
    ratings above ``review_spread``; for hierarchies no majority (more than half) at the first level.

    Parameters
    ----------
    variable, kind, ratings, labels, levels
        As in :func:`measure_agreement`; labels further hold ``n_raters``, for items without single ratings.
        Derived ones are left out: no rater has seen them.
    items : DataFrame
        ``item_id, risk_level``.

    Returns
    -------
    DataFrame
        ``item_id, reasons`` (a text, reasons separated by semicolons), sorted by item_id.

    Raises
    ------
    ValueError
        As :func:`measure_agreement`.
    """
    columns = levels if kind == "hierarchy" else ("value",)
    ratings = _checked(variable, ratings, columns)
    _require(variable, "items", items, ("item_id", "risk_level"))
    _require(variable, "labels", labels, ("item_id", "n_raters"))
    item, ids = pd.factorize(ratings["item_id"])
    counts = np.bincount(item, minlength=len(ids))
    if "derived" in labels:
        labels = labels[~labels["derived"].astype(bool)]
    if kind == "hierarchy":
        code = path_levels(ratings, levels[:1])[0].code
        most = np.zeros(len(ids), dtype=np.int64)
        cells, votes = np.unique(item * (code.max(initial=0) + 1) + code, return_counts=True)
        np.maximum.at(most, cells // (code.max(initial=0) + 1), votes)
        split = (counts > 1) & (2 * most <= counts)
        apart = pd.Series(f"{variable}: no majority at the {levels[0]}", ids[split], dtype=object)
    else:
        value = ratings["value"].to_numpy(dtype=np.float64)
        spread = np.sqrt(squares_within(value, item) / np.maximum(counts - 1, 1))
        wide = spread > review_spread
        seen = zip(spread[wide], counts[wide], strict=True)
        apart = pd.Series(
            [f"{variable}: spread {of:.2f} over {n} raters" for of, n in seen], ids[wide], dtype=object
        )
    known = labels.drop_duplicates("item_id").set_index("item_id")["n_raters"]
    raters = pd.Series(counts, ids).reindex(known.index).fillna(known)
    risk = items.drop_duplicates("item_id").set_index("item_id")["risk_level"].reindex(known.index)
    few = raters[(risk == "HIGH") & (raters < min_raters_high_risk)]
    alone = pd.Series([f"{variable}: HIGH risk and rated by {int(n)}" for n in few], few.index, dtype=object)
    found = pd.concat([alone, apart[known.index.get_indexer(apart.index) >= 0]])
    reasons = found.groupby(level=0, sort=True).agg("; ".join)
    return pd.DataFrame({"item_id": reasons.index.astype(str), "reasons": reasons.to_numpy(dtype=object)})


def _require(variable: str, name: str, frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    if missing := [column for column in columns if column not in frame]:
        raise ValueError(f"the {name} of {variable} lack the columns {missing}")


def _checked(variable: str, ratings: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """The ratings that say something."""
    _require(variable, "ratings", ratings, ("item_id", "rater", *columns))
    ratings = ratings[ratings[columns[0]].notna()]
    named = ratings.loc[ratings["rater"].notna(), ["item_id", "rater"]]
    if repeated := int(named.duplicated().sum()):
        raise ValueError(
            f"{repeated} ratings of {variable} repeat an item and a rater; keep each rater's last one"
        )
    return ratings


# --------------------------------------------------------------------------- what is reported

_Groups = Mapping[tuple[str, ...], Callable[[], Sequence[float]]]


def _report(groups: _Groups, item: Codes, requirement: float, least: int) -> dict[str, Any]:
    """Each coefficient against the requirement, or the reason why there is none."""
    result = {}
    for names, computed in groups.items():
        try:
            twice = int((np.bincount(item) > 1).sum()) if item.size else 0
            if not twice:
                raise NotComputableError("no item has two ratings")
            if twice < least:
                raise NotComputableError(f"fewer than {least} items have two ratings")
            values = computed()
        except NotComputableError as error:
            for name in names:
                result[name] = {"value": None, "requirement": requirement, "met": None, "reason": str(error)}
            continue
        for name, value in zip(names, values, strict=True):
            result[name] = {
                "value": number(value),
                "requirement": requirement,
                "met": bool(value >= requirement),
            }
    return result


def _scale(value: Array, item: Codes, rater: Codes, requirement: float, least: int) -> dict[str, Any]:
    groups: _Groups = {
        ("icc_1", "icc_k"): lambda: icc_one_way(value, item),
        ("icc_a1", "icc_ak", "icc_c1", "icc_ck"): lambda: icc_two_way(crossed_table(value, item, rater)),
        ("krippendorff_alpha",): lambda: (krippendorff_interval(value, item),),
    }
    return _report(groups, item, requirement, least)


def _level(
    code: Codes, item: Codes, rater: Codes, names: Sequence[str] | None, requirement: float, least: int
) -> dict[str, Any]:
    """The coefficients of one level; with ``names`` of the raters, each pair's kappa too."""
    pairs: list[tuple[int, int, int, float]] = []

    def cohen() -> tuple[float]:
        pairs.extend(cohen_kappas(code, item, rater))
        kappas, weights = np.array([(kappa, n) for *_, n, kappa in pairs]).T
        defined = np.isfinite(kappas)
        if not defined.any():
            raise NotComputableError("all ratings are equal")
        return (float(np.average(kappas[defined], weights=weights[defined])),)

    counts = np.bincount(item)
    result: dict[str, Any] = {
        "n_items": int((counts > 1).sum()),
        "n_items_left_out": int((counts == 1).sum()),
    }
    result |= _report(
        {
            ("cohen_kappa",): cohen,
            ("fleiss_kappa",): lambda: (fleiss_kappa(code, item),),
            ("krippendorff_alpha",): lambda: (krippendorff_nominal(code, item),),
        },
        item,
        requirement,
        least,
    )
    if names is not None:
        result["cohen_kappa"]["pairs"] = [
            {"raters": [names[a], names[b]], "n_items": n, "value": number(kappa) if kappa == kappa else None}
            for a, b, n, kappa in pairs
        ]
    return result
