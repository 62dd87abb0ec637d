"""From a record to a draft, which holds what one line says of an item, and from a draft to the item."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from perceive.corpus.aggregate import (
    ROOT,
    Bias,
    Label,
    Rating,
    Value,
    core_spread,
    path_label,
    rating_order,
    scale_label,
)
from perceive.corpus.records import CorpusError, Record, Rejected, Tally, load_join, printable
from perceive.corpus.values import (
    MAX_CACHED,
    MAX_ID_CHARS,
    MICROSECONDS,
    LabelParser,
    check_name,
    check_text,
    identifier,
    is_blank,
    length_bucket,
    parse_timestamp,
    scale_cell,
    scale_value,
    unknown_label,
)
from perceive.variables import HIERARCHIES, VARIABLES

if TYPE_CHECKING:
    from perceive.corpus.ratings import RatingTables
    from perceive.corpus.settings import CorpusSettings, OrderByPosition
    from perceive.taxonomy import Taxonomy

NEEDED = ("owner_id", "text", "timestamp")
NAMES = ("language", "category", "risk_level", "device", "split")
FIELDS = ("item_id", *NEEDED, *NAMES, "withdrawn")
_ANNOTATION_KEYS = frozenset({"annotator_id", "perception_labels"})
_NOTHING: dict[str, Any] = {}
_NO_VARIABLES: frozenset[str] = frozenset()


class Labels(Mapping[str, Label]):
    """Variable to label of one item: (value, n_raters, spread), aggregated when asked for.

    Few readers need them all. Spread is the sample standard deviation over raters (for hierarchies the share
    of raters whose core is not the label's) and NaN with one rater.
    """

    __slots__ = ("_drafter", "_item_id", "_published", "_ratings")

    def __init__(
        self,
        drafter: Drafter,
        item_id: str,
        ratings: dict[str, list[Rating]],
        published: Mapping[str, Value],
    ) -> None:
        self._drafter = drafter
        self._item_id = item_id
        self._ratings = ratings
        self._published = published

    def __getitem__(self, variable: str) -> Label:
        ratings = self._ratings[variable]
        value, count, spread = self._drafter.label(variable, ratings, self._item_id)
        if variable in self._published:
            value = self._published[variable]
            if type(value) is tuple:
                spread = core_spread([path for _, path in ratings], value)  # type: ignore[misc]
        return value, count, spread

    def __iter__(self) -> Iterator[str]:
        return iter(self._ratings)

    def __len__(self) -> int:
        return len(self._ratings)


@dataclass(slots=True)
class Item:
    """One item, after all rounds.

    `timestamp` is in microseconds since 1970 (UTC). `ratings` maps a variable to every single rating, as
    (annotator, value) in the order of the annotators' ids; a plain label is one rating by None. A value is a
    number in 0..1 for scales and (core, nuance, micro) for hierarchies. `labels` maps a variable to (value,
    n_raters, spread), see Labels. `cleaned` tells that control characters were removed from the text.
    `inputs` are the values (0..1) of the columns that the formulas of `corpus.derived` read, in their order.
    """

    item_id: str
    owner_id: str
    text: str
    timestamp: int
    language: str
    length_bucket: str
    category: str | None
    risk_level: str | None
    device: str | None
    split: str | None
    extra: str | None
    ratings: dict[str, list[Rating]]
    labels: Mapping[str, Label]
    cleaned: bool
    inputs: Sequence[float | None] = ()


@dataclass(slots=True)
class Draft:
    """What the lines read so far say of one item: None where they say nothing.

    `ratings` is as in Item, but that labels without a common ancestor are a rating too, ROOT, which can be
    corrected like others; `removed` names the ratings that the line takes away, as (variable, annotator),
    or (variable, None) for all of the variable. `cleaned`: control characters were removed from the text;
    `naive`: the timestamp named no zone; `derived`: the line had no id; `inputs`: as in Item; `unjoined`: the
    column that was not looked up in a joined table.
    """

    item_id: str
    owner_id: str | None = None
    text: str | None = None
    timestamp: int | None = None
    language: str | None = None
    category: str | None = None
    risk_level: str | None = None
    device: str | None = None
    split: str | None = None
    extra: str | None = None
    cleaned: bool = False
    naive: bool = False
    derived: bool = False
    inputs: list[float | None] = field(default_factory=list)
    ratings: dict[str, list[Rating]] = field(default_factory=dict)
    removed: list[tuple[str, str | None]] = field(default_factory=list)
    withdrawn: bool = False
    unjoined: str | None = None


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, in which NaN and infinities are a ValueError."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True)


def _remove_roots(ratings: dict[str, list[Rating]]) -> set[str]:
    """Remove the ratings that name paths without a common ancestor; return the variables that had any."""
    found = {variable for variable, given in ratings.items() if any(value == ROOT for _, value in given)}
    for variable in found:
        kept = [rating for rating in ratings.pop(variable) if rating[1] != ROOT]
        if kept:
            ratings[variable] = kept
    return found


class Drafter:
    """Checks records (a mapping of column to raw value), drafts what they say, and completes drafts.

    `tables` and `biases` enter the labels; whoever reads the corpus sets them. `tally` counts the items.
    """

    def __init__(
        self, settings: CorpusSettings, base_dir: Path | str, taxonomy: Taxonomy | None, tally: Tally
    ) -> None:
        self.tables: RatingTables | None = None
        self._tally = tally
        self.biases: Mapping[str, Bias] = {}
        self.column: dict[str, str] = {}
        self._mapped: set[str] = set()
        self._values: dict[str, dict[str, str]] = {}
        for name in FIELDS:
            configured = getattr(settings.columns, name)
            if configured is None:
                self.column[name] = name
                continue
            self._mapped.add(name)
            if isinstance(configured, str):
                self.column[name] = configured
            else:
                self.column[name] = configured.column
                if configured.values:
                    self._values[name] = configured.values
        self._default_language = settings.default_language
        self._zone = UTC if settings.default_timezone == "UTC" else ZoneInfo(settings.default_timezone)
        limits = settings.limits
        self._earliest = parse_timestamp(limits.min_timestamp)[0]
        self._latest = parse_timestamp(limits.max_timestamp)[0]
        self._time_reason = f"outside {limits.min_timestamp} to {limits.max_timestamp}"
        self._max_chars = limits.max_text_chars
        labels = settings.labels.items()
        self._label_columns = {variable: label.column for variable, label in labels}
        self._parser = LabelParser(settings.labels, taxonomy, "corpus.labels")
        tables = [settings.labels, *(table.labels for table in settings.ratings)]
        self._several = any(label.separator for table in tables for label in table.values())
        self._order = settings.order
        if self._order is not None:
            self._pattern = re.compile(self._order.pattern)
            start = self._order.start
            start = start if start.tzinfo else start.replace(tzinfo=UTC)
            self._order_start = parse_timestamp(start.isoformat())[0]
        self._joins = [
            (join.column, load_join(settings, index, base_dir)) for index, join in enumerate(settings.joins)
        ]
        self._joined_columns = {name for join in settings.joins for name in join.added}
        self._inputs = [
            (column.column or name, column.min, column.max)
            for wanted in settings.derived.values()
            for name, column in wanted.columns.items()
        ]
        # Unknown fields are all but these. A timestamp stays one when the order replaces it.
        known = set(self.column.values())
        if self._order is not None:
            known.discard(self.column["timestamp"])
            known.add(self._order.column)
        known |= {column for column, _, _ in self._inputs}
        self._known_csv = known | {column or variable for variable, column in self._label_columns.items()}
        self._known = known | {column for column in self._label_columns.values() if column}
        self._known |= {"perception_labels", "annotations"}
        self._name_columns = [self.column[name] for name in NAMES]
        self._known_names: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self._annotators: dict[str, str] = {}
        self._constants = self._checked(settings.constants, "corpus.constants")
        # Of each annotation file; what they say, each of its records says.
        self.constants_of = [
            self._checked(one.constants, f"corpus.annotations[{number}].constants")
            for number, one in enumerate(settings.files)
        ]

    def _checked(self, constants: Mapping[Any, str], key: str) -> Mapping[str, Any]:
        checked: dict[str, Any] = {}
        for name, value in constants.items():
            try:
                if name == "owner_id":
                    checked[name] = identifier(name, value)
                elif name == "timestamp":
                    checked[name] = self._time(value)
                else:
                    checked[name] = check_name(name, value)
            except Rejected as rejected:
                raise CorpusError(f"{key}.{name}: {rejected.reason}") from None
        return checked

    def check_header(self, header: Iterable[str], shown: str, number: int) -> None:
        """Check the columns of a CSV or TSV file, that of round `number`.

        A file of a later round needs the item's id and something that it corrects; without the id it needs
        what a first one does.

        Raises
        ------
        CorpusError
            If no record of the file could be accepted, or a table is joined to columns that are there.
        """
        present = set(header)
        given = self.constants_of[number]
        required = {self.column[name] for name in NEEDED if name not in self._constants and name not in given}
        if self._order is not None:
            required -= {self.column["timestamp"]}
            required.add(self._order.column)
        required |= {self.column[name] for name in self._mapped - {"withdrawn"}}
        required |= {column for column, _ in self._joins}
        required |= {column or variable for variable, column in self._label_columns.items()}
        required |= {column for column, _, _ in self._inputs}
        required -= self._joined_columns
        if clash := sorted(present & self._joined_columns):
            raise CorpusError(f"{shown}: the columns {', '.join(clash)} are there already; do not join them")
        derived = "corpus.derived, " if self._inputs else ""
        remedy = f"correct corpus.columns, corpus.labels, {derived}corpus.delimiter, or corpus.header"
        has = f"it has {', '.join(map(printable, header))}"
        item_id = self.column["item_id"]
        if number and item_id in present:
            if not given and not (present & self._known_csv) - {item_id}:
                raise CorpusError(f"{shown} has no column that corrects anything ({has}); {remedy}")
        elif missing := sorted(required - present):
            raise CorpusError(f"{shown} has no column {', '.join(missing)} ({has}); {remedy}")

    def reject_id(self, record: Record) -> str | None:
        """Return the record's id where it has a usable one."""
        try:
            item_id = identifier("item_id", record.get(self.column["item_id"]))
        except Rejected:
            return None
        # What contains a space is more likely a text in the wrong place.
        return item_id if item_id.split() == [item_id] else None

    def item_id(self, record: Record, csv_labels: bool, number: int) -> str:
        """Return the id of the item that a record of a later file, that of round `number`, names.

        Raises
        ------
        Rejected
            If it has none, and none derives from it.
        """
        raw_id = record.get(self.column["item_id"])
        if is_blank(raw_id):
            return self.draft(record, csv_labels, number).item_id
        return identifier("item_id", raw_id)

    def draft(self, record: Record, csv_labels: bool, number: int) -> Draft:
        """Return what one record says.

        Parameters
        ----------
        record
            Column to raw value; columns of joined tables are added to it.
        csv_labels
            The record is of a CSV or TSV file: all values are strings, and labels have columns.
        number
            The round that the file is. A record of the first one, 0, must stand for a whole item.

        Raises
        ------
        Rejected
            If any of its fields is not valid, or it has no id and is not complete, so that none derives.
        """
        column = self.column
        raw_id = record.get(column["item_id"])
        derived = is_blank(raw_id)
        item_id = "" if derived else identifier("item_id", raw_id)
        withdrawn = record.get(column["withdrawn"]) is not None and bool(self._name(record, "withdrawn"))
        if withdrawn and not derived:
            return Draft(item_id, withdrawn=True)
        unjoined = None
        first = number == 0
        for name, table in self._joins:
            key = record.get(name)
            if not first and is_blank(key):
                unjoined = name
                continue
            row = table.get(str(key)) if isinstance(key, str | int) and not isinstance(key, bool) else None
            if row is None:
                raise Rejected(printable(name), "no row in the joined table")
            record.update(row)
        owner = self._get(record, "owner_id")
        if owner is not None:
            owner = identifier("owner_id", owner)
        text = record.get(column["text"])
        cleaned = False
        if not is_blank(text):
            text, cleaned = check_text(text, self._max_chars)
        else:
            text = None
        timestamp, naive = self._timestamp(record, first)
        names = self._names(record)
        extra = self._extra(record, csv_labels)
        draft = Draft(item_id, owner, text, timestamp, *names, extra, cleaned, naive, derived)  # type: ignore
        draft.unjoined, draft.withdrawn = unjoined, withdrawn
        if self.constants_of[number]:
            self._fill_in(draft, self.constants_of[number])
        if withdrawn:
            pass
        elif csv_labels:
            self._csv_labels(record, draft)
        else:
            self._json_labels(record, draft)
        if self._inputs and not withdrawn:
            draft.inputs = [self._input(record, *column) for column in self._inputs]
        if derived:
            owner, text, timestamp = self.needed(draft)
            draft.item_id = hashlib.sha256(f"{owner}\x1f{timestamp}\x1f{text}".encode()).hexdigest()[:16]
        return draft

    @staticmethod
    def _fill_in(draft: Draft, constants: Mapping[str, Any]) -> None:
        for name, value in constants.items():
            if getattr(draft, name) is None:
                if name == "timestamp":
                    draft.timestamp, draft.naive = value
                else:
                    setattr(draft, name, value)

    def needed(self, draft: Draft, why: str = "") -> tuple[str, str, int]:
        """Return owner, text and time of a draft that must stand for a whole item.

        Raises
        ------
        Rejected
            If one is missing; the reason ends with `why` it is needed.
        """
        owner, text, timestamp = draft.owner_id, draft.text, draft.timestamp
        if owner is None:
            owner = self._constants.get("owner_id")
        if timestamp is None:
            timestamp, _ = self._constants.get("timestamp", (None, False))
        if owner is None:
            raise Rejected("owner_id", "missing or empty" + why)
        if text is None:
            raise Rejected("text", "missing or empty" + why)
        if timestamp is None:
            raise Rejected("timestamp", "missing or empty" + why)
        if draft.unjoined is not None:
            raise Rejected(printable(draft.unjoined), "missing or empty" + why)
        return owner, text, timestamp

    def names(self, draft: Draft) -> tuple[str | None, ...]:
        """Return language, category, risk level, device and split, with constants and defaults."""
        constant = self._constants.get
        return (
            draft.language or constant("language") or self._default_language,
            draft.category or constant("category"),
            draft.risk_level or constant("risk_level"),
            draft.device or constant("device"),
            draft.split or constant("split"),
        )

    def complete(self, draft: Draft) -> Item:
        """Return the item that a draft with all that is `needed` stands for, and count what was assumed."""
        owner, text, timestamp = self.needed(draft)
        language, category, risk_level, device, split = self.names(draft)
        ratings, item_id = draft.ratings, draft.item_id
        published = _NOTHING
        if self._several or self.tables is not None:
            published = self._combine(item_id, ratings)
        tally = self._tally
        tally.items += 1
        tally.cleaned += draft.cleaned
        tally.derived_ids += draft.derived
        tally.default_language += draft.language is None and "language" not in self._constants
        naive = draft.naive if draft.timestamp is not None else self._constants["timestamp"][1]
        tally.naive_timestamps += naive
        assert language is not None
        return Item(
            item_id, owner, text, timestamp, language, length_bucket(text), category, risk_level, device,
            split, draft.extra, ratings, Labels(self, item_id, ratings, published), draft.cleaned,
            draft.inputs,
        )  # fmt: skip

    def label(self, variable: str, ratings: list[Rating], item_id: str) -> Label:
        """Return the label that the ratings of one item amount to, corrected for `biases`."""
        if variable in HIERARCHIES:
            return path_label([path for _, path in ratings], item_id)  # type: ignore[misc]
        bias = self.biases.get(variable)
        if bias is None:
            return scale_label([value for _, value in ratings])  # type: ignore[misc]
        return scale_label([value - bias.of.get(name, 0.0) for name, value in ratings])  # type: ignore

    def _combine(self, item_id: str, ratings: dict[str, list[Rating]]) -> dict[str, Value]:
        """Make an item's ratings those that count, and return the labels that stand all the same."""
        joined = {} if self.tables is None else self.tables.take(item_id)
        undecided = _remove_roots(ratings) | _remove_roots(joined) if self._several else _NO_VARIABLES
        published = self._join_ratings(ratings, joined)
        counts = self._tally.no_common_ancestor
        for variable in undecided:
            if variable not in ratings:
                counts[variable] = counts.get(variable, 0) + 1
        return published

    @staticmethod
    def _join_ratings(ratings: dict[str, list[Rating]], joined: dict[str, list[Rating]]) -> dict[str, Value]:
        """Add the ratings of the tables to an item's own, and return the labels that stand all the same."""
        published = {}
        for variable, given in joined.items():
            own = ratings.get(variable)
            if own is None:
                ratings[variable] = given
            elif own[0][0] is None:
                # The corpus has combined the ratings itself: its value stands, theirs tell how sure it is.
                published[variable] = own[0][1]
                ratings[variable] = given
            else:
                # A rating of the lines themselves may correct one of the table.
                names = {name for name, _ in own}
                new = [rating for rating in given if rating[0] not in names]
                ratings[variable] = sorted([*own, *new], key=rating_order)
        return published

    # ---- fields

    def _get(self, record: Record, name: str) -> Any:
        value = record.get(self.column[name])
        if is_blank(value):
            return None
        return self._translated(name, value) if name in self._values else value

    def _translated(self, name: str, value: Any) -> str:
        # Rejecting what is not listed is the point: a new value must not slip into a split unseen.
        values = self._values[name]
        translated = values.get(value.strip() if type(value) is str else str(value))
        if translated is None:
            raise Rejected(name, "must be one of " + ", ".join(values))
        return translated

    def _names(self, record: Record) -> tuple[Any, ...]:
        """The checked values of NAMES: few distinct ones, so that they are checked once."""
        get = record.get
        language, category, risk_level, device, split = self._name_columns
        raw = get(language), get(category), get(risk_level), get(device), get(split)
        try:
            return self._known_names[raw]
        except (KeyError, TypeError):  # new, or a list or object, which has no hash
            pass
        names = tuple([self._name(record, name) for name in NAMES])
        if len(self._known_names) < MAX_CACHED and all(
            one is None or (type(one) is str and len(one) <= MAX_ID_CHARS) for one in raw
        ):
            self._known_names[raw] = names
        return names

    def _name(self, record: Record, name: str) -> Any:
        value = self._get(record, name)
        return None if value is None else check_name(name, value)

    def _position(self, record: Record, order: OrderByPosition, first: bool) -> int | None:
        value = record.get(order.column)
        if not first and is_blank(value):
            return None
        match = self._pattern.search(value if isinstance(value, str) else str(value)[:64])
        try:
            position = int(match[1]) if match else None
        except (TypeError, ValueError):
            position = None
        if position is None:
            raise Rejected(printable(order.column), "has no position (corpus.order.pattern)")
        if position > 10**12:
            raise Rejected("timestamp", self._time_reason)
        return self._order_start + round(position * order.step_seconds * MICROSECONDS)

    def _timestamp(self, record: Record, first: bool) -> tuple[int | None, bool]:
        if self._order is not None:
            timestamp = self._position(record, self._order, first)
            if timestamp is not None and not self._earliest <= timestamp < self._latest:
                raise Rejected("timestamp", self._time_reason)
            return timestamp, False
        value = self._get(record, "timestamp")
        return (None, False) if value is None else self._time(value)

    def _time(self, value: Any) -> tuple[int, bool]:
        try:
            timestamp, naive = parse_timestamp(value, self._zone)
        except ValueError:
            raise Rejected("timestamp", "neither ISO 8601 nor epoch seconds or milliseconds") from None
        if not self._earliest <= timestamp < self._latest:
            raise Rejected("timestamp", self._time_reason)
        return timestamp, naive

    def _extra(self, record: Record, csv_labels: bool) -> str | None:
        unknown = record.keys() - (self._known_csv if csv_labels else self._known)
        if not unknown:
            return None
        try:
            extra = canonical_json({name: record[name] for name in unknown})
            extra.encode()
        except UnicodeEncodeError:
            raise Rejected(
                "extra", "an unknown field contains a lone surrogate (half of a character)"
            ) from None
        except (ValueError, RecursionError):
            raise Rejected(
                "extra", "an unknown field contains NaN or an infinite or oversized number"
            ) from None
        return extra

    @staticmethod
    def _input(record: Record, column: str, low: float, high: float) -> float | None:
        value = record.get(column)
        if is_blank(value):
            return None
        if isinstance(value, str):  # as all cells, and in JSONL what was joined
            return scale_cell(value, low, high, printable(column))
        return scale_value(value, low, high, printable(column))

    # ---- labels

    def _csv_labels(self, record: Record, draft: Draft) -> None:
        for variable, column in self._label_columns.items():
            cell = record.get(column or variable, "").strip()
            if cell:
                draft.ratings[variable] = [(None, self._parser.cell(variable, cell, variable))]

    def _json_labels(self, record: Record, draft: Draft) -> None:
        ratings = draft.ratings
        several = record.get("annotations")
        if several is not None:
            self._annotations(several, draft)
        single = record.get("perception_labels")
        if single is not None:
            if type(single) is not dict:
                raise Rejected("perception_labels", "must be an object")
            # Which of the two would win is anyone's guess.
            taken = ratings.keys() | {variable for variable, _ in draft.removed}
            for variable, value in single.items():
                where = f"perception_labels.{variable}"
                if variable not in VARIABLES:
                    raise unknown_label("perception_labels", variable)
                if variable in taken:
                    raise Rejected(where, "stands in annotations too; give one of them")
                if value is None:
                    draft.removed.append((variable, None))
                else:
                    ratings[variable] = [(None, self._parser.value(variable, value, where))]
        for variable, column in self._label_columns.items():
            value = record.get(column) if column else None
            if value is not None and value != "":
                where = printable(column)
                if variable in ratings or any(name == variable for name, _ in draft.removed):
                    raise Rejected(where, "stands in perception_labels or annotations too; give one of them")
                ratings[variable] = [(None, self._parser.value(variable, value, where))]

    def _annotations(self, several: Any, draft: Draft) -> None:
        if type(several) is not list:
            raise Rejected("annotations", "must be a list")
        known = self._annotators
        order: list[tuple[str, int]] = []
        for index, annotation in enumerate(several):
            if type(annotation) is not dict:
                raise Rejected(f"annotations[{index}]", "must be an object")
            if not annotation.keys() <= _ANNOTATION_KEYS:
                raise Rejected(f"annotations[{index}]", "may have annotator_id and perception_labels only")
            raw = annotation.get("annotator_id")
            name = known.get(raw) if type(raw) is str else None
            if name is None:
                where = f"annotations[{index}].annotator_id"
                name = identifier(where, raw)
                if type(raw) is str and len(known) < MAX_CACHED and len(raw) <= MAX_ID_CHARS:
                    known[raw] = name
            order.append((name, index))
        if len({name for name, _ in order}) < len(order):
            names = [name for name, _ in order]
            index = next(place for name, place in order if name in names[:place])
            where = f"annotations[{index}].annotator_id"
            raise Rejected(where, "a second annotation by the same annotator")
        order.sort()
        ratings, ready = draft.ratings, self._parser.ready
        plain, paths = self._parser.plain, self._parser.paths
        for name, index in order:
            labels = several[index].get("perception_labels")
            if type(labels) is not dict:
                raise Rejected(f"annotations[{index}].perception_labels", "must be an object")
            for variable, value in labels.items():
                checked: Value | None = None
                if variable in ready:
                    # Not zero: that of a negative sign must become the other.
                    if type(value) is float and 0.0 < value <= 1.0:
                        checked = value
                elif variable in plain and type(value) is str:
                    checked = paths.get(value)
                if checked is None:
                    where = f"annotations[{index}].perception_labels"
                    if variable not in VARIABLES:
                        raise unknown_label(where, variable)
                    if value is None:
                        draft.removed.append((variable, name))
                        continue
                    checked = self._parser.value(variable, value, f"{where}.{variable}")
                given = ratings.get(variable)
                if given is None:
                    ratings[variable] = [(name, checked)]
                else:
                    given.append((name, checked))
