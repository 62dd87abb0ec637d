# What the rules share: state files (see perceive/state.py), what jobs need, inputs that settings decide.


def code(script):
    return f"{RESULTS}/state/code/{script}.tsv"


def settings(slice):
    return f"{RESULTS}/state/config/{slice}.json"


def data(part):
    return f"{RESULTS}/state/data/{part}.sha256"


def items(*columns):
    """The columns of the accepted items that a job reads beside item_id, each in a file of its own.

    A change of another column is no reason to run. (An `ancient` table with digests beside it would not do:
    Snakemake skips a job's own reasons where a job above it runs, and then finds that its inputs are ancient.)
    """
    return {"columns": [f"{RESULTS}/corpus/columns/{column}.parquet" for column in columns]}


# Threads of a job that can use all there are: of a local run its cores, on a cluster the profile's
# `max-threads`, since a job there must not take the whole node that it happens to see.
CORES = workflow.resource_settings.max_threads or workflow.cores or 4
# Of a job that is one of several: searches and trainings of different variables do not wait for each other, and
# two of them on a core each are done sooner than one after the other on two.
SHARE = CORES if workflow.resource_settings.max_threads else max(1, CORES // len(VARIABLES))


def memory(megabytes):
    """What a job may need, about twice what it was seen to take on 5,200 items; double on each new attempt."""
    return lambda wildcards, attempt: megabytes * 2 ** (attempt - 1)


def minutes(usual):
    """Minutes after which a cluster may end the job; double on each new attempt."""
    return lambda wildcards, attempt: usual * 2 ** (attempt - 1)


def trees_group(wildcards):
    """The cluster job that a tree model is trained in.

    A full model comes after its search, or, a sequence's, after other variables have answered; the small
    ones wait for nothing but the features.
    """
    if wildcards.base != "full":
        return "trees"
    return f"{'answers' if wildcards.variable in SEQUENCES else 'tuned'}_{wildcards.variable}"


def shown(path, category, **labels):
    """An output that `snakemake --report` shows, with the caption of its category."""
    caption = REPOSITORY / "resources" / "captions" / f"{category.lower()}.rst"
    return report(path, caption=str(caption), category=category, labels=labels)


def evaluation_plots(kind):
    """Plots of the evaluation of a kind of variable."""
    return [
        shown(f"{RESULTS}/evaluation/{{variable}}/{plot}.png", "Quality", variable="{variable}", plot=plot)
        for plot in PLOTS[kind]
    ]


WORKER_JOINED = f"{RESULTS}/tuning/{{variable}}/worker{{worker}}.json"


def workers(wildcards):
    """What the workers of a search leave, where it has several; a worker itself waits for none."""
    if "worker" in wildcards.keys() or SETTINGS.tuning.workers == 1:
        return []
    return [
        WORKER_JOINED.format(variable=wildcards.variable, worker=number)
        for number in range(1, SETTINGS.tuning.workers + 1)
    ]


def one_of(names):
    """A wildcard's constraint."""
    return "|".join(names)


def exports(variable):
    """A variable's graphs, and the proofs that its export ends with."""
    folder = f"{RESULTS}/export/{variable}"
    found = [f"{folder}/latency.json", *(f"{folder}/{precision}/model.bin" for precision in PRECISIONS)]
    if variable not in HIERARCHIES:
        found.append(f"{folder}/{BASES[variable][-1]}/parity.json")
    return found


def base_settings(wildcards):
    own = wildcards.variable in SEQUENCES and wildcards.base == "full"
    return settings(f"{'sequence_models' if own else 'models'}/{wildcards.base}")


def transformer_settings(wildcards):
    kind = "path_models" if wildcards.variable in HIERARCHIES else "models"
    return settings(f"{kind}/transformer")


def transformer_tuned(wildcards):
    """The search's result, which a scale's transformer does without."""
    return f"{RESULTS}/tuning/{wildcards.variable}/best.json" if wildcards.variable in HIERARCHIES else []


def oof_arrays(variable):
    """Out-of-fold arrays of a variable's base models, in the order of the blender's outputs."""
    return expand(f"{RESULTS}/oof/{variable}/{{base}}.npy", base=BASES[variable])


def oof_of(kind):
    """Files of that kind (predictions, records, ...) beside a variable's out-of-fold arrays."""
    return lambda wildcards: [path.replace(".npy", kind) for path in oof_arrays(wildcards.variable)]


def network(wildcards):
    """What a scale's network, its last base model, answers in val and test."""
    return f"{RESULTS}/answers/{wildcards.variable}/{BASES[wildcards.variable][-1]}.parquet"


def upstream(wildcards):
    """Answers of other variables that are features of this one; of its trees only the full model has them."""
    if getattr(wildcards, "base", "full") in ("lx", "eb", "tm"):
        return []
    return [f"{RESULTS}/answers/{name}/upstream.parquet" for name in SETTINGS.reads(wildcards.variable)]


def tuned(wildcards):
    """The search's result, for the tuned base model alone: a sequence variable's is its GRU."""
    searched = wildcards.base == "full" and wildcards.variable in REGRESSIONS
    return f"{RESULTS}/tuning/{wildcards.variable}/best.json" if searched else []


def encoder_files(wildcards):
    """Files of an encoder given as a folder; those of a package are pinned by the lock file."""
    model = SETTINGS.encoders[wildcards.language].model
    if model.startswith("package:"):
        return []
    return sorted(str(path) for path in Path(model).expanduser().rglob("*") if path.is_file())


def served(wildcards):
    """Trained parts of all variables, which a bundle is made of."""
    found = []
    for name in VARIABLES:
        found += [f"{RESULTS}/blend/{name}/model.txt", f"{RESULTS}/calibration/{name}/calibrator.json"]
        trees = PATH_TREES if name in HIERARCHIES else TREES
        found += expand(f"{RESULTS}/models/{name}/{{base}}/model.txt", base=trees)
        if name in HIERARCHIES:
            found += expand(f"{RESULTS}/models/{name}/{{base}}/model.json", base=trees)
        network = f"{RESULTS}/models/{name}/{BASES[name][-1]}"
        found += [f"{network}/model.safetensors", f"{network}/model.json"]
    return found


def write_state():
    """Bring the state files up to date, after what was damaged since it was made has been set aside."""
    with no_run(Path(RESULTS)) as still:
        for sentence in set_aside(Path(RESULTS) / "state") if still else []:
            logger.warning(sentence)
    state = StateWriter(Path(RESULTS), REPOSITORY)
    slices = configuration.slices(SETTINGS)
    slices["ingest"]["annotations"] = CORPUS.model_dump(mode="json")["annotations"]
    state.write_config(slices)
    state.write_code(SCRIPTS, REPOSITORY / "envs" / "requirements.lock")
    state.write_ledger(Path(LEDGER), Path(RESULTS) / "splits" / "ledger.sha256")
    if SETTINGS.corpus.annotations:
        state.write_data(
            FILES,
            [slices["ingest"], Path(code("items")).read_text()],
            lambda: content_digests(CORPUS, Path.cwd()),
        )
    else:
        parts = [
            "items",
            *(f"items/{column}" for column in READ_COLUMNS),
            *(f"{of}/{name}" for of in ("labels", "ratings") for name in EVERY_VARIABLE),
        ]
        # The generated file itself is an input; what else reading it depends on is the taxonomy.
        digest = file_sha256(TAXONOMY) if TAXONOMY else "any path"
        state.write_data([], ["synthetic", parts, digest], lambda: dict.fromkeys(parts, digest))
