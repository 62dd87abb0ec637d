"""Out-of-fold predictions of one base model for one variable."""

import numpy as np
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.matrix import BASE_FEATURES
from perceive.features.store import read_labels, upstream_names, with_upstream
from perceive.models import fit, training_settings
from perceive.oof import Fold, out_of_fold


def main(snakemake: Snakemake) -> None:
    own = list(BASE_FEATURES[snakemake.wildcards.base])
    upstream = snakemake.input.upstream
    columns = [*own, *upstream_names(upstream)]
    settings = io.read_json(snakemake.input.settings)
    parameters, trees = training_settings(settings, snakemake.input.tuned)
    split_items = io.read_parquet(snakemake.input.split_items, ["item_id", "split"])

    def folds():
        for number, (train, val) in enumerate(zip(snakemake.input.train, snakemake.input.val, strict=True)):
            frames = (io.read_parquet(path, ["item_id", *own]) for path in (train, val))
            yield Fold(number, *(with_upstream(frame, upstream) for frame in frames))

    def fit_predict(features: np.ndarray, target: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        booster = fit(
            features,
            target,
            columns,
            parameters,
            trees=trees,
            seed=settings["seed"],
            threads=snakemake.threads,
        )
        return np.asarray(booster.predict(held_out))

    result = out_of_fold(
        split_items.loc[split_items["split"] == "train", "item_id"].tolist(),
        folds(),
        read_labels(snakemake.input.labels),
        columns,
        fit_predict,
    )
    io.write_parquet(snakemake.output.records, result.records)
    io.write_parquet(snakemake.output.trained_on, result.trained_on)
    io.write_npy(snakemake.output.predictions, result.predictions)


if __name__ == "__main__":
    job.run(main, snakemake)
