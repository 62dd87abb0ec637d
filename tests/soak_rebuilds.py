"""Random changes, one after the other: results that are kept up must be those of a build from scratch.

    make soak-rebuilds            (or: python tests/soak_rebuilds.py --rounds 50 --seed 1)

Every round changes labels, items, settings or results at random, calls the workflow, and then builds the
same project in an empty folder. Stale is what differs.
"""

from __future__ import annotations

import argparse
import copy
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from project import SMALL, Project, one_layer

from perceive.corpus.synthesize import generate, scaled
from perceive.variables import HIERARCHIES, VARIABLES

TOLERANCE = 1e-5
Records = list[dict[str, Any]]


class Soak:
    """A project, the records and settings that it has now, and the changes that may come."""

    def __init__(self, folder: Path, variables: list[str], seed: int) -> None:
        self.project = Project(folder)
        self.variables = variables
        self.random = random.Random(seed)
        self.records: Records = list(generate(seed=seed, **scaled(260, owners=60)))
        self.settings: dict[str, Any] = {**copy.deepcopy(SMALL), "variables": variables}
        self.settings["tuning"]["trials"] = dict.fromkeys(VARIABLES, 2)
        self.settings["encoders"] = {"en": {"model": str(one_layer(folder / "encoder")), "sha256": None}}
        self.numbers = iter(range(10**6))

    # --- changes ------------------------------------------------------------------------------------------

    def label(self) -> str:
        record, variable = self.random.choice(self.records), self.random.choice(list(VARIABLES))
        for annotation in record["annotations"]:
            labels = annotation["perception_labels"]
            if variable in labels:
                other = self.random.choice(self.records)["annotations"][0]["perception_labels"]
                hierarchy = variable in HIERARCHIES
                labels[variable] = (
                    other.get(variable, labels[variable]) if hierarchy else self.random.random()
                )
        return f"label of {variable}"

    def text(self) -> str:
        record, other = self.random.sample(self.records, 2)
        half = len(other["text"].split()) // 2 + 1
        record["text"] = " ".join([*record["text"].split(), *other["text"].split()[:half]])
        return "text"

    def attribute(self) -> str:
        name = self.random.choice(["category", "risk_level", "language", "device"])
        record, other = self.random.sample(self.records, 2)
        if name in other:
            record[name] = other[name]
        return name

    def moment(self) -> str:
        record, other = self.random.sample(self.records, 2)
        record["timestamp"], other["timestamp"] = other["timestamp"], record["timestamp"]
        return "timestamps"

    def owner(self) -> str:
        record, other = self.random.sample(self.records, 2)
        record["owner_id"] = other["owner_id"]
        return "owner"

    def added(self) -> str:
        record = copy.deepcopy(self.random.choice(self.records))
        number = next(self.numbers)
        record |= {"item_id": f"added-{number}", "text": f"{record['text']} number {number}"}
        if self.random.random() < 0.5:
            record["owner_id"] = f"owner-{number}"
        self.records.append(record)
        return "new item"

    def removed(self) -> str:
        self.records.pop(self.random.randrange(len(self.records)))
        return "removed item"

    def shuffled(self) -> str:
        self.random.shuffle(self.records)
        return "order of the lines"

    def setting(self) -> str:
        key, name, low, high = self.random.choice(
            [
                ("models", "lx", 15, 30),
                ("blend", "max_trees", 6, 12),
                ("calibration", "max_knots", 4, 12),
                ("evaluation", "bootstrap", 60, 140),
                ("tuning", "max_trees", 20, 40),
            ]
        )
        value = self.random.randint(low, high)
        section = self.settings.setdefault(key, {})
        section[name] = {"trees": value, "num_leaves": 7} if key == "models" else value
        return f"{key}.{name} = {value}"

    def lost(self) -> str:
        path = self.random.choice(self.results())
        path.unlink()
        return f"lost {path.relative_to(self.project.results)}"

    def damaged(self) -> str:
        path = self.random.choice(self.results())
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        return f"cut short {path.relative_to(self.project.results)}"

    def results(self) -> list[Path]:
        root = self.project.results
        found = [path for path in root.rglob("*") if path.is_file() and path.stat().st_size]
        inside = {path: path.relative_to(root).parts[0] for path in found}
        return sorted(path for path in found if inside[path] not in ("cache", "state", "logs", "benchmarks"))

    def change(self, first: bool) -> list[str]:
        of_data = [self.label, self.text, self.attribute, self.moment, self.owner, self.added, self.removed]
        every: list[Callable[[], str]] = [*of_data, self.shuffled, self.setting, self.lost, self.damaged]
        return [] if first else [self.random.choice(every)() for _ in range(self.random.randint(1, 3))]

    # --- builds -------------------------------------------------------------------------------------------

    def targets(self, results: str) -> list[str]:
        return [f"{results}/evaluation/{name}/predictions.parquet" for name in self.variables]

    def build(self, results: str) -> float:
        self.project.write(self.records)
        self.project.configure(**{**self.settings, "results": results})
        began = time.monotonic()
        done = self.project.run(*self.targets(results), timeout=1800)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return time.monotonic() - began

    def difference(self) -> float:
        largest = 0.0
        for ours, theirs in zip(self.targets("results"), self.targets("scratch"), strict=True):
            kept, fresh = (pd.read_parquet(self.project.folder / path) for path in (ours, theirs))
            assert list(kept.columns) == list(fresh.columns) and len(kept) == len(fresh), ours
            for column in kept.columns:
                if kept[column].dtype.kind == "f":
                    largest = max(largest, float(np.abs(kept[column] - fresh[column]).max()))
                else:
                    assert kept[column].equals(fresh[column]), (ours, column)
        return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--variables", nargs="+", default=["valence", "comparator"], choices=list(VARIABLES))
    arguments = parser.parse_args()
    kept, scratch = 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder).resolve(), arguments.variables, arguments.seed)
        for number in range(arguments.rounds + 1):
            changes = "; ".join(soak.change(first=number == 0)) or "first build"
            took = soak.build("results")
            again = soak.project.planned(*soak.targets("results"))
            assert again == {}, (changes, again, soak.project.run(*soak.targets("results"), "-n").stdout)
            shutil.rmtree(soak.project.folder / "scratch", ignore_errors=True)
            took_scratch = soak.build("scratch")
            difference = soak.difference()
            times = f"{took:.0f} s against {took_scratch:.0f} s from scratch"
            print(f"round {number}: {changes}: {times}, largest difference {difference:.1e}", flush=True)
            assert difference <= TOLERANCE
            if number:
                kept, scratch = kept + took, scratch + took_scratch
    print(f"{arguments.rounds} rounds without a difference; {kept / scratch:.2f} of the time from scratch")


if __name__ == "__main__":
    main()
