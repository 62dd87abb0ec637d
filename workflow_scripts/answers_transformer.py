"""What one scale's transformer answers for the items of val and test."""

from pathlib import Path

import numpy as np
import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.matrix import TRANSFORMER
from perceive.transformer.inputs import Source, examples, extra_inputs, machine, no_targets
from perceive.transformer.model import load
from perceive.transformer.training import predict


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    items = io.read_parquet(snakemake.input.corpus, ["item_id", "text"])
    split = io.read_parquet(snakemake.input.split_items, ["split"])["split"].to_numpy(dtype=object)
    source = Source.load(
        settings["backbone"],
        Path(snakemake.input.encoder).parent,
        Path(snakemake.params.states),
        threads=snakemake.threads,
    )
    model = load(Path(snakemake.input.transformer).parent, source.backbone)
    rows = np.flatnonzero((split == "val") | (split == "test"))
    served = items.iloc[rows].reset_index(drop=True)
    source.store.prepare(served["text"].tolist(), [source.store.depth - model.shape.top_layers])
    extra = extra_inputs(
        variable, served["item_id"], *map(io.read_parquet, (snakemake.input.lexical, snakemake.input.cues))
    )
    output = model.shape.output
    of = examples(variable, served, no_targets(output, len(served)), output, extra, source.store)
    answers = predict(model, of, np.arange(len(served)), machine(settings, snakemake.threads))[0]
    frame = pd.DataFrame({"item_id": served["item_id"], TRANSFORMER: answers[:, 0]})
    io.write_parquet(snakemake.output.answers, frame)


if __name__ == "__main__":
    job.run(main, snakemake)
