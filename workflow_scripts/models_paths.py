"""Train one tree base model of a hierarchy variable on the whole training part."""

import numpy as np
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.classifiers import fit_classifier
from perceive.features.matrix import BASE_FEATURES
from perceive.features.path_store import read_paths
from perceive.models import training_settings
from perceive.paths import parents
from perceive.taxonomy import load_taxonomy


def main(snakemake: Snakemake) -> None:
    columns = list(BASE_FEATURES[snakemake.wildcards.base])
    settings = io.read_json(snakemake.input.settings)
    parameters, trees = training_settings(settings, [])
    taxonomy = load_taxonomy(snakemake.input.taxonomy)
    rows = io.read_parquet(snakemake.input.features, ["item_id", *columns])
    codes = read_paths(snakemake.input.labels, rows["item_id"], taxonomy)
    labelled = codes[:, 0] >= 0
    booster, constants = fit_classifier(
        rows.loc[labelled, columns].to_numpy(np.float32),
        codes[labelled],
        parents(taxonomy),
        columns,
        parameters,
        trees=trees,
        levels=settings["levels"],
        seed=settings["seed"],
        threads=snakemake.threads,
    )
    with io.atomic_path(snakemake.output.model) as temporary:
        booster.save_model(str(temporary))
    importance = dict(zip(columns, map(float, booster.feature_importance("gain")), strict=True))
    io.write_json(
        snakemake.output.meta,
        {
            "rows": int(labelled.sum()),
            "trees": booster.num_trees(),
            "parameters": parameters,
            "constants": [float(value) for value in constants],
            "importance_gain": importance,
        },
    )


if __name__ == "__main__":
    job.run(main, snakemake)
