"""Long tables of single ratings, one row a rating, held in flat arrays beside the annotations."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perceive.corpus.aggregate import Path3, Rating, Value, rating_order
from perceive.corpus.records import (
    CorpusError,
    Record,
    RecordFile,
    Reject,
    Rejected,
    TableTally,
    file_kind,
    open_records,
    printable,
)
from perceive.corpus.values import LabelParser, identifier
from perceive.variables import HIERARCHIES

if TYPE_CHECKING:
    from perceive.corpus.settings import LabelColumn, RatingTable
    from perceive.taxonomy import Taxonomy

_NONE = -1


class RatingTables:
    """The tables of `corpus.ratings`, joined to the items by their ids.

    A row costs 12 bytes and 8 for each variable, an item that has any about 150.
    """

    def __init__(self) -> None:
        self._tables: list[_Table] = []

    def read(
        self,
        path: Path,
        wanted: RatingTable,
        taxonomy: Taxonomy | None,
        tally: TableTally,
    ) -> Iterator[Reject]:
        """Read one table and yield its rejected rows.

        Raises
        ------
        CorpusError
            If it cannot be read as configured at all (a column that it does not have, an unknown suffix).
        """
        shown = tally.file
        table = _Table(wanted, taxonomy, tally, self._tables)
        self._tables.append(table)
        with open_records(path) as handle:
            records = RecordFile(handle, shown, file_kind(path))
            if records.header is not None and (missing := table.columns() - set(records.header)):
                raise CorpusError(
                    f"{shown} has no column {', '.join(sorted(missing))} (it has "
                    f"{', '.join(map(printable, records.header))}); correct corpus.ratings"
                )
            for line, record in records:
                tally.lines += 1
                if record is None:
                    tally.blank += 1
                    continue
                try:
                    if isinstance(record, Rejected):
                        raise record
                    if table.leaves_out(record):
                        tally.left_out += 1
                        continue
                    table.add(record)
                except Rejected as rejected:
                    tally.rejected += 1
                    yield Reject(shown, line, rejected.where, rejected.reason)
                else:
                    tally.accepted += 1
                    tally.unmatched += 1

    def take(self, item_id: str) -> dict[str, list[Rating]]:
        """Return the ratings of an item by variable, sorted by annotator; to be called once an item."""
        found: dict[str, list[Rating]] = {}
        for table in self._tables:
            table.collect(item_id, found)
        for ratings in found.values():
            ratings.sort(key=rating_order)
        return found


class _Table:
    def __init__(
        self, wanted: RatingTable, taxonomy: Taxonomy | None, tally: TableTally, earlier: list[_Table]
    ) -> None:
        self._item_id, self._annotator = wanted.item_id, wanted.annotator
        self._leave_out = wanted.leave_out
        labels: list[tuple[str, LabelColumn]] = list(wanted.labels.items())  # type: ignore[arg-type]
        self._labels = {variable: label.column or variable for variable, label in labels}
        self._parser = LabelParser(wanted.labels, taxonomy, f"{tally.file} (corpus.ratings): labels")
        self._tally = tally
        self._earlier = list(earlier)
        # The rows of an item are a chain: its last row here, and of each row the one before.
        self._last: dict[str, int] = {}
        self._before = array("q")
        self._names: list[str] = []
        self._name_numbers: dict[str, int] = {}
        self._by = array("i")
        self._paths: list[Path3] = []
        self._path_numbers: dict[Path3, int] = {}
        # Of hierarchies the number of the path.
        self._values: dict[str, array[Any]] = {
            name: array("i" if name in HIERARCHIES else "d") for name in self._labels
        }

    def columns(self) -> set[str]:
        """The columns that the table must have."""
        named = {self._item_id, *self._labels.values(), *self._leave_out}
        return named if self._annotator is None else {*named, self._annotator}

    def leaves_out(self, record: Record) -> bool:
        """Whether the row is no rating (`corpus.ratings.leave_out`)."""
        return bool(self._leave_out) and all(
            str(record.get(column, "")).strip() == value for column, value in self._leave_out.items()
        )

    def add(self, record: Record) -> None:
        """Add one row.

        Raises
        ------
        Rejected
            If it is not valid, or the annotator has rated a variable of the item before.
        """
        item_id = identifier(printable(self._item_id), record.get(self._item_id))
        if not record.keys() & self._labels.values():
            raise Rejected("line", "has none of the keys of corpus.ratings.labels")
        name = None
        if self._annotator is not None:
            name = identifier(printable(self._annotator), record.get(self._annotator))
        values = {name: self._value(name, record.get(column)) for name, column in self._labels.items()}
        if name is not None:
            for table in (*self._earlier, self):
                if table.holds(item_id, name, values):
                    where = printable(self._annotator)
                    raise Rejected(where, "a second rating of the item by the same annotator")
        row = len(self._before)
        self._before.append(self._last.get(item_id, _NONE))
        self._last[item_id] = row
        self._by.append(_NONE if name is None else self._number(name, self._names, self._name_numbers))
        for variable, value in values.items():
            if type(value) is tuple:
                self._values[variable].append(self._number(value, self._paths, self._path_numbers))
            else:
                empty = _NONE if variable in HIERARCHIES else math.nan
                self._values[variable].append(empty if value is None else value)

    def _value(self, variable: str, raw: Any) -> Value | None:
        where = printable(self._labels[variable])
        if type(raw) is str:
            cell = raw.strip()
            return self._parser.cell(variable, cell, where) if cell else None
        return None if raw is None else self._parser.value(variable, raw, where)

    @staticmethod
    def _number(value: Any, values: list[Any], numbers: dict[Any, int]) -> int:
        number = numbers.setdefault(value, len(values))
        if number == len(values):
            values.append(value)
        return number

    def _rows(self, item_id: str) -> Iterator[int]:
        row = self._last.get(item_id, _NONE)
        while row != _NONE:
            yield row
            row = self._before[row]

    def _ratings(self, row: int) -> Iterator[tuple[str, Value]]:
        for variable, column in self._values.items():
            value = column[row]
            if variable in HIERARCHIES:
                if value != _NONE:
                    yield variable, self._paths[value]
            elif value == value:
                yield variable, value

    def holds(self, item_id: str, name: str, values: dict[str, Value | None]) -> bool:
        """Whether there is a rating of the item by the annotator on one of the variables with a value."""
        number = self._name_numbers.get(name)
        if number is None:
            return False
        return any(
            values.get(variable) is not None
            for row in self._rows(item_id)
            if self._by[row] == number
            for variable, _ in self._ratings(row)
        )

    def collect(self, item_id: str, found: dict[str, list[Rating]]) -> None:
        """Add the ratings of an item to `found`."""
        for row in self._rows(item_id):
            self._tally.unmatched -= 1
            by = self._by[row]
            name = None if by == _NONE else self._names[by]
            for variable, value in self._ratings(row):
                found.setdefault(variable, []).append((name, value))
