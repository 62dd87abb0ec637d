"""Put the bundle together, prove it, and write its manifest."""

import shutil
from importlib.metadata import version
from pathlib import Path

from safetensors.numpy import load_file
from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.evaluation.gates import read_acceptance
from perceive.export import PRECISIONS
from perceive.export.graph import EXACT_CONFIG
from perceive.features.anchors import load_anchors
from perceive.features.matrix import Projection
from perceive.serving.build import (
    Proof,
    compile_options,
    lay_out,
    quantize_fully,
    records,
    write_repository,
)
from perceive.serving.bundle import Bundle, write_manifest

SERVING = ("openvino", "tokenizers", "numpy", "emoji", "pydantic", "pyarrow")
"""Libraries that a bundle is read with; the manifest names the versions it was proven with."""
REPOSITORY = Path(__file__).resolve().parent.parent


def main(snakemake: Snakemake) -> list[Path]:
    settings = io.read_json(snakemake.input.settings)
    plan = io.read_json(snakemake.input.plan)
    items = io.read_parquet(snakemake.input.corpus)
    split = io.read_parquet(snakemake.input.split_items, ["split"])["split"]
    target = Path(snakemake.output.manifest).parent
    folder = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    licensed = lay_out(
        folder,
        graphs=Path(snakemake.input.plan).parent,
        encoders={Path(path).parent.name: Path(path).parent for path in snakemake.input.encoders},
        lexicons=REPOSITORY / "resources" / "lexicons",
        licensed={name: Path(path) for name, path in settings["licensed_lexicons"].items()},
        anchors=load_anchors(REPOSITORY / "resources" / "anchors.tsv"),
        projection=Projection.from_tensors(load_file(snakemake.input.projection)),
        taxonomy=Path(snakemake.input.taxonomy) if snakemake.input.taxonomy else None,
        cache=Path(snakemake.params.cache),
    )
    gates = read_acceptance(Path(snakemake.input.verdicts))
    content = {
        "corpus": {
            "name": settings["corpus"],
            "items": len(items),
            "sha256": io.file_sha256(snakemake.input.corpus),
            "until": items["timestamp"].max().isoformat(),
            **settings["source"],
        },
        "accepted": {
            name: "accepted" if (of_one["verdict"] == "pass").all() else "pending"
            for name, of_one in gates.groupby("variable")
        },
        "gates": [
            {key: row[key] for key in ("variable", "gate", "verdict")} for row in gates.to_dict("records")
        ],
        "versions": {name: version(name) for name in SERVING},
        "precision": {"available": list(PRECISIONS), "default": "fp32"},
        "compile": {"default": EXACT_CONFIG},
        "input": {"annotations": ["reflections.jsonl"], **settings["input"]},
        "licensed_lexicons": licensed,
        **{
            key: plan[key]
            for key in ("variables", "answers", "columns", "text", "encoders", "stages", "bytes")
        },
    }
    write_manifest(folder, content)
    proof = Proof(
        items,
        split,
        {Path(path).parent.name: io.read_parquet(path) for path in snakemake.input.predictions},
        [name for stage in plan["stages"] for name in stage["grus"]],
        exact_rmse=settings["parity_rmse"],
        small_rmse=settings["compressed_parity_rmse"],
    )
    known = {"fp32": proof.of(Bundle.open(folder, "fp32"), "exact")}
    if settings["full_quantization"]:
        train = items[split == "train"]
        sample = train.sample(min(len(train), settings["calibration_texts"]), random_state=settings["seed"])
        known |= quantize_fully(folder, content, proof, records(sample))
    parity = proof.of_all(folder, known)
    chosen = settings["precision"]
    content["precision"]["default"] = parity["smallest"] if chosen == "auto" else chosen
    content["compile"] = compile_options(plan["bytes"], parity)
    write_repository(folder, content["compile"])
    write_manifest(folder, {**content, "parity": parity})
    io.write_json(snakemake.output.parity, parity)
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    return [target]


if __name__ == "__main__":
    job.run(main, snakemake)
