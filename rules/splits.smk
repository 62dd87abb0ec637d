# Who trains, who calibrates, who tests: by owner, and for good.


rule splits:
    input:
        # Languages, categories and labels enter the strata only when an owner is first assigned, and a new
        # owner changes every column: a correction of theirs is no reason to split again. Therefore the
        # labels are read from the annotations themselves.
        **items(
            "owner_id",
            "text",
            "split",
            *(["timestamp"] if SETTINGS.splits.mode == "grouped_temporal" else []),
        ),
        annotations=ANNOTATIONS,
        ingest=settings("ingest"),
        ledger=data("ledger"),
        settings=settings("splits"),
        code=code("splits"),
    output:
        owners=f"{RESULTS}/splits/owners.parquet",
        assigned=f"{RESULTS}/splits/items.parquet",
        summary=f"{RESULTS}/splits/summary.json",
        previous=f"{RESULTS}/splits/previous.parquet",
        # Items that the boundary in time takes out (mode grouped_temporal), with the reason.
        purged=f"{RESULTS}/splits/purged.csv",
        # What the ledger held when this rule left it: an edit by hand is told from the rule's own.
        ledger=f"{RESULTS}/splits/ledger.sha256",
    log:
        f"{RESULTS}/logs/splits.log",
    benchmark:
        f"{RESULTS}/benchmarks/splits.tsv"
    group:
        "features"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Assigning owners to splits and folds"
    script:
        "../workflow_scripts/splits.py"


rule audit_splits:
    input:
        **items("owner_id", "text", "timestamp", "split"),
        owners=f"{RESULTS}/splits/owners.parquet",
        split_items=f"{RESULTS}/splits/items.parquet",
        previous=f"{RESULTS}/splits/previous.parquet",
        purged=f"{RESULTS}/splits/purged.csv",
        summary=f"{RESULTS}/splits/summary.json",
        lexical=f"{RESULTS}/features/lexical.parquet",
        temporal=f"{RESULTS}/features/temporal.parquet",
        settings=settings("splits"),
        code=code("audit_splits"),
    output:
        audit=f"{RESULTS}/splits/audit.json",
    log:
        f"{RESULTS}/logs/audit_splits.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit_splits.tsv"
    group:
        "features"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Searching the splits and timelines for leaks"
    script:
        "../workflow_scripts/audit_splits.py"
