"""Export one scale to OpenVINO in three precisions, prove them, and time them."""

from pathlib import Path

import numpy as np
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.calibration import Calibrator
from perceive.ensemble import RegressionEnsemble
from perceive.export.report import export_variable
from perceive.features.store import model_inputs, with_upstream


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    # Parity and latency are measured on val: the test split is for the evaluation alone.
    rows = with_upstream(
        io.read_parquet(snakemake.input.features), [*snakemake.input.upstream, snakemake.input.network]
    )
    calibrator = Calibrator.from_dict(io.read_json(snakemake.input.calibrator))
    ensemble = RegressionEnsemble.load(
        snakemake.input.models,
        snakemake.input.blender,
        calibrator,
        network=Path(snakemake.input.network).stem,
    )
    items = io.read_items(snakemake.input.columns)
    features, context = model_inputs(rows, items, ensemble.columns)
    parity, latency = export_variable(
        snakemake.wildcards.variable,
        ensemble,
        features,
        context,
        Path(snakemake.output.parity).parent,
        settings,
        rng=np.random.default_rng(settings["seed"]),
    )
    io.write_json(snakemake.output.parity, parity)
    io.write_json(snakemake.output.latency, latency)


if __name__ == "__main__":
    job.run(main, snakemake)
