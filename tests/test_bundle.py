"""The bundle of the small project: what it answers, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pandas as pd
import pytest
from project import REPOSITORY, Project
from safetensors.numpy import load_file

from perceive.export import PRECISIONS
from perceive.export.graph import EXACT_CONFIG
from perceive.export.parts import Parts, load_parts
from perceive.export.reference import python_graphs
from perceive.export.serving import save_graphs, text_graphs
from perceive.features.anchors import load_anchors
from perceive.features.matrix import CONTEXT, Projection
from perceive.io import file_sha256
from perceive.serving import build
from perceive.serving.build import (
    FAST,
    Proof,
    comparable,
    compile_options,
    lay_out,
    quantize_fully,
    records,
    write_repository,
)
from perceive.serving.bundle import Bundle, BundleError
from perceive.serving.history import History, HistoryError
from perceive.serving.plan import stages
from perceive.serving.scorer import Perceiver, _Graph
from perceive.taxonomy import load_taxonomy
from perceive.variables import CORES, HIERARCHIES, VARIABLES

pytestmark = pytest.mark.workflow
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def bundle(project: Project) -> Path:
    return project.results / "bundle"


@pytest.fixture(scope="module")
def some(project: Project) -> list[dict[str, Any]]:
    """The items of some owners, in the order of time."""
    items = pd.read_parquet(project.results / "corpus/items.parquet")
    split = pd.read_parquet(project.results / "splits/items.parquet")["split"]
    return records(items[split == "test"].sort_values(["timestamp", "item_id"]))[:60]


@pytest.fixture(scope="module")
def scorer(bundle: Path) -> Iterator[Perceiver]:
    made = Perceiver.load(bundle, precision="fp32", device="CPU")
    yield made
    made.history.close()


@pytest.fixture(scope="module")
def parts(project: Project) -> Parts:
    settings = json.loads((project.results / "state/config/serving.json").read_text())
    taxonomy = load_taxonomy(REPOSITORY / "resources/taxonomy.tsv")
    return load_parts(project.results, settings["kinds"], settings["reads"], taxonomy, settings["backbone"])


def numbers(answer: dict[str, Any]) -> list[float]:
    found: list[float] = []
    for name in VARIABLES:
        value = answer[name]
        found += [value["probability"], *value["core"].values()] if isinstance(value, dict) else [value]
    return found


def same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], tolerance: float = TOLERANCE) -> None:
    assert [one["item_id"] for one in ours] == [one["item_id"] for one in theirs]
    found, expected = (np.array([numbers(one) for one in answers]) for answers in (ours, theirs))
    assert np.abs(found - expected).max() <= tolerance


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "perceive", "score", *map(str, arguments)]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY / "workflow_scripts")}


def run(*arguments: object, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), input=given, capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_the_bundle_answers_as_the_pipeline_did(project: Project) -> None:
    parity = json.loads((project.results / "serving/parity.json").read_text())
    assert set(parity["judged"]) == set(VARIABLES) and parity["rows"] > 50
    exact = parity["precisions"]["fp32"]["variables"]
    assert {name: one["rmse"] <= TOLERANCE for name, one in exact.items()} == dict.fromkeys(VARIABLES, True)
    assert all(exact[name]["same_path"] == 1 for name in HIERARCHIES)
    cosines = [parity["precisions"][precision]["cosine"] for precision in PRECISIONS]
    assert cosines[0] > 0.999999 and 0.99 < min(cosines[1:]) < 1.000001
    manifest = json.loads((project.results / "bundle/manifest.json").read_text())
    assert manifest["precision"]["default"] == parity["smallest"]


def test_the_latency_report_compares_in_one_run(project: Project) -> None:
    report = json.loads((project.results / "serving/latency.json").read_text())
    assert {*report["devices"], *report["absent_devices"]} == {"CPU", "GPU", "NPU"}
    python = report["python"]["batch"]
    assert set(python) == {"1", "8", "64"}
    for precision in PRECISIONS:
        found = report["devices"]["CPU"][precision]
        assert 0 < found["start"]["load_s"] < found["start"]["first_answer_s"]
        assert 50 < found["start"]["memory_mb"] < 2000
        for size, times in found["batch"].items():
            assert 0 < times["p50_ms"] <= times["p95_ms"] <= times["p99_ms"]
            assert times["ratio"] == pytest.approx(times["p50_ms"] / python[size]["p50_ms"])
            assert times["rows_per_s"] == pytest.approx(int(size) / times["p50_ms"] * 1e3)
    for batch in ("1", "64"):
        assert set(report["trees"][batch]) == {"merged", "each", "sums", "lightgbm", "onnxruntime"}
    assert (project.results / "serving/latency.png").stat().st_size > 10_000


def test_the_python_pipeline_answers_the_same_behind_the_same_interface(
    bundle: Path, parts: Parts, scorer: Perceiver, some: list[dict[str, Any]]
) -> None:
    """What the latency is compared with does the same work."""
    graphs = python_graphs(parts, scorer.bundle.manifest, CONTEXT)
    in_python = Perceiver(Bundle.open(bundle, "fp32"), device="CPU", graphs=graphs)
    same(in_python.score(some), scorer.score(some))
    with pytest.raises(ValueError, match="there is no encoder_hi in Python"):
        graphs("encoder_hi")


def test_building_it_twice_gives_the_same_bytes(
    project: Project, bundle: Path, parts: Parts, tmp_path: Path
) -> None:
    settings = json.loads((project.results / "state/config/serving.json").read_text())
    manifest = json.loads((bundle / "manifest.json").read_text())
    text, _ = text_graphs(parts.backbone, parts.source, parts.transformers)
    reads = settings["reads"].__getitem__
    graphs = tmp_path / "serving"
    planned = stages(list(settings["kinds"]), settings["kinds"], reads)
    save_graphs(graphs, text, {}, planned, parts.heads, parts.grus)
    folder = tmp_path / "bundle"
    folder.mkdir()
    lay_out(
        folder,
        graphs=graphs,
        encoders={"en": project.results / "encoder/en"},
        lexicons=REPOSITORY / "resources/lexicons",
        licensed={},
        anchors=load_anchors(REPOSITORY / "resources/anchors.tsv"),
        projection=Projection.from_tensors(load_file(project.results / "features/projection.safetensors")),
        taxonomy=REPOSITORY / "resources/taxonomy.tsv",
        cache=tmp_path / "cache.sqlite",
    )
    write_repository(folder, manifest["compile"])
    files = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip
    assert files == manifest["files"] and len(files) > 30


def test_fast_arithmetic_is_for_graphs_that_read_text_alone(bundle: Path) -> None:
    opened = Bundle.open(bundle, "fp16")
    fast = opened.compiled_with(FAST["fp16"])
    assert fast.hints("text") == FAST["fp16"] != fast.hints("heads_1") == EXACT_CONFIG
    assert opened.compiled_with({}).hints("text") == EXACT_CONFIG == fast.hints("text", "GPU")
    parity = {"precisions": {"fp16": {"arithmetic": "fast"}, "int8": {"arithmetic": "exact"}}}
    names = ["text_fp16", "text_int8", "encoder_hi_fp16", "heads_1_fp16"]
    options = compile_options(names, parity)
    assert set(options) == {"default", "text_fp16", "encoder_hi_fp16"}


def test_arithmetic_that_the_cpu_would_emulate_is_not_asked_for(
    bundle: Path, some: list[dict[str, Any]]
) -> None:
    scorer = Perceiver(Bundle.open(bundle, "fp16").compiled_with(FAST["fp16"]), device="CPU")
    own = scorer.graphs["text"]
    assert isinstance(own, _Graph)
    scorer.score(some[:1])
    compiled = [request.get_compiled_model() for request in own._requests.values()]
    asked = {model.get_property("INFERENCE_PRECISION_HINT") == ov.Type.bf16 for model in compiled}
    assert asked == {"BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")}


def test_full_quantization_is_kept_only_where_it_passes(
    project: Project, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    content = json.loads((folder / "manifest.json").read_text())
    content = {key: value for key, value in content.items() if key not in ("bundle", "format", "files")}
    items = pd.read_parquet(project.results / "corpus/items.parquet")
    split = pd.read_parquet(project.results / "splits/items.parquet")["split"]
    expected = {
        name: pd.read_parquet(project.results / f"evaluation/{name}/predictions.parquet")
        for name in VARIABLES
    }
    sample = records(items[split == "train"])[:30]
    before = Bundle.open(folder, "int8").id
    weights = file_sha256(folder / "models/text_int8/1/model.bin")
    for limit, kept in ((1e-7, False), (1.0, True)):
        monkeypatch.setattr(build, "SAME_PATH", 0.0 if kept else 1.0)
        proof = Proof(items, split, expected, [], exact_rmse=1e-5, small_rmse=limit)
        found = quantize_fully(folder, content, proof, sample)
        assert bool(found) is kept
        opened = Bundle.open(folder, "int8")
        assert (opened.id == before) is not kept
        assert (file_sha256(folder / "models/text_int8/1/model.bin") == weights) is not kept
    assert found["int8"]["arithmetic"] == "full" and 1e-6 < found["int8"]["rmse"] < 0.05


def test_one_by_one_in_the_order_of_time_is_as_all_at_once(
    bundle: Path, scorer: Perceiver, some: list[dict[str, Any]]
) -> None:
    alone = Perceiver.load(bundle, precision="fp32", device="CPU")
    one_by_one = [answer for row in some for answer in alone.score([row])]
    shuffled = [some[place] for place in np.random.default_rng(0).permutation(len(some))]
    together = {answer["item_id"]: answer for answer in scorer.score(shuffled)}
    same(one_by_one, [together[row["item_id"]] for row in some])
    assert not any("late" in answer for answer in one_by_one)
    # History is what makes them differ from items of strangers.
    strangers = Perceiver.load(bundle, precision="fp32", device="CPU")
    apart = strangers.score([{**row, "owner_id": f"stranger {n}"} for n, row in enumerate(some)])
    found, expected = (np.array([numbers(one) for one in answers]) for answers in (apart, one_by_one))
    assert np.abs(found - expected).max() > 1e-3


def test_an_answer_has_the_form_that_the_contract_gives(bundle: Path, some: list[dict[str, Any]]) -> None:
    (answer,) = Perceiver.load(bundle, precision="fp32", device="CPU").score(some[:1])
    assert set(answer) == {"item_id", "owner_id", *VARIABLES, "bundle"}
    for name, of in VARIABLES.items():
        if of.kind != "hierarchy":
            assert 0 <= answer[name] <= 1
            continue
        path, probability, core = (answer[name][key] for key in ("path", "probability", "core"))
        assert len(answer[name]) == 3 and len(path.split("/")) == 3
        assert set(core) == set(CORES) and sum(core.values()) == pytest.approx(1, abs=1e-4)
        assert 0 < probability <= core[path.split("/")[0]] + 1e-6


def test_bad_records_are_answered_in_their_place_and_late_ones_are_marked(
    bundle: Path, some: list[dict[str, Any]]
) -> None:
    scorer = Perceiver.load(bundle, device="CPU")
    owner = some[0]["owner_id"]
    old = {**some[0], "item_id": "old", "timestamp": "2020-01-01"}
    gone = {"item_id": some[0]["item_id"], "owner_id": owner, "withdrawn": True}
    assert "valence" in scorer.score([some[0]])[0]
    answers = scorer.score(
        [old, None, {"owner_id": "x", "timestamp": "2025-01-01"}, gone, {**some[1], "perception_labels": 1}]
    )
    assert answers[0]["late"] is True and "valence" in answers[4]
    fields = [answer["error"]["field"] for answer in answers[1:4]]
    assert fields == ["line", "text", "withdrawn"]
    assert [earlier.item_id for earlier in scorer.history.earlier(owner)][:1] == ["old"]
    assert some[0]["item_id"] not in {earlier.item_id for earlier in scorer.history.earlier(owner)}
    # The same item again is answered again, and is no history for itself.
    twice = scorer.score([some[2], some[2]])
    same(twice[:1], twice[1:])


def test_the_history_file_joins_two_processes_and_holds_no_text(
    bundle: Path, scorer: Perceiver, some: list[dict[str, Any]], tmp_path: Path
) -> None:
    history = tmp_path / "history.sqlite"
    options = ("--bundle", bundle, "--precision", "fp32", "--history", history)
    first = run(*options, given=lines(some[:30]))
    second = run(*options, given=lines(some[30:]))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    answers = [json.loads(line) for line in (first.stdout + second.stdout).splitlines()]
    same(answers, scorer.score(some))
    for path in tmp_path.iterdir():
        held = path.read_bytes()
        assert not any(row["text"].encode() in held for row in some)
    with pytest.raises(HistoryError, match="of other models are no history"):
        History(history, "another bundle", 3)
    history.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(HistoryError, match="cannot be used"):
        History(history, "another bundle", 3)


def test_a_killed_run_goes_on_where_it_was(bundle: Path, some: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [
        {**row, "item_id": f"{row['item_id']}-{turn}", "owner_id": f"{row['owner_id']}-{turn}"}
        for turn in range(26)
        for row in some
    ]
    source, whole, output = tmp_path / "in.jsonl", tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    source.write_text(lines(rows) + "\nno json\n")
    options = ("--bundle", bundle, "--input", source, "--quiet", "--precision", "fp32")
    killed = subprocess.Popen(command(*options, "--output", output), env=ENVIRONMENT)
    part = tmp_path / "out.jsonl.part"
    end = time.monotonic() + 200
    while not (part.exists() and part.stat().st_size) and time.monotonic() < end:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert part.stat().st_size and not output.exists()
    with part.open("ab") as handle:
        handle.write(b'{"line": 9')  # what a kill in the middle of a write leaves
    refused = run(*options, "--output", output)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    resumed = run(*options, "--output", output, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert run(*options, "--output", whole).returncode == 0
    ours, theirs = ([json.loads(line) for line in path.read_text().splitlines()] for path in (output, whole))
    assert [one["line"] for one in ours] == list(range(1, len(rows) + 3))
    assert [one["error"]["reason"] for one in ours[-2:]] == ["blank", "malformed JSON"]
    same(ours[:-2], theirs[:-2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "whole.jsonl"]


def test_parquet_in_and_out_and_other_column_names(
    bundle: Path, scorer: Perceiver, some: list[dict[str, Any]], tmp_path: Path
) -> None:
    frame = pd.DataFrame(some).rename(columns={"text": "Tweet"})
    frame["timestamp"] = pd.to_datetime(frame["timestamp"])
    frame.to_parquet(tmp_path / "in.parquet")
    options = ("--bundle", bundle, "--precision", "fp32", "--column", "text=Tweet")
    done = run(*options, "--input", tmp_path / "in.parquet", "--output", tmp_path / "out.parquet")
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "out.parquet")
    expected = scorer.score(some)
    assert table["item_id"].tolist() == [row["item_id"] for row in some]
    valence = np.array([answer["valence"] for answer in expected])
    assert np.abs(table["valence"] - valence).max() <= TOLERANCE and valence.std() > 0.01
    paths = [answer["invoked"]["path"] for answer in expected]
    assert table["invoked_path"].tolist() == paths


@pytest.mark.parametrize("name", ["manifest.json", "lexicons/english.tsv", "models/heads_1_fp32/1/model.bin"])
def test_a_changed_bundle_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    assert Bundle.open(copy, "fp32").id == Bundle.open(bundle).id
    path = copy / name
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)
    with pytest.raises(BundleError, match="copy the"):
        Bundle.open(copy, "fp32")
    path.unlink()
    with pytest.raises(BundleError, match=r"missing|is no bundle"):
        Bundle.open(copy, "fp32")


def test_the_scorer_needs_nothing_of_the_training_stack(bundle: Path, some: list[dict[str, Any]]) -> None:
    code = (
        "import json, sys; from perceive.serving.scorer import Perceiver;"
        f"print(len(Perceiver.load({str(bundle)!r}).score(json.loads(sys.stdin.read()))));"
        "print([name for name in ('torch', 'lightgbm', 'snakemake', 'sklearn', 'scipy', 'pandas', 'nncf',"
        " 'vaderSentiment') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(some[:3]), capture_output=True, text=True, env=ENVIRONMENT, timeout=120,
    )  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["3", "[]"], done.stdout + done.stderr


def test_the_serving_requirements_are_enough(
    bundle: Path, scorer: Perceiver, some: list[dict[str, Any]], tmp_path: Path
) -> None:
    """An environment with them alone answers as this one, and starts in time."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-r", REPOSITORY / "envs/serving.lock"], check=True, timeout=600)
    options = ["--bundle", bundle, "--precision", "fp32", "--device", "CPU"]
    done = subprocess.run(
        [python, "-m", "perceive", "score", *options],
        input=lines(some), capture_output=True, text=True, env=ENVIRONMENT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    same([json.loads(line) for line in done.stdout.splitlines()], scorer.score(some))
    listed = subprocess.run([*install[:3], "list"], capture_output=True, text=True, check=True).stdout
    assert "openvino" in listed and not {"torch", "lightgbm", "snakemake", "pandas"} & set(listed.split())


def test_wrong_arguments_are_told_in_one_line(bundle: Path, tmp_path: Path) -> None:
    nowhere = run("--bundle", tmp_path)
    assert nowhere.returncode == 2 and "is no bundle" in nowhere.stderr and "Traceback" not in nowhere.stderr
    missing = run("--bundle", bundle, "--input", tmp_path / "gone.jsonl", "--output", tmp_path / "out")
    assert missing.returncode == 2 and "does not exist" in missing.stderr


def test_stages_answer_what_is_read_before_it_is_read() -> None:
    kinds = {name: variable.kind for name, variable in VARIABLES.items()}
    found = stages(list(VARIABLES), kinds, lambda name: VARIABLES[name].reads)
    assert [stage.sequences for stage in found] == [(), ("congruence", "comparator")]
    alone = stages(["comparator"], {"comparator": "sequence"}, lambda name: ())
    assert alone[0].variables == alone[0].sequences == ("comparator",)
    with pytest.raises(ValueError, match="circle"):
        stages(["a", "b"], {"a": "regression", "b": "sequence"}, lambda name: ["b" if name == "a" else "a"])


def test_a_history_replaces_and_forgets(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    history = History(path, "b", 2)
    history.add([("o", "1", 5, 0.5, np.ones(2, np.float32)), ("o", "1", 7, 0.25, np.zeros(2, np.float32))])
    assert history.earlier("o") == [(7, "1", 0.25)] and history.earlier("o", {"1"}) == []
    assert history.vectors([("o", "1")]).tolist() == [[0, 0]]
    with pytest.raises(KeyError):
        history.vectors([("o", "2")])
    assert history.remove("o", "1") and not history.remove("o", "1")
    history.close()
    assert sqlite3.connect(path).execute("SELECT count(*) FROM item").fetchone() == (0,)


def test_a_comparison_is_scored_in_the_order_of_time() -> None:
    # Elsewhere rows are sorted by item; scored so, items of a long corpus would come after their successors.
    moments = pd.to_datetime([4, 1, 3, 2, 5], unit="s", utc=True)
    items = pd.DataFrame({"item_id": list("abcde"), "owner_id": list("xxyxz"), "timestamp": moments})
    split = pd.Series(["test", "val", "test", "excluded", "train"])
    rows, test, apart = comparable(items, split)
    assert list(rows["item_id"]) == ["b", "d", "c", "a"] and test == {"a", "c"} and apart
    assert rows["timestamp"].is_monotonic_increasing
