"""Write a model card for each variable."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.model_card import model_card
from perceive.report import Artifacts

TEMPLATES = Path(__file__).resolve().parent.parent / "resources" / "report"


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    for path in map(Path, snakemake.output.cards):
        card = model_card(
            Artifacts(path.parent.parent),
            TEMPLATES / "model_card.md.jinja",
            path.stem,
            settings["source"],
            settings["encoder"],
        )
        io.write_text(path, card)


if __name__ == "__main__":
    job.run(main, snakemake)
