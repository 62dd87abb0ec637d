"""How fast a bundle answers, from text to all answers, beside the Python pipeline and its parts.

Everything is measured in one run: the Python pipeline (torch and LightGBM behind the same scorer,
`perceive.export.reference`) takes turns with each precision, and so do the merged tree graphs with one graph
for each variable, LightGBM's own predicts and onnxruntime on the same trees.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from numpy.typing import NDArray

import perceive
from perceive.boosters import lgb
from perceive.export import PRECISIONS
from perceive.export.graph import Forest, compile_exact, lower_forest, timed_in_turns
from perceive.export.heads import Head, build_heads
from perceive.export.parts import Parts
from perceive.export.reference import python_graphs
from perceive.export.report import measured_on
from perceive.export.trees import TreeEnsemble
from perceive.features.matrix import CONTEXT
from perceive.figures import BLUE, GREEN, GREY, ORANGE, SKY, YELLOW, PathLike, new_figure
from perceive.serving.bundle import Bundle
from perceive.serving.scorer import DEVICES, Ask, Perceiver
from perceive.torch_runs import torch_threads

log = logging.getLogger(__name__)

BATCHES = (1, 8, 64, 512)
PYTHON = "python"
"""The reference."""

Arrays = dict[str, NDArray[Any]]
Record = dict[str, Any]


def measure(
    folder: Path, parts: Parts, records: Sequence[Record], *, repeats: int, threads: int
) -> dict[str, Any]:
    """Time a bundle.

    Parameters
    ----------
    folder : Path
        The bundle.
    parts : Parts
        What it was built from.
    records : sequence of mapping
        Reflections in the order of time; batches are taken from them in turn.
    repeats : int
        Calls at batch 1; larger batches are called less often, once at least.
    threads : int
        CPU threads of every contender.

    Returns
    -------
    dict
        The machine (:func:`perceive.export.report.measured_on`); ``devices``: for each device and precision
        ``start`` (``load_s``, ``first_answer_s``, ``memory_mb`` of a fresh process) and ``batch``: by size
        ``p50_ms``, ``p95_ms``, ``p99_ms``, ``rows_per_s`` and ``ratio``, its median by that of Python;
        ``python``: the same of the reference; ``trees``: as of `tree_times`.
    """
    present = {name.split(".")[0] for name in ov.Core().available_devices}
    sizes = [size for size in BATCHES if size <= len(records)]
    manifest = Bundle.open(folder).manifest
    reference: dict[str, Any] = {}
    devices: dict[str, dict[str, Any]] = {}
    with torch_threads(threads):
        in_python = Perceiver(
            Bundle.open(folder, "fp32"),
            device="CPU",
            graphs=_with_own_encoders(
                python_graphs(parts, manifest, CONTEXT, threads),
                Perceiver.load(folder, precision="fp32", device="CPU", threads=threads),
            ),
        )
        for device in (name for name in DEVICES if name in present):
            scorers = {
                precision: Perceiver.load(folder, precision=precision, device=device, threads=threads)
                for precision in PRECISIONS
            }
            devices[device] = {
                precision: {"start": _start(folder, precision, device, records[0]), "batch": {}}
                for precision in PRECISIONS
            }
            contenders: dict[str, Callable[[Sequence[Record]], Any]] = {
                name: scorer.score for name, scorer in {**scorers, PYTHON: in_python}.items()
            }
            for size in sizes:
                calls = max(1, repeats // size)
                starts = [(call * size) % (len(records) - size + 1) for call in range(calls)]
                times = timed_in_turns(
                    contenders,
                    [records[start : start + size] for start in starts],
                    size,
                    # At hundreds of items a call warms itself up.
                    warm_up=2 if size < 512 else 0,
                )
                base = times.pop(PYTHON)
                reference[str(size)] = base
                for precision, of_one in times.items():
                    of_one["ratio"] = of_one["p50_ms"] / base["p50_ms"]
                    devices[device][precision]["batch"][str(size)] = of_one
                log.info(
                    "batch %d on %s: %s, Python %.1f ms",
                    size,
                    device,
                    ", ".join(f"{name} {of_one['p50_ms']:.1f} ms" for name, of_one in times.items()),
                    base["p50_ms"],
                )
    return {
        "scope": "records in, calibrated answers of all variables out, history kept in memory",
        **measured_on(),
        "threads": threads,
        "texts": _lengths(in_python, records),
        "precision": manifest["precision"]["default"],
        "compile": manifest["compile"],
        "devices": devices,
        PYTHON: {"batch": reference},
        "trees": tree_times(folder, parts, manifest, records, repeats=repeats),
    }


def _with_own_encoders(graph: Callable[[str], Ask], scorer: Perceiver) -> Callable[[str], Ask]:
    """The encoders of other languages are OpenVINO's in the reference, too: they have no part in torch."""
    return lambda name: scorer.graphs[name] if name.startswith("encoder_") else graph(name)


def _lengths(scorer: Perceiver, records: Sequence[Record]) -> dict[str, float]:
    tokenizer = scorer._tokenizers[scorer._text_of["encoder"]]
    counts = [len(ids) for ids in tokenizer.ids([str(record["text"]) for record in records])]
    p50, p95 = (float(value) for value in np.percentile(counts, (50, 95)))
    return {"rows": len(counts), "tokens_p50": p50, "tokens_p95": p95}


_START = """
import json, sys, time
began = time.perf_counter()
from perceive.serving.scorer import Perceiver
scorer = Perceiver.load(sys.argv[1], precision=sys.argv[2], device=sys.argv[3])
loaded = time.perf_counter()
scorer.score([json.loads(sys.stdin.read())])
answered = time.perf_counter()
pages = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")] \
    if sys.platform == "linux" else [float("nan")]
print(json.dumps([loaded - began, answered - began, pages[0] / 1024]))
"""


def _start(folder: Path, precision: str, device: str, record: Record) -> dict[str, float]:
    """Time to load and to the first answer, and memory after it, of a process of its own."""
    found = subprocess.run(
        [sys.executable, "-c", _START, str(folder), precision, device],
        input=json.dumps(record), capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(perceive.__path__[0]).parent)},
    )  # fmt: skip
    return dict(zip(("load_s", "first_answer_s", "memory_mb"), json.loads(found.stdout), strict=True))


# --- Trees -------------------------------------------------------------------------------------------------


def tree_times(
    folder: Path,
    parts: Parts,
    manifest: Mapping[str, Any],
    records: Sequence[Record],
    *,
    repeats: int,
    batches: Sequence[int] = (1, 64),
) -> dict[str, Any]:
    """All that comes after the networks, in one graph a stage and otherwise.

    Returns
    -------
    dict
        ``trees`` (their number) and by batch: ``merged`` (the bundle's fp32 graphs), ``each`` (a graph for
        each variable), both with blend, calibration and decoding; ``sums``: all trees and nothing else in
        one traversal; ``lightgbm`` and ``onnxruntime``: the predicts of the same boosters, one after the
        other on one thread.
    """
    captured: list[tuple[str, Arrays, Arrays]] = []
    bundle = Bundle.open(folder, "fp32")
    scorer = Perceiver(bundle, device="CPU")

    def recording(name: str, graph: Ask) -> Ask:
        def ask(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
            found = graph(inputs)
            captured.append((name, dict(inputs), found))
            return found

        return ask

    scorer.graphs |= {name: recording(name, graph) for name, graph in scorer.graphs.items()}
    size = min(max(batches), len(records))
    scorer.score(records[:size])
    stages = {stage["heads"]: stage for stage in manifest["stages"]}
    of_stage = {name: (inputs, found) for name, inputs, found in captured if name in stages}

    table: dict[str, NDArray[Any]] = {}
    for name, (inputs, found) in of_stage.items():
        columns = [*manifest["columns"], *(f"context {one}" for one in CONTEXT), *stages[name]["upstream"]]
        matrix = np.hstack([inputs[key] for key in ("features", "context", "upstream") if key in inputs])
        table |= dict(zip(columns, matrix.T, strict=True))
        for variable in stages[name]["variables"]:
            for place, column in enumerate(parts.heads[variable].answers):
                table[column] = found[f"{variable}/raw"][:, place].astype(np.float32)
    # The trees of all stages at once: an answer that a later stage reads stands in the table, too.
    wide = np.column_stack(list(table.values())).astype(np.float32)
    place_of = {column: place for place, column in enumerate(table)}
    boosters = [
        (booster, [place_of[one] for one in columns or [f"context {one}" for one in CONTEXT]])
        for head in parts.heads.values()
        for booster, columns in head.parts()
    ]
    each = {
        variable: _own_graph(parts.heads[variable], manifest["columns"], inputs, table)
        for name, (inputs, _) in of_stage.items()
        for variable in stages[name]["variables"]
    }
    result: dict[str, Any] = {"trees": sum(booster.num_trees() for booster, _ in boosters)}
    sessions = [_onnx(booster, len(places)) for booster, places in boosters]
    sums = _sums(boosters, wide.shape[1])
    for batch in (one for one in batches if one <= size):
        fixed = 1 if batch == 1 else None
        merged = [
            partial(
                compile_exact(ov.Core(), bundle.graph(name), batch=fixed).create_infer_request().infer,
                {key: np.ascontiguousarray(values[:batch]) for key, values in inputs.items()},
            )
            for name, (inputs, _) in of_stage.items()
        ]
        own = [
            partial(
                compile_exact(ov.Core(), model, batch=fixed).create_infer_request().infer,
                {key: np.ascontiguousarray(values[:batch]) for key, values in inputs.items()},
            )
            for model, inputs in each.values()
        ]
        alone = compile_exact(ov.Core(), sums, batch=fixed).create_infer_request().infer
        rows = [np.ascontiguousarray(wide[:batch, places]) for _, places in boosters]
        predicts = [
            partial(booster.predict, matrix, raw_score=True, num_threads=1)
            for (booster, _), matrix in zip(boosters, rows, strict=True)
        ]
        contenders: dict[str, Callable[[Any], Any]] = {
            "merged": partial(_all, merged),
            "each": partial(_all, own),
            "sums": partial(_all, [partial(alone, [wide[:batch]])]),
            "lightgbm": partial(_all, predicts),
            "onnxruntime": partial(
                _all, [partial(ask, matrix) for ask, matrix in zip(sessions, rows, strict=True)]
            ),
        }
        result[str(batch)] = timed_in_turns(contenders, [None] * max(10, repeats // batch), batch)
    return result


def _all(calls: Sequence[Callable[[], Any]], _: Any) -> None:
    for call in calls:
        call()


def _sums(boosters: Sequence[tuple[lgb.Booster, Sequence[int]]], width: int) -> ov.Model:
    """All boosters, each with the columns that it reads of a matrix of that width, summed in one graph."""
    matrix = ops.parameter([-1, width], np.float32, name="matrix")
    placed = [TreeEnsemble.from_lightgbm(one).on_columns(places, width) for one, places in boosters]
    return ov.Model([lower_forest(Forest.of(placed), matrix.output(0))], [matrix], "sums")


def _own_graph(
    head: Head, columns: Sequence[str], inputs: Mapping[str, NDArray[Any]], table: Mapping[str, NDArray[Any]]
) -> tuple[ov.Model, Arrays]:
    """The graph of one variable alone, and its inputs."""
    known = {*columns, *(f"context {name}" for name in CONTEXT)}
    upstream = sorted({name for _, read in head.parts() for name in read or () if name not in known})
    model = build_heads([head], columns, CONTEXT, upstream)
    own = {name: inputs[name] for name in ("features", "context", f"{head.name}/network")}
    if upstream:
        own["upstream"] = np.column_stack([table[name] for name in upstream]).astype(np.float32)
    return model, own


def _onnx(booster: Any, columns: int) -> Callable[[NDArray[np.float32]], Any]:
    """A booster by onnxmltools and onnxruntime, on one thread."""
    import onnxmltools
    import onnxruntime
    from onnxmltools.convert.common.data_types import FloatTensorType

    text, outputs = booster.model_to_string(), booster.num_model_per_iteration()
    copy = booster
    if "\nobjective=" not in text:
        # It refuses an objective of one's own, such as the blender's: the trees are the same under another.
        name = f"multiclass num_class:{outputs}" if outputs > 1 else "regression"
        copy = lgb.Booster(
            model_str=text.replace("\nfeature_names=", f"\nobjective={name}\nfeature_names=", 1)
        )
        copy.params["objective"] = name
    model = onnxmltools.convert_lightgbm(
        copy, initial_types=[("x", FloatTensorType([None, columns]))], zipmap=False
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda rows: session.run(None, {"x": rows})


# --- The plot ----------------------------------------------------------------------------------------------

_COLOURS = {
    "fp32": BLUE, "fp16": SKY, "int8": GREEN, PYTHON: GREY,
    "merged": BLUE, "each": SKY, "sums": GREEN, "lightgbm": GREY, "onnxruntime": YELLOW,
}  # fmt: skip
_NAMES = {
    PYTHON: "Python pipeline", "merged": "one graph a stage", "each": "one graph a variable",
    "sums": "trees alone", "lightgbm": "LightGBM, trees alone", "onnxruntime": "onnxruntime, trees alone",
}  # fmt: skip


def latency_plot(path: PathLike, report: Mapping[str, Any]) -> None:
    """Draw what `measure` found: latency at batch 1, throughput by batch, and the trees' share."""
    with new_figure(path, 11, 3.8) as figure:
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
        rows = [
            (f"{precision}, {device}", of_one["batch"]["1"], _COLOURS[precision])
            for device, of_device in report["devices"].items()
            for precision, of_one in of_device.items()
        ]
        rows.append((_NAMES[PYTHON], report[PYTHON]["batch"]["1"], _COLOURS[PYTHON]))
        for place, (_, times, colour) in enumerate(rows):
            left.barh(place, times["p50_ms"], color=colour, height=0.6)
            left.plot([times["p50_ms"], times["p99_ms"]], [place, place], color=ORANGE, linewidth=1)
            left.plot([times["p95_ms"]], [place], marker="|", color=ORANGE, markersize=9)
            label = f" {times['p50_ms']:.1f}"
            left.text(times["p99_ms"], place, label, va="center", fontsize=9)
        left.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        left.invert_yaxis()
        left.margins(x=0.15)
        left.set(xlabel="ms; line to p95 and p99", title="Text to all answers, one at a time")

        for device, of_device in report["devices"].items():
            for precision, of_one in of_device.items():
                _throughput(middle, of_one["batch"], f"{precision}, {device}", _COLOURS[precision])
        _throughput(middle, report[PYTHON]["batch"], _NAMES[PYTHON], _COLOURS[PYTHON])
        middle.set_xscale("log", base=2)
        sizes = [int(size) for size in report[PYTHON]["batch"]]
        middle.set_xticks(sizes, [str(size) for size in sizes])
        middle.set(xlabel="items at once", ylabel="items per second", title="Throughput")
        middle.set_ylim(bottom=0)
        middle.legend(frameon=False, fontsize=8)

        of_trees = report["trees"]["1"]
        names = list(of_trees)
        right.barh(
            range(len(names)),
            [of_trees[name]["p50_ms"] for name in names],
            color=list(map(_COLOURS.get, names)),
        )
        for place, name in enumerate(names):
            right.text(
                of_trees[name]["p50_ms"], place, f" {of_trees[name]['p50_ms']:.2f}", va="center", fontsize=9
            )
        right.set_yticks(range(len(names)), [_NAMES[name] for name in names])
        right.invert_yaxis()
        right.margins(x=0.2)
        right.set(xlabel="ms", title=f"{report['trees']['trees']:,} trees, one row")
        figure.suptitle(
            f"{report['device']}, {report['threads']} threads; {report['texts']['tokens_p50']:.0f} tokens in "
            "the middle",
            fontsize=10,
        )


def _throughput(axes: Any, batch: Mapping[str, Mapping[str, float]], name: str, colour: str) -> None:
    sizes = [int(size) for size in batch]
    axes.plot(sizes, [batch[str(size)]["rows_per_s"] for size in sizes], marker="o", color=colour, label=name)
