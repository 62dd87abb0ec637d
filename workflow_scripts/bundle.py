"""What is deployed: the assembly, with the verdicts of the gates."""

import os
import shutil
from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.evaluation.gates import read_acceptance
from perceive.serving.bundle import MANIFEST, write_manifest


def main(snakemake: Snakemake) -> list[Path]:
    assembly = Path(snakemake.input.assembly).parent
    target = Path(snakemake.output.manifest).parent
    content = io.read_json(snakemake.input.assembly)
    gates = read_acceptance(Path(snakemake.input.verdicts))
    content["accepted"] = {
        name: "accepted" if (of_one["verdict"] == "pass").all() else "pending"
        for name, of_one in gates.groupby("variable")
    }
    content["gates"] = [
        {key: row[key] for key in ("variable", "gate", "verdict")} for row in gates.to_dict("records")
    ]
    content["corpus"]["sha256"] = io.file_sha256(snakemake.input.corpus)
    folder = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    # The graphs are large, and nobody changes them in place.
    shutil.copytree(assembly, folder, copy_function=os.link, ignore=shutil.ignore_patterns(MANIFEST))
    written = ("bundle", "files", "format")
    write_manifest(folder, {key: value for key, value in content.items() if key not in written})
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    return [target]


if __name__ == "__main__":
    job.run(main, snakemake)
