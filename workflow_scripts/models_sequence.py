"""Train one sequence variable's GRU on the whole training part, and its twin that sees the item alone."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.store import read_labels, with_upstream
from perceive.sequence.model import save
from perceive.sequence.training import Hyperparameters, fit, labelled_rows, text_alone
from perceive.sequence.windows import Timelines


def main(snakemake: Snakemake) -> None:
    seed = io.read_json(snakemake.input.settings)["seed"]
    features = with_upstream(io.read_parquet(snakemake.input.features), snakemake.input.upstream)
    items = io.read_items(snakemake.input.columns)
    timelines = Timelines.of(features, items)
    rows, targets = labelled_rows(timelines, timelines.item_ids.tolist(), read_labels(snakemake.input.labels))
    parameters = Hyperparameters(**io.read_json(snakemake.input.tuned)["parameters"])
    for of_model, path in (
        (parameters, snakemake.output.model),
        (text_alone(parameters), snakemake.output.text_alone),
    ):
        model = fit(timelines, rows, targets, of_model, seed=seed, threads=snakemake.threads)
        save(model, Path(path).parent)


if __name__ == "__main__":
    job.run(main, snakemake)
