"""The `corpus:` section of the configuration: where the annotations lie and how to read them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from perceive.corpus.composition import CATEGORIES, HIGH_RISK, HINGLISH_ITEMS, MEDIUM_RISK_ITEMS, OWNERS
from perceive.corpus.formulas import Formula, FormulaError, check_column_name
from perceive.variables import HIERARCHIES, SCALES, VARIABLES

Language = Literal["en", "hinglish"]
Variable = Literal["valence", "arousal", "willingness", "invoked", "expressed", "congruence", "comparator"]


def _iso_date(value: Any) -> str:
    # YAML reads an unquoted 2025-01-01 as a date.
    try:
        return date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise ValueError("not a date of the form 2025-01-31") from None


IsoDate = Annotated[str, BeforeValidator(_iso_date)]


def _as_texts(value: Any) -> Any:
    # YAML reads an unquoted True, 1 or .5 as bool, int or float; the cells of a CSV are texts.
    if not isinstance(value, dict):
        return value
    return {str(k): str(v) if isinstance(v, int | float) else v for k, v in value.items()}


Texts = Annotated[dict[str, str], BeforeValidator(_as_texts)]
ConstantField = Literal["owner_id", "timestamp", "language", "category", "risk_level", "device", "split"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MappedColumn(_Section):
    """A column whose values are translated before they are checked."""

    column: str = Field(min_length=1, description="Name of the column (or JSON key).")
    values: Texts = Field(
        default_factory=dict,
        description="Translation of the column's values (e.g. dev: test). A value that is not listed here "
        "is rejected. Empty: no translation.",
    )


Column = str | MappedColumn | None


class Columns(_Section):
    """Which column (or JSON key) holds which field; by default a field's column carries its name."""

    item_id: Column = Field(
        None, description="Unique id of the item; absent: derived from owner, time and text."
    )
    owner_id: Column = Field(None, description="Who wrote the text (a person; for documents, the document).")
    text: Column = Field(None, description="The text.")
    timestamp: Column = Field(
        None, description="When it was written: ISO 8601, epoch seconds or milliseconds."
    )
    language: Column = Field(None, description="Language of the text: en or hinglish.")
    category: Column = Field(None, description="Category of the item (free name, used for slices).")
    risk_level: Column = Field(None, description="LOW, MEDIUM or HIGH.")
    device: Column = Field(None, description="Device the text was written on (free name).")
    split: Column = Field(None, description="The corpus's own published split: train, val or test.")
    withdrawn: Column = Field(
        None,
        description="true (or 1, yes) in a line of a later file withdraws the item; the rest is not read.",
    )


class LabelColumn(_Section):
    """Where one variable's label lies and on which scale."""

    column: str | None = Field(
        None,
        description="Column (or top-level JSON key) with the label. null: for CSV and TSV the variable's "
        "name, for JSONL the variable's entry in perception_labels.",
    )
    min: float = Field(0.0, description="Label that becomes 0 (scales only).")
    max: float = Field(1.0, description="Label that becomes 1 (scales only).")
    values: Texts = Field(
        default_factory=dict,
        description="Translation of the corpus's own values into paths of the taxonomy (or numbers of the "
        'scale), e.g. "17": positive/joy/joy. A value that is not listed here is rejected. Empty: no '
        "translation.",
    )
    separator: str | None = Field(
        None,
        min_length=1,
        description="What stands between several paths (or values) in one place. The label is then their "
        "deepest common ancestor; without one the item has no label, which the summary counts. null: one "
        "path (invoked and expressed only).",
    )

    @model_validator(mode="after")
    def _consistent(self) -> LabelColumn:
        if not self.min < self.max:
            raise ValueError("min must be less than max")
        if self.separator == "/" and not self.values:
            raise ValueError("separator: a slash divides the parts of one path; translate by values")
        return self


def _only_paths_have_ancestors(labels: dict[Variable, LabelColumn]) -> dict[Variable, LabelColumn]:
    for name, label in labels.items():
        if label.separator is not None and name not in HIERARCHIES:
            raise ValueError(f"{name}: separator is for {' and '.join(HIERARCHIES)} only")
    return labels


LabelColumns = Annotated[dict[Variable, LabelColumn], AfterValidator(_only_paths_have_ancestors)]


class AnnotationFile(_Section):
    """An annotation file, and what all its records have in common."""

    file: str = Field(min_length=1, description="Path of the file; ${VAR:-default} is expanded.")
    constants: dict[ConstantField, str] = Field(
        default_factory=dict,
        description="Values for fields that a record of this file leaves out, as if it gave them itself, "
        "e.g. split: test. They go before corpus.constants.",
    )


class Join(_Section):
    """A small second table (CSV or TSV by its suffix) that adds columns to each record."""

    file: str = Field(min_length=1, description="Path of the table; ${VAR:-default} is expanded.")
    column: str = Field("item_id", min_length=1, description="Column of the annotations that is looked up.")
    key: str | None = Field(None, description="Column of the table to look it up in; null: of the same name.")
    add: list[str] | dict[str, str] = Field(
        default_factory=list,
        description="Columns of the table to add to each record; as a map, where they are to carry other "
        "names there: {reader_V: V} adds the table's V as reader_V.",
    )

    @property
    def added(self) -> dict[str, str]:
        """Name in the record to column of the table."""
        return self.add if isinstance(self.add, dict) else {name: name for name in self.add}


class RatingTable(_Section):
    """A long table of single ratings, one row a rating of an item by an annotator."""

    file: str = Field(
        min_length=1, description="Path of the table (CSV, TSV or JSONL); ${VAR:-default} is expanded."
    )
    item_id: str = Field("item_id", min_length=1, description="Column with the item's id.")
    annotator: str | None = Field(
        None, description="Column with the annotator's id. null: each row is another rater, without a name."
    )
    labels: LabelColumns = Field(
        min_length=1,
        description="Column and scale of each label; a column of null carries the variable's name.",
    )
    leave_out: Texts = Field(
        default_factory=dict,
        description="Rows in which all these columns have these values are no ratings, as those that a "
        'publisher discarded: {V: "1", A: "1"}. They are counted. Empty: every row is a rating.',
    )


class DerivedColumn(_Section):
    """A column that a formula reads, mapped to 0..1."""

    column: str | None = Field(
        None,
        min_length=1,
        description="Column (or top-level JSON key), of a joined table too. null: it carries the name that "
        "the formula uses.",
    )
    min: float = Field(0.0, allow_inf_nan=False, description="Value that becomes 0.")
    max: float = Field(1.0, allow_inf_nan=False, description="Value that becomes 1.")

    @model_validator(mode="after")
    def _ordered(self) -> DerivedColumn:
        if not self.min < self.max:
            raise ValueError("min must be less than max")
        return self


class DerivedSettings(_Section):
    """How the labels of a scale are computed for the items that have none of their own."""

    formula: str = Field(
        min_length=1,
        description="Numbers, + - * /, parentheses, abs, min, max, sqrt, the names of columns below and of "
        "labelled scales (0..1), and of the owner's strictly earlier items usual(x), the mean of x, and "
        "last(x), its latest value. Where an input lacks there is no label; results are cut to 0..1.",
    )
    columns: dict[str, DerivedColumn] = Field(
        default_factory=dict,
        description="Name in the formula to column and scale, e.g. "
        "reader: {column: reader_V, min: 1, max: 5}.",
    )


def _formulas_are_sound(derived: dict[Variable, DerivedSettings]) -> dict[Variable, DerivedSettings]:
    refused = {name: "it is a path, not a number" for name in HIERARCHIES}
    refused |= {name: "it is derived itself; formulas read labels that were given" for name in derived}
    for variable, wanted in derived.items():
        if variable in HIERARCHIES:
            raise ValueError(f"{variable}: only scales can be derived: {', '.join(SCALES)}")
        try:
            for name in wanted.columns:
                check_column_name(name, VARIABLES)
            known = [*wanted.columns, *(name for name in SCALES if name not in derived)]
            formula = Formula(wanted.formula, known, refused)
        except FormulaError as error:
            raise ValueError(f"{variable}: {error}") from None
        if idle := [name for name in wanted.columns if name not in formula.names]:
            raise ValueError(f"{variable}: the formula does not use the columns {', '.join(idle)}")
    return derived


class AggregationSettings(_Section):
    """What is done to ratings before they are averaged."""

    bias_correction: bool = Field(
        False,
        description="Subtract each annotator's own bias on a scale (how far they rate above or below the "
        "others on the same items) before averaging.",
    )


class OrderByPosition(_Section):
    """Derive the timestamp from a position, for corpora that know an order but no time."""

    column: str = Field("item_id", min_length=1, description="Column (or JSON key) that holds the position.")
    pattern: str = Field(
        r"(\d+)$",
        description="Regular expression searched in that column; its first group is the position (digits).",
    )
    step_seconds: float = Field(1.0, gt=0, description="Seconds for one step of the position.")
    start: datetime = Field(
        datetime(2000, 1, 1, tzinfo=UTC), description="Time of position 0 (without a zone: UTC)."
    )

    @field_validator("pattern")
    @classmethod
    def _has_a_group(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if groups < 1:
            raise ValueError("the pattern needs a group that captures the position, e.g. _(\\d+)$")
        return value


class Limits(_Section):
    """What is too much to be true."""

    min_timestamp: IsoDate = Field("1990-01-01", description="Items before this UTC date are rejected.")
    max_timestamp: IsoDate = Field("2100-01-01", description="Items from this UTC date on are rejected.")
    max_text_chars: int = Field(100_000, ge=1, description="Longest text accepted, in characters.")
    max_rejected_share: float = Field(
        0.05, ge=0, le=1, description="The run stops when a larger share of the lines is rejected."
    )
    n_first_reasons: int = Field(5, ge=1, description="How many rejected lines that error lists.")

    @model_validator(mode="after")
    def _ordered(self) -> Limits:
        if not self.min_timestamp < self.max_timestamp:
            raise ValueError("min_timestamp must be before max_timestamp")
        return self


class Source(_Section):
    """Where the corpus is to be had; repeated in the error for a missing file."""

    url: str | None = Field(None, description="Where to get the corpus.")
    licence: str | None = Field(None, description="Licence of the corpus.")
    citation: str | None = Field(None, description="How to cite it.")


class SyntheticSettings(_Section):
    """The generated corpus that is used when no annotations are given."""

    seed: int = Field(137, ge=0, description="Seed of the generator.")
    categories: dict[str, int] = Field(
        default_factory=lambda: dict(CATEGORIES),
        description="Exact number of items of each category.",
    )
    hinglish_items: int = Field(
        HINGLISH_ITEMS, ge=0, description="How many of the items are Hinglish; the others are English."
    )
    medium_risk_items: int = Field(
        MEDIUM_RISK_ITEMS,
        ge=0,
        description="How many of the items have risk_level MEDIUM. HIGH are exactly the items of "
        "suicide_ideation, self_harm, abuse and financial_coercion; all others are LOW.",
    )
    owners: int = Field(OWNERS, ge=1, description="Number of owners.")
    days: int = Field(90, ge=1, description="Days that the timelines span.")
    start: IsoDate = Field("2025-01-01", description="First day of the timelines.")
    annotators: int = Field(3, ge=1, le=20, description="Simulated annotators; each rates every item.")
    noise: float = Field(
        1.0,
        ge=0,
        le=5,
        description="Noise of the annotators, as a multiple of the default one, at which a perfect model "
        "reaches r of about .95 on the scales. 0: they all tell the true state.",
    )

    @model_validator(mode="after")
    def _counts_fit(self) -> SyntheticSettings:
        if any(count < 0 for count in self.categories.values()):
            raise ValueError("categories: counts must not be negative")
        if not self.owners <= self.items:
            raise ValueError(f"owners ({self.owners}) must not exceed the number of items ({self.items})")
        if self.hinglish_items > self.items:
            raise ValueError(
                f"hinglish_items ({self.hinglish_items}) must not exceed the items ({self.items})"
            )
        lower = sum(count for name, count in self.categories.items() if name not in HIGH_RISK)
        if self.medium_risk_items > lower:
            raise ValueError(
                f"medium_risk_items ({self.medium_risk_items}) must not exceed the items of the categories "
                f"without high risk ({lower})"
            )
        return self

    @property
    def items(self) -> int:
        """Total number of items."""
        return sum(self.categories.values())


class CorpusSettings(_Section):
    """The corpus: annotation files and how to read them, or the generator's settings."""

    name: str = Field("synthetic", min_length=1, description="Name of the corpus, for reports and errors.")
    annotations: list[str | AnnotationFile] = Field(
        default_factory=list,
        description="Annotation files, in order: later files are later rounds, whose lines correct the items "
        "that they name, field by field, and add others. Relative to the folder that snakemake runs in; "
        "${VAR:-default} is expanded. An entry is a path, or {file: PATH, constants: {split: test}} where "
        "all records of a file have something in common. Empty: the synthetic corpus.",
    )
    format: Literal["auto", "jsonl", "csv", "tsv"] = Field(
        "auto", description="Format of the annotation files; auto: by suffix."
    )
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="Delimiter of CSV/TSV; null: comma for csv, tab for tsv.",
    )
    quote_char: str | None = Field(
        '"',
        min_length=1,
        max_length=1,
        description="Quote character of CSV/TSV; null: fields are never quoted.",
    )
    header: list[str] = Field(
        default_factory=list,
        description="Names of the columns, in order, of CSV/TSV files that begin without a header. Empty: "
        "their first line names the columns.",
    )
    columns: Columns = Field(Columns(), description="Which column holds which field.")
    constants: dict[ConstantField, str] = Field(
        default_factory=dict, description="Values for fields that a record leaves out, e.g. risk_level: LOW."
    )
    labels: LabelColumns = Field(
        default_factory=dict,
        description="Column and scale of each label. CSV and TSV have no other labels than those named here; "
        "JSONL reads perception_labels (0..1) in any case.",
    )
    taxonomy: str | None = Field(
        "resources/taxonomy.tsv",
        description="Table of the paths that invoked and expressed may have (core, nuance, micro, tier; one "
        "to three levels), relative to the folder that snakemake runs in, or else to the repository; "
        "${VAR:-default} is expanded. null: any path.",
    )
    joins: list[Join] = Field(default_factory=list, description="Tables that add columns to each record.")
    ratings: list[RatingTable] = Field(
        default_factory=list,
        description="Tables of single ratings. They are aggregated where the annotations have no label; "
        "where these have one, it stays, and the ratings tell how many raters there were and how far apart.",
    )
    derived: Annotated[dict[Variable, DerivedSettings], AfterValidator(_formulas_are_sound)] = Field(
        default_factory=dict,
        description="Formulas of scales for the items that have no label of them, such as comparator: "
        '{formula: "min(1, 2 * abs(valence - usual(valence)))"}. They are marked as derived everywhere.',
    )
    aggregation: AggregationSettings = Field(
        AggregationSettings(), description="How several ratings of an item become one label."
    )
    order: OrderByPosition | None = Field(
        None, description="Derive the timestamp from a position; null: the record has a timestamp."
    )
    default_language: Language = Field("en", description="Language of items that name none.")
    default_timezone: str = Field("UTC", description="Time zone (IANA name) of timestamps that name none.")
    limits: Limits = Field(Limits(), description="What is rejected as absurd, and how much of it.")
    source: Source = Field(Source(), description="Where the corpus is to be had.")
    synthetic: SyntheticSettings = Field(
        SyntheticSettings(),
        description="The generated corpus, used where annotations is empty.",
    )

    @field_validator("annotations", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | dict) else value

    @field_validator("header")
    @classmethod
    def _names_are_different(cls, value: list[str]) -> list[str]:
        names = [name.strip() for name in value]
        if not all(names) or len(set(names)) != len(names):
            raise ValueError("every column needs a name of its own")
        return names

    @field_validator("default_timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("not a known IANA time zone, e.g. UTC or Asia/Kolkata") from None
        return value

    @field_validator("joins")
    @classmethod
    def _each_column_is_added_once(cls, value: list[Join]) -> list[Join]:
        names = [name for join in value for name in join.add]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"two tables add the columns {', '.join(twice)}; rename them by a map, e.g. "
                f"add: {{other_{twice[0]}: {twice[0]}}}"
            )
        return value

    @model_validator(mode="after")
    def _one_source_of_time(self) -> CorpusSettings:
        if self.order is not None and self.columns.timestamp is not None:
            raise ValueError("give either columns.timestamp or order, not both")
        constants = [self.constants, *(one.constants for one in self.files)]
        if self.order is not None and any("timestamp" in given for given in constants):
            raise ValueError("give either constants.timestamp or order, not both")
        return self

    @property
    def files(self) -> list[AnnotationFile]:
        """The annotation files, in order, those without constants too."""
        return [AnnotationFile(file=one) if isinstance(one, str) else one for one in self.annotations]
