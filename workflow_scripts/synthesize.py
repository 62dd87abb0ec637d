"""Generate the embedded corpus, the true state of each item, and the report with the noise ceilings."""

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.corpus.synthesis import Report, write_corpus
from perceive.corpus.synthesize import raters, simulate


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    report = Report(raters(**settings))
    write_corpus(simulate(**settings), snakemake.output.annotations, snakemake.output.truth, report)
    io.write_json(snakemake.output.report, report.result())


if __name__ == "__main__":
    job.run(main, snakemake)
