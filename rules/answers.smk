# What a variable, or its transformer, answers for every item: for those who come after it.


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
        corpus=f"{RESULTS}/corpus/items.parquet",
        split_items=f"{RESULTS}/splits/items.parquet",
        lexical=f"{RESULTS}/features/lexical.parquet",
        cues=f"{RESULTS}/features/inhibition.parquet",
        features=expand(f"{RESULTS}/features/folds/final/{{split}}.parquet", split=["val", "test"]),
        encoder=f"{RESULTS}/encoder/{SETTINGS.transformer.encoder}/encoder.json",
        taxonomy=TAXONOMY,
        predictions=expand(f"{RESULTS}/oof/{{{{variable}}}}/{{base}}.npy", base=PATH_BASES),
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
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=4000,
    params:
        states=STATES,
    message:
        "Answering {wildcards.variable} for every item"
    script:
        "../workflow_scripts/answers.py"


rule answers_transformer:
    input:
        **TRANSFORMER,
        predictions=f"{RESULTS}/oof/{{variable}}/transformer.npy",
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
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=4000,
    params:
        states=STATES,
    message:
        "Answering {wildcards.variable} for every item by the transformer"
    script:
        "../workflow_scripts/answers_transformer.py"
