"""Evaluate one sequence variable on the test split."""

from pathlib import Path

import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.evaluation import plots
from perceive.evaluation.evaluate import evaluate_sequence
from perceive.evaluation.rows import Artifacts, evaluated_rows
from perceive.evaluation.timelines import history_bucket, history_lengths
from perceive.features.matrix import SEQUENCE_BASES, TEXT_ALONE


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    rows = evaluated_rows(variable, Artifacts.of(snakemake.input))
    test, train = rows.test, rows.train
    items = io.read_items(snakemake.input.columns)
    lengths = history_lengths(items["owner_id"], items["timestamp"], items["item_id"])
    history = pd.Series(history_bucket(lengths), index=pd.Index(items["item_id"]))
    seen = test["owner_id"].isin(train["owner_id"])
    network = io.read_parquet(snakemake.input.network).set_index("item_id")
    test = test.assign(
        history=history.loc[test["item_id"]].to_numpy(),
        text_alone=network.loc[test["item_id"], TEXT_ALONE].to_numpy(dtype=float),
    )
    if seen.any():
        test["owner"] = seen.map({True: "seen", False: "unseen"})
    result = evaluate_sequence(
        test,
        variable=variable,
        train=train,
        bases=SEQUENCE_BASES,
        ceiling=rows.ceiling,
        gates=(),
        n_bootstrap=settings["bootstrap"],
        seed=settings["seed"],
    )
    result["derived"] = rows.derived
    columns = ["item_id", "observed", "raw", "calibrated", *SEQUENCE_BASES, TEXT_ALONE]
    io.write_parquet(snakemake.output.predictions, test[columns])
    path = {Path(name).stem: name for name in snakemake.output.plots}
    name = rows.marked(variable)
    plots.scale_plots(path, name, test, result)
    plots.timeline_plot(path["timelines"], name, test, salt=settings["salt"])
    plots.history_plot(
        path["history"],
        name,
        result["n"],
        result["slices"],
        result["metrics"]["calibrated"],
        result["baselines"],
    )
    io.write_json(snakemake.output.metrics, result)


if __name__ == "__main__":
    job.run(main, snakemake)
