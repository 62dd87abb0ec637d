"""The profiles of clusters: what a job asks for, which jobs share one, an own batch system's scripts."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from project import REPOSITORY, Project

from perceive.corpus.synthesize import generate, scaled
from perceive.variables import VARIABLES

PROFILES = REPOSITORY / "config/profiles"
CLUSTERS = ["slurm", "kubernetes", "generic"]
GENERIC = PROFILES / "generic"
# Jobs of minutes, which are cluster jobs of their own.
LONG = {"tuning_transformer", "oof_transformer", "models_transformer"}
BLOCK = re.compile(r"^ *rule (\w+):\n(.*?)(?=^ *(?:use )?rule \w|\Z)", re.MULTILINE | re.DOTALL)


def rules() -> dict[str, str]:
    found = {}
    for path in sorted((REPOSITORY / "rules").glob("*.smk")):
        found.update(BLOCK.findall(path.read_text()))
    assert len(found) > 40
    return found


def needs(block: str) -> tuple[int, int]:
    """Megabytes and minutes that a rule asks for."""
    memory = re.findall(r"^ *mem_mb=memory\((\d+)\),$", block, re.MULTILINE)
    minutes = re.findall(r"^ *runtime=minutes\((\d+)\),$", block, re.MULTILINE)
    assert len(memory) == len(minutes) == 1
    return int(memory[0]), int(minutes[0])


@pytest.mark.parametrize("name", list(rules()))
def test_every_rule_says_what_it_needs_and_shares_a_cluster_job_or_is_long(name: str) -> None:
    block = rules()[name]
    memory, minutes = needs(block)
    assert 1000 <= memory <= 8000, "a laptop of 8 GiB runs everything"
    assert 10 <= minutes <= 480
    assert ("    group:\n" in block) == (name not in LONG)
    assert not re.search(r"threads: .*workflow", block), "a cluster has no workflow.cores"


def variables_of(block: str) -> list[str]:
    """Variables that a rule is for."""
    names = "".join(re.findall(r"^ *variable=one_of\((.*)\),$", block, re.MULTILINE)) or "SCALES HIERARCHIES"
    names = names.replace("SCALES", "REGRESSIONS SEQUENCES").lower()
    return [name for name, of in VARIABLES.items() if re.search(of.kind[:6], names)]


@pytest.mark.workflow
def test_no_job_took_more_than_it_asks_for(project: Project) -> None:
    compared = set()
    for name, block in rules().items():
        memory, minutes = needs(block)
        (pattern,) = re.findall(r'f"\{RESULTS\}/(benchmarks/.*\.tsv)"', block) or [""]
        for variable in variables_of(block):
            for base in ("lx", "eb", "tm", "full"):
                path = pattern.replace("{{variable}}", variable).replace("{{base}}", base)
                found = project.results / path.replace("{{language}}", "en").replace("{{column}}", "text")
                if found.is_file():
                    took = pd.read_csv(found, sep="\t")
                    assert took["max_rss"].max() < 0.8 * memory, found
                    assert took["s"].max() < 30 * minutes, found
                    compared.add(name)
    assert compared >= set(rules()) - {"accept", "synthesize"}


@pytest.mark.parametrize("name", [*CLUSTERS, "local"])
def test_a_profile_names_rules_and_groups_that_there_are(name: str) -> None:
    text = (PROFILES / name / "config.yaml").read_text()
    profile = yaml.safe_load(text)
    known, groups = rules(), {"trees"}
    groups |= {group for block in known.values() for group in re.findall(r'    group:\n *"(\w+)"', block)}
    assert set(profile.get("set-resources", {})) <= set(known)
    assert set(profile.get("group-components", {})) <= groups
    if name in CLUSTERS:
        assert profile["cores"] == profile["max-threads"] and profile["resources"]["mem_mb"] >= 8000
        assert profile["retries"] >= 1 and profile["latency-wait"] >= 30 and "executor" in profile
    # What a site may want is a comment that becomes a setting by removing its mark.
    uncommented = re.sub(r"^( *)# (?=[a-z_-]+:(?: |$)|  \w+: \{)", r"\1", text, flags=re.MULTILINE)
    assert len(yaml.safe_load(uncommented)) >= len(profile)


def group_jobs(folder: Path, *arguments: str) -> tuple[int, int]:
    """Jobs of the whole embedded corpus, and cluster jobs that they would be."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--dry-run",
         "--directory", str(folder), *arguments, "--", "all"],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    total = re.search(r"^total +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    assert total
    # `all` itself runs nothing, and is no job of a cluster.
    return int(total[1]) - 1, len(
        re.findall(r"(?m)^(?:\[.*\] Group job|Job \d+:)", done.stdout + done.stderr)
    )


def test_a_run_is_few_cluster_jobs(tmp_path: Path) -> None:
    components = yaml.safe_load((PROFILES / "slurm/config.yaml").read_text())["group-components"]
    grouping = [f"{group}={number}" for group, number in components.items()]
    jobs, submitted = group_jobs(
        tmp_path, "--cores", "4", "--max-threads", "4", "--group-components", *grouping
    )
    assert jobs > 140 and submitted <= 32
    assert f"{submitted} cluster jobs instead of {jobs}" in (PROFILES / "slurm/config.yaml").read_text()


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_profile_plans_the_run(tmp_path: Path, name: str) -> None:
    plugin = f"snakemake_executor_plugin_{'slurm' if name == 'slurm' else 'cluster_generic'}"
    if importlib.util.find_spec(plugin) is None:
        pytest.skip("make env-cluster installs the plugins")
    jobs, submitted = group_jobs(tmp_path, "--profile", str(PROFILES / name))
    assert jobs > 140 and submitted <= 32


@pytest.mark.workflow
def test_other_resources_groups_and_threads_rebuild_nothing(project: Project) -> None:
    done = project.run(
        "all", "--dry-run", "--max-threads", "1", "--group-components", "trees=9",
        "--set-resources", "oof:mem_mb=9999", "tuning:runtime=7", "models_transformer:gpu=1",
    )  # fmt: skip
    assert "Nothing to be done" in done.stdout + done.stderr


def test_the_plugins_are_pinned_beside_the_environment() -> None:
    def read(name: str) -> list[str]:
        return [line for line in (REPOSITORY / "envs" / name).read_text().splitlines() if line[:1] != "#"]

    pins = dict(line.split("==") for line in read("cluster.lock"))
    assert set(read("cluster.in")) <= set(pins)
    # Apart from what everybody has: every start of Snakemake loads the plugins that it finds.
    assert not set(pins) & {line.split("==")[0] for line in read("requirements.lock")}


def submit(folder: Path, body: str, profile: Path = GENERIC, needed: str = "") -> str:
    job = folder / "job.sh"
    needed = '{"threads": 2, "resources": {"mem_mb": 1000, "runtime": 1, ' + needed + '"tmpdir": "/tmp"}}'
    job.write_text(f"#!/bin/sh\n# properties = {needed}\n{body}\n")
    done = subprocess.run([profile / "submit.sh", job], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0 and re.fullmatch(r"\S+\n", done.stdout), done
    return done.stdout.strip()


def status(folder: Path, job: str, until: str, profile: Path = GENERIC) -> str:
    end = time.monotonic() + 10
    while True:
        done = subprocess.run([profile / "status.sh", job], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done
        if done.stdout.strip() == until or time.monotonic() > end:
            return done.stdout.strip()
        time.sleep(0.1)


@pytest.mark.parametrize(("body", "outcome"), [("echo done > made", "success"), ("exit 3", "failed")])
def test_the_generic_scripts_submit_and_tell_the_outcome(tmp_path: Path, body: str, outcome: str) -> None:
    job = submit(tmp_path, f"sleep .5\n{body}")
    assert status(tmp_path, job, "running") == "running"
    assert status(tmp_path, job, outcome) == outcome
    assert (tmp_path / "made").exists() == (outcome == "success")


def test_the_generic_scripts_cancel_a_job_with_all_that_it_started(tmp_path: Path) -> None:
    job = submit(tmp_path, "(sleep 2; touch late) &\nsleep 60")
    assert status(tmp_path, job, "running") == "running"
    time.sleep(0.2)
    subprocess.run([GENERIC / "cancel.sh", job], check=True, cwd=tmp_path)
    assert status(tmp_path, job, "failed") == "failed"
    time.sleep(2)
    assert not (tmp_path / "late").exists()


# In place of a cluster: keeps what it is given, runs a pod's command here, and answers as kubectl does.
KUBECTL = """#!{python}
import os, pathlib, subprocess, sys, yaml
jobs = pathlib.Path(__file__).parent / "jobs"
jobs.mkdir(exist_ok=True)
verb, *arguments = sys.argv[1:]
if verb == "create":
    job = yaml.safe_load(sys.stdin)
    name = job["metadata"]["generateName"] + str(len(list(jobs.iterdir())))
    (jobs / name).write_text(yaml.safe_dump(job))
    container = job["spec"]["template"]["spec"]["containers"][0]
    code = subprocess.call(
        container["command"], cwd=container["workingDir"],
        env={{**os.environ, **{{one["name"]: one["value"] for one in container["env"]}}}},
    )
    (jobs / f"{{name}}.ended").write_text("Failed" if code else "Complete")
    print(f"job.batch/{{name}}")
elif verb == "get" and (jobs / "away").exists():
    sys.exit("Unable to connect to the server")
elif verb == "get" and (jobs / arguments[1]).exists():
    print(arguments[1], (jobs / f"{{arguments[1]}}.ended").read_text())
elif verb == "delete":
    (jobs / arguments[-1]).unlink()
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kubectl").write_text(KUBECTL.format(python=sys.executable))
    (folder / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "jobs"


def test_the_kubernetes_scripts_make_a_job_of_a_script(tmp_path: Path, kubectl: Path) -> None:
    profile = PROFILES / "kubernetes"
    done = submit(tmp_path, "echo $PERCEIVE_RUN > made", profile)
    assert (tmp_path / "made").exists() and status(tmp_path, done, "success", profile) == "success"
    failed = submit(tmp_path, "exit 3", profile, '"gpu": 1, ')
    assert status(tmp_path, failed, "failed", profile) == "failed"
    plain, graphics = (yaml.safe_load((kubectl / name).read_text())["spec"] for name in (done, failed))
    assert plain["activeDeadlineSeconds"] == 60 and plain["backoffLimit"] == 0
    pods = [spec["template"]["spec"]["containers"][0] for spec in (plain, graphics)]
    assert pods[0]["resources"] == {
        "requests": {"cpu": "2", "memory": "1000M"},
        "limits": {"memory": "1000M"},
    }
    assert pods[1]["resources"]["limits"] == {"memory": "1000M", "nvidia.com/gpu": "1"}
    # A cluster that does not answer is no reason to submit the job again; a job that is gone is.
    (kubectl / "away").touch()
    assert status(tmp_path, done, "running", profile) == "running"
    (kubectl / "away").unlink()
    subprocess.run([profile / "cancel.sh", done], check=True)
    assert status(tmp_path, done, "failed", profile) == "failed"


def test_jobs_run_through_the_generic_profile(tmp_path: Path) -> None:
    if importlib.util.find_spec("snakemake_executor_plugin_cluster_generic") is None:
        pytest.skip("make env-cluster installs the plugins")
    made = Project(tmp_path)
    made.write(list(generate(seed=5, **scaled(200, owners=30))))
    made.configure()
    labels = "results/corpus/labels/valence.parquet"
    done = made.run("--profile", str(GENERIC), "results/corpus/summary.json", labels)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / labels).exists() and (tmp_path / "results/corpus/summary.json").exists()
    assert (done.stdout + done.stderr).count("Submitted group job") == 1
    assert [path.read_text() for path in (tmp_path / ".snakemake/generic").glob("*.exit")] == ["0\n"]


def test_a_job_that_fails_asks_for_twice_as_much(tmp_path: Path) -> None:
    if importlib.util.find_spec("snakemake_executor_plugin_cluster_generic") is None:
        pytest.skip("make env-cluster installs the plugins")
    made = Project(tmp_path)
    made.write(list(generate(seed=5, **scaled(200, owners=30))))
    made.configure()
    refuse = tmp_path / "refuse.sh"
    refuse.write_text(f"#!/bin/sh\ngrep '^# properties' \"$1\" >> {tmp_path}/asked\nexit 1\n")
    refuse.chmod(0o755)
    done = made.run(
        "--profile", str(GENERIC), "--resources", "mem_mb=3000", "--retries", "2",
        "--cluster-generic-submit-cmd", str(refuse), "results/corpus/summary.json",
    )  # fmt: skip
    assert done.returncode != 0
    asked = (tmp_path / "asked").read_text()
    # No more than there is.
    assert re.findall(r'"mem_mb": (\d+)', asked) == ["1000", "2000", "3000"]
    assert re.findall(r'"runtime": (\d+)', asked) == ["10", "20", "40"]
