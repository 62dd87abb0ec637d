"""Search the splits for leaks, and fail where one is found."""

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.audit import audit_splits


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    report = audit_splits(
        io.read_parquet(snakemake.input.corpus, ["item_id", "owner_id", "text", "timestamp", "split"]),
        io.read_parquet(snakemake.input.split_items),
        io.read_parquet(snakemake.input.owners),
        salt=settings["salt"],
        ledger=io.read_parquet(snakemake.input.previous),
        shares=[settings[name] for name in ("train", "val", "test")],
        n_folds=settings["folds"],
        published=settings["published"],
        allow_owner_overlap=settings["allow_owner_overlap"],
    )
    job.write_audit(report, snakemake)


if __name__ == "__main__":
    job.run(main, snakemake)
