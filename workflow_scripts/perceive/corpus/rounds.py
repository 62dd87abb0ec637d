"""Annotation rounds: a line of a later file corrects the item that it names, field by field.

The drafts of the items lie in a temporary SQLite database, whose file has no name from the start, so that
no crash can leave texts behind; what SQLite keeps of it in memory is bounded.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from typing import Any

from perceive.corpus.aggregate import Path3, Rating, rating_order
from perceive.corpus.drafts import Draft, Drafter, canonical_json
from perceive.corpus.records import Rejected, RoundTally
from perceive.variables import HIERARCHIES

_CACHE_KIB = 32_768
_MAX_PATHS = 4096
# The fields of a draft before its ratings, in order.
_STORED = [one.name for one in fields(Draft)][1 : [one.name for one in fields(Draft)].index("ratings")]
_NEW = " (no earlier file holds the item, so that this must be a whole record)"
_BACK = " (the item was withdrawn: only a whole record brings it back)"


def merge(draft: Draft, correction: Draft) -> Draft:
    """Return a draft after a correction of it; what the correction leaves out stays.

    A plain label, or its null, replaces or removes all ratings of the variable. The rating of an annotator
    replaces a plain label, or the earlier rating of the same annotator; its null removes that one.
    """
    ratings = dict(draft.ratings)
    for variable, annotator in correction.removed:
        kept = [] if annotator is None else [one for one in ratings.get(variable, []) if one[0] != annotator]
        ratings.pop(variable, None)
        if kept:
            ratings[variable] = kept
    for variable, given in correction.ratings.items():
        before = ratings.get(variable, [])
        if given[0][0] is None or not before or before[0][0] is None:
            ratings[variable] = given
        else:
            ratings[variable] = sorted({**dict(before), **dict(given)}.items(), key=rating_order)
    text, timestamp = correction.text is not None, correction.timestamp is not None
    return Draft(
        item_id=draft.item_id,
        owner_id=correction.owner_id or draft.owner_id,
        text=correction.text if text else draft.text,
        timestamp=correction.timestamp if timestamp else draft.timestamp,
        language=correction.language or draft.language,
        category=correction.category or draft.category,
        risk_level=correction.risk_level or draft.risk_level,
        device=correction.device or draft.device,
        split=correction.split or draft.split,
        extra=_merged_extra(draft.extra, correction.extra),
        cleaned=correction.cleaned if text else draft.cleaned,
        naive=correction.naive if timestamp else draft.naive,
        derived=draft.derived,
        inputs=[
            old if new is None else new for old, new in zip(draft.inputs, correction.inputs, strict=True)
        ],
        ratings=ratings,
    )


def _merged_extra(extra: str | None, correction: str | None) -> str | None:
    if correction is None or correction == extra:
        return extra
    given = {
        name: value
        for name, value in json.loads(correction).items()
        if value is not None and not (isinstance(value, str) and not value.strip())
    }
    if not given:
        return extra
    return canonical_json({**(json.loads(extra) if extra else {}), **given})


class Rounds:
    """The items that several files name, each file a round; to be closed.

    Parameters
    ----------
    drafter
        Knows what a whole item needs, and the constants.
    """

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._paths: dict[str, Path3] = {}
        # An empty name is a database in an unnamed temporary file. Nothing is ever undone: one transaction.
        self._database = sqlite3.connect("", isolation_level=None)
        self._execute = self._database.execute
        for setting in (f"cache_size = -{_CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._execute(f"PRAGMA {setting}")
        # `draft` is null while the item is withdrawn.
        self._execute("CREATE TABLE items (item_id TEXT PRIMARY KEY, round INTEGER, draft TEXT)")
        self._execute("BEGIN")

    def __enter__(self) -> Rounds:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, number: int, tally: RoundTally, line: Draft) -> None:
        """Take over what one line of round `number` says, and count it.

        Raises
        ------
        Rejected
            If it cannot be taken over; the item stays as it was.
        """
        item_id = line.item_id
        found = self._execute("SELECT round, draft FROM items WHERE item_id = ?", [item_id]).fetchone()
        if found is None:
            if line.withdrawn:
                raise unknown_item()
            self._drafter.needed(line, _NEW if number else "")
            self._execute("INSERT INTO items VALUES (?, ?, ?)", [item_id, number, _dump(line)])
            tally.new += 1
            return
        round_before, stored = found
        if round_before == number:
            raise duplicate(line)
        if line.withdrawn:
            counter = "unchanged" if stored is None else "withdrawn"
            stored = None
        elif stored is None:
            self._drafter.needed(line, _BACK)
            counter = "restored"
            stored = _dump(line)
        else:
            before = self._load(item_id, stored)
            draft = merge(before, line)
            counter = "unchanged"
            if draft != before:
                now, then = self._content(draft), self._content(before)
                if now != then:
                    counter = "corrected"
                    tally.moved += now[0][0] != then[0][0]
                stored = _dump(draft)
        setattr(tally, counter, getattr(tally, counter) + 1)
        self._execute("UPDATE items SET round = ?, draft = ? WHERE item_id = ?", [number, stored, item_id])

    def _content(self, draft: Draft) -> tuple[Any, ...]:
        needed, names = self._drafter.needed(draft), self._drafter.names(draft)
        return needed, names, draft.extra, draft.inputs, draft.ratings

    def drafts(self) -> Iterator[Draft]:
        """Yield the drafts of all items that are not withdrawn, in the order of their first lines."""
        query = "SELECT item_id, draft FROM items WHERE draft IS NOT NULL ORDER BY rowid"
        with closing(self._execute(query)) as rows:
            for item_id, stored in rows:
                yield self._load(item_id, stored)

    def _load(self, item_id: str, stored: str) -> Draft:
        *stored_fields, ratings = json.loads(stored)
        loaded: dict[str, list[Rating]] = {}
        for variable, given in ratings.items():
            if variable in HIERARCHIES:
                loaded[variable] = [(name, self._path(value)) for name, value in given]
            else:
                loaded[variable] = [(name, value) for name, value in given]
        return Draft(item_id, *stored_fields, loaded)  # type: ignore[call-arg]

    def _path(self, stored: str) -> Path3:
        path = self._paths.get(stored)
        if path is None:
            core, nuance, micro = [*stored.split("/"), None, None][:3]
            assert core is not None
            path = core, nuance, micro
            if len(self._paths) < _MAX_PATHS:
                self._paths[stored] = path
        return path


def duplicate(line: Draft) -> Rejected:
    """Reason to refuse the second line of a file that names the same item."""
    if line.derived:
        return Rejected("item_id", "duplicate: an earlier line has the same owner, time and text, and no id")
    return Rejected("item_id", "duplicate: an earlier line has the same id")


def unknown_item() -> Rejected:
    """Reason to refuse a line that withdraws an item that there is not."""
    return Rejected("withdrawn", "no earlier file holds the item")


def _dump(draft: Draft) -> str:
    ratings: dict[str, Any] = {
        variable: [(name, "/".join(filter(None, value))) for name, value in given]  # type: ignore[arg-type]
        if variable in HIERARCHIES
        else given
        for variable, given in draft.ratings.items()
    }
    return json.dumps([*(getattr(draft, name) for name in _STORED), ratings], ensure_ascii=False)
