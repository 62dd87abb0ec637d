"""Search for the hyperparameters of one hierarchy variable's transformer."""

from pathlib import Path

import numpy as np
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.path_store import read_paths
from perceive.splits import fold_members, sample_owners
from perceive.taxonomy import load_taxonomy
from perceive.transformer.inputs import Source, examples, extra_inputs, machine
from perceive.transformer.losses import one_hot
from perceive.transformer.model import Hierarchy
from perceive.transformer.search import TransformerSearch, hierarchy_error
from perceive.tuning import conduct, journal_path


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    taxonomy = load_taxonomy(snakemake.input.taxonomy)
    items = io.read_items(snakemake.input.columns)
    split_items = io.read_parquet(snakemake.input.split_items)
    codes = read_paths(snakemake.input.labels, items["item_id"], taxonomy)
    labelled = (split_items["split"] == "train").to_numpy(dtype=bool, na_value=False) & (codes[:, 0] >= 0)
    rows = sample_owners(items["owner_id"], labelled, settings["max_rows"], seed=settings["seed"])
    items, codes = items.iloc[rows].reset_index(drop=True), codes[rows]
    split_items = split_items.iloc[rows].reset_index(drop=True)
    source = Source.load(
        settings["backbone"],
        Path(snakemake.input.encoder).parent,
        Path(snakemake.params.states),
        threads=snakemake.params.cores,
    )
    extra = extra_inputs(
        variable, items["item_id"], *map(io.read_parquet, (snakemake.input.lexical, snakemake.input.cues))
    )
    hierarchy = Hierarchy.of(taxonomy)
    of = examples(variable, items, one_hot(codes, hierarchy), hierarchy, extra, source.store)
    space = settings["space"]["top_layers"]
    layers = range(int(space["low"]), min(int(space["high"]), source.store.depth) + 1)
    settings["space"]["top_layers"] = {"low": layers[0], "high": layers[-1]}
    source.store.prepare(items["text"].tolist(), [source.store.depth - top for top in layers])
    position = {item_id: row for row, item_id in enumerate(items["item_id"])}
    numbers = sorted(map(int, split_items["fold"].dropna().unique()))
    folds = [
        tuple(np.array([position[item] for item in part]) for part in fold_members(split_items, number))
        for number in numbers
    ]
    journal = journal_path(Path(snakemake.params.cache), snakemake.input, snakemake.input.workers)
    search = TransformerSearch(
        journal,
        variable,
        of,
        folds,
        hierarchy_error(codes, taxonomy),
        source.backbone,
        {**settings, "fixed": {"batch_rows": settings["batch_rows"]}},
        machine(settings, snakemake.threads),
    )
    conduct(search, journal, snakemake.output, snakemake.wildcards.get("worker"))


if __name__ == "__main__":
    job.run(main, snakemake)
