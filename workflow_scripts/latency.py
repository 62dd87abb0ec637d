"""How fast the bundle answers, beside the Python pipeline."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.export.latency import BATCHES, latency_plot, measure
from perceive.export.parts import load_parts
from perceive.serving.build import comparable, records
from perceive.taxonomy import load_taxonomy


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    taxonomy = load_taxonomy(snakemake.input.taxonomy) if snakemake.input.taxonomy else None
    results = Path(snakemake.output.report).parent.parent
    parts = load_parts(results, settings["kinds"], settings["reads"], taxonomy, settings["backbone"])
    split = io.read_parquet(snakemake.input.split_items, ["split"])["split"]
    rows, _, _ = comparable(io.read_items(snakemake.input.columns), split)
    rows = rows.sort_values(["timestamp", "item_id"]).head(2 * max(BATCHES))
    report = measure(
        Path(snakemake.input.manifest).parent,
        parts,
        records(rows),
        repeats=settings["repeats"],
        threads=snakemake.threads,
    )
    io.write_json(snakemake.output.report, report)
    latency_plot(snakemake.output.plot, report)


if __name__ == "__main__":
    job.run(main, snakemake)
