"""Search for the hyperparameters of one sequence variable's GRU."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.store import read_labels, with_upstream
from perceive.sequence.search import FoldTimelines, SequenceSearch
from perceive.sequence.training import labelled_rows
from perceive.sequence.windows import Timelines
from perceive.splits import sample_owners
from perceive.tuning import conduct, journal_path


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    labels = read_labels(snakemake.input.labels)
    items = io.read_items(snakemake.input.columns)
    split = io.read_parquet(snakemake.input.split_items, ["split"])["split"]
    train = (split == "train").to_numpy(dtype=bool, na_value=False)
    usable = train & items["item_id"].isin(labels.index).to_numpy()
    chosen = sample_owners(items["owner_id"], usable, settings["max_rows"], seed=settings["seed"])
    owners = set(items["owner_id"].iloc[chosen])
    sampled = set(items.loc[train & items["owner_id"].isin(owners).to_numpy(), "item_id"])
    upstream = snakemake.input.upstream

    def part(path: str) -> Timelines:
        features = io.read_parquet(path)
        features = features[features["item_id"].isin(sampled)].reset_index(drop=True)
        return Timelines.of(with_upstream(features, upstream), items)

    folds = []
    for of_train, of_val in zip(snakemake.input.train, snakemake.input.val, strict=True):
        learn, score = part(of_train), part(of_val)
        rows = [labelled_rows(one, one.item_ids.tolist(), labels) for one in (learn, score)]
        folds.append(FoldTimelines(learn, score, rows[0][0], rows[1][0], rows[0][1], rows[1][1]))
    journal = journal_path(Path(snakemake.params.cache), snakemake.input, snakemake.input.workers)
    search = SequenceSearch(journal, snakemake.wildcards.variable, folds, settings, threads=snakemake.threads)
    conduct(search, journal, snakemake.output, snakemake.wildcards.get("worker"))


if __name__ == "__main__":
    job.run(main, snakemake)
