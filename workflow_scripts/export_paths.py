"""Export one hierarchy variable to OpenVINO in three precisions, prove them, and time them."""

from pathlib import Path

import numpy as np
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.boosters import lgb
from perceive.classifiers import read_trees
from perceive.encoder import TextTokenizer, resolve_model
from perceive.export.path_report import export_paths
from perceive.features.matrix import CONTEXT, context
from perceive.features.path_store import path_columns, path_inputs
from perceive.hierarchy_calibration import HierarchyCalibrator
from perceive.path_ensemble import PathEnsemble
from perceive.taxonomy import load_taxonomy
from perceive.transformer.backbone import load_backbone
from perceive.transformer.model import Hierarchy, load


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    backbone = load_backbone(resolve_model(io.read_json(snakemake.input.backbone)["backbone"]["model"]))
    columns = path_columns(variable)
    ensemble = PathEnsemble(
        [read_trees(path, columns) for path in snakemake.input.models],
        lgb.Booster(model_file=snakemake.input.blender),
        HierarchyCalibrator.from_dict(io.read_json(snakemake.input.calibrator)),
        Hierarchy.of(load_taxonomy(snakemake.input.taxonomy)),
    )
    # Parity and latency are measured on val: the test split is for the evaluation alone.
    features = io.read_parquet(snakemake.input.features)
    items = io.read_items(snakemake.input.columns)
    rows = items.set_index("item_id").loc[features["item_id"]]
    parity, latency = export_paths(
        variable,
        load(Path(snakemake.input.transformer).parent, backbone),
        backbone,
        TextTokenizer(Path(snakemake.input.encoder).parent),
        ensemble,
        rows["text"].tolist(),
        path_inputs(features, columns, io.read_parquet(snakemake.input.cues)),
        context(rows, features),
        columns,
        CONTEXT,
        Path(snakemake.output.parity).parent,
        settings,
        threads=snakemake.threads,
        rng=np.random.default_rng(settings["seed"]),
    )
    io.write_json(snakemake.output.parity, parity)
    io.write_json(snakemake.output.latency, latency)


if __name__ == "__main__":
    job.run(main, snakemake)
