"""The whole table of acceptance: the models' verdicts, and parity and latency of what is deployed."""

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.evaluation.acceptance import as_json, completed, latency_row, parity_rows
from perceive.evaluation.gates import read_acceptance


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    default = io.read_json(snakemake.input.manifest)["precision"]["default"]
    limits = {"fp32": settings["parity_rmse"], "other": settings["compressed_parity_rmse"]}
    rows = [
        *parity_rows(io.read_json(snakemake.input.parity), default, limits),
        latency_row(io.read_json(snakemake.input.latency), default, settings["latency_ms"]),
    ]
    models = read_acceptance(snakemake.input.verdicts)
    table = completed(models, rows)
    with io.atomic_path(snakemake.output.table) as temporary:
        table.to_csv(temporary, sep="\t", index=False)
    io.write_json(snakemake.output.json, as_json(table))


if __name__ == "__main__":
    job.run(main, snakemake)
