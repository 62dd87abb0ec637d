"""The real DAG on a small corpus: built, killed on the way, then asked what a change would rebuild."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess

import numpy as np
import openvino as ov
import pandas as pd
import pytest
from project import Project, wait_for, wait_for_scripts
from safetensors import safe_open

from perceive.integrity import DAMAGED
from perceive.variables import CORES, HIERARCHIES, VARIABLES

REGRESSIONS = [name for name, of in VARIABLES.items() if of.kind == "regression"]
SEQUENCES = [name for name, of in VARIABLES.items() if of.kind == "sequence"]
SCALES = [*REGRESSIONS, *SEQUENCES]

LEARNING = ("tuning", "oof", "models", "blend", "calibration")
"""How the names of those rules begin that learn from data."""

pytestmark = pytest.mark.workflow


def test_every_scale_has_its_artifacts(project: Project) -> None:
    for variable in SCALES:
        for name in (
            f"corpus/labels/{variable}.parquet", f"corpus/agreement/{variable}.json",
            f"oof/{variable}/full.npy", f"tuning/{variable}/best.json",
            f"models/{variable}/lx/model.txt", f"blend/{variable}/model.txt",
            f"calibration/{variable}/calibrator.json", f"evaluation/{variable}/metrics.json",
            f"evaluation/{variable}/reliability.png", f"export/{variable}/fp32/model.xml",
            f"export/{variable}/parity.json",
        ):  # fmt: skip
            assert (project.results / name).stat().st_size > 0, name
        proof = json.loads((project.results / f"export/{variable}/parity.json").read_text())
        assert set(proof["precisions"]) == {"fp32", "fp16", "int8"}
        for precision, found in proof["precisions"].items():
            leaves = found["leaf_equality"]["adversarial"]
            assert set(leaves) == {"lx", "eb", "tm", "full", "blender"} and set(leaves.values()) == {1.0}
            assert found["rmse"] <= (1e-5 if precision == "fp32" else 0.005)
            assert (project.results / f"export/{variable}/{precision}/model.bin").stat().st_size > 0
        network = "gru" if variable in SEQUENCES else "transformer"
        network_proof = json.loads((project.results / f"export/{variable}/{network}/parity.json").read_text())
        assert set(network_proof["precisions"]) == {"fp32", "fp16", "int8"}
        for precision, found in network_proof["precisions"].items():
            assert found["rmse"] <= 0.005
            path = project.results / f"export/{variable}/{network}/{precision}/model.xml"
            assert path.stat().st_size > 0


def test_every_hierarchy_has_its_artifacts(project: Project) -> None:
    for variable in HIERARCHIES:
        for name in (
            f"corpus/labels/{variable}.parquet", f"oof/{variable}/transformer.npy", f"oof/{variable}/lx.npy",
            f"tuning/{variable}/best.json", f"models/{variable}/transformer/model.safetensors",
            f"models/{variable}/eb/model.txt", f"blend/{variable}/model.txt",
            f"answers/{variable}/upstream.parquet", f"calibration/{variable}/calibrator.json",
            f"evaluation/{variable}/metrics.json", f"evaluation/{variable}/confusion.png",
            f"export/{variable}/latency.json",
        ):  # fmt: skip
            assert (project.results / name).stat().st_size > 0, name
        proof = json.loads((project.results / f"export/{variable}/parity.json").read_text())
        assert set(proof["precisions"]) == {"fp32", "fp16", "int8"}
        for precision, found in proof["precisions"].items():
            assert (project.results / f"export/{variable}/{precision}/model.xml").stat().st_size > 0
            assert found["rmse"] <= 0.005
            leaves = [share for of in found["leaf_equality"].values() for share in of.values()]
            assert len(leaves) == 6 and set(leaves) == {1.0}
        assert proof["precisions"]["fp32"]["same_path"] == 1.0
        metrics = json.loads((project.results / f"evaluation/{variable}/metrics.json").read_text())
        answers = np.load(project.results / f"answers/{variable}/blend.npy")
        assert metrics["kind"] == "hierarchy" and answers.shape == (600, 258)
        # Better than the most frequent path, on a corpus of 600 and with the smallest of budgets.
        found, naive = (of["hierarchical_f1"]["value"] for of in (
            metrics["metrics"]["calibrated"], metrics["baselines"]["majority"]))  # fmt: skip
        assert found > naive + 0.1


def test_willingness_reads_out_of_fold_cores(project: Project) -> None:
    names = [f"{name}_{core}" for name in HIERARCHIES for core in CORES]
    model = (project.results / "models/willingness/full/model.txt").read_text()
    header = next(line for line in model.splitlines() if line.startswith("feature_names="))
    assert header.split()[-12:] == names
    ir = ov.Core().read_model(project.results / "export/willingness/fp32/model.xml")
    assert ir.input("features").partial_shape[1].get_length() == 431, "and the transformer's answer"
    audit = json.loads((project.results / "oof/willingness/audit.json").read_text())
    verdicts = {check["name"]: check["verdict"] for check in audit["checks"]}
    assert verdicts["upstream_in_graph"] == verdicts["upstream_out_of_fold"] == "pass"


def test_sequences_read_out_of_fold_answers_and_are_judged_by_the_baselines(project: Project) -> None:
    cores = [f"{name}_{core}" for name in HIERARCHIES for core in CORES]
    read = {"congruence": [*cores, "valence_answer", "arousal_answer"]}
    read["comparator"] = ["valence_answer", "arousal_answer"]
    for variable, names in read.items():
        model = (project.results / f"models/{variable}/full/model.txt").read_text()
        header = next(line for line in model.splitlines() if line.startswith("feature_names="))
        assert header.split()[-len(names) :] == names
        network = json.loads((project.results / f"models/{variable}/gru/model.json").read_text())
        assert network["shape"]["columns"][418:-1] == names
        audit = json.loads((project.results / f"oof/{variable}/audit.json").read_text())
        verdicts = {check["name"]: check["verdict"] for check in audit["checks"]}
        assert verdicts["upstream_in_graph"] == verdicts["upstream_out_of_fold"] == "pass"
        metrics = json.loads((project.results / f"evaluation/{variable}/metrics.json").read_text())
        assert metrics["kind"] == "sequence" and set(metrics["bases"]) == {"lx", "eb", "tm", "full", "gru"}
        assert {"ridge_lags", "ema", "text_alone"} < set(metrics["baselines"])
        assert set(metrics["slices"]["history"]) == {"1", "2-4", "5-9", "10+"}
        table = pd.read_csv(project.results / "acceptance.tsv", sep="\t").set_index("variable")
        assert {"lag_gain", "history_gain", "temporal_r"} < set(table.loc[variable, "metric"])


def test_the_acceptance_table_is_complete(project: Project) -> None:
    table = pd.read_csv(project.results / "acceptance.tsv", sep="\t")
    assert list(table.columns[:7]) == ["variable", "gate", "threshold", "value", "low", "high", "verdict"]
    assert set(table["variable"]) == {*VARIABLES, "bundle"}
    of_all = table.groupby("metric")["variable"].agg(set)
    for metric in ("leaks", "krippendorff_alpha", "group_gap"):
        assert of_all[metric] == set(VARIABLES), metric
    assert of_all["parity_rmse"] == of_all["p50_ms"] == {"bundle"}
    whole = json.loads((project.results / "acceptance.json").read_text())
    assert len(whole["gates"]) == len(table) == sum(whole["counts"].values())
    bundle = json.loads((project.results / "bundle/manifest.json").read_text())
    assert set(bundle["accepted"]) == set(VARIABLES)
    assert "Acceptance on the test split" in project.output  # type: ignore[attr-defined]


def test_the_exported_model_answers_as_the_evaluation_did(project: Project) -> None:
    """The IR alone, fed with the stored features, repeats the stored predictions."""
    from perceive.features.matrix import ALL, LEXICAL, context
    from perceive.features.store import with_upstream

    features = with_upstream(
        pd.read_parquet(project.results / "features/folds/final/test.parquet"),
        [project.results / "answers/valence/transformer.parquet"],
    )
    items = pd.read_parquet(project.results / "corpus/items.parquet").set_index("item_id")
    stored = pd.read_parquet(project.results / "evaluation/valence/predictions.parquet").set_index("item_id")
    rows = items.loc[features["item_id"]]
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    model = ov.Core().compile_model(project.results / "export/valence/fp32/model.xml", "CPU", config)
    answers = model(
        {
            "features": features[[*ALL, "transformer"]].to_numpy(np.float32),
            "context": context(rows, features[list(LEXICAL)]),
        }
    )["calibrated"][:, 0]
    expected = stored.loc[features["item_id"], "calibrated"].to_numpy()
    assert np.sqrt(np.mean((answers - expected) ** 2)) <= 1e-5
    assert expected.std() > 0.01


def test_owners_and_texts_stay_on_their_side(project: Project) -> None:
    items = pd.read_parquet(project.results / "corpus/items.parquet")
    split = pd.read_parquet(project.results / "splits/items.parquet")
    merged = items.drop(columns="split").merge(split[["item_id", "split", "fold"]], on="item_id")
    kept = merged[merged["split"] != "excluded"]
    assert kept.groupby("owner_id")["split"].nunique().max() == 1
    assert kept[kept["split"] == "train"].groupby("owner_id")["fold"].nunique().max() == 1
    owners = pd.read_parquet(project.results / "splits/owners.parquet")["split"].value_counts()
    # 70, 15 and 15 % of 90 owners are 63, 13.5 and 13.5.
    assert owners["train"] == 63 and {owners["val"], owners["test"]} == {13, 14}
    audit = json.loads((project.results / "splits/audit.json").read_text())
    assert {check["verdict"] for check in audit["checks"]} == {"pass"}


def test_rejected_lines_are_listed_with_their_reason(project: Project) -> None:
    rejects = [
        json.loads(line) for line in (project.results / "corpus/rejects.jsonl").read_text().splitlines()
    ]
    assert [(reject["line"], reject["field"]) for reject in rejects] == [(601, "text")]
    summary = json.loads((project.results / "corpus/summary.json").read_text())
    assert (summary["accepted"], summary["rejected"]) == (600, 1)


def test_no_text_and_no_owner_leaves_the_corpus_folder(project: Project) -> None:
    records = project.records()[:-1]
    texts = [record["text"][:60] for record in records]
    owners = {record["owner_id"] for record in records}
    searched = 0
    for path in project.results.rglob("*"):
        inside = path.relative_to(project.results).parts[0]
        if (
            path.suffix in {".log", ".json", ".tsv", ".csv", ".txt", ".xml", ".journal", ".html", ".md"}
            and inside != "corpus"
        ):
            content = path.read_text(errors="replace")
            searched += 1
            assert not any(text in content for text in texts), path
            assert not any(f'"{owner}"' in content for owner in owners), path
    assert searched > 100
    assert "<script>" not in project.output  # type: ignore[attr-defined]


def test_nothing_can_run_code_on_load(project: Project) -> None:
    allowed = {
        ".parquet", ".json", ".jsonl", ".npy", ".txt", ".safetensors", ".xml", ".bin", ".tsv", ".csv", ".png",
        ".log", ".journal", ".lock", ".sqlite", ".sha256", ".html", ".md", "",
    }  # fmt: skip
    files = [path for path in project.results.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= allowed
    for path in files:
        if path.suffix == ".safetensors":
            # Its first byte is part of a length, and may be any; what is no safetensors does not open.
            with safe_open(path, "np"):
                continue
        with open(path, "rb") as handle:
            assert handle.read(1) != b"\x80", f"{path} looks like a pickle"
        if path.suffix == ".npy":
            assert np.load(path, allow_pickle=False).dtype.kind in "fiu"


def test_the_killed_run_left_nothing_half_written(project: Project) -> None:
    assert not list(project.results.rglob("*.tmp*"))
    study = (project.results / "tuning/valence/study.journal").read_text().splitlines()
    assert all(json.loads(line) for line in study)
    assert len(pd.read_csv(project.results / "tuning/valence/trials.csv")) == 3


def test_a_second_call_does_nothing(project: Project) -> None:
    assert project.planned("all") == {}
    done = project.run("all")
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr


def test_lost_metadata_rebuilds_nothing(unchanged: Project) -> None:
    shutil.move(unchanged.folder / ".snakemake", unchanged.folder / ".kept")
    try:
        assert unchanged.planned("all") == {}
    finally:
        shutil.rmtree(unchanged.folder / ".snakemake", ignore_errors=True)
        shutil.move(unchanged.folder / ".kept", unchanged.folder / ".snakemake")


def test_a_label_of_a_variable_that_is_not_built_trains_nothing(unchanged: Project) -> None:
    unchanged.configure(variables=[name for name in VARIABLES if name != "congruence"])
    before = unchanged.planned("all")
    records = unchanged.records()
    records[3]["annotations"][0]["perception_labels"]["congruence"] = 0.5
    unchanged.write(records)
    plan = unchanged.planned("all")
    assert not any(rule.startswith(LEARNING) for rule in {**before, **plan})
    assert plan["agreement"] == {"congruence"} and "labels" not in plan


def test_a_later_round_corrects_and_withdraws(unchanged: Project) -> None:
    records = unchanged.records()
    ids = [record["item_id"] for record in records[:-1]]
    assigned = pd.read_parquet(unchanged.results / "splits/owners.parquet").set_index("owner_id")
    corrections = [
        {"item_id": ids[0], "perception_labels": {"valence": 0.5}},
        {"item_id": ids[1], "withdrawn": True},
        {"item_id": ids[2]},
        {"item_id": "of-nobody", "perception_labels": {"valence": 0.5}},
        {**records[4], "item_id": "new", "owner_id": "new", "text": "a quiet day at last, nothing to report"},
    ]
    (unchanged.folder / "round2.jsonl").write_text("".join(json.dumps(line) + "\n" for line in corrections))
    ledger = unchanged.folder / "config/ledgers/small.csv"
    held = ledger.read_bytes()
    # In a folder of its own, from nothing: what holds the owners in their places is the ledger alone.
    unchanged.configure(
        corpus={"name": "small", "annotations": ["annotations.jsonl", "round2.jsonl"]}, results="second"
    )
    wanted = ("corpus/summary.json", "corpus/labels/valence.parquet", "splits/audit.json")
    done = unchanged.run(*(f"second/{name}" for name in wanted))
    assert done.returncode == 0, done.stdout + done.stderr
    second = unchanged.folder / "second"
    summary = json.loads((second / "corpus/summary.json").read_text())
    counted = [
        summary["rounds"][1][name] for name in ("new", "corrected", "withdrawn", "unchanged", "rejected")
    ]
    assert counted == [1, 1, 1, 1, 1] and summary["items"] == 600
    labels = pd.read_parquet(second / "corpus/labels/valence.parquet").set_index("item_id")
    assert labels.loc[ids[0], "value"] == 0.5 and ids[1] not in labels.index
    now = pd.read_parquet(second / "splits/owners.parquet").set_index("owner_id")
    kept = assigned.index.intersection(now.index)
    assert len(kept) >= 89 and now.loc[kept].equals(assigned.loc[kept]) and "new" in now.index
    assert len(ledger.read_bytes()) > len(held)
    ledger.write_bytes(held)
    shutil.rmtree(second)


def test_a_changed_gate_is_judged_again_without_training(unchanged: Project) -> None:
    models = {path: path.stat().st_mtime_ns for path in unchanged.results.rglob("model.txt")}
    gates = {"valence": ["rmse <= 0.9"], "arousal": ["rmse <= 0.0001"]}
    unchanged.configure(gates={**{name: [] for name in VARIABLES}, **gates})
    failed = unchanged.run("accept")
    assert failed.returncode != 0 and " gates fail" in failed.stdout + failed.stderr
    table = pd.read_csv(unchanged.results / "acceptance.tsv", sep="\t")
    of_metrics = table[table["metric"] == "rmse"].set_index("variable")["verdict"]
    assert of_metrics.to_dict() == {"valence": "pass", "arousal": "fail"}
    # What is deployed and what people read says so too.
    assert unchanged.run("all").returncode == 0
    accepted = json.loads((unchanged.results / "bundle/manifest.json").read_text())["accepted"]
    assert accepted["arousal"] == "pending"
    assert "fails" in (unchanged.results / "cards/arousal.md").read_text()
    assert models == {path: path.stat().st_mtime_ns for path in unchanged.results.rglob("model.txt")}
    unchanged.configure()
    assert unchanged.run("all").returncode == 0


def test_a_planted_leak_fails_the_build(unchanged: Project) -> None:
    path = unchanged.results / "splits/items.parquet"
    kept, stat = path.read_bytes(), path.stat()
    leaky = pd.read_parquet(path)
    first = leaky.index[leaky["split"] == "train"][0]
    leaky.loc[first, "split"], leaky.loc[first, "fold"] = "test", pd.NA
    leaky.to_parquet(path, index=False)
    # As if the rule itself had written it: a file that is not what its rule wrote would be set aside.
    shutil.move(unchanged.results / "state/made/splits", unchanged.folder / "made")
    done = unchanged.run("audit_splits", "--forcerun", "audit_splits")
    output = done.stdout + done.stderr
    path.write_bytes(kept)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    shutil.move(unchanged.folder / "made", unchanged.results / "state/made/splits")
    assert done.returncode != 0 and "LeakError" in output and "owner_in_two_splits" in output
    # A failed job's output is gone, and whoever needs it next would have it, and all after it, made again.
    assert unchanged.run("results/splits/audit.json").returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        "features/lexical.parquet",
        "export/valence/fp32/model.bin",
        "bundle/manifest.json",
    ],
)
def test_a_damaged_result_is_made_again(unchanged: Project, name: str) -> None:
    path = unchanged.results / name
    whole = path.read_bytes()
    # One bit turned, or the end cut off.
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    path.write_bytes(damaged if "bin" in name else whole[: len(whole) // 2])
    done = unchanged.run("all")
    output = done.stdout + done.stderr
    assert done.returncode == 0 and name in output and "set aside" in output
    aside = path.with_name(path.name + DAMAGED)
    if name.startswith("features"):
        # Models that were made of it while it was whole are none the worse; whoever needs it gets it.
        assert aside.exists() and not path.exists()
        assert unchanged.run(f"results/{name}").returncode == 0
    aside.unlink(missing_ok=True)
    if path.suffix in {".bin", ".json"}:
        assert path.read_bytes() == whole
    else:
        pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(io.BytesIO(whole)))
    assert unchanged.planned("all") == {}


def test_a_folder_that_cannot_be_written_to_is_one_sentence(unchanged: Project) -> None:
    unchanged.configure(results="/proc/results")
    done = unchanged.run("all")
    output = done.stdout + done.stderr
    assert done.returncode != 0 and "/proc/results cannot be written to" in output
    assert "Traceback" not in output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_one_sentence_and_the_next_call_goes_on(unchanged: Project) -> None:
    small = unchanged.folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(small)])
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        unchanged.configure(results="small")
        full = unchanged.run("small/features/temporal.parquet")
        output = full.stdout + full.stderr
        assert full.returncode != 0 and "No space left" in output
        assert not list(small.rglob("*.tmp*"))
        subprocess.run(["mount", "-o", "remount,size=60m", str(small)], check=True)
        done = unchanged.run("small/features/temporal.parquet")
        assert done.returncode == 0, done.stdout + done.stderr
        ours, theirs = (
            pd.read_parquet(folder / "features/temporal.parquet") for folder in (small, unchanged.results)
        )
        pd.testing.assert_frame_equal(ours, theirs)
    finally:
        subprocess.run(["umount", str(small)], check=True)
        small.rmdir()


def test_a_second_run_at_once_is_refused(unchanged: Project) -> None:
    files = unchanged.files()
    first = unchanged.start("all", "--forcerun", "insight")
    log = unchanged.folder / "killed.log"
    try:
        wait_for(lambda: "Execute" in log.read_text() or first.poll() is not None, 60, "the first run")
        second = unchanged.run("results/corpus/summary.json", "--forcerun", "summary")
        assert second.returncode != 0 and "another run is writing" in second.stdout + second.stderr
    finally:
        first.kill()
        first.wait()
    wait_for_scripts(unchanged.folder)
    # Snakemake took the forced jobs' old outputs away, and makes them again only for who needs them.
    gone = sorted(f"results/{name}" for name in files - unchanged.files())
    assert unchanged.run("all", *gone).returncode == 0


def test_a_wrong_configuration_names_the_key_and_the_remedy(unchanged: Project) -> None:
    unchanged.configure(tunning={"trials": 3})
    done = unchanged.run("--dry-run", "all")
    output = done.stdout + done.stderr
    assert done.returncode != 0 and "tunning" in output and "did you mean 'tuning'" in output


def test_a_missing_corpus_says_where_it_is_to_be_had(unchanged: Project) -> None:
    corpus = {
        "name": "gone",
        "annotations": ["gone.jsonl"],
        "source": {"url": "https://example.org", "licence": "CC0"},
    }
    unchanged.configure(corpus=corpus)
    done = unchanged.run("--dry-run", "all")
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "gone.jsonl" in output and "https://example.org" in output and "CC0" in output


def test_the_embedded_corpus_is_planned_without_annotations(unchanged: Project) -> None:
    unchanged.configure(corpus={"name": "synthetic", "annotations": []}, results="elsewhere")
    plan = unchanged.planned("all")
    assert "synthesize" in plan and plan["oof"] == set(SCALES)
    chain = unchanged.planned("valence")
    assert "evaluation" not in chain
    assert {"labels", "tuning", "oof", "blend", "export"} < set(chain)
    assert set().union(*chain.values()) == {"valence"}
    shutil.rmtree(unchanged.folder / "elsewhere")
