# Annotations: generated where none are given, then read, checked and stored line by line, and compared.


if not SETTINGS.corpus.annotations:

    rule synthesize:
        input:
            settings=settings("synthesize"),
            code=code("synthesize"),
        output:
            annotations=f"{RESULTS}/corpus/annotations.jsonl",
            # What the generator knows and no stage may learn from: for the pictures, and for your own checks.
            truth=f"{RESULTS}/corpus/truth.jsonl",
            report=f"{RESULTS}/corpus/synthesis.json",
        log:
            f"{RESULTS}/logs/synthesize.log",
        benchmark:
            f"{RESULTS}/benchmarks/synthesize.tsv"
        group:
            "corpus"
        conda:
            "../envs/environment.yaml"
        resources:
            mem_mb=memory(1000),
            runtime=minutes(10),
        message:
            "Generating the embedded corpus"
        script:
            "../workflow_scripts/synthesize.py"


rule items:
    input:
        annotations=ANNOTATIONS,
        data=data("items"),
        settings=settings("ingest"),
        code=code("items"),
    output:
        corpus=f"{RESULTS}/corpus/items.parquet",
    log:
        f"{RESULTS}/logs/items.log",
    benchmark:
        f"{RESULTS}/benchmarks/items.tsv"
    group:
        "corpus"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Reading the annotated items"
    script:
        "../workflow_scripts/items.py"


rule columns:
    input:
        annotations=ANNOTATIONS,
        data=data("items/{column}"),
        settings=settings("ingest"),
        code=code("columns"),
    output:
        column=f"{RESULTS}/corpus/columns/{{column}}.parquet",
    log:
        f"{RESULTS}/logs/columns/{{column}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/columns/{{column}}.tsv"
    group:
        "corpus"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Reading the column {wildcards.column} of the items"
    script:
        "../workflow_scripts/columns.py"


rule labels:
    input:
        annotations=ANNOTATIONS,
        data=data("labels/{variable}"),
        settings=settings("ingest"),
        code=code("labels"),
    output:
        labels=f"{RESULTS}/corpus/labels/{{variable}}.parquet",
    log:
        f"{RESULTS}/logs/labels/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/labels/{{variable}}.tsv"
    group:
        "corpus"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Reading the labels of {wildcards.variable}"
    script:
        "../workflow_scripts/labels.py"


rule summary:
    input:
        annotations=ANNOTATIONS,
        data=data("all"),
        settings=settings("ingest"),
        code=code("summary"),
    output:
        rejects=f"{RESULTS}/corpus/rejects.jsonl",
        summary=f"{RESULTS}/corpus/summary.json",
    log:
        f"{RESULTS}/logs/summary.log",
    benchmark:
        f"{RESULTS}/benchmarks/summary.tsv"
    group:
        "corpus"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Summing up the corpus and its rejected lines"
    script:
        "../workflow_scripts/summary.py"


rule agreement:
    input:
        annotations=ANNOTATIONS,
        data=data("ratings/{variable}"),
        labels=data("labels/{variable}"),
        ingest=settings("ingest"),
        settings=settings("agreement"),
        code=code("agreement"),
    output:
        agreement=f"{RESULTS}/corpus/agreement/{{variable}}.json",
        review=f"{RESULTS}/corpus/agreement/{{variable}}.review.csv",
    log:
        f"{RESULTS}/logs/agreement/{{variable}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/agreement/{{variable}}.tsv"
    group:
        "corpus"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Comparing the annotators of {wildcards.variable}"
    script:
        "../workflow_scripts/agreement.py"


rule review:
    input:
        agreement=expand(f"{RESULTS}/corpus/agreement/{{variable}}.json", variable=EVERY_VARIABLE),
        review=expand(f"{RESULTS}/corpus/agreement/{{variable}}.review.csv", variable=EVERY_VARIABLE),
        code=code("review"),
    output:
        agreement=f"{RESULTS}/corpus/agreement.json",
        review=f"{RESULTS}/corpus/review.csv",
    log:
        f"{RESULTS}/logs/review.log",
    benchmark:
        f"{RESULTS}/benchmarks/review.tsv"
    group:
        "corpus"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Listing the items that deserve a second look"
    script:
        "../workflow_scripts/review.py"


rule portrait:
    input:
        annotations=ANNOTATIONS,
        truth=[] if SETTINGS.corpus.annotations else [f"{RESULTS}/corpus/truth.jsonl"],
        agreement=f"{RESULTS}/corpus/agreement.json",
        data=data("all"),
        ingest=settings("ingest"),
        settings=settings("portrait"),
        code=code("portrait"),
    output:
        plots=[shown(f"{RESULTS}/corpus/{plot}.png", "Data", plot=plot) for plot in PORTRAIT],
    log:
        f"{RESULTS}/logs/portrait.log",
    benchmark:
        f"{RESULTS}/benchmarks/portrait.tsv"
    group:
        "corpus"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Drawing the corpus"
    script:
        "../workflow_scripts/portrait.py"
