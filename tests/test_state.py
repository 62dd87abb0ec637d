"""State files: a job runs again when what it reads has changed, and only then."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from perceive.state import StateWriter, code_closure, imported_modules, record_ledger

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = REPOSITORY / "workflow_scripts"
PACKAGE = SCRIPTS / "perceive"


class Files:
    """A small repository."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = root / "workflow_scripts" / "perceive"
        self.results = root / "results"
        for name in ("a", "b", "c", "d", "unused", "sub.leaf", "sub.late"):
            self.write(name, "")
        self.write("__init__", "")
        self.write("sub.__init__", "")
        self.lock = root / "lock.txt"
        self.lock.write_text("numpy==2\n")
        for resource in ("words/en.tsv", "words/deep/hi.tsv", "anchors.tsv"):
            (root / "resources" / resource).parent.mkdir(parents=True, exist_ok=True)
            (root / "resources" / resource).write_text(resource)

    def path(self, module: str) -> Path:
        return self.package.joinpath(*module.split(".")).with_suffix(".py")

    def write(self, module: str, text: str) -> None:
        self.path(module).parent.mkdir(parents=True, exist_ok=True)
        self.path(module).write_text(text)

    def script(self, name: str, text: str) -> Path:
        path = self.package.parent / f"{name}.py"
        path.write_text(text)
        return path

    def closure(self, text: str) -> set[str]:
        found = code_closure(self.script("probe", text), self.package)
        assert found == sorted(found)
        return {".".join(path.relative_to(self.package).with_suffix("").parts) for path in found}

    def snapshot(self) -> dict[str, tuple[str, int]]:
        folder = self.results / "state"
        return {
            path.relative_to(folder).as_posix(): (path.read_text(), path.stat().st_mtime_ns)
            for path in folder.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "repository")


def changed(before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]]) -> set[str]:
    """Files with another content; those with the same content must not have been touched."""
    for name in before.keys() & after.keys():
        if before[name][0] == after[name][0]:
            assert before[name][1] == after[name][1], f"{name} was written without need"
    return {name for name in after if name not in before or before[name][0] != after[name][0]}


# --- Imports -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("import os, numpy", set()),
        ("import perceive", {"__init__"}),
        ("import perceive.a", {"__init__", "a"}),
        ("import perceive.sub.leaf as leaf", {"__init__", "sub.__init__", "sub.leaf"}),
        ("from perceive import a", {"__init__", "a"}),
        ("from perceive import a as x, b", {"__init__", "a", "b"}),
        ("from perceive import sub", {"__init__", "sub.__init__"}),
        ("from perceive.sub import leaf", {"__init__", "sub.__init__", "sub.leaf"}),
        ("from perceive.a import name", {"__init__", "a"}),
        ("from perceive.sub.leaf import name", {"__init__", "sub.__init__", "sub.leaf"}),
        ("from perceive.a import *", {"__init__", "a"}),
        ("def f():\n    from perceive import a\n", {"__init__", "a"}),
        (
            "class C:\n    def f(self):\n        import perceive.sub.late\n",
            {"__init__", "sub.__init__", "sub.late"},
        ),
        (
            "try:\n    import perceive.a\nexcept ImportError:\n    from perceive import b\n",
            {"__init__", "a", "b"},
        ),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from perceive import d\n",
            {"__init__", "d"},
        ),
        ("import perceiver.a\nfrom other.perceive import a", set()),
    ],
)
def test_every_form_of_import_is_followed(files: Files, text: str, wanted: set[str]) -> None:
    assert files.closure(text) == wanted


def test_imports_are_followed_through_modules(files: Files) -> None:
    files.write("a", "def f():\n    from perceive import b\n")
    files.write("b", "from .sub import leaf\nfrom . import c\n")
    files.write("sub.leaf", "from . import late\nfrom .. import d\nfrom ..a import f\n")
    assert files.closure("import perceive.a") == {
        "__init__", "a", "b", "c", "d", "sub.__init__", "sub.leaf", "sub.late"
    }  # fmt: skip
    files.write("sub.__init__", "from ..unused import x")
    assert "unused" in files.closure("import perceive.a")
    files.write("a", "")
    assert files.closure("import perceive.a") == {"__init__", "a"}


def test_a_circle_of_imports_ends(files: Files) -> None:
    files.write("a", "from perceive import b")
    files.write("b", "from perceive import a")
    assert files.closure("from perceive import a") == {"__init__", "a", "b"}


def test_only_direct_imports_are_direct(files: Files) -> None:
    files.write("a", "from perceive import b")
    assert imported_modules(files.script("probe", "import perceive.a"), files.package) == {
        files.path("__init__"),
        files.path("a"),
    }


# --- State files -------------------------------------------------------------------------------------------


def test_a_changed_file_changes_the_state_of_its_readers_alone(files: Files) -> None:
    files.script("one", "from perceive import a")
    files.script("two", "from perceive.sub import leaf")
    files.script("three", "import os")
    files.write("a", "from perceive import b")
    files.write("sub.leaf", "def f():\n    from perceive import b\n")
    scripts = {"one": ["resources/words"], "two": ["resources/anchors.tsv"], "three": []}

    def write() -> dict[str, tuple[str, int]]:
        StateWriter(files.results, files.root).write_code(scripts, files.lock)
        return files.snapshot()

    state = write()
    assert set(state) == {"code/one.tsv", "code/two.tsv", "code/three.tsv"}
    assert changed(state, write()) == set()
    resources = files.root / "resources"
    every = {"one", "two", "three"}
    for path, readers in [
        (files.path("a"), {"one"}),
        (files.path("b"), {"one", "two"}),
        (files.path("__init__"), {"one", "two"}),
        (files.path("sub.__init__"), {"two"}),
        (files.path("unused"), set()),
        (files.package.parent / "three.py", {"three"}),
        (files.lock, every),
        (resources / "words" / "deep" / "hi.tsv", {"one"}),
        (resources / "words" / "new.tsv", {"one"}),
        (resources / "anchors.tsv", {"two"}),
    ]:
        path.write_text((path.read_text() if path.exists() else "") + "\n# changed\n")
        after = write()
        assert changed(state, after) == {f"code/{name}.tsv" for name in readers}, path
        os.utime(path)
        assert changed(after, write()) == set(), path
        state = after
    (resources / "words" / "new.tsv").unlink()
    assert changed(state, write()) == {"code/one.tsv"}


def test_a_missing_resource_is_an_error(files: Files) -> None:
    files.script("one", "")
    with pytest.raises(FileNotFoundError, match=r"resources/gone"):
        StateWriter(files.results, files.root).write_code({"one": ["resources/gone"]}, files.lock)


def test_a_changed_slice_writes_its_own_file_alone(files: Files) -> None:
    writer = StateWriter(files.results, files.root)
    writer.write_config({"blend": {"rounds": 3}, "models/lx": {"trees": 5}})
    before = files.snapshot()
    assert set(before) == {"config/blend.json", "config/models/lx.json"}
    writer.write_config({"blend": {"rounds": 3}, "models/lx": {"trees": 6}})
    assert changed(before, files.snapshot()) == {"config/models/lx.json"}


def test_annotations_are_read_only_when_they_may_have_changed(files: Files) -> None:
    path = files.root / "annotations.jsonl"
    path.write_text("one")
    calls = []

    def write(key: object = "reader", parts: dict[str, str] | None = None) -> set[str]:
        before = files.snapshot()

        def compute() -> dict[str, str]:
            calls.append(1)
            return parts if parts is not None else {"items": path.read_text(), "labels/valence": "v"}

        StateWriter(files.results, files.root).write_data([path], key, compute)
        return changed(before, files.snapshot()) - {"data.json"}

    assert write() == {"data/items.sha256", "data/labels/valence.sha256", "data/all.sha256"}
    assert (write(), len(calls)) == (set(), 1)
    os.utime(path, ns=(0, 10**18))  # touched: read once more, but nothing has changed
    assert (write(), len(calls)) == (set(), 2)
    assert (write(), len(calls)) == (set(), 2)
    path.write_text("two")
    os.utime(path, ns=(0, 10**18))  # of the same size and time, as a copy tool may leave it: not seen
    assert (write(), len(calls)) == (set(), 2)
    path.write_text("three")
    os.utime(path, ns=(0, 10**18))
    assert (write(), len(calls)) == ({"data/items.sha256", "data/all.sha256"}, 3)
    assert (write(key="another reader"), len(calls)) == (set(), 4)
    assert write(key=1, parts={"items": "three", "labels/valence": "w"}) == {
        "data/labels/valence.sha256",
        "data/all.sha256",
    }


@pytest.mark.parametrize("damage", ["", "{", "[1]", '"text"'])
def test_a_damaged_cache_is_made_anew(files: Files, damage: str) -> None:
    writer = StateWriter(files.results, files.root)
    writer.write_data([], "key", lambda: {"items": "x"})
    (files.results / "state" / "data.json").write_text(damage)
    writer.write_data([], "key", lambda: {"items": "y"})
    assert (files.results / "state" / "data" / "items.sha256").read_text() == "y\n"


def test_deleted_state_files_come_back_from_the_cache(files: Files) -> None:
    writer = StateWriter(files.results, files.root)
    writer.write_data([], "key", lambda: {"items": "x"})
    (files.results / "state" / "data" / "items.sha256").unlink()
    writer.write_data([], "key", lambda: pytest.fail("read again"))
    assert (files.results / "state" / "data" / "items.sha256").read_text() == "x\n"


class Ledger:
    """The ledger, the record of the splits rule, and the note that the rule takes as its input."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.ledger = files.root / "ledger.csv"
        self.seen = files.results / "splits" / "ledger.sha256"
        self.note = files.results / "state" / "data" / "ledger.sha256"

    def parse(self) -> bool:
        """What a start of the workflow does; whether the note is news."""
        before = (self.note.read_text(), self.note.stat().st_mtime_ns) if self.note.exists() else None
        StateWriter(self.files.results, self.files.root).write_ledger(self.ledger, self.seen)
        return (self.note.read_text(), self.note.stat().st_mtime_ns) != before

    def rule(self, content: str) -> None:
        """What the splits rule does: extend the ledger and record how it left it."""
        self.ledger.write_text(content)
        record_ledger(self.ledger, self.note, self.seen)


@pytest.fixture
def ledger(files: Files) -> Ledger:
    return Ledger(files)


def test_the_rules_own_extension_of_the_ledger_is_no_news(ledger: Ledger) -> None:
    assert ledger.parse()
    assert not ledger.parse(), "a second parse before the rule has run"
    ledger.rule("owner,train")
    assert not ledger.parse()
    ledger.rule("owner,train\nother,test")
    assert not ledger.parse()


def test_an_edit_of_the_ledger_is_news_once(ledger: Ledger) -> None:
    ledger.parse()
    ledger.rule("owner,train")
    ledger.ledger.write_text("owner,test")
    assert ledger.parse()
    assert not ledger.parse()
    ledger.rule("owner,test\nother,train")
    assert not ledger.parse()
    ledger.ledger.write_text("owner,test")
    assert ledger.parse(), "the same edit again"


def test_a_ledger_deleted_twice_is_news_twice(ledger: Ledger) -> None:
    ledger.parse()
    notes = {ledger.note.read_text()}
    for _ in range(2):
        ledger.rule("owner,train")
        assert not ledger.parse()
        ledger.ledger.unlink()
        assert ledger.parse()
        assert not ledger.parse()
        notes.add(ledger.note.read_text())
    assert len(notes) == 3, "equal notes would not be told apart by their content"


def test_a_visit_to_another_ledger_is_forgotten(ledger: Ledger) -> None:
    """Another configuration is parsed in the same folder, and then the first again: nothing has changed."""
    ledger.parse()
    ledger.rule("owner,train")
    ledger.parse()
    before = ledger.note.read_text()
    own, ledger.ledger = ledger.ledger, ledger.files.root / "other.csv"
    assert ledger.parse()
    ledger.ledger = own
    ledger.parse()
    assert ledger.note.read_text() == before


@pytest.mark.parametrize("damaged", ["", "abc", "abc\n", "abc\n\n", "abc\nx y\n"])
def test_a_damaged_record_counts_as_none(ledger: Ledger, damaged: str) -> None:
    ledger.parse()
    ledger.rule("owner,train")
    ledger.seen.write_text(damaged)
    ledger.parse()
    assert ledger.note.read_text() == "0\n"


def test_a_ledger_from_another_machine_is_read_on_the_first_run(ledger: Ledger) -> None:
    ledger.ledger.write_text("owner,train")
    assert ledger.parse()
    assert not ledger.parse()
    ledger.rule("owner,train")
    assert not ledger.parse()


def test_an_edit_taken_back_before_the_rule_ran_takes_the_note_back(ledger: Ledger) -> None:
    ledger.parse()
    ledger.rule("owner,train")
    before = ledger.note.read_text()
    ledger.ledger.write_text("owner,test")
    assert ledger.parse() and ledger.note.read_text() != before
    ledger.ledger.write_text("owner,train")
    ledger.parse()
    assert ledger.note.read_text() == before


# --- The real repository -----------------------------------------------------------------------------------

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))

IMPORTER = """
import json, runpy, sys
sys.path.insert(0, {folder!r})
loaded = {{}}
for name in {names!r}:
    for module in [m for m in sys.modules if m == "perceive" or m.startswith("perceive.")]:
        del sys.modules[module]
    runpy.run_path(f"{folder}/{{name}}.py", run_name="imported")
    loaded[name] = [m for m in sys.modules if m == "perceive" or m.startswith("perceive.")]
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """The library modules that importing each script loads."""
    code = IMPORTER.format(folder=str(SCRIPTS), names=NAMES)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_no_module_that_a_job_loads_is_missed(loaded: dict[str, list[str]], name: str) -> None:
    closure = code_closure(SCRIPTS / f"{name}.py", PACKAGE)
    known = {
        ".".join(path.relative_to(SCRIPTS).with_suffix("").parts).removesuffix(".__init__")
        for path in closure
    }
    assert len(loaded[name]) > 2
    assert set(loaded[name]) <= known


def declared() -> dict[str, list[str]]:
    """The table SCRIPTS of the Snakefile."""
    text = (REPOSITORY / "Snakefile").read_text()
    found = re.search(r"^SCRIPTS = (\{.*?^\})", text, re.MULTILINE | re.DOTALL)
    assert found
    return ast.literal_eval(found[1])


def named_resources(source: Path) -> set[str]:
    """Paths of the form ``... / "resources" / "x" / "y"`` in a file."""

    def parts(node: ast.AST) -> list[str]:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            return parts(node.left) + parts(node.right)
        return [str(node.value)] if isinstance(node, ast.Constant) else ["*"]

    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        line = parts(node) if isinstance(node, ast.BinOp) else []
        if "resources" in line and line[-1] != "resources":
            found.add("/".join(line[line.index("resources") :]))
    return found


def test_the_snakefile_names_the_resources_of_every_script() -> None:
    table = declared()
    rules = "".join(path.read_text() for path in (REPOSITORY / "rules").glob("*.smk"))
    used = set(re.findall(r'workflow_scripts/(\w+)\.py"', rules))
    assert used == set(NAMES)
    # `accept` only reads a table aloud: it has no output that could go stale.
    assert set(table) == used - {"accept"}
    for name, resources in table.items():
        script = SCRIPTS / f"{name}.py"
        wanted = set().union(*map(named_resources, [script, *code_closure(script, PACKAGE)]))
        assert set(resources) == wanted, name
        for resource in resources:
            assert (REPOSITORY / resource).exists(), resource
    assert any(table.values())


def test_every_rule_takes_the_state_of_its_own_script() -> None:
    for path in (REPOSITORY / "rules").glob("*.smk"):
        for rule in re.split(r"^\s*(?:rule|checkpoint) ", path.read_text(), flags=re.MULTILINE)[1:]:
            script = re.search(r'workflow_scripts/(\w+)\.py"', rule)
            name = rule.partition(":")[0]
            if script and script[1] != "accept":
                assert f'code=code("{script[1]}")' in rule, f"{path.name}: {name}"
