"""Calibrate one variable on the validation split."""

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.calibration import fit_calibrator
from perceive.ensemble import RegressionEnsemble
from perceive.features.store import ITEM_COLUMNS, labelled, model_inputs, read_labels


def main(snakemake: Snakemake) -> None:
    labels = read_labels(snakemake.input.labels)
    rows = labelled(io.read_parquet(snakemake.input.features), labels)
    ensemble = RegressionEnsemble.load(snakemake.input.models, snakemake.input.blender)
    raw = ensemble.predict(*model_inputs(rows, io.read_parquet(snakemake.input.corpus, ITEM_COLUMNS)))["raw"]
    observed = labels.loc[rows["item_id"]].to_numpy()
    calibrator = fit_calibrator(raw.to_numpy(), observed, io.read_json(snakemake.input.settings))
    io.write_json(snakemake.output.calibrator, {**calibrator.to_dict(), "rows": len(rows)})


if __name__ == "__main__":
    job.run(main, snakemake)
