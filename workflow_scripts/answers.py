"""What one hierarchy variable answers for every item: out of fold in train, by the final models elsewhere."""

from pathlib import Path

import numpy as np
import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.answers import blended, fill, upstream_frame
from perceive.boosters import lgb
from perceive.classifiers import read_trees
from perceive.encoder import TextTokenizer, resolve_model
from perceive.features.matrix import PATH_BASES, context
from perceive.features.path_store import path_columns, path_inputs
from perceive.path_ensemble import PathEnsemble
from perceive.taxonomy import load_taxonomy
from perceive.torch_runs import torch_threads
from perceive.transformer.backbone import load_backbone
from perceive.transformer.export import answers as transformed
from perceive.transformer.export import ask_torch
from perceive.transformer.inputs import extra_inputs
from perceive.transformer.model import Hierarchy, load


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    taxonomy = load_taxonomy(snakemake.input.taxonomy)
    hierarchy = Hierarchy.of(taxonomy)
    items = io.read_items(snakemake.input.columns)
    split = io.read_parquet(snakemake.input.split_items, ["split"])["split"].to_numpy(dtype=object)
    lexical = io.read_parquet(snakemake.input.lexical)
    cues = io.read_parquet(snakemake.input.cues)
    columns = path_columns(variable)
    ensemble = PathEnsemble(
        [read_trees(path, columns) for path in snakemake.input.models],
        lgb.Booster(model_file=snakemake.input.blender),
        None,
        hierarchy,
    )
    answers = {
        base: fill(len(items), split, io.read_npy(path))
        for base, path in zip(PATH_BASES, snakemake.input.predictions, strict=True)
    }
    answers["blend"] = fill(
        len(items),
        split,
        blended(
            [answers[base][split == "train"] for base in PATH_BASES], io.read_npy(snakemake.input.weights)
        ),
    )
    features = pd.concat(map(io.read_parquet, snakemake.input.features), ignore_index=True)
    position = pd.Series(np.arange(len(items)), index=pd.Index(items["item_id"]))
    rows = position.loc[features["item_id"]].to_numpy()
    backbone = load_backbone(resolve_model(settings["backbone"]["model"]))
    model = load(Path(snakemake.input.transformer).parent, backbone)
    served = items.iloc[rows].reset_index(drop=True)
    extra = extra_inputs(variable, served["item_id"], lexical, cues)
    matrix = path_inputs(features, columns, cues)
    per_base = {
        trees.name: ensemble.classify(trees, matrix, threads=snakemake.threads)
        for trees in ensemble.classifiers
    }
    # In full precision from the text, as it is served: cached states are halves.
    with torch_threads(snakemake.threads):
        per_base["transformer"] = transformed(
            ask_torch(model, backbone),
            TextTokenizer(Path(snakemake.input.encoder).parent),
            served["text"].tolist(),
            {"extra": extra} if model.shape.extra else {},
        )
    of_context = context(served, lexical.iloc[rows])
    per_base["blend"] = ensemble.blend(per_base, of_context, threads=snakemake.threads)[0]
    for name, levels in per_base.items():
        answers[name][rows] = np.concatenate(levels, axis=1)
    for name, values in answers.items():
        io.write_npy(snakemake.output[name], values)
    io.write_parquet(
        snakemake.output.upstream,
        upstream_frame(variable, items["item_id"], answers["blend"], taxonomy),
    )


if __name__ == "__main__":
    job.run(main, snakemake)
