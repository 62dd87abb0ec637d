"""What one sequence variable's GRU, and its twin without history, answer for the items of val and test."""

from pathlib import Path

import numpy as np
import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.matrix import GRU, TEXT_ALONE
from perceive.features.store import with_upstream
from perceive.sequence.model import load
from perceive.sequence.training import predict
from perceive.sequence.windows import Timelines


def main(snakemake: Snakemake) -> None:
    # Train comes along as history: a published split can leave an owner's earlier items there.
    frames = [io.read_parquet(path) for path in snakemake.input.features]
    features = with_upstream(pd.concat(frames, ignore_index=True), snakemake.input.upstream)
    items = io.read_items(snakemake.input.columns)
    timelines = Timelines.of(features, items)
    rows = np.arange(len(frames[0]), len(features))
    answers = {"item_id": timelines.item_ids[rows]}
    for name, path in ((GRU, snakemake.input.model), (TEXT_ALONE, snakemake.input.text_alone)):
        model = load(Path(path).parent, timelines.columns)
        answers[name] = predict(model, timelines, rows, threads=snakemake.threads)
    io.write_parquet(snakemake.output.answers, pd.DataFrame(answers))


if __name__ == "__main__":
    job.run(main, snakemake)
