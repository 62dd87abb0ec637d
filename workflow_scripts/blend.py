"""Train the meta-blender of one variable on out-of-fold predictions."""

from pathlib import Path

import numpy as np
from scipy.special import softmax
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.blend import SquaredError, fit_blender
from perceive.features.matrix import CONTEXT, context
from perceive.features.store import read_labels


def main(snakemake: Snakemake) -> None:
    items = io.read_items(snakemake.input.columns)
    split_items = io.read_parquet(snakemake.input.split_items, ["item_id", "split", "fold"])
    lexical = io.read_parquet(snakemake.input.lexical)
    labels = read_labels(snakemake.input.labels)
    train = np.flatnonzero((split_items["split"] == "train").to_numpy(dtype=bool, na_value=False))
    of_context = context(items.iloc[train], lexical.iloc[train])
    known = np.flatnonzero(items["item_id"].iloc[train].isin(labels.index))
    rows = train[known]
    predictions = np.column_stack([io.read_npy(path) for path in snakemake.input.predictions])[known]
    blend = fit_blender(
        of_context[known],
        SquaredError(predictions.astype(np.float64), labels.loc[items["item_id"].iloc[rows]].to_numpy()),
        split_items["fold"].iloc[rows].to_numpy(dtype=int),
        CONTEXT,
        io.read_json(snakemake.input.settings),
        threads=snakemake.threads,
    )
    weights = softmax(np.reshape(blend.booster.predict(of_context, raw_score=True), (len(train), -1)), axis=1)
    # For those who read the answers: no row's own label had a say in its weights.
    weights[known] = blend.held_out
    bases = [Path(path).stem for path in snakemake.input.predictions]
    with io.atomic_path(snakemake.output.model) as temporary:
        blend.booster.save_model(str(temporary))
    io.write_npy(snakemake.output.weights, weights.astype(np.float32))
    io.write_json(snakemake.output.meta, {**blend.facts, "bases": bases, "context": list(CONTEXT)})


if __name__ == "__main__":
    job.run(main, snakemake)
