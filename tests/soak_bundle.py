"""A day of a clinic through the scorer, killed in the middle: `make soak-bundle`.

    python tests/soak_bundle.py [lines [bundle]]

Writes reflections of the synthetic corpus's kind, scores them with ``--resume`` after a SIGKILL at half, and
fails unless every line is answered once and in its place. Prints throughput, and memory as it went.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from perceive.corpus.synthesize import generate, scaled

REPOSITORY = Path(__file__).resolve().parent.parent


def memory_mb(process: subprocess.Popen[bytes]) -> float:
    """Resident memory of a running process."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return float("nan")
    return next(
        (int(line.split()[1]) / 1024 for line in status.splitlines() if "VmRSS" in line), float("nan")
    )


def watched(
    command: list[str], part: Path, total: int, stop_at: float
) -> tuple[int, list[tuple[int, float]]]:
    """Run to the end, or kill at that share of the lines; the exit status, and (lines, MB) now and then."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "workflow_scripts")}
    process = subprocess.Popen(command, env=environment)
    seen: list[tuple[int, float]] = []
    while process.poll() is None:
        time.sleep(2)
        done = part.read_bytes().count(b"\n") if part.exists() else 0
        seen.append((done, memory_mb(process)))
        if done >= stop_at * total:
            process.send_signal(signal.SIGKILL)
            return process.wait(), seen
    return process.returncode, seen


def main() -> None:
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    bundle = Path(sys.argv[2]) if len(sys.argv) > 2 else REPOSITORY / "results/bundle"
    with tempfile.TemporaryDirectory() as name:
        source, output = Path(name) / "in.jsonl", Path(name) / "out.jsonl"
        records = sorted(
            generate(seed=11, **scaled(total, owners=total // 6)), key=lambda one: one["timestamp"]
        )
        with source.open("w") as handle:
            for number, record in enumerate(records):
                kept = {key: record[key] for key in ("item_id", "owner_id", "text", "timestamp", "language")}
                # Some lines are unusable, as in life.
                handle.write("no json\n" if number % 1000 == 999 else json.dumps(kept) + "\n")
        command = [
            sys.executable, "-m", "perceive", "score", "--bundle", str(bundle), "--input", str(source),
            "--output", str(output), "--quiet", "--resume",
        ]  # fmt: skip
        part = output.with_name(output.name + ".part")
        began = time.monotonic()
        status, first = watched(command, part, len(records), 0.5)
        assert status == -signal.SIGKILL, status
        print(
            f"killed after {first[-1][0]:,} lines; what is there:",
            *sorted(path.name for path in Path(name).iterdir()),
        )
        status, second = watched(command, part, len(records), 2.0)
        seconds = time.monotonic() - began
        assert status == 0, status
        answers = [json.loads(line) for line in output.read_text().splitlines()]
        assert [answer["line"] for answer in answers] == list(range(1, len(records) + 1))
        errors = sum("error" in answer for answer in answers)
        assert errors == len(records) // 1000, errors
        print(
            f"{len(records):,} lines in {seconds:.0f} s,",
            f"{len(records) / seconds:.0f} a second, {errors} errors",
        )
        for title, seen in (("before", first), ("after", second)):
            memory = np.array([mb for _, mb in seen if np.isfinite(mb)])
            tenths = [f"{part.max():.0f}" for part in np.array_split(memory[2:], 10) if len(part)]
            print(f"memory {title} the kill, MB by tenths: {' '.join(tenths)}")


if __name__ == "__main__":
    main()
