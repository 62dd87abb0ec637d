"""Read annotation files line by line: every line is accepted, or rejected with a reason.

The module streams: besides one line it holds a hash of each item id (12 to 24 bytes) and the tables of
`corpus.joins`. It needs the standard library only: the Snakefile takes the digests while it is parsed.

A reject names the file, the line, the field and the reason, and never repeats what stood there: the texts
are intimate, and a value may stand in the wrong field.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from zoneinfo import ZoneInfo

from perceive.variables import SCALES, VARIABLES

if TYPE_CHECKING:
    from perceive.corpus.settings import CorpusSettings

LANGUAGES = ("en", "hinglish")
RISK_LEVELS = ("LOW", "MEDIUM", "HIGH")
SPLITS = ("train", "val", "test")
SHORT_WORDS, MEDIUM_WORDS = 15, 60
MAX_ID_CHARS = 256

FIELDS = ("item_id", "owner_id", "text", "timestamp", "language", "category", "risk_level", "device", "split")
_BOM = b"\xef\xbb\xbf"
_MICROSECONDS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Seconds reach 1e11 in the year 5138, milliseconds in March 1973: between 1990 and 2100 there is no doubt.
_MILLISECONDS_FROM = 100_000_000_000
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# What leaves no visible mark: white space, zero-width characters, variation selectors.
_INVISIBLE = (
    "".join(c for c in map(chr, range(0x3001)) if c.isspace()) + "\u200b\u200c\u200d\u2060\ufeff\ufe0e\ufe0f"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,39}")
_PLACEHOLDER = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")

Path3 = tuple[str, str | None, str | None]
Label = tuple[float | Path3, int, float]


class CorpusError(ValueError):
    """The corpus cannot be read as configured; the message names the remedy."""


class MissingFileError(CorpusError):
    """A configured file does not exist; the message says where the corpus is to be had."""


@dataclass(slots=True)
class Item:
    """One accepted item.

    `timestamp` is in microseconds since 1970 (UTC). `labels` maps a variable to (value, n_raters, spread):
    the value is a number in 0..1 for scales and (core, nuance, micro) for hierarchies; spread is the sample
    standard deviation over raters (for hierarchies the share of raters whose core is not the aggregate's) and
    NaN with one rater. `cleaned` tells that control characters were removed from the text.
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
    labels: dict[str, Label]
    cleaned: bool


@dataclass(slots=True, frozen=True)
class Reject:
    """One rejected line (for CSV: the record that starts there). Holds no value of the line but its id."""

    file: str
    line: int
    field: str
    reason: str
    item_id: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the line of rejects.jsonl as a dictionary."""
        record: dict[str, Any] = {
            "file": self.file,
            "line": self.line,
            "field": self.field,
            "reason": self.reason,
        }
        if self.item_id is not None:
            record["item_id"] = self.item_id
        return record


@dataclass(slots=True)
class Tally:
    """What was read so far; accepted + rejected + blank == lines.

    For CSV and TSV a line is a record (a quoted field may span several physical lines); the header is not
    counted.
    """

    lines: int = 0
    accepted: int = 0
    rejected: int = 0
    blank: int = 0
    cleaned: int = 0
    naive_timestamps: int = 0
    default_language: int = 0
    derived_ids: int = 0


class _Rejected(Exception):
    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason


class SeenIds:
    """A set of 64-bit hashes in one flat array: 12 to 24 bytes an id, where a set of int takes about 90.

    Two ids collide with probability n^2 / 2^65 (7e-9 for 500,000 ids); the later one would be rejected as a
    duplicate, on record.
    """

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 * 1024))
        self._used = 0

    def add(self, identifier: str) -> bool:
        """Add an id; return False if it was there."""
        key = int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "little") or 1
        if not self._insert(self._table, key):
            return False
        self._used += 1
        if 3 * self._used > 2 * len(self._table):
            old, self._table = self._table, array("Q", bytes(16 * len(self._table)))
            for present in old:
                if present:
                    self._insert(self._table, present)
        return True

    @staticmethod
    def _insert(table: array[int], key: int) -> bool:
        mask = len(table) - 1
        slot = key & mask
        while present := table[slot]:
            if present == key:
                return False
            slot = (slot + 1) & mask
        table[slot] = key
        return True


# --------------------------------------------------------------------------- single values


def parse_timestamp(value: Any, zone: tzinfo = UTC) -> tuple[int, bool]:
    """Parse a timestamp.

    Parameters
    ----------
    value
        A number or a text of digits (epoch: seconds below 1e11, milliseconds from there on), or ISO 8601
        (`2025-01-01T10:00:00+05:30`, `...Z`, a space for the T, no zone, or a date alone: midnight).
    zone
        The zone of an ISO timestamp that names none.

    Returns
    -------
    tuple
        Microseconds since 1970-01-01 UTC, and whether `zone` was used.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if isinstance(value, str):
        value = value.strip()
        if not _NUMBER.fullmatch(value):
            moment = datetime.fromisoformat(value)
            naive = moment.tzinfo is None
            if naive:
                moment = moment.replace(tzinfo=zone)
            try:
                since = moment - _EPOCH
            except OverflowError:
                raise ValueError("timestamp out of range") from None
            return (since.days * 86_400 + since.seconds) * _MICROSECONDS + since.microseconds, naive
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e17:
        raise ValueError("not a timestamp")
    scale = 1_000 if abs(value) >= _MILLISECONDS_FROM else _MICROSECONDS
    return round(value * scale), False


def length_bucket(text: str) -> str:
    """SHORT below 15 words, MEDIUM below 60, else LONG."""
    words = len(text.split())
    return "SHORT" if words < SHORT_WORDS else "MEDIUM" if words < MEDIUM_WORDS else "LONG"


def clean_text(text: str) -> str:
    """Remove control characters except tab and line ends; those that separate words become a space."""
    return _CONTROL.sub(lambda match: " " if match[0].isspace() else "", text)


def plurality_path(paths: list[Path3]) -> Path3:
    """Aggregate paths level by level: at each level the most frequent part below the part chosen above.

    A tie goes to the part that comes first in the alphabet; a level is left out when more of the raters
    that are still in agreement left it out than chose its most frequent part.
    """
    chosen: list[str | None] = []
    for level in range(3):
        votes = Counter(path[level] for path in paths)
        # A named part wins a tie against none.
        winner = min(votes, key=lambda part: (-votes[part], part is None, part or ""))
        if winner is None:
            break
        chosen.append(winner)
        paths = [path for path in paths if path[level] == winner]
    core, nuance, micro = [*chosen, None, None, None][:3]
    assert core is not None
    return core, nuance, micro


def _has_surrogate(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _name(value: object) -> str:
    """Return a key or column name for a message, unless it could be a text in the wrong place."""
    return value if isinstance(value, str) and _NAME.fullmatch(value) else "<unprintable>"


def _identifier(where: str, value: Any) -> str:
    if type(value) is int:
        value = str(value)
    if type(value) is not str:
        raise _Rejected(where, "missing or empty" if value is None else "must be a string or an integer")
    value = value.strip()
    if not value:
        raise _Rejected(where, "missing or empty")
    if len(value) > MAX_ID_CHARS:
        raise _Rejected(where, f"longer than {MAX_ID_CHARS} characters")
    if not (value.isascii() and value.isprintable()):
        if (
            _CONTROL.search(value)
            or not value.strip(_INVISIBLE)
            or "\n" in value
            or "\r" in value
            or "\t" in value
        ):
            raise _Rejected(where, "contains control characters")
        if _has_surrogate(value):
            raise _Rejected(where, "contains a lone surrogate (half of a character)")
    return value


def _free_name(where: str, value: Any) -> str | None:
    if type(value) is not str:
        raise _Rejected(where, "must be a string")
    if not (value.isascii() and value.isprintable()):
        value = clean_text(value)
        if _has_surrogate(value):
            raise _Rejected(where, "contains a lone surrogate (half of a character)")
    value = value.strip()
    if len(value) > MAX_ID_CHARS:
        raise _Rejected(where, f"longer than {MAX_ID_CHARS} characters")
    return value or None


# --------------------------------------------------------------------------- files


def expand(value: str) -> str:
    """Expand ${VAR} and ${VAR:-default} from the environment.

    Raises
    ------
    CorpusError
        If a variable without default is not set.
    """

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match[1]) or match[2]
        if found is None:
            raise CorpusError(f"environment variable {match[1]} is not set and {value!r} gives no default")
        return found

    return _PLACEHOLDER.sub(replace, value)


def _resolve(settings: CorpusSettings, value: str, base_dir: Path | str, key: str) -> Path:
    path = Path(base_dir) / Path(expand(value)).expanduser()
    if not path.is_file():
        source = settings.source
        hints = [f"corpus {settings.name!r}: no file at {path} (corpus.{key})."]
        if source.url:
            hints.append(f"Get it from {source.url}.")
        if source.licence:
            hints.append(f"Licence: {source.licence}.")
        if source.citation:
            hints.append(f"Citation: {source.citation}.")
        variables = sorted({match[1] for match in _PLACEHOLDER.finditer(value)})
        if variables:
            hints.append(f"Then set {' or '.join(variables)} to the folder that the path starts from.")
        raise MissingFileError(" ".join(hints))
    return path


def annotation_files(settings: CorpusSettings, base_dir: Path | str) -> list[Path]:
    """Return the annotation files, in order.

    Raises
    ------
    MissingFileError
        If one does not exist; the message says where the corpus is to be had.
    """
    return [_resolve(settings, value, base_dir, "annotations") for value in settings.annotations]


def input_files(settings: CorpusSettings, base_dir: Path | str) -> list[Path]:
    """Return all files that reading the corpus depends on: the annotations and the joined tables."""
    joined = [_resolve(settings, join.file, base_dir, "joins") for join in settings.joins]
    return annotation_files(settings, base_dir) + joined


def _format(path: Path, configured: str) -> str:
    if configured != "auto":
        return configured
    suffix = path.suffix.lower()
    known = {
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
        ".json": "jsonl",
        ".csv": "csv",
        ".tsv": "tsv",
        ".tab": "tsv",
    }
    if suffix not in known:
        raise CorpusError(
            f"{path.name}: no format for the suffix {suffix!r}; set corpus.format to jsonl, csv or tsv"
        )
    return known[suffix]


def _physical_lines(handle: BinaryIO, limit: int) -> Iterator[tuple[bytes, bool]]:
    """Yield (line, whether it is longer than `limit` bytes); the rest of a longer line is skipped unread."""
    first = True
    while line := handle.readline(limit):
        overlong = len(line) == limit and not line.endswith(b"\n")
        if overlong:
            while (rest := handle.readline(limit)) and not rest.endswith(b"\n"):
                pass
        if first and line.startswith(_BOM):
            line = line[3:]
        first = False
        yield line, overlong


class _CsvRecords:
    """Records of a CSV or TSV file with the line they start on; what cannot be parsed is a _Rejected."""

    def __init__(
        self, handle: BinaryIO, delimiter: str, quote_char: str | None, limit: int, max_chars: int
    ) -> None:
        self._broken: str | None = None
        self._limit = limit
        self._lines = _physical_lines(handle, limit)
        # Bounds what a quote that is never closed can swallow; a text a little too long is still read whole.
        csv.field_size_limit(max(131_072, 2 * max_chars))
        quoting = {"quoting": csv.QUOTE_NONE} if quote_char is None else {"quotechar": quote_char}
        # strict: a quote that is never closed is an error, not a text that swallows the rest of the file.
        self._reader = csv.reader(self._decoded(), delimiter=delimiter, strict=True, **quoting)  # type: ignore[arg-type]

    def _decoded(self) -> Iterator[str]:
        for line, overlong in self._lines:
            if overlong:
                self._broken = f"longer than {self._limit} bytes"
            try:
                yield line.decode()
            except UnicodeDecodeError:
                self._broken = self._broken or "not valid UTF-8"
                yield line.decode(errors="replace")

    def __iter__(self) -> Iterator[tuple[int, list[str] | _Rejected]]:
        while True:
            start = self._reader.line_num + 1
            self._broken = None
            try:
                row = next(self._reader)
            except StopIteration:
                return
            except csv.Error:
                # The reader starts afresh on the next line. Each line that went is rejected by its number.
                last = self._reader.line_num
                reason = self._broken or "malformed CSV (a stray quote, or a carriage return within the line)"
                if last > start:
                    reason = "inside a quoted field that is not closed, closed wrongly, or too long"
                for line in range(start, last + 1):
                    yield line, _Rejected("line", reason)
                continue
            yield start, (_Rejected("line", self._broken) if self._broken else row)


def _load_join(settings: CorpusSettings, index: int, base_dir: Path | str) -> dict[str, dict[str, str]]:
    join = settings.joins[index]
    path = _resolve(settings, join.file, base_dir, f"joins[{index}].file")
    delimiter = "\t" if _format(path, "auto") == "tsv" else ","
    table: dict[str, dict[str, str]] = {}
    with path.open("rb") as handle:
        records = iter(_CsvRecords(handle, delimiter, '"', 1 << 23, 0))
        _, header = next(records, (1, []))
        if isinstance(header, _Rejected):
            raise CorpusError(f"{path.name}, line 1: {header.reason}")
        key = join.key or join.column
        for name in (key, *join.add):
            if name not in header:
                raise CorpusError(f"{path.name} has no column {name!r} (corpus.joins[{index}])")
        at, places = header.index(key), [(name, header.index(name)) for name in join.add]
        for line, row in records:
            if isinstance(row, _Rejected):
                raise CorpusError(f"{path.name}, line {line}: {row.reason}")
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise CorpusError(
                    f"{path.name}, line {line}: {len(row)} fields where the header has {len(header)}"
                )
            if row[at] in table:
                raise CorpusError(f"{path.name}, line {line}: a second row with the same {key!r}")
            table[row[at]] = {name: row[place] for name, place in places}
    return table


# --------------------------------------------------------------------------- from record to item


class _Builder:
    """Checks a record (a mapping of column to raw value) and makes an Item of it."""

    def __init__(self, settings: CorpusSettings, base_dir: Path | str, tally: Tally) -> None:
        self.tally = tally
        self.seen = SeenIds()
        self.column: dict[str, str] = {}
        self.mapped: set[str] = set()
        self.values: dict[str, dict[str, str]] = {}
        for name in FIELDS:
            configured = getattr(settings.columns, name)
            if configured is None:
                self.column[name] = name
                continue
            self.mapped.add(name)
            if isinstance(configured, str):
                self.column[name] = configured
            else:
                self.column[name] = configured.column
                if configured.values:
                    self.values[name] = configured.values
        self.constants: dict[str, str] = {str(name): value for name, value in settings.constants.items()}
        self.default_language = settings.default_language
        self.zone = UTC if settings.default_timezone == "UTC" else ZoneInfo(settings.default_timezone)
        limits = settings.limits
        self.earliest = parse_timestamp(limits.min_timestamp)[0]
        self.latest = parse_timestamp(limits.max_timestamp)[0]
        self.time_reason = f"outside {limits.min_timestamp} to {limits.max_timestamp}"
        self.max_chars = limits.max_text_chars
        self.cores = frozenset(settings.cores)
        self.core_reason = "core must be one of " + ", ".join(settings.cores)
        self.scale = {name: (0.0, 1.0) for name in SCALES}
        self.label_columns: dict[str, str | None] = {}
        for variable, label in settings.labels.items():
            self.label_columns[variable] = label.column
            if variable in self.scale:
                self.scale[variable] = (label.min, label.max)
        self.order = settings.order
        if self.order is not None:
            self.pattern = re.compile(self.order.pattern)
            start = self.order.start
            start = start if start.tzinfo else start.replace(tzinfo=UTC)
            self.order_start = parse_timestamp(start.isoformat())[0]
        self.joins = [
            (join.column, _load_join(settings, index, base_dir)) for index, join in enumerate(settings.joins)
        ]
        self.joined_columns = [name for join in settings.joins for name in join.add]
        # Unknown fields are all but these. A timestamp stays one when the order replaces it.
        self.known = {
            column
            for name, column in self.column.items()
            if not (name == "timestamp" and self.order is not None)
        }
        if self.order is not None:
            self.known.add(self.order.column)
        self.known_csv = self.known | {column or variable for variable, column in self.label_columns.items()}
        self.known |= {column for column in self.label_columns.values() if column}
        self.known |= {"perception_labels", "annotations"}

    def required_columns(self, csv_file: bool) -> set[str]:
        """Columns without which no record of a file could be accepted."""
        required = {
            self.column[name] for name in ("owner_id", "text", "timestamp") if name not in self.constants
        }
        if self.order is not None:
            required -= {self.column["timestamp"]}
            required.add(self.order.column)
        required |= {self.column[name] for name in self.mapped}
        required |= {column for column, _ in self.joins}
        if csv_file:
            required |= {column or variable for variable, column in self.label_columns.items()}
        return required - set(self.joined_columns)

    def _get(self, record: dict[str, Any], name: str) -> Any:
        value = record.get(self.column[name])
        if value is None or (type(value) is str and (not value or value.isspace())):
            return self.constants.get(name)
        if name in self.values:
            # Rejecting what is not listed is the point: a new value must not slip into a split unseen.
            value = self.values[name].get(value.strip() if type(value) is str else str(value))
            if value is None:
                raise _Rejected(name, "must be one of " + ", ".join(self.values[name]))
        return value

    def reject_id(self, record: dict[str, Any]) -> str | None:
        """The record's id where it has a usable one."""
        try:
            item_id = _identifier("item_id", record.get(self.column["item_id"]))
        except _Rejected:
            return None
        # What contains a space is more likely a text in the wrong place.
        return item_id if item_id.split() == [item_id] else None

    def build(self, record: dict[str, Any], csv_labels: bool) -> Item:
        for column, table in self.joins:
            key = record.get(column)
            row = table.get(str(key)) if isinstance(key, str | int) and not isinstance(key, bool) else None
            if row is None:
                raise _Rejected(_name(column), "no row in the joined table")
            record.update(row)
        owner = _identifier("owner_id", self._get(record, "owner_id"))
        text, cleaned = self._text(record.get(self.column["text"]))
        timestamp, naive = self._timestamp(record)

        language = self._get(record, "language")
        defaulted = language is None
        if defaulted:
            language = self.default_language
        else:
            language = language.strip().lower() if type(language) is str else None
        if language not in LANGUAGES:
            raise _Rejected("language", "must be one of " + ", ".join(LANGUAGES))
        risk = self._get(record, "risk_level")
        if risk is not None:
            risk = risk.strip().upper() if type(risk) is str else None
            if risk not in RISK_LEVELS:
                raise _Rejected("risk_level", "must be one of " + ", ".join(RISK_LEVELS))
        split = self._get(record, "split")
        if split is not None:
            split = split.strip() if type(split) is str else None
            if split not in SPLITS:
                raise _Rejected(
                    "split", "must be one of " + ", ".join(SPLITS) + " (map others by columns.split.values)"
                )
        category = self._get(record, "category")
        if category is not None:
            category = _free_name("category", category)
        device = self._get(record, "device")
        if device is not None:
            device = _free_name("device", device)

        labels = self._csv_labels(record) if csv_labels else self._json_labels(record)
        extra = self._extra(record, csv_labels)

        # The id last: a line that is rejected for something else must not block a later, correct one.
        raw_id = record.get(self.column["item_id"])
        derived = raw_id is None or raw_id == ""
        if derived:
            payload = f"{owner}\x1f{timestamp}\x1f{text}".encode()
            item_id = hashlib.sha256(payload).hexdigest()[:16]
        else:
            item_id = _identifier("item_id", raw_id)
        if not self.seen.add(item_id):
            if derived:
                raise _Rejected(
                    "item_id", "duplicate: an earlier line has the same owner, time and text, and no id"
                )
            raise _Rejected("item_id", "duplicate: an earlier line has the same id")

        tally = self.tally
        tally.cleaned += cleaned
        tally.naive_timestamps += naive
        tally.default_language += defaulted
        tally.derived_ids += derived
        return Item(
            item_id=item_id,
            owner_id=owner,
            text=text,
            timestamp=timestamp,
            language=language,
            length_bucket=length_bucket(text),
            category=category,
            risk_level=risk,
            device=device,
            split=split,
            extra=extra,
            labels=labels,
            cleaned=cleaned,
        )

    def _text(self, text: Any) -> tuple[str, bool]:
        if type(text) is not str:
            raise _Rejected("text", "missing or empty" if text is None else "must be a string")
        if len(text) > self.max_chars:
            raise _Rejected("text", f"longer than {self.max_chars} characters")
        cleaned = False
        if not text.isprintable():
            if _has_surrogate(text):
                raise _Rejected("text", "contains a lone surrogate (half of a character)")
            if _CONTROL.search(text):
                text, cleaned = clean_text(text), True
        if not text.strip(_INVISIBLE):
            raise _Rejected(
                "text", "missing or empty (white space, control and invisible characters count as nothing)"
            )
        return text, cleaned

    def _timestamp(self, record: dict[str, Any]) -> tuple[int, bool]:
        naive = False
        if self.order is not None:
            value = record.get(self.order.column)
            match = self.pattern.search(value if isinstance(value, str) else str(value)[:64])
            try:
                position = int(match[1]) if match else None
            except (TypeError, ValueError):
                position = None
            if position is None:
                raise _Rejected(_name(self.order.column), "has no position (corpus.order.pattern)")
            if position > 10**12:
                raise _Rejected("timestamp", self.time_reason)
            timestamp = self.order_start + round(position * self.order.step_seconds * _MICROSECONDS)
        else:
            value = self._get(record, "timestamp")
            if value is None:
                raise _Rejected("timestamp", "missing or empty")
            try:
                timestamp, naive = parse_timestamp(value, self.zone)
            except ValueError:
                raise _Rejected("timestamp", "neither ISO 8601 nor epoch seconds or milliseconds") from None
        if not self.earliest <= timestamp < self.latest:
            raise _Rejected("timestamp", self.time_reason)
        return timestamp, naive

    def _extra(self, record: dict[str, Any], csv_labels: bool) -> str | None:
        unknown = record.keys() - (self.known_csv if csv_labels else self.known)
        if not unknown:
            return None
        try:
            extra = json.dumps(
                {name: record[name] for name in sorted(unknown)},
                ensure_ascii=False,
                allow_nan=False,
                sort_keys=True,
            )
            extra.encode()
        except UnicodeEncodeError:
            raise _Rejected(
                "extra", "an unknown field contains a lone surrogate (half of a character)"
            ) from None
        except (ValueError, RecursionError):
            raise _Rejected(
                "extra", "an unknown field contains NaN or an infinite or oversized number"
            ) from None
        return extra

    # ---- labels

    def _csv_labels(self, record: dict[str, Any]) -> dict[str, Label]:
        labels: dict[str, Label] = {}
        for variable, column in self.label_columns.items():
            cell = record[column or variable].strip()
            if not cell:
                continue
            if variable in self.scale:
                try:
                    value: Any = float(cell) if "_" not in cell else "no number"
                except ValueError:
                    value = "no number"
                labels[variable] = (self._scale(variable, value, variable), 1, math.nan)
            else:
                labels[variable] = (self._path(cell, variable), 1, math.nan)
        return labels

    def _json_labels(self, record: dict[str, Any]) -> dict[str, Label]:
        single, several = record.get("perception_labels"), record.get("annotations")
        if several is not None:
            if single is not None:
                raise _Rejected("annotations", "give perception_labels or annotations, not both")
            labels = self._aggregate(several)
        elif single is not None:
            values = self._values(single, "perception_labels")
            labels = {variable: (value, 1, math.nan) for variable, value in values.items()}
        else:
            labels = {}
        for variable, column in self.label_columns.items():
            value = record.get(column) if column else None
            if value is not None and value != "":
                labels[variable] = (self._value(variable, value, _name(column)), 1, math.nan)
        return labels

    def _values(self, raw: Any, where: str) -> dict[str, float | Path3]:
        if type(raw) is not dict:
            raise _Rejected(where, "must be an object")
        values: dict[str, float | Path3] = {}
        for variable, value in raw.items():
            if variable not in VARIABLES:
                raise _Rejected(
                    f"{where}.{_name(variable)}", "unknown label; known are " + ", ".join(VARIABLES)
                )
            if value is not None:
                values[variable] = self._value(variable, value, f"{where}.{variable}")
        return values

    def _value(self, variable: str, value: Any, where: str) -> float | Path3:
        return self._scale(variable, value, where) if variable in self.scale else self._path(value, where)

    def _scale(self, variable: str, value: Any, where: str) -> float:
        low, high = self.scale[variable]
        if type(value) is not float and type(value) is not int:
            raise _Rejected(where, f"must be a number from {low:g} to {high:g}")
        if low <= value <= high:
            return min(1.0, max(0.0, (value - low) / (high - low)))
        if value != value or value in (math.inf, -math.inf):
            raise _Rejected(where, "NaN or infinite")
        raise _Rejected(where, f"out of range: must be from {low:g} to {high:g}")

    def _path(self, value: Any, where: str) -> Path3:
        if type(value) is dict:
            if not value.keys() <= {"core", "nuance", "micro"}:
                raise _Rejected(where, "an object may have core, nuance and micro only")
            parts: list[Any] = [value.get("core"), value.get("nuance"), value.get("micro")]
            while parts and parts[-1] is None:
                parts.pop()
        elif type(value) is str:
            parts = value.split("/")
        else:
            raise _Rejected(
                where, "must be a path such as Sad/Lonely/Isolated, or an object with core, nuance, micro"
            )
        if not 1 <= len(parts) <= 3:
            raise _Rejected(where, "a path has one to three parts")
        stripped: list[str] = []
        for part in parts:
            name = part.strip() if type(part) is str else ""
            if not name:
                raise _Rejected(where, "every part of a path must be a non-empty string")
            if "/" in name or len(name) > MAX_ID_CHARS or _CONTROL.search(name) or _has_surrogate(name):
                raise _Rejected(where, "a part of the path is not a name")
            stripped.append(name)
        if self.cores and stripped[0] not in self.cores:
            raise _Rejected(where, self.core_reason)
        deeper: list[str | None] = [*stripped[1:], None, None]
        return stripped[0], deeper[0], deeper[1]

    def _aggregate(self, several: Any) -> dict[str, Label]:
        if type(several) is not list:
            raise _Rejected("annotations", "must be a list")
        annotators = set()
        collected: dict[str, list[Any]] = {}
        for index, annotation in enumerate(several):
            where = f"annotations[{index}]"
            if type(annotation) is not dict:
                raise _Rejected(where, "must be an object")
            if not annotation.keys() <= {"annotator_id", "perception_labels"}:
                raise _Rejected(where, "may have annotator_id and perception_labels only")
            annotator = _identifier(f"{where}.annotator_id", annotation.get("annotator_id"))
            if annotator in annotators:
                raise _Rejected(f"{where}.annotator_id", "a second annotation by the same annotator")
            annotators.add(annotator)
            found = self._values(annotation.get("perception_labels"), f"{where}.perception_labels")
            for variable, value in found.items():
                collected.setdefault(variable, []).append(value)
        labels: dict[str, Label] = {}
        for variable, values in collected.items():
            count = len(values)
            if variable in self.scale:
                mean: Any = math.fsum(values) / count
                squares = math.fsum((value - mean) ** 2 for value in values)
                labels[variable] = (mean, count, math.sqrt(squares / (count - 1)) if count > 1 else math.nan)
            else:
                path = plurality_path(values)
                apart = sum(value[0] != path[0] for value in values) / count
                labels[variable] = (path, count, apart if count > 1 else math.nan)
        return labels


# --------------------------------------------------------------------------- reading


def read_annotations(
    settings: CorpusSettings, base_dir: Path | str, tally: Tally | None = None
) -> Iterator[Item | Reject]:
    """Stream the annotation files: each line gives an Item or a Reject; blank lines are counted in `tally`.

    Parameters
    ----------
    settings
        The `corpus` section of the configuration.
    base_dir
        Folder that relative paths start from.
    tally
        Counts, kept up to date while reading.

    Raises
    ------
    MissingFileError
        If a file does not exist.
    CorpusError
        If a file cannot be read as configured at all (a column that it does not have, an unknown suffix).
    """
    tally = Tally() if tally is None else tally
    files = annotation_files(settings, base_dir)
    builder = _Builder(settings, base_dir, tally)
    short_names = len({path.name for path in files}) == len(files)
    for path in files:
        shown = path.name if short_names else str(path)
        kind = _format(path, settings.format)
        # A character takes at most 12 bytes (two \uXXXX escapes); the rest is for the other fields.
        limit = max(1 << 23, 16 * settings.limits.max_text_chars)
        with path.open("rb", buffering=1 << 18) as handle:
            if kind == "jsonl":
                entries = _read_jsonl(handle, shown, builder, limit)
            else:
                delimiter = settings.delimiter or ("\t" if kind == "tsv" else ",")
                max_chars = settings.limits.max_text_chars
                records = _CsvRecords(handle, delimiter, settings.quote_char, limit, max_chars)
                entries = _read_csv(records, shown, builder)
            for entry in entries:
                tally.lines += 1
                if entry is None:
                    tally.blank += 1
                    continue
                if type(entry) is Item:
                    tally.accepted += 1
                else:
                    tally.rejected += 1
                yield entry


def _read_jsonl(
    handle: BinaryIO, shown: str, builder: _Builder, limit: int
) -> Iterator[Item | Reject | None]:
    for number, (raw, overlong) in enumerate(_physical_lines(handle, limit), 1):
        if overlong:
            yield Reject(shown, number, "line", f"longer than {limit} bytes")
            continue
        if not raw or raw.isspace():
            yield None
            continue
        try:
            record = json.loads(raw.decode())
        except UnicodeDecodeError:
            yield Reject(shown, number, "line", "not valid UTF-8")
            continue
        except (ValueError, RecursionError):
            yield Reject(shown, number, "line", "malformed JSON")
            continue
        if type(record) is not dict:
            yield Reject(shown, number, "line", "not a JSON object")
            continue
        try:
            yield builder.build(record, csv_labels=False)
        except _Rejected as rejected:
            yield Reject(shown, number, rejected.where, rejected.reason, builder.reject_id(record))


def _read_csv(records: _CsvRecords, shown: str, builder: _Builder) -> Iterator[Item | Reject | None]:
    rows = iter(records)
    first = next(rows, None)
    if first is None:
        raise CorpusError(f"{shown} is empty: not even a header")
    header = first[1]
    if isinstance(header, _Rejected):
        raise CorpusError(f"{shown}, line 1 (the header): {header.reason}")
    header = [name.strip() for name in header]
    missing = sorted(builder.required_columns(csv_file=True) - set(header))
    if missing:
        raise CorpusError(
            f"{shown} has no column {', '.join(missing)} (it has {', '.join(map(_name, header))}); "
            "correct corpus.columns, corpus.labels, or corpus.delimiter"
        )
    if len(set(header)) != len(header):
        raise CorpusError(f"{shown}: two columns of the header have the same name")
    if clash := sorted(set(header) & set(builder.joined_columns)):
        raise CorpusError(f"{shown}: the columns {', '.join(clash)} are there already; do not join them")
    width = len(header)
    at_id = header.index(builder.column["item_id"]) if builder.column["item_id"] in header else width
    for line, row in rows:
        if isinstance(row, _Rejected):
            yield Reject(shown, line, row.where, row.reason)
        elif not any(cell and not cell.isspace() for cell in row):
            yield None
        elif len(row) != width:
            # Which cell is which is anyone's guess here, so no id.
            yield Reject(shown, line, "line", f"not {width} fields as in the header")
        else:
            record: dict[str, Any] = dict(zip(header, row, strict=True))
            try:
                yield builder.build(record, csv_labels=True)
            except _Rejected as rejected:
                item_id = builder.reject_id(record) if at_id < width else None
                yield Reject(shown, line, rejected.where, rejected.reason, item_id)


# --------------------------------------------------------------------------- digests


class _SetDigests:
    """Named digests that do not depend on the order of the records: the sum of their sha256, modulo 2^256."""

    def __init__(self, names: Iterable[str]) -> None:
        self._sums = dict.fromkeys(names, 0)

    def add(self, name: str, *values: str | None) -> None:
        # No value holds \x1f or \x00 (control characters are removed or rejected), so this is unambiguous.
        payload = "\x1f".join(["\x00" if value is None else value for value in values])
        self._sums[name] += int.from_bytes(hashlib.sha256(payload.encode()).digest(), "little")

    def hexdigests(self) -> dict[str, str]:
        return {name: f"{total % (1 << 256):064x}" for name, total in self._sums.items()}


def content_digests(settings: CorpusSettings, base_dir: Path | str) -> dict[str, str]:
    """Return a sha256 for each part of the corpus that something downstream reads, in one pass.

    ====================  ================================================================================
    items                 every column of items.parquet
    texts                 item_id, text, language
    owners                item_id, owner_id, timestamp, language, length_bucket, category, risk_level, split
    labels/{variable}     item_id, value, n_raters, spread
    rejects               every reject and the counts of what was read (blank, cleaned, defaults)
    ====================  ================================================================================

    All but `rejects` are independent of the order of the lines, as are the artifacts that depend on them.
    They are taken from what was read, not from the bytes: a different notation of the same value, or a
    setting without effect on the items, changes nothing.
    """
    digests = _SetDigests(["items", "texts", "owners", *(f"labels/{variable}" for variable in VARIABLES)])
    rejects = hashlib.sha256()
    tally = Tally()
    add = digests.add
    for entry in read_annotations(settings, base_dir, tally):
        if type(entry) is Reject:
            rejects.update(json.dumps(entry.record(), sort_keys=True).encode() + b"\n")
            continue
        item: Item = entry  # type: ignore[assignment]
        item_id, owner, text, time = item.item_id, item.owner_id, item.text, str(item.timestamp)
        language, length, split = item.language, item.length_bucket, item.split
        category, risk = item.category, item.risk_level
        add(
            "items",
            item_id,
            owner,
            text,
            time,
            language,
            length,
            category,
            risk,
            item.device,
            split,
            item.extra,
        )
        add("texts", item_id, text, language)
        add("owners", item_id, owner, time, language, length, category, risk, split)
        for variable, (value, raters, spread) in item.labels.items():
            parts = (repr(value),) if type(value) is float else value
            add(f"labels/{variable}", item_id, *parts, str(raters), repr(spread))  # type: ignore[misc]
    rejects.update(repr(tally).encode())
    return digests.hexdigests() | {"rejects": rejects.hexdigest()}
