"""One schema behind the default file, the JSON schema, the errors and the slices that decide a rebuild."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from perceive import config, io
from perceive.features.lexical import LICENSABLE
from perceive.variables import HIERARCHIES, VARIABLES

FOLDER = Path(__file__).resolve().parent.parent / "config"
DEFAULT = config.Settings().model_dump(mode="json")
TUNED = {f"tuning/{name}" for name, of in VARIABLES.items() if of.kind == "regression"}
SEARCHED = {f"transformer/{name}" for name in HIERARCHIES}
SEQUENCED = {"sequence/congruence", "sequence/comparator"}
PATH_TREES = {"path_models/lx", "path_models/eb"}
TRANSFORMER = {"path_models/transformer", "models/transformer", *SEARCHED}
BASES = {"models/lx", "models/eb", "models/tm"}
SEEDED = {
    "splits", "agreement", "blend", "evaluation", "export", "models/full", "models/transformer",
    "sequence_models/full", "sequence_models/gru", *BASES, *TUNED, *PATH_TREES, *TRANSFORMER, *SEQUENCED,
}  # fmt: skip


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, entry in value.items():
            yield from leaves(entry, f"{key}.{name}" if key else name)
    else:
        yield key, value


def error_of(raw: dict[str, Any]) -> str:
    with pytest.raises(config.ConfigError) as caught:
        config.validate(raw)
    return str(caught.value)


# --- The files ---------------------------------------------------------------------------------------------


def test_the_generated_files_have_not_drifted(tmp_path: Path) -> None:
    config.write_generated(tmp_path)
    for name in ("config.yaml", "schema.json"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), f"run `make config`: {name}"


def test_the_default_file_holds_every_default_and_a_comment_for_every_key() -> None:
    text = (FOLDER / "config.yaml").read_text()
    assert config.validate(yaml.safe_load(text)) == config.Settings()
    assert yaml.safe_load(text) == DEFAULT
    lines = text.splitlines()
    for number, line in enumerate(lines):
        key = line.strip().partition(":")[0]
        entries_of_a_map = {"en", "hinglish", *VARIABLES, *DEFAULT["corpus"]["synthetic"]["categories"]}
        entries_of_a_map |= set(DEFAULT["gates"])
        if line and not line.lstrip().startswith(("#", "-")) and key not in entries_of_a_map:
            assert lines[number - 1].lstrip().startswith("# "), f"no comment above {line!r}"


def test_every_key_of_the_schema_has_a_description_and_a_default() -> None:
    schema = json.loads((FOLDER / "schema.json").read_text())
    # Entries of lists and maps that a user writes whole; the lists and maps themselves have defaults.
    without_default = {
        ("Range", "low"), ("Range", "high"), ("MappedColumn", "column"), ("Join", "file"),
        ("RatingTable", "file"), ("RatingTable", "labels"), ("Rung", "rows"), ("Rung", "epochs"),
        ("AnnotationFile", "file"), ("DerivedSettings", "formula"),
    }  # fmt: skip
    sections = {"": schema, **schema["$defs"]}
    assert len(sections) > 20
    for name, section in sections.items():
        assert section.get("additionalProperties") is False, name
        for key, entry in section["properties"].items():
            assert len(entry.get("description", "")) > 5, (name, key)
            assert ("default" in entry) != ((name, key) in without_default), (name, key)


@pytest.mark.parametrize(
    "path", sorted([*FOLDER.glob("presets/*.yaml"), *FOLDER.glob("corpora/*.yaml")]), ids=str
)
def test_presets_and_corpora_are_valid(path: Path) -> None:
    raw = yaml.safe_load(path.read_text())
    found = config.validate(raw)
    assert found != config.Settings()
    for key, value in leaves(raw):
        entry: Any = found.model_dump(mode="json")
        for part in key.split("."):
            entry = entry[part]
        assert entry == value or isinstance(value, list) or key == "corpus.order.start", key
    if path.parent.name == "corpora":
        assert found.corpus.source.url and found.corpus.source.licence
        assert found.results != "results" and found.corpus.name in found.ledger_path()


# --- Errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("sead", 1, "sead: unknown key; did you mean 'seed'? Allowed here: results, variables, kinds, seed,"),
        ("splits.fold", 5, "splits.fold: unknown key; did you mean 'folds'? Allowed here: mode, boundary,"),
        ("models.lx.tree", 5, "models.lx.tree: unknown key; did you mean 'trees'?"),
        ("encoders.en.modell", "x", "did you mean 'model'? Allowed here: model, sha256, max_tokens"),
        ("encoders.de", {}, "encoders.de: Input should be 'en' or 'hinglish'"),
        ("tuning.space.max_depth.lo", 3, "tuning.space.max_depth.lo: unknown key; did you mean 'low'?"),
        (
            "corpus.columns.text",
            {"colum": "x"},
            "corpus.columns.text.colum: unknown key; did you mean 'column'?",
        ),
        ("corpus.joins", [{"fil": "x"}], "corpus.joins.0.fil: unknown key; did you mean 'file'?"),
        (
            "corpus.annotations",
            [{"file": "x", "constant": {}}],
            "annotations.0.constant: unknown key; did you mean 'constants'? Allowed here: file, constants",
        ),
        (
            "corpus.annotations",
            ["x", {"file": "x", "constants": {"splits": "test"}}],
            "corpus.annotations.1.constants.splits: Input should be 'owner_id'",
        ),
        ("corpus.header", ["id", "id"], "corpus.header: every column needs a name of its own"),
        (
            "corpus.labels",
            {"invoked": {"value": {}}},
            "corpus.labels.invoked.value: unknown key; did you mean 'values'?",
        ),
        (
            "corpus.labels",
            {"valence": {"separator": ","}},
            "corpus.labels: valence: separator is for invoked and expressed only",
        ),
        (
            "corpus.labels",
            {"invoked": {"values": {"1": None}}},
            "corpus.labels.invoked.values.1: Input should be a valid string",
        ),
        ("corpus.order", {"step": 1}, "Allowed here: column, pattern, step_seconds, start"),
        (
            "corpus.labels",
            {"valence": {"mini": 1}},
            "corpus.labels.valence.mini: unknown key; did you mean 'min'?",
        ),
        ("corpus.labels", {"mood": {}}, "corpus.labels.mood: Input should be 'valence', 'arousal'"),
        (
            "tuning.trials",
            {"valance": 5},
            "tuning.trials: unknown variable 'valance'; choose from valence, arousal",
        ),
        ("gates", {"valance": []}, "gates: unknown variable 'valance'; choose from valence"),
        (
            "features.licensed_lexicons",
            {"joyy": "x"},
            "features.licensed_lexicons.joyy: Input should be 'lex_valence'",
        ),
        ("seed", "abc", "seed: Input should be a valid integer"),
        ("seed", 1.5, "seed: Input should be a valid integer"),
        ("seed", True, "seed: must be a number, not true or false (found True)"),
        ("splits.train", True, "splits.train: must be a number, not true or false"),
        ("splits", None, "splits: Input should be a valid dictionary"),
        ("corpus.columns.text", 3, "corpus.columns.text: Input should be a valid string (found 3)"),
        ("gates", {"valence": "rmse <= 1"}, "gates.valence: Input should be a valid list"),
        ("splits.folds", 1, "splits.folds: Input should be greater than or equal to 2 (found 1)"),
        ("splits.mode", "random", "splits.mode: Input should be 'grouped'"),
        ("splits.train", 0.9, "splits: train + val + test must be 1, but is 1.2"),
        ("splits.train", float("nan"), "splits.train: Input should be"),
        ("models.lx.learning_rate", float("inf"), "models.lx.learning_rate: Input should be"),
        ("encoders.en.sha256", "abc", "encoders.en.sha256: String should match pattern"),
        ("encoders.en.model", None, "encoders.en.model is required"),
        ("variables", [], "variables: List should have at least 1 item"),
        (
            "variables",
            ["mood"],
            "variables: unknown variable 'mood'; choose from valence, arousal, willingness",
        ),
        ("kinds", {"invoked": "sequence"}, "invoked is a hierarchy and stays one"),
        ("kinds", {"mood": "sequence"}, "kinds: unknown variable 'mood'; choose from valence, arousal"),
        ("kinds", {"valence": "hierarchy"}, "kinds.valence: Input should be 'regression' or 'sequence'"),
        ("sequence.space.length", {"high": 11}, "low and high must be at least 1 and at most 10"),
        (
            "transformer.encoder",
            "hinglish",
            "transformer.encoder is hinglish, which has no encoder of its own",
        ),
        ("transformer.space.top_layers", {"low": 0.5, "high": 2}, "low and high must be whole numbers"),
        ("transformer.rungs", [], "transformer.rungs: List should have at least 1 item"),
        ("path_models.levels", 4, "path_models.levels: Input should be less than or equal to 3"),
        ("variables", ["valence", "valence"], "variables: a variable is named twice"),
        ("gates", {"valence": ["loss <= 1"]}, "unknown metric; allowed: rmse, mae"),
        ("gates", {"invoked": ["rmse <= 1"]}, "and of each level, as in macro_f1_core: macro_f1, accuracy"),
        ("tuning.space.num_leaves", {"low": 64, "high": 32}, "low (64) must not be above high (32)"),
        (
            "tuning.space.learning_rate",
            {"low": 0},
            "tuning.space.learning_rate: low and high must be above 0",
        ),
        ("tuning.space.feature_fraction", {"high": 1.5}, "low and high must be above 0 and at most 1"),
        (
            "tuning.space.max_depth",
            {"low": 2.5},
            "tuning.space.max_depth: low and high must be whole numbers",
        ),
        ("tuning.space.lambda_l1", {"low": -1}, "tuning.space.lambda_l1: low and high must be at least 0"),
        (
            "tuning.space.lambda_l2",
            {"low": float("nan")},
            "tuning.space.lambda_l2.low: Input should be a finite",
        ),
        (
            "corpus.limits.max_rejected_share",
            2,
            "corpus.limits.max_rejected_share: Input should be less than",
        ),
    ],
)
def test_an_error_names_the_key_and_what_is_allowed(key: str, value: Any, said: str) -> None:
    assert said in error_of(nested(key, value))


def test_all_errors_are_named_at_once() -> None:
    text = error_of({"seed": -1, "blend": {"max_depth": 99, "leaves": 3}})
    assert [line.strip().split(":")[0] for line in text.splitlines()[1:]] == [
        "seed",
        "blend.max_depth",
        "blend.leaves",
    ]


@pytest.mark.parametrize("value", ["a", None, [], float("nan"), -1e12])
def test_no_number_may_be_nonsense(value: Any) -> None:
    keys = [key for key, known in leaves(DEFAULT) if type(known) in (int, float)]
    assert len(keys) > 60
    for key in keys:
        message = error_of(nested(key, value))
        assert ".".join(key.split(".")[:2]) in message, key


def test_defaults_of_a_map_stay_where_one_entry_is_given() -> None:
    found = config.validate(
        {"tuning": {"trials": {"valence": 3}}, "encoders": {"hinglish": {"max_tokens": 64}}}
    )
    assert found.tuning.trials == {
        "valence": 3, "arousal": 80, "willingness": 60, "invoked": 60, "expressed": 60,
        "congruence": 40, "comparator": 40,
    }  # fmt: skip
    assert found.encoders["en"] == config.Settings().encoders["en"]
    assert found.encoders["hinglish"].max_tokens == 64


def test_merging_leaves_its_arguments_alone() -> None:
    base, override = {"a": {"b": [1], "c": 2}}, {"a": {"b": [3]}, "d": {"e": 4}}
    merged = config.merge(base, override)
    assert merged == {"a": {"b": [3], "c": 2}, "d": {"e": 4}}
    merged["a"]["b"].append(9)
    merged["d"]["e"] = 9
    assert (base, override) == ({"a": {"b": [1], "c": 2}}, {"a": {"b": [3]}, "d": {"e": 4}})


@pytest.mark.parametrize(
    ("given_name", "wanted"), [("results/", "results"), ("a//b/./c/", "a/b/c"), ("/x", "/x")]
)
def test_the_results_folder_has_one_spelling(given_name: str, wanted: str) -> None:
    assert config.validate({"results": given_name}).results == wanted


def test_the_ledger_is_named_after_the_corpus() -> None:
    found = config.validate({"corpus": {"name": "my corpus/2024"}})
    assert found.ledger_path() == "config/ledgers/my_corpus_2024.csv"


def test_licensed_features_are_those_of_the_extractor() -> None:
    names = {name: "list.tsv" for name in LICENSABLE}
    assert (
        dict(config.validate({"features": {"licensed_lexicons": names}}).features.licensed_lexicons) == names
    )


# --- Slices ------------------------------------------------------------------------------------------------


def changed_slices(raw: dict[str, Any]) -> set[str]:
    before, after = config.slices(config.Settings()), config.slices(config.validate(raw))
    assert before.keys() == after.keys()
    return {name for name in before if io.dumps(before[name]) != io.dumps(after[name])}


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ({"results": "elsewhere"}, set()),
        ({"seed": 1}, {*SEEDED, "bundle"}),
        ({"privacy": {"salt": "mine"}}, {"splits", "portrait", "evaluation"}),
        ({"corpus": {"synthetic": {"noise": 2}}}, {"synthesize"}),
        ({"agreement": {"kappa": 0.6}}, {"agreement", "verdicts"}),
        ({"splits": {"near_duplicates": {"threshold": 0.9}}}, {"splits"}),
        ({"corpus": {"default_language": "hinglish"}}, {"ingest", "bundle"}),
        ({"corpus": {"name": "other"}}, {"ingest", "splits", "bundle", "report"}),
        ({"corpus": {"annotations": [{"file": "a", "constants": {"split": "test"}}]}}, {"ingest"}),
        ({"corpus": {"header": ["id", "text"]}}, {"ingest"}),
        ({"corpus": {"labels": {"invoked": {"values": {17: "Happy"}}}}}, {"ingest"}),
        ({"corpus": {"labels": {"invoked": {"separator": ","}}}}, {"ingest"}),
        ({"splits": {"folds": 4}}, {"splits"}),
        ({"splits": {"ledger": "x.csv"}}, {"splits"}),
        ({"encoders": {"hinglish": {"max_tokens": 128}}}, {"encoder"}),
        ({"features": {"licensed_lexicons": {"joy": "joy.tsv"}}}, {"lexical", "bundle"}),
        ({"models": {"lx": {"trees": 10}}}, {"models/lx"}),
        ({"models": {"tm": {"max_depth": 2}}}, {"models/tm"}),
        ({"models": {"transformer": {"epochs": 9}}}, {"models/transformer"}),
        ({"models": {"max_bin": 255}}, {"models/full", "sequence_models/full", *BASES, *TUNED, *PATH_TREES}),
        ({"tuning": {"patience": 3}}, {*TUNED, *SEARCHED, *SEQUENCED}),
        ({"tuning": {"pruning_startup": 3}}, {*TUNED, *SEQUENCED}),
        ({"tuning": {"trials": {"comparator": 3}}}, {"sequence/comparator"}),
        ({"sequence": {"max_epochs": 3}}, SEQUENCED),
        ({"sequence": {"full": {"trees": 3}}}, {"sequence_models/full"}),
        ({"tuning": {"trials": {"invoked": 3}}}, {"transformer/invoked"}),
        ({"path_models": {"eb": {"trees": 3}}}, {"path_models/eb"}),
        ({"path_models": {"levels": 1}}, PATH_TREES),
        ({"transformer": {"space": {"gamma": {"high": 2.5}}}}, SEARCHED),
        ({"transformer": {"batch_rows": 64}}, TRANSFORMER),
        ({"encoders": {"en": {"max_tokens": 128}}}, {"encoder", "serving", "latency", *TRANSFORMER}),
        ({"tuning": {"trials": {"arousal": 3}}}, {"tuning/arousal"}),
        ({"tuning": {"space": {"lambda_l1": {"high": 1}}}}, TUNED),
        ({"blend": {"max_trees": 10}}, {"blend"}),
        ({"calibration": {"ridge": 1}}, {"calibration"}),
        ({"evaluation": {"bootstrap": 100}}, {"evaluation"}),
        ({"gates": {"valence": ["rmse <= 0.5"]}}, {"verdicts"}),
        ({"gates": {"congruence": []}}, {"verdicts"}),
        ({"acceptance": {"group_gap": {"scale": 0.01}}}, {"verdicts"}),
        ({"acceptance": {"latency_ms": 5}}, {"acceptance"}),
        ({"export": {"latency_repeats": 20}}, {"export", "latency"}),
        ({"bundle": {"precision": "int8"}}, {"bundle"}),
    ],
)
def test_a_changed_key_changes_exactly_the_slices_of_its_readers(
    raw: dict[str, Any], wanted: set[str]
) -> None:
    assert changed_slices(raw) == wanted


# The three shares must sum to one, so none can change alone.
TOGETHER = {"splits.train", "splits.val", "splits.test"}


def other(key: str, value: Any) -> Any:
    """Another valid value of a leaf."""
    special = {
        "splits.mode": "grouped_temporal",
        "splits.published": "ignore",
        "bundle.precision": "fp16",
        "transformer.precision": "f32",
        "transformer.device": "cpu",
        "transformer.rungs": [{"rows": 1.0, "epochs": 1.0}],
        "encoders.en.sha256": "0" * 64,
        "encoders.hinglish.sha256": "0" * 64,
        "corpus.format": "csv",
        "corpus.default_language": "hinglish",
        "corpus.default_timezone": "Asia/Kolkata",
        "corpus.delimiter": ";",
        "corpus.quote_char": "'",
        "corpus.order": {"column": "position"},
        "corpus.limits.min_timestamp": "2001-01-01",
        "corpus.limits.max_timestamp": "2030-01-01",
        "corpus.synthetic.start": "2024-01-01",
        "corpus.annotations": ["x.jsonl"],
        "corpus.constants": {"risk_level": "LOW"},
        "corpus.labels": {"valence": {"max": 5}},
        "corpus.taxonomy": None,
        "corpus.ratings": [{"file": "x.csv", "labels": {"valence": {"column": "V"}}}],
        "splits.boundary": "2025-03-05",
        "corpus.joins": [{"file": "x.csv"}],
        "corpus.derived": {"comparator": {"formula": "abs(valence - usual(valence))"}},
        "features.licensed_lexicons": {"joy": "x"},
    }
    if key in special:
        return special[key]
    if isinstance(value, list):
        return [*value, "exact_path >= 0.5" if key.split(".")[-1] in HIERARCHIES else "mae <= 0.5"]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1 if value < 250 or "max_tokens" not in key else value - 1
    if isinstance(value, float):
        if "top_layers" in key or "layers.low" in key or "layers.high" in key:
            return value + 1
        return value - 1 if value > 2 and value.is_integer() else value * 0.9 or 0.1
    return f"{value or 'x'}-other"


def test_every_setting_reaches_a_slice() -> None:
    # These say where and what, and are no input of a job.
    exempt = {
        "results",
        "variables",
        *(f"kinds.{name}" for name in DEFAULT["kinds"]),
        # Alone it is refused: the other language has no encoder of its own.
        "transformer.encoder",
        # How many search is no reason to search again.
        "tuning.workers",
    }
    silent = []
    for key, value in leaves(DEFAULT):
        changed = other(key, value)
        if key in exempt or key in TOGETHER:
            continue
        if not changed_slices(nested(key, changed)):
            silent.append(key)
    assert not silent
    assert changed_slices({"splits": {"train": 0.6, "val": 0.25}}) == {"splits"}


def test_slices_of_the_variables_that_are_built_only() -> None:
    found = config.slices(config.validate({"variables": ["arousal"]}))
    assert {name for name in found if name.startswith("tuning/")} == {"tuning/arousal"}
    assert set(found["verdicts"]["gates"]) == {"arousal"}
    assert found["tuning/arousal"]["trials"] == 80


def test_the_kind_of_a_scale_is_configuration() -> None:
    settings = config.validate({"variables": ["valence", "comparator"], "kinds": {"valence": "sequence"}})
    assert settings.kind("valence") == "sequence" and settings.kind("arousal") == "regression"
    assert settings.kind("comparator") == "sequence" and settings.kind("invoked") == "hierarchy"
    found = config.slices(settings)
    assert "tuning/valence" not in found and found["sequence/valence"]["trials"] == 80
    assert "models/transformer" not in found


def test_only_what_is_built_is_read() -> None:
    assert config.Settings().reads("congruence") == ("invoked", "expressed", "valence", "arousal")
    assert config.validate({"variables": ["comparator", "arousal"]}).reads("comparator") == ("arousal",)
    assert config.validate({"variables": ["willingness"]}).reads("willingness") == ()


def test_every_slice_is_plain_json() -> None:
    for name, value in config.slices(config.Settings()).items():
        assert json.loads(io.dumps(value)) == value, name
