# Out-of-fold predictions of the base models, and the proof that they are.


rule oof:
    input:
        split_items=f"{RESULTS}/splits/items.parquet",
        train=expand(f"{RESULTS}/features/folds/{{fold}}/train.parquet", fold=FOLDS),
        val=expand(f"{RESULTS}/features/folds/{{fold}}/val.parquet", fold=FOLDS),
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        tuned=tuned,
        settings=base_settings,
        code=code("oof"),
    output:
        predictions=f"{RESULTS}/oof/{{variable}}/{{base}}.npy",
        records=f"{RESULTS}/oof/{{variable}}/{{base}}.records.parquet",
        trained_on=f"{RESULTS}/oof/{{variable}}/{{base}}.trained_on.parquet",
    log:
        f"{RESULTS}/logs/oof/{{variable}}/{{base}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/oof/{{variable}}/{{base}}.tsv"
    conda:
        "../envs/environment.yaml"
    message:
        "Predicting {wildcards.variable} out of fold by {wildcards.base}"
    script:
        "../workflow_scripts/oof.py"


rule audit_oof:
    input:
        corpus=f"{RESULTS}/corpus/items.parquet",
        split_items=f"{RESULTS}/splits/items.parquet",
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        features=expand(f"{RESULTS}/features/folds/final/{{split}}.parquet", split=["train", "val", "test"]),
        fold_features=expand(
            f"{RESULTS}/features/folds/{{fold}}/{{part}}.parquet", fold=FOLDS, part=["train", "val"]
        ),
        settings=settings("splits"),
        records=expand(f"{RESULTS}/oof/{{{{variable}}}}/{{base}}.records.parquet", base=BASES),
        trained_on=expand(f"{RESULTS}/oof/{{{{variable}}}}/{{base}}.trained_on.parquet", base=BASES),
        code=code("audit_oof"),
    output:
        audit=f"{RESULTS}/oof/{{variable}}/audit.json",
    log:
        f"{RESULTS}/logs/audit_oof/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit_oof/{{variable}}.tsv"
    conda:
        "../envs/environment.yaml"
    message:
        "Searching the models of {wildcards.variable} for leaks"
    script:
        "../workflow_scripts/audit_oof.py"
