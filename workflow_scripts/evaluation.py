"""Evaluate one variable on the test split."""

from pathlib import Path
from typing import Any

import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.calibration import Calibrator
from perceive.corpus.ceiling import scale_ceiling
from perceive.ensemble import RegressionEnsemble
from perceive.evaluation import plots
from perceive.evaluation.evaluate import evaluate_regression
from perceive.features.matrix import BASES
from perceive.features.store import labelled, model_inputs, read_labels, with_upstream


def noise_ceiling(agreement: dict[str, Any], labels: pd.DataFrame) -> dict[str, Any]:
    """What a perfect model could reach on these rows, or why that is not known."""
    found = agreement["ceiling"]
    if "error_variance" not in found:
        return {"reason": found["reason"]}
    return scale_ceiling(found["error_variance"], labels["n_raters"], labels["value"])


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    labels = read_labels(snakemake.input.labels)
    rated = io.read_parquet(snakemake.input.labels).set_index("item_id")
    items = io.read_parquet(snakemake.input.corpus)
    features = with_upstream(
        io.read_parquet(snakemake.input.features), [*snakemake.input.upstream, snakemake.input.transformer]
    )
    rows = labelled(features, labels)
    if rows.empty:
        raise ValueError(f"no test item has a label of {variable}; label some items of the test owners")
    ensemble = RegressionEnsemble.load(
        snakemake.input.models,
        snakemake.input.blender,
        Calibrator.from_dict(io.read_json(snakemake.input.calibrator)),
    )
    predicted = ensemble.predict(*model_inputs(rows, items, ensemble.columns))
    by_id = items.set_index("item_id")
    observed = labels.loc[rows["item_id"]].to_numpy()
    test = by_id.loc[rows["item_id"]].reset_index()
    test = pd.concat([test, predicted], axis=1).assign(observed=observed)
    split_items = io.read_parquet(snakemake.input.split_items, ["item_id", "split"])
    train_ids = split_items.loc[split_items["split"] == "train", "item_id"]
    train_ids = train_ids[train_ids.isin(labels.index)]
    train = by_id.loc[train_ids].reset_index().assign(observed=labels.loc[train_ids].to_numpy())
    result = evaluate_regression(
        test,
        variable=variable,
        train=train,
        bases=BASES,
        ceiling=noise_ceiling(io.read_json(snakemake.input.agreement), rated.loc[rows["item_id"]]),
        gates=(),
        n_bootstrap=settings["bootstrap"],
        seed=settings["seed"],
    )
    io.write_parquet(snakemake.output.predictions, test[["item_id", "observed", "raw", "calibrated", *BASES]])
    path = {Path(name).stem: name for name in snakemake.output.plots}
    n, metrics = result["n"], result["metrics"]
    plots.reliability_plot(path["reliability"], variable, n, result["reliability"], metrics)
    plots.residual_plot(path["residuals"], variable, test["observed"], test["calibrated"])
    plots.slice_plot(path["slices"], variable, n, metrics["calibrated"], result["slices"])
    plots.baseline_plot(
        path["baselines"],
        variable,
        n,
        metrics["calibrated"],
        result["bases"],
        result["baselines"],
        result["owners"],
    )
    io.write_json(snakemake.output.metrics, result)


if __name__ == "__main__":
    job.run(main, snakemake)
