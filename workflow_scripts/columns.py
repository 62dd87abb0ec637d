"""Read the annotations and store one column of the accepted items."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.corpus.ingest import ingest_column
from perceive.corpus.settings import CorpusSettings


def main(snakemake: Snakemake) -> None:
    settings = CorpusSettings.model_validate(io.read_json(snakemake.input.settings))
    ingest_column(settings, Path.cwd(), snakemake.wildcards.column, snakemake.output.column)


if __name__ == "__main__":
    job.run(main, snakemake)
