"""Read the annotations and store the labels of one variable."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.corpus.ingest import ingest_labels
from perceive.corpus.settings import CorpusSettings


def main(snakemake: Snakemake) -> None:
    settings = CorpusSettings.model_validate(io.read_json(snakemake.input.settings))
    variable = snakemake.wildcards.variable
    if not ingest_labels(settings, Path.cwd(), variable, snakemake.output.labels):
        formula = " (its formula in corpus.derived gives none)" if variable in settings.derived else ""
        raise ValueError(
            f"the corpus {settings.name!r} has no label of {variable}{formula}; label some items, correct "
            "corpus.labels or corpus.derived, or take the variable out of `variables`"
        )


if __name__ == "__main__":
    job.run(main, snakemake)
