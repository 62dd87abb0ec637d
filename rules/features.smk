# Features: 15 of the words, 4 cues of inhibition, 384 + 6 of the meaning, 13 of the owner's timeline.


rule lexical:
    input:
        **items("text", "language"),
        licensed=list(SETTINGS.features.licensed_lexicons.values()),
        settings=settings("lexical"),
        code=code("lexical"),
    output:
        features=f"{RESULTS}/features/lexical.parquet",
    log:
        f"{RESULTS}/logs/lexical.log",
    benchmark:
        f"{RESULTS}/benchmarks/lexical.tsv"
    group:
        "features"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Counting words of feeling"
    script:
        "../workflow_scripts/lexical.py"


rule inhibition:
    input:
        **items("text", "language"),
        licensed=list(SETTINGS.features.licensed_lexicons.values()),
        settings=settings("lexical"),
        code=code("inhibition"),
    output:
        features=f"{RESULTS}/features/inhibition.parquet",
    log:
        f"{RESULTS}/logs/inhibition.log",
    benchmark:
        f"{RESULTS}/benchmarks/inhibition.tsv"
    group:
        "features"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Counting what holds feelings back"
    script:
        "../workflow_scripts/inhibition.py"


rule embedding:
    input:
        **items("text", "language"),
        encoders=expand(
            f"{RESULTS}/encoder/{{language}}/encoder.json",
            language=[name for name, encoder in SETTINGS.encoders.items() if encoder.model],
        ),
        code=code("embedding"),
    output:
        features=f"{RESULTS}/features/embedding.parquet",
    log:
        f"{RESULTS}/logs/embedding.log",
    benchmark:
        f"{RESULTS}/benchmarks/embedding.tsv"
    priority: 20
    group:
        "features"
    conda:
        "../envs/environment.yaml"
    threads: CORES
    resources:
        mem_mb=memory(4000),
        runtime=minutes(60),
    params:
        # Embeddings by content; no output, so that a rebuild embeds only new texts.
        cache=f"{RESULTS}/cache/embeddings.sqlite",
    message:
        "Embedding the texts (known ones come from the cache)"
    script:
        "../workflow_scripts/embedding.py"


rule temporal:
    input:
        **items("owner_id", "timestamp"),
        lexical=f"{RESULTS}/features/lexical.parquet",
        code=code("temporal"),
    output:
        features=f"{RESULTS}/features/temporal.parquet",
    log:
        f"{RESULTS}/logs/temporal.log",
    benchmark:
        f"{RESULTS}/benchmarks/temporal.tsv"
    group:
        "features"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Describing each owner's timeline"
    script:
        "../workflow_scripts/temporal.py"


rule folds:
    input:
        **items("language"),
        split_items=f"{RESULTS}/splits/items.parquet",
        # A leak fails the build before anything learns from it.
        audit=f"{RESULTS}/splits/audit.json",
        timelines_audit=f"{RESULTS}/features/timelines.audit.json",
        lexical=f"{RESULTS}/features/lexical.parquet",
        embedding=f"{RESULTS}/features/embedding.parquet",
        temporal=f"{RESULTS}/features/temporal.parquet",
        code=code("folds"),
    output:
        train=expand(f"{RESULTS}/features/folds/{{fold}}/train.parquet", fold=FOLDS),
        val=expand(f"{RESULTS}/features/folds/{{fold}}/val.parquet", fold=FOLDS),
        final=expand(f"{RESULTS}/features/folds/final/{{split}}.parquet", split=["train", "val", "test"]),
        projection=f"{RESULTS}/features/projection.safetensors",
    log:
        f"{RESULTS}/logs/folds.log",
    benchmark:
        f"{RESULTS}/benchmarks/folds.tsv"
    group:
        "features"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=minutes(15),
    message:
        "Laying out the features of each fold"
    script:
        "../workflow_scripts/folds.py"
