"""Perceive: from annotated reflections to calibrated OpenVINO perception models.

    snakemake --cores 2 all                                             the embedded corpus
    snakemake --cores 2 all --configfile config/presets/quick.yaml      a first complete result in minutes
    snakemake --cores 2 all --configfile config/corpora/emobank.yaml    an own corpus
    snakemake --cores 2 valence                                         one variable

The rules lie in rules/, one file a stage, in the order the data flows.
"""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.utils import min_version

min_version("9.27")


configfile: f"{workflow.basedir}/config/config.yaml"


report: "resources/captions/workflow.rst"


REPOSITORY = Path(workflow.basedir)
sys.path.insert(0, str(REPOSITORY / "workflow_scripts"))
from perceive import config as configuration
from perceive.corpus.reader import READ_COLUMNS, CorpusError, content_digests, input_files, taxonomy_path
from perceive.evaluation import PLOTS
from perceive.export import PRECISIONS
from perceive.integrity import set_aside, wanted
from perceive.io import file_sha256
from perceive.job import end_with_run, hold_run, lead_jobs, no_run
from perceive.state import StateWriter

lead_jobs()
if not workflow.is_main_process:
    # A cluster job: before it touches an output.
    try:
        end_with_run()
    except RuntimeError as error:
        raise WorkflowError(str(error)) from None

try:
    SETTINGS = configuration.validate(config)
except configuration.ConfigError as error:
    raise WorkflowError(str(error)) from None

VARIABLES = SETTINGS.variables
EVERY_VARIABLE = list(configuration.VARIABLES)
REGRESSIONS, SEQUENCES, HIERARCHIES = (
    [name for name in EVERY_VARIABLE if SETTINGS.kind(name) == kind]
    for kind in ("regression", "sequence", "hierarchy")
)
SCALES = [*REGRESSIONS, *SEQUENCES]
RESULTS = SETTINGS.results
LEDGER = SETTINGS.ledger_path()
FOLDS = range(SETTINGS.splits.folds)
TREES, PATH_TREES = ["lx", "eb", "tm", "full"], ["lx", "eb"]
BASES = {
    **dict.fromkeys(REGRESSIONS, [*TREES, "transformer"]),
    **dict.fromkeys(SEQUENCES, [*TREES, "gru"]),
    **dict.fromkeys(HIERARCHIES, [*PATH_TREES, "transformer"]),
}
PORTRAIT = ["counts", "labels", "moods", "agreement", "invoked_expressed"]


wildcard_constraints:
    variable="|".join(EVERY_VARIABLE),
    column="|".join(READ_COLUMNS),
    base="|".join([*TREES, "transformer", "gru"]),
    language="en|hinglish",


# --- State files: what decides that a rule must run again (see perceive/state.py) ------------------------


# Script name to the resources that it reads beside its inputs.
SCRIPTS = {
    "synthesize": ["resources/synthesis"],
    "items": [],
    "columns": [],
    "labels": [],
    "summary": [],
    "agreement": [],
    "review": [],
    "portrait": [],
    "splits": [],
    "audit_splits": [],
    "audit_timelines": [],
    "encoder": [],
    "lexical": ["resources/lexicons"],
    "inhibition": ["resources/lexicons"],
    "embedding": ["resources/anchors.tsv"],
    "temporal": [],
    "folds": [],
    "tuning": [],
    "tuning_transformer": [],
    "tuning_sequence": [],
    "oof": [],
    "oof_paths": [],
    "oof_transformer": [],
    "oof_sequence": [],
    "audit_oof": [],
    "models": [],
    "models_paths": [],
    "models_transformer": [],
    "models_sequence": [],
    "blend": [],
    "blend_paths": [],
    "answers": [],
    "answers_transformer": [],
    "answers_sequence": [],
    "answers_scale": [],
    "calibration": [],
    "calibration_paths": [],
    "evaluation": [],
    "evaluation_paths": [],
    "evaluation_sequence": [],
    "fairness": [],
    "insight": [],
    "verdicts": [],
    "acceptance": [],
    "export": [],
    "export_paths": [],
    "export_transformer": [],
    "export_sequence": [],
    "serving": [],
    "latency": [],
    "assembly": ["resources/lexicons", "resources/anchors.tsv"],
    "bundle": [],
    "report": ["resources/report"],
    "model_card": ["resources/report"],
    "data_card": [],
}
# What is looked at or deployed. Nothing is trained from it: to make it again costs no model.
DELIVERED = list(SCRIPTS)[list(SCRIPTS).index("evaluation") :]


include: "rules/common.smk"


if SETTINGS.corpus.annotations:
    CORPUS = SETTINGS.corpus
    try:
        FILES = input_files(CORPUS, Path.cwd())
    except CorpusError as error:
        raise WorkflowError(str(error)) from None
    # What the readers consume of them is in the state files; a new date alone means nothing.
    ANNOTATIONS = [ancient(str(path)) for path in FILES]
else:
    # The generated file is an ordinary input: it changes only when its rule runs again.
    ANNOTATIONS = [f"{RESULTS}/corpus/annotations.jsonl"]
    CORPUS = SETTINGS.corpus.model_copy(update={"annotations": ANNOTATIONS})

TAXONOMY = taxonomy_path(CORPUS, Path.cwd())
if TAXONOMY is None and set(VARIABLES) & set(HIERARCHIES):
    raise WorkflowError("corpus.taxonomy is needed for invoked and expressed; name its file")
TAXONOMY = [] if TAXONOMY is None else str(TAXONOMY)


if workflow.is_main_process:
    try:
        write_state()
    except CorpusError as error:
        raise WorkflowError(str(error)) from None
    except OSError as error:
        raise WorkflowError(
            f"{RESULTS} cannot be written to ({error.strerror}: {error.filename}); make room or give it to "
            "yourself, or name another folder as `results` in the configuration"
        ) from None


include: "rules/corpus.smk"
include: "rules/splits.smk"
include: "rules/encoder.smk"
include: "rules/features.smk"
include: "rules/tuning.smk"
include: "rules/oof.smk"
include: "rules/models.smk"
include: "rules/blend.smk"
include: "rules/answers.smk"
include: "rules/calibration.smk"
include: "rules/evaluation.smk"
include: "rules/export.smk"
include: "rules/bundle.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        f"{RESULTS}/report/index.html",
        f"{RESULTS}/acceptance.tsv",
        f"{RESULTS}/bundle/manifest.json",
        f"{RESULTS}/corpus/review.csv",
        f"{RESULTS}/corpus/croissant.json",
        [f"{RESULTS}/cards/{name}.md" for name in VARIABLES],
        [path for name in VARIABLES for path in exports(name)],
        wanted(Path(RESULTS) / "state", DELIVERED),


# Every variable's name is a target: its export and what that needs, no more.
for name in VARIABLES:

    rule:
        name:
            name
        input:
            exports(name),


onstart:
    global RUN_LOCK
    try:
        RUN_LOCK = hold_run(Path(RESULTS))
    except BlockingIOError:
        raise WorkflowError(
            f"another run is writing to {RESULTS}; wait for it to end, or give this run its own `results` folder"
        ) from None
    except OSError as error:
        raise WorkflowError(str(error)) from None
    if workflow.local_exec:
        # Snakemake limits how many jobs start in a second, for the sake of clusters. Every job that ends then
        # adds a timer of its own, at which all waiting jobs are looked through again each second: behind a
        # hundred jobs that takes a good part of a core (seen with 9.27).
        workflow.scheduler.job_rate_limiter = None


onsuccess:
    from perceive.evaluation.gates import read_acceptance, summary_text

    acceptance = Path(RESULTS) / "acceptance.tsv"
    if acceptance.exists():
        print(
            f"\n{summary_text(read_acceptance(acceptance))}\n\nLook at {RESULTS}/report/index.html; what to deploy is {RESULTS}/bundle/\n"
        )
