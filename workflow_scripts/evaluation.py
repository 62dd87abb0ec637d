"""Evaluate one regression variable on the test split."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.evaluation import plots
from perceive.evaluation.evaluate import evaluate_regression
from perceive.evaluation.rows import Artifacts, evaluated_rows
from perceive.features.matrix import BASES


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    rows = evaluated_rows(variable, Artifacts.of(snakemake.input))
    result = evaluate_regression(
        rows.test,
        variable=variable,
        train=rows.train,
        bases=BASES,
        ceiling=rows.ceiling,
        gates=(),
        n_bootstrap=settings["bootstrap"],
        seed=settings["seed"],
    )
    result["derived"] = rows.derived
    columns = ["item_id", "observed", "raw", "calibrated", *BASES]
    io.write_parquet(snakemake.output.predictions, rows.test[columns])
    path = {Path(name).stem: name for name in snakemake.output.plots}
    plots.scale_plots(path, rows.marked(variable), rows.test, result)
    io.write_json(snakemake.output.metrics, result)


if __name__ == "__main__":
    job.run(main, snakemake)
