# What people read: the report, and the cards of the models and of the data.


rule report:
    input:
        acceptance=f"{RESULTS}/acceptance.json",
        evaluations=expand(f"{RESULTS}/evaluation/{{variable}}/metrics.json", variable=VARIABLES),
        plots=[
            f"{RESULTS}/evaluation/{name}/{plot}.png"
            for name in VARIABLES
            for plot in PLOTS[SETTINGS.kind(name)]
        ],
        fairness=expand(
            f"{RESULTS}/fairness/{{variable}}.{{part}}",
            variable=VARIABLES,
            part=["json", "worst.csv", "png"],
        ),
        insight=expand(
            f"{RESULTS}/insight/{{variable}}.{{part}}",
            variable=VARIABLES,
            part=["json", "features.png", "search.png", "weights.png"],
        ),
        searches=expand(f"{RESULTS}/tuning/{{variable}}/best.json", variable=VARIABLES),
        agreement=expand(f"{RESULTS}/corpus/agreement/{{variable}}.json", variable=VARIABLES),
        summary=f"{RESULTS}/corpus/summary.json",
        portrait=expand(f"{RESULTS}/corpus/{{plot}}.png", plot=PORTRAIT),
        splits=f"{RESULTS}/splits/summary.json",
        splits_audit=f"{RESULTS}/splits/audit.json",
        timelines_audit=f"{RESULTS}/features/timelines.audit.json",
        audits=expand(f"{RESULTS}/oof/{{variable}}/audit.json", variable=VARIABLES),
        bundle=f"{RESULTS}/bundle/manifest.json",
        parity=f"{RESULTS}/serving/parity.json",
        latency=f"{RESULTS}/serving/latency.json",
        latency_plot=f"{RESULTS}/serving/latency.png",
        exports=[path for name in VARIABLES for path in exports(name)],
        settings=settings("report"),
        code=code("report"),
    output:
        page=shown(f"{RESULTS}/report/index.html", "Verdict", what="report"),
        provenance=f"{RESULTS}/report/provenance.json",
        quality=shown(f"{RESULTS}/report/quality.png", "Verdict", what="quality"),
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    group:
        "acceptance"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Writing the report"
    script:
        "../workflow_scripts/report.py"


# One job for all: each card tells the verdicts, which are in a table of all variables.
rule model_card:
    input:
        acceptance=f"{RESULTS}/acceptance.json",
        metrics=expand(f"{RESULTS}/evaluation/{{variable}}/metrics.json", variable=VARIABLES),
        fairness=expand(f"{RESULTS}/fairness/{{variable}}.json", variable=VARIABLES),
        agreement=expand(f"{RESULTS}/corpus/agreement/{{variable}}.json", variable=VARIABLES),
        summary=f"{RESULTS}/corpus/summary.json",
        splits=f"{RESULTS}/splits/summary.json",
        audit=f"{RESULTS}/splits/audit.json",
        settings=settings("report"),
        code=code("model_card"),
    output:
        cards=expand(f"{RESULTS}/cards/{{variable}}.md", variable=VARIABLES),
    log:
        f"{RESULTS}/logs/model_card.log",
    benchmark:
        f"{RESULTS}/benchmarks/model_card.tsv"
    group:
        "acceptance"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Writing the model cards"
    script:
        "../workflow_scripts/model_card.py"


rule data_card:
    input:
        corpus=f"{RESULTS}/corpus/items.parquet",
        labels=expand(f"{RESULTS}/corpus/labels/{{variable}}.parquet", variable=VARIABLES),
        summary=f"{RESULTS}/corpus/summary.json",
        settings=settings("report"),
        code=code("data_card"),
    output:
        card=f"{RESULTS}/corpus/croissant.json",
    log:
        f"{RESULTS}/logs/data_card.log",
    benchmark:
        f"{RESULTS}/benchmarks/data_card.tsv"
    group:
        "corpus"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    message:
        "Writing the data card"
    script:
        "../workflow_scripts/data_card.py"
