# The one touch of the test split, and the verdicts.

# The baselines read the texts, the intervals go over owners, and the slices are of the others.
JUDGED = ["owner_id", "text", "timestamp", "language", "length_bucket", "category", "risk_level"]


rule evaluation:
    input:
        **ENSEMBLE,
        **items(*JUDGED),
        calibrator=f"{RESULTS}/calibration/{{variable}}/calibrator.json",
        split_items=f"{RESULTS}/splits/items.parquet",
        features=f"{RESULTS}/features/folds/final/test.parquet",
        upstream=upstream,
        network=network,
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        agreement=f"{RESULTS}/corpus/agreement/{{variable}}.json",
        settings=settings("evaluation"),
        code=code("evaluation"),
    output:
        metrics=f"{RESULTS}/evaluation/{{variable}}/metrics.json",
        predictions=f"{RESULTS}/evaluation/{{variable}}/predictions.parquet",
        plots=expand(f"{RESULTS}/evaluation/{{{{variable}}}}/{{plot}}.png", plot=PLOTS),
    log:
        f"{RESULTS}/logs/evaluation/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluation/{{variable}}.tsv"
    wildcard_constraints:
        variable=one_of(REGRESSIONS),
    group:
        "answers_{variable}"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(15),
    message:
        "Evaluating {wildcards.variable} on the test split"
    script:
        "../workflow_scripts/evaluation.py"


rule evaluation_sequence:
    input:
        **ENSEMBLE,
        **items(*JUDGED),
        calibrator=f"{RESULTS}/calibration/{{variable}}/calibrator.json",
        split_items=f"{RESULTS}/splits/items.parquet",
        features=f"{RESULTS}/features/folds/final/test.parquet",
        upstream=upstream,
        network=network,
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        agreement=f"{RESULTS}/corpus/agreement/{{variable}}.json",
        settings=settings("evaluation"),
        code=code("evaluation_sequence"),
    output:
        metrics=f"{RESULTS}/evaluation/{{variable}}/metrics.json",
        predictions=f"{RESULTS}/evaluation/{{variable}}/predictions.parquet",
        plots=expand(f"{RESULTS}/evaluation/{{{{variable}}}}/{{plot}}.png", plot=SEQUENCE_PLOTS),
    log:
        f"{RESULTS}/logs/evaluation/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluation/{{variable}}.tsv"
    wildcard_constraints:
        variable=one_of(SEQUENCES),
    group:
        "answers_{variable}"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(15),
    message:
        "Evaluating {wildcards.variable} on the test split"
    script:
        "../workflow_scripts/evaluation_sequence.py"


rule evaluation_paths:
    input:
        **items(*JUDGED),
        split_items=f"{RESULTS}/splits/items.parquet",
        lexical=f"{RESULTS}/features/lexical.parquet",
        answers=f"{RESULTS}/answers/{{variable}}/blend.npy",
        bases=expand(f"{RESULTS}/answers/{{{{variable}}}}/{{base}}.npy", base=[*PATH_TREES, "transformer"]),
        calibrator=f"{RESULTS}/calibration/{{variable}}/calibrator.json",
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        agreement=f"{RESULTS}/corpus/agreement/{{variable}}.json",
        taxonomy=TAXONOMY,
        settings=settings("evaluation"),
        code=code("evaluation_paths"),
    output:
        metrics=f"{RESULTS}/evaluation/{{variable}}/metrics.json",
        predictions=f"{RESULTS}/evaluation/{{variable}}/predictions.parquet",
        plots=expand(f"{RESULTS}/evaluation/{{{{variable}}}}/{{plot}}.png", plot=PATH_PLOTS),
    log:
        f"{RESULTS}/logs/evaluation/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluation/{{variable}}.tsv"
    wildcard_constraints:
        variable=one_of(HIERARCHIES),
    group:
        "answers_{variable}"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(15),
    message:
        "Evaluating {wildcards.variable} on the test split"
    script:
        "../workflow_scripts/evaluation_paths.py"


rule acceptance:
    input:
        metrics=expand(f"{RESULTS}/evaluation/{{variable}}/metrics.json", variable=VARIABLES),
        settings=settings("acceptance"),
        code=code("acceptance"),
    output:
        table=f"{RESULTS}/acceptance.tsv",
    log:
        f"{RESULTS}/logs/acceptance.log",
    benchmark:
        f"{RESULTS}/benchmarks/acceptance.tsv"
    group:
        "bundle"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Judging the gates"
    script:
        "../workflow_scripts/acceptance.py"


rule accept:
    input:
        table=f"{RESULTS}/acceptance.tsv",
    log:
        f"{RESULTS}/logs/accept.log",
    group:
        "bundle"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Requiring that no gate fails"
    script:
        "../workflow_scripts/accept.py"
