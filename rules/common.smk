# Input functions that the rules share: state files (see perceive/state.py), files that settings name.


def code(script):
    return f"{RESULTS}/state/code/{script}.tsv"


def settings(slice):
    return f"{RESULTS}/state/config/{slice}.json"


def data(part):
    return f"{RESULTS}/state/data/{part}.sha256"


def one_of(names):
    """A wildcard's constraint."""
    return "|".join(names)


def exports(variable):
    """What a variable's export ends with."""
    found = [f"{RESULTS}/export/{variable}/latency.json"]
    if variable in REGRESSIONS:
        found.append(f"{RESULTS}/export/{variable}/transformer/parity.json")
    return found


def base_settings(wildcards):
    return settings(f"models/{wildcards.base}")


def transformer_settings(wildcards):
    kind = "path_models" if wildcards.variable in HIERARCHIES else "models"
    return settings(f"{kind}/transformer")


def transformer_tuned(wildcards):
    """The search's result, which a scale's transformer does without."""
    return f"{RESULTS}/tuning/{wildcards.variable}/best.json" if wildcards.variable in HIERARCHIES else []


def bases(wildcards):
    """Base models of a variable, in the order of the blender's outputs."""
    return PATH_BASES if wildcards.variable in HIERARCHIES else BASES


def upstream(wildcards):
    """Answers of other variables that are features of this one's full model; the other bases have none."""
    if getattr(wildcards, "base", "full") != "full":
        return []
    return [f"{RESULTS}/answers/{name}/upstream.parquet" for name in SETTINGS.reads(wildcards.variable)]


def tuned(wildcards):
    """The search's result, for the tuned base model alone."""
    return f"{RESULTS}/tuning/{wildcards.variable}/best.json" if wildcards.base == "full" else []


def encoder_files(wildcards):
    """Files of an encoder given as a folder; those of a package are pinned by the lock file."""
    model = SETTINGS.encoders[wildcards.language].model
    if model.startswith("package:"):
        return []
    return sorted(str(path) for path in Path(model).expanduser().rglob("*") if path.is_file())
