"""Draw the corpus: counts, labels, moods in time, agreement, invoked and expressed."""

import json
from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.corpus import portrait
from perceive.corpus.reader import read_annotations
from perceive.corpus.settings import CorpusSettings


def main(snakemake: Snakemake) -> None:
    corpus = CorpusSettings.model_validate(io.read_json(snakemake.input.ingest))
    gathered = portrait.gather(read_annotations(corpus, Path.cwd()))
    truth: dict[str, list[tuple[int, float]]] = {owner: [] for owner in gathered.longest()}
    # Only a generated corpus knows the truth.
    for path in snakemake.input.truth:
        with open(path, encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                if record["owner_id"] in truth:
                    truth[record["owner_id"]].append((record["timestamp"], record["mood"]))
    path = {Path(name).stem: name for name in snakemake.output.plots}
    portrait.counts_plot(path["counts"], gathered)
    portrait.labels_plot(path["labels"], gathered)
    portrait.moods_plot(path["moods"], gathered, io.read_json(snakemake.input.settings)["salt"], truth)
    portrait.pairs_plot(path["invoked_expressed"], gathered)
    portrait.agreement_plot(path["agreement"], io.read_json(snakemake.input.agreement)["variables"])


if __name__ == "__main__":
    job.run(main, snakemake)
