"""Out-of-fold probabilities of one tree base model of a hierarchy variable."""

import numpy as np
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.classifiers import fit_classifier
from perceive.features.matrix import BASE_FEATURES
from perceive.features.path_store import read_paths
from perceive.models import training_settings
from perceive.oof import Fold, out_of_fold
from perceive.path_ensemble import PathTrees, classify
from perceive.paths import parents
from perceive.taxonomy import load_taxonomy


def main(snakemake: Snakemake) -> None:
    columns = list(BASE_FEATURES[snakemake.wildcards.base])
    settings = io.read_json(snakemake.input.settings)
    parameters, trees = training_settings(settings, [])
    taxonomy = load_taxonomy(snakemake.input.taxonomy)
    above = parents(taxonomy)
    split_items = io.read_parquet(snakemake.input.split_items, ["item_id", "split"])
    train_ids = split_items.loc[split_items["split"] == "train", "item_id"].reset_index(drop=True)
    codes = read_paths(snakemake.input.labels, train_ids, taxonomy)
    labelled = codes[:, 0] >= 0

    def folds():
        for number, (train, val) in enumerate(zip(snakemake.input.train, snakemake.input.val, strict=True)):
            yield Fold(number, *(io.read_parquet(path, ["item_id", *columns]) for path in (train, val)))

    def fit_predict(features: np.ndarray, rows: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        trained = fit_classifier(
            features,
            codes[rows],
            above,
            columns,
            parameters,
            trees=trees,
            levels=settings["levels"],
            seed=settings["seed"],
            threads=snakemake.threads,
        )
        classifier = PathTrees(snakemake.wildcards.base, trained[0], range(len(columns)), trained[1])
        return np.concatenate(classify(classifier, held_out, above, threads=snakemake.threads), axis=1)

    result = out_of_fold(
        train_ids.tolist(),
        folds(),
        # The target of an item is its row among the codes.
        train_ids[labelled].reset_index().set_index("item_id")["index"],
        columns,
        fit_predict,
        outputs=sum(map(len, above)),
    )
    io.write_parquet(snakemake.output.records, result.records)
    io.write_parquet(snakemake.output.trained_on, result.trained_on)
    io.write_npy(snakemake.output.predictions, result.predictions)


if __name__ == "__main__":
    job.run(main, snakemake)
