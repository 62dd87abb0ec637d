"""Digest files: what decides that a rule must run again.

Snakemake compares the content of declared inputs, but an annotations file is read by every stage although
each consumes only a part of it, and a script's imports are invisible to it. So each rule takes small *state
files* as ordinary inputs and the annotations as ``ancient``:

``state/config/<slice>.json``
    the part of the configuration that the stage reads (its script reads it from this very file);
``state/code/<script>.tsv``
    hashes of the script, of the library modules that it imports, directly or not, of the resources they
    read, and of the lock file;
``state/data/<part>.sha256``
    a hash of exactly those columns of the accepted annotations that the readers of ``<part>`` consume.

They are written while the Snakefile is parsed, in the main process only, and only where their content
changes, so that a dry run is exact and nothing else is touched.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from perceive import io
from perceive.io import file_sha256


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement, at any depth. Most nodes of a tree are expressions, which hold no import."""
    todo = [tree]
    while todo:
        node = todo.pop()
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, name, ())
            if isinstance(inner, list):
                todo += inner
        yield node


def imported_modules(source: Path, package_root: Path) -> set[Path]:
    """Files of the package that ``source`` imports directly, by static analysis of its syntax tree.

    Imports inside functions count. A module's parents (``__init__.py``) are imported with it.

    Parameters
    ----------
    source : Path
        A Python file.
    package_root : Path
        The folder of the package (its name is the package's name).
    """
    found: set[Path] = set()

    def add(dotted: str) -> None:
        parts = dotted.split(".")
        if parts[0] != package_root.name:
            return
        base = package_root
        if (base / "__init__.py").exists():
            found.add(base / "__init__.py")
        for part in parts[1:]:
            if (base / f"{part}.py").exists():
                found.add(base / f"{part}.py")
                return
            base = base / part
            if not (base / "__init__.py").exists():
                return
            found.add(base / "__init__.py")

    for node in _statements(ast.parse(source.read_text(encoding="utf-8"), filename=str(source))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                relative = source.parent
                for _ in range(node.level - 1):
                    relative = relative.parent
                prefix = ".".join([package_root.name, *relative.relative_to(package_root).parts])
                module = f"{prefix}.{node.module}" if node.module else prefix
            else:
                module = node.module or ""
            add(module)
            for alias in node.names:
                add(f"{module}.{alias.name}")
    return found


def code_closure(
    script: Path, package_root: Path, imports: Callable[[Path, Path], set[Path]] = imported_modules
) -> list[Path]:
    """All files of the package that ``script`` imports, directly or through others, sorted.

    ``imports`` answers as `imported_modules` does, and may remember its answers.
    """
    done: set[Path] = set()
    todo = set(imports(script, package_root))
    while todo:
        module = todo.pop()
        if module not in done:
            done.add(module)
            todo |= imports(module, package_root) - done
    return sorted(done)


class StateWriter:
    """Writes the state files of one run.

    Parameters
    ----------
    results : Path
        The results folder; the files lie under ``<results>/state``.
    repository : Path
        The folder of the Snakefile.
    """

    def __init__(self, results: Path, repository: Path) -> None:
        self.folder = Path(results) / "state"
        self.repository = Path(repository)
        self._hashes: dict[Path, str] = {}

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = file_sha256(path)
        return self._hashes[path]

    def write_config(self, slices: Mapping[str, Any]) -> None:
        """Write one JSON file per slice of the configuration."""
        for name, value in slices.items():
            io.write_text_if_changed(self.folder / "config" / f"{name}.json", io.dumps(value))

    def write_code(self, scripts: Mapping[str, Sequence[str]], lock: Path) -> None:
        """Write one table of hashes per script.

        Parameters
        ----------
        scripts : mapping of str to sequence of str
            Script name (without ``.py``) to the resources (relative to the repository) that it reads.
        lock : Path
            The lock file of the environment.
        """
        package_root = self.repository / "workflow_scripts" / "perceive"
        # Every call of the workflow comes here, and most modules are of many scripts: each is parsed once.
        imports = functools.cache(imported_modules)
        for name, resources in scripts.items():
            script = package_root.parent / f"{name}.py"
            # With the script itself, which Snakemake tracks only as long as its own records last.
            paths = [script, *code_closure(script, package_root, imports)]
            for resource in resources:
                path = self.repository / resource
                paths += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            rows = [f"{path.relative_to(self.repository)}\t{self._hash(path)}" for path in [*paths, lock]]
            io.write_text_if_changed(self.folder / "code" / f"{name}.tsv", "\n".join(rows) + "\n")

    def write_data(self, paths: Sequence[Path], key: Any, compute: Callable[[], Mapping[str, str]]) -> None:
        """Write one hash per part of the annotations.

        Parameters
        ----------
        paths : sequence of Path
            The files that ``compute`` reads.
        key : JSON value
            What else decides the result (the configuration of the corpus, the reader's code).
        compute : callable
            Returns part name to hash; ``all`` is added, a hash of them all. Called only if a file's path,
            size or mtime, or ``key``, differs from the last call: the pass over a large corpus must not be
            paid on every parse.
        """
        stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
        fingerprint = hashlib.sha256(json.dumps([stats, key], sort_keys=True).encode()).hexdigest()
        cache = self.folder / "data.json"
        try:
            known = json.loads(cache.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            known = None
        if isinstance(known, dict) and known.get("fingerprint") == fingerprint:
            parts = known["parts"]
        else:
            parts = dict(compute())
            parts["all"] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
            io.write_json(cache, {"fingerprint": fingerprint, "parts": parts})
        for name, digest in parts.items():
            io.write_text_if_changed(self.folder / "data" / f"{name}.sha256", digest + "\n")

    def write_ledger(self, ledger: Path, seen: Path) -> None:
        """Note a ledger that someone edited.

        The splits rule extends the ledger itself; it records in ``seen`` the hash of the ledger as it left
        it, and the note that it had read (`record_ledger`). While the ledger is as the rule left it the note
        stays the same; any other ledger gives a new note, two equal edits in a row included.
        """
        try:
            left, note = seen.read_text(encoding="utf-8").split("\n", 1)
            serial = int(note.split()[0])
        except (FileNotFoundError, ValueError, IndexError):
            note = "0\n"  # the first run, or the record is damaged
        else:
            current = ledger_hash(ledger)
            if current != left:
                note = f"{serial + 1} {current}\n"
        io.write_text_if_changed(self.folder / "data" / "ledger.sha256", note)


def ledger_hash(ledger: Path) -> str:
    """Hash of the ledger's content (line endings aside: a checkout may change them), or ``absent``."""
    try:
        return hashlib.sha256(ledger.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    except FileNotFoundError:
        return "absent"


def record_ledger(ledger: Path, note: Path, seen: Path) -> None:
    """Record in ``seen`` how the splits rule left the ledger, and which note it had read."""
    io.write_text(seen, f"{ledger_hash(ledger)}\n{note.read_text(encoding='utf-8')}")
