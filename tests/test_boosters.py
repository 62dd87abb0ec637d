"""LightGBM comes without scikit-learn, which stays importable."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from project import REPOSITORY

SCRIPTS = REPOSITORY / "workflow_scripts"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(SCRIPTS)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("scripts", ["tuning, oof, models", "oof_paths, blend", "answers, export"])
def test_what_reads_boosters_waits_for_no_scikit_learn(scripts: str) -> None:
    heavy = "{'lightgbm', 'sklearn', 'scipy.stats'}"
    assert run(f"import sys, {scripts}; print({heavy} & set(sys.modules))") == "{'lightgbm'}"


@pytest.mark.parametrize("first", ["perceive.boosters", "sklearn"])
def test_scikit_learn_is_there_before_and_after(first: str) -> None:
    found = run(
        f"import sys, {first}; before = sys.modules.get('sklearn'); from perceive.boosters import lgb; "
        "import sklearn.linear_model; assert before in (None, sklearn); print(lgb.Booster.__name__)"
    )
    assert found == "Booster"


def test_no_module_imports_lightgbm_by_itself() -> None:
    readers = 0
    for path in SCRIPTS.rglob("*.py"):
        tree = ast.parse(path.read_text())
        # What only a type checker reads stands in an `if`.
        for node in ast.walk(ast.Module([one for one in tree.body if not isinstance(one, ast.If)], [])):
            if isinstance(node, ast.Import):
                own = path.name == "boosters.py"
                assert own or all(name.name != "lightgbm" for name in node.names), path
            readers += isinstance(node, ast.ImportFrom) and node.module == "perceive.boosters"
    assert readers > 8
