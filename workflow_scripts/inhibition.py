"""Cues of inhibition of every item."""

from pathlib import Path

import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.inhibition import CUES, InhibitionExtractor

LEXICONS = Path(__file__).resolve().parent.parent / "resources" / "lexicons"


def main(snakemake: Snakemake) -> None:
    licensed = io.read_json(snakemake.input.settings)["licensed_lexicons"]
    items = io.read_items(snakemake.input.columns)
    extractor = InhibitionExtractor(LEXICONS, {name: Path(path) for name, path in licensed.items()})
    features = pd.DataFrame(extractor.transform(items["text"], items["language"]), columns=list(CUES))
    features.insert(0, "item_id", items["item_id"])
    io.write_parquet(snakemake.output.features, features)


if __name__ == "__main__":
    job.run(main, snakemake)
