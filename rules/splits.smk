# Who trains, who calibrates, who tests: by owner, and for good.


# Times matter where the split has a boundary in time.
SPLIT_BY = [
    "owner_id",
    "text",
    "split",
    *(["timestamp"] if SETTINGS.splits.mode == "grouped_temporal" else []),
]


rule splits:
    input:
        **items(*SPLIT_BY),
        # Languages, categories and labels enter the strata only when an owner is first assigned, and a new
        # owner changes every column. They are read from the annotations themselves, so that a correction of
        # theirs is no reason to split again.
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
        **items(*SPLIT_BY),
        owners=f"{RESULTS}/splits/owners.parquet",
        split_items=f"{RESULTS}/splits/items.parquet",
        previous=f"{RESULTS}/splits/previous.parquet",
        purged=f"{RESULTS}/splits/purged.csv",
        summary=f"{RESULTS}/splits/summary.json",
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
        "Searching the splits for leaks"
    script:
        "../workflow_scripts/audit_splits.py"


rule audit_timelines:
    input:
        **items("owner_id", "timestamp"),
        lexical=f"{RESULTS}/features/lexical.parquet",
        temporal=f"{RESULTS}/features/temporal.parquet",
        settings=settings("splits"),
        code=code("audit_timelines"),
    output:
        audit=f"{RESULTS}/features/timelines.audit.json",
    log:
        f"{RESULTS}/logs/audit_timelines.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit_timelines.tsv"
    group:
        "features"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Searching the timelines for leaks"
    script:
        "../workflow_scripts/audit_timelines.py"
