"""Kill the workflow with SIGKILL at random moments until it is through, and compare with a run in peace.

    make soak            (or: python tests/soak.py --seed 3)

Both runs start from the same annotations; the answers of the killed one must equal those of the other.
"""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from project import Project, wait_for_scripts

from perceive.corpus.synthesize import generate, scaled
from perceive.variables import VARIABLES


def prepare(folder: Path) -> Project:
    folder.mkdir()
    project = Project(folder)
    project.write(list(generate(seed=5, **scaled(600, owners=90))))
    project.configure()
    return project


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments")
    parser.add_argument("--longest", type=float, default=25, help="seconds until a kill at most")
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        peaceful = prepare(Path(folder).resolve() / "peaceful")
        started = time.monotonic()
        done = peaceful.run("all", timeout=1800)
        assert done.returncode == 0, done.stdout + done.stderr
        print(f"in peace: {time.monotonic() - started:.0f} s", flush=True)

        killed = prepare(Path(folder).resolve() / "killed")
        kills = 0
        while True:
            running = killed.start("all")
            limit = time.monotonic() + moments.uniform(1.0, arguments.longest)
            while running.poll() is None and time.monotonic() < limit:
                time.sleep(0.02)
            if running.poll() is not None:
                break
            running.send_signal(signal.SIGKILL)
            running.wait()
            kills += 1
            wait_for_scripts(killed.folder)
            made = sum(path.is_file() for path in killed.results.rglob("*"))
            print(f"kill {kills}: {made} files so far", flush=True)
        output = (killed.folder / "killed.log").read_text()
        assert running.returncode == 0, output
        assert killed.planned("all") == {}
        assert not list(killed.results.rglob("*.tmp*"))
        for variable in VARIABLES:
            name = f"evaluation/{variable}/predictions.parquet"
            ours, theirs = (pd.read_parquet(project.results / name) for project in (killed, peaceful))
            difference = np.abs(ours["calibrated"] - theirs["calibrated"]).max()
            assert ours["item_id"].equals(theirs["item_id"]) and difference < 1e-4, (variable, difference)
            print(f"{variable}: {len(ours)} answers, largest difference {difference:.1e}")
    print(f"survived {kills} kills")


if __name__ == "__main__":
    main()
