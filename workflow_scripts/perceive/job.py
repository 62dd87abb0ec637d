"""What every script does around its own work: logging, clear errors, dying with its parent."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from perceive import integrity
from perceive.io import write_json

PR_SET_PDEATHSIG = 1
RUNNER = "PERCEIVE_RUNNER"
"""Environment variable with the id of the process that runs the workflow; see `lead_jobs`."""

RUN = "PERCEIVE_RUN"
"""Environment variable with a run's name and the lock file that holds it; see `hold_run`."""

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash"})
log = logging.getLogger(__name__)


def _ancestors(pid: int) -> list[int]:
    """Process ids of the parent, its parent, ... nearest first, without the first process of all."""
    found = []
    while pid > 1:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            break
        pid = int(fields[1])
        if pid > 1:
            found.append(pid)
    return found


def _command(pid: int) -> str:
    """Name of a process's program, empty where the process is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def lead_jobs() -> None:
    """Make this process the one that the scripts it starts end with; the Snakefile calls it.

    The scripts' threads shall sleep while they wait for one another. By default they spin, and where another
    process wants the core as well, training took five times as long as it does so.
    """
    os.environ[RUNNER] = str(os.getpid())
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def hold_run(results: Path, patience: float = 5.0) -> IO[str]:
    """Take the lock of the one run that may write to ``results``; it ends with this process, however it ends.

    The lock file holds the run's name, for jobs on other machines, which outlive a killed run: see
    `end_with_run`.

    Parameters
    ----------
    results : Path
    patience : float
        Seconds to wait for those who only look (`no_run`).

    Raises
    ------
    BlockingIOError
        If another run holds it.
    OSError
        If the file system has no locks.
    """
    results.mkdir(parents=True, exist_ok=True)
    # Not emptied: the name of who holds it stands there.
    handle = open(results / ".lock", "a", encoding="utf-8")  # noqa: SIM115 (held until the process ends)
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > end:
                handle.close()
                raise
            time.sleep(0.1)
        except OSError as error:
            handle.close()
            raise OSError(
                f"{results} lies on a file system without locks ({error}); "
                "Lustre has them when mounted with flock"
            ) from error
    name = uuid.uuid4().hex
    handle.truncate(0)
    handle.write(name)
    handle.flush()
    os.environ[RUN] = f"{name} {Path(handle.name).resolve()}"
    return handle


@contextmanager
def no_run(results: Path) -> Iterator[bool]:
    """Whether no run writes to ``results`` (as far as is known); none begins before the block ends."""
    results.mkdir(parents=True, exist_ok=True)
    with open(results / ".lock", "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def die_with_parent() -> None:
    """End this process when the workflow that started it is gone (Linux).

    A killed Snakemake leaves its jobs running; they would write into the results of the next run. The kernel
    signals the death of the direct parent (``prctl(PR_SET_PDEATHSIG)``). A shell in between survives its own
    parent, so the line of processes up to the runner (`RUNNER`) is watched as well; where no runner is named,
    up to the parent, or a shell's parent. Whoever started the runner may go: the run goes on.

    Raises
    ------
    SystemExit
        If the runner has already ended.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    line = _ancestors(os.getpid())
    runner = int(os.environ.get(RUNNER) or 0)
    if runner:
        if runner not in line:
            raise SystemExit(f"the workflow run that started this job (process {runner}) has ended")
        watched = line[: line.index(runner) + 1]
    else:
        watched = line[: 2 if _command(parent) in SHELLS else 1]

    def watch() -> None:
        while True:
            time.sleep(0.5)
            if _ancestors(os.getpid())[: len(watched)] != watched:
                os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


def end_with_run() -> None:
    """End this process when another run has claimed the results; the Snakefile calls it in a cluster's job.

    A batch system goes on with what a killed Snakemake has submitted, and the next call submits it again. Of
    two jobs with the same outputs only that of the folder's owner may write, or remove them when it fails:
    therefore it is the job's Snakemake that ends, and its scripts end with it (`die_with_parent`). It looks
    every five seconds; where the environment or the file does not reach it, it goes on as if there were no
    other run.

    Raises
    ------
    RuntimeError
        If the folder belongs to another run already.
    """
    name, _, lock = os.environ.get(RUN, "").partition(" ")
    if not name:
        return

    def claimed_by_another() -> bool:
        try:
            # Empty for a moment, while a run puts its name there.
            return Path(lock).read_text(encoding="utf-8") not in ("", name)
        except OSError:
            return False

    if claimed_by_another():
        raise RuntimeError(f"this job's run has ended, and another one has taken over {Path(lock).parent}")

    def watch() -> None:
        while not claimed_by_another():
            time.sleep(5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="watch-run").start()


def run(main: Callable[[Any], Iterable[Path] | None], snakemake: Any) -> None:
    """Run a script's ``main`` with its log file, and turn an error into one clear message.

    The log file gets everything, with the traceback of an error; the terminal gets the progress and the
    error's message alone.

    Parameters
    ----------
    main : callable
        Takes the ``snakemake`` object, and may return files and folders that it wrote beside the outputs.
    snakemake : object
        With ``log`` (one file), ``rule``, ``input``, ``output``, ``wildcards``, ``threads``.
    """
    die_with_parent()
    path = Path(str(snakemake.log[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    to_file = logging.FileHandler(path, mode="w", encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_terminal = logging.StreamHandler(sys.stderr)
    to_terminal.setFormatter(logging.Formatter(f"[{snakemake.rule}] %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[to_file, to_terminal], force=True)
    logging.captureWarnings(True)
    # Warnings of libraries are for the log file, not for the person who waits.
    to_terminal.addFilter(lambda record: record.name != "py.warnings")
    for noisy in ("matplotlib", "sentence_transformers", "transformers", "httpx", "nncf"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    started = time.monotonic()
    try:
        beside = main(snakemake) or ()
        if code := getattr(getattr(snakemake, "input", None), "code", None):
            # state/code/<script>.tsv
            integrity.record(Path(code).parent.parent, snakemake.rule, map(Path, snakemake.output), beside)
    except Exception as error:
        to_terminal.addFilter(lambda record: False)
        log.exception("failed")
        print(f"[{snakemake.rule}] {type(error).__name__}: {error}\n  (details: {path})", file=sys.stderr)
        raise SystemExit(1) from None
    to_terminal.addFilter(lambda record: False)
    log.info("finished after %.1f s", time.monotonic() - started)


def write_audit(report: Any, snakemake: Any) -> None:
    """Store an audit and fail where it found a leak.

    The copy beside the log stays when the job fails and Snakemake removes its outputs.
    """
    kept = Path(str(snakemake.log[0])).with_suffix(".json")
    write_json(kept, report.to_dict())
    report.raise_if_failed()
    for check in report.checks:
        if check.verdict == "waived":
            log.warning("%s: %s is waived: %s", report.subject, check.name, check.explanation)
    write_json(snakemake.output.audit, report.to_dict())
    log.info("%s: no leak found (%d checks)", report.subject, len(report.checks))
