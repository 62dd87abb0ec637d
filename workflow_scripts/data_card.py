"""Write the data card, in Croissant's format."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.data_card import data_card


def main(snakemake: Snakemake) -> None:
    card = data_card(
        Path(snakemake.input.corpus),
        {Path(path).stem: Path(path) for path in snakemake.input.labels},
        io.read_json(snakemake.input.summary),
        io.read_json(snakemake.input.settings)["source"],
    )
    io.write_text(snakemake.output.card, io.dumps(card))


if __name__ == "__main__":
    job.run(main, snakemake)
