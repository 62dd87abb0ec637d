"""Artifacts appear whole or not at all, and no format runs code on load."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive import io

FRAME = pd.DataFrame({"item_id": ["a", "b"], "value": [0.5, math.nan]})
LIBRARY = str(Path(io.__file__).resolve().parent.parent)

WRITERS: dict[str, Callable[[Path], object]] = {
    "x.txt": lambda path: io.write_text(path, "neu ☺"),
    "x.json": lambda path: io.write_json(path, {"b": 1, "a": [1.5, None, "ü"]}),
    "x.parquet": lambda path: io.write_parquet(path, FRAME),
    "x.npy": lambda path: io.write_npy(path, np.arange(6.0).reshape(2, 3)),
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", WRITERS)
def test_writers_leave_the_artifact_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / "deep" / "er" / name
    WRITERS[name](path)
    first = path.read_bytes()
    WRITERS[name](path)
    assert path.read_bytes() == first
    assert names(path.parent) == [name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_error_in_the_middle_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="midway"), io.atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        temporary.write_text("half of the n")
        raise RuntimeError("midway")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), io.atomic_path(path):
        pass
    assert path.read_text() == "old"


def test_readers_see_whole_files_only(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    contents = [letter * 200_000 for letter in "ab"]
    io.write_text(path, contents[0])
    done = threading.Event()
    broken = []

    def read() -> None:
        while not done.is_set():
            if path.read_text() not in contents:
                broken.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        io.write_text(path, contents[turn % 2])
    done.set()
    reader.join()
    assert not broken


def killed_while_writing(path: Path) -> None:
    """Start a process that fills half of ``path`` and is killed there."""
    code = (
        f"import sys, time; sys.path.insert(0, {LIBRARY!r}); from perceive import io\n"
        f"with io.atomic_path({str(path)!r}) as temporary:\n"
        "    temporary.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)


def test_a_kill_in_the_middle_leaves_the_old_content_and_the_next_writer_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "a[1].b.txt"
    path.write_text("old")
    killed_while_writing(path)
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2
    others = [
        tmp_path / ".other.1-00000000.tmp.txt",
        tmp_path / ".a[1].b.tmp.txt",
        tmp_path / "a[1].b.txt.bak",
    ]
    for other in others:
        other.write_text("not ours")
    with io.atomic_path(path) as running:
        running.write_text("of a living process")
        io.write_text(path, "new")
        assert running.exists()
        assert names(tmp_path) == sorted([path.name, running.name, *(other.name for other in others)])
        running.write_text("newest")
    assert path.read_text() == "newest"
    assert names(tmp_path) == sorted([path.name, *(other.name for other in others)])


def test_writing_if_changed_tells_and_touches_only_changes(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    assert io.write_text_if_changed(path, "ä\n")
    os.utime(path, ns=(0, 10**18))
    assert not io.write_text_if_changed(path, "ä\n")
    assert path.stat().st_mtime_ns == 10**18
    assert io.write_text_if_changed(path, "b\n")
    path.write_bytes(b"\xff\xfe")
    assert io.write_text_if_changed(path, "b\n")
    assert path.read_text() == "b\n"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(JSON)
def test_json_survives_and_equal_values_give_equal_bytes(value: object) -> None:
    text = io.dumps(value)
    assert json.loads(text) == value
    if isinstance(value, dict):
        assert io.dumps(dict(reversed(value.items()))) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_is_no_number(tmp_path: Path, value: float) -> None:
    path = tmp_path / "x.json"
    io.write_json(path, {"rmse": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        io.write_json(path, {"rmse": [value]})
    assert io.read_json(path) == {"rmse": 1.0}


@pytest.mark.parametrize("damage", [b"", b'{"a": ', b"\xff\xfe{}", b"{} trailing"])
def test_damaged_json_names_the_file_and_the_remedy(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(damage)
    with pytest.raises(ValueError, match=r"x\.json is not valid JSON .*delete it and run again"):
        io.read_json(path)


def test_parquet_survives(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    frame = FRAME.assign(
        time=pd.to_datetime(["2024-01-01", "NaT"], utc=True), fold=pd.array([1, None], "Int8")
    )
    io.write_parquet(path, frame)
    pd.testing.assert_frame_equal(io.read_parquet(path), frame)
    assert list(io.read_parquet(path, ["value"]).columns) == ["value"]


@pytest.mark.parametrize("keep", [0, 3, -8])
@pytest.mark.parametrize("name", ["x.parquet", "x.npy"])
def test_damaged_tables_and_arrays_name_the_file_and_the_remedy(tmp_path: Path, name: str, keep: int) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    path.write_bytes(path.read_bytes()[:keep])
    reader = io.read_npy if name.endswith("npy") else io.read_parquet
    with pytest.raises(ValueError, match=rf"{name} is not .*; delete it and run again"):
        reader(path)


@pytest.mark.parametrize("reader", [io.read_json, io.read_parquet, io.read_npy])
def test_a_missing_file_is_called_missing(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    with pytest.raises(FileNotFoundError):
        reader(tmp_path / "gone")


def test_arrays_survive_without_objects(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    array = np.array([[1.5, np.nan], [np.inf, -0.0]], dtype=np.float32)
    io.write_npy(path, array)
    np.testing.assert_array_equal(io.read_npy(path), array)
    assert io.read_npy(path).dtype == np.float32
    with pytest.raises(ValueError, match="allow_pickle"):
        io.write_npy(path, np.array([{"a": 1}], dtype=object))
    np.testing.assert_array_equal(io.read_npy(path), array)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(_Bomb.target),)

    target: Path


@pytest.mark.parametrize("form", ["pickle", "npy"])
def test_no_array_file_runs_code(tmp_path: Path, form: str) -> None:
    path, _Bomb.target = tmp_path / "x.npy", tmp_path / "boom"
    if form == "pickle":
        path.write_bytes(pickle.dumps(_Bomb()))
    else:
        np.save(path, np.array([_Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="delete it"):
        io.read_npy(path)
    assert not _Bomb.target.exists()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_the_hash_of_a_file_is_that_of_its_content(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "x").write_bytes(content[:size])
    assert io.file_sha256(tmp_path / "x") == hashlib.sha256(content[:size]).hexdigest()


def test_columns_of_the_items_come_together_by_item(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"item_id": ["a", "b", "c"], "language": ["en", "hinglish", "en"], "text": ["x", "y", "z"]}
    )
    paths = [tmp_path / f"{name}.parquet" for name in ("text", "language")]
    for path in paths:
        io.write_parquet(path, table[["item_id", path.stem]])
    assert io.read_items(paths).equals(table[["item_id", "text", "language"]].astype("str"))
    # Two rounds that do not belong together.
    io.write_parquet(paths[1], table[["item_id", "language"]].iloc[:2])
    with pytest.raises(
        ValueError, match=r"language\.parquet has other items than .*text\.parquet; delete both"
    ):
        io.read_items(paths)
