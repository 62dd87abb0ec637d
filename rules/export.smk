# One OpenVINO IR per variable, with the proofs that it answers as the models do.


rule export:
    input:
        **ENSEMBLE,
        calibrator=f"{RESULTS}/calibration/{{variable}}/calibrator.json",
        corpus=f"{RESULTS}/corpus/items.parquet",
        features=f"{RESULTS}/features/folds/final/val.parquet",
        settings=settings("export"),
        code=code("export"),
    output:
        model=f"{RESULTS}/export/{{variable}}/fp32/model.xml",
        weights=f"{RESULTS}/export/{{variable}}/fp32/model.bin",
        parity=f"{RESULTS}/export/{{variable}}/parity.json",
        latency=f"{RESULTS}/export/{{variable}}/latency.json",
    log:
        f"{RESULTS}/logs/export/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/export/{{variable}}.tsv"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=2000,
    message:
        "Exporting {wildcards.variable} to OpenVINO"
    script:
        "../workflow_scripts/export.py"
