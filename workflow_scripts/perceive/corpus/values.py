"""Single values of a record: checked, and mapped to what the artifacts hold."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

from perceive.corpus.aggregate import Path3, Value, common_ancestor
from perceive.corpus.records import CorpusError, Rejected, printable
from perceive.variables import HIERARCHIES, SCALES, VARIABLES

if TYPE_CHECKING:
    from perceive.corpus.settings import LabelColumn
    from perceive.taxonomy import Taxonomy

LANGUAGES = ("en", "hinglish")
RISK_LEVELS = ("LOW", "MEDIUM", "HIGH")
SPLITS = ("train", "val", "test")
SHORT_WORDS, MEDIUM_WORDS = 15, 60
MAX_ID_CHARS = 256

MICROSECONDS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Seconds reach 1e11 in the year 5138, milliseconds in March 1973: between 1990 and 2100 there is no doubt.
_MILLISECONDS_FROM = 100_000_000_000
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# What leaves no visible mark: white space, zero-width characters, variation selectors.
_INVISIBLE = (
    "".join(c for c in map(chr, range(0x3001)) if c.isspace()) + "\u200b\u200c\u200d\u2060\ufeff\ufe0e\ufe0f"
)
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_UNIT = (0.0, 1.0)
# Checked values of few distinct ones are kept up to this number, so that a flood of them fills no memory.
MAX_CACHED = 4096


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
            return (since.days * 86_400 + since.seconds) * MICROSECONDS + since.microseconds, naive
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e17:
        raise ValueError("not a timestamp")
    scale = 1_000 if abs(value) >= _MILLISECONDS_FROM else MICROSECONDS
    return round(value * scale), False


def length_bucket(text: str) -> str:
    """SHORT below 15 words, MEDIUM below 60, else LONG."""
    words = len(text.split())
    return "SHORT" if words < SHORT_WORDS else "MEDIUM" if words < MEDIUM_WORDS else "LONG"


def clean_text(text: str) -> str:
    """Remove control characters except tab and line ends; those that separate words become a space."""
    return _CONTROL.sub(lambda match: " " if match[0].isspace() else "", text)


def _has_surrogate(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def is_blank(value: Any) -> bool:
    return value is None or (type(value) is str and (not value or value.isspace()))


def identifier(where: str, value: Any) -> str:
    """Check an id: a string without control characters, or an integer; returned as a stripped string.

    Raises
    ------
    Rejected
        If it is none.
    """
    if type(value) is int:
        value = str(value)
    if type(value) is not str:
        raise Rejected(where, "missing or empty" if value is None else "must be a string or an integer")
    value = value.strip()
    if not value:
        raise Rejected(where, "missing or empty")
    if len(value) > MAX_ID_CHARS:
        raise Rejected(where, f"longer than {MAX_ID_CHARS} characters")
    if not (value.isascii() and value.isprintable()):
        if (
            _CONTROL.search(value)
            or not value.strip(_INVISIBLE)
            or "\n" in value
            or "\r" in value
            or "\t" in value
        ):
            raise Rejected(where, "contains control characters")
        if _has_surrogate(value):
            raise Rejected(where, "contains a lone surrogate (half of a character)")
    return value


def _free_name(where: str, value: Any) -> str | None:
    if type(value) is not str:
        raise Rejected(where, "must be a string")
    if not (value.isascii() and value.isprintable()):
        value = clean_text(value)
        if _has_surrogate(value):
            raise Rejected(where, "contains a lone surrogate (half of a character)")
    value = value.strip()
    if len(value) > MAX_ID_CHARS:
        raise Rejected(where, f"longer than {MAX_ID_CHARS} characters")
    return value or None


def scale_value(value: Any, low: float, high: float, where: str) -> float:
    """Map a number from `low` to `high` to 0..1.

    Raises
    ------
    Rejected
        At `where`, if it is no such number.
    """
    if type(value) is not float and type(value) is not int:
        raise Rejected(where, f"must be a number from {low:g} to {high:g}")
    if low <= value <= high:
        return min(1.0, max(0.0, (value - low) / (high - low)))
    if value != value or value in (math.inf, -math.inf):
        raise Rejected(where, "NaN or infinite")
    raise Rejected(where, f"out of range: must be from {low:g} to {high:g}")


def scale_cell(cell: str, low: float, high: float, where: str) -> float:
    """Map the number that a cell of a CSV file holds; see `scale_value`."""
    try:
        # Python takes 1_0 for ten.
        return scale_value(cell if "_" in cell else float(cell), low, high, where)
    except ValueError:
        return scale_value(cell, low, high, where)


def unknown_label(where: str, variable: str) -> Rejected:
    return Rejected(f"{where}.{printable(variable)}", "unknown label; known are " + ", ".join(VARIABLES))


def check_name(name: str, value: Any) -> Any:
    """Check a field of few distinct values (language, category, risk_level, device, split, withdrawn).

    Raises
    ------
    Rejected
        If the field may not have this value.
    """
    if name == "withdrawn":
        if type(value) is bool:
            return value
        truth = _TRUTH.get(str(value).strip().lower()) if type(value) in (str, int) else None
        if truth is None:
            raise Rejected(name, "must be one of " + ", ".join(_TRUTH))
        return truth
    if name == "language":
        value = value.strip().lower() if type(value) is str else None
        if value not in LANGUAGES:
            raise Rejected(name, "must be one of " + ", ".join(LANGUAGES))
    elif name == "risk_level":
        value = value.strip().upper() if type(value) is str else None
        if value not in RISK_LEVELS:
            raise Rejected(name, "must be one of " + ", ".join(RISK_LEVELS))
    elif name == "split":
        value = value.strip() if type(value) is str else None
        if value not in SPLITS:
            allowed = ", ".join(SPLITS)
            raise Rejected(name, f"must be one of {allowed} (map others by columns.split.values)")
    else:
        value = _free_name(name, value)
    return value


def check_text(text: Any, max_chars: int) -> tuple[str, bool]:
    """Return the text without control characters, and whether it had any.

    Raises
    ------
    Rejected
        If it is no string, longer than `max_chars`, not Unicode, or has no visible character.
    """
    if type(text) is not str:
        raise Rejected("text", "must be a string")
    if len(text) > max_chars:
        raise Rejected("text", f"longer than {max_chars} characters")
    cleaned = False
    if not text.isprintable():
        if _has_surrogate(text):
            raise Rejected("text", "contains a lone surrogate (half of a character)")
        if _CONTROL.search(text):
            text, cleaned = clean_text(text), True
    if not text.strip(_INVISIBLE):
        raise Rejected(
            "text", "missing or empty (white space, control and invisible characters count as nothing)"
        )
    return text, cleaned


@dataclass(slots=True)
class _Notation:
    """How a corpus writes the labels of one variable where it has a way of its own."""

    values: dict[str, Value]
    separator: str | None
    known: dict[str, Value] = field(default_factory=dict)

    def refusal(self, where: str) -> Rejected:
        several = f", or several of them with {self.separator!r} between" if self.separator else ""
        return Rejected(where, f"must be one of {', '.join(self.values)}{several}")


class LabelParser:
    """Checks the value of a label and maps it to 0..1, or to a path of the taxonomy.

    Parameters
    ----------
    labels
        Scale, translation and separator of the variables that have any; else scales are of 0 to 1.
    taxonomy
        The paths that are allowed; None: any.
    key
        Where `labels` stands in the configuration.

    Raises
    ------
    CorpusError
        If a translation leads to what is no label itself.
    """

    def __init__(self, labels: Mapping[Any, LabelColumn], taxonomy: Taxonomy | None, key: str) -> None:
        self.scale = {
            name: (labels[name].min, labels[name].max) if name in labels else _UNIT for name in SCALES
        }
        self._taxonomy = taxonomy
        self.paths: dict[Any, Path3] = {}
        self._notations: dict[str, _Notation] = {}
        notations = {}
        for name, label in labels.items():
            if label.values or label.separator:
                values = {}
                for written, meant in label.values.items():
                    try:
                        values[written.strip()] = self.cell(name, meant.strip(), name)
                    except Rejected as rejected:
                        raise CorpusError(
                            f"{key}.{name}.values: what {written!r} is translated to is no label "
                            f"({rejected.reason}); correct it"
                        ) from None
                notations[name] = _Notation(values, label.separator)
        self._notations = notations
        # Scales whose ratings are already what they become, and hierarchies whose paths `paths` may hold.
        self.ready = frozenset(
            name for name, bounds in self.scale.items() if bounds == _UNIT and name not in notations
        )
        self.plain = frozenset(HIERARCHIES).difference(notations)

    def value(self, variable: str, value: Any, where: str) -> Value:
        """Return the checked value of a label.

        Raises
        ------
        Rejected
            At `where`, if it is none.
        """
        if variable in self._notations:
            return self._written(self._notations[variable], value, where)
        if variable in HIERARCHIES:
            return self._path(value, where)
        return scale_value(value, *self.scale[variable], where)

    def cell(self, variable: str, cell: str, where: str) -> Value:
        """Return the checked value of a label that is a text: a cell of a CSV file."""
        if variable in HIERARCHIES or variable in self._notations:
            return self.value(variable, cell, where)
        return scale_cell(cell, *self.scale[variable], where)

    def _written(self, notation: _Notation, value: Any, where: str) -> Value:
        if type(value) is str:
            text = value.strip()
        elif not notation.values:
            return self._path(value, where)
        elif isinstance(value, int | float):
            text = str(value)
        else:
            raise notation.refusal(where)
        known = notation.known.get(text)
        if known is not None:
            return known
        parts = text.split(notation.separator) if notation.separator else [text]
        labels: list[Any] = []
        for part in map(str.strip, parts):
            label = notation.values.get(part) if notation.values else self._path(part, where)
            if label is None:
                raise notation.refusal(where)
            labels.append(label)
        found: Value = labels[0] if len(labels) == 1 else common_ancestor(labels)
        if len(notation.known) < MAX_CACHED and len(text) <= MAX_ID_CHARS:
            notation.known[text] = found
        return found

    def _path(self, value: Any, where: str) -> Path3:
        if type(value) is dict:
            if not value.keys() <= {"core", "nuance", "micro"}:
                raise Rejected(where, "an object may have core, nuance and micro only")
            parts: list[Any] = [value.get("core"), value.get("nuance"), value.get("micro")]
            while parts and parts[-1] is None:
                parts.pop()
        elif type(value) is str:
            if (known := self.paths.get(value)) is not None:
                return known
            parts = value.split("/")
        else:
            raise Rejected(
                where, "must be a path such as Sad/Lonely/Isolated, or an object with core, nuance, micro"
            )
        if not 1 <= len(parts) <= 3:
            raise Rejected(where, "a path has one to three parts")
        names: list[str] = []
        for part in parts:
            name = part.strip() if type(part) is str else ""
            if not name:
                raise Rejected(where, "every part of a path must be a non-empty string")
            if "/" in name or len(name) > MAX_ID_CHARS or _CONTROL.search(name) or _has_surrogate(name):
                raise Rejected(where, "a part of the path is not a name")
            names.append(name)
        if self._taxonomy is not None:
            self._check(names, where, self._taxonomy)
        padded: list[str | None] = [*names[1:], None, None]
        path = names[0], padded[0], padded[1]
        if type(value) is str and len(self.paths) < MAX_CACHED:
            self.paths[value] = path
        return path

    @staticmethod
    def _check(names: list[str], where: str, taxonomy: Taxonomy) -> None:
        if len(names) > len(taxonomy.levels):
            raise Rejected(where, f"the taxonomy has the levels {', '.join(taxonomy.levels)} only")
        for depth, level in enumerate(taxonomy.levels[: len(names)], 1):
            if not taxonomy.is_valid(tuple(names[:depth])):
                under = f" below its {taxonomy.levels[depth - 2]}" if depth > 1 else ""
                raise Rejected(where, f"the taxonomy has no such {level}{under}")
