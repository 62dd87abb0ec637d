"""Export one sequence variable's GRU to OpenVINO, and prove that it answers as the model does."""

from pathlib import Path

import numpy as np
import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.store import with_upstream
from perceive.sequence.export import export_sequence
from perceive.sequence.model import load
from perceive.sequence.windows import Timelines


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    # Measured on val, after its owners' history: the test split is for the evaluation alone.
    frames = [io.read_parquet(path) for path in snakemake.input.features]
    features = with_upstream(pd.concat(frames, ignore_index=True), snakemake.input.upstream)
    items = io.read_items(snakemake.input.columns)
    timelines = Timelines.of(features, items)
    proof = export_sequence(
        snakemake.wildcards.variable,
        load(Path(snakemake.input.model).parent, timelines.columns),
        timelines,
        np.arange(len(frames[0]), len(features)),
        Path(snakemake.output.parity).parent,
        settings,
        threads=snakemake.threads,
    )
    io.write_json(snakemake.output.parity, proof)


if __name__ == "__main__":
    job.run(main, snakemake)
