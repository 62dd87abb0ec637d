"""Evaluation of the calibrated models on the test split: metrics, intervals, baselines, gates and plots.

The modules are imported one by one: parsing the configuration needs the gates, and must not pay for the
imports of the metrics and the plots. Therefore, too, the names of the metrics are here.
"""

from __future__ import annotations

LOWER_IS_BETTER = frozenset({"rmse", "mae", "ece", "mce", "brier", "log_loss", "classwise_ece"})
"""Metrics of regressions, and of a level without its name; ask `lower_is_better`, which knows both."""

METRIC_LABELS: dict[str, str] = {
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R2",
    "pearson": "Pearson r",
    "spearman": "Spearman r",
    "ece": "ECE",
    "mce": "MCE",
    "blend_gain": "blend gain",
    "temporal_r": "temporal r",
    "between_r": "between-owner r",
    "composite_r": "composite r",
    "lag_gain": "gain over lags",
    "history_gain": "gain of history",
    "brier": "Brier",
    "log_loss": "log loss",
}

TOP_K = 3

LEVEL_METRICS: dict[str, str] = {
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    f"top{TOP_K}_accuracy": f"top-{TOP_K} accuracy",
    "log_loss": "log loss",
    "brier": "Brier",
    "ece": "ECE",
    "mce": "MCE",
    "classwise_ece": "classwise ECE",
}
"""Metrics of one level; in a result their names end in the level's: ``macro_f1_core``."""

PATH_METRICS: dict[str, str] = {
    "hierarchical_precision": "hierarchical precision",
    "hierarchical_recall": "hierarchical recall",
    "hierarchical_f1": "hierarchical F1",
    "exact_path": "exact path accuracy",
    "path_validity": "path validity",
}
"""Metrics of the whole path."""


METRICS: dict[str, tuple[str, ...]] = {
    "regression": ("rmse", "mae", "pearson", "spearman", "ece"),
    "sequence": ("rmse", "mae", "temporal_r", "between_r", "ece"),
    "hierarchy": (
        "macro_f1_core", "macro_f1_nuance", "hierarchical_f1", "exact_path", "path_validity", "ece_core",
    ),
}  # fmt: skip
"""Metrics that the report's tables show, by the kind of variable; the artifact has more."""

PLOTS: dict[str, tuple[str, ...]] = {
    "regression": ("reliability", "residuals", "slices", "baselines"),
    "sequence": ("reliability", "residuals", "slices", "baselines", "timelines", "history"),
    "hierarchy": ("reliability", "confusion", "confusions", "slices", "baselines"),
}
"""Plots of an evaluation, by the kind of variable."""


def level_metric(metric: str) -> tuple[str, str] | None:
    """Metric and level that a name such as ``macro_f1_core`` is made of; None for other names."""
    for of_level in LEVEL_METRICS:
        level = metric.removeprefix(f"{of_level}_")
        if level and level != metric:
            return of_level, level
    return None


def metric_label(metric: str) -> str:
    """For people: ``RMSE``, ``macro-F1 (core)``.

    Raises
    ------
    ValueError
        If there is no such metric.
    """
    label = METRIC_LABELS.get(metric) or PATH_METRICS.get(metric)
    if label is None:
        parts = level_metric(metric)
        if parts is None:
            raise ValueError(f"{metric!r} is no metric")
        label = f"{LEVEL_METRICS[parts[0]]} ({parts[1]})"
    return label


def lower_is_better(metric: str) -> bool:
    """Whether the smaller value is the better one; of a level as of the whole."""
    parts = level_metric(metric)
    return (parts[0] if parts else metric) in LOWER_IS_BETTER
