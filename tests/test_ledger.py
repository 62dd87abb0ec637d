"""The ledger of assignments: what it holds stays, and what damages it is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive import ledger as ledgers
from perceive import state

SALT = "pepper"
SHARES = (0.70, 0.15, 0.15)
BOUNDARY = pd.Timestamp("2024-03-05T00:00:00+00:00")


def assigned(n: int) -> pd.DataFrame:
    """Assignments of n owners; those of fewer are the same for the first ones."""
    rows = [
        ("train", number % 5) if number % 7 else ("test" if number % 2 else "val", None)
        for number in range(n)
    ]
    return pd.DataFrame(
        {
            "owner_id": [f"owner-{number:04d}" for number in range(n)],
            "split": [split for split, _ in rows],
            "fold": pd.array([fold for _, fold in rows], dtype="Int8"),
        }
    )


def as_ledger(owners: pd.DataFrame) -> pd.DataFrame:
    keys = [ledgers.owner_key(owner, SALT) for owner in owners["owner_id"]]
    return pd.DataFrame(
        {
            "owner_key": pd.Series(keys, dtype="str"),
            "split": owners["split"].astype("str"),
            "fold": owners["fold"],
        }
    )


@pytest.fixture
def written(tmp_path) -> tuple[Path, pd.DataFrame]:
    owners = assigned(30)
    path = tmp_path / "config" / "ledger.csv"
    ledgers.update_ledger(path, owners, SALT)
    return path, owners


def test_ledger_round_trip(written):
    path, owners = written
    ledger = ledgers.read_ledger(path, SALT, shares=SHARES, n_folds=5)
    expected = as_ledger(owners).sort_values("owner_key", ignore_index=True)
    pd.testing.assert_frame_equal(ledger, expected)
    assert "owner-" not in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["ledger.csv"]
    assert ledgers.read_ledger(path.with_name("none.csv"), SALT).empty


def test_ledger_only_grows_and_is_left_alone_otherwise(written):
    path, owners = written
    digest, touched = state.ledger_hash(path), path.stat().st_mtime_ns
    ledgers.update_ledger(path, owners.iloc[:5], SALT)  # owners that left the corpus stay in the ledger
    assert path.stat().st_mtime_ns == touched and state.ledger_hash(path) == digest
    before = set(path.read_text().splitlines()[2:])
    assert len(ledgers.update_ledger(path, assigned(45), SALT)) == 45
    assert before < set(path.read_text().splitlines()[2:])
    assert state.ledger_hash(path) != digest
    assert state.ledger_hash(path.with_name("none.csv")) == "absent"


def test_ledger_refuses_to_move_an_owner(written):
    path, owners = written
    content = path.read_bytes()
    moved = owners.copy()
    row = moved.index[moved["split"] == "test"][0]
    moved.loc[row, ["split", "fold"]] = ["train", 0]
    with pytest.raises(ledgers.LedgerError, match="would move to another split") as error:
        ledgers.update_ledger(path, moved, SALT)
    assert moved.loc[row, "owner_id"] not in str(error.value)
    assert path.read_bytes() == content


def test_ledger_settings_must_match(written):
    path, _ = written
    with pytest.raises(ledgers.LedgerError, match="another salt"):
        ledgers.read_ledger(path, "other")
    with pytest.raises(ledgers.LedgerError, match="5 folds, configured are 10"):
        ledgers.read_ledger(path, SALT, n_folds=10)
    with pytest.raises(ledgers.LedgerError, match="write the new ones into line 1"):
        ledgers.read_ledger(path, SALT, shares=(0.8, 0.1, 0.1))
    path.write_text(path.read_text().replace("shares=0.7,0.15,0.15", "shares=0.8,0.1,0.1"))
    assert len(ledgers.read_ledger(path, SALT, shares=(0.8, 0.1, 0.1))) == 30


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [], "line 1"),
        (lambda lines: lines[:10], "line 1: announces 30 owners, but 8 follow"),
        (lambda lines: lines[1:], "line 1: expected"),
        (lambda lines: [lines[0].replace("version=1", "version=2"), *lines[1:]], "version 2"),
        (lambda lines: [lines[0], *lines[2:]], "line 2"),
        (lambda lines: [*lines[:4], "<<<<<<< HEAD", *lines[4:]], "line 5: an unresolved merge"),
        (lambda lines: [*lines[:4], lines[4][:18], *lines[5:]], "line 5: 2 fields"),
        (lambda lines: [*lines[:4], "0123,train,1", *lines[5:]], "line 5: owner_key"),
        (lambda lines: [*lines[:4], lines[4].split(",")[0] + ",dev,", *lines[5:]], "line 5: split"),
        (lambda lines: [*lines[:4], lines[4].split(",")[0] + ",train,5", *lines[5:]], "line 5: fold"),
        (lambda lines: [*lines[:4], lines[4].split(",")[0] + ",train,", *lines[5:]], "line 5: fold"),
        (
            lambda lines: [*lines[:4], lines[4].split(",")[0] + ",test,1", *lines[5:]],
            "line 5: a fold outside",
        ),
        (lambda lines: [*lines[:5], lines[4], *lines[6:]], "line 6: the owner of line 5 again"),
    ],
)
def test_a_damaged_ledger_is_an_error_that_names_line_and_remedy(written, damage, message):
    path, _ = written
    path.write_text("".join(f"{line}\n" for line in damage(path.read_text().splitlines())))
    with pytest.raises(ledgers.LedgerError, match=message):
        ledgers.read_ledger(path, SALT)


def test_ledger_tolerates_windows_line_ends_but_no_binary(written):
    path, _ = written
    digest = state.ledger_hash(path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(ledgers.read_ledger(path, SALT)) == 30
    assert state.ledger_hash(path) == digest
    path.write_bytes(path.read_bytes() + b"\xff\xfe")
    with pytest.raises(ledgers.LedgerError, match="line 33: not UTF-8"):
        ledgers.read_ledger(path, SALT)


def test_a_run_killed_while_writing_is_harmless(written):
    """kill -9 just before the rename: the old ledger is whole, and the next round writes the new one."""
    path, _ = written
    content = path.read_bytes()
    program = """
        import os, signal, sys
        import pandas as pd
        from perceive import ledger
        os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
        new = pd.DataFrame({"owner_id": ["late"], "split": ["val"], "fold": pd.array([None], dtype="Int8")})
        ledger.update_ledger(sys.argv[1], new, "pepper")
    """
    environment = os.environ | {"PYTHONPATH": str(Path(ledgers.__file__).parents[1])}
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)], env=environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == content
    new = pd.DataFrame({"owner_id": ["late"], "split": ["val"], "fold": pd.array([None], dtype="Int8")})
    assert len(ledgers.update_ledger(path, new, SALT)) == 31
    assert len(ledgers.read_ledger(path, SALT)) == 31


# --- the boundary in time ------------------------------


def test_the_boundary_is_recorded_once_and_kept(written):
    path, owners = written
    assert ledgers.read_boundary(path) is None
    assert ledgers.read_boundary(path.with_name("none.csv"), "2024-01-01") is None
    ledgers.update_ledger(path, owners, SALT, boundary=BOUNDARY)  # no new owner, but a boundary
    first, *rows = path.read_text().splitlines()
    assert first.endswith("; owners=30; boundary=2024-03-05T00:00:00+00:00") and len(rows) == 31
    assert ledgers.read_boundary(path) == BOUNDARY
    assert len(ledgers.read_ledger(path, SALT, shares=SHARES, n_folds=5)) == 30
    touched = path.stat().st_mtime_ns
    ledgers.update_ledger(path, owners, SALT, boundary=BOUNDARY)
    ledgers.update_ledger(path, owners, SALT)
    assert path.stat().st_mtime_ns == touched
    # A round in the mode grouped leaves it as it is.
    ledgers.update_ledger(path, assigned(45), SALT)
    assert ledgers.read_boundary(path) == BOUNDARY and len(ledgers.read_ledger(path, SALT)) == 45


def test_a_ledger_begins_with_its_boundary(tmp_path):
    path = tmp_path / "ledger.csv"
    ledgers.update_ledger(
        path, assigned(9), SALT, boundary=datetime(2024, 3, 5, 5, 30, tzinfo=timezone(timedelta(hours=5.5)))
    )
    assert ledgers.read_boundary(path) == BOUNDARY


@pytest.mark.parametrize("value", ["2024-03-06", "2024-03-05T00:00:01", "2024-03-05T00:00:00+05:30"])
def test_another_boundary_is_an_error_with_the_remedy(written, value):
    path, owners = written
    ledgers.update_ledger(path, owners, SALT, boundary=BOUNDARY)
    content = path.read_bytes()
    message = (
        "line 1: the boundary of the earlier rounds is 2024-03-05T00:00:00.*configure the former.*or none"
    )
    with pytest.raises(ledgers.LedgerError, match=message):
        ledgers.read_boundary(path, value)
    with pytest.raises(ledgers.LedgerError, match=message):
        ledgers.update_ledger(path, assigned(45), SALT, boundary=ledgers.as_boundary(value))
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "same", ["2024-03-05", "2024-03-05T00:00:00Z", "2024-03-05T05:30:00+05:30", BOUNDARY]
)
def test_one_boundary_is_written_in_many_ways(written, same):
    path, owners = written
    ledgers.update_ledger(path, owners, SALT, boundary=BOUNDARY)
    assert ledgers.read_boundary(path, same) == BOUNDARY


@given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)), st.integers(-14 * 60, 14 * 60))
@settings(max_examples=100, deadline=None)
def test_any_boundary_survives_the_ledger(tmp_path_factory, time, minutes):
    zoned = time.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    path = tmp_path_factory.mktemp("ledger") / "ledger.csv"
    ledgers.update_ledger(path, assigned(9), SALT, boundary=zoned)
    held = ledgers.read_boundary(path, zoned.isoformat())
    assert held == zoned and held.utcoffset() == timedelta(0)
    assert ledgers.as_boundary(time.isoformat()) == time.replace(tzinfo=UTC)


@pytest.mark.parametrize("value", ["yesterday", "today", "", "2024-13-01", "5 March 2024"])
def test_a_boundary_that_is_no_time(written, value):
    with pytest.raises(ValueError, match="is no time; write a date"):
        ledgers.as_boundary(value)
    path, _ = written
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{first}; boundary={value}\n{rest}")
    with pytest.raises(ledgers.LedgerError, match=r"line 1: .*is no time.*restore the file"):
        ledgers.read_boundary(path)
