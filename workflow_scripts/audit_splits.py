"""Search the splits for leaks, and fail where one is found."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.audit import audit_splits


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    split = io.read_json(snakemake.input.summary)
    items = io.read_items(snakemake.input.columns)
    report = audit_splits(
        items,
        io.read_parquet(snakemake.input.split_items),
        io.read_parquet(snakemake.input.owners),
        salt=settings["salt"],
        ledger=io.read_parquet(snakemake.input.previous),
        shares=[settings[name] for name in ("train", "val", "test")],
        n_folds=settings["folds"],
        published=settings["published"],
        allow_owner_overlap=settings["allow_owner_overlap"],
        mode=settings["mode"],
        boundary=split["boundary"],
        held_boundary=split["boundary_in_ledger_before"],
        configured_boundary=settings["boundary"],
        embargo_days=settings["embargo_days"],
        purged=pd.read_csv(snakemake.input.purged, dtype=str, keep_default_na=False),
        **settings["near_duplicates"],
    )
    job.write_audit(report, snakemake)


if __name__ == "__main__":
    job.run(main, snakemake)
