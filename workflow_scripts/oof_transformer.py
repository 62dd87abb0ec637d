"""Out-of-fold answers of one variable's transformer."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.taxonomy import load_taxonomy
from perceive.transformer.crossfit import out_of_fold
from perceive.transformer.inputs import (
    Source,
    examples,
    extra_inputs,
    hyperparameters,
    machine,
    read_targets,
)


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    taxonomy = load_taxonomy(snakemake.input.taxonomy) if snakemake.input.taxonomy else None
    split_items = io.read_parquet(snakemake.input.split_items)
    train = (split_items["split"] == "train").to_numpy(dtype=bool, na_value=False)
    items = io.read_items(snakemake.input.columns)[train].reset_index(drop=True)
    split_items = split_items[train].reset_index(drop=True)
    targets, output = read_targets(variable, snakemake.input.labels, items["item_id"], taxonomy)
    source = Source.load(
        settings["backbone"],
        Path(snakemake.input.encoder).parent,
        Path(snakemake.params.states),
        threads=snakemake.params.cores,
    )
    extra = extra_inputs(
        variable, items["item_id"], *map(io.read_parquet, (snakemake.input.lexical, snakemake.input.cues))
    )
    parameters = hyperparameters(settings, snakemake.input.tuned)
    source.store.prepare(items["text"].tolist(), [source.store.depth - parameters.top_layers])
    result = out_of_fold(
        split_items,
        examples(variable, items, targets, output, extra, source.store),
        source.backbone,
        parameters,
        machine(settings, snakemake.threads),
        seed=settings["seed"],
    )
    io.write_parquet(snakemake.output.records, result.records)
    io.write_parquet(snakemake.output.trained_on, result.trained_on)
    io.write_npy(snakemake.output.predictions, result.predictions)


if __name__ == "__main__":
    job.run(main, snakemake)
