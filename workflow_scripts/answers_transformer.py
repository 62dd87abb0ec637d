"""What one scale's transformer answers for the items of val and test."""

from pathlib import Path

import numpy as np
import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.encoder import TextTokenizer, resolve_model
from perceive.features.matrix import TRANSFORMER
from perceive.torch_runs import torch_threads
from perceive.transformer.backbone import load_backbone
from perceive.transformer.export import answers, ask_torch
from perceive.transformer.inputs import extra_inputs
from perceive.transformer.model import load


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    backbone = load_backbone(resolve_model(settings["backbone"]["model"]))
    items = io.read_items(snakemake.input.columns)
    split = io.read_parquet(snakemake.input.split_items, ["split"])["split"].to_numpy(dtype=object)
    model = load(Path(snakemake.input.transformer).parent, backbone)
    served = items.iloc[np.flatnonzero((split == "val") | (split == "test"))].reset_index(drop=True)
    extra = extra_inputs(
        variable, served["item_id"], *map(io.read_parquet, (snakemake.input.lexical, snakemake.input.cues))
    )
    # In full precision from the text, as it is served: cached states are halves.
    with torch_threads(snakemake.threads):
        (found,) = answers(
            ask_torch(model, backbone),
            TextTokenizer(Path(snakemake.input.encoder).parent),
            served["text"].tolist(),
            {"extra": extra} if model.shape.extra else {},
        )
    frame = pd.DataFrame({"item_id": served["item_id"], TRANSFORMER: found[:, 0]})
    io.write_parquet(snakemake.output.answers, frame)


if __name__ == "__main__":
    job.run(main, snakemake)
