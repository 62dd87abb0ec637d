# The meta-blender: weights of the base models that depend on the context and sum to one.


rule blend:
    input:
        **items("language", "length_bucket"),
        split_items=f"{RESULTS}/splits/items.parquet",
        lexical=f"{RESULTS}/features/lexical.parquet",
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        predictions=oof_of(".npy"),
        # A leak fails the build here, before the blender trusts a prediction that is not out of fold.
        audit=f"{RESULTS}/oof/{{variable}}/audit.json",
        settings=settings("blend"),
        code=code("blend"),
    output:
        model=f"{RESULTS}/blend/{{variable}}/model.txt",
        meta=f"{RESULTS}/blend/{{variable}}/blend.json",
        # Of the training rows, each by a blender that did not see its fold.
        weights=f"{RESULTS}/blend/{{variable}}/weights.npy",
    log:
        f"{RESULTS}/logs/blend/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/blend/{{variable}}.tsv"
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
        "Blending the base models of {wildcards.variable}"
    script:
        "../workflow_scripts/blend.py"


rule blend_paths:
    input:
        **items("language", "length_bucket"),
        split_items=f"{RESULTS}/splits/items.parquet",
        lexical=f"{RESULTS}/features/lexical.parquet",
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        taxonomy=TAXONOMY,
        predictions=oof_of(".npy"),
        audit=f"{RESULTS}/oof/{{variable}}/audit.json",
        settings=settings("blend"),
        code=code("blend_paths"),
    output:
        model=f"{RESULTS}/blend/{{variable}}/model.txt",
        meta=f"{RESULTS}/blend/{{variable}}/blend.json",
        # Of the training rows, each by a blender that did not see its fold.
        weights=f"{RESULTS}/blend/{{variable}}/weights.npy",
    log:
        f"{RESULTS}/logs/blend/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/blend/{{variable}}.tsv"
    wildcard_constraints:
        variable=one_of(HIERARCHIES),
    group:
        "answers_{variable}"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Blending the base models of {wildcards.variable}"
    script:
        "../workflow_scripts/blend_paths.py"
