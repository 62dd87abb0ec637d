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
        plots=evaluation_plots("regression"),
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
        plots=evaluation_plots("sequence"),
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
        plots=evaluation_plots("hierarchy"),
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


rule fairness:
    input:
        **items("owner_id", "language", "length_bucket", "category", "risk_level"),
        predictions=f"{RESULTS}/evaluation/{{variable}}/predictions.parquet",
        metrics=f"{RESULTS}/evaluation/{{variable}}/metrics.json",
        settings=settings("evaluation"),
        code=code("fairness"),
    output:
        fairness=f"{RESULTS}/fairness/{{variable}}.json",
        worst=f"{RESULTS}/fairness/{{variable}}.worst.csv",
        plot=shown(f"{RESULTS}/fairness/{{variable}}.png", "Fairness", variable="{variable}"),
    log:
        f"{RESULTS}/logs/fairness/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fairness/{{variable}}.tsv"
    group:
        "answers_{variable}"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(15),
    message:
        "Comparing groups in the answers of {wildcards.variable}"
    script:
        "../workflow_scripts/fairness.py"


rule insight:
    input:
        **items("language", "length_bucket"),
        split_items=f"{RESULTS}/splits/items.parquet",
        features=f"{RESULTS}/features/folds/final/val.parquet",
        cues=lambda wildcards: (
            f"{RESULTS}/features/inhibition.parquet" if wildcards.variable in HIERARCHIES else []
        ),
        upstream=lambda wildcards: [] if wildcards.variable in HIERARCHIES else upstream(wildcards),
        model=lambda wildcards: (
            f"{RESULTS}/models/{wildcards.variable}/{'lx' if wildcards.variable in HIERARCHIES else 'full'}/model.txt"
        ),
        blend=f"{RESULTS}/blend/{{variable}}/blend.json",
        weights=f"{RESULTS}/blend/{{variable}}/weights.npy",
        trials=f"{RESULTS}/tuning/{{variable}}/trials.csv",
        best=f"{RESULTS}/tuning/{{variable}}/best.json",
        settings=settings("evaluation"),
        code=code("insight"),
    output:
        insight=f"{RESULTS}/insight/{{variable}}.json",
        features=shown(
            f"{RESULTS}/insight/{{variable}}.features.png", "Insight", variable="{variable}", plot="features"
        ),
        search=shown(
            f"{RESULTS}/insight/{{variable}}.search.png", "Insight", variable="{variable}", plot="search"
        ),
        weights=shown(
            f"{RESULTS}/insight/{{variable}}.weights.png", "Insight", variable="{variable}", plot="weights"
        ),
    log:
        f"{RESULTS}/logs/insight/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/insight/{{variable}}.tsv"
    group:
        "answers_{variable}"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(15),
    message:
        "Looking into the models of {wildcards.variable}"
    script:
        "../workflow_scripts/insight.py"


# Of the models alone: what is deployed carries these verdicts.
rule verdicts:
    input:
        metrics=expand(f"{RESULTS}/evaluation/{{variable}}/metrics.json", variable=VARIABLES),
        fairness=expand(f"{RESULTS}/fairness/{{variable}}.json", variable=VARIABLES),
        agreement=expand(f"{RESULTS}/corpus/agreement/{{variable}}.json", variable=VARIABLES),
        splits_audit=f"{RESULTS}/splits/audit.json",
        audits=expand(f"{RESULTS}/oof/{{variable}}/audit.json", variable=VARIABLES),
        settings=settings("verdicts"),
        code=code("verdicts"),
    output:
        table=f"{RESULTS}/evaluation/verdicts.tsv",
    log:
        f"{RESULTS}/logs/verdicts.log",
    benchmark:
        f"{RESULTS}/benchmarks/verdicts.tsv"
    group:
        "bundle"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Judging the models"
    script:
        "../workflow_scripts/verdicts.py"


rule acceptance:
    input:
        verdicts=f"{RESULTS}/evaluation/verdicts.tsv",
        manifest=f"{RESULTS}/serving/assembly/manifest.json",
        parity=f"{RESULTS}/serving/parity.json",
        latency=f"{RESULTS}/serving/latency.json",
        settings=settings("acceptance"),
        code=code("acceptance"),
    output:
        table=shown(f"{RESULTS}/acceptance.tsv", "Verdict", what="gates"),
        json=f"{RESULTS}/acceptance.json",
    log:
        f"{RESULTS}/logs/acceptance.log",
    benchmark:
        f"{RESULTS}/benchmarks/acceptance.tsv"
    group:
        "acceptance"
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
        "acceptance"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Requiring that no gate fails"
    script:
        "../workflow_scripts/accept.py"
