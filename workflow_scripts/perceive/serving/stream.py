"""Scoring a file or a pipe: one answer a record, in its order, in constant memory, resumable.

Answers are appended to ``OUTPUT.part`` block by block and get their name when all are there, so that half an
output is never taken for a whole. ``OUTPUT.part.json`` says what the part belongs to. Each block is in the
history before its answers are in the part: a block that was killed between the two is scored again, to the
same answers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from perceive import io
from perceive.corpus.records import Record, RecordFile, Rejected, file_kind, open_records
from perceive.serving.bundle import Bundle
from perceive.serving.scorer import ITEMS_AT_ONCE, Answer, Perceiver

Format = Literal["jsonl", "parquet"]
Numbered = Iterable[tuple[int, Record | Rejected | None]]

DECIMALS = 6
PARQUET_ROWS = 4096


class StreamError(ValueError):
    """The input or output cannot be used as asked."""


def read_records(path: Path | None, columns: Mapping[str, str], max_text_chars: int) -> Iterator[Any]:
    """Records of a file with their lines, from 1; None reads JSON lines from the standard input.

    Parameters
    ----------
    path : Path or None
        JSONL, CSV, TSV or Parquet, by its suffix.
    columns : mapping of field to str
        Names of columns where they are not those of the fields.
    max_text_chars : int
        Bounds what one record may hold.
    """
    if path is not None and not path.exists():
        raise StreamError(f"{path} does not exist; correct --input")
    if path is not None and path.suffix == ".parquet":
        opened: Any = nullcontext()
    else:
        opened = nullcontext(sys.stdin.buffer) if path is None else open_records(path)
    with opened as handle:
        if handle is None:
            assert path is not None
            records: Numbered = _parquet_records(path)
        else:
            kind, shown = ("jsonl", "the standard input") if path is None else (file_kind(path), str(path))
            records = RecordFile(handle, shown, kind, max_text_chars=max_text_chars)
        for line, record in records:
            if columns and isinstance(record, dict):
                for field, name in columns.items():
                    if name in record:
                        record[field] = record.pop(name)
            yield line, record


def _parquet_records(path: Path) -> Iterator[tuple[int, Record]]:
    import pyarrow.parquet as pq

    number = 0
    for batch in pq.ParquetFile(path).iter_batches(PARQUET_ROWS):
        for record in batch.to_pylist():
            number += 1
            yield (
                number,
                {
                    name: value.isoformat() if isinstance(value, datetime) else value
                    for name, value in record.items()
                },
            )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DECIMALS)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value


def _line(number: int, answer: Answer) -> bytes:
    return (json.dumps({"line": number, **_rounded(answer)}, ensure_ascii=False) + "\n").encode()


def _blocks(records: Iterable[Any]) -> Iterator[list[Any]]:
    records = iter(records)
    while block := list(islice(records, ITEMS_AT_ONCE)):
        yield block


class Progress:
    """Counts, and a line to the standard error now and then.

    Attributes
    ----------
    answered, errors, late : int
    """

    EVERY_S = 2.0

    def __init__(self, quiet: bool = False) -> None:
        self.answered = self.errors = self.late = 0
        self._quiet = quiet
        self._began = self._told = time.monotonic()

    def add(self, answers: Iterable[Answer]) -> None:
        """Count some answers."""
        for answer in answers:
            if "error" in answer:
                self.errors += 1
            else:
                self.answered += 1
                self.late += bool(answer.get("late"))
        now = time.monotonic()
        if not self._quiet and now - self._told >= self.EVERY_S:
            self._told = now
            done = self.answered + self.errors
            print(f"{done:,} records, {done / (now - self._began):,.0f} a second", file=sys.stderr)

    def summary(self) -> str:
        """What came of it."""
        parts = [f"{self.answered:,} answered"]
        if self.errors:
            parts.append(f"{self.errors:,} with an error (see the records' error)")
        if self.late:
            parts.append(
                f"{self.late:,} late: older than what had been scored of their owners; sort the input by "
                "time to have every history complete"
            )
        return ", ".join(parts)


def score_pipe(perceiver: Perceiver, records: Iterable[Any], output: IO[bytes], progress: Progress) -> None:
    """Answer as records come, block by block, onto a pipe."""
    for block in _blocks(records):
        answers = perceiver.score(record for _, record in block)
        output.write(
            b"".join(_line(number, answer) for (number, _), answer in zip(block, answers, strict=True))
        )
        output.flush()
        progress.add(answers)


def score_file(
    open_perceiver: Callable[[Path], Perceiver],
    bundle: Bundle,
    records: Iterable[Any],
    output: Path,
    *,
    source: Mapping[str, Any],
    form: Format,
    resume: bool,
    progress: Progress,
) -> None:
    """Answer all records into a file.

    Parameters
    ----------
    open_perceiver : callable
        Given where a history may lie that goes with the part, opens the scorer.
    bundle : Bundle
    records : iterable of (int, record)
    output : Path
    source : mapping
        What is scored, and how: a part of something else is not resumed.
    form : 'jsonl' or 'parquet'
    resume : bool
        Go on with a part.
    progress : Progress

    Raises
    ------
    StreamError
        If there is a part and it is not to be resumed, or is of another input or bundle.
    """
    part, about = output.with_name(output.name + ".part"), output.with_name(output.name + ".part.json")
    history = output.with_name(output.name + ".part.history")
    wanted = {"bundle": bundle.id, "precision": bundle.precision, **source}
    done = 0
    if part.exists() and not resume:
        raise StreamError(
            f"{part} is left of an interrupted run: go on with --resume, or delete it to begin anew"
        )
    if part.exists() and about.exists():
        if io.read_json(about) != wanted:
            raise StreamError(f"{part} is of another input or bundle: delete it to begin anew")
        done = _whole_blocks(part)
    else:
        _remove(part, history)
        output.parent.mkdir(parents=True, exist_ok=True)
        io.write_json(about, wanted)
    perceiver = open_perceiver(history)
    rest = iter(records)
    for _ in islice(rest, done):
        pass
    progress.answered += done
    with part.open("ab") as handle:
        for block in _blocks(rest):
            answers = perceiver.score(record for _, record in block)
            handle.write(
                b"".join(_line(number, answer) for (number, _), answer in zip(block, answers, strict=True))
            )
            handle.flush()
            os.fsync(handle.fileno())
            progress.add(answers)
    perceiver.history.close()
    if form == "parquet":
        _as_parquet(part, output, bundle)
        part.unlink()
    else:
        os.replace(part, output)
    _remove(about, history)


def _remove(*paths: Path) -> None:
    for path in paths:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _whole_blocks(part: Path) -> int:
    """Cut a part after its last whole block, and count its lines.

    Blocks, not lines: what is scored together knows of each other.
    """
    kept = lines = place = 0
    with part.open("r+b") as handle:
        for line in handle:
            if not line.endswith(b"\n"):
                break
            place += len(line)
            lines += 1
            if lines % ITEMS_AT_ONCE == 0:
                kept = place
        handle.truncate(kept)
    return lines - lines % ITEMS_AT_ONCE


def _as_parquet(part: Path, output: Path, bundle: Bundle) -> None:
    """Answers as a table, one row a record."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    variables = bundle.manifest["variables"]
    fields = [("line", pa.int64()), ("item_id", pa.string()), ("owner_id", pa.string())]
    for name, about in variables.items():
        if about["kind"] == "hierarchy":
            fields += [(f"{name}_path", pa.string()), (f"{name}_probability", pa.float32())]
            fields += [(f"{name}_core_{label}", pa.float32()) for label in about["labels"][0]]
        else:
            fields.append((name, pa.float32()))
    fields += [("late", pa.bool_()), ("error_field", pa.string()), ("error_reason", pa.string())]
    fields.append(("bundle", pa.string()))
    schema = pa.schema(fields)

    def row(answer: Answer) -> dict[str, Any]:
        flat = {key: answer.get(key) for key in ("line", "item_id", "owner_id", "bundle")}
        flat["late"] = bool(answer.get("late"))
        for key, value in answer.get("error", {}).items():
            flat[f"error_{key}"] = value
        for name in variables.keys() & answer.keys():
            value = answer[name]
            if isinstance(value, dict):
                flat |= {f"{name}_path": value["path"], f"{name}_probability": value["probability"]}
                flat |= {f"{name}_core_{label}": p for label, p in value["core"].items()}
            else:
                flat[name] = value
        return flat

    with (
        io.atomic_path(output) as temporary,
        part.open("rb") as handle,
        pq.ParquetWriter(temporary, schema) as writer,
    ):
        while lines := list(islice(handle, PARQUET_ROWS)):
            rows = [row(json.loads(line)) for line in lines]
            writer.write_table(pa.Table.from_pylist(rows, schema))
