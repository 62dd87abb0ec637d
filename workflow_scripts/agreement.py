"""Measure how far the annotators agree on one variable, and what a perfect model could reach."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.corpus.agreement import items_for_review, measure_agreement
from perceive.corpus.ingest import rating_frames
from perceive.corpus.settings import CorpusSettings
from perceive.variables import VARIABLES


def main(snakemake: Snakemake) -> None:
    variable = VARIABLES[snakemake.wildcards.variable]
    corpus = CorpusSettings.model_validate(io.read_json(snakemake.input.ingest))
    settings = io.read_json(snakemake.input.settings)
    ratings, items, labels = rating_frames(corpus, Path.cwd(), variable.name)
    derived = corpus.derived.get(variable.name)  # type: ignore[call-overload]
    of = (variable.name, variable.kind, ratings, items, labels)
    measured = measure_agreement(
        *of,
        required_kappa=settings["kappa"],
        bias_corrected=corpus.aggregation.bias_correction,
        formula=derived.formula if derived else None,
        seed=settings["seed"],
    )
    review = items_for_review(
        *of, review_spread=settings["review_spread"], min_raters_high_risk=settings["review_min_raters"]
    )
    io.write_json(snakemake.output.agreement, measured)
    with io.atomic_path(snakemake.output.review) as temporary:
        review.assign(variable=variable.name).to_csv(temporary, index=False)


if __name__ == "__main__":
    job.run(main, snakemake)
