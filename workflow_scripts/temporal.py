"""Temporal features of every item."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.temporal import FEATURES, temporal_features


def main(snakemake: Snakemake) -> None:
    items = io.read_items(snakemake.input.columns)
    lexical = io.read_parquet(snakemake.input.lexical, ["item_id", "lex_valence"])
    values = temporal_features(
        items["owner_id"], items["timestamp"], lexical["lex_valence"], item_ids=items["item_id"]
    )
    features = pd.DataFrame(values, columns=list(FEATURES))
    features.insert(0, "item_id", items["item_id"])
    io.write_parquet(snakemake.output.features, features)


if __name__ == "__main__":
    job.run(main, snakemake)
