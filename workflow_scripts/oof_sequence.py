"""Out-of-fold answers of one sequence variable's GRU."""

from collections.abc import Iterator

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.store import read_labels, with_upstream
from perceive.oof import Fold
from perceive.sequence.crossfit import out_of_fold
from perceive.sequence.training import Hyperparameters


def main(snakemake: Snakemake) -> None:
    upstream = snakemake.input.upstream
    split_items = io.read_parquet(snakemake.input.split_items, ["item_id", "split"])

    def folds() -> Iterator[Fold]:
        for number, (train, val) in enumerate(zip(snakemake.input.train, snakemake.input.val, strict=True)):
            frames = (io.read_parquet(path) for path in (train, val))
            yield Fold(number, *(with_upstream(frame, upstream) for frame in frames))

    result = out_of_fold(
        split_items.loc[split_items["split"] == "train", "item_id"].tolist(),
        folds(),
        io.read_items(snakemake.input.columns),
        read_labels(snakemake.input.labels),
        Hyperparameters(**io.read_json(snakemake.input.tuned)["parameters"]),
        seed=io.read_json(snakemake.input.settings)["seed"],
        threads=snakemake.threads,
    )
    io.write_parquet(snakemake.output.records, result.records)
    io.write_parquet(snakemake.output.trained_on, result.trained_on)
    io.write_npy(snakemake.output.predictions, result.predictions)


if __name__ == "__main__":
    job.run(main, snakemake)
