"""Convert the sentence encoder of one language to OpenVINO."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.encoder import check_weights, convert, resolve_model


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)[snakemake.wildcards.language]
    folder = resolve_model(settings["model"])
    weights = check_weights(folder, settings["sha256"])
    convert(
        folder, Path(snakemake.output.model).parent, max_tokens=settings["max_tokens"], weights_sha256=weights
    )


if __name__ == "__main__":
    job.run(main, snakemake)
