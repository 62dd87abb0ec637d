"""The workflow on a real Slurm of one node: a killed run, a killed node daemon, and whole results.

Run as root by `make slurm-test`. Brings up Debian's slurm-wlm and munge without systemd, in a folder of its
own, and takes them down again. Says why, and succeeds, where that cannot be.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from project import REPOSITORY, Project, wait_for

from perceive.corpus.synthesize import generate, scaled

# `srun` inside a job finds no other place.
CONFIGURATION = Path("/etc/slurm/slurm.conf")
CPUS = 2
MEGABYTES = 16000


class Skipped(Exception):
    """Slurm cannot be tested here; the message says why."""


def install() -> None:
    """Slurm and munge, from Debian's packages where they lack."""
    if os.geteuid() != 0:
        raise Skipped("the daemons of Slurm need root")
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        raise Skipped("the plugin lacks: make env-cluster")
    if CONFIGURATION.exists():
        raise Skipped(f"there is a Slurm already: {CONFIGURATION}")
    if all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        return
    if not shutil.which("apt-get"):
        raise Skipped("slurm-wlm and munge lack, and there is no apt-get")
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "slurm-wlm", "munge"]):
        done = subprocess.run(
            ["apt-get", "--quiet", *command],
            capture_output=True,
            text=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        if done.returncode:
            raise Skipped(f"apt-get {command[0]} failed: {done.stderr.strip().splitlines()[-1:]}")


def answer(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout


@contextmanager
def daemon(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Slurm:
    """One node that is controller and worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node = socket.gethostname().split(".")[0]
        self._stack = ExitStack()
        self._worker = ExitStack()

    def __enter__(self) -> Slurm:
        key, munge = self.folder / "munge.key", self.folder / "munge.socket"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        self.configuration = self.folder / "slurm.conf"
        self.configuration.write_text(
            f"""
ClusterName=perceive
SlurmctldHost={self.node}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={munge}
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdLogFile={self.folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={self.folder}/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
NodeName={self.node} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory={MEGABYTES} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
        )
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        try:
            CONFIGURATION.parent.mkdir(exist_ok=True)
            shutil.copy(self.configuration, CONFIGURATION)
            self._stack.callback(CONFIGURATION.unlink)
            self._stack.enter_context(
                daemon(
                    "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}",
                    *(f"--{name}-file={self.folder / name}" for name in ("pid", "log", "seed")),
                )
            )  # fmt: skip
            wait_for(munge.exists, 10, "munged")
            self._stack.enter_context(daemon("slurmctld", "-D", "-f", str(self.configuration)))
            self.start_worker()
            wait_for(lambda: "idle" in answer("sinfo", "--noheader", "--format=%T"), 60, "an idle node")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        answer("scancel", "--state=PENDING", "--user=root")
        answer("scancel", "--state=RUNNING", "--user=root")
        wait_for(lambda: not self.jobs("RUNNING", "COMPLETING"), 60, "the jobs to end")
        self._worker.close()
        self._stack.close()

    def start_worker(self) -> None:
        command = ("slurmd", "-D", "-f", str(self.configuration))
        self.worker = self._worker.enter_context(daemon(*command))

    def kill_worker(self) -> None:
        self.worker.send_signal(signal.SIGKILL)
        self.worker.wait()

    def jobs(self, *states: str) -> list[dict[str, str]]:
        """Jobs in these states (all), with what Slurm knows of them."""
        fields = {
            "id": "%i", "run": "%j", "what": "%k", "state": "%T", "CPUs": "%C", "memory": "%m", "limit": "%l",
            "took": "%M",
        }  # fmt: skip
        chosen = f"--states={','.join(states) or 'all'}"
        lines = answer("squeue", "--noheader", "--sort=i", chosen, f"--format={'|'.join(fields.values())}")
        return [dict(zip(fields, line.split("|"), strict=True)) for line in lines.splitlines()]


def table(jobs: list[dict[str, str]]) -> str:
    """As in the README: of a run its first letters."""
    rows = [list(jobs[0]), *(list({**job, "run": job["run"][9:13]}.values()) for job in jobs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def shown(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def whole(slurm: Slurm, made: Project) -> None:
    profile = ("--profile", str(REPOSITORY / "config/profiles/slurm"), "--max-threads", str(CPUS))
    # Quicker than on a cluster of many, where every question costs the others something.
    quick = ("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10")

    def busy(what: str, not_of: Collection[str] = ()) -> list[str]:
        return [
            job["id"] for job in slurm.jobs("RUNNING") if what in job["what"] and job["run"] not in not_of
        ]

    first = made.start(*profile, *quick, "all")
    wait_for(
        lambda: first.poll() is not None or bool(busy("oof_transformer")), 500, "a job of the transformer"
    )
    assert first.poll() is None, (made.folder / "killed.log").read_text()[-3000:]
    first.send_signal(signal.SIGKILL)
    first.wait()
    left, runs = set(busy("")), {job["run"] for job in slurm.jobs()}
    time.sleep(3)
    assert left & set(busy("")), "the jobs died with Snakemake"
    shown(f"Snakemake is killed; Slurm goes on with job {', '.join(sorted(left))}")
    pending = {job["id"] for job in slurm.jobs("PENDING")}
    print(table(slurm.jobs()), flush=True)

    second = made.start(*profile, *quick, "all")
    wait_for(
        lambda: second.poll() is not None or not left & set(busy("")),
        120,
        "the jobs of the first run to end",
    )
    shown("the second run has claimed the results; the jobs of the first are gone")
    wait_for(lambda: second.poll() is not None or bool(busy("transformer", not_of=runs)), 300, "its own job")
    assert second.poll() is None, (made.folder / "killed.log").read_text()[-3000:]
    running = busy("", not_of=runs)
    slurm.kill_worker()
    shown(f"slurmd is killed, with job {', '.join(running)} on its node")
    time.sleep(8)
    assert second.poll() is None, (made.folder / "killed.log").read_text()[-3000:]
    slurm.start_worker()
    shown("slurmd is started again")
    returned = second.wait(900)
    shown(f"the second run ends with {returned}")
    print(table(slurm.jobs()), flush=True)
    assert returned == 0, (made.folder / "killed.log").read_text()[-3000:]

    for log in (made.folder / ".snakemake/slurm_logs").rglob("*.log"):
        if log.stem in pending:
            # Before it touched what the second run had made.
            assert "another one has taken over" in log.read_text(), log.read_text()
            shown(f"job {log.stem} of the first run has refused to begin")
    assert (made.results / "acceptance.tsv").stat().st_size > 0
    assert (made.results / "bundle/manifest.json").exists()
    assert not list(made.results.rglob(".*.tmp.*"))
    again = made.run("all", "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr, again.stdout + again.stderr
    shown("the results are whole; nothing is left to do")
    print((slurm.folder / "jobs.txt").read_text().splitlines()[-1])


def main() -> None:
    # Torn down, too, where it is ended from outside.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    try:
        install()
    except Skipped as reason:
        print(f"skipped: {reason}")
        return
    with tempfile.TemporaryDirectory(prefix="perceive-slurm-") as folder:
        (Path(folder) / "slurm").mkdir()
        (Path(folder) / "project").mkdir()
        made = Project(Path(folder).resolve() / "project")
        made.write(list(generate(seed=5, **scaled(600, owners=90))))
        made.configure(variables=["valence"])
        with Slurm(Path(folder).resolve() / "slurm") as slurm:
            shown(answer("sinfo", "--format=%N %T %c CPUs %m MB").splitlines()[-1])
            whole(slurm, made)
    shown("Slurm is gone again")


if __name__ == "__main__":
    sys.exit(main())
