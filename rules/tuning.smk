# The search for the full-feature model's hyperparameters.


rule tuning:
    input:
        train=expand(f"{RESULTS}/features/folds/{{fold}}/train.parquet", fold=FOLDS),
        val=expand(f"{RESULTS}/features/folds/{{fold}}/val.parquet", fold=FOLDS),
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        settings=settings("tuning/{variable}"),
        code=code("tuning"),
    output:
        study=f"{RESULTS}/tuning/{{variable}}/study.journal",
        trials=f"{RESULTS}/tuning/{{variable}}/trials.csv",
        best=f"{RESULTS}/tuning/{{variable}}/best.json",
    log:
        f"{RESULTS}/logs/tuning/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tuning/{{variable}}.tsv"
    priority: 10
    conda:
        "../envs/environment.yaml"
    # One search per core; with more cores than searches, each gets its share.
    threads: max(1, (workflow.cores or 1) // len(VARIABLES))
    resources:
        mem_mb=3000,
    params:
        # The live journal is no output: Snakemake removes the outputs of a killed job, and its trials
        # are what the next call resumes.
        cache=f"{RESULTS}/cache/tuning/{{variable}}",
    message:
        "Tuning {wildcards.variable}"
    script:
        "../workflow_scripts/tuning.py"
