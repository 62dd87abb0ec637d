"""Store the rejected lines with their reasons, and the summary of the corpus."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.corpus.ingest import ingest_rejects, ingest_summary
from perceive.corpus.settings import CorpusSettings


def main(snakemake: Snakemake) -> None:
    settings = CorpusSettings.model_validate(io.read_json(snakemake.input.settings))
    ingest_rejects(settings, Path.cwd(), snakemake.output.rejects)
    ingest_summary(settings, Path.cwd(), snakemake.output.summary)


if __name__ == "__main__":
    job.run(main, snakemake)
