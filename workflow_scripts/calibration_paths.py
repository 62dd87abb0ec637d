"""Calibrate one hierarchy variable, level by level, on the validation split."""

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.answers import by_level
from perceive.features.path_store import as_paths, read_paths
from perceive.hierarchy_calibration import fit_hierarchy_calibrator
from perceive.paths import parents
from perceive.taxonomy import load_taxonomy


def main(snakemake: Snakemake) -> None:
    taxonomy = load_taxonomy(snakemake.input.taxonomy)
    items = io.read_items(snakemake.input.columns)
    split = io.read_parquet(snakemake.input.split_items, ["split"])["split"]
    codes = read_paths(snakemake.input.labels, items["item_id"], taxonomy)
    rows = (split == "val").to_numpy(dtype=bool, na_value=False) & (codes[:, 0] >= 0)
    calibrator = fit_hierarchy_calibrator(
        by_level(io.read_npy(snakemake.input.answers)[rows], [len(above) for above in parents(taxonomy)]),
        as_paths(codes[rows], taxonomy),
        items["owner_id"][rows],
        taxonomy,
    )
    io.write_json(snakemake.output.calibrator, {**calibrator.to_dict(), "rows": int(rows.sum())})


if __name__ == "__main__":
    job.run(main, snakemake)
