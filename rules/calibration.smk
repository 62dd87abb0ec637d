# Isotonic calibration with a bounded slope, fitted on val.


# The trained parts of a regression variable.
ENSEMBLE = {
    "models": expand(f"{RESULTS}/models/{{{{variable}}}}/{{base}}/model.txt", base=BASES),
    "blender": f"{RESULTS}/blend/{{variable}}/model.txt",
}


rule calibration:
    input:
        **ENSEMBLE,
        corpus=f"{RESULTS}/corpus/items.parquet",
        features=f"{RESULTS}/features/folds/final/val.parquet",
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
        settings=settings("calibration"),
        code=code("calibration"),
    output:
        calibrator=f"{RESULTS}/calibration/{{variable}}/calibrator.json",
    log:
        f"{RESULTS}/logs/calibration/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/calibration/{{variable}}.tsv"
    conda:
        "../envs/environment.yaml"
    message:
        "Calibrating {wildcards.variable}"
    script:
        "../workflow_scripts/calibration.py"
