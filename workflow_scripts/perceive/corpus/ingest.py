"""Write the corpus artifacts: items, labels, rejects and the summary, each in a streaming pass of its own.

So a changed label is no reason to write the items again.

Rows are sorted, so the artifacts do not depend on the order of the lines. Items are sorted externally: a
sorted run is spilled every 32,768 items, and only the sort keys stay in memory.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perceive.corpus.aggregate import Label, Value
from perceive.corpus.reader import (
    CorpusError,
    Derived,
    Item,
    Reject,
    Tally,
    read_annotations,
    read_labelled,
)
from perceive.corpus.records import RoundTally, TableTally
from perceive.io import atomic_path, write_json
from perceive.variables import HIERARCHIES, SCALES, VARIABLES

if TYPE_CHECKING:
    import pandas as pd

    from perceive.corpus.settings import CorpusSettings

log = logging.getLogger(__name__)

ITEM_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("owner_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("length_bucket", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("risk_level", pa.string()),
        pa.field("device", pa.string()),
        pa.field("split", pa.string()),
        pa.field("extra", pa.string()),
    ]
)
SCALE_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("n_raters", pa.int32(), nullable=False),
        pa.field("spread", pa.float64(), nullable=False),
        pa.field("derived", pa.bool_(), nullable=False),
    ]
)
PATH_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("core", pa.string(), nullable=False),
        pa.field("nuance", pa.string()),
        pa.field("micro", pa.string()),
        pa.field("n_raters", pa.int32(), nullable=False),
        pa.field("spread", pa.float64(), nullable=False),
    ]
)
_ITEM_ROW = attrgetter(*ITEM_SCHEMA.names)
_KEYS = ["owner_id", "timestamp", "item_id"]
_RUN_ROWS = 32_768
_RUN_CHARS = 1 << 25
_SPILL_ROWS = 1_024
_GROUP_ROWS = 16_384


class RejectedShareError(CorpusError):
    """More lines were rejected than `corpus.limits.max_rejected_share` allows."""


def _table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [pa.array(column, type=kind) for column, kind in zip(columns, schema.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


class _SortedItems:
    """Collects items in any order and writes them sorted, in bounded memory (an external merge sort)."""

    def __init__(self, spill: IO[bytes]) -> None:
        self._file = spill
        self._spill: pa.RecordBatchFileWriter | None = None
        self._rows: list[tuple[Any, ...]] = []
        self._chars = 0
        self._keys: list[pa.Table] = []
        self._runs: list[list[int]] = []
        self._batches = 0

    def add(self, item: Item) -> None:
        self._rows.append(_ITEM_ROW(item))
        self._chars += len(item.text) + (len(item.extra) if item.extra else 0)
        if len(self._rows) >= _RUN_ROWS or self._chars >= _RUN_CHARS:
            self._end_run()

    def _take_run(self) -> pa.Table:
        run = _table(self._rows, ITEM_SCHEMA).sort_by([(key, "ascending") for key in _KEYS])
        self._rows.clear()
        self._chars = 0
        return run

    def _end_run(self) -> None:
        run = self._take_run()
        if self._spill is None:
            self._spill = pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), ITEM_SCHEMA)
        batches = run.combine_chunks().to_batches(max_chunksize=_SPILL_ROWS)
        for batch in batches:
            self._spill.write_batch(batch)
        self._runs.append(list(range(self._batches, self._batches + len(batches))))
        self._batches += len(batches)
        self._keys.append(run.select(_KEYS).combine_chunks())

    def sorted_tables(self) -> Iterator[pa.Table]:
        """Yield all items in order, in tables of bounded size."""
        if self._spill is None:
            yield self._take_run()
            return
        if self._rows:
            self._end_run()
        self._spill.close()
        reader = pa.ipc.open_file(pa.PythonFile(self._file, mode="r"))
        sizes = [len(keys) for keys in self._keys]
        keys = pa.concat_tables(self._keys)
        self._keys.clear()
        order = pa.compute.sort_indices(keys, sort_keys=[(key, "ascending") for key in _KEYS]).to_numpy()
        del keys
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        del order
        # A run is sorted, so the rows that fall into one stretch of the result lie together in each run.
        ranks = np.split(rank, np.cumsum(sizes)[:-1])
        for low in range(0, len(rank), _GROUP_ROWS):
            parts = []
            for batches, of_run in zip(self._runs, ranks, strict=True):
                begin, end = np.searchsorted(of_run, [low, low + _GROUP_ROWS])
                for number in range(begin // _SPILL_ROWS, -(-end // _SPILL_ROWS)):
                    first = number * _SPILL_ROWS
                    start = max(begin - first, 0)
                    stop = min(end - first, _SPILL_ROWS)
                    if stop > start:
                        parts.append(reader.get_batch(batches[number]).slice(start, stop - start))
            yield pa.Table.from_batches(parts).sort_by([(key, "ascending") for key in _KEYS])


class _LabelSums:
    """Counts and sums of one variable's labels."""

    def __init__(self, variable: str) -> None:
        self._is_path = variable in HIERARCHIES
        self._items = 0
        self._ratings = 0
        self._sum = 0.0
        self._squares = 0.0
        self._cores: Counter[str] = Counter()

    def add(self, label: Label) -> None:
        value, raters, _ = label
        self._items += 1
        self._ratings += raters
        if isinstance(value, float):
            self._sum += value
            self._squares += value * value
        else:
            self._cores[value[0]] += 1

    def report(self) -> dict[str, Any]:
        """Return items, ratings, and the distribution: cores, or mean and standard deviation."""
        if not self._items:
            return {"items": 0}
        report: dict[str, Any] = {"items": self._items, "ratings": self._ratings}
        if self._is_path:
            return {**report, "core": dict(sorted(self._cores.items()))}
        mean = self._sum / self._items
        variance = max(0.0, self._squares / self._items - mean * mean)
        # Rounded: the sums are taken in line order, whose rounding must not show.
        return {**report, "mean": round(mean, 12), "sd": round(math.sqrt(variance), 9)}


class _Summary:
    """Counts for summary.json."""

    def __init__(self) -> None:
        self._owners: set[bytes] = set()
        self._counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("language", "category", "risk_level", "length_bucket", "split")
        }
        self._reasons: Counter[str] = Counter()
        self._labels = {name: _LabelSums(name) for name in VARIABLES}
        self._derived = {name: _LabelSums(name) for name in SCALES}
        self._first: int | None = None
        self._last: int | None = None

    def add(self, entry: Item | Reject | Derived) -> None:
        if isinstance(entry, Derived):
            self._derived[entry.variable].add(entry.label)
            return
        if isinstance(entry, Reject):
            # Without the place in a list: annotations[3].x and annotations[4].x are one kind of mistake.
            where = "".join(
                part.partition("]")[2] if index else part for index, part in enumerate(entry.field.split("["))
            )
            self._reasons[f"{where}: {entry.reason}"] += 1
            return
        self._owners.add(entry.owner_id.encode())
        for name, counter in self._counts.items():
            value = getattr(entry, name)
            counter["none" if value is None else value] += 1
        self._first = entry.timestamp if self._first is None else min(self._first, entry.timestamp)
        self._last = entry.timestamp if self._last is None else max(self._last, entry.timestamp)
        labels = entry.labels
        for variable in entry.ratings:
            self._labels[variable].add(labels[variable])

    def report(self, settings: CorpusSettings, tally: Tally) -> dict[str, Any]:
        labels = {variable: sums.report() for variable, sums in self._labels.items()}
        for variable, count in tally.no_common_ancestor.items():
            labels[variable]["no_common_ancestor"] = count
        span = None
        if self._first is not None and self._last is not None:
            span = [_iso(self._first), _iso(self._last)]
        report = {
            "corpus": settings.name,
            "items": tally.items,
            "lines": tally.lines,
            "accepted": tally.accepted,
            "rejected": tally.rejected,
            "blank": tally.blank,
            "cleaned": tally.cleaned,
            "rejected_share": round(_share(tally.rounds), 6),
            "rejected_by_reason": dict(sorted(self._reasons.items())),
            "rounds": [asdict(one) for one in tally.rounds],
            "owners": len(self._owners),
            "items_by": {name: dict(sorted(counter.items())) for name, counter in self._counts.items()},
            "time_span": span,
            "labels": labels,
            "warnings": self._warnings(settings, tally),
        }
        if tally.derived:
            report["derived"] = {name: self._derivation(name, settings, tally) for name in tally.derived}
        if tally.ratings:
            report["ratings"] = [asdict(one) for one in tally.ratings]
        if settings.aggregation.bias_correction:
            report["annotator_bias"] = {name: bias.report() for name, bias in tally.biases.items()}
        return report

    def _derivation(self, variable: Any, settings: CorpusSettings, tally: Tally) -> dict[str, Any]:
        report: dict[str, Any] = {"formula": settings.derived[variable].formula}
        report |= asdict(tally.derived[variable])
        values = self._derived[variable].report()
        return report | {name: values[name] for name in ("mean", "sd") if name in values}

    def _warnings(self, settings: CorpusSettings, tally: Tally) -> list[str]:
        warnings = []
        if tally.rejected:
            warnings.append(f"{tally.rejected} of {tally.lines} lines were rejected; see rejects.jsonl")
        for table in tally.ratings:
            if table.rejected:
                warnings.append(
                    f"{table.rejected} of {table.lines} rows of {table.file} were rejected; see rejects.jsonl"
                )
            if table.unmatched:
                warnings.append(
                    f"{table.unmatched} rows of {table.file} rate items that the annotations do not hold"
                )
        if tally.cleaned:
            warnings.append(f"control characters were removed from {tally.cleaned} texts")
        if tally.naive_timestamps:
            warnings.append(
                f"{tally.naive_timestamps} timestamps without a zone were read as {settings.default_timezone}"
            )
        if tally.default_language:
            warnings.append(
                f"{tally.default_language} items without a language were taken as {settings.default_language}"
            )
        if tally.derived_ids:
            warnings.append(f"{tally.derived_ids} items had no id; theirs derive from owner, time and text")
        for variable, count in sorted(tally.no_common_ancestor.items()):
            warnings.append(
                f"{count} items were given several labels of {variable} without a common ancestor; they have "
                "no label of it"
            )
        for variable, derived in tally.derived.items():
            if not derived.items and not derived.own:
                warnings.append(f"the formula of corpus.derived.{variable} gives no item a label")
        sums = [*self._labels.values(), *self._derived.values()]
        if tally.items and not any(one.report()["items"] for one in sums):
            warnings.append("no item carries a label")
        if len(self._owners) == 1:
            warnings.append("all items belong to one owner: they cannot be split by owner")
        return warnings


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, tz=UTC).isoformat(timespec="seconds")


def _share(files: Sequence[RoundTally] | Sequence[TableTally]) -> float:
    """Rejected share of the lines that are not blank."""
    lines = sum(one.lines - one.blank for one in files)
    return sum(one.rejected for one in files) / lines if lines else 0.0


class _Check:
    """Sees every reject, and stops a run that must not go on."""

    def __init__(self, settings: CorpusSettings) -> None:
        self._settings = settings
        self._first: list[Reject] = []

    def see(self, reject: Reject) -> None:
        if len(self._first) < self._settings.limits.n_first_reasons:
            self._first.append(reject)

    def finish(self, tally: Tally) -> None:
        """Raise RejectedShareError if too much was rejected, CorpusError if there is no item."""
        name, limit = self._settings.name, self._settings.limits.max_rejected_share
        for files, what in ((tally.rounds, "lines"), (tally.ratings, "rows of ratings")):
            if _share(files) > limit:  # type: ignore[arg-type]
                rejected, lines = (
                    sum(one.rejected for one in files),
                    sum(one.lines - one.blank for one in files),
                )
                reasons = "".join(f"\n  {r.file}, line {r.line}: {r.field}: {r.reason}" for r in self._first)
                raise RejectedShareError(
                    f"corpus {name!r}: {rejected} of {lines} {what} ({rejected / lines:.2%}) were rejected, "
                    f"more than corpus.limits.max_rejected_share ({limit:.2%}). The first:{reasons}\n"
                    "Correct the lines (rejects.jsonl names them all) or the column map, or raise the limit."
                )
        if not tally.items:
            raise CorpusError(
                f"corpus {name!r}: there is no item (the files hold no lines, or all items are withdrawn); "
                "nothing to build"
            )


def ingest_items(settings: CorpusSettings, base_dir: Path | str, items_path: Path | str) -> int:
    """Write items.parquet, sorted by owner_id, timestamp and item_id, and return the number of items.

    Raises
    ------
    RejectedShareError
        If the rejected share of the lines that are not blank (of the annotation files, or of the rating
        tables) passes `corpus.limits.max_rejected_share`; the items are not written.
    CorpusError
        If there is no item.
    """
    items_path = Path(items_path)
    tally, check = Tally(), _Check(settings)
    items_path.parent.mkdir(parents=True, exist_ok=True)
    # An unnamed file: it vanishes with the process, however that ends.
    with tempfile.TemporaryFile(dir=items_path.parent) as spill:
        rows = _SortedItems(spill)
        for entry in read_annotations(settings, base_dir, tally):
            if isinstance(entry, Reject):
                check.see(entry)
            else:
                rows.add(entry)
        check.finish(tally)
        with (
            atomic_path(items_path) as temporary,
            pq.ParquetWriter(temporary, ITEM_SCHEMA, compression="zstd") as out,
        ):
            for table in rows.sorted_tables():
                out.write_table(table, row_group_size=_GROUP_ROWS)
    log.info("corpus %s: %d items", settings.name, tally.items)
    return tally.items


def ingest_column(settings: CorpusSettings, base_dir: Path | str, column: str, path: Path | str) -> None:
    """Write one column of the items beside their ids, sorted by item_id: what a stage reads and no more.

    The order depends on no other column, so that rows keep their places when one of those is corrected.

    Parameters
    ----------
    column : str
        One of :data:`perceive.corpus.reader.READ_COLUMNS`.

    Raises
    ------
    RejectedShareError, CorpusError
        As `ingest_items`.
    """
    tally, check = Tally(), _Check(settings)
    values: dict[str, Any] = {}
    for entry in read_annotations(settings, base_dir, tally):
        if isinstance(entry, Reject):
            check.see(entry)
        else:
            values[entry.item_id] = getattr(entry, column)
    check.finish(tally)
    schema = pa.schema([ITEM_SCHEMA.field("item_id"), ITEM_SCHEMA.field(column)])
    with atomic_path(Path(path)) as temporary:
        pq.write_table(
            _table([(item_id, values[item_id]) for item_id in sorted(values)], schema),
            temporary,
            compression="zstd",
        )


def ingest_rejects(settings: CorpusSettings, base_dir: Path | str, rejects_path: Path | str) -> None:
    """Write rejects.jsonl: an object a line with file, line, field, reason, and item_id where known.

    Raises
    ------
    RejectedShareError, CorpusError
        As `ingest_items`, after the rejects were written.
    """
    tally, check = Tally(), _Check(settings)
    with atomic_path(Path(rejects_path)) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for entry in read_annotations(settings, base_dir, tally):
            if isinstance(entry, Reject):
                check.see(entry)
                handle.write(json.dumps(entry.record(), ensure_ascii=False) + "\n")
    check.finish(tally)


def ingest_summary(
    settings: CorpusSettings, base_dir: Path | str, summary_path: Path | str
) -> dict[str, Any]:
    """Write summary.json, log its warnings, and return it."""
    tally, summary = Tally(), _Summary()
    for entry in read_labelled(settings, base_dir, tally):
        summary.add(entry)
    report = summary.report(settings, tally)
    write_json(summary_path, report)
    for warning in report["warnings"]:
        log.warning("corpus %s: %s", settings.name, warning)
    return report


def ingest_labels(settings: CorpusSettings, base_dir: Path | str, variable: str, path: Path | str) -> int:
    """Write one variable's labels, sorted by item_id, and return their number.

    Scales have item_id, value, n_raters, spread, and whether the label is derived by a formula (of no rater);
    hierarchies have core, nuance, micro instead of value, and are never derived.
    A variable without labels gives an empty table: whether that is an error is for the caller to say.

    Raises
    ------
    ValueError
        If there is no such variable.
    """
    rows = _Rows(_label_schema(variable))
    for entry in read_labelled(settings, base_dir, variables=(variable,)):
        if isinstance(entry, Derived) or (isinstance(entry, Item) and variable in entry.ratings):
            rows.add(*_label_row(entry, variable))
    table = rows.table().sort_by("item_id")
    with atomic_path(Path(path)) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=_GROUP_ROWS)
    return len(table)


def rating_frames(
    settings: CorpusSettings, base_dir: Path | str, variable: str
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return every single rating of one variable, the items that have any, and their labels.

    Returns
    -------
    ratings : pandas.DataFrame
        item_id, rater (missing where the rater has no name), and value (0..1), or for hierarchies core,
        nuance and micro; one row a rating, sorted by item_id and rater.
    items : pandas.DataFrame
        item_id, language, category, risk_level; sorted by item_id.
    labels : pandas.DataFrame
        As `ingest_labels` writes them, those included that are derived, whose items have no rating.

    Raises
    ------
    ValueError
        If there is no such variable.
    """
    schema = _label_schema(variable)
    values = [field for field in schema if field.name not in ("item_id", "n_raters", "spread", "derived")]
    ratings = _Rows(pa.schema([schema.field("item_id"), pa.field("rater", pa.string()), *values]))
    items = _Rows(
        pa.schema([ITEM_SCHEMA.field(name) for name in ("item_id", "language", "category", "risk_level")])
    )
    labels = _Rows(schema)
    for entry in read_labelled(settings, base_dir, variables=(variable,)):
        if isinstance(entry, Derived):
            labels.add(*_label_row(entry, variable))
            continue
        if isinstance(entry, Reject) or variable not in entry.ratings:
            continue
        item_id = entry.item_id
        items.add(item_id, entry.language, entry.category, entry.risk_level)
        labels.add(*_label_row(entry, variable))
        for rater, single in entry.ratings[variable]:
            ratings.add(item_id, rater, *_cells(single))
    order = [(name, "ascending") for name in ratings.schema.names]
    tables = (
        ratings.table().sort_by(order),
        items.table().sort_by("item_id"),
        labels.table().sort_by("item_id"),
    )
    return tables[0].to_pandas(), tables[1].to_pandas(), tables[2].to_pandas()


def _cells(value: Value) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _label_row(entry: Item | Derived, variable: str) -> tuple[Any, ...]:
    derived = isinstance(entry, Derived)
    value, raters, spread = entry.label if isinstance(entry, Derived) else entry.labels[variable]
    return entry.item_id, *_cells(value), raters, spread, *(() if variable in HIERARCHIES else (derived,))


def _label_schema(variable: str) -> pa.Schema:
    if variable not in VARIABLES:
        raise ValueError(f"unknown variable {variable!r}; known are {', '.join(VARIABLES)}")
    return PATH_SCHEMA if variable in HIERARCHIES else SCALE_SCHEMA


class _Rows:
    """Collects rows, in Arrow's compact form but for the last ones."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._tables = [schema.empty_table()]
        self._rows: list[tuple[Any, ...]] = []

    def add(self, *row: Any) -> None:
        self._rows.append(row)
        if len(self._rows) >= _RUN_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._tables.append(_table(self._rows, self.schema))
        self._rows.clear()

    def table(self) -> pa.Table:
        self._flush()
        return pa.concat_tables(self._tables)
