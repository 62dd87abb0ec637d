"""The DAG on larger and larger corpora: time, memory and disk of every rule, and how they grow.

    make bench-scale                                   5,200 and 52,000 items through everything
    python tests/scale.py 5200 52000 --only features   the same through corpus, splits, features and one model
    python tests/scale.py 520000 --only features --folder /large/disk

The table grows: a later call adds its sizes to those that stand in it, and replaces those it measures again.
Small budgets, and an encoder of one layer: what is asked is how the cost grows, and the real encoder costs
each new text the same. The exponent is that of the power of n between two sizes: 1 is linear, and n log n is
1.08 from 52,000 to 520,000. Rules of less than a second and folders of less than a megabyte are left out.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.ticker
import pandas as pd
import seaborn as sns
from project import Project, one_layer

from perceive.corpus.synthesize import generate, scaled
from perceive.figures import GREY, new_figure

ONLY = {
    "all": ["all"],
    "features": [
        "results/splits/audit.json", "results/features/timelines.audit.json",
        "results/features/folds/final/train.parquet", "results/models/valence/lx/model.txt",
    ],
}  # fmt: skip
WORTH = 1.0
"""Seconds from which a rule's growth is told."""


def sizes(results: Path) -> dict[str, float]:
    """Megabytes of each folder of the results: what a stage writes lies in the folder of its name."""
    found: collections.Counter[str] = collections.Counter()
    for path in results.glob("*/**/*"):
        if path.is_file():
            found[path.relative_to(results).parts[0]] += path.stat().st_size
    return {name: size / 2**20 for name, size in found.items()}


def measure(folder: Path, encoder: Path, items: int, targets: list[str]) -> pd.DataFrame:
    """Run the workflow on a generated corpus: a row for each rule, with its jobs added up.

    The disk of a folder stands in the row of the rule of its name, or in one of its own.
    """
    project = Project(folder)
    with project.annotations.open("w", encoding="utf-8") as lines:
        for record in generate(seed=1, **scaled(items)):
            lines.write(json.dumps(record) + "\n")
    project.configure(encoders={"en": {"model": str(encoder), "sha256": None}})
    started = time.monotonic()
    done = project.run(*targets, timeout=6 * 3600)
    wall = time.monotonic() - started
    if done.returncode:
        sys.exit(f"{items} items: the run failed\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    rows = []
    for path in sorted((project.results / "benchmarks").rglob("*.tsv")):
        took = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
        rule = path.relative_to(project.results / "benchmarks").parts[0].removesuffix(".tsv")
        rows.append({"rule": rule, "seconds": took["s"].sum(), "memory_mb": took["max_rss"].max()})
    found = pd.DataFrame(rows).groupby("rule").agg({"seconds": "sum", "memory_mb": "max"})
    disk = pd.Series(sizes(project.results), name="disk_mb")
    table = found.join(disk, how="outer")
    table.loc["the whole run"] = [wall, found["memory_mb"].max(), disk.sum()]
    return table.rename_axis("rule").reset_index().assign(items=items)


def growth(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Values by rule and size, and the exponent between the last two sizes."""
    wide = table.pivot(index="rule", columns="items", values=column)
    if wide.shape[1] > 1:
        small, large = wide.columns[-2:]
        wide["exponent"] = [
            math.log(b / a) / math.log(large / small) if a > 0 and b > 0 else math.nan
            for a, b in zip(wide[small], wide[large], strict=True)
        ]
    return wide


def plot(path: Path, table: pd.DataFrame) -> None:
    """Seconds of each rule by the number of items, both logarithmic, beside a line of n log n."""
    long = table[table.groupby("rule")["seconds"].transform("max") >= 5 * WORTH]
    with new_figure(path, 9, 6) as figure:
        axes = figure.subplots()
        sns.lineplot(
            long, x="items", y="seconds", hue="rule", style="rule", markers=True, dashes=False, ax=axes
        )
        sizes = sorted(table["items"].unique())
        base = sizes[0] * math.log(sizes[0])
        whole = table[table["rule"] == "the whole run"].set_index("items")["seconds"]
        axes.plot(
            sizes, [whole[sizes[0]] * n * math.log(n) / base for n in sizes], ":", color=GREY, label="n log n"
        )
        axes.set(xscale="log", yscale="log", xlabel="items", ylabel="seconds of all jobs")
        axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
        axes.legend(bbox_to_anchor=(1.02, 1), loc="upper left", frameon=False, fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("items", nargs="*", type=int, default=[5_200, 52_000])
    parser.add_argument("--only", choices=list(ONLY), default="all")
    parser.add_argument(
        "--folder", type=Path, help="where the corpora and results go (default: a temporary one)"
    )
    parser.add_argument("--output", type=Path, default=Path("results/scale"), help="folder of table and plot")
    arguments = parser.parse_args()
    root = arguments.folder or Path(tempfile.mkdtemp(prefix="scale"))
    root.mkdir(parents=True, exist_ok=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    kept = arguments.output / f"{arguments.only}.csv"
    table = pd.read_csv(kept) if kept.exists() else pd.DataFrame(columns=["items"])
    try:
        encoder = one_layer(root / "encoder")
        for items in sorted(arguments.items):
            folder = root / str(items)
            folder.mkdir()
            measured = measure(folder, encoder, items, ONLY[arguments.only])
            table = pd.concat([table[table["items"] != items], measured]).sort_values(["items", "rule"])
            table.to_csv(kept, index=False)
            print(f"\n{items:,} items", flush=True)
            print(measured.sort_values("seconds", ascending=False).to_string(index=False), flush=True)
            if arguments.folder is None:
                shutil.rmtree(folder)
    finally:
        if arguments.folder is None:
            shutil.rmtree(root, ignore_errors=True)
    if table["items"].nunique() > 1:
        for column in ("seconds", "memory_mb", "disk_mb"):
            wide = growth(table, column)
            print(f"\n{column}\n{wide[wide.iloc[:, -2] >= WORTH].round(2).to_string()}")
    plot(kept.with_suffix(".png"), table)
    print(f"\nAlso in {arguments.output}")


if __name__ == "__main__":
    main()
