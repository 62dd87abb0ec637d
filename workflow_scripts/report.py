"""Write the report: one page that needs no network."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.report import Artifacts, provenance, quality_plot, render

TEMPLATES = Path(__file__).resolve().parent.parent / "resources" / "report"


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    results = Path(snakemake.output.page).parent.parent
    variables = settings["variables"]
    io.write_json(snakemake.output.provenance, provenance(results))
    quality_plot(snakemake.output.quality, io.read_json(snakemake.input.acceptance)["gates"], variables)
    page = render(
        Artifacts(results),
        TEMPLATES / "report.html.jinja",
        corpus=settings["source"]["name"],
        variables=variables,
    )
    io.write_text(snakemake.output.page, page)


if __name__ == "__main__":
    job.run(main, snakemake)
