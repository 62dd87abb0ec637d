"""Search the timelines for features that know the future, and fail where one is found."""

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.audit import audit_timeline


def main(snakemake: Snakemake) -> None:
    report = audit_timeline(
        io.read_items(snakemake.input.columns),
        io.read_parquet(snakemake.input.lexical),
        io.read_parquet(snakemake.input.temporal),
        salt=io.read_json(snakemake.input.settings)["salt"],
    )
    job.write_audit(report, snakemake)


if __name__ == "__main__":
    job.run(main, snakemake)
