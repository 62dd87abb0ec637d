"""The graphs that a bundle serves, in three precisions."""

from pathlib import Path
from typing import Any

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.export.parts import load_parts
from perceive.export.serving import COLUMNS, save_graphs, text_graphs
from perceive.serving.plan import stages
from perceive.taxonomy import load_taxonomy
from perceive.torch_runs import torch_threads


def main(snakemake: Snakemake) -> list[Path]:
    settings = io.read_json(snakemake.input.settings)
    kinds, reads = settings["kinds"], settings["reads"]
    taxonomy = load_taxonomy(snakemake.input.taxonomy) if snakemake.input.taxonomy else None
    target = Path(snakemake.output.plan).parent
    parts = load_parts(target.parent, kinds, reads, taxonomy, settings["backbone"])
    variables: dict[str, dict[str, Any]] = {
        name: {"kind": kind, "answers": list(parts.heads[name].answers)} for name, kind in kinds.items()
    }
    for name, kind in kinds.items():
        if kind == "hierarchy" and taxonomy is not None:
            variables[name]["levels"] = list(taxonomy.levels)
            variables[name]["labels"] = [
                [path[-1] for path in taxonomy.labels(level)] for level in range(taxonomy.depth)
            ]
    with torch_threads(snakemake.threads):
        text, networks = text_graphs(parts.backbone, parts.source, parts.transformers)
    told, sizes = save_graphs(
        target,
        text,
        {Path(path).parent.name: Path(path).with_name("model.xml") for path in snakemake.input.own_encoders},
        stages(list(kinds), kinds, reads.__getitem__),
        parts.heads,
        parts.grus,
    )
    io.write_json(
        snakemake.output.plan,
        {
            "variables": variables,
            "answers": [column for head in parts.heads.values() for column in head.answers],
            "columns": list(COLUMNS),
            "text": {"encoder": settings["encoder"], "networks": networks},
            "encoders": settings["encoders"],
            "stages": told,
            "bytes": sizes,
        },
    )
    return [target / name for name in sizes]


if __name__ == "__main__":
    job.run(main, snakemake)
