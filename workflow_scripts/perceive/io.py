"""Reading and writing artifacts: every write is atomic, no format can run code on load.

A killed process must never leave a half-written file under an artifact's name, so each writer fills a
temporary file in the target's own folder, flushes it to disk and renames it (POSIX rename is atomic).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

PathLike = str | os.PathLike[str]
# Process ids are those of one machine, and a results folder may be shared by several.
_HOST = re.sub(r"[^A-Za-z0-9]", "", os.uname().nodename)


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name when the block ends without an error.

    The temporary name keeps the suffix, since some writers choose their format by it. On an error the
    temporary file is removed and the former content of ``path`` stays as it was. What a killed process left
    is removed by the next writer.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    name = f".{target.stem}.{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp{target.suffix}"
    temporary = target.with_name(name)
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: PathLike) -> str:
    """Hex sha256 of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files beside ``target`` whose writers, on this machine, are dead."""
    name = re.compile(
        rf"\.{re.escape(target.stem)}\.{_HOST}-(\d+)-[0-9a-f]{{8}}\.tmp{re.escape(target.suffix)}"
    )
    with os.scandir(target.parent) as entries:
        found = [(entry.path, match[1]) for entry in entries if (match := name.fullmatch(entry.name))]
    for path, pid in found:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            Path(path).unlink(missing_ok=True)
        except OSError:
            pass  # alive, but not ours


def write_text(path: PathLike, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_text_if_changed(path: PathLike, text: str) -> bool:
    """Write ``text`` only where it differs from what ``path`` holds, so that its mtime tells a real change.

    Returns
    -------
    bool
        True if the file was written.
    """
    target = Path(path)
    try:
        if target.read_text(encoding="utf-8") == text:
            return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    write_text(target, text)
    return True


def dumps(value: Any) -> str:
    """JSON with sorted keys and a final newline: equal values give equal bytes. NaN is refused."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: PathLike, value: Any) -> None:
    """Write ``value`` as canonical JSON, atomically."""
    write_text(path, dumps(value))


def read_json(path: PathLike) -> Any:
    """Read a JSON file.

    Raises
    ------
    ValueError
        If the file is damaged; the message names the file and the remedy.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); delete it and run again to rebuild it"
        ) from error


def write_parquet(path: PathLike, frame: pd.DataFrame) -> None:
    """Write a data frame without its index as zstd-compressed Parquet, atomically."""
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False, compression="zstd")


def read_parquet(path: PathLike, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a Parquet file into a data frame.

    Raises
    ------
    ValueError
        If the file is damaged; the message names the file and the remedy.
    """
    import pandas as pd
    from pyarrow import ArrowInvalid

    try:
        return pd.read_parquet(path, columns=columns)
    except (ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{path} is not readable Parquet ({error}); delete it and run again to rebuild it"
        ) from error


def read_items(paths: Sequence[PathLike]) -> pd.DataFrame:
    """Columns of the accepted items, after ``item_id``, from a file of each.

    Parameters
    ----------
    paths : sequence of path
        ``corpus/columns/<column>.parquet``, each sorted by ``item_id``.

    Raises
    ------
    ValueError
        If the files are of different items.
    """
    first, *others = [read_parquet(path) for path in paths]
    for frame, path in zip(others, paths[1:], strict=True):
        if not frame["item_id"].equals(first["item_id"]):
            raise ValueError(f"{path} has other items than {paths[0]}; delete both and run again")
        first[frame.columns[1]] = frame.iloc[:, 1]
    return first


def write_npy(path: PathLike, array: np.ndarray) -> None:
    """Write an array as NPY (never with objects), atomically."""
    import numpy as np

    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


def read_npy(path: PathLike) -> np.ndarray:
    """Read an NPY file; arrays of objects are refused (``allow_pickle=False``).

    Raises
    ------
    ValueError
        If the file is damaged; the message names the file and the remedy.
    """
    import numpy as np

    with open(path, "rb") as handle:
        try:
            return np.lib.format.read_array(handle, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"{path} is not a readable NPY file ({error}); delete it and run again to rebuild it"
            ) from error
