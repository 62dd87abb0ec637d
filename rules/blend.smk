# The meta-blender: weights of the base models that depend on the context and sum to one.


rule blend:
    input:
        corpus=f"{RESULTS}/corpus/items.parquet",
        split_items=f"{RESULTS}/splits/items.parquet",
        lexical=f"{RESULTS}/features/lexical.parquet",
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        predictions=expand(f"{RESULTS}/oof/{{{{variable}}}}/{{base}}.npy", base=BASES),
        # A leak fails the build here, before the blender trusts a prediction that is not out of fold.
        audit=f"{RESULTS}/oof/{{variable}}/audit.json",
        settings=settings("blend"),
        code=code("blend"),
    output:
        model=f"{RESULTS}/blend/{{variable}}/model.txt",
        meta=f"{RESULTS}/blend/{{variable}}/blend.json",
    log:
        f"{RESULTS}/logs/blend/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/blend/{{variable}}.tsv"
    conda:
        "../envs/environment.yaml"
    message:
        "Blending the base models of {wildcards.variable}"
    script:
        "../workflow_scripts/blend.py"
