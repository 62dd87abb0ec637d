"""Evaluate one hierarchy variable on the test split."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.answers import by_level
from perceive.evaluation import hierarchy_plots as plots
from perceive.evaluation.hierarchy import evaluate_hierarchy
from perceive.evaluation.plots import slice_plot
from perceive.features.matrix import PATH_BASES
from perceive.features.path_store import as_paths, read_paths
from perceive.hierarchy_calibration import HierarchyCalibrator
from perceive.paths import decode, is_path, levelwise_argmax, parents
from perceive.taxonomy import load_taxonomy


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    taxonomy = load_taxonomy(snakemake.input.taxonomy)
    items = io.read_items(snakemake.input.columns)
    split = io.read_parquet(snakemake.input.split_items, ["split"])["split"].to_numpy(dtype=object)
    codes = read_paths(snakemake.input.labels, items["item_id"], taxonomy)
    labelled = codes[:, 0] >= 0
    test, train = (np.flatnonzero((split == name) & labelled) for name in ("test", "train"))
    if not len(test):
        raise ValueError(f"no test item has a label of {variable}; label some items of the test owners")
    sizes = [len(above) for above in parents(taxonomy)]
    raw = by_level(io.read_npy(snakemake.input.answers), sizes, test)
    calibrated = HierarchyCalibrator.from_dict(io.read_json(snakemake.input.calibrator)).apply(raw)
    probabilities = {"calibrated": calibrated, "raw": raw}
    for base, path in zip(PATH_BASES, snakemake.input.bases, strict=True):
        probabilities[base] = by_level(io.read_npy(path), sizes, test)
    lexical = io.read_parquet(snakemake.input.lexical).iloc[test].reset_index(drop=True)
    frame = pd.concat(
        [items.iloc[test].reset_index(drop=True), lexical.drop(columns="item_id")], axis=1
    ).assign(observed=as_paths(codes[test], taxonomy))
    result = evaluate_hierarchy(
        frame,
        probabilities,
        variable=variable,
        taxonomy=taxonomy,
        train=pd.DataFrame({"observed": as_paths(codes[train], taxonomy)}),
        ceiling=noise_ceiling(io.read_json(snakemake.input.agreement)["ceiling"]),
        gates=(),
        n_bootstrap=settings["bootstrap"],
        seed=settings["seed"],
    )
    answer = decode(calibrated, taxonomy)
    deepest = calibrated[-1][np.arange(len(test)), answer[:, -1]]
    predictions = pd.DataFrame(
        {
            "item_id": frame["item_id"],
            "observed": ["/".join(path) for path in frame["observed"]],
            "raw": ["/".join(path) for path in as_paths(decode(raw, taxonomy), taxonomy)],
            "calibrated": ["/".join(path) for path in as_paths(answer, taxonomy)],
            "probability": deepest.astype(np.float32),
            "valid_argmax": is_path(levelwise_argmax(calibrated), taxonomy),
            **{
                f"p_{label[0]}": calibrated[0][:, number].astype(np.float32)
                for number, label in enumerate(taxonomy.labels(0))
            },
        }
    )
    io.write_parquet(snakemake.output.predictions, predictions)
    draw(snakemake, variable, result)
    io.write_json(snakemake.output.metrics, result)


def noise_ceiling(found: dict[str, Any]) -> dict[str, Any]:
    """What a perfect model could reach on labels like these, or why that is not known.

    Estimated on the whole corpus: a single split has too few items of the rare labels.
    """
    if "reason" in found:
        return {"reason": found["reason"]}
    return {name: of["value"] for name, of in found["metrics"].items()}


def draw(snakemake: Snakemake, variable: str, result: dict[str, Any]) -> None:
    path = {Path(name).stem: name for name in snakemake.output.plots}
    n, metrics, levels = result["n"], result["metrics"], list(result["observed"])
    plots.reliability_plot(path["reliability"], variable, n, result["reliability"], metrics)
    plots.confusion_plot(path["confusion"], variable, result["confusion"])
    plots.confusions_plot(path["confusions"], variable, n, result["confusions"], result["observed"])
    slice_plot(path["slices"], variable, n, metrics["calibrated"], result["slices"], metric="hierarchical_f1")
    plots.baseline_plot(
        path["baselines"],
        variable,
        n,
        metrics["calibrated"],
        result["bases"],
        result["baselines"],
        levels,
        result["owners"],
    )


if __name__ == "__main__":
    job.run(main, snakemake)
