"""Compare the groups that the answers of one variable are about, and list the worst answers by id."""

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.evaluation.fairness import fairness_plot, measure_fairness, worst_answers


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    kind = io.read_json(snakemake.input.metrics)["kind"]
    predictions = io.read_parquet(snakemake.input.predictions)
    items = io.read_items(snakemake.input)
    found = measure_fairness(predictions, items, kind, n=settings["bootstrap"], seed=settings["seed"])
    with io.atomic_path(snakemake.output.worst) as temporary:
        worst_answers(predictions, items, kind).to_csv(temporary, index=False)
    fairness_plot(snakemake.output.plot, variable, found)
    io.write_json(snakemake.output.fairness, {"variable": variable, **found})


if __name__ == "__main__":
    job.run(main, snakemake)
