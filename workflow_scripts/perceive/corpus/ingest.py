"""Write the corpus artifacts: items, labels, rejects and the summary, each in one streaming pass.

Rows are sorted, so the artifacts do not depend on the order of the lines. Items are sorted externally: a
sorted run is spilled every 32,768 items, and only the sort keys stay in memory.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perceive.corpus.reader import CorpusError, Item, Reject, Tally, read_annotations
from perceive.io import atomic_path, write_json
from perceive.variables import HIERARCHIES, VARIABLES

if TYPE_CHECKING:
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
_KEYS = ["owner_id", "timestamp", "item_id"]
_RUN_ROWS = 32_768
_RUN_CHARS = 1 << 25
_SPILL_ROWS = 1_024
_GROUP_ROWS = 16_384


class RejectedShareError(CorpusError):
    """More lines were rejected than `corpus.limits.max_rejected_share` allows."""


class _SortedItems:
    """Collects items in any order and writes them sorted, in bounded memory (an external merge sort)."""

    def __init__(self, spill: IO[bytes]) -> None:
        self._file = spill
        self._spill: pa.RecordBatchFileWriter | None = None
        self._clear()
        self._chars = 0
        self._keys: list[pa.Table] = []
        self._runs: list[list[int]] = []
        self._batches = 0

    def _clear(self) -> None:
        # Columns, not rows: pyarrow takes them as they are.
        self._columns: dict[str, list[Any]] = {name: [] for name in ITEM_SCHEMA.names}
        self._appends = [(name, column.append) for name, column in self._columns.items()]

    def add(self, item: Item) -> None:
        for name, append in self._appends:
            append(getattr(item, name))
        self._chars += len(item.text) + (len(item.extra) if item.extra else 0)
        if len(self._columns["item_id"]) >= _RUN_ROWS or self._chars >= _RUN_CHARS:
            self._end_run()

    def _take_run(self) -> pa.Table:
        run = pa.table(self._columns, schema=ITEM_SCHEMA).sort_by([(key, "ascending") for key in _KEYS])
        self._clear()
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
        if self._columns["item_id"]:
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


class _Summary:
    """Counts for summary.json."""

    def __init__(self) -> None:
        self.owners: set[bytes] = set()
        self.counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("language", "category", "risk_level", "length_bucket", "split")
        }
        self.reasons: Counter[str] = Counter()
        self.labels: dict[str, list[float]] = {name: [0, 0.0, 0.0, 0] for name in VARIABLES}
        self.cores: dict[str, Counter[str]] = {name: Counter() for name in HIERARCHIES}
        self.first: int | None = None
        self.last: int | None = None

    def add(self, entry: Item | Reject) -> None:
        if isinstance(entry, Reject):
            # Without the place in a list: annotations[3].x and annotations[4].x are one kind of mistake.
            where = "".join(
                part.partition("]")[2] if index else part for index, part in enumerate(entry.field.split("["))
            )
            self.reasons[f"{where}: {entry.reason}"] += 1
            return
        self.owners.add(entry.owner_id.encode())
        for name, counter in self.counts.items():
            value = getattr(entry, name)
            counter["none" if value is None else value] += 1
        self.first = entry.timestamp if self.first is None else min(self.first, entry.timestamp)
        self.last = entry.timestamp if self.last is None else max(self.last, entry.timestamp)
        for variable, (value, raters, _) in entry.labels.items():
            sums = self.labels[variable]
            sums[0] += 1
            sums[3] += raters
            if isinstance(value, float):
                sums[1] += value
                sums[2] += value * value
            else:
                self.cores[variable][value[0]] += 1

    def report(self, settings: CorpusSettings, tally: Tally) -> dict[str, Any]:
        labels: dict[str, Any] = {}
        for variable, (count, total, squares, ratings) in self.labels.items():
            entry: dict[str, Any] = {"items": int(count)}
            if count:
                entry["ratings"] = int(ratings)
                if variable in HIERARCHIES:
                    entry["core"] = dict(sorted(self.cores[variable].items()))
                else:
                    mean = total / count
                    # 12 digits: the sums are taken in line order, whose rounding must not show.
                    entry["mean"] = round(mean, 12)
                    entry["sd"] = round(math.sqrt(max(0.0, squares / count - mean * mean)), 9)
            labels[variable] = entry
        return {
            "corpus": settings.name,
            "lines": tally.lines,
            "accepted": tally.accepted,
            "rejected": tally.rejected,
            "blank": tally.blank,
            "cleaned": tally.cleaned,
            "rejected_share": _share(tally),
            "rejected_by_reason": dict(sorted(self.reasons.items())),
            "owners": len(self.owners),
            "items_by": {name: dict(sorted(counter.items())) for name, counter in self.counts.items()},
            "time_span": None
            if self.first is None or self.last is None
            else [_iso(self.first), _iso(self.last)],
            "labels": labels,
            "warnings": self._warnings(settings, tally),
        }

    def _warnings(self, settings: CorpusSettings, tally: Tally) -> list[str]:
        warnings = []
        if tally.rejected:
            warnings.append(f"{tally.rejected} of {tally.lines} lines were rejected; see rejects.jsonl")
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
        if tally.accepted and not any(counts[0] for counts in self.labels.values()):
            warnings.append("no item carries a label")
        if len(self.owners) == 1:
            warnings.append("all items belong to one owner: they cannot be split by owner")
        return warnings


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, tz=UTC).isoformat(timespec="seconds")


def _share(tally: Tally) -> float:
    lines = tally.lines - tally.blank
    return round(tally.rejected / lines, 6) if lines else 0.0


def _write_rejects(path: Path, rejects: Iterator[Reject] | list[Reject]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for reject in rejects:
            handle.write(json.dumps(reject.record(), ensure_ascii=False) + "\n")


def check_rejected_share(settings: CorpusSettings, tally: Tally, first: list[Reject]) -> None:
    """Raise if too much was rejected, or nothing was accepted.

    Raises
    ------
    RejectedShareError
        If the rejected share of the lines that are not blank passes `corpus.limits.max_rejected_share`.
    CorpusError
        If no item was accepted.
    """
    limit = settings.limits.max_rejected_share
    lines = tally.lines - tally.blank
    if lines and tally.rejected / lines > limit:
        reasons = "".join(f"\n  {r.file}, line {r.line}: {r.field}: {r.reason}" for r in first)
        raise RejectedShareError(
            f"corpus {settings.name!r}: {tally.rejected} of {lines} lines ({tally.rejected / lines:.2%}) "
            f"were rejected, more than corpus.limits.max_rejected_share ({limit:.2%}). The first:{reasons}\n"
            "Correct the lines (rejects.jsonl names them all) or the column map, or raise the limit."
        )
    if not tally.accepted:
        raise CorpusError(
            f"corpus {settings.name!r}: no item was accepted (the files hold no lines); nothing to build"
        )


def ingest_items(
    settings: CorpusSettings,
    base_dir: Path | str,
    items_path: Path | str,
    rejects_path: Path | str | None = None,
    summary_path: Path | str | None = None,
) -> dict[str, Any]:
    """Read the corpus once and write items.parquet, and where a path is given rejects.jsonl and summary.json.

    Items and rejects depend on the digests `items` and `rejects`; the summary depends on all labels too, so
    a workflow that must not touch the items when a label changes has it written by `ingest_summary`.

    Returns
    -------
    dict
        The summary.

    Raises
    ------
    RejectedShareError, CorpusError
        As `check_rejected_share`, after the rejects were written; the items are not.
    """
    items_path = Path(items_path)
    tally, summary, first = Tally(), _Summary(), _First(settings.limits.n_first_reasons)
    items_path.parent.mkdir(parents=True, exist_ok=True)
    # An unnamed file: it vanishes with the process, however that ends.
    with tempfile.TemporaryFile(dir=items_path.parent) as spill:
        rows = _SortedItems(spill)

        def rejects() -> Iterator[Reject]:
            for entry in read_annotations(settings, base_dir, tally):
                summary.add(entry)
                if isinstance(entry, Reject):
                    first.add(entry)
                    yield entry
                else:
                    rows.add(entry)

        if rejects_path is not None:
            _write_rejects(Path(rejects_path), rejects())
        else:
            for _ in rejects():
                pass
        report = summary.report(settings, tally)
        if summary_path is not None:
            write_json(summary_path, report)
        for warning in report["warnings"]:
            log.warning("corpus %s: %s", settings.name, warning)
        check_rejected_share(settings, tally, first.rejects)
        with (
            atomic_path(items_path) as temporary,
            pq.ParquetWriter(temporary, ITEM_SCHEMA, compression="zstd") as out,
        ):
            for table in rows.sorted_tables():
                out.write_table(table, row_group_size=_GROUP_ROWS)
    log.info("corpus %s: %d items of %d owners", settings.name, tally.accepted, report["owners"])
    return report


def ingest_rejects(settings: CorpusSettings, base_dir: Path | str, rejects_path: Path | str) -> None:
    """Write rejects.jsonl alone: an object a line with file, line, field, reason, and item_id where known."""
    tally, first = Tally(), _First(settings.limits.n_first_reasons)

    def rejects() -> Iterator[Reject]:
        for entry in read_annotations(settings, base_dir, tally):
            if isinstance(entry, Reject):
                first.add(entry)
                yield entry

    _write_rejects(Path(rejects_path), rejects())
    check_rejected_share(settings, tally, first.rejects)


def ingest_summary(
    settings: CorpusSettings, base_dir: Path | str, summary_path: Path | str
) -> dict[str, Any]:
    """Write summary.json alone, and return it."""
    tally, summary = Tally(), _Summary()
    for entry in read_annotations(settings, base_dir, tally):
        summary.add(entry)
    report = summary.report(settings, tally)
    write_json(summary_path, report)
    return report


def ingest_labels(settings: CorpusSettings, base_dir: Path | str, variable: str, path: Path | str) -> int:
    """Write one variable's labels, sorted by item_id, and return their number.

    Scales have item_id, value, n_raters, spread; hierarchies have core, nuance, micro instead of value.
    A variable without labels gives an empty table: whether that is an error is for the caller to say.
    """
    if variable not in VARIABLES:
        raise ValueError(f"unknown variable {variable!r}; known are {', '.join(VARIABLES)}")
    is_path = variable in HIERARCHIES
    schema = PATH_SCHEMA if is_path else SCALE_SCHEMA
    tables = [schema.empty_table()]
    rows: list[tuple[Any, ...]] = []

    def flush() -> None:
        columns = zip(*rows, strict=True) if rows else [()] * len(schema)
        arrays = [pa.array(column, type=kind) for column, kind in zip(columns, schema.types, strict=True)]
        tables.append(pa.Table.from_arrays(arrays, schema=schema))
        rows.clear()

    for entry in read_annotations(settings, base_dir):
        if isinstance(entry, Reject) or variable not in entry.labels:
            continue
        value, raters, spread = entry.labels[variable]
        rows.append((entry.item_id, *(value if isinstance(value, tuple) else (value,)), raters, spread))
        if len(rows) >= _RUN_ROWS:
            flush()
    flush()
    table = pa.concat_tables(tables).sort_by("item_id")
    with atomic_path(Path(path)) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=_GROUP_ROWS)
    return len(table)


class _First:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.rejects: list[Reject] = []

    def add(self, reject: Reject) -> None:
        if len(self.rejects) < self._limit:
            self.rejects.append(reject)
