"""Read the annotations and store the accepted items."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.corpus.ingest import ingest_items
from perceive.corpus.settings import CorpusSettings


def main(snakemake: Snakemake) -> None:
    settings = CorpusSettings.model_validate(io.read_json(snakemake.input.settings))
    ingest_items(settings, Path.cwd(), snakemake.output.corpus)


if __name__ == "__main__":
    job.run(main, snakemake)
