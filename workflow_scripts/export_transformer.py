"""Export one scale's transformer to OpenVINO, and prove that it answers as the model does."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.encoder import TextTokenizer, resolve_model
from perceive.export.path_report import export_regressor
from perceive.transformer.backbone import load_backbone
from perceive.transformer.inputs import extra_inputs
from perceive.transformer.model import load


def main(snakemake: Snakemake) -> None:
    variable = snakemake.wildcards.variable
    settings = io.read_json(snakemake.input.settings)
    backbone = load_backbone(resolve_model(io.read_json(snakemake.input.backbone)["backbone"]["model"]))
    # Measured on val: the test split is for the evaluation alone.
    ids = io.read_parquet(snakemake.input.features, ["item_id"])["item_id"]
    texts = io.read_items(snakemake.input.columns).set_index("item_id").loc[ids, "text"]
    frames = map(io.read_parquet, (snakemake.input.lexical, snakemake.input.cues))
    proof = export_regressor(
        variable,
        load(Path(snakemake.input.transformer).parent, backbone),
        backbone,
        TextTokenizer(Path(snakemake.input.encoder).parent),
        texts.tolist(),
        extra_inputs(variable, ids, *frames),
        Path(snakemake.output.parity).parent,
        settings,
        threads=snakemake.threads,
    )
    io.write_json(snakemake.output.parity, proof)


if __name__ == "__main__":
    job.run(main, snakemake)
