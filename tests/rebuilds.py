"""Changes of every kind, and the table of what each of them rebuilds.

    python tests/rebuilds.py FOLDER       write tests/rebuilds.tsv anew from a finished project in FOLDER

The table has a row for each change and a column for each rule; a cell holds the initials of the variables
that the rule runs for, ``*`` where it runs once for all, and ``.`` where it does not run. Read the difference
before you commit it: what is written there is what users are promised.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from project import SMALL, Project

from perceive.variables import VARIABLES

TABLE = Path(__file__).with_suffix(".tsv")
INITIALS = {
    "valence": "v", "arousal": "a", "willingness": "w", "invoked": "i", "expressed": "e", "congruence": "g",
    "comparator": "c",
}  # fmt: skip
assert set(INITIALS) == set(VARIABLES)
ITEM = 3
"""The record that is changed."""

Records = list[dict[str, Any]]
Change = Callable[[Project], None]


def _records(edit: Callable[[Records], None]) -> Change:
    def change(project: Project) -> None:
        records = project.records()
        edit(records)
        project.write(records)

    return change


def _label(variable: str) -> Change:
    def edit(records: Records) -> None:
        for annotation in records[ITEM]["annotations"]:
            labels = annotation["perception_labels"]
            if VARIABLES[variable].kind == "hierarchy":
                taken = json.dumps(labels[variable])
                labels[variable] = "Happy/Playful" if "Hopeless" in taken else "Sad/Depressed/Hopeless"
            else:
                labels[variable] = 0.9 if labels[variable] < 0.5 else 0.1

    return _records(edit)


def _set(**fields: Any) -> Change:
    return _records(lambda records: records[ITEM].update(fields))


def _rater(records: Records) -> None:
    records[ITEM]["annotations"][0]["annotator_id"] = "somebody else"


def _added(**fields: Any) -> Change:
    def edit(records: Records) -> None:
        text = "a quiet day at last, nothing to report"
        records.append({**records[ITEM], "item_id": "a-new-item", "text": text, **fields})

    return _records(edit)


def _other_language(records: Records) -> None:
    record = records[ITEM]
    record["language"] = "en" if record.get("language") == "hinglish" else "hinglish"


def _other_order(records: Records) -> None:
    # The last stays: it is rejected, and its line number is told.
    records[:] = [*records[ITEM:-1], *records[:ITEM], records[-1]]


def _configured(**changes: Any) -> Change:
    merged = {
        key: {**SMALL[key], **value} if isinstance(SMALL.get(key), dict) else value  # type: ignore[dict-item]
        for key, value in changes.items()
    }
    return lambda project: project.configure(**merged)


def _touched(project: Project) -> None:
    for path in [project.annotations, *project.results.glob("corpus/*.parquet")]:
        os.utime(path)


CHANGES: dict[str, Change] = {
    **{f"label of {variable}": _label(variable) for variable in VARIABLES},
    "another rater of the same ratings": _records(_rater),
    "text": _set(text="a quiet day at last, nothing to report of it, and that is good"),
    "timestamp": _set(timestamp="2025-06-07T08:09:10Z"),
    "owner": _set(owner_id="somebody-else"),
    "language": _records(_other_language),
    "category": _set(category="another"),
    "risk level": _set(risk_level="HIGH"),
    "device": _set(device="another"),
    "new item of a known owner": _added(),
    "new owner": _added(owner_id="a-new-owner"),
    "withdrawn item": _records(lambda records: records[ITEM].update(withdrawn=True)),
    "removed item": _records(lambda records: records.pop(ITEM)),
    "another order of the lines": _records(_other_order),
    "touched files": _touched,
    "setting: a gate": _configured(gates={"valence": ["rmse <= 0.5"]}),
    "setting: trials of valence": _configured(
        tuning={"trials": {**dict.fromkeys(VARIABLES, 3), "valence": 4}}
    ),
    "setting: trials of invoked": _configured(
        tuning={"trials": {**dict.fromkeys(VARIABLES, 3), "invoked": 4}}
    ),
    "setting: trials of comparator": _configured(
        tuning={"trials": {**dict.fromkeys(VARIABLES, 3), "comparator": 4}}
    ),
    "setting: trees of lx": _configured(models={"lx": {"trees": 21, "num_leaves": 7}}),
    "setting: blend": _configured(blend={"max_trees": 9}),
    "setting: calibration": _configured(calibration={"max_knots": 5}),
    "setting: bootstrap": _configured(evaluation={"bootstrap": 120}),
    "setting: export": _configured(export={"adversarial_rows": 600}),
    "setting: precision of the bundle": _configured(bundle={"precision": "fp32"}),
    "setting: salt": _configured(privacy={"salt": "another"}),
    "setting: the value it had": _configured(calibration={}),
}


def planned(project: Project, change: str) -> dict[str, set[str]]:
    """What ``change`` would rebuild; the project is put back."""
    annotations, stat = project.annotations.read_bytes(), project.annotations.stat()
    parquet = {path: path.stat().st_mtime_ns for path in project.results.glob("corpus/*.parquet")}
    try:
        CHANGES[change](project)
        return project.planned("all")
    finally:
        project.annotations.write_bytes(annotations)
        os.utime(project.annotations, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        for path, mtime in parquet.items():
            os.utime(path, ns=(mtime, mtime))
        project.configure()


def cells(plan: Mapping[str, set[str]]) -> dict[str, str]:
    """A plan as a row of the table, without the rules that do not run."""
    return {
        rule: "".join(INITIALS[name] for name in INITIALS if name in variables) or "*"
        for rule, variables in plan.items()
    }


def read_table() -> dict[str, dict[str, str]]:
    """Change to rule to cell, without the rules that do not run."""
    with TABLE.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    return {row.pop("change"): {rule: cell for rule, cell in row.items() if cell != "."} for row in rows}


def rules_in_order() -> list[str]:
    """Names of the rules in the order of the rule files that the Snakefile includes."""
    import re

    root = TABLE.parent.parent
    files = re.findall(r'include: "(rules/\w+\.smk)"', (root / "Snakefile").read_text())
    texts = (re.findall(r"^\s*rule (\w+):", (root / name).read_text(), re.MULTILINE) for name in files)
    return [name for names in texts for name in names if name not in ("synthesize", "accept")]


def write_table(project: Project) -> None:
    rules = rules_in_order()
    with TABLE.open("w", encoding="utf-8", newline="") as handle:
        table = csv.writer(handle, delimiter="\t", lineterminator="\n")
        table.writerow(["change", *rules])
        for change in CHANGES:
            row = cells(planned(project, change))
            assert set(row) <= set(rules), set(row) - set(rules)
            table.writerow([change, *(row.get(rule, ".") for rule in rules)])
            print(change, row, flush=True)


if __name__ == "__main__":
    project = Project(Path(sys.argv[1]).resolve())
    configured = yaml.safe_load((project.folder / "small.yaml").read_text())
    project.own = {"encoders": configured["encoders"]}
    write_table(project)
