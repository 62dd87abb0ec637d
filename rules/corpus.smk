# Annotations: generated where none are given, then read, checked and stored line by line.


if not SETTINGS.corpus.annotations:

    rule synthesize:
        input:
            settings=settings("synthesize"),
            code=code("synthesize"),
        output:
            annotations=f"{RESULTS}/corpus/annotations.jsonl",
            report=f"{RESULTS}/corpus/synthesis.json",
        log:
            f"{RESULTS}/logs/synthesize.log",
        benchmark:
            f"{RESULTS}/benchmarks/synthesize.tsv"
        conda:
            "../envs/environment.yaml"
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
    conda:
        "../envs/environment.yaml"
    message:
        "Reading the annotated items"
    script:
        "../workflow_scripts/items.py"


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
    conda:
        "../envs/environment.yaml"
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
    conda:
        "../envs/environment.yaml"
    message:
        "Summing up the corpus and its rejected lines"
    script:
        "../workflow_scripts/summary.py"
