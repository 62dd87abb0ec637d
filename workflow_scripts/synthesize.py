"""Generate the embedded corpus."""

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.corpus.synthesize import generate, summarize, write_jsonl


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    write_jsonl(snakemake.output.annotations, generate(**settings))
    io.write_json(snakemake.output.report, summarize(generate(**settings)))


if __name__ == "__main__":
    job.run(main, snakemake)
