"""The Python pipeline behind the interface of a bundle's graphs: what a bundle is compared with.

torch for the encoder, the transformers and the GRUs, LightGBM for the trees, NumPy for the rest, all in the
process of the scorer, which does everything else alike. The layers that the transformers share are computed
once, as a careful engineer would write it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from perceive.ensemble import RegressionEnsemble
from perceive.export.heads import Head
from perceive.export.parts import Parts
from perceive.sequence.model import GruRegressor
from perceive.transformer.backbone import additive_mask

Arrays = dict[str, NDArray[Any]]
Ask = Callable[[Mapping[str, NDArray[Any]]], Arrays]


def python_graphs(
    parts: Parts, plan: Mapping[str, Any], context: Sequence[str], threads: int = 0
) -> Callable[[str], Ask]:
    """What answers instead of the graphs of a plan, by their names.

    Parameters
    ----------
    parts : Parts
    plan : mapping
        ``text``, ``stages`` and ``columns`` of a manifest.
    context : sequence of str
        Columns of the context.
    threads : int
        Of LightGBM; 0 for all. Those of torch are the process's.

    Raises
    ------
    ValueError
        For the encoder of another language, which has no part here.
    """
    graphs: dict[str, Ask] = {"text": _Text(parts, plan["text"]["networks"])}
    for stage in plan["stages"]:
        for name, gru in stage["grus"].items():
            graphs[gru["graph"]] = _Gru(parts.grus[name])
        known = [*plan["columns"], *(f"context {name}" for name in context), *stage["upstream"]]
        heads = [parts.heads[name] for name in stage["variables"]]
        graphs[stage["heads"]] = _Heads(heads, known, threads)

    def graph(name: str) -> Ask:
        if name not in graphs:
            raise ValueError(f"there is no {name} in Python: only what the transformers are built on")
        return graphs[name]

    return graph


class _Text:
    def __init__(self, parts: Parts, networks: Mapping[str, Mapping[str, Any]]) -> None:
        self._backbone, self._transformers, self._networks = parts.backbone, parts.transformers, networks

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        ids, mask = (torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask"))
        attention = additive_mask(mask)
        states = [self._backbone.embeddings(ids)]
        for layer in self._backbone.layers:
            states.append(layer(states[-1], attention))
        weight = mask.float()[:, :, None]
        pooled = (states[-1] * weight).sum(dim=1) / weight.sum(dim=1)
        found = {"encoder/embedding": torch.nn.functional.normalize(pooled, dim=1).numpy()}
        for name, model in self._transformers.items():
            of_one = self._networks[name]
            extra = torch.from_numpy(inputs[of_one["input"]]) if of_one["extra"] else torch.empty(len(ids), 0)
            answers = model.eval()(states[-1 - model.shape.top_layers], mask, extra)
            found |= dict(zip(of_one["outputs"], (answer.numpy() for answer in answers), strict=True))
        return found


class _Gru:
    def __init__(self, model: GruRegressor) -> None:
        self._model = model.eval()

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        answer = self._model(torch.from_numpy(inputs["sequence"]), torch.from_numpy(inputs["lengths"]))
        return {"gru/scale": answer.numpy()}


class _Heads:
    def __init__(self, heads: Sequence[Head], known: Sequence[str], threads: int) -> None:
        self._heads, self._known, self._threads = heads, list(known), threads

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        context = inputs["context"]
        matrix = np.hstack([inputs[name] for name in ("features", "context", "upstream") if name in inputs])
        table = dict(zip(self._known, matrix.T, strict=True))
        found: Arrays = {}
        for head in self._heads:
            ensemble, network = head.ensemble, inputs[f"{head.name}/network"]
            if isinstance(ensemble, RegressionEnsemble):
                table[str(ensemble.network)] = network[:, 0]
                features = np.column_stack([table[name] for name in head.columns]).astype(np.float32)
                frame = ensemble.predict(features, context, threads=self._threads)
                found |= {f"{head.name}/{key}": frame[[key]].to_numpy() for key in ("calibrated", "raw")}
            else:
                features = np.column_stack([table[name] for name in head.columns]).astype(np.float32)
                levels = np.split(network, np.cumsum(ensemble.hierarchy.sizes)[:-1], axis=1)
                answers = ensemble.predict(features, context, levels, threads=self._threads)
                found |= {
                    f"{head.name}/p": np.hstack(answers.calibrated),
                    f"{head.name}/raw": np.hstack(answers.raw),
                    f"{head.name}/path": answers.path,
                }
            answered = found[f"{head.name}/raw"].astype(np.float32)
            table |= {name: answered[:, place] for place, name in enumerate(head.answers)}
        return found
