"""The graphs that a bundle serves, in three precisions."""

from pathlib import Path

import lightgbm as lgb
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.answers import upstream_columns
from perceive.calibration import Calibrator
from perceive.classifiers import read_trees
from perceive.encoder import check_weights, resolve_model
from perceive.ensemble import RegressionEnsemble
from perceive.export.heads import Head
from perceive.export.serving import COLUMNS, save_graphs, text_graphs
from perceive.features.matrix import BASE_FEATURES, PATH_BASES
from perceive.features.path_store import path_columns
from perceive.hierarchy_calibration import HierarchyCalibrator
from perceive.path_ensemble import PathEnsemble
from perceive.sequence.model import load as load_gru
from perceive.serving.plan import stages
from perceive.taxonomy import load_taxonomy
from perceive.torch_runs import torch_threads
from perceive.transformer.backbone import load_backbone
from perceive.transformer.model import Hierarchy
from perceive.transformer.model import load as load_transformer


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    kinds, reads = settings["kinds"], settings["reads"]
    taxonomy = load_taxonomy(snakemake.input.taxonomy) if snakemake.input.taxonomy else None
    results = Path(snakemake.output.plan).parent.parent
    source = resolve_model(settings["backbone"]["model"])
    check_weights(source, settings["backbone"]["sha256"])
    backbone = load_backbone(source)
    heads, transformers, grus, variables = {}, {}, {}, {}
    for name, kind in kinds.items():
        calibrator = io.read_json(results / "calibration" / name / "calibrator.json")
        blender = results / "blend" / name / "model.txt"
        folder = results / "models" / name
        bases = [
            folder / base / "model.txt"
            for base in (PATH_BASES[:-1] if kind == "hierarchy" else BASE_FEATURES)
        ]
        about = {"kind": kind}
        if kind == "hierarchy":
            hierarchy = Hierarchy.of(taxonomy)
            columns = path_columns(name)
            ensemble = PathEnsemble(
                [read_trees(path, columns) for path in bases],
                lgb.Booster(model_file=str(blender)),
                HierarchyCalibrator.from_dict(calibrator),
                hierarchy,
            )
            answers = upstream_columns(name, taxonomy)
            about["levels"] = list(taxonomy.levels)
            about["labels"] = [[path[-1] for path in taxonomy.labels(n)] for n in range(taxonomy.depth)]
        else:
            network = "gru" if kind == "sequence" else "transformer"
            ensemble = RegressionEnsemble.load(bases, blender, Calibrator.from_dict(calibrator), network)
            columns, answers = ensemble.columns, [f"{name}_answer"]
        read = any(name in of_one for of_one in reads.values())
        heads[name] = Head(name, ensemble, tuple(columns), tuple(answers) if read else ())
        variables[name] = {**about, "answers": list(heads[name].answers)}
        if kind == "sequence":
            grus[name] = load_gru(folder / "gru")
        else:
            transformers[name] = load_transformer(folder / "transformer", backbone)
    with torch_threads(snakemake.threads):
        text, networks = text_graphs(backbone, source, transformers)
    told, sizes = save_graphs(
        Path(snakemake.output.plan).parent,
        text,
        {Path(path).parent.name: Path(path).with_name("model.xml") for path in snakemake.input.own_encoders},
        stages(list(kinds), kinds, reads.__getitem__),
        heads,
        grus,
    )
    io.write_json(
        snakemake.output.plan,
        {
            "variables": variables,
            "answers": [column for head in heads.values() for column in head.answers],
            "columns": list(COLUMNS),
            "text": {"encoder": settings["encoder"], "networks": networks},
            "encoders": settings["encoders"],
            "stages": told,
            "bytes": sizes,
        },
    )


if __name__ == "__main__":
    job.run(main, snakemake)
