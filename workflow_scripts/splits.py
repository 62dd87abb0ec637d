"""Assign owners to splits and folds, and extend the ledger that remembers them."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.corpus.reader import read_annotations
from perceive.corpus.settings import CorpusSettings
from perceive.corpus.strata import strata_labels
from perceive.ledger import read_ledger, update_ledger
from perceive.splits import assign_owners, owner_profile, split_items, stratify
from perceive.state import record_ledger


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    salt, ledger = settings["salt"], settings["ledger"]
    dealt = {"shares": [settings[name] for name in ("train", "val", "test")], "n_folds": settings["folds"]}
    rules = {"published": settings["published"], "allow_owner_overlap": settings["allow_owner_overlap"]}
    items = io.read_parquet(snakemake.input.corpus)
    corpus = CorpusSettings.model_validate(io.read_json(snakemake.input.ingest))
    labels = strata_labels(read_annotations(corpus, Path.cwd()))
    previous = read_ledger(ledger, salt, **dealt)
    owners = assign_owners(items, labels, previous, salt=salt, seed=settings["seed"], **dealt, **rules)
    assigned = split_items(items, owners, salt=salt, **rules)
    # The ledger first: an assignment that it does not hold must not be used anywhere.
    update_ledger(ledger, owners, salt, **dealt)
    io.write_parquet(snakemake.output.previous, previous)
    io.write_parquet(snakemake.output.owners, owners)
    io.write_parquet(snakemake.output.assigned, assigned)
    report = stratify(owner_profile(items, labels))[1]
    counts = {
        "owners": owners["split"].value_counts(),
        "items": assigned["split"].value_counts(),
        "excluded": assigned["reason"].value_counts(),
        "fold_items": assigned["fold"].value_counts().sort_index(),
    }
    summary = {name: {str(key): int(value) for key, value in part.items()} for name, part in counts.items()}
    io.write_json(
        snakemake.output.summary, {**summary, "strata": report, "owners_in_ledger_before": len(previous)}
    )
    record_ledger(Path(ledger), Path(snakemake.input.ledger), Path(snakemake.output.ledger))


if __name__ == "__main__":
    job.run(main, snakemake)
