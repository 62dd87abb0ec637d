"""Put the variables' agreement together, and the items that deserve a second look."""

from pathlib import Path

import pandas as pd
from snakemake.iocontainers import Snakemake

from perceive import io, job


def main(snakemake: Snakemake) -> None:
    variables = {Path(path).stem: io.read_json(path) for path in snakemake.input.agreement}
    lists = [pd.read_csv(path, dtype=str) for path in snakemake.input.review]
    listed = pd.concat(lists, ignore_index=True)
    with io.atomic_path(snakemake.output.review) as temporary:
        listed.sort_values(["item_id", "variable"], kind="stable").to_csv(temporary, index=False)
    to_review = {"items": int(listed["item_id"].nunique()), "entries": len(listed)}
    io.write_json(snakemake.output.agreement, {"variables": variables, "to_review": to_review})


if __name__ == "__main__":
    job.run(main, snakemake)
