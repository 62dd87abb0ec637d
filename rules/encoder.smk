# The sentence encoder, converted once; the same IR embeds for training and for serving.


rule encoder:
    input:
        source=encoder_files,
        settings=settings("encoder"),
        code=code("encoder"),
    output:
        model=f"{RESULTS}/encoder/{{language}}/model.xml",
        weights=f"{RESULTS}/encoder/{{language}}/model.bin",
        tokenizer=f"{RESULTS}/encoder/{{language}}/tokenizer.json",
        meta=f"{RESULTS}/encoder/{{language}}/encoder.json",
    log:
        f"{RESULTS}/logs/encoder/{{language}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/encoder/{{language}}.tsv"
    group:
        "features"
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=memory(3000),
        runtime=minutes(15),
    message:
        "Converting the {wildcards.language} sentence encoder to OpenVINO"
    script:
        "../workflow_scripts/encoder.py"
