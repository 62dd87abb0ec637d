"""The house is in order: pins, environment files, the README's picture, no format that runs code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
PIN = re.compile(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9_.!\-]+")


def lines(name: str) -> list[str]:
    text = (REPOSITORY / name).read_text()
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_is_pinned_without_a_local_version() -> None:
    pins = lines("envs/requirements.lock")
    assert len(pins) > 80
    assert [pin for pin in pins if not PIN.fullmatch(pin)] == []
    names = [canonical(pin.split("==")[0]) for pin in pins]
    assert len(set(names)) == len(names)
    # Plain, so that the CPU build and the CUDA build both fit; and no package of the CUDA build alone.
    assert "torch==2.13.0" in pins
    assert [name for name in names if name.startswith("nvidia-") or name == "triton"] == []


def test_the_lock_holds_every_direct_dependency() -> None:
    locked = {canonical(pin.split("==")[0]) for pin in lines("envs/requirements.lock")}
    direct = {canonical(re.split("[=<]", line)[0]) for line in lines("envs/requirements.in")}
    assert direct - locked == set()


def test_the_environment_that_runs_is_the_locked_one() -> None:
    from importlib.metadata import version

    wrong = {}
    for pin in lines("envs/requirements.lock"):
        name, wanted = pin.split("==")
        if (found := version(name).split("+")[0]) != wanted:
            wrong[name] = (wanted, found)
    assert wrong == {}


def test_the_conda_environment_has_the_versions_of_the_lock() -> None:
    environment = yaml.safe_load((REPOSITORY / "envs/environment.yaml").read_text())
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    pins = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert python == "python=3.11"
    assert pins == lines("envs/requirements.lock")


def test_the_readme_names_every_rule_in_its_picture() -> None:
    picture = (REPOSITORY / "README.md").read_text().split("```mermaid")[1].split("```")[0]
    drawn = set(re.findall(r"\b[a-z]+(?:_[a-z]+)*\b", picture))
    rules = set()
    for path in (REPOSITORY / "rules").glob("*.smk"):
        rules |= set(re.findall(r"^\s*rule (\w+):", path.read_text(), flags=re.MULTILINE))
    assert len(rules) > 15
    assert rules - drawn - {"accept"} == set()


def test_every_file_that_the_readme_links_exists() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", readme) if "://" not in target]
    assert targets
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []


@pytest.mark.parametrize(
    "forbidden", [r"\b(?:pickle|joblib|dill)\.", r"torch\.(?:load|save)\(", r"allow_pickle=True"]
)
def test_no_code_reads_or_writes_a_format_that_can_run_code(forbidden: str) -> None:
    sources = [REPOSITORY / "Snakefile", *(REPOSITORY / "rules").glob("*.smk")]
    sources += [*(REPOSITORY / "workflow_scripts").rglob("*.py"), *(REPOSITORY / "envs").glob("*.py")]
    found = [path for path in sources if re.search(forbidden, path.read_text())]
    assert found == []


def test_parsing_imports_nothing_heavy() -> None:
    """What the Snakefile imports, every call pays: each dry run, each job on a cluster."""
    code = (
        "import sys; import perceive.config, perceive.state, perceive.job, perceive.corpus.reader; "
        "print([name for name in ('numpy', 'pandas', 'pyarrow', 'torch', 'lightgbm', 'sklearn', 'openvino') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=REPOSITORY / "workflow_scripts",
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_two_commands_are_those_of_continuous_integration() -> None:
    script = (REPOSITORY / ".ci/run").read_text()
    assert "make test" in script and (REPOSITORY / ".ci/run").stat().st_mode & 0o111
    makefile = (REPOSITORY / "Makefile").read_text()
    assert {"run", "test", "lint", "bench"} <= set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
