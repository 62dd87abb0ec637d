# The base models that serve: trained on the whole training part.


rule models:
    input:
        features=f"{RESULTS}/features/folds/final/train.parquet",
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
    conda:
        "../envs/environment.yaml"
    message:
        "Training {wildcards.base} of {wildcards.variable}"
    script:
        "../workflow_scripts/models.py"
