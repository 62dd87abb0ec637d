# Calibration, fitted on val: isotonic with a bounded slope for scales, level by level for hierarchies.


rule calibration:
    input:
        **ENSEMBLE,
        **items("language", "length_bucket"),
        features=f"{RESULTS}/features/folds/final/val.parquet",
        upstream=upstream,
        network=network,
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        settings=settings("calibration"),
        code=code("calibration"),
    output:
        calibrator=f"{RESULTS}/calibration/{{variable}}/calibrator.json",
    log:
        f"{RESULTS}/logs/calibration/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/calibration/{{variable}}.tsv"
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
        "Calibrating {wildcards.variable}"
    script:
        "../workflow_scripts/calibration.py"


rule calibration_paths:
    input:
        **items("owner_id"),
        split_items=f"{RESULTS}/splits/items.parquet",
        answers=f"{RESULTS}/answers/{{variable}}/blend.npy",
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        taxonomy=TAXONOMY,
        code=code("calibration_paths"),
    output:
        calibrator=f"{RESULTS}/calibration/{{variable}}/calibrator.json",
    log:
        f"{RESULTS}/logs/calibration/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/calibration/{{variable}}.tsv"
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
        "Calibrating {wildcards.variable}"
    script:
        "../workflow_scripts/calibration_paths.py"
