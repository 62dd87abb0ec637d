"""Says in plain words what a call of the workflow would build again, and why.

    python -m perceive.explain snakemake --cores 2 all

runs the command as a dry run and tells the causes that Snakemake names by their state files
(see :mod:`perceive.state`) as a person would.
"""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

_JOB = re.compile(r"^(?:Job \d+: (?P<message>.*)|(?:local)?rule (?P<rule>\w+):)$")
_REASON = re.compile(r"^(?:Reason|reason): (.*)$")
_COUNT = re.compile(r"^(\w+)\s+(\d+)$")
_STATE = re.compile(r"/state/(config|code|data)/(.+)\.(?:json|tsv|sha256)$")
_CAUSES = {
    "Updated input files": "changed",
    "Missing output files": "missing",
    "Incomplete output files": "left incomplete by a killed run",
    "Forced execution": "forced",
}
_FOLLOWS = "Input files updated by another job"
_DATA = {
    "items": "the items of the annotations",
    "all": "the annotations, or what was rejected of them",
    "ledger": "the ledger of owners, by hand",
}


@dataclass
class Plan:
    """What a dry run says.

    Attributes
    ----------
    counts : dict of str to int
        Jobs by rule.
    causes : dict of str to list of str
        For each cause the messages of the jobs that it reaches first.
    jobs : int
        Jobs that do work (a mere target is none).
    """

    counts: dict[str, int] = field(default_factory=dict)
    causes: dict[str, list[str]] = field(default_factory=dict)
    jobs: int = 0


def cause_of(path: str) -> str:
    """A changed input file in words."""
    state = _STATE.search(path)
    if state is None:
        return f"the file {path}"
    kind, name = state.groups()
    if kind == "config":
        return f"the configuration of {name.replace('/', ' of ')}"
    if kind == "code":
        return f"the code of {name}, a module or resource that it uses, or the lock file"
    part, _, of = name.partition("/")
    if part == "items" and of:
        return f"the column {of} of the items"
    return _DATA.get(name, f"the {part} of {of}")


def read_plan(text: str) -> Plan:
    """Parse the output of ``snakemake --dry-run`` with its reasons."""
    plan = Plan()
    causes: dict[str, list[str]] = collections.defaultdict(list)
    targets = set()
    message = None
    # Jobs of a group are indented.
    for line in map(str.strip, text.splitlines()):
        if job := _JOB.match(line):
            # Only a target is without a message; it does no work.
            message = job["message"]
            targets.add(job["rule"])
        elif (count := _COUNT.match(line)) and count[1] not in ("total", "job"):
            plan.counts[count[1]] = int(count[2])
        elif message and (reason := _REASON.match(line)):
            plan.jobs += 1
            for part in reason[1].split("; "):
                kind, _, files = part.partition(": ")
                if kind in _CAUSES:
                    for path in files.split(", ") if kind == "Updated input files" else [""]:
                        what = cause_of(path) if path else "results"
                        causes[f"{what}: {_CAUSES[kind]}"].append(message)
                elif kind != _FOLLOWS:
                    causes[part].append(message)
    # The counts are told twice, before the jobs and after them.
    plan.counts = {rule: count for rule, count in plan.counts.items() if rule not in targets}
    plan.causes = dict(causes)
    return plan


def in_words(plan: Plan, shown: int = 4) -> str:
    """A plan as a text for the terminal.

    Parameters
    ----------
    plan : Plan
    shown : int
        How many first jobs of a cause are named.
    """
    if not plan.jobs:
        return (
            "Nothing would be built again: all results are those of the data, settings and code as they are."
        )
    first = {job for jobs in plan.causes.values() for job in jobs}
    lines = [f"{plan.jobs} jobs would run."]
    for cause, jobs in plan.causes.items():
        named = list(dict.fromkeys(jobs))
        more = f", and {len(named) - shown} more" if len(named) > shown else ""
        lines.append(f"- {cause}\n    first: {'; '.join(named[:shown])}{more}")
    if plan.jobs > len(first):
        lines.append(f"- {plan.jobs - len(first)} more follow, because they read what these write")
    lines.append("By rule: " + ", ".join(f"{rule} {count}" for rule, count in sorted(plan.counts.items())))
    return "\n".join(lines)


def main(command: Sequence[str]) -> int:
    """Run ``command`` as a dry run and print what it would do; its exit status where it fails."""
    # One line a job with its reason; the profile of the repository would leave the reasons out.
    done = subprocess.run([*command, "--dry-run", "--quiet", "host"], capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        return done.returncode
    print(in_words(read_plan(done.stdout + done.stderr)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
