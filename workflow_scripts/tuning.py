"""Search for the hyperparameters of one variable's full-feature model."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.features.matrix import ALL
from perceive.features.store import labelled, read_labels
from perceive.io import file_sha256
from perceive.tuning import FoldData, Search


def main(snakemake: Snakemake) -> None:
    labels = read_labels(snakemake.input.labels)
    settings = io.read_json(snakemake.input.settings)

    def matrices(path: str) -> tuple[np.ndarray, np.ndarray]:
        frame = labelled(io.read_parquet(path), labels)
        return frame[list(ALL)].to_numpy(np.float32), labels.loc[frame["item_id"]].to_numpy()

    folds = [
        FoldData(*matrices(train), *matrices(val))
        for train, val in zip(snakemake.input.train, snakemake.input.val, strict=True)
    ]
    # A journal is resumed only where all that its trials read is the same: the inputs' content names it.
    inputs = sorted(str(path) for path in snakemake.input)
    content = "".join(file_sha256(Path(path)) for path in inputs)
    fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]
    journal = Path(snakemake.params.cache) / f"{fingerprint}.journal"
    search = Search(journal, snakemake.wildcards.variable, folds, ALL, settings, threads=snakemake.threads)
    search.run()
    with io.atomic_path(snakemake.output.trials) as temporary:
        search.table().to_csv(temporary, index=False)
    with io.atomic_path(snakemake.output.study) as temporary:
        shutil.copyfile(journal, temporary)
    io.write_json(snakemake.output.best, search.best())
    for old in journal.parent.glob("*.journal"):
        if old != journal:
            old.unlink()


if __name__ == "__main__":
    job.run(main, snakemake)
