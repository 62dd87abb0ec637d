"""Scripts end with the run that started them, and turn an error into one message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from perceive import job

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="parents are watched on Linux only"
)

LIBRARY = Path(job.__file__).resolve().parent.parent
SCRIPT = """
import logging, os, sys, time, warnings
from types import SimpleNamespace
sys.path.insert(0, {library!r})
from perceive import job

def main(snakemake):
{body}

job.run(main, SimpleNamespace(log=[{log!r}], rule="probe"))
"""
# Runs its arguments: as Snakemake, which the Snakefile lets name itself, or as whoever started Snakemake.
RUNNER = """
import os, subprocess, sys
if sys.argv[1] == "named":
    os.environ["PERCEIVE_RUNNER"] = str(os.getpid())
with open(sys.argv[2], "w") as handle:
    handle.write(str(os.getpid()))
subprocess.run(sys.argv[3:])
"""
PLAIN = "set -euo pipefail; {python} {script}"  # bash becomes the last command of such a line ...
STAYING = "set -euo pipefail; {python} {script}; true"  # ... but not here


def script(folder: Path, body: str) -> Path:
    path = folder / "probe.py"
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    log = str(folder / "logs" / "probe.log")
    path.write_text(SCRIPT.format(library=str(LIBRARY), body=indented, log=log))
    return path


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait(condition: object, seconds: float = 15) -> bool:
    assert callable(condition)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


@dataclass
class Line:
    """A line of processes: who started the runner, the runner, (a shell,) the job."""

    starter: int
    runner: int
    job: int


@contextmanager
def running(folder: Path, *, shell: str | None, named: bool, work: str = "time.sleep(60)") -> Iterator[Line]:
    path = script(folder, f"open({str(folder / 'job')!r}, 'w').write(str(os.getpid()))\n{work}")
    (folder / "runner.py").write_text(RUNNER)
    command = [sys.executable, str(path)]
    if shell:
        command = ["bash", "-c", shell.format(python=sys.executable, script=path)]
    for name, kind in (("runner", "named" if named else "plain"), ("starter", "plain")):
        command = [sys.executable, str(folder / "runner.py"), kind, str(folder / name), *command]
    environment = {key: value for key, value in os.environ.items() if key != job.RUNNER}
    process = subprocess.Popen(command, env=environment)
    pids: dict[str, int] = {}
    try:

        def read() -> bool:
            for name in ("starter", "runner", "job"):
                with suppress(OSError, ValueError):
                    pids[name] = int((folder / name).read_text())
            return len(pids) == 3

        assert wait(read), "the job did not start"
        assert pids["starter"] == process.pid
        time.sleep(0.2)  # until the watch is set
        yield Line(**pids)
    finally:
        for pid in pids.values():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("shell", [None, PLAIN, STAYING], ids=["no shell", "shell", "staying shell"])
def test_a_job_dies_with_its_runner(tmp_path: Path, shell: str | None, named: bool) -> None:
    with running(tmp_path, shell=shell, named=named) as line:
        assert alive(line.job)
        os.kill(line.runner, signal.SIGKILL)
        assert wait(lambda: not alive(line.job), 5)


def test_a_job_in_a_long_call_of_c_code_dies_too(tmp_path: Path) -> None:
    # No other thread of the job gets its turn: only the kernel can end it.
    with running(tmp_path, shell=None, named=True, work="sum(range(10**12))") as line:
        os.kill(line.runner, signal.SIGKILL)
        assert wait(lambda: not alive(line.job), 5)


@pytest.mark.parametrize(
    ("shell", "named"), [(None, True), (PLAIN, True), (STAYING, True), (None, False), (PLAIN, False)]
)
def test_a_job_outlives_whoever_started_the_runner(tmp_path: Path, shell: str | None, named: bool) -> None:
    # As after `nohup make run &` and a closed terminal: the run goes on, and its jobs with it.
    with running(tmp_path, shell=shell, named=named) as line:
        os.kill(line.starter, signal.SIGKILL)
        assert wait(lambda: not alive(line.starter), 5)
        assert not wait(lambda: not alive(line.job), 1.3)
        assert alive(line.runner)


def run(folder: Path, body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if key != job.RUNNER}
    return subprocess.run(
        [sys.executable, str(script(folder, body))],
        capture_output=True,
        text=True,
        timeout=60,
        env={**inherited, **environment},
    )


def test_an_orphan_does_not_begin(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    done = run(tmp_path, "open('/dev/stdout', 'w').write('worked')", **{job.RUNNER: str(ended.pid)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == f"the workflow run that started this job (process {ended.pid}) has ended"


def claim(folder: Path) -> tuple[str, subprocess.Popen[str]]:
    """What a run exports to its jobs, and the run itself: killed, it gives the folder back."""
    code = (
        f"import sys; sys.path.insert(0, {str(LIBRARY)!r}); import os, pathlib; from perceive import job\n"
        f"lock = job.hold_run(pathlib.Path({str(folder)!r}))\n"
        "print(os.environ[job.RUN], flush=True)\nsys.stdin.read()"
    )
    held = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdout
    return held.stdout.readline().strip(), held


def test_results_are_claimed_by_one_run_at_a_time_and_given_back_by_a_killed_one(tmp_path: Path) -> None:
    name, held = claim(tmp_path)
    with pytest.raises(BlockingIOError):
        job.hold_run(tmp_path, patience=0)
    assert name.split()[0] == (tmp_path / ".lock").read_text(), "who is refused leaves the owner's name"
    held.kill()
    held.wait()
    again, held = claim(tmp_path)
    held.kill()
    held.wait()
    assert again.split()[0] == (tmp_path / ".lock").read_text() != name.split()[0]


def test_a_job_of_an_earlier_run_does_not_begin(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        name, held = claim(tmp_path)
        held.kill()
        held.wait()
        names.append(name)
    work = "job.end_with_run()\nprint('worked')"
    old, new = (run(tmp_path, work, **{job.RUN: name}) for name in names)
    assert (old.returncode, old.stdout) == (1, "")
    assert f"this job's run has ended, and another one has taken over {tmp_path}" in old.stderr
    assert (new.returncode, new.stdout) == (0, "worked\n")
    # As in a pod that has another file system, or where an interrupted write has left the file empty.
    (tmp_path / ".lock").write_text("")
    assert run(tmp_path, work, **{job.RUN: names[0]}).stdout == "worked\n"
    (tmp_path / ".lock").unlink()
    assert run(tmp_path, work, **{job.RUN: names[0]}).stdout == "worked\n"


def test_a_job_outlives_its_killed_run_until_another_claims_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, held = claim(tmp_path)
    held.kill()
    held.wait()
    monkeypatch.setenv(job.RUN, name)
    work = "job.end_with_run()\ntime.sleep(60)"
    with running(tmp_path, shell=None, named=False, work=work) as line:
        assert not wait(lambda: not alive(line.job), 6)
        _, held = claim(tmp_path)
        assert wait(lambda: not alive(line.job), 8)
        held.kill()
        held.wait()


def test_success_is_quiet_and_logged(tmp_path: Path) -> None:
    body = "logging.getLogger('perceive.x').info('halfway')\nwarnings.warn('a library murmurs', stacklevel=1)"
    done = run(tmp_path, body, **{job.RUNNER: str(os.getpid())})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "[probe] halfway\n")
    log = (tmp_path / "logs" / "probe.log").read_text()
    assert "INFO perceive.x: halfway" in log and "a library murmurs" in log and "finished after" in log


def test_an_error_is_one_message_and_its_traceback_is_in_the_log(tmp_path: Path) -> None:
    body = "logging.getLogger('x').info('begun')\n"
    body += "def inner():\n    raise ValueError('label more owners')\ninner()"
    done = run(tmp_path, body)
    log = tmp_path / "logs" / "probe.log"
    assert done.returncode == 1
    assert done.stderr == f"[probe] begun\n[probe] ValueError: label more owners\n  (details: {log})\n"
    assert "Traceback" in log.read_text() and "in inner" in log.read_text()
    assert run(tmp_path, "pass").returncode == 0
    assert "Traceback" not in log.read_text(), "a log tells of the last run alone"


@dataclass
class Check:
    name: str
    verdict: str
    explanation: str = "explained"


class Report:
    subject = "splits"

    def __init__(self, *verdicts: str) -> None:
        self.checks = [Check(f"check {number}", verdict) for number, verdict in enumerate(verdicts)]

    def to_dict(self) -> dict[str, object]:
        return {"checks": [vars(check) for check in self.checks]}

    def raise_if_failed(self) -> None:
        if any(check.verdict == "fail" for check in self.checks):
            raise RuntimeError("a leak")


class Output:
    def __init__(self, folder: Path) -> None:
        self.log = [str(folder / "logs" / "audit.log")]
        self.output = type("", (), {"audit": str(folder / "audit.json")})


def test_an_audit_is_stored_where_it_passes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = Report("pass", "waived")
    with caplog.at_level("INFO"):
        job.write_audit(report, Output(tmp_path))
    assert json.loads((tmp_path / "audit.json").read_text()) == report.to_dict()
    assert "splits: check 1 is waived: explained" in caplog.text
    assert "no leak found (2 checks)" in caplog.text


def test_a_leak_fails_the_job_and_its_report_stays_beside_the_log(tmp_path: Path) -> None:
    report = Report("pass", "fail")
    with pytest.raises(RuntimeError, match="a leak"):
        job.write_audit(report, Output(tmp_path))
    assert not (tmp_path / "audit.json").exists()
    assert json.loads((tmp_path / "logs" / "audit.json").read_text()) == report.to_dict()
