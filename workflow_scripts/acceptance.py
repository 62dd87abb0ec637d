"""Judge every gate on the stored metrics."""

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.evaluation.gates import acceptance_table, gates_from_config


def main(snakemake: Snakemake) -> None:
    results = [io.read_json(path) for path in snakemake.input.metrics]
    gates = gates_from_config(io.read_json(snakemake.input.settings))
    table = acceptance_table({result["variable"]: result for result in results}, gates)
    with io.atomic_path(snakemake.output.table) as temporary:
        table.to_csv(temporary, sep="\t", index=False)


if __name__ == "__main__":
    job.run(main, snakemake)
