"""Search for the hyperparameters of one variable's full-feature model."""

from pathlib import Path

import numpy as np
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.matrix import ALL
from perceive.features.store import labelled, read_labels, upstream_names, with_upstream
from perceive.splits import sample_owners
from perceive.tuning import FoldData, Search, conduct, journal_path


def main(snakemake: Snakemake) -> None:
    labels = read_labels(snakemake.input.labels)
    settings = io.read_json(snakemake.input.settings)
    upstream = snakemake.input.upstream
    columns = [*ALL, *upstream_names(upstream)]

    items = io.read_items(snakemake.input.columns)
    split = io.read_parquet(snakemake.input.split_items, ["split"])["split"]
    usable = (split == "train").to_numpy(dtype=bool, na_value=False) & items["item_id"].isin(labels.index)
    rows = sample_owners(items["owner_id"], usable.to_numpy(), settings["max_rows"], seed=settings["seed"])
    sampled = set(items["item_id"].iloc[rows])

    def matrices(path: str) -> tuple[np.ndarray, np.ndarray]:
        features = io.read_parquet(path)
        features = features[features["item_id"].isin(sampled)]
        frame = with_upstream(labelled(features, labels), upstream)
        return frame[columns].to_numpy(np.float32), labels.loc[frame["item_id"]].to_numpy()

    folds = [
        FoldData(*matrices(train), *matrices(val))
        for train, val in zip(snakemake.input.train, snakemake.input.val, strict=True)
    ]
    journal = journal_path(Path(snakemake.params.cache), snakemake.input, snakemake.input.workers)
    search = Search(
        journal, snakemake.wildcards.variable, folds, columns, settings, threads=snakemake.threads
    )
    conduct(search, journal, snakemake.output, snakemake.wildcards.get("worker"))


if __name__ == "__main__":
    job.run(main, snakemake)
