"""Search the predictions of one variable for leaks, and fail where one is found."""

from pathlib import Path

import numpy as np
import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.answers import blended
from perceive.audit import audit_variable
from perceive.features.store import upstream_names, with_upstream

STAGES = {"train": "training", "val": "calibration", "test": "evaluation"}


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    labels = io.read_parquet(snakemake.input.labels)
    settings = io.read_json(snakemake.input.settings)

    def of_bases(paths: list[str]) -> pd.DataFrame:
        return pd.concat([io.read_parquet(p).assign(base=Path(p).name.split(".")[0]) for p in paths])

    def ids(path: str) -> set[str]:
        return set(io.read_parquet(path, ["item_id"])["item_id"])

    split_items = io.read_parquet(snakemake.input.split_items)
    paths = {Path(path).stem: path for path in snakemake.input.features}
    # Each stage reads its rows from these files and no others.
    read = {STAGES[split]: ids(path) for split, path in paths.items()}
    read["projection"] = read["training"]
    for path in snakemake.input.fold_features:
        fold, part = Path(path).parts[-2:]
        if part == "train.parquet":
            read[f"projection/fold{fold}"] = read[f"tuning/fold{fold}"] = ids(path)
        else:
            read[f"tuning/held_out{fold}"] = ids(path)
    read["blend"] = set(split_items.loc[split_items["split"] == "train", "item_id"]) & set(labels["item_id"])
    columns = io.read_parquet(paths["train"]).columns.drop("item_id")
    features = with_upstream(io.read_parquet(paths["train"]), snakemake.input.upstream)
    train_ids = split_items.loc[split_items["split"] == "train", "item_id"]
    # Not what they were filled with, but what the out-of-fold arrays of the other variables say they are.
    upstream = {}
    arrays: dict[str, list[np.ndarray]] = {}
    for path in snakemake.input.upstream_oof:
        array = io.read_npy(path)
        arrays.setdefault(Path(path).parent.name, []).append(array.reshape(len(array), -1))
    for path, weights in zip(snakemake.input.upstream, snakemake.input.upstream_weights, strict=True):
        name = Path(path).parent.name
        answers = blended(arrays[name], io.read_npy(weights))
        names = upstream_names([path])
        frame = pd.DataFrame(answers[:, : len(names)], columns=names)
        upstream[name] = frame.assign(item_id=train_ids.to_numpy())
    report = audit_variable(
        variable,
        items=io.read_items(snakemake.input.columns),
        split_items=split_items,
        oof_records=of_bases(snakemake.input.records).rename(columns={"fold": "fold_predicted"}),
        trained_on=of_bases(snakemake.input.trained_on),
        labels={variable: labels},
        salt=settings["salt"],
        bases=[Path(path).name.split(".")[0] for path in snakemake.input.records],
        feature_columns=[*columns, *upstream_names(snakemake.input.upstream)],
        features=features,
        records=read,
        upstream=upstream if upstream else None,
        **settings["near_duplicates"],
    )
    job.write_audit(report, snakemake)


if __name__ == "__main__":
    job.run(main, snakemake)
