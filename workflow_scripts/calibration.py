"""Calibrate one variable on the validation split."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.calibration import fit_calibrator
from perceive.ensemble import RegressionEnsemble
from perceive.features.store import labelled, model_inputs, read_labels, with_upstream


def main(snakemake: Snakemake) -> None:
    labels = read_labels(snakemake.input.labels)
    features = with_upstream(
        io.read_parquet(snakemake.input.features), [*snakemake.input.upstream, snakemake.input.network]
    )
    rows = labelled(features, labels)
    ensemble = RegressionEnsemble.load(
        snakemake.input.models, snakemake.input.blender, network=Path(snakemake.input.network).stem
    )
    items = io.read_items(snakemake.input.columns)
    raw = ensemble.predict(*model_inputs(rows, items, ensemble.columns))["raw"]
    observed = labels.loc[rows["item_id"]].to_numpy()
    calibrator = fit_calibrator(raw.to_numpy(), observed, io.read_json(snakemake.input.settings))
    io.write_json(snakemake.output.calibrator, {**calibrator.to_dict(), "rows": len(rows)})


if __name__ == "__main__":
    job.run(main, snakemake)
