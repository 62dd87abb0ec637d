# The base models that serve: trained on the whole training part.


rule models:
    input:
        features=f"{RESULTS}/features/folds/final/train.parquet",
        upstream=upstream,
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        tuned=tuned,
        settings=base_settings,
        code=code("models"),
    output:
        model=f"{RESULTS}/models/{{variable}}/{{base}}/model.txt",
        meta=f"{RESULTS}/models/{{variable}}/{{base}}/model.json",
    log:
        f"{RESULTS}/logs/models/{{variable}}/{{base}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/models/{{variable}}/{{base}}.tsv"
    wildcard_constraints:
        variable=one_of(SCALES),
        base=one_of(TREES),
    group:
        trees_group
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    message:
        "Training {wildcards.base} of {wildcards.variable}"
    script:
        "../workflow_scripts/models.py"


rule models_paths:
    input:
        features=f"{RESULTS}/features/folds/final/train.parquet",
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        taxonomy=TAXONOMY,
        settings=settings("path_models/{base}"),
        code=code("models_paths"),
    output:
        model=f"{RESULTS}/models/{{variable}}/{{base}}/model.txt",
        meta=f"{RESULTS}/models/{{variable}}/{{base}}/model.json",
    log:
        f"{RESULTS}/logs/models/{{variable}}/{{base}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/models/{{variable}}/{{base}}.tsv"
    wildcard_constraints:
        variable=one_of(HIERARCHIES),
        base=one_of(PATH_TREES),
    group:
        trees_group
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    message:
        "Training {wildcards.base} of {wildcards.variable}"
    script:
        "../workflow_scripts/models_paths.py"


rule models_transformer:
    input:
        **TRANSFORMER,
        **items("text"),
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        tuned=transformer_tuned,
        settings=transformer_settings,
        code=code("models_transformer"),
    output:
        model=f"{RESULTS}/models/{{variable}}/transformer/model.safetensors",
        meta=f"{RESULTS}/models/{{variable}}/transformer/model.json",
    log:
        f"{RESULTS}/logs/models/{{variable}}/transformer.log",
    benchmark:
        f"{RESULTS}/benchmarks/models/{{variable}}/transformer.tsv"
    wildcard_constraints:
        variable=one_of([*REGRESSIONS, *HIERARCHIES]),
    priority: 10
    conda:
        "../envs/environment.yaml"
    threads: SHARE
    resources:
        mem_mb=memory(5000),
        runtime=minutes(120),
    params:
        **TOKEN_STATES,
    message:
        "Training the transformer of {wildcards.variable}"
    script:
        "../workflow_scripts/models_transformer.py"


rule models_sequence:
    input:
        **SEQUENCE,
        features=f"{RESULTS}/features/folds/final/train.parquet",
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        tuned=f"{RESULTS}/tuning/{{variable}}/best.json",
        settings=settings("sequence_models/gru"),
        code=code("models_sequence"),
    output:
        model=f"{RESULTS}/models/{{variable}}/gru/model.safetensors",
        meta=f"{RESULTS}/models/{{variable}}/gru/model.json",
        # Its twin that sees the item alone: what history adds is measured against it.
        text_alone=f"{RESULTS}/models/{{variable}}/text_alone/model.safetensors",
        text_alone_meta=f"{RESULTS}/models/{{variable}}/text_alone/model.json",
    log:
        f"{RESULTS}/logs/models/{{variable}}/gru.log",
    benchmark:
        f"{RESULTS}/benchmarks/models/{{variable}}/gru.tsv"
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
        "Training the GRU of {wildcards.variable}"
    script:
        "../workflow_scripts/models_sequence.py"
