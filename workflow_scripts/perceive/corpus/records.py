"""Records of JSONL, CSV and TSV files: each with the line it starts on, or why it could not be read.

The module streams: it holds one record, and the tables of `corpus.joins`. A reject names the file, the
line, the field and the reason, and never repeats what stood there: the texts are intimate, and a value may
stand in the wrong field.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from perceive.corpus.aggregate import Bias
    from perceive.corpus.settings import CorpusSettings

# A character takes at most 12 bytes (two \\uXXXX escapes); the rest is for the other fields.
_MIN_LINE_BYTES, _BYTES_A_CHAR = 1 << 23, 16
_BUFFER_BYTES = 1 << 18
_BOM = b"\xef\xbb\xbf"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,39}")
_PLACEHOLDER = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
}


class CorpusError(ValueError):
    """The corpus cannot be read as configured; the message names the remedy."""


class MissingFileError(CorpusError):
    """A configured file does not exist; the message says where the corpus is to be had."""


class Rejected(Exception):
    """A record that is refused: the field at fault, and the reason."""

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason


Record = dict[str, Any]
Records = Iterator[tuple[int, Record | Rejected | None]]


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
class RoundTally:
    """What was read of one annotation file, a round.

    accepted + rejected + blank == lines, and accepted == new + corrected + unchanged + withdrawn + restored;
    `moved` are those of the corrected that another owner has now. For CSV and TSV a line is a record (a
    quoted field may span several physical lines); the header is not counted.
    """

    file: str
    lines: int = 0
    accepted: int = 0
    rejected: int = 0
    blank: int = 0
    new: int = 0
    corrected: int = 0
    unchanged: int = 0
    withdrawn: int = 0
    restored: int = 0
    moved: int = 0


@dataclass(slots=True)
class TableTally:
    """What was read of one rating table; accepted + rejected + blank + left_out == lines.

    `unmatched` are the accepted rows whose item the annotations do not hold.
    """

    file: str
    lines: int = 0
    accepted: int = 0
    rejected: int = 0
    blank: int = 0
    unmatched: int = 0
    left_out: int = 0


@dataclass(slots=True)
class DerivedTally:
    """What a formula gave; items + own + without are all items.

    `items` have its label, `clipped` of them because it was cut to 0..1; `own` kept a label of their own;
    for those `without` an input lacks, or the formula has no value.
    """

    items: int = 0
    clipped: int = 0
    own: int = 0
    without: int = 0


@dataclass(slots=True)
class Tally:
    """What was read so far: of each file, and of the items after the last round what was assumed of them.

    `biases` are those of the annotators on each scale, where they are corrected. `no_common_ancestor` counts,
    by variable, the items that have no label because they were given several without a common ancestor.
    `derived` is of each variable with a formula; only whoever reads the derived labels gets it.
    """

    rounds: list[RoundTally] = field(default_factory=list)
    ratings: list[TableTally] = field(default_factory=list)
    biases: Mapping[str, Bias] = field(default_factory=dict)
    items: int = 0
    cleaned: int = 0
    naive_timestamps: int = 0
    default_language: int = 0
    derived_ids: int = 0
    no_common_ancestor: dict[str, int] = field(default_factory=dict)
    derived: dict[str, DerivedTally] = field(default_factory=dict)

    @property
    def lines(self) -> int:
        """Lines of all annotation files; accepted + rejected + blank."""
        return sum(one.lines for one in self.rounds)

    @property
    def accepted(self) -> int:
        """Lines that were accepted."""
        return sum(one.accepted for one in self.rounds)

    @property
    def rejected(self) -> int:
        """Lines that were rejected."""
        return sum(one.rejected for one in self.rounds)

    @property
    def blank(self) -> int:
        """Lines that are blank."""
        return sum(one.blank for one in self.rounds)


def printable(name: object) -> str:
    """Return a key or column name for a message, unless it could be a text in the wrong place."""
    return name if isinstance(name, str) and _NAME.fullmatch(name) else "<unprintable>"


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


def resolve(settings: CorpusSettings, value: str, base_dir: Path | str, key: str) -> Path:
    """Return the path of a file that the configuration names under `corpus.{key}`.

    Raises
    ------
    MissingFileError
        If it does not exist; the message says where the corpus is to be had.
    """
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


def file_kind(path: Path, configured: str = "auto") -> str:
    """Return jsonl, csv or tsv: as configured, or by the suffix.

    Raises
    ------
    CorpusError
        If the suffix is not known.
    """
    if configured != "auto":
        return configured
    suffix = path.suffix.lower()
    if suffix not in _KINDS:
        raise CorpusError(
            f"{path.name}: no format for the suffix {suffix!r} (known: {', '.join(_KINDS)}); "
            "rename the file, or for annotations set corpus.format to jsonl, csv or tsv"
        )
    return _KINDS[suffix]


def shown_names(paths: Iterable[Path]) -> dict[Path, str]:
    """How each file is called in messages: by its name, or where two are named alike by its path."""
    found = set(paths)
    names = [path.name for path in found]
    return {path: path.name if names.count(path.name) == 1 else str(path) for path in found}


# --------------------------------------------------------------------------- records


class RecordFile:
    """The records of one file, in order.

    Iterating gives pairs of the line that a record starts on (from 1) and the record: a dictionary, a
    Rejected where it could not be read, or None where the line is blank. `header` holds the columns of a CSV
    or TSV file, whose cells are all strings; it is None for JSONL.

    Parameters
    ----------
    header
        The columns of a CSV or TSV file that has no header; empty: its first line names them.

    Raises
    ------
    CorpusError
        If the file has no usable header, or has one although its columns are given.
    """

    def __init__(
        self,
        handle: BinaryIO,
        shown: str,
        kind: str,
        *,
        delimiter: str | None = None,
        quote_char: str | None = '"',
        max_text_chars: int = 0,
        header: Sequence[str] = (),
    ) -> None:
        self.header: list[str] | None = None
        limit = max(_MIN_LINE_BYTES, _BYTES_A_CHAR * max_text_chars)
        if kind == "jsonl":
            self._records = _json_records(handle, limit)
            return
        delimiter = delimiter or ("\t" if kind == "tsv" else ",")
        rows = iter(_CsvRows(handle, delimiter, quote_char, limit, max_text_chars))
        line, row = next(rows, (1, None))
        names = [name.strip() for name in row] if isinstance(row, list) else None
        if header:
            self.header = list(header)
            if names == self.header:
                raise CorpusError(f"{shown}, line 1: the file has this header itself; remove corpus.header")
            if row is not None:
                rows = chain([(line, row)], rows)
            self._records = _csv_records(rows, self.header, "in corpus.header")
            return
        if row is None:
            raise CorpusError(f"{shown} is empty: not even a header")
        if isinstance(row, Rejected):
            raise CorpusError(f"{shown}, line 1 (the header): {row.reason}")
        assert names is not None
        self.header = names
        if len(set(self.header)) != len(self.header):
            raise CorpusError(f"{shown}: two columns of the header have the same name")
        self._records = _csv_records(rows, self.header, "in the header")

    def __iter__(self) -> Records:
        return self._records


def open_records(path: Path) -> BinaryIO:
    """Open a file for RecordFile."""
    return path.open("rb", buffering=_BUFFER_BYTES)


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


def _json_records(handle: BinaryIO, limit: int) -> Records:
    for number, (raw, overlong) in enumerate(_physical_lines(handle, limit), 1):
        if overlong:
            yield number, Rejected("line", f"longer than {limit} bytes")
            continue
        if not raw or raw.isspace():
            yield number, None
            continue
        try:
            record = json.loads(raw.decode())
        except UnicodeDecodeError:
            yield number, Rejected("line", "not valid UTF-8")
            continue
        except (ValueError, RecursionError):
            yield number, Rejected("line", "malformed JSON")
            continue
        yield number, record if type(record) is dict else Rejected("line", "not a JSON object")


def _csv_records(rows: Iterator[tuple[int, list[str] | Rejected]], header: list[str], where: str) -> Records:
    width = len(header)
    for line, row in rows:
        if isinstance(row, Rejected):
            yield line, row
        elif not any(cell and not cell.isspace() for cell in row):
            yield line, None
        elif len(row) != width:
            yield line, Rejected("line", f"not {width} fields as {where}")
        else:
            yield line, dict(zip(header, row, strict=True))


class _CsvRows:
    """Rows of a CSV or TSV file with the line they start on; what cannot be parsed is a Rejected."""

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

    def __iter__(self) -> Iterator[tuple[int, list[str] | Rejected]]:
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
                    yield line, Rejected("line", reason)
                continue
            yield start, (Rejected("line", self._broken) if self._broken else row)


def load_join(settings: CorpusSettings, index: int, base_dir: Path | str) -> dict[str, dict[str, str]]:
    """Return the table of `corpus.joins[index]`: key to the columns that it adds.

    Raises
    ------
    CorpusError
        If it is damaged anywhere, has two rows of one key, or lacks a column.
    """
    join = settings.joins[index]
    path = resolve(settings, join.file, base_dir, f"joins[{index}].file")
    table: dict[str, dict[str, str]] = {}
    with open_records(path) as handle:
        records = RecordFile(handle, path.name, "tsv" if file_kind(path) == "tsv" else "csv")
        key = join.key or join.column
        for name in (key, *join.added.values()):
            if name not in (records.header or ()):
                raise CorpusError(f"{path.name} has no column {name!r} (corpus.joins[{index}])")
        for line, row in records:
            if row is None:
                continue
            if isinstance(row, Rejected):
                raise CorpusError(f"{path.name}, line {line}: {row.reason}")
            if row[key] in table:
                raise CorpusError(f"{path.name}, line {line}: a second row with the same {key!r}")
            table[row[key]] = {name: row[column] for name, column in join.added.items()}
    return table
