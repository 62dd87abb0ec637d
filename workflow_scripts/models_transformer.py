"""Train one variable's transformer on the whole training part."""

from pathlib import Path

import numpy as np
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.taxonomy import load_taxonomy
from perceive.transformer.inputs import (
    Source,
    examples,
    extra_inputs,
    hyperparameters,
    machine,
    read_targets,
)
from perceive.transformer.model import save
from perceive.transformer.training import fit


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    taxonomy = load_taxonomy(snakemake.input.taxonomy) if snakemake.input.taxonomy else None
    split = io.read_parquet(snakemake.input.split_items, ["split"])["split"]
    train = (split == "train").to_numpy(dtype=bool, na_value=False)
    items = io.read_items(snakemake.input.columns)[train].reset_index(drop=True)
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
    model = fit(
        examples(variable, items, targets, output, extra, source.store),
        np.arange(len(items)),
        source.backbone,
        parameters,
        machine(settings, snakemake.threads),
        seed=settings["seed"],
    )
    save(model, Path(snakemake.output.model).parent)


if __name__ == "__main__":
    job.run(main, snakemake)
