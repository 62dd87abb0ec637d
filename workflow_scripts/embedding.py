"""Embeddings and anchor similarities of every item."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.anchors import load_anchors
from perceive.features.embedding import embed_items

ANCHORS = Path(__file__).resolve().parent.parent / "resources" / "anchors.tsv"


def main(snakemake: Snakemake) -> None:
    items = io.read_items(snakemake.input.columns)
    encoders = {Path(path).parent.name: Path(path).parent for path in snakemake.input.encoders}
    features = embed_items(
        items, encoders, load_anchors(ANCHORS), cache=Path(snakemake.params.cache), streams=snakemake.threads
    )
    io.write_parquet(snakemake.output.features, features)


if __name__ == "__main__":
    job.run(main, snakemake)
