"""Train one base model of one variable on the whole training part."""

import numpy as np
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.matrix import BASE_FEATURES
from perceive.features.store import labelled, read_labels, upstream_names, with_upstream
from perceive.models import fit, training_settings


def main(snakemake: Snakemake) -> None:
    own = list(BASE_FEATURES[snakemake.wildcards.base])
    upstream = snakemake.input.upstream
    columns = [*own, *upstream_names(upstream)]
    settings = io.read_json(snakemake.input.settings)
    parameters, trees = training_settings(settings, snakemake.input.tuned)
    labels = read_labels(snakemake.input.labels)
    features = io.read_parquet(snakemake.input.features, ["item_id", *own])
    rows = labelled(with_upstream(features, upstream), labels)
    booster = fit(
        rows[columns].to_numpy(np.float32),
        labels.loc[rows["item_id"]].to_numpy(),
        columns,
        parameters,
        trees=trees,
        seed=settings["seed"],
        threads=snakemake.threads,
    )
    with io.atomic_path(snakemake.output.model) as temporary:
        booster.save_model(str(temporary))
    importance = dict(zip(columns, map(float, booster.feature_importance("gain")), strict=True))
    io.write_json(
        snakemake.output.meta,
        {"rows": len(rows), "trees": trees, "parameters": parameters, "importance_gain": importance},
    )


if __name__ == "__main__":
    job.run(main, snakemake)
