"""Finds results that are no longer what their job wrote.

Snakemake asks whether an output is there and newer than what it was made of, and not what is in it: a file
that a full disk cut short, or a byte that a bad disk turned, would be taken for whole. So every job records
its outputs when it ends well (``state/made/<rule>/<wildcards>.json``), and the next call looks whether they
are still the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from perceive import io

MADE = "made"
DAMAGED = ".damaged"
"""Suffix of a file that was set aside."""


def _stat(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            # What was set aside is no result: whoever deletes it loses nothing.
            inside = (found for found in path.rglob("*") if found.is_file() and found.suffix != DAMAGED)
            yield from sorted(inside)
        elif path.exists():
            yield path


def record(state: Path, rule: str, outputs: Iterable[Path], beside: Iterable[Path] = ()) -> None:
    """Note size, date and sha256 of what a job made.

    Parameters
    ----------
    state : Path
        The folder of the state files.
    rule : str
    outputs : iterable of Path
        The declared outputs.
    beside : iterable of Path
        Files and folders that the job wrote as well; one that is lost or damaged costs the outputs.
    """
    names = sorted(map(str, outputs))
    key = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    parts = {"outputs": [Path(name) for name in names], "beside": list(beside)}
    io.write_json(
        state / MADE / rule / f"{key}.json",
        {
            part: {str(path): [*_stat(path), io.file_sha256(path)] for path in _files(paths)}
            for part, paths in parts.items()
        },
    )


def _same(path: Path, known: list[Any]) -> bool | None:
    """Whether a file is as it was; None if it is, under another date."""
    if _stat(path) == known[:2]:
        return True
    return None if path.stat().st_size == known[0] and io.file_sha256(path) == known[2] else False


def set_aside(state: Path) -> list[str]:
    """Rename what is damaged; the new name ends in `DAMAGED`.

    Only files whose size or date changed since are read again, so that a look at all results stays cheap.
    Not to be called while jobs run: what they have written and not yet recorded would look damaged.
    The job's outputs are `wanted` until it has ended well again.

    Returns
    -------
    list of str
        A sentence for each file.
    """
    said = []
    for note in sorted((state / MADE).glob("*/*.json")):
        try:
            made = io.read_json(note)
        except ValueError:
            note.unlink()
            continue
        outputs = [Path(name) for name in made["outputs"]]
        touched, lost = False, False
        for part in ("outputs", "beside"):
            for name, known in made[part].items():
                path = Path(name)
                if not path.exists():
                    # A lost output is Snakemake's to make again, when somebody needs it.
                    if part == "beside" and all(output.exists() for output in outputs):
                        said.append(f"{path} is gone: {note.parent.name} will make it again")
                        lost = True
                    continue
                same = _same(path, known)
                if same is None:
                    known[:2] = _stat(path)
                    touched = True
                elif not same:
                    os.replace(path, f"{path}{DAMAGED}")
                    said.append(
                        f"{path} is not what {note.parent.name} wrote; it is set aside as "
                        f"{path.name}{DAMAGED} and made again when it is needed"
                    )
                    made["again"] = touched = True
                    lost |= part == "beside"
        if lost:
            made["again"] = touched = True
        # Before the other outputs go: who is killed in between still knows.
        if touched:
            io.write_json(note, made)
        if lost:
            for output in outputs:
                output.unlink(missing_ok=True)
    return said


def wanted(state: Path, rules: Container[str]) -> list[str]:
    """Outputs of jobs of which something was damaged or lost, and that have not ended well since.

    Snakemake makes a missing file again only for a job that runs. What is deployed or looked at may be read
    by none that does, so whoever builds everything has to ask for it.

    Parameters
    ----------
    state : Path
        The folder of the state files.
    rules : container of str
        Those to ask for.
    """
    notes = (path for path in sorted((state / MADE).glob("*/*.json")) if path.parent.name in rules)
    return [name for made in map(io.read_json, notes) if made.get("again") for name in made["outputs"]]
