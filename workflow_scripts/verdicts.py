"""Judge the models: gates on their metrics, the annotators' agreement, the audits, the gap of groups."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.evaluation.acceptance import agreement_row, completed, fairness_row, leakage_row
from perceive.evaluation.gates import acceptance_table, gates_from_config


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    results = {result["variable"]: result for result in map(io.read_json, snakemake.input.metrics)}
    table = acceptance_table(results, gates_from_config(settings["gates"]))
    splits = io.read_json(snakemake.input.splits_audit)
    rows = []
    for audit in snakemake.input.audits:
        variable = Path(audit).parent.name
        rows.append(leakage_row(variable, [splits, io.read_json(audit)]))
    for path in snakemake.input.agreement:
        rows.append(agreement_row(Path(path).stem, io.read_json(path), settings["agreement"]))
    for path in snakemake.input.fairness:
        rows.append(fairness_row(Path(path).stem, io.read_json(path), settings["group_gap"]))
    with io.atomic_path(snakemake.output.table) as temporary:
        completed(table, rows).to_csv(temporary, sep="\t", index=False)


if __name__ == "__main__":
    job.run(main, snakemake)
