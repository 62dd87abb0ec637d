"""Write a variable's model card."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.model_card import model_card
from perceive.report import Artifacts

TEMPLATES = Path(__file__).resolve().parent.parent / "resources" / "report"


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    card = model_card(
        Artifacts(Path(snakemake.output.card).parent.parent),
        TEMPLATES / "model_card.md.jinja",
        snakemake.wildcards.variable,
        settings["source"],
        settings["encoder"],
    )
    io.write_text(snakemake.output.card, card)


if __name__ == "__main__":
    job.run(main, snakemake)
