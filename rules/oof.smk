# Out-of-fold predictions of the base models, and the proof that they are.


rule oof:
    input:
        split_items=f"{RESULTS}/splits/items.parquet",
        train=expand(f"{RESULTS}/features/folds/{{fold}}/train.parquet", fold=FOLDS),
        val=expand(f"{RESULTS}/features/folds/{{fold}}/val.parquet", fold=FOLDS),
        upstream=upstream,
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
    wildcard_constraints:
        variable=one_of(SCALES),
        base=one_of(TREES),
    group:
        trees_group
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1500),
        runtime=minutes(15),
    message:
        "Predicting {wildcards.variable} out of fold by {wildcards.base}"
    script:
        "../workflow_scripts/oof.py"


rule oof_paths:
    input:
        split_items=f"{RESULTS}/splits/items.parquet",
        train=expand(f"{RESULTS}/features/folds/{{fold}}/train.parquet", fold=FOLDS),
        val=expand(f"{RESULTS}/features/folds/{{fold}}/val.parquet", fold=FOLDS),
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        taxonomy=TAXONOMY,
        settings=settings("path_models/{base}"),
        code=code("oof_paths"),
    output:
        predictions=f"{RESULTS}/oof/{{variable}}/{{base}}.npy",
        records=f"{RESULTS}/oof/{{variable}}/{{base}}.records.parquet",
        trained_on=f"{RESULTS}/oof/{{variable}}/{{base}}.trained_on.parquet",
    log:
        f"{RESULTS}/logs/oof/{{variable}}/{{base}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/oof/{{variable}}/{{base}}.tsv"
    wildcard_constraints:
        variable=one_of(HIERARCHIES),
        base=one_of(PATH_TREES),
    group:
        trees_group
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1500),
        runtime=minutes(15),
    message:
        "Predicting {wildcards.variable} out of fold by {wildcards.base}"
    script:
        "../workflow_scripts/oof_paths.py"


rule oof_transformer:
    input:
        **TRANSFORMER,
        **items("text"),
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        tuned=transformer_tuned,
        settings=transformer_settings,
        code=code("oof_transformer"),
    output:
        predictions=f"{RESULTS}/oof/{{variable}}/transformer.npy",
        records=f"{RESULTS}/oof/{{variable}}/transformer.records.parquet",
        trained_on=f"{RESULTS}/oof/{{variable}}/transformer.trained_on.parquet",
    log:
        f"{RESULTS}/logs/oof/{{variable}}/transformer.log",
    benchmark:
        f"{RESULTS}/benchmarks/oof/{{variable}}/transformer.tsv"
    wildcard_constraints:
        variable=one_of([*REGRESSIONS, *HIERARCHIES]),
    priority: 10
    conda:
        "../envs/environment.yaml"
    threads: SHARE
    resources:
        mem_mb=memory(6000),
        runtime=minutes(240),
    params:
        **TOKEN_STATES,
    message:
        "Predicting {wildcards.variable} out of fold by the transformer"
    script:
        "../workflow_scripts/oof_transformer.py"


rule oof_sequence:
    input:
        **SEQUENCE,
        split_items=f"{RESULTS}/splits/items.parquet",
        train=expand(f"{RESULTS}/features/folds/{{fold}}/train.parquet", fold=FOLDS),
        val=expand(f"{RESULTS}/features/folds/{{fold}}/val.parquet", fold=FOLDS),
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        tuned=f"{RESULTS}/tuning/{{variable}}/best.json",
        settings=settings("sequence_models/gru"),
        code=code("oof_sequence"),
    output:
        predictions=f"{RESULTS}/oof/{{variable}}/gru.npy",
        records=f"{RESULTS}/oof/{{variable}}/gru.records.parquet",
        trained_on=f"{RESULTS}/oof/{{variable}}/gru.trained_on.parquet",
    log:
        f"{RESULTS}/logs/oof/{{variable}}/gru.log",
    benchmark:
        f"{RESULTS}/benchmarks/oof/{{variable}}/gru.tsv"
    wildcard_constraints:
        variable=one_of(SEQUENCES),
    group:
        "tuned_{variable}"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=minutes(60),
    message:
        "Predicting {wildcards.variable} out of fold by the GRU"
    script:
        "../workflow_scripts/oof_sequence.py"


rule audit_oof:
    input:
        **items("owner_id", "text"),
        split_items=f"{RESULTS}/splits/items.parquet",
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        features=expand(f"{RESULTS}/features/folds/final/{{split}}.parquet", split=["train", "val", "test"]),
        fold_features=expand(
            f"{RESULTS}/features/folds/{{fold}}/{{part}}.parquet", fold=FOLDS, part=["train", "val"]
        ),
        settings=settings("splits"),
        records=oof_of(".records.parquet"),
        trained_on=oof_of(".trained_on.parquet"),
        upstream=upstream,
        upstream_oof=lambda wildcards: [
            path for read in SETTINGS.reads(wildcards.variable) for path in oof_arrays(read)
        ],
        upstream_weights=lambda wildcards: expand(
            f"{RESULTS}/blend/{{read}}/weights.npy", read=SETTINGS.reads(wildcards.variable)
        ),
        code=code("audit_oof"),
    output:
        audit=f"{RESULTS}/oof/{{variable}}/audit.json",
    log:
        f"{RESULTS}/logs/audit_oof/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit_oof/{{variable}}.tsv"
    group:
        "answers_{variable}"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Searching the models of {wildcards.variable} for leaks"
    script:
        "../workflow_scripts/audit_oof.py"
