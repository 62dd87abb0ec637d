"""Train the meta-blender of one hierarchy variable on out-of-fold probabilities."""

import numpy as np
from scipy.special import softmax
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.answers import label_probabilities
from perceive.blend import PathLogLoss, fit_blender
from perceive.features.matrix import CONTEXT, PATH_BASES, context
from perceive.features.path_store import read_paths
from perceive.paths import parents
from perceive.taxonomy import load_taxonomy


def main(snakemake: Snakemake) -> None:
    taxonomy = load_taxonomy(snakemake.input.taxonomy)
    items = io.read_items(snakemake.input.columns)
    split_items = io.read_parquet(snakemake.input.split_items, ["item_id", "split", "fold"])
    train = np.flatnonzero((split_items["split"] == "train").to_numpy(dtype=bool, na_value=False))
    of_context = context(items.iloc[train], io.read_parquet(snakemake.input.lexical).iloc[train])
    codes = read_paths(snakemake.input.labels, items["item_id"].iloc[train], taxonomy)
    known = np.flatnonzero(codes[:, 0] >= 0)
    sizes = [len(above) for above in parents(taxonomy)]
    predictions = [
        label_probabilities(io.read_npy(path)[known], codes[known], sizes)
        for path in snakemake.input.predictions
    ]
    blend = fit_blender(
        of_context[known],
        PathLogLoss(np.stack(predictions, axis=1)),
        split_items["fold"].iloc[train[known]].to_numpy(dtype=int),
        CONTEXT,
        io.read_json(snakemake.input.settings),
        threads=snakemake.threads,
    )
    # Weights of the training rows for those who read the answers: no row's own label had a say in them.
    scores = np.asarray(blend.booster.predict(of_context, raw_score=True))
    weights = softmax(scores.reshape(len(train), -1), axis=1)
    weights[known] = blend.held_out
    with io.atomic_path(snakemake.output.model) as temporary:
        blend.booster.save_model(str(temporary))
    io.write_npy(snakemake.output.weights, weights.astype(np.float32))
    io.write_json(snakemake.output.meta, {**blend.facts, "bases": list(PATH_BASES), "context": list(CONTEXT)})


if __name__ == "__main__":
    job.run(main, snakemake)
