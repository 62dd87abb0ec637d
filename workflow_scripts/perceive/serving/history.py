"""What was scored of each owner so far, for the features of their timeline and for the windows.

A SQLite file. It holds the ids of owners and items, times, the lexical valence and the features of each item,
and no text. Whoever scores keeps it; it belongs to one bundle, since answers of other models are no history
for this one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class HistoryError(ValueError):
    """The file is no history, or that of another bundle."""


class Earlier(NamedTuple):
    """One item of the past: time in microseconds since 1970 (UTC)."""

    time: int
    item_id: str
    valence: float


_TABLES = """
CREATE TABLE IF NOT EXISTS about (bundle TEXT NOT NULL, width INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS item (
    owner TEXT NOT NULL, item_id TEXT NOT NULL, time INTEGER NOT NULL, valence REAL NOT NULL,
    vector BLOB NOT NULL, PRIMARY KEY (owner, item_id)
) WITHOUT ROWID;
"""


class History:
    """The store.

    Parameters
    ----------
    path : str or Path, optional
        The file, created where absent. None: a temporary one that goes with the process.
    bundle : str
        Id of the bundle.
    width : int
        Numbers of an item's vector.

    Raises
    ------
    HistoryError
        If the file is something else, or was begun by another bundle.
    """

    TIMEOUT_S = 60.0
    """How long to wait for another process's transaction."""

    def __init__(self, path: str | Path | None, bundle: str, width: int) -> None:
        shown = "the history" if path is None else str(path)
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        # An empty name is a temporary file of SQLite's own, beyond its cache on disk.
        self._db = sqlite3.connect("" if path is None else path, timeout=self.TIMEOUT_S)
        try:
            if path is not None:
                # A writer does not block readers, and a killed one leaves nothing half-written.
                self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(_TABLES)
            about = self._db.execute("SELECT bundle, width FROM about").fetchone()
            if about is None:
                with self._db:
                    self._db.execute("INSERT INTO about VALUES (?, ?)", (bundle, width))
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise HistoryError(
                f"{shown} cannot be used as a history ({error}); name another, or delete it to begin anew"
            ) from None
        if about is not None and about != (bundle, width):
            self._db.close()
            raise HistoryError(
                f"{shown} is of bundle {about[0][:12]}, but this is {bundle[:12]}: answers of other "
                "models are no history for this one; name a new file and score the earlier items again"
            )
        self._width = width

    def earlier(self, owner: str, without: Collection[str] = ()) -> list[Earlier]:
        """All items of an owner but some, in the order of time and id."""
        rows = self._db.execute(
            "SELECT time, item_id, valence FROM item WHERE owner = ? ORDER BY time, item_id", (owner,)
        )
        return [Earlier(*row) for row in rows if row[1] not in without]

    def vectors(self, keys: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Vectors of items by (owner, item_id), shape (keys, width).

        Raises
        ------
        KeyError
            If one is unknown.
        """
        result = np.empty((len(keys), self._width), dtype=np.float32)
        for row, key in enumerate(keys):
            found = self._db.execute(
                "SELECT vector FROM item WHERE owner = ? AND item_id = ?", key
            ).fetchone()
            if found is None:
                raise KeyError(key)
            result[row] = np.frombuffer(found[0], dtype="<f4")
        return result

    def add(self, rows: Iterable[tuple[str, str, int, float, NDArray[np.float32]]]) -> None:
        """Keep items: (owner, item_id, time, valence, vector). A known one is replaced."""
        with self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO item VALUES (?, ?, ?, ?, ?)",
                (
                    (owner, item_id, time, valence, vector.astype("<f4").tobytes())
                    for owner, item_id, time, valence, vector in rows
                ),
            )

    def remove(self, owner: str, item_id: str) -> bool:
        """Forget an item; whether there was one."""
        with self._db:
            cursor = self._db.execute("DELETE FROM item WHERE owner = ? AND item_id = ?", (owner, item_id))
        return cursor.rowcount > 0

    def close(self) -> None:
        """Close the file."""
        self._db.close()
