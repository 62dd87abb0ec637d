"""The graphs of a bundle, built from the trained parts of all variables.

One for the texts: the sentence encoder and every transformer, whose frozen layers are computed once. Then for
each stage (`perceive.serving.plan`) one for each GRU, and one for the heads of all its variables.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import openvino as ov

from perceive.export import PRECISIONS
from perceive.export.graph import save_ir
from perceive.export.heads import Head, build_heads
from perceive.export.merge import encoder_graph, merge
from perceive.export.report import ir_bytes
from perceive.features.inhibition import CUES
from perceive.features.matrix import ALL, CONTEXT
from perceive.sequence.export import build_graph as gru_graph
from perceive.sequence.export import recurrent_weights_to_int8
from perceive.sequence.model import GruRegressor
from perceive.serving.plan import Stage
from perceive.transformer.backbone import Backbone
from perceive.transformer.export import build_graph, compressed
from perceive.transformer.model import TopTransformer

log = logging.getLogger(__name__)

COLUMNS: tuple[str, ...] = (*ALL, *(cue for cue in CUES if cue not in ALL))
"""Columns of the heads' features."""


def text_graphs(
    backbone: Backbone, source: Path, transformers: Mapping[str, TopTransformer]
) -> tuple[dict[str, ov.Model], dict[str, Any]]:
    """The encoder with all transformers in each precision, and how a scorer asks them.

    Parameters
    ----------
    backbone : Backbone
    source : Path
        Its sentence-transformers folder.
    transformers : mapping of variable to TopTransformer

    Returns
    -------
    tuple of (dict of precision to Model, dict)
        The second has for each variable its ``outputs``, the names of its ``extra`` inputs, and the ``input``
        that they enter by.
    """
    whole = {"encoder": encoder_graph(backbone, source)}
    whole |= {name: build_graph(model, backbone) for name, model in transformers.items()}
    networks = {
        name: {
            "outputs": [f"{name}/{port.get_any_name()}" for port in whole[name].outputs],
            "extra": list(model.shape.extra),
            "input": f"{name}/extra",
        }
        for name, model in transformers.items()
    }
    found = {}
    for precision in PRECISIONS:
        parts = {name: compressed(graph, precision) for name, graph in whole.items()}
        found[precision] = merge(parts, "text")
        log.info("text, %s: %d models in one graph", precision, len(parts))
    return found, networks


def save_graphs(
    folder: Path,
    text: Mapping[str, ov.Model],
    own_encoders: Mapping[str, Path],
    stages: Sequence[Stage],
    heads: Mapping[str, Head],
    grus: Mapping[str, GruRegressor],
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Write all graphs below ``folder`` as ``NAME_PRECISION/1/model.xml``.

    Parameters
    ----------
    folder : Path
    text : mapping of precision to Model
        Of :func:`text_graphs`.
    own_encoders : mapping of language to Path
        IRs of the encoders beside that of the transformers.
    stages : sequence of Stage
    heads : mapping of variable to Head
    grus : mapping of variable to GruRegressor

    Returns
    -------
    tuple of (list of dict, dict of str to int)
        The stages as the manifest tells them, and the bytes of each ``NAME_PRECISION``.
    """
    sizes: dict[str, int] = {}

    def save(model: ov.Model, name: str, precision: str) -> None:
        path = folder / f"{name}_{precision}" / "1" / "model.xml"
        save_ir(model, path)
        sizes[f"{name}_{precision}"] = ir_bytes(path)

    for precision, model in text.items():
        save(model, "text", precision)
    for language, path in own_encoders.items():
        for precision in PRECISIONS:
            save(compressed(ov.Core().read_model(str(path)), precision), f"encoder_{language}", precision)
    told: list[dict[str, Any]] = []
    answered: list[str] = []
    for stage in stages:
        about: dict[str, Any] = {}
        for name in stage.sequences:
            model = grus[name]
            whole = gru_graph(model)
            for precision in PRECISIONS:
                graph = compressed(whole, precision)
                if precision == "int8":
                    graph = recurrent_weights_to_int8(graph)
                save(merge({"gru": graph}, f"gru_{name}"), f"gru_{name}", precision)
            about[name] = {
                "graph": f"gru_{name}",
                "columns": list(model.shape.columns),
                "length": model.shape.length,
            }
        of_stage = [heads[name] for name in stage.variables]
        own = {column for head in of_stage for column in head.answers}
        read = {column for head in of_stage for _, columns in head.parts() for column in columns or ()}
        upstream = [column for column in answered if column in read and column not in own]
        for precision in PRECISIONS:
            model = build_heads(of_stage, COLUMNS, CONTEXT, upstream, name=stage.heads, precision=precision)
            save(model, stage.heads, precision)
        log.info("%s: %s", stage.heads, ", ".join(stage.variables))
        told.append(
            {
                "heads": stage.heads,
                "variables": list(stage.variables),
                "upstream": upstream,
                "grus": about,
            }
        )
        answered += [column for head in of_stage for column in head.answers]
    return told, sizes
