# One OpenVINO IR per variable, with the proofs that it answers as the models do.


rule export:
    input:
        **ENSEMBLE,
        **items("language", "length_bucket"),
        calibrator=f"{RESULTS}/calibration/{{variable}}/calibrator.json",
        features=f"{RESULTS}/features/folds/final/val.parquet",
        upstream=upstream,
        network=network,
        settings=settings("export"),
        code=code("export"),
    output:
        models=expand(f"{RESULTS}/export/{{{{variable}}}}/{{precision}}/model.xml", precision=PRECISIONS),
        weights=expand(f"{RESULTS}/export/{{{{variable}}}}/{{precision}}/model.bin", precision=PRECISIONS),
        parity=f"{RESULTS}/export/{{variable}}/parity.json",
        latency=f"{RESULTS}/export/{{variable}}/latency.json",
    log:
        f"{RESULTS}/logs/export/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/export/{{variable}}.tsv"
    wildcard_constraints:
        variable=one_of(SCALES),
    group:
        "export"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1500),
        runtime=minutes(30),
    message:
        "Exporting {wildcards.variable} to OpenVINO in three precisions"
    script:
        "../workflow_scripts/export.py"


rule export_paths:
    input:
        **PATH_ENSEMBLE,
        **items("text", "language", "length_bucket"),
        calibrator=f"{RESULTS}/calibration/{{variable}}/calibrator.json",
        cues=f"{RESULTS}/features/inhibition.parquet",
        features=f"{RESULTS}/features/folds/final/val.parquet",
        encoder=f"{RESULTS}/encoder/{SETTINGS.transformer.encoder}/encoder.json",
        taxonomy=TAXONOMY,
        backbone=settings("path_models/transformer"),
        settings=settings("export"),
        code=code("export_paths"),
    output:
        models=expand(f"{RESULTS}/export/{{{{variable}}}}/{{precision}}/model.xml", precision=PRECISIONS),
        weights=expand(f"{RESULTS}/export/{{{{variable}}}}/{{precision}}/model.bin", precision=PRECISIONS),
        parity=f"{RESULTS}/export/{{variable}}/parity.json",
        latency=f"{RESULTS}/export/{{variable}}/latency.json",
    log:
        f"{RESULTS}/logs/export/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/export/{{variable}}.tsv"
    wildcard_constraints:
        variable=one_of(HIERARCHIES),
    group:
        "export"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(4000),
        runtime=minutes(60),
    message:
        "Exporting {wildcards.variable} to OpenVINO in three precisions"
    script:
        "../workflow_scripts/export_paths.py"


rule export_transformer:
    input:
        **items("text"),
        lexical=f"{RESULTS}/features/lexical.parquet",
        cues=f"{RESULTS}/features/inhibition.parquet",
        features=f"{RESULTS}/features/folds/final/val.parquet",
        encoder=f"{RESULTS}/encoder/{SETTINGS.transformer.encoder}/encoder.json",
        transformer=f"{RESULTS}/models/{{variable}}/transformer/model.safetensors",
        transformer_meta=f"{RESULTS}/models/{{variable}}/transformer/model.json",
        backbone=settings("models/transformer"),
        settings=settings("export"),
        code=code("export_transformer"),
    output:
        models=expand(
            f"{RESULTS}/export/{{{{variable}}}}/transformer/{{precision}}/model.xml", precision=PRECISIONS
        ),
        weights=expand(
            f"{RESULTS}/export/{{{{variable}}}}/transformer/{{precision}}/model.bin", precision=PRECISIONS
        ),
        parity=f"{RESULTS}/export/{{variable}}/transformer/parity.json",
    log:
        f"{RESULTS}/logs/export/{{variable}}.transformer.log",
    benchmark:
        f"{RESULTS}/benchmarks/export/{{variable}}.transformer.tsv"
    wildcard_constraints:
        variable=one_of(REGRESSIONS),
    group:
        "export"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(3000),
        runtime=minutes(30),
    message:
        "Exporting the transformer of {wildcards.variable} to OpenVINO in three precisions"
    script:
        "../workflow_scripts/export_transformer.py"


rule export_sequence:
    input:
        **SEQUENCE,
        features=expand(f"{RESULTS}/features/folds/final/{{split}}.parquet", split=["train", "val"]),
        model=f"{RESULTS}/models/{{variable}}/gru/model.safetensors",
        meta=f"{RESULTS}/models/{{variable}}/gru/model.json",
        settings=settings("export"),
        code=code("export_sequence"),
    output:
        models=expand(f"{RESULTS}/export/{{{{variable}}}}/gru/{{precision}}/model.xml", precision=PRECISIONS),
        weights=expand(f"{RESULTS}/export/{{{{variable}}}}/gru/{{precision}}/model.bin", precision=PRECISIONS),
        parity=f"{RESULTS}/export/{{variable}}/gru/parity.json",
    log:
        f"{RESULTS}/logs/export/{{variable}}.gru.log",
    benchmark:
        f"{RESULTS}/benchmarks/export/{{variable}}.gru.tsv"
    wildcard_constraints:
        variable=one_of(SEQUENCES),
    group:
        "export"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(3000),
        runtime=minutes(20),
    message:
        "Exporting the GRU of {wildcards.variable} to OpenVINO in three precisions"
    script:
        "../workflow_scripts/export_sequence.py"
