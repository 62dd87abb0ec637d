# What a team deploys: all variables in few graphs, with everything that they need, proven and hashed.

ENCODERS = [name for name, encoder in SETTINGS.encoders.items() if encoder.model]
ANY_TAXONOMY = TAXONOMY if set(VARIABLES) & set(HIERARCHIES) else []


rule serving:
    input:
        served,
        own_encoders=expand(
            f"{RESULTS}/encoder/{{language}}/encoder.json",
            language=[name for name in ENCODERS if name != SETTINGS.transformer.encoder],
        ),
        taxonomy=ANY_TAXONOMY,
        settings=settings("serving"),
        code=code("serving"),
    output:
        plan=f"{RESULTS}/serving/plan.json",
    log:
        f"{RESULTS}/logs/serving.log",
    benchmark:
        f"{RESULTS}/benchmarks/serving.tsv"
    group:
        "bundle"
    conda:
        "../envs/environment.yaml"
    threads: CORES
    resources:
        mem_mb=memory(3000),
        runtime=minutes(30),
    message:
        "Building the graphs that answer"
    script:
        "../workflow_scripts/serving.py"


rule assembly:
    input:
        **items("owner_id", "text", "timestamp", "language"),
        plan=f"{RESULTS}/serving/plan.json",
        split_items=f"{RESULTS}/splits/items.parquet",
        encoders=expand(f"{RESULTS}/encoder/{{language}}/encoder.json", language=ENCODERS),
        projection=f"{RESULTS}/features/projection.safetensors",
        predictions=expand(f"{RESULTS}/evaluation/{{name}}/predictions.parquet", name=VARIABLES),
        taxonomy=ANY_TAXONOMY,
        licensed=list(SETTINGS.features.licensed_lexicons.values()),
        settings=settings("bundle"),
        code=code("assembly"),
    output:
        manifest=f"{RESULTS}/serving/assembly/manifest.json",
        parity=f"{RESULTS}/serving/parity.json",
    log:
        f"{RESULTS}/logs/assembly.log",
    benchmark:
        f"{RESULTS}/benchmarks/assembly.tsv"
    group:
        "bundle"
    conda:
        "../envs/environment.yaml"
    threads: CORES
    resources:
        mem_mb=memory(3000),
        runtime=minutes(60),
    params:
        cache=f"{RESULTS}/cache/embeddings.sqlite",
    message:
        "Putting the bundle together, and proving that it answers as the models do"
    script:
        "../workflow_scripts/assembly.py"


# Apart from the assembly, so that a changed verdict neither proves nor times the graphs again.
rule bundle:
    input:
        assembly=f"{RESULTS}/serving/assembly/manifest.json",
        corpus=f"{RESULTS}/corpus/items.parquet",
        verdicts=f"{RESULTS}/evaluation/verdicts.tsv",
        code=code("bundle"),
    output:
        manifest=f"{RESULTS}/bundle/manifest.json",
    log:
        f"{RESULTS}/logs/bundle.log",
    benchmark:
        f"{RESULTS}/benchmarks/bundle.tsv"
    group:
        "bundle"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Marking the bundle with the verdicts"
    script:
        "../workflow_scripts/bundle.py"


rule latency:
    input:
        served,
        **items("owner_id", "text", "timestamp", "language"),
        manifest=f"{RESULTS}/serving/assembly/manifest.json",
        plan=f"{RESULTS}/serving/plan.json",
        split_items=f"{RESULTS}/splits/items.parquet",
        taxonomy=ANY_TAXONOMY,
        settings=settings("latency"),
        code=code("latency"),
    output:
        report=f"{RESULTS}/serving/latency.json",
        plot=shown(f"{RESULTS}/serving/latency.png", "Deployment", plot="latency"),
    log:
        f"{RESULTS}/logs/latency.log",
    benchmark:
        f"{RESULTS}/benchmarks/latency.tsv"
    group:
        "acceptance"
    conda:
        "../envs/environment.yaml"
    # Alone on the machine, or the times would be those of its neighbours.
    threads: CORES
    resources:
        mem_mb=memory(7000),
        runtime=minutes(60),
    message:
        "Timing the bundle beside the Python pipeline"
    script:
        "../workflow_scripts/latency.py"
