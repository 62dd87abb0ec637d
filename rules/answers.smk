# What a variable, or its transformer, answers for every item: for those who come after it.


# The trees of a scale, and their blender.
ENSEMBLE = {
    "models": expand(f"{RESULTS}/models/{{{{variable}}}}/{{base}}/model.txt", base=TREES),
    "blender": f"{RESULTS}/blend/{{variable}}/model.txt",
}

# The trained parts of a hierarchy variable.
PATH_ENSEMBLE = {
    "models": expand(f"{RESULTS}/models/{{{{variable}}}}/{{base}}/model.txt", base=PATH_TREES),
    "models_meta": expand(f"{RESULTS}/models/{{{{variable}}}}/{{base}}/model.json", base=PATH_TREES),
    "transformer": f"{RESULTS}/models/{{variable}}/transformer/model.safetensors",
    "transformer_meta": f"{RESULTS}/models/{{variable}}/transformer/model.json",
    "blender": f"{RESULTS}/blend/{{variable}}/model.txt",
}


rule answers:
    input:
        **PATH_ENSEMBLE,
        **items("text", "language", "length_bucket"),
        split_items=f"{RESULTS}/splits/items.parquet",
        lexical=f"{RESULTS}/features/lexical.parquet",
        cues=f"{RESULTS}/features/inhibition.parquet",
        features=expand(f"{RESULTS}/features/folds/final/{{split}}.parquet", split=["val", "test"]),
        encoder=f"{RESULTS}/encoder/{SETTINGS.transformer.encoder}/encoder.json",
        taxonomy=TAXONOMY,
        predictions=oof_of(".npy"),
        weights=f"{RESULTS}/blend/{{variable}}/weights.npy",
        settings=settings("path_models/transformer"),
        code=code("answers"),
    output:
        # Rows as in splits/items.parquet, columns the labels of all levels; train out of fold.
        lx=f"{RESULTS}/answers/{{variable}}/lx.npy",
        eb=f"{RESULTS}/answers/{{variable}}/eb.npy",
        transformer=f"{RESULTS}/answers/{{variable}}/transformer.npy",
        blend=f"{RESULTS}/answers/{{variable}}/blend.npy",
        upstream=f"{RESULTS}/answers/{{variable}}/upstream.parquet",
    log:
        f"{RESULTS}/logs/answers/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/answers/{{variable}}.tsv"
    wildcard_constraints:
        variable=one_of(HIERARCHIES),
    group:
        "answers_{variable}"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(3000),
        runtime=minutes(30),
    message:
        "Answering {wildcards.variable} for every item"
    script:
        "../workflow_scripts/answers.py"


rule answers_transformer:
    input:
        **TRANSFORMER,
        **items("text"),
        transformer=f"{RESULTS}/models/{{variable}}/transformer/model.safetensors",
        transformer_meta=f"{RESULTS}/models/{{variable}}/transformer/model.json",
        settings=settings("models/transformer"),
        code=code("answers_transformer"),
    output:
        answers=f"{RESULTS}/answers/{{variable}}/transformer.parquet",
    log:
        f"{RESULTS}/logs/answers/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/answers/{{variable}}.tsv"
    wildcard_constraints:
        variable=one_of(REGRESSIONS),
    group:
        "answers_{variable}"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(3000),
        runtime=minutes(30),
    message:
        "Answering {wildcards.variable} by the transformer"
    script:
        "../workflow_scripts/answers_transformer.py"


rule answers_sequence:
    input:
        **SEQUENCE,
        # Train is history: a published split can leave an owner's earlier items there.
        features=expand(f"{RESULTS}/features/folds/final/{{split}}.parquet", split=["train", "val", "test"]),
        model=f"{RESULTS}/models/{{variable}}/gru/model.safetensors",
        meta=f"{RESULTS}/models/{{variable}}/gru/model.json",
        text_alone=f"{RESULTS}/models/{{variable}}/text_alone/model.safetensors",
        text_alone_meta=f"{RESULTS}/models/{{variable}}/text_alone/model.json",
        code=code("answers_sequence"),
    output:
        answers=f"{RESULTS}/answers/{{variable}}/gru.parquet",
    log:
        f"{RESULTS}/logs/answers/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/answers/{{variable}}.tsv"
    wildcard_constraints:
        variable=one_of(SEQUENCES),
    group:
        "answers_{variable}"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1500),
        runtime=minutes(15),
    message:
        "Answering {wildcards.variable} by the GRU"
    script:
        "../workflow_scripts/answers_sequence.py"


rule answers_scale:
    input:
        **ENSEMBLE,
        **items("language", "length_bucket"),
        split_items=f"{RESULTS}/splits/items.parquet",
        features=expand(f"{RESULTS}/features/folds/final/{{split}}.parquet", split=["val", "test"]),
        upstream=upstream,
        network=network,
        predictions=oof_of(".npy"),
        weights=f"{RESULTS}/blend/{{variable}}/weights.npy",
        code=code("answers_scale"),
    output:
        upstream=f"{RESULTS}/answers/{{variable}}/upstream.parquet",
    log:
        f"{RESULTS}/logs/answers/{{variable}}.upstream.log",
    benchmark:
        f"{RESULTS}/benchmarks/answers/{{variable}}.upstream.tsv"
    wildcard_constraints:
        variable=one_of(SCALES),
    group:
        "answers_{variable}"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Answering {wildcards.variable} for every item"
    script:
        "../workflow_scripts/answers_scale.py"
