"""Fail where a gate fails."""

from snakemake.iocontainers import Snakemake

from perceive import job
from perceive.evaluation.gates import read_acceptance


def main(snakemake: Snakemake) -> None:
    table = read_acceptance(snakemake.input.table)
    failed = table[table["verdict"] == "fail"]
    if len(failed):
        lines = (f"{row.variable}: {row.gate}, but it is {row.value:.3f}" for row in failed.itertuples())
        raise ValueError("\n  ".join([f"{len(failed)} of {len(table)} gates fail:", *lines]))


if __name__ == "__main__":
    job.run(main, snakemake)
