"""Why the models of one variable answer as they do."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.boosters import lgb
from perceive.evaluation.insight import (
    feature_importance,
    features_plot,
    mean_weights,
    parameter_importance,
    search_history,
    search_plot,
    weights_plot,
)
from perceive.evaluation.plots import BASE_LABELS
from perceive.features.store import with_upstream


def in_order(values: dict[str, float]) -> list[dict[str, Any]]:
    """As a list, since JSON artifacts have their keys sorted."""
    return [{"name": name, "value": value} for name, value in values.items()]


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    booster = lgb.Booster(model_file=snakemake.input.model)
    features = io.read_parquet(snakemake.input.features)
    if snakemake.input.cues:
        features = features.merge(io.read_parquet(snakemake.input.cues), on="item_id", suffixes=("", "_cue"))
    features = with_upstream(features, snakemake.input.upstream)
    important = feature_importance(booster, features[booster.feature_name()].to_numpy(np.float32))
    blend = io.read_json(snakemake.input.blend)
    split = io.read_parquet(snakemake.input.split_items, ["split"])["split"]
    train = io.read_items(snakemake.input.columns)[(split == "train").to_numpy(dtype=bool, na_value=False)]
    weights = mean_weights(io.read_npy(snakemake.input.weights).astype(np.float64), blend["bases"], train)
    trials = pd.read_csv(snakemake.input.trials)
    search = search_history(trials)
    names = list(io.read_json(snakemake.input.best)["parameters"])
    parameters = parameter_importance(trials, names, seed=settings["seed"])
    base = Path(snakemake.input.model).parent.name
    features_plot(snakemake.output.features, variable, important, BASE_LABELS[base])
    weights_plot(snakemake.output.weights, variable, weights)
    search_plot(snakemake.output.search, variable, search, parameters)
    io.write_json(
        snakemake.output.insight,
        {
            "variable": variable,
            "model": base,
            "features": in_order(important),
            "weights": weights,
            "search": search,
            "parameters": in_order(parameters),
        },
    )


if __name__ == "__main__":
    job.run(main, snakemake)
