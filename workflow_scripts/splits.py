"""Assign owners to splits and folds, and extend the ledger that remembers them."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from perceive import io, job
from perceive.corpus.reader import corpus_taxonomy, read_annotations
from perceive.corpus.settings import CorpusSettings
from perceive.corpus.strata import strata_columns, strata_labels
from perceive.ledger import read_boundary, read_ledger, update_ledger
from perceive.splits import assign_owners, owner_profile, purged, split_items, stratify, time_boundary
from perceive.state import record_ledger


def main(snakemake: Snakemake) -> None:
    settings = io.read_json(snakemake.input.settings)
    salt, ledger = settings["salt"], settings["ledger"]
    dealt = {"shares": [settings[name] for name in ("train", "val", "test")], "n_folds": settings["folds"]}
    rules = {"published": settings["published"], "allow_owner_overlap": settings["allow_owner_overlap"]}
    corpus = CorpusSettings.model_validate(io.read_json(snakemake.input.ingest))
    here = Path.cwd()
    items = io.read_items(snakemake.input.columns).merge(
        strata_columns(read_annotations(corpus, here)), on="item_id", validate="one_to_one"
    )
    labels = strata_labels(read_annotations(corpus, here), corpus_taxonomy(corpus, here))
    previous = read_ledger(ledger, salt, **dealt)
    held = read_boundary(ledger, settings["boundary"])
    boundary = None
    if settings["mode"] == "grouped_temporal":
        boundary = time_boundary(items, settings["train"], configured=settings["boundary"], held=held)
    owners = assign_owners(items, labels, previous, salt=salt, seed=settings["seed"], **dealt, **rules)
    assigned = split_items(
        items,
        owners,
        boundary=boundary,
        embargo_days=settings["embargo_days"],
        **settings["near_duplicates"],
        **rules,
    )
    # The ledger first: an assignment that it does not hold must not be used anywhere.
    update_ledger(ledger, owners, salt, boundary=boundary, **dealt)
    io.write_parquet(snakemake.output.previous, previous)
    io.write_parquet(snakemake.output.owners, owners)
    io.write_parquet(snakemake.output.assigned, assigned)
    with io.atomic_path(snakemake.output.purged) as temporary:
        purged(assigned, items, owners).to_csv(temporary, index=False)
    report = stratify(owner_profile(items, labels))[1]
    counts = {
        "owners": owners["split"].value_counts(),
        "items": assigned["split"].value_counts(),
        "excluded": assigned["reason"].value_counts(),
        "fold_items": assigned["fold"].value_counts().sort_index(),
    }
    summary = {name: {str(key): int(value) for key, value in part.items()} for name, part in counts.items()}
    summary |= {
        "mode": settings["mode"],
        "boundary": None if boundary is None else boundary.isoformat(),
        "boundary_in_ledger_before": None if held is None else held.isoformat(),
        "strata": report,
        "owners_in_ledger_before": len(previous),
    }
    io.write_json(snakemake.output.summary, summary)
    record_ledger(Path(ledger), Path(snakemake.input.ledger), Path(snakemake.output.ledger))


if __name__ == "__main__":
    job.run(main, snakemake)
