"""Evaluation of the calibrated models on the test split: metrics, intervals, baselines, gates and plots.

The modules are imported one by one: parsing the configuration needs the gates, and must not pay for the
imports of the metrics and the plots. Therefore, too, the names of the metrics are here.
"""

from __future__ import annotations

LOWER_IS_BETTER = frozenset({"rmse", "mae", "ece", "mce", "brier", "log_loss"})

METRIC_LABELS: dict[str, str] = {
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R2",
    "pearson": "Pearson r",
    "spearman": "Spearman r",
    "ece": "ECE",
    "mce": "MCE",
    "blend_gain": "blend gain",
    "macro_f1_core": "macro-F1 (core)",
    "hierarchical_f1": "hierarchical F1",
    "path_validity": "path validity",
    "temporal_r": "temporal r",
    "brier": "Brier",
    "log_loss": "log loss",
}
