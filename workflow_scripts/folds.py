"""Features of each fold's training and validation rows, and of the three splits."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.matrix import Projection, assemble
from perceive.splits import training_rows


def main(snakemake: Snakemake) -> None:
    items = io.read_items(snakemake.input.columns)
    split_items = io.read_parquet(snakemake.input.split_items)
    lexical = io.read_parquet(snakemake.input.lexical)
    embedding = io.read_parquet(snakemake.input.embedding)
    temporal = io.read_parquet(snakemake.input.temporal)
    for name, frame in (
        ("splits", split_items),
        ("lexical", lexical),
        ("embedding", embedding),
        ("temporal", temporal),
    ):
        if not frame["item_id"].equals(items["item_id"]):
            raise ValueError(f"the rows of {name} are not those of the items; delete it and run again")
    raw = embedding[[name for name in embedding.columns if name.startswith("emb_")]].to_numpy(np.float32)
    languages = items["language"].to_numpy()

    def write(rows: np.ndarray, projection: Projection, path: str) -> None:
        part = [frame[rows].reset_index(drop=True) for frame in (lexical, embedding, temporal)]
        io.write_parquet(path, assemble(*part, projection.transform(raw[rows], languages[rows])))

    split = split_items["split"].to_numpy()
    fold_of = split_items["fold"].to_numpy(dtype=float, na_value=-1)
    for fold, (train, val) in enumerate(zip(snakemake.output.train, snakemake.output.val, strict=True)):
        learn = training_rows(split_items, fold)
        projection = Projection.fit(raw[learn], languages[learn])
        write(learn, projection, train)
        write(fold_of == fold, projection, val)
    projection = Projection.fit(raw[split == "train"], languages[split == "train"])
    for path in snakemake.output.final:
        write(split == Path(path).stem, projection, path)
    with io.atomic_path(snakemake.output.projection) as temporary:
        save_file(projection.tensors(), temporary)


if __name__ == "__main__":
    job.run(main, snakemake)
