"""Search for the hyperparameters of one variable's full-feature model."""

from pathlib import Path

import numpy as np
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.matrix import ALL
from perceive.features.store import labelled, read_labels, upstream_names, with_upstream
from perceive.tuning import FoldData, Search, journal_path, publish


def main(snakemake: Snakemake) -> None:
    labels = read_labels(snakemake.input.labels)
    settings = io.read_json(snakemake.input.settings)
    upstream = snakemake.input.upstream
    columns = [*ALL, *upstream_names(upstream)]

    def matrices(path: str) -> tuple[np.ndarray, np.ndarray]:
        frame = with_upstream(labelled(io.read_parquet(path), labels), upstream)
        return frame[columns].to_numpy(np.float32), labels.loc[frame["item_id"]].to_numpy()

    folds = [
        FoldData(*matrices(train), *matrices(val))
        for train, val in zip(snakemake.input.train, snakemake.input.val, strict=True)
    ]
    journal = journal_path(Path(snakemake.params.cache), snakemake.input)
    search = Search(
        journal, snakemake.wildcards.variable, folds, columns, settings, threads=snakemake.threads
    )
    search.run()
    publish(search, journal, snakemake.output)


if __name__ == "__main__":
    job.run(main, snakemake)
