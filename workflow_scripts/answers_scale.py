"""What one scale answers for every item, for the variables that read it: out of fold in train."""

from pathlib import Path

import numpy as np
import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.answers import blended
from perceive.ensemble import RegressionEnsemble
from perceive.features.store import model_inputs, with_upstream


def main(snakemake: Snakemake) -> None:
    # Not the variable's bare name, which is the label's.
    column = f"{snakemake.wildcards.variable}_answer"
    split_items = io.read_parquet(snakemake.input.split_items, ["item_id", "split"])
    train = split_items.loc[split_items["split"] == "train", "item_id"].to_numpy()
    arrays = map(io.read_npy, snakemake.input.predictions)
    # The trees' are one number a row, the transformer's one column.
    bases = [array.reshape(len(array), 1) for array in arrays]
    answers = [
        pd.DataFrame({"item_id": train, column: blended(bases, io.read_npy(snakemake.input.weights))[:, 0]})
    ]
    ensemble = RegressionEnsemble.load(
        snakemake.input.models, snakemake.input.blender, network=Path(snakemake.input.network).stem
    )
    items = io.read_items(snakemake.input.columns)
    for path in snakemake.input.features:
        rows = with_upstream(io.read_parquet(path), [*snakemake.input.upstream, snakemake.input.network])
        raw = ensemble.predict(*model_inputs(rows, items, ensemble.columns))["raw"]
        answers.append(pd.DataFrame({"item_id": rows["item_id"], column: raw.to_numpy(np.float32)}))
    io.write_parquet(snakemake.output.upstream, pd.concat(answers, ignore_index=True))


if __name__ == "__main__":
    job.run(main, snakemake)
