# The search for the hyperparameters: of the full-feature model, or of the transformer.


rule tuning:
    input:
        **items("owner_id"),
        split_items=f"{RESULTS}/splits/items.parquet",
        train=expand(f"{RESULTS}/features/folds/{{fold}}/train.parquet", fold=FOLDS),
        val=expand(f"{RESULTS}/features/folds/{{fold}}/val.parquet", fold=FOLDS),
        upstream=upstream,
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        settings=settings("tuning/{variable}"),
        workers=workers,
        code=code("tuning"),
    output:
        study=f"{RESULTS}/tuning/{{variable}}/study.journal",
        trials=f"{RESULTS}/tuning/{{variable}}/trials.csv",
        best=f"{RESULTS}/tuning/{{variable}}/best.json",
    log:
        f"{RESULTS}/logs/tuning/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tuning/{{variable}}.tsv"
    wildcard_constraints:
        variable=one_of(REGRESSIONS),
    priority: 10
    group:
        "tuned_{variable}"
    conda:
        "../envs/environment.yaml"
    threads: SHARE
    resources:
        mem_mb=memory(2000),
        runtime=minutes(120),
    params:
        # The live journal is no output: Snakemake removes the outputs of a killed job, and its trials
        # are what the next call resumes.
        cache=f"{RESULTS}/cache/tuning/{{variable}}",
    message:
        "Tuning {wildcards.variable}"
    script:
        "../workflow_scripts/tuning.py"


# What every job of the transformer reads, and where its cache of token states lies (no output, so that a
# rebuild computes new texts alone).
TRANSFORMER = {
    "split_items": f"{RESULTS}/splits/items.parquet",
    # A leak fails the build before anything learns from it.
    "audit": f"{RESULTS}/splits/audit.json",
    "lexical": f"{RESULTS}/features/lexical.parquet",
    "cues": f"{RESULTS}/features/inhibition.parquet",
    "encoder": f"{RESULTS}/encoder/{SETTINGS.transformer.encoder}/encoder.json",
    # A scale has none, and another taxonomy is no reason to train it again.
    "taxonomy": lambda wildcards: TAXONOMY if wildcards.variable in HIERARCHIES else [],
}
# Token states of the frozen layers: their folder, and the cores that compute them. Other jobs wait for that, and
# lend theirs.
TOKEN_STATES = {"states": f"{RESULTS}/cache/states", "cores": CORES}


rule tuning_transformer:
    input:
        **TRANSFORMER,
        **items("owner_id", "text"),
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        settings=settings("transformer/{variable}"),
        workers=workers,
        code=code("tuning_transformer"),
    output:
        study=f"{RESULTS}/tuning/{{variable}}/study.journal",
        trials=f"{RESULTS}/tuning/{{variable}}/trials.csv",
        best=f"{RESULTS}/tuning/{{variable}}/best.json",
    log:
        f"{RESULTS}/logs/tuning/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tuning/{{variable}}.tsv"
    wildcard_constraints:
        variable=one_of(HIERARCHIES),
    priority: 15
    conda:
        "../envs/environment.yaml"
    threads: SHARE
    resources:
        mem_mb=memory(6000),
        runtime=minutes(480),
    params:
        **TOKEN_STATES,
        cache=f"{RESULTS}/cache/tuning/{{variable}}",
    message:
        "Tuning the transformer of {wildcards.variable}"
    script:
        "../workflow_scripts/tuning_transformer.py"


# What every job of the GRU reads beside the features: whose items they are and when they were written.
SEQUENCE = {
    **items("owner_id", "timestamp"),
    "upstream": upstream,
}


rule tuning_sequence:
    input:
        **SEQUENCE,
        split_items=f"{RESULTS}/splits/items.parquet",
        train=expand(f"{RESULTS}/features/folds/{{fold}}/train.parquet", fold=FOLDS),
        val=expand(f"{RESULTS}/features/folds/{{fold}}/val.parquet", fold=FOLDS),
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        settings=settings("sequence/{variable}"),
        workers=workers,
        code=code("tuning_sequence"),
    output:
        study=f"{RESULTS}/tuning/{{variable}}/study.journal",
        trials=f"{RESULTS}/tuning/{{variable}}/trials.csv",
        best=f"{RESULTS}/tuning/{{variable}}/best.json",
    log:
        f"{RESULTS}/logs/tuning/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tuning/{{variable}}.tsv"
    wildcard_constraints:
        variable=one_of(SEQUENCES),
    group:
        "tuned_{variable}"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=minutes(240),
    params:
        cache=f"{RESULTS}/cache/tuning/{{variable}}",
    message:
        "Tuning the GRU of {wildcards.variable}"
    script:
        "../workflow_scripts/tuning_sequence.py"


# Where `tuning.workers` is more than one: who shares the trials of a search. The rules above then publish what
# these have found. On a cluster they are an array.
use rule tuning as tuning_worker with:
    output:
        joined=WORKER_JOINED,
    log:
        f"{RESULTS}/logs/tuning/{{variable}}.worker{{worker}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tuning_worker/{{variable}}.{{worker}}.tsv"
    group:
        None
    message:
        "Tuning {wildcards.variable}, worker {wildcards.worker}"


use rule tuning_transformer as tuning_transformer_worker with:
    output:
        joined=WORKER_JOINED,
    log:
        f"{RESULTS}/logs/tuning/{{variable}}.worker{{worker}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tuning_transformer_worker/{{variable}}.{{worker}}.tsv"
    message:
        "Tuning the transformer of {wildcards.variable}, worker {wildcards.worker}"


use rule tuning_sequence as tuning_sequence_worker with:
    output:
        joined=WORKER_JOINED,
    log:
        f"{RESULTS}/logs/tuning/{{variable}}.worker{{worker}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tuning_sequence_worker/{{variable}}.{{worker}}.tsv"
    group:
        None
    message:
        "Tuning the GRU of {wildcards.variable}, worker {wildcards.worker}"
