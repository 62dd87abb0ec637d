"""Train the meta-blender of one variable on out-of-fold predictions."""

import numpy as np
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.blend import SquaredError, fit_blender
from perceive.features.matrix import BASES, CONTEXT, context
from perceive.features.store import ITEM_COLUMNS, read_labels


def main(snakemake: Snakemake) -> None:
    items = io.read_parquet(snakemake.input.corpus, ITEM_COLUMNS)
    split_items = io.read_parquet(snakemake.input.split_items, ["item_id", "split", "fold"])
    lexical = io.read_parquet(snakemake.input.lexical)
    labels = read_labels(snakemake.input.labels)
    train = (split_items["split"] == "train").to_numpy()
    known = split_items.loc[train, "item_id"].isin(labels.index).to_numpy()
    predictions = np.column_stack([io.read_npy(path) for path in snakemake.input.predictions])[known]
    rows = np.flatnonzero(train)[known]
    blend = fit_blender(
        context(items.iloc[rows], lexical.iloc[rows]),
        SquaredError(predictions.astype(np.float64), labels.loc[items["item_id"].iloc[rows]].to_numpy()),
        split_items["fold"].iloc[rows].to_numpy(dtype=int),
        CONTEXT,
        io.read_json(snakemake.input.settings),
        threads=snakemake.threads,
    )
    with io.atomic_path(snakemake.output.model) as temporary:
        blend.booster.save_model(str(temporary))
    io.write_json(snakemake.output.meta, {**blend.facts, "bases": list(BASES), "context": list(CONTEXT)})


if __name__ == "__main__":
    job.run(main, snakemake)
