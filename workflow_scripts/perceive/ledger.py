"""The sticky ledger: which owner was assigned to which split and fold, for ever.

The ledger lives outside ``results/``, in a place that users keep under version control: a test owner that
drifts into train between two annotation rounds is the worst leak of all, and ``results/`` may be deleted any
day. It is a CSV of salted hashes (never raw owner ids), sorted so that version control shows readable
differences::

    # perceive split ledger; version=1; salt=1f0c9a52; shares=0.7,0.15,0.15; folds=5; owners=2
    owner_key,split,fold
    03c1e0a1f9d2b7aa,train,3
    9b1a44d07c5e2f10,test,

Its first line says what the assignments depend on, so that a changed salt, share or number of folds is an
error rather than a silent second dealing of all owners, and how many owners follow, so that a truncated file
is noticed. In the mode ``grouped_temporal`` it also holds the boundary in time
(``; boundary=2025-03-05T00:00:00+00:00``) from the first round in that mode on. Rows are only ever added.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pandas as pd

from perceive import io

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
LEDGER_COLUMNS = ("owner_key", "split", "fold")
VERSION = 1

_TITLE = "# perceive split ledger"
_KEY = re.compile(r"[0-9a-f]{16}")
_RESTORE = "restore the file from version control"
_START_ANEW = (
    "name a ledger that does not exist yet (all owners are then dealt again, and results from before are no "
    "longer comparable)"
)


class LedgerError(ValueError):
    """The ledger is damaged, or contradicts the configuration or the assignments to be added."""


def salted_key(kind: str, value: str, salt: str) -> str:
    """Return the salted hash that stands for an identifier outside ``results/`` and in reports.

    Parameters
    ----------
    kind
        What is hashed (``"owner"``, ``"item"``): the same string of two kinds gets two keys.
    value, salt
        The identifier, and the configured salt.

    Returns
    -------
    str
        16 hexadecimal digits of the sha256.
    """
    # Lone surrogates can come in through JSON escapes; they must not stop the run.
    return hashlib.sha256(f"{kind}\0{salt}\0{value}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def owner_key(owner_id: str, salt: str) -> str:
    """Return the salted hash by which ledger, logs and reports name an owner."""
    return salted_key("owner", owner_id, salt)


def salt_fingerprint(salt: str) -> str:
    """Return 8 hexadecimal digits that tell two salts apart without giving the salt away."""
    return salted_key("salt", "", salt)[:8]


def empty_ledger() -> pd.DataFrame:
    """Return a ledger without owners: that of the first round."""
    return _frame([])


def read_ledger(
    path: str | os.PathLike[str],
    salt: str,
    *,
    shares: Sequence[float] | None = None,
    n_folds: int | None = None,
) -> pd.DataFrame:
    """Read the ledger.

    Parameters
    ----------
    path
        The ledger; a missing file is the first round and gives an empty frame.
    salt
        The configured salt, compared with the one that the keys were made with.
    shares, n_folds
        The configured shares (train, val, test) and number of folds, compared with the ledger's where given.

    Returns
    -------
    pandas.DataFrame
        owner_key (str), split (str), fold (Int8; missing outside train), sorted by owner_key.

    Raises
    ------
    LedgerError
        Where the file is damaged (naming the line) or contradicts salt, shares or n_folds.
    """
    path = Path(path)
    lines = _read_lines(path)
    if lines is None:
        return empty_ledger()
    header = _parse_header(path, lines[0] if lines else "")
    _check_settings(path, header, salt, shares, n_folds)
    if len(lines) < 2 or lines[1] != ",".join(LEDGER_COLUMNS):
        raise LedgerError(
            f"ledger {path}, line 2: expected the columns {','.join(LEDGER_COLUMNS)}; {_RESTORE}"
        )
    rows: list[tuple[str, str, int | None]] = []
    seen: dict[str, int] = {}
    for number, text in enumerate(lines[2:], start=3):
        row = _parse_row(path, number, text, int(header["folds"]))
        if row[0] in seen:
            raise LedgerError(
                f"ledger {path}, line {number}: the owner of line {seen[row[0]]} again; {_RESTORE}, or "
                "keep the line that was there first and correct owners= in line 1"
            )
        seen[row[0]] = number
        rows.append(row)
    if len(rows) != int(header["owners"]):
        raise LedgerError(
            f"ledger {path}, line 1: announces {header['owners']} owners, but {len(rows)} follow: it was "
            f"cut off or edited; {_RESTORE}, or, after merging two versions by hand, set owners={len(rows)}"
        )
    return _frame(rows)


def read_boundary(
    path: str | os.PathLike[str], configured: str | datetime | None = None
) -> pd.Timestamp | None:
    """Read the boundary in time that an earlier round recorded.

    Parameters
    ----------
    path
        The ledger; a missing file holds no boundary.
    configured
        The configured boundary, compared with the ledger's where both are there.

    Returns
    -------
    pandas.Timestamp
        In UTC; None where the ledger holds none.

    Raises
    ------
    LedgerError
        Where the first line is damaged, or its boundary is not the configured one.
    ValueError
        Where the configured one is no time.
    """
    path = Path(path)
    lines = _read_lines(path)
    if lines is None:
        return None
    header = _parse_header(path, lines[0] if lines else "")
    if configured is not None:
        _check_boundary(path, header, as_boundary(configured))
    return _held_boundary(path, header)


def as_boundary(value: str | datetime) -> pd.Timestamp:
    """Return a boundary, given in ISO 8601 or as a time, in UTC (which is assumed where no zone is named).

    Raises
    ------
    ValueError
        Where it is no time.
    """
    try:
        # pandas alone would read words like "today", too.
        time = pd.Timestamp(datetime.fromisoformat(value) if isinstance(value, str) else value)
    except ValueError as error:
        raise ValueError(
            f"boundary {value!r} is no time; write a date (2025-03-05) or a time (2025-03-05T12:00:00+05:30)"
        ) from error
    return (time.tz_localize("UTC") if time.tzinfo is None else time.tz_convert("UTC")).as_unit("us")


def update_ledger(
    path: str | os.PathLike[str],
    owners: pd.DataFrame,
    salt: str,
    *,
    shares: Sequence[float] = (0.70, 0.15, 0.15),
    n_folds: int = 5,
    boundary: datetime | None = None,
) -> pd.DataFrame:
    """Add the owners, and the boundary, that the ledger does not hold yet; never change or remove one.

    The new version is written to a temporary file and renamed, so a run killed at any moment leaves the old
    or the new ledger, both valid. Without anything new the file is not touched. Call it *before* writing the
    assignments anywhere else: what the ledger does not hold must not be used.

    Parameters
    ----------
    path
        The ledger; created, with its folders, in the first round.
    owners
        owner_id, split, fold as :func:`perceive.splits.assign_owners` returns them.
    salt, shares, n_folds
        The settings that the assignments were made with.
    boundary
        The boundary in time that the items were split at; None in the mode ``grouped``, which leaves the
        recorded one, if any, as it is.

    Returns
    -------
    pandas.DataFrame
        The whole ledger, as :func:`read_ledger` returns it.

    Raises
    ------
    LedgerError
        Where the ledger is damaged, or holds an owner with another split or fold, or another boundary.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        current = read_ledger(path, salt, shares=shares, n_folds=n_folds)
        held_boundary = read_boundary(path, boundary)
        held = {key: (split, fold) for key, split, fold in _rows(current)}
        keyed = owners.assign(owner_key=[owner_key(owner, salt) for owner in owners["owner_id"]])
        new: dict[str, tuple[str, int | None]] = {}
        moved = []
        for key, split, fold in _rows(keyed):
            if split not in SPLITS or (fold is not None) != (split == "train"):
                raise LedgerError(f"owner {key}: split {split!r} with fold {fold!r} cannot enter the ledger")
            if held.get(key, new.get(key, (split, fold))) != (split, fold):
                moved.append(key)
            elif key not in held:
                new[key] = (split, fold)
        if moved:
            raise LedgerError(
                f"{len(moved)} owner(s) would move to another split or fold, e.g. {sorted(moved)[:3]}; "
                f"assignments in {path} are final: run the splitting again, which reads the ledger first"
            )
        if not new and path.exists() and (boundary is None or held_boundary is not None):
            return current
        merged = _frame([(key, *held[key]) for key in held] + [(key, *new[key]) for key in new])
        if boundary is None:
            boundary = held_boundary
        io.write_text(path, _serialise(merged, salt, shares, n_folds, boundary))
        logger.info("ledger: %d new owner(s), %d in all", len(new), len(merged))
        return merged


def _read_lines(path: Path) -> list[str] | None:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        number = raw[: error.start].count(b"\n") + 1
        raise LedgerError(f"ledger {path}, line {number}: not UTF-8; {_RESTORE}") from error


def _parse_header(path: Path, line: str) -> dict[str, str]:
    title, *pairs = line.split("; ")
    header = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if title != _TITLE or not {"version", "salt", "shares", "folds", "owners"} <= header.keys():
        raise LedgerError(
            f"ledger {path}, line 1: expected '{_TITLE}; version=...; salt=...; shares=...; folds=...; "
            f"owners=...'; {_RESTORE}, or delete it if no round has been split yet"
        )
    if header["version"] != str(VERSION):
        raise LedgerError(f"ledger {path}, line 1: version {header['version']}, this release reads {VERSION}")
    if not (header["folds"].isdecimal() and header["owners"].isdecimal()):
        raise LedgerError(f"ledger {path}, line 1: folds and owners must be whole numbers; {_RESTORE}")
    return header


def _check_settings(
    path: Path, header: dict[str, str], salt: str, shares: Sequence[float] | None, n_folds: int | None
) -> None:
    if header["salt"] != salt_fingerprint(salt):
        raise LedgerError(
            f"ledger {path}, line 1: made with another salt (fingerprint {header['salt']}, configured "
            f"{salt_fingerprint(salt)}), so no owner would be recognised; configure the former salt, or "
            f"{_START_ANEW}"
        )
    if n_folds is not None and int(header["folds"]) != n_folds:
        raise LedgerError(
            f"ledger {path}, line 1: made with {header['folds']} folds, configured are {n_folds}; configure "
            f"{header['folds']} folds, or {_START_ANEW}"
        )
    if shares is not None and header["shares"] != _format_shares(shares):
        raise LedgerError(
            f"ledger {path}, line 1: made with the shares {header['shares']}, configured are "
            f"{_format_shares(shares)}; configure the former, or write the new ones into line 1 (nobody "
            "moves; new owners are dealt towards the new shares)"
        )


def _held_boundary(path: Path, header: dict[str, str]) -> pd.Timestamp | None:
    if "boundary" not in header:
        return None
    try:
        return as_boundary(header["boundary"])
    except ValueError as error:
        raise LedgerError(f"ledger {path}, line 1: {error}; {_RESTORE}") from error


def _check_boundary(path: Path, header: dict[str, str], boundary: pd.Timestamp) -> None:
    held = _held_boundary(path, header)
    if held is not None and held != boundary:
        raise LedgerError(
            f"ledger {path}, line 1: the boundary of the earlier rounds is {held.isoformat()}, configured is "
            f"{boundary.isoformat()}; configure the former (or none: it is read from the ledger), or "
            f"{_START_ANEW}"
        )


def _parse_row(path: Path, number: int, line: str, n_folds: int) -> tuple[str, str, int | None]:
    where = f"ledger {path}, line {number}"
    if line.startswith(("<<<<<<<", "=======", ">>>>>>>", "|||||||")):
        raise LedgerError(f"{where}: an unresolved merge conflict; keep the owners of both sides")
    fields = line.split(",")
    if len(fields) != 3:
        raise LedgerError(f"{where}: {len(fields)} fields instead of 3 (owner_key,split,fold); {_RESTORE}")
    key, split, fold = fields
    if not _KEY.fullmatch(key):
        raise LedgerError(f"{where}: owner_key is not 16 hexadecimal digits; {_RESTORE}")
    if split not in SPLITS:
        raise LedgerError(f"{where}: split is none of {', '.join(SPLITS)}; {_RESTORE}")
    if split != "train":
        if fold:
            raise LedgerError(f"{where}: a fold outside train; {_RESTORE}")
        return key, split, None
    if not (fold.isascii() and fold.isdecimal() and int(fold) < n_folds):
        raise LedgerError(
            f"{where}: fold is not a number from 0 to {n_folds - 1} (folds= in line 1); {_RESTORE}"
        )
    return key, split, int(fold)


def _format_shares(shares: Sequence[float]) -> str:
    return ",".join(f"{share:.6g}" for share in shares)


def _frame(rows: Iterable[tuple[str, str, int | None]]) -> pd.DataFrame:
    ordered = sorted(rows)
    return pd.DataFrame(
        {
            "owner_key": pd.Series([row[0] for row in ordered], dtype="str"),
            "split": pd.Series([row[1] for row in ordered], dtype="str"),
            "fold": pd.array([row[2] for row in ordered], dtype="Int8"),
        }
    )


def _rows(frame: pd.DataFrame) -> Iterator[tuple[str, str, int | None]]:
    for key, split, fold in zip(frame["owner_key"], frame["split"], frame["fold"], strict=True):
        yield key, split, None if pd.isna(fold) else int(fold)


def _serialise(
    ledger: pd.DataFrame, salt: str, shares: Sequence[float], n_folds: int, boundary: datetime | None
) -> str:
    lines = [
        f"{_TITLE}; version={VERSION}; salt={salt_fingerprint(salt)}; shares={_format_shares(shares)}; "
        f"folds={n_folds}; owners={len(ledger)}"
        + (f"; boundary={as_boundary(boundary).isoformat()}" if boundary is not None else ""),
        ",".join(LEDGER_COLUMNS),
    ]
    lines += [f"{key},{split},{'' if fold is None else fold}" for key, split, fold in _rows(ledger)]
    return "\n".join(lines) + "\n"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # Two workflows may share a ledger. Locking the folder leaves no lock file under version control.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
